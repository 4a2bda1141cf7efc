//! A compiled policy as text.

use stockade_common::{file::DEAD, net::PORT_ALLOW};

use super::image::MapImage;

/// A stable text form, for people and snapshots.
#[must_use]
pub fn dump(image: &MapImage) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for (index, rule) in image.rules.iter().enumerate() {
        let _ = writeln!(out, "rule {index} {} {:?} ({})", rule.list, rule.text, rule.source);
    }
    for (dev, entry) in &image.filesystems {
        let _ = writeln!(
            out,
            "filesystem {}:{} anchored {:#x} floating {:#x} self {:#x} {:#x} flags {}",
            dev >> 20,
            dev & 0xf_ffff,
            entry.anchored,
            entry.floating,
            entry.anchored_self,
            entry.floating_self,
            entry.flags
        );
    }
    for (index, accept) in image.accepts.iter().enumerate() {
        let _ = writeln!(out, "accept {index} allow {:#x} deny {:#x}", accept.allow, accept.deny);
    }
    for (index, entry) in image.next.iter().enumerate().filter(|(_, entry)| **entry != 0) {
        let _ = writeln!(out, "next {index} {:#x} -> {:#x}", entry >> 32, *entry as u32);
    }
    for (index, entry) in image.states.iter().enumerate().filter(|(_, entry)| **entry != u64::from(DEAD)) {
        let _ = writeln!(out, "state {index} accept {} default {:#x}", entry >> 32, *entry as u32);
    }
    for (addr, length, run) in &image.prefixes {
        let _ = writeln!(
            out,
            "prefix {}/{length} ports {}+{}",
            std::net::Ipv6Addr::from(*addr),
            run.first,
            run.len
        );
    }
    for (index, range) in image.ports.iter().enumerate() {
        let verdict = if range.verdict == PORT_ALLOW { "allow" } else { "deny" };
        let (low, high) = (range.low & 0xffff, range.high & 0xffff);
        let _ = writeln!(
            out,
            "ports {index} {verdict} protocol {} {low}-{high} rule {}",
            range.low >> 16,
            range.rule
        );
    }
    if image.flags != 0 {
        let _ = writeln!(out, "flags {:#x}", image.flags);
    }
    out
}
