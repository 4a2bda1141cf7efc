//! The policies of this host: the files of `/etc/stockade/policies.d`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{
    matcher::Matcher,
    trusted::{self, Links, Untrusted},
};
use crate::policy::{
    check::{self, Overlay},
    checked::CheckedPolicy,
    diagnostic::{Diagnostic, Diagnostics},
    extend,
    parse::{self, Source},
    rule::Refusal,
};

/// Where the files are.
pub const DIRECTORY: &str = "/etc/stockade/policies.d";
/// Longest name of a policy.
const MAX_NAME: usize = 64;

/// One file, and what it extends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPolicy {
    /// Its name: that of the file without `.toml` if it says none. No other has it.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// What it comes to, with the scope if it has one.
    pub policy: CheckedPolicy,
}

/// All of them, in the order of the files' names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPolicies {
    /// In order: indices are stable as long as this is.
    pub policies: Vec<HostPolicy>,
}

impl HostPolicies {
    /// The policy of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&HostPolicy> {
        self.policies.iter().find(|policy| policy.name == name)
    }
}

/// Reads every `*.toml` of a directory; names that begin with a dot are passed over. The directory, the files, those they
/// extend, and all directories on the way must be root's and nobody else's to write.
///
/// # Errors
/// All that is wrong with all of the files. Nothing is to be changed then.
pub fn load(directory: &Path) -> Result<HostPolicies, Diagnostics> {
    load_owned(directory, 0)
}

fn load_owned(directory: &Path, owner: u32) -> Result<HostPolicies, Diagnostics> {
    let unreadable = |message: String, help: &str| {
        Diagnostics::plain(&directory.display().to_string(), message, Some(help))
    };
    // Below a directory that only root writes, names stay what they are.
    trusted::open(directory, owner, Links::Follow).map_err(|error| {
        let help = if error.is_missing() { "mkdir -p -m 755 /etc/stockade/policies.d" } else { TRUST };
        unreadable(error.to_string(), help)
    })?;
    let entries =
        fs::read_dir(directory).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(|error| {
            unreadable(format!("cannot be listed: {error}"), "look whether it is a directory")
        })?;
    let mut files: Vec<PathBuf> = entries
        .into_iter()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            name.ends_with(b".toml") && !name.starts_with(b".")
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let mut loaded = HostPolicies::default();
    let mut problems = Vec::new();
    for file in files {
        match load_file(&file, owner) {
            Ok(policy) => loaded.policies.push(policy),
            Err(refused) => problems.extend(refused.0),
        }
    }
    problems.extend(same_names(&loaded));
    problems.extend(rivals(&loaded));
    if problems.is_empty() { Ok(loaded) } else { Err(Diagnostics(problems)) }
}

const TRUST: &str = "policies, and the directories they are in, must be root's and nobody else's to write";

fn load_file(file: &Path, owner: u32) -> Result<HostPolicy, Diagnostics> {
    let open = |path: &Path| open(path, owner);
    let documents = extend::load(file, &open)?;
    let overlay = Overlay { for_host: true, ..Overlay::default() };
    let mut policy = check::check(&documents, &overlay)?;
    let said = documents.last().and_then(|document| document.policy.name.clone());
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name = said.unwrap_or(stem);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !name.chars().all(is_plain) {
        let help =
            "write `name = \"...\"` with letters, digits, `.`, `_` and `-`, at most 64, the first no dot";
        let message = format!("{name:?} cannot be the name of a policy of the host");
        return Err(Diagnostics::plain(&file.display().to_string(), message, Some(help)));
    }
    policy.name.clone_from(&name);
    Ok(HostPolicy { name, file: file.to_path_buf(), policy })
}

/// A policy that is in no file yet, checked as if it were in one of the directory: what it extends is read from there.
///
/// # Errors
/// All that is wrong with it.
pub fn given(directory: &Path, text: &str) -> Result<CheckedPolicy, Diagnostics> {
    given_owned(directory, text, 0)
}

fn given_owned(directory: &Path, text: &str, owner: u32) -> Result<CheckedPolicy, Diagnostics> {
    let name = "the policy given";
    let nowhere = directory.join(name);
    let open = |path: &Path| {
        if path != nowhere {
            return open(path, owner);
        }
        Ok((nowhere.clone(), Source { name: name.into(), text: text.to_owned() }))
    };
    let documents = extend::load(&nowhere, &open)?;
    check::check(&documents, &Overlay { for_host: true, ..Overlay::default() })
}

fn open(path: &Path, owner: u32) -> Result<(PathBuf, Source), Refusal> {
    let refused = |error: Untrusted| Refusal { message: error.to_string(), help: Some(TRUST.to_owned()) };
    let absolute = std::path::absolute(path).map_err(parse::unreadable)?;
    let file = trusted::open(&absolute, owner, Links::RefuseLast(1)).map_err(refused)?;
    let source = parse::read_open(file, path)?;
    Ok((fs::canonicalize(&absolute).unwrap_or(absolute), source))
}

