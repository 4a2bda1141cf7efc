//! What `/proc` says about one process. The parsers are functions of text.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use stockade_common::file::{ACCESS_READ, ACCESS_WRITE};

use super::{What, net::behind_fields, shown};

/// Most bytes of an environment, a memory map or a description of a descriptor.
const MAX_TEXT: u64 = 16 << 20;
/// Kinds of descriptors that reach nothing but the process itself.
const HARMLESS: [&str; 8] = [
    "[eventfd]",
    "[eventpoll]",
    "[timerfd]",
    "[signalfd]",
    "inotify",
    "[landlock-ruleset]",
    "[eventfd-file]",
    "dmabuf",
];
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
/// Where device nodes are, and what is there too.
const DEVICES: &str = "/dev/";
const NO_DEVICES: [&str; 3] = ["/dev/shm/", "/dev/mqueue/", "/dev/hugepages/"];
/// What the loader executes at the next start.
const LOADED: [&str; 2] = ["LD_PRELOAD", "LD_AUDIT"];

/// What was found behind a descriptor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A socket, by its inode.
    Socket(u64),
    /// Something else.
    What(What),
    /// Nothing worth a word.
    Nothing,
}

/// What `/proc/PID/fdinfo/FD` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FdInfo {
    flags: i32,
    /// Of a pidfd: whose. -1 if the process is gone, 0 if it is in no namespace of ours.
    pid: Option<i64>,
    /// Of BPF: the type of map, program or link.
    bpf: Option<String>,
}

pub(super) fn fdinfo(text: &str) -> FdInfo {
    let mut info = FdInfo::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key {
            "flags" => info.flags = i32::from_str_radix(value, 8).unwrap_or(0),
            "Pid" => info.pid = value.parse().ok(),
            "map_type" | "prog_type" | "link_type" => info.bpf = Some(format!("{key} {value}")),
            _ => {}
        }
    }
    info
}

/// What a descriptor is, by what its link and its `fdinfo` say. The file itself isn't asked: that could be answered by a
/// process that stands still.
pub(super) fn descriptor(link: &[u8], info: &FdInfo, allowed: &dyn Fn(&Path, u32) -> bool) -> Found {
    let text = String::from_utf8_lossy(link);
    let numbered =
        |kind: &str| text.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse::<u64>().ok();
    if let Some(inode) = numbered("socket") {
        return Found::Socket(inode);
    }
    if numbered("pipe").is_some() {
        return Found::Nothing;
    }
    if numbered("pidfd").is_some() || text == "anon_inode:[pidfd]" {
        return Found::What(What::Pidfd {
            pid: info.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0),
        });
    }
    if let Some(kind) = NAMESPACES.into_iter().find(|kind| numbered(kind).is_some()) {
        return Found::What(What::Namespace { kind: kind.into(), link: text.into_owned() });
    }
    if let Some(kind) = text.strip_prefix("anon_inode:") {
        return match kind {
            "[io_uring]" => Found::What(What::IoUring),
            _ if kind.starts_with("bpf") => {
                Found::What(What::Bpf { kind: info.bpf.clone().unwrap_or_else(|| kind.to_owned()) })
            }
            _ if HARMLESS.contains(&kind) => Found::Nothing,
            _ => Found::What(What::Other { kind: kind.trim_matches(['[', ']']).to_owned() }),
        };
    }
    if !link.starts_with(b"/") {
        return Found::What(What::Other { kind: shown(link) });
    }
    // An open that opened nothing: each use of it is looked at again.
    if info.flags & libc::O_PATH != 0 {
        return Found::Nothing;
    }
    let access = match info.flags & libc::O_ACCMODE {
        libc::O_RDONLY => ACCESS_READ,
        libc::O_WRONLY => ACCESS_WRITE,
        _ => ACCESS_READ | ACCESS_WRITE,
    };
    if link.starts_with(b"/memfd:") {
        return Found::What(What::Memory { name: shown(without_deleted(link)) });
    }
    if link.ends_with(b" (deleted)") {
        return Found::What(What::Deleted { path: shown(without_deleted(link)), access });
    }
    if allowed(Path::new(std::ffi::OsStr::from_bytes(link)), access) {
        return Found::Nothing;
    }
    let path = shown(link);
    let is_device = text.starts_with(DEVICES) && !NO_DEVICES.iter().any(|other| text.starts_with(other));
    Found::What(if info.flags & libc::O_DIRECTORY != 0 {
        What::Directory { path }
    } else if is_device {
        What::Device { path, access }
    } else {
        What::File { path, access }
    })
}

