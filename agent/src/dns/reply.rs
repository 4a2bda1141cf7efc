//! Replies to the workload: built from what was understood, never passed on. Pure.

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, rdata::CNAME, rdata::opt::EdnsOption},
    serialize::binary::{BinEncodable, BinEncoder},
};

/// What a reply repeats of a question, and how long it may be.
#[derive(Debug, Clone, Copy)]
pub struct Plain {
    /// Its number.
    pub id: u16,
    /// What kind of request.
    pub op_code: OpCode,
    /// Whether recursion is desired.
    pub recursion_desired: bool,
    /// Whether checking is disabled.
    pub checking_disabled: bool,
    /// Whether it has options, so that the reply may have some.
    pub edns: bool,
    /// Most bytes of a reply.
    pub limit: u16,
}

impl Default for Plain {
    fn default() -> Self {
        Self {
            id: 0,
            op_code: OpCode::Query,
            recursion_desired: false,
            checking_disabled: false,
            edns: false,
            limit: 512,
        }
    }
}

/// An extended error (RFC 8914).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Which.
    pub code: u16,
    /// In words.
    pub text: String,
}

/// `Forged Answer`... are RFC 8914's; these are the ones that are used.
pub mod reason {
    /// Filtered: what the answer held is not let through.
    pub const FILTERED: u16 = 17;
    /// Prohibited: not for this client.
    pub const PROHIBITED: u16 = 18;
    /// No server could be reached, or none gave an answer.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// Something else.
    pub const OTHER: u16 = 0;
}

/// Longest text of an extended error: it has to fit beside the longest name into the shortest datagram.
const MAX_TEXT: usize = 200;
/// What the gate takes in a datagram.
const PAYLOAD: u16 = 1232;
/// The options of a reply that has nothing more to say, as they are sent.
pub const OPTIONS: [u8; 11] = {
    let [high, low] = PAYLOAD.to_be_bytes();
    [0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]
};

/// What an answer says.
#[derive(Debug, Default)]
pub struct Content {
    /// Names that the one asked for leads to.
    pub chain: Vec<Name>,
    /// What the last of them has.
    pub data: Vec<RData>,
    /// Seconds that it holds.
    pub ttl: u32,
    /// That there is no such name.
    pub nonexistent: bool,
}

/// A reply, and whether it holds all there is.
#[derive(Debug)]
pub struct Reply {
    /// To be sent.
    pub bytes: Vec<u8>,
    /// It did not fit: the client has to ask by TCP.
    pub truncated: bool,
}

/// A reply without records.
pub fn error(plain: &Plain, query: Option<&Query>, code: ResponseCode, reason: Option<Reason>) -> Vec<u8> {
    let mut message = begin(plain, query);
    message.metadata.response_code = code;
    if let (Some(Reason { code, mut text }), Some(edns)) = (reason, &mut message.edns) {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        let bytes = [&code.to_be_bytes(), text.as_bytes()].concat();
        edns.options_mut().insert(EdnsOption::Unknown(15, bytes));
    }
    encode(&message, plain.limit).bytes
}

/// A reply with what was found.
pub fn answer(plain: &Plain, query: &Query, content: Content) -> Reply {
    let Content { chain, data, ttl, nonexistent } = content;
    let mut message = begin(plain, Some(query));
    if nonexistent {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    let mut owner = query.name.clone();
    for name in chain {
        let next = name.clone();
        message.answers.push(Record::from_rdata(owner, ttl, RData::CNAME(CNAME(name))));
        owner = next;
    }
    message.answers.extend(data.into_iter().map(|data| Record::from_rdata(owner.clone(), ttl, data)));
    encode(&message, plain.limit)
}

fn begin(plain: &Plain, query: Option<&Query>) -> Message {
    let Plain { id, op_code, recursion_desired, checking_disabled, edns, limit: _ } = *plain;
    let mut message = Message::response(id, op_code);
    message.metadata.recursion_desired = recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = checking_disabled;
    message.queries.extend(query.cloned());
    if edns {
        let mut options = Edns::new();
        options.set_max_payload(PAYLOAD);
        message.edns = Some(options);
    }
    message
}

fn encode(message: &Message, limit: u16) -> Reply {
    let whole = bytes(message, limit);
    if whole.get(2).is_some_and(|flags| flags & 0x02 == 0) {
        return Reply { bytes: whole, truncated: false };
    }
    let mut cut = message.clone();
    cut.metadata.truncation = true;
    cut.answers.clear();
    Reply { bytes: bytes(&cut, limit), truncated: true }
}

/// Empty if it cannot be encoded.
fn bytes(message: &Message, limit: u16) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut buffer);
    encoder.set_max_size(limit);
    match message.emit(&mut encoder) {
        Ok(()) => buffer,
        Err(_) => Vec::new(),
    }
}
