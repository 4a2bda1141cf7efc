//! What is answered and granted.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_proto::{
    op::ResponseCode,
    rr::{
        RData, Record, RecordType,
        rdata::{
            A, HTTPS, SVCB, TXT,
            svcb::{Alpn, EchConfigList, IpHint, Mandatory, SvcParamKey, SvcParamValue},
        },
    },
};
use stockade_common::net::{Grant, TCP, port_key};

use super::{
    super::{
        Answered, GateEvent, Held, Quota, Refused, Why,
        answer::{Data, Facts, select},
        clock::boot_seconds,
        core::GRACE,
        ledger::prefix_data,
        name::Key,
        table::Cover,
    },
    stage::*,
};
use crate::policy::checked::{DnsRefusal, DnsSettings, Mode, NetRule};

#[test]
fn a_covered_name_is_answered_and_granted_first() {
    let server = NameServer::honest(|query| vec![address(&query.name, 300, "192.0.2.7")]);
    let stage = Stage::new(&[server.address], &allowing(&["api.example.test"]));
    let before = boot_seconds();
    let reply = stage.ask("API.example.TEST", RecordType::A);
    assert_eq!((code(&reply), addresses(&reply)), (ResponseCode::NoError, vec!["192.0.2.7".into()]));
    assert_eq!(reply.queries[0].name.to_string(), "API.example.TEST.");
    let granted = stage.kernel.granted.lock().unwrap()[&prefix_data("192.0.2.7".parse().unwrap())];
    let [first, rest @ ..] = granted.grants;
    assert_eq!((first.low, first.high, first.rule), (port_key(TCP, 443), port_key(TCP, 443), 10));
    assert!((before + 300 + GRACE..=before + 310 + GRACE).contains(&first.expires));
    assert!(rest.iter().all(|grant| *grant == Grant::NOTHING));
    let [GateEvent::Answered(Answered { scope, name, kind, addresses, rule, ttl, .. })] = &stage.events()[..]
    else {
        panic!("{:?}", stage.events())
    };
    assert_eq!((*scope, &name[..], &kind[..], *rule, *ttl), (SCOPE, "api.example.test", "A", 10, 300));
    assert_eq!(addresses, &["192.0.2.7".parse::<IpAddr>().unwrap()]);
    let data = prefix_data("192.0.2.7".parse().unwrap());
    assert_eq!(stage.gate.name_of(SCOPE, data, 10).as_deref(), Some("api.example.test"));
    assert_eq!(stage.gate.name_of(SCOPE, data, 11), None);
}

#[test]
fn an_uncovered_name_goes_nowhere() {
    let server = NameServer::honest(|query| vec![address(&query.name, 300, "192.0.2.7")]);
    let stage = Stage::new(&[server.address], &allowing(&["api.example.test", "*.w.test"]));
    for text in ["example.test", "x.api.example.test", "w.test", "api.example.test.corp.test"] {
        let reply = stage.ask(text, RecordType::A);
        assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::NXDomain, 0));
        let (ede, said) = extended(&reply).unwrap();
        assert!(ede == 18 && said.contains(&format!("{text}:PORT")), "{said}");
    }
    assert_eq!(server.asked(), 0);
    stage.granted_are(&[]);
    let events = stage.events();
    assert_eq!(events.len(), 4);
    assert!(matches!(&events[0], GateEvent::Refused(Refused { why: Why::NoRule, rule: None, .. })));
}