fn without_deleted(link: &[u8]) -> &[u8] {
    link.strip_suffix(b" (deleted)").unwrap_or(link)
}

/// A line of `/proc/PID/maps`: a mapping that changes a file, or memory that others have too.
pub(super) fn mapping(line: &str, allowed: &dyn Fn(&Path, u32) -> bool) -> Option<What> {
    let permissions = line.split_ascii_whitespace().nth(1)?.as_bytes();
    if permissions.get(1) != Some(&b'w') || permissions.get(3) != Some(&b's') {
        return None;
    }
    let path = behind_fields(line, 5)?;
    // Memory that only who was forked from the same process can have.
    if !path.starts_with('/') || path == "/dev/zero (deleted)" {
        return None;
    }
    let is_gone = path.ends_with(" (deleted)");
    (is_gone || !allowed(Path::new(path), ACCESS_WRITE))
        .then(|| What::Mapping { path: shown(path.as_bytes()) })
}

/// Variables of an environment by which the loader executes files.
pub(super) fn preloads(environment: &[u8]) -> Vec<What> {
    let variables = environment.split(|byte| *byte == 0);
    variables
        .filter_map(|variable| {
            let at = variable.iter().position(|byte| *byte == b'=')?;
            let name = LOADED.into_iter().find(|name| name.as_bytes() == &variable[..at])?;
            let value = &variable[at + 1..];
            (!value.is_empty()).then(|| What::Preload { variable: name.into(), value: shown(value) })
        })
        .collect()
}

/// Who traces a thread, by the text of its status; `None` if nobody does.
pub(super) fn tracer(status: &str) -> Option<u32> {
    let value = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    value.trim().parse().ok().filter(|pid| *pid != 0)
}

/// A file of /proc.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_TEXT} bytes")));
    }
    Ok(bytes)
}

/// Numbers that are names of entries in a directory: processes, threads, descriptors.
pub(super) fn numbered(directory: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            all.push((number, entry.path()));
        }
    }
    all.sort();
    Ok(all)
}

/// What a socket that is in no table is called, by the attribute that the kernel gives each of them.
pub(super) fn protocol(descriptor: &Path) -> Option<String> {
    let path = std::ffi::CString::new(descriptor.as_os_str().as_bytes()).ok()?;
    let mut name = [0_u8; 64];
    // SAFETY: both strings end in NUL, and the buffer has the length that is given.
    let length = unsafe {
        libc::getxattr(path.as_ptr(), c"system.sockprotoname".as_ptr(), name.as_mut_ptr().cast(), name.len())
    };
    let bytes = name.get(..usize::try_from(length).ok()?)?;
    Some(shown(bytes.split(|byte| *byte == 0).next()?)).filter(|name| !name.is_empty())
}

