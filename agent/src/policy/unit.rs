//! Names of systemd units, and of the cgroups systemd makes for them.

use super::{
    rule::{Refusal, refuse},
    suggest::closest,
};

/// Types of units that have processes, slices apart.
const WITH_PROCESSES: [&str; 5] = ["service", "scope", "socket", "mount", "swap"];
/// The others.
const WITHOUT: [&str; 5] = ["timer", "path", "target", "device", "automount"];
/// Longest unit name (`UNIT_NAME_MAX` of systemd).
const MAX_NAME: usize = 255;
/// What a cgroup must not be called, since the kernel has files of these names or may once have: the cgroup of a unit
/// called so begins with `_` (`cg_needs_escape` of systemd).
const RESERVED: [&str; 16] = [
    "_",
    ".",
    "cgroup.",
    "cpu.",
    "cpuacct.",
    "cpuset.",
    "io.",
    "blkio.",
    "memory.",
    "devices.",
    "pids.",
    "bpf-firewall.",
    "bpf-devices.",
    "bpf-foreign.",
    "bpf-socket-bind.",
    "bpf-restrict-network-interfaces.",
];

/// The name of the cgroup systemd makes for a unit of this name, which is no glob.
#[must_use]
pub fn cgroup_name(unit: &str) -> String {
    let reserved = RESERVED.iter().any(|start| unit.starts_with(start));
    if reserved { format!("_{unit}") } else { unit.to_owned() }
}

/// Globs on the names of cgroups that match those of the units a glob matches.
fn cgroup_names(glob: &str) -> Vec<String> {
    let Some(wildcard) = glob.find(['*', '?']) else { return vec![cgroup_name(glob)] };
    let literal = &glob[..wildcard];
    if RESERVED.iter().any(|start| literal.starts_with(start)) {
        return vec![format!("_{glob}")];
    }
    let mut names = vec![glob.to_owned()];
    if RESERVED.iter().any(|start| start.starts_with(literal)) {
        names.push(format!("_{glob}"));
    }
    names
}

/// Checks the name of a unit with processes, or a glob on such names; globs on their cgroups' names.
///
/// # Errors
/// No such name can be: characters, length, type, a template.
pub fn units(text: &str) -> Result<Vec<String>, Refusal> {
    let suffix = checked(text)?;
    if suffix == "slice" {
        return refuse(
            format!("{text:?} is a slice"),
            "name it under `slices`: all that is in it is meant then",
        );
    }
    if WITHOUT.contains(&suffix) {
        return refuse(
            format!("a .{suffix} has no processes"),
            "name the service it starts: \"NAME.service\"",
        );
    }
    if !WITH_PROCESSES.contains(&suffix) {
        return no_type(text, suffix);
    }
    Ok(cgroup_names(text))
}

/// Checks the name of a slice, or a glob on such names; globs on their cgroups' names.
///
/// # Errors
/// See [`units`].
pub fn slices(text: &str) -> Result<Vec<String>, Refusal> {
    let suffix = checked(text)?;
    if suffix != "slice" {
        return refuse(
            format!("{text:?} is no slice"),
            "a slice's name ends in `.slice`; others are named under `units`",
        );
    }
    if text == "-.slice" {
        return refuse("`-.slice` is the whole host", "make a slice for the workloads: Slice=ci.slice");
    }
    Ok(cgroup_names(text))
}

/// Checks the name of one unit, slices included, as it is given by hand; the name of its cgroup.
///
/// # Errors
/// See [`units`]; wildcards.
pub fn single(text: &str) -> Result<String, Refusal> {
    let suffix = checked(text)?;
    if text.contains(['*', '?']) {
        return refuse(
            format!("{text:?} is no name but a glob"),
            "name one unit; policies match globs by `units`",
        );
    }
    let names = if suffix == "slice" { slices(text)? } else { units(text)? };
    Ok(names.concat())
}

