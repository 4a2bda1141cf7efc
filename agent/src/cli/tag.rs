//! `stockade tag` and `stockade untag`.

use std::{
    io::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use super::daemon::{Failure, Socket, done};
use crate::{
    audit::name::escape,
    daemon::{
        api::handle::{Tag, Untag},
        command::{Tagged, Target},
    },
    scope::cgroup,
};

/// `stockade tag`.
#[derive(Debug, clap::Args)]
pub struct TagArgs {
    /// A cgroup (begins with /), a systemd unit, or the id of a process, which stands for the cgroup it is in.
    #[arg(value_name = "CGROUP|UNIT|PID")]
    target: String,
    /// The policy to hold it to, by its scope's name.
    #[arg(long, value_name = "NAME")]
    policy: String,
    #[command(flatten)]
    socket: Socket,
}

/// `stockade untag`.
#[derive(Debug, clap::Args)]
pub struct UntagArgs {
    /// A cgroup (begins with /), a systemd unit, or the id of a process, which stands for the cgroup it is in.
    #[arg(value_name = "CGROUP|UNIT|PID")]
    target: String,
    #[command(flatten)]
    socket: Socket,
}

/// Tags.
#[must_use]
pub fn tag(args: &TagArgs) -> u8 {
    done(async {
        let body = Tag { target: target(&args.target)?, scope: args.policy.clone() };
        let tagged: Tagged = args.socket.client().post("/v1/tag", &body).await?;
        Ok(say(&tagged, "is held to")?)
    })
}

/// Lets go.
#[must_use]
pub fn untag(args: &UntagArgs) -> u8 {
    done(async {
        let body = Untag { target: target(&args.target)? };
        let tagged: Tagged = args.socket.client().post("/v1/untag", &body).await?;
        Ok(say(&tagged, "is no longer held to")?)
    })
}

fn say(tagged: &Tagged, what: &str) -> io::Result<()> {
    let Tagged { cgroup, scope, held } = tagged;
    let path = escape(cgroup.path.as_os_str().as_bytes());
    let mut out = io::stdout().lock();
    writeln!(out, "{path} {what} {}, {} processes", escape(scope.as_bytes()), cgroup.processes)?;
    for text in cgroup.window.iter().chain(held) {
        writeln!(out, "  {}", escape(text.as_bytes()))?;
    }
    Ok(())
}

fn target(text: &str) -> Result<Target, Failure> {
    let mount = text.starts_with('/').then(cgroup::hierarchy).and_then(Result::ok);
    meant(text, mount.as_deref())
}

/// A path below the hierarchy's mount point is meant as one from its root.
fn meant(text: &str, mount: Option<&Path>) -> Result<Target, Failure> {
    if text.starts_with('/') {
        let path = Path::new(text);
        let inside = mount.and_then(|mount| path.strip_prefix(mount).ok());
        return Ok(Target::Cgroup(Path::new("/").join(inside.unwrap_or(path))));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return match text.parse() {
            Ok(pid) if pid != 0 => Ok(Target::Pid(pid)),
            _ => Err(Failure::Usage(format!("{text} is no process id"))),
        };
    }
    if text.is_empty() || text.contains('/') {
        let message = format!("{text:?} is no unit; a cgroup begins with /, as in /proc/PID/cgroup");
        return Err(Failure::Usage(message));
    }
    Ok(Target::Unit(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_told_by_how_it_looks() {
        let of = |text| meant(text, Some(Path::new("/sys/fs/cgroup"))).ok();
        assert_eq!(of("/ci.slice"), Some(Target::Cgroup("/ci.slice".into())));
        assert_eq!(of("/sys/fs/cgroup/ci.slice"), Some(Target::Cgroup("/ci.slice".into())));
        assert_eq!(of("runner@1.service"), Some(Target::Unit("runner@1.service".into())));
        assert_eq!(of("1234"), Some(Target::Pid(1234)));
        for wrong in ["", "0", "99999999999", "ci.slice/x"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
