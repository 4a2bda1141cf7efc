//! The tree of a case: made with real mounts and links, and kept in mind as a table of mounts for the model.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::case::{NAMES, Operation, Step};
use super::model::Right::{self, Exec, Read, Write};

/// Where the tree is.
pub const ROOT: &str = "/differential";
/// Upper layers of overlays, which nothing is tried on.
const LAYERS: &str = "/differential-layers";
/// How deep links are followed when names are collected: two that show each other would go on for ever.
const DEPTH: usize = 6;

/// What an operation is tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    File,
    Directory,
    /// A name that is free, in a directory.
    Free,
    /// A file, and a free name on the same mount.
    FileAndFree,
}

/// Verbs of `attempt`, what each needs, on what, and whether it changes something: those come last, each on a name of its own.
pub const VERBS: [(&str, On, Right, bool); 20] = [
    ("read-open", On::File, Read, false),
    ("openat2", On::File, Read, false),
    ("relative", On::File, Read, false),
    ("opath-reopen", On::File, Read, false),
    ("list", On::Directory, Read, false),
    ("write-open", On::File, Write, false),
    ("rdwr-open", On::File, Write, false),
    ("append", On::File, Write, false),
    ("exec", On::File, Exec, false),
    ("map-exec", On::File, Exec, false),
    ("times", On::File, Write, false),
    ("chown", On::Directory, Write, false),
    ("chmod", On::File, Write, true),
    ("truncate", On::File, Write, true),
    ("trunc-open", On::File, Write, true),
    ("unlink", On::File, Write, true),
    ("create", On::Free, Write, true),
    ("mkdir", On::Free, Write, true),
    ("rename", On::FileAndFree, Write, true),
    ("link", On::FileAndFree, Write, true),
];

/// A mount below the root, or the root.
#[derive(Debug, Clone)]
struct Mount {
    point: String,
    filesystem: usize,
    /// What of the filesystem is shown at the point: empty for all of it.
    inside: String,
    /// For an overlay, the filesystem and the place in it that it is laid over.
    over: Option<(usize, String)>,
}

/// A tree that stands; it is taken down when this is dropped.
pub struct World {
    mounts: Vec<Mount>,
}

/// An operation with real paths, and what it needs on which.
pub struct Planned {
    pub line: String,
    pub needs: Vec<(String, Right)>,
}

impl World {
    /// Makes it. A step that cannot be made, or that would cover something, is left out.
    pub fn make(steps: &[Step]) -> Result<Self, String> {
        let failed = |error: io::Error| format!("the tree: {error}");
        take_down().map_err(failed)?;
        for place in [ROOT, LAYERS] {
            fs::create_dir_all(place).and_then(|()| mounted("tmpfs", place, "")).map_err(failed)?;
        }
        let mut world = Self {
            mounts: vec![Mount { point: ROOT.into(), filesystem: 0, inside: String::new(), over: None }],
        };
        for step in steps {
            let _left_out = world.step(step);
        }
        Ok(world)
    }

