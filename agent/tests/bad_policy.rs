//! Every kind of bad input: exit code 2, nothing on standard output, and a message with place, reason and suggestion.

mod program;

use std::{fs, path::Path};

use program::stockade;

/// What is wrong, the policy, and where the message says it is.
const BAD: &[(&str, &str, &str)] = &[
    ("syntax", "version = 1\n[files\n", "p.toml:2"),
    ("value_missing", "version = 1\nname =\n", "p.toml:2"),
    ("no_version", "name = \"x\"\n", "p.toml:1"),
    ("other_version", "name = \"x\"\nversion = 2\n", "p.toml:2"),
    ("unknown_key", "version = 1\n[files]\nraed = [\"/etc/**\"]\n", "p.toml:3"),
    ("unknown_table", "version = 1\n[sockets]\n", "p.toml:2"),
    ("unknown_mode", "version = 1\nmode = \"enforced\"\n", "p.toml:2"),
    ("wrong_type", "version = 1\n[files]\nread = \"/etc/**\"\n", "p.toml:3"),
    ("wrong_element", "version = 1\n[network]\nallow = [443]\n", "p.toml:3"),
    ("bad_prefix", "version = 1\n[network]\nallow = [\"10.0.0.0/33\"]\n", "p.toml:3"),
    ("host_bits", "version = 1\n[network]\nallow = [\"10.0.0.1/8\"]\n", "p.toml:3"),
    ("mapped_host_bits", "version = 1\n[network]\nallow = [\"::ffff:10.0.0.1/104\"]\n", "p.toml:3"),
    ("port_70000", "version = 1\n[network]\nallow = [\"10.0.0.1:70000\"]\n", "p.toml:3"),
    ("no_protocol", "version = 1\n[network]\nallow = [\"10.0.0.1:53/sctp\"]\n", "p.toml:3"),
    ("every_name", "version = 1\n[network]\nallow = [\"*:443\"]\n", "p.toml:3"),
    ("inner_wildcard", "version = 1\n[network]\nallow = [\"api.*.example.test:443\"]\n", "p.toml:3"),
    ("odd_address", "version = 1\n[network]\nallow = [\"0x7f.1:80\"]\n", "p.toml:3"),
    ("url", "version = 1\n[network]\nallow = [\"https://api.example.test/\"]\n", "p.toml:3"),
    ("localhost", "version = 1\n[network]\nallow = [\"localhost:80\"]\n", "p.toml:3"),
    ("denied_port", "version = 1\n[network]\ndeny = [\"api.example.test:443\"]\n", "p.toml:3"),
    (
        "ranges_of_two_rules",
        "version = 1\n[network]\nallow = [\"a.example.test:1,3,5,7\",\n \"*.example.test:9,11/tcp\"]\n",
        "p.toml:3",
    ),
    ("others_loopback", "version = 1\n[network]\nallow = [\"loopback:8080\"]\n", "p.toml:3"),
    ("loopback_denied", "version = 1\n[network]\ndeny = [\"loopback:own\"]\n", "p.toml:3"),
    ("no_interface", "version = 1\n[network]\negress = { interface = \"wg 0\" }\n", "p.toml:3"),
    ("egress_name", "version = 1\n[network]\negress = \"wg0\"\n", "p.toml:3"),
    ("dns_refusal", "version = 1\n[network.dns]\nrefuse = \"servfail\"\n", "p.toml:3"),
    ("no_question", "version = 1\n[network.dns]\nqueries_per_minute = 0\n", "p.toml:3"),
    ("dead_name", "version = 1\n[network]\nallow = [\"a.example.test\"]\ndeny = [\"*.test\"]\n", "p.toml:3"),
    ("empty_destination", "version = 1\n[network]\nallow = [\"\"]\n", "p.toml:3"),
    ("relative_path", "version = 1\n[files]\nread = [\"etc/ssl\"]\n", "p.toml:3"),
    ("parent_directory", "version = 1\n[files]\nread = [\"/srv/../etc\"]\n", "p.toml:3"),
    ("empty_glob", "version = 1\n[files]\nread = [\"/etc/ssl\",\n  \"\"]\n", "p.toml:4"),
    ("partial_any", "version = 1\n[files]\nread = [\"/srv/a**\"]\n", "p.toml:3"),
    ("braces", "version = 1\n[files]\nread = [\"/srv/{a,b\"]\n", "p.toml:3"),
    ("no_variable", "version = 1\n[files]\nread = [\"${nowhere}/x\"]\n", "p.toml:3"),
    ("no_value", "version = 1\n[files]\nread = [\"${workspace}/x\"]\n", "p.toml:3"),
    ("missing_profile", "version = 1\nextends = [\"bsae\"]\n", "p.toml:2"),
    ("missing_file", "version = 1\nextends = [\"./gone.toml\"]\n", "p.toml:2"),
    ("cycle", "version = 1\nextends = [\"p.toml\"]\n", "p.toml:2"),
    ("unreachable", "version = 1\n[files]\nread = [\"/srv/a\"]\ndeny = [\"/srv/**\"]\n", "p.toml:3"),
    ("unknown_scope_key", "version = 1\n[scope]\nunit = [\"web.service\"]\n", "p.toml:3"),
    ("empty_scope", "version = 1\n[scope]\nstart = \"at-once\"\n", "p.toml:2"),
    ("empty_list", "version = 1\n[scope]\nunits = []\n", "p.toml:3"),
    ("no_suffix", "version = 1\n[scope]\nunits = [\"web\"]\n", "p.toml:3"),
    ("escaped_unit", "version = 1\n[scope]\nunits = [\"dev\\x2dtool.service\"]\n", "p.toml:3"),
    ("own_slice", "version = 1\n[scope]\ncgroups = [\"/*.slice\"]\n", "p.toml:3"),
    (
        "podman_label",
        "version = 1\n[scope]\ncontainers = [{ runtime = \"podman\", label = \"ci\" }]\n",
        "p.toml:3",
    ),
    (
        "several",
        "version = 1\n[network]\nallow = [\"x/\", \"1.2.3.4:0\"]\n[files]\nread = [\"\"]\n",
        "p.toml:5",
    ),
];

