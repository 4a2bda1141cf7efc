//! A guest whose root is an initramfs made on the spot.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    initramfs::Root,
    kernels::Kernel,
    machine::{Machine, Outcome},
};

/// What to run.
pub struct Guest<'a> {
    /// Where.
    pub kernel: &'a Kernel,
    /// Folders whose content is put under `/payload`.
    pub payload: &'a [PathBuf],
    /// Programs put into `/bin`.
    pub programs: &'a [PathBuf],
    /// Modules to insert.
    pub modules: &'a [&'a str],
    /// More kernel parameters.
    pub append: &'a str,
    /// For the whole boot.
    pub timeout: Duration,
    /// Count instructions instead of time, so that figures repeat.
    pub icount: bool,
    /// The command and its arguments.
    pub command: &'a [String],
}

impl Guest<'_> {
    /// Boots; what the command prints goes to `sink` as it comes.
    pub fn run(&self, sink: &mut dyn Write) -> Result<Outcome> {
        let work = tempfile::tempdir()?;
        let initrd = work.path().join("initrd");
        let console = work.path().join("console");
        self.write_root(&initrd)?;
        let mut machine = Machine::new(&self.kernel.image, "1", "1536M")?;
        machine.arg("-initrd").arg(&initrd);
        if self.icount {
            machine.args(["-icount", "shift=0,sleep=off", "-seed", "1"]);
            machine.args(["-rtc", "base=2026-01-01T00:00:00,clock=vm"]);
        }
        machine.run(&format!("oops=panic {}", self.append), &console, self.timeout, sink)
    }

    fn write_root(&self, to: &std::path::Path) -> Result<()> {
        let mut root = Root::new()?;
        for program in self.programs {
            let name = program.file_name().context("a program without a name")?.to_string_lossy();
            root.copy(program, &format!("bin/{name}"))?;
        }
        for folder in self.payload {
            root.tree(folder, "payload")?;
        }
        root.modules(self.modules, &self.kernel.root)?;
        let words: Vec<_> = self.command.iter().map(|word| quote(word)).collect();
        root.file(
            "etc/guest-command",
            0o644,
            format!(
                "cd /payload; export PATH=/payload:/bin:/usr/bin HOME=/root TERM=dumb LANG=C.UTF-8\nexec {}\n",
                words.join(" ")
            )
            .into_bytes(),
        );
        let mut out = BufWriter::new(File::create(to)?);
        root.write(&mut out)?;
        out.flush()?;
        Ok(())
    }
}

/// A word for `sh`.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quote("a'b c"), r"'a'\''b c'");
    }
}
