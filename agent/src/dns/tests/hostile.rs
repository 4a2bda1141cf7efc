//! Name servers that lie, stall and babble.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};

use super::{
    super::{DnsConfig, GateEvent, Upstreams},
    stage::*,
};

fn good(question: &Message) -> Vec<u8> {
    reply(question, vec![address(&question.queries[0].name, 60, "192.0.2.1")])
}

fn bad(question: &Message) -> Message {
    message(question, vec![address(&question.queries[0].name, 60, "192.0.2.66")])
}

fn names() -> Policy {
    allowing(&["a.test", "*.w.test"])
}

#[test]
fn answers_to_other_questions_are_none() {
    let server = NameServer::start(|question, _| {
        let mut wrong_id = bad(question);
        wrong_id.metadata.id ^= 1;
        let mut wrong_name = bad(question);
        wrong_name.queries[0].name = name("b.test");
        let mut wrong_type = bad(question);
        wrong_type.queries[0].query_type = RecordType::TXT;
        let mut no_question = bad(question);
        no_question.queries.clear();
        let mut is_question = bad(question);
        is_question.metadata.message_type = hickory_proto::op::MessageType::Query;
        let mut packets: Vec<_> = [wrong_id, wrong_name, wrong_type, no_question, is_question]
            .iter()
            .map(|message| message.to_vec().unwrap())
            .collect();
        packets.extend([vec![], vec![0; 11], vec![0xff; 600], good(question)]);
        packets
    });
    let stage = Stage::new(&[server.address], &names());
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)), ["192.0.2.1"]);
    stage.granted_are(&["192.0.2.1"]);
}

#[test]
fn an_answer_from_another_address_is_none() {
    // Somebody else who has guessed everything right, but sits elsewhere, is first.
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (server, other) = (bind(), bind());
    let stage = Stage::new(&[server.local_addr().unwrap()], &names());
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = server.recv_from(&mut buffer) {
            let question = Message::from_vec(&buffer[..length]).unwrap();
            other.send_to(&bad(&question).to_vec().unwrap(), peer).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            server.send_to(&good(&question), peer).unwrap();
        }
    });
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)), ["192.0.2.1"]);
    stage.granted_are(&["192.0.2.1"]);
}

#[test]
fn a_guesser_meets_letters_and_a_server_without_them_is_still_heard() {
    // Always answers in lower case: the first time it is asked again by TCP, afterwards in lower case.
    let tcp = std::sync::Arc::new(AtomicUsize::new(0));
    let by_tcp = std::sync::Arc::clone(&tcp);
    let server = NameServer::start(move |question, over_tcp| {
        by_tcp.fetch_add(usize::from(over_tcp), Ordering::SeqCst);
        let mut lower = question.clone();
        lower.queries[0].name = lower.queries[0].name.to_lowercase();
        vec![good(&lower)]
    });
    let stage = Stage::new(&[server.address], &names());
    for index in 0..5 {
        let text = format!("a-name-with-many-letters-{index}.w.test");
        assert_eq!(addresses(&stage.ask(&text, RecordType::A)), ["192.0.2.1"]);
    }
    assert_eq!(tcp.load(Ordering::SeqCst), 1);
}

#[test]
fn a_forged_answer_in_other_letters_is_not_believed() {
    let server = NameServer::start(|question, over_tcp| {
        if over_tcp {
            return vec![good(question)];
        }
        let mut forged = bad(question);
        let lower = forged.queries[0].name.to_lowercase();
        forged.queries[0].name = lower;
        vec![forged.to_vec().unwrap(), good(question)]
    });
    let stage = Stage::new(&[server.address], &names());
    assert_eq!(addresses(&stage.ask("a-name-with-many-letters.w.test", RecordType::A)), ["192.0.2.1"]);
    stage.granted_are(&["192.0.2.1"]);
}

#[test]
fn answers_that_change_are_granted_as_they_are_given() {
    let next = AtomicU32::new(1);
    let server = NameServer::honest(move |query| {
        vec![address(&query.name, 0, &format!("198.51.100.{}", next.fetch_add(1, Ordering::SeqCst)))]
    });
    let stage = Stage::new(&[server.address], &allowing(&["*.w.test"]));
    let mut given = Vec::new();
    for index in 0..20 {
        given.extend(addresses(&stage.ask(&format!("n{index}.w.test"), RecordType::A)));
    }
    stage.granted_are(&given.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn circles_of_names_end() {
    let server = NameServer::honest(|query| {
        let asked = &query.name;
        if *asked == name("a.test") {
            vec![cname(asked, "b.test"), cname(&name("b.test"), "a.test")]
        } else if *asked == name("self.w.test") {
            vec![cname(asked, "self.w.test")]
        } else if *asked == name("split.w.test") {
            vec![cname(asked, "half.test")]
        } else if *asked == name("half.test") {
            vec![cname(asked, "split.w.test")]
        } else {
            let number: u32 = asked.to_string()[1..].split('.').next().unwrap().parse().unwrap_or(0);
            vec![cname(asked, &format!("n{}.w.test", number + 1))]
        }
    });
    let stage = Stage::new(&[server.address], &names());
    for text in ["a.test", "self.w.test", "split.w.test", "n0.w.test"] {
        let before = server.asked();
        let reply = stage.ask(text, RecordType::A);
        assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::ServFail, 0), "{text}");
        assert!(server.asked() - before <= 8, "{text}");
    }
    stage.granted_are(&[]);
    assert!(
        matches!(&stage.events()[0], GateEvent::UpstreamFailed(failed) if failed.error.contains("circle"))
    );
}

