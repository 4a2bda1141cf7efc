//! The DNS gate by itself, a name server for it, and a client that asks a lot.

mod measure;

use std::{
    error::Error,
    io::{self, Read as _},
    net::{Ipv4Addr, UdpSocket},
    sync::Arc,
};

use stockade::{
    dns::{DnsConfig, Gate, Kernel, NameTable, Server, TableInput, Upstreams},
    policy::checked::{DnsSettings, Mode, NameRule},
};

use stockade_common::net::{Granted, PrefixData};

pub use measure::measure;

/// What a verb ends with.
pub type Done = Result<(), Box<dyn Error>>;

/// All names that are asked for are below it.
const ZONE: &str = "bench.test";

/// A name server that knows one address of every name, for an hour.
///
/// # Errors
/// If it has no socket.
pub fn upstream() -> Done {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", socket.local_addr()?.port());
    let mut packet = [0; 512];
    loop {
        let (length, peer) = socket.recv_from(&mut packet)?;
        socket.send_to(&answer(packet.get(..length).unwrap_or_default()), peer)?;
    }
}

/// A question is its header, a name, and four bytes of type and class; what follows it is left out.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut end = 12;
    while let Some(length) = question.get(end).filter(|length| **length > 0) {
        end += usize::from(*length) + 1;
    }
    let Some(asked) = question.get(..end + 5) else { return Vec::new() };
    let mut answer = asked.to_vec();
    // A response, with recursion; one question, one record.
    answer.splice(2..12, [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    // Another one for each name: those of a thousand names are not one.
    let sum =
        asked.iter().skip(12).fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let [_, a, b, c] = sum.to_be_bytes();
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 11, a, b, c]);
    answer
}

/// Takes what it is told.
struct Nobody;

impl Kernel for Nobody {
    fn grant(&self, _: u32, _: PrefixData, _: &Granted) -> io::Result<()> {
        Ok(())
    }

    fn revoke(&self, _: u32, _: PrefixData) -> io::Result<()> {
        Ok(())
    }
}

/// A gate without a kernel behind it, until nothing more can be read from standard input. That costs the answers that are
/// measured nothing: their addresses have been granted long before.
///
/// # Errors
/// If it cannot be started.
pub fn gate(upstream: &str) -> Done {
    let config = DnsConfig { upstream: Upstreams::These(vec![upstream.parse::<Server>()?]) };
    let names = [NameRule {
        name: ZONE.into(),
        below: true,
        ports: vec![(443, 443)],
        tcp: true,
        udp: false,
        deny: false,
        rule: 0,
    }];
    let unlimited = DnsSettings {
        queries_per_minute: u32::MAX,
        label_bytes_per_hour: u32::MAX,
        ..DnsSettings::default()
    };
    let table = NameTable::new(&TableInput {
        names: &names,
        destinations: &[],
        mode: Mode::Enforce,
        settings: &unlimited,
        private: &[],
    });
    let gate = Gate::start(&config, Arc::new(Nobody), |_| {})?;
    gate.switch(1, Arc::new(table), |_| Ok::<_, io::Error>(()))?;
    let (_, port) = gate.open(1, None, |_| Ok(()))?;
    println!("{port}");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
