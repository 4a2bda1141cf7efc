//! Rules on unix sockets: `unix:` and the path of the socket's file, a glob; or `unix:@` and an abstract name, byte by byte.

use stockade_common::limits::ABSTRACT_DEV;

use super::{
    automaton::Pattern,
    checked::AbstractRule,
    compile::Filesystem,
    rule::{Refusal, refuse},
};

/// What a rule on a unix socket begins with.
pub const PREFIX: &str = "unix:";
/// What follows for an abstract name. The kernel has a NUL there.
pub const ABSTRACT: char = '@';
/// Longest abstract name, without the NUL before it.
const MAX_ABSTRACT: usize = 107;

/// An abstract name as a rule has it, without the `@`: printable ASCII stands for itself, `\xNN` for any byte, `\\` for a
/// backslash.
///
/// # Errors
/// Empty, too long, an escape that is none, a character that must be escaped.
pub fn abstract_name(text: &str) -> Result<Vec<u8>, Refusal> {
    const ESCAPES: &str =
        "write `\\xNN` for a byte and `\\\\` for a backslash; in TOML between single quotes";
    let (mut name, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => {
                name.push(b'\\');
                rest = tail;
            }
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let (Some(high), Some(low)) = (digit(high), digit(low)) else {
                    return refuse("`\\x` without two hexadecimal digits", ESCAPES);
                };
                name.push((high << 4 | low) as u8);
                rest = tail;
            }
            (b'\\', _) => return refuse("`\\` begins an escape that there is not", ESCAPES),
            (b' '..=b'~', _) => name.push(*first),
            (byte, _) => return refuse(format!("the byte {byte:#04x} stands for itself"), ESCAPES),
        }
    }
    if name.is_empty() {
        return refuse("the abstract name is empty", "write for example \"unix:@/tmp/.X11-unix/X0\"");
    }
    if name.len() > MAX_ABSTRACT {
        let message = format!("the abstract name has {} bytes, {MAX_ABSTRACT} are possible", name.len());
        return refuse(message, "there is no such socket; abstract names are no globs");
    }
    Ok(name)
}

