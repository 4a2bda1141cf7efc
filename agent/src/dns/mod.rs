//! The DNS gate: answers the questions of a scope's workload, for names that a rule covers, and says to the kernel which
//! addresses those names have before the workload can learn them. Everything else is refused here, and goes nowhere.
//!
//! ```text
//! question -> name (table) -> cache or upstream -> facts (answer) -> addresses (address) -> grants (ledger) -> reply
//! brief question -> the reply that was given last (ready) -> still granted (ledger) -> the same, with its time
//! ```

mod address;
mod answer;
mod brief;
mod budget;
mod cache;
mod clock;
mod config;
mod core;
mod datagrams;
mod event;
mod gate;
mod ledger;
mod name;
mod own;
mod question;
mod quiet;
mod ready;
mod refusal;
mod reply;
mod resolve;
mod scope;
mod serve;
mod sockets;
mod table;
mod upstream;

#[cfg(any(test, feature = "invariant"))]
pub mod reference;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, io, net::IpAddr};

use stockade_common::net::{Granted, PrefixData};

pub use self::{
    address::{Standing, standing},
    config::{DnsConfig, RESOLV_CONF, Server, ServerError, Upstreams},
    event::{Answered, GateEvent, Granting, OverBudget, Quota, Rebinding, Refused, UpstreamFailed, Why},
    gate::Gate,
    ledger::Held,
    table::{NameTable, TableInput},
};

/// What the gate needs of the kernel's side.
pub trait Kernel: Send + Sync + 'static {
    /// Puts what names allow for an address in place of what was there, in the scope's policy.
    ///
    /// # Errors
    /// The kernel's: the answer is not given then.
    fn grant(&self, scope: u32, address: PrefixData, granted: &Granted) -> io::Result<()>;

    /// Takes away what names allow for an address. That there was nothing is no failure.
    ///
    /// # Errors
    /// The kernel's.
    fn revoke(&self, scope: u32, address: PrefixData) -> io::Result<()>;

    /// This host's own addresses, which answers may not lead to. `None`: they cannot be listed now.
    fn own_addresses(&self) -> Option<HashSet<IpAddr>> {
        own::addresses()
    }
}
