//! What a compiled policy decides, as the kernel programs decide it (`agent-ebpf/src/file.rs`, `net.rs`). Pure.

use std::net::Ipv4Addr;

use stockade_common::{
    event::reason,
    file::{
        ACCESS_KINDS, ACCESS_LOOK, ACCESS_MOVE, ACCESS_READ, FS_PROC, FS_STRICT_RENAME, FsEntry, NO_RULE,
    },
    limits::ABSTRACT_DEV,
    net::{LISTEN, PORT_ALLOW, TCP, UDP},
    tag::{SCOPE_GUARDED, SCOPE_LOOK},
};

use super::{compile, image::MapImage, ports};

/// A decision, before the scope's mode is considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// One of [`reason`].
    pub reason: u16,
    /// The rule that decides, or [`NO_RULE`].
    pub rule: u32,
}

impl Verdict {
    fn without_rule(reason: u16) -> Self {
        Self { reason, rule: NO_RULE }
    }

    /// Whether it lets the operation go on.
    #[must_use]
    pub fn allows(self) -> bool {
        self.reason == reason::RULE_ALLOW
    }
}

fn filesystem(image: &MapImage, dev: u32) -> Option<&FsEntry> {
    let index = image.filesystems.binary_search_by_key(&dev, |(dev, _)| *dev).ok()?;
    Some(&image.filesystems[index].1)
}

/// What holds for an access, `ACCESS_*` bits, of the process `own` to a path inside a filesystem.
#[must_use]
pub fn file(image: &MapImage, dev: u32, path: &[u8], access: u32, own: u32) -> Verdict {
    let guarded = image.flags & SCOPE_GUARDED != 0;
    if access == ACCESS_LOOK && image.flags & (SCOPE_LOOK | SCOPE_GUARDED) == 0 {
        return Verdict::without_rule(reason::RULE_ALLOW);
    }
    let Some(entry) = filesystem(image, dev) else {
        let abstracts = dev == ABSTRACT_DEV;
        if access == ACCESS_LOOK && !guarded {
            return Verdict::without_rule(reason::RULE_ALLOW);
        }
        return Verdict::without_rule(if abstracts { reason::NO_RULE } else { reason::UNKNOWN_FILESYSTEM });
    };
    let (mut starts, mut path) = ((entry.anchored, entry.floating), path);
    if entry.flags & FS_PROC != 0
        && let Some(after) = after_own_process(path, own)
    {
        (starts, path) = ((entry.anchored_self, entry.floating_self), after);
    }
    let (a, f) = (compile::accept_at(image, starts.0, path), compile::accept_at(image, starts.1, path));
    let looks = access == ACCESS_LOOK;
    if looks && (a.deny | f.deny) & ACCESS_READ == 0 {
        let shown = !guarded || a.allow | f.allow != 0;
        return Verdict::without_rule(if shown { reason::RULE_ALLOW } else { reason::NO_RULE });
    }
    let access = if looks { ACCESS_READ } else { access };
    let denied = (a.deny | f.deny) & access;
    if denied != 0 {
        let moves = denied == ACCESS_MOVE;
        let rule = named(access, (a.deny, &a.deny_rule), (f.deny, &f.deny_rule));
        return Verdict { reason: if moves { reason::MOVES_DENIED } else { reason::RULE_DENY }, rule };
    }
    let wanted = access & !ACCESS_MOVE;
    if (a.allow | f.allow) & wanted == wanted {
        let rule = named(wanted, (a.allow, &a.allow_rule), (f.allow, &f.allow_rule));
        return Verdict { reason: reason::RULE_ALLOW, rule };
    }
    Verdict::without_rule(reason::NO_RULE)
}

/// Whether a directory of a filesystem may only be renamed within the directory it is in.
#[must_use]
pub fn renames_strictly(image: &MapImage, dev: u32) -> bool {
    filesystem(image, dev).is_none_or(|entry| entry.flags & FS_STRICT_RENAME != 0)
}

type Rules<'a> = (u32, &'a [u32; ACCESS_KINDS]);

/// The rule to name: that of the first kind of access asked for which either automaton decides.
fn named(access: u32, anchored: Rules<'_>, floating: Rules<'_>) -> u32 {
    let decides =
        |kind: usize, (mask, rules): Rules<'_>| (access & mask & 1 << kind != 0).then_some(rules[kind]);
    (0..ACCESS_KINDS)
        .find_map(|kind| decides(kind, anchored).or_else(|| decides(kind, floating)))
        .unwrap_or(NO_RULE)
}

/// What follows the process's own id, if the path begins with it.
fn after_own_process(path: &[u8], own: u32) -> Option<&[u8]> {
    let rest = path.strip_prefix(b"/")?;
    // The kernel programs look at ten digits: no id has more.
    let digits = rest.iter().take(10).take_while(|byte| byte.is_ascii_digit()).count();
    let number =
        rest[..digits].iter().fold(0u32, |n, byte| n.wrapping_mul(10).wrapping_add(u32::from(byte - b'0')));
    let after = &rest[digits..];
    let ends = after.first().is_none_or(|byte| *byte == b'/');
    (ends && digits > 0 && number == own).then_some(after)
}

