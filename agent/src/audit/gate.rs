//! Events of the DNS gate, in the form of docs/schema/event-v1.json.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    json::Context,
    refusal::{Refusal, Subject},
};
use crate::dns::{Answered, GateEvent, Granting, OverBudget, Rebinding, Refused, UpstreamFailed, Why};
use crate::policy::image::RuleInfo;

/// The scope an event is about.
#[must_use]
pub fn scope(event: &GateEvent) -> u32 {
    match event {
        GateEvent::Answered(Answered { scope, .. })
        | GateEvent::Refused(Refused { scope, .. })
        | GateEvent::Rebinding(Rebinding { scope, .. })
        | GateEvent::OverBudget(OverBudget { scope, .. })
        | GateEvent::UpstreamFailed(UpstreamFailed { scope, .. })
        | GateEvent::NotGranted(Granting { scope, .. }) => *scope,
    }
}

/// Whether a question was not answered as it was asked.
#[must_use]
pub fn is_denial(event: &GateEvent) -> bool {
    !matches!(event, GateEvent::Answered(_))
}

fn verdict(event: &GateEvent) -> &'static str {
    match event {
        GateEvent::Answered(_) => "allowed",
        GateEvent::Refused(Refused { enforced: false, .. })
        | GateEvent::Rebinding(Rebinding { enforced: false, .. })
        | GateEvent::OverBudget(OverBudget { enforced: false, .. }) => "would_deny",
        _ => "denied",
    }
}

/// What the events of all outcomes have.
#[derive(Default, Serialize)]
struct Said<'a> {
    outcome: &'static str,
    name: &'a str,
    r#type: Option<&'a str>,
    addresses: &'a [IpAddr],
    ttl: Option<u32>,
    why: Option<Value>,
    limit: Option<u32>,
    unreported: u32,
    rule: Option<&'a RuleInfo>,
}

/// An event of the gate as one JSON object.
#[must_use]
pub fn event(event: &GateEvent, context: &Context, boot_ns: u64) -> Value {
    let rule = |rule: &u32| context.rules.get(*rule as usize);
    let said = match event {
        GateEvent::Answered(Answered { name, kind, addresses, rule: by, ttl, .. }) => Said {
            outcome: "answered",
            name,
            r#type: Some(kind),
            addresses,
            ttl: Some(*ttl),
            rule: rule(by),
            ..Said::default()
        },
        GateEvent::Refused(Refused { name, kind, why, rule: by, unreported, .. }) => Said {
            outcome: "refused",
            name,
            r#type: Some(kind),
            why: Some(json!(why)),
            unreported: *unreported,
            rule: by.as_ref().and_then(rule),
            ..Said::default()
        },
        GateEvent::Rebinding(Rebinding { name, kind, addresses, what, rule: by, .. }) => Said {
            outcome: "addresses_refused",
            name,
            r#type: Some(kind),
            addresses,
            why: Some(json!(what)),
            rule: rule(by),
            ..Said::default()
        },
        GateEvent::OverBudget(OverBudget { name, rule: by, quota, limit, .. }) => Said {
            outcome: "over_budget",
            name,
            why: Some(json!(quota)),
            limit: Some(*limit),
            rule: rule(by),
            ..Said::default()
        },
        GateEvent::UpstreamFailed(UpstreamFailed { name, kind, error, .. }) => Said {
            outcome: "upstream_failed",
            name,
            r#type: Some(kind),
            why: Some(json!(error)),
            ..Said::default()
        },
        GateEvent::NotGranted(Granting { name, error, .. }) => {
            Said { outcome: "not_granted", name, why: Some(json!(error)), ..Said::default() }
        }
    };
    let mut out = context.common("dns", boot_ns);
    out.insert("verdict".into(), json!(verdict(event)));
    if let Value::Object(said) = json!(said) {
        out.extend(said);
    }
    Value::Object(out)
}

