//! YAML as a tree in which everything knows its place in the text.

use super::mistake::Mistake;
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// How deep lists and mappings may be nested.
const DEPTH_MAX: usize = 64;
/// How many nodes a document may have once its aliases are put in place: a few lines of aliases can mean billions.
const NODES_MAX: usize = 100_000;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub span: Range<usize>,
    pub value: Value,
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// `plain`: written without quotes, so that it may be a number, a truth value or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping, and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub value: Node,
    /// It came by `<<`.
    merged: bool,
}

/// What a plain scalar means in YAML 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Null,
    Bool(bool),
    Number,
    Text,
}

impl Node {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Scalar { text, plain } => match meaning(text, *plain) {
                Meaning::Null => "nothing",
                Meaning::Bool(_) => "a truth value",
                Meaning::Number => "a number",
                Meaning::Text => "text",
            },
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain } if meaning(text, *plain) == Meaning::Null)
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar { .. } => 0,
            Value::List(items) => items.iter().map(Node::count).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.count()).sum(),
        }
    }
}

/// What a scalar means.
pub(super) fn meaning(text: &str, plain: bool) -> Meaning {
    if !plain {
        return Meaning::Text;
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
        "true" | "True" | "TRUE" => return Meaning::Bool(true),
        "false" | "False" | "FALSE" => return Meaning::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let starts = digits.strip_prefix('.').unwrap_or(digits).starts_with(|c: char| c.is_ascii_digit());
    let based = |prefix: &str, radix| {
        text.strip_prefix(prefix).is_some_and(|rest| u64::from_str_radix(rest, radix).is_ok())
    };
    if (starts && digits.parse::<f64>().is_ok()) || based("0x", 16) || based("0o", 8) {
        return Meaning::Number;
    }
    Meaning::Text
}

/// Reads the one document of a text.
///
/// # Errors
/// Where and why it is no YAML, or no YAML for us.
pub(super) fn parse(text: &str) -> Result<Node, Mistake> {
    let mut builder = Builder {
        bytes: text.char_indices().map(|(byte, _)| byte).collect(),
        length: text.len(),
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        root: None,
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let at = builder.byte(error.marker().index());
            Mistake::new(at..at, format!("this is not YAML: {}", error.info()))
        })?;
        builder.take(event, span)?;
    }
    builder.root.ok_or_else(|| Mistake::new(0..0, "the file is empty"))
}

enum Open {
    List { span: Range<usize>, anchor: usize, items: Vec<Node> },
    Map { span: Range<usize>, anchor: usize, entries: Vec<Entry>, key: Option<(String, Range<usize>)> },
}

struct Builder {
    /// The byte of each character: the parser counts characters.
    bytes: Vec<usize>,
    length: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

impl Builder {
    fn byte(&self, index: usize) -> usize {
        self.bytes.get(index).copied().unwrap_or(self.length)
    }

