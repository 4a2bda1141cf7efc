use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::*;

fn id() -> String {
    "0123456789abcdef".repeat(4)
}

/// Whose home there is: what the tests write belongs to root or to who runs them.
fn user() -> u32 {
    let me = nix::unistd::geteuid();
    if me.is_root() { 1000 } else { me.as_raw() }
}

/// A host: its root, and an inspector of it.
struct Host {
    _dir: tempfile::TempDir,
    root: PathBuf,
    inspector: Inspector,
}

fn host() -> Host {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(dir.path()).unwrap();
    let owner = nix::unistd::geteuid().as_raw();
    let home = |uid| (uid == user()).then(|| PathBuf::from("/home/u"));
    Host { _dir: dir, root: root.clone(), inspector: Inspector { root, owner, home: Box::new(home) } }
}

impl Host {
    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(&path[1..]);
        let parent = path.parent().unwrap();
        fs::create_dir_all(parent).unwrap();
        for above in parent.ancestors().take_while(|above| *above != self.root) {
            fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn docker(&self, place: &str, name: &str) {
        let text = serde_json::json!({
            "ID": id(), "Name": name, "Image": "sha256:aa",
            "Config": { "Image": "registry.test/ci/job:1", "Labels": { "ci": "true" } },
        });
        self.write(&format!("{place}/containers/{}/config.v2.json", id()), &text.to_string());
    }

    fn podman(&self, place: &str, list: &str, name: &str) {
        let metadata =
            serde_json::json!({ "image-name": "registry.test/ci/job:1", "name": "before" }).to_string();
        let text = serde_json::json!([
            { "id": "other", "names": null, "metadata": "" },
            { "id": id(), "names": [name], "image": "bb", "metadata": metadata },
        ]);
        self.write(&format!("{place}/overlay-containers/{list}"), &text.to_string());
        self.write(
            &format!("{place}/overlay-containers/{}/userdata/config.json", id()),
            r#"{"ociVersion":"1.2","annotations":{"io.container.manager":"libpod","ci":"yes"}}"#,
        );
    }

    fn holds(&self, rule: &ContainerRule, cgroup: &str) -> Holds {
        self.inspector.holds(rule, Path::new(cgroup))
    }
}

fn named(runtime: Runtime, name: &str) -> ContainerRule {
    ContainerRule { runtime, name: Some(name.into()), ..ContainerRule::default() }
}

fn key(text: &str) -> Option<KeyValue> {
    let (key, value) =
        text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value.to_owned())));
    Some(KeyValue { key: key.into(), value })
}

#[test]
fn paths_tell_runtime_id_and_user() {
    let id = id();
    for (path, kind, user, nested) in [
        (format!("/system.slice/docker-{id}.scope"), Kind::Docker, None, false),
        (format!("/system.slice/docker-{id}.scope/init"), Kind::Docker, None, false),
        (format!("/docker/{id}"), Kind::Docker, None, false),
        (format!("/machine.slice/libpod-{id}.scope/container"), Kind::Podman, None, false),
        (format!("/libpod_parent/libpod-{id}"), Kind::Podman, None, false),
        (format!("/system.slice/web.service/libpod-payload-{id}"), Kind::Podman, None, false),
        (
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"),
            Kind::Podman,
            Some(1000),
            false,
        ),
        (format!("/user.slice/user-0.slice/session-1.scope/libpod-{id}"), Kind::Podman, None, false),
        (format!("/lxc.payload.web/system.slice/docker-{id}.scope"), Kind::Docker, None, true),
        (format!("/docker/{id}/docker/{id}"), Kind::Docker, None, true),
    ] {
        let expected = Container { kind, id: id.clone(), user, nested };
        assert_eq!(identify(Path::new(&path)), Some(expected), "{path}");
    }
    for (path, name, user) in [
        ("/lxc.payload.web", "web", None),
        ("/lxc.payload/web/x", "web", None),
        ("/lxc/web", "web", None),
        ("/user.slice/user-7.slice/lxc.payload.web", "web", Some(7)),
    ] {
        let expected = Container { kind: Kind::Lxc, id: name.into(), user, nested: false };
        assert_eq!(identify(Path::new(path)), Some(expected), "{path}");
    }
    for path in [
        format!("/machine.slice/libpod-conmon-{id}.scope"),
        "/lxc.monitor.web".to_owned(),
        format!("/system.slice/docker-{}.scope", id.to_uppercase()),
        format!("/{id}"),
        "/system.slice/docker.service".to_owned(),
        "/lxc.payload.".to_owned(),
        "/".to_owned(),
    ] {
        assert_eq!(identify(Path::new(&path)), None, "{path}");
    }
}

