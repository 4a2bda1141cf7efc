//! [`Policy`] and command-line rules to [`CheckedPolicy`].

mod net;
mod overlay;
mod protect;

use std::{path::Path, sync::Arc};

use stockade_common::file::{ACCESS_CONNECT, ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE};
use toml::Spanned;

pub use self::overlay::Overlay;
use super::{
    checked::{AbstractRule, Author, CheckedPolicy, NetRule, PathRule, Place},
    diagnostic::{Diagnostic, Diagnostics},
    extend::names_file,
    from,
    image::RuleInfo,
    listen, names, network,
    parse::{Document, Metadata, Policy, Source},
    process, profile, reach,
    rule::{self, Refusal},
    scope, unix,
};

const ALL: u32 = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC;
/// What a denied file is denied.
const EVERYTHING: u32 = ALL | ACCESS_CONNECT;

struct Checker<'a> {
    overlay: &'a Overlay,
    policy: CheckedPolicy,
    problems: Vec<Diagnostic>,
    /// Where the lines of the document at hand end.
    lines: Vec<usize>,
}

/// Checks every rule of the documents, of which the last is the one that was asked for: it alone gives the policy its
/// name, mode and scope. The profile `base` is always part of the result.
///
/// # Errors
/// Every rule that is refused, with its place and a suggestion.
pub fn check(documents: &[Document], overlay: &Overlay) -> Result<CheckedPolicy, Diagnostics> {
    let mut checker =
        Checker { overlay, policy: CheckedPolicy::default(), problems: Vec::new(), lines: Vec::new() };
    let profiles = profile::wanted(documents, &overlay.profiles)?;
    for profile in &profiles {
        checker.extended(profile);
        checker.file(profile, Author::Profile);
    }
    for (number, document) in documents.iter().enumerate() {
        checker.extends(document);
        if number + 1 < documents.len() {
            checker.extended(document);
        }
        checker.file(document, Author::File(number));
    }
    checker.policy.name = "command line".into();
    if let Some(Document { source, policy }) = documents.last() {
        checker.policy.name = policy.name.clone().unwrap_or_else(|| source.name.clone());
        checker.policy.mode = policy.mode.unwrap_or_default();
        if let Some(table) = &policy.scope {
            match scope::check(table, source) {
                Ok(scope) => checker.policy.scope = Some(scope),
                Err(problems) => checker.problems.extend(problems.0),
            }
        }
    }
    checker.command_line();
    checker.policy.tmp.clone_from(&overlay.tmp);
    checker.protect(documents);
    checker.policy.metadata = metadata(documents, overlay.metadata);
    let all: Vec<&Document> = profiles.iter().chain(documents).collect();
    let (capabilities, allow) = (&overlay.allow_capability, &overlay.allow_process);
    checker.policy.process = process::settings(&all, capabilities, allow, &mut checker.problems);
    let egress = overlay.egress_interface.as_deref();
    let network::Settings { egress, dns, asks_for_gate, private } =
        network::settings(documents, egress, &mut checker.problems);
    (checker.policy.egress, checker.policy.dns, checker.policy.asks_for_gate) = (egress, dns, asks_for_gate);
    checker.policy.private_names = private;
    if let Some(mode) = overlay.mode {
        checker.policy.mode = mode;
    }
    checker.problems.extend(reach::unreachable(&checker.policy));
    checker.problems.extend(names::too_many_ranges(&checker.policy));
    if checker.problems.is_empty() { Ok(checker.policy) } else { Err(Diagnostics(checker.problems)) }
}

/// What the command line says, else the file that was asked for, else the strictest of those that it extends.
fn metadata(documents: &[Document], flag: Option<Metadata>) -> Option<Metadata> {
    let says = |document: &Document| document.policy.files.metadata;
    let guarded = documents.iter().any(|document| says(document) == Some(Metadata::Guarded));
    flag.or_else(|| documents.last().and_then(says)).or(guarded.then_some(Metadata::Guarded))
}

