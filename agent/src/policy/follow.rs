//! Rules written through symbolic links. The kernel programs know real files only, so a rule on `/bin/sh` has to hold for
//! `/usr/bin/sh` as well where `/bin` is a link.
//!
//! A denial holds for both names, and the links between them cannot be changed. What is allowed follows a link only where
//! the policy gives the workload no way to put it there: else one run could leave `x -> /etc` in its workspace, and a
//! rule on `${workspace}/x/**` would open `/etc` to the next.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
};

use stockade_common::file::ACCESS_WRITE;

use super::{
    checked::{CheckedPolicy, PathRule},
    diagnostic::{Diagnostic, Diagnostics},
    globs::{Part, Spelt, parts},
    links::{Link, ReadLink, Stuck, join, walk},
    mounts::MountTable,
    rule::Refusal,
};

/// A rule's real name, where that is another.
struct Led {
    rule: PathRule,
    links: Vec<Link>,
    /// Whether the real name can be written as a pattern exactly.
    exact: bool,
}

/// Adds to a policy the real names of what its rules name through links. Returns warnings: about rules that could not be
/// followed, and therefore allow less than it seems.
///
/// # Errors
/// If it is not known what a denial denies.
pub fn follow(
    policy: &mut CheckedPolicy,
    mounts: &MountTable,
    read_link: &ReadLink,
) -> Result<Vec<Diagnostic>, Diagnostics> {
    let cache = RefCell::new(HashMap::new());
    let read = |path: &[u8]| {
        if let Some(known) = cache.borrow().get(path) {
            return Ok(Option::clone(known));
        }
        let target = if is_own_process(mounts, path) { None } else { read_link(path)? };
        cache.borrow_mut().insert(path.to_vec(), target.clone());
        Ok(target)
    };
    let (mut led, mut warnings, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for rule in &policy.paths {
        match lead(rule, &read) {
            Ok(found) => led.extend(found),
            Err(stuck) => {
                let unknown = rule.deny && matches!(stuck, Stuck::Unreadable { .. });
                let help =
                    if unknown { "run as a user who may read it" } else { "the rule matches nothing there" };
                let refusal = Refusal { message: stuck.to_string(), help: Some(help.into()) };
                let list = if unknown { &mut problems } else { &mut warnings };
                list.push(policy.diagnostic(rule.rule, refusal));
            }
        }
    }
    if !problems.is_empty() {
        return Err(Diagnostics(problems));
    }

    let (denials, mut led): (Vec<Led>, Vec<Led>) = led.into_iter().partition(|led| led.rule.deny);
    led.retain(|led| match led.exact {
        true => true,
        false => {
            let help = Some("a rule cannot name it exactly: rename it".into());
            warnings.push(policy.diagnostic(led.rule.rule, Refusal { message: through(led), help }));
            false
        }
    });
    // What may be written decides which links are followed, and these decide what may be written. A rule that leads
    // through a link which even the rules as written may change is left out first: where it leads counts for nothing.
    let mut guard = Guard { mounts, writable: Vec::new() };
    guard.add(&policy.paths);
    let at_once = guard.changeable(&led);
    let sound = led.iter().filter(|led| led.links.iter().all(|link| !at_once.contains(&link.path)));
    guard.add(sound.map(|led| &led.rule));
    let changeable = guard.changeable(&led);
    let mut more = Vec::new();
    for led in &led {
        match led.links.iter().find(|link| changeable.contains(&link.path)) {
            None => more.push(led.rule.clone()),
            Some(link) if !already(policy, &led.rule) => {
                let link = link.path.escape_ascii();
                let message = format!(
                    "{}, and the policy lets the workload change {link}: the link is not followed",
                    through(led)
                );
                let help = Some(format!("if that is meant, name where it leads: {:?}", led.rule.pattern));
                warnings.push(policy.diagnostic(led.rule.rule, Refusal { message, help }));
            }
            Some(_) => {}
        }
    }
    for led in denials {
        for link in &led.links {
            let pattern = pattern(link.path.split(|byte| *byte == b'/').skip(1), &[]).0;
            more.push(PathRule { pattern, access: ACCESS_WRITE, ..led.rule.clone() });
        }
        more.push(led.rule);
    }

    let key = |rule: &PathRule| (rule.pattern.clone(), rule.access, rule.deny);
    let mut seen: HashSet<_> = policy.paths.iter().map(key).collect();
    more.retain(|rule| seen.insert(key(rule)));
    policy.paths.extend(more);
    warnings.dedup();
    Ok(warnings)
}

fn through(led: &Led) -> String {
    let chain: Vec<String> = led
        .links
        .iter()
        .map(|link| format!("{} -> {}", link.path.escape_ascii(), link.target.escape_ascii()))
        .collect();
    format!("the rule leads through {}", chain.join(", "))
}

/// Follows the components before the first wildcard.
fn lead(rule: &PathRule, read_link: &ReadLink) -> Result<Option<Led>, Stuck> {
    let whole = parts(&rule.pattern);
    let literal: Vec<Vec<u8>> = whole
        .iter()
        .map_while(|part| match part {
            Part::Name(name) if !name.contains(['*', '?']) => Some(name.clone().into_bytes()),
            _ => None,
        })
        .collect();
    if literal.is_empty() {
        return Ok(None);
    }
    let way = walk(&join(&literal), read_link)?;
    if way.links.is_empty() {
        return Ok(None);
    }
    let (pattern, exact) = pattern(way.real.iter().map(Vec::as_slice), &whole[literal.len()..]);
    Ok(Some(Led { rule: PathRule { pattern, ..rule.clone() }, links: way.links, exact }))
}

/// Names followed by the rest of a pattern, and whether that is exact: a byte that is not UTF-8 is written `?`, and a
/// `*` in a name cannot be told from the glob. Either makes the pattern match more, which only a denial may.
fn pattern<'a>(names: impl Iterator<Item = &'a [u8]>, rest: &[Part]) -> (String, bool) {
    let (mut out, mut exact) = (String::new(), true);
    for name in names {
        out.push('/');
        for chunk in name.utf8_chunks() {
            exact &= chunk.invalid().is_empty() && !chunk.valid().contains(['*', '?']);
            out.push_str(chunk.valid());
            out.push_str(&"?".repeat(chunk.invalid().len()));
        }
    }
    for part in rest {
        out.push('/');
        out.push_str(match part {
            Part::Any => "**",
            Part::Name(name) => name,
        });
    }
    if out.is_empty() {
        out.push('/');
    }
    (out, exact)
}

