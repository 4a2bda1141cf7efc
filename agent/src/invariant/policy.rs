//! Policy text.

use super::reference;
use crate::policy::{
    check::{self, Overlay},
    parse::{Document, Source},
};

/// Parses, checks and compiles policy text; a complaint can be shown, and names the file.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let source = Source { name: "policy.toml".into(), text: text.into() };
    let overlay = Overlay {
        workspaces: vec!["/home/u/ws".into()],
        home: Some("/home/u".into()),
        user: Some("u".into()),
        ..Overlay::default()
    };
    let checked = Document::new(source).and_then(|document| check::check(&[document], &overlay));
    match checked {
        Ok(policy) => reference::compare(&policy, b"/home/u/ws/.git/config"),
        Err(complaints) => {
            assert!(!complaints.0.is_empty());
            let shown = complaints.to_string();
            assert!(shown.contains("policy.toml"), "{shown}");
        }
    }
}
