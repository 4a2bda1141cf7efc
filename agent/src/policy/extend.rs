//! The files a policy extends.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    diagnostic::Diagnostics,
    parse::{Document, Source},
    rule::Refusal,
};

/// Most files on the way from the one that was asked for to one it extends.
pub const MAX_DEPTH: usize = 8;

/// Gives a file's text, and a path that is the same however the file is named.
pub type Open<'a> = dyn Fn(&Path) -> Result<(PathBuf, Source), Refusal> + 'a;

/// Whether an entry of `extends` names a file, and not a built-in profile.
#[must_use]
pub fn names_file(entry: &str) -> bool {
    entry.contains('/') || entry.ends_with(".toml")
}

/// Loads a policy file and all it extends: each file once, and behind those it extends.
///
/// # Errors
/// A file that cannot be read or is no policy, a cycle, more than [`MAX_DEPTH`] files in a row.
pub fn load(path: &Path, open: &Open) -> Result<Vec<Document>, Diagnostics> {
    let (identity, source) = open(path).map_err(|Refusal { message, help }| {
        Diagnostics::plain(&path.display().to_string(), message, help.as_deref())
    })?;
    let mut loader = Loader { open, chain: Vec::new(), known: vec![identity.clone()], documents: Vec::new() };
    loader.add(path, identity, source)?;
    Ok(loader.documents)
}

struct Loader<'a> {
    open: &'a Open<'a>,
    /// From the first file to the one at hand: identity, and the name to show.
    chain: Vec<(PathBuf, String)>,
    known: Vec<PathBuf>,
    documents: Vec<Document>,
}

impl Loader<'_> {
    fn add(&mut self, path: &Path, identity: PathBuf, source: Source) -> Result<(), Diagnostics> {
        self.chain.push((identity, source.name.clone()));
        let document = Document::new(source)?;
        for entry in document.policy.extends.iter().filter(|entry| names_file(entry.get_ref())) {
            let target = path.parent().unwrap_or(Path::new("")).join(entry.get_ref());
            self.extended(&document, entry.span(), &target)?;
        }
        self.chain.pop();
        self.documents.push(document);
        Ok(())
    }

    fn extended(
        &mut self,
        document: &Document,
        span: Range<usize>,
        target: &Path,
    ) -> Result<(), Diagnostics> {
        let refuse = |message: String, help: &str| {
            let refusal = Refusal { message, help: Some(help.to_owned()) };
            Diagnostics(vec![refusal.at(&document.source, Some(span.clone()))])
        };
        let (identity, source) = (self.open)(target).map_err(|Refusal { message, help }| {
            let help = help.unwrap_or_else(|| "paths are relative to the file that names them".into());
            refuse(format!("{}: {message}", target.display()), &help)
        })?;
        if let Some(start) = self.chain.iter().position(|(on_the_way, _)| *on_the_way == identity) {
            let mut names: Vec<&str> = self.chain[start..].iter().map(|(_, name)| name.as_str()).collect();
            names.push(names[0]);
            let message = format!("files extend each other in a cycle: {}", names.join(" -> "));
            return Err(refuse(message, "take this entry out, or one of the others"));
        }
        if self.known.contains(&identity) {
            return Ok(());
        }
        if self.chain.len() == MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} files extend each other in a row");
            return Err(refuse(message, "name the files that are needed in one list"));
        }
        self.known.push(identity.clone());
        self.add(target, identity, source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of what is loaded from a map of files, or the complaint.
    fn loaded(files: &[(&str, &str)], path: &str) -> Result<Vec<String>, String> {
        let open = |path: &Path| {
            // As the file system would: without `.` and `..`.
            let mut real = PathBuf::new();
            for part in path.components() {
                match part {
                    std::path::Component::ParentDir => drop(real.pop()),
                    std::path::Component::CurDir => {}
                    part => real.push(part),
                }
            }
            let found = files.iter().find(|(name, _)| Path::new(name) == real);
            let text = found.map(|(_, extends)| format!("version = 1\nextends = [{extends}]\n"));
            match text {
                Some(text) => Ok((real, Source { name: path.display().to_string(), text })),
                None => Err(Refusal { message: "cannot be read: not there".into(), help: None }),
            }
        };
        let documents = load(Path::new(path), &open).map_err(|error| error.to_string())?;
        Ok(documents.into_iter().map(|document| document.source.name.clone()).collect())
    }

    #[test]
    fn a_file_comes_behind_what_it_extends_and_once() {
        let files = [
            ("/p/ci.toml", r#""base", "team/a.toml", "./b.toml""#),
            ("/p/team/a.toml", r#""../b.toml""#),
            ("/p/b.toml", ""),
        ];
        assert_eq!(
            loaded(&files, "/p/ci.toml").unwrap(),
            ["/p/team/../b.toml", "/p/team/a.toml", "/p/ci.toml"]
        );
    }

    #[test]
    fn what_cannot_be_loaded_is_named_where_it_is_asked_for() {
        let message = loaded(&[("a.toml", r#""gone.toml""#)], "a.toml").unwrap_err();
        assert!(message.contains("a.toml:2") && message.contains("gone.toml: cannot be read"), "{message}");
        assert!(message.contains("relative to the file"), "{message}");
        let message = loaded(&[], "a.toml").unwrap_err();
        assert!(message.contains("a.toml") && message.contains("cannot be read"), "{message}");
    }

    #[test]
    fn cycles_are_named() {
        let files = [("a.toml", r#""b.toml""#), ("b.toml", r#""./c.toml""#), ("c.toml", r#""b.toml""#)];
        let message = loaded(&files, "a.toml").unwrap_err();
        assert!(message.contains("cycle: b.toml -> ./c.toml -> b.toml"), "{message}");
        assert!(message.contains("c.toml:2"), "{message}");
        assert!(loaded(&[("a.toml", r#""./a.toml""#)], "a.toml").unwrap_err().contains("a.toml -> a.toml"));
    }

    #[test]
    fn depth_is_limited() {
        let chain = |length: usize| -> Result<Vec<String>, String> {
            let files: Vec<(String, String)> = (1..=length)
                .map(|n| {
                    (
                        format!("{n}.toml"),
                        if n < length { format!("\"{}.toml\"", n + 1) } else { String::new() },
                    )
                })
                .collect();
            let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
            loaded(&files, "1.toml")
        };
        assert_eq!(chain(MAX_DEPTH).unwrap().len(), MAX_DEPTH);
        assert!(chain(MAX_DEPTH + 1).unwrap_err().contains("more than 8 files"));
    }
}
