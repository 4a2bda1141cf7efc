//! The command line: one file a verb.

pub mod apply;
pub mod attempt;
pub mod daemon;
pub mod detach;
pub mod doctor;
pub mod events;
pub mod exit;
pub mod explain;
pub mod from;
pub mod generate;
pub mod guarantee;
pub mod host;
pub mod live;
pub mod policy;
pub mod probe;
pub mod remedy;
pub mod repositories;
pub mod resolve;
pub mod run;
pub mod serve;
pub mod status;
pub mod tag;
pub mod workspaces;

use clap::{Parser, Subcommand};

/// Holds a command to a default-deny policy for network and files, in the kernel.
#[derive(Debug, Parser)]
#[command(name = "stockade", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a command under a policy.
    Run(Box<run::Args>),
    /// Say what this host really enforces, proved by trying.
    Doctor(doctor::Args),
    /// Check and compile policy files.
    #[command(subcommand)]
    Policy(policy::PolicyVerb),
    /// Say what a policy would do, by which rule, and what would change it.
    #[command(subcommand)]
    Explain(explain::ExplainVerb),
    /// Hold workloads of this host to the policies in /etc/stockade/policies.d.
    Daemon(serve::Args),
    /// Say what the daemon enforces, on what, and with what counts.
    Status(status::Args),
    /// Show what happened in the daemon's scopes.
    Events(events::Args),
    /// Hold a cgroup, a unit or a process's cgroup to a policy.
    Tag(tag::TagArgs),
    /// Let go what was tagged by hand.
    Untag(tag::UntagArgs),
    /// Let go of everything.
    Detach(detach::Args),
    #[command(name = "__probe", hide = true)]
    Probe(attempt::Place),
    #[command(name = "__generate", hide = true)]
    Generate(generate::Args),
}

/// Parses the command line and runs the verb; returns the exit code.
#[must_use]
pub fn main() -> u8 {
    match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Policy(verb) => policy::run(&verb),
        Verb::Explain(verb) => explain::run(&verb),
        Verb::Daemon(args) => serve::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Events(args) => events::run(&args),
        Verb::Tag(args) => tag::tag(&args),
        Verb::Untag(args) => tag::untag(&args),
        Verb::Detach(args) => detach::run(&args, Some(release)),
        Verb::Probe(place) => probe::child(&place),
        Verb::Generate(args) => generate::run(&args),
    }
}

/// What `stockade detach` does where no daemon is.
fn release(pins: &std::path::Path) -> Result<(), String> {
    crate::kernel::Pins::below(pins).remove_all().map(drop).map_err(|error| error.to_string())
}
