//! What was refused in a run, how often, why, and what would allow it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use stockade_common::event::verdict;

use super::{
    decode::Record,
    gate,
    json::Context,
    refusal::{Access, Refusal, Subject, is_plain},
};
use crate::dns::GateEvent;

/// Lines that are shown.
const MAX_LINES: usize = 20;
/// Different refusals that are kept: the workload chooses the names, and must not choose how much memory we take.
const MAX_KINDS: usize = 2_000;
/// So many files of one directory become one line.
const MANY_FILES: usize = 4;

/// Counts of refusals by what they were.
#[derive(Debug, Default)]
pub struct Summary {
    refusals: HashMap<Refusal, u64>,
    others: u64,
    only_reported: bool,
}

type Counted<'a> = (&'a Refusal, u64);

/// One line to show.
struct Line {
    count: u64,
    text: String,
}

impl Summary {
    /// Takes note of a record, if it is a refusal.
    pub fn add(&mut self, record: &Record, context: &Context) {
        if record.header.verdict == verdict::ALLOWED {
            return;
        }
        self.only_reported |= record.header.verdict == verdict::WOULD_DENY;
        self.note(Refusal::of(record, context));
    }

    /// Takes note of a question, if it was not answered.
    pub fn asked(&mut self, event: &GateEvent, context: &Context) {
        if let Some(refusal) = gate::refusal(event, context) {
            self.note(refusal);
        }
    }

    fn note(&mut self, refusal: Refusal) {
        if self.refusals.len() < MAX_KINDS || self.refusals.contains_key(&refusal) {
            *self.refusals.entry(refusal).or_default() += 1;
        } else {
            self.others += 1;
        }
    }

    /// The lines, most frequent first; nothing if nothing was refused.
    #[must_use]
    pub fn render(&self) -> Option<String> {
        let total = self.refusals.values().sum::<u64>() + self.others;
        if total == 0 {
            return None;
        }
        let mut lines = self.lines();
        lines.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.text.cmp(&b.text)));
        let verb = if self.only_reported { "would have been refused" } else { "refused" };
        let mut out = format!("stockade: {total} {verb}\n");
        for Line { count, text } in lines.iter().take(MAX_LINES) {
            let _ = writeln!(out, "{count:6} x {text}");
        }
        let rest: u64 = lines.iter().skip(MAX_LINES).map(|line| line.count).sum::<u64>() + self.others;
        if rest > 0 {
            let _ = writeln!(out, "       ... and {rest} more");
        }
        Some(out)
    }

    /// Files that one glob would allow become one line.
    fn lines(&self) -> Vec<Line> {
        let mut folders: BTreeMap<(Access, &str, &str), Vec<Counted<'_>>> = BTreeMap::new();
        let mut lines = Vec::new();
        for (refusal, count) in &self.refusals {
            match folder(refusal) {
                Some((access, folder)) => {
                    folders.entry((access, folder, &refusal.why)).or_default().push((refusal, *count));
                }
                None => lines.push(single(refusal, *count)),
            }
        }
        for ((access, folder, why), files) in folders {
            if files.len() < MANY_FILES {
                lines.extend(files.into_iter().map(|(refusal, count)| single(refusal, count)));
                continue;
            }
            let count = files.iter().map(|(_, count)| count).sum();
            let flag = access.flag(&format!("{folder}/*"));
            let text =
                format!("{} {} files in {folder}: {why}; allow with {flag}", access.verb(), files.len());
            lines.push(Line { count, text });
        }
        lines
    }
}

fn single(refusal: &Refusal, count: u64) -> Line {
    let hint = refusal.flag().map_or_else(String::new, |flag| format!("; allow with {flag}"));
    Line { count, text: format!("{}: {}{hint}", refusal.what(), refusal.why) }
}

/// The directory that might be allowed instead of the file. Not one at the top but /tmp, and no home: too much else is in
/// there.
fn folder(refusal: &Refusal) -> Option<(Access, &str)> {
    let Subject::File { access, path } = &refusal.subject else { return None };
    let (folder, _) = path.rsplit_once('/')?;
    let names = folder.matches('/').count();
    let is_home = names == 2 && folder.starts_with("/home/");
    let narrow = folder == "/tmp" || names > 1 && !is_home;
    (refusal.allowable && narrow && is_plain(path)).then_some((*access, folder))
}

