//! Path globs: the pieces of a pattern, its translation through a mount, and its form as a regular expression.

/// One component of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `**`: any number of components, none included; at the end at least one byte.
    Any,
    /// A component, which may hold `*` and `?`.
    Name(String),
}

/// Splits a pattern (absolute, or floating: starting with `**/`) into components.
#[must_use]
pub fn parts(pattern: &str) -> Vec<Part> {
    pattern
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| if part == "**" { Part::Any } else { Part::Name(part.to_owned()) })
        .collect()
}

/// Whether a word fits a pattern whose stars stand for any run of symbols. Going back to the last star is enough, so the
/// cost is the product of the lengths at worst.
fn fits<P, S>(pattern: &[P], word: &[S], star: impl Fn(&P) -> bool, one: impl Fn(&P, &S) -> bool) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while read < word.len() {
        match pattern.get(at) {
            Some(symbol) if star(symbol) => {
                back = Some((at, read));
                at += 1;
                continue;
            }
            Some(symbol) if one(symbol, &word[read]) => {
                at += 1;
                read += 1;
                continue;
            }
            _ => {}
        }
        let Some((last_star, taken)) = &mut back else { return false };
        *taken += 1;
        (at, read) = (*last_star + 1, *taken);
    }
    pattern[at..].iter().all(star)
}

/// Whether one component's glob matches a name.
#[must_use]
pub fn name_matches(glob: &[u8], name: &[u8]) -> bool {
    fits(glob, name, |symbol| *symbol == b'*', |symbol, byte| *symbol == b'?' || symbol == byte)
}

/// Whether one component's glob matches every name that another matches. May say no where the answer is yes.
#[must_use]
pub fn name_covers(outer: &[u8], inner: &[u8]) -> bool {
    fits(
        outer,
        inner,
        |symbol| *symbol == b'*',
        |symbol, other| if *symbol == b'?' { *other != b'*' } else { symbol == other },
    )
}

/// A pattern made ready to be matched many times: a `**` at the end is spelt out as any number of components, and then
/// one.
#[derive(Debug, Clone)]
pub struct Spelt(Vec<Part>);

impl Spelt {
    /// Spells a pattern out.
    #[must_use]
    pub fn new(pattern: &[Part]) -> Self {
        let mut all = pattern.to_vec();
        if all.last() == Some(&Part::Any) {
            all.push(Part::Name("*".into()));
        }
        Self(all)
    }

    /// Whether it matches the components of a path. `**` at the end matches at least one.
    #[must_use]
    pub fn matches(&self, path: &[&[u8]]) -> bool {
        fits(
            &self.0,
            path,
            |part| *part == Part::Any,
            |part, name| matches!(part, Part::Name(glob) if name_matches(glob.as_bytes(), name)),
        )
    }

    /// Whether it matches every path that another matches. Never wrongly says yes; may say no where the answer is yes,
    /// as for `*` and `**` that only together match what one `**` does.
    #[must_use]
    pub fn covers(&self, inner: &Self) -> bool {
        fits(
            &self.0,
            &inner.0,
            |part| *part == Part::Any,
            |part, other| match (part, other) {
                (Part::Name(outer), Part::Name(inner)) => name_covers(outer.as_bytes(), inner.as_bytes()),
                _ => false,
            },
        )
    }
}

/// What is left of a pattern below a mount point: the pattern consumes it component by component, and a `**` may
/// consume any number, so there can be several remainders. An empty one is the mount's root itself.
#[must_use]
pub fn remainders(pattern: &[Part], point: &[&[u8]]) -> Vec<Vec<Part>> {
    let mut found = Vec::new();
    consume(pattern, point, &mut found);
    found.sort();
    found.dedup();
    found
}

