//! Snapshots of compiled policies, for a host whose mounts and links are in `data`.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use stockade::policy::{
    check::{Overlay, check},
    compile::{compile, path_bits},
    dump::dump,
    extend,
    follow::follow,
    mounts::MountTable,
    parse,
};

/// Asked of every policy.
const PATHS: [&str; 18] = [
    "/",
    "/dev/null",
    "/etc/alternatives/editor",
    "/etc/passwd",
    "/etc/ssl/certs/ca.pem",
    "/home/ci",
    "/home/ci/build",
    "/home/ci/build/.env",
    "/home/ci/build/.git",
    "/home/ci/build/.git/hooks/pre-commit",
    "/home/ci/build/src/main.rs",
    "/home/ci/key",
    "/proc/self/status",
    "/srv/data/secret",
    "/srv/shared/a/b",
    "/usr/bin/nano",
    "/usr/bin/sh",
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
];

/// Path of a file beside the tests.
fn data(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// All of a dump but the automata's entries, which are counted; what holds for some paths; the warnings.
#[expect(clippy::unwrap_used, reason = "a test whose data is missing has failed")]
fn compiled(name: &str) -> String {
    let documents = extend::load(Path::new(&data(name)), &parse::read).unwrap();
    let overlay = Overlay { home: Some("/home/ci".into()), ..Overlay::default() };
    let mut policy = check(&documents, &overlay).unwrap();
    let mounts = MountTable::parse(&fs::read(data("mountinfo")).unwrap()).unwrap();
    let links = fs::read_to_string(data("links")).unwrap();
    let links: BTreeMap<&str, &str> = links.lines().filter_map(|line| line.split_once(' ')).collect();
    let read_link =
        |path: &[u8]| Ok(links.get(std::str::from_utf8(path).unwrap()).map(|t| t.as_bytes().to_vec()));
    let warnings = follow(&mut policy, &mounts, &read_link).unwrap();
    let (image, stats) = compile(&policy, &mounts).unwrap();

    let is_entry = |line: &&str| line.starts_with("next ") || line.starts_with("state ");
    let dump = dump(&image);
    let lines: Vec<&str> = dump.lines().filter(|line| !is_entry(line)).collect();
    let mut text = lines.join("\n");
    let _ = write!(text, "\n{stats:?}\n");
    for path in PATHS {
        let (mount, inside) = mounts.inside(path.as_bytes()).unwrap();
        let (allow, deny) = path_bits(&image, mount.dev, &inside).unwrap_or_default();
        let _ = writeln!(text, "path {path} allow {allow:#x} deny {deny:#x}");
    }
    for warning in warnings {
        let _ = writeln!(text, "warning {} {:?}: {}", warning.source, warning.span, warning.message);
    }
    text.replace(&data(""), "")
}

#[test]
fn policies_compile_to_the_same_tables() {
    for name in ["nothing", "audit", "team", "ci", "names", "links"] {
        insta::assert_snapshot!(name, compiled(&format!("{name}.toml")));
    }
}
