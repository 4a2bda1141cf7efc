//! `stockade run`: a command in a tagged cgroup.
//!
//! ```text
//! args -> config (looked up and checked) -> prepare (proved and policed) -> supervise -> report
//!                                        -> managed (by the daemon)
//! ```

mod args;
mod config;
mod events;
mod managed;
mod prepare;
mod report;
mod supervise;

use std::path::PathBuf;

use nix::unistd::Pid;
use stockade_common::process::ALLOW_IPC;

pub use self::args::Args;
use self::{config::Config, prepare::Prepared, supervise::Supervisor};
use super::exit;
use crate::{
    audit::{
        json::Context,
        origin::{Origin, boot_ns, boot_time},
        ring::{self, Ring},
        run::{self as story, Start},
        sink::Sink,
        trail::Trail,
    },
    scope::{
        launch::{Join, Launch, LaunchError},
        private_tmp::PrivateTmp,
        signals,
        terminal::Terminal,
        user,
    },
};

/// Why nothing was run: exit code and message.
#[derive(Debug)]
pub(crate) struct Refused {
    code: u8,
    message: String,
}

impl Refused {
    fn new(code: u8, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    fn own(error: impl std::fmt::Display) -> Self {
        Self::new(exit::OWN_FAILURE, error)
    }
}

/// Runs the command; returns the exit code.
#[must_use]
pub fn run(args: &Args) -> u8 {
    attempt(args).unwrap_or_else(|Refused { code, message }| {
        eprintln!("stockade: {message}");
        code
    })
}

fn attempt(args: &Args) -> Result<u8, Refused> {
    let config = Config::resolve(args)?;
    // Removed at the end of this function, when nothing that it was made for is left.
    let _tmp = make_tmp(&config)?;
    if let Some(managed) = managed::choose(args, &config)? {
        return managed.run(&config);
    }
    // Before anything has to be cleaned up: a pipe is opened when somebody reads it.
    let out = config.events.as_ref().map(events::Destination::open).transpose();
    let out = out.map_err(|error| Refused::new(exit::USAGE, error))?;
    let terminal = Terminal::in_foreground();
    let mut prepared = prepare::prepare(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(Refused::own)?;

    let mut ring = prepared.enforcer.take_ring().map_err(Refused::own)?;
    // Probing has left its own records and counts.
    ring::discard(&mut ring);
    let before = prepared.enforcer.counters(prepare::SCOPE).map_err(Refused::own)?;
    let origin = origin()?;
    let context = Context {
        policy: config.policy.clone(),
        rules: config.image.rules.clone(),
        mounts: config.mounts.clone(),
        boot_id: origin.boot_id.clone(),
        boot_time: boot_time(),
        scope: None,
        names: prepared.gates.names(),
    };
    let begin = story::start(&start(&config, &prepared, &origin)?, &context, boot_ns());
    if let Some(signal) = signals::ended_before_start(&prepared.signals) {
        let code = 128u8.wrapping_add(signal as u8);
        return Err(Refused::new(code, "ended by a signal before the command was started"));
    }
    // There is one thread until here, and that of the DNS gate.
    let pid = launch(&config, &prepared)?;

    let outcome = runtime.block_on(async {
        let sink = out.map(Sink::start).transpose()?;
        let mut trail = Trail::new(context, sink, config.audit_all);
        trail.write(&begin);
        let mut supervisor = Supervisor {
            pid,
            ring: Ring::new(ring)?,
            trail,
            enforcer: &mut prepared.enforcer,
            before,
            asked: &mut prepared.asked,
            egress: config.checked.egress.clone(),
        };
        let status = supervisor.follow(&prepared.signals).await?;
        let emptied = prepared.cgroup.kill_and_remove();
        if let Some(terminal) = &terminal {
            terminal.take_back();
        }
        report::report(supervisor, status, exit::passed_on(status)).await;
        Ok::<_, std::io::Error>((status, emptied))
    });
    let (status, emptied) = outcome.map_err(Refused::own)?;
    if let Err(error) = emptied {
        // Something survives, and stays policed; a later run removes the pins when it is gone.
        std::mem::forget(prepared.pins);
        return Err(Refused::own(error));
    }
    Ok(exit::passed_on(status))
}

fn make_tmp(config: &Config) -> Result<Option<PrivateTmp>, Refused> {
    let make = |path: &PathBuf| {
        PrivateTmp::create(path, config.user.as_ref()).map_err(|error| {
            let message = format!("making {}: {error}; --no-private-tmp does without", path.display());
            Refused::own(message)
        })
    };
    config.tmp.as_ref().map(make).transpose()
}

fn origin() -> Result<Origin, Refused> {
    let caller = user::caller().map_err(|error| Refused::new(exit::USAGE, error))?;
    Ok(Origin::read(caller.map_or_else(|| nix::unistd::getuid().as_raw(), |caller| caller.uid)))
}

fn start<'a>(config: &'a Config, prepared: &Prepared, origin: &'a Origin) -> Result<Start<'a>, Refused> {
    let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Ok(Start {
        program: config.program.clone(),
        words: &config.words,
        ids: config.user.as_ref().map_or(own, |user| (user.uid, user.gid)),
        cgroup_id: prepared.cgroup.id().map_err(Refused::own)?,
        guarantees: prepared.guarantees.clone(),
        degraded: prepared.degraded,
        audit_all: config.audit_all,
        origin,
    })
}

fn launch(config: &Config, prepared: &Prepared) -> Result<Pid, Refused> {
    let join = Join::Procs(prepared.cgroup.procs().map_err(Refused::own)?);
    let child = command(config, join).start().map_err(|error| unstarted(&error))?;
    Ok(Pid::from_raw(child.id() as i32))
}

fn command(config: &Config, join: Join) -> Launch<'_> {
    Launch {
        program: &config.program,
        words: &config.words,
        user: config.user.as_ref(),
        capabilities: config.checked.process.capabilities,
        own_ipc: config.checked.process.allow & ALLOW_IPC == 0,
        tmp: config.tmp.as_deref(),
        join,
    }
}

fn unstarted(error: &LaunchError) -> Refused {
    let code = match error {
        LaunchError::Own { .. } => exit::OWN_FAILURE,
        // A file that is there, and yet "not found", names a loader that is not.
        LaunchError::Exec { program, .. } if !program.exists() => exit::NOT_FOUND,
        LaunchError::Exec { .. } => exit::NOT_EXECUTABLE,
    };
    Refused::new(code, error)
}
