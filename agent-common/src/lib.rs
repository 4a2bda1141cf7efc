//! What the kernel programs (`agent-ebpf`) and the userspace agent (`agent`) must agree on.
//!
//! One topic a module. Everything that crosses the boundary is `#[repr(C)]`, has no padding the compiler could
//! leave uninitialised, holds no `bool` and no payload enum, and has its size asserted at compile time, so that a
//! change on one side that the other has not seen does not build.
#![no_std]

pub mod counter;
pub mod event;
pub mod file;
pub mod kernel_field;
pub mod limits;
pub mod net;
pub mod process;
pub mod tag;

/// Asserts a type's size in bytes at compile time.
macro_rules! assert_size {
    ($ty:ty, $size:expr) => {
        const _: () = assert!(core::mem::size_of::<$ty>() == $size);
    };
}
pub(crate) use assert_size;

/// Marks types as plain data for aya's userspace maps.
macro_rules! pod {
    ($($ty:ty),+ $(,)?) => {
        $(
            // SAFETY: `#[repr(C)]`, `Copy`, every bit pattern valid, and the size asserted beside the type leaves no
            // room for padding.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $ty {}
        )+
    };
}
pub(crate) use pod;
