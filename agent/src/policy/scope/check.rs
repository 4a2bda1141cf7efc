//! [`ScopeTable`] to [`Scope`].

use std::{ops::Range, sync::Arc};

use toml::Spanned;

use super::{
    CgroupGlob, ContainerRule, ContainerTable, KeyValue, OWN_SLICE, Runtime, Scope, ScopeRule, ScopeTable,
    containers,
};
use crate::policy::{
    diagnostic::{Diagnostic, Diagnostics},
    globs::{Spelt, parts},
    parse::Source,
    rule::{self, Refusal, refuse},
    unit,
};

struct Checker<'a> {
    source: &'a Arc<Source>,
    scope: Scope,
    problems: Vec<Diagnostic>,
}

/// Checks the scope of a policy.
///
/// # Errors
/// Every entry that is refused, with its place and a suggestion.
pub fn check(table: &Spanned<ScopeTable>, source: &Arc<Source>) -> Result<Scope, Diagnostics> {
    let mut checker = Checker { source, scope: Scope::default(), problems: Vec::new() };
    let ScopeTable { units, slices, cgroups, containers, exclude, start } = table.get_ref();
    checker.scope.start = start.unwrap_or_default();
    for entry in checker.list(exclude.as_ref()) {
        checker.exclude(entry);
    }
    for entry in checker.list(units.as_ref()) {
        checker.rule("scope.units", entry, |text| floating(unit::units(text)?));
    }
    for entry in checker.list(slices.as_ref()) {
        checker.rule("scope.slices", entry, |text| floating(unit::slices(text)?));
    }
    for entry in checker.list(cgroups.as_ref()) {
        checker.rule("scope.cgroups", entry, rule::cgroup);
    }
    for entry in checker.list(containers.as_ref()) {
        checker.container(entry);
    }
    if units.is_none() && slices.is_none() && cgroups.is_none() && containers.is_none() {
        checker.problem(
            table.span(),
            Refusal {
                message: "the scope names nothing".into(),
                help: Some("add `units`, `slices`, `cgroups` or `containers`; a policy without `[scope]` holds what is tagged by hand".into()),
            },
        );
    }
    if checker.problems.is_empty() { Ok(checker.scope) } else { Err(Diagnostics(checker.problems)) }
}

/// Globs on names, at any depth.
fn floating(names: Vec<String>) -> Result<Vec<String>, Refusal> {
    Ok(names.into_iter().map(|name| format!("**/{name}")).collect())
}

impl Checker<'_> {
    fn problem(&mut self, span: Range<usize>, refusal: Refusal) {
        self.problems.push(refusal.at(self.source, Some(span)));
    }

    /// The entries of a list, which is not empty.
    fn list<'t, T>(&mut self, list: Option<&'t Spanned<Vec<T>>>) -> &'t [T] {
        let Some(list) = list else { return &[] };
        if list.get_ref().is_empty() {
            let help = Some("put something into it, or take it out".to_owned());
            self.problem(list.span(), Refusal { message: "the list is empty".into(), help });
        }
        list.get_ref()
    }

    /// What stands in double quotes is read by TOML first.
    fn unescaped(&self, entry: &Spanned<String>) -> Result<(), Refusal> {
        let raw = self.source.text.get(entry.span()).unwrap_or_default();
        if raw.starts_with('"') && raw.contains("\\x") {
            return refuse(
                "in double quotes TOML itself reads `\\x2d`, as a plain `-`",
                &format!("write it in single quotes: '{}'", raw.trim_matches('"')),
            );
        }
        Ok(())
    }

    fn exclude(&mut self, entry: &Spanned<String>) {
        let globs = self.unescaped(entry).and_then(|()| rule::cgroup(entry.get_ref()));
        let checked = globs.and_then(|globs| {
            if globs
                .iter()
                .any(|glob| parts(glob).is_empty() || glob.trim_start_matches("**/") == "*" || glob == "/**")
            {
                return refuse("this leaves out everything", "name what is to be left out, or take it out");
            }
            Ok(globs)
        });
        match checked {
            Ok(globs) => self.scope.exclude.extend(globs),
            Err(refusal) => self.problem(entry.span(), refusal),
        }
    }

    fn rule(
        &mut self,
        list: &'static str,
        entry: &Spanned<String>,
        read: impl Fn(&str) -> Result<Vec<String>, Refusal>,
    ) {
        let globs = self.unescaped(entry).and_then(|()| read(entry.get_ref()));
        match globs {
            Ok(globs) => {
                let globs =
                    globs.into_iter().map(|glob| CgroupGlob { glob, needs_container: false }).collect();
                self.add(list, entry.get_ref().clone(), entry.span(), globs, None);
            }
            Err(refusal) => self.problem(entry.span(), refusal),
        }
    }

    fn container(&mut self, entry: &Spanned<ContainerTable>) {
        match container(entry) {
            Ok(rule) => {
                let text = self.source.text.get(entry.span()).unwrap_or_default().to_owned();
                self.add("scope.containers", text, entry.span(), containers::globs(&rule), Some(rule));
            }
            Err((span, refusal)) => self.problem(span, refusal),
        }
    }

    fn add(
        &mut self,
        list: &'static str,
        text: String,
        span: Range<usize>,
        globs: Vec<CgroupGlob>,
        container: Option<ContainerRule>,
    ) {
        for glob in &globs {
            if let Err(refusal) = harmless(&glob.glob) {
                return self.problem(span, refusal);
            }
        }
        if globs.iter().all(|glob| self.scope.leaves_out(&glob.glob)) {
            let help = Some("take it out, or make `exclude` narrower".to_owned());
            return self.problem(span, Refusal { message: "`exclude` leaves all of this out".into(), help });
        }
        self.scope.rules.push(ScopeRule { text, list, source: self.source.clone(), span, globs, container });
    }
}

