//! Kernels for guests: the newest Debian package of each line, found at run time, unpacked and uncompressed once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{apt::Apt, command};

/// The matrix.
pub const LINES: [&str; 4] = ["6.1", "6.12", "6.18", "newest"];

/// A kernel ready to boot.
pub struct Kernel {
    /// Its release, as the package names it.
    pub version: String,
    /// Uncompressed image.
    pub image: PathBuf,
    /// Folder that holds `lib/modules` or `usr/lib/modules`.
    pub root: PathBuf,
}

/// Finds a line's newest kernel; the network is used only if none is cached, or with `refresh`.
pub fn find(line: &str, refresh: bool) -> Result<Kernel> {
    let base = command::cache()?.join("kernels");
    fs::create_dir_all(&base)?;
    let chosen = base.join(format!("{line}.version"));
    if !refresh
        && let Ok(version) = fs::read_to_string(&chosen)
        && base.join(&version).join("vmlinux").exists()
    {
        return Ok(kernel(&base, version));
    }
    let apt = Apt::open(refresh)?;
    let names = apt.names()?;
    let (version, packages) = newest(line, names.iter().map(String::as_str))
        .with_context(|| format!("no kernel package of line {line}"))?;
    let folder = base.join(&version);
    if !folder.join("vmlinux").exists() {
        eprintln!("fetching kernel {version}");
        let part = base.join(format!("{version}.part"));
        let _ = fs::remove_dir_all(&part);
        for package in &packages {
            if names.contains(package) {
                apt.unpack(package, &part)?;
            }
        }
        let image =
            compressed_image(&part).with_context(|| format!("no image in the packages of {version}"))?;
        fs::write(part.join("vmlinux"), uncompress(&image)?)?;
        let _ = fs::remove_dir_all(&folder);
        fs::rename(&part, &folder)?;
    }
    fs::write(chosen, &version)?;
    Ok(kernel(&base, version))
}

fn kernel(base: &Path, version: String) -> Kernel {
    let root = base.join(&version);
    Kernel { image: root.join("vmlinux"), root, version }
}

/// Numbers of a version, for comparing: `6.12.117+deb12` is (6, 12, 117, 0, 12).
fn order(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().unwrap_or(u64::MAX))
        .collect()
}

/// The newest cloud kernel of a line among package names, and its packages. From 6.19 on the image is in
/// `linux-binary-*`, the modules in `linux-modules-*`.
fn newest<'a>(line: &str, names: impl Iterator<Item = &'a str>) -> Option<(String, Vec<String>)> {
    let version = names
        .filter_map(|name| {
            let rest = name.strip_prefix("linux-image-").or_else(|| name.strip_prefix("linux-binary-"))?;
            let version = rest.strip_suffix("-cloud-amd64")?;
            // "linux-image-6.12-cloud-amd64" is a meta-package.
            (order(version).len() >= 3 && version.starts_with(|c: char| c.is_ascii_digit()))
                .then_some(version)
        })
        .filter(|version| {
            line == "newest" || version.strip_prefix(line).is_some_and(|rest| rest.starts_with('.'))
        })
        .max_by_key(|version| order(version))?;
    let packages =
        ["image", "binary", "modules"].map(|part| format!("linux-{part}-{version}-cloud-amd64")).to_vec();
    Some((version.to_owned(), packages))
}

fn compressed_image(root: &Path) -> Option<PathBuf> {
    let boot = fs::read_dir(root.join("boot")).into_iter().flatten().flatten().map(|entry| entry.path());
    let modules = fs::read_dir(root.join("usr/lib/modules"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("vmlinuz"));
    boot.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .chain(modules)
        .find(|path| path.is_file())
}

/// The ELF image inside a bzImage: QEMU starts it through its PVH entry, and the guest is spared the decompression.
/// Layout of the header: `Documentation/arch/x86/boot.rst`.
fn uncompress(image: &Path) -> Result<Vec<u8>> {
    let data = fs::read(image).with_context(|| format!("reading {}", image.display()))?;
    let word = |at: usize| -> Result<usize> {
        let bytes = data.get(at..at + 4).context("the kernel image is cut")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    if data.get(514..518) != Some(b"HdrS") {
        bail!("{} is no bzImage", image.display());
    }
    let sectors = usize::from(*data.get(497).context("the kernel image is cut")?);
    let start = (if sectors == 0 { 4 } else { sectors } + 1) * 512 + word(584)?;
    let payload = data.get(start..start + word(588)?).context("the kernel image is cut")?;
    let program = match payload.get(..4) {
        Some([0x28, 0xb5, 0x2f, 0xfd]) => "zstd",
        Some([0x02, 0x21, 0x4c, 0x18] | [0x04, 0x22, 0x4d, 0x18]) => "lz4",
        Some([0x1f, 0x8b, ..]) => "gzip",
        Some([0xfd, b'7', b'z', b'X']) => "xz",
        other => bail!("{}: unknown compression {other:02x?}", image.display()),
    };
    let mut input = tempfile::tempfile()?;
    std::io::Write::write_all(&mut input, payload)?;
    std::io::Seek::rewind(&mut input)?;
    // The payload's length stands behind it and makes the tools grumble: judged by what came out.
    let output = Command::new(program).arg("-dc").stdin(input).stderr(Stdio::null()).output()?;
    if !output.stdout.starts_with(b"\x7fELF") {
        bail!("{program} did not unpack {}", image.display());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_line_is_found_by_number() {
        let names = [
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.12.95+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-image-cloud-amd64",
        ];
        let find = |line| newest(line, names.into_iter()).map(|(version, _)| version);
        assert_eq!(find("6.12").as_deref(), Some("6.12.117+deb12"));
        assert_eq!(find("6.1").as_deref(), Some("6.1.0-56"));
        assert_eq!(find("newest").as_deref(), Some("7.3.4+deb13"));
        assert_eq!(find("5.10"), None);
    }
}
