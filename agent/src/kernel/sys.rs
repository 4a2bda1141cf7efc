//! `bpf(2)` commands that aya 0.14 does not offer, or keeps the descriptors of to itself.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    ptr::NonNull,
};

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const MAP_FREEZE: libc::c_long = 22;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const LINK_CREATE: libc::c_long = 28;

const SO_NETNS_COOKIE: libc::c_int = 71;

/// `BPF_MAP_TYPE_HASH`.
pub const MAP_TYPE_HASH: u32 = 1;
/// `BPF_MAP_TYPE_ARRAY`.
pub const MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_LPM_TRIE`.
pub const MAP_TYPE_LPM_TRIE: u32 = 11;
/// `BPF_F_NO_PREALLOC`.
pub const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE` (kernel 5.5).
pub const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_INNER_MAP` (kernel 5.10).
pub const INNER_MAP: u32 = 1 << 12;

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attr` is a `#[repr(C)]` prefix of `union bpf_attr`, whose size is given; pointers in it are to memory that
    // the callers below hold.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

fn descriptor<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: a descriptor the kernel has just given out.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// The shape of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// `MAP_TYPE_*`.
    pub kind: u32,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// Most entries.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
}

/// Makes a map; `name` of at most 15 bytes is seen in `bpftool`.
pub fn map_create(name: &str, shape: Shape) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        inner_map_fd: u32,
        numa_node: u32,
        name: [u8; 16],
    }
    let Shape { kind, key_size, value_size, max_entries, flags } = shape;
    let mut attr = Attr { kind, key_size, value_size, max_entries, flags, ..Attr::default() };
    for (to, from) in attr.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    descriptor(MAP_CREATE, &mut attr)
}

#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn element(map: BorrowedFd<'_>, key: &[u8], value: u64) -> Element {
    Element { map_fd: raw(map), pad: 0, key: key.as_ptr() as u64, value, flags: 0 }
}

/// Sets one element. `key` and `value` must be of the map's sizes.
pub fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    bpf(MAP_UPDATE_ELEM, &mut element(map, key, value.as_ptr() as u64)).map(drop)
}

/// Whether there is an element. `value` must be of the map's value size.
pub fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    match bpf(MAP_LOOKUP_ELEM, &mut element(map, key, value.as_mut_ptr() as u64)) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes one element; true if there was one.
pub fn map_delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    match bpf(MAP_DELETE_ELEM, &mut element(map, key, 0)) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sets many elements. Returns how many the kernel says it has set (kernel 5.6; tries 5.13).
pub fn map_update_batch(map: BorrowedFd<'_>, keys: &[u8], values: &[u8], count: u32) -> io::Result<u32> {
    #[repr(C)]
    struct Attr {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }
    if count == 0 {
        return Ok(0);
    }
    let mut attr = Attr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map_fd: raw(map),
        elem_flags: 0,
        flags: 0,
    };
    bpf(MAP_UPDATE_BATCH, &mut attr)?;
    Ok(attr.count)
}

/// Counts the elements of a hash map or trie, but no further than `limit`.
pub fn map_count(map: BorrowedFd<'_>, key_size: usize, limit: usize) -> io::Result<usize> {
    let (mut key, mut next) = (vec![0u8; key_size], vec![0u8; key_size]);
    for count in 0..=limit {
        let from = if count == 0 { 0 } else { key.as_ptr() as u64 };
        let mut attr =
            Element { map_fd: raw(map), pad: 0, key: from, value: next.as_mut_ptr() as u64, flags: 0 };
        match bpf(MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => std::mem::swap(&mut key, &mut next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(count),
            Err(error) => return Err(error),
        }
    }
    Ok(limit + 1)
}

/// Nobody may change the map by system calls from now on (kernel 5.2).
pub fn map_freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    bpf(MAP_FREEZE, &mut { raw(map) }).map(drop)
}

#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Gives an object a name on a bpffs.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    bpf(OBJ_PIN, &mut Object { pathname: name.as_ptr() as u64, bpf_fd: raw(object), file_flags: 0 }).map(drop)
}

/// Attaches a program whose place was said when it was loaded: LSM and `tp_btf` (kernel 5.7).
pub fn attach_traced(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        name: u64,
        prog_fd: u32,
        pad: u32,
    }
    descriptor(RAW_TRACEPOINT_OPEN, &mut Attr { name: 0, prog_fd: raw(program), pad: 0 })
}

/// Attaches a cgroup program. Flags 0 on a link mean that programs of ancestors and other owners run as well (kernel 5.7).
pub fn attach_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        prog_fd: u32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attr = Attr { prog_fd: raw(program), target_fd: raw(cgroup), attach_type, flags: 0 };
    descriptor(LINK_CREATE, &mut attr)
}
/// Opens what is pinned.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    descriptor(OBJ_GET, &mut Object { pathname: name.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })
}

/// What the kernel says about an object: fills as many bytes of `info` as it knows.
fn info<T: Copy>(object: BorrowedFd<'_>, mut info: T) -> io::Result<T> {
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut attr =
        Attr { bpf_fd: raw(object), info_len: size_of::<T>() as u32, info: (&raw mut info) as u64 };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// First part of `struct bpf_map_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MapInfo {
    /// `MAP_TYPE_*`.
    pub kind: u32,
    /// Kernel id.
    pub id: u32,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// Most entries.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
    /// NUL-padded.
    pub name: [u8; 16],
}

/// Shape and name of a map.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(map, MapInfo::default())
}

/// First part of `struct bpf_link_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkInfo {
    /// `BPF_LINK_TYPE_*`.
    pub kind: u32,
    /// Kernel id.
    pub id: u32,
    /// The program's kernel id.
    pub program: u32,
    pad: u32,
    /// What follows depends on the kind.
    detail: [u64; 6],
}

/// Kind and program of a link.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(link, LinkInfo::default())
}

/// First part of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ProgramInfo {
    /// `BPF_PROG_TYPE_*`.
    pub kind: u32,
    /// Kernel id.
    pub id: u32,
    /// Hash of its instructions.
    pub tag: [u8; 8],
    lengths: [u32; 2],
    instructions: [u64; 2],
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    /// NUL-padded, cut to 15 bytes.
    pub name: [u8; 16],
}

/// An object, by its kernel id.
fn by_id(command: libc::c_long, id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    descriptor(command, &mut Attr { id, next_id: 0, open_flags: 0 })
}

/// Type, tag and name of a program, by its kernel id.
pub fn program_info(id: u32) -> io::Result<ProgramInfo> {
    let program = by_id(PROG_GET_FD_BY_ID, id)?;
    info(program.as_fd(), ProgramInfo::default())
}

/// A map, by its kernel id.
pub fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(MAP_GET_FD_BY_ID, id)
}

/// Cookie of this process's network namespace (kernel 5.14).
pub fn netns_cookie() -> io::Result<u64> {
    // SAFETY: takes numbers only.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just given out.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: writes to a local of the length given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// A map made with `BPF_F_MMAPABLE`, mapped to be read and written (kernel 5.5).
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u64>,
    bytes: usize,
}

impl Mapping {
    /// Maps the first `bytes` of a map's values.
    pub fn new(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping; checked for failure below.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, bytes })
    }

    /// Its first word; valid, as are those behind it, for as long as this is.
    pub fn words(&self) -> NonNull<u64> {
        self.start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, unmapped once.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