/// The rule that names an abstract socket. What a shell might make something of is escaped.
#[must_use]
pub fn written(name: &[u8]) -> String {
    let mut out = format!("{PREFIX}{ABSTRACT}");
    for byte in name {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\'' | b'"' | b'`' | b'$' | b'!' => out.push_str(&format!("\\x{byte:02x}")),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

/// Abstract sockets as a filesystem, numbered [`ABSTRACT_DEV`], in which the names are paths.
pub(super) fn filesystem(rules: &[AbstractRule]) -> Option<(u32, Filesystem)> {
    if rules.is_empty() {
        return None;
    }
    let pattern = |AbstractRule { name, deny, rule }: &AbstractRule| Pattern {
        regex: name.iter().map(|byte| format!("(?-u:\\x{byte:02x})")).collect(),
        access: stockade_common::file::ACCESS_CONNECT,
        deny: *deny,
        rule: *rule,
    };
    let mut anchored: Vec<Pattern> = rules.iter().map(pattern).collect();
    anchored.sort();
    anchored.dedup();
    Some((ABSTRACT_DEV, Filesystem::of(anchored)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stockade_common::{
        event::reason,
        file::{ACCESS_CONNECT, ACCESS_READ, ACCESS_WRITE},
    };

    use super::*;
    use crate::policy::{
        check::{Overlay, check},
        checked::CheckedPolicy,
        compile::compile,
        image::MapImage,
        mounts::MountTable,
        verdict::{self, Verdict},
    };

    const MOUNTS: &[u8] = b"21 1 8:1 / / rw - ext4 a rw\n22 21 0:20 / /run rw - tmpfs t rw\n";
    const ROOT: u32 = 8 << 20 | 1;
    const RUN: u32 = 20;

    fn policy(overlay: &Overlay) -> CheckedPolicy {
        check(&[], overlay).unwrap()
    }

    fn image(policy: &CheckedPolicy) -> MapImage {
        compile(policy, &MountTable::parse(MOUNTS).unwrap()).unwrap().0
    }

    fn flags(allow: &[&str], deny: &[&str]) -> Overlay {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Overlay { allow_net: strings(allow), deny_net: strings(deny), ..Overlay::default() }
    }

    fn connect(image: &MapImage, dev: u32, path: &str) -> Verdict {
        verdict::file(image, dev, path.as_bytes(), ACCESS_CONNECT, 1)
    }

    #[test]
    fn names_are_read_byte_by_byte() {
        assert_eq!(abstract_name("/tmp/.X11-unix/X0").unwrap(), b"/tmp/.X11-unix/X0");
        assert_eq!(abstract_name(r"a\x00\\\xfF b*").unwrap(), b"a\0\\\xff b*");
        for (text, why) in [
            ("", "empty"),
            (r"a\", "escape"),
            (r"a\n", "escape"),
            (r"a\x1", "escape"),
            (r"\xzz", "two hexadecimal"),
            ("é", "0xc3"),
            ("a\n", "0x0a"),
            (&"x".repeat(108), "108 bytes"),
        ] {
            let message = abstract_name(text).unwrap_err().message;
            assert!(message.contains(why), "{text:?}: {message}");
        }
    }

    #[test]
    fn a_path_is_connected_to_by_its_rule_alone() {
        let overlay = Overlay {
            allow_write: vec!["/run/**".into()],
            allow_exec: vec!["/run/**".into()],
            ..flags(&["unix:/run/app.sock", "unix:/run/user/*/bus", "unix:/srv/**"], &["unix:/srv/b/x"])
        };
        let image = image(&policy(&overlay));
        assert!(connect(&image, RUN, "/app.sock").allows());
        assert!(connect(&image, RUN, "/user/7/bus").allows());
        assert!(connect(&image, ROOT, "/srv/a/x").allows());
        assert_eq!(connect(&image, RUN, "/docker.sock").reason, reason::NO_RULE, "write is not connect");
        assert_eq!(connect(&image, ROOT, "/srv/b/x").reason, reason::RULE_DENY);
        assert_eq!(connect(&image, ROOT, "/srv").reason, reason::NO_RULE, "below it, not itself");
        let written = verdict::file(&image, ROOT, b"/srv/a/x", ACCESS_WRITE, 1);
        assert_eq!(written.reason, reason::NO_RULE, "connect is not write");
        assert!(!verdict::file(&image, ROOT, b"/srv", ACCESS_READ, 1).allows(), "nor does it list");
    }

    #[test]
    fn a_denied_file_is_not_connected_to() {
        let overlay =
            Overlay { deny_file: vec!["**/docker.sock".into()], ..flags(&["unix:/run/**", "unix:@x"], &[]) };
        let image = image(&policy(&overlay));
        assert!(connect(&image, RUN, "/app.sock").allows());
        assert_eq!(connect(&image, RUN, "/docker.sock").reason, reason::RULE_DENY);
        let dead = check(&[], &Overlay { deny_file: vec!["/run/**".into()], ..flags(&["unix:/run/x"], &[]) });
        assert!(dead.unwrap_err().to_string().contains("allows nothing"));
    }

    #[test]
    fn an_abstract_denial_covers_its_name() {
        assert!(
            check(&[], &flags(&["unix:@a"], &["unix:@a"]))
                .unwrap_err()
                .to_string()
                .contains("allows nothing")
        );
        assert!(check(&[], &flags(&["unix:@a"], &["unix:@b"])).is_ok());
        assert!(check(&[], &flags(&["unix:@"], &[])).unwrap_err().to_string().contains("empty"));
        assert!(check(&[], &flags(&["unix:run/x"], &[])).unwrap_err().to_string().contains("relative"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(name in proptest::collection::vec(any::<u8>(), 1..=MAX_ABSTRACT)) {
            let text = written(&name);
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'\''));
            prop_assert_eq!(abstract_name(text.strip_prefix("unix:@").unwrap()).unwrap(), name);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,150}") {
            let _ = abstract_name(&text);
        }

        #[test]
        fn tables_know_exactly_the_names(
            rules in proptest::collection::vec(
                (proptest::collection::vec(0u8..3, 0..4), any::<bool>()), 1..6),
            asked in proptest::collection::vec(0u8..3, 0..4),
        ) {
            let abstracts: Vec<AbstractRule> = (0u32..)
                .zip(&rules)
                .map(|(rule, (name, deny))| AbstractRule { name: name.clone(), deny: *deny, rule })
                .collect();
            let image = image(&CheckedPolicy { abstracts, ..CheckedPolicy::default() });
            let verdict = verdict::file(&image, ABSTRACT_DEV, &asked, ACCESS_CONNECT, 1);
            let says = |denies: bool| rules.iter().position(|(name, deny)| *name == asked && *deny == denies);
            let expected = match (says(true), says(false)) {
                (Some(rule), _) => Verdict { reason: reason::RULE_DENY, rule: rule as u32 },
                (None, Some(rule)) => Verdict { reason: reason::RULE_ALLOW, rule: rule as u32 },
                (None, None) => Verdict { reason: reason::NO_RULE, rule: u32::MAX },
            };
            prop_assert_eq!(verdict, expected);
        }
    }
}
