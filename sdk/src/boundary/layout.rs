//! The structs that cross the boundary. Append-only: see the [module](super).

use std::ffi::c_void;
use std::ptr;

/// UTF-8 text or JSON that belongs to the other side. Valid for the time that the function using it says. `ptr` may be null
/// when `len` is 0.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Text {
    /// First byte; no terminating zero.
    pub ptr: *const u8,
    /// Number of bytes.
    pub len: usize,
}

impl Text {
    /// Text that lives as long as the library.
    #[must_use]
    pub const fn of(text: &'static str) -> Self {
        Text { ptr: text.as_ptr(), len: text.len() }
    }

    /// Text that the other side may read for as long as `bytes` is borrowed.
    #[must_use]
    pub const fn lend(bytes: &[u8]) -> Self {
        Text { ptr: bytes.as_ptr(), len: bytes.len() }
    }
}

/// Bytes that the receiver owns and gives back to the `free` of the side that made them. Empty: `ptr` null, `len` 0.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    /// First byte.
    pub ptr: *mut u8,
    /// Number of bytes.
    pub len: usize,
}

impl Buffer {
    /// No bytes.
    pub const EMPTY: Buffer = Buffer { ptr: ptr::null_mut(), len: 0 };
}

/// What the exported function returns: who the plugin is, and where its functions are. Lives as long as the library.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    /// [`MAGIC`](super::MAGIC).
    pub magic: u64,
    /// Bytes of this struct as the plugin knows it.
    pub struct_size: u32,
    /// [`ABI_MAJOR`](super::ABI_MAJOR) as the plugin knows it.
    pub abi_major: u16,
    /// [`ABI_MINOR`](super::ABI_MINOR) as the plugin knows it.
    pub abi_minor: u16,
    /// Version of the SDK, or of whatever the plugin was written with. For messages.
    pub sdk: Text,
    /// The compiler. For messages.
    pub rustc: Text,
    /// The plugin's name, as in `uses = "name/step"`.
    pub name: Text,
    /// The functions.
    pub vtable: *const Vtable,
}

impl Descriptor {
    /// Bytes of this struct in version 1.0: no plugin has fewer.
    pub const SIZE_1_0: u32 = 72;

    /// All members absent.
    pub const ABSENT: Descriptor = Descriptor {
        magic: 0,
        struct_size: 0,
        abi_major: 0,
        abi_minor: 0,
        sdk: Text { ptr: ptr::null(), len: 0 },
        rustc: Text { ptr: ptr::null(), len: 0 },
        name: Text { ptr: ptr::null(), len: 0 },
        vtable: ptr::null(),
    };
}

/// `describe` of a [`Vtable`].
pub type DescribeFn = unsafe extern "C" fn() -> Buffer;
/// `call` of a [`Vtable`].
pub type CallFn = unsafe extern "C" fn(request: Text, host: *const HostTable) -> Buffer;
/// `free` of a [`Vtable`].
pub type FreeFn = unsafe extern "C" fn(buffer: Buffer);
/// `cancel` of a [`Vtable`].
pub type CancelFn = unsafe extern "C" fn();

/// The functions of a plugin. All may be called from any thread. Lives as long as the library.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Vtable {
    /// Bytes of this struct as the plugin knows it.
    pub size: u64,
    /// Who are you? Answers `{"ok": PluginDescription}` or `{"panic": text}`. No I/O.
    pub describe: Option<DescribeFn>,
    /// Carries out one call. `request` is an [`Invocation`](crate::Invocation) and valid until the return; so is `host`.
    /// Answers an [`Answer`](crate::plugin::Answer).
    pub call: Option<CallFn>,
    /// Takes back what `describe` and `call` returned.
    pub free: Option<FreeFn>,
    /// Since 1.1, may be absent: the running `call` should end as soon as it safely can. Called from another thread than the
    /// one that runs `call`; returns at once. What [`HostTable::is_cancelled`] answers is true from then on, so that a plugin
    /// may do without.
    pub cancel: Option<CancelFn>,
}

impl Vtable {
    /// Bytes of this struct in version 1.0: no plugin has fewer.
    pub const SIZE_1_0: u64 = 32;

    /// All members absent.
    pub const ABSENT: Vtable = Vtable { size: 0, describe: None, call: None, free: None, cancel: None };
}