#[test]
fn a_big_answer_over_tcp_is_cut_to_size() {
    let server = NameServer::start(|question, over_tcp| {
        let asked = &question.queries[0].name;
        let mut message = message(question, vec![]);
        if over_tcp {
            let records =
                (0..3900).map(|index| address(asked, 60, &format!("198.18.{}.{}", index / 250, index % 250)));
            message.answers = records.collect();
        } else {
            message.metadata.truncation = true;
        }
        vec![message.to_vec().unwrap()]
    });
    let stage = Stage::new(&[server.address], &names());
    let reply = stage.ask_tcp("a.test", RecordType::A);
    let given = addresses(&reply);
    assert_eq!(given.len(), 64);
    stage.granted_are(&given.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn garbage_stalling_and_lame_servers_are_passed_over() {
    let garbage = NameServer::start(|question, _| {
        vec![[&question.metadata.id.to_be_bytes()[..], &[0x80; 40]].concat()]
    });
    let lame = NameServer::start(|question, _| {
        let mut message = message(question, vec![]);
        message.metadata.response_code = ResponseCode::Refused;
        vec![message.to_vec().unwrap()]
    });
    let silent = NameServer::start(|_, _| vec![]);
    let honest = NameServer::start(|question, _| vec![good(question)]);
    let servers = [garbage.address, lame.address, silent.address, honest.address];
    let stage = Stage::new(&servers, &names());
    let begun = Instant::now();
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)), ["192.0.2.1"]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(addresses(&stage.ask("b.w.test", RecordType::A)), ["192.0.2.1"]);
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[test]
fn a_dead_server_costs_one_question_some_time() {
    let dead = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let honest = NameServer::start(|question, _| vec![good(question)]);
    let stage = Stage::new(&[dead.local_addr().unwrap(), honest.address], &names());
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)), ["192.0.2.1"]);
    std::thread::sleep(Duration::from_millis(50));
    for index in 0..5 {
        assert_eq!(addresses(&stage.ask(&format!("n{index}.w.test"), RecordType::A)), ["192.0.2.1"]);
    }
}

#[test]
fn silence_everywhere_is_a_failure_before_the_client_gives_up() {
    let silent = NameServer::start(|_, _| vec![]);
    let stage = Stage::new(&[silent.address], &names());
    let begun = Instant::now();
    let reply = stage.ask("a.test", RecordType::A);
    assert_eq!(code(&reply), ResponseCode::ServFail);
    assert_eq!(extended(&reply).unwrap().0, 22);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(matches!(&stage.events()[0], GateEvent::UpstreamFailed(_)));
}

#[test]
fn a_truncated_answer_without_tcp_is_a_failure() {
    let server = NameServer::start(|question, over_tcp| {
        let mut message = bad(question);
        message.metadata.truncation = true;
        if over_tcp { vec![vec![0; 3]] } else { vec![message.to_vec().unwrap()] }
    });
    let stage = Stage::new(&[server.address], &names());
    assert_eq!(code(&stage.ask("a.test", RecordType::A)), ResponseCode::ServFail);
    stage.granted_are(&[]);
}

#[test]
fn a_server_that_knows_no_options_is_asked_without() {
    let server = NameServer::start(|question, _| {
        if question.edns.is_none() {
            return vec![good(question)];
        }
        let mut message = message(question, vec![]);
        message.metadata.response_code = ResponseCode::FormErr;
        message.queries.clear();
        vec![message.to_vec().unwrap()]
    });
    let stage = Stage::new(&[server.address], &names());
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)), ["192.0.2.1"]);
    assert_eq!(addresses(&stage.ask("b.w.test", RecordType::A)), ["192.0.2.1"]);
    assert_eq!(server.asked(), 3);
}

#[test]
fn the_hosts_list_is_read_again_and_a_gate_never_asks_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
    let config = DnsConfig { upstream: Upstreams::Host(path) };
    let stage = Stage::with(&config, &names());
    let itself = super::super::Server::plain((Ipv4Addr::LOCALHOST, stage.port).into());
    let own = std::sync::Arc::new(std::sync::Mutex::new([stage.port].into()));
    let upstream = super::super::upstream::Upstream::new(Upstreams::These(vec![itself]), own);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(upstream.ask(&name("a.test"), RecordType::A)).unwrap_err();
    assert!(error.to_string().starts_with("there is no name server to ask"));
}
