//! Walking the tree of cgroups, from descriptor to descriptor: who makes cgroups chooses their names and how deep they lie,
//! and must not keep others from being found by that.

use std::{
    collections::BTreeSet,
    ffi::{CString, OsStr},
    fmt,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Component, Path, PathBuf},
    time::Instant,
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{FileStat, Mode, fstat},
};

use super::tree::{Node, Tree, TreeError, failed, is_gone, numbers, process_of};

/// Deeper cgroups are not looked at: each level takes a descriptor.
const MAX_DEPTH: usize = 256;
/// Most cgroups that are looked at.
const MAX_CGROUPS: usize = 1 << 20;
/// Most problems that are kept: there may be as many as cgroups.
const MAX_PROBLEMS: usize = 16;
/// Most bytes of a path that are shown.
const MAX_SHOWN: usize = 300;

/// What was found, and what was not.
#[derive(Debug, Default)]
pub struct Walked {
    /// Each behind the one it is in, and before all that are not in it.
    pub nodes: Vec<Node>,
    /// What could not be looked at.
    pub problems: Problems,
}

/// Parts of the tree that could not be looked at. The others were.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Problems {
    kept: Vec<String>,
    more: usize,
    /// Something changed while it was read.
    raced: bool,
}

impl Problems {
    /// Whether nothing that was there all the time was missed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && !self.raced
    }

    /// One line each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.kept.iter().cloned().chain(more)
    }

    fn add(&mut self, path: &Path, why: impl fmt::Display) {
        if self.kept.len() < MAX_PROBLEMS {
            let mut shown: String = path.display().to_string().chars().take(MAX_SHOWN).collect();
            if shown.len() < path.as_os_str().len() {
                shown.push_str("...");
            }
            self.kept.push(format!("{shown}: {why}"));
        } else {
            self.more += 1;
        }
    }
}

/// What a visitor is told of.
#[derive(Debug)]
pub enum Visit<'a> {
    /// A cgroup; what is in it has not been listed yet.
    Met(&'a Node),
    /// The same, opened.
    Opened(&'a Node, BorrowedFd<'a>),
}

fn flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn open_below(above: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    openat(above, name, flags(), Mode::empty()).map_err(io::Error::from)
}

/// One level of a walk.
struct Level {
    directory: OwnedFd,
    path: PathBuf,
    /// Last first.
    children: Vec<(CString, u64)>,
}

impl Tree {
    /// Opens a cgroup's directory, however long its path is.
    pub(super) fn open(&self, path: &Path) -> Result<OwnedFd, TreeError> {
        let mut directory: OwnedFd =
            File::open(self.mount()).map_err(failed("opening", self.mount()))?.into();
        for part in path.components() {
            if let Component::Normal(name) = part {
                directory = open_below(directory.as_fd(), name).map_err(failed("opening", path))?;
            }
        }
        Ok(directory)
    }