/// `log` of a [`HostTable`].
pub type LogFn = unsafe extern "C" fn(ctx: *mut c_void, level: u32, message: Text, fields: Text);
/// `progress` of a [`HostTable`].
pub type ProgressFn = unsafe extern "C" fn(ctx: *mut c_void, progress: Text);
/// `record_undo`, `checkpoint` and `secret` of a [`HostTable`].
pub type AskFn = unsafe extern "C" fn(ctx: *mut c_void, request: Text) -> Buffer;
/// `is_cancelled` of a [`HostTable`].
pub type IsCancelledFn = unsafe extern "C" fn(ctx: *mut c_void) -> u8;
/// `free` of a [`HostTable`].
pub type HostFreeFn = unsafe extern "C" fn(ctx: *mut c_void, buffer: Buffer);

/// What a plugin may ask of the step host while `call` runs, from any thread.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct HostTable {
    /// Bytes of this struct as the step host knows it.
    pub size: u64,
    /// Given back to every function.
    pub ctx: *mut c_void,
    /// Writes a log line. `level`: 0 debug, 1 info, 2 warning, 3 error. `fields`: a JSON object, or empty.
    pub log: Option<LogFn>,
    /// Reports a [`Progress`](crate::Progress). May be dropped when too frequent.
    pub progress: Option<ProgressFn>,
    /// Records an undo record (any JSON). Returns when it is durable: `{"ok": null}`, or `{"refused": why}`.
    pub record_undo: Option<AskFn>,
    /// Records a checkpoint (any JSON). Returns when it is durable: `{"ok": null}`, or `{"refused": why}`.
    pub checkpoint: Option<AskFn>,
    /// Fetches a secret by the credential's name (plain text): `{"ok": "value"}`, or `{"refused": why}`.
    pub secret: Option<AskFn>,
    /// 1 when the call should end as soon as it safely can.
    pub is_cancelled: Option<IsCancelledFn>,
    /// Takes back (and wipes) what the functions of this table returned.
    pub free: Option<HostFreeFn>,
}

impl HostTable {
    /// Bytes of this struct in version 1.0: no step host has fewer.
    pub const SIZE_1_0: u64 = 72;

    /// All members absent.
    pub const ABSENT: HostTable = HostTable {
        size: 0,
        ctx: ptr::null_mut(),
        log: None,
        progress: None,
        record_undo: None,
        checkpoint: None,
        secret: None,
        is_cancelled: None,
        free: None,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{align_of, offset_of, size_of};

    #[test]
    fn the_layout_on_64_bit_machines_is_the_documented_one() {
        assert_eq!((size_of::<Text>(), align_of::<Text>()), (16, 8));
        assert_eq!((offset_of!(Text, ptr), offset_of!(Text, len)), (0, 8));
        assert_eq!((size_of::<Buffer>(), align_of::<Buffer>()), (16, 8));
        assert_eq!((offset_of!(Buffer, ptr), offset_of!(Buffer, len)), (0, 8));

        assert_eq!((size_of::<Descriptor>(), align_of::<Descriptor>()), (72, 8));
        assert_eq!(offset_of!(Descriptor, magic), 0);
        assert_eq!(offset_of!(Descriptor, struct_size), 8);
        assert_eq!(offset_of!(Descriptor, abi_major), 12);
        assert_eq!(offset_of!(Descriptor, abi_minor), 14);
        assert_eq!(offset_of!(Descriptor, sdk), 16);
        assert_eq!(offset_of!(Descriptor, rustc), 32);
        assert_eq!(offset_of!(Descriptor, name), 48);
        assert_eq!(offset_of!(Descriptor, vtable), 64);

        assert_eq!((size_of::<Vtable>(), align_of::<Vtable>()), (40, 8));
        assert_eq!(offset_of!(Vtable, size), 0);
        assert_eq!(offset_of!(Vtable, describe), 8);
        assert_eq!(offset_of!(Vtable, call), 16);
        assert_eq!(offset_of!(Vtable, free), 24);
        assert_eq!(offset_of!(Vtable, cancel), 32);

        assert_eq!((size_of::<HostTable>(), align_of::<HostTable>()), (72, 8));
        assert_eq!(offset_of!(HostTable, size), 0);
        assert_eq!(offset_of!(HostTable, ctx), 8);
        assert_eq!(offset_of!(HostTable, log), 16);
        assert_eq!(offset_of!(HostTable, progress), 24);
        assert_eq!(offset_of!(HostTable, record_undo), 32);
        assert_eq!(offset_of!(HostTable, checkpoint), 40);
        assert_eq!(offset_of!(HostTable, secret), 48);
        assert_eq!(offset_of!(HostTable, is_cancelled), 56);
        assert_eq!(offset_of!(HostTable, free), 64);
    }

    #[test]
    fn the_sizes_of_version_1_0_never_change() {
        assert_eq!(Descriptor::SIZE_1_0, 72);
        assert_eq!(Vtable::SIZE_1_0, offset_of!(Vtable, cancel) as u64);
        assert_eq!(HostTable::SIZE_1_0, 72);
    }
}
