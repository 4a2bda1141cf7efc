//! The lines that programs built with `debug-log` write.

use std::fmt;

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::KernelError;

/// The lines; they can be read also when the programs are gone.
pub struct KernelLog(EbpfLogger<Lines>);

impl fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelLog").finish_non_exhaustive()
    }
}

impl KernelLog {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        EbpfLogger::init_with_logger(ebpf, Lines).map(Self).map_err(|error| {
            KernelError::NoObject(format!(
                "its programs write no lines ({error}): {}",
                super::object::DEBUG_OBJECT
            ))
        })
    }

    /// Prints what has been written so far to standard error.
    pub fn print(&mut self) {
        self.0.flush();
    }
}

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("kernel: {:5} {}", record.level(), record.args());
    }

    fn flush(&self) {}
}
