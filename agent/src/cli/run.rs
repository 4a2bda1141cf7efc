//! `stockade run`: a command in a tagged cgroup.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    time::{SystemTime, UNIX_EPOCH},
};

use aya::maps::{MapData, RingBuf};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{self, SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use stockade_common::{
    counter::Counter,
    tag::{SLOT_AUDIT_ALL, SLOT_CGROUP_EMITS, SLOT_ENFORCE},
};

use super::{exit, guarantee::Proof, host, remedy};
use crate::{
    audit::{
        decode,
        json::{self, Context},
        summary::Summary,
    },
    kernel::{Enforcer, LoadOptions, Slot, remove_stale_pins},
    policy::{
        check::{self, Overlay},
        checked::{CheckedPolicy, Mode},
        compile,
        mounts::MountTable,
        parse,
    },
    scope::{
        cgroup::{self, OwnCgroup},
        command,
        launch::Launch,
        user,
    },
};

const SLOT: Slot = Slot(1);
/// Signals that are passed on.
const FORWARDED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// `stockade run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Policy file.
    #[arg(long)]
    policy: Option<PathBuf>,
    /// Directory that may be read, changed and executed below.
    #[arg(long)]
    workspace: Option<PathBuf>,
    /// Destination that may be reached: host-or-prefix[:ports][/proto].
    #[arg(long, value_name = "RULE")]
    allow_net: Vec<String>,
    /// Destination that may not be reached, whatever is allowed.
    #[arg(long, value_name = "RULE")]
    deny_net: Vec<String>,
    /// Files that may be read.
    #[arg(long, value_name = "GLOB")]
    allow_read: Vec<String>,
    /// Files that may be changed.
    #[arg(long, value_name = "GLOB")]
    allow_write: Vec<String>,
    /// Files that may be executed.
    #[arg(long, value_name = "GLOB")]
    allow_exec: Vec<String>,
    /// Files that may not be read.
    #[arg(long, value_name = "GLOB")]
    deny_read: Vec<String>,
    /// Files that may not be changed.
    #[arg(long, value_name = "GLOB")]
    deny_write: Vec<String>,
    /// Files that may not be executed.
    #[arg(long, value_name = "GLOB")]
    deny_exec: Vec<String>,
    /// Files that may not be touched at all.
    #[arg(long, value_name = "GLOB")]
    deny_file: Vec<String>,
    /// Enforce, or only report what would be denied.
    #[arg(long, value_parser = ["enforce", "audit"])]
    mode: Option<String>,
    /// Where events go as JSON lines; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// `all` also reports allowed reads and sends.
    #[arg(long, value_parser = ["default", "all"], default_value = "default")]
    audit: String,
    /// Start although only the network can be policed.
    #[arg(long, value_parser = ["network-only"])]
    allow_degraded: Option<String>,
    /// Run as this user; through sudo it is who called it.
    #[arg(long)]
    user: Option<String>,
    /// Leave a command that runs as root all capabilities.
    #[arg(long)]
    keep_capabilities: bool,
    /// Command and arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Why nothing was run: exit code and message.
struct Refused(u8, String);

impl Refused {
    fn own(error: impl std::fmt::Display) -> Self {
        Self(exit::OWN_FAILURE, error.to_string())
    }
}

/// Runs the command; returns the exit code.
#[must_use]
pub fn run(args: &Args) -> u8 {
    supervise(args).unwrap_or_else(|Refused(code, message)| {
        eprintln!("stockade: {message}");
        code
    })
}

fn supervise(args: &Args) -> Result<u8, Refused> {
    let program = command::resolve(Path::new(&args.command[0])).map_err(|why| {
        let name = args.command[0].to_string_lossy();
        match why {
            command::Unusable::NotFound => Refused(exit::NOT_FOUND, format!("{name}: not found")),
            command::Unusable::NotExecutable => {
                Refused(exit::NOT_EXECUTABLE, format!("{name}: not executable"))
            }
        }
    })?;
    let user = user::target(args.user.as_deref()).map_err(|message| Refused(exit::USAGE, message))?;
    let policy = policy(args, &program, user.as_ref())?;
    let mountinfo = fs::read("/proc/self/mountinfo").map_err(Refused::own)?;
    let mounts = MountTable::parse(&mountinfo).map_err(Refused::own)?;
    let (image, _) =
        compile::compile(&policy, &mounts).map_err(|error| Refused(exit::USAGE, error.to_string()))?;

    let unavailable = |why: String| Refused(exit::UNAVAILABLE, format!("{why}\nnothing was started"));
    if !host::is_root() {
        return Err(unavailable("enforcement needs root: run with sudo".into()));
    }
    remedy::kernel().map_err(unavailable)?;
    // From here on there is something to clean up: a signal waits until that can be done.
    let signals = block_signals().map_err(Refused::own)?;
    let name = format!("stockade-{}", std::process::id());
    let cgroup = OwnCgroup::create(&name).map_err(|error| unavailable(error.to_string()))?;
    let proved = |network_only| {
        let options = LoadOptions {
            network_only,
            max_accepts: image.accepts.len() as u32,
            max_ports: image.ports.len() as u32,
            debug_log: false,
        };
        let (enforcer, findings) = host::enforce(&options, &cgroup)?;
        for (guarantee, proof) in findings {
            if let Proof::Failed(why) = proof {
                return Err(format!("{}: {why}", guarantee.name));
            }
        }
        Ok(enforcer)
    };
    // Degraded is allowed, not asked for: a host that can police files does.
    let whole: Result<Enforcer, String> = remedy::bpf_lsm().and_then(|()| proved(false));
    let degraded = whole.is_err();
    let mut enforcer = match whole {
        Err(why) if args.allow_degraded.is_some() => {
            eprintln!("stockade: {why}");
            proved(true).map_err(unavailable)?
        }
        whole => whole.map_err(unavailable)?,
    };
    if degraded {
        eprintln!("stockade: degraded: files are not policed, only connects, sends and sockets");
    }
    enforcer.apply(SLOT, &image).map_err(Refused::own)?;
    let mut flags = if policy.mode == Mode::Enforce { SLOT_ENFORCE } else { 0 };
    if args.audit == "all" {
        flags |= SLOT_AUDIT_ALL;
    }
    if degraded {
        flags |= SLOT_CGROUP_EMITS;
    }
    enforcer.configure(SLOT, flags).map_err(Refused::own)?;
    enforcer.tag(cgroup.id().map_err(Refused::own)?, SLOT).map_err(Refused::own)?;

    remove_stale_pins(Path::new(host::PINS), |name| {
        // A run that was killed leaves processes behind that its pins still police: only with the cgroup they go.
        cgroup::exists(name).unwrap_or(true)
    })
    .map_err(Refused::own)?;
    let pins = enforcer
        .pin(&Path::new(host::PINS).join(&name))
        .map_err(|error| unavailable(remedy::explain(&error)))?;
    // Dropped in reverse order: whatever happens from here on, the cgroup is emptied while it is still policed.
    let cgroup = cgroup;

    let context = Context { rules: image.rules, mounts, boot_time_ns: boot_time() };
    let mut audit = Audit::open(args.events.as_deref(), context, &mut enforcer)?;
    // Probing has left its own records.
    audit.discard();
    let launch = Launch {
        program: &program,
        words: &args.command,
        user: user.as_ref(),
        keep_capabilities: args.keep_capabilities,
        procs: cgroup.procs().map_err(Refused::own)?,
    };
    if let Ok(Some(info)) = signals.read_signal() {
        let code = 128u8.wrapping_add(info.ssi_signo as u8);
        return Err(Refused(code, "ended by a signal before the command was started".into()));
    }
    let mut child = launch.start().map_err(|error| {
        let code =
            if error.raw_os_error() == Some(libc::ENOENT) { exit::NOT_FOUND } else { exit::NOT_EXECUTABLE };
        Refused(code, format!("{}: {error}", program.display()))
    })?;
    let status = audit.follow(&mut child, &signals).map_err(Refused::own)?;
    if let Err(error) = cgroup.kill_and_remove() {
        // Something survives, and stays policed; a later run removes the pins when the cgroup is gone.
        std::mem::forget(pins);
        return Err(Refused::own(error));
    }
    audit.finish(&mut enforcer);
    // In this order: the kernel detaches a link in the background when a pin was the last to hold it, while closing the
    // last descriptor waits for it (20 LSM links: 3 s on 6.12).
    drop(enforcer);
    drop(pins);
    Ok(exit::passed_on(status))
}

fn policy(args: &Args, program: &Path, user: Option<&user::User>) -> Result<CheckedPolicy, Refused> {
    let usage = |error: &dyn std::fmt::Display| Refused(exit::USAGE, error.to_string());
    let parsed = match &args.policy {
        None => None,
        Some(path) => {
            let source = parse::read(path).map_err(|error| usage(&error))?;
            let policy = parse::parse(&source).map_err(|error| usage(&error))?;
            Some((source, policy))
        }
    };
    let workspace = args.workspace.as_ref().map(|path| {
        fs::canonicalize(path)
            .and_then(|real| if real.is_dir() { Ok(real) } else { Err(io::ErrorKind::NotADirectory.into()) })
            .map_err(|error| Refused(exit::USAGE, format!("--workspace {}: {error}", path.display())))
    });
    let overlay = Overlay {
        workspace: workspace.transpose()?,
        allow_net: args.allow_net.clone(),
        deny_net: args.deny_net.clone(),
        allow_read: args.allow_read.clone(),
        allow_write: args.allow_write.clone(),
        allow_exec: args.allow_exec.clone(),
        deny_read: args.deny_read.clone(),
        deny_write: args.deny_write.clone(),
        deny_exec: args.deny_exec.clone(),
        deny_file: args.deny_file.clone(),
        command: command::files(program).map_err(|error| usage(&error))?,
        mode: args.mode.as_deref().map(|mode| if mode == "audit" { Mode::Audit } else { Mode::Enforce }),
        home: user
            .map(|user| PathBuf::from(&user.home))
            .or_else(|| std::env::var_os("HOME").map(PathBuf::from)),
        user: user.map(|user| user.name.clone()).or_else(|| std::env::var("USER").ok()),
    };
    check::check(parsed.as_ref().map(|(source, policy)| (source, policy)), &overlay)
        .map_err(|error| usage(&error))
}

/// Wall-clock time of boot, suspend included.
fn boot_time() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i128);
    let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()));
    now - since_boot
}

