//! Policies of any number of rules, in which the last ones allow what is measured.

use super::{MOVED, PORT, PROGRAM};

/// A policy with `rules` path rules and as many prefixes.
pub fn text(rules: u32) -> String {
    let quoted = |items: Vec<String>| items.iter().map(|item| format!("  {item:?},\n")).collect::<String>();
    let paths = (3..rules).map(|n| format!("/srv/{n}/data-{}/**", n * 7919));
    let prefixes = (1..rules).map(|n| format!("10.{}.{}.0/24:443/tcp", n >> 8 & 0xff, n & 0xff));
    let read = quoted(paths.chain(["/perf/1/2/3/**".to_owned()]).collect());
    let allow = quoted(prefixes.chain([format!("127.0.0.0/8:{PORT}")]).collect());
    let moved = MOVED[0].rsplit_once('/').map_or("/", |(folder, _)| folder);
    format!(
        "version = 1\nname = \"bench\"\n\n[network]\nallow = [\n{allow}]\n\n[files]\nread = [\n{read}]\n\
         write = [\"{moved}/**\"]\nexec = [{PROGRAM:?}]\n"
    )
}

/// A policy with as many prefixes, side by side around what is measured, so that it lies as deep in the trie as can be; and for each
/// ten of them a name.
pub fn network(prefixes: u32) -> String {
    let prefix = |n: u32| format!("127.{}.{}.{}/25", n >> 9 & 0xff, n >> 1 & 0xff, (n & 1) << 7);
    let allowed = (1..prefixes).map(|n| format!("{}:443/tcp", prefix(n)));
    let names = (0..prefixes / 10).map(|n| format!("host-{n}.zone-{}.bench.test:443/tcp", n % 97));
    let all = allowed.chain(names).chain([format!("{}:{PORT}", prefix(0))]);
    let all: String = all.map(|rule| format!("  {rule:?},\n")).collect();
    let moved = MOVED[0].rsplit_once('/').map_or("/", |(folder, _)| folder);
    format!(
        "version = 1\nname = \"bench\"\n\n[network]\nallow = [\n{all}]\n\n[files]\nread = [\"/perf/1/2/3/**\"]\nwrite = \
         [\"{moved}/**\"]\nexec = [{PROGRAM:?}]\n"
    )
}
