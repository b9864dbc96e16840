//! The step host's side of the C boundary: the only file of the daemon with unsafe code.
#![allow(unsafe_code, reason = "foreign code is loaded and called here; every block says why it holds")]

use super::fit::{self, Head, Misfit};
use super::link::{Link, shortened};
use connect_migrator_sdk::boundary::{Buffer, Descriptor, HostTable, SYMBOL, Text, Vtable};
use connect_migrator_sdk::frames::{MAX_FRAME_BYTES, MAX_LOG_MESSAGE_BYTES};
use connect_migrator_sdk::{HostCalls, LogLevel, Progress};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};
use serde_json::{Map, Value, json};
use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroize;

/// Longest text of a descriptor that is shown.
const SHOWN_TEXT_BYTES: usize = 100;

/// Ends this process without running anything of the plugin's: no destructors, no exit handlers.
pub(super) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` takes any integer and does not return.
    unsafe { nix::libc::_exit(status) }
}

/// A library that fits. It stays loaded until the process ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loaded {
    vtable: Vtable,
}

/// Loads the library that is open as `file`; `path` is for messages only. Runs its constructors.
pub(super) fn load(file: File, path: &Path) -> Result<Loaded, Misfit> {
    // The file that was looked at, and not what may meanwhile stand under its name.
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    // Open for as long as the library is loaded: for ever.
    std::mem::forget(file);
    // SAFETY: running the constructors of a trusted file is what this process is for; a crash is contained in it.
    let library = unsafe { Library::open(Some(&opened), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
        fit::not_loadable(&linker_text(&error).replace(&opened, &path.display().to_string()))
    })?;
    // SAFETY: the symbol's name carries the major version, and with it the signature.
    let symbol = unsafe { library.get::<unsafe extern "C" fn() -> *const Descriptor>(SYMBOL.as_bytes()) };
    let symbol: Symbol<_> = match symbol {
        Ok(symbol) => symbol,
        Err(_) => return Err(fit::no_symbol(other_major(&library))),
    };
    // SAFETY: as above: the function takes nothing.
    let descriptor = unsafe { symbol() };
    std::mem::forget(library);
    if descriptor.is_null() {
        return Err(fit::no_descriptor());
    }
    // SAFETY: every descriptor begins with these members, which belong to version 1.0, and lives as long as the library. It
    // may stand at any address.
    let head = unsafe { std::ptr::read_unaligned(descriptor.cast::<Head>()) };
    fit::check_head(&head)?;
    let mut known = Descriptor::ABSENT;
    // SAFETY: the descriptor has `struct_size` bytes, and `prefix` takes no more than those and no more than we have room for.
    unsafe { prefix(descriptor.cast(), u64::from(head.struct_size), &mut known) };
    let built_with = format!("SDK {} and {}", shown(known.sdk), shown(known.rustc));

    let size = if known.vtable.is_null() {
        None
    } else {
        // SAFETY: a table that is not null begins with its size and lives as long as the library.
        Some(unsafe { std::ptr::read_unaligned(known.vtable.cast::<u64>()) })
    };
    fit::check_vtable(size, &built_with)?;
    let mut vtable = Vtable::ABSENT;
    // SAFETY: the table has `size` bytes; any bytes make valid members, because null is an absent function.
    unsafe { prefix(known.vtable.cast(), size.unwrap_or_default(), &mut vtable) };
    fit::check_functions(&vtable, &built_with)?;
    Ok(Loaded { vtable })
}

fn linker_text(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn other_major(library: &Library) -> Option<u16> {
    fit::OTHER_MAJORS.clone().find(|major| {
        let name = format!("connect_migrator_plugin_v{major}");
        // SAFETY: the symbol is looked up and not used.
        unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok()
    })
}

/// Copies as many bytes as both sides know.
///
/// # Safety
/// `size` bytes can be read at `from`, and any bytes make a valid `T`.
unsafe fn prefix<T>(from: *const u8, size: u64, to: &mut T) {
    let known = usize::try_from(size).unwrap_or(usize::MAX).min(size_of::<T>());
    // SAFETY: the caller promises the source; the target is a `T` of at least `known` bytes.
    unsafe { std::ptr::copy_nonoverlapping(from, std::ptr::from_mut(to).cast::<u8>(), known) };
}

/// A copy of the bytes that `text` names.
///
/// # Safety
/// `text.ptr` is null, or `text.len` bytes can be read there.
unsafe fn bytes_of(text: Text) -> Vec<u8> {
    if text.ptr.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller promises it.
    unsafe { std::slice::from_raw_parts(text.ptr, text.len) }.to_vec()
}

/// A text of a descriptor, for a message.
fn shown(text: Text) -> String {
    let text = Text { len: text.len.min(SHOWN_TEXT_BYTES), ..text };
    // SAFETY: texts of a descriptor live as long as the library.
    let text = String::from_utf8_lossy(&unsafe { bytes_of(text) }).into_owned();
    if text.is_empty() { "something unnamed".into() } else { text }
}

impl Loaded {
    /// What the plugin says about itself.
    pub(super) fn describe(&self) -> Result<Vec<u8>, String> {
        // SAFETY: the table belongs to the loaded library, which is never unloaded.
        let buffer = self.vtable.describe.map(|describe| unsafe { describe() });
        self.take(buffer)
    }

    /// Makes the call. One at a time.
    pub(super) fn call(&self, request: &[u8], link: &Arc<Link>) -> Result<Vec<u8>, String> {
        // Both live until the process ends: a thread of the plugin may use them for longer than it should.
        let ctx: &'static Arc<Link> = Box::leak(Box::new(Arc::clone(link)));
        let table: &'static HostTable = Box::leak(Box::new(host_table(ctx)));
        // SAFETY: the table belongs to the loaded library; the request is lent until the return, the host table for ever.
        let buffer = self.vtable.call.map(|call| unsafe { call(Text::lend(request), table) });
        self.take(buffer)
    }

    /// Tells the plugin that the call should end, if it wants to be told.
    pub(super) fn cancel(&self) {
        if let Some(cancel) = self.vtable.cancel {
            // SAFETY: the table belongs to the loaded library; `cancel` may be called from any thread.
            unsafe { cancel() }
        }
    }

    /// A copy of what the plugin returned, which it gets back.
    fn take(&self, buffer: Option<Buffer>) -> Result<Vec<u8>, String> {
        let buffer = buffer.ok_or("nothing")?;
        let taken = if buffer.len > MAX_FRAME_BYTES {
            Err(format!("an answer of {} bytes, and {MAX_FRAME_BYTES} are allowed", buffer.len))
        } else if buffer.ptr.is_null() {
            Err("an empty answer".into())
        } else {
            // SAFETY: the plugin says that it returned this many bytes.
            Ok(unsafe { bytes_of(Text { ptr: buffer.ptr, len: buffer.len }) })
        };
        if let Some(free) = self.vtable.free {
            // SAFETY: the plugin made the buffer and gets it back once.
            unsafe { free(buffer) }
        }
        taken
    }
}

fn host_table(ctx: &'static Arc<Link>) -> HostTable {
    HostTable {
        size: size_of::<HostTable>() as u64,
        ctx: std::ptr::from_ref(ctx).cast_mut().cast(),
        log: Some(log),
        progress: Some(progress),
        record_undo: Some(record_undo),
        checkpoint: Some(checkpoint),
        secret: Some(secret),
        is_cancelled: Some(is_cancelled),
        free: Some(free),
    }
}

/// # Safety
/// `ctx` is that of [`host_table`].
unsafe fn link(ctx: *mut c_void) -> &'static Link {
    // SAFETY: the caller promises it, and `host_table` made it from a reference that lives for ever.
    unsafe { &*ctx.cast::<Arc<Link>>() }
}

/// Text of a plugin, shortened before it is copied.
///
/// # Safety
/// As [`bytes_of`].
unsafe fn message_of(text: Text) -> String {
    let bounded = Text { len: text.len.min(MAX_LOG_MESSAGE_BYTES), ..text };
    // SAFETY: the caller promises it.
    let text = String::from_utf8_lossy(&unsafe { bytes_of(bounded) }).into_owned();
    shortened(&text, MAX_LOG_MESSAGE_BYTES).to_string()
}

/// JSON of a plugin.
///
/// # Safety
/// As [`bytes_of`].
unsafe fn json_of(text: Text) -> Result<Value, String> {
    if text.len > MAX_FRAME_BYTES {
        return Err(format!("it has {} bytes, and {MAX_FRAME_BYTES} are allowed", text.len));
    }
    // SAFETY: the caller promises it.
    serde_json::from_slice(&unsafe { bytes_of(text) }).map_err(|error| format!("it is not JSON: {error}"))
}

/// Hands out an answer; the plugin gives it back with [`free`].
fn give(reply: &Value) -> Buffer {
    let bytes = Box::leak(reply.to_string().into_bytes().into_boxed_slice());
    Buffer { ptr: bytes.as_mut_ptr(), len: bytes.len() }
}

fn give_durable(done: Result<(), String>) -> Buffer {
    give(&match done {
        Ok(()) => json!({"ok": null}),
        Err(why) => json!({"refused": why}),
    })
}

// The functions below are called by plugins, with the `ctx` of the table and texts that are lent for the time of the call.
// None of them panics; if one did, the process would abort, as it must.

unsafe extern "C" fn log(ctx: *mut c_void, level: u32, message: Text, fields: Text) {
    // SAFETY: see above.
    let (link, message, fields) = unsafe { (link(ctx), message_of(message), json_of(fields)) };
    let fields = if let Ok(Value::Object(fields)) = fields { fields } else { Map::new() };
    link.log(LogLevel::from_number(level), &message, &fields);
}

unsafe extern "C" fn progress(ctx: *mut c_void, progress: Text) {
    // SAFETY: see above.
    let (link, progress) = unsafe { (link(ctx), json_of(progress)) };
    match progress.map(serde_json::from_value::<Progress>) {
        Ok(Ok(progress)) => link.progress(&progress),
        Ok(Err(error)) => {
            link.log(LogLevel::Warn, &format!("a progress report was dropped: {error}"), &Map::new())
        }
        Err(why) => link.log(LogLevel::Warn, &format!("a progress report was dropped: {why}"), &Map::new()),
    }
}

unsafe extern "C" fn record_undo(ctx: *mut c_void, record: Text) -> Buffer {
    // SAFETY: see above.
    let (link, record) = unsafe { (link(ctx), json_of(record)) };
    give_durable(record.and_then(|record| link.ask_undo(record)))
}

unsafe extern "C" fn checkpoint(ctx: *mut c_void, checkpoint: Text) -> Buffer {
    // SAFETY: see above.
    let (link, checkpoint) = unsafe { (link(ctx), json_of(checkpoint)) };
    give_durable(checkpoint.and_then(|checkpoint| link.ask_checkpoint(checkpoint)))
}

unsafe extern "C" fn secret(ctx: *mut c_void, credential: Text) -> Buffer {
    // SAFETY: see above.
    let (link, credential) = unsafe { (link(ctx), message_of(credential)) };
    let mut reply = match link.ask_secret(&credential) {
        Ok(value) => json!({"ok": value}),
        Err(why) => json!({"refused": why}),
    };
    let given = give(&reply);
    if let Some(Value::String(value)) = reply.get_mut("ok") {
        value.zeroize();
    }
    given
}

unsafe extern "C" fn is_cancelled(ctx: *mut c_void) -> u8 {
    // SAFETY: see above.
    u8::from(unsafe { link(ctx) }.is_cancelled())
}

unsafe extern "C" fn free(_: *mut c_void, buffer: Buffer) {
    if !buffer.ptr.is_null() {
        // SAFETY: `give` made it from a boxed slice of this length, and the plugin gives it back once.
        let mut bytes = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(buffer.ptr, buffer.len)) };
        bytes.zeroize();
    }
}