/// What holds for a destination; an IPv4 address is a mapped one.
#[must_use]
pub fn net(image: &MapImage, addr: [u8; 16], port: u16, protocol: u16) -> Verdict {
    let protocol = u32::from(protocol);
    if protocol != TCP && protocol != UDP {
        return Verdict::without_rule(reason::FAMILY);
    }
    let at = |addr: u128| at(image, addr, port, protocol);
    let mapped = |addr: Ipv4Addr| u128::from(addr.to_ipv6_mapped());
    let addr = u128::from_be_bytes(addr);
    // The unspecified address is the loopback address, or that which the socket is bound to: both must be allowed.
    let also = match addr {
        0 => 1,
        addr if addr == mapped(Ipv4Addr::UNSPECIFIED) => addr,
        addr => return at(addr),
    };
    let first = at(also);
    if first.allows() { at(mapped(Ipv4Addr::LOCALHOST)) } else { first }
}

/// What holds for listening on a local address, which is the unspecified one with port 0 for a socket that is not bound.
#[must_use]
pub fn listen(image: &MapImage, addr: [u8; 16], port: u16, protocol: u16) -> Verdict {
    let protocol = u32::from(protocol);
    if protocol != TCP && protocol != UDP {
        return Verdict::without_rule(reason::FAMILY);
    }
    at(image, u128::from_be_bytes(addr), port, protocol | LISTEN)
}

