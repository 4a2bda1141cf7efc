//! `from:TOOL`: the same programs, with the hosts that their own configuration names in this guest.

use super::exec::{Checked, ensure};
use super::program::{Program, Scenario};
use super::table::{APT, CARGO, NPM};
use super::trial::{Who, held};

/// A program, with `from:` rules, and what these leave to be named.
const PROGRAMS: [Program; 5] = [
    Program {
        name: "from_pip",
        who: Who::User,
        // The index alone knows where its files are.
        prepare: "mkdir -p ~/.config/pip; printf '[global]\\nindex-url = https://index.programs.test/simple\\n' > ~/.config/pip/pip.conf",
        line: "pip install --no-cache-dir --disable-pip-version-check --target lib greeter",
        makes: "lib/greeter/__init__.py",
        rules: &["from:pip", "files.programs.test:443/tcp"],
    },
    Program {
        name: "from_cargo",
        who: Who::User,
        prepare: CARGO,
        line: "CARGO_HOME=$PWD/cargo cargo fetch && cp cargo/registry/src/*/greeter-1.0.0/Cargo.toml page",
        makes: "page",
        rules: &["from:cargo", "static.programs.test:443/tcp"],
    },
    Program {
        name: "from_npm",
        who: Who::User,
        prepare: NPM_LOCKED,
        line: "npm ci",
        makes: "node_modules/greeter/index.js",
        rules: &["from:npm"],
    },
    Program {
        name: "from_git_remotes",
        who: Who::User,
        prepare: "git clone -q https://git.programs.test/greeter.git .",
        line: "git fetch && git submodule update --init",
        makes: "library/library.txt",
        rules: &["from:git-remotes"],
    },
    Program {
        name: "from_apt",
        who: Who::Root,
        prepare: APT_SYSTEM,
        line: "apt-get update --error-on=any && apt-get install -y greeter && ln -s /usr/share/greeter/greeting.txt .",
        makes: "greeting.txt",
        rules: &["from:apt", "pool.programs.test:443/tcp"],
    },
];

/// What is to hold of them.
pub fn scenarios() -> Vec<Scenario> {
    let all = PROGRAMS.into_iter();
    all.map(|program| (program.name.to_owned(), Box::new(move || works(program)) as Box<_>)).collect()
}

fn works(program: Program) -> Checked {
    let prepare = match program.prepare {
        NPM_LOCKED => format!("{NPM}; {NPM_LOCKED}"),
        APT_SYSTEM => format!("{APT}; {APT_SYSTEM}"),
        other => other.to_owned(),
    };
    let inside = held(program.who, &prepare, program.rules, program.line)?;
    println!("   {}: {:.1} s", program.name, inside.took.as_secs_f32());
    program.did(&inside)?;
    // What was found is shown, with the file that names it.
    let shown = inside.said.lines().any(|line| line.contains("is allowed from:"));
    ensure(shown, || format!("it is not shown what was found: {}", inside.said))
}

/// With a lock file, which says where packages are.
const NPM_LOCKED: &str = "npm install --package-lock-only";
/// The machine's own sources.
const APT_SYSTEM: &str = "rm -f /etc/apt/sources.list.d/*; echo 'deb [trusted=yes] https://deb.programs.test/ ./' > /etc/apt/sources.list";
