//! `stockade status`.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
};

use super::daemon::{Failure, Socket, done};
use crate::{
    audit::{digest::mode_name, name::escape},
    daemon::command::{
        BrokenPolicies, Decisions, Lost, PolicySet, PolicySource, ScopeKind, ScopeStatus, Status, Verdicts,
    },
};

/// Digits of a digest that are shown.
const SHORT: usize = 12;
/// Tables fuller than this are told of, in percent.
const NEARLY_FULL: u64 = 80;
const HEAD: [&str; 10] =
    ["SCOPE", "POLICY", "DIGEST", "MODE", "CGROUPS", "PROCS", "FILE", "NET", "OTHER", "LOST"];

/// `stockade status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print it as JSON (docs/schema/status-v1.json).
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of that.
    #[arg(long, conflicts_with = "json")]
    schema: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Runs the verb.
#[must_use]
pub fn run(args: &Args) -> u8 {
    done(async {
        let mut out = io::stdout().lock();
        if args.schema {
            return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&schemars::schema_for!(Status))?)?);
        }
        if args.json {
            // As it came: fields of a newer daemon too.
            let status: serde_json::Value = args.socket.client().get("/v1/status").await?;
            return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?);
        }
        let status: Status = args.socket.client().get("/v1/status").await?;
        out.write_all(text(&status).as_bytes()).map_err(Failure::from)
    })
}

/// For people.
fn text(status: &Status) -> String {
    let Status {
        version,
        pid,
        since,
        kernel,
        guarantees,
        degraded,
        adopted,
        reloads,
        policies,
        maps,
        programs: _,
        scopes,
    } = status;
    let mut out = String::new();
    let _ = writeln!(out, "stockade {version}, pid {pid}, since {since}, kernel {kernel}");
    if *degraded {
        out.push_str("DEGRADED: files are not policed, only connects, sends and sockets\n");
    }
    let _ = writeln!(out, "proved at its start: {}", guarantees.join(", "));
    if let Some(adopted) = adopted {
        let _ = writeln!(out, "adopted from an earlier daemon: {adopted} cgroups");
    }
    let _ = writeln!(out, "reloads: {} applied, {} refused", reloads.applied, reloads.refused);
    set(policies, &mut out);
    for map in maps.iter().filter(|map| map.used * 100 >= map.limit * NEARLY_FULL) {
        let _ = writeln!(out, "nearly full: {} {} of {}", map.name, map.used, map.limit);
    }
    if scopes.is_empty() {
        out.push_str("no scopes: put policies into /etc/stockade/policies.d\n");
        return out;
    }
    out.push('\n');
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(scopes.iter().map(row));
    out.push_str(&table(&rows));
    out.push_str("FILE, NET and OTHER: allowed/denied");
    if scopes.iter().any(|scope| mode_name(scope.mode) == "audit") {
        out.push_str("; in audit mode nothing is refused");
    }
    out.push('\n');
    for scope in scopes {
        notes(scope, &mut out);
    }
    out
}

/// Which policies are in force, above all if they are not those of the files.
fn set(policies: &PolicySet, out: &mut String) {
    let PolicySet { source, digest, broken, unkept } = policies;
    if let Some(why) = unkept {
        let why = escape(why.as_bytes());
        let _ = writeln!(out, "NOT KEPT: a start with broken policies would not know these: {why}");
    }
    let Some(BrokenPolicies { since, error, nothing_allowed }) = broken else { return };
    let in_force = match source {
        PolicySource::PoliciesD => "what was there before",
        PolicySource::LastGood => "the last policies that were right",
        PolicySource::Readable => "what can be read of them",
        PolicySource::EarlierDaemon => "what an earlier daemon has left",
    };
    let digest = digest.as_ref().map_or_else(String::new, |digest| format!(", {}", short(digest)));
    let _ = writeln!(out, "POLICIES ARE BROKEN since {since}; in force: {in_force}{digest}");
    for name in nothing_allowed {
        let _ = writeln!(out, "  nothing is allowed by {}", escape(name.as_bytes()));
    }
    for line in error.lines() {
        let _ = writeln!(out, "  {}", escape(line.as_bytes()));
    }
    out.push_str("  put it right, then: stockade policy reload\n");
}

