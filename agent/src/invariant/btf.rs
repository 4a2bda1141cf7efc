//! The kernel's type information.

use stockade_common::kernel_field::KERNEL_FIELDS;

use crate::kernel::btf::{self, BtfError, BtfIndex};

/// Indexes a blob and looks up every field the programs need. What is not found is named; both ways of asking agree.
pub fn check(data: &[u8]) {
    let all = btf::kernel_offsets(data);
    let index = match BtfIndex::parse(data) {
        Ok(index) => index,
        Err(error) => {
            assert!(matches!(error, BtfError::Malformed(_)), "{error}");
            assert_eq!(all, Err(error));
            return;
        }
    };
    let each: Result<Vec<_>, _> = KERNEL_FIELDS
        .iter()
        .map(|field| Ok((field, index.offset_of(field.container, field.member)?)))
        .collect();
    assert_eq!(all, each);
    for (field, offset) in all.into_iter().flatten() {
        assert!(offset <= u32::MAX / 8, "{} at {offset}", field.global);
    }
    // Members found through nothing, and names that are not there.
    let _ = index.offset_of("a", "in.v");
    let _ = index.offset_of("file", "");
    assert!(index.offset_of("", "x").is_err());
}
