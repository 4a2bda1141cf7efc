//! Asks name servers. Each question has a number and a source port of its own and letters in random case, and only an answer
//! that repeats all of it, from where the question went, is one.

mod exchange;
mod remote;
mod tls;

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::exchange::Trouble;
#[cfg(any(test, feature = "invariant"))]
pub use self::exchange::{Manner, Received, question as put, read as understand};
use self::remote::Remote;
use super::{
    clock::boot_seconds,
    config::{Server, Upstreams, host_servers},
};

/// After this time without an answer the next server is asked, too.
const STAGGER: Duration = Duration::from_millis(700);
/// Most servers, or turns at them, for one question.
const MAX_ATTEMPTS: usize = 6;

/// Why nobody answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// There is nobody to ask.
    #[error("there is no name server to ask; name one in /etc/resolv.conf or as [dns] upstream")]
    Nobody,
    /// All failed; what each said.
    #[error("no name server gave an answer: {}", .0.join("; "))]
    All(Vec<String>),
}

/// Ports of gates on loopback, which are never asked.
pub type OwnPorts = Arc<Mutex<HashSet<u16>>>;

/// The name servers.
pub struct Upstream {
    from: Upstreams,
    own: OwnPorts,
    known: Mutex<Known>,
}

/// Servers as they were last read.
#[derive(Default)]
struct Known {
    remotes: Vec<Arc<Remote>>,
    stamp: Option<Stamp>,
    looked: Option<u32>,
}

/// Tells one state of a file from another.
type Stamp = (u64, u64, i64, i64, u64);

impl Upstream {
    pub fn new(from: Upstreams, own: OwnPorts) -> Self {
        let remotes = match &from {
            Upstreams::These(servers) => servers.iter().cloned().map(Remote::new).map(Arc::new).collect(),
            Upstreams::Host(_) => Vec::new(),
        };
        Self { from, own, known: Mutex::new(Known { remotes, ..Known::default() }) }
    }

    /// Servers, those that answered lately first.
    fn servers(&self, now: u32) -> Vec<Arc<Remote>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Upstreams::Host(path) = &self.from
            && known.looked.replace(now) != Some(now)
        {
            known.look(path);
        }
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let is_own =
            |server: &Server| server.address.ip().is_loopback() && own.contains(&server.address.port());
        let mut servers: Vec<_> =
            known.remotes.iter().filter(|remote| !is_own(&remote.server)).cloned().collect();
        servers.sort_by_key(|remote| remote.is_down(now));
        servers
    }

    /// The answer to a question. It may still be of no use, but it is a name server's.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Result<Message, UpstreamError> {
        let servers = self.servers(boot_seconds());
        if servers.is_empty() {
            return Err(UpstreamError::Nobody);
        }
        let mut turns = servers.iter().cycle().take(MAX_ATTEMPTS.min(servers.len() * 2));
        let mut running: JoinSet<(Arc<Remote>, Result<Message, Trouble>)> = JoinSet::new();
        let mut troubles = Vec::new();
        let mut next = Instant::now();
        let mut exhausted = false;
        loop {
            tokio::select! {
                () = sleep_until(next), if !exhausted => match turns.next() {
                    Some(remote) => {
                        let (remote, name) = (Arc::clone(remote), name.clone());
                        running.spawn(async move {
                            let answer = remote.ask(&name, kind).await.and_then(usable);
                            (remote, answer)
                        });
                        next = Instant::now() + STAGGER;
                    }
                    None => exhausted = true,
                },
                Some(done) = running.join_next() => match done {
                    Ok((remote, Ok(message))) => {
                        remote.has_answered();
                        return Ok(message);
                    }
                    Ok((remote, Err(trouble))) => {
                        remote.has_failed(boot_seconds());
                        let trouble = format!("{}: {trouble}", remote.server);
                        if !troubles.contains(&trouble) {
                            troubles.push(trouble);
                        }
                        next = Instant::now();
                    }
                    Err(_) => next = Instant::now(),
                },
                else => return Err(UpstreamError::All(troubles)),
            }
        }
    }
}

/// Another server may know better than one that says it cannot.
fn usable(message: Message) -> Result<Message, Trouble> {
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(message),
        code => Err(Trouble::Code(code)),
    }
}

impl Known {
    /// Reads the host's list if it is another. While it cannot be read, for instance because it is being written, the one
    /// before holds.
    fn look(&mut self, path: &Path) {
        let stamp = fs::metadata(path)
            .map(|meta| (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
            .ok();
        if !self.remotes.is_empty() && stamp == self.stamp {
            return;
        }
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the list of name servers cannot be read");
                if !self.remotes.is_empty() {
                    return;
                }
                String::new()
            }
        };
        self.stamp = stamp;
        let servers = host_servers(&text);
        self.remotes = servers
            .into_iter()
            .map(|server| {
                let before = self.remotes.iter().find(|remote| remote.server == server);
                before.cloned().unwrap_or_else(|| Arc::new(Remote::new(server)))
            })
            .collect();
    }
}
