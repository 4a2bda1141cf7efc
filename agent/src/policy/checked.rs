//! A policy that has been checked: every rule is well-formed, every variable is put in. Only `check` makes one.

use std::{ops::Range, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use stockade_common::{
    file::ACCESS_READ,
    tag::{SCOPE_DNS, SCOPE_EGRESS, SCOPE_GUARDED, SCOPE_LOOK, SCOPE_LOOPBACK_OWN},
};

use super::{
    diagnostic::Diagnostic,
    image::RuleInfo,
    parse::{Metadata, Source},
    process::Process,
    protect::Protection,
    rule::Refusal,
    scope::Scope,
};

/// Whether denials are enforced.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Denials are enforced.
    #[default]
    Enforce,
    /// Denials are reported as `would_deny`, and nothing is refused.
    Audit,
}

/// A rule on paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    /// Absolute glob (`/usr/**`) or floating glob (`**/.env`), in the paths the workload sees, without `//`, `.` or `..`
    /// and with braces already expanded: components are literals, `*`, `?` inside a component, and `**` alone.
    pub pattern: String,
    /// `ACCESS_*` bits, implications included (write and exec imply read).
    pub access: u32,
    /// Denies instead of allowing.
    pub deny: bool,
    /// A denial that holds in whatever case names are written, and lets directories be renamed to other directories although
    /// it has `**` inside: see [`protect`](super::protect).
    pub protects: bool,
    /// Index into [`CheckedPolicy::rules`].
    pub rule: u32,
}

/// A rule on destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetRule {
    /// Destination; host bits are zero.
    pub prefix: IpNet,
    /// Inclusive port ranges; any port is `[(0, 65535)]`.
    pub ports: Vec<(u16, u16)>,
    /// Applies to TCP.
    pub tcp: bool,
    /// Applies to UDP.
    pub udp: bool,
    /// Denies instead of allowing.
    pub deny: bool,
    /// Index into [`CheckedPolicy::rules`].
    pub rule: u32,
}

/// A rule on names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRule {
    /// Lower case, in its ASCII form, without the dot at the end.
    pub name: String,
    /// `*.name`: every name below it, at any depth, and not the name itself.
    pub below: bool,
    /// Inclusive port ranges; any port is `[(0, 65535)]`.
    pub ports: Vec<(u16, u16)>,
    /// Applies to TCP.
    pub tcp: bool,
    /// Applies to UDP.
    pub udp: bool,
    /// Denies instead of allowing: the name is never answered, whatever else covers it. Of all ports then.
    pub deny: bool,
    /// Index into [`CheckedPolicy::rules`].
    pub rule: u32,
}

/// A rule on an abstract unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbstractRule {
    /// The name's bytes, without the leading NUL.
    pub name: Vec<u8>,
    /// Denies instead of allowing.
    pub deny: bool,
    /// Index into [`CheckedPolicy::rules`].
    pub rule: u32,
}

/// What is answered to a question for a name that no rule covers.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum DnsRefusal {
    /// The name does not exist (NXDOMAIN): every resolver gives up at once.
    #[default]
    Nxdomain,
    /// REFUSED: more exact; some resolvers ask again.
    Refused,
}

/// `[network.dns]`: how the DNS gate treats the scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsSettings {
    /// What is answered to a question for a name that no rule covers.
    pub refusal: DnsRefusal,
    /// Questions that may go upstream, a minute; the answers that are remembered cost nothing.
    pub queries_per_minute: u32,
    /// Bytes of names, below what the rules themselves name, that may go upstream an hour: what could be carried out in
    /// names of an allowed zone.
    pub label_bytes_per_hour: u32,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self { refusal: DnsRefusal::default(), queries_per_minute: 600, label_bytes_per_hour: 16_384 }
    }
}

/// Whose a rule is. A denial may take back what somebody else allows, but not what is allowed beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// A built-in profile.
    Profile,
    /// A policy file, numbered in the order they are checked.
    File(usize),
    /// Flags of the command line.
    Flags,
    /// Stockade: the workspace and the command's own file.
    Stockade,
}

/// Where a rule stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Whose it is.
    pub author: Author,
    /// The text it stands in.
    pub source: Arc<Source>,
    /// Where in the text.
    pub span: Option<Range<usize>>,
}

/// What a policy comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckedPolicy {
    /// Its name.
    pub name: String,
    /// Enforced or only reported.
    pub mode: Mode,
    /// Rules on paths.
    pub paths: Vec<PathRule>,
    /// `${tmp}`, which is another for every run.
    pub tmp: Option<PathBuf>,
    /// What some of them protect.
    pub protection: Protection,
    /// Rules on destinations.
    pub destinations: Vec<NetRule>,
    /// Rules on names.
    pub names: Vec<NameRule>,
    /// Rules on abstract unix sockets; those on sockets with a path are among `paths`, with `ACCESS_CONNECT`.
    pub abstracts: Vec<AbstractRule>,
    /// Rules on the addresses and ports that may be listened on.
    pub listen: Vec<NetRule>,
    /// `loopback:own`, its rule.
    pub loopback_own: Option<u32>,
    /// `egress = { interface = "..." }`.
    pub egress: Option<String>,
    /// `[files] metadata`; `None`: what no rule denies may be looked at.
    pub metadata: Option<Metadata>,
    /// `[process]`.
    pub process: Process,
    /// `[network.dns]`.
    pub dns: DnsSettings,
    /// It is written, so that DNS is the gate's even where no rule is on names.
    pub asks_for_gate: bool,
    /// Names, and whether those below are meant instead, that may have addresses of private networks.
    pub private_names: Vec<(String, bool)>,
    /// What the user wrote, indexed by rule id.
    pub rules: Vec<RuleInfo>,
    /// Where it stands, indexed by rule id.
    pub places: Vec<Place>,
    /// What the daemon holds to it.
    pub scope: Option<Scope>,
}

impl CheckedPolicy {
    /// Whether port 53 is carried to the DNS gate.
    #[must_use]
    pub fn uses_gate(&self) -> bool {
        self.asks_for_gate || !self.names.is_empty()
    }

    /// `SCOPE_*` flags that stand beside the slot of a scope that is held to it.
    #[must_use]
    pub fn scope_flags(&self) -> u32 {
        [
            (self.uses_gate(), SCOPE_DNS),
            (self.loopback_own.is_some(), SCOPE_LOOPBACK_OWN),
            (self.egress.is_some(), SCOPE_EGRESS),
            (self.metadata.is_none() && self.denies_reading(), SCOPE_LOOK),
            (self.metadata == Some(Metadata::Guarded), SCOPE_LOOK | SCOPE_GUARDED),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |flags, (_, flag)| flags | flag)
    }

    fn denies_reading(&self) -> bool {
        self.paths.iter().any(|rule| rule.deny && rule.access & ACCESS_READ != 0)
    }

    /// A complaint about a rule.
    #[must_use]
    pub fn diagnostic(&self, rule: u32, refusal: Refusal) -> Diagnostic {
        match self.places.get(rule as usize) {
            Some(Place { author: _, source, span }) => refusal.at(source, span.clone()),
            None => refusal.at(&Source { name: "policy".into(), text: String::new() }, None),
        }
    }
}
