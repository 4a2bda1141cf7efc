//! Sections, keys and values, as pip and git write them: `[section]`, `[section "part"]`, `key = value`, comments; a value
//! goes on in indented lines (pip).

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The section's name, in lower case.
    pub section: String,
    /// The part of it between quotes.
    pub part: String,
    /// In lower case.
    pub key: String,
    /// One line of it.
    pub value: String,
    /// From 1.
    pub line: usize,
}

/// All values.
pub fn entries(text: &str, continues: bool) -> Vec<Entry> {
    let (mut section, mut part, mut key) = (String::new(), String::new(), String::new());
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let indented = line.starts_with([' ', '\t']);
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        let mut add = |key: &str, value: &str| {
            let value = value.trim().trim_matches('"').to_owned();
            let (section, part, key) = (section.clone(), part.clone(), key.to_owned());
            entries.push(Entry { section, part, key, value, line: number + 1 });
        };
        if continues && indented && !key.is_empty() {
            add(&key, trimmed);
        } else if let Some(head) =
            trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(head, _)| head)
        {
            let (name, quoted) = head.split_once(' ').unwrap_or((head, ""));
            section = name.trim().to_ascii_lowercase();
            part = quoted.trim().trim_matches('"').to_owned();
            key.clear();
        } else if let Some((name, value)) = trimmed.split_once(['=', ':'].as_slice()).filter(|_| continues) {
            key = name.trim().to_ascii_lowercase();
            add(&key, value);
        } else if let Some((name, value)) = trimmed.split_once('=') {
            key = name.trim().to_ascii_lowercase();
            add(&key, value);
        }
    }
    entries
}
