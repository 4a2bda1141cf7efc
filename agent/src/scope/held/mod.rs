//! What processes held before they were tagged, and go on holding: a policy looks at what is opened, not at what is open.
//!
//! Not seen are descriptors that are under way in sockets, and files that were registered with an io_uring instance, which
//! is reported for that. Anonymous pipes are not listed.

pub mod net;
mod process;
mod what;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt, fs, io,
    path::{Path, PathBuf},
};

pub use self::what::What;
use self::{
    net::Socket,
    process::{
        Found, descriptor, fdinfo, has_own_descriptors, mapping, numbered, preloads, protocol, read, tracer,
    },
};
use super::tree::process_of;
use crate::policy::{compile::path_bits, image::MapImage, mounts::MountTable};

/// Most bytes of a name or value that are shown.
const MAX_SHOWN: usize = 200;
/// Most different things that are kept before the worst of them are chosen.
const MAX_KEPT: usize = 65_536;

/// A process that holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Number of the descriptor, if it is one.
    pub descriptor: Option<u32>,
}

/// Something that is held, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What.
    pub what: What,
    /// One of those who hold it.
    pub holder: Holder,
    /// How many others do, or by how many other descriptors.
    pub others: usize,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The furthest-reaching first.
    pub held: Vec<Held>,
    /// How many more there are.
    pub more: usize,
    /// What could not be looked at, and why.
    pub unread: Vec<String>,
}

impl Report {
    /// One line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.held.iter().map(ToString::to_string).collect();
        if self.more > 0 {
            lines.push(format!("and {} more", self.more));
        }
        lines.extend(self.unread.iter().map(|unread| format!("could not be looked at: {unread}")));
        lines
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, holder: Holder { pid, name, descriptor }, others } = self;
        write!(f, "{what}, held by {pid} ({name})")?;
        if let Some(descriptor) = descriptor {
            write!(f, " as descriptor {descriptor}")?;
        }
        match others {
            0 => Ok(()),
            count => write!(f, " and {count} more"),
        }
    }
}

