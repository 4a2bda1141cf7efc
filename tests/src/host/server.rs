//! Two servers on the loopback: one that policies allow to reach, and one that they do not.

use std::net::TcpListener;
use std::thread;

/// What policies allow.
pub const ALLOWED: &str = "127.0.0.1:7001";
/// What no policy allows.
pub const FORBIDDEN: &str = "127.0.0.1:7002";

/// Starts both.
pub fn start() -> Result<(), String> {
    for address in [ALLOWED, FORBIDDEN] {
        let listener = TcpListener::bind(address).map_err(|e| format!("listening on {address}: {e}"))?;
        thread::spawn(move || listener.incoming().for_each(drop));
    }
    Ok(())
}
