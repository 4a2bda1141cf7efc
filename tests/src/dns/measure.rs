//! Asks servers in turn, so that what else the machine does falls on all alike.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use super::{Done, ZONE};

/// Different names, all of which are asked once before.
const NAMES: u16 = 1000;
/// Questions that are under way at once.
const WINDOW: usize = 48;
/// Turns that each server has.
const ROUNDS: usize = 7;
/// Questions, one after the other, for the time that one takes.
const SINGLE: usize = 4000;
/// A clock tick of `/proc/PID/stat`, in microseconds.
const TICK_US: f64 = 10_000.0;

struct Peer {
    name: String,
    socket: UdpSocket,
    pid: u32,
    rounds: Vec<Round>,
}

struct Round {
    per_second: f64,
    cpu_us: f64,
    median_us: f64,
    late_us: f64,
}

/// Measures servers, given as `NAME=PORT/PID`, and prints a line for each: `D NAME QUERIES/S CPU-US MEDIAN-US P99-US`.
///
/// # Errors
/// If one does not answer.
pub fn measure(seconds: &str, servers: &[&str]) -> Done {
    let time = Duration::from_secs_f64(seconds.parse()?);
    let mut peers = Vec::new();
    for server in servers {
        let (name, rest) = server.split_once('=').ok_or("a server is NAME=PORT/PID")?;
        let (port, pid) = rest.split_once('/').ok_or("a server is NAME=PORT/PID")?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, port.parse()?))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        peers.push(Peer { name: name.into(), socket, pid: pid.parse()?, rounds: Vec::new() });
    }
    for peer in &peers {
        for id in 0..NAMES {
            peer.ask_until_answered(id)?;
        }
    }
    for _ in 0..ROUNDS {
        for peer in &mut peers {
            let round = peer.round(time)?;
            peer.rounds.push(round);
        }
    }
    for peer in &peers {
        let median = |of: fn(&Round) -> f64| {
            let mut all: Vec<f64> = peer.rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        println!(
            "D {} {:.0} {:.2} {:.1} {:.1}",
            peer.name,
            median(|round| round.per_second),
            median(|round| round.cpu_us),
            median(|round| round.median_us),
            median(|round| round.late_us),
        );
    }
    Ok(())
}

/// The question with this number, for the name with this number.
fn question(id: u16) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in format!("n{}.{ZONE}", id % NAMES).split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or(0));
        packet.extend(label.bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    // EDNS, 1232 bytes.
    packet.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    packet
}

/// Whether it is an answer with one record and no error, and to which question.
fn answered(packet: &[u8]) -> Option<u16> {
    match packet {
        [high, low, _, flags, _, _, 0, 1, ..] if flags & 0xf == 0 => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

impl Peer {
    fn ask_until_answered(&self, id: u16) -> Done {
        let mut buffer = [0; 2048];
        for _ in 0..20 {
            self.socket.send(&question(id))?;
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            if answered(buffer.get(..length).unwrap_or_default()) == Some(id) {
                return Ok(());
            }
        }
        Err(format!("{} does not answer", self.name).into())
    }

    fn round(&self, time: Duration) -> Result<Round, Box<dyn std::error::Error>> {
        let mut buffer = [0; 2048];
        let (mut next, mut answers) = (0_u16, 0_u32);
        let questions: Vec<Vec<u8>> = (0..NAMES).map(question).collect();
        let mut ask = || {
            next = (next + 1) % NAMES;
            self.socket.send(questions.get(usize::from(next)).map_or(&[][..], Vec::as_slice))
        };
        let (begun, cpu) = (Instant::now(), self.cpu_ticks()?);
        for _ in 0..WINDOW {
            ask()?;
        }
        while begun.elapsed() < time {
            match self.socket.recv(&mut buffer) {
                Ok(length) if answered(buffer.get(..length).unwrap_or_default()).is_some() => {
                    answers += 1;
                    ask()?;
                }
                Ok(_) => return Err(format!("{} answers with an error", self.name).into()),
                // All that were under way are lost.
                Err(_) => {
                    for _ in 0..WINDOW {
                        ask()?;
                    }
                }
            }
        }
        let (took, used) = (begun.elapsed(), self.cpu_ticks()? - cpu);
        while self.socket.recv(&mut buffer).is_ok() {}
        let mut singles = Vec::with_capacity(SINGLE);
        for id in (0..NAMES).cycle().take(SINGLE) {
            let begun = Instant::now();
            self.ask_until_answered(id)?;
            singles.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        singles.sort_by(f64::total_cmp);
        let at = |part: usize| singles.get(singles.len() * part / 100).copied().unwrap_or_default();
        Ok(Round {
            per_second: f64::from(answers) / took.as_secs_f64(),
            cpu_us: used * TICK_US / f64::from(answers.max(1)),
            median_us: at(50),
            late_us: at(99),
        })
    }

    /// What the server has used of processors, in clock ticks, in user space and in the kernel.
    fn cpu_ticks(&self) -> Result<f64, Box<dyn std::error::Error>> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let after = stat.rsplit_once(')').map(|(_, after)| after).unwrap_or_default();
        let mut fields = after.split_ascii_whitespace().skip(11);
        let mut field = || -> Result<f64, Box<dyn std::error::Error>> {
            Ok(fields.next().ok_or("no such field")?.parse()?)
        };
        Ok(field()? + field()?)
    }
}
