//! The exported table: that of the SDK, with answers of its own where no honest plugin could give them.
#![allow(
    unsafe_code,
    reason = "a plugin that breaks the boundary cannot be written without writing the boundary"
)]

use crate::Misdeed;
use crate::step::{Hostile, Settings};
use connect_migrator_sdk::boundary::{self, Buffer, Descriptor, Exported, HostTable, Text, Vtable};
use connect_migrator_sdk::{Invocation, Plugin};

struct Export;

impl Exported for Export {
    const NAME: &'static str = "hostile";

    fn plugin() -> Plugin {
        // A description has no settings: the name under which the library was loaded decides.
        let command_line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
        if String::from_utf8_lossy(&command_line).contains("panics-in-describe") {
            describe_panics();
        }
        connect_migrator_sdk::plugin_of!(name = "hostile", Hostile)
    }
}

#[allow(clippy::panic, reason = "this is what it is for")]
fn describe_panics() {
    panic!("who am I?");
}

static HONEST: Vtable = boundary::vtable::<Export>();
static VTABLE: Vtable = Vtable { call: Some(call), free: Some(free), ..HONEST };
static DESCRIPTOR: Descriptor = boundary::descriptor::<Export>(&VTABLE);

#[unsafe(no_mangle)]
extern "C" fn connect_migrator_plugin_v1() -> *const Descriptor {
    &raw const DESCRIPTOR
}

/// 100 MB.
const BIG_ANSWER_BYTES: usize = 100 * 1000 * 1000;

fn misdeed(request: &[u8]) -> Misdeed {
    let settings = serde_json::from_slice::<Invocation>(request)
        .ok()
        .and_then(|invocation| serde_json::from_value::<Settings>(invocation.config).ok());
    settings.map_or(Misdeed::None, |settings| settings.misdeed)
}

fn leak(bytes: Vec<u8>) -> Buffer {
    let bytes = Box::leak(bytes.into_boxed_slice());
    Buffer { ptr: bytes.as_mut_ptr(), len: bytes.len() }
}

unsafe extern "C" fn call(request: Text, host: *const HostTable) -> Buffer {
    // SAFETY: the step host lends the request until the return.
    let bytes = unsafe { std::slice::from_raw_parts(request.ptr, request.len) };
    match misdeed(bytes) {
        Misdeed::NotJson => leak(b"it went well".to_vec()),
        Misdeed::NotUtf8 => leak(b"{\"ok\":\"\xff\xfe\"}".to_vec()),
        Misdeed::WrongShape => leak(br#"{"fine": true}"#.to_vec()),
        Misdeed::Empty => Buffer::EMPTY,
        Misdeed::BigAnswer => leak(vec![b' '; BIG_ANSWER_BYTES]),
        _ => match HONEST.call {
            // SAFETY: both arguments are handed on as they came.
            Some(call) => unsafe { call(request, host) },
            None => Buffer::EMPTY,
        },
    }
}

unsafe extern "C" fn free(buffer: Buffer) {
    if let Some(free) = HONEST.free {
        // SAFETY: `leak` makes buffers as the SDK does, and the rest are the SDK's own.
        unsafe { free(buffer) }
    }
}
