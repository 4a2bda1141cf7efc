//! Which files, with which modes. `*` stands for names that come from the command line or from docs: one at least.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

const EXPECTED: &str = include_str!("expected.txt");

/// Paths without the slash in front, directories with one at the end, and permission bits.
pub type Listing = BTreeMap<String, u32>;

/// Compares; `more` is what only this kind of package has.
pub fn compare(found: &Listing, more: &[(&str, u32)]) -> Result<()> {
    let mut expected = parse(EXPECTED)?;
    expected.extend(more.iter().map(|(path, mode)| ((*path).to_owned(), *mode)));
    let mut problems: Vec<String> = Vec::new();
    for (path, mode) in found {
        match expected.iter().find(|(pattern, _)| matches(pattern, path)) {
            None => problems.push(format!("{path} is not expected")),
            Some((_, wanted)) if wanted != mode => {
                problems.push(format!("{path} has mode {mode:o} instead of {wanted:o}"));
            }
            Some(_) => {}
        }
    }
    for (pattern, _) in &expected {
        if !found.keys().any(|path| matches(pattern, path)) {
            problems.push(format!("{pattern} is missing"));
        }
    }
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("; ")) }
}

fn parse(text: &str) -> Result<Vec<(String, u32)>> {
    text.lines()
        .map(|line| match line.split_once(' ').map(|(mode, path)| (u32::from_str_radix(mode, 8), path)) {
            Some((Ok(mode), path)) => Ok((path.to_owned(), mode)),
            _ => bail!("expected.txt has a line {line:?}"),
        })
        .collect()
}

/// One `*` at most, within a name.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => path
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|name| !name.is_empty() && !name.contains('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_a_name() {
        assert!(matches("man1/stockade-*.1.gz", "man1/stockade-run.1.gz"));
        assert!(!matches("man1/stockade-*.1.gz", "man1/stockade-.1.gz"));
        assert!(!matches("doc/*.md", "doc/x/y.md"));
    }

    #[test]
    fn too_much_too_little_and_other_modes_are_found() {
        let mut found: Listing = parse(EXPECTED)
            .unwrap()
            .into_iter()
            .map(|(pattern, mode)| (pattern.replace('*', "x"), mode))
            .collect();
        compare(&found, &[]).unwrap();
        assert!(
            compare(&found, &[("usr/more", 0o644)]).unwrap_err().to_string().contains("usr/more is missing")
        );
        found.insert("usr/bin/stockade".into(), 0o4755);
        found.insert("usr/bin/other".into(), 0o755);
        found.remove("usr/share/man/man1/stockade.1.gz");
        let text = compare(&found, &[]).unwrap_err().to_string();
        for part in ["usr/bin/other is not", "mode 4755 instead of 755", "stockade.1.gz is missing"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
