//! `stockade policy reload`, `mode` and `shadow`: what the daemon enforces, changed or looked at while it does.

use std::io::{self, Write};

use super::daemon::{Failure, Socket, done};
use crate::{
    audit::{digest::mode_name, name::escape},
    daemon::{
        api::handle::SetMode,
        client::segment,
        command::{Difference, Reloaded, ScopeStatus, ShadowReport},
    },
    policy::checked,
};

/// `stockade policy reload`.
#[derive(Debug, clap::Args)]
pub struct Reload {
    #[command(flatten)]
    socket: Socket,
}

/// `stockade policy mode`.
#[derive(Debug, clap::Args)]
pub struct Mode {
    /// The scope.
    scope: String,
    /// Refuse what is denied, or only report it.
    #[arg(value_parser = ["enforce", "audit"])]
    mode: String,
    #[command(flatten)]
    socket: Socket,
}

/// `stockade policy shadow`.
#[derive(Debug, clap::Args)]
pub struct Shadow {
    /// The scope.
    scope: String,
    /// End the comparison.
    #[arg(long)]
    end: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Reloads.
#[must_use]
pub fn reload(args: &Reload) -> u8 {
    done(async {
        let reloaded: Reloaded = args.socket.client().post("/v1/reload", &serde_json::json!({})).await?;
        Ok(say(&reloaded)?)
    })
}

/// Says what a reload did.
///
/// # Errors
/// If nobody reads it.
pub fn say(reloaded: &Reloaded) -> io::Result<()> {
    let Reloaded { changed, added, removed, unchanged } = reloaded;
    let mut out = io::stdout().lock();
    for (what, names) in
        [("changed", changed), ("added", added), ("removed", removed), ("unchanged", unchanged)]
    {
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(|name| escape(name.as_bytes())).collect();
            writeln!(out, "{what}: {}", names.join(", "))?;
        }
    }
    Ok(())
}

/// Switches.
#[must_use]
pub fn mode(args: &Mode) -> u8 {
    done(async {
        let mode = if args.mode == "audit" { checked::Mode::Audit } else { checked::Mode::Enforce };
        let path = format!("/v1/scopes/{}/mode", segment(&args.scope));
        let scope: ScopeStatus = args.socket.client().post(&path, &SetMode { mode }).await?;
        let name = escape(scope.name.as_bytes());
        Ok(writeln!(io::stdout(), "{name}: {} until the next reload", mode_name(scope.mode))?)
    })
}

/// Shows, or ends.
#[must_use]
pub fn shadow(args: &Shadow) -> u8 {
    done(async {
        let path = format!("/v1/scopes/{}/shadow", segment(&args.scope));
        let client = args.socket.client();
        let report: ShadowReport =
            if args.end { client.delete(&path).await } else { client.get(&path).await }?;
        report_to(&mut io::stdout().lock(), &report).map_err(Failure::from)
    })
}

fn report_to(out: &mut impl Write, report: &ShadowReport) -> io::Result<()> {
    let ShadowReport { compared, missed, differences, more } = report;
    writeln!(
        out,
        "{compared} decisions compared, {missed} missed, {} kinds of differences",
        differences.len()
    )?;
    for Difference { kind, object, access, active, shadow, times } in differences {
        let object = crate::audit::name::printable(object);
        writeln!(
            out,
            "{times:>8}x {kind} {object} {access}\n          active: {active}\n          shadow: {shadow}"
        )?;
    }
    if *more {
        writeln!(out, "and more than are kept")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::api::sample;

    #[test]
    fn a_comparison_can_be_read() {
        let mut out = Vec::new();
        let report = sample::status().scopes[0].shadow.clone().unwrap();
        report_to(&mut out, &ShadowReport { more: true, ..report }).unwrap();
        let expected = "100 decisions compared, 1 missed, 1 kinds of differences\n\
                        \x20      5x open /home/b/secret read\n\
                        \x20         active: allowed by /home/**\n\
                        \x20         shadow: denied: no rule\n\
                        and more than are kept\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
