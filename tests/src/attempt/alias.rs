//! Reaching a file by another name than its own.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::process::id;
use std::ptr::null;

use super::open::{open, open_at, read, split};
use super::{Attempt, Verb, or_skip, own, text};

pub const VERBS: &[Verb] = &[
    ("symlink-open", 2, |a| {
        let name = format!("{}/symlink.{}", a[0], id());
        symlink(&a[1], &name)?;
        read(open(&name, libc::O_RDONLY)?)
    }),
    ("hardlink-open", 2, |a| {
        let name = format!("{}/hardlink.{}", a[0], id());
        fs::hard_link(&a[1], &name)?;
        let result = open(&name, libc::O_RDONLY).and_then(read);
        fs::remove_file(&name)?;
        result
    }),
    ("rename-into", 2, |a| {
        let name = format!("{}/renamed.{}", a[0], id());
        fs::rename(&a[1], &name)?;
        let result = open(&name, libc::O_RDONLY).and_then(read);
        fs::rename(&name, &a[1])?;
        result
    }),
    ("handle-open", 1, handle),
    ("userns-bind", 2, |a| {
        user_namespace()?;
        bind(a)
    }),
    ("userns-overlay", 2, |a| {
        user_namespace()?;
        overlay_read(a)
    }),
    ("userns-overlay-copy", 2, |a| {
        user_namespace()?;
        overlay_copy(a)
    }),
    ("bind", 2, |a| {
        sys!(SYS_unshare, libc::CLONE_NEWNS)?;
        bind(a)
    }),
    ("open_tree-clone", 1, |a| {
        let (dir, name) = split(&a[0])?;
        let dir = text(dir)?;
        // OPEN_TREE_CLONE is 1.
        let tree = sys!(SYS_open_tree, libc::AT_FDCWD, dir.as_ptr(), 1 | libc::O_CLOEXEC);
        let tree = own(or_skip(tree, "open_tree")?);
        read(open_at(tree.as_raw_fd(), name, libc::O_RDONLY)?)
    }),
    ("chroot-open", 1, |a| {
        let (dir, name) = split(&a[0])?;
        std::os::unix::fs::chroot(dir)?;
        read(open(&format!("/{name}"), libc::O_RDONLY)?)
    }),
];

fn handle(args: &[String]) -> Attempt {
    let (dir, _) = split(&args[0])?;
    // Any open file of the same filesystem will do; the workspace is one that may be opened.
    let mount = open(dir, libc::O_RDONLY | libc::O_DIRECTORY)
        .or_else(|_| open("/scenario/work", libc::O_RDONLY | libc::O_DIRECTORY))?;
    let path = text(&args[0])?;
    // struct file_handle: byte count, type, then at most 128 bytes.
    let mut handle = [0u32; 34];
    handle[0] = 128;
    let mut mount_id = 0i32;
    let named =
        sys!(SYS_name_to_handle_at, libc::AT_FDCWD, path.as_ptr(), handle.as_mut_ptr(), &raw mut mount_id, 0);
    match named {
        Err(super::Failure::Os(nix::errno::Errno::EOPNOTSUPP)) => {
            return Err(super::Failure::Skip("no file handles on this filesystem".into()));
        }
        other => other?,
    };
    read(own(sys!(SYS_open_by_handle_at, mount.as_raw_fd(), handle.as_mut_ptr(), libc::O_RDONLY)?))
}

fn user_namespace() -> Attempt {
    // SAFETY: these calls take and return plain numbers.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    sys!(SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    Ok(())
}

fn mount(source: &str, target: &str, kind: &str, flags: u64, data: &str) -> Attempt {
    let (source, target, kind, data) = (text(source)?, text(target)?, text(kind)?, text(data)?);
    let data = if data.is_empty() { null() } else { data.as_ptr() };
    sys!(SYS_mount, source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data)?;
    Ok(())
}

fn bind(args: &[String]) -> Attempt {
    let (dir, name) = split(&args[1])?;
    let point = format!("{}/bind.{}", args[0], id());
    fs::create_dir(&point)?;
    mount(dir, &point, "none", libc::MS_BIND, "")?;
    read(open(&format!("{point}/{name}"), libc::O_RDONLY)?)
}

/// An overlay over the file's directory; where its upper and merged directories are, and the file's name.
fn overlay(args: &[String]) -> Result<(String, String, &str), super::Failure> {
    let (dir, name) = split(&args[1])?;
    let base = format!("{}/overlay.{}", args[0], id());
    for part in ["upper", "work", "merged"] {
        fs::create_dir_all(format!("{base}/{part}"))?;
    }
    let options = format!("lowerdir={dir},upperdir={base}/upper,workdir={base}/work");
    match mount("overlay", &format!("{base}/merged"), "overlay", 0, &options) {
        Err(super::Failure::Os(nix::errno::Errno::ENODEV)) => {
            return Err(super::Failure::Skip("no overlayfs in this kernel".into()));
        }
        other => other?,
    }
    Ok((format!("{base}/upper"), format!("{base}/merged"), name))
}

fn overlay_read(args: &[String]) -> Attempt {
    let (_, merged, name) = overlay(args)?;
    read(open(&format!("{merged}/{name}"), libc::O_RDONLY)?)
}

/// A change of times has the file copied into the upper directory, which is the caller's own.
fn overlay_copy(args: &[String]) -> Attempt {
    let (upper, merged, name) = overlay(args)?;
    let path = text(&format!("{merged}/{name}"))?;
    sys!(SYS_utimensat, libc::AT_FDCWD, path.as_ptr(), null::<libc::timespec>(), 0)?;
    read(open(&format!("{upper}/{name}"), libc::O_RDONLY)?)
}
