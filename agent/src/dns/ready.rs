//! The replies that a scope was given, kept as they were sent, so that what is asked over and over is not judged and built
//! anew each time. One is good for as long as nothing changes that went into it: the facts, the policy, this host's addresses,
//! and what the kernel has been told. Pure.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use stockade_common::net::PrefixData;

use super::{
    answer::TTL,
    brief::Brief,
    core::GRACE,
    ledger::{Ledger, prefix_data},
    name::Key,
    question::Question,
    reply::OPTIONS,
    table::NameTable,
};

/// Bytes of memory for a scope's replies, about. Where there is no more, others are built anew until some are over.
const BYTES: usize = 1 << 20;
/// What a reply takes beside what it says, about.
const OVERHEAD: usize = 256;

/// A scope's replies.
#[derive(Debug, Default)]
pub struct Ready {
    /// What they were judged by. Held, so that no other can be at the same place.
    judged_by: Option<(Arc<NameTable>, Arc<HashSet<IpAddr>>)>,
    /// By name and type, as [`Brief::key`] has them.
    replies: HashMap<Box<[u8]>, Reply>,
    bytes: usize,
}

/// What says which answer a scope is given of the same facts.
#[derive(Debug, Clone, Copy)]
pub struct JudgedBy<'a> {
    /// The names of its policy.
    pub table: &'a Arc<NameTable>,
    /// This host's addresses.
    pub own: &'a Arc<HashSet<IpAddr>>,
}

#[derive(Debug)]
struct Reply {
    name: Key,
    /// What has to be granted before it may be given.
    grant: Box<[PrefixData]>,
    /// When the facts are over.
    expires: u32,
    code: u8,
    count: u16,
    /// The answer section.
    records: Box<[u8]>,
    /// Where the times in it are.
    times: Box<[usize]>,
}

impl Ready {
    fn is_judged_by(&self, JudgedBy { table, own }: JudgedBy<'_>) -> bool {
        let is_it = |(by, among): &(_, _)| Arc::ptr_eq(by, table) && Arc::ptr_eq(among, own);
        self.judged_by.as_ref().is_some_and(is_it)
    }

    /// Writes the reply to a question, if there is one that is good still, and the kernel has been told of its addresses for as
    /// long as it would be told now.
    #[must_use]
    pub fn reply(
        &self,
        judged_by: JudgedBy<'_>,
        ledger: &Ledger,
        brief: &Brief<'_>,
        now: u32,
        out: &mut Vec<u8>,
    ) -> bool {
        let good = |reply: &&Reply| {
            reply.expires > now
                && self.is_judged_by(judged_by)
                && ledger.holds(&reply.name, &reply.grant, until(reply.expires, now))
        };
        let Some(reply) = self.replies.get(brief.key()).filter(good) else { return false };
        if !brief.reply(reply.code, reply.count, &reply.records, out) {
            return false;
        }
        let time = ttl(reply.expires, now).to_be_bytes();
        let Some(records) = out.get_mut(brief.records_at()..) else { return false };
        for at in &reply.times {
            if let Some(place) = records.get_mut(*at..).and_then(<[u8]>::first_chunk_mut) {
                *place = time;
            }
        }
        true
    }

    /// Keeps a reply, whole as it was sent.
    pub fn keep(
        &mut self,
        judged_by: JudgedBy<'_>,
        question: &Question,
        bytes: &[u8],
        grant: &[IpAddr],
        expires: u32,
    ) {
        if !self.is_judged_by(judged_by) {
            let JudgedBy { table, own } = judged_by;
            *self = Self { judged_by: Some((Arc::clone(table), Arc::clone(own))), ..Self::default() };
        }
        let Some(reply) = Reply::read(question, bytes, grant, expires) else { return };
        let kind = u16::from(question.kind()).to_be_bytes();
        let key = [question.key.bytes(), &kind].concat().into_boxed_slice();
        self.bytes -= self.replies.remove(&key).map_or(0, |old| old.weight());
        let weight = reply.weight();
        if self.bytes + weight <= BYTES {
            self.bytes += weight;
            self.replies.insert(key, reply);
        }
    }

    /// Forgets what is over.
    pub fn sweep(&mut self, judged_by: JudgedBy<'_>, now: u32) {
        if !self.is_judged_by(judged_by) {
            *self = Self::default();
        }
        let Self { judged_by: _, replies, bytes } = self;
        replies.retain(|_, reply| {
            let stays = reply.expires > now;
            *bytes -= if stays { 0 } else { reply.weight() };
            stays
        });
    }
}

/// Seconds for which facts that are over then may be used.
pub fn ttl(expires: u32, now: u32) -> u32 {
    expires.saturating_sub(now).clamp(TTL.0, TTL.1)
}

/// Until when the addresses of an answer are granted.
pub fn until(expires: u32, now: u32) -> u32 {
    now.saturating_add(ttl(expires, now)).saturating_add(GRACE)
}

impl Reply {
    /// Reads what was written; `None` if it is not one of ours.
    fn read(question: &Question, bytes: &[u8], grant: &[IpAddr], expires: u32) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<12>()?;
        let [_, _, _, flags, 0, 1, high, low, ..] = *header else { return None };
        // The name with its root, type and class.
        let (_, rest) = rest.split_at_checked(question.key.bytes().len() + 5)?;
        let records = if question.plain.edns { rest.strip_suffix(&OPTIONS)? } else { rest };
        let count = u16::from_be_bytes([high, low]);
        let (mut times, mut at) = (Vec::with_capacity(count.into()), 0);
        for _ in 0..count {
            at = after_name(records, at)? + 4;
            times.push(at);
            let length = records.get(at + 4..)?.first_chunk()?;
            at += 6 + usize::from(u16::from_be_bytes(*length));
        }
        (at == records.len()).then(|| Self {
            name: question.key.clone(),
            grant: grant.iter().copied().map(prefix_data).collect(),
            expires,
            code: flags & 0xf,
            count,
            records: records.into(),
            times: times.into(),
        })
    }

    fn weight(&self) -> usize {
        let Self { name, grant, expires: _, code: _, count: _, records, times } = self;
        OVERHEAD + 2 * name.bytes().len() + size_of_val(&**grant) + records.len() + size_of_val(&**times)
    }
}

/// Where a name in a message ends that begins here.
fn after_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += usize::from(length) + 1,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests;
