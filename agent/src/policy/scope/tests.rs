use proptest::prelude::*;

use super::*;
use crate::policy::{
    check::{self, Overlay},
    parse::Document,
};

fn checked(text: &str) -> Result<Scope, String> {
    let source = Source { name: "p.toml".into(), text: format!("version = 1\n[scope]\n{text}\n") };
    Document::new(source)
        .and_then(|document| check::check(&[document], &Overlay::default()))
        .map(|policy| policy.scope.unwrap())
        .map_err(|diagnostics| diagnostics.to_string())
}

fn globs(text: &str) -> Vec<String> {
    let rules = checked(text).unwrap().rules;
    rules.into_iter().flat_map(|rule| rule.globs).map(|glob| glob.glob).collect()
}

#[test]
fn entries_come_to_globs() {
    assert_eq!(
        globs("units = ['gitlab-runner.service', 'actions.runner.*.service']\nslices = ['ci.slice']"),
        ["**/gitlab-runner.service", "**/actions.runner.*.service", "**/ci.slice"]
    );
    assert_eq!(
        globs(r#"cgroups = ["/machine.slice/libpod-*.scope", '/a\x2db/{c,d}']"#),
        ["/machine.slice/libpod-*.scope", r"/a\x2db/c", r"/a\x2db/d"]
    );
    assert_eq!(
        globs("containers = [{ runtime = 'lxc' }]"),
        ["**/lxc.payload.*", "**/lxc.payload/*", "/lxc/*"]
    );
    let scope = checked("slices = ['ci.slice']\nexclude = ['**/docker-*.scope']\nstart = 'at-once'").unwrap();
    assert_eq!((scope.exclude, scope.start), (vec!["**/docker-*.scope".to_owned()], Start::AtOnce));
    assert_eq!(checked("slices = ['ci.slice']").unwrap().start, Start::UntilExec);
    let text = "[[scope.containers]]\nruntime = 'docker'\nlabel = 'ci=true'\nname = 'job-*'";
    let container = checked(text).unwrap().rules[0].container.clone().unwrap();
    assert_eq!(container.label, Some(KeyValue { key: "ci".into(), value: Some("true".into()) }));
    assert_eq!(container.conditions(), 2);
}

#[test]
fn what_is_refused_has_a_place_a_reason_and_a_suggestion() {
    for (text, reason, help) in [
        ("", "names nothing", "units"),
        ("exclude = ['/x']", "names nothing", "units"),
        ("unit = ['x.service']", "unknown field `unit`", "`units`"),
        ("units = []", "empty", "take it out"),
        ("units = ['']", "empty", "gitlab-runner.service"),
        ("units = ['runner']", "type of a unit", "runner.service"),
        ("units = ['*.service']", "stockade.service", "narrower"),
        (r#"units = ["dev\x2dtool.service"]"#, "double quotes", r"'dev\x2dtool.service'"),
        ("slices = ['-.slice']", "whole host", "Slice="),
        ("slices = ['stock*.slice']", "own slice", "narrower"),
        ("cgroups = ['/']", "the root", "below"),
        ("cgroups = ['/**']", "own slice", "narrower"),
        ("cgroups = ['**/*']", "own slice", "narrower"),
        ("cgroups = ['/stockade.slice/*']", "daemon itself", "narrower"),
        ("cgroups = ['/init.*']", "process 1", "narrower"),
        ("cgroups = ['/sys/fs/cgroup/ci.slice']", "mounted", "root of the v2"),
        ("cgroups = ['ci.slice']", "no path", "`units`"),
        ("cgroups = ['/a/../b']", "..", "without"),
        ("cgroups = ['/a/[bc]']", "special", "`?`"),
        ("containers = [{}]", "no containers", "any"),
        ("containers = [{ rootless = true }]", "no containers", "any"),
        ("containers = [{ runtime = 'podman', rootless = true }]", "believed", "take it out"),
        ("containers = [{ runtime = 'dokcer' }]", "unknown variant", "`docker`"),
        ("containers = [{ label = 'ci' }]", "Docker containers only", "runtime = \"docker\""),
        ("containers = [{ runtime = 'podman', label = 'ci' }]", "Docker containers only", "annotation"),
        ("containers = [{ annotation = 'ci' }]", "Podman containers only", "podman"),
        ("containers = [{ runtime = 'docker', label = '=x' }]", "no key", "key=value"),
        ("containers = [{ runtime = 'lxc', image = 'debian' }]", "no image", "`name`"),
        ("containers = [{ name = 'a/b' }]", "'/'", "wildcards"),
        ("containers = [{ nmae = 'a' }]", "unknown field", "`name`"),
        ("exclude = ['/**']\nslices = ['ci.slice']", "everything", "left out"),
        ("exclude = ['/ci.slice']\ncgroups = ['/ci.slice/job']", "all of this", "narrower"),
        ("slices = ['ci.slice']\nstart = 'later'", "unknown variant", "docs/policy.md"),
    ] {
        let message = checked(text).expect_err(text);
        assert!(message.contains("p.toml:"), "{text}: {message}");
        // Lines are broken, with a bar in front.
        let joined = message.replace("\n  │ ", " ").replace("\n        ", " ");
        assert!(joined.contains(reason), "{text}: {message}");
        assert!(joined.contains(help), "{text}: {message}");
    }
    let message = checked("units = ['a', 'b']\nslices = ['c']").unwrap_err();
    for place in ["p.toml:3:10", "p.toml:3:15", "p.toml:4:11"] {
        assert!(message.contains(place), "all at once: {message}");
    }
}

#[test]
fn only_the_file_that_was_asked_for_has_a_scope() {
    let document = |name: &str, text: &str| {
        Document::new(Source { name: name.into(), text: format!("version = 1\n{text}") }).unwrap()
    };
    let (scoped, plain) = (document("a.toml", "[scope]\nslices = ['ci.slice']"), document("b.toml", ""));
    let policy = check::check(&[plain.clone(), scoped.clone()], &Overlay::default()).unwrap();
    assert_eq!(policy.scope.unwrap().rules.len(), 1);
    let message = check::check(&[scoped, plain], &Overlay::default()).unwrap_err().to_string();
    assert!(message.contains("a.toml:2") && message.contains("others extend has no scope"), "{message}");
}

#[test]
fn the_more_exact_rule_ranks_higher() {
    let scope = checked(
        "units = ['a.service', 'a*.service']\ncgroups = ['/x/a.service', '**/a*.service', '/machine.slice/libpod-*.scope']
containers = [{ runtime = 'podman' }, { runtime = 'podman', name = 'job-*' }, { runtime = 'podman', name = 'job-1*' }]",
    )
    .unwrap();
    let rank = |index: usize| scope.rules[index].rank(&scope.rules[index].globs[0].glob);
    let rivals = |a: usize, b: usize| scope.rules[a].rivals(&scope.rules[b], |_| false);
    assert!(rank(0) > rank(1), "a name over a glob");
    assert!(rank(2) > rank(0), "a path over a name");
    assert_eq!(rank(1), rank(3));
    assert!(rank(4) > rank(5), "from the root over anywhere");
    assert!(rank(6) > rank(4) && rank(7) > rank(6), "what more is asked of");
    assert!(rivals(1, 3) && !rivals(0, 1));
    assert!(!rivals(6, 7) && rivals(6, 6));
}

proptest! {
    #[test]
    fn no_scope_is_too_strange(text in "[a-z*?/.{}\\[\\]=' \n]{0,80}") {
        let _ = checked(&text);
        let _ = checked(&format!("cgroups = ['{text}']"));
    }
}

#[test]
fn the_examples_in_the_documentation_are_right() {
    let text = include_str!("../../../../docs/scopes.md");
    let examples: Vec<String> = text
        .split("\n\n")
        .filter(|block| block.lines().all(|line| line.starts_with("    ")) && block.contains(" = "))
        .map(|block| block.replace("    [scope]\n", ""))
        .collect();
    assert!(examples.len() >= 8, "{examples:?}");
    for example in examples {
        assert!(checked(&example).is_ok(), "{example}: {:?}", checked(&example));
    }
}