/// Refuses globs that can match what everything else depends on.
fn harmless(glob: &str) -> Result<(), Refusal> {
    let parts = parts(glob);
    let spelt = Spelt::new(&parts);
    if parts.is_empty() {
        return refuse("this is the root, the whole host", "name what is below it: \"/ci.slice\"");
    }
    let own = format!("{OWN_SLICE}/stockade.service");
    for (path, what) in [
        (OWN_SLICE, "the daemon's own slice"),
        (&own, "the daemon itself"),
        ("init.scope", "process 1, which starts everything else"),
    ] {
        let names: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
        if spelt.matches(&names) {
            return refuse(
                format!("this matches /{path}: {what}"),
                "make it narrower, so that it cannot match that",
            );
        }
    }
    Ok(())
}

fn container(entry: &Spanned<ContainerTable>) -> Result<ContainerRule, (Range<usize>, Refusal)> {
    let ContainerTable { runtime, name, label, annotation, image, rootless } = entry.get_ref();
    fn at<T>(span: Range<usize>, message: &str, help: &str) -> Result<T, (Range<usize>, Refusal)> {
        Err((span, Refusal { message: message.into(), help: Some(help.into()) }))
    }
    if runtime.is_none() && name.is_none() && label.is_none() && annotation.is_none() && image.is_none() {
        return at(entry.span(), "this names no containers", "for all of them write { runtime = \"any\" }");
    }
    let runtime = runtime.unwrap_or_default();
    if let Some(label) = label
        && runtime != Runtime::Docker
    {
        return at(
            label.span(),
            "labels are known of Docker containers only",
            "add runtime = \"docker\"; Podman keeps labels in its database and LXC has none: match `annotation` (Podman) or `name`",
        );
    }
    if let Some(annotation) = annotation
        && runtime != Runtime::Podman
    {
        return at(
            annotation.span(),
            "annotations are known of Podman containers only",
            "add runtime = \"podman\"; for Docker match `label`",
        );
    }
    if let Some(image) = image
        && runtime == Runtime::Lxc
    {
        return at(image.span(), "LXC containers have no image", "match `name`");
    }
    for text in [name, label, annotation, image].into_iter().flatten() {
        if text.get_ref().is_empty() || text.get_ref().len() > rule::MAX_GLOB {
            return at(text.span(), "this is empty, or too long", "write it, or take the key out");
        }
    }
    if let Some(name) = name
        && let Some(bad) =
            name.get_ref().chars().find(|c| !c.is_ascii_alphanumeric() && !"_.-:*?".contains(*c))
    {
        let message = format!("{bad:?} is in no container's name");
        return at(
            name.span(),
            &message,
            "names hold letters, digits, `_`, `.`, `-` and `:`; `*` and `?` are wildcards",
        );
    }
    let key_value = |text: &Spanned<String>| {
        let (key, value) =
            text.get_ref().split_once('=').map_or((text.get_ref().as_str(), None), |(k, v)| (k, Some(v)));
        if key.is_empty() {
            return at(text.span(), "there is no key before `=`", "write `key` or `key=value`");
        }
        Ok(KeyValue { key: key.to_owned(), value: value.map(str::to_owned) })
    };
    let plain = |text: &Option<Spanned<String>>| text.as_ref().map(|text| text.get_ref().clone());
    let rule = ContainerRule {
        runtime,
        name: plain(name),
        label: label.as_ref().map(key_value).transpose()?,
        annotation: annotation.as_ref().map(key_value).transpose()?,
        image: plain(image),
        rootless: rootless.as_ref().is_some_and(|rootless| *rootless.get_ref()),
    };
    if let Some(rootless) = rootless
        && rule.conditions() == 0
    {
        return at(
            rootless.span(),
            "`rootless` says that a user's own names are believed, and none is asked for",
            "take it out: without `name`, `label`, `annotation` or `image` users' containers match too",
        );
    }
    Ok(rule)
}
