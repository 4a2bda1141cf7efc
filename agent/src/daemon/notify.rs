//! What systemd is told (`Type=notify`, `WatchdogSec=`). Without systemd there is nobody to tell, and that is no error.

use std::{io, time::Duration};

use sd_notify::NotifyState;

/// The daemon enforces: units that wait for it may start.
///
/// # Errors
/// If systemd's socket cannot be written to.
pub fn ready(status: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)])
}

/// Policies are being read again; [`ready`] ends it, whether they were taken or not.
///
/// # Errors
/// If systemd's socket cannot be written to, or there is no clock.
pub fn reloading() -> io::Result<()> {
    // Without the time systemd takes a READY of before for the end of this reload.
    sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
}

/// The daemon is about to end.
///
/// # Errors
/// If systemd's socket cannot be written to.
pub fn stopping(status: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status(status)])
}

/// What `systemctl status` shows.
///
/// # Errors
/// If systemd's socket cannot be written to.
pub fn status(text: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Status(text)])
}

/// Says that the core still turns: to be called by its loop, every [`watchdog_interval`].
///
/// # Errors
/// If systemd's socket cannot be written to.
pub fn watchdog() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Watchdog])
}

/// How often [`watchdog`] is to be called: half of what systemd waits for; `None` if it does not.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|longest| longest / 2)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixDatagram, process::Command};

    use super::*;

    const CHILD: &str = "STOCKADE_NOTIFY_TEST";

    #[test]
    fn systemd_is_told_in_its_words() {
        if std::env::var_os(CHILD).is_some() {
            assert_eq!(watchdog_interval(), Some(Duration::from_secs(5)));
            ready("enforcing 2 scopes").unwrap();
            reloading().unwrap();
            watchdog().unwrap();
            status("as before").unwrap();
            return stopping("detached").unwrap();
        }
        assert!(status("nobody listens").is_ok());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        // The environment belongs to all threads of a test.
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon::notify::tests::systemd_is_told_in_its_words"])
            .env(CHILD, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "10000000")
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        let mut told = Vec::new();
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 512];
        while let Ok(length) = socket.recv(&mut buffer) {
            told.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
        }
        assert_eq!(told[0], "READY=1\nSTATUS=enforcing 2 scopes");
        assert!(told[1].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{}", told[1]);
        assert_eq!(told[2..], ["WATCHDOG=1", "STATUS=as before", "STOPPING=1\nSTATUS=detached"]);
    }
}
