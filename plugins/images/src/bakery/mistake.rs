//! Mistakes in a bakery file, shown with line and caret.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;

/// How many mistakes are drawn; the rest is counted.
const MAX_DRAWN: usize = 20;
/// How many names a hint lists before it stops.
const MAX_NAMES: usize = 20;

/// One mistake, or something that is allowed and worth knowing, with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong, in one sentence.
    pub message: String,
    /// The bytes of the text that it is about.
    pub span: Range<usize>,
    /// What stands beside the caret. May be empty.
    pub label: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// Another place that explains it.
    pub context: Option<Box<(Range<usize>, String)>>,
}

impl Mistake {
    /// A mistake at `span`.
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Mistake { message: message.into(), span, label: String::new(), hint: None, context: None }
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
        self.context = Some(Box::new((span, label.into())));
        self
    }
}

/// All mistakes of one file, in the order of the text. `Display` draws them without colours.
#[derive(Clone, PartialEq, Eq)]
pub struct Mistakes {
    file: String,
    text: String,
    items: Vec<Mistake>,
}

impl Mistakes {
    pub(super) fn new(file: &str, text: &str, mut items: Vec<Mistake>) -> Self {
        items.sort_by_key(|item| (item.span.start, item.span.end));
        items.dedup();
        for item in &mut items {
            item.span = clamp(text, &item.span);
            if let Some(context) = &mut item.context {
                context.0 = clamp(text, &context.0);
            }
        }
        Mistakes { file: file.into(), text: text.into(), items }
    }

    /// The mistakes, in the order of the text.
    #[must_use]
    pub fn items(&self) -> &[Mistake] {
        &self.items
    }

    /// Line and column (characters), both from 1, of a mistake.
    #[must_use]
    pub fn position(&self, mistake: &Mistake) -> (usize, usize) {
        let before = self.text.get(..mistake.span.start).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        (before.matches('\n').count() + 1, column)
    }

    /// Draws file, line, caret and hint of each.
    #[must_use]
    pub fn render(&self, coloured: bool) -> String {
        self.draw(coloured, Level::ERROR, "mistake")
    }

    /// The same, as what is worth knowing.
    #[must_use]
    pub fn render_as_warnings(&self, coloured: bool) -> String {
        self.draw(coloured, Level::WARNING, "warning")
    }

    fn draw(&self, coloured: bool, level: Level<'_>, name: &str) -> String {
        let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for item in self.items.iter().take(MAX_DRAWN) {
            let (window, at) = self.window(item);
            let within = |span: &Range<usize>| span.start - window.start..span.end - window.start;
            let mut primary = AnnotationKind::Primary.span(within(&item.span));
            if !item.label.is_empty() {
                primary = primary.label(item.label.as_str());
            }
            let source = self.text.get(window.clone()).unwrap_or_default();
            let mut snippet =
                Snippet::source(source).line_start(at).path(self.file.as_str()).annotation(primary);
            if let Some((span, label)) = item.context.as_deref() {
                snippet =
                    snippet.annotation(AnnotationKind::Context.span(within(span)).label(label.as_str()));
            }
            let mut groups = vec![level.clone().primary_title(item.message.as_str()).element(snippet)];
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
        let plural = if self.items.len() == 1 { "" } else { "s" };
        out.push_str(&format!("{} {name}{plural} in {}", self.items.len(), self.file));
        out
    }

    /// The whole lines that a mistake needs to be drawn, and the number of the first.
    fn window(&self, item: &Mistake) -> (Range<usize>, usize) {
        let spans = || std::iter::once(&item.span).chain(item.context.iter().map(|context| &context.0));
        let first = spans().map(|span| span.start).min().unwrap_or(0);
        let last = spans().map(|span| span.end).max().unwrap_or(0);
        let before = self.text.get(..first).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let after = self.text.get(last..).unwrap_or_default();
        let end = after.find('\n').map_or(self.text.len(), |at| last + at + 1);
        (start..end, before.matches('\n').count() + 1)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{}", self.render(false))
    }
}

impl std::error::Error for Mistakes {}

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

/// `did you mean …?`, or the list of what there is.
pub(super) fn nearest_hint(written: &str, names: &[&str]) -> String {
    let lower = written.to_lowercase();
    let near = names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| distance * 3 <= name.len().max(written.len()))
        .min_by_key(|(distance, _)| *distance);
    match near {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None => {
            let mut listed: Vec<String> =
                names.iter().take(MAX_NAMES).map(|name| format!("`{name}`")).collect();
            if names.len() > MAX_NAMES {
                listed.push("…".into());
            }
            format!("known here: {}", listed.join(", "))
        }
    }
}
