//! What must hold for the gate, whatever is asked and whatever is answered: for fuzz targets and property tests.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use hickory_proto::{
    op::{Message, MessageType, Query},
    rr::{
        Name, RData, RecordType,
        rdata::{HTTPS, SVCB, svcb::SvcParamValue},
    },
};
use stockade_common::net::{Granted, PrefixData};

use super::{
    Kernel, NameTable, Standing, TableInput,
    answer::{self, Data, Facts, MAX_CHAIN, TTL},
    cache::Remembered,
    core::{Asker, Core, Step},
    ledger::prefix_data,
    name::Key,
    question::{self, Parsed, Transport},
    scope::{Scope, State},
    standing,
    table::Cover,
    upstream::{Manner, Received, put, understand},
};
use crate::policy::checked::{DnsSettings, Mode, NameRule};

/// Stands for the kernel: remembers what it is told.
#[derive(Debug, Default)]
pub struct Recorder {
    /// What holds.
    pub granted: Mutex<BTreeMap<PrefixData, Granted>>,
    /// What it does not take.
    pub refused: Mutex<BTreeSet<PrefixData>>,
}

impl Recorder {
    /// Addresses that something holds for.
    pub fn addresses(&self) -> BTreeSet<PrefixData> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

impl Kernel for Recorder {
    fn grant(&self, _: u32, address: PrefixData, granted: &Granted) -> io::Result<()> {
        if self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&address) {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).insert(address, *granted);
        Ok(())
    }

    fn revoke(&self, _: u32, address: PrefixData) -> io::Result<()> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        Ok(())
    }

    // A machine may have any address that is made up here.
    fn own_addresses(&self) -> Option<HashSet<IpAddr>> {
        Some(HashSet::new())
    }
}

/// A rule on a name, for TCP port 443.
#[must_use]
pub fn rule(name: &str, below: bool, deny: bool, rule: u32) -> NameRule {
    NameRule { name: name.into(), below, ports: vec![(443, 443)], tcp: true, udp: false, deny, rule }
}

/// `a.test`, `*.w.test` without `d.w.test`.
#[must_use]
pub fn table() -> Arc<NameTable> {
    let names =
        [rule("a.test", false, false, 1), rule("w.test", true, false, 2), rule("d.w.test", false, true, 3)];
    let settings = DnsSettings::default();
    Arc::new(NameTable::new(&TableInput {
        names: &names,
        destinations: &[],
        mode: Mode::Enforce,
        settings: &settings,
        private: &[],
    }))
}

const NOW: u32 = 1000;

/// A core that knows something already, one that asks it, and what it tells the kernel.
fn core() -> (Core, Asker, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let core = Core::new(Arc::clone(&recorder) as Arc<dyn Kernel>, |_| {});
    let scope: Arc<Scope> = core.scope(7);
    *scope.lock() = State { table: table(), ..State::default() };
    let addresses =
        |list: &[&str]| Data::Addresses(list.iter().filter_map(|text| text.parse().ok()).collect());
    for (name, kind, data) in [
        ("a.test", RecordType::A, addresses(&["192.0.2.1", "127.0.0.1", "10.0.0.1"])),
        ("a.test", RecordType::AAAA, Data::Nothing),
        ("x.w.test", RecordType::A, Data::Nonexistent),
        ("y.w.test", RecordType::AAAA, addresses(&["2001:db8::1", "::1", "::ffff:127.0.0.1"])),
    ] {
        if let Some(key) = Key::parse(name) {
            core.cache().put(key, kind, Arc::new(Facts { chain: vec![], data, ttl: 300 }), NOW);
        }
    }
    (core, Asker { scope, netns: 1 }, recorder)
}

/// A packet from a workload is refused, dropped or answered: in the form that it may be, and only with what was granted.
///
/// # Panics
/// If not.
pub fn check_query(packet: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let (core, asker, recorder) = core();
        let mut again = Vec::new();
        assert!(!core.repeat(&asker, packet, NOW, &mut again), "a reply to what nobody asked");
        let limit = match question::parse(packet, transport) {
            Parsed::Question(question) => usize::from(question.plain.limit),
            Parsed::Wrong(_) | Parsed::Nothing => 1232,
        };
        match core.take(&asker, packet, transport, NOW) {
            Step::Nothing => {}
            Step::Ask(question, _) => {
                assert!(
                    matches!(table().cover(&question.key), Cover::By(_)),
                    "{} is no rule's",
                    question.key
                );
                assert!(recorder.addresses().is_empty(), "granted before anything is known");
            }
            Step::Reply(bytes) => {
                assert!(!bytes.is_empty() && bytes.len() <= limit, "{} bytes", bytes.len());
                assert_eq!(bytes.get(..2), packet.get(..2));
                check_reply(&bytes, &recorder);
                if transport == Transport::Udp && core.repeat(&asker, packet, NOW, &mut again) {
                    assert_eq!(again, bytes);
                }
            }
        }
    }
}

