//! A Connect that answers `/__ping__` while its unit is active.

use super::{Machine, UNIT};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Serves on a free port of loopback; answers its number.
pub async fn serve(machine: &Machine, answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = Arc::clone(&machine.world);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let active = world.lock().unwrap().units.get(UNIT).is_some_and(|unit| unit.is_running());
            if !active {
                continue;
            }
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            assert!(request[..length].starts_with(b"GET /__ping__ "));
            let text = format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    port
}
