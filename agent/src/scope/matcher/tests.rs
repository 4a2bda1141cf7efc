use proptest::prelude::*;
use regex_automata::dfa::{Automaton as _, dense};

use super::*;
use crate::policy::{
    check::{self, Overlay},
    globs::regex,
    parse::{Document, Source},
};

fn scope(text: &str) -> Option<Scope> {
    let source = Source { name: "p".into(), text: format!("version = 1\n[scope]\n{text}\n") };
    let document = Document::new(source).ok()?;
    check::check(&[document], &Overlay::default()).ok()?.scope
}

fn matcher(scopes: &[&str]) -> Matcher {
    let scopes: Vec<Scope> = scopes.iter().map(|text| scope(text).expect(text)).collect();
    let names = ["zero", "one", "two", "three"];
    Matcher::of_scopes(names.into_iter().zip(scopes.iter().map(Some)))
}

fn policy(matcher: &Matcher, path: &str) -> Option<usize> {
    matcher.match_path(Path::new(path)).otherwise.map(|found| found.policy)
}

#[test]
fn the_nearest_cgroup_above_that_matches_decides() {
    let matcher = matcher(&["slices = ['ci.slice']", "units = ['job@*.service']", "cgroups = ['/lab/*/x']"]);
    for (path, expected) in [
        ("/", None),
        ("/system.slice/x.service", None),
        ("/ci.slice", Some(0)),
        ("/ci.slice/ci-linux.slice/a.service/b", Some(0)),
        ("/user.slice/u/ci.slice/c", Some(0)),
        ("/ci.slice/job@1.service", Some(1)),
        ("/ci.slice/job@1.service/payload", Some(1)),
        ("/system.slice/job@1.service", Some(1)),
        ("/lab/one", None),
        ("/lab/one/x/y", Some(2)),
        ("/ci.slicer", None),
    ] {
        assert_eq!(policy(&matcher, path), expected, "{path}");
    }
    let found = matcher.match_path(Path::new("/ci.slice/job@1.service/payload")).otherwise.unwrap();
    assert_eq!((found.cgroup.as_path(), found.rule), (Path::new("/ci.slice/job@1.service"), 0));
}

#[test]
fn the_most_exact_rule_wins_and_a_tie_is_told() {
    let m = matcher(&["units = ['a*.service']", "units = ['ab.service']", "units = ['*c.service']"]);
    assert_eq!(policy(&m, "/system.slice/ab.service"), Some(1));
    assert_eq!(policy(&m, "/system.slice/axc.service"), Some(0), "the first policy");
    let found = m.match_path(Path::new("/system.slice/axc.service")).otherwise.unwrap();
    let warning = found.warning.unwrap();
    assert!(warning.contains("\"zero\"") && warning.contains("\"two\""), "{warning}");
    assert_eq!(m.match_path(Path::new("/system.slice/ab.service")).otherwise.unwrap().warning, None);
}

#[test]
fn what_is_excluded_may_be_anothers() {
    let m =
        matcher(&["slices = ['ci.slice']", "units = ['job.service']\nexclude = ['/ci.slice/job.service/x']"]);
    assert_eq!(policy(&m, "/ci.slice/job.service/y"), Some(1));
    assert_eq!(policy(&m, "/ci.slice/job.service/x/z"), Some(0));
    let m = matcher(&["slices = ['ci.slice']\nexclude = ['**/cache.service']"]);
    assert_eq!(policy(&m, "/ci.slice/cache.service/x"), None);
}

#[test]
fn a_container_needs_more_than_its_path() {
    let id = "ab".repeat(32);
    let m = matcher(&[
        "slices = ['ci.slice']",
        "containers = [{ runtime = 'docker', name = 'job-*' }, { runtime = 'docker', label = 'ci' }]",
        "containers = [{ runtime = 'docker' }]",
    ]);
    let path = format!("/ci.slice/docker-{id}.scope/init");
    let matches = m.match_path(Path::new(&path));
    let rules: Vec<_> = matches.needs_container.iter().map(|found| (found.policy, found.rule)).collect();
    assert_eq!(rules, [(1, 0), (1, 1)]);
    assert_eq!(matches.otherwise.as_ref().map(|found| found.policy), Some(2), "nearer than the slice");
    assert!(m.container_rule(&matches.needs_container[1]).unwrap().label.is_some());
    let by = |answers: [Holds; 2]| {
        let mut answers = answers.into_iter();
        let belongs = matches.clone().decide(|_| answers.next().unwrap());
        (belongs.to.map(|found| (found.policy, found.rule)), belongs.warnings.len())
    };
    assert_eq!(by([Holds::No, Holds::Yes]), (Some((1, 1)), 0));
    assert_eq!(by([Holds::No, Holds::No]), (Some((2, 0)), 0));
    assert_eq!(by([Holds::Unknown("gone".into()), Holds::Yes]), (Some((1, 0)), 1), "fails closed");
}

fn dfa(glob: &str) -> dense::DFA<Vec<u32>> {
    dense::DFA::new(&format!("^(?:{})$", regex(&parts(glob)))).unwrap()
}

