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
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A shell would exit with 127.
    #[error("{}: not found", .0.display())]
    NotFound(PathBuf),
    /// A shell would exit with 126.
    #[error("{}: not executable", .0.display())]
    NotExecutable(PathBuf),
    /// The file that a `#!` line names cannot be used.
    #[error("{}: its interpreter {} cannot be used: {source}", .script.display(), .interpreter.display())]
    Interpreter {
        /// Whose line.
        script: PathBuf,
        /// What it names.
        interpreter: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("{}: {source}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Looks a command up as a shell does.
///
/// # Errors
/// If there is none, or it may not be executed.
pub fn resolve(name: &Path) -> Result<PathBuf, Unusable> {
    if name.as_os_str().as_bytes().contains(&b'/') {
        return if !name.exists() {
            Err(Unusable::NotFound(name.into()))
        } else if executable(name) {
            Ok(env::current_dir().map_or_else(|_| name.to_path_buf(), |here| here.join(name)))
        } else {
            Err(Unusable::NotExecutable(name.into()))
        };
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let mut found = Unusable::NotFound(name.into());
    for candidate in env::split_paths(&path).map(|folder| folder.join(name)) {
        if executable(&candidate) {
            return Ok(candidate);
        }
        if candidate.is_file() {
            found = Unusable::NotExecutable(candidate);
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
/// If one of them cannot be read, or is not there.
pub fn files(program: &Path) -> Result<Vec<PathBuf>, Unusable> {
    let (real, mut next) =
        inspect(program).map_err(|source| Unusable::Unreadable { path: program.into(), source })?;
    let (mut all, mut script) = (vec![real], program.to_path_buf());
    while let Some(interpreter) = next.filter(|_| all.len() <= MAX_INTERPRETERS) {
        let failed = |source| Unusable::Interpreter {
            script: script.clone(),
            interpreter: interpreter.clone(),
            source,
        };
        let (real, after) = inspect(&interpreter).map_err(failed)?;
        if !executable(&real) {
            return Err(failed(io::ErrorKind::PermissionDenied.into()));
        }
        all.push(real);
        (script, next) = (interpreter, after);
    }
    Ok(all)
}

/// A file's real path, and the interpreter it names.
fn inspect(path: &Path) -> io::Result<(PathBuf, Option<PathBuf>)> {
    let real = fs::canonicalize(path)?;
    let mut start = [0; 256];
    let length = fs::File::open(&real)?.read(&mut start)?;
    Ok((real, interpreter(&start[..length])))
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
        assert!(matches!(resolve(Path::new("no-such-command-here")), Err(Unusable::NotFound(_))));
        assert!(matches!(resolve(Path::new("/etc/passwd")), Err(Unusable::NotExecutable(_))));
        assert!(resolve(Path::new("sh")).is_ok());
    }

    #[test]
    fn a_missing_interpreter_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, "#!/no/such/interpreter -x\n").unwrap();
        let error = files(&script).unwrap_err().to_string();
        let expected = format!(
            "{}: its interpreter /no/such/interpreter cannot be used: No such file",
            script.display()
        );
        assert!(error.starts_with(&expected), "{error}");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        assert_eq!(files(&script).unwrap().len(), 2);
    }

    #[test]
    fn interpreters_are_named() {
        assert_eq!(interpreter(b"#! /usr/bin/env python3\n"), Some("/usr/bin/env".into()));
        assert_eq!(interpreter(b"\x7fELF"), None);
    }
}