#[test]
fn a_denied_name_is_refused_whatever_covers_it_and_however_it_is_reached() {
    let server = NameServer::honest(|query| {
        if query.name == name("x.w.test") {
            vec![cname(&query.name, "d.w.test"), address(&name("d.w.test"), 60, "192.0.2.7")]
        } else {
            vec![address(&query.name, 60, "192.0.2.8")]
        }
    });
    let mut policy = allowing(&["*.w.test"]);
    policy.names.push(super::super::reference::rule("d.w.test", false, true, 77));
    policy.settings.refusal = DnsRefusal::Refused;
    let stage = Stage::new(&[server.address], &policy);
    assert_eq!(code(&stage.ask("d.w.test", RecordType::A)), ResponseCode::Refused);
    assert_eq!(server.asked(), 0);
    assert_eq!(code(&stage.ask("x.w.test", RecordType::A)), ResponseCode::Refused);
    stage.granted_are(&[]);
    assert_eq!(addresses(&stage.ask("y.w.test", RecordType::A)), ["192.0.2.8"]);
    assert!(matches!(
        &stage.events()[1],
        GateEvent::Refused(Refused { why: Why::LeadsToDenied, rule: Some(77), .. })
    ));
}

#[test]
fn other_types_of_a_covered_name_have_no_data_and_go_nowhere() {
    let server = NameServer::honest(|query| vec![address(&query.name, 300, "192.0.2.7")]);
    let stage = Stage::new(&[server.address], &allowing(&["api.example.test"]));
    for kind in
        [RecordType::TXT, RecordType::MX, RecordType::ANY, RecordType::NULL, RecordType::NS, RecordType::AXFR]
    {
        let reply = stage.ask("api.example.test", kind);
        assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::NoError, 0), "{kind}");
    }
    assert_eq!(server.asked(), 0);
}

#[test]
fn a_chain_is_followed_in_one_answer_and_over_several() {
    let server = NameServer::honest(|query| {
        let asked = &query.name;
        if *asked == name("one.test") {
            // With records that nobody asked for.
            vec![
                cname(asked, "b.other.test"),
                address(&name("evil.test"), 60, "192.0.2.66"),
                cname(&name("b.other.test"), "c.other.test"),
                address(&name("c.other.test"), 60, "192.0.2.1"),
            ]
        } else if *asked == name("many.test") {
            vec![cname(asked, "d.other.test")]
        } else if *asked == name("d.other.test") {
            vec![cname(asked, "e.other.test")]
        } else {
            vec![address(asked, 60, "192.0.2.2")]
        }
    });
    let stage = Stage::new(&[server.address], &allowing(&["one.test", "many.test"]));
    let reply = stage.ask("one.test", RecordType::A);
    assert_eq!(addresses(&reply), ["192.0.2.1"]);
    let owners: Vec<_> = reply.answers.iter().map(|record| record.name.to_string()).collect();
    assert_eq!(owners, ["one.test.", "b.other.test.", "c.other.test."]);
    let reply = stage.ask("many.test", RecordType::A);
    assert_eq!((addresses(&reply), reply.answers.len()), (vec!["192.0.2.2".into()], 3));
    stage.granted_are(&["192.0.2.1", "192.0.2.2"]);
    // What a name leads to is not allowed by that.
    assert_eq!(code(&stage.ask("c.other.test", RecordType::A)), ResponseCode::NXDomain);
}

#[test]
fn an_address_of_this_host_is_left_out_unless_the_name_may_have_it() {
    let [own, other]: [IpAddr; 2] = ["192.0.2.7", "192.0.2.8"].map(|text| text.parse().unwrap());
    let facts = Facts { chain: vec![], data: Data::Addresses(vec![own, other]), ttl: 60 };
    let key = Key::parse("api.example.test").unwrap();
    let mut policy = allowing(&["api.example.test"]);
    let granted = |policy: &Policy| {
        let table = policy.table();
        let Cover::By(covered) = table.cover(&key) else { panic!("it is not covered") };
        let selected = select(&table, &HashSet::from([own]), &key, &covered, &facts, RecordType::A);
        (selected.grant, selected.refused)
    };
    assert_eq!(granted(&policy), (vec![other], vec![own]));
    policy.private = vec![("api.example.test".into(), false)];
    assert_eq!(granted(&policy), (vec![own, other], vec![]));
}

