//! What was found, in words.

use std::fmt;

use super::What;

/// A process that holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Number of the descriptor, if it is one.
    pub descriptor: Option<u32>,
}

/// Something that is held, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What.
    pub what: What,
    /// One of those who hold it.
    pub holder: Holder,
    /// How many others do, or by how many other descriptors.
    pub others: usize,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The furthest-reaching first.
    pub held: Vec<Held>,
    /// How many more there are.
    pub more: usize,
    /// What could not be looked at, and why.
    pub unread: Vec<String>,
}

impl Report {
    /// One line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.held.iter().map(ToString::to_string).collect();
        if self.more > 0 {
            lines.push(format!("and {} more", self.more));
        }
        lines.extend(self.unread.iter().map(|unread| format!("could not be looked at: {unread}")));
        lines
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, holder: Holder { pid, name, descriptor }, others } = self;
        write!(f, "{what}, held by {pid} ({name})")?;
        if let Some(descriptor) = descriptor {
            write!(f, " as descriptor {descriptor}")?;
        }
        match others {
            0 => Ok(()),
            count => write!(f, " and {count} more"),
        }
    }
}