#[test]
fn docker_containers_are_known_by_name_label_and_image() {
    let host = host();
    host.docker("/var/lib/docker", "/job-7");
    let cgroup = format!("/system.slice/docker-{}.scope", id());
    let docker = ContainerRule { runtime: Runtime::Docker, ..ContainerRule::default() };
    for (rule, expected) in [
        (named(Runtime::Docker, "job-*"), Holds::Yes),
        (named(Runtime::Any, "job-7"), Holds::Yes),
        (named(Runtime::Docker, "job"), Holds::No),
        (named(Runtime::Podman, "job-*"), Holds::No),
        (ContainerRule { label: key("ci"), ..docker.clone() }, Holds::Yes),
        (ContainerRule { label: key("ci=true"), ..docker.clone() }, Holds::Yes),
        (ContainerRule { label: key("ci=false"), ..docker.clone() }, Holds::No),
        (ContainerRule { image: Some("registry.test/*".into()), ..docker.clone() }, Holds::Yes),
        (ContainerRule { image: Some("sha256:aa".into()), ..docker.clone() }, Holds::Yes),
        (ContainerRule { image: Some("debian".into()), ..docker.clone() }, Holds::No),
        (ContainerRule { label: key("ci"), ..named(Runtime::Docker, "x") }, Holds::No),
        (docker.clone(), Holds::Yes),
    ] {
        assert_eq!(host.holds(&rule, &cgroup), expected, "{rule:?}");
    }
    assert_eq!(host.holds(&docker, "/system.slice/x.service"), Holds::No);
}