/// A reply can be read, has no secrets, and holds exactly what was granted.
fn check_reply(bytes: &[u8], recorder: &Recorder) -> Option<Message> {
    let message = Message::from_vec(bytes);
    assert!(message.is_ok(), "an unreadable reply: {message:?}");
    let message = message.ok()?;
    assert_eq!(message.metadata.message_type, MessageType::Response);
    let mut given = BTreeSet::new();
    for record in &message.answers {
        assert!((TTL.0..=TTL.1).contains(&record.ttl), "ttl {}", record.ttl);
        match &record.data {
            RData::A(address) => drop(given.insert(prefix_data(address.0.into()))),
            RData::AAAA(address) => drop(given.insert(prefix_data(address.0.into()))),
            RData::HTTPS(HTTPS(service)) | RData::SVCB(service) => given.extend(hints(service)),
            RData::CNAME(_) => {}
            other => assert!(matches!(other, RData::CNAME(_)), "{other}"),
        }
    }
    assert_eq!(recorder.addresses(), given, "granted and given differ");
    for address in &given {
        let address: IpAddr = std::net::Ipv6Addr::from(*address).to_canonical();
        assert_eq!(standing(address), Standing::Public, "{address}");
    }
    Some(message)
}

fn hints(service: &SVCB) -> Vec<PrefixData> {
    let mut found = Vec::new();
    for (_, value) in &service.svc_params {
        match value {
            SvcParamValue::Ipv4Hint(hints) => {
                found.extend(hints.0.iter().map(|hint| prefix_data(hint.0.into())));
            }
            SvcParamValue::Ipv6Hint(hints) => {
                found.extend(hints.0.iter().map(|hint| prefix_data(hint.0.into())));
            }
            SvcParamValue::EchConfigList(_) | SvcParamValue::Unknown(_) => {
                assert!(matches!(value, SvcParamValue::Port(_)), "a secret is given: {value}");
            }
            _ => {}
        }
    }
    found
}

/// What a name server sends does no harm: only an answer to the question is one, and of it only what may be is given and
/// granted. The first byte says what was asked.
///
/// # Panics
/// If not.
pub fn check_answer(input: &[u8]) {
    let Some((choice, bytes)) = input.split_first() else { return };
    let kind =
        [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB][usize::from(choice & 3)];
    let text = ["a.test.", "n.w.test."][usize::from(choice >> 2 & 1)];
    let Ok(name) = Name::from_ascii(text) else { return };
    let manner = Manner { random_case: choice & 8 != 0, options: choice & 16 != 0 };
    let Ok(sent) = put(&name, kind, manner) else { return };
    check_received(understand(&sent, bytes), &name, kind);
    // The same with the number that it should have.
    let mut numbered = bytes.to_vec();
    if let (Some(number), Some(id)) = (numbered.get_mut(..2), sent.bytes.get(..2)) {
        number.copy_from_slice(id);
        check_received(understand(&sent, &numbered), &name, kind);
    }
    // And as if it were an answer, whatever it says.
    if let Ok(message) = Message::from_vec(bytes) {
        check_facts(&message, &name, kind);
    }
}

fn check_received(received: Received, name: &Name, kind: RecordType) {
    if let Received::Answer(message) | Received::OtherCase(message) = received {
        let repeats = |query: &Query| query.name == *name && query.query_type == kind;
        assert!(message.queries.iter().all(repeats), "an answer to another question");
        check_facts(&message, name, kind);
    }
}

fn check_facts(message: &Message, name: &Name, kind: RecordType) {
    let Ok(facts) = answer::read(message, name, kind) else { return };
    assert!(facts.chain.len() <= MAX_CHAIN && (TTL.0..=TTL.1).contains(&facts.ttl));
    let mut names: Vec<_> = facts.chain.iter().map(Key::of).collect();
    names.push(Key::of(name));
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "a circle");
    for transport in [Transport::Udp, Transport::Tcp] {
        let (core, asker, recorder) = core();
        let mut query = Message::query();
        query.add_query(Query::query(name.clone(), kind));
        let Ok(packet) = query.to_vec() else { return };
        let Parsed::Question(question) = question::parse(&packet, transport) else { return };
        let remembered = Remembered { facts: Arc::new(facts.clone()), expires: NOW + facts.ttl };
        let reply = core.finish(&asker, &question, Ok(remembered), NOW);
        assert!(reply.len() <= usize::from(question.plain.limit));
        let Some(reply) = check_reply(&reply, &recorder) else { return };
        let mut owner = name.clone();
        for record in &reply.answers {
            assert_eq!(record.name, owner, "a record that is not on the way");
            if let RData::CNAME(next) = &record.data {
                owner = next.0.clone();
            }
        }
    }
}