/// Whether a thread has descriptors of its own, apart from those of its process. Where the kernel does not say: yes.
pub(super) fn has_own_descriptors(process: u32, thread: u32) -> bool {
    const KCMP_FILES: libc::c_int = 2;
    let none: libc::c_ulong = 0;
    // SAFETY: takes numbers only.
    let compared = unsafe { libc::syscall(libc::SYS_kcmp, process, thread, KCMP_FILES, none, none) };
    compared != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nothing(_: &Path, _: u32) -> bool {
        false
    }

    fn found(link: &str, info: &str) -> Found {
        descriptor(link.as_bytes(), &fdinfo(info), &nothing)
    }

    #[test]
    fn descriptors_are_told_apart() {
        let flags = |flags: i32| format!("pos:\t0\nflags:\t0{flags:o}\nmnt_id:\t29\n");
        assert_eq!(found("socket:[7]", ""), Found::Socket(7));
        for link in ["pipe:[7]", "anon_inode:[eventpoll]", "anon_inode:inotify"] {
            assert_eq!(found(link, ""), Found::Nothing, "{link}");
        }
        assert_eq!(found("/x", &flags(libc::O_PATH)), Found::Nothing);
        for (link, info, expected) in [
            ("anon_inode:[pidfd]", "Pid:\t42\nNSpid:\t42\n".to_owned(), What::Pidfd { pid: Some(42) }),
            ("pidfd:[99]", "Pid:\t-1\n".to_owned(), What::Pidfd { pid: None }),
            (
                "net:[4026531840]",
                String::new(),
                What::Namespace { kind: "net".into(), link: "net:[4026531840]".into() },
            ),
            ("anon_inode:[io_uring]", String::new(), What::IoUring),
            ("anon_inode:bpf-map", "map_type:\t2\n".to_owned(), What::Bpf { kind: "map_type 2".into() }),
            ("anon_inode:[userfaultfd]", String::new(), What::Other { kind: "userfaultfd".into() }),
            ("/memfd:x (deleted)", flags(2), What::Memory { name: "/memfd:x".into() }),
            (
                "/tmp/a\nb (deleted)",
                flags(0),
                What::Deleted { path: "/tmp/a\\nb".into(), access: ACCESS_READ },
            ),
            ("/srv", flags(libc::O_DIRECTORY), What::Directory { path: "/srv".into() }),
            ("/dev/sda", flags(1), What::Device { path: "/dev/sda".into(), access: ACCESS_WRITE }),
            ("/dev/shm/x", flags(0), What::File { path: "/dev/shm/x".into(), access: ACCESS_READ }),
            ("/etc/shadow", flags(1), What::File { path: "/etc/shadow".into(), access: ACCESS_WRITE }),
            (
                "/etc/shadow",
                flags(2 | libc::O_APPEND),
                What::File { path: "/etc/shadow".into(), access: ACCESS_READ | ACCESS_WRITE },
            ),
        ] {
            assert_eq!(found(link, &info), Found::What(expected), "{link}");
        }
        let readable = |path: &Path, access: u32| path.starts_with("/etc") && access == ACCESS_READ;
        let at = |path: &str, mode: i32| descriptor(path.as_bytes(), &fdinfo(&flags(mode)), &readable);
        assert_eq!(at("/etc/hosts", 0), Found::Nothing);
        assert_ne!(at("/etc/hosts", 1), Found::Nothing);
    }

    #[test]
    fn only_mappings_that_change_something_count() {
        let of = |line: &str| mapping(line, &|path, _| path.starts_with("/srv"));
        let found = |path: &str| Some(What::Mapping { path: path.into() });
        assert_eq!(of("7f0-7f1 rw-s 00000000 08:01 12 /var/x y"), found("/var/x y"));
        assert_eq!(of("7f0-7f1 -w-s 00000000 00:01 12 /SYSV0000 (deleted)"), found("/SYSV0000 (deleted)"));
        for line in [
            "7f0-7f1 rw-p 00000000 08:01 12 /var/x",
            "7f0-7f1 r--s 00000000 08:01 12 /var/x",
            "7f0-7f1 rw-s 00000000 00:01 12 /dev/zero (deleted)",
            "7f0-7f1 rw-s 00000000 08:01 12 /srv/x",
            "7f0-7f1 rw-p 00000000 00:00 0",
            "",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn preloads_and_tracers_are_read() {
        let found = preloads(b"A=1\0LD_PRELOAD=/tmp/x.so\0LD_AUDIT=\0XLD_PRELOAD=y\0");
        assert_eq!(found, [What::Preload { variable: "LD_PRELOAD".into(), value: "/tmp/x.so".into() }]);
        assert_eq!(tracer("Name:\tx\nTracerPid:\t12\n"), Some(12));
        assert_eq!(tracer("Name:\tx\nTracerPid:\t0\n"), None);
    }

    proptest! {
        #[test]
        fn nothing_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in ".{0,80}") {
            let _ = descriptor(&bytes, &fdinfo(&text), &nothing);
            let _ = (mapping(&text, &nothing), preloads(&bytes), tracer(&text));
        }
    }
}
