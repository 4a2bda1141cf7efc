//! What the agent writes about its own command line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Names and texts, sorted by name.
#[derive(Debug)]
pub struct Generated {
    /// Manual pages: `stockade.1`, `stockade-run.1`.
    pub manual: Vec<(String, Vec<u8>)>,
    /// Completions: `_stockade`, `stockade.bash`, `stockade.fish`.
    pub completions: Vec<(String, Vec<u8>)>,
}

impl Generated {
    /// Has `agent` write them below `scratch`.
    pub fn by(agent: &Path, scratch: &Path) -> Result<Self> {
        let written = |what: &str| {
            let folder = scratch.join(what);
            command::run(Command::new(agent).arg("__generate").arg(what).arg(&folder))?;
            read(&folder)
        };
        Ok(Self { manual: written("man")?, completions: written("completions")? })
    }
}

/// The files of a folder, sorted by name.
pub fn read(folder: &PathBuf) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_file() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            files.push((name, fs::read(&path).with_context(|| format!("reading {}", path.display()))?));
        }
    }
    if files.is_empty() {
        bail!("{} is empty", folder.display());
    }
    files.sort();
    Ok(files)
}
