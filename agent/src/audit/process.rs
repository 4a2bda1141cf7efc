//! Who is who in a run: each process's program and descent, from the exec, fork and exit records, which come in order.
//! Looking into /proc instead would race with processes that are gone, and with those that have executed another file.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::decode::{Body, Record};

/// Ancestors that are kept: a chain of forks may be as long as the workload likes.
const MAX_ANCESTORS: usize = 16;
/// Processes that are kept; beyond, they stay unknown. Only lost exit records could bring it so far.
const MAX_PROCESSES: usize = 65_536;

/// A process that forked another, with the program it ran when it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Its id.
    pub pid: u32,
    /// Path of its program; `None`: unknown.
    pub exe: Option<Bytes>,
}

/// What is known of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descent {
    /// Path of its program; `None`: unknown.
    pub exe: Option<Bytes>,
    /// Who forked it, and so on, up to the run's first process.
    pub ancestors: Arc<[Ancestor]>,
    /// There are more ancestors than were kept.
    pub truncated: bool,
}

/// The processes of a run.
#[derive(Debug, Default)]
pub struct Processes {
    known: HashMap<u32, Descent>,
}

impl Processes {
    /// Takes note of an exec or fork, before anything is said about the record. `visible` gives a program's path as the
    /// workload sees it.
    pub fn begin(&mut self, record: &Record, visible: impl FnOnce(u32, &Bytes) -> Bytes) {
        let pid = record.header.tgid;
        match &record.body {
            Body::Exec { file, .. } => {
                let exe = (!file.path.is_empty()).then(|| visible(file.dev, &file.path));
                if let Some(known) = self.entry(pid) {
                    known.exe = exe;
                }
            }
            Body::Fork { child } => {
                let descent = child_of(pid, self.known.get(&pid).cloned().unwrap_or_default());
                if let Some(known) = self.entry(*child) {
                    *known = descent;
                }
            }
            Body::File(_) | Body::Net(_) | Body::Exit { .. } | Body::Target { .. } => {}
        }
    }

    /// Takes note of an exit, after everything was said about the record.
    pub fn end(&mut self, record: &Record) {
        if matches!(record.body, Body::Exit { .. }) {
            self.known.remove(&record.header.tgid);
        }
    }

    /// What is known of a process.
    #[must_use]
    pub fn get(&self, pid: u32) -> Descent {
        self.known.get(&pid).cloned().unwrap_or_default()
    }

    /// Records were lost, and with them perhaps an exec: from now on nothing is known until it is told again.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    fn entry(&mut self, pid: u32) -> Option<&mut Descent> {
        if self.known.len() >= MAX_PROCESSES && !self.known.contains_key(&pid) {
            return None;
        }
        Some(self.known.entry(pid).or_default())
    }
}

fn child_of(pid: u32, parent: Descent) -> Descent {
    let mut ancestors = Vec::with_capacity(MAX_ANCESTORS.min(parent.ancestors.len() + 1));
    ancestors.push(Ancestor { pid, exe: parent.exe.clone() });
    ancestors.extend(parent.ancestors.iter().take(MAX_ANCESTORS - 1).cloned());
    Descent {
        exe: parent.exe,
        truncated: parent.truncated || parent.ancestors.len() >= MAX_ANCESTORS,
        ancestors: ancestors.into(),
    }
}

#[cfg(test)]
mod tests {
    use stockade_common::event::kind;

    use super::{
        super::{decode::File, sample},
        *,
    };

    fn record(pid: u32, body: Body) -> Record {
        let mut record = Record { header: sample::header(kind::EXIT), body };
        record.header.tgid = pid;
        record
    }

    fn exec(path: &'static str) -> Body {
        let path = Bytes::from_static(path.as_bytes());
        Body::Exec { file: File { dev: 1, access: 4, mode: 0, path }, argv: Bytes::new(), full_len: 0 }
    }

    fn told(steps: &[(u32, Body)]) -> Processes {
        let mut processes = Processes::default();
        for (pid, body) in steps {
            let record = record(*pid, body.clone());
            processes.begin(&record, |_, path| path.clone());
            processes.end(&record);
        }
        processes
    }

    fn ancestor(pid: u32, exe: &'static str) -> Ancestor {
        Ancestor { pid, exe: Some(Bytes::from_static(exe.as_bytes())) }
    }

    #[test]
    fn descent_is_what_each_ran_when_it_forked() {
        let processes = told(&[
            (10, exec("/sh")),
            (10, Body::Fork { child: 11 }),
            (11, Body::Fork { child: 12 }),
            (11, exec("/make")),
            (12, exec("/cc")),
            (11, Body::Exit { status: 0 }),
        ]);
        let cc = processes.get(12);
        assert_eq!(cc.exe.as_deref(), Some(b"/cc".as_slice()));
        assert_eq!(*cc.ancestors, [ancestor(11, "/sh"), ancestor(10, "/sh")], "not what it executed later");
        assert_eq!(processes.get(11), Descent::default(), "gone");
        assert!(processes.get(10).ancestors.is_empty());
    }

    #[test]
    fn a_reused_id_is_another_process() {
        let processes = told(&[
            (10, exec("/sh")),
            (10, Body::Fork { child: 11 }),
            (11, exec("/cc")),
            (10, Body::Fork { child: 11 }),
        ]);
        assert_eq!(processes.get(11).exe.as_deref(), Some(b"/sh".as_slice()));
    }

    #[test]
    fn long_descents_are_cut_and_say_so() {
        let mut steps = vec![(1, exec("/sh"))];
        steps.extend((1..=17).map(|pid| (pid, Body::Fork { child: pid + 1 })));
        let processes = told(&steps);
        assert_eq!((processes.get(17).ancestors.len(), processes.get(17).truncated), (16, false));
        assert_eq!((processes.get(18).ancestors.len(), processes.get(18).truncated), (16, true));
        assert_eq!(processes.get(18).ancestors[0].pid, 17);
    }

    #[test]
    fn after_a_loss_nothing_is_known() {
        let mut processes = told(&[(10, exec("/sh"))]);
        processes.forget();
        assert_eq!(processes.get(10), Descent::default());
    }
}
