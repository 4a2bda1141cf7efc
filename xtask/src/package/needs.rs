//! What a binary needs of the system's libraries, read from the binary, and how package managers call it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use object::{
    Endianness, elf,
    read::elf::{Dyn as _, FileHeader as _},
};

/// (library, Debian's package, what its symbol versions begin with)
const LIBRARIES: [(&str, &str, &str); 6] = [
    ("libc.so.6", "libc6", "GLIBC_"),
    ("libm.so.6", "libc6", "GLIBC_"),
    ("libpthread.so.0", "libc6", "GLIBC_"),
    ("libdl.so.2", "libc6", "GLIBC_"),
    ("ld-linux-x86-64.so.2", "libc6", "GLIBC_"),
    ("libgcc_s.so.1", "libgcc-s1", "GCC_"),
];

/// Libraries, with the versions of their symbols.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs(BTreeMap<String, BTreeSet<String>>);

impl Needs {
    /// Of an x86-64 ELF file.
    pub fn read(binary: &[u8]) -> Result<Self> {
        let header = elf::FileHeader64::<Endianness>::parse(binary)?;
        let endian = header.endian()?;
        if header.e_machine.get(endian) != elf::EM_X86_64 {
            bail!("this is no x86-64 program, and packages are made for that only");
        }
        let sections = header.sections(endian, binary)?;
        let mut needs = BTreeMap::new();
        let (entries, index) = sections.dynamic(endian, binary)?.context("it has no dynamic section")?;
        let strings = sections.strings(endian, binary, index)?;
        for entry in entries.iter().filter(|entry| entry.tag(endian) == elf::DT_NEEDED) {
            needs.insert(text(entry.string(endian, strings)?)?, BTreeSet::new());
        }
        if let Some((mut libraries, index)) = sections.gnu_verneed(endian, binary)? {
            let strings = sections.strings(endian, binary, index)?;
            while let Some((library, mut versions)) = libraries.next()? {
                let needed: &mut BTreeSet<String> =
                    needs.entry(text(library.file(endian, strings)?)?).or_default();
                while let Some(version) = versions.next()? {
                    needed.insert(text(version.name(endian, strings)?)?);
                }
            }
        }
        Ok(Self(needs))
    }

    /// `libc6 (>= 2.34), libgcc-s1 (>= 4.2.0)`: a package is new enough if it has the newest of the versions.
    pub fn debian(&self) -> Result<String> {
        let mut packages: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (library, versions) in &self.0 {
            let (_, package, prefix) = LIBRARIES
                .iter()
                .find(|(name, ..)| name == library)
                .with_context(|| format!("it needs {library}, and needs.rs does not know whose that is"))?;
            let newest = packages.entry(package).or_default();
            for version in versions {
                let number = number(version, prefix).with_context(|| {
                    format!("{library} has a symbol version {version:?}, which is no number")
                })?;
                *newest = number.max(std::mem::take(newest));
            }
        }
        let depends = packages.into_iter().map(|(package, version)| {
            let version: Vec<_> = version.iter().map(u32::to_string).collect();
            if version.is_empty() {
                package.to_owned()
            } else {
                format!("{package} (>= {})", version.join("."))
            }
        });
        Ok(depends.collect::<Vec<_>>().join(", "))
    }

    /// `libc.so.6(GLIBC_2.34)(64bit)`, as rpm itself finds it.
    pub fn rpm(&self) -> Vec<String> {
        let mut requires = Vec::new();
        for (library, versions) in &self.0 {
            requires.push(format!("{library}()(64bit)"));
            requires.extend(versions.iter().map(|version| format!("{library}({version})(64bit)")));
        }
        requires
    }
}

fn text(bytes: &[u8]) -> Result<String> {
    Ok(std::str::from_utf8(bytes)?.to_owned())
}

fn number(version: &str, prefix: &str) -> Option<Vec<u32>> {
    // Relative relocations packed, for which the version stands that brought them.
    if version == "GLIBC_ABI_DT_RELR" {
        return Some(vec![2, 36]);
    }
    version.strip_prefix(prefix)?.split('.').map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(list: &[(&str, &[&str])]) -> Needs {
        let versions = |versions: &[&str]| versions.iter().map(|version| (*version).to_owned()).collect();
        Needs(list.iter().map(|(library, list)| ((*library).to_owned(), versions(list))).collect())
    }

    #[test]
    fn the_newest_symbol_counts_across_a_packages_libraries() {
        let needs = needs(&[
            ("libc.so.6", &["GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.9"]),
            ("libm.so.6", &["GLIBC_2.29"]),
            ("libgcc_s.so.1", &["GCC_3.0", "GCC_4.2.0"]),
        ]);
        assert_eq!(needs.debian().unwrap(), "libc6 (>= 2.34), libgcc-s1 (>= 4.2.0)");
        assert_eq!(needs.rpm()[..2], ["libc.so.6()(64bit)", "libc.so.6(GLIBC_2.2.5)(64bit)"]);
    }

    #[test]
    fn relative_relocations_stand_for_a_version() {
        let needs = needs(&[("libc.so.6", &["GLIBC_2.34", "GLIBC_ABI_DT_RELR"])]);
        assert_eq!(needs.debian().unwrap(), "libc6 (>= 2.36)");
    }

    #[test]
    fn what_is_not_known_is_not_left_out() {
        let error = needs(&[("libssl.so.3", &[])]).debian().unwrap_err();
        assert!(error.to_string().contains("libssl.so.3"));
        assert!(needs(&[("libc.so.6", &["GLIBC_PRIVATE"])]).debian().is_err());
    }

    #[test]
    fn this_test_itself_needs_the_c_library() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let needs = Needs::read(&own).unwrap();
        assert!(needs.debian().unwrap().contains("libc6 (>= 2."), "{needs:?}");
        assert!(Needs::read(b"#!/bin/sh\n").is_err());
    }
}
