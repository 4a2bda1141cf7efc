//! `stockade run`'s side of a run.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Child,
};

use stockade::{
    daemon::client::{
        Client, ClientError,
        run::{Run, RunError, Wanted},
    },
    scope::launch::{Join, Launch, LaunchError},
};

use super::setup::{As, Daemon};

fn start(client: &Client, policy: &str, program: &str, script: String) -> Result<Run, RunError> {
    let launch = move |join: Join| -> Result<Child, LaunchError> {
        let words = ["sh".into(), "-c".into(), script.into()];
        Launch {
            program: Path::new(program),
            words: &words,
            user: None,
            capabilities: u64::MAX,
            own_ipc: false,
            tmp: None,
            join,
        }
        .start()
    };
    Run::start(
        client,
        Wanted { policy: policy.into(), audit_all: false, sources: BTreeMap::new(), allow_degraded: false },
        launch,
    )
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn proof(folder: &tempfile::TempDir) -> (PathBuf, String) {
    let proof = folder.path().join("proof");
    let script = format!("echo > {}", proof.display());
    (proof, script)
}

#[test]
fn a_command_runs_once_the_daemon_has_moved_it() {
    let daemon = Daemon::start(As::Member);
    let folder = tempfile::tempdir().unwrap();
    let (proof, script) = proof(&folder);
    let mut run = start(&Client::new(&daemon.path), "slow", "/bin/sh", script).unwrap();
    assert_eq!(run.started().scope, "run-1");
    let pid = run.child().id();
    assert!(run.child().wait().unwrap().success() && proof.exists());
    let own = std::process::id();
    assert_eq!(daemon.asked.all(), [format!("run {pid} by {own} as {}", nix::unistd::geteuid())]);
    block_on(async {
        assert!(run.next().await.unwrap().contains("begin"));
        let ended = run.end().await.unwrap();
        assert_eq!(ended.decisions.net.denied, 4);
        assert!(run.next().await.unwrap().contains("end"));
        assert_eq!(run.next().await, None);
    });
    drop(run);
    assert_eq!(daemon.asked.all()[1..], ["end run-1"]);
}

#[test]
fn a_refused_command_never_runs() {
    let daemon = Daemon::start(As::Root);
    let folder = tempfile::tempdir().unwrap();
    let (proof, script) = proof(&folder);
    let refused = start(&Client::new(&daemon.path), "bad", "/bin/sh", script.clone()).unwrap_err();
    assert!(
        matches!(&refused, RunError::Daemon(ClientError::Refused(error)) if error.message == "the core's words")
    );
    let none = start(&Client::new(Path::new("/no/such.sock")), "ok", "/bin/sh", script).unwrap_err();
    assert!(matches!(none, RunError::Daemon(ClientError::NoDaemon { .. })));
    assert!(!proof.exists());
}

#[test]
fn a_degraded_daemon_runs_nothing_unless_that_is_allowed() {
    let daemon = Daemon::start(As::Root);
    let folder = tempfile::tempdir().unwrap();
    let (proof, script) = proof(&folder);
    let refused = start(&Client::new(&daemon.path), "degraded", "/bin/sh", script).unwrap_err();
    assert!(matches!(refused, RunError::Degraded), "{refused}");
    daemon.asked.wait_for("end run-1");
    assert!(!proof.exists());
}

#[test]
fn a_command_that_cannot_be_executed_leaves_no_run() {
    let daemon = Daemon::start(As::Root);
    let failed = start(&Client::new(&daemon.path), "ok", "/etc/passwd", String::new()).unwrap_err();
    assert!(matches!(failed, RunError::Launch(LaunchError::Exec { .. })), "{failed}");
    daemon.asked.wait_for("end run-1");
}

#[test]
fn a_run_that_is_dropped_is_ended() {
    let daemon = Daemon::start(As::Root);
    let mut run =
        start(&Client::new(&daemon.path), "ok", "/bin/sh", "exec sleep 60 >/dev/null 2>&1".into()).unwrap();
    assert!(run.child().try_wait().unwrap().is_none());
    // The core would kill it.
    run.child().kill().unwrap();
    run.child().wait().unwrap();
    drop(run);
    daemon.asked.wait_for("end run-1");
}

#[test]
fn a_command_outlives_the_daemon() {
    let mut daemon = Daemon::start(As::Root);
    let folder = tempfile::tempdir().unwrap();
    let (proof, script) = proof(&folder);
    let go = folder.path().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.1; done; {script}", go.display());
    let mut run = start(&Client::new(&daemon.path), "ok", "/bin/sh", script).unwrap();
    daemon.stop();
    block_on(async {
        while run.next().await.is_some() {}
        assert!(matches!(run.end().await, Err(ClientError::NoDaemon { .. })));
    });
    fs::write(&go, "").unwrap();
    assert!(run.child().wait().unwrap().success() && proof.exists());
}
