//! What may be looked at without opening it.

use std::fs;
use std::os::unix::fs::symlink;

use super::flags::{all_outside, each_policed};

const HERE: &str = "/looks";
const VERBS: [&str; 7] = ["stat", "lstat", "fstat-opath", "listxattr", "getxattr", "get-acl", "watch"];

fn prepare() -> Result<(), String> {
    let text = |error: std::io::Error| format!("preparing: {error}");
    if fs::exists(HERE).map_err(text)? {
        fs::remove_dir_all(HERE).map_err(text)?;
    }
    fs::create_dir_all(format!("{HERE}/secret")).map_err(text)?;
    for file in ["file", "secret/key", "other"] {
        fs::write(format!("{HERE}/{file}"), "content\n").map_err(text)?;
    }
    symlink("key", format!("{HERE}/secret/link")).map_err(text)?;
    symlink("file", format!("{HERE}/link")).map_err(text)
}

/// Each way to look at a file, and readlink of a link.
fn all(file: &str, link: &str) -> Vec<String> {
    let looks = VERBS.iter().map(|verb| format!("{verb} {HERE}/{file}"));
    looks.chain([format!("readlink {HERE}/{link}")]).collect()
}

fn expect(flags: &[&str], wanted: &[(&[String], &str)]) -> Result<(), String> {
    let ops = wanted.iter().flat_map(|(ops, end)| ops.iter().map(|op| (op.as_str(), *end)));
    each_policed(flags, &ops.collect::<Vec<_>>())
}

/// What is denied cannot be looked at, what nothing is said of can; unless everything may be.
pub fn denied() -> Result<(), String> {
    prepare()?;
    let (secret, other) = (all("secret/key", "secret/link"), all("other", "link"));
    all_outside(&secret.iter().map(String::as_str).collect::<Vec<_>>())?;
    let flags = ["--deny-file=/looks/secret/**", "--metadata=open"];
    expect(&flags[..1], &[(&secret, "denied"), (&other, "allowed")])?;
    expect(&flags, &[(&secret, "allowed"), (&other, "allowed")])
}

/// Guarded, only what some rule allows can be looked at, and what has no name.
pub fn guarded() -> Result<(), String> {
    prepare()?;
    let (file, other) = (all("file", "link"), all("other", "secret/link"));
    let flags = ["--metadata=guarded", "--allow-read=/looks/file", "--allow-read=/looks/link"];
    expect(&flags, &[(&file, "allowed"), (&other, "denied")])?;
    each_policed(&flags[1..], &[("stat /looks/other", "allowed")])
}
