//! Names as keys: lower case, as they are on the wire, so that the names above one are suffixes of its bytes.

use std::{borrow::Borrow, fmt, sync::Arc};

use hickory_proto::rr::Name;

/// Labels, each after its length; the root's, which all have, is left out.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// Of a name in a message.
    pub fn of(name: &Name) -> Self {
        let mut bytes = Vec::with_capacity(name.len());
        for label in name {
            // The decoder refuses labels of more than 63 bytes.
            bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        Self(bytes.into())
    }

    /// Of a name in a policy: letters, digits, hyphens, underscores. `None` if it has a label that cannot be.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        for label in text.strip_suffix('.').unwrap_or(text).split('.') {
            let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
            bytes.push(length);
            bytes.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        (bytes.len() < 255).then(|| Self(bytes.into()))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names above it, the nearest first, the root left out.
    pub fn above(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes();
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first()?;
            rest = after.get(usize::from(*length)..)?;
            (!rest.is_empty()).then_some(rest)
        })
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.bytes();
        if rest.is_empty() {
            return out.write_str(".");
        }
        let mut first = true;
        while let Some((length, after)) = rest.split_first() {
            let (label, next) = after.split_at(usize::from(*length).min(after.len()));
            if !first {
                out.write_str(".")?;
            }
            first = false;
            for byte in label {
                match byte {
                    b'.' | b'\\' | b'"' => write!(out, "\\{}", char::from(*byte))?,
                    0x21..=0x7e => write!(out, "{}", char::from(*byte))?,
                    other => write!(out, "\\{other:03}")?,
                }
            }
            rest = next;
        }
        Ok(())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_above_are_suffixes() {
        let key = Key::parse("a.B.example.test.").unwrap();
        assert_eq!(key.to_string(), "a.b.example.test");
        let above: Vec<_> = key.above().map(<[u8]>::to_vec).collect();
        let expected: Vec<_> = ["b.example.test", "example.test", "test"]
            .map(|name| Key::parse(name).unwrap().bytes().to_vec())
            .into();
        assert_eq!(above, expected);
    }

    #[test]
    fn a_key_is_the_same_from_the_wire_as_from_a_policy() {
        let name = Name::from_ascii("WWW.Example.test.").unwrap();
        assert_eq!(Key::of(&name), Key::parse("www.example.test").unwrap());
        assert_eq!(Key::of(&Name::root()).to_string(), ".");
    }

    #[test]
    fn bytes_that_are_no_text_are_escaped() {
        let name = Name::from_labels([&b"a.b"[..], &b"\x07\xff"[..], &b"test"[..]]).unwrap();
        assert_eq!(Key::of(&name).to_string(), "a\\.b.\\007\\255.test");
    }

    #[test]
    fn labels_that_cannot_be_are_no_key() {
        for text in ["", ".", "a..b", &"x".repeat(64), &["x"; 128].join(".")] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }
}
