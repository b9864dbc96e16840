//! The plugin's side of the boundary: the only file of the SDK with unsafe code.
#![allow(unsafe_code, reason = "a C boundary is crossed with raw pointers; every block says why it holds")]

use super::layout::{AskFn, Buffer, Descriptor, HostTable, Text, Vtable};
use super::{ABI_MAJOR, ABI_MINOR, MAGIC, RUSTC, SDK_VERSION};
use crate::plugin::{self, Answer, Plugin};
use crate::{HostCalls, HostRefused, Invocation, LogLevel, Progress, Secret, StepError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// A plugin that is exported. Implemented by [`export_plugin!`](crate::export_plugin).
pub trait Exported: 'static {
    /// As in `uses = "name/step"`.
    const NAME: &'static str;
    /// The steps.
    fn plugin() -> Plugin;
}

// SAFETY: the pointers in a descriptor lead to statics of the library, which are only read.
unsafe impl Sync for Descriptor {}
// SAFETY: a descriptor owns nothing; its pointers lead to statics.
unsafe impl Send for Descriptor {}

/// The descriptor of `E`, for a static.
#[must_use]
pub const fn descriptor<E: Exported>(vtable: &'static Vtable) -> Descriptor {
    Descriptor {
        magic: MAGIC,
        struct_size: size_of::<Descriptor>() as u32,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        sdk: Text::of(SDK_VERSION),
        rustc: Text::of(RUSTC),
        name: Text::of(E::NAME),
        vtable,
    }
}

/// The functions of `E`, for a static.
#[must_use]
pub const fn vtable<E: Exported>() -> Vtable {
    Vtable {
        size: size_of::<Vtable>() as u64,
        describe: Some(describe::<E>),
        call: Some(call::<E>),
        free: Some(free),
        cancel: Some(cancel),
    }
}

/// The call that runs in this process, for [`cancel`].
static RUNNING: Mutex<Option<CancellationToken>> = Mutex::new(None);

extern "C" fn describe<E: Exported>() -> Buffer {
    let answer = catch_unwind(|| serde_json::to_value(E::plugin().describe()));
    give_json(&match answer {
        Ok(Ok(description)) => Answer::Ok(description),
        Ok(Err(error)) => Answer::Panic(format!("the description cannot be put into JSON: {error}")),
        Err(panic) => Answer::Panic(plugin::panic_text(panic.as_ref())),
    })
}

/// # Safety
/// `request` and `host` are as [`Vtable::call`] says.
unsafe extern "C" fn call<E: Exported>(request: Text, host: *const HostTable) -> Buffer {
    let answer = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller promises that the table is valid and lives until the return.
        let Some(table) = (unsafe { read_host_table(host) }) else {
            return Answer::Error(
                StepError::new("start the call").because("the step host handed over no complete host table"),
            );
        };
        // SAFETY: the caller promises that the request is valid until the return; the copy is made now.
        let request = unsafe { bytes_of(request) };
        let invocation: Invocation = match serde_json::from_slice(&request) {
            Ok(invocation) => invocation,
            Err(error) => {
                return Answer::Error(StepError::new("read the call").because(error).remedy(
                    "the plugin and the daemon do not fit together; install the plugin of this release",
                ));
            }
        };
        let cancellation = CancellationToken::new();
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancellation.clone());
        let daemon = Arc::new(Daemon { table: RwLock::new(Some(table)), cancellation });
        let host: Arc<dyn HostCalls> = daemon.clone();
        plugin::own_the_process(&host);
        let _ended = EndsCall(daemon);
        E::plugin().call(invocation, host)
    }));
    give_json(&answer.unwrap_or_else(|panic| Answer::Panic(plugin::panic_text(panic.as_ref()))))
}

extern "C" fn cancel() {
    // A panic here cannot happen but for a broken lock implementation; the boundary aborts then, as it must.
    if let Some(running) = &*RUNNING.lock().unwrap_or_else(PoisonError::into_inner) {
        running.cancel();
    }
}

/// # Safety
/// `buffer` was returned by `describe` or `call` of this library and is freed once.
unsafe extern "C" fn free(buffer: Buffer) {
    if !buffer.ptr.is_null() {
        // SAFETY: `give` made it from a boxed slice of exactly this length, and the caller gives it back once.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(buffer.ptr, buffer.len)) });
    }
}

