use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::SystemTime,
};

use super::*;
use crate::scope::{cgroup::OwnCgroup, running::release};

fn job(node: Node, known: Vec<Seen>) -> Job {
    let boot =
        Boot { id: "boot".into(), time: SystemTime::UNIX_EPOCH, names: crate::gates::Names::default() };
    Job { node, name: "a".into(), how: How::Running, window: Vec::new(), policy: None, known, boot }
}

/// A cgroup in which something runs, where cgroups can be made.
fn running(name: &str) -> Option<(OwnCgroup, Tree, Node, Child)> {
    let tree = Tree::find().ok()?;
    let own = OwnCgroup::create(&format!("stockade-{name}-test-{}", std::process::id())).ok()?;
    let path = Path::new("/").join(own.path().strip_prefix(tree.mount()).ok()?);
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let child = Command::new("sleep").arg("60").stdin(Stdio::from(std::os::fd::OwnedFd::from(udp))).spawn();
    let child = child.unwrap();
    own.add(child.id()).unwrap();
    let id = own.id().unwrap();
    Some((own, tree, Node { path, id }, child))
}

fn lines(looks: &mut Looks, tree: &Tree) -> Vec<String> {
    let end = Instant::now() + LIMIT + Duration::from_secs(5);
    while Instant::now() < end {
        for step in looks.steps(tree) {
            if let Step::Done(_, lines) = step {
                return lines;
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("a look has no end")
}

#[test]
fn what_runs_is_looked_at_and_runs_on() {
    let Some((own, tree, node, mut child)) = running("look") else { return };
    let mut looks = Looks::default();
    looks.begin(&tree, job(node.clone(), Vec::new())).unwrap();
    assert!(looks.is_looked_at(node.id));
    let lines = lines(&mut looks, &tree);
    assert!(lines.iter().any(|line| line.contains("UDP socket 127.0.0.1")), "{lines:#?}");
    assert!(looks.is_idle() && !looks.is_looked_at(node.id));
    let state = std::fs::read_to_string(own.path().join("cgroup.freeze")).unwrap();
    assert_eq!(state.trim(), "0");
    assert!(!release(&tree, &node.path).unwrap(), "no mark is left");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_is_gone_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::at(dir.path());
    let mut looks = Looks::default();
    looks.begin(&tree, job(Node { path: "/gone".into(), id: 7 }, Vec::new())).unwrap();
    let lines = lines(&mut looks, &tree);
    assert!(lines.iter().any(|line| line.contains("could not be looked at")), "{lines:?}");
}

#[test]
fn threads_that_are_stuck_are_not_joined_by_more() {
    let mut looks = Looks::default();
    let stuck: Vec<Arc<()>> = (0..STUCK).map(|_| looks.alive.clone()).collect();
    let tree = Tree::at("/nowhere");
    let refused = looks.begin(&tree, job(Node { path: "/x".into(), id: 7 }, Vec::new()));
    assert!(refused.is_err());
    drop(stuck);
    assert!(looks.begin(&tree, job(Node { path: "/x".into(), id: 7 }, Vec::new())).is_ok());
}

#[test]
fn nobody_waits_for_who_does_not_answer() {
    let alive = Arc::new(());
    let (release, hang) = mpsc::channel::<()>();
    let said = spawn(&alive, move |tell: &Sender<()>| {
        let _ = (hang.recv(), tell);
    });
    let why = wait(&said.unwrap(), Instant::now() + Duration::from_millis(20)).unwrap_err();
    assert!(why.contains("no answer in time"), "{why}");
    assert_eq!(Arc::strong_count(&alive), 2);
    drop(release);
}