fn consume(pattern: &[Part], point: &[&[u8]], found: &mut Vec<Vec<Part>>) {
    let Some((name, rest)) = point.split_first() else {
        found.push(pattern.to_vec());
        return;
    };
    match pattern.first() {
        Some(Part::Any) => {
            if pattern.len() == 1 && rest.is_empty() {
                found.push(Vec::new());
            }
            consume(pattern, rest, found);
            consume(&pattern[1..], point, found);
        }
        Some(Part::Name(glob)) if name_matches(glob.as_bytes(), name) => consume(&pattern[1..], rest, found),
        _ => {}
    }
}

/// Components taken as they are, as a regular expression; nothing for none.
#[must_use]
pub fn literal(names: &[&[u8]]) -> String {
    let mut out = String::new();
    for name in names {
        out.push('/');
        for byte in *name {
            // A byte above 127 stands for itself only without Unicode.
            out.push_str(&format!("(?-u:\\x{byte:02x})"));
        }
    }
    out
}

/// What `**` at the end becomes.
pub const BELOW: &str = "/.+";

/// The pattern as a regular expression over a path's bytes, for the whole path.
#[must_use]
pub fn regex(parts: &[Part]) -> String {
    expression(parts, |letter| letter.to_string())
}

/// The same, in which ASCII letters stand for all that filesystems without case hold for the same.
#[must_use]
pub fn regex_in_any_case(parts: &[Part]) -> String {
    expression(parts, cases)
}

fn expression(parts: &[Part], letter: impl Fn(char) -> String) -> String {
    if parts.is_empty() {
        return "/".to_owned();
    }
    let mut out = String::new();
    for (index, part) in parts.iter().enumerate() {
        match part {
            Part::Any if index + 1 == parts.len() => out.push_str(BELOW),
            Part::Any => out.push_str("(?:/[^/]+)*"),
            // No name is empty: else `/mnt/*` would cover the root of what is mounted at /mnt, which is called `/`.
            Part::Name(glob) if glob == "*" => out.push_str("/[^/]+"),
            Part::Name(glob) => {
                out.push('/');
                for c in glob.chars() {
                    match c {
                        '*' => out.push_str("[^/]*"),
                        '?' => out.push_str("[^/]"),
                        c if c.is_ascii_alphabetic() => out.push_str(&letter(c)),
                        c if c.is_ascii_digit() => out.push(c),
                        c => {
                            let mut bytes = [0; 4];
                            for byte in c.encode_utf8(&mut bytes).bytes() {
                                out.push_str(&format!("\\x{byte:02x}"));
                            }
                        }
                    }
                }
            }
        }
    }
    out
}