/// What was not answered, for people.
#[must_use]
pub fn refusal(event: &GateEvent, context: &Context) -> Option<Refusal> {
    let by = |rule: Option<u32>| match rule.and_then(|rule| context.rules.get(rule as usize)) {
        Some(rule) => format!("denied by {} ({})", rule.text, rule.source),
        None => "denied".to_owned(),
    };
    let (name, why, allowable) = match event {
        GateEvent::Answered(_) => return None,
        GateEvent::Refused(Refused { name, why: Why::NoRule, .. }) => {
            (name, "no rule covers the name".to_owned(), is_plain(name))
        }
        GateEvent::Refused(Refused { name, rule, .. }) => (name, by(*rule), false),
        GateEvent::Rebinding(Rebinding { name, what, addresses, .. }) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            (name, format!("its server answers with {}, {what}", addresses.join(", ")), false)
        }
        GateEvent::OverBudget(OverBudget { name, limit, .. }) => {
            (name, format!("the scope has asked too much ([network.dns] allows {limit})"), false)
        }
        GateEvent::UpstreamFailed(UpstreamFailed { name, error, .. }) => {
            (name, format!("no name server answers: {error}"), false)
        }
        GateEvent::NotGranted(Granting { name, error, .. }) => {
            (name, format!("its addresses cannot be allowed: {error}"), false)
        }
    };
    let rule = name.trim_end_matches('.').escape_debug().to_string();
    Some(Refusal { subject: Subject::Destination { verb: "ask for", rule }, why, allowable, protected: None })
}

/// The workload chooses names, and the user pastes flags.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// One of each.
#[cfg(test)]
pub(super) fn sample() -> Vec<GateEvent> {
    use crate::dns::Quota;
    let (scope, netns, name, kind) = (1, 1, "api.example.test".to_owned(), "A".to_owned());
    let addresses = vec![[192, 0, 2, 1].into()];
    let (why, error) = (Why::NoRule, "no answer".to_owned());
    vec![
        GateEvent::Answered(Answered {
            scope,
            netns,
            name: name.clone(),
            kind: kind.clone(),
            addresses: addresses.clone(),
            rule: 0,
            ttl: 60,
        }),
        GateEvent::Refused(Refused {
            enforced: true,
            scope,
            netns,
            name: name.clone(),
            kind: kind.clone(),
            why,
            rule: None,
            unreported: 2,
        }),
        GateEvent::Rebinding(Rebinding {
            enforced: false,
            scope,
            netns,
            name: name.clone(),
            kind: kind.clone(),
            addresses,
            what: "loopback",
            rule: 0,
        }),
        GateEvent::OverBudget(OverBudget {
            enforced: true,
            scope,
            netns,
            name: name.clone(),
            rule: 0,
            quota: Quota::QueriesPerMinute,
            limit: 600,
        }),
        GateEvent::UpstreamFailed(UpstreamFailed {
            scope,
            netns,
            name: name.clone(),
            kind,
            error: error.clone(),
        }),
        GateEvent::NotGranted(Granting { scope, netns, name, error }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_rule_is_a_flag_away() {
        let refused = |name: &str| {
            GateEvent::Refused(Refused {
                enforced: true,
                scope: 1,
                netns: 1,
                name: name.into(),
                kind: "A".into(),
                why: Why::NoRule,
                rule: None,
                unreported: 0,
            })
        };
        let told = |name| refusal(&refused(name), &Context::default()).unwrap();
        assert_eq!(told("api.example.test").what(), "ask for api.example.test");
        assert_eq!(told("api.example.test.").flag().as_deref(), Some("--allow-net 'api.example.test'"));
        assert_eq!(told("a';rm -rf.test").flag(), None);
        let answered = GateEvent::Answered(Answered {
            scope: 1,
            netns: 1,
            name: "a.test".into(),
            kind: "A".into(),
            addresses: vec![[192, 0, 2, 1].into()],
            rule: 0,
            ttl: 60,
        });
        assert_eq!(refusal(&answered, &Context::default()), None);
        let event = event(&answered, &Context::default(), 1);
        assert_eq!((&event["verdict"], &event["outcome"]), (&json!("allowed"), &json!("answered")));
    }
}
