//! A gate, a name server and a client on loopback.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SOA, opt::EdnsOption},
    },
};

use super::super::{
    DnsConfig, Gate, GateEvent, Kernel, NameTable, Server, TableInput, Upstreams, ledger::prefix_data,
    reference::Recorder,
};
use crate::policy::checked::{DnsSettings, Mode, NameRule, NetRule};

pub const SCOPE: u32 = 5;

/// A name server: what it sends for a question, by UDP (`false`) and TCP.
pub struct NameServer {
    pub address: SocketAddr,
    pub asked: Arc<AtomicUsize>,
}

impl NameServer {
    pub fn start(answer: impl Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let (udp, tcp) = (0..100)
            .find_map(|_| {
                let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                Some((UdpSocket::bind(tcp.local_addr().unwrap()).ok()?, tcp))
            })
            .unwrap();
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (answer, counter) = (Arc::new(answer), Arc::clone(&asked));
        let of_udp = Arc::clone(&answer);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                counter.fetch_add(1, Ordering::SeqCst);
                let question = Message::from_vec(&buffer[..length]).unwrap();
                for packet in of_udp(&question, false) {
                    udp.send_to(&packet, peer).unwrap();
                }
            }
        });
        let counter = Arc::clone(&asked);
        thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                counter.fetch_add(1, Ordering::SeqCst);
                let Some(packet) = read_framed(&mut stream) else { continue };
                for packet in answer(&Message::from_vec(&packet).unwrap(), true) {
                    drop(write_framed(&mut stream, &packet));
                }
            }
        });
        Self { address, asked }
    }

    /// One that answers as it should.
    pub fn honest(records: impl Fn(&Query) -> Vec<Record> + Send + Sync + 'static) -> Self {
        Self::start(move |question, _| vec![reply(question, records(&question.queries[0]))])
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

pub fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

pub fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat())
}

/// The answer to a question with these records.
pub fn message(question: &Message, records: Vec<Record>) -> Message {
    let mut message = Message::response(question.metadata.id, question.metadata.op_code);
    message.add_queries(question.queries.clone());
    message.answers = records;
    message
}

pub fn reply(question: &Message, records: Vec<Record>) -> Vec<u8> {
    message(question, records).to_vec().unwrap()
}

pub fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap()
}

pub fn address(owner: &Name, ttl: u32, text: &str) -> Record {
    let data = match text.parse().unwrap() {
        std::net::IpAddr::V4(address) => RData::A(A(address)),
        std::net::IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(owner.clone(), ttl, data)
}

pub fn cname(owner: &Name, target: &str) -> Record {
    Record::from_rdata(owner.clone(), 60, RData::CNAME(CNAME(name(target))))
}

pub fn soa(zone: &str, ttl: u32, minimum: u32) -> Record {
    Record::from_rdata(
        name(zone),
        ttl,
        RData::SOA(SOA::new(name("ns.test"), name("x.test"), 1, 1, 1, 1, minimum)),
    )
}

/// A gate and what it tells.
pub struct Stage {
    pub gate: Gate,
    pub kernel: Arc<Recorder>,
    pub events: Arc<Mutex<Vec<GateEvent>>>,
    pub port: u16,
    pub netns: u64,
}

/// What a policy says.
#[derive(Default)]
pub struct Policy {
    pub names: Vec<NameRule>,
    pub destinations: Vec<NetRule>,
    pub settings: DnsSettings,
    pub private: Vec<(String, bool)>,
    pub mode: Mode,
}

impl Policy {
    pub fn table(&self) -> Arc<NameTable> {
        let Self { names, destinations, settings, private, mode } = self;
        Arc::new(NameTable::new(&TableInput { names, destinations, mode: *mode, settings, private }))
    }
}

/// Allows these names; `*.x` for those below.
pub fn allowing(names: &[&str]) -> Policy {
    let rule = |(index, text): (usize, &&str)| {
        let (name, below) = text.strip_prefix("*.").map_or((*text, false), |name| (name, true));
        super::super::reference::rule(name, below, false, u32::try_from(index).unwrap() + 10)
    };
    Policy { names: names.iter().enumerate().map(rule).collect(), ..Policy::default() }
}

impl Stage {
    pub fn new(servers: &[SocketAddr], policy: &Policy) -> Self {
        let servers = servers.iter().copied().map(Server::plain).collect();
        Self::with(&DnsConfig { upstream: Upstreams::These(servers) }, policy)
    }

    pub fn with(config: &DnsConfig, policy: &Policy) -> Self {
        let kernel = Arc::new(Recorder::default());
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let gate = Gate::start(config, Arc::clone(&kernel) as Arc<dyn Kernel>, move |event| {
            sink.lock().unwrap().push(event);
        })
        .unwrap();
        gate.switch(SCOPE, policy.table(), |_| Ok::<_, ()>(())).unwrap();
        let (netns, port) = gate.open(SCOPE, None, |_| Ok(())).unwrap();
        Self { gate, kernel, events, port, netns }
    }

    pub fn send(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
        socket.send_to(packet, (Ipv4Addr::LOCALHOST, self.port)).unwrap();
        let mut buffer = [0; 65_535];
        let length = socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    /// The reply to a question by UDP, with options.
    pub fn ask(&self, text: &str, kind: RecordType) -> Message {
        Message::from_vec(&self.send(&question(text, kind)).expect("a reply")).unwrap()
    }

    pub fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    pub fn ask_tcp(&self, text: &str, kind: RecordType) -> Message {
        let mut stream = self.tcp();
        write_framed(&mut stream, &question(text, kind)).unwrap();
        Message::from_vec(&read_framed(&mut stream).unwrap()).unwrap()
    }

    pub fn events(&self) -> Vec<GateEvent> {
        self.events.lock().unwrap().clone()
    }

    /// Whether exactly these addresses are allowed.
    pub fn granted_are(&self, addresses: &[&str]) {
        let expected: BTreeSet<_> = addresses.iter().map(|text| prefix_data(text.parse().unwrap())).collect();
        assert_eq!(self.kernel.addresses(), expected);
    }
}

pub fn question(text: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    message.set_edns(Edns::new());
    message.to_vec().unwrap()
}

/// The addresses of a reply, in order.
pub fn addresses(message: &Message) -> Vec<String> {
    let of = |record: &Record| match &record.data {
        RData::A(address) => Some(address.0.to_string()),
        RData::AAAA(address) => Some(address.0.to_string()),
        _ => None,
    };
    message.answers.iter().filter_map(of).collect()
}

/// Code and text of an extended error.
pub fn extended(message: &Message) -> Option<(u16, String)> {
    match message.edns.as_ref()?.option(15.into())? {
        EdnsOption::Unknown(15, bytes) => Some((
            u16::from_be_bytes([bytes[0], bytes[1]]),
            String::from_utf8_lossy(&bytes[2..]).into_owned(),
        )),
        _ => None,
    }
}

pub fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}