#[test]
fn dockers_data_root_is_looked_up() {
    let rule = named(Runtime::Docker, "job-7");
    let cgroup = format!("/docker/{}", id());
    let moved = host();
    moved.docker("/srv/docker", "/job-7");
    assert!(
        matches!(moved.holds(&rule, &cgroup), Holds::Unknown(why) if why.contains("no state of Docker container"))
    );
    moved.write("/etc/docker/daemon.json", r#"{"data-root": "/srv/docker", "log-driver": "journald"}"#);
    assert_eq!(moved.holds(&rule, &cgroup), Holds::Yes);
    moved.write("/etc/docker/daemon.json", r#"{"data-root": "#);
    assert!(matches!(moved.holds(&rule, &cgroup), Holds::Unknown(why) if why.contains("daemon.json")));
    let remapped = host();
    remapped.docker("/var/lib/docker/100000.100000", "/job-7");
    assert_eq!(remapped.holds(&rule, &cgroup), Holds::Yes);
    let linked = host();
    linked.docker("/srv/docker", "/job-7");
    fs::create_dir_all(linked.root.join("var/lib")).unwrap();
    symlink(linked.root.join("srv/docker"), linked.root.join("var/lib/docker")).unwrap();
    assert_eq!(linked.holds(&rule, &cgroup), Holds::Yes, "root's link to a larger disk");
}

#[test]
fn podman_containers_are_known_by_name_image_and_annotation() {
    for (place, list) in [
        ("/var/lib/containers/storage", "containers.json"),
        ("/var/lib/containers/storage", "volatile-containers.json"),
        ("/run/containers/storage", "volatile-containers.json"),
        ("/srv/podman", "containers.json"),
    ] {
        let host = host();
        host.podman(place, list, "job-7");
        host.write(
            "/etc/containers/storage.conf",
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"/srv/podman\"\n",
        );
        let cgroup = format!("/machine.slice/libpod-{}.scope", id());
        let podman = ContainerRule { runtime: Runtime::Podman, ..ContainerRule::default() };
        for (rule, expected) in [
            (named(Runtime::Podman, "job-*"), Holds::Yes),
            (named(Runtime::Podman, "before"), Holds::No),
            (ContainerRule { image: Some("registry.test/ci/*".into()), ..podman.clone() }, Holds::Yes),
            (ContainerRule { annotation: key("ci=yes"), ..podman.clone() }, Holds::Yes),
            (ContainerRule { annotation: key("ci=no"), ..podman.clone() }, Holds::No),
        ] {
            assert_eq!(host.holds(&rule, &cgroup), expected, "{place} {rule:?}");
        }
    }
}

#[test]
fn a_users_own_containers_need_to_be_believed() {
    let slice = |user: u32| {
        format!("/user.slice/user-{user}.slice/user@{user}.service/user.slice/libpod-{}.scope", id())
    };
    let cgroup = slice(user());
    let host = host();
    host.podman("/home/u/.local/share/containers/storage", "containers.json", "job-7");
    let rule = named(Runtime::Podman, "job-*");
    assert_eq!(host.holds(&rule, &cgroup), Holds::No);
    let rule = ContainerRule { rootless: true, ..rule };
    assert_eq!(host.holds(&rule, &cgroup), Holds::Yes);
    let nobody = user() + 1;
    let holds = host.holds(&rule, &slice(nobody));
    assert!(matches!(holds, Holds::Unknown(why) if why.contains(&nobody.to_string())));
    let path_only = ContainerRule { runtime: Runtime::Podman, ..ContainerRule::default() };
    assert_eq!(host.holds(&path_only, &cgroup), Holds::Yes);
}

#[test]
fn lxc_containers_are_known_by_name() {
    let host = host();
    host.write("/var/lib/lxc/job/config", "lxc.uts.name = job\n");
    host.write("/var/lib/lxc/web-1/config", "");
    for (cgroup, name, expected) in [
        ("/lxc.payload.job", "job", Holds::Yes),
        ("/lxc.payload.job-2", "job", Holds::Yes),
        ("/lxc.payload.job-2", "job-2", Holds::No),
        ("/lxc.payload.web-1", "web-1", Holds::Yes),
        ("/lxc.payload.web-1", "web", Holds::No),
        ("/lxc/incus", "incus", Holds::Yes),
        ("/lxc/incus", "other", Holds::No),
        ("/docker/x", "job", Holds::No),
    ] {
        assert_eq!(host.holds(&named(Runtime::Lxc, name), cgroup), expected, "{cgroup} {name}");
    }
    let unclear = host.holds(&named(Runtime::Lxc, "incus"), "/lxc.payload.incus-1");
    assert!(matches!(unclear, Holds::Unknown(why) if why.contains("incus-1, incus")));
    host.write("/etc/lxc/lxc.conf", "# moved\nlxc.lxcpath = /srv/lxc\n");
    host.write("/srv/lxc/far-1/config", "");
    assert_eq!(host.holds(&named(Runtime::Lxc, "far"), "/lxc.payload.far-1"), Holds::No);
}

#[test]
fn state_that_is_no_good_leaves_it_open_and_says_why() {
    let cgroup = format!("/docker/{}", id());
    let rule = named(Runtime::Docker, "job-*");
    let file = format!("/var/lib/docker/containers/{}/config.v2.json", id());
    let unknown = |host: &Host, part: &str| {
        let holds = host.holds(&rule, &cgroup);
        assert!(matches!(&holds, Holds::Unknown(why) if why.contains(part)), "{part}: {holds:?}");
    };
    let broken = host();
    for (text, part) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "config.v2.json"),
        (r#"{"ID":"x","Name":"/job-1","Config":{}}"#, "about container"),
        (r#"{"ID":"x","Name":["job-1"],"Config":{}}"#, "expected a string"),
        (&"[".repeat(1000), "config.v2.json"),
        ("\u{0}\u{ff}", "config.v2.json"),
    ] {
        broken.write(&file, text);
        unknown(&broken, part);
    }
    fs::File::create(broken.root.join(&file[1..])).unwrap().set_len(MAX_STATE + 1).unwrap();
    fs::set_permissions(broken.root.join(&file[1..]), fs::Permissions::from_mode(0o600)).unwrap();
    unknown(&broken, "more than");
    let open = host();
    open.docker("/var/lib/docker", "/job-1");
    fs::set_permissions(open.root.join("var/lib/docker"), fs::Permissions::from_mode(0o777)).unwrap();
    unknown(&open, "chmod go-w");
    let linked = host();
    linked.docker("/srv/docker", "/job-1");
    linked.write("/var/lib/docker/containers/x", "");
    let target = linked.root.join("srv/docker/containers").join(id());
    symlink(target, linked.root.join("var/lib/docker/containers").join(id())).unwrap();
    unknown(&linked, "symbolic link");
}

#[test]
fn a_container_in_a_container_is_the_outer_one() {
    let host = host();
    host.docker("/var/lib/docker", "/job-1");
    let cgroup = format!("/lxc.payload.web/docker/{}", id());
    assert_eq!(host.holds(&named(Runtime::Docker, "job-*"), &cgroup), Holds::No);
}
