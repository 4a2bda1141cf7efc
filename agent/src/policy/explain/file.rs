//! Files: what the tables say at the end of a path, which is what the kernel programs ask them.

use stockade_common::{
    event::reason,
    file::{ACCESS_EXEC, ACCESS_MOVE, ACCESS_READ, ACCESS_WRITE},
};

use super::{Explainer, Explanation, Outcome};
use crate::policy::{
    links::Link,
    mounts::Mount,
    protect::{self, Group},
    verdict,
};

/// What is to be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Open for reading, list.
    Read,
    /// Open for writing, and every other change.
    Write,
    /// Execute.
    Exec,
}

impl Access {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Exec];

    /// As flags and lists of a policy call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Exec => "exec",
        }
    }

    fn bit(self) -> u32 {
        match self {
            Self::Read => ACCESS_READ,
            Self::Write => ACCESS_WRITE,
            Self::Exec => ACCESS_EXEC,
        }
    }
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything else.
    Other,
    /// Nothing.
    Missing,
}

/// Where a path leads on this host.
#[derive(Debug, Clone)]
pub struct Located<'a> {
    /// As it was asked for.
    pub asked: &'a str,
    /// Without symbolic links.
    pub real: &'a [u8],
    /// The links on the way.
    pub links: &'a [Link],
    /// What the real path lies on.
    pub mount: &'a Mount,
    /// The path in that filesystem.
    pub inside: &'a [u8],
    /// What is there.
    pub kind: Kind,
    /// The process that is `self` in a procfs.
    pub own: u32,
}

impl Explainer<'_> {
    /// An access to a file.
    #[must_use]
    pub fn file(&self, at: &Located<'_>, access: Access) -> Explanation {
        let asked = format!("{} {}", access.name(), at.asked);
        let judge = |bits| verdict::file(self.image, at.mount.dev, at.inside, bits, at.own);
        let found = judge(access.bit());
        let by = self.quoted(found.rule);
        let (place, name) = (shown_mount(at.mount), access.name());
        let (outcome, reason, why) = match found.reason {
            reason::RULE_ALLOW => (Outcome::Allowed, "rule_allow", format!("allowed by {by}")),
            reason::UNKNOWN_FILESYSTEM => {
                let why = format!("no rule reaches its filesystem, the {place}: all of it is denied");
                (Outcome::Denied, "unknown_filesystem", why)
            }
            reason::NO_RULE => (Outcome::Denied, "no_rule", "no rule allows it".to_owned()),
            _ => (Outcome::Denied, "rule_deny", format!("denied by {by}")),
        };
        let rule = written(at.real);
        let protected =
            self.rule(found.rule).first().and_then(|rule| protect::group_of(&rule.list, &rule.text));
        let change = match (outcome, reason, &rule) {
            (_, "rule_deny", _) if protected.is_some() => {
                let group = protected.map_or("", Group::name);
                format!("to allow it all the same: --lift {group}, or {group:?} in files.lift")
            }
            (_, "rule_deny", _) => {
                format!("take {by} out, or make it narrower: no other rule outweighs a denial")
            }
            (_, _, None) => {
                "its name can be in no rule: it is not UTF-8 or holds one of `*?{}[]\\$`".to_owned()
            }
            (Outcome::Allowed, _, Some(rule)) => {
                format!(
                    "to deny it: --deny-{name} '{rule}', or {rule:?} in files.deny, which denies all of it"
                )
            }
            (_, _, Some(rule)) => {
                format!("to allow it: --allow-{name} '{rule}', or {rule:?} in files.{name}")
            }
        };
        let mut answer = self.answer(&asked, outcome, reason, why);
        answer.rules = self.rule(found.rule);
        answer.change = Some(change);
        answer.notes.extend(
            at.links.iter().map(|link| {
                format!("{} is a link to {}", link.path.escape_ascii(), link.target.escape_ascii())
            }),
        );
        let real = at.real.escape_ascii();
        let inside = if at.inside == at.real {
            String::new()
        } else {
            format!(", in which it is {}", at.inside.escape_ascii())
        };
        answer.notes.push(format!("it is judged as {real} on the {place}{inside}"));
        if at.kind == Kind::Missing {
            answer.notes.push("there is nothing now: what is made there is judged by that name".to_owned());
        }
        if access == Access::Write && at.kind != Kind::Other {
            answer.notes.extend(self.moves(at));
        }
        answer
    }

    /// What holds of a directory beside that it may be written.
    fn moves(&self, at: &Located<'_>) -> Option<String> {
        let moved = verdict::file(self.image, at.mount.dev, at.inside, ACCESS_MOVE, at.own);
        if moved.reason == reason::MOVES_DENIED {
            let by = self.quoted(moved.rule);
            return Some(format!(
                "as a directory it can be neither renamed nor removed: it leads to what {by} denies"
            ));
        }
        let strict =
            verdict::renames_strictly(self.image, at.mount.dev) && moved.reason == reason::RULE_ALLOW;
        strict.then(|| {
            "as a directory it can be renamed only within the one it is in: a denial has `**` inside"
                .to_owned()
        })
    }
}

fn shown_mount(mount: &Mount) -> String {
    format!("{} mounted at {}", mount.fs_type, mount.point.escape_ascii())
}

