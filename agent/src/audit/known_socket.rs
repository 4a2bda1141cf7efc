//! Sockets that are known for what can be done through them: who may connect there needs no rule for anything else.

use crate::policy::globs::{Spelt, parts};

/// Globs on paths, and what listens there. The first that matches says it.
const PATHS: [(&str, &str); 46] = [
    ("/run/docker.sock", "the Docker daemon: root on this host"),
    ("/run/docker/**", "the Docker daemon: root on this host"),
    ("/run/user/*/docker.sock", "the user's Docker daemon: all that the user may do"),
    ("**/.docker/**/*.sock", "the user's Docker daemon: all that the user may do"),
    ("/run/docker-*/**", "the Docker daemon: root on this host"),
    ("/run/containerd/**", "containerd: root on this host"),
    ("/run/k3s/containerd/**", "containerd: root on this host"),
    ("/run/podman/podman.sock", "Podman: root on this host"),
    ("/run/user/*/podman/podman.sock", "the user's Podman: all that the user may do"),
    ("/run/crio/**", "CRI-O: root on this host"),
    ("/run/buildkit/**", "BuildKit: root on this host"),
    ("/run/user/*/buildkit/**", "the user's BuildKit: all that the user may do"),
    ("/run/libvirt/**", "libvirt: root on this host"),
    ("/run/user/*/libvirt/**", "the user's libvirt: all that the user may do"),
    ("/var/lib/lxd/unix.socket", "LXD: root on this host"),
    ("/var/snap/lxd/common/lxd/unix.socket", "LXD: root on this host"),
    ("/var/lib/incus/unix.socket", "Incus: root on this host"),
    ("/run/incus/**", "Incus: root on this host"),
    ("/run/snapd.socket", "snapd: installs software as root"),
    ("/run/snapd-snap.socket", "snapd, as snaps see it"),
    ("/run/systemd/private", "systemd itself: starts anything as root"),
    ("/run/user/*/systemd/private", "the user's systemd: starts anything as the user, outside the policy"),
    ("/run/systemd/journal/**", "the journal: writes log entries"),
    ("/run/systemd/notify", "systemd's notifications"),
    ("/run/systemd/io.system.*", "systemd's own services"),
    ("/run/systemd/**", "systemd"),
    ("/run/dbus/system_bus_socket", "the system bus: systemd and polkit are behind it"),
    (
        "/run/user/*/bus",
        "the session bus: the user's systemd is behind it, which starts anything outside the policy",
    ),
    ("/run/user/*/at-spi/**", "the accessibility bus: reads and types in the user's windows"),
    ("/dev/log", "the system's log: writes log entries"),
    ("/run/user/*/gnupg/**", "gpg-agent: signs and decrypts with the user's keys"),
    ("**/.gnupg/S.gpg-agent*", "gpg-agent: signs and decrypts with the user's keys"),
    ("**/.gnupg/S.*", "GnuPG"),
    ("/run/user/*/keyring/**", "the user's keyring: passwords and keys"),
    ("/run/user/*/ssh-agent*", "ssh-agent: logs in with the user's keys"),
    ("/run/user/*/openssh_agent", "ssh-agent: logs in with the user's keys"),
    ("/tmp/ssh-*/agent.*", "ssh-agent: logs in with the user's keys"),
    ("**/.ssh/agent/**", "ssh-agent: logs in with the user's keys"),
    ("/tmp/.X11-unix/**", "the X server: reads and types in the user's windows"),
    ("/run/user/*/wayland-*", "the Wayland compositor: the user's screen"),
    ("/run/user/*/pipewire-*", "PipeWire: microphone, camera and screen"),
    ("/run/user/*/pulse/**", "PulseAudio: the microphone"),
    ("/tmp/tmux-*/**", "tmux: types into the user's shells, outside the policy"),
    ("/run/screen/**", "screen: types into the user's shells, outside the policy"),
    ("/run/nscd/socket", "the name service cache"),
    ("/run/stockade/**", "Stockade's daemon"),
];

/// What abstract names begin with, and what listens there.
const ABSTRACT: [(&[u8], &str); 5] = [
    (b"/tmp/.X11-unix/", "the X server: reads and types in the user's windows"),
    (b"/tmp/dbus-", "a D-Bus bus: what is behind it starts programs outside the policy"),
    (b"/tmp/.ICE-unix/", "the session manager"),
    (b"/containerd-shim/", "a container's shim: root on this host"),
    (b"/org/freedesktop/systemd1/", "systemd"),
];

/// What listens at a path, as the host's own mounts show it.
#[must_use]
pub fn at_path(path: &[u8]) -> Option<&'static str> {
    // `/var/run` is a link to `/run`, but not everywhere.
    let path = path.strip_prefix(b"/var").filter(|rest| rest.starts_with(b"/run/")).unwrap_or(path);
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    PATHS.iter().find(|(glob, _)| Spelt::new(&parts(glob)).matches(&names)).map(|(_, what)| *what)
}

/// What listens at an abstract name.
#[must_use]
pub fn at_name(name: &[u8]) -> Option<&'static str> {
    ABSTRACT.iter().find(|(start, _)| name.starts_with(start)).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_to_root_are_known() {
        for (path, what) in [
            ("/run/docker.sock", "Docker"),
            ("/var/run/docker.sock", "Docker"),
            ("/run/containerd/containerd.sock", "containerd"),
            ("/run/podman/podman.sock", "Podman: root"),
            ("/run/user/1000/podman/podman.sock", "the user's Podman"),
            ("/run/crio/crio.sock", "CRI-O"),
            ("/run/buildkit/buildkitd.sock", "BuildKit"),
            ("/run/libvirt/libvirt-sock", "libvirt"),
            ("/var/snap/lxd/common/lxd/unix.socket", "LXD"),
            ("/var/lib/incus/unix.socket", "Incus"),
            ("/run/snapd.socket", "snapd"),
            ("/run/systemd/private", "systemd itself"),
            ("/run/systemd/journal/socket", "journal"),
            ("/run/dbus/system_bus_socket", "system bus"),
            ("/run/user/1000/bus", "session bus"),
            ("/tmp/ssh-XYZ/agent.7", "ssh-agent"),
            ("/home/u/.gnupg/S.gpg-agent.ssh", "gpg-agent"),
            ("/run/user/1000/gnupg/d.x/S.gpg-agent", "gpg-agent"),
            ("/tmp/.X11-unix/X0", "X server"),
            ("/run/user/1000/wayland-0", "Wayland"),
            ("/run/user/1000/pipewire-0", "PipeWire"),
            ("/tmp/tmux-1000/default", "tmux"),
            ("/run/screen/S-u/7.pts", "screen"),
        ] {
            assert!(at_path(path.as_bytes()).is_some_and(|found| found.contains(what)), "{path}");
        }
        for path in ["/run/app.sock", "/srv/docker.sock", "/run/user/1000", "/"] {
            assert_eq!(at_path(path.as_bytes()), None, "{path}");
        }
        assert!(at_name(b"/tmp/.X11-unix/X0").is_some() && at_name(b"\0tmp").is_none());
    }

    #[test]
    fn no_line_of_the_table_is_dead() {
        for (number, (glob, what)) in PATHS.iter().enumerate() {
            let spelt = Spelt::new(&parts(glob));
            let hidden = PATHS[..number].iter().find(|(other, _)| Spelt::new(&parts(other)).covers(&spelt));
            assert!(hidden.is_none(), "{glob} ({what}) is hidden by {hidden:?}");
        }
    }
}
