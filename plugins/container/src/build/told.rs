//! What an engine tells while it builds: lines of JSON. Podman and docker's older builder tell steps in words; docker's newer one
//! (BuildKit) wraps a protocol buffer, of which only names, times and output matter here.
//!
//! <https://github.com/moby/buildkit/blob/master/api/services/control/control.proto> (`StatusResponse`)

use base64::Engine as _;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};

/// How many lines of output are kept for an error.
const LINES_KEPT: usize = 20;
/// How much of a line is kept.
const LINE_MAX_CHARS: usize = 300;
/// More steps than these are not counted.
const STEPS_MAX: usize = 10_000;

/// What was told so far.
#[derive(Debug, Default)]
pub struct Told {
    steps: BTreeMap<String, Step>,
    counted: Option<(u64, u64)>,
    doing: String,
    lines: VecDeque<String>,
    /// The id of the image, once there is one.
    pub image: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Step {
    done: bool,
    internal: bool,
}

impl Told {
    /// Takes one line.
    pub fn take(&mut self, line: &[u8]) {
        let Ok(line) = serde_json::from_slice::<Value>(line) else { return };
        if let Some(error) = line.pointer("/errorDetail/message").or_else(|| line.get("error")) {
            self.error = Some(error.as_str().unwrap_or("it did not say why").trim().to_owned());
        }
        if let Some(text) = line.get("stream").and_then(Value::as_str) {
            self.words(text);
        }
        match line.get("aux") {
            Some(Value::String(trace)) => self.trace(trace),
            Some(aux) => {
                if let Some(id) = aux.get("ID").and_then(Value::as_str) {
                    self.image = Some(id.to_owned());
                }
            }
            None => {}
        }
    }

    /// Steps done and known, and the one that runs.
    #[must_use]
    pub fn progress(&self) -> (u64, u64, &str) {
        let counted = self.counted.unwrap_or_else(|| {
            let own = || self.steps.values().filter(|step| !step.internal);
            (own().filter(|step| step.done).count() as u64, own().count() as u64)
        });
        (counted.0, counted.1, &self.doing)
    }

    /// The end of its output.
    #[must_use]
    pub fn last_lines(&self) -> String {
        self.lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// `Step 2/5 : RUN …` of docker, `STEP 2/5: RUN …` of podman.
    fn words(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.keep(line);
            let Some(rest) = line.strip_prefix("Step ").or_else(|| line.strip_prefix("STEP ")) else {
                continue;
            };
            let Some((count, what)) = rest.split_once(':') else { continue };
            let Some((at, all)) = count.trim().split_once('/') else { continue };
            if let (Ok(at), Ok(all)) = (at.parse::<u64>(), all.parse::<u64>()) {
                self.counted = Some((at.saturating_sub(1), all));
                self.doing = short(what.trim());
            }
        }
    }

    fn keep(&mut self, line: &str) {
        if self.lines.len() >= LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(short(line));
    }

    fn trace(&mut self, text: &str) {
        let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(text) else { return };
        for (field, value) in fields(&bytes) {
            match field {
                // A vertex: digest 1, name 3, completed 6, error 7.
                1 => {
                    let text = |wanted: u64| {
                        fields(value).find(|(field, _)| *field == wanted).map(|(_, v)| words(v))
                    };
                    let (Some(digest), Some(name)) = (text(1), text(3)) else { continue };
                    let has = |wanted: u64| fields(value).any(|(field, _)| field == wanted);
                    let internal = name.starts_with("[internal]") || !name.starts_with('[');
                    if self.steps.len() < STEPS_MAX || self.steps.contains_key(&digest) {
                        let step = self.steps.entry(digest).or_default();
                        step.done = has(6);
                        step.internal = internal;
                    }
                    if has(5) && !has(6) && !internal {
                        self.doing = short(&name);
                    }
                }
                // Output: message 4.
                3 => {
                    let message = fields(value).find(|(field, _)| *field == 4).map(|(_, v)| words(v));
                    for line in message.unwrap_or_default().lines().filter(|line| !line.trim().is_empty()) {
                        self.keep(line);
                    }
                }
                _ => {}
            }
        }
    }
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LINE_MAX_CHARS).collect()
}