fn short(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).chars().take(SHORT).collect()
}

fn row(scope: &ScopeStatus) -> [String; 10] {
    let Decisions { file, net, process } = scope.decisions;
    let Lost { denied, other, undecoded, unwritten } = scope.lost;
    let both = |Verdicts { allowed, denied }: Verdicts| format!("{allowed}/{denied}");
    let processes: u64 = scope.cgroups.iter().map(|cgroup| u64::from(cgroup.processes)).sum();
    [
        escape(scope.name.as_bytes()),
        escape(scope.policy.as_bytes()),
        short(&scope.digest),
        mode_name(scope.mode).into(),
        scope.cgroups.len().to_string(),
        format!("{}{processes}", if scope.cgroups.iter().any(|cgroup| cgroup.stale) { "~" } else { "" }),
        both(file),
        both(net),
        both(process),
        (denied + other + undecoded + unwritten).to_string(),
    ]
}

/// Names to the left, numbers to the right.
fn table(rows: &[[String; 10]]) -> String {
    const NAMES: usize = 4;
    let mut out = String::new();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column < NAMES {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// What a number cannot say: what may have happened before the tag, and what a comparison finds.
fn notes(scope: &ScopeStatus, out: &mut String) {
    let name = escape(scope.name.as_bytes());
    if let (ScopeKind::Run, Some(uid)) = (scope.kind, scope.uid) {
        let _ = writeln!(out, "{name}: a run of user {uid}");
    }
    for cgroup in &scope.cgroups {
        for window in &cgroup.window {
            let path = escape(cgroup.path.as_os_str().as_bytes());
            let _ = writeln!(out, "{name}: {path}: {}", escape(window.as_bytes()));
        }
    }
    if let Some(shadow) = &scope.shadow {
        let _ = writeln!(
            out,
            "{name}: compared with another policy: {} decisions, {}{} differences (`stockade policy shadow`)",
            shadow.compared,
            shadow.differences.len(),
            if shadow.more { " or more" } else { "" },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::api::sample;

    const PUBLISHED: &str = include_str!("../../../docs/schema/status-v1.json");

    #[test]
    fn a_person_can_read_it() {
        insta::assert_snapshot!(text(&sample::status()));
    }

    #[test]
    fn what_matters_most_is_said_loudly() {
        let mut status = sample::status();
        status.degraded = true;
        status.policies.unkept = Some("read-only".into());
        status.maps[0].used = status.maps[0].limit;
        status.scopes.clear();
        let text = text(&status);
        for part in [
            "\nPOLICIES ARE BROKEN since ",
            "\nNOT KEPT: ",
            "\nDEGRADED: ",
            "\nnearly full: TAGS 4096 of 4096\n",
            "\nno scopes: ",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_was_counted_earlier_is_marked() {
        let mut status = sample::status();
        assert!(!text(&status).contains(" ~4 "));
        status.scopes[0].cgroups[0].stale = true;
        assert!(text(&status).contains(" ~4 "), "{}", text(&status));
    }

    #[test]
    fn names_of_others_do_not_reach_the_terminal() {
        let mut status = sample::status();
        status.scopes[1].cgroups[0].path = "/user.slice/\u{1b}[2J".into();
        assert!(!text(&status).contains('\u{1b}'));
    }

    #[test]
    fn the_schema_is_the_one_that_is_published() {
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(Status)).unwrap();
        let how = "run `stockade status --schema > docs/schema/status-v1.json`";
        assert_eq!(schema.trim(), PUBLISHED.trim(), "{how}");
    }

    #[test]
    fn a_status_is_as_the_schema_says() {
        let schema = serde_json::from_str(PUBLISHED).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let status = serde_json::to_value(sample::status()).unwrap();
        assert!(validator.is_valid(&status));
        for field in status.as_object().unwrap().keys() {
            let mut cut = status.clone();
            cut.as_object_mut().unwrap().remove(field);
            // What may be null may be left out; an older daemon says nothing of its policies.
            let optional = ["adopted", "policies"].contains(&field.as_str());
            assert_eq!(validator.is_valid(&cut), optional, "{field}");
        }
    }
}
