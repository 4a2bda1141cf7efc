//! Why a host cannot enforce, and what its user can do about it.

use std::fs;

use crate::kernel::KernelError;

/// Where the active LSMs are listed.
const LSM_LIST: &str = "/sys/kernel/security/lsm";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const RELEASE: &str = "/proc/sys/kernel/osrelease";
/// The oldest kernel that is supported.
const OLDEST: (u32, u32) = (6, 1);

/// Whether the kernel is new enough. One whose release cannot be read is: what it lacks is found out by trying.
///
/// # Errors
/// If it is too old.
pub fn kernel() -> Result<(), String> {
    let release = fs::read_to_string(RELEASE).unwrap_or_default();
    old_enough(release.trim())
}

fn old_enough(release: &str) -> Result<(), String> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => {
            Err(format!("the kernel is {release}: boot {}.{} or newer", OLDEST.0, OLDEST.1))
        }
        _ => Ok(()),
    }
}

/// Whether `bpf` is an active LSM.
///
/// # Errors
/// If it is not, with the kernel parameter that makes it one.
pub fn bpf_lsm() -> Result<(), String> {
    let list = fs::read_to_string(LSM_LIST).map_err(|error| {
        format!(
            "{LSM_LIST} cannot be read: {error}; mount it: mount -t securityfs securityfs /sys/kernel/security"
        )
    })?;
    let release = fs::read_to_string(RELEASE).unwrap_or_default();
    let config = fs::read_to_string(format!("/boot/config-{}", release.trim())).ok();
    active(list.trim(), config.as_deref())
}

fn active(list: &str, config: Option<&str>) -> Result<(), String> {
    if list.split(',').any(|name| name == "bpf") {
        return Ok(());
    }
    if config.is_some_and(|config| !config.lines().any(|line| line == "CONFIG_BPF_LSM=y")) {
        return Err("this kernel is built without CONFIG_BPF_LSM: install one that has it".into());
    }
    Err(format!("`bpf` is not an active LSM: boot with the kernel parameter lsm={list},bpf"))
}

/// An error of the kernel side, with what can be done about it.
#[must_use]
pub fn explain(error: &KernelError) -> String {
    let lockdown = fs::read_to_string(LOCKDOWN).unwrap_or_default();
    match remedy(error, &lockdown) {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    }
}

fn remedy(error: &KernelError, lockdown: &str) -> Option<&'static str> {
    match error {
        KernelError::NoBtf(_) => Some("install a kernel built with CONFIG_DEBUG_INFO_BTF=y"),
        KernelError::Layout(_) => Some("this kernel is of no kind that was tested: please report it"),
        KernelError::System { step: "creating" | "pinning", .. } => {
            Some("a bpf filesystem must be mounted: mount -t bpf bpf /sys/fs/bpf")
        }
        error if error.is_refused() && lockdown.contains("[confidentiality]") => {
            Some("the kernel is locked down: boot with lockdown=integrity, or without lockdown=")
        }
        error if error.is_refused() => Some(
            "the kernel refuses to load it: inside a container or with capabilities taken away, start it on the host",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_kernel_parameter_is_spelled_out() {
        assert_eq!(active("lockdown,yama,bpf", None), Ok(()));
        let why = active("lockdown,yama", Some("CONFIG_BPF_LSM=y\n")).unwrap_err();
        assert!(why.ends_with("lsm=lockdown,yama,bpf"), "{why}");
        let why = active("yama", Some("# CONFIG_BPF_LSM is not set\n")).unwrap_err();
        assert!(why.contains("install one"), "{why}");
        assert!(active("bpfilter", None).is_err(), "another name");
    }

    #[test]
    fn releases_are_compared_by_number() {
        for good in ["6.1.0-56-cloud-amd64", "6.12.1", "10.0", "7.3.4+deb13", "odd"] {
            assert_eq!(old_enough(good), Ok(()), "{good}");
        }
        for old in ["5.10.0-46", "4.19", "6.0.19"] {
            assert!(old_enough(old).unwrap_err().contains("6.1"), "{old}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        let missing = || io::Error::from_raw_os_error(libc::ENOENT);
        assert!(remedy(&KernelError::NoBtf(missing()), "").is_some_and(|text| text.contains("BTF")));
        let pin = KernelError::System { step: "pinning", object: "x".into(), source: missing() };
        assert!(remedy(&pin, "").is_some_and(|text| text.contains("mount -t bpf")));
        let refused = || KernelError::Program {
            step: "loading",
            program: "file_open".into(),
            source: aya::sys::SyscallError {
                call: "bpf_prog_load",
                io_error: io::Error::from_raw_os_error(libc::EPERM),
            }
            .into(),
        };
        let locked = "none integrity [confidentiality]";
        assert!(remedy(&refused(), locked).is_some_and(|text| text.contains("lockdown=integrity")));
        assert!(remedy(&refused(), "[none] integrity").is_some_and(|text| text.contains("container")));
    }
}
