//! What processes held before they were tagged, and go on holding: a policy looks at what is opened, not at what is open.
//!
//! Not seen are descriptors that are under way in sockets, and files that were registered with an io_uring instance, which
//! is reported for that. Anonymous pipes are not listed.
//!
//! Descriptors are looked at while the processes are frozen, so that none is handed on meanwhile. That asks the kernel only:
//! a filesystem whose server is one of those processes would not answer. What could be such a question comes afterwards.

pub mod net;
mod process;
mod report;
mod what;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use self::{
    net::Socket,
    process::{
        Found, descriptor, fdinfo, has_own_descriptors, mapping, numbered, preloads, protocol, read, tracer,
    },
};
pub use self::{
    report::{Held, Holder, Report},
    what::What,
};
use super::tree::process_of;
use crate::policy::{compile::path_bits, image::MapImage, mounts::MountTable};

/// Most bytes of a name or value that are shown.
const MAX_SHOWN: usize = 200;
/// Most different things that are kept before the worst of them are chosen.
const MAX_KEPT: usize = 65_536;

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

/// A search for what processes hold.
pub struct Search<'a> {
    proc: &'a Path,
    pids: &'a BTreeSet<u32>,
    allowed: &'a dyn Fn(&Path, u32) -> bool,
    /// When it has to come to an end.
    end: Instant,
    found: BTreeMap<What, (Holder, usize)>,
    dropped: usize,
    /// Sockets by inode, with the path of the descriptor: what they are is looked up at the end, table by table.
    sockets: Vec<(u64, Holder, PathBuf)>,
    /// Those that are in no table.
    nameless: Vec<(Holder, usize, PathBuf)>,
    unread: Vec<String>,
    /// Where /proc tells of the processes, and whether they see other mounts.
    alive: Vec<(PathBuf, Option<(Holder, bool)>)>,
    /// The process at hand sees other mounts: its paths mean something else, and none of them is known to be allowed.
    is_elsewhere: bool,
}

impl fmt::Debug for Search<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Search").field("pids", self.pids).field("found", &self.found).finish_non_exhaustive()
    }
}

impl<'a> Search<'a> {
    /// Of processes. `allowed` says whether a path, as it is seen here, may be opened for `ACCESS_*` under the policy: what
    /// may be opened again is no news.
    #[must_use]
    pub fn new(pids: &'a BTreeSet<u32>, allowed: &'a dyn Fn(&Path, u32) -> bool, end: Instant) -> Self {
        Self {
            proc: Path::new("/proc"),
            pids,
            allowed,
            end,
            found: BTreeMap::new(),
            dropped: 0,
            sockets: Vec::new(),
            nameless: Vec::new(),
            unread: Vec::new(),
            alive: vec![(Path::new("/proc/self").to_path_buf(), None)],
            is_elsewhere: false,
        }
    }

    /// Looks at descriptors, sockets and who traces whom; the processes should stand still.
    pub fn descriptors_of_all(&mut self) {
        for (index, pid) in self.pids.iter().enumerate() {
            if self.is_late() {
                self.unread.push(format!("{} processes: there was no time left", self.pids.len() - index));
                break;
            }
            if let Err(error) = self.process(*pid)
                && !is_gone(&error)
            {
                self.unread.push(format!("process {pid}: {error}"));
            }
        }
        self.sockets();
    }

    /// Looks at the rest, which may need that the processes run.
    pub fn rest(&mut self) {
        for (directory, process) in self.alive.clone() {
            let Some((holder, is_elsewhere)) = process else { continue };
            if self.is_late() {
                self.unread.push("mappings and environments: there was no time left".to_owned());
                break;
            }
            self.is_elsewhere = is_elsewhere;
            let mappings = self.mappings(&directory, &holder);
            self.unless_gone("mappings", &holder, mappings);
            let environment = self.environment(&directory, &holder);
            self.unless_gone("environment", &holder, environment);
        }
        for (holder, others, path) in std::mem::take(&mut self.nameless) {
            self.add_socket(unlisted(protocol(&path)), holder, others);
        }
        self.traced();
    }

    /// What was found so far. At most `limit` things are named, the others counted.
    #[must_use]
    pub fn report(&self, limit: usize) -> Report {
        let mut found = self.found.clone();
        for (holder, others, _) in &self.nameless {
            let (_, count) = found.entry(What::Socket(unlisted(None))).or_insert((holder.clone(), 0));
            *count += others;
        }
        let more = self.dropped + found.len().saturating_sub(limit);
        let held = found.into_iter().take(limit);
        let held = held.map(|(what, (holder, others))| Held { what, holder, others });
        Report { held: held.collect(), more, unread: self.unread.clone() }
    }
}

/// A socket that is in no table.
fn unlisted(family: Option<String>) -> Socket {
    Socket {
        family: family.unwrap_or_else(|| "unknown".into()),
        local: Some("of a table that /proc does not show here".into()),
        remote: None,
        state: None,
    }
}

impl Search<'_> {
    fn is_allowed(&self, path: &Path, access: u32) -> bool {
        !self.is_elsewhere && (self.allowed)(path, access)
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.end
    }

    fn unless_gone(&mut self, part: &str, holder: &Holder, result: io::Result<()>) {
        if let Err(error) = result
            && !is_gone(&error)
        {
            self.unread.push(format!("{part} of process {}: {error}", holder.pid));
        }
    }

    fn add_socket(&mut self, socket: Socket, holder: Holder, others: usize) {
        self.add(What::Socket(socket.clone()), holder);
        if let Some((_, count)) = self.found.get_mut(&What::Socket(socket)) {
            *count += others;
        }
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
        let descriptors = self.descriptors(&directory, &holder);
        self.unless_gone("descriptors", &holder, descriptors);
        let threads = self.threads(&directory, &holder);
        self.unless_gone("threads", &holder, threads);
        self.alive.push((alive, Some((holder, self.is_elsewhere))));
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
            if self.is_late() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "there was no time left"));
            }
            let link = match fs::read_link(&path) {
                Err(error) if is_gone(&error) => continue,
                link => link?.into_os_string(),
            };
            let info = match read(&directory.join("fdinfo").join(number.to_string())) {
                Err(error) if is_gone(&error) => continue,
                info => fdinfo(&String::from_utf8_lossy(&info?)),
            };
            let holder = Holder { descriptor: Some(number), ..holder.clone() };
            let allowed = |path: &Path, access| self.is_allowed(path, access);
            match descriptor(link.as_encoded_bytes(), &info, &allowed) {
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
        for (directory, _) in &self.alive {
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
        let mut named: BTreeMap<u64, (Holder, usize, PathBuf)> = BTreeMap::new();
        for (inode, holder, path) in std::mem::take(&mut self.sockets) {
            match named.get_mut(&inode) {
                Some((_, others, _)) => *others += 1,
                None => drop(named.insert(inode, (holder, 0, path))),
            }
        }
        for (inode, (holder, others, path)) in named {
            match known.remove(&inode) {
                Some(socket) => self.add_socket(socket, holder, others),
                None => self.nameless.push((holder, others, path)),
            }
        }
    }

    /// Processes elsewhere that one of these traces.
    fn traced(&mut self) {
        let pids = self.pids;
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
