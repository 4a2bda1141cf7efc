//! Questions, as the workload asks them. Pure.

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RecordType},
    serialize::binary::{BinDecodable, BinDecoder},
};

use super::{
    name::Key,
    reply::{self, Plain},
};

/// Longest question that is read. A name is 255 bytes at most, options a few more.
pub const MAX_QUESTION: usize = 4096;
/// What may go into a datagram, whatever the client says: nothing that needs fragments.
pub const MAX_DATAGRAM: u16 = 1232;
/// What fits into one in any case.
pub const MIN_DATAGRAM: u16 = 512;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram; the answer has to fit into one.
    Udp,
    /// On a connection.
    Tcp,
}

/// A question for a name.
#[derive(Debug, Clone)]
pub struct Question {
    /// What the answer repeats.
    pub plain: Plain,
    /// As it was asked, in its own case.
    pub query: Query,
    /// The name.
    pub key: Key,
}

impl Question {
    /// The type asked for.
    pub fn kind(&self) -> RecordType {
        self.query.query_type
    }
}

/// What a packet is.
#[derive(Debug)]
pub enum Parsed {
    /// A question.
    Question(Box<Question>),
    /// None; what is to be said to it.
    Wrong(Vec<u8>),
    /// Nothing that is answered.
    Nothing,
}

/// Reads a packet.
pub fn parse(packet: &[u8], transport: Transport) -> Parsed {
    let [high, low, flags, ..] = packet else { return Parsed::Nothing };
    if packet.len() < 12 || flags & 0x80 != 0 {
        return Parsed::Nothing;
    }
    let id = u16::from_be_bytes([*high, *low]);
    let op_code = OpCode::from_u8(flags >> 3 & 0xf);
    let mut plain = Plain { id, op_code, recursion_desired: flags & 1 != 0, ..Plain::default() };
    plain.limit = if transport == Transport::Tcp { u16::MAX } else { MIN_DATAGRAM };
    let wrong = |plain: &Plain, code| Parsed::Wrong(reply::error(plain, None, code, None));
    if op_code != OpCode::Query {
        return wrong(&plain, ResponseCode::NotImp);
    }
    let mut decoder = BinDecoder::new(packet);
    let (Ok(mut message), true) = (Message::read(&mut decoder), packet.len() <= MAX_QUESTION) else {
        return wrong(&plain, ResponseCode::FormErr);
    };
    if let Some(edns) = &message.edns {
        plain.edns = true;
        if transport == Transport::Udp {
            plain.limit = edns.max_payload().clamp(MIN_DATAGRAM, MAX_DATAGRAM);
        }
        if edns.version() > 0 {
            return wrong(&plain, ResponseCode::BADVERS);
        }
    }
    plain.checking_disabled = message.metadata.checking_disabled;
    if message.queries.len() != 1
        || !message.answers.is_empty()
        || message.metadata.message_type != MessageType::Query
    {
        return wrong(&plain, ResponseCode::FormErr);
    }
    let Some(query) = message.queries.pop() else { return Parsed::Nothing };
    if query.query_class != DNSClass::IN {
        return Parsed::Wrong(reply::error(&plain, Some(&query), ResponseCode::Refused, None));
    }
    let key = Key::of(&query.name);
    Parsed::Question(Box::new(Question { plain, query, key }))
}
