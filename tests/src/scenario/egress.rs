//! `egress`: what leaves this host leaves by one interface. Beside it there is another, with the default route: what it has
//! sent is counted.

use std::fs;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::names::expect;

const WAY: &str = "va0";
const OTHER: &str = "du0";
/// Behind [`WAY`], in a network namespace of its own.
const PEER: &str = "198.18.0.2";
const PORT: u16 = 7100;
const READY: &str = "/lifecycle/work/egress-ready";
const DOWN: &str = "/lifecycle/work/egress-down";

fn ip(words: &str) -> io::Result<()> {
    let ended = Command::new("ip").args(words.split_whitespace()).status()?;
    if ended.success() { Ok(()) } else { Err(io::Error::other(format!("ip {words}: {ended}"))) }
}

/// Moves into a network namespace of its own, says so, and serves there once it may.
fn peer() -> io::Result<()> {
    let (moved, is_moved) = channel();
    let (come, has_come) = channel::<String>();
    let (serves, is_serving) = channel();
    thread::spawn(move || {
        let serve = || -> io::Result<()> {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
            // SAFETY: takes nothing.
            let _ = moved.send(unsafe { libc::gettid() });
            let name = has_come.recv().map_err(io::Error::other)?;
            ip("link set lo up")?;
            ip(&format!("addr add {PEER}/24 dev {name}"))?;
            ip(&format!("link set {name} up"))?;
            let listener = TcpListener::bind((PEER, PORT))?;
            let socket = UdpSocket::bind((PEER, PORT))?;
            thread::spawn(move || listener.incoming().for_each(drop));
            thread::spawn(move || while socket.recv(&mut [0; 64]).is_ok() {});
            Ok(())
        };
        let _ = serves.send(serve());
    });
    let thread = is_moved.recv().map_err(io::Error::other)?;
    let others = || -> io::Result<Vec<String>> {
        let names = fs::read_dir("/sys/class/net")?.flatten();
        Ok(names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    };
    let before = others()?;
    ip(&format!("link add {WAY} type veth"))?;
    let name = others()?.into_iter().find(|name| name != WAY && !before.contains(name));
    let name = name.ok_or_else(|| io::Error::other("a veth without a peer"))?;
    ip(&format!("link set {name} netns {thread}"))?;
    ip(&format!("addr add 198.18.0.1/24 dev {WAY}"))?;
    ip(&format!("link set {WAY} up"))?;
    let _ = come.send(name);
    is_serving.recv().map_err(io::Error::other)?
}

fn prepare() -> io::Result<()> {
    ip(&format!("link add {OTHER} type dummy"))?;
    // What the kernel says there of its own accord would be counted, too.
    fs::write(format!("/proc/sys/net/ipv6/conf/{OTHER}/disable_ipv6"), "1")?;
    ip(&format!("addr add 198.19.0.1/24 dev {OTHER}"))?;
    ip(&format!("link set {OTHER} up"))?;
    ip(&format!("route add default dev {OTHER}"))?;
    peer()
}

fn sent_elsewhere() -> Result<u64, String> {
    let file = format!("/sys/class/net/{OTHER}/statistics/tx_packets");
    let text = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    text.trim().parse().map_err(|error| format!("{file}: {text:?}: {error}"))
}

/// All of it: by every way of choosing another interface, and while there is none.
pub fn one_way_out() -> Result<(), String> {
    if !has_modules() {
        return Err("skipped: no veth or no dummy interfaces in this kernel".into());
    }
    let tried = prepare().map_err(|error| error.to_string()).and_then(|()| tried());
    // Others are not to go by them.
    for name in [WAY, OTHER].iter().filter(|name| Path::new("/sys/class/net").join(name).exists()) {
        ip(&format!("link del {name}")).map_err(|error| error.to_string())?;
    }
    tried
}

fn has_modules() -> bool {
    ["veth", "dummy"].iter().all(|name| Path::new(&format!("/sys/module/{name}")).exists())
}

fn tried() -> Result<(), String> {
    let to = |verb: &str| format!("{verb} {PEER} {PORT}");
    let away = |verb: &str| format!("{verb} 198.19.0.2 {PORT}");
    let choose = |verb: &str| format!("{verb} {OTHER}");
    let pktinfo = format!("udp-pktinfo {OTHER} 198.19.0.2 {PORT}");
    let before = sent_elsewhere()?;
    let outside = [to("tcp4"), to("udp4"), away("udp4"), away("udp4-connected"), pktinfo.clone()];
    let outside = outside.into_iter().chain(["bind-to-device", "bind-to-index", "unicast-if"].map(choose));
    let outside: Vec<(String, &str)> = outside.map(|op| (op, "allowed")).collect();
    let borrowed = |ops: &[(String, &'static str)]| -> Vec<(String, &'static str)> { ops.to_vec() };
    run(None, &borrowed(&outside))?;
    let control = sent_elsewhere()?;
    if control < before + 4 {
        return Err(format!("outside {} packets left by {OTHER}: this proves nothing", control - before));
    }
    let mut ops: Vec<(String, &'static str)> =
        ["tcp4", "udp4", "udp4-connected", "sendmmsg", "udp-gso", "io_uring-connect", "io_uring-sendmsg"]
            .map(|verb| (to(verb), "allowed"))
            .to_vec();
    // Whether it is lost or refused is all one: it does not leave there.
    let lost = ["udp4", "udp4-connected", "sendmmsg", "io_uring-sendmsg"].map(|verb| (away(verb), ""));
    ops.extend(lost);
    ops.push((away("tcp-brief"), "error"));
    ops.push((pktinfo, "denied"));
    ops.extend(["bind-to-device", "bind-to-index", "unicast-if"].map(|verb| (choose(verb), "denied")));
    let around: Vec<(String, &'static str)> = ["tcp4 127.0.0.1 {own}", "udp4 127.0.0.1 {own}"]
        .map(|op| (op.to_owned(), "allowed"))
        .into_iter()
        .chain([("dns {any} api.scenario.test".to_owned(), "allowed")])
        .collect();
    ops.extend(around.clone());
    ops.push((format!("create {READY}"), "allowed"));
    ops.push((format!("await {DOWN}"), "allowed"));
    // The interface is down, and the route that is left leads elsewhere.
    for op in [to("tcp-brief"), to("udp4"), to("udp4-connected"), away("udp4"), away("tcp-brief")] {
        ops.push((op, ""));
    }
    ops.push((to("tcp-brief"), "error"));
    ops.extend(around);
    for file in [READY, DOWN] {
        let _ = fs::remove_file(file);
    }
    let switch = thread::spawn(|| -> io::Result<()> {
        let end = Instant::now() + Duration::from_secs(120);
        while Instant::now() < end && !Path::new(READY).exists() {
            thread::sleep(Duration::from_millis(50));
        }
        ip(&format!("link set {WAY} down"))?;
        fs::write(DOWN, "")
    });
    let flags = [
        format!("--egress-interface={WAY}"),
        format!("--allow-net=198.18.0.0/15:{PORT}"),
        "--allow-net=127.0.0.1:{own}".to_owned(),
        "--allow-net=api.scenario.test:{port}".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let held = run(Some(&flags), &ops);
    let switched = switch.join().map_err(|_| "the thread that takes the interface down")?;
    held?;
    switched.map_err(|error| error.to_string())?;
    let after = sent_elsewhere()?;
    if after != control {
        return Err(format!("{} packets left by {OTHER}", after - control));
    }
    // Gone altogether, there is still no other way.
    ip(&format!("link del {WAY}")).map_err(|error| error.to_string())?;
    run(
        Some(&flags),
        &[(to("udp4"), "denied"), (away("tcp-brief"), "denied"), (away("udp4-connected"), "denied")],
    )?;
    let after = sent_elsewhere()?;
    if after == control { Ok(()) } else { Err(format!("{} packets left by {OTHER}", after - control)) }
}

fn run(flags: Option<&[&str]>, ops: &[(String, &'static str)]) -> Result<(), String> {
    let ops: Vec<(&str, &str)> = ops.iter().map(|(op, result)| (op.as_str(), *result)).collect();
    expect(flags, &ops)
}
