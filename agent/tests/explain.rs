//! `stockade explain` and the warnings of `stockade policy check`, from outside: exact answers and exit codes.

mod program;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use program::stockade;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// What is asked of names.toml.
const ASKED: &[&[&str]] = &[
    &["api.example.test:443/tcp"],
    &["API.example.test.:443"],
    &["x.cdn.example.test:80/tcp"],
    &["cdn.example.test:80/tcp"],
    &["tracker.cdn.example.test:443/tcp"],
    &["169.254.169.254:80/tcp"],
    &["169.254.170.2:80/tcp"],
    &["198.51.100.7:443/tcp"],
    &["127.0.0.1:8080/tcp"],
    &["198.51.100.53:53/udp"],
    &["0.0.0.0:8080/tcp", "--listen"],
    &["unix:@/tmp/bus"],
    &["198.51.100.7:25/tcp", "--json"],
    &["api.example.test"],
    &["api.example.test:1-2"],
    &["*.example.test:443"],
    &["2130706433:80"],
    &["unix:run/x"],
];

#[test]
fn answers_say_why_and_what_would_change_them() {
    let mut text = String::new();
    for arguments in ASKED {
        let whole: Vec<&str> = ["explain", "net", "--policy", "./names.toml"]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        let output = stockade(&data(), &whole);
        let _ = writeln!(
            text,
            "--- {} -> {:?}\n{}{}",
            arguments.join(" "),
            output.code,
            output.stdout,
            output.stderr
        );
    }
    insta::assert_snapshot!("answers", text);
}

#[test]
fn a_wide_wildcard_is_warned_of_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let text = "version = 1\n[network]\nallow = [\n  \"*.example.test:443\",\n  \"*.test:443\",\n]\n";
    std::fs::write(folder.path().join("p.toml"), text).unwrap();
    let output = stockade(folder.path(), &["policy", "check", "p.toml"]);
    assert_eq!(output.code, Some(0));
    assert!(output.stdout.ends_with("0 destinations, 2 names\n"), "{}", output.stdout);
    insta::assert_snapshot!("warnings", output.stderr);
}

#[test]
fn a_file_is_judged_where_its_links_lead() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().canonicalize().unwrap();
    std::fs::create_dir(real.join("ws")).unwrap();
    std::os::unix::fs::symlink("ws", real.join("link")).unwrap();
    let text = "version = 1\n[files]\nwrite = [\"${workspace}/**\"]\ndeny = [\"${workspace}/a/key\"]\n";
    std::fs::write(real.join("p.toml"), text).unwrap();
    let ask = |path: &str, more: &[&str]| {
        let whole = ["explain", "file", path, "--policy", "./p.toml", "--workspace", "ws"];
        stockade(&real, &[&whole[..], more].concat())
    };
    let new = ask("link/new", &["--access", "write"]);
    assert_eq!((new.code, new.stderr.as_str()), (Some(0), ""));
    for line in [
        format!("write {}/link/new: allowed", real.display()),
        "  allowed by \"${workspace}/**\" (files.write, ./p.toml:3)".to_owned(),
        format!("  {}/link is a link to ws", real.display()),
        "  there is nothing now: what is made there is judged by that name".to_owned(),
    ] {
        assert!(new.stdout.lines().any(|known| known == line), "{line}: {}", new.stdout);
    }
    let key = ask("ws/a/key", &["--json"]);
    let answers: serde_json::Value = serde_json::from_str(&key.stdout).unwrap();
    let reasons: Vec<_> =
        answers.as_array().unwrap().iter().map(|one| one["reason"].as_str().unwrap()).collect();
    assert_eq!((key.code, reasons), (Some(1), vec!["rule_deny"; 3]));
    assert_eq!(ask("ws/x", &[]).code, Some(0));
    let beside = ask("x", &[]);
    assert_eq!(beside.code, Some(1), "{}", beside.stdout);
    assert!(beside.stdout.contains(&format!("--allow-exec '{}/x'", real.display())), "{}", beside.stdout);
    assert_eq!(ask("x", &["--access", "list"]).code, Some(2));
}
