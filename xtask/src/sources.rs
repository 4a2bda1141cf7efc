//! Which Debian mirrors a machine uses, from its apt sources (sources.list(5)). Pure: the files are handed in.

/// Suites of the main archive that a Debian 12 or 13 names.
const SUITES: [&str; 5] = ["bookworm", "trixie", "stable", "oldstable", "sid"];
const SECURITY: &str = "-security";

/// Archive roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// Of the main archive.
    pub main: String,
    /// Of the security archive.
    pub security: String,
}

/// The form of a file of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `deb URI SUITE COMPONENT...`, in `*.list`.
    Line,
    /// Stanzas of fields, in `*.sources`.
    Deb822,
}

#[derive(Debug, Default)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
}

/// Finds the mirrors; `read` gets the path of a mirror list, which `mirror+file:` names.
pub fn mirrors(files: &[(Form, String)], read: impl Fn(&str) -> Option<String>) -> Option<Mirrors> {
    let entries: Vec<Entry> = files
        .iter()
        .flat_map(|(form, text)| match form {
            Form::Line => text.lines().filter_map(line).collect::<Vec<_>>(),
            Form::Deb822 => stanzas(text),
        })
        .filter(|entry| entry.components.iter().any(|component| component == "main"))
        .collect();
    let find = |wanted: &dyn Fn(&str) -> bool, tail: &str| {
        let mut urls: Vec<String> = entries
            .iter()
            .filter(|entry| entry.suites.iter().any(|suite| wanted(suite.trim_end_matches('/'))))
            .flat_map(|entry| entry.uris.iter().filter_map(|uri| resolve(uri, &read)))
            .collect();
        // Others serve suites of these names, too: what is called like Debian's own archive comes first.
        urls.sort_by_key(|url| !url.ends_with(tail));
        urls.into_iter().next()
    };
    let main = find(&|suite| SUITES.contains(&suite), "/debian")?;
    let security = find(&|suite| suite.ends_with(SECURITY), "/debian-security")
        .unwrap_or_else(|| format!("{main}{SECURITY}"));
    Some(Mirrors { main, security })
}

/// An address without its last slash; for a list of mirrors the first of them.
fn resolve(uri: &str, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    let address = match uri.strip_prefix("mirror+file:") {
        None => uri.to_owned(),
        Some(path) => {
            let list = read(&format!("/{}", path.trim_start_matches('/')))?;
            // Behind an address there can be a tab and its priority.
            list.lines()
                .filter(|line| !line.trim_start().starts_with('#'))
                .find_map(|line| line.split_whitespace().next())?
                .to_owned()
        }
    };
    let known = ["http:", "https:", "file:", "mirror+http:", "mirror+https:"];
    known.iter().any(|scheme| address.starts_with(scheme)).then(|| address.trim_end_matches('/').to_owned())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn line(text: &str) -> Option<Entry> {
    let text = text.split('#').next()?.trim();
    let mut rest = text.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    if let Some(options) = rest.strip_prefix('[') {
        rest = options.split_once(']')?.1;
    }
    let mut words = words(rest).into_iter();
    Some(Entry { uris: vec![words.next()?], suites: vec![words.next()?], components: words.collect() })
}

fn stanzas(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    for stanza in lines.collect::<Vec<_>>().split(|line| line.trim().is_empty()) {
        let (mut entry, mut types, mut enabled) = (Entry::default(), Vec::new(), true);
        let mut name = String::new();
        for line in stanza {
            let value = match line.split_once(':') {
                Some((field, value)) if !line.starts_with([' ', '\t']) => {
                    name = field.to_ascii_lowercase();
                    value
                }
                _ => line,
            };
            match name.as_str() {
                "types" => types.extend(words(value)),
                "uris" => entry.uris.extend(words(value)),
                "suites" => entry.suites.extend(words(value)),
                "components" => entry.components.extend(words(value)),
                "enabled" => enabled = !matches!(value.trim(), "no" | "false" | "0"),
                _ => {}
            }
        }
        if enabled && types.iter().any(|kind| kind == "deb") {
            entries.push(entry);
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(form: Form, text: &str) -> Option<(String, String)> {
        let read = |path: &str| match path {
            "/etc/apt/mirrors/debian.list" => {
                Some("# near\nhttps://near.test/debian/\tpriority:1\nhttps://far.test/debian\n".to_owned())
            }
            "/etc/apt/mirrors/debian-security.list" => Some("https://near.test/debian-security\n".to_owned()),
            _ => None,
        };
        mirrors(&[(form, text.to_owned())], read).map(|mirrors| (mirrors.main, mirrors.security))
    }

    fn pair(host: &str) -> Option<(String, String)> {
        Some((format!("{host}/debian"), format!("{host}/debian-security")))
    }

    #[test]
    fn deb822_is_understood() {
        let text = "Types: deb\n# http://old.test/debian\nURIs: http://mirror.test/debian/\nSuites: bookworm\n bookworm-updates\n\
                    Components: main contrib\n\nTypes: deb\nURIs: http://mirror.test/debian-security\n\
                    Suites: bookworm-security\nComponents: main\n";
        assert_eq!(found(Form::Deb822, text), pair("http://mirror.test"));
        assert_eq!(found(Form::Deb822, &format!("Enabled: no\n{text}")), None);
        assert_eq!(found(Form::Deb822, &text.replace("Types: deb", "Types: deb-src")), None);
    }

    #[test]
    fn lines_are_understood() {
        let text = "#deb http://old.test/debian bookworm main\ndeb [ arch=amd64 ] http://mirror.test/debian/ bookworm main\n";
        assert_eq!(found(Form::Line, text), pair("http://mirror.test"), "security lies beside it");
        assert_eq!(found(Form::Line, "deb http://other.test/ubuntu noble main"), None);
        assert_eq!(found(Form::Line, "deb cdrom:[Debian]/ bookworm main"), None);
        assert_eq!(found(Form::Line, "deb-src http://mirror.test/debian bookworm main"), None);
    }

    #[test]
    fn mirror_lists_stand_for_their_first_address() {
        let deb822 = "Types: deb deb-src\nURIs: mirror+file:/etc/apt/mirrors/debian.list\nSuites: trixie trixie-updates\n\
                      Components: main\n\nTypes: deb\nURIs: mirror+file:/etc/apt/mirrors/debian-security.list\n\
                      Suites: trixie-security\nComponents: main\n";
        assert_eq!(found(Form::Deb822, deb822), pair("https://near.test"));
        let lines = "deb mirror+file:///etc/apt/mirrors/debian.list trixie main\n\
                     deb mirror+file:/etc/apt/mirrors/debian-security.list trixie-security main\n";
        assert_eq!(found(Form::Line, lines), pair("https://near.test"));
        assert_eq!(found(Form::Line, "deb mirror+file:/nowhere trixie main"), None);
    }

    #[test]
    fn others_with_the_same_suites_come_last() {
        let text = "deb https://tools.test/linux/debian bookworm stable\ndeb https://tools.test/x bookworm main\n\
                    deb http://mirror.test/debian bookworm main\n";
        assert_eq!(found(Form::Line, text), pair("http://mirror.test"));
    }
}
