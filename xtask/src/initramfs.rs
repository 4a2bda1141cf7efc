//! A guest's root: busybox, the agent, payloads and the libraries they need, as an uncompressed newc cpio archive.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    modules::{Modules, modules},
};

const INIT: &str = include_str!("init.sh");

enum Node {
    Folder(u32),
    Link(String),
    File(u32, Vec<u8>),
}

/// The files of a root; parents are made as needed.
pub struct Root {
    nodes: BTreeMap<String, Node>,
}

impl Root {
    /// Busybox, accounts, an init that mounts what a host has, runs `/etc/guest-command` and reports its status.
    pub fn new() -> Result<Self> {
        let mut root = Self { nodes: BTreeMap::new() };
        let busybox = command::which("busybox").context("busybox is missing: run `cargo xtask setup`")?;
        for folder in
            ["dev", "proc", "sys", "run", "mnt", "var", "usr/bin", "home/user", "lib/modules", "payload"]
        {
            root.folder(folder, 0o755);
        }
        root.folder("root", 0o700);
        root.folder("tmp", 0o1777);
        root.folder("var/tmp", 0o1777);
        root.copy(&busybox, "bin/busybox")?;
        for applet in command::output(Command::new(&busybox).arg("--list"))?.lines() {
            if applet != "busybox" {
                root.link(&format!("bin/{applet}"), "busybox");
            }
        }
        root.link("sbin", "bin");
        root.file("init", 0o755, INIT.as_bytes().to_vec());
        root.file("etc/passwd", 0o644, PASSWD.into());
        root.file("etc/group", 0o644, "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n".into());
        root.file("etc/shadow", 0o600, "root:$y$not-a-real-hash:20000::::::\n".into());
        root.file("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n".into());
        Ok(root)
    }

    /// Adds a folder.
    pub fn folder(&mut self, path: &str, mode: u32) {
        self.parents(path);
        self.nodes.insert(path.into(), Node::Folder(mode));
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.nodes.insert(path.into(), Node::Link(target.into()));
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.parents(path);
        self.nodes.insert(path.into(), Node::File(mode, content));
    }

    /// Copies a file with its mode; for a dynamically linked program its libraries come along.
    pub fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        let mode = fs::metadata(from)?.permissions().mode() & 0o7777;
        let is_program = content.starts_with(b"\x7fELF");
        self.file(to, mode, content);
        if is_program {
            for library in libraries(from) {
                let place = library.to_string_lossy().trim_start_matches('/').to_owned();
                if !self.nodes.contains_key(&place) {
                    let content =
                        fs::read(&library).with_context(|| format!("reading {}", library.display()))?;
                    self.file(&place, 0o755, content);
                }
            }
        }
        Ok(())
    }

    /// Copies a tree.
    pub fn tree(&mut self, from: &Path, to: &str) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
            let entry = entry?;
            let place = format!("{to}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.folder(&place, entry.metadata()?.permissions().mode() & 0o7777);
                self.tree(&entry.path(), &place)?;
            } else if kind.is_symlink() {
                self.link(&place, &fs::read_link(entry.path())?.to_string_lossy());
            } else if kind.is_file() {
                self.copy(&entry.path(), &place)?;
            }
        }
        Ok(())
    }

    /// Adds modules with what they need, listed in `/etc/guest-modules` in the order to insert them.
    pub fn modules(&mut self, names: &[&str], kernel: &Path) -> Result<()> {
        let mut list = String::new();
        if !names.is_empty() {
            let Modules { base, release } = modules(kernel)?;
            for name in names {
                let needs = command::output(
                    Command::new(command::tool("modprobe")?)
                        .arg("-d")
                        .arg(base.path())
                        .arg("-S")
                        .arg(&release)
                        .args(["--show-depends", name]),
                )?;
                for line in needs.lines() {
                    let mut words = line.split_whitespace();
                    if words.next() == Some("insmod") {
                        let path = PathBuf::from(words.next().context("modprobe named no file")?);
                        let options: Vec<_> = words.collect();
                        self.module(&path, &options.join(" "), &mut list)?;
                    }
                }
            }
        }
        self.file("etc/guest-modules", 0o644, list.into_bytes());
        Ok(())
    }

    fn module(&mut self, path: &Path, options: &str, list: &mut String) -> Result<()> {
        let name = path.file_name().context("a module without a name")?.to_string_lossy().into_owned();
        let place = format!("lib/modules/{}", name.trim_end_matches(".xz"));
        if !self.nodes.contains_key(&place) {
            let content = if name.ends_with(".xz") {
                let output = Command::new("xz").arg("-dc").arg(path).output()?;
                if !output.status.success() {
                    bail!("unpacking {}", path.display());
                }
                output.stdout
            } else {
                fs::read(path)?
            };
            self.file(&place, 0o644, content);
            list.push_str(&format!("/{place} {options}\n"));
        }
        Ok(())
    }

    fn parents(&mut self, path: &str) {
        for (index, _) in path.match_indices('/') {
            self.nodes.entry(path[..index].into()).or_insert(Node::Folder(0o755));
        }
    }

    /// Writes the archive.
    pub fn write(&self, out: &mut impl Write) -> Result<()> {
        for (inode, (path, node)) in (1u32..).zip(&self.nodes) {
            match node {
                Node::Folder(mode) => entry(out, inode, path, 0o040_000 | mode, &[])?,
                Node::Link(target) => entry(out, inode, path, 0o120_777, target.as_bytes())?,
                Node::File(mode, content) => entry(out, inode, path, 0o100_000 | mode, content)?,
            }
        }
        entry(out, 0, "TRAILER!!!", 0, &[])
    }
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n\
                      nobody:x:65534:65534::/:/bin/false\n";

/// One entry; the format is that of `Documentation/driver-api/early-userspace/buffer-format.rst`.
fn entry(out: &mut impl Write, inode: u32, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let size = u32::try_from(content.len()).context("a file of 4 GiB")?;
    let owner = if path == "home/user" { 1000 } else { 0 };
    let name = path.len() + 1;
    write!(out, "070701{inode:08x}{mode:08x}{owner:08x}{owner:08x}{:08x}{:08x}{size:08x}", 1, 0)?;
    write!(out, "{:08x}{:08x}{:08x}{:08x}{name:08x}{:08x}{path}\0", 0, 0, 0, 0, 0)?;
    out.write_all(&[0; 3][..(4 - (110 + name) % 4) % 4])?;
    out.write_all(content)?;
    out.write_all(&[0; 3][..(4 - content.len() % 4) % 4])?;
    Ok(())
}

/// What `ldd` lists for a program; nothing for a static one.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let Ok(output) = Command::new("ldd").arg(program).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_padded_to_four_bytes() {
        let mut out = Vec::new();
        entry(&mut out, 1, "a/b", 0o100_644, b"hello").unwrap();
        assert_eq!(out.len() % 4, 0);
        assert!(out.starts_with(b"070701"));
        assert_eq!(&out[110..114], b"a/b\0");
    }
}
