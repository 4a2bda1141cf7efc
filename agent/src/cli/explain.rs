//! `stockade explain`: what would happen, and why. Nothing is tried.

mod file;

use std::{
    fs,
    io::{self, Write as _},
    net::IpAddr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use clap::Subcommand;

pub use self::file::FileArgs;
use super::{exit, policy, resolve, workspaces::Workspaces};
use crate::{
    policy::{
        checked::CheckedPolicy,
        compile,
        explain::{Explainer, Explanation, Outcome, Protocol},
        extend,
        image::MapImage,
        mounts::MountTable,
        names,
        rule::{self, Endpoint},
    },
    scope::host,
};

/// Most rules shown to people, beside the one that decides.
const MOST_RULES: usize = 10;

/// `stockade explain`.
#[derive(Debug, Subcommand)]
pub enum ExplainVerb {
    /// Say whether a connection would be let through, by which rule, and what would change that.
    ///
    /// Exit codes: 0 allowed, or allowed under a condition that is named; 1 denied; 2 a wrong question or policy.
    Net(NetArgs),
    /// Say whether a file may be read, changed or executed, by which rule, and what would change that.
    ///
    /// Exit codes: 0 all that was asked is allowed; 1 something is denied; 2 a wrong question or policy.
    File(FileArgs),
}

/// `stockade explain net`.
#[derive(Debug, clap::Args)]
pub struct NetArgs {
    /// HOST:PORT[/tcp|/udp], both protocols if none is named; unix:/PATH, unix:@NAME.
    target: String,
    /// A policy file, or the name of a policy of this host.
    #[arg(long)]
    policy: String,
    /// Listening on that address instead of connecting to it.
    #[arg(long)]
    listen: bool,
    /// Ask this host's resolver, and say what each address of the name would get.
    #[arg(long, conflicts_with = "listen")]
    resolve: bool,
    /// Values of ${workspace}.
    #[command(flatten)]
    workspaces: Workspaces,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs a verb.
#[must_use]
pub fn run(verb: &ExplainVerb) -> u8 {
    let (answers, json) = match verb {
        ExplainVerb::Net(args) => (net(args), args.json),
        ExplainVerb::File(args) => (file::answers(args), args.json),
    };
    let answers = match answers {
        Ok(answers) => answers,
        Err(message) => {
            eprintln!("stockade: {message}");
            return exit::USAGE;
        }
    };
    if let Err(error) = print(&answers, json) {
        eprintln!("stockade: writing the answer: {error}");
        return exit::OWN_FAILURE;
    }
    let denied = answers.iter().any(|answer| answer.outcome == Outcome::Denied);
    if denied { exit::REFUSED } else { 0 }
}

fn print(answers: &[Explanation], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        return writeln!(out, "{}", serde_json::to_string_pretty(answers)?);
    }
    let mut whole = String::new();
    for answer in answers {
        text(&mut whole, answer, "");
    }
    out.write_all(whole.as_bytes())
}

/// For people.
fn text(out: &mut String, answer: &Explanation, indent: &str) {
    use std::fmt::Write as _;
    let Explanation { asked, outcome, reason, why, rules, change, interface, notes, addresses } = answer;
    let word = match outcome {
        Outcome::Allowed => "allowed",
        Outcome::Denied => "denied",
        Outcome::Depends => "depends",
    };
    let _ = writeln!(out, "{indent}{asked}: {word}");
    let _ = writeln!(out, "{indent}  {why}");
    // One that decides is in the sentence.
    let others = &rules[usize::from(*reason != "names").min(rules.len())..];
    for rule in others.iter().take(MOST_RULES) {
        let _ = writeln!(out, "{indent}  {:?} ({}, {})", rule.text, rule.list, rule.source);
    }
    if others.len() > MOST_RULES {
        let _ = writeln!(out, "{indent}  and {} more", others.len() - MOST_RULES);
    }
    if let Some(interface) = interface {
        let there = if Path::new("/sys/class/net").join(interface).exists() {
            "or not at all"
        } else {
            "which is not there now: nothing leaves"
        };
        let _ = writeln!(out, "{indent}  it leaves by the interface {interface:?}, {there}");
    }
    for line in notes {
        let _ = writeln!(out, "{indent}  {line}");
    }
    if let Some(change) = change {
        let _ = writeln!(out, "{indent}  {change}");
    }
    for address in addresses {
        text(out, address, &format!("{indent}    "));
    }
}

/// A policy as this host would have it, with its tables.
struct Compiled {
    policy: CheckedPolicy,
    image: MapImage,
    mounts: MountTable,
}

impl Compiled {
    fn load(policy: &str, workspaces: &Workspaces) -> Result<Self, String> {
        let mut policy = load(policy, workspaces)?;
        let mountinfo = "/proc/self/mountinfo";
        let text = fs::read(mountinfo).map_err(|error| format!("{mountinfo}: {error}"))?;
        let mounts = MountTable::parse(&text).map_err(|error| format!("{mountinfo}: {error}"))?;
        policy::follow_links(&mut policy, &mounts).map_err(|error| error.to_string())?;
        let (image, _) = compile::compile(&policy, &mounts).map_err(|error| error.to_string())?;
        Ok(Self { policy, image, mounts })
    }

    fn explainer(&self) -> Explainer<'_> {
        Explainer { policy: &self.policy, image: &self.image }
    }
}

