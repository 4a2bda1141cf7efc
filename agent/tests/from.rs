//! `from:` rules of a policy file, from outside: what is read, shown, and explained.

mod program;

use std::fs;

use program::stockade;

const POLICY: &str = "version = 1\n[network]\nallow = [\"from:git-remotes\"]\n";

#[test]
fn remotes_of_the_repository_are_shown_and_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let git = folder.path().join(".git");
    fs::create_dir(&git).unwrap();
    fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(git.join("config"), "[remote \"origin\"]\n\turl = https://u:secret@git.example.test/x\n")
        .unwrap();
    fs::write(folder.path().join("p.toml"), POLICY).unwrap();
    let output = stockade(folder.path(), &["policy", "check", "p.toml"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(
        output.stderr.contains("git.example.test:443/tcp is allowed from:git-remotes ("),
        "{}",
        output.stderr
    );
    assert!(
        output.stderr.contains("/.git/config:2)") && !output.stderr.contains("secret"),
        "{}",
        output.stderr
    );
    let explained =
        stockade(folder.path(), &["explain", "net", "git.example.test:443/tcp", "--policy", "p.toml"]);
    assert_eq!(explained.code, Some(0), "{}", explained.stderr);
    assert!(explained.stdout.contains("from:git-remotes ("), "{}", explained.stdout);
}

#[test]
fn what_names_nothing_is_an_error_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.toml"), POLICY.replace("git-remotes", "gti-remotes")).unwrap();
    let output = stockade(folder.path(), &["policy", "check", "p.toml"]);
    assert_eq!(output.code, Some(2));
    assert!(
        output.stderr.contains("p.toml:3") && output.stderr.contains("from:git-remotes"),
        "{}",
        output.stderr
    );
    let denied = POLICY.replace("allow", "deny");
    fs::write(folder.path().join("p.toml"), denied).unwrap();
    let output = stockade(folder.path(), &["policy", "check", "p.toml"]);
    assert!(output.stderr.contains("denies nothing"), "{}", output.stderr);
}
