//! Content as visitors see it.

use connect_standin::seed::guid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scene::{Scene, Site};

async fn upgrade(site: &Site, guid: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(site.server.address()).await.unwrap();
    let request = format!(
        "GET /content/{guid}/websocket/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    (stream, head.lines().next().unwrap().to_owned())
}

#[tokio::test]
async fn a_websocket_of_a_shiny_app_echoes() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let (mut stream, status) = upgrade(&site, &guid("content", 2)).await;
    assert!(status.contains("101"), "{status}");
    // A text frame of two letters, masked with zeros.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut frame = [0; 4];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame, [0x81, 2, b'h', b'i']);
    drop(stream);
    site.server.stop().await;

    let site = scene.start("ubuntu-24.04").await;
    assert!(
        upgrade(&site, &guid("content", 2)).await.1.contains("500"),
        "its cache is of another distribution"
    );
    assert!(upgrade(&site, &guid("content", 4)).await.1.contains("404"), "dash has none");
}

#[tokio::test]
async fn every_published_item_answers_on_the_host_that_it_was_deployed_to() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    for content in site.content().await {
        let guid = content["guid"].as_str().unwrap();
        let (status, text) = site.page(guid).await;
        let expected = match (&content["bundle_id"], &content["py_version"]) {
            (serde_json::Value::Null, _) => 404,
            (_, python) if python == "3.9.5" => 500, // only 3.12.4 is installed in this scene
            _ => 200,
        };
        assert_eq!(status, expected, "{content}: {text}");
        if status == 200 {
            assert!(text.contains(guid) && text.contains(content["title"].as_str().unwrap()), "{text}");
        }
    }
}

#[tokio::test]
async fn a_page_has_the_same_bytes_after_a_restart_and_needs_its_slash() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let item = guid("content", 4);
    let before = site.page(&item).await;
    site.server.stop().await;
    let site = scene.start("debian-12").await;
    assert_eq!(site.page(&item).await, before);
    let response = site.send(reqwest::Method::GET, &format!("/content/{item}"), None, None).await;
    assert_eq!(response.headers()["location"], format!("/content/{item}/"));
}

#[tokio::test]
async fn a_bundle_that_is_gone_is_a_500() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    std::fs::remove_file(scene.data().join("bundles/4/1004.tar.gz")).unwrap();
    let (status, text) = site.page(&guid("content", 4)).await;
    assert_eq!(status, 500);
    assert!(text.contains("bundle 1004"), "{text}");
}