/// Bytes as they can be shown in one line.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::new();
    for c in text.chars() {
        if out.len() >= MAX_SHOWN {
            out.push_str("...");
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Whether a compiled policy lets a path be opened, for [`held`]; `mounts` are those it was compiled for.
pub fn by_policy<'a>(image: &'a MapImage, mounts: &'a MountTable) -> impl Fn(&Path, u32) -> bool + 'a {
    move |path, access| {
        let inside = mounts.inside(path.as_os_str().as_encoded_bytes());
        let bits = inside.and_then(|(mount, inside)| path_bits(image, mount.dev, &inside));
        bits.is_some_and(|(allow, deny)| allow & access == access && deny & access == 0)
    }
}

/// Looks at what processes hold. They should be frozen. `allowed` says whether a path, as it is seen here, may be opened for
/// `ACCESS_*` under the policy: what may be opened again is no news. At most `limit` things are named, the others counted.
#[must_use]
pub fn held(pids: &BTreeSet<u32>, allowed: &dyn Fn(&Path, u32) -> bool, limit: usize) -> Report {
    let mut search = Search {
        proc: Path::new("/proc"),
        allowed,
        found: BTreeMap::new(),
        dropped: 0,
        sockets: Vec::new(),
        unread: Vec::new(),
        alive: vec![Path::new("/proc/self").to_path_buf()],
        is_elsewhere: false,
    };
    for pid in pids {
        if let Err(error) = search.process(*pid)
            && !is_gone(&error)
        {
            search.unread.push(format!("process {pid}: {error}"));
        }
    }
    search.sockets();
    search.traced(pids);
    let Search { found, dropped, unread, .. } = search;
    let more = dropped + found.len().saturating_sub(limit);
    let held = found.into_iter().take(limit);
    Report {
        held: held.map(|(what, (holder, others))| Held { what, holder, others }).collect(),
        more,
        unread,
    }
}

struct Search<'a> {
    proc: &'a Path,
    allowed: &'a dyn Fn(&Path, u32) -> bool,
    found: BTreeMap<What, (Holder, usize)>,
    dropped: usize,
    /// Sockets by inode, with the path of the descriptor: what they are is looked up at the end, table by table.
    sockets: Vec<(u64, Holder, PathBuf)>,
    unread: Vec<String>,
    /// Where /proc tells of the processes.
    alive: Vec<PathBuf>,
    /// The process at hand sees other mounts: its paths mean something else, and none of them is known to be allowed.
    is_elsewhere: bool,
}

impl Search<'_> {
    fn is_allowed(&self, path: &Path, access: u32) -> bool {
        !self.is_elsewhere && (self.allowed)(path, access)
    }

    fn add(&mut self, what: What, holder: Holder) {
        if let Some((_, others)) = self.found.get_mut(&what) {
            *others += 1;
        } else if self.found.len() < MAX_KEPT {
            self.found.insert(what, (holder, 0));
        } else {
            self.dropped += 1;
        }
    }

    fn process(&mut self, pid: u32) -> io::Result<()> {
        let directory = self.proc.join(pid.to_string());
        let Some(alive) = self.alive(&directory)? else { return Ok(()) };
        self.is_elsewhere = mounts(&alive)? != mounts(&self.proc.join("self"))?;
        let name = shown(read(&directory.join("comm"))?.trim_ascii_end());
        let holder = Holder { pid, name, descriptor: None };
        let parts = [
            ("descriptors", self.descriptors(&directory, &holder)),
            ("threads", self.threads(&directory, &holder)),
            ("mappings", self.mappings(&alive, &holder)),
            ("environment", self.environment(&alive, &holder)),
        ];
        self.alive.push(alive);
        for (part, result) in parts {
            if let Err(error) = result
                && !is_gone(&error)
            {
                self.unread.push(format!("{part} of process {pid}: {error}"));
            }
        }
        Ok(())
    }

    /// Where to look: at the process, or if its first thread has ended at another. `None` if all have.
    fn alive(&self, directory: &Path) -> io::Result<Option<PathBuf>> {
        let threads = match mounts(directory) {
            Ok(_) => return Ok(Some(directory.to_path_buf())),
            Err(error) if is_gone(&error) => numbered(&directory.join("task"))?,
            Err(error) => return Err(error),
        };
        let threads = threads.into_iter().map(|(thread, _)| self.proc.join(thread.to_string()));
        Ok(threads.into_iter().find(|path| mounts(path).is_ok()))
    }

    fn threads(&mut self, directory: &Path, holder: &Holder) -> io::Result<()> {
        for (thread, path) in numbered(&directory.join("task"))? {
            if thread != holder.pid && has_own_descriptors(holder.pid, thread) {
                match self.descriptors(&path, holder) {
                    Err(error) if is_gone(&error) => continue,
                    looked => looked?,
                }
            }
            let status = match read(&path.join("status")) {
                Err(error) if is_gone(&error) => continue,
                status => status?,
            };
            if let Some(pid) = tracer(&String::from_utf8_lossy(&status)) {
                self.add(What::TracedBy { pid: process_of(pid).unwrap_or(pid) }, holder.clone());
            }
        }
        Ok(())
    }

    fn mappings(&mut self, directory: &Path, holder: &Holder) -> io::Result<()> {
        let maps = read(&directory.join("maps"))?;
        for line in String::from_utf8_lossy(&maps).lines() {
            if let Some(what) = mapping(line, &|path, access| self.is_allowed(path, access)) {
                self.add(what, holder.clone());
            }
        }
        Ok(())
    }

    fn environment(&mut self, directory: &Path, holder: &Holder) -> io::Result<()> {
        for what in preloads(&read(&directory.join("environ"))?) {
            self.add(what, holder.clone());
        }
        Ok(())
    }

    /// Descriptors of a process, or of a thread that has others.
    fn descriptors(&mut self, directory: &Path, holder: &Holder) -> io::Result<()> {
        for (number, path) in numbered(&directory.join("fd"))? {
            let link = match fs::read_link(&path) {
                Err(error) if is_gone(&error) => continue,
                link => link?.into_os_string(),
            };
            let info = match read(&directory.join("fdinfo").join(number.to_string())) {
                Err(error) if is_gone(&error) => continue,
                info => fdinfo(&String::from_utf8_lossy(&info?)),
            };
            // Without it a device would be called a file: no reason to say nothing.
            let metadata = fs::metadata(&path).ok();
            let holder = Holder { descriptor: Some(number), ..holder.clone() };
            let allowed = |path: &Path, access| self.is_allowed(path, access);
            match descriptor(link.as_encoded_bytes(), &info, metadata.as_ref(), &allowed) {
                Found::Socket(inode) => self.sockets.push((inode, holder, path)),
                Found::What(what) => self.add(what, holder),
                Found::Nothing => {}
            }
        }
        Ok(())
    }

    /// Looks sockets up in the tables of each network namespace one of the processes is in, and of ours.
    fn sockets(&mut self) {
        let wanted: HashSet<u64> = self.sockets.iter().map(|(inode, _, _)| *inode).collect();
        if wanted.is_empty() {
            return;
        }
        let mut namespaces = HashSet::new();
        let mut known: HashMap<u64, Socket> = HashMap::new();
        for directory in &self.alive {
            let Ok(namespace) = fs::read_link(directory.join("ns/net")) else { continue };
            if !namespaces.insert(namespace) {
                continue;
            }
            match net::read(&directory.join("net"), &wanted) {
                Ok(found) => known.extend(found),
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    self.unread.push(format!("sockets in {}: {error}", directory.join("net").display()));
                }
            }
        }
        // By socket, so that two without addresses are two.
        let mut named: BTreeMap<u64, (Socket, Holder, usize)> = BTreeMap::new();
        for (inode, holder, path) in std::mem::take(&mut self.sockets) {
            if let Some((_, _, others)) = named.get_mut(&inode) {
                *others += 1;
                continue;
            }
            let socket = known.get(&inode).cloned().unwrap_or_else(|| Socket {
                family: protocol(&path).unwrap_or_else(|| "unknown".into()),
                local: Some("of a table that /proc does not show here".into()),
                remote: None,
                state: None,
            });
            named.insert(inode, (socket, holder, 0));
        }
        for (socket, holder, others) in named.into_values() {
            self.add(What::Socket(socket.clone()), holder);
            if let Some((_, count)) = self.found.get_mut(&What::Socket(socket)) {
                *count += others;
            }
        }
    }

    /// Processes elsewhere that one of these traces.
    fn traced(&mut self, pids: &BTreeSet<u32>) {
        let all = match numbered(self.proc) {
            Ok(all) => all,
            Err(error) => return self.unread.push(format!("processes in {}: {error}", self.proc.display())),
        };
        for (pid, path) in all {
            // Whoever is gone is not traced.
            let Ok(status) = read(&path.join("status")) else { continue };
            // The kernel names the thread that traces.
            let tracer = tracer(&String::from_utf8_lossy(&status)).map(|pid| process_of(pid).unwrap_or(pid));
            if let Some(tracer) = tracer.filter(|tracer| pids.contains(tracer) && !pids.contains(&pid)) {
                let name = read(&self.proc.join(tracer.to_string()).join("comm")).unwrap_or_default();
                let holder = Holder { pid: tracer, name: shown(name.trim_ascii_end()), descriptor: None };
                self.add(What::Traces { pid }, holder);
            }
        }
    }
}

/// The mount namespace of a process; an error if it has ended, or may not be looked at.
fn mounts(directory: &Path) -> io::Result<PathBuf> {
    fs::read_link(directory.join("ns/mnt"))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

#[cfg(test)]
mod tests;