fn give_json(answer: &Answer) -> Buffer {
    // A description or an answer is made of values that JSON knows; the fallback is for completeness.
    give(
        serde_json::to_vec(answer)
            .unwrap_or_else(|_| br#"{"panic":"the answer cannot be put into JSON"}"#.to_vec()),
    )
}

fn give(bytes: Vec<u8>) -> Buffer {
    let bytes = Box::leak(bytes.into_boxed_slice());
    Buffer { ptr: bytes.as_mut_ptr(), len: bytes.len() }
}

/// A copy of the bytes that `text` names.
///
/// # Safety
/// `text.ptr` is null, or `text.len` bytes can be read there.
unsafe fn bytes_of(text: Text) -> Zeroizing<Vec<u8>> {
    if text.ptr.is_null() {
        return Zeroizing::default();
    }
    // SAFETY: the caller promises it.
    Zeroizing::new(unsafe { std::slice::from_raw_parts(text.ptr, text.len) }.to_vec())
}

/// Copies as much of the table as both sides know; the rest is absent. `None` when it is smaller than that of version 1.0.
///
/// # Safety
/// `host` is null, or points to a table of as many bytes as its first member says.
unsafe fn read_host_table(host: *const HostTable) -> Option<HostTable> {
    if host.is_null() {
        return None;
    }
    // SAFETY: every table begins with its size, and the caller promises that it can be read.
    let size = unsafe { std::ptr::read(host.cast::<u64>()) };
    if size < HostTable::SIZE_1_0 {
        return None;
    }
    let known = usize::try_from(size).unwrap_or(usize::MAX).min(size_of::<HostTable>());
    let mut table = HostTable::ABSENT;
    // SAFETY: `known` bytes can be read (the table's own size) and written (ours); any bytes that a valid table begins with
    // make a valid `HostTable`, because its members are integers, pointers and optional functions.
    unsafe { std::ptr::copy_nonoverlapping(host.cast::<u8>(), (&raw mut table).cast::<u8>(), known) };
    Some(table)
}

/// The daemon, reached through a host table.
struct Daemon {
    /// `None` once the call has ended. Read-locked while one of its functions runs.
    table: RwLock<Option<HostTable>>,
    cancellation: CancellationToken,
}

/// Dropped when the call ends, also by a panic.
struct EndsCall(Arc<Daemon>);

impl Drop for EndsCall {
    fn drop(&mut self) {
        // A thread that the step left behind can no longer reach the table, which is only valid until the return.
        *self.0.table.write().unwrap_or_else(PoisonError::into_inner) = None;
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

// SAFETY: the functions of a host table may be called from any thread (its documentation), and `ctx` is only handed back.
unsafe impl Send for Daemon {}
// SAFETY: as above.
unsafe impl Sync for Daemon {}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply<T> {
    Ok(T),
    Refused(String),
}

impl Daemon {
    /// Runs `work` with the table, unless the call has ended.
    fn with<T>(&self, work: impl FnOnce(&HostTable) -> T) -> Option<T> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(work)
    }

    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        what: &str,
        function: impl FnOnce(&HostTable) -> Option<AskFn>,
        request: &[u8],
    ) -> Result<T, HostRefused> {
        let refused = |why: String| HostRefused { what: what.to_string(), why };
        let reply = self.with(|table| {
            let (Some(function), Some(free)) = (function(table), table.free) else {
                return Err(refused("the step host does not offer it".into()));
            };
            // SAFETY: the table is valid while the call runs, which the read lock sees to; the request is lent for the time
            // of this function only.
            let buffer = unsafe { function(table.ctx, Text::lend(request)) };
            // SAFETY: the step host returned this many bytes; they are copied before they are given back.
            let reply = unsafe { bytes_of(Text { ptr: buffer.ptr, len: buffer.len }) };
            // SAFETY: the buffer came from this table and is given back once.
            unsafe { free(table.ctx, buffer) };
            Ok(reply)
        });
        let reply = reply.unwrap_or_else(|| Err(refused("the call has already ended".into())))?;
        match serde_json::from_slice(&reply) {
            Ok(Reply::Ok(value)) => Ok(value),
            Ok(Reply::Refused(why)) => Err(refused(why)),
            Err(_) => Err(refused("its answer cannot be read".into())),
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

impl HostCalls for Daemon {
    fn log(&self, level: LogLevel, message: &str, fields: &Map<String, Value>) {
        let fields = if fields.is_empty() { Vec::new() } else { json(fields) };
        self.with(|table| {
            if let Some(log) = table.log {
                // SAFETY: the table is valid while the call runs; both texts are lent for the time of this function.
                unsafe {
                    log(table.ctx, level.number(), Text::lend(message.as_bytes()), Text::lend(&fields))
                };
            }
        });
    }

    fn progress(&self, progress: &Progress) {
        let progress = json(progress);
        self.with(|table| {
            if let Some(report) = table.progress {
                // SAFETY: as in `log`.
                unsafe { report(table.ctx, Text::lend(&progress)) };
            }
        });
    }

    fn record_undo(&self, record: &Value) -> Result<(), HostRefused> {
        self.ask("confirmation of an undo record", |table| table.record_undo, &json(record))
    }

    fn checkpoint(&self, checkpoint: &Value) -> Result<(), HostRefused> {
        self.ask("confirmation of a checkpoint", |table| table.checkpoint, &json(checkpoint))
    }

    fn secret(&self, credential: &str) -> Result<Secret, HostRefused> {
        self.ask(&format!("the secret `{credential}`"), |table| table.secret, credential.as_bytes())
            .map(Secret::new)
    }

    fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
            || self
                .with(|table| match table.is_cancelled {
                    // SAFETY: the table is valid while the call runs.
                    Some(is_cancelled) => unsafe { is_cancelled(table.ctx) != 0 },
                    None => false,
                })
                .unwrap_or(true)
    }

    fn cancellation(&self) -> Option<CancellationToken> {
        Some(self.cancellation.clone())
    }
}

#[cfg(test)]
mod tests;