#[cfg(test)]
mod tests {
    use stockade_common::event::{hook, kind, reason};

    use super::{
        super::{decode::Body, sample},
        *,
    };
    use crate::policy::image::RuleInfo;

    fn open(access: u32, path: &str) -> Record {
        Record { header: sample::header(kind::OPEN), body: Body::File(sample::file(access, path.as_bytes())) }
    }

    fn rendered(records: &[Record]) -> Option<String> {
        let rule =
            RuleInfo { text: "**/.ssh/**".into(), source: "ci.toml:12".into(), list: "files.deny".into() };
        let context = Context { rules: vec![rule], ..Context::default() };
        let mut summary = Summary::default();
        for record in records {
            summary.add(record, &context);
        }
        summary.render()
    }

    #[test]
    fn nothing_refused_is_nothing_said() {
        let mut allowed = open(1, "/a");
        allowed.header.verdict = verdict::ALLOWED;
        assert_eq!(rendered(&[allowed]), None);
    }

    #[test]
    fn a_run_as_its_user_reads_it() {
        let mut records = vec![open(1, "/home/u/.ssh/id"); 2];
        for record in &mut records {
            record.header.rule = 0;
            record.header.reason = reason::RULE_DENY;
        }
        records.extend(["a", "b", "c", "d"].map(|name| open(1, &format!("/usr/share/zoneinfo/{name}"))));
        records.push(open(3, "/home/u/.profile"));
        records.push(open(1, "/home/u/$(reboot)"));
        records.push(Record {
            header: sample::header(kind::CONNECT),
            body: Body::Net(sample::net([169, 254, 169, 254], 80, 6)),
        });
        let mut bpf =
            Record { header: sample::header(kind::CONFINE), body: Body::Target { pid: 0, detail: 5 } };
        (bpf.header.hook, bpf.header.reason) = (hook::BPF, reason::CONFINED);
        records.push(bpf);
        let expected = "\
stockade: 10 refused
     4 x read 4 files in /usr/share/zoneinfo: no rule allows it; allow with --allow-read '/usr/share/zoneinfo/*'
     2 x read /home/u/.ssh/id: denied by **/.ssh/** (ci.toml:12)
     1 x connect to 169.254.169.254:80/tcp: no rule allows it; allow with --allow-net '169.254.169.254:80/tcp'
     1 x read /home/u/$(reboot): no rule allows it
     1 x use bpf(): it would undo the enforcement
     1 x write /home/u/.profile: no rule allows it; allow with --allow-write '/home/u/.profile'
";
        assert_eq!(rendered(&records).as_deref(), Some(expected));
    }

    #[test]
    fn wide_directories_are_not_suggested() {
        for folder in ["/etc", "/home/u", ""] {
            let records = ["a", "b", "c", "d"].map(|name| open(1, &format!("{folder}/{name}")));
            let text = rendered(&records).unwrap();
            assert!(!text.contains('*') && text.lines().count() == 5, "{text}");
        }
    }

    #[test]
    fn audit_mode_says_so_and_the_rest_is_counted() {
        let records: Vec<Record> = (0..30)
            .map(|number| {
                let mut record = open(4, &format!("/opt{number:02}"));
                record.header.verdict = verdict::WOULD_DENY;
                record
            })
            .collect();
        let text = rendered(&records).unwrap();
        assert!(
            text.starts_with("stockade: 30 would have been refused\n     1 x execute /opt00: "),
            "{text}"
        );
        assert!(text.ends_with("\n       ... and 10 more\n"), "{text}");
        assert_eq!(text.lines().count(), 22);
    }

    #[test]
    fn open_and_change_of_one_file_are_one_line() {
        let mut change = open(2, "/opt/x");
        change.header.kind = kind::CHANGE;
        let text = rendered(&[change, open(3, "/opt/x")]).unwrap();
        assert!(text.contains("     2 x write /opt/x: "), "{text}");
    }
}
