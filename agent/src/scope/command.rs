//! Which file a command is.

use std::{
    env, fs, io,
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Interpreters of interpreters that are followed, as many as the kernel does.
const MAX_INTERPRETERS: usize = 4;

/// Why a command cannot be run.
#[derive(Debug, PartialEq, Eq)]
pub enum Unusable {
    /// A shell would exit with 127.
    NotFound,
    /// A shell would exit with 126.
    NotExecutable,
}

/// Looks a command up as a shell does.
///
/// # Errors
/// If there is none, or it may not be executed.
pub fn resolve(name: &Path) -> Result<PathBuf, Unusable> {
    if name.as_os_str().as_bytes().contains(&b'/') {
        return if !name.exists() {
            Err(Unusable::NotFound)
        } else if executable(name) {
            Ok(env::current_dir().map_or_else(|_| name.to_path_buf(), |here| here.join(name)))
        } else {
            Err(Unusable::NotExecutable)
        };
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let mut found = Unusable::NotFound;
    for candidate in env::split_paths(&path).map(|folder| folder.join(name)) {
        if executable(&candidate) {
            return Ok(candidate);
        }
        if candidate.is_file() {
            found = Unusable::NotExecutable;
        }
    }
    Err(found)
}

fn executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The files that executing `program` executes: itself, and the interpreters that `#!` lines name.
///
/// # Errors
/// If one of them cannot be read.
pub fn files(program: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let mut next = Some(program.to_path_buf());
    while let Some(path) = next.filter(|_| all.len() <= MAX_INTERPRETERS) {
        let real = fs::canonicalize(&path)?;
        let mut start = [0; 256];
        let length = fs::File::open(&real)?.read(&mut start)?;
        all.push(real);
        next = interpreter(&start[..length]);
    }
    Ok(all)
}

fn interpreter(start: &[u8]) -> Option<PathBuf> {
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let word = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_looked_up_as_by_a_shell() {
        assert_eq!(resolve(Path::new("no-such-command-here")), Err(Unusable::NotFound));
        assert_eq!(resolve(Path::new("/etc/passwd")), Err(Unusable::NotExecutable));
        assert!(resolve(Path::new("sh")).is_ok());
    }

    #[test]
    fn interpreters_are_named() {
        assert_eq!(interpreter(b"#! /usr/bin/env python3\n"), Some("/usr/bin/env".into()));
        assert_eq!(interpreter(b"\x7fELF"), None);
    }
}
