//! Whether a plugin's library and this step host fit together. What does not fit is said with both sides and what to do.

use connect_migrator_sdk::boundary::{ABI_MAJOR, ABI_MINOR, Descriptor, MAGIC, SDK_VERSION, SYMBOL, Vtable};
use std::ops::RangeInclusive;

/// Majors that are looked for when ours is missing, to be able to say which one the library has.
pub(super) const OTHER_MAJORS: RangeInclusive<u16> = 0..=9;

/// Why a library cannot be used, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) why: String,
    pub(super) remedy: String,
}

impl Misfit {
    pub(super) fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Misfit { why: why.into(), remedy: remedy.into() }
    }
}

/// What every descriptor begins with, in whatever version.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Head {
    pub(super) magic: u64,
    pub(super) struct_size: u32,
    pub(super) abi_major: u16,
    pub(super) abi_minor: u16,
}

fn ours() -> String {
    format!("this is connect-migrator {SDK_VERSION} with plugin interface {ABI_MAJOR}.{ABI_MINOR}")
}

/// The library cannot be loaded by the dynamic linker.
pub(super) fn not_loadable(why: &str) -> Misfit {
    Misfit::new(
        format!("it cannot be loaded as a shared library: {why}"),
        "install the build of the plugin for this distribution and processor (`ldd` and `file` tell more)",
    )
}

/// The library lacks our symbol; `other` is the major whose symbol it has.
pub(super) fn no_symbol(other: Option<u16>) -> Misfit {
    match other {
        Some(major) => wrong_major(&format!("it exports the plugin interface {major} only"), major),
        None => Misfit::new(
            format!("it exports no `{SYMBOL}`, so it is no plugin of connect-migrator; {}", ours()),
            "name the file of a plugin; its author exports the symbol with the macro `export_plugin!`",
        ),
    }
}

fn wrong_major(has: &str, major: u16) -> Misfit {
    let remedy = if major > ABI_MAJOR {
        "install the newer connect-migrator that it was built for, or the plugin's release for this one"
    } else {
        "install the plugin's release for this connect-migrator"
    };
    Misfit::new(format!("{has}; {}", ours()), remedy)
}

/// The symbol returned null.
pub(super) fn no_descriptor() -> Misfit {
    Misfit::new(
        format!("its `{SYMBOL}` returns no descriptor; {}", ours()),
        "install a release of the plugin that works; its author must return a descriptor from that function",
    )
}

/// Checks the head: magic, size, major. A minor that differs is no obstacle: members are only ever added at the end.
pub(super) fn check_head(head: &Head) -> Result<(), Misfit> {
    if head.magic != MAGIC {
        return Err(Misfit::new(
            format!(
                "its descriptor begins with {:#018x} instead of {MAGIC:#018x}, so it is no plugin of connect-migrator; {}",
                head.magic,
                ours()
            ),
            "name the file of a plugin; its author sets `magic` as the header says",
        ));
    }
    if head.struct_size < Descriptor::SIZE_1_0 {
        return Err(Misfit::new(
            format!(
                "its descriptor has {} bytes, and none has fewer than {}; {}",
                head.struct_size,
                Descriptor::SIZE_1_0,
                ours()
            ),
            "install a release of the plugin that works; its author sets `struct_size` to the descriptor's size",
        ));
    }
    if head.abi_major != ABI_MAJOR {
        let has = format!("it is built for the plugin interface {}.{}", head.abi_major, head.abi_minor);
        return Err(wrong_major(&has, head.abi_major));
    }
    Ok(())
}

/// Checks that the table is there and has at least the functions of version 1.0.
pub(super) fn check_vtable(size: Option<u64>, built_with: &str) -> Result<(), Misfit> {
    let why = match size {
        None => "its descriptor names no functions".to_string(),
        Some(size) if size < Vtable::SIZE_1_0 => {
            format!("its table of functions has {size} bytes, and none has fewer than {}", Vtable::SIZE_1_0)
        }
        Some(_) => return Ok(()),
    };
    Err(broken_table(&why, built_with))
}

/// Checks that the functions of version 1.0 are there.
pub(super) fn check_functions(vtable: &Vtable, built_with: &str) -> Result<(), Misfit> {
    let all = [
        ("describe", vtable.describe.is_some()),
        ("call", vtable.call.is_some()),
        ("free", vtable.free.is_some()),
    ];
    match all.iter().find(|(_, there)| !there) {
        Some((name, _)) => Err(broken_table(&format!("its table of functions has no `{name}`"), built_with)),
        None => Ok(()),
    }
}

fn broken_table(why: &str, built_with: &str) -> Misfit {
    Misfit::new(
        format!("{why} (it says that it was built with {built_with}); {}", ours()),
        "install a release of the plugin that works; its author fills in the table as the header says",
    )
}
