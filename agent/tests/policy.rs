//! `stockade policy` from outside: what good policies come to, and the schema of the language.

mod program;

use std::{
    fs,
    path::{Path, PathBuf},
};

use program::stockade;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

#[test]
fn a_dump_is_the_same_every_time() {
    let arguments = ["policy", "compile", "--dump", "--mounts", "mountinfo", "ci.toml"];
    let output = stockade(&data(), &arguments);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    for start in ["rule 0 ", "filesystem 8:1 ", "accept 0 ", "next ", "state ", "prefix ", "ports 0 "] {
        assert!(output.stdout.lines().any(|line| line.starts_with(start)), "no line {start:?}");
    }
    assert!(output.stdout.trim_end().ends_with("prefixes"), "the sizes stand last");
    assert_eq!(stockade(&data(), &arguments), output);
}

#[test]
fn a_good_policy_passes_the_check() {
    let output = stockade(&data(), &["policy", "check", "ci.toml"]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    assert_eq!(output.stdout, "ci: 48 path rules, 4 destinations, 0 names\n");
}

#[test]
fn the_schema_is_the_one_that_is_published() {
    let output = stockade(&data(), &["policy", "schema"]);
    assert_eq!(output.code, Some(0));
    let published = include_str!("../../docs/schema/policy-v1.json");
    assert_eq!(output.stdout, published, "run `stockade policy schema > docs/schema/policy-v1.json`");
}

#[test]
fn the_schema_tells_good_documents_from_bad_ones() {
    let schema = serde_json::from_str(include_str!("../../docs/schema/policy-v1.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let is_valid = |text: &str| {
        let value: toml::Table = text.parse().unwrap();
        validator.is_valid(&serde_json::to_value(value).unwrap())
    };
    for name in
        ["nothing.toml", "audit.toml", "team.toml", "ci.toml", "names.toml", "links.toml", "runner.toml"]
    {
        assert!(is_valid(&fs::read_to_string(data().join(name)).unwrap()), "{name}");
    }
    for bad in [
        "",
        "version = 2",
        "version = '1'",
        "version = 1\nsurprise = true",
        "version = 1\nmode = 'off'",
        "version = 1\nextends = 'base'",
        "version = 1\n[files]\nread = '/etc/**'",
        "version = 1\n[files]\nread = ['']",
        "version = 1\n[files]\nraed = []",
        "version = 1\n[network]\nallow = [443]",
        "version = 1\n[network]\negress = 'wg0'",
        "version = 1\n[network]\negress = { interface = '' }",
        "version = 1\n[network.dns]\nrefuse = 'servfail'",
        "version = 1\n[network.dns]\nqueries_per_minute = 0",
        "version = 1\n[scope]\nunits = []",
        "version = 1\n[scope]\nunit = ['x.service']",
        "version = 1\n[scope]\ncontainers = [{ runtime = 'rkt' }]",
        "version = 1\n[scope]\nstart = 'later'",
    ] {
        assert!(!is_valid(bad), "{bad}");
    }
}