    fn step(&mut self, step: &Step) -> io::Result<()> {
        let number = self.mounts.len();
        let own = |point: String, over| Mount { point, filesystem: number, inside: String::new(), over };
        match step {
            Step::Directory(path) => fs::create_dir_all(at(path)),
            Step::File(path) => {
                let path = with_parent(path)?;
                // What executes it reads no more than this, and does nothing.
                fs::File::create_new(&path)
                    .and_then(|mut file| io::Write::write_all(&mut file, b"#!/bin/true\n"))?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            }
            Step::Symlink(place, to) => symlink(at(to), with_parent(place)?),
            Step::HardLink(from, to) => fs::hard_link(at(from), with_parent(to)?),
            Step::Tmpfs(place) => {
                let point = fresh(place)?;
                mounted("tmpfs", &point, "")?;
                self.mounts.push(own(point, None));
                Ok(())
            }
            Step::Bind(from, place) => {
                let from = directory(from)?;
                let point = fresh(place)?;
                let (filesystem, inside) = self.inside(&from);
                mount(Some(from.as_str()), point.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
                self.mounts.push(Mount { point, filesystem, inside, over: None });
                Ok(())
            }
            Step::Overlay(from, place) => {
                let lower = directory(from)?;
                let point = fresh(place)?;
                let layer = format!("{LAYERS}/{number}");
                fs::create_dir_all(format!("{layer}/upper"))?;
                fs::create_dir_all(format!("{layer}/work"))?;
                let over = self.inside(&lower);
                mounted(
                    "overlay",
                    &point,
                    &format!("lowerdir={lower},upperdir={layer}/upper,workdir={layer}/work"),
                )?;
                self.mounts.push(own(point, Some(over)));
                Ok(())
            }
        }
    }

    /// The filesystem that a path without links is on, and the place in it.
    fn inside(&self, path: &str) -> (usize, String) {
        let mount = self.mount(path);
        (mount.filesystem, format!("{}{}", mount.inside, &path[mount.point.len()..]))
    }

    fn mount(&self, path: &str) -> &Mount {
        let holds = |mount: &&Mount| below(path, &mount.point).is_some();
        self.mounts.iter().filter(holds).max_by_key(|mount| mount.point.len()).unwrap_or(&self.mounts[0])
    }

    /// All names of what has this one: the same place of the same filesystem, wherever a mount shows it.
    pub fn names(&self, path: &str) -> Vec<String> {
        let (filesystem, inside) = self.inside(path);
        let shows = |mount: &Mount| Some(format!("{}{}", mount.point, below(&inside, &mount.inside)?));
        self.mounts.iter().filter(|mount| mount.filesystem == filesystem).filter_map(shows).collect()
    }

    /// What a change of it changes: for an overlay that is also what it is laid over.
    fn changed(&self, path: &str) -> (usize, String) {
        let (mut filesystem, mut inside) = self.inside(path);
        while let Some((over, root)) = self
            .mounts
            .iter()
            .find(|mount| mount.filesystem == filesystem)
            .and_then(|mount| mount.over.as_ref())
        {
            (filesystem, inside) = (*over, format!("{root}{inside}"));
        }
        (filesystem, inside)
    }

    /// What can be tried of these operations, in an order in which none gets in another's way.
    pub fn plan(&self, operations: &[Operation]) -> Vec<Planned> {
        let (mut files, mut directories) = (Vec::new(), vec![ROOT.to_owned()]);
        collect(ROOT, DEPTH, &mut files, &mut directories);
        let mut changed = BTreeSet::new();
        let (mut harmless, mut changing) = (Vec::new(), Vec::new());
        for operation in operations {
            let Some(&(verb, on, right, changes)) = VERBS.iter().find(|(verb, ..)| *verb == operation.verb)
            else {
                continue;
            };
            let Some(spoken) = self.spoken(operation, on, &files, &directories) else { continue };
            let Some(real) = spoken.iter().map(|path| canonical(path)).collect::<Option<Vec<_>>>() else {
                continue;
            };
            if changes {
                let places: Vec<_> = real.iter().map(|path| self.changed(path)).collect();
                if places.iter().any(|place| changed.contains(place)) {
                    continue;
                }
                changed.extend(places);
            }
            // A change is made by the real name: of a link it would be the link's.
            let words = if changes { real.join(" ") } else { spoken.join(" ") };
            let planned = Planned {
                line: format!("{verb} {words}"),
                needs: real.into_iter().map(|path| (path, right)).collect(),
            };
            if changes { changing.push(planned) } else { harmless.push(planned) }
        }
        harmless.append(&mut changing);
        harmless
    }

    fn spoken(
        &self,
        operation: &Operation,
        on: On,
        files: &[String],
        directories: &[String],
    ) -> Option<Vec<String>> {
        let pick = |from: &[String], number: u16| from.get(usize::from(number) % from.len().max(1)).cloned();
        let free = || {
            let directory = pick(directories, operation.other)?;
            let name = format!("{directory}/{}", NAMES[usize::from(operation.pick) % NAMES.len()]);
            fs::symlink_metadata(&name).is_err().then_some(name)
        };
        match on {
            On::File => Some(vec![pick(files, operation.pick)?]),
            On::Directory => Some(vec![pick(directories, operation.pick)?]),
            On::Free => Some(vec![free()?]),
            On::FileAndFree => {
                let both = vec![pick(files, operation.pick)?, free()?];
                // Between mounts there is neither a rename nor a link.
                let points: Option<BTreeSet<String>> =
                    both.iter().map(|path| Some(self.mount(&canonical(path)?).point.clone())).collect();
                (points?.len() == 1).then_some(both)
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = take_down() {
            eprintln!("scenarios: taking down the tree: {error}");
        }
    }
}

/// Every file and directory, by each name that leads there, links included.
fn collect(folder: &str, depth: usize, files: &mut Vec<String>, directories: &mut Vec<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    for name in names {
        let path = format!("{folder}/{name}");
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            directories.push(path.clone());
            collect(&path, depth, files, directories);
        } else {
            files.push(path);
        }
    }
}

/// A path without links, whether or not there is something by its last name.
fn canonical(path: &str) -> Option<String> {
    if let Ok(real) = fs::canonicalize(path) {
        return real.to_str().map(str::to_owned);
    }
    let (parent, name) = path.rsplit_once('/')?;
    Some(format!("{}/{name}", fs::canonicalize(parent).ok()?.to_str()?))
}

fn at(path: &[&str]) -> String {
    format!("{ROOT}/{}", path.join("/"))
}

/// The path, in a directory that is there.
fn with_parent(path: &[&str]) -> io::Result<String> {
    let path = at(path);
    if let Some(parent) = Path::new(&path).parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(path)
}

/// A directory that was not there: nothing is ever covered by a mount.
fn fresh(path: &[&str]) -> io::Result<String> {
    let path = with_parent(path)?;
    fs::create_dir(&path)?;
    Ok(path)
}

fn directory(path: &[&str]) -> io::Result<String> {
    let path = at(path);
    if fs::symlink_metadata(&path)?.is_dir() { Ok(path) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

fn mounted(kind: &str, point: &str, options: &str) -> io::Result<()> {
    Ok(mount(Some(kind), point, Some(kind), MsFlags::empty(), (!options.is_empty()).then_some(options))?)
}

/// What of `path` is behind `above`: empty, or starting with a slash.
fn below<'a>(path: &'a str, above: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(above)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Unmounts all that an earlier case has left.
fn take_down() -> io::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| below(point, ROOT).or_else(|| below(point, LAYERS)).is_some())
        .collect();
    for point in points.into_iter().rev() {
        umount2(point, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}
