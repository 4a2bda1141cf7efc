//! The mount table of the workload, as `/proc/self/mountinfo` shows it.

use std::os::unix::ffi::OsStrExt as _;

/// One mounted filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Kernel encoding, `major << 20 | minor`.
    pub dev: u32,
    /// Path inside the filesystem that is shown at the mount point.
    pub root: Vec<u8>,
    /// Where.
    pub point: Vec<u8>,
    /// Type, such as `ext4`.
    pub fs_type: String,
}

/// All mounts that can be seen: of several on one mount point the last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountTable {
    /// In the order of the table.
    pub mounts: Vec<Mount>,
}

/// The table could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("mountinfo line {0} is not in the kernel's format")]
pub struct MountError(pub usize);

impl MountTable {
    /// Reads the text of `/proc/PID/mountinfo` (proc(5)).
    ///
    /// # Errors
    /// The number of the first line that does not parse.
    pub fn parse(text: &[u8]) -> Result<Self, MountError> {
        let mut mounts: Vec<Mount> = Vec::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let mount = parse_line(line).ok_or(MountError(number + 1))?;
            mounts.retain(|earlier| earlier.point != mount.point);
            mounts.push(mount);
        }
        Ok(Self { mounts })
    }

    /// The path a workload sees for a path inside a filesystem, if the filesystem is mounted anywhere that shows it.
    #[must_use]
    pub fn visible(&self, dev: u32, inside: &[u8]) -> Option<Vec<u8>> {
        let candidates = self.mounts.iter().filter(|mount| mount.dev == dev);
        let (mount, rest) = candidates
            .filter_map(|mount| Some((mount, below(inside, &mount.root)?)))
            .max_by_key(|(mount, _)| mount.root.len())?;
        Some(behind(&mount.point, rest))
    }

    /// The mount a path lies on, and the path inside its filesystem.
    #[must_use]
    pub fn inside(&self, path: &[u8]) -> Option<(&Mount, Vec<u8>)> {
        let candidates = self.mounts.iter().filter_map(|mount| Some((mount, below(path, &mount.point)?)));
        let (mount, rest) = candidates.max_by_key(|(mount, _)| mount.point.len())?;
        Some((mount, behind(&mount.root, rest)))
    }

    /// Every path under which mounts show what is at `path`, itself included. Mounts that hide one another all count, so
    /// there may be too many, never too few.
    #[must_use]
    pub fn aliases(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let mut all = vec![path.to_vec()];
        for mount in &self.mounts {
            let Some(rest) = below(path, &mount.point) else { continue };
            let inside = behind(&mount.root, rest);
            let others = self.mounts.iter().filter(|other| other.dev == mount.dev);
            all.extend(others.filter_map(|other| Some(behind(&other.point, below(&inside, &other.root)?))));
        }
        all.sort();
        all.dedup();
        all
    }
}

/// `rest`, as [`below`] gives it, behind a path.
fn behind(path: &[u8], rest: &[u8]) -> Vec<u8> {
    let path: &[u8] = if path == b"/" { b"" } else { path };
    let whole = [path, rest].concat();
    if whole.is_empty() { b"/".to_vec() } else { whole }
}

/// What of `path` lies below `root`: empty, or starting with `/`.
fn below<'a>(path: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    if root == b"/" {
        return Some(if path == b"/" { b"" } else { path });
    }
    let rest = path.strip_prefix(root)?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let (major, minor) = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?;
    let dev = major.parse::<u32>().ok()?.checked_mul(1 << 20)? | minor.parse::<u32>().ok()?;
    let separator = fields.iter().position(|field| *field == b"-")?;
    let fs_type = std::str::from_utf8(fields.get(separator + 1)?).ok()?.to_owned();
    Some(Mount { dev, root: unescape(fields.get(3)?), point: unescape(fields.get(4)?), fs_type })
}

/// Blank, tab, newline and backslash stand as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(&byte) = field.get(at) {
        let octal = field
            .get(at + 1..at + 4)
            .filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        if let Some(digits) = octal {
            out.push(
                digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
            );
            at += 4;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    out
}

/// Bytes of a path.
#[must_use]
pub fn path_bytes(path: &std::path::Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:5 / /proc rw - proc proc rw
23 21 8:2 /@home /home rw - btrfs /dev/sdb rw
24 21 8:1 /srv/data /mnt/with\\040blank rw - ext4 /dev/sda1 rw
25 21 0:9 / /proc rw - proc again rw
";

    #[test]
    fn lines_are_read() {
        let table = MountTable::parse(TABLE.as_bytes()).unwrap();
        assert_eq!(table.mounts.len(), 4, "the second /proc hides the first");
        assert_eq!(table.mounts[0].dev, 8 << 20 | 1);
        assert_eq!(table.mounts[2].point, b"/mnt/with blank");
        assert_eq!(MountTable::parse(b"nonsense\n"), Err(MountError(1)));
    }

    #[test]
    fn inner_paths_are_shown_where_they_are_mounted() {
        let table = MountTable::parse(TABLE.as_bytes()).unwrap();
        let seen =
            |dev, path: &str| table.visible(dev, path.as_bytes()).map(|p| String::from_utf8(p).unwrap());
        assert_eq!(seen(8 << 20 | 2, "/@home/u/x").as_deref(), Some("/home/u/x"));
        assert_eq!(seen(8 << 20 | 2, "/@other/x"), None);
        assert_eq!(seen(8 << 20 | 1, "/etc/passwd").as_deref(), Some("/etc/passwd"));
        assert_eq!(seen(8 << 20 | 1, "/").as_deref(), Some("/"));
    }
}
