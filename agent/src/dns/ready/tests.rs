use std::sync::Mutex;

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use proptest::prelude::*;

use super::*;
use crate::{
    dns::{
        GateEvent, Kernel, TableInput,
        answer::{Data, Facts},
        core::{Asker, Core, Step},
        ledger::Ledger,
        question::Transport,
        reference::{Recorder, rule},
        scope::State,
    },
    policy::checked::{DnsSettings, Mode},
};

const NOW: u32 = 1000;

fn table(names: &[&str]) -> Arc<NameTable> {
    let names: Vec<_> = names.iter().map(|name| rule(name, true, false, 1)).collect();
    let (settings, mode) = (DnsSettings::default(), Mode::Enforce);
    Arc::new(NameTable::new(&TableInput {
        names: &names,
        destinations: &[],
        mode,
        settings: &settings,
        private: &[],
    }))
}

/// A core, one that asks it, and all that it tells.
struct Stage {
    core: Core,
    asker: Asker,
    kernel: Arc<Recorder>,
    events: Arc<Mutex<Vec<GateEvent>>>,
}

impl Stage {
    fn new() -> Self {
        let (kernel, events) = (Arc::new(Recorder::default()), Arc::new(Mutex::new(Vec::new())));
        let sink = Arc::clone(&events);
        let tell = move |event| sink.lock().unwrap().push(event);
        let core = Core::new(Arc::clone(&kernel) as Arc<dyn Kernel>, tell);
        let scope = core.scope(7);
        *scope.lock() = State { table: table(&["w.test"]), ..State::default() };
        Self { core, asker: Asker { scope, netns: 1 }, kernel, events }
    }

    fn knows(&self, name: &str, kind: RecordType, facts: &Facts) {
        self.core.cache().put(Key::parse(name).unwrap(), kind, Arc::new(facts.clone()), NOW);
    }

    /// What was sent to a question, which is known: the reply built anew.
    fn built(&self, packet: &[u8], now: u32) -> Vec<u8> {
        match self.core.take(&self.asker, packet, Transport::Udp, now) {
            Step::Reply(bytes) => bytes,
            step => panic!("{step:?}"),
        }
    }

    fn repeated(&self, packet: &[u8], now: u32) -> Option<Vec<u8>> {
        let mut out = vec![1, 2, 3];
        self.core.repeat(&self.asker, packet, now, &mut out).then_some(out)
    }

    /// All that a question leaves behind.
    fn traces(&self) -> (impl PartialEq + std::fmt::Debug, Vec<GateEvent>, String) {
        let granted = self.kernel.granted.lock().unwrap().clone();
        let mut held = self.asker.scope.lock().ledger.held();
        held.sort_by_key(|held| (held.address, held.name.clone()));
        (granted, self.events.lock().unwrap().clone(), format!("{held:?}"))
    }
}

fn addresses(count: u8) -> Data {
    Data::Addresses((0..count).map(|last| [198, 51, 100, last].into()).collect())
}

/// What one client sends.
#[derive(Debug, Clone)]
struct Asked {
    id: u16,
    recursion_desired: bool,
    checking_disabled: bool,
    payload: Option<u16>,
    capitals: u32,
}

impl Asked {
    fn packet(&self, name: &str, kind: RecordType) -> Vec<u8> {
        let capital = |(index, letter): (usize, char)| {
            if self.capitals >> (index % 32) & 1 == 1 { letter.to_ascii_uppercase() } else { letter }
        };
        let name: String = name.chars().enumerate().map(capital).collect();
        let mut message = Message::query();
        message.metadata.id = self.id;
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
        if let Some(payload) = self.payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message.to_vec().unwrap()
    }
}

const PLAIN: Asked =
    Asked { id: 7, recursion_desired: true, checking_disabled: false, payload: Some(1232), capitals: 0 };

fn asked() -> impl Strategy<Value = Asked> {
    let payload = proptest::option::of(prop_oneof![Just(1232), Just(512), any::<u16>()]);
    (any::<u16>(), any::<bool>(), any::<bool>(), payload, any::<u32>()).prop_map(
        |(id, recursion_desired, checking_disabled, payload, capitals)| Asked {
            id,
            recursion_desired,
            checking_disabled,
            payload,
            capitals,
        },
    )
}

fn facts() -> impl Strategy<Value = Facts> {
    let chain = proptest::collection::vec("[a-c]{1,9}\\.(w\\.test|other\\.test)\\.", 0..3)
        .prop_map(|names| names.iter().map(|name| Name::from_ascii(name).unwrap()).collect());
    let data = prop_oneof![
        4 => (1_u8..4).prop_map(addresses),
        2 => (1_u8..65).prop_map(addresses),
        1 => Just(Data::Nothing),
        1 => Just(Data::Nonexistent),
    ];
    (chain, data, 5_u32..100).prop_map(|(chain, data, ttl)| Facts { chain, data, ttl })
}