#[test]
fn private_addresses_need_a_policy_that_expects_them() {
    let server = NameServer::honest(|query| {
        let text = if query.name == name("meta.lab.test") { "169.254.169.254" } else { "10.1.2.3" };
        vec![address(&query.name, 60, text), address(&query.name, 60, "127.0.0.1")]
    });
    let mut policy = allowing(&["public.test", "*.lab.test", "pass.test"]);
    policy.private = vec![("lab.test".into(), true)];
    let stage = Stage::new(&[server.address], &policy);
    let reply = stage.ask("public.test", RecordType::A);
    assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::NXDomain, 0));
    assert_eq!(extended(&reply).unwrap().0, 17);
    let GateEvent::Rebinding(rebinding) = &stage.events()[0] else { panic!("{:?}", stage.events()) };
    assert_eq!((rebinding.addresses.len(), rebinding.what), (2, "of a private network"));
    assert_eq!(addresses(&stage.ask("db.lab.test", RecordType::A)), ["10.1.2.3"]);
    assert!(stage.ask("meta.lab.test", RecordType::A).answers.is_empty());
    stage.granted_are(&["10.1.2.3"]);
    // Where a rule on destinations allows it, it is given, and needs no grant.
    policy.destinations = vec![NetRule {
        prefix: "10.0.0.0/8".parse().unwrap(),
        ports: vec![(443, 443)],
        tcp: true,
        udp: false,
        deny: false,
        rule: 99,
    }];
    let other = Stage::new(&[server.address], &policy);
    assert_eq!(addresses(&other.ask("pass.test", RecordType::A)), ["10.1.2.3"]);
    other.granted_are(&[]);
}

#[test]
fn services_come_without_keys_and_their_hints_are_granted() {
    let server = NameServer::honest(|query| {
        let hints = vec!["192.0.2.9".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let params = vec![
            (
                SvcParamKey::Mandatory,
                SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::Alpn, SvcParamKey::Ipv4Hint])),
            ),
            (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".into()]))),
            (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(hints.into_iter().map(A).collect()))),
            (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3]))),
        ];
        let https = |priority, target: &str, params| {
            let target = if target.is_empty() { hickory_proto::rr::Name::root() } else { name(target) };
            Record::from_rdata(name("cdn.test"), 60, RData::HTTPS(HTTPS(SVCB::new(priority, target, params))))
        };
        let needs_keys = vec![
            (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::EchConfigList]))),
            (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3]))),
        ];
        vec![
            cname(&query.name, "cdn.test"),
            https(1, "", params),
            https(2, "elsewhere.test", vec![]),
            https(3, "also.test", vec![]),
            https(4, "", needs_keys),
        ]
    });
    let stage = Stage::new(&[server.address], &allowing(&["api.test", "also.test"]));
    let reply = stage.ask("api.test", RecordType::HTTPS);
    let services: Vec<_> = reply
        .answers
        .iter()
        .map(|record| match &record.data {
            RData::HTTPS(HTTPS(service)) => (record.name.to_string(), service.clone()),
            other => panic!("{other}"),
        })
        .collect();
    let [(owner, first), (_, second)] = &services[..] else { panic!("{services:?}") };
    assert_eq!((&owner[..], first.svc_priority, first.target_name.is_root()), ("api.test.", 1, true));
    let expected = [
        (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::Alpn]))),
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".into()]))),
        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A("192.0.2.9".parse().unwrap())]))),
    ];
    assert_eq!(first.svc_params, expected);
    assert_eq!((second.svc_priority, second.target_name.to_string()), (3, "also.test.".into()));
    stage.granted_are(&["192.0.2.9"]);
}