fn same_names(loaded: &HostPolicies) -> Vec<Diagnostic> {
    let mut first: BTreeMap<&str, &HostPolicy> = BTreeMap::new();
    let mut problems = Vec::new();
    for policy in &loaded.policies {
        match first.get(policy.name.as_str()) {
            None => {
                first.insert(&policy.name, policy);
            }
            Some(earlier) => {
                let message = format!("{:?} is the name of {}, too", policy.name, earlier.file.display());
                let help = Some("give one of them another `name`");
                problems.extend(Diagnostics::plain(&policy.file.display().to_string(), message, help).0);
            }
        }
    }
    problems
}

/// Rules of two policies that match the same cgroups equally well.
fn rivals(loaded: &HostPolicies) -> Vec<Diagnostic> {
    let scopes: Vec<_> = loaded
        .policies
        .iter()
        .filter_map(|policy| policy.policy.scope.as_ref().map(|scope| (policy, scope)))
        .collect();
    let mut problems = Vec::new();
    for (index, (earlier, first)) in scopes.iter().enumerate() {
        for (later, second) in &scopes[index + 1..] {
            for mine in &second.rules {
                let rival = first.rules.iter().find(|theirs| {
                    mine.rivals(theirs, |glob| first.leaves_out(glob) || second.leaves_out(glob))
                        || theirs.rivals(mine, |glob| first.leaves_out(glob) || second.leaves_out(glob))
                });
                if let Some(theirs) = rival {
                    let message = format!(
                        "policies {:?} and {:?} match the same cgroups: {} {} in {} says the same as exactly",
                        later.name,
                        earlier.name,
                        theirs.list,
                        theirs.text,
                        earlier.file.display(),
                    );
                    let help = "make one of them narrower, or leave the cgroups out by `exclude` in one";
                    problems.push(mine.diagnostic(Refusal { message, help: Some(help.into()) }));
                }
            }
        }
    }
    problems
}

