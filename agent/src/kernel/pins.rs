//! What the daemon leaves in a bpffs, so that nothing depends on its life, and what it finds there.
//!
//! ```text
//! BASE/daemon-v1/maps/NAME          every map
//! BASE/daemon-v1/links-BOOT_NS/NAME every link, by the program that is attached
//! ```
//!
//! A daemon that starts uses the maps that are there, after it has found them to be of the shapes it would have made them
//! in; attaches its own programs to them; pins these links; and only then takes away the links of the daemon before it.
//! Both judge by the same tables meanwhile, and what either refuses is refused.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use super::{
    KernelError,
    links::{Link, remove_pins},
    sys::{self, MapInfo},
};

/// Raised when the meaning or the shape of a map changes.
const LAYOUT: u32 = 1;
/// No dots: a bpffs keeps names that have one to itself.
const PREFIX: &str = "daemon-v";
const LINKS: &str = "links-";
/// `BPF_LINK_TYPE_RAW_TRACEPOINT`, `BPF_LINK_TYPE_TRACING`, `BPF_LINK_TYPE_CGROUP`.
const LINK_KINDS: [u32; 3] = [1, 2, 3];

/// A map's shape, and a program's tag, by name: what this build makes.
#[derive(Debug, Clone, Default)]
pub struct Build {
    /// Maps.
    pub maps: BTreeMap<String, MapShape>,
    /// Programs: type and tag.
    pub programs: BTreeMap<String, (u32, [u8; 8])>,
}

/// What must agree for a map to be used by programs that did not make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapShape {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl From<MapInfo> for MapShape {
    fn from(info: MapInfo) -> Self {
        let MapInfo { kind, key_size, value_size, max_entries, flags, .. } = info;
        Self { kind, key_size, value_size, max_entries, flags }
    }
}

/// The daemon's pins below a directory of a bpffs.
#[derive(Debug, Clone)]
pub struct Pins {
    base: PathBuf,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Maps and links of an earlier daemon; `same_build`: its programs are the ones of this build.
    Ours {
        /// All tags agree.
        same_build: bool,
    },
    /// Something that no daemon has left: it is not touched.
    Foreign(String),
}

fn failed(step: &'static str, object: &Path) -> impl FnOnce(io::Error) -> KernelError + use<> {
    let object = object.display().to_string();
    move |source| KernelError::System { step, object, source }
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

impl Pins {
    /// Below `base`, which need not exist yet.
    #[must_use]
    pub fn below(base: &Path) -> Self {
        Self { base: base.to_path_buf() }
    }

    fn directory(&self) -> PathBuf {
        self.base.join(format!("{PREFIX}{LAYOUT}"))
    }

    /// Where maps are pinned.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.directory().join("maps")
    }

    /// Directories of links, of this layout.
    fn link_directories(&self) -> Result<Vec<PathBuf>, KernelError> {
        let directory = self.directory();
        let names = names(&directory).map_err(failed("reading", &directory))?;
        Ok(names.iter().filter(|name| name.starts_with(LINKS)).map(|name| directory.join(name)).collect())
    }

    /// What an earlier daemon has left, compared with what `build` would make. Changes nothing.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn find(&self, build: &Build) -> Result<Found, KernelError> {
        let maps = self.maps();
        let pinned = names(&maps).map_err(failed("reading", &maps))?;
        for name in &pinned {
            let path = maps.join(name);
            let Some(expected) = build.maps.get(name) else {
                return Ok(Found::Foreign(format!("{} is no map of Stockade's", path.display())));
            };
            let info = sys::open_pinned(&path).and_then(|map| sys::map_info(map.as_fd()));
            match info.map(MapShape::from) {
                Ok(shape) if shape == *expected => {}
                Ok(shape) => {
                    let path = path.display();
                    return Ok(Found::Foreign(format!("{path} is {shape:?}, and should be {expected:?}")));
                }
                Err(error) => return Ok(Found::Foreign(format!("{} is no map: {error}", path.display()))),
            }
        }
        let mut same_build = true;
        let directories = self.link_directories()?;
        for directory in &directories {
            let links = names(directory).map_err(failed("reading", directory))?;
            same_build &= links.len() == build.programs.len();
            for name in links {
                let path = directory.join(&name);
                match attached(&path, &name, build) {
                    Ok(same) => same_build &= same,
                    Err(why) => return Ok(Found::Foreign(format!("{}: {why}", path.display()))),
                }
            }
        }
        if pinned.is_empty() && directories.is_empty() {
            return Ok(Found::Nothing);
        }
        Ok(Found::Ours { same_build: same_build && directories.len() == 1 })
    }

    /// Makes the directories for the maps.
    ///
    /// # Errors
    /// If `base` is not below a mounted bpffs that can be written to.
    pub(super) fn prepare(&self) -> Result<(), KernelError> {
        let maps = self.maps();
        fs::create_dir_all(&maps).map_err(failed("creating", &maps))
    }

    /// Pins these links, and then takes away those of earlier daemons.
    pub(super) fn replace_links(&self, links: &[Link], boot_ns: u64) -> Result<(), KernelError> {
        let earlier = self.link_directories()?;
        let directory = self.directory().join(format!("{LINKS}{boot_ns:020}"));
        fs::create_dir(&directory).map_err(failed("creating", &directory))?;
        for link in links {
            let path = directory.join(link.name());
            link.pin(&path).map_err(failed("pinning", &path))?;
        }
        for directory in earlier {
            remove_pins(&directory).map_err(failed("removing", &directory))?;
        }
        for directory in self.other_layouts()? {
            remove_layout(&directory)?;
        }
        Ok(())
    }

    fn other_layouts(&self) -> Result<Vec<PathBuf>, KernelError> {
        let own = self.directory();
        let all = self.layouts()?;
        Ok(all.into_iter().filter(|directory| *directory != own).collect())
    }

    fn layouts(&self) -> Result<Vec<PathBuf>, KernelError> {
        let names = names(&self.base).map_err(failed("reading", &self.base))?;
        Ok(names.iter().filter(|name| is_daemons(name)).map(|name| self.base.join(name)).collect())
    }

    /// Lets go of everything that daemons have left, of whatever layout. Returns what was removed.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn remove_all(&self) -> Result<Vec<PathBuf>, KernelError> {
        let layouts = self.layouts()?;
        for directory in &layouts {
            remove_layout(directory)?;
        }
        Ok(layouts)
    }
}

