//! Calls through the vtable, as a step host makes them, within this process. Also run under Miri where that is installed.

use super::*;
use crate::plugin::tests::invocation;
use crate::prelude::*;
use serde_json::json;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

struct Reach;

impl Step for Reach {
    type Config = Value;
    type Undo = Value;

    fn info() -> StepInfo {
        StepInfo::new("reach", "Reaches for everything")
    }

    async fn check(config: &Value, cx: &Context) -> Result<Vec<Finding>, StepError> {
        if config["wait"] == true {
            cx.cancelled().await;
            return Err(StepError::cancelled("wait"));
        }
        if config["panic"] == true {
            panic!("with a message");
        }
        cx.warn("careful");
        cx.progress(&Progress { doing: "reaching".into(), ..Progress::default() });
        cx.record_undo(&json!({"was": 1}))?;
        cx.checkpoint(&2)?;
        let secret = cx.secret(&SecretRef { credential: "key".into() })?;
        let refused = cx.secret(&SecretRef { credential: "other".into() }).unwrap_err();
        Ok(vec![Finding::ok("secret", format!("{} bytes; {refused}", secret.expose().len()))])
    }

    async fn apply(_: &Value, _: &Context) -> Result<Outcome, StepError> {
        Ok(Outcome::already_done(""))
    }

    async fn rollback(_: &Value, _: &Context, _: Op, _: Vec<Value>) -> Result<Undone, StepError> {
        Ok(Undone::restored(""))
    }
}

struct Export;
impl Exported for Export {
    const NAME: &'static str = "reach";
    fn plugin() -> Plugin {
        crate::plugin_of!(name = "reach", Reach)
    }
}

struct Broken;
impl Exported for Broken {
    const NAME: &'static str = "broken";
    fn plugin() -> Plugin {
        panic!("no steps today")
    }
}

static VTABLE: Vtable = vtable::<Export>();

/// What the host table's functions were told, and how many buffers they have not got back.
#[derive(Default)]
struct Seen {
    told: Mutex<Vec<String>>,
    outstanding: AtomicU64,
}

impl Seen {
    fn reply(&self, reply: &Value) -> Buffer {
        self.outstanding.fetch_add(1, Ordering::SeqCst);
        give(serde_json::to_vec(reply).unwrap())
    }
}

unsafe fn seen<'a>(ctx: *mut c_void) -> &'a Seen {
    // SAFETY: `table` made it from a reference that outlives the call.
    unsafe { &*ctx.cast::<Seen>() }
}

unsafe fn tell(ctx: *mut c_void, what: &str, text: Text) -> String {
    // SAFETY: lent by the plugin for the time of this function.
    let text = String::from_utf8(unsafe { bytes_of(text) }.to_vec()).unwrap();
    // SAFETY: as `seen` says.
    unsafe { seen(ctx) }.told.lock().unwrap().push(format!("{what} {text}"));
    text
}

unsafe extern "C" fn log(ctx: *mut c_void, level: u32, message: Text, _: Text) {
    // SAFETY: as `tell` says.
    unsafe { tell(ctx, &format!("log {level}"), message) };
}

unsafe extern "C" fn progress(ctx: *mut c_void, progress: Text) {
    // SAFETY: as `tell` says.
    unsafe { tell(ctx, "progress", progress) };
}

unsafe extern "C" fn record_undo(ctx: *mut c_void, record: Text) -> Buffer {
    // SAFETY: as `tell` says.
    unsafe { tell(ctx, "undo", record) };
    // SAFETY: as `seen` says.
    unsafe { seen(ctx) }.reply(&json!({"ok": null}))
}

unsafe extern "C" fn checkpoint(ctx: *mut c_void, checkpoint: Text) -> Buffer {
    // SAFETY: as `tell` says.
    unsafe { tell(ctx, "checkpoint", checkpoint) };
    // SAFETY: as `seen` says.
    unsafe { seen(ctx) }.reply(&json!({"ok": null}))
}

unsafe extern "C" fn secret(ctx: *mut c_void, credential: Text) -> Buffer {
    // SAFETY: as `tell` says.
    let credential = unsafe { tell(ctx, "secret", credential) };
    let reply = if credential == "key" { json!({"ok": "12345"}) } else { json!({"refused": "not stored"}) };
    // SAFETY: as `seen` says.
    unsafe { seen(ctx) }.reply(&reply)
}

unsafe extern "C" fn is_cancelled(_: *mut c_void) -> u8 {
    0
}

unsafe extern "C" fn take_back(ctx: *mut c_void, buffer: Buffer) {
    // SAFETY: as `seen` says.
    unsafe { seen(ctx) }.outstanding.fetch_sub(1, Ordering::SeqCst);
    // SAFETY: `reply` made it with `give`, and it comes back once.
    unsafe { free(buffer) };
}

fn table(seen: &Seen) -> HostTable {
    HostTable {
        size: size_of::<HostTable>() as u64,
        ctx: (&raw const *seen).cast_mut().cast(),
        log: Some(log),
        progress: Some(progress),
        record_undo: Some(record_undo),
        checkpoint: Some(checkpoint),
        secret: Some(secret),
        is_cancelled: Some(is_cancelled),
        free: Some(take_back),
    }
}

