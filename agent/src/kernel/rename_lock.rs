//! Where the kernel's `rename_lock` is, by whose sequence the programs know that no path has changed.

use std::{
    fs::File,
    io::{self, BufReader},
};

const SYMBOLS: &str = "/proc/kallsyms";

/// The address; `None` where the kernel keeps addresses even from root (`kernel.kptr_restrict=2`).
pub(super) fn address() -> Option<u64> {
    find(BufReader::with_capacity(1 << 16, File::open(SYMBOLS).ok()?)).ok().flatten()
}

/// Finds the line `ADDRESS TYPE rename_lock`; symbols of modules, which have a fourth word, come after all others.
fn find(mut symbols: impl io::BufRead) -> io::Result<Option<u64>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if symbols.read_until(b'\n', &mut line)? == 0 || line.contains(&b'\t') {
            return Ok(None);
        }
        if let Some(rest) = line.strip_suffix(b" rename_lock\n") {
            let address = rest.get(..16).and_then(|digits| std::str::from_utf8(digits).ok());
            return Ok(address.and_then(|digits| u64::from_str_radix(digits, 16).ok()).filter(|at| *at != 0));
        }
    }
}

/// An odd random number.
pub(super) fn key() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: writes at most as many bytes as there are.
    let length = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if length == 8 { Ok(u64::from_ne_bytes(bytes) | 1) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_found_among_symbols() {
        let find = |text: &str| find(text.as_bytes()).unwrap();
        let line = "ffffffff82a00010 d other_rename_lock\nffffffff82a00040 D rename_lock\n";
        assert_eq!(find(line), Some(0xffff_ffff_82a0_0040));
        assert_eq!(find("0000000000000000 D rename_lock\n"), None, "hidden");
        assert_eq!(find("ffffffffc0000000 d rename_lock\t[module]\n"), None);
        assert_eq!(find(""), None);
    }
}