    fn span(&self, span: Span) -> Range<usize> {
        self.byte(span.start.index())..self.byte(span.end.index())
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Mistake> {
        let span = self.span(span);
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(Mistake::new(span, "the file holds a second document")
                    .hint("keep one, without `---` between"))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !self.is_text(tag, &span)?;
                let node = Node { span, value: Value::Scalar { text: text.into_owned(), plain } };
                self.place(node, anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(Mistake::new(span, "this alias leads to itself"));
                };
                self.nodes += node.count();
                self.place(node, 0)
            }
            Event::SequenceStart(anchor, tag) => {
                self.is_text(tag, &span)?;
                self.deepen(Open::List { span, anchor, items: Vec::new() })
            }
            Event::MappingStart(anchor, tag) => {
                self.is_text(tag, &span)?;
                self.deepen(Open::Map { span, anchor, entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { span, anchor, items }) => {
                    self.place(Node { span, value: Value::List(items) }, anchor)
                }
                Some(Open::Map { span, anchor, entries, .. }) => {
                    // What is missing in a mapping is shown at its first key.
                    let span = entries.first().map_or(span, |entry| entry.key_span.clone());
                    self.place(Node { span, value: Value::Map(entries) }, anchor)
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// `!!str` makes text of anything; other tags have no meaning here.
    fn is_text(&self, tag: Option<Cow<'_, Tag>>, span: &Range<usize>) -> Result<bool, Mistake> {
        let Some(tag) = tag else { return Ok(false) };
        match (tag.is_yaml_core_schema(), tag.suffix.as_str()) {
            (true, "str") => Ok(true),
            (true, _) => Ok(false),
            (false, _) => Err(Mistake::new(span.clone(), format!("the tag `{tag}` means nothing here"))
                .hint("leave it out")),
        }
    }

    fn deepen(&mut self, open: Open) -> Result<(), Mistake> {
        if self.open.len() >= DEPTH_MAX {
            let (Open::List { span, .. } | Open::Map { span, .. }) = open;
            return Err(Mistake::new(span, format!("this is nested more than {DEPTH_MAX} deep")));
        }
        self.open.push(open);
        Ok(())
    }

    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Mistake> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let message = format!("this has more than {NODES_MAX} values once its aliases are put in place");
            return Err(Mistake::new(node.span, message));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                None => {
                    let Value::Scalar { text, .. } = node.value else {
                        return Err(Mistake::new(node.span, "a key must be text"));
                    };
                    *key = Some((text, node.span));
                }
                Some((name, _)) if name == "<<" => merge(entries, node)?,
                Some((name, span)) => {
                    // What a merge brought along gives way to what is written out.
                    entries.retain(|entry| !(entry.merged && entry.key == name));
                    if let Some(first) = entries.iter().find(|entry| entry.key == name) {
                        return Err(Mistake::new(span, format!("`{name}` stands here twice"))
                            .context(first.key_span.clone(), "first here"));
                    }
                    entries.push(Entry { key: name, key_span: span, value: node, merged: false });
                }
            },
        }
        Ok(())
    }
}

/// `<<: *other` and `<<: [*one, *other]`.
fn merge(entries: &mut Vec<Entry>, node: Node) -> Result<(), Mistake> {
    let span = node.span;
    match node.value {
        Value::Map(others) => {
            for other in others {
                if !entries.iter().any(|entry| entry.key == other.key) {
                    entries.push(Entry { merged: true, ..other });
                }
            }
            Ok(())
        }
        Value::List(maps) => maps.into_iter().try_for_each(|map| merge(entries, map)),
        Value::Scalar { .. } => Err(Mistake::new(span, "`<<` takes mappings to merge in")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(node: &Node) -> String {
        match &node.value {
            Value::Scalar { text, plain } => {
                format!("{text}:{}", if *plain { node.kind() } else { "quoted" })
            }
            Value::List(items) => format!("[{}]", items.iter().map(shape).collect::<Vec<_>>().join(", ")),
            Value::Map(entries) => {
                let all: Vec<String> =
                    entries.iter().map(|e| format!("{}={}", e.key, shape(&e.value))).collect();
                format!("{{{}}}", all.join(", "))
            }
        }
    }

    #[test]
    fn scalars_mean_what_yaml_1_2_says() {
        for (text, meant) in [
            ("2026.03.1", Meaning::Text),
            ("3.14", Meaning::Number),
            ("-2", Meaning::Number),
            ("1e3", Meaning::Number),
            (".5", Meaning::Number),
            ("0x1F", Meaning::Number),
            ("", Meaning::Null),
            ("~", Meaning::Null),
            ("yes", Meaning::Text),
            ("true", Meaning::Bool(true)),
            ("FALSE", Meaning::Bool(false)),
            ("inf", Meaning::Text),
        ] {
            assert_eq!(meaning(text, true), meant, "{text}");
            assert_eq!(meaning(text, false), Meaning::Text, "{text}");
        }
    }

    #[test]
    fn every_value_knows_its_bytes_behind_characters_of_several_bytes() {
        let text = "# ä→ß\nimages:\n  - name: ü\n    x: \"q\"\n";
        let root = parse(text).unwrap();
        let Value::Map(entries) = &root.value else { panic!() };
        assert_eq!(&text[entries[0].key_span.clone()], "images");
        let Value::List(items) = &entries[0].value.value else { panic!() };
        let Value::Map(fields) = &items[0].value else { panic!() };
        assert_eq!(&text[fields[0].value.span.clone()], "ü");
        assert_eq!(&text[fields[1].value.span.clone()], "\"q\"");
        assert_eq!(&text[items[0].span.clone()], "name");
    }

    #[test]
    fn aliases_and_merges_are_put_in_place() {
        let text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: '3'\nc: {y: 4, <<: [*a]}\n";
        let shown = shape(&parse(text).unwrap());
        assert!(shown.contains("b={x=1:a number, y=3:quoted}"), "{shown}");
        assert!(shown.contains("c={y=4:a number, x=1:a number}"), "{shown}");
    }

    #[test]
    fn what_is_no_yaml_or_a_trap_is_refused_at_its_place() {
        let bomb = {
            let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
            for n in 1..9 {
                let before = format!("*a{}", n - 1);
                text.push_str(&format!("a{n}: &a{n} [{}]\n", vec![before; 9].join(", ")));
            }
            text
        };
        let deep = "[".repeat(DEPTH_MAX + 1);
        for (text, at, why) in [
            ("a: [1\nb: 2\n", 7, "not YAML"),
            ("a: 1\nb: 2\na: 3\n", 10, "twice"),
            ("a: 1\n---\nb: 1\n", 5, "second document"),
            ("? [x]\n: 1\n", 2, "key must be text"),
            ("a: !thing 1\n", 3, "means nothing here"),
            ("<<: 1\n", 4, "mappings to merge"),
            ("", 0, "empty"),
            (bomb.as_str(), usize::MAX, "once its aliases"),
            (deep.as_str(), DEPTH_MAX, "nested more than"),
        ] {
            let mistake = parse(text).unwrap_err();
            assert!(mistake.message.contains(why), "{text}: {mistake:?}");
            if at != usize::MAX {
                assert_eq!(mistake.span.start, at, "{text}: {mistake:?}");
            }
        }
    }
}
