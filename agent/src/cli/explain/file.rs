//! `stockade explain file`: where a path leads on this host, and what a policy says there.

use std::{
    fs,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use clap::ValueEnum;

use super::Compiled;
use crate::{
    cli::{policy::read_link, workspaces::Workspaces},
    policy::{
        explain::{Access, Explanation, Kind, Located},
        links,
    },
};

/// `stockade explain file`.
#[derive(Debug, clap::Args)]
pub struct FileArgs {
    /// The file; it need not be there.
    path: PathBuf,
    /// A policy file, or the name of a policy of this host.
    #[arg(long)]
    policy: String,
    /// What is to be done with it; without it all three.
    #[arg(long)]
    access: Option<Wanted>,
    /// Values of ${workspace}.
    #[command(flatten)]
    workspaces: Workspaces,
    /// Print it as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    Read,
    Write,
    Exec,
}

impl From<Wanted> for Access {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Read => Self::Read,
            Wanted::Write => Self::Write,
            Wanted::Exec => Self::Exec,
        }
    }
}

pub(super) fn answers(args: &FileArgs) -> Result<Vec<Explanation>, String> {
    let compiled = Compiled::load(&args.policy, &args.workspaces)?;
    let path =
        std::path::absolute(&args.path).map_err(|error| format!("{}: {error}", args.path.display()))?;
    let way = links::walk(path.as_os_str().as_bytes(), &read_link).map_err(|stuck| stuck.to_string())?;
    let real = links::join(&way.real);
    let (mount, inside) = compiled
        .mounts
        .inside(&real)
        .ok_or_else(|| format!("{}: on no filesystem that can be seen here", real.escape_ascii()))?;
    let asked = path.display().to_string();
    let at = Located {
        asked: &asked,
        real: &real,
        links: &way.links,
        mount,
        inside: &inside,
        kind: kind(&PathBuf::from(std::ffi::OsString::from_vec(real.clone())))?,
        own: std::process::id(),
    };
    let wanted = args.access.map_or_else(|| Access::ALL.to_vec(), |wanted| vec![wanted.into()]);
    Ok(wanted.into_iter().map(|access| compiled.explainer().file(&at, access)).collect())
}

fn kind(path: &Path) -> Result<Kind, String> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(Kind::Directory),
        Ok(_) => Ok(Kind::Other),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Ok(Kind::Missing),
            _ => Err(format!("{}: {error}", path.display())),
        },
    }
}