impl Checker<'_> {
    fn extends(&mut self, Document { source, policy }: &Document) {
        for name in policy.extends.iter().filter(|name| !names_file(name.get_ref())) {
            if let Err(refusal) = profile::check(name.get_ref()) {
                self.problems.push(refusal.at(source, Some(name.span())));
            }
        }
    }

    /// A file that another one extends says what is allowed, not to whom.
    fn extended(&mut self, Document { source, policy }: &Document) {
        if let Some(table) = &policy.scope {
            let refusal = Refusal {
                message: "a file that others extend has no scope".into(),
                help: Some(
                    "move `[scope]` into the file that extends this one: scopes are not merged".into(),
                ),
            };
            self.problems.push(refusal.at(source, Some(table.span())));
        }
    }

    fn file(&mut self, Document { source, policy }: &Document, author: Author) {
        let Policy { version: _, name: _, mode: _, extends: _, network, files, process: _, scope: _ } =
            policy;
        self.lines = source.text.match_indices('\n').map(|(end, _)| end).collect();
        for (list, rules, deny) in
            [("network.allow", &network.allow, false), ("network.deny", &network.deny, true)]
        {
            for rule in rules {
                let id = self.spanned(author, source, rule, list);
                self.net(rule.get_ref(), deny, id);
            }
        }
        for rule in &network.listen {
            let id = self.spanned(author, source, rule, "network.listen");
            self.listen(rule.get_ref(), id);
        }
        for (list, rules, access, deny) in [
            ("files.read", &files.read, ACCESS_READ, false),
            ("files.write", &files.write, ACCESS_READ | ACCESS_WRITE, false),
            ("files.exec", &files.exec, ACCESS_READ | ACCESS_EXEC, false),
            ("files.deny", &files.deny, EVERYTHING, true),
            ("files.read_only", &files.read_only, ACCESS_WRITE, true),
        ] {
            for rule in rules {
                // Of a host's policies nobody is the user: what a profile has in a home is left out.
                if author == Author::Profile
                    && self.overlay.home.is_none()
                    && rule.get_ref().contains("${home}")
                {
                    continue;
                }
                let id = self.spanned(author, source, rule, list);
                self.path(rule.get_ref(), access, deny, id);
            }
        }
    }

    fn spanned(&mut self, author: Author, source: &Arc<Source>, rule: &Spanned<String>, list: &str) -> u32 {
        // Counted once: a policy may have a hundred thousand rules.
        let line = self.lines.partition_point(|end| *end < rule.span().start) + 1;
        let place = Place { author, source: source.clone(), span: Some(rule.span()) };
        self.rule(rule.get_ref(), &format!("{}:{line}", source.name), list, place)
    }

    fn command_line(&mut self) {
        let overlay = self.overlay;
        for name in &overlay.profiles {
            if let Err(refusal) = profile::check(name) {
                let source = Source { name: "--profile".into(), text: name.clone() };
                self.problems.push(refusal.at(&source, (!name.is_empty()).then_some(0..name.len())));
            }
        }
        for (flag, rules, deny) in
            [("--allow-net", &overlay.allow_net, false), ("--deny-net", &overlay.deny_net, true)]
        {
            for text in rules {
                let id = self.flag(Author::Flags, flag, text, "network");
                self.net(text, deny, id);
            }
        }
        for text in &overlay.allow_listen {
            let id = self.flag(Author::Flags, "--allow-listen", text, "network.listen");
            self.listen(text, id);
        }
        for (flag, rules, access, deny) in [
            ("--allow-read", &overlay.allow_read, ACCESS_READ, false),
            ("--allow-write", &overlay.allow_write, ACCESS_READ | ACCESS_WRITE, false),
            ("--allow-exec", &overlay.allow_exec, ACCESS_READ | ACCESS_EXEC, false),
            ("--deny-read", &overlay.deny_read, ACCESS_READ, true),
            ("--deny-write", &overlay.deny_write, ACCESS_WRITE, true),
            ("--deny-exec", &overlay.deny_exec, ACCESS_EXEC, true),
            ("--deny-file", &overlay.deny_file, EVERYTHING, true),
        ] {
            for text in rules {
                let id = self.flag(Author::Flags, flag, text, "files");
                self.path(text, access, deny, id);
            }
        }
        for workspace in &overlay.workspaces {
            self.literal("--workspace", workspace, "/**", ALL, false);
        }
        for workspace in &overlay.read_only {
            self.literal("--workspace-ro", workspace, "/**", ACCESS_READ | ACCESS_EXEC, false);
            self.literal("--workspace-ro", workspace, "/**", ACCESS_WRITE, true);
        }
        if let Some(tmp) = &overlay.tmp {
            self.literal("private tmp", tmp, "/**", ACCESS_READ | ACCESS_WRITE, false);
        }
        for file in &overlay.command {
            self.literal("COMMAND", file, "", ACCESS_READ | ACCESS_EXEC, false);
        }
    }

    fn flag(&mut self, author: Author, flag: &str, text: &str, list: &str) -> u32 {
        let source = Source { name: flag.into(), text: text.into() };
        let span = (!text.is_empty()).then_some(0..text.len());
        self.rule(text, flag, list, Place { author, source: Arc::new(source), span })
    }

    /// A path that is a name and no glob.
    fn literal(&mut self, flag: &str, path: &Path, tail: &str, access: u32, deny: bool) {
        let rule = self.flag(Author::Stockade, flag, &path.display().to_string(), "files");
        match path.to_str().filter(|text| text.starts_with('/') && !text.contains(['*', '?', '{', '}'])) {
            Some(text) => {
                let pattern = format!("{}{tail}", text.trim_end_matches('/'));
                self.policy.paths.push(PathRule { pattern, access, deny, protects: false, rule });
            }
            None => {
                let message = format!("{} cannot be written as a rule", path.display());
                let help = Some("its name holds one of `*?{}` or is not UTF-8: rename it".to_owned());
                self.problem(rule, Refusal { message, help });
            }
        }
    }

    fn rule(&mut self, text: &str, source: &str, list: &str, place: Place) -> u32 {
        self.policy.rules.push(RuleInfo { text: text.into(), source: source.into(), list: list.into() });
        self.policy.places.push(place);
        self.policy.rules.len() as u32 - 1
    }

    fn problem(&mut self, rule: u32, refusal: Refusal) {
        self.problems.push(self.policy.diagnostic(rule, refusal));
    }

    fn net(&mut self, text: &str, deny: bool, id: u32) {
        if text.starts_with(from::PREFIX) {
            return self.from(text, deny, id);
        }
        if let Some(name) = text.strip_prefix(unix::PREFIX) {
            return self.unix(name, deny, id);
        }
        if text.starts_with("loopback:") {
            return self.loopback(text, deny, id);
        }
        if rule::is_named(text) {
            return self.named(text, deny, id);
        }
        match rule::destination(text) {
            Ok(rule::Destination { prefix, ports, tcp, udp }) => {
                self.policy.destinations.push(NetRule { prefix, ports, tcp, udp, deny, rule: id });
            }
            Err(refusal) => self.problem(id, refusal),
        }
    }

    /// A unix socket: a path is a glob like others, for another access.
    fn unix(&mut self, name: &str, deny: bool, id: u32) {
        let Some(name) = name.strip_prefix(unix::ABSTRACT) else {
            return self.path(name, ACCESS_CONNECT, deny, id);
        };
        match unix::abstract_name(name) {
            Ok(name) => self.policy.abstracts.push(AbstractRule { name, deny, rule: id }),
            Err(refusal) => self.problem(id, refusal),
        }
    }

    fn listen(&mut self, text: &str, id: u32) {
        match listen::rules(text, id) {
            Ok(rules) => self.policy.listen.extend(rules),
            Err(refusal) => self.problem(id, refusal),
        }
    }

    fn path(&mut self, text: &str, access: u32, deny: bool, id: u32) {
        match self.globs(text) {
            Ok(patterns) => self.policy.paths.extend(patterns.into_iter().map(|pattern| PathRule {
                pattern,
                access,
                deny,
                protects: false,
                rule: id,
            })),
            Err(refusal) => self.problem(id, refusal),
        }
    }

    /// The globs that a text stands for: with `${workspace}` those of each workspace.
    fn globs(&self, text: &str) -> Result<Vec<String>, Refusal> {
        let Overlay { workspaces, read_only, .. } = self.overlay;
        let mut all: Vec<Option<&Path>> =
            workspaces.iter().chain(read_only).map(|path| Some(path.as_path())).collect();
        if all.is_empty() || !text.contains("${workspace}") {
            all = vec![all.first().copied().flatten()];
        }
        let globs = |workspace| rule::path(text, |name| self.value(name, workspace));
        Ok(all.into_iter().map(globs).collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// What a variable stands for.
    fn value(&self, name: &str, workspace: Option<&Path>) -> Result<String, Refusal> {
        let refuse = |message: String, help: &str| Err(Refusal { message, help: Some(help.to_owned()) });
        let (value, missing) = match name {
            "workspace" => (workspace.map(Path::to_str), "give --workspace DIR"),
            "home" => (self.overlay.home.as_deref().map(Path::to_str), "set HOME, or write the path"),
            "tmp" => (
                self.overlay.tmp.as_deref().map(Path::to_str),
                "leave --no-private-tmp out, and see that there is a /tmp",
            ),
            "user" => (self.overlay.user.as_deref().map(Some), "set USER, or write the name"),
            _ => {
                return refuse(
                    format!("no variable {name:?}"),
                    "there are ${workspace}, ${home}, ${tmp} and ${user}",
                );
            }
        };
        match value {
            None if self.overlay.for_host => refuse(
                format!("${{{name}}} has no value here"),
                "write the path: policies of the host have no variables, since nobody runs them",
            ),
            None => refuse(format!("${{{name}}} has no value here"), missing),
            Some(Some(value)) if !value.contains(['*', '?', '{', '}', '[', ']', '\\', '\0']) => {
                Ok(value.to_owned())
            }
            Some(_) => refuse(
                format!("the value of ${{{name}}} holds one of `*?{{}}[]\\` or is not UTF-8"),
                "rename what it names",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checked(text: &str) -> Result<CheckedPolicy, String> {
        let source = Source { name: "p.toml".into(), text: text.into() };
        let overlay = Overlay { workspaces: vec!["/ws".into()], ..Overlay::default() };
        Document::new(source)
            .and_then(|document| check(&[document], &overlay))
            .map_err(|diagnostics| diagnostics.to_string())
    }

    #[test]
    fn a_policy_is_checked() {
        let policy =
            checked("version = 1\nextends = [\"base\"]\n[files]\nwrite = [\"${workspace}/x/**\"]\n").unwrap();
        assert!(
            policy
                .paths
                .iter()
                .any(|rule| rule.pattern == "/ws/x/**" && rule.access == ACCESS_READ | ACCESS_WRITE)
        );
        assert!(policy.rules.iter().any(|rule| rule.source == "p.toml:4"));
    }

    #[test]
    fn problems_have_a_place_a_reason_and_a_suggestion() {
        for (text, reason, help) in [
            ("version = 1\n[network]\nallow = [\"1.2.3.4:70000\"]\n", "70000", "1 to 65535"),
            ("version = 1\n[files]\nraed = []\n", "unknown field", "docs/policy.md"),
            ("version = 1\nextends = [\"gti\"]\n", "no profile", "built in: base"),
            ("version = 1\nextends = [\"bsae\"]\n", "no profile", "did you mean \"base\"?"),
            ("version = 1\n[files]\nread = [\"etc\"]\n", "relative", "start it with"),
            ("version = 1\n[files]\nread = [\"${nowhere}/x\"]\n", "no variable", "${home}"),
            ("version = 2\n", "version 2", "version = 1"),
        ] {
            let message = checked(text).unwrap_err();
            assert!(message.contains("p.toml"), "{message}");
            assert!(message.contains(reason), "{message}");
            assert!(message.contains(help), "{message}");
        }
        assert!(checked("version = \"one\"\n").is_err());
        assert!(checked("version = 1\n[files\n").is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in ".{0,200}") {
            let _ = checked(&text);
            let _ = rule::path(&text, |name| Ok(name.to_owned()));
            let _ = (rule::destination(&text), rule::is_named(&text));
        }
    }
}
