//! The hidden verb that writes what a package carries and the command line knows: manual pages and shell completions.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory as _, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, exit};

/// Shells that a package has completions for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// The end of each page.
const SEE_ALSO: &str = "\
.SH SEE ALSO
\\fBstockade\\fR(1). The policy language, the events and what an administrator needs are told in /usr/share/doc/stockade.
";

/// What can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// A manual page for the program and one for each verb.
    Man,
    /// Completions for bash, zsh and fish, under the names these look for.
    Completions,
}

/// `stockade __generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is written.
    what: What,
    /// Directory it is written to; made if it is missing.
    directory: PathBuf,
}

/// Writes it.
#[must_use]
pub fn run(args: &Args) -> u8 {
    match write(args.what, &args.directory) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!(
                "stockade: writing to {}: {error}: name a directory that can be written to",
                args.directory.display()
            );
            exit::OWN_FAILURE
        }
    }
}

fn write(what: What, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    match what {
        What::Man => {
            let mut program = Cli::command().disable_help_subcommand(true);
            // Gives each verb its full name.
            program.build();
            pages(&program, directory)
        }
        What::Completions => SHELLS.iter().try_for_each(|shell| {
            clap_complete::generate_to(*shell, &mut shown(&Cli::command()), "stockade", directory).map(drop)
        }),
    }
}

/// A page for a command and for each verb below it.
fn pages(command: &Command, directory: &Path) -> io::Result<()> {
    let man =
        Man::new(command.clone()).source(concat!("stockade ", env!("CARGO_PKG_VERSION"))).manual("Stockade");
    let mut page = Vec::new();
    man.render(&mut page)?;
    page.extend_from_slice(SEE_ALSO.as_bytes());
    fs::write(directory.join(man.get_filename()), page)?;
    let mut shown = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    shown.try_for_each(|verb| pages(verb, directory))
}

/// A command without its hidden verbs, which completions would offer.
fn shown(command: &Command) -> Command {
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(shown).collect::<Vec<_>>();
    let mut shown = Command::new(command.get_name().to_owned());
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    let arguments = command.get_arguments().cloned();
    shown.args(arguments).groups(command.get_groups().cloned()).subcommands(verbs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(what: What) -> Vec<(String, String)> {
        let directory = tempfile::tempdir().unwrap();
        write(what, directory.path()).unwrap();
        let mut files: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn each_verb_that_is_shown_has_a_page() {
        let pages = written(What::Man);
        for verb in Cli::command().get_subcommands() {
            let page = pages.iter().find(|(name, _)| *name == format!("stockade-{}.1", verb.get_name()));
            assert_eq!(page.is_some(), !verb.is_hide_set(), "{}", verb.get_name());
        }
        let (_, main) = pages.iter().find(|(name, _)| name == "stockade.1").unwrap();
        assert!(
            main.contains("stockade\\-run(1)") && main.contains(".SH SEE ALSO") && !main.contains("__probe"),
            "{main}"
        );
        assert_eq!(written(What::Man), pages, "the same each time");
    }

    #[test]
    fn each_shell_offers_the_verbs_that_are_shown() {
        let files = written(What::Completions);
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["_stockade", "stockade.bash", "stockade.fish"]);
        for (name, text) in &files {
            for verb in Cli::command().get_subcommands() {
                assert_eq!(
                    text.contains(verb.get_name()),
                    !verb.is_hide_set(),
                    "{name}: {}",
                    verb.get_name()
                );
            }
            assert!(text.contains("allow-net"), "{name}");
        }
    }
}
