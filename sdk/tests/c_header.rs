//! The header says the same as the Rust structs: a C file with static assertions, made from the Rust layouts, must compile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic here is a failed test")]

use connect_migrator_sdk::boundary::{
    ABI_MAJOR, ABI_MINOR, Buffer, Descriptor, HostTable, MAGIC, SYMBOL, Text, Vtable,
};
use std::fmt::Write as _;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::{Command, Output};

macro_rules! members {
    ($out:ident, $rust:ty, $c:literal: $($member:ident = $in_c:literal),+) => {
        writeln!($out, "_Static_assert(sizeof({}) == {}, \"size of {}\");", $c, size_of::<$rust>(), $c).unwrap();
        $(writeln!($out, "_Static_assert(offsetof({}, {}) == {}, \"{}.{}\");", $c, $in_c, offset_of!($rust, $member), $c, $in_c)
            .unwrap();)+
    };
}

fn compile(folder: &Path, source: &str, compiler: &str, language: &str) -> Output {
    let file = folder.join("layout.c");
    std::fs::write(&file, source).unwrap();
    Command::new(compiler)
        .args(["-x", language, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/include"))
        .arg(&file)
        .output()
        .unwrap_or_else(|error| panic!("{compiler} is needed for this test: {error}"))
}

fn assertions() -> String {
    let mut out = String::from("#include \"connect_migrator_plugin.h\"\n");
    members!(out, Text, "cm_text": ptr = "ptr", len = "len");
    members!(out, Buffer, "cm_buffer": ptr = "ptr", len = "len");
    members!(out, Descriptor, "cm_descriptor": magic = "magic", struct_size = "struct_size", abi_major = "abi_major",
        abi_minor = "abi_minor", sdk = "sdk", rustc = "compiler", name = "name", vtable = "vtable");
    members!(out, Vtable, "cm_vtable": size = "size", describe = "describe", call = "call", free = "free", cancel = "cancel");
    members!(out, HostTable, "cm_host": size = "size", ctx = "ctx", log = "log", progress = "progress",
        record_undo = "record_undo", checkpoint = "checkpoint", secret = "secret", is_cancelled = "is_cancelled",
        free = "free");
    writeln!(out, "_Static_assert(CM_MAGIC == UINT64_C({MAGIC}), \"magic\");").unwrap();
    writeln!(out, "_Static_assert(CM_ABI_MAJOR == {ABI_MAJOR} && CM_ABI_MINOR == {ABI_MINOR}, \"version\");")
        .unwrap();
    writeln!(out, "const cm_descriptor *(*the_symbol)(void) = {SYMBOL};").unwrap();
    out
}

#[test]
fn the_header_has_the_layout_of_the_rust_structs() {
    let folder = tempfile::tempdir().unwrap();
    let output = compile(folder.path(), &assertions(), "cc", "c");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_layout_that_differs_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = assertions().replace("offsetof(cm_vtable, call) == 16", "offsetof(cm_vtable, call) == 24");
    let output = compile(folder.path(), &wrong, "cc", "c");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cm_vtable.call"), "the check checks nothing");
}
