use super::*;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

struct Journald {
    _folder: tempfile::TempDir,
    socket: UnixDatagram,
    sink: Sink,
}

fn journald() -> Journald {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let sink = Sink::journal_at(&path);
    Journald { _folder: folder, socket, sink }
}

impl Journald {
    fn received(&self) -> Vec<u8> {
        let mut buffer = vec![0; 256 * 1024];
        let length = self.socket.recv(&mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    fn received_text(&self) -> String {
        String::from_utf8(self.received()).unwrap()
    }
}

#[test]
fn an_entry_is_these_bytes_on_the_wire() {
    let journald = journald();
    Entry {
        priority: Priority::Notice,
        message: "the window is open",
        instance: "prod",
        migration_id: Some("0199-1"),
        step: Some("stop"),
        plugin: Some("systemd"),
        phase: Some("apply"),
        message_id: Some(MessageId(0xab)),
    }
    .send_to(&journald.sink);
    assert_eq!(
        journald.received_text(),
        "PRIORITY=5\nSYSLOG_IDENTIFIER=connect-migrator\nMIGRATION_ID=0199-1\nINSTANCE=prod\nSTEP=stop\nPLUGIN=systemd\n\
         PHASE=apply\nMESSAGE_ID=000000000000000000000000000000ab\nMESSAGE=the window is open\n"
    );
}

#[test]
fn each_priority_has_its_number() {
    let journald = journald();
    let all = [Priority::Error, Priority::Warning, Priority::Notice, Priority::Info, Priority::Debug];
    for (priority, number) in all.into_iter().zip(3..) {
        Entry { priority, message: "m", ..Entry::default() }.send_to(&journald.sink);
        let expected = format!("PRIORITY={number}\nSYSLOG_IDENTIFIER=connect-migrator\nMESSAGE=m\n");
        assert_eq!(journald.received_text(), expected);
    }
}

#[test]
fn a_message_of_several_lines_has_its_length_in_front() {
    let journald = journald();
    Entry { message: "one\ntwo", ..Entry::default() }.send_to(&journald.sink);
    assert_eq!(
        journald.received(),
        b"PRIORITY=6\nSYSLOG_IDENTIFIER=connect-migrator\nMESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\n"
    );
}

#[test]
fn no_text_can_bring_in_a_field() {
    let journald = journald();
    Entry {
        message: "x\nMESSAGE_ID=0\nPRIORITY=0\n\u{1b}[31mred\0",
        step: Some("a\nPRIORITY=0"),
        plugin: Some("b\nF_X=1"),
        ..Entry::default()
    }
    .send_to(&journald.sink);
    let bytes = journald.received();
    let head = String::from_utf8_lossy(&bytes);
    let head = head.split("MESSAGE\n").next().unwrap();
    assert_eq!(
        head,
        "PRIORITY=6\nSYSLOG_IDENTIFIER=connect-migrator\nSTEP=a\u{fffd}PRIORITY=0\nPLUGIN=b\u{fffd}F_X=1\n"
    );
    assert!(!bytes.contains(&0x1b));
    // Name, line end, length, value, line end: nothing is left over that journald would read as a field.
    let value = &bytes[head.len() + "MESSAGE\n".len()..];
    let length = u64::from_le_bytes(value[..8].try_into().unwrap());
    assert_eq!(usize::try_from(length).unwrap() + 9, value.len());
}

#[test]
fn a_long_message_is_cut_and_says_so() {
    let journald = journald();
    Entry { message: &"é".repeat(MAX_MESSAGE_BYTES), ..Entry::default() }.send_to(&journald.sink);
    let text = journald.received_text();
    assert!(text.len() < MAX_MESSAGE_BYTES + 200 && text.ends_with("… (cut)\n"), "{}", text.len());
}

#[test]
fn without_a_journal_lines_go_to_standard_error_with_their_priority() {
    let mut out = Vec::new();
    let sink = Sink::journal_at(std::path::Path::new("/nowhere/socket"));
    let entry =
        Entry { priority: Priority::Error, message: "one\ntwo", step: Some("stop"), ..Entry::default() };
    sink.write_or(&entry, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "<3>stop: one\n<3>stop: two\n");
}

#[test]
fn when_the_journal_goes_away_lines_go_to_standard_error() {
    let journald = journald();
    let Journald { _folder, socket, sink } = journald;
    drop(socket);
    let mut out = Vec::new();
    sink.write_or(&Entry { message: "m", ..Entry::default() }, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "<6>m\n");
}

#[test]
fn a_person_sees_no_prefixes_and_nothing_for_authors() {
    let mut out = Vec::new();
    let sink = Sink::person();
    sink.write_or(&Entry { priority: Priority::Debug, message: "d", ..Entry::default() }, &mut out);
    sink.write_or(&Entry { message: "m", ..Entry::default() }, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "m\n");
}
