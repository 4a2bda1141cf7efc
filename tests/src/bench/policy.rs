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