/// The fields of a protocol buffer: number and bytes. Numbers have no bytes here. Ends where it is damaged.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let (key, rest) = varint(bytes)?;
        let (value, rest) = match key & 7 {
            0 => (&[][..], varint(rest)?.1),
            1 => (&[][..], rest.get(8..)?),
            2 => {
                let (length, rest) = varint(rest)?;
                rest.split_at_checked(usize::try_from(length).ok()?)?
            }
            5 => (&[][..], rest.get(4..)?),
            _ => return None,
        };
        bytes = rest;
        Some((key >> 3, value))
    })
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(at).ok()? * 7)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // As docker 26.1 told them.
    const RUNS: &str = "CtEBCkdzaGEyNTY6NzQwZTUxMWJmZDNiYTI3ZjcxNjE1YmM3MGM1YjBhNWUzYTlmNzJmZTUxYWY1NmYyOWM5M2U2NGM5YjM3ODQ0MRJHc2hhMjU2Ojg2ZTU4NjI4OWZmODY2NGQzYThmZmQ5YmI4NDA2OTUzMzQ0YTE0NTNiMjJkNzQwZDg3NjliYzBmMDhhYjk1Y2QaL1szLzNdIFJVTiBlY2hvIGhlbGxvIGZyb20gYnVpbGQgJiYgbHMgLWwgL29wdC94KgwI5bSZ2AYQy5eqlgI=";
    const SAYS: &str = "GmwKR3NoYTI1Njo3NDBlNTExYmZkM2JhMjdmNzE2MTViYzcwYzViMGE1ZTNhOWY3MmZlNTFhZjU2ZjI5YzkzZTY0YzliMzc4NDQxEgwI7LSZ2AYQs8aX2AMYASIRaGVsbG8gZnJvbSBidWlsZAo=";
    const DONE: &str = "Ct4BCkdzaGEyNTY6NzQwZTUxMWJmZDNiYTI3ZjcxNjE1YmM3MGM1YjBhNWUzYTlmNzJmZTUxYWY1NmYyOWM5M2U2NGM5YjM3ODQ0MRJHc2hhMjU2Ojg2ZTU4NjI4OWZmODY2NGQzYThmZmQ5YmI4NDA2OTUzMzQ0YTE0NTNiMjJkNzQwZDg3NjliYzBmMDhhYjk1Y2QaL1szLzNdIFJVTiBlY2hvIGhlbGxvIGZyb20gYnVpbGQgJiYgbHMgLWwgL29wdC94KgwI5bSZ2AYQy5eqlgIyCwjutJnYBhDv/6JN";

    fn take(told: &mut Told, line: &Value) {
        told.take(line.to_string().as_bytes());
    }

    #[test]
    fn dockers_newer_builder_is_understood() {
        let mut told = Told::default();
        let trace = |text: &str| json!({ "id": "moby.buildkit.trace", "aux": text });
        take(&mut told, &trace(RUNS));
        assert_eq!(told.progress(), (0, 1, "[3/3] RUN echo hello from build && ls -l /opt/x"));
        take(&mut told, &trace(SAYS));
        take(&mut told, &trace(DONE));
        take(&mut told, &json!({ "id": "moby.image.id", "aux": { "ID": "sha256:11" } }));
        assert_eq!(told.progress().0, 1);
        assert_eq!(
            (told.last_lines().as_str(), told.image.as_deref()),
            ("hello from build", Some("sha256:11"))
        );
    }

    #[test]
    fn steps_in_words_are_understood_and_errors_kept() {
        let mut told = Told::default();
        take(&mut told, &json!({ "stream": "STEP 2/5: RUN false\n" }));
        assert_eq!(told.progress(), (1, 5, "RUN false"));
        take(&mut told, &json!({ "stream": "Step 3/5 : COPY a b" }));
        assert_eq!(told.progress(), (2, 5, "COPY a b"));
        take(&mut told, &json!({ "errorDetail": { "message": "no such file\n" }, "error": "x" }));
        assert_eq!(told.error.as_deref(), Some("no such file"));
    }

    #[test]
    fn nonsense_and_cut_off_traces_do_no_harm() {
        let mut told = Told::default();
        told.take(b"{");
        for end in 0..RUNS.len() {
            take(&mut told, &json!({ "aux": RUNS[..end] }));
        }
        take(&mut told, &json!({ "aux": "/////////////w==" }));
        assert_eq!(told.error, None);
    }
}
