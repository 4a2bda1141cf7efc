//! Configurations as the tools write them, on a host that is a table of files.

use super::*;

#[derive(Default)]
struct Table {
    files: BTreeMap<PathBuf, String>,
    variables: BTreeMap<&'static str, &'static str>,
    answers: BTreeMap<&'static str, &'static str>,
}

impl Host for Table {
    fn folder(&self) -> &Path {
        Path::new("/home/u/ws/sub")
    }

    fn home(&self) -> Option<&Path> {
        Some(Path::new("/home/u"))
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|value| (*value).to_owned())
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        match self.files.get(path) {
            Some(text) if text == "refused" => Err(io::ErrorKind::PermissionDenied.into()),
            Some(text) => Ok(text.clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, path: &Path) -> Vec<PathBuf> {
        let below = self.files.keys().filter_map(|file| file.strip_prefix(path).ok());
        let first = below.filter_map(|rest| rest.components().next());
        first.map(|name| path.join(name)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn ask(&self, program: &str, _: &[&str]) -> Option<String> {
        self.answers.get(program).map(|answer| (*answer).to_owned())
    }
}

fn files(files: &[(&str, &str)]) -> Table {
    let files = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
    Table { files, ..Table::default() }
}

/// `rule place`, sorted.
fn found(tool: &str, host: &Table) -> Vec<String> {
    let found = read(tool, host).unwrap();
    found.into_iter().map(|Found { rule, place }| format!("{rule} {place}")).collect()
}

fn why(tool: &str, host: &Table) -> String {
    let Refusal { message, help } = read(tool, host).unwrap_err();
    format!("{message} ({})", help.unwrap())
}

#[test]
fn of_a_url_only_host_and_port_are_kept() {
    assert_eq!(rules("https://user:secret@a.test/simple?x"), ["a.test:443/tcp"]);
    assert_eq!(rules("sparse+https://a.test:8443/index/"), ["a.test:8443/tcp"]);
    assert_eq!(rules("git+ssh://git@a.test/x.git"), ["a.test:22/tcp"]);
    assert_eq!(rules("http://localhost:3141/"), ["127.0.0.1:3141/tcp", "[::1]:3141/tcp"]);
    assert_eq!(rules("http://[2001:db8::1]/"), ["[2001:db8::1]:80/tcp"]);
    for nothing in ["file:///srv/wheels", "../up", "", "./x:y", "https://"] {
        assert!(rules(nothing).is_empty(), "{nothing}");
    }
}

#[test]
fn pip_reads_variables_files_and_locks() {
    let mut host = files(&[
        (
            "/home/u/.config/pip/pip.conf",
            "[global]\nindex-url = https://u:p@index.test/simple\nextra-index-url =\n    https://one.test/simple\n    http://two.test:8080/x\n",
        ),
        (
            "/home/u/ws/sub/requirements.txt",
            "--find-links https://links.test/\nx==1\ny @ https://direct.test/y.whl # z\n",
        ),
        ("/home/u/ws/uv.lock", "[[package]]\nname = 'x'\nwheels = [{ url = 'https://wheels.test/x.whl' }]\n"),
    ]);
    host.variables.insert("PIP_EXTRA_INDEX_URL", "https://env.test/simple");
    host.variables.insert("https_proxy", "http://proxy.test:3128");
    assert_eq!(
        found("pip", &host),
        [
            "direct.test:443/tcp /home/u/ws/sub/requirements.txt:3",
            "env.test:443/tcp PIP_EXTRA_INDEX_URL",
            "index.test:443/tcp /home/u/.config/pip/pip.conf:2",
            "links.test:443/tcp /home/u/ws/sub/requirements.txt:1",
            "one.test:443/tcp /home/u/.config/pip/pip.conf:4",
            "proxy.test:3128/tcp https_proxy",
            "two.test:8080/tcp /home/u/.config/pip/pip.conf:5",
            "wheels.test:443/tcp /home/u/ws/uv.lock",
        ]
    );
}

#[test]
fn the_default_is_what_the_tool_says_it_is() {
    const HELP: &str = "  -i, --index-url <url>       Base URL of the Package Index (default\n        https://index.test/simple). This";
    let mut host = Table::default();
    assert!(why("pip", &host).contains("nothing here names a host for from:pip"));
    host.answers.insert("pip3", HELP);
    assert_eq!(found("pip", &host), ["index.test:443/tcp `pip install --help`"]);
    host.variables.insert("PIP_INDEX_URL", "https://other.test/simple");
    assert_eq!(found("pip", &host), ["other.test:443/tcp PIP_INDEX_URL"]);
    host.answers.insert("npm", "https://registry.test/\n");
    assert_eq!(found("npm", &host), ["registry.test:443/tcp `npm config get registry`"]);
    assert_eq!(pip::default_index("--index-url <url> none"), None);
}

#[test]
fn cargo_reads_configuration_lock_and_what_it_has_recorded() {
    let mut host = files(&[
        (
            "/home/u/ws/.cargo/config.toml",
            "[registries.own]\nindex = 'sparse+https://own.test/index/'\n[http]\nproxy = 'proxy.test:3128'\n",
        ),
        (
            "/home/u/ws/Cargo.lock",
            "version = 4\n[[package]]\nname = 'a'\nsource = 'registry+https://identity.test/index'\n\
             [[package]]\nname = 'b'\nsource = 'git+https://git.test/b.git?rev=1#1'\n\
             [[package]]\nname = 'c'\nsource = 'sparse+https://own.test/index/'\n",
        ),
        (
            "/home/u/.cargo/registry/index/index.test-0011223344556677/config.json",
            "{\"dl\": \"https://files.test/c\"}",
        ),
        (
            "/home/u/.cargo/registry/index/own.test-0011223344556677/config.json",
            "{\"dl\": \"https://own-files.test\"}",
        ),
    ]);
    let recorded = "/home/u/.cargo/registry/index";
    assert_eq!(
        found("cargo", &host),
        [
            &format!("files.test:443/tcp {recorded}/index.test-0011223344556677/config.json"),
            "git.test:443/tcp /home/u/ws/Cargo.lock",
            &format!("index.test:443/tcp {recorded}/index.test-0011223344556677/config.json"),
            &format!("own-files.test:443/tcp {recorded}/own.test-0011223344556677/config.json"),
            "own.test:443/tcp /home/u/ws/.cargo/config.toml",
            "proxy.test:3128/tcp /home/u/ws/.cargo/config.toml",
        ]
    );
    // What the built-in registry is replaced with is what is used.
    host.files.insert(
        "/home/u/.cargo/config.toml".into(),
        "[source.crates-io]\nreplace-with = 'mirror'\n[source.mirror]\nregistry = 'sparse+https://mirror.test/'\n".into(),
    );
    let with_mirror = found("cargo", &host).concat();
    assert!(with_mirror.contains("mirror.test") && !with_mirror.contains("index.test-"), "{with_mirror}");
    assert!(!with_mirror.contains("identity.test"), "a name, not a place: {with_mirror}");
}

#[test]
fn npm_reads_npmrc_and_lock() {
    let mut host = files(&[
        ("/home/u/.npmrc", "registry=https://registry.test/npm/\n//registry.test/npm/:_authToken=secret\n"),
        ("/home/u/ws/package.json", "{}"),
        ("/home/u/ws/.npmrc", "@own:registry=https://${WHERE}/npm/\n"),
        (
            "/home/u/ws/package-lock.json",
            "{\"packages\": {\"\": {}, \"a\": {\"resolved\": \"https://tar.test/a.tgz\"}, \
             \"b\": {\"resolved\": \"git+ssh://git@git.test/b.git#1\"}, \"c\": {\"resolved\": \"file:../c\"}}}",
        ),
    ]);
    host.variables.insert("WHERE", "own.test");
    assert_eq!(
        found("npm", &host),
        [
            "git.test:22/tcp /home/u/ws/package-lock.json",
            "own.test:443/tcp /home/u/ws/.npmrc:1",
            "registry.test:443/tcp /home/u/.npmrc:1",
            "tar.test:443/tcp /home/u/ws/package-lock.json",
        ]
    );
}

#[test]
fn git_reads_remotes_submodules_and_rewrites() {
    let host = files(&[
        ("/home/u/ws/.git/HEAD", "ref: x"),
        (
            "/home/u/ws/.git/config",
            "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = git@git.test:u/x.git\n\tfetch = +refs\n[remote \"up\"]\n\turl = gh:u/x\n\tpushurl = ../local\n",
        ),
        ("/home/u/ws/.gitmodules", "[submodule \"a\"]\n\tpath = a\n\turl = https://sub.test:8443/a\n"),
        ("/home/u/.gitconfig", "[url \"https://hub.test/\"]\n\tinsteadOf = gh:\n"),
    ]);
    assert_eq!(
        found("git-remotes", &host),
        [
            "git.test:22/tcp /home/u/ws/.git/config:4",
            "hub.test:443/tcp /home/u/ws/.git/config:7",
            "sub.test:8443/tcp /home/u/ws/.gitmodules:3",
        ]
    );
    assert!(why("git-remotes", &Table::default()).contains("no git repository"));
    let worktree = files(&[
        ("/home/u/ws/sub/.git", "gitdir: /home/u/main/.git/worktrees/sub\n"),
        ("/home/u/main/.git/worktrees/sub/commondir", "/home/u/main/.git\n"),
        ("/home/u/main/.git/config", "[remote \"o\"]\n\turl = https://git.test/x\n"),
    ]);
    assert_eq!(found("git-remotes", &worktree), ["git.test:443/tcp /home/u/main/.git/config:2"]);
}

#[test]
fn apt_reads_both_forms_mirror_lists_and_the_proxy() {
    let mut host = files(&[
        (
            "/etc/apt/sources.list",
            "# deb http://not.test x main\ndeb [arch=amd64 signed-by=/k] http://one.test/debian trixie main\n",
        ),
        (
            "/etc/apt/sources.list.d/a.sources",
            "Types: deb\nURIs: https://two.test/debian\n https://three.test/debian\nSuites: x\n\nEnabled: no\nURIs: https://off.test\n",
        ),
        ("/etc/apt/sources.list.d/b.list", "deb mirror+file:/etc/apt/mirrors.list trixie main\n"),
        ("/etc/apt/sources.list.d/c.save", "deb http://save.test x main\n"),
        ("/etc/apt/mirrors.list", "http://mirror.test/debian\tpriority:1\n"),
    ]);
    host.answers.insert("apt-config", "APT \"\";\nAcquire::http::Proxy \"http://proxy.test:3142/\";\n");
    assert_eq!(
        found("apt", &host),
        [
            "mirror.test:80/tcp /etc/apt/mirrors.list:1",
            "one.test:80/tcp /etc/apt/sources.list:2",
            "proxy.test:3142/tcp `apt-config dump` (Acquire::http::Proxy)",
            "three.test:443/tcp /etc/apt/sources.list.d/a.sources:3",
            "two.test:443/tcp /etc/apt/sources.list.d/a.sources:2",
        ]
    );
}

#[test]
fn what_cannot_be_read_is_said() {
    assert!(why("gti", &Table::default()).contains("git-remotes"));
    assert!(why("nmp", &Table::default()).contains("did you mean \"from:npm\"?"));
    let refused = files(&[("/home/u/.npmrc", "refused")]);
    assert!(why("npm", &refused).contains("/home/u/.npmrc"));
    let broken = files(&[("/home/u/ws/Cargo.lock", "[[package")]);
    assert!(why("cargo", &broken).contains("Cargo.lock cannot be understood"));
}
