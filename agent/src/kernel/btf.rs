//! Offsets of kernel struct members, from the running kernel's BTF.
//!
//! aya-obj parses BTF but keeps struct members to itself, so this walks the raw format: a header, type records, strings
//! (`Documentation/bpf/btf.rst`). Every read is bounds-checked: the blob may be anything.

use std::collections::{HashMap, HashSet};

use stockade_common::kernel_field::{KERNEL_FIELDS, KernelField};

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FUNC: u32 = 12;
/// typedef, volatile, const, restrict, type tag: looked through.
const TRANSPARENT: [u32; 5] = [8, 9, 10, 11, 18];
/// Modifiers looked through before giving up.
const MAX_MODIFIERS: usize = 32;
/// Anonymous members looked through before giving up; `task_struct` and `sock` need a handful.
const MAX_ANONYMOUS: usize = 256;

/// Why an offset could not be found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    /// The blob is not BTF, or is cut.
    #[error("kernel BTF is malformed at byte {0}")]
    Malformed(usize),
    /// No struct of that name.
    #[error("kernel BTF has no struct {0}")]
    NoStruct(String),
    /// No function of that name, which stands for an LSM hook.
    #[error("kernel BTF has no function {0}")]
    NoHook(String),
    /// The struct has no such member.
    #[error("struct {container} has no member {member} on this kernel")]
    NoMember {
        /// Struct.
        container: String,
        /// Member path.
        member: String,
    },
}

/// An index over a BTF blob.
#[derive(Debug)]
pub struct BtfIndex<'a> {
    data: &'a [u8],
    strings: usize,
    strings_end: usize,
    /// Strings of the kernel itself, which come before a module's.
    base_strings: &'a [u8],
    /// Ids before that of the first record: 0 is no type, and the kernel's come before a module's.
    earlier: u32,
    /// Byte offset of each type record.
    types: Vec<usize>,
    structs: HashMap<&'a [u8], u32>,
}

impl<'a> BtfIndex<'a> {
    /// Indexes a little-endian BTF blob, as `/sys/kernel/btf/vmlinux` holds it.
    ///
    /// # Errors
    /// [`BtfError::Malformed`] with the offset where it stops making sense.
    pub fn parse(data: &'a [u8]) -> Result<Self, BtfError> {
        Self::behind(data, &[], 1)
    }

