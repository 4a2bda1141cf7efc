//! What the agent can reach, and what it must not: threads of this process, so that nothing outlives it.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::stage::Git;

/// The git server, the one destination that the agent may reach.
pub const GIT: &str = "127.0.0.1:9418";
/// What must stay unreached.
const TCP: [&str; 2] = ["169.254.169.254:80", "127.0.0.1:5432"];
const UDP: &str = "127.0.0.1:5353";

/// A listener that counts who came.
#[derive(Debug)]
pub struct Listener {
    /// For the reader.
    pub name: String,
    heard: Arc<AtomicUsize>,
}

impl Listener {
    fn tcp(address: &str) -> Result<Self> {
        let socket = TcpListener::bind(address).with_context(|| format!("listening on {address}/tcp"))?;
        let heard = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&heard);
        thread::spawn(move || {
            for _ in socket.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(Self { name: format!("{address}/tcp"), heard })
    }

    fn udp(address: &str) -> Result<Self> {
        let socket = UdpSocket::bind(address).with_context(|| format!("listening on {address}/udp"))?;
        let heard = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&heard);
        thread::spawn(move || {
            while socket.recv_from(&mut [0; 64]).is_ok() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(Self { name: format!("{address}/udp"), heard })
    }

    /// How many came since the last time.
    pub fn take(&self) -> usize {
        self.heard.swap(0, Ordering::SeqCst)
    }
}

/// The listeners that the policy does not name.
pub fn unlisted() -> Result<Vec<Listener>> {
    let mut all = TCP.into_iter().map(Listener::tcp).collect::<Result<Vec<_>>>()?;
    all.push(Listener::udp(UDP)?);
    Ok(all)
}

/// Serves the repositories below `folder` with git's own daemon, one process a connection.
pub fn git(git: &Git, folder: &Path) -> Result<()> {
    let address: SocketAddr = GIT.parse()?;
    let socket = TcpListener::bind(address).with_context(|| format!("listening on {GIT}/tcp"))?;
    let (daemon, base) = (git.daemon.clone(), format!("--base-path={}", folder.display()));
    let environment = git.environment(folder);
    thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            let Ok(input) = stream.try_clone() else { continue };
            let served = Command::new(&daemon)
                .args(["--inetd", "--export-all", "--timeout=30", &base])
                .env_clear()
                .envs(environment.iter().map(|(name, value)| (name, value)))
                .stdin(OwnedFd::from(input))
                .stdout(OwnedFd::from(stream))
                .stderr(Stdio::piped())
                .spawn();
            match served {
                Ok(mut child) => {
                    let mut complaint = String::new();
                    if let Some(stderr) = &mut child.stderr {
                        // What git says is shown only if it failed.
                        let _ = stderr.read_to_string(&mut complaint);
                    }
                    if child.wait().is_ok_and(|status| !status.success()) {
                        eprintln!("git-daemon: {}", complaint.trim());
                    }
                }
                Err(error) => eprintln!("{}: {error}", daemon.display()),
            }
        }
    });
    Ok(())
}

/// Waits until what was sent has been counted.
pub fn settle(listeners: &[Listener]) -> Vec<usize> {
    let deadline = Instant::now() + Duration::from_millis(500);
    let mut counts = vec![0; listeners.len()];
    while Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
        for (count, listener) in counts.iter_mut().zip(listeners) {
            *count += listener.take();
        }
    }
    counts
}
