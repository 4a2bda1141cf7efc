//! Exit codes of our own. A command's own status is passed on; 128 + n stands for signal n.

/// Bad policy or usage.
pub const USAGE: u8 = 2;
/// Enforcement is unavailable, and nothing was started.
pub const UNAVAILABLE: u8 = 3;
/// Stockade itself failed.
pub const OWN_FAILURE: u8 = 125;
/// The command may not be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// There is no such command.
pub const NOT_FOUND: u8 = 127;
