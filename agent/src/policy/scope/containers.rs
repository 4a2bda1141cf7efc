//! Where container runtimes put their containers' cgroups.
//!
//! An id has 64 digits, which tells `libpod-ID.scope` from `libpod-conmon-ID.scope`, where Podman's monitor is.

use super::{CgroupGlob, ContainerRule, Runtime};

/// Globs on the cgroups of the containers a rule may hold for.
pub(super) fn globs(rule: &ContainerRule) -> Vec<CgroupGlob> {
    let id = "?".repeat(64);
    let needs_container = rule.conditions() > 0;
    let mut globs = Vec::new();
    let mut add = |glob: String, needs_container| globs.push(CgroupGlob { glob, needs_container });
    if matches!(rule.runtime, Runtime::Docker | Runtime::Any) {
        // The systemd driver, in any slice; the cgroupfs driver.
        add(format!("**/docker-{id}.scope"), needs_container);
        add(format!("**/docker/{id}"), needs_container);
    }
    if matches!(rule.runtime, Runtime::Podman | Runtime::Any) {
        // The systemd driver, in any slice; the cgroupfs driver, in pods too; `--cgroups=split`, as Quadlet has it.
        add(format!("**/libpod-{id}.scope"), needs_container);
        add(format!("**/libpod-{id}"), needs_container);
        add(format!("**/libpod-payload-{id}"), needs_container);
    }
    // LXC knows no images, labels or annotations.
    let by_name_only = rule.conditions() == usize::from(rule.name.is_some());
    if matches!(rule.runtime, Runtime::Lxc | Runtime::Any) && by_name_only {
        match &rule.name {
            None => {
                for place in ["**/lxc.payload.*", "**/lxc.payload/*", "/lxc/*"] {
                    add(place.into(), false);
                }
            }
            Some(name) => {
                // Only root makes cgroups at the root; anywhere else it may be a user who calls them so.
                for place in ["/lxc.payload.", "/lxc.payload/", "/lxc/"] {
                    add(format!("{place}{name}"), false);
                }
                for place in ["**/lxc.payload.", "**/lxc.payload/", "/lxc/"] {
                    if place.starts_with("**") {
                        add(format!("{place}{name}"), true);
                    }
                    // Where the name is taken, by what an earlier container left, LXC puts a number behind it.
                    if !name.ends_with('*') {
                        add(format!("{place}{name}-*"), true);
                    }
                }
            }
        }
    }
    globs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::globs::{Spelt, parts};

    fn matched(rule: &ContainerRule, path: &str) -> Vec<bool> {
        let names: Vec<&[u8]> = path.split('/').skip(1).map(str::as_bytes).collect();
        let matching = globs(rule).into_iter().filter(|glob| Spelt::new(&parts(&glob.glob)).matches(&names));
        let mut needs: Vec<bool> = matching.map(|glob| glob.needs_container).collect();
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    #[test]
    fn monitors_are_no_containers() {
        let any = ContainerRule::default();
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("/system.slice/docker-{id}.scope"),
            format!("/docker/{id}"),
            format!("/machine.slice/libpod-{id}.scope"),
            format!("/machine.slice/machine-libpod_pod_{id}.slice/libpod-{id}.scope"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"),
            format!("/libpod_parent/libpod-{id}"),
            format!("/libpod_parent/{id}/libpod-{id}"),
            format!("/system.slice/web.service/libpod-payload-{id}"),
            "/lxc.payload.job".to_owned(),
            "/lxc/job".to_owned(),
        ] {
            assert_eq!(matched(&any, &path), [false], "{path}");
        }
        for path in [
            format!("/machine.slice/libpod-conmon-{id}.scope"),
            format!("/libpod_parent/libpod-conmon-{id}"),
            format!("/system.slice/docker-{}.scope", &id[1..]),
            "/lxc.monitor.job".to_owned(),
            "/system.slice/docker.service".to_owned(),
        ] {
            assert!(matched(&any, &path).is_empty(), "{path}");
        }
    }

    #[test]
    fn a_name_needs_more_than_the_path_except_at_the_root() {
        let rule = ContainerRule { name: Some("job".into()), ..ContainerRule::default() };
        assert_eq!(matched(&rule, &format!("/docker/{}", "0".repeat(64))), [true]);
        assert_eq!(matched(&rule, "/lxc.payload.job"), [false, true]);
        assert_eq!(matched(&rule, "/lxc.payload.job-1"), [true]);
        assert_eq!(matched(&rule, "/user.slice/lxc.payload.job"), [true]);
        assert!(matched(&rule, "/lxc.payload.other").is_empty());
        let image = ContainerRule { image: Some("debian".into()), ..ContainerRule::default() };
        assert!(matched(&image, "/lxc.payload.job").is_empty());
    }
}
