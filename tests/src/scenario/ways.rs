//! Every way to send, towards what a rule covers and towards what none does; each twice: by name, and as the gate is asked.

use super::batch;
use super::names::expect;

/// Ways to send to `ADDRESS`; all work outside.
const WAYS: &[&str] = &[
    "tcp4 ADDRESS {port}",
    "tcp4-mapped ADDRESS {port}",
    "tcp-fastopen ADDRESS {port}",
    "tcp-fastopen-connect ADDRESS {port}",
    "io_uring-connect ADDRESS {port}",
    "io_uring-connect-sqpoll ADDRESS {port}",
    "udp4 ADDRESS {port}",
    "udp4-connected ADDRESS {port}",
    "udp6-mapped ADDRESS {port}",
    "udp-unspec ADDRESS {port}",
    "sendmmsg ADDRESS {port}",
    "udp-gso ADDRESS {port}",
    "udp-gso-connected ADDRESS {port}",
    "io_uring-sendmsg ADDRESS {port}",
    "io_uring-sendmsg-sqpoll ADDRESS {port}",
];

/// A socket that may go to the first address goes on to the second.
const ONWARDS: &[&str] = &[
    "sendmmsg-two {api} {other} {port}",
    "udp-reconnect {api} {other} {port}",
    "udp-other-than-peer {api} {other} {port}",
    "tcp-reconnect {api} {other} {port}",
];

const ASKED: (&str, &str) = ("dns {any} api.scenario.test", "allowed");
const ASKED_OTHER: (&str, &str) = ("dns {any} other.scenario.test", "allowed");

fn to(address: &str) -> Vec<String> {
    WAYS.iter().map(|way| way.replace("ADDRESS", address)).collect()
}