/// Below `/proc/self` and its like, links lead to what whoever reads them has open; the kernel programs know the names
/// as they are.
fn is_own_process(mounts: &MountTable, path: &[u8]) -> bool {
    let Some((mount, inside)) = mounts.inside(path) else { return false };
    let first = inside.split(|byte| *byte == b'/').nth(1).unwrap_or_default();
    mount.fs_type == "proc"
        && (matches!(first, b"self" | b"thread-self")
            || (!first.is_empty() && first.iter().all(u8::is_ascii_digit)))
}

/// Whether the policy already allows what a rule would.
fn already(policy: &CheckedPolicy, rule: &PathRule) -> bool {
    let spelt = |rule: &PathRule| Spelt::new(&parts(&rule.pattern));
    let inner = spelt(rule);
    policy
        .paths
        .iter()
        .any(|other| !other.deny && other.access & rule.access == rule.access && spelt(other).covers(&inner))
}

/// What the workload may change.
struct Guard<'a> {
    mounts: &'a MountTable,
    writable: Vec<Spelt>,
}

impl Guard<'_> {
    fn add<'r>(&mut self, rules: impl IntoIterator<Item = &'r PathRule>) {
        let writes = rules.into_iter().filter(|rule| !rule.deny && rule.access & ACCESS_WRITE != 0);
        self.writable.extend(writes.map(|rule| Spelt::new(&parts(&rule.pattern))));
    }

    /// Those of the links that the workload could have put there: it may write the link itself, or may exchange a
    /// directory on the way to it.
    fn changeable(&self, led: &[Led]) -> HashSet<Vec<u8>> {
        let links: HashSet<&[u8]> =
            led.iter().flat_map(|led| &led.links).map(|link| &link.path[..]).collect();
        let written = |path: &[u8]| {
            let names: Vec<&[u8]> =
                path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
            (1..=names.len()).any(|end| self.writable.iter().any(|glob| glob.matches(&names[..end])))
        };
        links
            .into_iter()
            .filter(|link| self.mounts.aliases(link).iter().any(|path| written(path)))
            .map(<[u8]>::to_vec)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::policy::{
        check::{Overlay, check},
        compile::{compile, path_bits},
        parse::{Document, Source},
    };

    const MOUNTS: &str = "21 1 8:1 / / rw - ext4 a rw\n22 21 0:5 / /proc rw - proc proc rw\n\
                          23 21 8:1 /srv/shared /mnt/shared rw - ext4 a rw\n";
    const ALL: u32 = 7;

    fn mounts() -> MountTable {
        MountTable::parse(MOUNTS.as_bytes()).unwrap()
    }

    /// Follows the rules of a policy; the checked policy and the warnings.
    fn followed(files: &str, links: &[(&str, &str)]) -> (CheckedPolicy, String) {
        let text = format!("version = 1\n[files]\n{files}\n");
        let document = Document::new(Source { name: "p.toml".into(), text }).unwrap();
        let mut policy = check(&[document], &Overlay::default()).unwrap();
        let links: BTreeMap<&[u8], &[u8]> = links.iter().map(|(l, t)| (l.as_bytes(), t.as_bytes())).collect();
        let read = |path: &[u8]| Ok(links.get(path).map(|target| target.to_vec()));
        let warnings = follow(&mut policy, &mounts(), &read).unwrap();
        let warnings = warnings.into_iter().map(|warning| Diagnostics(vec![warning]).to_string()).collect();
        (policy, warnings)
    }

    fn bits(policy: &CheckedPolicy, path: &str) -> (u32, u32) {
        path_bits(&compile(policy, &mounts()).unwrap().0, 8 << 20 | 1, path.as_bytes()).unwrap_or_default()
    }

    #[test]
    fn what_is_allowed_through_a_link_is_allowed_at_its_end() {
        let links = [
            ("/bin", "usr/bin"),
            ("/usr/bin/editor", "/etc/alternatives/editor"),
            ("/etc/alternatives/editor", "/bin/nano"),
        ];
        let (policy, warnings) = followed("exec = [\"/usr/bin/editor\"]\nread = [\"/bin/s*\"]", &links);
        assert_eq!(warnings, "");
        assert_eq!(bits(&policy, "/usr/bin/nano"), (5, 0));
        assert_eq!(bits(&policy, "/usr/bin/sh"), (1, 0));
        assert_eq!(bits(&policy, "/usr/bin/cat"), (0, 0));
        assert_eq!(bits(&policy, "/etc/alternatives/editor"), (0, 0), "reading a link is no open");
    }

    #[test]
    fn what_is_denied_through_a_link_is_denied_at_its_end_and_the_link_stays() {
        let links = [("/ws/now", "releases/5"), ("/ws/releases/5", "/ws/old")];
        let (policy, warnings) = followed("write = [\"/ws/**\"]\ndeny = [\"/ws/now/key\"]", &links);
        assert_eq!(warnings, "");
        assert_eq!(bits(&policy, "/ws/old/key").1 & ALL, ALL);
        assert_eq!(bits(&policy, "/ws/now/key").1 & ALL, ALL);
        assert_eq!(bits(&policy, "/ws/now").1 & ACCESS_WRITE, ACCESS_WRITE, "cannot be led elsewhere");
        assert_eq!(bits(&policy, "/ws/releases/5").1 & ACCESS_WRITE, ACCESS_WRITE);
        assert_eq!(bits(&policy, "/ws/releases").1, 8, "cannot be moved away");
        assert_eq!(bits(&policy, "/ws/releases/6").1, 0);
    }

    #[test]
    fn a_link_the_workload_can_plant_is_not_followed() {
        for (files, link, target) in [
            ("write = [\"/ws/**\"]\nread = [\"/ws/x/**\"]", "/ws/x", "/etc"),
            // The rule itself lets its link be changed.
            ("write = [\"/home/u/.rc\"]", "/home/u/.rc", "/etc/rc"),
            // A directory on the way can be exchanged.
            ("write = [\"/data/in\"]\nread = [\"/data/in/x/f\"]", "/data/in/x", "/etc"),
            // The same place under the name of another mount.
            ("write = [\"/mnt/shared/**\"]\nread = [\"/srv/shared/x/**\"]", "/srv/shared/x", "/etc"),
        ] {
            let (policy, warnings) = followed(files, &[(link, target)]);
            assert!(warnings.contains("the link is not followed"), "{warnings}");
            assert!(warnings.contains(&format!("{link} -> {target}")), "{warnings}");
            assert!(warnings.contains("p.toml:"), "{warnings}");
            for path in ["/etc/passwd", "/etc/rc", "/etc/f"] {
                assert_eq!(bits(&policy, path), (0, 0), "{files}");
            }
        }
    }

    #[test]
    fn a_link_that_following_another_makes_changeable_is_not_followed() {
        let files = "write = [\"/out/**\"]\nread = [\"/var/app/x/**\"]";
        let (policy, warnings) = followed(files, &[("/out", "/var/app"), ("/var/app/x", "/etc")]);
        assert!(warnings.contains("/var/app/x -> /etc"), "{warnings}");
        assert_eq!(bits(&policy, "/var/app/f").0, 3);
        assert_eq!(bits(&policy, "/etc/passwd").0, 0);
    }

    #[test]
    fn a_planted_link_makes_no_other_link_doubtful() {
        let files = "write = [\"/ws/**\", \"/ws/x/**\"]\nexec = [\"/bin/sh\"]";
        let (policy, _) = followed(files, &[("/ws/x", "/"), ("/bin", "usr/bin")]);
        assert_eq!(bits(&policy, "/usr/bin/sh"), (5, 0));
    }

    #[test]
    fn links_within_what_is_allowed_anyway_are_passed_over() {
        let files = "write = [\"/ws/**\"]\nread = [\"/ws/x/**\"]";
        assert_eq!(followed(files, &[("/ws/x", "y")]).1, "");
    }

    #[test]
    fn links_of_the_calling_process_are_left_alone() {
        let links =
            [("/proc/self", "123"), ("/proc/self/exe", "/usr/bin/stockade"), ("/proc/mounts", "self/mounts")];
        let (policy, _) = followed("read = [\"/proc/mounts\", \"/proc/self/exe\"]", &links);
        let added: Vec<&str> = policy.paths.iter().map(|rule| rule.pattern.as_str()).collect();
        assert!(added.contains(&"/proc/self/mounts") && !added.contains(&"/usr/bin/stockade"));
        assert!(!added.iter().any(|pattern| pattern.contains("123")));
    }

    #[test]
    fn names_no_rule_can_hold_widen_only_denials() {
        let links = [("/a", "/odd*")];
        let (policy, warnings) = followed("read = [\"/a/x\"]", &links);
        assert!(warnings.contains("cannot name it exactly"), "{warnings}");
        assert_eq!(bits(&policy, "/odd*/x").0, 0);
        assert_eq!(bits(&followed("deny = [\"/a/x\"]", &links).0, "/odd*/x").1 & ALL, ALL);
    }

    #[test]
    fn a_denial_nobody_can_follow_is_an_error() {
        let text = "version = 1\n[files]\ndeny = [\"/a/x\"]\n".to_owned();
        let document = Document::new(Source { name: "p.toml".into(), text }).unwrap();
        let mut policy = check(&[document], &Overlay::default()).unwrap();
        let read = |path: &[u8]| {
            if path == b"/a" { Err(std::io::ErrorKind::PermissionDenied.into()) } else { Ok(None) }
        };
        let message = follow(&mut policy, &mounts(), &read).unwrap_err().to_string();
        assert!(message.contains("p.toml:3") && message.contains("permission denied"), "{message}");
    }
}
