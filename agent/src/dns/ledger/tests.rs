use proptest::prelude::*;
use stockade_common::net::{TCP, UDP, port_key};

use super::*;
use crate::{
    dns::TableInput,
    policy::checked::{DnsSettings, Mode, NameRule},
};

/// Name, whether those below are meant, ports, TCP, UDP.
type Rule<'a> = (&'a str, bool, &'a [(u16, u16)], bool, bool);

fn table(rules: &[Rule<'_>]) -> NameTable {
    let names: Vec<_> = rules
        .iter()
        .enumerate()
        .map(|(index, (name, below, ports, tcp, udp))| NameRule {
            name: (*name).into(),
            below: *below,
            ports: ports.to_vec(),
            tcp: *tcp,
            udp: *udp,
            deny: false,
            rule: u32::try_from(index).unwrap(),
        })
        .collect();
    let settings = DnsSettings::default();
    let (destinations, private, mode) = (&[], &[], Mode::Enforce);
    NameTable::new(&TableInput { names: &names, destinations, mode, settings: &settings, private })
}

fn add(
    ledger: &mut Ledger,
    table: &NameTable,
    name: &str,
    ip: &str,
    expires: u32,
) -> Result<usize, LedgerError> {
    let key = Key::parse(name).unwrap();
    let Cover::By(covered) = table.cover(&key) else { panic!("{name} is not covered") };
    let changes = ledger.prepare(table, &key, &covered, &[ip.parse().unwrap()], (100, expires))?;
    let count = changes.len();
    ledger.commit(changes);
    Ok(count)
}

fn held(ledger: &Ledger, ip: &str) -> Vec<Grant> {
    let data = prefix_data(ip.parse().unwrap());
    let all = ledger.all();
    let (_, granted) = all.iter().find(|(address, _)| *address == data).unwrap();
    granted.grants.iter().copied().filter(|grant| *grant != Grant::NOTHING).collect()
}

const IP: &str = "192.0.2.1";

fn grant(rule: u32, protocol: u32, (first, last): (u16, u16), expires: u32) -> Grant {
    Grant { low: port_key(protocol, first), high: port_key(protocol, last), rule, expires }
}

#[test]
fn the_same_answer_again_changes_nothing_and_a_later_one_extends() {
    let table = table(&[("a.test", false, &[(443, 443), (80, 90), (91, 95)], true, true)]);
    let mut ledger = Ledger::default();
    assert_eq!(add(&mut ledger, &table, "a.test", IP, 200), Ok(1));
    assert_eq!(add(&mut ledger, &table, "a.test", IP, 200), Ok(0));
    assert_eq!(add(&mut ledger, &table, "a.test", IP, 150), Ok(0));
    assert_eq!(add(&mut ledger, &table, "a.test", IP, 300), Ok(1));
    let expected = [
        grant(0, TCP, (80, 95), 300),
        grant(0, TCP, (443, 443), 300),
        grant(0, UDP, (80, 95), 300),
        grant(0, UDP, (443, 443), 300),
    ];
    assert_eq!(held(&ledger, IP), expected);
}

#[test]
fn names_of_one_address_share_what_they_have_in_common() {
    let rules: Vec<_> =
        ["a.test", "b.test", "c.test", "d.test", "e.test", "f.test", "g.test", "h.test", "i.test"]
            .iter()
            .map(|name| (*name, false, &[(443_u16, 443_u16)][..], true, true))
            .collect();
    let table = table(&rules);
    let mut ledger = Ledger::default();
    for (index, (name, ..)) in rules.iter().enumerate() {
        add(&mut ledger, &table, name, IP, 200 + u32::try_from(index).unwrap()).unwrap();
    }
    assert_eq!(held(&ledger, IP), [grant(8, TCP, (443, 443), 208), grant(8, UDP, (443, 443), 208)]);
    let data = prefix_data(IP.parse().unwrap());
    assert_eq!(ledger.name_of(&table, data, 3).map(ToString::to_string).as_deref(), Some("d.test"));
}

#[test]
fn too_many_ranges_are_an_error_and_change_nothing() {
    let ports: Vec<(u16, u16)> = (0..9).map(|index| (index * 10, index * 10)).collect();
    let table =
        table(&[("a.test", false, &ports[..8], true, false), ("b.test", false, &ports[8..], true, false)]);
    let mut ledger = Ledger::default();
    add(&mut ledger, &table, "a.test", IP, 200).unwrap();
    let before = held(&ledger, IP);
    assert_eq!(add(&mut ledger, &table, "b.test", IP, 300), Err(LedgerError::Ranges));
    assert_eq!(held(&ledger, IP), before);
    assert_eq!(add(&mut ledger, &table, "b.test", "192.0.2.2", 300), Ok(1));
}

#[test]
fn many_names_of_one_wildcard_make_room_for_each_other() {
    let table =
        table(&[("w.test", true, &[(443, 443)], true, false), ("a.test", false, &[(22, 22)], true, false)]);
    let mut ledger = Ledger::default();
    add(&mut ledger, &table, "a.test", IP, 1000).unwrap();
    for index in 0..200 {
        add(&mut ledger, &table, &format!("n{index}.w.test"), IP, 200 + index).unwrap();
    }
    assert_eq!(held(&ledger, IP), [grant(0, TCP, (443, 443), 399), grant(1, TCP, (22, 22), 1000)]);
    assert!(ledger.addresses.values().all(|held| held.names.len() <= MAX_NAMES));
}

#[test]
fn the_kernels_room_is_not_exceeded_and_what_is_over_makes_room() {
    let table = table(&[("w.test", true, &[(443, 443)], true, false)]);
    let mut ledger = Ledger::default();
    for index in 0..MAX_GRANTED {
        let ip = IpAddr::from(std::net::Ipv4Addr::from(0x0c00_0000 + index)).to_string();
        add(&mut ledger, &table, "a.w.test", &ip, if index == 7 { 150 } else { 200 }).unwrap();
    }
    assert_eq!(add(&mut ledger, &table, "a.w.test", IP, 200), Err(LedgerError::Full));
    assert_eq!(ledger.sweep(150), [prefix_data("12.0.0.7".parse().unwrap())]);
    assert_eq!(add(&mut ledger, &table, "a.w.test", IP, 200), Ok(1));
    assert_eq!(ledger.sweep(200).len(), MAX_GRANTED as usize);
    assert!(ledger.all().is_empty());
}

proptest! {
    /// For each port, what is granted allows it exactly as long as the longest of the names that are allowed it.
    #[test]
    fn grants_are_what_names_are_allowed(
        ports in prop::collection::vec((0_u16..12, 0_u16..6, any::<bool>(), any::<bool>()), 4),
        answers in prop::collection::vec((0_usize..4, 101_u32..160), 1..12),
    ) {
        const NAMES: [&str; 4] = ["a.test", "b.test", "c.test", "d.test"];
        let ranges: Vec<[(u16, u16); 1]> = ports.iter().map(|(first, more, ..)| [(*first, first + more)]).collect();
        let rules: Vec<_> = NAMES.iter().zip(&ranges).zip(&ports)
            .map(|((name, range), (_, _, tcp, udp))| (*name, false, &range[..], *tcp, *udp)).collect();
        let table = table(&rules);
        let mut ledger = Ledger::default();
        let mut until = [0_u32; 4];
        for (index, expires) in answers {
            if add(&mut ledger, &table, NAMES[index], IP, expires).is_ok() {
                until[index] = until[index].max(expires);
            }
        }
        let all = ledger.all();
        let Some((_, granted)) = all.first() else { return Ok(()) };
        for protocol in [TCP, UDP] {
            for port in 0..20_u16 {
                let key = port_key(protocol, port);
                let held = granted.grants.iter().filter(|grant| (grant.low..=grant.high).contains(&key));
                let expected = (0..4).filter(|index| {
                    let (_, _, tcp, udp) = ports[*index];
                    let [(first, last)] = ranges[*index];
                    (if protocol == TCP { tcp } else { udp }) && (first..=last).contains(&port)
                });
                let expected = expected.map(|index| until[index]).max().unwrap_or(0);
                prop_assert_eq!(held.map(|grant| grant.expires).max().unwrap_or(0), expected);
            }
        }
    }
}