    /// Goes through a cgroup and all below it, each behind the one it is in, and all of it before what comes behind it. A
    /// visitor who answers false to [`Visit::Met`] is told nothing of what is below. What goes away meanwhile is left out;
    /// what comes may be. At `end` it ends, if there is one.
    ///
    /// # Errors
    /// If the first one cannot be opened. What else cannot be is among the problems.
    pub fn visit(
        &self,
        from: &Path,
        end: Option<Instant>,
        visitor: &mut dyn FnMut(Visit<'_>) -> bool,
    ) -> Result<Problems, TreeError> {
        let directory = self.open(from)?;
        let state = fstat(&directory).map_err(|error| failed("reading", from)(error.into()))?;
        let first = Node { path: from.to_path_buf(), id: state.st_ino };
        let mut problems = Problems::default();
        let mut levels: Vec<Level> = Vec::new();
        let mut count = 1;
        if visitor(Visit::Met(&first)) {
            visitor(Visit::Opened(&first, directory.as_fd()));
            let children = children(&directory).map_err(failed("reading", from))?;
            levels.push(Level { directory, path: first.path, children });
        }
        while let Some(level) = levels.last_mut() {
            let Some((name, id)) = level.children.pop() else {
                levels.pop();
                continue;
            };
            let node = Node { path: level.path.join(OsStr::from_bytes(name.to_bytes())), id };
            count += 1;
            if count > MAX_CGROUPS {
                problems.add(&node.path, format!("there are more than {MAX_CGROUPS} cgroups"));
                break;
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                problems.add(&node.path, "there was no time left for it, and what comes behind it");
                break;
            }
            if !visitor(Visit::Met(&node)) {
                continue;
            }
            let opened = open_below(level.directory.as_fd(), OsStr::from_bytes(name.to_bytes()));
            let opened = opened.and_then(|directory| Ok((fstat(&directory)?, directory)));
            let (seen, directory) = match opened {
                Ok(opened) => opened,
                Err(error) if is_gone(&error) => {
                    problems.raced = true;
                    continue;
                }
                Err(error) => {
                    problems.add(&node.path, error);
                    continue;
                }
            };
            let FileStat { st_dev, st_ino, .. } = seen;
            if st_dev != state.st_dev {
                problems.add(&node.path, "something is mounted over it");
                continue;
            }
            if st_ino != id {
                // Made anew.
                problems.raced = true;
                continue;
            }
            visitor(Visit::Opened(&node, directory.as_fd()));
            if levels.len() >= MAX_DEPTH {
                problems.add(&node.path, format!("what is below is more than {MAX_DEPTH} deep"));
                continue;
            }
            match children(&directory) {
                Ok(children) => levels.push(Level { directory, path: node.path, children }),
                Err(error) if is_gone(&error) => problems.raced = true,
                Err(error) => problems.add(&node.path, error),
            }
        }
        Ok(problems)
    }

    /// A cgroup, and all below it: see [`Tree::visit`].
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn walk(&self, from: &Path) -> Result<Walked, TreeError> {
        self.walk_until(from, None)
    }

    /// The same, with an end.
    ///
    /// # Errors
    /// As [`Tree::walk`].
    pub fn walk_until(&self, from: &Path, end: Option<Instant>) -> Result<Walked, TreeError> {
        let mut nodes = Vec::new();
        let problems = self.visit(from, end, &mut |visit| {
            if let Visit::Met(node) = visit {
                nodes.push(node.clone());
            }
            true
        })?;
        Ok(Walked { nodes, problems })
    }

    /// Processes in a cgroup, without those below. Those of other process namespaces that we cannot name are left out.
    ///
    /// # Errors
    /// If it is gone.
    pub fn processes(&self, path: &Path) -> Result<BTreeSet<u32>, TreeError> {
        processes(self.open(path)?.as_fd(), path)
    }

    /// Processes in a cgroup and in all below, and what of it could not be looked at; at `end` there is no time left.
    ///
    /// # Errors
    /// If it is gone.
    pub fn all_processes(
        &self,
        path: &Path,
        end: Option<Instant>,
    ) -> Result<(BTreeSet<u32>, Problems), TreeError> {
        let mut all = BTreeSet::new();
        let mut unread: Vec<(PathBuf, TreeError)> = Vec::new();
        let mut problems = self.visit(path, end, &mut |visit| {
            if let Visit::Opened(node, directory) = visit {
                match processes(directory, &node.path) {
                    Ok(mut processes) => all.append(&mut processes),
                    Err(TreeError::Io { source, .. }) if is_gone(&source) && node.path != path => {}
                    Err(error) => unread.push((node.path.clone(), error)),
                }
            }
            true
        })?;
        for (path, error) in unread {
            problems.add(&path, error);
        }
        Ok((all, problems))
    }
}

fn children(directory: &OwnedFd) -> io::Result<Vec<(CString, u64)>> {
    // A description of its own: the position in it is.
    let mut listed = Dir::openat(directory, ".", flags(), Mode::empty())?;
    let mut children = Vec::new();
    for entry in listed.iter() {
        let entry = entry?;
        let name = entry.file_name();
        let is_directory = matches!(entry.file_type(), Some(Type::Directory) | None);
        if is_directory && name != c"." && name != c".." {
            children.push((name.to_owned(), entry.ino()));
        }
    }
    children.sort_by(|a, b| b.0.cmp(&a.0));
    Ok(children)
}

fn read(directory: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let file = openat(directory, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    Ok(text)
}

fn processes(directory: BorrowedFd<'_>, path: &Path) -> Result<BTreeSet<u32>, TreeError> {
    match read(directory, "cgroup.procs") {
        Ok(text) => numbers(&text, &path.join("cgroup.procs")),
        // A threaded cgroup has threads, whose processes are in the domain above.
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
            let file = path.join("cgroup.threads");
            let text = read(directory, "cgroup.threads").map_err(failed("reading", &file))?;
            Ok(numbers(&text, &file)?.into_iter().filter_map(process_of).collect())
        }
        Err(error) => Err(failed("reading", &path.join("cgroup.procs"))(error)),
    }
}

#[cfg(test)]
mod tests;