    /// Indexes a module's blob, as `/sys/kernel/btf/MODULE` holds it: it goes on where the kernel's ends. Types of the kernel
    /// are not looked into.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_module(data: &'a [u8], kernel: &Self) -> Result<Self, BtfError> {
        let strings = kernel.data.get(kernel.strings..kernel.strings_end).unwrap_or_default();
        Self::behind(data, strings, kernel.earlier.saturating_add(kernel.types.len() as u32))
    }

    fn behind(data: &'a [u8], base_strings: &'a [u8], earlier: u32) -> Result<Self, BtfError> {
        let header = u32_at(data, 0)?;
        if header as u16 != MAGIC {
            return Err(BtfError::Malformed(0));
        }
        let header_len = u32_at(data, 4)? as usize;
        let section = |offset: u32, len: u32| {
            let start = header_len.checked_add(offset as usize)?;
            let end = start.checked_add(len as usize)?;
            (end <= data.len()).then_some((start, end))
        };
        let (start, end) = section(u32_at(data, 8)?, u32_at(data, 12)?).ok_or(BtfError::Malformed(8))?;
        let (strings, strings_end) =
            section(u32_at(data, 16)?, u32_at(data, 20)?).ok_or(BtfError::Malformed(16))?;
        let (types, structs) = (Vec::new(), HashMap::new());
        let mut index = Self { data, strings, strings_end, base_strings, earlier, types, structs };
        let mut at = start;
        while at < end {
            let (kind, vlen) = index.info(at)?;
            if kind == KIND_STRUCT {
                let id = u32::try_from(index.types.len()).ok().and_then(|id| id.checked_add(earlier));
                let id = id.ok_or(BtfError::Malformed(at))?;
                let name = index.string(u32_at(data, at)?)?;
                if !name.is_empty() {
                    index.structs.entry(name).or_insert(id);
                }
            }
            index.types.push(at);
            let extra = match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * vlen,
                6 | 13 => 8 * vlen,
                2 | 7..=12 | 16 | 18 => 0,
                _ => return Err(BtfError::Malformed(at)),
            };
            at += 12 + extra;
        }
        if at == end { Ok(index) } else { Err(BtfError::Malformed(end)) }
    }

    /// Byte offset of a member, `.`-separated where it is a member of an embedded struct. Anonymous structs and unions
    /// are looked through.
    ///
    /// # Errors
    /// Names the struct or member that is missing.
    pub fn offset_of(&self, container: &str, member: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::NoMember { container: container.into(), member: member.into() };
        let mut id =
            *self.structs.get(container.as_bytes()).ok_or_else(|| BtfError::NoStruct(container.into()))?;
        let mut bits = 0u32;
        for part in member.split('.') {
            let (offset, member_type) =
                self.member(id, part.as_bytes(), &mut HashSet::new())?.ok_or_else(missing)?;
            bits = bits.checked_add(offset).ok_or_else(missing)?;
            id = member_type;
        }
        if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err(missing()) }
    }

    /// How many parameters a function has, if it is there.
    fn parameters(&self, function: &str) -> Result<Option<usize>, BtfError> {
        for &at in &self.types {
            if self.info(at)?.0 == KIND_FUNC && self.string(u32_at(self.data, at)?)? == function.as_bytes() {
                let prototype = self.resolve(u32_at(self.data, at + 8)?)?;
                return prototype.map(|at| Ok(self.info(at)?.1)).transpose();
            }
        }
        Ok(None)
    }

    /// Offset in bits and type of a member, searched through anonymous members. `seen` are the records searched
    /// already: one that holds others many times, or itself, is searched once.
    fn member(
        &self,
        id: u32,
        name: &[u8],
        seen: &mut HashSet<usize>,
    ) -> Result<Option<(u32, u32)>, BtfError> {
        let Some(at) = self.resolve(id)? else { return Ok(None) };
        if seen.len() > MAX_ANONYMOUS || !seen.insert(at) {
            return Ok(None);
        }
        let (kind, vlen) = self.info(at)?;
        if kind != KIND_STRUCT && kind != KIND_UNION {
            return Ok(None);
        }
        let bitfields = u32_at(self.data, at + 4)? >> 31 == 1;
        for index in 0..vlen {
            let record = at + 12 + 12 * index;
            let member_name = self.string(u32_at(self.data, record)?)?;
            let member_type = u32_at(self.data, record + 4)?;
            let raw = u32_at(self.data, record + 8)?;
            let (offset, is_bitfield) =
                if bitfields { (raw & 0x00ff_ffff, raw >> 24 != 0) } else { (raw, false) };
            if member_name == name && !is_bitfield {
                return Ok(Some((offset, member_type)));
            }
            if member_name.is_empty()
                && let Some((inner, found)) = self.member(member_type, name, seen)?
            {
                return Ok(offset.checked_add(inner).map(|bits| (bits, found)));
            }
        }
        Ok(None)
    }

    /// Record of a type, modifiers and typedefs looked through.
    fn resolve(&self, id: u32) -> Result<Option<usize>, BtfError> {
        let mut id = id;
        for _ in 0..MAX_MODIFIERS {
            let Some(&at) = id.checked_sub(self.earlier).and_then(|index| self.types.get(index as usize))
            else {
                return Ok(None);
            };
            if !TRANSPARENT.contains(&self.info(at)?.0) {
                return Ok(Some(at));
            }
            id = u32_at(self.data, at + 8)?;
        }
        Ok(None)
    }

    fn info(&self, at: usize) -> Result<(u32, usize), BtfError> {
        let info = u32_at(self.data, at + 4)?;
        Ok(((info >> 24) & 0x1f, (info & 0xffff) as usize))
    }

    fn string(&self, offset: u32) -> Result<&'a [u8], BtfError> {
        let offset = offset as usize;
        let start = self.strings.saturating_add(offset.saturating_sub(self.base_strings.len()));
        let own = || self.data.get(start..).ok_or(BtfError::Malformed(start));
        let rest = match self.base_strings.get(offset..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => own()?,
        };
        let end = rest.iter().position(|byte| *byte == 0).ok_or(BtfError::Malformed(start))?;
        Ok(&rest[..end])
    }
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, BtfError> {
    at.checked_add(4)
        .and_then(|end| data.get(at..end))
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes)
        .ok_or(BtfError::Malformed(at))
}

/// Offsets of all fields the programs need.
///
/// # Errors
/// The first field that is missing.
pub fn kernel_offsets(btf: &[u8]) -> Result<Vec<(&'static KernelField, u32)>, BtfError> {
    let index = BtfIndex::parse(btf)?;
    KERNEL_FIELDS.iter().map(|field| Ok((field, index.offset_of(field.container, field.member)?))).collect()
}

/// Offset of a member of a module's struct, or of the kernel's where the module is built in.
///
/// # Errors
/// If either blob is no BTF, or neither has it.
pub fn module_offset(
    kernel: &[u8],
    module: Option<&[u8]>,
    container: &str,
    member: &str,
) -> Result<u32, BtfError> {
    let kernel = BtfIndex::parse(kernel)?;
    match module {
        Some(module) => BtfIndex::parse_module(module, &kernel)?.offset_of(container, member),
        None => kernel.offset_of(container, member),
    }
}

