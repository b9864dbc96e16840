//! Reading mappings whose keys are known, and noting every mistake on the way.

use super::mistake::{Mistake, nearest_hint};
use super::yaml::{Entry, Meaning, Node, Value, meaning};
use std::ops::Range;

/// What is found while a file is read.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// What is wrong.
    pub mistakes: Vec<Mistake>,
    /// What is allowed and worth knowing.
    pub warnings: Vec<Mistake>,
}

impl Notes {
    pub fn wrong(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }

    pub fn warn(&mut self, mistake: Mistake) {
        self.warnings.push(mistake);
    }

    fn expected(&mut self, node: &Node, what: &str, expected: &str) {
        let mistake = Mistake::new(node.span.clone(), format!("`{what}` is {}", node.kind()))
            .label(format!("expected {expected}"));
        let quoted = match &node.value {
            Value::Scalar { text, .. } if expected.contains("text") && !node.is_null() => Some(text),
            _ => None,
        };
        self.wrong(match quoted {
            Some(text) => mistake.hint(format!("write it in quotes: \"{text}\"")),
            None => mistake,
        });
    }

    /// The text of a scalar.
    pub fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        match &node.value {
            Value::Scalar { text, plain } if meaning(text, *plain) == Meaning::Text => Some(text.clone()),
            _ => {
                self.expected(node, what, "text");
                None
            }
        }
    }

    /// One of a few words.
    pub fn word(&mut self, node: &Node, what: &str, words: &[&str]) -> Option<String> {
        let text = self.text(node, what)?;
        if words.contains(&text.as_str()) {
            return Some(text);
        }
        self.wrong(
            Mistake::new(node.span.clone(), format!("`{what}` cannot be `{text}`"))
                .hint(nearest_hint(&text, words)),
        );
        None
    }

    /// The items of a list.
    pub fn items<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        match &node.value {
            Value::List(items) => items,
            _ => {
                self.expected(node, what, "a list");
                &[]
            }
        }
    }
}

/// A mapping whose keys are known.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    /// Where it stands.
    pub span: Range<usize>,
    entries: &'n [Entry],
    what: &'static str,
}

impl<'n> Fields<'n> {
    /// Notes every key that is not known.
    pub fn of(node: &'n Node, what: &'static str, known: &[&str], notes: &mut Notes) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            notes.expected(node, what, "a mapping");
            return None;
        };
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            notes.wrong(
                Mistake::new(entry.key_span.clone(), format!("{what} has no `{}`", entry.key))
                    .label("unknown key")
                    .hint(nearest_hint(&entry.key, known)),
            );
        }
        Some(Fields { span: node.span.clone(), entries, what })
    }

    pub fn entry(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// A value that may be left out or be nothing.
    fn some(&self, key: &str) -> Option<&'n Node> {
        self.get(key).filter(|node| !node.is_null())
    }

    pub fn missing(&self, key: &str, notes: &mut Notes) {
        notes.wrong(
            Mistake::new(self.span.clone(), format!("{} needs `{key}`", self.what))
                .label(format!("no `{key}` here")),
        );
    }

    pub fn required(&self, key: &str, notes: &mut Notes) -> Option<String> {
        match self.get(key) {
            Some(node) => {
                let text = notes.text(node, key)?;
                if text.is_empty() {
                    notes.wrong(Mistake::new(node.span.clone(), format!("`{key}` is empty")));
                    return None;
                }
                Some(text)
            }
            None => {
                self.missing(key, notes);
                None
            }
        }
    }

    pub fn text(&self, key: &str, notes: &mut Notes) -> Option<String> {
        notes.text(self.some(key)?, key)
    }

    pub fn flag(&self, key: &str, notes: &mut Notes) -> Option<bool> {
        let node = self.some(key)?;
        match &node.value {
            Value::Scalar { text, plain } => match meaning(text, *plain) {
                Meaning::Bool(value) => return Some(value),
                _ => notes.expected(node, key, "true or false"),
            },
            _ => notes.expected(node, key, "true or false"),
        }
        None
    }

    /// A whole number from `least` on.
    pub fn number(&self, key: &str, least: u64, notes: &mut Notes) -> Option<u64> {
        let node = self.some(key)?;
        if let Value::Scalar { text, plain: true } = &node.value
            && let Ok(number) = text.parse::<u64>()
            && number >= least
        {
            return Some(number);
        }
        notes.expected(node, key, &format!("a whole number from {least} on"));
        None
    }

    /// Text, or a number, which is taken as it is written: bounds of versions.
    pub fn version(&self, key: &str, notes: &mut Notes) -> Option<String> {
        let node = self.some(key)?;
        match &node.value {
            Value::Scalar { text, plain } if !matches!(meaning(text, *plain), Meaning::Bool(_)) => {
                Some(text.clone())
            }
            _ => {
                notes.expected(node, key, "a version");
                None
            }
        }
    }

    pub fn items(&self, key: &str, notes: &mut Notes) -> &'n [Node] {
        self.get(key).map_or(&[], |node| notes.items(node, key))
    }

    /// Two keys of which one may be there.
    pub fn either(&self, one: &str, other: &str, notes: &mut Notes) {
        if let (Some(first), Some(second)) = (self.entry(one), self.entry(other)) {
            let (first, second) =
                if first.key_span.start < second.key_span.start { (first, second) } else { (second, first) };
            notes.wrong(
                Mistake::new(
                    second.key_span.clone(),
                    format!("{} has `{}` and `{}`", self.what, first.key, second.key),
                )
                .label("one of both may be there")
                .context(first.key_span.clone(), "the other"),
            );
        }
    }

    /// Text whose every character is allowed. `empty`: whether it may have none.
    pub fn spelled(
        &self,
        key: &str,
        empty: bool,
        fits: fn(char) -> bool,
        notes: &mut Notes,
    ) -> Option<String> {
        let text = self.text(key, notes)?;
        if (text.is_empty() && !empty) || !text.chars().all(fits) {
            if let Some(node) = self.get(key) {
                notes.wrong(
                    Mistake::new(node.span.clone(), format!("`{key}` cannot be `{text}`"))
                        .label("a character that names of files and tags cannot have"),
                );
            }
            return None;
        }
        Some(text)
    }
}