/// Whether a directory below the base is a daemon's, and not a run's.
pub(super) fn is_daemons(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|version| version.parse::<u32>().is_ok())
}

/// The links first: what is detached needs no maps.
fn remove_layout(directory: &Path) -> Result<(), KernelError> {
    let mut below = names(directory).map_err(failed("reading", directory))?;
    below.sort_by_key(|name| !name.starts_with(LINKS));
    for name in below {
        let path = directory.join(name);
        remove_pins(&path).map_err(failed("removing", &path))?;
    }
    fs::remove_dir(directory).map_err(failed("removing", directory))
}

/// Whether the program of a pinned link is that of this build. `Err`: it is none of Stockade's.
fn attached(path: &Path, name: &str, build: &Build) -> Result<bool, String> {
    let link = sys::open_pinned(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let info = sys::link_info(link.as_fd()).map_err(|error| format!("is no link: {error}"))?;
    if !LINK_KINDS.contains(&info.kind) {
        return Err(format!("is a link of type {}", info.kind));
    }
    let program = sys::program_info(info.program).map_err(|error| format!("has no program: {error}"))?;
    let cut = &name.as_bytes()[..name.len().min(15)];
    if program.name.split(|byte| *byte == 0).next() != Some(cut) {
        return Err("its program has another name".into());
    }
    Ok(build.programs.get(name) == Some(&(program.kind, program.tag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runs_pins_are_not_a_daemons() {
        assert!(is_daemons("daemon-v1") && is_daemons("daemon-v12"));
        for name in ["stockade-12-ab", "daemon-v", "daemon-vx", "daemon", "xdaemon-v1"] {
            assert!(!is_daemons(name), "{name}");
        }
    }

    #[test]
    fn what_is_not_pinned_by_a_daemon_is_foreign() {
        let base = tempfile::tempdir().unwrap();
        let pins = Pins::below(base.path());
        assert_eq!(pins.find(&Build::default()).unwrap(), Found::Nothing);
        pins.prepare().unwrap();
        fs::write(pins.maps().join("TAGS"), "").unwrap();
        assert!(matches!(pins.find(&Build::default()).unwrap(), Found::Foreign(why) if why.contains("TAGS")));
        fs::create_dir(base.path().join("stockade-1-2")).unwrap();
        assert_eq!(pins.remove_all().unwrap(), [base.path().join("daemon-v1")]);
        assert!(base.path().join("stockade-1-2").exists() && !base.path().join("daemon-v1").exists());
    }
}