/// The address of a granted name is reached by every way, another by none, nor by a socket that is let go to the first.
pub fn by_name() -> Result<(), String> {
    let (granted, other) = (to("{api}"), to("{other}"));
    let all = |ops: &[String], result| ops.iter().map(|op| (op.clone(), result)).collect::<Vec<_>>();
    let onwards: Vec<String> = ONWARDS.iter().map(|op| (*op).to_owned()).collect();
    // What no rule can name goes to a granted name's address no more than elsewhere.
    let never = ["mptcp {api} {port}".to_owned(), "mptcp {other} {port}".to_owned()];
    let checked = |flags, parts: &[Vec<(String, &'static str)>], asked: &[(&'static str, &'static str)]| {
        let ops = parts.concat();
        let ops: Vec<(&str, &str)> = ops.iter().map(|(op, result)| (op.as_str(), *result)).collect();
        expect(flags, &[asked, &ops[..]].concat())
    };
    checked(
        Some(&["--allow-net=api.scenario.test:{port}"]),
        &[all(&granted, "allowed"), all(&other, "denied"), all(&onwards, "denied"), all(&never, "denied")],
        &[ASKED],
    )?;
    checked(
        Some(&["--allow-net=api.scenario.test:{port}", "--allow-net=other.scenario.test:{port}"]),
        &[all(&onwards, "allowed")],
        &[ASKED, ASKED_OTHER],
    )?;
    checked(None, &[all(&granted, "allowed"), all(&other, "allowed"), all(&onwards, "allowed")], &[])
}

/// A question by a ring comes to the gate, whoever polls the ring; and nothing but a question reaches the gate's own port,
/// also where all of loopback is allowed.
pub fn gate() -> Result<(), String> {
    const COVERED: [&str; 4] =
        ["dns-io_uring", "dns-io_uring-sqpoll", "dns-io_uring-sendmsg", "dns-io_uring-sendmsg-sqpoll"];
    const PORT: [&str; 7] = ["tcp4", "tcp6", "udp4", "udp6", "sendto4", "sendto6", "fastopen4"];
    let asked = |name: &str, result| {
        COVERED.map(|verb| (format!("{verb} {{any}} {name}.scenario.test"), result)).to_vec()
    };
    let port = PORT.map(|way| (format!("gate-port {way} {{own}}"), "denied")).to_vec();
    let ops = [asked("api", "allowed"), asked("other", "error ENOENT"), port].concat();
    let mut ops: Vec<(&str, &str)> = ops.iter().map(|(op, result)| (op.as_str(), *result)).collect();
    ops.extend([("tcp4 127.0.0.1 {own}", "allowed"), ("udp6 ::1 {own}", "allowed")]);
    let flags = [
        "--allow-net=api.scenario.test:{port}",
        "--allow-net=127.0.0.0/8",
        "--allow-net=::1/128",
        "--allow-read=/proc/**",
        "--allow-read=/proc/net/*",
    ];
    expect(Some(&flags), &ops)?;
    expect(
        None,
        &[
            ("dns-io_uring-sqpoll {server} other.scenario.test", "allowed"),
            ("dns-io_uring-sendmsg-sqpoll {server} other.scenario.test", "allowed"),
        ],
    )
}

/// A gate answers its own scope, and nobody else on the host, while it does.
pub fn gate_of_its_own() -> Result<(), String> {
    const READY: &str = "/lifecycle/work/gate-ready";
    const DONE: &str = "/lifecycle/work/gate-done";
    for file in [READY, DONE] {
        let _ = std::fs::remove_file(file);
    }
    let inside = std::thread::spawn(|| {
        let (ready, done) = (format!("create {READY}"), format!("await {DONE}"));
        let asked = [
            "dns {any} api.scenario.test",
            "dns-tcp {any} api.scenario.test",
            "dns 2620:fe::fe api.scenario.test",
        ];
        let asked = asked.map(|op| (op, "allowed"));
        let ops = [&asked[..], &[(&*ready, "allowed"), (&*done, "allowed")], &asked].concat();
        expect(Some(&["--allow-net=api.scenario.test:{port}"]), &ops)
    });
    let end = std::time::Instant::now() + super::daemon::PATIENCE;
    while std::time::Instant::now() < end && !std::path::Path::new(READY).exists() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let ways = ["udp4", "udp6", "tcp4", "tcp6"].map(|way| format!("gate-ask {way} {{own}}"));
    // Nothing comes: it is not even refused.
    let outside = ways
        .iter()
        .map(|op| (op.as_str(), if op.contains("udp") { "error EAGAIN" } else { "error ETIMEDOUT" }));
    let others = expect(None, &outside.collect::<Vec<_>>());
    let told = std::fs::write(DONE, "").map_err(|error| error.to_string());
    inside.join().map_err(|_| "the run has panicked")??;
    others.and(told)
}

/// A workload with nothing but IPv6, in a network namespace of its own, asks the gate on `::1` there.
pub fn only_ipv6() -> Result<(), String> {
    use super::daemon::{Daemon, POLICY, TREE, stockade, text};
    use super::nameserver;

    let port = nameserver::start().map_err(text)?;
    let attempt = batch::attempt().map_err(text)?;
    let _daemon = Daemon::start("")?;
    let policy = format!(
        "version = 1\nname = \"ci\"\nextends = [\"base\"]\n[scope]\ncgroups = [\"/ci\"]\n[network]\nallow = \
         [\"api.scenario.test:{port}/tcp\"]\n[files]\nread = [\"/daemon/**\", \"/scenario-program/**\", \"/bin/**\"]\nexec = \
         [\"/bin/**\", \"/scenario-program/**\"]\n"
    );
    std::fs::write(POLICY, policy).map_err(text)?;
    stockade(&["policy", "reload"])?;
    // Whoever asks first tells the daemon where a gate is needed.
    let (asks, waits) = ("dns 2620:fe::fe api.scenario.test", "pause 2000");
    let first = [asks, waits].repeat(8);
    let last = [
        asks,
        "dns-connected 2620:fe::fe api.scenario.test",
        "dns-tcp 2620:fe::fe api.scenario.test",
        "dns 2620:fe::fe other.scenario.test",
        "tcp6 2001:db8::1 443",
    ];
    std::fs::write("/daemon/batch", [&first[..], &last].concat().join("\n")).map_err(text)?;
    let folder = format!("{TREE}/ci/six");
    std::fs::create_dir_all(&folder).map_err(text)?;
    let alone = "ip link set lo up && ip addr del 127.0.0.1/8 dev lo";
    let script =
        format!("{alone} && echo $$ > {folder}/cgroup.procs && exec {attempt} --batch /daemon/batch");
    let output = std::process::Command::new("unshare").args(["-n", "sh", "-c", &script]).output();
    let output = output.map_err(text)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let said: Vec<&str> = said.lines().collect();
    let ends = said.len().checked_sub(last.len()).and_then(|at| said.get(at..)).unwrap_or_default();
    let expected = ["allowed", "allowed", "allowed", "error ENOENT", "denied EPERM"];
    if ends == expected {
        return Ok(());
    }
    Err(format!("{said:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