/// A letter in every case. By Unicode's folding, which filesystems follow, the sign for kelvin is a k, and the long s an s.
fn cases(letter: char) -> String {
    let (low, high) = (letter.to_ascii_lowercase(), letter.to_ascii_uppercase());
    match low {
        'k' => "(?:[kK]|\\xe2\\x84\\xaa)".to_owned(),
        's' => "(?:[sS]|\\xc5\\xbf)".to_owned(),
        _ => format!("[{low}{high}]"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spelt(pattern: &str) -> Spelt {
        Spelt::new(&parts(pattern))
    }

    /// Reference for names, by plain recursion.
    fn plain_name(glob: &[u8], name: &[u8]) -> bool {
        match (glob.first(), name.first()) {
            (None, None) => true,
            (Some(b'*'), _) => {
                plain_name(&glob[1..], name) || (!name.is_empty() && plain_name(glob, &name[1..]))
            }
            (Some(b'?'), Some(_)) => plain_name(&glob[1..], &name[1..]),
            (Some(a), Some(b)) if a == b => plain_name(&glob[1..], &name[1..]),
            _ => false,
        }
    }

    /// Reference for paths, by plain recursion.
    pub fn plain(pattern: &[Part], path: &[&[u8]]) -> bool {
        match pattern.split_first() {
            None => path.is_empty(),
            Some((Part::Any, [])) => !path.is_empty(),
            Some((Part::Any, rest)) => (0..=path.len()).any(|skip| plain(rest, &path[skip..])),
            Some((Part::Name(glob), rest)) => path
                .split_first()
                .is_some_and(|(name, below)| plain_name(glob.as_bytes(), name) && plain(rest, below)),
        }
    }

    /// Patterns over a small alphabet, so that they meet.
    pub fn pattern() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just("a"),
            Just("b"),
            Just("ab"),
            Just("*"),
            Just("a*"),
            Just("*b"),
            Just("?"),
            Just("**")
        ];
        proptest::collection::vec(part, 1..5).prop_map(|parts| format!("/{}", parts.join("/")))
    }

    /// Names those patterns may match.
    pub fn path() -> impl Strategy<Value = Vec<&'static str>> {
        let name = prop_oneof![Just("a"), Just("b"), Just("ab"), Just("c"), Just("aab")];
        proptest::collection::vec(name, 1..6)
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_plain_matcher(pattern in pattern(), path in path()) {
            let names: Vec<&[u8]> = path.iter().map(|name| name.as_bytes()).collect();
            prop_assert_eq!(spelt(&pattern).matches(&names), plain(&parts(&pattern), &names));
        }

        #[test]
        fn names_agree_with_the_plain_matcher(glob in "[ab*?]{0,8}", name in "[ab*]{0,8}") {
            let (glob, name) = (glob.as_bytes(), name.as_bytes());
            prop_assert_eq!(name_matches(glob, name), plain_name(glob, name));
        }

        #[test]
        fn what_is_covered_is_matched(outer in pattern(), inner in pattern(), path in path()) {
            let names: Vec<&[u8]> = path.iter().map(|name| name.as_bytes()).collect();
            if spelt(&outer).covers(&spelt(&inner)) && plain(&parts(&inner), &names) {
                prop_assert!(plain(&parts(&outer), &names));
            }
        }
    }

    #[test]
    fn common_cases_are_covered() {
        let covers = |outer, inner| spelt(outer).covers(&spelt(inner));
        assert!(
            covers("/srv/**", "/srv/**") && covers("/srv/**", "/srv/a") && covers("/srv/**", "/srv/a/**")
        );
        assert!(
            covers("**/.env", "/srv/.env")
                && covers("**/.env", "/srv/**/.env")
                && covers("**/*.so", "**/a*.so")
        );
        assert!(!covers("/srv/**", "/srv") && !covers("/srv/*", "/srv/**") && !covers("/srv/?", "/srv/*"));
    }

    #[test]
    fn many_stars_are_matched_quickly() {
        let (glob, name) = ("*a".repeat(100), "a".repeat(255));
        assert!(!name_matches(format!("{glob}b").as_bytes(), name.as_bytes()));
    }

    fn left(pattern: &str, point: &str) -> Vec<String> {
        let names: Vec<&[u8]> = point.split('/').filter(|p| !p.is_empty()).map(str::as_bytes).collect();
        remainders(&parts(pattern), &names).iter().map(|rest| regex(rest)).collect()
    }

    #[test]
    fn names_match() {
        for (glob, name, expected) in [
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXb", false),
            ("*", "", true),
            ("?", "", false),
            ("a*?", "a", false),
            ("*.so.?", "libc.so.6", true),
            ("", "a", false),
            ("*ab", "aab", true),
        ] {
            assert_eq!(name_matches(glob.as_bytes(), name.as_bytes()), expected, "{glob} {name}");
        }
        // Ways to split this are more than can be tried.
        assert!(!name_matches("*a".repeat(60).as_bytes(), &[b"a".repeat(200), b"b".to_vec()].concat()));
    }

    #[test]
    fn a_rule_consumes_the_mount_point() {
        assert_eq!(left("/home/*/x", "/home"), ["/[^/]+/x"]);
        assert_eq!(left("/home", "/home"), ["/"]);
        assert_eq!(left("/usr/**", "/home"), Vec::<String>::new());
        assert_eq!(left("/**/b", "/a/b"), ["/", "(?:/[^/]+)*/b"]);
        assert_eq!(left("/data/**", "/data/x"), ["/", "/.+"]);
    }
}
