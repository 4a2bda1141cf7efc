//! `stockade policy`.

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand};

use super::exit;
use crate::policy::{
    check::{self, Overlay},
    compile,
    mounts::MountTable,
    parse,
};

/// Verbs on policy files.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// Check a policy file.
    Check(Input),
    /// Compile a policy file for the mounts of this host.
    Compile {
        /// What to compile.
        #[command(flatten)]
        input: Input,
        /// Print the tables.
        #[arg(long)]
        dump: bool,
        /// A file in the format of /proc/self/mountinfo to use instead.
        #[arg(long)]
        mounts: Option<PathBuf>,
    },
    /// Print the JSON Schema of the policy language.
    Schema,
}

/// A policy file and its variables.
#[derive(Debug, Args)]
pub struct Input {
    /// The policy file.
    file: PathBuf,
    /// Value of ${workspace}.
    #[arg(long)]
    workspace: Option<PathBuf>,
}

/// Runs a verb.
#[must_use]
pub fn run(verb: &PolicyVerb) -> u8 {
    let result = match verb {
        PolicyVerb::Check(input) => checked(input).map(|policy| {
            println!(
                "{}: {} path rules, {} destinations",
                policy.name,
                policy.paths.len(),
                policy.destinations.len()
            );
        }),
        PolicyVerb::Compile { input, dump, mounts } => compiled(input, *dump, mounts.as_ref()),
        PolicyVerb::Schema => serde_json::to_string_pretty(&schemars::schema_for!(parse::Policy))
            .map_err(|error| error.to_string())
            .map(|text| println!("{text}")),
    };
    match result {
        Ok(()) => 0,
        Err(message) => {
            eprintln!("stockade: {message}");
            exit::USAGE
        }
    }
}

fn checked(input: &Input) -> Result<crate::policy::checked::CheckedPolicy, String> {
    let document =
        parse::read(&input.file).and_then(parse::Document::new).map_err(|error| error.to_string())?;
    let workspace = input.workspace.as_ref().map(fs::canonicalize).transpose();
    let workspace = workspace.map_err(|error| format!("--workspace: {error}"))?;
    let overlay = Overlay { workspace, ..Overlay::default() };
    check::check(&[document], &overlay).map_err(|error| error.to_string())
}

fn compiled(input: &Input, dump: bool, mounts: Option<&PathBuf>) -> Result<(), String> {
    let policy = checked(input)?;
    let path = mounts.cloned().unwrap_or_else(|| "/proc/self/mountinfo".into());
    let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let table = MountTable::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let (image, stats) = compile::compile(&policy, &table).map_err(|error| error.to_string())?;
    if dump {
        print!("{}", compile::dump(&image));
    }
    println!(
        "{} patterns, {} table entries, {} outcomes, {} prefixes",
        stats.patterns, stats.table_entries, stats.accepts, stats.prefixes
    );
    Ok(())
}
