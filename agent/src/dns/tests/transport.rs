//! Datagrams, connections, sizes, and who may be how rude.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{DNSClass, RecordType},
};

use super::stage::*;

fn stage(count: usize) -> (NameServer, Stage) {
    let server = NameServer::start(move |question, over_tcp| {
        let asked = &question.queries[0].name;
        let mut message = message(question, vec![]);
        if over_tcp || count < 10 {
            message.answers =
                (0..count).map(|index| address(asked, 60, &format!("198.51.100.{index}"))).collect();
        } else {
            message.metadata.truncation = true;
        }
        vec![message.to_vec().unwrap()]
    });
    let stage = Stage::new(&[server.address], &allowing(&["a.test", "*.w.test"]));
    (server, stage)
}

fn sized(payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(name("a.test"), RecordType::A));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

#[test]
fn datagrams_are_no_larger_than_asked_for() {
    let (_server, stage) = stage(60);
    for (payload, limit) in [(None, 512), (Some(100), 512), (Some(600), 600)] {
        let reply = stage.send(&sized(payload)).unwrap();
        assert!(reply.len() <= limit);
        let reply = Message::from_vec(&reply).unwrap();
        assert!(reply.metadata.truncation && reply.answers.is_empty());
        assert_eq!(reply.edns.is_some(), payload.is_some());
    }
    stage.granted_are(&[]);
    assert_eq!(addresses(&stage.ask_tcp("a.test", RecordType::A)).len(), 60);
    assert_eq!(stage.kernel.addresses().len(), 60);
    let reply = stage.send(&sized(Some(60_000))).unwrap();
    assert!(reply.len() <= 1232 && addresses(&Message::from_vec(&reply).unwrap()).len() == 60);
}

#[test]
fn questions_that_are_none_are_told_so() {
    let (server, stage) = stage(1);
    let with = |change: fn(&mut Message)| {
        let mut message = Message::from_vec(&sized(Some(1232))).unwrap();
        change(&mut message);
        let reply = stage.send(&message.to_vec().unwrap()).unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.metadata.id, message.metadata.id);
        u16::from(code(&reply))
    };
    assert_eq!(with(|message| message.queries.clear()), u16::from(ResponseCode::FormErr));
    assert_eq!(
        with(|message| message.queries.push(message.queries[0].clone())),
        u16::from(ResponseCode::FormErr)
    );
    assert_eq!(
        with(|message| message.queries[0].query_class = DNSClass::CH),
        u16::from(ResponseCode::Refused)
    );
    assert_eq!(
        with(|message| message.metadata.op_code = hickory_proto::op::OpCode::Notify),
        u16::from(ResponseCode::NotImp)
    );
    assert_eq!(
        with(|message| _ = message.edns.as_mut().unwrap().set_version(1)),
        u16::from(ResponseCode::BADVERS)
    );
    let mut cut = sized(None);
    cut.truncate(20);
    assert_eq!(code(&Message::from_vec(&stage.send(&cut).unwrap()).unwrap()), ResponseCode::FormErr);
    assert_eq!(server.asked(), 0);
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)).len(), 1);
}

#[test]
fn each_datagram_of_a_burst_is_answered() {
    let (server, stage) = stage(1);
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)).len(), 1);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, stage.port)).unwrap();
    let mut expected = BTreeMap::new();
    for index in 0..60 {
        // Known, not yet known, and refused.
        let (text, code) = match index % 3 {
            0 => ("a.test".to_owned(), ResponseCode::NoError),
            1 => (format!("n{}.w.test", index % 7), ResponseCode::NoError),
            _ => ("other.test".to_owned(), ResponseCode::NXDomain),
        };
        let mut packet = question(&text, RecordType::A);
        packet[..2].copy_from_slice(&[0, index]);
        socket.send(&packet).unwrap();
        expected.insert(u16::from(index), code);
    }
    let answered: BTreeMap<_, _> = (0..60)
        .map(|_| {
            let mut buffer = [0; 1232];
            let length = socket.recv(&mut buffer).unwrap();
            let reply = Message::from_vec(&buffer[..length]).unwrap();
            (reply.metadata.id, code(&reply))
        })
        .collect();
    assert_eq!(answered, expected);
    assert_eq!(server.asked(), 8);
}

#[test]
fn a_connection_takes_many_questions_at_once() {
    let (_server, stage) = stage(1);
    let mut stream = stage.tcp();
    let mut ids: Vec<u16> = Vec::new();
    for index in 0..40 {
        let packet = question(&format!("n{index}.w.test"), RecordType::A);
        ids.push(u16::from_be_bytes([packet[0], packet[1]]));
        write_framed(&mut stream, &packet).unwrap();
    }
    let mut answered: Vec<u16> = (0..40)
        .map(|_| {
            let reply = Message::from_vec(&read_framed(&mut stream).unwrap()).unwrap();
            assert_eq!(addresses(&reply).len(), 1);
            reply.metadata.id
        })
        .collect();
    ids.sort_unstable();
    answered.sort_unstable();
    assert_eq!(ids, answered);
}

fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
}

#[test]
fn what_is_too_long_or_idle_is_closed() {
    let (_server, stage) = stage(1);
    let mut long = stage.tcp();
    long.write_all(&[0xff, 0xff]).unwrap();
    assert!(is_closed(&mut long));
    let begun = Instant::now();
    let mut idle = stage.tcp();
    idle.write_all(&[0]).unwrap();
    assert!(is_closed(&mut idle));
    assert!(begun.elapsed() > Duration::from_secs(5) && begun.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_scope_has_so_many_connections_and_others_still_get_through() {
    let (_server, stage) = stage(1);
    let mut held: Vec<_> = (0..64).map(|_| stage.tcp()).collect();
    for stream in &mut held {
        write_framed(stream, &question("a.test", RecordType::A)).unwrap();
        read_framed(stream).unwrap();
    }
    assert!(is_closed(&mut stage.tcp()));
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)).len(), 1);
    drop(held);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(addresses(&stage.ask_tcp("a.test", RecordType::A)).len(), 1);
}

#[test]
fn a_gate_that_is_closed_is_gone() {
    let (_server, stage) = stage(1);
    assert_eq!(stage.gate.open(SCOPE, None, |_| Ok(())).unwrap(), (stage.netns, stage.port));
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)).len(), 1);
    stage.gate.close(SCOPE, stage.netns);
    std::thread::sleep(Duration::from_millis(100));
    assert!(TcpStream::connect(("127.0.0.1", stage.port)).is_err());
    let (netns, port) = stage.gate.open(SCOPE, None, |_| Ok(())).unwrap();
    assert_eq!(netns, stage.netns);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
}
