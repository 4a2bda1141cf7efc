//! What `[network]` says beside its rules: the way out, and how the DNS gate treats the scope.

use std::{ops::Range, sync::Arc};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{
    checked::{DnsRefusal, DnsSettings},
    diagnostic::Diagnostic,
    names,
    parse::{Document, Source},
    rule::{Refusal, refuse},
};

/// The way out.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table: { interface = \"wg0\" }")]
pub struct Egress {
    /// Whatever leaves this host leaves by this interface; nothing, while there is none of that name.
    #[schemars(with = "String", length(min = 1, max = 15))]
    pub interface: Spanned<String>,
}

/// How the DNS gate treats the scope.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// What is answered to a question for a name that no rule covers.
    #[schemars(with = "Option<DnsRefusal>")]
    pub refuse: Option<Spanned<DnsRefusal>>,
    /// Questions that may go upstream, a minute.
    #[schemars(with = "Option<u32>", range(min = 1))]
    pub queries_per_minute: Option<Spanned<u32>>,
    /// Bytes of names, below what the rules themselves name, that may go upstream an hour.
    #[schemars(with = "Option<u32>")]
    pub label_bytes_per_hour: Option<Spanned<u32>>,
    /// Names, or `*.name`, that may have addresses of private networks: those of a lab. Of other names such addresses are refused.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub private: Vec<Spanned<String>>,
}

/// Most bytes of an interface's name (`IFNAMSIZ`, without the NUL).
const MAX_INTERFACE: usize = 15;

/// An interface's name.
///
/// # Errors
/// One that no interface has, or that leads nowhere.
pub fn interface(name: &str) -> Result<String, Refusal> {
    let bad = |c: char| c.is_ascii_whitespace() || c.is_ascii_control() || "/:".contains(c);
    if name.is_empty() || name.len() > MAX_INTERFACE || matches!(name, "." | "..") || name.contains(bad) {
        return refuse(
            format!("no interface is called {name:?}"),
            "name one as `ip link` shows it: egress = { interface = \"wg0\" }",
        );
    }
    if name == "lo" {
        return refuse(
            "nothing leaves this host by \"lo\"",
            "name the interface that leads out; loopback needs rules, and is not touched by this",
        );
    }
    Ok(name.to_owned())
}

/// What the documents say together: what the last says holds, else what those say that it builds on, if they agree.
#[derive(Debug, Default)]
pub struct Settings {
    /// The interface.
    pub egress: Option<String>,
    /// How the gate treats the scope.
    pub dns: DnsSettings,
    /// Some document has `[network.dns]`.
    pub asks_for_gate: bool,
    /// Names, and whether those below are meant instead, that may have addresses of private networks.
    pub private: Vec<(String, bool)>,
}

/// A value and where it stands.
type Placed<'a, T> = (&'a Arc<Source>, Range<usize>, T);

/// Puts the documents' settings together; `flag` is `--egress-interface`.
pub fn settings(documents: &[Document], flag: Option<&str>, problems: &mut Vec<Diagnostic>) -> Settings {
    let mut settings = Settings::default();
    let egress = one(documents, "egress", problems, |document| {
        let interface = &document.policy.network.egress.as_ref()?.interface;
        Some((&document.source, interface.span(), interface.get_ref().clone()))
    });
    if let Some((source, span, name)) = egress {
        match interface(&name) {
            // The flag says otherwise; what the file says is checked all the same.
            Ok(name) => settings.egress = Some(name),
            Err(refusal) => problems.push(refusal.at(source, Some(span))),
        }
    }
    if let Some(name) = flag {
        match interface(name) {
            Ok(name) => settings.egress = Some(name),
            Err(refusal) => {
                let source = Source { name: "--egress-interface".into(), text: name.into() };
                problems.push(refusal.at(&source, (!name.is_empty()).then_some(0..name.len())));
            }
        }
    }
    fn of<T: Copy>(document: &Document, key: impl Fn(&Dns) -> Option<&Spanned<T>>) -> Option<Placed<'_, T>> {
        let value = key(document.policy.network.dns.as_ref()?)?;
        Some((&document.source, value.span(), *value.get_ref()))
    }
    settings.asks_for_gate = documents.iter().any(|document| document.policy.network.dns.is_some());
    for document in documents {
        for name in document.policy.network.dns.iter().flat_map(|dns| &dns.private) {
            match names::host(name.get_ref()) {
                Ok(name) => settings.private.push(name),
                Err(refusal) => problems.push(refusal.at(&document.source, Some(name.span()))),
            }
        }
    }
    settings.private.sort();
    settings.private.dedup();
    let refusal = one(documents, "dns.refuse", problems, |document| of(document, |dns| dns.refuse.as_ref()));
    if let Some((.., refusal)) = refusal {
        settings.dns.refusal = refusal;
    }
    let queries = one(documents, "dns.queries_per_minute", problems, |document| {
        of(document, |dns| dns.queries_per_minute.as_ref())
    });
    if let Some((source, span, queries)) = queries {
        settings.dns.queries_per_minute = queries;
        if queries == 0 {
            let help = "take the rules on names out, if none is to be asked for";
            let refusal = Refusal { message: "no question could be asked".into(), help: Some(help.into()) };
            problems.push(refusal.at(source, Some(span)));
        }
    }
    let bytes = one(documents, "dns.label_bytes_per_hour", problems, |document| {
        of(document, |dns| dns.label_bytes_per_hour.as_ref())
    });
    if let Some((.., bytes)) = bytes {
        settings.dns.label_bytes_per_hour = bytes;
    }
    settings
}

