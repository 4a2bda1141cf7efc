//! The layout of what the reader sees.

/// Prints sections and rows, with colour only for a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    colour: bool,
}

/// How a row ended, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Neither.
    Plain,
}

const NAME_WIDTH: usize = 40;

impl Story {
    /// With or without colour.
    pub fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn paint(self, tone: Tone, text: &str) -> String {
        match (self.colour, tone) {
            (true, Tone::Good) => format!("\x1b[32m{text}\x1b[0m"),
            (true, Tone::Bad) => format!("\x1b[1;31m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }

    /// A heading.
    pub fn section(self, title: &str) {
        let rule = "-".repeat(title.chars().count());
        if self.colour {
            println!("\n\x1b[1m{title}\n{rule}\x1b[0m\n");
        } else {
            println!("\n{title}\n{rule}\n");
        }
    }

    /// Running text.
    pub fn text(self, text: &str) {
        for line in text.lines() {
            println!("  {line}");
        }
    }

    /// What a program printed, or a file's content.
    pub fn quoted(self, lines: impl IntoIterator<Item = impl AsRef<str>>) {
        for line in lines {
            println!("  | {}", line.as_ref());
        }
    }

    /// A command line.
    pub fn command(self, command: &str, tone: Tone) {
        println!("  $ {command}");
        if tone == Tone::Bad {
            println!("  {}", self.paint(Tone::Bad, "^ this step failed"));
        }
    }

    /// A name and how it ended.
    pub fn row(self, name: &str, tone: Tone, result: &str) {
        println!("  {}", self.row_text(name, tone, result));
    }

    fn row_text(self, name: &str, tone: Tone, result: &str) -> String {
        let dots = ".".repeat(NAME_WIDTH.saturating_sub(name.chars().count()).max(2));
        format!("{name} {dots} {}", self.paint(tone, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_colour_without_a_terminal() {
        let plain = Story::new(false).row_text("read", Tone::Bad, "allowed");
        assert!(plain.ends_with(" allowed") && !plain.contains('\x1b'));
        assert!(Story::new(true).row_text("read", Tone::Bad, "allowed").contains('\x1b'));
    }
}
