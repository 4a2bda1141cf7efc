//! Names as text: paths, words of a command line, task names. The kernel takes any bytes; JSON, terminals and people don't.
//!
//! One escaping for all: a backslash is doubled, and whatever is not UTF-8, controls the terminal or hides what stands
//! around it is written byte by byte as `\xNN`. [`unescape`] takes it back, losslessly, whatever the name was.

/// Bytes as text.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                _ if is_unprintable(character) => {
                    push_bytes(&mut out, character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => out.push(character),
            }
        }
        push_bytes(&mut out, chunk.invalid());
    }
    out
}

/// Text that may hold escaped names already, made fit for a terminal: backslashes stay as they are.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unprintable(character) {
            push_bytes(&mut out, character.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            out.push(character);
        }
    }
    out
}

/// The bytes that [`escape`] was given; `None` if it cannot have written this text.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'\\', [b'\\', tail @ ..]) => {
                out.push(b'\\');
                rest = tail;
            }
            (b'\\', [b'x', high, low, tail @ ..]) => {
                out.push(digit(*high)? << 4 | digit(*low)?);
                rest = tail;
            }
            (b'\\', _) => return None,
            _ => out.push(byte),
        }
    }
    (escape(&out) == text).then_some(out)
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and what changes the direction of the text around it.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn push_bytes(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push_str("\\x");
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_escaped_already_is_not_escaped_again() {
        assert_eq!(printable("/a\\x0a\u{1b}\n"), "/a\\x0a\\x1b\\x0a");
    }

    #[test]
    fn only_what_must_be_is_escaped() {
        assert_eq!(escape("/home/é/a b".as_bytes()), "/home/é/a b");
        assert_eq!(escape(b"a\\xff"), "a\\\\xff", "a name that looks escaped is not taken for one that is");
        assert_eq!(escape(b"a\xff\n"), "a\\xff\\x0a");
        assert_eq!(escape("\u{9b}31m\u{202e}".as_bytes()), "\\xc2\\x9b31m\\xe2\\x80\\xae");
    }

    #[test]
    fn what_escape_does_not_write_is_refused() {
        for text in ["\\", "\\n", "\\x1", "\\xFF", "\\x41", "\n"] {
            assert_eq!(unescape(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = escape(&bytes);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(unescape(&text), Some(bytes));
        }

        #[test]
        fn any_text_comes_back(name in "\\PC*|[\\\\x0-9a-f]*|[\\x00-\\x{a0}]*") {
            prop_assert_eq!(unescape(&escape(name.as_bytes())), Some(name.into_bytes()));
        }

        #[test]
        fn no_two_names_share_a_text(a in "[\\\\xf0]{0,6}", b in "[\\\\xf0]{0,6}") {
            prop_assert_eq!(a == b, escape(a.as_bytes()) == escape(b.as_bytes()));
        }
    }
}
