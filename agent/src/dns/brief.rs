//! Questions in the form that nearly all datagrams have, read without building anything. Whatever is in another form is left
//! to [`super::question`]. Pure.

use super::{
    question::{MAX_DATAGRAM, MIN_DATAGRAM},
    reply::OPTIONS,
};

/// Bytes of the longest name on the wire.
const MAX_NAME: usize = 255;
/// Of the header: recursion is desired; the answer is authentic, and checking is disabled.
const RECURSION_DESIRED: u8 = 0x01;
const AUTHENTIC: u8 = 0x20;
const CHECKING_DISABLED: u8 = 0x10;
/// A response, and that recursion is available.
const RESPONSE: u8 = 0x80;
const RECURSION_AVAILABLE: u8 = 0x80;

/// One question of class IN, with options that say nothing but a size, or without.
#[derive(Debug)]
pub struct Brief<'a> {
    header: &'a [u8; 12],
    /// Name, type and class, as they came: the name in its own case.
    question: &'a [u8],
    edns: bool,
    limit: usize,
    lower: [u8; MAX_NAME + 2],
}

impl<'a> Brief<'a> {
    /// Reads a datagram; `None` if it is anything else.
    pub fn read(packet: &'a [u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<12>()?;
        let [_, _, flags, more, 0, 1, 0, 0, 0, 0, 0, options] = *header else { return None };
        if flags & !RECURSION_DESIRED != 0 || more & !(AUTHENTIC | CHECKING_DISABLED) != 0 {
            return None;
        }
        let mut root = 0;
        loop {
            match *rest.get(root)? {
                0 => break,
                // More would be a pointer.
                length @ 1..=63 => root += usize::from(length) + 1,
                _ => return None,
            }
        }
        let (question, after) = rest.split_at_checked(root + 5)?;
        let (name, [0, high, low, 0, 1]) = question.split_last_chunk()? else { return None };
        let (edns, payload) = match (options, after) {
            (0, []) => (false, MIN_DATAGRAM),
            (1, [0, 0, 41, high, low, _, 0, _, _, 0, 0]) => (true, u16::from_be_bytes([*high, *low])),
            _ => return None,
        };
        let mut lower = [0; MAX_NAME + 2];
        let (place, _) = lower.split_at_mut_checked(root + 2).filter(|_| root < MAX_NAME)?;
        let (place, kind) = place.split_last_chunk_mut()?;
        // Lengths are below all letters.
        place.copy_from_slice(name);
        place.make_ascii_lowercase();
        *kind = [*high, *low];
        let limit = payload.clamp(MIN_DATAGRAM, MAX_DATAGRAM).into();
        Some(Self { header, question, edns, limit, lower })
    }

    /// Its labels in lower case, as [`super::name::Key`] has them, and its type.
    pub fn key(&self) -> &[u8] {
        self.lower.get(..self.question.len() - 3).unwrap_or_default()
    }

    /// Writes a reply with these records, if it is not too long.
    #[must_use]
    pub fn reply(&self, code: u8, count: u16, records: &[u8], out: &mut Vec<u8>) -> bool {
        let options: &[u8] = if self.edns { &OPTIONS } else { &[] };
        let length = self.header.len() + self.question.len() + records.len() + options.len();
        if length > self.limit {
            return false;
        }
        let [id, number, flags, more, ..] = *self.header;
        let flags = RESPONSE | flags & RECURSION_DESIRED;
        let more = RECURSION_AVAILABLE | more & CHECKING_DISABLED | code;
        let [high, low] = count.to_be_bytes();
        out.clear();
        out.extend([id, number, flags, more, 0, 1, high, low, 0, 0, 0, self.edns.into()]);
        out.extend_from_slice(self.question);
        out.extend_from_slice(records);
        out.extend_from_slice(options);
        true
    }

    /// Where records begin in a reply.
    pub fn records_at(&self) -> usize {
        self.header.len() + self.question.len()
    }
}