proptest! {
    /// Two that know the same are asked the same; one gives what it has given before. Nobody can tell which.
    #[test]
    fn a_repeated_reply_and_its_traces_are_those_of_one_that_is_built(
        facts in facts(), first in asked(), second in asked(), (before, after) in (0_u32..100, 0_u32..60),
    ) {
        let (one, other) = (Stage::new(), Stage::new());
        let [first, second] = [first, second].map(|asked| asked.packet("abc.w.test", RecordType::A));
        let (then, now) = (NOW + before % facts.ttl, NOW + before % facts.ttl + after);
        for stage in [&one, &other] {
            stage.knows("abc.w.test", RecordType::A, &facts);
        }
        prop_assert!(one.repeated(&first, then).is_none());
        let given = one.built(&first, then);
        prop_assert_eq!(&given, &other.built(&first, then));
        let repeated = one.repeated(&second, now);
        let expires = NOW + facts.ttl;
        if now >= expires {
            prop_assert!(repeated.is_none());
            return Ok(());
        }
        let built = other.built(&second, now);
        let is_whole = |bytes: &[u8]| bytes[2] & 2 == 0;
        if let Some(repeated) = &repeated {
            // The encoder needs room for names before it knows that they are shorter.
            if is_whole(&built) {
                prop_assert_eq!(Message::from_vec(repeated).unwrap(), Message::from_vec(&built).unwrap());
                prop_assert_eq!(repeated[12..].get(..16), built[12..].get(..16), "the question");
            }
            if is_whole(&built) && facts.chain.is_empty() {
                prop_assert_eq!(repeated, &built);
            }
        } else {
            let is_due = expires - now < TTL.0;
            prop_assert!(is_due || !is_whole(&given) || !is_whole(&built) || !facts.chain.is_empty());
            prop_assert_eq!(&one.built(&second, now), &built);
        }
        prop_assert_eq!(one.traces(), other.traces());
    }

    /// Whatever is repeated is what a question that is read in full is answered with.
    #[test]
    fn a_packet_that_is_not_quite_a_question_is_no_question(
        changes in proptest::collection::vec((0_usize..39, any::<u8>()), 1..3),
        (plain, more) in (asked(), proptest::collection::vec(any::<u8>(), 0..2)),
    ) {
        let stage = Stage::new();
        stage.knows("abc.w.test", RecordType::A, &Facts { chain: vec![], data: addresses(2), ttl: 300 });
        let mut packet = plain.packet("abc.w.test", RecordType::A);
        stage.built(&packet, NOW);
        for (at, byte) in changes {
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
        }
        packet.extend(more);
        if let Some(repeated) = stage.repeated(&packet, NOW) {
            prop_assert_eq!(repeated, stage.built(&packet, NOW));
        }
    }
}

#[test]
fn time_goes_down_and_number_and_case_are_the_questions() {
    let stage = Stage::new();
    let chain = vec![Name::from_ascii("c.other.test.").unwrap()];
    stage.knows("abc.w.test", RecordType::A, &Facts { chain, data: addresses(2), ttl: 300 });
    stage.built(&PLAIN.packet("abc.w.test", RecordType::A), NOW);
    let other = Asked { id: 0xabcd, capitals: 0b101, ..PLAIN };
    let reply = stage.repeated(&other.packet("abc.w.test", RecordType::A), NOW + 100).unwrap();
    let message = Message::from_vec(&reply).unwrap();
    assert_eq!((message.metadata.id, message.metadata.response_code), (0xabcd, ResponseCode::NoError));
    assert_eq!(message.queries[0].name.to_string(), "AbC.w.test.");
    assert_eq!(message.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [200; 3]);
}

#[test]
fn what_has_to_be_granted_for_longer_is_granted_before_it_is_repeated() {
    let stage = Stage::new();
    stage.knows("a.w.test", RecordType::A, &Facts { chain: vec![], data: addresses(1), ttl: 60 });
    let packet = PLAIN.packet("a.w.test", RecordType::A);
    let granted = || stage.kernel.granted.lock().unwrap().values().next().unwrap().grants[0].expires;
    stage.built(&packet, NOW);
    assert!(stage.repeated(&packet, NOW + 55).is_some());
    assert_eq!(granted(), NOW + 60 + GRACE);
    // The answer holds for five seconds, which is longer than the kernel has been told.
    assert!(stage.repeated(&packet, NOW + 57).is_none());
    stage.built(&packet, NOW + 57);
    assert_eq!(granted(), NOW + 62 + GRACE);
    assert!(stage.repeated(&packet, NOW + 57).is_some());
    assert!(stage.repeated(&packet, NOW + 60).is_none());
}