/// A plugin serves one call at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn call_through(vtable: &Vtable, table: *const HostTable, request: &[u8]) -> Value {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    call_in_turn(vtable, table, request)
}

fn call_in_turn(vtable: &Vtable, table: *const HostTable, request: &[u8]) -> Value {
    let (call, free) = (vtable.call.unwrap(), vtable.free.unwrap());
    // SAFETY: request and table outlive the call.
    let buffer = unsafe { call(Text::lend(request), table) };
    // SAFETY: the plugin returned it.
    let answer = unsafe { bytes_of(Text { ptr: buffer.ptr, len: buffer.len }) };
    // SAFETY: given back once.
    unsafe { free(buffer) };
    serde_json::from_slice(&answer).unwrap()
}

fn request(config: Value) -> Vec<u8> {
    serde_json::to_vec(&invocation("reach", Op::Check, config)).unwrap()
}

#[test]
fn everything_a_context_offers_crosses_the_boundary_and_every_buffer_goes_back() {
    let seen = Seen::default();
    let answer = call_through(&VTABLE, &table(&seen), &request(json!({})));
    let text = answer["ok"][0]["text"].as_str().unwrap();
    assert_eq!(text, "5 bytes; could not get the secret `other` from the daemon: not stored");
    assert_eq!(
        *seen.told.lock().unwrap(),
        [
            "log 2 careful",
            r#"progress {"doing":"reaching"}"#,
            r#"undo {"was":1}"#,
            "checkpoint 2",
            "secret key",
            "secret other"
        ]
    );
    assert_eq!(seen.outstanding.load(Ordering::SeqCst), 0);
}

#[test]
fn a_panic_stays_inside_the_plugin() {
    let seen = Seen::default();
    let answer = call_through(&VTABLE, &table(&seen), &request(json!({"panic": true})));
    assert!(answer["panic"].as_str().unwrap().starts_with("with a message"), "{answer}");
    let broken = vtable::<Broken>();
    let answer = call_through(&broken, &table(&seen), &request(json!({})));
    assert!(answer["panic"].as_str().unwrap().starts_with("no steps today"), "{answer}");
    // SAFETY: `describe` takes nothing.
    let buffer = unsafe { broken.describe.unwrap()() };
    // SAFETY: the plugin returned it, and gets it back once.
    let answer = unsafe { bytes_of(Text { ptr: buffer.ptr, len: buffer.len }) };
    // SAFETY: as above.
    unsafe { broken.free.unwrap()(buffer) };
    assert!(String::from_utf8(answer.to_vec()).unwrap().contains("no steps today"));
}

#[test]
fn cancel_wakes_a_step_that_waits() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = Seen::default();
    let waker = std::thread::spawn(|| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while RUNNING.lock().unwrap().is_none() {
            assert!(std::time::Instant::now() < deadline, "the call never started");
            std::thread::yield_now();
        }
        // SAFETY: `cancel` takes nothing.
        unsafe { VTABLE.cancel.unwrap()() };
    });
    let answer = call_in_turn(&VTABLE, &table(&seen), &request(json!({"wait": true})));
    waker.join().unwrap();
    assert_eq!(answer["error"]["cancelled"], true, "{answer}");
}

#[test]
fn a_longer_host_table_of_a_newer_step_host_is_read_as_far_as_it_is_known() {
    #[repr(C)]
    struct Newer {
        known: HostTable,
        more: u64,
    }
    let seen = Seen::default();
    let mut newer = Newer { known: table(&seen), more: 7 };
    newer.known.size = size_of::<Newer>() as u64;
    assert_eq!(newer.more, 7);
    let answer = call_through(&VTABLE, (&raw const newer).cast(), &request(json!({})));
    assert!(answer.get("ok").is_some(), "{answer}");
}

#[test]
fn a_host_table_that_is_missing_or_cut_short_is_an_error_and_is_not_read() {
    let short = 16_u64;
    for host in [std::ptr::null(), (&raw const short).cast::<HostTable>()] {
        let answer = call_through(&VTABLE, host, &request(json!({})));
        assert_eq!(answer["error"]["why"], "the step host handed over no complete host table");
    }
}

#[test]
fn a_call_that_cannot_be_read_is_an_error() {
    let seen = Seen::default();
    for request in [&b"{"[..], b"\xff\xfe", b""] {
        let answer = call_through(&VTABLE, &table(&seen), request);
        assert_eq!(answer["error"]["tried"], "read the call", "{answer}");
    }
}

#[test]
fn the_descriptor_says_who_and_what() {
    let descriptor = descriptor::<Export>(&VTABLE);
    assert_eq!(descriptor.magic.to_be_bytes(), *b"CMPLUGIN");
    assert_eq!(descriptor.struct_size, 72);
    assert_eq!((descriptor.abi_major, descriptor.abi_minor), (1, 1));
    // SAFETY: the texts are statics.
    let texts = unsafe { [bytes_of(descriptor.sdk), bytes_of(descriptor.rustc), bytes_of(descriptor.name)] };
    let [sdk, rustc, name] = texts.map(|text| String::from_utf8(text.to_vec()).unwrap());
    assert_eq!(sdk, SDK_VERSION);
    assert!(rustc.starts_with("rustc 1."), "{rustc}");
    assert_eq!(name, "reach");
}