/// A rule that names the path and nothing else, if there is one.
fn written(path: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(path).ok()?;
    (!text.contains(['*', '?', '{', '}', '[', ']', '\\', '$', '\'']) && !text.contains(char::is_control))
        .then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        check::{self, Overlay},
        compile::compile,
        links::{join, walk},
        mounts::MountTable,
        parse::{Document, Source},
    };

    const MOUNTS: &[u8] = b"21 1 8:1 / / rw - ext4 a rw\n22 21 0:5 / /proc rw - proc proc rw\n\
        23 21 8:2 /@home /home rw - btrfs b rw\n24 21 8:3 / /mnt rw - xfs c rw\n";
    const TEXT: &str = r#"version = 1
[files]
read = [
  "/home/u/ws/**", "/proc/self/status"
]
write = [
  "/home/u/ws/**"
]
exec = ["/usr/bin/**"]
deny = [
  "/home/u/ws/a/key",
]
"#;

    fn ask(text: &str, path: &str, access: Access, kind: Kind) -> Explanation {
        let document = Document::new(Source { name: "p.toml".into(), text: text.into() }).unwrap();
        let policy = check::check(&[document], &Overlay::default()).unwrap();
        let mounts = MountTable::parse(MOUNTS).unwrap();
        let (image, _) = compile(&policy, &mounts).unwrap();
        let read = |path: &[u8]| Ok((path == b"/bin").then(|| b"usr/bin".to_vec()));
        let way = walk(path.as_bytes(), &read).unwrap();
        let real = join(&way.real);
        let (mount, inside) = mounts.inside(&real).unwrap();
        let at =
            Located { asked: path, real: &real, links: &way.links, mount, inside: &inside, kind, own: 42 };
        Explainer { policy: &policy, image: &image }.file(&at, access)
    }

    fn short(answer: &Explanation) -> (Outcome, &'static str, &str) {
        (answer.outcome, answer.reason, answer.rules.first().map_or("", |rule| rule.source.as_str()))
    }

    #[test]
    fn accesses_are_explained_by_their_rule() {
        use Access::{Exec, Read, Write};
        use Outcome::{Allowed, Denied};
        for (path, access, expected) in [
            ("/home/u/ws/x", Read, (Allowed, "rule_allow", "p.toml:4")),
            ("/home/u/ws/x", Write, (Allowed, "rule_allow", "p.toml:7")),
            ("/home/u/ws/x", Exec, (Denied, "no_rule", "")),
            ("/home/u/ws/a/key", Read, (Denied, "rule_deny", "p.toml:11")),
            ("/bin/sh", Exec, (Allowed, "rule_allow", "p.toml:9")),
            ("/proc/42/status", Read, (Allowed, "rule_allow", "p.toml:4")),
            ("/proc/43/status", Read, (Denied, "no_rule", "")),
            ("/mnt/x", Read, (Denied, "unknown_filesystem", "")),
        ] {
            let answer = ask(TEXT, path, access, Kind::Other);
            assert_eq!(short(&answer), expected, "{path}: {answer:?}");
        }
    }

    #[test]
    fn the_way_to_the_file_is_told() {
        let answer = ask(TEXT, "/bin/sh", Access::Exec, Kind::Other);
        assert_eq!(answer.notes[0], "/bin is a link to usr/bin");
        assert_eq!(answer.notes[1], "it is judged as /usr/bin/sh on the ext4 mounted at /");
        let answer = ask(TEXT, "/home/u/ws/new", Access::Read, Kind::Missing);
        assert!(answer.notes[0].ends_with("mounted at /home, in which it is /@home/u/ws/new"), "{answer:?}");
        assert!(answer.notes[1].contains("nothing now"), "{answer:?}");
        let answer = ask(TEXT, "/mnt/x", Access::Read, Kind::Other);
        assert!(answer.why.contains("the xfs mounted at /mnt"), "{answer:?}");
    }

    #[test]
    fn what_would_change_it_is_told() {
        let change = |path, access| ask(TEXT, path, access, Kind::Other).change.unwrap();
        let add = change("/bin/sh", Access::Write);
        assert_eq!(add, "to allow it: --allow-write '/usr/bin/sh', or \"/usr/bin/sh\" in files.write");
        assert!(change("/bin/sh", Access::Exec).contains("--deny-exec '/usr/bin/sh'"));
        assert!(change("/home/u/ws/a/key", Access::Read).starts_with("take \"/home/u/ws/a/key\""));
        let protected = TEXT.replace("[files]", "[files]\nprotect_in = [\"/home/u/ws\"]");
        let answer = ask(&protected, "/home/u/ws/.envrc", Access::Write, Kind::Other);
        assert!(answer.change.unwrap().contains("--lift editor"));
        assert!(change("/srv/a*", Access::Read).contains("can be in no rule"));
    }

    #[test]
    fn a_directory_on_the_way_to_a_denial_stays() {
        let last = |text, path| ask(text, path, Access::Write, Kind::Directory).notes.pop().unwrap();
        assert!(last(TEXT, "/home/u/ws/a").contains("neither renamed nor removed"));
        assert!(last(TEXT, "/home/u/ws/b").starts_with("it is judged as"));
        let inner = "version = 1\n[files]\nwrite = [\"/home/u/ws/**\"]\ndeny = [\"/home/**/x/key\"]\n";
        assert!(last(inner, "/home/u/ws/b").contains("only within"), "{}", last(inner, "/home/u/ws/b"));
    }
}