/// How many parameters an LSM hook has on this kernel.
///
/// # Errors
/// If there is no such hook.
pub fn lsm_parameters(btf: &[u8], hook: &str) -> Result<usize, BtfError> {
    let function = format!("bpf_lsm_{hook}");
    BtfIndex::parse(btf)?.parameters(&function)?.ok_or(BtfError::NoHook(function))
}

/// Whether the kernel has an LSM hook: BTF names the function that BPF programs are attached to for it.
#[must_use]
pub fn has_lsm_hook(btf: &[u8], hook: &str) -> bool {
    let name = format!("\0bpf_lsm_{hook}\0");
    btf.windows(name.len()).any(|bytes| bytes == name.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `struct a { int x; union { struct { int y; int z; }; }; const b_t in; }; struct b { int v; int w:3; }`
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0a\0x\0y\0z\0in\0b\0v\0w\0b_t\0";
        let name = |wanted: &str| {
            let needle = [b"\0", wanted.as_bytes(), b"\0"].concat();
            strings.windows(needle.len()).position(|window| window == needle).unwrap() as u32 + 1
        };
        let info = |kind: u32, vlen: u32, flag: u32| flag << 31 | kind << 24 | vlen;
        let mut types: Vec<u32> = Vec::new();
        types.extend([name("int"), info(1, 0, 0), 4, 0x0100_0020]); // 1
        types.extend([0, info(4, 2, 0), 8, name("y"), 1, 0, name("z"), 1, 32]); // 2
        types.extend([0, info(5, 1, 0), 8, 0, 2, 0]); // 3
        types.extend([name("b"), info(4, 2, 1), 8, name("v"), 1, 32, name("w"), 1, 3 << 24 | 64]); // 4
        types.extend([name("b_t"), info(8, 0, 0), 4]); // 5
        types.extend([0, info(10, 0, 0), 5]); // 6
        types.extend([name("a"), info(4, 3, 0), 24, name("x"), 1, 0, 0, 3, 64, name("in"), 6, 128]); // 7
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_le_bytes).collect();
        let mut blob = Vec::new();
        blob.extend(0x0001_eb9f_u32.to_le_bytes());
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            blob.extend(word.to_le_bytes());
        }
        blob.extend(types);
        blob.extend(strings);
        blob
    }

    #[test]
    fn finds_members_through_anonymous_and_typedefs() {
        let blob = sample();
        let index = BtfIndex::parse(&blob).unwrap();
        assert_eq!(index.offset_of("a", "x"), Ok(0));
        assert_eq!(index.offset_of("a", "z"), Ok(12));
        assert_eq!(index.offset_of("a", "in.v"), Ok(20));
    }

    #[test]
    fn names_what_is_missing() {
        let blob = sample();
        let index = BtfIndex::parse(&blob).unwrap();
        assert_eq!(index.offset_of("c", "x"), Err(BtfError::NoStruct("c".into())));
        assert!(matches!(index.offset_of("a", "q"), Err(BtfError::NoMember { .. })));
        assert!(
            matches!(index.offset_of("b", "w"), Err(BtfError::NoMember { .. })),
            "a bitfield has no byte offset"
        );
    }

    /// `struct ovl { b_t *x; int creator; }`, behind [`sample`].
    fn module() -> Vec<u8> {
        let base = sample();
        let base = BtfIndex::parse(&base).unwrap();
        let base_strings = (base.strings_end - base.strings) as u32;
        let strings = b"ovl\0creator\0";
        let x = base.data[base.strings..].windows(3).position(|at| at == b"\0x\0").unwrap() as u32 + 1;
        let types = [base_strings, 4 << 24 | 2, 16, x, 6, 0, base_strings + 4, 1, 64];
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_le_bytes).collect();
        let mut blob = 0x0001_eb9f_u32.to_le_bytes().to_vec();
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            blob.extend(word.to_le_bytes());
        }
        [blob, types, strings.to_vec()].concat()
    }

    #[test]
    fn a_module_goes_on_where_the_kernel_ends() {
        let (kernel, module) = (sample(), module());
        assert_eq!(module_offset(&kernel, Some(&module), "ovl", "creator"), Ok(8));
        assert_eq!(module_offset(&kernel, Some(&module), "ovl", "x"), Ok(0), "a name of the kernel's");
        assert_eq!(module_offset(&kernel, None, "ovl", "x"), Err(BtfError::NoStruct("ovl".into())));
        assert_eq!(module_offset(&kernel, None, "a", "x"), Ok(0));
        assert!(module_offset(&kernel, Some(&module[..40]), "ovl", "x").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(cut in 0usize..400, at in 0usize..400, value: u8) {
            let mut blob = sample();
            if let Some(byte) = blob.get_mut(at) {
                *byte = value;
            }
            blob.truncate(cut);
            if let Ok(index) = BtfIndex::parse(&blob) {
                let _ = index.offset_of("a", "in.v");
                let _ = index.offset_of("a", "z");
            }
        }
    }
}