/// What the kernel programs do with the globs: the path of each cgroup on the way is matched as a whole.
fn by_globs(patterns: &[KernelPattern], path: &str) -> Option<(usize, bool)> {
    let automata: Vec<_> = patterns.iter().map(|pattern| (pattern, dfa(&pattern.glob))).collect();
    let matches = |dfa: &dense::DFA<Vec<u32>>, path: &str| {
        dfa.try_search_fwd(&regex_automata::Input::new(path)).unwrap().is_some()
    };
    let mut ways: Vec<&str> = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]).collect();
    ways.push(path);
    let is_out = |policy: usize| {
        automata
            .iter()
            .any(|(pattern, dfa)| pattern.exclude && pattern.policy == policy && matches(dfa, path))
    };
    ways.iter().rev().find_map(|way| {
        let hit = automata
            .iter()
            .find(|(pattern, dfa)| !pattern.exclude && !is_out(pattern.policy) && matches(dfa, way))?;
        Some((hit.0.policy, hit.0.needs_container))
    })
}

fn glob() -> impl Strategy<Value = String> {
    let part = prop_oneof![Just("a"), Just("b"), Just("ab"), Just("a*"), Just("*b"), Just("?"), Just("**")];
    proptest::collection::vec(part, 1..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_kernels_globs_say_the_same(
        globs in proptest::collection::vec((glob(), glob()), 1..4),
        path in proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ab"), Just("x.service"), Just("docker")], 1..5),
        container in any::<bool>(),
    ) {
        let scopes: Vec<Scope> = globs
            .iter()
            .filter_map(|(glob, exclude)| {
                scope(&format!("units = ['x.service']\ncontainers = [{{ runtime = 'docker', name = 'j' }}]\ncgroups = ['{glob}']\nexclude = ['{exclude}']"))
            })
            .collect();
        let matcher = Matcher::of_scopes(std::iter::repeat("p").zip(scopes.iter().map(Some)));
        let mut path = format!("/{}", path.join("/"));
        if container {
            path.push_str(&format!("/docker-{}.scope", "0".repeat(64)));
        }
        let matches = matcher.match_path(Path::new(&path));
        let first = matches.needs_container.first().map(|found| (found.policy, true));
        let found = first.or(matches.otherwise.map(|found| (found.policy, false)));
        prop_assert_eq!(found, by_globs(&matcher.kernel_patterns(), &path));
    }
}

#[test]
fn a_tree_of_all_kinds_is_told_apart_by_the_globs_too() {
    let m = matcher(&[
        "units = ['gitlab-runner.service', 'cpu.service']\nslices = ['ci.slice']",
        "containers = [{ runtime = 'any' }]\nexclude = ['/lxc.payload.quiet']",
        "containers = [{ runtime = 'lxc', name = 'job' }]",
    ]);
    let id = "0123456789abcdef".repeat(4);
    for path in [
        "/system.slice/gitlab-runner.service/job".to_owned(),
        "/system.slice/_cpu.service".to_owned(),
        "/system.slice/cpu.service".to_owned(),
        "/ci.slice/x.scope".to_owned(),
        format!("/system.slice/docker-{id}.scope"),
        format!("/machine.slice/libpod-{id}.scope/container"),
        format!("/machine.slice/libpod-conmon-{id}.scope"),
        "/lxc.payload.quiet/x".to_owned(),
        "/lxc.payload.job/system.slice".to_owned(),
        "/lxc.payload.job-2".to_owned(),
        "/lxc.monitor.job".to_owned(),
    ] {
        let matches = m.match_path(Path::new(&path));
        let first = matches.needs_container.first().map(|found| (found.policy, true));
        let found = first.or(matches.otherwise.map(|found| (found.policy, false)));
        assert_eq!(found, by_globs(&m.kernel_patterns(), &path), "{path}");
    }
}

#[test]
fn all_kinds_of_containers_fit_the_kernels_tables() {
    use crate::policy::automaton::{Pattern, Tables};
    let m = matcher(&[
        "containers = [{ runtime = 'any' }, { name = 'job-*' }, { runtime = 'docker', label = 'ci' }]",
        "units = ['gitlab-runner.service', 'actions.runner.*.service']\nslices = ['ci.slice', 'lab-*.slice']",
        "cgroups = ['/machine.slice/**/payload', '/lab/*/job-?']",
    ]);
    let mut patterns: Vec<Pattern> = m
        .kernel_patterns()
        .iter()
        .enumerate()
        .map(|(index, pattern)| Pattern {
            regex: regex(&parts(&pattern.glob)),
            access: 1,
            deny: false,
            rule: index as u32,
        })
        .collect();
    patterns.sort();
    let mut tables = Tables::default();
    let start = tables.add(&patterns).unwrap();
    assert!(tables.next.len() < 16_384, "{} entries", tables.next.len());
    let state = tables.run(start, format!("/system.slice/docker-{}.scope", "a".repeat(64)).as_bytes());
    let accept = tables.states[(state & stockade_common::file::STATE_MASK) as usize] >> 32;
    assert_ne!(tables.accepts[accept as usize], stockade_common::file::Accept::NOTHING);
}
