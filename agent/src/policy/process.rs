//! `[process]`: capabilities, and facilities of the kernel that reach beyond a tag, each given by name.

use std::ops::Range;

use stockade_common::process::{Powers, RELAXATIONS};

use super::{
    diagnostic::Diagnostic,
    parse::{Document, Source},
    rule::Refusal,
    suggest::closest,
};

/// Capabilities by number, as `capabilities(7)` calls them.
pub const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// What every policy gives: those that reach no further than files and users that rules are about. Not setfcap: a file
/// capability would outlive the run.
pub const BASIC: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 29;
const ALL: &str = "all";

/// What a policy gives its processes. More in one document is more in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Bit n: capability n counts in the initial user namespace.
    pub capabilities: u64,
    /// `ALLOW_*` bits.
    pub allow: u32,
}

impl Default for Process {
    fn default() -> Self {
        Self { capabilities: BASIC, allow: 0 }
    }
}

impl From<Process> for Powers {
    fn from(Process { capabilities, allow }: Process) -> Self {
        Self { capabilities, allow, pad: 0 }
    }
}

impl Process {
    /// What is given beside [`BASIC`], as policies say it: capabilities, and the rest.
    #[must_use]
    pub fn written(self) -> (Vec<&'static str>, Vec<&'static str>) {
        let capabilities = if self.capabilities == u64::MAX {
            vec![ALL]
        } else {
            let given = CAPABILITIES.iter().enumerate();
            let given = given.filter(|(number, _)| (self.capabilities & !BASIC) >> number & 1 != 0);
            given.map(|(_, name)| *name).collect()
        };
        let allow = RELAXATIONS.iter().filter(|(_, bit)| self.allow & bit != 0);
        (capabilities, allow.map(|(name, _)| *name).collect())
    }
}

/// The set that a name of `capabilities` stands for, in whatever case, with or without `cap_`.
///
/// # Errors
/// If it is none; with one that was probably meant.
pub fn capability(name: &str) -> Result<u64, Refusal> {
    let lower = name.to_ascii_lowercase();
    let bare = lower.strip_prefix("cap_").unwrap_or(&lower);
    if bare == ALL {
        return Ok(u64::MAX);
    }
    CAPABILITIES
        .iter()
        .position(|known| *known == bare)
        .map(|number| 1 << number)
        .ok_or_else(|| unknown("capability", name, closest(bare, CAPABILITIES)))
}

/// The bit that a name of `allow` stands for.
///
/// # Errors
/// If it is none; with one that was probably meant.
pub fn relaxation(name: &str) -> Result<u32, Refusal> {
    let names = || RELAXATIONS.iter().map(|(name, _)| *name);
    let found = RELAXATIONS.iter().find(|(known, _)| *known == name);
    found.map(|(_, bit)| *bit).ok_or_else(|| {
        let Refusal { message, help } = unknown("facility", name, closest(name, names()));
        let help = help.unwrap_or_else(|| format!("there are {}", names().collect::<Vec<_>>().join(", ")));
        Refusal { message, help: Some(help) }
    })
}

fn unknown(what: &str, name: &str, meant: Option<&str>) -> Refusal {
    let help = meant.map(|meant| format!("did you mean {meant:?}?"));
    Refusal { message: format!("there is no {what} {name:?}"), help }
}

/// What documents and flags give together.
pub fn settings(
    documents: &[&Document],
    capabilities: &[String],
    allow: &[String],
    problems: &mut Vec<Diagnostic>,
) -> Process {
    let mut given = Process::default();
    let mut add = |name: &str, is_capability: bool, place: &dyn Fn(Refusal) -> Diagnostic| {
        let added = if is_capability {
            capability(name).map(|bits| given.capabilities |= bits)
        } else {
            relaxation(name).map(|bit| given.allow |= bit)
        };
        if let Err(refusal) = added {
            problems.push(place(refusal));
        }
    };
    for Document { source, policy } in documents.iter().copied() {
        let lists = [(&policy.process.capabilities, true), (&policy.process.allow, false)];
        for (names, is_capability) in lists {
            for name in names {
                add(name.get_ref(), is_capability, &|refusal| refusal.at(source, Some(name.span())));
            }
        }
    }
    for (flag, names, is_capability) in
        [("--allow-capability", capabilities, true), ("--allow-process", allow, false)]
    {
        for name in names {
            let source = Source { name: flag.into(), text: name.clone() };
            let span: Option<Range<usize>> = (!name.is_empty()).then_some(0..name.len());
            add(name, is_capability, &|refusal| refusal.at(&source, span.clone()));
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use stockade_common::process::{ALLOW_MOUNTS, ALLOW_USER_NAMESPACES};

    use super::*;

    fn given(texts: &[&str], capabilities: &[&str], allow: &[&str]) -> Result<Process, String> {
        let documents = texts.iter().map(|text| {
            let text = format!("version = 1\n[process]\n{text}");
            Document::new(Source { name: "p.toml".into(), text }).unwrap()
        });
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mut problems = Vec::new();
        let documents: Vec<Document> = documents.collect();
        let documents: Vec<&Document> = documents.iter().collect();
        let given = settings(&documents, &words(capabilities), &words(allow), &mut problems);
        if problems.is_empty() {
            Ok(given)
        } else {
            Err(super::super::diagnostic::Diagnostics(problems).to_string())
        }
    }

    #[test]
    fn what_documents_and_flags_give_adds_up() {
        assert_eq!(given(&[], &[], &[]), Ok(Process::default()));
        let given = given(
            &["capabilities = ['sys_chroot']", "allow = ['mounts']"],
            &["CAP_SYS_PTRACE"],
            &["user-namespaces"],
        )
        .unwrap();
        assert_eq!(given.capabilities, BASIC | 1 << 18 | 1 << 19);
        assert_eq!(given.allow, ALLOW_MOUNTS | ALLOW_USER_NAMESPACES);
        assert_eq!(given.written(), (vec!["sys_chroot", "sys_ptrace"], vec!["user-namespaces", "mounts"]));
    }

    #[test]
    fn all_is_all_and_stays_it() {
        let all = given(&["capabilities = ['all']"], &["chown"], &[]).unwrap();
        assert_eq!((all.capabilities, all.written().0), (u64::MAX, vec!["all"]));
    }

    #[test]
    fn names_that_are_none_are_refused_where_they_stand() {
        let refused = given(&["capabilities = ['sys_admn']"], &[], &["user-namespace"]).unwrap_err();
        for word in ["p.toml:3", "sys_admn", "\"sys_admin\"", "--allow-process", "\"user-namespaces\""] {
            assert!(refused.contains(word), "{word}: {refused}");
        }
        assert!(given(&[], &[], &["everything"]).unwrap_err().contains("io-uring"));
        assert!(given(&[], &[""], &[]).is_err());
    }

    #[test]
    fn numbers_are_the_kernels() {
        for (name, number) in
            [("kill", 5), ("net_raw", 13), ("sys_admin", 21), ("audit_write", 29), ("bpf", 39)]
        {
            assert_eq!(capability(name).unwrap(), 1 << number, "{name}");
        }
    }
}
