//! Network interfaces, by name.

use std::ffi::CString;

/// The number of an interface of this network namespace. `None`: there is none of that name now.
#[must_use]
pub fn index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: reads a string that ends.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_the_first() {
        assert_eq!((index("lo"), index("no such"), index("a\0b")), (Some(1), None, None));
    }
}