fn net(args: &NetArgs) -> Result<Vec<Explanation>, String> {
    let compiled = Compiled::load(&args.policy, &args.workspaces)?;
    let explainer = compiled.explainer();
    match args.target.strip_prefix("unix:") {
        Some(_) if args.listen => Err("a unix socket needs no rule to listen".to_owned()),
        Some(name) => Ok(vec![unix(explainer, &compiled.mounts, name)?]),
        None => inet(explainer, args),
    }
}

/// A file's, or one of the host's.
fn load(policy: &str, workspaces: &Workspaces) -> Result<CheckedPolicy, String> {
    if extend::names_file(policy) {
        return policy::checked_file(Path::new(policy), workspaces);
    }
    let loaded = host::load(Path::new(host::DIRECTORY)).map_err(|error| error.to_string())?;
    let known: Vec<&str> = loaded.policies.iter().map(|policy| policy.name.as_str()).collect();
    loaded.named(policy).map(|found| found.policy.clone()).ok_or_else(|| {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!(
            "this host has no policy {policy:?} (there are: {known}); a file is named with a `/` or ends in .toml: ./{policy}"
        )
    })
}

fn unix(explainer: Explainer<'_>, mounts: &MountTable, name: &str) -> Result<Explanation, String> {
    if let Some(name) = name.strip_prefix('@') {
        return Ok(explainer.abstract_unix(name, name.as_bytes()));
    }
    if !name.starts_with('/') {
        return Err(format!("unix:{name}: write the whole path, unix:/run/x.sock, or unix:@NAME"));
    }
    // A link is followed as the kernel would; what is not there has no links.
    let real = fs::canonicalize(name).unwrap_or_else(|_| PathBuf::from(name));
    let (mount, inside) = mounts
        .inside(real.as_os_str().as_bytes())
        .ok_or_else(|| format!("{}: on no filesystem that can be seen here", real.display()))?;
    let mut answer = explainer.unix(name, mount.dev, &inside);
    if real != Path::new(name) {
        answer.notes.push(format!("it is {}", real.display()));
    }
    Ok(answer)
}

fn inet(explainer: Explainer<'_>, args: &NetArgs) -> Result<Vec<Explanation>, String> {
    const HELP: &str = "write HOST:PORT, HOST:PORT/tcp or HOST:PORT/udp; an IPv6 address stands in brackets: [2001:db8::1]:443";
    let target = &args.target;
    let wrong = |why: &str| format!("{target}: {why}\n{HELP}");
    let Endpoint { host, ports, tcp, udp } =
        rule::endpoint(target).map_err(|refusal| wrong(&refusal.message))?;
    let [(port, last)] = ports[..] else { return Err(wrong("more than one port")) };
    if port != last {
        return Err(wrong(if (port, last) == (0, u16::MAX) { "which port?" } else { "more than one port" }));
    }
    let protocols = [(tcp, Protocol::Tcp), (udp, Protocol::Udp)].into_iter().filter(|(is, _)| *is);
    let protocols = protocols.map(|(_, protocol)| protocol);
    if let Ok(addr) = host.parse::<IpAddr>() {
        let ask = |protocol| {
            if args.listen {
                explainer.listen(addr, port, protocol)
            } else {
                explainer.address(addr, port, protocol)
            }
        };
        return Ok(protocols.map(ask).collect());
    }
    if !rule::is_named(target) {
        return Err(wrong("this is neither an address nor a name"));
    }
    if args.listen {
        return Err(wrong("a socket listens on an address"));
    }
    let (name, below) = names::host(host).map_err(|refusal| {
        let help = refusal.help.map_or_else(String::new, |help| format!("\n{help}"));
        format!("{target}: {}{help}", refusal.message)
    })?;
    if below {
        return Err(wrong("ask for one name"));
    }
    let addresses = if args.resolve { resolve::addresses(&name)? } else { Vec::new() };
    Ok(protocols.map(|protocol| explainer.name(&name, port, protocol, &addresses)).collect())
}
