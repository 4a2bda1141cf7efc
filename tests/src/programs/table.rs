//! The programs.

use super::program::{Program, Scenario};
use super::trial::Who;

const PROGRAMS: [Program; 12] = [
    Program {
        name: "curl",
        who: Who::User,
        prepare: "",
        line: "curl -sSfL -o page https://www.programs.test/hello && grep hello page",
        makes: "page",
        rules: &["www.programs.test:443/tcp", "api.programs.test:443/tcp"],
    },
    Program {
        name: "git_https",
        who: Who::User,
        prepare: "",
        line: "git clone --recurse-submodules https://git.programs.test/greeter.git",
        makes: "greeter/library/library.txt",
        rules: &["git.programs.test:443/tcp", "code.programs.test:443/tcp"],
    },
    Program {
        name: "git_native",
        who: Who::User,
        prepare: "",
        line: "git clone git://git.programs.test/greeter.git",
        makes: "greeter/greeting.txt",
        rules: &["git.programs.test:9418/tcp"],
    },
    Program {
        name: "pip",
        who: Who::User,
        prepare: "",
        line: "pip install --no-cache-dir --disable-pip-version-check --target lib --index-url https://index.programs.test/simple greeter",
        makes: "lib/greeter/__init__.py",
        rules: &["index.programs.test:443/tcp", "files.programs.test:443/tcp"],
    },
    Program {
        name: "cargo",
        who: Who::User,
        prepare: CARGO,
        line: "CARGO_HOME=$PWD/cargo cargo fetch && cp cargo/registry/src/*/greeter-1.0.0/Cargo.toml page",
        makes: "page",
        rules: &["crates.programs.test:443/tcp", "static.programs.test:443/tcp"],
    },
    Program {
        name: "npm",
        who: Who::User,
        prepare: NPM,
        line: "npm install",
        makes: "node_modules/greeter/index.js",
        rules: &["registry.programs.test:443/tcp", "tarballs.programs.test:443/tcp"],
    },
    Program {
        name: "apt",
        who: Who::Root,
        prepare: APT,
        line: "apt-get $(cat options) update --error-on=any && apt-get $(cat options) install -y greeter && ln -s /usr/share/greeter/greeting.txt .",
        makes: "greeting.txt",
        rules: &["deb.programs.test:443/tcp", "pool.programs.test:443/tcp"],
    },
    Program {
        name: "go",
        who: Who::User,
        prepare: "",
        line: "go-client https://www.programs.test/hello > answer && mv answer page",
        makes: "page",
        rules: &["www.programs.test:443/tcp", "api.programs.test:443/tcp"],
    },
    Program {
        name: "musl",
        who: Who::User,
        prepare: "",
        line: "musl-client api.programs.test /hello > answer && mv answer page",
        makes: "page",
        rules: &["api.programs.test:80/tcp"],
    },
    // By c-ares, which libraries and Node's `dns` use in place of the C library.
    Program {
        name: "c_ares",
        who: Who::User,
        prepare: "",
        line: "node -e 'require(\"dns\").resolve4(\"api.programs.test\", (error, found) => { if (error) throw error; require(\"net\").connect(80, found[0], () => { require(\"fs\").writeFileSync(\"page\", \"\"); process.exit(); }); })'",
        makes: "page",
        rules: &["api.programs.test:80/tcp"],
    },
    // Through a CNAME: the rule is that of the name asked for.
    Program {
        name: "alias",
        who: Who::User,
        prepare: "",
        line: "curl -sSf -o page http://alias.programs.test/hello",
        makes: "page",
        rules: &["alias.programs.test:80/tcp"],
    },
    // An IPv6 address that leads nowhere: the other family is tried.
    Program {
        name: "half_reachable",
        who: Who::User,
        prepare: "",
        line: "curl -sSf -o /dev/null https://half.programs.test/hello && go-client https://half.programs.test/hello > answer && mv answer page",
        makes: "page",
        rules: &["half.programs.test:443/tcp"],
    },
];

/// A project that needs a crate of a registry of its own.
pub const CARGO: &str = "mkdir -p src .cargo; echo 'fn main() {}' > src/main.rs
printf '[package]\\nname = \"p\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n[dependencies]\\ngreeter = \"1\"\\n' > Cargo.toml
printf '[source.crates-io]\\nreplace-with = \"ours\"\\n[source.ours]\\nregistry = \"sparse+https://crates.programs.test/index/\"\\n' > .cargo/config.toml";

/// A project that needs a package of a registry of its own. npm tries for more than a minute to reach what does not exist, unless it is told not to.
pub const NPM: &str = "echo '{\"name\": \"p\", \"version\": \"1.0.0\", \"dependencies\": {\"greeter\": \"1.0.0\"}}' > package.json
printf 'registry=https://registry.programs.test/\\ncafile=/etc/ssl/certs/ca-certificates.crt\\naudit=false\\nfund=false\\nupdate-notifier=false\\nfetch-retries=0\\ncache=%s/cache\\n' $PWD > .npmrc";

/// A state of apt's own, but for what is installed.
pub const APT: &str = "if dpkg -s greeter > /dev/null 2>&1; then dpkg --purge greeter; fi
mkdir -p lists/partial archives/partial; echo 'deb [trusted=yes] https://deb.programs.test/ ./' > sources.list
echo -oDir::Etc::sourcelist=$PWD/sources.list -oDir::Etc::sourceparts=- -oDir::State::lists=$PWD/lists -oDir::Cache::archives=$PWD/archives -oDir::Cache::pkgcache= -oDir::Cache::srcpkgcache= > options";

/// What is to hold of them.
pub fn scenarios() -> Vec<Scenario> {
    PROGRAMS.into_iter().flat_map(Program::scenarios).collect()
}