/// Refuses policies that claim the cgroup the daemon itself is in: nobody could let go of it.
///
/// # Errors
/// Each rule that matches it, or a cgroup above it.
pub fn spare(policies: &HostPolicies, own: &Path) -> Result<(), Diagnostics> {
    let matches = Matcher::new(policies).match_path(own);
    let problems: Vec<Diagnostic> = matches
        .needs_container
        .iter()
        .chain(&matches.otherwise)
        .filter_map(|found| {
            let rule = policies.policies.get(found.policy)?.policy.scope.as_ref()?.rules.get(found.rule)?;
            let message =
                format!("this matches {}: the daemon itself is in {}", found.cgroup.display(), own.display());
            let help = Some(
                "make it narrower, leave that out by `exclude`, or run the daemon in its own slice".into(),
            );
            Some(rule.diagnostic(Refusal { message, help }))
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(Diagnostics(problems)) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::write(&path, format!("version = 1\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        dir
    }

    fn loaded(dir: &tempfile::TempDir) -> Result<HostPolicies, String> {
        let path = fs::canonicalize(dir.path()).unwrap();
        load_owned(&path, nix::unistd::geteuid().as_raw()).map_err(|diagnostics| {
            diagnostics.to_string().replace("\n  │ ", " ").replace("\n        ", " ").replace("\n  ", " ")
        })
    }

    #[test]
    fn a_policy_in_no_file_extends_those_that_are() {
        let dir = directory(&[("team.toml", "[files]\nread = ['/srv/team/**']")]);
        let path = fs::canonicalize(dir.path()).unwrap();
        let given = |text: &str| given_owned(&path, text, nix::unistd::geteuid().as_raw());
        let policy =
            given("version = 1\nextends = ['./team.toml']\n[scope]\nslices = ['ci.slice']\n").unwrap();
        assert!(policy.paths.iter().any(|rule| rule.pattern == "/srv/team/**"));
        for (text, complaint) in [
            ("version = 1\nextends = ['./gone.toml']\n", "gone.toml"),
            ("version = 1\nextends = ['./the policy given.toml']\n", "the policy given"),
            ("version = 1\n[files]\nread = ['${workspace}/**']\n", "no value here"),
            ("version = 1\n[files]\nraed = []\n", "the policy given"),
        ] {
            let error = given(text).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn files_are_read_in_order() {
        let dir = directory(&[
            ("20-b.toml", "[scope]\nslices = ['ci.slice']\n[files]\nread = ['/srv/**']"),
            ("10-a.toml", "name = 'web'\nextends = ['./shared.inc.toml.in/../team/x.toml']"),
            (".hidden.toml", "nonsense"),
            ("README", "nonsense"),
        ]);
        fs::create_dir_all(dir.path().join("shared.inc.toml.in")).unwrap();
        fs::create_dir_all(dir.path().join("team")).unwrap();
        fs::write(dir.path().join("team/x.toml"), "version = 1\n[files]\nread = ['/team/**']").unwrap();
        let policies = loaded(&dir).unwrap();
        let names: Vec<&str> = policies.policies.iter().map(|policy| policy.name.as_str()).collect();
        assert_eq!(names, ["web", "20-b"]);
        assert!(policies.named("web").unwrap().policy.scope.is_none(), "tagged by hand");
        assert!(policies.named("20-b").unwrap().policy.scope.is_some());
        assert_eq!(policies.named("20-b").unwrap().policy.name, "20-b");
        assert!(policies.named("web").unwrap().policy.paths.iter().any(|rule| rule.pattern == "/team/**"));
        assert_eq!(loaded(&directory(&[])).unwrap(), HostPolicies::default());
    }

    #[test]
    fn all_that_is_wrong_with_all_files_is_said_at_once() {
        let dir = directory(&[
            ("a.toml", "[files]\nread = ['etc']"),
            ("b.toml", "[scope]\nunits = ['x']"),
            ("c.toml", "name = 'd'"),
            ("d.toml", "[files]\nread = ['/srv/**']"),
            ("e.toml", "[files]\nread = ['${workspace}/**']"),
            ("f.toml", "name = 'a b'"),
            ("g.toml", "extends = ['./gone.toml']"),
        ]);
        let message = loaded(&dir).unwrap_err();
        for part in [
            "a.toml:3",
            "relative",
            "b.toml:3",
            "type of a unit",
            "\"d\" is the name of",
            "e.toml:3",
            "no variables",
            "\"a b\" cannot be",
            "g.toml:2",
            "No such file",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let dir = directory(&[("a.toml", ""), ("b.toml", "")]);
        fs::set_permissions(dir.path().join("a.toml"), fs::Permissions::from_mode(0o664)).unwrap();
        symlink(dir.path().join("b.toml"), dir.path().join("c.toml")).unwrap();
        fs::create_dir(dir.path().join("d.toml")).unwrap();
        let message = loaded(&dir).unwrap_err();
        assert!(message.contains("chmod go-w") && message.contains("0664"), "{message}");
        assert!(message.contains("symbolic link") && message.contains("is a directory"), "{message}");
        let dir = directory(&[("a.toml", "")]);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o775)).unwrap();
        assert!(loaded(&dir).unwrap_err().contains("chmod go-w"));
        let gone = load(Path::new("/nonexistent/policies.d")).unwrap_err().to_string();
        assert!(gone.contains("mkdir"), "{gone}");
    }

    #[test]
    fn extended_files_are_held_to_the_same() {
        let dir = directory(&[("a.toml", "extends = ['./team/x.toml']")]);
        fs::create_dir(dir.path().join("team")).unwrap();
        let path = dir.path().join("team/x.toml");
        fs::write(&path, "version = 1\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let message = loaded(&dir).unwrap_err();
        assert!(message.contains("a.toml:2") && message.contains("chmod go-w"), "{message}");
    }

    #[test]
    fn the_daemon_is_spared() {
        let dir =
            directory(&[("a.toml", "[scope]\nslices = ['system.slice']\nexclude = ['**/sshd.service']")]);
        let policies = loaded(&dir).unwrap();
        let error = spare(&policies, Path::new("/system.slice/stockade.service")).unwrap_err().to_string();
        assert!(error.contains("a.toml:3") && error.contains("this matches /system.slice"), "{error}");
        assert!(spare(&policies, Path::new("/system.slice/sshd.service")).is_ok());
        assert!(spare(&policies, Path::new("/stockade.slice/stockade.service")).is_ok());
        assert!(spare(&policies, Path::new("/")).is_ok());
    }

    #[test]
    fn policies_that_claim_the_same_are_both_named() {
        let claims = |first: &str, second: &str| {
            let dir = directory(&[
                ("a.toml", &format!("[scope]\n{first}")),
                ("b.toml", &format!("[scope]\n{second}")),
            ]);
            loaded(&dir)
        };
        for (first, second) in [
            ("slices = ['ci.slice']", "slices = ['ci.slice']"),
            ("units = ['x.service']", "cgroups = ['**/x.service']"),
            ("units = ['a*b.service']", "units = ['ab*.service', 'a*b.service']"),
            ("containers = [{ runtime = 'docker' }]", "containers = [{ runtime = 'docker' }]"),
            ("containers = [{ name = 'a*' }]", "containers = [{ runtime = 'docker', name = 'a*' }]"),
        ] {
            let message = claims(first, second).expect_err(first);
            assert!(message.contains("b.toml:3") && message.contains("a.toml"), "{message}");
            assert!(message.contains("\"b\" and \"a\"") && message.contains("narrower"), "{message}");
        }
        for (first, second) in [
            ("slices = ['ci.slice']", "cgroups = ['/ci.slice']"),
            ("slices = ['ci.slice']", "slices = ['ci-*.slice']"),
            (
                "containers = [{ runtime = 'docker', name = 'a*' }]",
                "containers = [{ runtime = 'docker', name = 'b*' }]",
            ),
            ("containers = [{ runtime = 'docker' }]", "containers = [{ runtime = 'docker', label = 'x' }]"),
        ] {
            assert!(claims(first, second).is_ok(), "{first} {second}");
        }
        let left = claims("units = ['x*.service']\nexclude = ['/ci.slice']", "cgroups = ['**/x*.service']");
        assert!(left.unwrap_err().contains("match the same"), "only some are left out");
    }
}