fn at(image: &MapImage, addr: u128, port: u16, protocol: u32) -> Verdict {
    match ports::lookup(&image.prefixes, &image.ports, addr, protocol, port) {
        Some(range) if range.verdict == PORT_ALLOW => {
            Verdict { reason: reason::RULE_ALLOW, rule: range.rule }
        }
        Some(range) => Verdict { reason: reason::RULE_DENY, rule: range.rule },
        None => Verdict::without_rule(reason::NO_RULE),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stockade_common::file::{ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE};

    use super::*;
    use crate::policy::{
        checked::{CheckedPolicy, NetRule, PathRule},
        compile::{compile, path_bits},
        globs,
        mounts::MountTable,
    };

    const ROOT: u32 = 8 << 20 | 1;
    const PROC: u32 = 5;
    const MOUNTS: &[u8] = b"21 1 8:1 / / rw - ext4 a rw\n22 21 0:5 / /proc rw - proc proc rw\n";

    fn image(paths: Vec<PathRule>, destinations: Vec<NetRule>) -> MapImage {
        let policy = CheckedPolicy { paths, destinations, ..CheckedPolicy::default() };
        compile(&policy, &MountTable::parse(MOUNTS).unwrap()).unwrap().0
    }

    fn path(pattern: &str, access: u32, deny: bool, rule: u32) -> PathRule {
        PathRule { pattern: pattern.into(), access, deny, protects: false, rule }
    }

    fn to(prefix: &str, deny: bool, rule: u32) -> NetRule {
        let ports = vec![(0, u16::MAX)];
        NetRule { prefix: prefix.parse().unwrap(), ports, tcp: true, udp: false, deny, rule }
    }

    fn v4(text: &str) -> [u8; 16] {
        text.parse::<Ipv4Addr>().unwrap().to_ipv6_mapped().octets()
    }

    #[test]
    fn what_no_rule_reaches_is_denied() {
        let image = image(vec![path("/srv/**", ACCESS_READ, false, 0)], Vec::new());
        assert_eq!(file(&image, 77, b"/srv/a", ACCESS_READ, 1).reason, reason::UNKNOWN_FILESYSTEM);
        assert_eq!(file(&image, ROOT, b"/etc/a", ACCESS_READ, 1).reason, reason::NO_RULE);
        assert_eq!(file(&image, ROOT, b"/srv/a", ACCESS_READ | ACCESS_WRITE, 1).reason, reason::NO_RULE);
        assert_eq!(
            file(&image, ROOT, b"/srv/a", ACCESS_READ, 1),
            Verdict { reason: reason::RULE_ALLOW, rule: 0 }
        );
    }

    #[test]
    fn a_denial_wins_and_is_named() {
        let both = ACCESS_READ | ACCESS_WRITE;
        let image =
            image(vec![path("/srv/**", both, false, 0), path("**/.env", ACCESS_WRITE, true, 1)], Vec::new());
        assert_eq!(file(&image, ROOT, b"/srv/.env", both, 1), Verdict { reason: reason::RULE_DENY, rule: 1 });
        assert!(file(&image, ROOT, b"/srv/.env", ACCESS_READ, 1).allows());
    }

    #[test]
    fn a_directory_on_the_way_to_a_denial_stays_where_it_is() {
        let rules = vec![path("/ws/**", ACCESS_WRITE, false, 0), path("/ws/a/b", ACCESS_READ, true, 1)];
        let image = image(rules, Vec::new());
        let verdict = |path: &[u8], access| file(&image, ROOT, path, access, 1);
        let moved = ACCESS_WRITE | ACCESS_MOVE;
        assert_eq!(verdict(b"/ws/a", moved), Verdict { reason: reason::MOVES_DENIED, rule: 1 });
        assert!(verdict(b"/ws/a", ACCESS_WRITE).allows());
        assert!(verdict(b"/ws/c", moved).allows());
    }

    #[test]
    fn a_process_is_itself_in_proc() {
        let image = image(vec![path("/proc/self/**", ACCESS_READ, false, 0)], Vec::new());
        let allows = |path: &[u8]| file(&image, PROC, path, ACCESS_READ, 42).allows();
        assert!(allows(b"/42/maps") && allows(b"/42"));
        for other in [&b"/43/maps"[..], b"/420", b"/4", b"/42x", b"/version", b"/"] {
            assert!(!allows(other), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn the_unspecified_address_needs_both() {
        let verdict = |rules: &[&str], addr| {
            let rules = (0u32..).zip(rules).map(|(id, prefix)| to(prefix, false, id)).collect();
            net(&image(Vec::new(), rules), addr, 80, 6).allows()
        };
        assert!(!verdict(&["127.0.0.1/32"], v4("0.0.0.0")));
        assert!(!verdict(&["0.0.0.0/32"], v4("0.0.0.0")));
        assert!(!verdict(&["0.0.0.0/0"], v4("0.0.0.0")), "a wide rule does not mean it");
        assert!(verdict(&["0.0.0.0/32", "127.0.0.1/32"], v4("0.0.0.0")));
        assert!(!verdict(&["::1/128"], [0; 16]) && !verdict(&["127.0.0.1/32"], [0; 16]));
        assert!(verdict(&["::1/128", "127.0.0.1/32"], [0; 16]));
    }

    #[test]
    fn other_protocols_cannot_be_named() {
        let image = image(Vec::new(), vec![to("0.0.0.0/0", false, 0)]);
        assert!(net(&image, v4("192.0.2.1"), 80, 6).allows());
        assert_eq!(net(&image, v4("192.0.2.1"), 80, 17).reason, reason::NO_RULE);
        assert_eq!(net(&image, v4("192.0.2.1"), 0, 1).reason, reason::FAMILY);
    }

    proptest! {
        #[test]
        fn file_verdicts_are_those_of_the_tables(
            patterns in proptest::collection::vec((globs::tests::pattern(), 1u32..8, any::<bool>()), 1..8),
            parts in globs::tests::path(),
            access in 1u32..16,
        ) {
            let rules: Vec<PathRule> = (0u32..)
                .zip(&patterns)
                .map(|(id, (pattern, access, deny))| path(pattern, *access, *deny, id))
                .collect();
            let image = image(rules, Vec::new());
            let inside = format!("/{}", parts.join("/"));
            let verdict = file(&image, ROOT, inside.as_bytes(), access, 1);
            let Some((allow, deny)) = path_bits(&image, ROOT, inside.as_bytes()) else {
                prop_assert_eq!(verdict, Verdict::without_rule(reason::UNKNOWN_FILESYSTEM));
                return Ok(());
            };
            let wanted = access & (ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC);
            prop_assert_eq!(verdict.allows(), deny & access == 0 && allow & wanted == wanted);
            if verdict.rule != NO_RULE {
                let (_, granted, denies) = patterns[verdict.rule as usize];
                prop_assert_eq!(denies, !verdict.allows());
                prop_assert!(granted & access != 0 || (denies && access & ACCESS_MOVE != 0));
            }
        }

        #[test]
        fn destinations_are_judged_as_the_rules_read(
            rules in proptest::collection::vec((0u32..4, 0u8..6, any::<bool>()), 1..8),
            addr in 0u32..16,
            port in any::<u16>(),
        ) {
            let rules: Vec<NetRule> = (0u32..).zip(rules).map(|(id, (bits, length, deny))| {
                to(&format!("{}/{length}", Ipv4Addr::from(bits << 30 >> 2)), deny, id)
            }).map(|rule| NetRule { prefix: rule.prefix.trunc(), ..rule }).collect();
            let plain = Ipv4Addr::from((addr << 28) | 1);
            let covers = |rule: &&NetRule| rule.prefix.contains(&std::net::IpAddr::V4(plain));
            let denial = rules.iter().filter(covers).find(|rule| rule.deny);
            let expected = match (denial, rules.iter().find(covers)) {
                (Some(rule), _) => Verdict { reason: reason::RULE_DENY, rule: rule.rule },
                (None, Some(rule)) => Verdict { reason: reason::RULE_ALLOW, rule: rule.rule },
                (None, None) => Verdict::without_rule(reason::NO_RULE),
            };
            let image = image(Vec::new(), rules.clone());
            prop_assert_eq!(net(&image, plain.to_ipv6_mapped().octets(), port, 6), expected);
        }
    }
}
