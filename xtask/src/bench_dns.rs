//! `bench-dns`: how fast the DNS gate answers what it knows, beside dnsmasq and unbound, all in one run on this machine.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, setup};

/// `cargo xtask bench-dns`.
#[derive(clap::Args)]
pub struct Args {
    /// Seconds of each of a server's seven turns.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// What was measured of a server.
#[derive(Debug, PartialEq)]
struct Figures {
    name: String,
    /// Queries a second, microseconds of processor time a query, and from question to answer: median, 99 %.
    values: [f64; 4],
}

/// A process that ends with us.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Server {
    fn start(command: &mut Command) -> Result<Self> {
        let shown = format!("{command:?}");
        Ok(Self(command.spawn().with_context(|| format!("starting {shown}"))?))
    }

    /// Starts something whose first line is its port.
    fn with_port(command: &mut Command) -> Result<(Self, u16)> {
        let mut server = Self::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let mut line = String::new();
        let output = server.0.stdout.take().context("a server without output")?;
        BufReader::new(output).read_line(&mut line)?;
        let port = line.trim().parse().with_context(|| format!("{line:?} is no port"))?;
        Ok((server, port))
    }
}

/// Measures, and prints a table.
pub fn run(args: &Args) -> Result<u8> {
    setup::ensure_name_servers()?;
    let mut cargo = command::cargo();
    command::run(cargo.current_dir(command::root()).args([
        "build",
        "--release",
        "-p",
        "stockade-tests",
        "--bin",
        "dns",
    ]))?;
    let program = command::root().join("target/release/dns");
    let folder = tempfile::tempdir()?;
    let (_upstream, upstream) = Server::with_port(Command::new(&program).arg("upstream"))?;
    let (gate, gate_port) =
        Server::with_port(Command::new(&program).args(["gate", &format!("127.0.0.1:{upstream}")]))?;
    let (dnsmasq, dnsmasq_port) = dnsmasq(upstream)?;
    let (unbound, unbound_port) = unbound(folder.path(), upstream)?;
    let mut measure = Command::new(&program);
    measure.args(["measure", &args.seconds.to_string()]);
    for (name, server, port) in
        [("gate", &gate, gate_port), ("dnsmasq", &dnsmasq, dnsmasq_port), ("unbound", &unbound, unbound_port)]
    {
        measure.arg(format!("{name}={port}/{}", server.0.id()));
    }
    let output = measure.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("{measure:?} has failed");
    }
    println!("{}", table(&parse(&String::from_utf8_lossy(&output.stdout))));
    Ok(0)
}

/// A port that nobody has.
fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn dnsmasq(upstream: u16) -> Result<(Server, u16)> {
    let port = free_port()?;
    let mut command = Command::new(command::tool("dnsmasq")?);
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--pid-file=",
    ]);
    command.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--cache-size=10000", "--user="]);
    command.args([format!("--port={port}"), format!("--server=127.0.0.1#{upstream}")]);
    Ok((Server::start(&mut command)?, port))
}

fn unbound(folder: &Path, upstream: u16) -> Result<(Server, u16)> {
    let port = free_port()?;
    let folder_name = folder.display();
    let text = format!(
        "server:\n  interface: 127.0.0.1\n  port: {port}\n  num-threads: 1\n  do-daemonize: no\n  chroot: \"\"\n  username: \"\"\n  \
         directory: \"{folder_name}\"\n  pidfile: \"\"\n  use-syslog: no\n  verbosity: 0\n  module-config: \"iterator\"\n  \
         do-not-query-localhost: no\n  local-zone: \"test.\" nodefault\nforward-zone:\n  name: \".\"\n  \
         forward-addr: 127.0.0.1@{upstream}\nremote-control:\n  control-enable: no\n"
    );
    let file = folder.join("unbound.conf");
    fs::write(&file, text)?;
    let mut command = Command::new(command::tool("unbound")?);
    command.arg("-d").arg("-c").arg(file);
    Ok((Server::start(&mut command)?, port))
}

/// Reads lines `D NAME VALUE VALUE VALUE VALUE`.
fn parse(text: &str) -> Vec<Figures> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["D", name, a, b, c, d] = words[..] else { return None };
        let values = [a.parse().ok()?, b.parse().ok()?, c.parse().ok()?, d.parse().ok()?];
        Some(Figures { name: name.to_owned(), values })
    };
    text.lines().filter_map(line).collect()
}

/// A table in Markdown: each figure, and how many times the gate's.
fn table(figures: &[Figures]) -> String {
    let mut out = String::from(
        "| | queries/s | processor time a query, µs | median, µs | 99 %, µs |\n|---|---|---|---|---|\n",
    );
    let Some(gate) = figures.first() else { return out };
    for Figures { name, values } in figures {
        let cells = values.iter().zip(gate.values).zip([0, 2, 1, 1]);
        let cells = cells.map(|((value, base), digits)| format!("{value:.digits$} ({:.2} x)", value / base));
        out.push_str(&format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_beside_the_gates() {
        let figures =
            parse("noise\nD gate 100000 8.00 20.0 40.0\nD dnsmasq 50000 16.00 30.0 80.0\nD cut 1 2\n");
        assert_eq!(figures.len(), 2);
        let text = table(&figures);
        assert!(
            text.contains("| gate | 100000 (1.00 x) | 8.00 (1.00 x) | 20.0 (1.00 x) | 40.0 (1.00 x) |"),
            "{text}"
        );
        assert!(
            text.contains("| dnsmasq | 50000 (0.50 x) | 16.00 (2.00 x) | 30.0 (1.50 x) | 80.0 (2.00 x) |"),
            "{text}"
        );
    }
}