#[test]
fn answers_are_remembered_for_as_long_as_they_say() {
    let server = NameServer::start(|question, _| {
        let query = &question.queries[0];
        if query.name == name("gone.test") || query.query_type == RecordType::AAAA {
            let mut message = message(question, vec![]);
            if query.name == name("gone.test") {
                message.metadata.response_code = ResponseCode::NXDomain;
            }
            message.authorities = vec![soa("test", 600, 300)];
            return vec![message.to_vec().unwrap()];
        }
        vec![reply(
            question,
            vec![address(&query.name, 0, "192.0.2.1"), address(&query.name, 90_000, "192.0.2.2")],
        )]
    });
    let stage = Stage::new(&[server.address], &allowing(&["a.test", "gone.test"]));
    for _ in 0..3 {
        let reply = stage.ask("a.test", RecordType::A);
        assert_eq!(reply.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [5, 5]);
        assert_eq!(code(&stage.ask("a.test", RecordType::AAAA)), ResponseCode::NoError);
        assert_eq!(code(&stage.ask("gone.test", RecordType::A)), ResponseCode::NXDomain);
    }
    assert_eq!(server.asked(), 3);
    assert_eq!(stage.events().len(), 1);
}

#[test]
fn a_budget_is_kept_and_told_of_once() {
    let server = NameServer::honest(|query| vec![address(&query.name, 300, "192.0.2.7")]);
    let mut policy = allowing(&["*.w.test"]);
    policy.settings =
        DnsSettings { queries_per_minute: 1000, label_bytes_per_hour: 100, ..DnsSettings::default() };
    let stage = Stage::new(&[server.address], &policy);
    let long = "x".repeat(39);
    assert_eq!(addresses(&stage.ask(&format!("1{long}.w.test"), RecordType::A)).len(), 1);
    assert_eq!(addresses(&stage.ask(&format!("2{long}.w.test"), RecordType::A)).len(), 1);
    for index in 3..6 {
        let reply = stage.ask(&format!("{index}{long}.w.test"), RecordType::A);
        assert_eq!(code(&reply), ResponseCode::Refused);
        assert_eq!(extended(&reply).unwrap().0, 18);
    }
    // What is known costs nothing.
    assert_eq!(addresses(&stage.ask(&format!("1{long}.w.test"), RecordType::A)).len(), 1);
    let over: Vec<_> =
        stage.events().into_iter().filter(|event| matches!(event, GateEvent::OverBudget(_))).collect();
    let [GateEvent::OverBudget(over)] = &over[..] else { panic!("{over:?}") };
    assert_eq!((over.quota, over.limit), (Quota::LabelBytesPerHour, 100));
    assert_eq!(server.asked(), 2);
}

#[test]
fn a_switch_hands_over_what_is_still_allowed() {
    let server = NameServer::honest(|query| {
        let text = if query.name == name("a.test") { "192.0.2.1" } else { "192.0.2.2" };
        vec![address(&query.name, 300, text)]
    });
    let stage = Stage::new(&[server.address], &allowing(&["a.test", "b.test"]));
    stage.ask("a.test", RecordType::A);
    stage.ask("b.test", RecordType::A);
    stage.granted_are(&["192.0.2.1", "192.0.2.2"]);
    let mut policy = allowing(&["b.test"]);
    policy.names[0].rule = 44;
    let failed = stage.gate.switch(SCOPE, policy.table(), |handed| {
        assert_eq!(handed.len(), 1);
        Err::<(), _>("no")
    });
    assert_eq!(failed, Err("no"));
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)), ["192.0.2.1"]);
    let handed = stage.gate.switch(SCOPE, policy.table(), Ok::<_, ()>).unwrap();
    let [(data, granted)] = &handed[..] else { panic!("{handed:?}") };
    assert_eq!((*data, granted.grants[0].rule), (prefix_data("192.0.2.2".parse().unwrap()), 44));
    assert_eq!(code(&stage.ask("a.test", RecordType::A)), ResponseCode::NXDomain);
    stage.gate.forget(SCOPE);
    assert_eq!(stage.gate.name_of(SCOPE, *data, 44), None);
}

