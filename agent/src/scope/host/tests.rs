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
    let policy = given("version = 1\nextends = ['./team.toml']\n[scope]\nslices = ['ci.slice']\n").unwrap();
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
    let dir = directory(&[("a.toml", "[scope]\nslices = ['system.slice']\nexclude = ['**/sshd.service']")]);
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
        let dir =
            directory(&[("a.toml", &format!("[scope]\n{first}")), ("b.toml", &format!("[scope]\n{second}"))]);
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

fn owned(dir: &tempfile::TempDir) -> (PathBuf, u32) {
    (fs::canonicalize(dir.path()).unwrap(), nix::unistd::geteuid().as_raw())
}

#[test]
fn the_same_policies_are_made_of_the_texts_that_were_read() {
    let dir = directory(&[
        ("20-b.toml", "[scope]\nslices = ['ci.slice']\n[files]\nread = ['/srv/**']"),
        ("10-a.toml", "name = 'web'\nextends = ['./team/../team/x.toml', '20-shared.toml']"),
        ("20-shared.toml", "[files]\nread = ['/shared/**']"),
    ]);
    fs::create_dir_all(dir.path().join("team")).unwrap();
    fs::write(dir.path().join("team/x.toml"), "version = 1\n[files]\nread = ['/team/**']").unwrap();
    let before = loaded(&dir).unwrap();
    assert_eq!(before.texts.iter().filter(|text| text.extended).count(), 1);
    let kept = before.texts.clone();
    // Whatever becomes of the files.
    drop(dir);
    assert_eq!(from_texts(&kept).unwrap(), before);
    let less: Vec<PolicyText> = kept.into_iter().filter(|text| !text.extended).collect();
    let error = from_texts(&less).unwrap_err().to_string();
    assert!(error.contains("was not kept"), "{error}");
}

#[test]
fn a_broken_policy_that_says_whom_it_is_for_allows_them_nothing() {
    let dir = directory(&[
        ("a.toml", "[scope]\nslices = ['a.slice']\n[files]\nraed = ['/srv/**']"),
        (
            "b.toml",
            "name = 'bb'\n[files]\nread = ['/srv/**'\n[scope] # whom\nunits = ['x.service']\n[network]\nallow = [",
        ),
        ("c.toml", "mode = 'audit'\nextends = ['./gone.toml']\n[scope]\nslices = ['c.slice']"),
        ("d.toml", "[files]\nread = ['srv']"),
        ("e.toml", "[scope]\nslices = ['e.slice']\n[files]\nread = ['/srv/**']"),
    ]);
    let (path, owner) = owned(&dir);
    let Readable { policies, broken } = readable::load_readable_owned(&path, owner).unwrap();
    assert_eq!(broken, ["a", "bb", "c", "d"]);
    for name in &broken {
        let policy = &policies.named(name).unwrap().policy;
        assert_eq!(*policy, allowing_nothing(policy), "{name}");
        assert_eq!(policy.scope.is_some(), name != "d");
    }
    let rules = |name: &str| policies.named(name).unwrap().policy.scope.clone().unwrap().rules;
    assert_eq!(rules("bb")[0].text, "x.service");
    assert_eq!(&rules("bb")[0].source.text[rules("bb")[0].span.clone()], "'x.service'");
    let mode = |name: &str| policies.named(name).unwrap().policy.mode;
    assert_eq!(
        (mode("bb"), mode("c")),
        (crate::policy::checked::Mode::Enforce, crate::policy::checked::Mode::Audit)
    );
    assert!(!policies.named("e").unwrap().policy.paths.is_empty());
}

#[test]
fn a_broken_policy_that_does_not_say_whom_it_is_for_is_refused() {
    for text in [
        "[scope]\nslices = ['a.slice'",
        "[scope]\nslcies = ['a.slice']",
        "[scope]\nslices = ['a']",
        "[files]\nread = [",
        "[scope]\nslices = ['a.slice']\n[scope]\nslices = ['b.slice']",
        "nonsense\n[scope]\nslices = ['a.slice']\n[files]\n[scope]\n",
    ] {
        let dir = directory(&[("a.toml", text), ("b.toml", "[scope]\nslices = ['b.slice']")]);
        let (path, owner) = owned(&dir);
        let refused = readable::load_readable_owned(&path, owner).expect_err(text).to_string();
        assert!(refused.contains("a.toml"), "{refused}");
    }
    // Nor one that others could have written, or two for the same.
    let dir = directory(&[("a.toml", "[scope]\nslices = ['a.slice']\n[files]\nraed = []")]);
    fs::set_permissions(dir.path().join("a.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    let (path, owner) = owned(&dir);
    assert!(readable::load_readable_owned(&path, owner).is_err());
    let dir = directory(&[
        ("a.toml", "[scope]\nslices = ['a.slice']\n[files]\nraed = []"),
        ("b.toml", "[scope]\nslices = ['a.slice']"),
    ]);
    let (path, owner) = owned(&dir);
    assert!(readable::load_readable_owned(&path, owner).is_err());
}
