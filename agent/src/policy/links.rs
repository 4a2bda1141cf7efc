//! Symbolic links on the way to a path. Pure: whoever calls says what a link holds.

use std::{collections::VecDeque, io};

/// Most links followed for one path, as many as the kernel follows.
pub const MAX_LINKS: usize = 40;

/// What the link at a path holds; `None` if there is no link.
pub type ReadLink<'a> = dyn Fn(&[u8]) -> io::Result<Option<Vec<u8>>> + 'a;

/// One link that was followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its own real path.
    pub path: Vec<u8>,
    /// What it holds.
    pub target: Vec<u8>,
}

/// Where a path really leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// Components of the real path, none of which is a link.
    pub real: Vec<Vec<u8>>,
    /// The links that were followed, in order.
    pub links: Vec<Link>,
}

/// A path that leads nowhere, or nobody knows where.
#[derive(Debug, thiserror::Error)]
pub enum Stuck {
    /// A loop, or a chain the kernel would not follow either.
    #[error("{} leads through more than {MAX_LINKS} symbolic links", .0.escape_ascii())]
    TooMany(Vec<u8>),
    /// The file system did not say.
    #[error("whether {} is a symbolic link cannot be read: {error}", path.escape_ascii())]
    Unreadable {
        /// Where.
        path: Vec<u8>,
        /// What it said.
        error: io::Error,
    },
}

/// Components as an absolute path.
#[must_use]
pub fn join(names: &[Vec<u8>]) -> Vec<u8> {
    if names.is_empty() {
        b"/".to_vec()
    } else {
        names.iter().flat_map(|name| [b"/", &name[..]].concat()).collect()
    }
}

/// Follows every link on the way to an absolute path, its last component included. What does not exist is no link.
///
/// # Errors
/// If it does not end.
pub fn walk(path: &[u8], read_link: &ReadLink) -> Result<Way, Stuck> {
    let mut way = Way::default();
    let components =
        |path: &[u8]| -> Vec<Vec<u8>> { path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect() };
    let mut ahead = VecDeque::from(components(path));
    while let Some(name) = ahead.pop_front() {
        match &name[..] {
            b"" | b"." => continue,
            // What has been walked is real, so the parent is the one that is written.
            b".." => {
                way.real.pop();
                continue;
            }
            _ => way.real.push(name),
        }
        let at = join(&way.real);
        let target = read_link(&at).map_err(|error| Stuck::Unreadable { path: at.clone(), error })?;
        let Some(target) = target else { continue };
        if way.links.len() == MAX_LINKS {
            return Err(Stuck::TooMany(path.to_vec()));
        }
        way.real.pop();
        if target.first() == Some(&b'/') {
            way.real.clear();
        }
        for name in components(&target).into_iter().rev() {
            ahead.push_front(name);
        }
        way.links.push(Link { path: at, target });
    }
    Ok(way)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    };

    use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
    use proptest::prelude::*;

    use super::*;

    fn real(links: &[(&str, &str)], path: &str) -> Result<String, String> {
        let links: BTreeMap<&[u8], &[u8]> = links.iter().map(|(l, t)| (l.as_bytes(), t.as_bytes())).collect();
        let read = |path: &[u8]| Ok(links.get(path).map(|target| target.to_vec()));
        let way = walk(path.as_bytes(), &read).map_err(|stuck| stuck.to_string())?;
        Ok(String::from_utf8(join(&way.real)).unwrap())
    }

    #[test]
    fn links_are_followed_as_the_kernel_does() {
        assert_eq!(real(&[("/bin", "usr/bin")], "/bin/sh").unwrap(), "/usr/bin/sh");
        assert_eq!(real(&[("/bin", "usr/bin")], "/binary").unwrap(), "/binary");
        assert_eq!(real(&[("/var/run", "/run")], "/var/run").unwrap(), "/run");
        let editor =
            [("/usr/bin/editor", "/etc/alternatives/editor"), ("/etc/alternatives/editor", "/bin/nano")];
        assert_eq!(real(&editor, "/usr/bin/editor").unwrap(), "/bin/nano");
        let up = [("/a/l", "../../../b/./m"), ("/b/m", "..")];
        assert_eq!(real(&up, "/a/l/x").unwrap(), "/x");
        assert_eq!(real(&[("/a", "/")], "/a").unwrap(), "/");
        assert_eq!(real(&[("/a", "gone/x")], "/a").unwrap(), "/gone/x", "what is not there is no link");
    }

    #[test]
    fn loops_and_failures_are_told() {
        assert!(real(&[("/a", "b"), ("/b", "a")], "/a/x").unwrap_err().contains("more than 40"));
        let chain: Vec<(String, String)> = (0..41).map(|n| (format!("/{n}"), format!("{}", n + 1))).collect();
        let chain: Vec<(&str, &str)> = chain.iter().map(|(l, t)| (l.as_str(), t.as_str())).collect();
        assert!(real(&chain, "/0").is_err());
        assert_eq!(real(&chain, "/1").unwrap(), "/41");
        let failing = |_: &[u8]| Err(io::Error::from_raw_os_error(libc::EACCES));
        assert!(matches!(walk(b"/a", &failing), Err(Stuck::Unreadable { path, .. }) if path == b"/a"));
    }

    #[test]
    fn every_link_on_the_way_is_named() {
        let read = |path: &[u8]| Ok((path == b"/a/l").then(|| b"/b".to_vec()));
        let way = walk(b"/a/l/x", &read).unwrap();
        assert_eq!(way.links, [Link { path: b"/a/l".to_vec(), target: b"/b".to_vec() }]);
    }

    /// Directories /a, /b, /a/a, /a/b and so on, in which links are put.
    fn target() -> impl Strategy<Value = String> {
        proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("."), Just("..")], 1..4)
            .prop_flat_map(|parts| {
                any::<bool>().prop_map(move |absolute| {
                    let path = parts.join("/");
                    if absolute { format!("/{path}") } else { path }
                })
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_the_kernel(
            links in proptest::collection::btree_map("(/[ab]){0,2}/[lm]", target(), 0..5),
            path in "(/[ablm]){1,4}",
        ) {
            // The kernel's own answer, with a directory as the root.
            let folder = tempfile::tempdir().unwrap();
            let base = folder.path().canonicalize().unwrap();
            for parent in ["a/a", "a/b", "b/a", "b/b"] {
                std::fs::create_dir_all(base.join(parent)).unwrap();
            }
            for (link, target) in &links {
                std::os::unix::fs::symlink(target, base.join(&link[1..])).unwrap();
            }
            let root = std::fs::File::open(&base).unwrap();
            let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
            let opened = openat2(&root, path.as_str(), how);
            let read = |path: &[u8]| Ok(links.get(std::str::from_utf8(path).unwrap()).map(|t| t.clone().into_bytes()));
            match opened {
                Ok(file) => {
                    let expected = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
                    let below = expected.strip_prefix(&base).unwrap();
                    let below: Vec<_> = below.iter().map(|name| name.as_bytes().to_vec()).collect();
                    prop_assert_eq!(walk(path.as_bytes(), &read).unwrap().real, below);
                }
                Err(nix::Error::ELOOP) => prop_assert!(walk(path.as_bytes(), &read).is_err()),
                // What is missing has no real path to compare.
                Err(error) => prop_assert_eq!(error, nix::Error::ENOENT),
            }
        }
    }
}
