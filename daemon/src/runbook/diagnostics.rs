//! Mistakes in a runbook, shown as rustc shows them.

use super::secrets::Toml;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;

/// How many mistakes are drawn; the rest is counted. [`Diagnostics::list`] always has them all.
const MAX_DRAWN: usize = 20;
/// How many names a hint lists before it stops.
const MAX_NAMES: usize = 20;
/// How much of a foreign name or message goes into a text, in characters.
const MAX_QUOTED_CHARS: usize = 200;

/// One mistake, with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, in one sentence.
    pub message: String,
    /// The bytes of the runbook that it is about.
    pub span: Range<usize>,
    /// What stands beside the caret: what was expected. May be empty.
    pub label: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// Other places that explain it: where the name was used first, what it collides with.
    pub context: Vec<(Range<usize>, String)>,
}

impl Diagnostic {
    /// A mistake at `span`.
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Diagnostic { message: message.into(), span, label: String::new(), hint: None, context: Vec::new() }
    }

    /// Adds what stands beside the caret.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds another place that explains the mistake.
    #[must_use]
    pub fn context(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.context.push((span, label.into()));
        self
    }
}

/// One mistake, for programs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Located {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, with what was expected.
    pub message: String,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// All mistakes found in one runbook, in the order of the text; never empty when it is an `Err`.
///
/// `Display` draws them without colours. Values that look like secrets are blacked out of the text that is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Diagnostics {
    file: String,
    shown: String,
    items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// `text` is the runbook as it was read; spans of `items` are bytes of it.
    pub(super) fn new(file: &str, text: &str, mut items: Vec<Diagnostic>) -> Self {
        items.sort_by_key(|item| (item.span.start, item.span.end));
        items.dedup();
        for item in &mut items {
            item.span = clamp(text, &item.span);
            for (span, _) in &mut item.context {
                *span = clamp(text, span);
            }
        }
        Diagnostics { file: file.into(), shown: super::secrets::blacked_out(text, Toml::Valid), items }
    }

    /// The same for a text that is not TOML: more is blacked out, as nobody knows where a value ends.
    pub(super) fn of_broken_text(file: &str, text: &str, items: Vec<Diagnostic>) -> Self {
        let mut diagnostics = Diagnostics::new(file, text, items);
        diagnostics.shown = super::secrets::blacked_out(text, Toml::Broken);
        diagnostics
    }

    /// The mistakes, in the order of the text.
    #[must_use]
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    /// The mistakes with line and column.
    #[must_use]
    pub fn list(&self) -> Vec<Located> {
        self.items
            .iter()
            .map(|item| {
                let (line, column) = position(&self.shown, item.span.start);
                let message = if item.label.is_empty() {
                    item.message.clone()
                } else {
                    format!("{}: {}", item.message, item.label)
                };
                Located { line, column, message, hint: item.hint.clone() }
            })
            .collect()
    }

    /// Draws file, line, caret and hint of each mistake.
    #[must_use]
    pub fn render(&self, coloured: bool) -> String {
        let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for item in self.items.iter().take(MAX_DRAWN) {
            let (window, at) = self.window(item);
            let within = |span: &Range<usize>| span.start - window.start..span.end - window.start;
            let mut primary = AnnotationKind::Primary.span(within(&item.span));
            if !item.label.is_empty() {
                primary = primary.label(item.label.as_str());
            }
            let source = self.shown.get(window.clone()).unwrap_or_default();
            let mut snippet =
                Snippet::source(source).line_start(at).path(self.file.as_str()).annotation(primary);
            for (span, label) in &item.context {
                let context = AnnotationKind::Context.span(within(span)).label(label.as_str());
                snippet = snippet.annotation(context);
            }
            let mut groups = vec![Level::ERROR.primary_title(item.message.as_str()).element(snippet)];
            if let Some(hint) = &item.hint {
                groups.push(Group::with_title(Level::HELP.secondary_title(hint.as_str())));
            }
            out.push_str(&renderer.render(&groups));
            out.push_str("\n\n");
        }
        let hidden = self.items.len().saturating_sub(MAX_DRAWN);
        if hidden > 0 {
            out.push_str(&format!("… and {hidden} more\n\n"));
        }
        out.push_str(&match self.items.len() {
            1 => format!("1 mistake in {}", self.file),
            n => format!("{n} mistakes in {}", self.file),
        });
        out
    }

    /// The whole lines that a mistake needs to be drawn, and the number of the first: drawing reads all it is given.
    fn window(&self, item: &Diagnostic) -> (Range<usize>, usize) {
        let spans = || std::iter::once(&item.span).chain(item.context.iter().map(|(span, _)| span));
        let first = spans().map(|span| span.start).min().unwrap_or(0);
        let last = spans().map(|span| span.end).max().unwrap_or(0);
        let before = self.shown.get(..first).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let after = self.shown.get(last..).unwrap_or_default();
        let end = after.find('\n').map_or(self.shown.len(), |at| last + at + 1);
        (start..end, before.matches('\n').count() + 1)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{}", self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Line and column (characters), both from 1, of a byte.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

/// A span inside the text, on whole characters, and not empty where the text has anything to point at.
fn clamp(text: &str, span: &Range<usize>) -> Range<usize> {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    if start == end
        && let Some(next) = text.get(start..).and_then(|rest| rest.chars().next())
        && next != '\n'
    {
        end += next.len_utf8();
    }
    start..end
}

/// The nearest of `names`, if one is near enough to be what was meant.
#[must_use]
pub fn nearest<'n>(written: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let plain = |name: &str| name.to_lowercase().replace('_', "-");
    let written = plain(written);
    names
        .into_iter()
        .map(|name| {
            let name_plain = plain(name);
            // A plural or a cut-off word is meant more often than a word of the same length.
            let distance = if written.trim_end_matches('s') == name_plain.trim_end_matches('s') {
                0
            } else {
                strsim::damerau_levenshtein(&written, &name_plain)
            };
            (distance, name_plain.chars().count().max(written.chars().count()), name)
        })
        .filter(|(distance, length, _)| *distance * 3 <= *length)
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, name)| name)
}

/// `did you mean …?`, or the list of what there is.
pub(super) fn nearest_hint(written: &str, names: &[&str]) -> Option<String> {
    if let Some(name) = nearest(written, names.iter().copied()) {
        return Some(format!("did you mean `{name}`?"));
    }
    let listed: Vec<_> = names.iter().take(MAX_NAMES).map(|name| format!("`{name}`")).collect();
    match listed.as_slice() {
        [] => None,
        [only] => Some(format!("the only name known here is {only}")),
        _ if names.len() > MAX_NAMES => Some(format!("known here: {}, …", listed.join(", "))),
        _ => Some(format!("known here: {}", listed.join(", "))),
    }
}

/// Foreign text made fit for a message: bounded, without control characters.
pub(super) fn quoted(text: &str) -> String {
    let mut out: String = text
        .chars()
        .map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c })
        .take(MAX_QUOTED_CHARS)
        .collect();
    if text.chars().nth(MAX_QUOTED_CHARS).is_some() {
        out.push('…');
    }
    out
}