#[test]
fn nothing_is_repeated_after_a_change_of_what_it_was_judged_by() {
    let packet = PLAIN.packet("a.w.test", RecordType::A);
    let given = || {
        let stage = Stage::new();
        stage.knows("a.w.test", RecordType::A, &Facts { chain: vec![], data: addresses(2), ttl: 60 });
        stage.built(&packet, NOW);
        assert!(stage.repeated(&packet, NOW).is_some());
        stage
    };
    let stage = given();
    stage.asker.scope.lock().table = table(&["other.test"]);
    assert!(stage.repeated(&packet, NOW).is_none());
    assert_eq!(stage.built(&packet, NOW)[3] & 0xf, 3, "NXDOMAIN");

    let stage = given();
    stage.core.set_own(HashSet::new());
    assert!(stage.repeated(&packet, NOW).is_some(), "they are the same");
    stage.core.set_own(HashSet::from(["198.51.100.1".parse().unwrap()]));
    assert!(stage.repeated(&packet, NOW).is_none());
    assert_eq!(Message::from_vec(&stage.built(&packet, NOW)).unwrap().answers.len(), 1);

    let stage = given();
    stage.asker.scope.lock().ledger = Ledger::default();
    assert!(stage.repeated(&packet, NOW).is_none());

    let stage = given();
    stage.core.forget(7);
    assert!(stage.repeated(&packet, NOW).is_none());
}

#[test]
fn what_is_told_of_each_time_is_judged_each_time() {
    let stage = Stage::new();
    let data = Data::Addresses(vec!["192.0.2.1".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
    stage.knows("a.w.test", RecordType::A, &Facts { chain: vec![], data, ttl: 60 });
    let packet = PLAIN.packet("a.w.test", RecordType::A);
    stage.built(&packet, NOW);
    assert!(stage.repeated(&packet, NOW).is_none());
    let uncovered = PLAIN.packet("a.test", RecordType::A);
    stage.built(&uncovered, NOW);
    assert!(stage.repeated(&uncovered, NOW).is_none());
}

#[test]
fn a_reply_is_repeated_in_its_own_scope_only() {
    let stage = Stage::new();
    stage.knows("a.w.test", RecordType::A, &Facts { chain: vec![], data: addresses(1), ttl: 60 });
    let packet = PLAIN.packet("a.w.test", RecordType::A);
    stage.built(&packet, NOW);
    let other = Asker { scope: stage.core.scope(8), netns: 1 };
    assert!(!stage.core.repeat(&other, &packet, NOW, &mut Vec::new()));
}

#[test]
fn a_name_that_others_have_pushed_out_of_the_ledger_is_granted_anew() {
    let stage = Stage::new();
    let packet = |index: usize| PLAIN.packet(&format!("n{index}.w.test"), RecordType::A);
    // More than are remembered for an address.
    for index in 0..40 {
        let facts = Facts { chain: vec![], data: addresses(1), ttl: 60 + index };
        stage.knows(&format!("n{index}.w.test"), RecordType::A, &facts);
        stage.built(&packet(index as usize), NOW);
    }
    assert!(stage.repeated(&packet(0), NOW).is_none() && stage.repeated(&packet(39), NOW).is_some());
    let events = stage.events.lock().unwrap().len();
    stage.built(&packet(0), NOW);
    assert_eq!(stage.events.lock().unwrap().len(), events + 1);
    assert!(stage.repeated(&packet(0), NOW).is_some());
}

#[test]
fn memory_is_bounded_and_freed() {
    let stage = Stage::new();
    let packet = |index: usize| PLAIN.packet(&format!("n{index}.w.test"), RecordType::A);
    for index in 0..10_000 {
        let facts = Facts { chain: vec![], data: Data::Nothing, ttl: 60 };
        stage.knows(&format!("n{index}.w.test"), RecordType::A, &facts);
        stage.built(&packet(index), NOW);
        stage.built(&packet(index), NOW);
    }
    let kept = |stage: &Stage| {
        let state = stage.asker.scope.lock();
        let sum: usize = state.ready.replies.values().map(Reply::weight).sum();
        assert_eq!(sum, state.ready.bytes);
        (sum, state.ready.replies.len())
    };
    let (bytes, count) = kept(&stage);
    assert!(bytes <= BYTES && count > 1000, "{bytes} {count}");
    assert!(stage.repeated(&packet(0), NOW).is_some() && stage.repeated(&packet(9_999), NOW).is_none());
    stage.core.sweep(NOW + 59);
    assert_eq!(kept(&stage), (bytes, count));
    stage.core.sweep(NOW + 60);
    assert_eq!(kept(&stage), (0, 0));
}
