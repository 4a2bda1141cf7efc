//! Refusals as people read them.

use super::{super::sample, *};
use crate::policy::{image::RuleInfo, mounts::MountTable};

fn refusal(kind: u16, body: Body) -> Refusal {
    Refusal::of(&Record { header: sample::header(kind), body }, &Context::default())
}

#[test]
fn names_hostile_to_shells_and_globs_get_no_flag() {
    for name in ["/a'b", "/a$(b)", "/a*", "/a{b}", "/a\\", "/a`", "/a\u{e9}", "/~!", ""] {
        assert!(!is_plain(name), "{name}");
    }
    let named = |path: &[u8]| refusal(kind::OPEN, Body::File(sample::file(1, path)));
    assert_eq!(named(b"/a b/c-d").flag().as_deref(), Some("--allow-read '/a b/c-d'"));
    assert_eq!(named(b"/a\nb").flag(), None);
    assert_eq!(named(b"/a\nb").what(), "read /a\\x0ab");
    assert_eq!(named(b"").what(), "read a file");
}

#[test]
fn process_ids_are_no_part_of_what_was_refused() {
    let shown = |path: &[u8]| String::from_utf8(in_any_run(path, 100)).unwrap();
    assert_eq!(shown(b"/100/status"), "/self/status");
    assert_eq!(shown(b"/1/status"), "/*/status");
    assert_eq!(shown(b"/100/task/101/comm"), "/self/task/*/comm");
    assert_eq!((shown(b"/sys/kernel"), shown(b"/")), ("/sys/kernel".into(), "/".into()));
    let mounts = MountTable::parse(b"1 1 0:5 / /proc rw - proc proc rw\n").unwrap();
    let context = Context { mounts, ..Context::default() };
    let mut file = sample::file(1, b"/100/status");
    file.dev = 5;
    let record = Record { header: sample::header(kind::OPEN), body: Body::File(file) };
    let flag = Refusal::of(&record, &context).flag();
    assert_eq!(flag.as_deref(), Some("--allow-read '/proc/self/status'"));
}

#[test]
fn destinations_are_written_as_rules() {
    let net = Body::Net(sample::net([192, 0, 2, 7], 53, 17));
    let refused = refusal(kind::SEND, net);
    assert_eq!(refused.what(), "send to 192.0.2.7:53/udp");
    assert_eq!(refused.flag().as_deref(), Some("--allow-net '192.0.2.7:53/udp'"));
}

#[test]
fn unix_sockets_are_written_as_rules() {
    let named = |dev, path: &[u8]| {
        let file = File { dev, access: 16, mode: 1, path: bytes::Bytes::copy_from_slice(path) };
        let mut header = sample::header(kind::UNIX_NAMED);
        header.hook = hook::UNIX_STREAM_CONNECT;
        let mounts = MountTable::parse(b"1 1 0:5 / /run rw - tmpfs t rw\n").unwrap();
        let context = Context { mounts, ..Context::default() };
        Refusal::of(&Record { header, body: Body::File(file) }, &context)
    };
    let docker = named(5, b"/docker.sock");
    assert_eq!(docker.what(), "connect to unix:/run/docker.sock (the Docker daemon: root on this host)");
    assert_eq!(docker.flag().as_deref(), Some("--allow-net 'unix:/run/docker.sock'"));
    assert_eq!(named(5, b"/a*").flag(), None);
    assert_eq!(named(5, b"").what(), "connect to a unix socket without a name");
    let odd = named(ABSTRACT_DEV, b"a\0'\\");
    assert_eq!(odd.what(), r"connect to unix:@a\x00\x27\\");
    assert_eq!(odd.flag().as_deref(), Some(r"--allow-net 'unix:@a\x00\x27\\'"));
}

#[test]
fn listeners_are_written_as_rules() {
    let refused = refusal(kind::LISTEN, Body::Net(sample::net([0; 4], 8080, 6)));
    assert_eq!(refused.what(), "listen on 0.0.0.0:8080/tcp");
    assert_eq!(refused.flag().as_deref(), Some("--allow-listen '0.0.0.0:8080/tcp'"));
    let unbound = Net { addr: [0; 16], ..sample::net([0; 4], 0, 6) };
    let refused = refusal(kind::LISTEN, Body::Net(unbound));
    assert_eq!(refused.flag().as_deref(), Some("--allow-listen '[::]/tcp'"));
}

#[test]
fn a_protected_place_is_lifted_by_its_group() {
    let rule =
        RuleInfo { text: "git-hooks".into(), source: "a protected place".into(), list: protect::LIST.into() };
    let context = Context { rules: vec![rule], ..Context::default() };
    for reason in [reason::RULE_DENY, reason::MOVES_DENIED] {
        let mut header = sample::header(kind::CHANGE);
        (header.reason, header.rule) = (reason, 0);
        let file = File { access: ACCESS_WRITE, ..sample::file(1, b"/ws/.git/hooks/x") };
        let refused = Refusal::of(&Record { header, body: Body::File(file) }, &context);
        assert_eq!(refused.why, "denied by git-hooks (a protected place)");
        assert_eq!(refused.flag().as_deref(), Some("--lift git-hooks"));
    }
}

#[test]
fn what_no_rule_can_allow_gets_no_flag() {
    let mut record =
        Record { header: sample::header(kind::SOCKET), body: Body::Net(sample::net([0; 4], 0, 1)) };
    record.header.reason = reason::FAMILY;
    let refused = Refusal::of(&record, &Context::default());
    assert_eq!(refused.what(), "make a socket (family inet, type stream, protocol 1)");
    assert_eq!((refused.why.as_str(), refused.flag()), ("no rule can allow sockets of this kind", None));
}
