//! The kernel side seen from userspace: BTF offsets, load, attach, apply, tag.