/// What is the same for all names; the part behind the last dot.
fn checked(text: &str) -> Result<&str, Refusal> {
    if text.is_empty() {
        return refuse("the name is empty", "name a unit: \"gitlab-runner.service\"");
    }
    if text.len() > MAX_NAME {
        return refuse(format!("a unit's name has at most {MAX_NAME} bytes"), "use `*`");
    }
    if text.contains('/') {
        return refuse(
            format!("{text:?} is a path and no unit name"),
            "a path of a cgroup stands under `cgroups`; `systemd-escape --path` makes a unit name of another path",
        );
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?".contains(c);
    if let Some(bad) = text.chars().find(|c| !is_allowed(*c)) {
        let mut bytes = [0; 4];
        let escaped: String =
            bad.encode_utf8(&mut bytes).bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        return refuse(
            format!("{bad:?} is not allowed in a unit's name"),
            &format!("systemd writes it as `{escaped}`, in single quotes here: 'NAME{escaped}.service'"),
        );
    }
    let Some((stem, suffix)) = text.rsplit_once('.') else { return no_type(text, "") };
    if stem.is_empty() || suffix.is_empty() {
        return no_type(text, suffix);
    }
    if suffix.contains(['*', '?']) {
        return refuse(
            format!("the type of {text:?} is a glob"),
            "write one entry for each type: \"NAME.service\", \"NAME.scope\"",
        );
    }
    if stem.ends_with('@') {
        return refuse(
            format!("{text:?} is a template, of which no unit is called so"),
            &format!("write \"{stem}*.{suffix}\" for all its instances"),
        );
    }
    Ok(suffix)
}

fn no_type<T>(text: &str, suffix: &str) -> Result<T, Refusal> {
    let meant = closest(suffix, WITH_PROCESSES.into_iter().chain(["slice"]));
    let message = format!("{text:?} does not end in the type of a unit");
    match (meant, text.strip_suffix(suffix)) {
        (Some(meant), Some(stem)) => refuse(message, &format!("did you mean \"{stem}{meant}\"?")),
        _ => refuse(message, &format!("write the whole name: \"{text}.service\"")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::globs::name_matches, *};

    fn why(result: Result<impl std::fmt::Debug, Refusal>) -> String {
        let refusal = result.unwrap_err();
        format!("{} ({})", refusal.message, refusal.help.unwrap())
    }

    #[test]
    fn names_are_those_of_cgroups() {
        assert_eq!(units("gitlab-runner.service").unwrap(), ["gitlab-runner.service"]);
        assert_eq!(units("actions.runner.*.service").unwrap(), ["actions.runner.*.service"]);
        assert_eq!(units(r"dev\x2dtool@a.service").unwrap(), [r"dev\x2dtool@a.service"]);
        assert_eq!(units("cpu.service").unwrap(), ["_cpu.service"]);
        assert_eq!(units("_x.service").unwrap(), ["__x.service"]);
        assert_eq!(units("cpu.*.service").unwrap(), ["_cpu.*.service"]);
        assert_eq!(units("cp*.service").unwrap(), ["cp*.service", "_cp*.service"]);
        assert_eq!(slices("ci-*.slice").unwrap(), ["ci-*.slice", "_ci-*.slice"][..1]);
        assert_eq!(single("ci.slice").unwrap(), "ci.slice");
        assert_eq!(single("memory.service").unwrap(), "_memory.service");
    }

    #[test]
    fn what_is_no_name_says_what_to_write() {
        assert!(why(units("runner")).contains("\"runner.service\""));
        assert!(why(units("runner.servce")).contains("\"runner.service\""));
        assert!(why(units("ci.slice")).contains("`slices`"));
        assert!(why(units("backup.timer")).contains("no processes"));
        assert!(why(units("runner@.service")).contains("\"runner@*.service\""));
        assert!(why(units("/system.slice/x.service")).contains("`cgroups`"));
        assert!(why(units("a b.service")).contains("\\x20"));
        assert!(why(units("ü.service")).contains("\\xc3\\xbc"));
        assert!(why(units("x.*")).contains("each type"));
        assert!(why(units("")).contains("empty"));
        assert!(why(units(&"x".repeat(300))).contains("255"));
        assert!(why(slices("-.slice")).contains("whole host"));
        assert!(why(slices("x.service")).contains("`units`"));
        assert!(why(single("x*.service")).contains("glob"));
    }

    proptest! {
        #[test]
        fn a_glob_matches_the_cgroup_of_each_unit_it_matches(
            glob in "[_.cpu*?]{0,6}", stem in "[_.cpu]{1,6}",
        ) {
            let (glob, unit) = (format!("{glob}.service"), format!("{stem}.service"));
            if let Ok(names) = units(&glob)
                && name_matches(glob.as_bytes(), unit.as_bytes())
            {
                let cgroup = cgroup_name(&unit);
                prop_assert!(names.iter().any(|name| name_matches(name.as_bytes(), cgroup.as_bytes())));
            }
        }

        #[test]
        fn no_name_is_too_strange(text in ".{0,40}") {
            let _ = (units(&text), slices(&text), single(&text));
        }
    }
}
