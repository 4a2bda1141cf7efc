//! What the gate tells of: each question that was not answered and why, and each address that became allowed.

use std::net::IpAddr;

use serde::Serialize;

/// Something that happened at a gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GateEvent {
    /// A name was answered, and what it is allowed at its addresses is new to the kernel.
    Answered(Answered),
    /// A question was refused.
    Refused(Refused),
    /// Addresses were left out of an answer.
    Rebinding(Rebinding),
    /// A scope asks too much.
    OverBudget(OverBudget),
    /// No name server gave an answer that can be used.
    UpstreamFailed(UpstreamFailed),
    /// Addresses could not be allowed, so the name was not answered.
    NotGranted(Granting),
}

/// A name was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answered {
    /// Scope.
    pub scope: u32,
    /// Cookie of the network namespace that was asked from.
    pub netns: u64,
    /// The name asked for.
    pub name: String,
    /// The type asked for: `A`, `AAAA`, `HTTPS`, `SVCB`.
    pub kind: String,
    /// The addresses that are allowed by it now.
    pub addresses: Vec<IpAddr>,
    /// The rule that covers the name.
    pub rule: u32,
    /// Seconds for which the workload may use the answer; the kernel allows it somewhat longer.
    pub ttl: u32,
}

/// A question was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Whether it was done, or only told of.
    pub enforced: bool,
    /// Scope.
    pub scope: u32,
    /// Cookie of the network namespace that was asked from.
    pub netns: u64,
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    pub kind: String,
    /// Why.
    pub why: Why,
    /// The rule that denies it, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    /// Other questions of this scope that were refused since the event before, and of which there was none.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreported: u32,
}

/// Why a question was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// No rule covers the name.
    NoRule,
    /// A rule denies the name.
    Denied,
    /// The name leads, by a CNAME, to one that a rule denies.
    LeadsToDenied,
}

/// Addresses were left out of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebinding {
    /// Whether it was done, or only told of.
    pub enforced: bool,
    /// Scope.
    pub scope: u32,
    /// Cookie of the network namespace that was asked from.
    pub netns: u64,
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    pub kind: String,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// What the first of them is.
    pub what: &'static str,
    /// The rule that covers the name.
    pub rule: u32,
}

/// A scope asks too much. Once a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OverBudget {
    /// Whether it was done, or only told of.
    pub enforced: bool,
    /// Scope.
    pub scope: u32,
    /// Cookie of the network namespace that was asked from.
    pub netns: u64,
    /// The name asked for.
    pub name: String,
    /// The rule that covers it.
    pub rule: u32,
    /// Of what there was too much.
    pub quota: Quota,
    /// How much may be.
    pub limit: u32,
}

/// What a scope may use so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quota {
    /// Questions that go upstream, a minute.
    QueriesPerMinute,
    /// Bytes of names, below what rules spell out, that go upstream, an hour.
    LabelBytesPerHour,
    /// Questions that wait for an answer at once.
    Waiting,
}

/// No name server gave an answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpstreamFailed {
    /// Scope.
    pub scope: u32,
    /// Cookie of the network namespace that was asked from.
    pub netns: u64,
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    pub kind: String,
    /// What went wrong with whom.
    pub error: String,
}

/// Addresses could not be allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Granting {
    /// Scope.
    pub scope: u32,
    /// Cookie of the network namespace that was asked from; 0: a policy was changed.
    pub netns: u64,
    /// The name asked for.
    pub name: String,
    /// Why not.
    pub error: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}
