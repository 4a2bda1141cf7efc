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

/// Whether one component's glob matches a name. Takes at most the product of their lengths in steps: of several stars
/// only the last has to be tried again.
#[must_use]
pub fn name_matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match glob.get(g) {
            Some(b'*') => {
                g += 1;
                retry = Some((g, n));
            }
            Some(c) if *c == b'?' || *c == name[n] => (g, n) = (g + 1, n + 1),
            _ => {
                let Some((star, from)) = retry else { return false };
                retry = Some((star, from + 1));
                (g, n) = (star, from + 1);
            }
        }
    }
    glob[g..].iter().all(|c| *c == b'*')
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

/// The pattern as a regular expression over a path's bytes, for the whole path.
#[must_use]
pub fn regex(parts: &[Part]) -> String {
    if parts.is_empty() {
        return "/".to_owned();
    }
    let mut out = String::new();
    for (index, part) in parts.iter().enumerate() {
        match part {
            Part::Any if index + 1 == parts.len() => out.push_str("/.+"),
            Part::Any => out.push_str("(?:/[^/]+)*"),
            // No name is empty: else `/mnt/*` would cover the root of what is mounted at /mnt, which is called `/`.
            Part::Name(glob) if glob == "*" => out.push_str("/[^/]+"),
            Part::Name(glob) => {
                out.push('/');
                for c in glob.chars() {
                    match c {
                        '*' => out.push_str("[^/]*"),
                        '?' => out.push_str("[^/]"),
                        c if c.is_ascii_alphanumeric() => out.push(c),
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

/// Reference: whether a pattern matches the components of a path. `**` at the end matches at least one.
#[must_use]
pub fn matches(pattern: &[Part], path: &[&[u8]]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((Part::Any, [])) => !path.is_empty(),
        Some((Part::Any, rest)) => (0..=path.len()).any(|skip| matches(rest, &path[skip..])),
        Some((Part::Name(glob), rest)) => path
            .split_first()
            .is_some_and(|(name, below)| name_matches(glob.as_bytes(), name) && matches(rest, below)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