/// The one value of a key.
fn one<'a, T: PartialEq + std::fmt::Debug>(
    documents: &'a [Document],
    key: &str,
    problems: &mut Vec<Diagnostic>,
    of: impl Fn(&'a Document) -> Option<Placed<'a, T>>,
) -> Option<Placed<'a, T>> {
    let (last, extended) = documents.split_last()?;
    let mut values = extended.iter().filter_map(&of);
    if let Some(own) = of(last) {
        return Some(own);
    }
    let first = values.next()?;
    for (source, span, value) in values {
        if value != first.2 {
            let message = format!("{} says otherwise, and neither is asked for itself", first.0.name);
            let help = format!("write `network.{key}` into the file that extends both");
            problems.push(Refusal { message, help: Some(help) }.at(source, Some(span)));
        }
    }
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        check::{Overlay, check},
        checked::CheckedPolicy,
    };

    fn checked(texts: &[&str], flag: Option<&str>) -> Result<CheckedPolicy, String> {
        let document = |(number, text): (usize, &&str)| {
            Document::new(Source { name: format!("{number}.toml"), text: format!("version = 1\n{text}\n") })
        };
        let overlay = Overlay { egress_interface: flag.map(str::to_owned), ..Overlay::default() };
        let documents: Result<Vec<Document>, _> = texts.iter().enumerate().map(document).collect();
        documents.and_then(|documents| check(&documents, &overlay)).map_err(|problems| problems.to_string())
    }

    const WG0: &str = "[network]\negress = { interface = 'wg0' }";
    const WG1: &str = "[network]\negress = { interface = 'wg1' }";

    #[test]
    fn the_file_that_was_asked_for_decides() {
        let egress = |texts: &[&str], flag| checked(texts, flag).unwrap().egress;
        assert_eq!(egress(&[""], None), None);
        assert_eq!(egress(&[WG0, ""], None).as_deref(), Some("wg0"));
        assert_eq!(egress(&[WG0, WG0, ""], None).as_deref(), Some("wg0"));
        assert_eq!(egress(&[WG0, WG1], None).as_deref(), Some("wg1"));
        assert_eq!(egress(&[WG0, WG1], Some("wg2")).as_deref(), Some("wg2"));
        let message = checked(&[WG0, WG1, ""], None).unwrap_err();
        assert!(message.contains("1.toml:3") && message.contains("0.toml says otherwise"), "{message}");
        assert!(message.contains("`network.egress`"), "{message}");
    }

    #[test]
    fn names_of_no_interface_are_refused() {
        for name in ["", "a b", "x/y", "..", "much-longer-than-any", "lo"] {
            let message =
                checked(&[&format!("[network]\negress = {{ interface = '{name}' }}")], None).unwrap_err();
            assert!(message.contains("0.toml:3"), "{message}");
        }
        assert!(checked(&[], Some("lo")).unwrap_err().contains("--egress-interface"));
    }

    #[test]
    fn the_gate_has_settings_of_each_key() {
        let policy = checked(
            &[
                "[network.dns]\nrefuse = 'refused'\nqueries_per_minute = 5",
                "[network.dns]\nqueries_per_minute = 7",
            ],
            None,
        )
        .unwrap();
        let dns =
            DnsSettings { refusal: DnsRefusal::Refused, queries_per_minute: 7, ..DnsSettings::default() };
        assert_eq!((policy.dns, policy.uses_gate()), (dns, true));
        assert!(!checked(&[""], None).unwrap().uses_gate());
        assert!(checked(&["[network]\nallow = ['a.test']"], None).unwrap().uses_gate());
        assert!(checked(&["[network.dns]\nqueries_per_minute = 0"], None).is_err());
        assert!(checked(&["[network.dns]\nrefuse = 'no'"], None).is_err());
    }
}
