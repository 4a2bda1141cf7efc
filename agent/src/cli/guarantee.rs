//! What is guaranteed, and how a guarantee is judged from what an attempt at breaking it came to. The table is the order
//! in which everything is attempted.

use std::io;

use super::attempt::{self, Place};

/// Which hooks stand behind a guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hooks {
    /// LSM programs alone.
    Lsm,
    /// LSM programs, and cgroup programs that refuse the same on their own.
    Both,
}

/// One guarantee.
#[derive(Debug)]
pub struct Guarantee {
    /// Stable name.
    pub name: &'static str,
    /// For people.
    pub text: &'static str,
    /// What enforces it.
    pub hooks: Hooks,
    /// The attempt at breaking it.
    pub attempt: fn(&Place) -> io::Result<()>,
    /// What the attempt ends with outside a tag on a host that lacks its subject, and how that is said.
    pub absent: Option<(&'static [i32], &'static str)>,
}

/// What was found out about a guarantee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Attempted and refused just now, by each of its hooks.
    Enforced,
    /// There is nothing to enforce: this host lacks the subject, and why.
    Absent(&'static str),
    /// It does not hold, or could not be proved, and why.
    Failed(String),
}

const NO_IPV6: Option<(&[i32], &str)> = Some((&[libc::EAFNOSUPPORT], "this host has no IPv6"));
const NO_MPTCP: Option<(&[i32], &str)> =
    Some((&[libc::EPROTONOSUPPORT, libc::ENOPROTOOPT], "this host has no MPTCP"));

const fn lsm(name: &'static str, text: &'static str, attempt: fn(&Place) -> io::Result<()>) -> Guarantee {
    Guarantee { name, text, hooks: Hooks::Lsm, attempt, absent: None }
}

const fn both(
    name: &'static str,
    text: &'static str,
    attempt: fn(&Place) -> io::Result<()>,
    absent: Option<(&'static [i32], &'static str)>,
) -> Guarantee {
    Guarantee { name, text, hooks: Hooks::Both, attempt, absent }
}

/// All of them that one attempt can show.
pub const GUARANTEES: [Guarantee; 21] = [
    lsm("file_read", "files no rule names cannot be opened", attempt::read),
    lsm("file_create", "files no rule names cannot be created", attempt::create),
    lsm("file_delete", "files no rule names cannot be deleted", attempt::delete),
    lsm("file_rename", "files no rule names cannot be renamed", attempt::rename),
    lsm("file_link", "files no rule names cannot be given another name", attempt::link),
    lsm("file_mode", "the mode of files no rule names cannot be changed", attempt::chmod),
    lsm("exec", "files no rule names cannot be executed", attempt::exec),
    both("raw_socket", "raw sockets cannot be made", attempt::raw_socket, None),
    both("mptcp", "MPTCP sockets cannot be made", attempt::mptcp, NO_MPTCP),
    both("tcp4", "IPv4 destinations no rule names cannot be connected to", attempt::tcp4, None),
    both("tcp6", "IPv6 destinations no rule names cannot be connected to", attempt::tcp6, NO_IPV6),
    both("udp4", "datagrams cannot be sent to IPv4 destinations no rule names", attempt::udp4, None),
    both("udp6", "datagrams cannot be sent to IPv6 destinations no rule names", attempt::udp6, NO_IPV6),
    lsm("listen", "addresses that no rule names cannot be listened on", attempt::listen),
    lsm("netlink", "nothing but questions can be sent by netlink", attempt::netlink),
    lsm("unix_stream", "unix sockets made outside cannot be connected to", attempt::unix_stream),
    lsm("unix_dgram", "unix sockets made outside cannot be sent to", attempt::unix_datagram),
    lsm("ptrace", "processes outside cannot be reached into", attempt::ptrace),
    lsm("signal", "no signal can be sent to processes outside", attempt::signal),
    lsm("capability", "capabilities of root that reach beyond the tag do not count", attempt::capability),
    lsm("bpf", "bpf() cannot be called", attempt::bpf),
];

impl Guarantee {
    /// Judges an attempt by its error numbers outside and inside a tag, 0 if it went through.
    #[must_use]
    pub fn judge(&self, outside: i32, inside: i32) -> Proof {
        match (outside, inside) {
            (_, 0) => Proof::Failed("the forbidden attempt went through".into()),
            (libc::EPERM, _) => Proof::Failed("refused outside the tag as well, so nothing is proved".into()),
            (_, libc::EPERM) => Proof::Enforced,
            _ => match self.absent {
                Some((errors, why)) if errors.contains(&outside) => Proof::Absent(why),
                _ => Proof::Failed(format!(
                    "the attempt ended with error {inside} instead of EPERM, outside the tag with {outside}"
                )),
            },
        }
    }
}

impl Proof {
    /// Of the same guarantee by several hooks: all must hold.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Failed(why), _) | (_, Self::Failed(why)) => Self::Failed(why),
            (Self::Absent(why), _) | (_, Self::Absent(why)) => Self::Absent(why),
            (Self::Enforced, Self::Enforced) => Self::Enforced,
        }
    }

    /// Says in a failure which hook it was.
    #[must_use]
    pub fn by(self, hook: &str) -> Self {
        match self {
            Self::Failed(why) => Self::Failed(format!("{hook}: {why}")),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> &'static Guarantee {
        GUARANTEES.iter().find(|guarantee| guarantee.name == name).unwrap()
    }

    #[test]
    fn a_difference_proves_and_nothing_else_does() {
        let tcp6 = named("tcp6");
        assert_eq!(tcp6.judge(libc::ECONNREFUSED, libc::EPERM), Proof::Enforced);
        assert_eq!(tcp6.judge(0, libc::EPERM), Proof::Enforced);
        assert!(matches!(tcp6.judge(libc::EPERM, libc::EPERM), Proof::Failed(_)));
        assert!(matches!(tcp6.judge(libc::ECONNREFUSED, libc::ECONNREFUSED), Proof::Failed(_)));
    }

    #[test]
    fn what_goes_through_is_never_absent() {
        let no = libc::EAFNOSUPPORT;
        assert_eq!(named("tcp6").judge(no, no), Proof::Absent("this host has no IPv6"));
        assert!(matches!(named("tcp6").judge(no, 0), Proof::Failed(_)));
        assert!(matches!(named("tcp4").judge(no, no), Proof::Failed(_)), "there is no host without IPv4");
        assert!(matches!(named("file_read").judge(no, no), Proof::Failed(_)));
    }

    #[test]
    fn every_hook_must_hold() {
        let failed = || Proof::Failed("x".into()).by("LSM hook");
        assert_eq!(Proof::Enforced.and(failed()), Proof::Failed("LSM hook: x".into()));
        assert_eq!(failed().and(Proof::Absent("y")), failed());
        assert_eq!(Proof::Enforced.and(Proof::Enforced), Proof::Enforced);
    }
}
