//! Verbs by family, and the dispatch over them.

/// Makes a system call that no library wraps, or that must not be wrapped to test the exact variant.
macro_rules! sys {
    ($nr:ident $(, $arg:expr)* $(,)?) => {{
        // SAFETY: the arguments are numbers, or pointers to live values of the size the call expects.
        $crate::attempt::outcome(unsafe { libc::syscall(libc::$nr $(, $arg as usize)*) })
    }};
}

mod alias;
mod change;
mod dns;
mod exec;
mod inside;
mod listen;
mod look;
mod net;
mod open;
mod privilege;
mod process;
mod unix;
mod uring;
mod ways;
mod xattr;

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Why an operation did not happen.
pub enum Failure {
    /// The kernel refused or failed.
    Os(Errno),
    /// The operation cannot exist here.
    Skip(String),
    /// The verb was called wrongly.
    Usage(String),
}

/// What a verb returns.
pub type Attempt<T = ()> = Result<T, Failure>;

/// One verb: its name, how many arguments it takes, what it does.
pub type Verb = (&'static str, usize, fn(&[String]) -> Attempt);

const FAMILIES: [&[Verb]; 15] = [
    open::VERBS,
    alias::VERBS,
    change::VERBS,
    exec::VERBS,
    look::VERBS,
    net::VERBS,
    dns::VERBS,
    unix::VERBS,
    process::VERBS,
    privilege::VERBS,
    uring::VERBS,
    ways::VERBS,
    xattr::VERBS,
    inside::VERBS,
    listen::VERBS,
];

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Os(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

/// The result of a raw system call.
pub fn outcome(returned: libc::c_long) -> Attempt<libc::c_long> {
    if returned < 0 { Err(Failure::Os(Errno::last())) } else { Ok(returned) }
}

/// Takes ownership of a descriptor the kernel just returned.
pub fn own(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the caller passes a descriptor a system call just created, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// A string for the kernel.
pub fn text(value: &str) -> Attempt<CString> {
    CString::new(value).map_err(|_| Failure::Usage("NUL in an argument".into()))
}

/// A number in an argument.
pub fn number<T: std::str::FromStr>(value: &str) -> Attempt<T> {
    value.parse().map_err(|_| Failure::Usage(format!("not a number: {value}")))
}

/// Turns "this kernel has no such thing" into a skip; a policy never answers so.
pub fn or_skip<T>(result: Attempt<T>, what: &str) -> Attempt<T> {
    match result {
        Err(Failure::Os(
            e @ (Errno::ENOSYS | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT),
        )) => Err(Failure::Skip(format!("{what}: {e:?}"))),
        other => other,
    }
}

/// Runs `attempt`'s command line.
pub fn main(args: &[String]) -> Result<(), String> {
    if let [flag, file] = args
        && flag == "--batch"
    {
        return batch(file);
    }
    report(args)
}

/// Each line in a child of its own, so that chroot, unshare or a crash stays there.
fn batch(file: &str) -> Result<(), String> {
    let mut lines = String::new();
    if file == "-" {
        io::stdin().read_to_string(&mut lines).map_err(|e| format!("standard input: {e}"))?;
    } else {
        lines = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    }
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        // SAFETY: this process has one thread, so the child may do anything.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let code = report(&args).map_or_else(
                |message| {
                    println!("error USAGE {message}");
                    2
                },
                |()| 0,
            );
            std::process::exit(code);
        }
        let status = process::wait(pid).map_err(|_| "cannot fork or wait".to_owned())?;
        if libc::WIFSIGNALED(status) {
            println!("error SIGNAL_{}", libc::WTERMSIG(status));
        }
    }
    Ok(())
}

fn report(args: &[String]) -> Result<(), String> {
    let Some((name, rest)) = args.split_first() else {
        return Err("usage: attempt VERB ARGS… | attempt --batch FILE|-".into());
    };
    let Some((_, arity, run)) = FAMILIES.iter().flat_map(|family| family.iter()).find(|verb| verb.0 == name)
    else {
        return Err(format!("no verb `{name}`"));
    };
    if rest.len() != *arity {
        return Err(format!("{name} takes {arity} arguments, not {}", rest.len()));
    }
    let line = match run(rest) {
        Ok(()) => "allowed".to_owned(),
        Err(Failure::Os(errno @ (Errno::EPERM | Errno::EACCES | Errno::EXDEV))) => {
            format!("denied {errno:?}")
        }
        Err(Failure::Os(errno)) => format!("error {errno:?}"),
        Err(Failure::Skip(reason)) => format!("skipped {reason}"),
        Err(Failure::Usage(message)) => return Err(message),
    };
    println!("{line}");
    io::stdout().flush().map_err(|e| e.to_string())
}
