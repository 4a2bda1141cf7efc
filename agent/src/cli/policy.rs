//! `stockade policy`.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use super::{apply, exit, from, live, resolve, workspaces::Workspaces};
use crate::{
    policy::{
        breadth,
        check::{self, Overlay},
        checked::CheckedPolicy,
        compile,
        diagnostic::Diagnostics,
        dump, extend, follow,
        mounts::MountTable,
        parse,
        profile::PROFILES,
    },
    scope::user,
};

/// Verbs on policy files.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// Check a policy file, and warn of rules on names that let more in than it seems.
    Check {
        /// What to check.
        #[command(flatten)]
        input: Input,
        /// Ask this host's resolver for the allowed names, and say which share an address.
        #[arg(long)]
        resolve: bool,
    },
    /// Compile a policy file for the mounts of this host.
    Compile {
        /// What to compile.
        #[command(flatten)]
        input: Input,
        /// Print the tables.
        #[arg(long)]
        dump: bool,
        /// Another host's mounts, a file in the format of /proc/self/mountinfo: this host's links then say nothing.
        #[arg(long)]
        mounts: Option<PathBuf>,
    },
    /// List the built-in profiles.
    Profiles,
    /// Print the JSON Schema of the policy language.
    Schema,
    /// Have the daemon read its policies again.
    Reload(live::Reload),
    /// Give policy files to the daemon: all of them take effect, or none.
    Apply(apply::Args),
    /// Switch a scope between enforcing and auditing, until the next reload.
    Mode(live::Mode),
    /// Show what a comparison begun with `apply --shadow` has found.
    Shadow(live::Shadow),
}

/// A policy file and its variables.
#[derive(Debug, Args)]
pub struct Input {
    /// The policy file.
    file: PathBuf,
    /// Values of ${workspace}.
    #[command(flatten)]
    workspaces: Workspaces,
}

/// Runs a verb.
#[must_use]
pub fn run(verb: &PolicyVerb) -> u8 {
    let result = match verb {
        PolicyVerb::Check { input, resolve } => check_file(input, *resolve),
        PolicyVerb::Compile { input, dump, mounts } => compiled(input, *dump, mounts.as_ref()),
        PolicyVerb::Profiles => {
            for profile in PROFILES {
                println!("{:10} {}", profile.name, profile.about());
            }
            Ok(())
        }
        PolicyVerb::Schema => serde_json::to_string_pretty(&parse::schema())
            .map_err(|error| error.to_string())
            .map(|text| println!("{text}")),
        PolicyVerb::Reload(args) => return live::reload(args),
        PolicyVerb::Apply(args) => return apply::run(args),
        PolicyVerb::Mode(args) => return live::mode(args),
        PolicyVerb::Shadow(args) => return live::shadow(args),
    };
    match result {
        Ok(()) => 0,
        Err(message) => {
            eprintln!("stockade: {message}");
            exit::USAGE
        }
    }
}

fn checked(input: &Input) -> Result<CheckedPolicy, String> {
    checked_file(&input.file, &input.workspaces)
}

/// A policy file and all that it extends, checked.
///
/// # Errors
/// What is wrong with it, for people.
pub fn checked_file(file: &Path, workspaces: &Workspaces) -> Result<CheckedPolicy, String> {
    let documents = extend::load(file, &parse::read).map_err(|error| error.to_string())?;
    let workspaces = workspaces.find()?;
    let mut overlay = Overlay {
        workspaces: workspaces.writable,
        read_only: workspaces.read_only,
        repositories: workspaces.repositories,
        // Each run has another.
        tmp: Some(std::env::temp_dir().join("stockade-run")),
        home: std::env::var_os("HOME").map(PathBuf::from),
        user: std::env::var("USER").ok(),
        ..Overlay::default()
    };
    // What is run through sudo is run for who called it.
    let user =
        user::caller().and_then(|caller| user::target(None, caller)).map_err(|error| error.to_string())?;
    if let Some(user) = &user {
        (overlay.home, overlay.user) = (Some(user.home.clone()), Some(user.name.clone()));
    }
    overlay.found = from::answers(&documents, &overlay, user.as_ref());
    let policy = check::check(&documents, &overlay).map_err(|error| error.to_string())?;
    from::show(&policy, &overlay.found);
    Ok(policy)
}

fn check_file(input: &Input, resolve: bool) -> Result<(), String> {
    let policy = checked(input)?;
    let mut warnings = breadth::warnings(&policy);
    if resolve {
        let (shared, failed) = resolve::shared(&policy);
        warnings.extend(shared);
        for error in failed {
            eprintln!("stockade: warning: not resolved: {error}");
        }
    }
    for warning in warnings {
        eprintln!("stockade: warning: {}", Diagnostics(vec![warning]));
    }
    println!(
        "{}: {} path rules, {} destinations, {} names",
        policy.name,
        policy.paths.len(),
        policy.destinations.len(),
        policy.names.len()
    );
    Ok(())
}

/// Follows the links of this host, and warns of those that are not followed.
///
/// # Errors
/// See [`follow::follow`].
pub fn follow_links(policy: &mut CheckedPolicy, mounts: &MountTable) -> Result<(), Diagnostics> {
    for warning in follow::follow(policy, mounts, &read_link)? {
        eprintln!("stockade: warning: {}", Diagnostics(vec![warning]));
    }
    Ok(())
}

/// What the link at a path holds; `None` if no link is there.
///
/// # Errors
/// If that cannot be read.
pub fn read_link(path: &[u8]) -> io::Result<Option<Vec<u8>>> {
    match fs::read_link(OsStr::from_bytes(path)) {
        Ok(target) => Ok(Some(target.into_os_string().into_vec())),
        // No link; nothing there; a component before it is no directory; longer than any name can be.
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL | libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => Ok(None),
            _ => Err(error),
        },
    }
}

fn compiled(input: &Input, dump: bool, mounts: Option<&PathBuf>) -> Result<(), String> {
    let mut policy = checked(input)?;
    let path = mounts.cloned().unwrap_or_else(|| "/proc/self/mountinfo".into());
    let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let table = MountTable::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    if mounts.is_none() {
        follow_links(&mut policy, &table).map_err(|error| error.to_string())?;
    }
    let (image, stats) = compile::compile(&policy, &table).map_err(|error| error.to_string())?;
    if dump {
        print!("{}", dump::dump(&image));
    }
    println!(
        "{} patterns, {} table entries, {} outcomes, {} prefixes",
        stats.patterns, stats.table_entries, stats.accepts, stats.prefixes
    );
    Ok(())
}
