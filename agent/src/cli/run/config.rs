//! Arguments to what is to be done: everything is looked up and checked, nothing is changed.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use super::{Refused, args::Args, events::Destination};
use crate::{
    audit::{
        digest::{digest, mode_name},
        json::PolicyId,
    },
    cli::{exit, from, policy::follow_links},
    dns::DnsConfig,
    policy::{
        check::{self, Overlay},
        checked::{CheckedPolicy, Mode},
        compile, extend,
        image::MapImage,
        mounts::MountTable,
        parse,
    },
    scope::{
        command::{self, Unusable},
        private_tmp,
        user::{self, User},
    },
};

/// A run that can be started.
#[derive(Debug)]
pub struct Config {
    /// The command's file.
    pub program: PathBuf,
    /// Its words, as the user wrote them.
    pub words: Vec<OsString>,
    /// Whom it runs as; `None`: whoever we are.
    pub user: Option<User>,
    /// Where its temporary files are to be, in a directory that is still to be made.
    pub tmp: Option<PathBuf>,
    /// The policy, as it was put together.
    pub checked: CheckedPolicy,
    /// The policy, for events.
    pub policy: PolicyId,
    /// Denials are enforced.
    pub enforce: bool,
    /// The compiled policy.
    pub image: MapImage,
    /// What it was compiled for.
    pub mounts: MountTable,
    /// Whom the DNS gate asks.
    pub dns: DnsConfig,
    /// Where events go.
    pub events: Option<Destination>,
    /// Report allowed reads and sends too.
    pub audit_all: bool,
    /// Start although files cannot be policed.
    pub allow_degraded: bool,
}

fn usage(error: impl std::fmt::Display) -> Refused {
    Refused::new(exit::USAGE, error)
}

fn unusable(why: &Unusable) -> Refused {
    let code = match why {
        Unusable::NotFound(_) => exit::NOT_FOUND,
        Unusable::NotExecutable(_) | Unusable::Interpreter { .. } | Unusable::Unreadable { .. } => {
            exit::NOT_EXECUTABLE
        }
    };
    Refused::new(code, why)
}

impl Config {
    /// Looks everything up.
    pub fn resolve(args: &Args) -> Result<Self, Refused> {
        let program = command::resolve(Path::new(&args.command[0])).map_err(|why| unusable(&why))?;
        let files = command::files(&program).map_err(|why| unusable(&why))?;
        let caller = user::caller().map_err(usage)?;
        let user = user::target(args.user.as_deref(), caller).map_err(usage)?;
        let events = args.events.as_deref().map(|path| Destination::resolve(path, caller)).transpose();
        let events = events.map_err(|error| usage(format!("--events: {error}")))?;
        let mut policy = policy(args, files, user.as_ref(), events.as_ref())?;
        // Of what was written: where links lead differs between hosts.
        let digest = digest(&policy);
        let mountinfo = fs::read("/proc/self/mountinfo").map_err(Refused::own)?;
        let mounts = MountTable::parse(&mountinfo).map_err(Refused::own)?;
        let checked = policy.clone();
        follow_links(&mut policy, &mounts).map_err(usage)?;
        let (image, _) = compile::compile(&policy, &mounts).map_err(usage)?;
        Ok(Self {
            program,
            words: args.command.clone(),
            user,
            tmp: checked.tmp.clone(),
            checked,
            policy: PolicyId { name: policy.name.clone(), digest, mode: mode_name(policy.mode) },
            enforce: policy.mode == Mode::Enforce,
            image,
            dns: DnsConfig::default(),
            mounts,
            events,
            audit_all: args.audit == "all",
            allow_degraded: args.allow_degraded.is_some(),
        })
    }
}

fn policy(
    args: &Args,
    command: Vec<PathBuf>,
    user: Option<&User>,
    events: Option<&Destination>,
) -> Result<CheckedPolicy, Refused> {
    let documents = args.policy.as_ref().map(|path| extend::load(path, &parse::read));
    let documents = documents.transpose().map_err(usage)?.unwrap_or_default();
    let workspaces = args.workspaces.find().map_err(usage)?;
    let tmp = if args.no_private_tmp { Ok(None) } else { private_tmp::name() };
    let tmp = tmp.map_err(|error| usage(format!("the directory for temporary files: {error}")))?;
    let mut deny_file = args.deny_file.clone();
    // Whoever is watched must not write what is told of them.
    deny_file.extend(events.and_then(Destination::rule));
    let mut allow_capability = args.allow_capability.clone();
    allow_capability.extend(args.keep_capabilities.then(|| "all".to_owned()));
    let mut overlay = Overlay {
        workspaces: workspaces.writable,
        read_only: workspaces.read_only,
        repositories: workspaces.repositories,
        metadata: args.metadata,
        allow_capability,
        allow_process: args.allow_process.clone(),
        lift: args.lift.clone(),
        profiles: args.profile.clone(),
        tmp,
        allow_net: args.allow_net.clone(),
        deny_net: args.deny_net.clone(),
        egress_interface: args.egress_interface.clone(),
        allow_listen: args.allow_listen.clone(),
        allow_read: args.allow_read.clone(),
        allow_write: args.allow_write.clone(),
        allow_exec: args.allow_exec.clone(),
        deny_read: args.deny_read.clone(),
        deny_write: args.deny_write.clone(),
        deny_exec: args.deny_exec.clone(),
        deny_file,
        command,
        mode: args.mode.as_deref().map(|mode| if mode == "audit" { Mode::Audit } else { Mode::Enforce }),
        home: user.map(|user| user.home.clone()).or_else(|| std::env::var_os("HOME").map(PathBuf::from)),
        user: user.map(|user| user.name.clone()).or_else(|| std::env::var("USER").ok()),
        ..Overlay::default()
    };
    overlay.found = from::answers(&documents, &overlay, user);
    let mut policy = check::check(&documents, &overlay).map_err(usage)?;
    from::show(&policy, &overlay.found);
    if let Some(text) = events.and_then(Destination::rule).filter(|text| !args.deny_file.contains(text)) {
        for rule in policy.rules.iter_mut().filter(|rule| rule.source == "--deny-file" && rule.text == text) {
            rule.source = "--events".into();
        }
    }
    Ok(policy)
}