#[test]
fn one_question_at_a_time_goes_upstream_for_a_name() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let server = NameServer::start(move |question, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(300));
        vec![reply(question, vec![address(&question.queries[0].name, 300, "192.0.2.7")])]
    });
    let stage = Stage::new(&[server.address], &allowing(&["a.test"]));
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| assert_eq!(addresses(&stage.ask("a.test", RecordType::A)).len(), 1));
        }
    });
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn where_nothing_is_enforced_all_is_answered_and_told() {
    let server = NameServer::honest(|query| match query.query_type {
        RecordType::TXT => {
            vec![Record::from_rdata(query.name.clone(), 60, RData::TXT(TXT::new(vec!["hello".into()])))]
        }
        _ => vec![address(
            &query.name,
            60,
            if query.name == name("a.test") { "192.0.2.1" } else { "127.0.0.1" },
        )],
    });
    let mut policy = allowing(&["a.test"]);
    policy.mode = Mode::Audit;
    let stage = Stage::new(&[server.address], &policy);
    assert_eq!(addresses(&stage.ask("b.test", RecordType::A)), ["127.0.0.1"]);
    assert_eq!(stage.ask("b.test", RecordType::TXT).answers.len(), 1);
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)), ["192.0.2.1"]);
    stage.granted_are(&["192.0.2.1"]);
    assert!(matches!(
        &stage.events()[0],
        GateEvent::Refused(Refused { enforced: false, why: Why::NoRule, .. })
    ));
}

#[test]
fn what_one_gate_has_held_another_takes_over() {
    let server = NameServer::honest(|query| vec![address(&query.name, 300, "192.0.2.1")]);
    let policy = allowing(&["a.test", "*.w.test"]);
    let before = Stage::new(&[server.address], &policy);
    before.ask("a.test", RecordType::A);
    before.ask("b.w.test", RecordType::A);
    let mut held = before.gate.held(SCOPE);
    assert_eq!(held.len(), 2);
    held.extend(held.clone().into_iter().map(|held| Held { name: "evil.test".into(), ..held }));
    held.push(Held { address: "127.0.0.1".parse().unwrap(), ..held[0].clone() });
    held.push(Held { address: "192.0.2.3".parse().unwrap(), expires: 1, ..held[0].clone() });
    let after = Stage::new(&[server.address], &Policy::default());
    after.gate.recall(SCOPE, &held);
    let handed = after.gate.switch(SCOPE, policy.table(), Ok::<_, ()>).unwrap();
    let data = prefix_data("192.0.2.1".parse().unwrap());
    assert_eq!(handed.iter().map(|(address, _)| *address).collect::<Vec<_>>(), [data]);
    assert_eq!(after.gate.name_of(SCOPE, data, 11).as_deref(), Some("b.w.test"));
    assert!(after.gate.held(SCOPE).iter().all(|held| held.name != "evil.test"));
}

#[test]
fn what_the_kernel_does_not_take_is_not_answered_and_the_rest_is_taken_back() {
    let server = NameServer::honest(|query| {
        let mut records = vec![address(&query.name, 300, "192.0.2.1")];
        if query.name == name("both.test") {
            records.push(address(&query.name, 300, "192.0.2.2"));
            records.push(address(&query.name, 300, "192.0.2.3"));
        }
        records
    });
    let stage = Stage::new(&[server.address], &allowing(&["a.test", "both.test"]));
    stage.kernel.refused.lock().unwrap().insert(prefix_data("192.0.2.3".parse().unwrap()));
    assert_eq!(addresses(&stage.ask("a.test", RecordType::A)), ["192.0.2.1"]);
    let before = stage.kernel.granted.lock().unwrap().clone();
    let reply = stage.ask("both.test", RecordType::A);
    assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::ServFail, 0));
    assert_eq!(*stage.kernel.granted.lock().unwrap(), before);
    assert!(matches!(&stage.events()[1], GateEvent::NotGranted(granting) if granting.name == "both.test"));
    stage.kernel.refused.lock().unwrap().clear();
    assert_eq!(addresses(&stage.ask("both.test", RecordType::A)).len(), 3);
    stage.granted_are(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
}
