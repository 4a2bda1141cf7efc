use std::{fs, os::unix::fs::symlink, time::Duration};

use nix::sys::stat::mkdirat;

use super::*;

fn fake(names: &[&str]) -> (tempfile::TempDir, Tree) {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        fs::create_dir_all(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("cgroup.procs"), "").unwrap();
    }
    fs::write(dir.path().join("cgroup.procs"), "0\n1\n").unwrap();
    let tree = Tree::at(dir.path());
    (dir, tree)
}

fn paths(walked: &Walked) -> Vec<String> {
    walked.nodes.iter().map(|node| node.path.display().to_string()).collect()
}

/// Makes cgroups one in the other, below the last of them what is asked for.
fn nest(from: &Path, name: &str, depth: usize) {
    let mut directory: OwnedFd = File::open(from).unwrap().into();
    for _ in 0..depth {
        mkdirat(&directory, name, Mode::from_bits_truncate(0o755)).unwrap();
        directory = open_below(directory.as_fd(), OsStr::new(name)).unwrap();
    }
}

#[test]
fn each_comes_behind_its_parent_with_all_that_is_below_it() {
    let (dir, tree) = fake(&["a", "a/c", "a/c/d", "a/b", "b"]);
    symlink("a", dir.path().join("link")).unwrap();
    let of = |from: &str| {
        let walked = tree.walk(Path::new(from)).unwrap();
        assert!(walked.problems.is_empty());
        assert!(walked.nodes.iter().all(|node| node.id == tree.id(&node.path).unwrap()));
        paths(&walked)
    };
    assert_eq!(of("/"), ["/", "/a", "/a/b", "/a/c", "/a/c/d", "/b"]);
    assert_eq!(of("/a"), ["/a", "/a/b", "/a/c", "/a/c/d"]);
    assert!(tree.walk(Path::new("/gone")).is_err());
}

#[test]
fn what_a_visitor_makes_before_a_listing_is_in_it() {
    let (dir, tree) = fake(&["a", "b"]);
    let mut met = Vec::new();
    let problems = tree.visit(Path::new("/"), None, &mut |visit| {
        if let Visit::Met(node) = visit {
            met.push(node.path.display().to_string());
            if node.path == Path::new("/a") {
                fs::create_dir(dir.path().join("a/late")).unwrap();
            }
            return node.path != Path::new("/b");
        }
        true
    });
    assert!(problems.unwrap().is_empty());
    assert_eq!(met, ["/", "/a", "/a/late", "/b"]);
}

#[test]
fn long_and_deep_names_hide_nothing() {
    let (dir, tree) = fake(&["m", "z"]);
    let long = "x".repeat(255);
    nest(&dir.path().join("m"), &long, 20);
    let walked = tree.walk(Path::new("/")).unwrap();
    assert!(walked.problems.is_empty(), "{:?}", walked.problems);
    assert_eq!(walked.nodes.len(), 23);
    let deepest = walked.nodes.iter().max_by_key(|node| node.path.as_os_str().len()).unwrap();
    assert!(deepest.path.as_os_str().len() > 4096);
    assert_eq!(tree.id(&deepest.path).unwrap(), deepest.id);
    nest(&dir.path().join("m"), "y", 300);
    let walked = tree.walk(Path::new("/")).unwrap();
    let lines: Vec<String> = walked.problems.lines().collect();
    assert!(lines.len() == 1 && lines[0].contains("256 deep"), "{lines:?}");
    assert!(paths(&walked).contains(&"/z".to_owned()));
    // What std removes by path it would not.
    std::process::Command::new("rm").arg("-rf").arg(dir.path().join("m")).status().unwrap();
}

#[test]
fn a_walk_ends_in_time_and_says_so() {
    let (_dir, tree) = fake(&["a", "b"]);
    let past = Instant::now().checked_sub(Duration::from_millis(1)).unwrap();
    let walked = tree.walk_until(Path::new("/"), Some(past)).unwrap();
    assert_eq!(paths(&walked), ["/"]);
    assert!(walked.problems.lines().any(|line| line.contains("no time left")));
    let (_, problems) = tree.all_processes(Path::new("/"), Some(past)).unwrap();
    assert!(!problems.is_empty(), "nobody takes a part for all");
}

#[test]
fn processes_are_counted_with_those_below() {
    let (dir, tree) = fake(&["a", "a/b"]);
    fs::write(dir.path().join("a/cgroup.procs"), "5\n3\n").unwrap();
    fs::write(dir.path().join("a/b/cgroup.procs"), "7\n").unwrap();
    let all = |path: &str| tree.all_processes(Path::new(path), None).unwrap();
    assert_eq!(tree.processes(Path::new("/a")).unwrap(), BTreeSet::from([3, 5]));
    assert_eq!(all("/a"), (BTreeSet::from([3, 5, 7]), Problems::default()));
    assert_eq!(tree.processes(Path::new("/")).unwrap(), BTreeSet::from([1]), "not what we cannot name");
    fs::write(dir.path().join("a/cgroup.procs"), "x\n").unwrap();
    assert!(matches!(tree.processes(Path::new("/a")), Err(TreeError::Format { .. })));
    // One that cannot be read doesn't hide the others, and is no sign that nobody is there.
    let (pids, problems) = all("/a");
    assert_eq!(pids, BTreeSet::from([7]));
    assert!(!problems.is_empty());
}
