//! `copyright`: our licence, and which crates the binary contains under which.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Where the list of crates goes.
const CRATES: &str = "@CRATES@";

/// The file of that name.
pub fn copyright() -> Result<String> {
    let path = command::root().join("packaging/copyright");
    let template = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    if !template.contains(CRATES) {
        bail!("{} has no line {CRATES}", path.display());
    }
    let mut crates = tree(&["--package", "stockade", "--features", "embedded-bpf"])?;
    crates.extend(tree(&["--manifest-path", "agent-ebpf/Cargo.toml"])?);
    Ok(template.replace(CRATES, &crates.into_iter().collect::<Vec<_>>().join("\n")))
}

/// What `cargo tree` finds in a binary: no build scripts' crates, and no macros'.
fn tree(of: &[&str]) -> Result<BTreeSet<String>> {
    let mut cargo = command::cargo();
    cargo.args(["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none"]);
    cargo.args(["--target", "x86_64-unknown-linux-gnu", "--format", "{p}\t{l}"]).args(of);
    lines(&command::output(&mut cargo)?)
}

fn lines(tree: &str) -> Result<BTreeSet<String>> {
    let mut crates = BTreeSet::new();
    // Repeated branches end in a mark, and what is in the checkout names its path.
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (name, licence) =
            line.split_once('\t').with_context(|| format!("cargo tree printed {line:?}"))?;
        if name.contains('(') && name.contains('/') {
            continue;
        }
        let licence = licence.trim_end_matches("(*)").trim();
        if licence.is_empty() {
            bail!("{name} names no licence: a binary that contains it cannot be passed on");
        }
        crates.insert(format!("  {}: {licence}", name.replace(" v", " ")));
    }
    Ok(crates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crate_is_named_once_with_its_licence() {
        let tree = "stockade v0.1.0 (/x/agent)\tMIT OR Apache-2.0\nlog v0.4.35\tMIT OR Apache-2.0\nroff v0.2.2\tMIT (*)\nroff v0.2.2\tMIT\n";
        let crates: Vec<_> = lines(tree).unwrap().into_iter().collect();
        assert_eq!(crates, ["  log 0.4.35: MIT OR Apache-2.0", "  roff 0.2.2: MIT"]);
        assert!(lines("odd v1.0.0\t\n").unwrap_err().to_string().contains("odd"));
    }
}
