//! Who asks a gate: only what `egress` has seen leave a socket of the gate's own scope. Its sockets drop all else, so that no other
//! user of the host asks in a scope's name.

use aya_ebpf::{
    cty::c_void,
    helpers::generated::{bpf_ktime_get_ns, bpf_skb_load_bytes, bpf_skb_load_bytes_relative},
    programs::SkBuffContext,
};
use stockade_common::{
    counter::Counter,
    net::{ASKED_NS, AskerKey, TCP, UDP},
};

use crate::{
    maps::{ASKERS, count},
    net::Destination,
    own::Source,
    tag::Held,
};

/// The whole packet is let in (`SK_PASS` for a socket filter is a length).
const PASS: i64 = 0xffff;
const DROP: i64 = 0;
/// `BPF_HDR_START_NET`
const NETWORK_HEADER: u32 = 1;
/// SYN and ACK, of which the first packet of a connection has the first alone.
const SYN_ACK: u8 = 0x12;
const SYN: u8 = 0x02;

/// A packet leaves for a gate.
#[inline(always)]
pub fn note(held: &Held, from: &Source, to: &Destination) {
    let key = AskerKey {
        addr: Destination { addr: from.addr, port: 0, protocol: 0 }.bytes(),
        port: from.port,
        gate: to.port,
        protocol: u32::from(to.protocol),
    };
    // SAFETY: takes no arguments.
    if ASKERS.insert(&key, &unsafe { bpf_ktime_get_ns() }, 0).is_err() {
        count(held.scope, Counter::HelperFailed);
    }
}

/// The filter of a gate's sockets.
#[inline(always)]
pub fn filter(ctx: &SkBuffContext) -> i64 {
    match read(ctx) {
        Some(Packet::Goes) => PASS,
        // SAFETY: the value is copied out at once; the helper takes no arguments.
        Some(Packet::Opens(key)) => unsafe {
            match ASKERS.get(&key).copied() {
                Some(asked) if bpf_ktime_get_ns().wrapping_sub(asked) < ASKED_NS => PASS,
                _ => DROP,
            }
        },
        None => DROP,
    }
}

enum Packet {
    /// It belongs to a connection that was let in.
    Goes,
    /// It is a datagram, or asks for a connection.
    Opens(AskerKey),
}

/// Its headers: at the packet's start is the one of UDP or TCP.
#[inline(always)]
fn read(ctx: &SkBuffContext) -> Option<Packet> {
    let mut ip = [0u32; 4];
    network(ctx, 0, &mut ip)?;
    let [first, ..] = ip[0].to_ne_bytes();
    let (addr, protocol);
    if first >> 4 == 4 {
        [_, protocol, ..] = ip[2].to_ne_bytes();
        addr = Destination::v4(ip[3], 0, 0);
    } else {
        let mut from = [0u32; 4];
        network(ctx, 8, &mut from)?;
        // No headers stand between on loopback; with some it is neither of the two.
        protocol = ip[1].to_ne_bytes()[2];
        addr = Destination { addr: from, port: 0, protocol: 0 };
    }
    let protocol = u32::from(protocol);
    if protocol == TCP {
        let mut flags = [0u8; 1];
        transport(ctx, 13, &mut flags)?;
        if flags[0] & SYN_ACK != SYN {
            return Some(Packet::Goes);
        }
    } else if protocol != UDP {
        return None;
    }
    let mut ports = [0u16; 2];
    transport(ctx, 0, &mut ports)?;
    let [port, gate] = ports.map(u16::from_be);
    Some(Packet::Opens(AskerKey { addr: addr.bytes(), port, gate, protocol }))
}

#[inline(always)]
fn network<T>(ctx: &SkBuffContext, offset: u32, into: &mut T) -> Option<()> {
    let to: *mut c_void = core::ptr::from_mut(into).cast();
    let skb: *const c_void = ctx.skb.skb.cast_const().cast();
    // SAFETY: the context, and a local of that size.
    let loaded =
        unsafe { bpf_skb_load_bytes_relative(skb, offset, to, size_of::<T>() as u32, NETWORK_HEADER) };
    (loaded == 0).then_some(())
}

#[inline(always)]
fn transport<T>(ctx: &SkBuffContext, offset: u32, into: &mut T) -> Option<()> {
    let to: *mut c_void = core::ptr::from_mut(into).cast();
    let skb: *const c_void = ctx.skb.skb.cast_const().cast();
    // SAFETY: the context, and a local of that size.
    let loaded = unsafe { bpf_skb_load_bytes(skb, offset, to, size_of::<T>() as u32) };
    (loaded == 0).then_some(())
}
