//! AppArmor's policies, compiled here: a guest has no compiler for them.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::command;

/// As the guest's configuration enters it.
const PROFILE: &str = "stockade-bench";
/// Path rules of the policies.
pub const RULES: [u32; 2] = [10, 1000];
/// What the compiler takes for the guest's kernel: it asks the running one otherwise, which need not have AppArmor.
const FEATURES: &str = "/etc/apparmor.d/abi/3.0";
/// Rules that the measured program itself needs.
const OWN: u32 = 7;

/// Writes `apparmor-N` for each of [`RULES`] into a directory. Without a compiler nothing is written, and that is said: the
/// package would also load profiles when this host boots, so it is for who is asked to install it.
pub fn compile_all(into: &Path) -> Result<()> {
    let Some(parser) = command::which("apparmor_parser") else {
        println!("apparmor: not measured: apparmor_parser is missing (package apparmor)");
        return Ok(());
    };
    for rules in RULES {
        let source = into.join(format!("apparmor-{rules}.txt"));
        fs::write(&source, profile(rules)).with_context(|| format!("writing {}", source.display()))?;
        let mut parser = Command::new(&parser);
        parser.args(["--skip-kernel-load", "--skip-cache", "--quiet", "--policy-features", FEATURES]);
        parser.args(["--kernel-features", FEATURES, "--ofile"]).arg(into.join(format!("apparmor-{rules}")));
        command::run(parser.arg(&source))?;
        fs::remove_file(&source)?;
    }
    Ok(())
}

fn profile(rules: u32) -> String {
    let mut text = format!(
        "profile {PROFILE} {{\n  network inet stream,\n  network inet dgram,\n  network inet6,\n  signal,\n  /dev/** rw,\n  \
         /payload/** rmix,\n  /bin/** rmix,\n  /{{,usr/}}lib{{,64}}/** rm,\n  /perf/1/2/3/** r,\n  /perf/moved/** rw,\n  /proc/** r,\n"
    );
    for number in OWN..rules {
        let _ = writeln!(text, "  /srv/{number}/data-{}/** r,", u64::from(number) * 7919);
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_as_many_path_rules_as_it_is_called_after() {
        for rules in RULES {
            let text = profile(rules);
            assert_eq!(text.lines().filter(|line| line.trim().starts_with('/')).count(), rules as usize);
        }
    }
}
