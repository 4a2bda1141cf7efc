//! What is said to a question that is not answered, to who asked and to the event log.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;

use super::{
    GateEvent, Granting, OverBudget, Quota, Rebinding, Refused, UpstreamFailed, Why,
    budget::Exhausted,
    core::{Asker, Core},
    question::Question,
    reply::{self, Reason, reason},
    scope::State,
    table::{Cover, Covered},
};
use crate::policy::checked::DnsRefusal;

impl Core {
    pub(super) fn refuse(
        &self,
        asker: &Asker,
        state: &mut State,
        question: &Question,
        cover: &Cover,
        now: u32,
    ) -> Vec<u8> {
        match cover {
            Cover::Denied(rule) => self.refuse_as(asker, state, question, Why::Denied, Some(*rule), now),
            Cover::Nothing | Cover::By(_) => self.refuse_as(asker, state, question, Why::NoRule, None, now),
        }
    }

    pub(super) fn refuse_as(
        &self,
        asker: &Asker,
        state: &mut State,
        question: &Question,
        why: Why,
        rule: Option<u32>,
        now: u32,
    ) -> Vec<u8> {
        let name = question.key.to_string();
        let text = match why {
            Why::NoRule => format!("no rule allows the name; network.allow = [\"{name}:PORT\"] would"),
            Why::Denied => "a rule denies the name".to_owned(),
            Why::LeadsToDenied => "the name leads to one that a rule denies".to_owned(),
        };
        if let Some(unreported) = state.quiet.tell(&question.key, question.kind().into(), now) {
            let kind = question.kind().to_string();
            let refused = Refused {
                enforced: state.table.enforces(),
                scope: asker.scope.id,
                netns: asker.netns,
                name,
                kind,
                why,
                rule,
                unreported,
            };
            (self.events)(GateEvent::Refused(refused));
        }
        let reason = Reason { code: reason::PROHIBITED, text };
        reply::error(&question.plain, Some(&question.query), refusal_code(state), Some(reason))
    }

    pub(super) fn rebinding(
        &self,
        asker: &Asker,
        state: &mut State,
        question: &Question,
        covered: &Covered,
        (addresses, what): (Vec<IpAddr>, &'static str),
        now: u32,
    ) {
        if state.quiet.is_new(&question.key, question.kind().into(), now) {
            (self.events)(GateEvent::Rebinding(Rebinding {
                enforced: state.table.enforces(),
                scope: asker.scope.id,
                netns: asker.netns,
                name: question.key.to_string(),
                kind: question.kind().to_string(),
                addresses,
                what,
                rule: covered.rule,
            }));
        }
    }

    pub(super) fn over_budget(
        &self,
        asker: &Asker,
        question: &Question,
        covered: &Covered,
        over: &Exhausted,
        enforced: bool,
    ) -> Vec<u8> {
        let Exhausted { quota, limit, first } = *over;
        if first {
            (self.events)(GateEvent::OverBudget(OverBudget {
                enforced,
                scope: asker.scope.id,
                netns: asker.netns,
                name: question.key.to_string(),
                rule: covered.rule,
                quota,
                limit,
            }));
        }
        let text = match quota {
            Quota::QueriesPerMinute => format!("more than {limit} questions a minute; see [network.dns]"),
            Quota::LabelBytesPerHour => {
                format!("more than {limit} bytes of names an hour; see [network.dns]")
            }
            Quota::Waiting => format!("more than {limit} questions wait for an answer"),
        };
        let reason = Reason { code: reason::PROHIBITED, text };
        reply::error(&question.plain, Some(&question.query), ResponseCode::Refused, Some(reason))
    }

    pub(super) fn failed(&self, asker: &Asker, question: &Question, error: String, now: u32) -> Vec<u8> {
        let mut state = asker.scope.lock();
        let told = state.quiet.is_new(&question.key, question.kind().into(), now);
        drop(state);
        let reason = Reason {
            code: reason::NO_REACHABLE_AUTHORITY,
            // Who was asked is no business of the workload's.
            text: "no name server gave an answer that can be used".into(),
        };
        if told {
            (self.events)(GateEvent::UpstreamFailed(UpstreamFailed {
                scope: asker.scope.id,
                netns: asker.netns,
                name: question.key.to_string(),
                kind: question.kind().to_string(),
                error,
            }));
        }
        reply::error(&question.plain, Some(&question.query), ResponseCode::ServFail, Some(reason))
    }

    pub(super) fn not_granted(
        &self,
        asker: &Asker,
        state: &mut State,
        question: &Question,
        error: String,
        now: u32,
    ) -> Vec<u8> {
        let reason = Reason { code: reason::OTHER, text: error.clone() };
        if state.quiet.is_new(&question.key, question.kind().into(), now) {
            let name = question.key.to_string();
            let granting = Granting { scope: asker.scope.id, netns: asker.netns, name, error };
            (self.events)(GateEvent::NotGranted(granting));
        }
        reply::error(&question.plain, Some(&question.query), ResponseCode::ServFail, Some(reason))
    }
}

pub(super) fn refusal_code(state: &State) -> ResponseCode {
    match state.table.settings().refusal {
        DnsRefusal::Nxdomain => ResponseCode::NXDomain,
        DnsRefusal::Refused => ResponseCode::Refused,
    }
}