fn block_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in FORWARDED {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

struct Audit {
    ring: RingBuf<MapData>,
    sink: Option<Box<dyn Write>>,
    context: Context,
    summary: Summary,
    undecoded: u64,
}

impl Audit {
    fn open(path: Option<&Path>, context: Context, enforcer: &mut Enforcer) -> Result<Self, Refused> {
        let sink: Option<Box<dyn Write>> =
            match path {
                None => None,
                Some(path) if path == Path::new("-") => Some(Box::new(io::stdout())),
                Some(path) => Some(Box::new(File::create(path).map_err(|error| {
                    Refused(exit::USAGE, format!("--events {}: {error}", path.display()))
                })?)),
            };
        let ring = enforcer.take_ring().map_err(Refused::own)?;
        Ok(Self { ring, sink, context, summary: Summary::default(), undecoded: 0 })
    }

    fn discard(&mut self) {
        while self.ring.next().is_some() {}
    }

    fn drain(&mut self) {
        // The record is taken out of the ring before it is written.
        while let Some(record) = self.ring.next().map(|item| decode::decode(&item)) {
            match record {
                Ok(record) => {
                    self.summary.add(&record, &self.context);
                    self.write(&json::event(&record, &self.context));
                }
                Err(_) => self.undecoded += 1,
            }
        }
    }

    fn write(&mut self, line: &serde_json::Value) {
        if let Some(sink) = &mut self.sink
            && let Err(error) = writeln!(sink, "{line}")
        {
            eprintln!("stockade: events are lost from here on: {error}");
            self.sink = None;
        }
    }

    /// Until the child has ended: events are written, signals passed on.
    fn follow(&mut self, child: &mut Child, signals: &SignalFd) -> io::Result<ExitStatus> {
        let pid = Pid::from_raw(child.id() as i32);
        loop {
            self.drain();
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let mut fds = [
                PollFd::new(self.ring.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::from(20u8)) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            while let Ok(Some(info)) = signals.read_signal() {
                // What the terminal sends (SI_KERNEL) goes to the whole foreground group, the child included.
                let from_terminal = info.ssi_code == libc::SI_KERNEL;
                if let Ok(signal) = Signal::try_from(info.ssi_signo as i32)
                    && !from_terminal
                {
                    // It may have ended meanwhile.
                    let _ = signal::kill(pid, signal);
                }
            }
        }
    }

    /// The rest of the events, what was lost, and the summary.
    fn finish(&mut self, enforcer: &mut Enforcer) {
        self.drain();
        match enforcer.counters() {
            Ok(counters) => {
                let denied = counters[Counter::LostDenied as usize];
                let other = counters[Counter::LostOther as usize] + self.undecoded;
                if denied + other > 0 {
                    self.write(&json::gap(denied, other));
                    eprintln!("stockade: {denied} events of refusals and {other} others were lost");
                }
            }
            Err(error) => eprintln!("stockade: the loss counters cannot be read: {error}"),
        }
        if let Some(sink) = &mut self.sink
            && let Err(error) = sink.flush()
        {
            eprintln!("stockade: writing events: {error}");
        }
        if let Some(summary) = self.summary.render() {
            eprint!("{summary}");
        }
    }
}