/// Runs what has to fail; the message.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = stockade(folder, arguments);
    assert_eq!(output.code, Some(2), "{}", output.stderr);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.contains("help:"), "no suggestion: {}", output.stderr);
    output.stderr
}

#[test]
fn bad_policies_are_refused_with_place_reason_and_suggestion() {
    let mut messages = String::new();
    for (name, text, place) in BAD {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.toml");
        fs::write(&file, text).unwrap();
        let message = refused(folder.path(), &["policy", "check", "p.toml"]);
        assert!(message.contains(place), "{name}: not at {place}: {message}");
        messages.push_str(&format!("--- {name}\n{message}"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{name}: something was written");
        assert_eq!(fs::read_to_string(&file).unwrap(), *text);
    }
    insta::assert_snapshot!("messages", messages);
}

#[test]
fn files_that_are_no_policies_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("latin1.toml"), b"version = 1\nname = \"caf\xe9\"\n").unwrap();
    fs::write(path("glob.toml"), format!("version = 1\n[files]\nread = [\"/{}\"]\n", "x".repeat(2000)))
        .unwrap();
    // Sparse: the size is judged before anything is read.
    fs::File::create(path("huge.toml")).unwrap().set_len(100 << 20).unwrap();
    fs::create_dir(path("folder.toml")).unwrap();
    fs::write(path("a.toml"), "version = 1\nextends = [\"./b.toml\"]\n").unwrap();
    fs::write(path("b.toml"), "version = 1\nextends = [\"c.toml\"]\n").unwrap();
    fs::write(path("c.toml"), "version = 1\nextends = [\"./a.toml\"]\n").unwrap();
    fs::write(path("notes.md"), "Not a policy\n").unwrap();
    fs::write(path("extends-notes.toml"), "version = 1\nextends = [\"./notes.md\"]\n").unwrap();
    for (file, reason, help) in [
        ("gone.toml", "cannot be read: No such file", "how it is spelt"),
        ("folder.toml", "is a directory", "name a policy file"),
        ("huge.toml", "more than the 8388608 bytes", "globs instead"),
        ("latin1.toml", "not UTF-8 in line 2, byte 23", "save it as UTF-8"),
        ("glob.toml", "the glob has 2001 bytes, 1024 are allowed", "shorten it"),
        ("a.toml", "a.toml -> ./b.toml -> ./c.toml ->", "take this entry out"),
        ("extends-notes.toml", "notes.md:1", "a policy is a TOML file"),
    ] {
        let message = refused(folder.path(), &["policy", "check", file]);
        assert!(message.contains(reason), "{file}: {message}");
        assert!(message.contains(help), "{file}: {message}");
    }
}

/// The same answers from `run`, before it looks at the host.
#[test]
fn a_bad_policy_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (file, proof) = (folder.path().join("p.toml"), folder.path().join("proof"));
    fs::write(&file, "version = 1\n[network]\nallow = [\"10.0.0.1:70000\"]\n").unwrap();
    let (file, proof) = (file.to_str().unwrap(), proof.to_str().unwrap());
    for arguments in [
        &["run", "--policy", file, "--", "touch", proof][..],
        &["run", "--allow-net", "10.0.0.1:70000", "--", "touch", proof],
        &["run", "--allow-read", "etc", "--", "touch", proof],
        &["run", "--deny-file", "", "--", "touch", proof],
        &["run", "--allow-read", "/srv/a", "--deny-read", "/srv/**", "--", "touch", proof],
    ] {
        let message = refused(folder.path(), arguments);
        assert!(message.contains("p.toml:3") || message.contains("--"), "{message}");
        assert!(!Path::new(proof).exists());
    }
}
