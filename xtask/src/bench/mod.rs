//! `bench`: what an operation costs, in guest instructions, with every configuration measured in one boot.

mod apparmor;

use std::{collections::BTreeMap, fmt::Write as _, io, time::Duration};

use anyhow::{Context as _, Result};

use crate::{build, command, guest::Guest, kernels, setup, vm};

/// Landlock is the peer; without randomised addresses the figures repeat.
const PARAMETERS: &str = "lsm=lockdown,capability,landlock,yama,apparmor,bpf nokaslr norandmaps";

/// `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel line.
    #[arg(long, value_parser = kernels::LINES, default_value = "6.12")]
    kernel: String,
    /// Configurations; all if none is named. `none` and `null` are always measured.
    #[arg(value_name = "CONFIGURATION")]
    configurations: Vec<String>,
}

/// Median instructions, by (configuration, operation), in the order measured.
#[derive(Default)]
struct Figures {
    configurations: Vec<String>,
    operations: Vec<String>,
    medians: BTreeMap<(String, String), i64>,
}

impl Figures {
    /// Reads lines `R CONFIGURATION OPERATION MEDIAN MINIMUM`.
    fn parse(text: &str) -> Self {
        let mut figures = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ["R", configuration, operation, median, _] = words.as_slice() else { continue };
            let Ok(median) = median.parse() else { continue };
            for (list, word) in
                [(&mut figures.configurations, configuration), (&mut figures.operations, operation)]
            {
                if !list.iter().any(|known| known == word) {
                    list.push((*word).to_owned());
                }
            }
            figures.medians.insert(((*configuration).to_owned(), (*operation).to_owned()), median);
        }
        figures
    }

    fn median(&self, configuration: &str, operation: &str) -> Option<i64> {
        self.medians.get(&(configuration.to_owned(), operation.to_owned())).copied()
    }

    /// What a configuration adds to an operation.
    fn added(&self, configuration: &str, operation: &str) -> Option<i64> {
        Some(self.median(configuration, operation)? - self.median("none", operation)?)
    }

    /// A table in Markdown: instructions without any program, then what each configuration adds, and how many times what
    /// programs add that only return.
    fn table(&self) -> String {
        let mut out = String::from("| configuration |");
        for operation in &self.operations {
            let _ = write!(out, " {} |", operation.replace('_', " "));
        }
        let _ = writeln!(out, "\n|---|{}", "---|".repeat(self.operations.len()));
        for configuration in &self.configurations {
            let _ = write!(out, "| {configuration} |");
            for operation in &self.operations {
                let cell = self.cell(configuration, operation).unwrap_or_else(|| "not measured".into());
                let _ = write!(out, " {cell} |");
            }
            out.push('\n');
        }
        out
    }

    fn cell(&self, configuration: &str, operation: &str) -> Option<String> {
        let added = self.added(configuration, operation)?;
        if configuration == "none" {
            return self.median(configuration, operation).map(|median| median.to_string());
        }
        Some(match self.added("null", operation) {
            Some(floor) if floor > 0 && configuration != "null" => {
                format!("{added:+} ({:.2} x)", added as f64 / floor as f64)
            }
            _ => format!("{added:+}"),
        })
    }
}

/// Measures, and prints the table.
pub fn run(args: &Args) -> Result<u8> {
    setup::ensure_guest()?;
    build::all()?;
    build::release(&["--package", "stockade-tests"])?;
    let payload = tempfile::tempdir()?;
    let bench = command::root().join("target/release/bench");
    for file in [bench, build::object("null"), build::object("stockade")] {
        let name = file.file_name().context("a file without a name")?;
        std::fs::copy(&file, payload.path().join(name))
            .with_context(|| format!("copying {}", file.display()))?;
    }
    apparmor::compile_all(payload.path())?;
    let mut words = vec!["bench".to_owned(), "suite".to_owned()];
    if !args.configurations.is_empty() {
        words.extend(["none", "null"].map(str::to_owned));
        words.extend(args.configurations.iter().filter(|c| !["none", "null"].contains(&c.as_str())).cloned());
    }
    let kernel = kernels::find(&args.kernel, false)?;
    println!("== measuring on {}", kernel.version);
    let guest = Guest {
        kernel: &kernel,
        payload: &[payload.path().to_path_buf()],
        programs: &[build::agent()],
        modules: &[],
        append: PARAMETERS,
        timeout: Duration::from_secs(1200),
        icount: true,
        command: &words,
    };
    let mut output = Copied(Vec::new());
    let status = vm::report(guest.run(&mut output)?, &kernel.version);
    let figures = Figures::parse(&String::from_utf8_lossy(&output.0));
    println!("\nInstructions on {}: median, and what each configuration adds.\n", kernel.version);
    print!("{}", figures.table());
    Ok(status)
}

/// Prints what it keeps.
struct Copied(Vec<u8>);

impl io::Write for Copied {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        io::stdout().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_compared_with_the_floor() {
        let figures = Figures::parse(
            "noise\nR none open 1000 990\nR null open 1200 1190\nR tagged:10 open 1500 1500\nR null send 5 5\n",
        );
        let table = figures.table();
        assert!(table.contains("| none | 1000 |"), "{table}");
        assert!(table.contains("| null | +200 | not measured |"), "{table}");
        assert!(table.contains("| tagged:10 | +500 (2.50 x) |"), "{table}");
    }
}
