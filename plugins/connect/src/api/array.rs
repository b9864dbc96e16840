//! Takes a JSON array apart while it arrives, so that a list of any length needs the memory of one item.

/// The largest item that is accepted. A content item has about 2 KB.
pub const ITEM_MAX_BYTES: usize = 1024 * 1024;

/// Why the text cannot be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// It does not start with `[`.
    #[error("it is not a JSON array")]
    NotAnArray,
    /// It ended before `]`.
    #[error("the JSON array ends before its end")]
    CutOff,
    /// Something follows `]`.
    #[error("something follows the JSON array")]
    Trailing,
    /// One item is larger than [`ITEM_MAX_BYTES`].
    #[error("an item of the JSON array has more than {ITEM_MAX_BYTES} bytes")]
    ItemTooLarge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Before,
    Inside,
    After,
}

/// Finds the borders of the items of an array. Does not check that the items are JSON; their reader does.
#[derive(Debug)]
pub struct Splitter {
    at: At,
    depth: usize,
    in_string: bool,
    escaped: bool,
    item: Vec<u8>,
}

impl Default for Splitter {
    fn default() -> Self {
        Splitter { at: At::Before, depth: 0, in_string: false, escaped: false, item: Vec::new() }
    }
}

impl Splitter {
    /// Takes the next bytes and hands every item that is complete to `each`. `each` may stop by an error of its own.
    ///
    /// # Errors
    /// When the bytes are not those of an array, or `each` failed.
    pub fn push<E: From<SplitError>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for &byte in bytes {
            match self.at {
                At::Before => match byte {
                    b'[' => self.at = At::Inside,
                    byte if byte.is_ascii_whitespace() => {}
                    _ => return Err(SplitError::NotAnArray.into()),
                },
                At::After if byte.is_ascii_whitespace() => {}
                At::After => return Err(SplitError::Trailing.into()),
                At::Inside => self.inside(byte, &mut each)?,
            }
        }
        Ok(())
    }

    fn inside<E: From<SplitError>>(
        &mut self,
        byte: u8,
        each: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b']' if self.depth == 0 => {
                    self.at = At::After;
                    return self.emit(each);
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b',' if self.depth == 0 => return self.emit(each),
                byte if byte.is_ascii_whitespace() => return Ok(()),
                _ => {}
            }
        }
        if self.item.len() >= ITEM_MAX_BYTES {
            return Err(SplitError::ItemTooLarge.into());
        }
        self.item.push(byte);
        Ok(())
    }

    fn emit<E>(&mut self, each: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.item.is_empty() {
            return Ok(());
        }
        let result = each(&self.item);
        self.item.clear();
        result
    }

    /// To be called after the last bytes.
    ///
    /// # Errors
    /// When the array was not complete.
    pub fn end(self) -> Result<(), SplitError> {
        match self.at {
            At::After => Ok(()),
            At::Before => Err(SplitError::NotAnArray),
            At::Inside => Err(SplitError::CutOff),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn split(chunks: &[&[u8]]) -> Result<Vec<Value>, SplitError> {
        let mut splitter = Splitter::default();
        let mut items = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |item| {
                items.push(serde_json::from_slice(item).expect("an item is JSON"));
                Ok::<_, SplitError>(())
            })?;
        }
        splitter.end()?;
        Ok(items)
    }

    #[test]
    fn what_is_no_array_is_refused() {
        assert_eq!(split(&[b"{}"]), Err(SplitError::NotAnArray));
        assert_eq!(split(&[b""]), Err(SplitError::NotAnArray));
        assert_eq!(split(&[b"[{\"a\":\"]\"}"]), Err(SplitError::CutOff));
        assert_eq!(split(&[b"[] x"]), Err(SplitError::Trailing));
        assert_eq!(split(&[b" [ ] \n"]), Ok(vec![]));
    }

    #[test]
    fn an_endless_item_is_refused() {
        let mut splitter = Splitter::default();
        let mut result = splitter.push(b"[\"", |_| Ok::<_, SplitError>(()));
        for _ in 0..=ITEM_MAX_BYTES / 1024 {
            result = result.and_then(|()| splitter.push(&[b'x'; 1024], |_| Ok(())));
        }
        assert_eq!(result, Err(SplitError::ItemTooLarge));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            "[\\[\\]{},\"\\\\]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_items_are_the_same_however_the_text_is_cut(
            items in prop::collection::vec(json(), 0..5), size in 1usize..40, pretty: bool,
        ) {
            let text = if pretty { serde_json::to_vec_pretty(&items) } else { serde_json::to_vec(&items) }.unwrap();
            let chunks: Vec<&[u8]> = text.chunks(size).collect();
            prop_assert_eq!(split(&chunks), Ok(items));
        }
    }
}
