//! Disks of a guest: ext4 from a folder, and a partition table where the kernel is to find its root by name.
//!
//! Cloud kernels have NVMe and ext4 built in, so that no initramfs is needed. Controllers are probed side by side: the root is
//! named by its partition, the others by their label.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::command;

const MIB: u64 = 1 << 20;
/// The root disk's signature, and so what its partition is called.
const SIGNATURE: u32 = 0x570c_6ade;
/// What [`partitioned`] calls its one partition: PARTUUID.
pub const PARTITION: &str = "570c6ade-01";

/// A disk that is one file system, with what is in `folder` and little room.
pub fn of_folder(folder: &Path, disk: &Path, label: &str) -> Result<()> {
    let size = size(folder)? * 5 / 4 + 8 * MIB;
    File::create(disk).with_context(|| format!("creating {}", disk.display()))?;
    mkfs(Command::new(command::tool("mkfs.ext4")?), folder, disk, label, 0, size)
}

/// A disk with one partition of `size` bytes, whose files belong to whom they belong to in `folder`.
pub fn partitioned(folder: &Path, disk: &Path, label: &str, size: u64) -> Result<()> {
    // Before mkfs: the file is ours, whoever mkfs runs as.
    let mut file = File::create(disk).with_context(|| format!("creating {}", disk.display()))?;
    file.write_all(&table(size / 512))?;
    file.set_len(MIB + size)?;
    mkfs(command::as_root(command::tool("mkfs.ext4")?), folder, disk, label, MIB, size)
}

fn mkfs(mut mkfs: Command, folder: &Path, disk: &Path, label: &str, offset: u64, size: u64) -> Result<()> {
    // Without a journal: a guest's disk is thrown away.
    mkfs.args(["-q", "-F", "-O", "^has_journal", "-m", "0", "-L", label, "-E"])
        .arg(format!("offset={offset}"))
        .arg("-d")
        .arg(folder)
        .arg(disk)
        .arg(format!("{}k", size / 1024));
    command::run(&mut mkfs)
}

/// Bytes that the files of a folder take on a disk.
fn size(folder: &Path) -> Result<u64> {
    let mut total = 4096;
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        total += if entry.file_type()?.is_dir() {
            size(&entry.path())?
        } else {
            entry.metadata()?.size().next_multiple_of(4096)
        };
    }
    Ok(total)
}

/// A master boot record with one Linux partition from 1 MiB on.
fn table(sectors: u64) -> [u8; 512] {
    let mut table = [0; 512];
    table[440..444].copy_from_slice(&SIGNATURE.to_le_bytes());
    table[450] = 0x83;
    let start = u32::try_from(MIB / 512).unwrap_or(u32::MAX);
    table[454..458].copy_from_slice(&start.to_le_bytes());
    table[458..462].copy_from_slice(&u32::try_from(sectors).unwrap_or(u32::MAX).to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_is_called_after_the_signature() {
        assert_eq!(PARTITION, format!("{SIGNATURE:08x}-01"));
        let table = table(4096);
        assert_eq!(table[454..462], [0, 8, 0, 0, 0, 16, 0, 0]);
        assert_eq!(table[510..], [0x55, 0xaa]);
    }

    #[test]
    fn a_file_takes_whole_blocks() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "x").unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        assert_eq!(size(folder.path()).unwrap(), 3 * 4096);
    }
}
