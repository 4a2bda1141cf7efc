//! One name server, and what was learnt about it.

use std::sync::atomic::{AtomicU32, Ordering};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RecordType},
};

use super::{
    super::{clock::boot_seconds, config::Server},
    exchange::{self, Manner, Outcome, Trouble},
    tls::Tls,
};

/// Seconds for which others are asked first after it did not answer.
const DOWN: u32 = 20;
/// Seconds for which a server is taken as not to know of something.
const UNABLE: u32 = 600;

/// A name server.
pub struct Remote {
    pub server: Server,
    /// Until when it is asked last.
    down: AtomicU32,
    /// Until when its answers need not keep the case of a name.
    loses_case: AtomicU32,
    /// Until when it is asked without options.
    plain: AtomicU32,
    /// How it is asked, if by TLS.
    tls: Option<Tls>,
}

impl Remote {
    pub fn new(server: Server) -> Self {
        let tls = server.tls.as_deref().map(|name| Tls::new(server.address, name));
        let (down, loses_case, plain) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        Self { server, down, loses_case, plain, tls }
    }

    pub fn is_down(&self, now: u32) -> bool {
        self.down.load(Ordering::Relaxed) > now
    }

    pub fn has_answered(&self) {
        self.down.store(0, Ordering::Relaxed);
    }

    pub fn has_failed(&self, now: u32) {
        self.down.store(now.saturating_add(DOWN), Ordering::Relaxed);
    }

    /// Asks it.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Result<Message, Trouble> {
        let now = boot_seconds();
        let mut manner = Manner {
            random_case: self.loses_case.load(Ordering::Relaxed) <= now,
            options: self.plain.load(Ordering::Relaxed) <= now,
        };
        let message = self.ask_so(name, kind, manner).await?;
        if manner.options
            && matches!(message.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp)
        {
            manner.options = false;
            let message = self.ask_so(name, kind, manner).await?;
            self.plain.store(now.saturating_add(UNABLE), Ordering::Relaxed);
            return Ok(message);
        }
        Ok(message)
    }

    async fn ask_so(&self, name: &Name, kind: RecordType, manner: Manner) -> Result<Message, Trouble> {
        let address = self.server.address;
        if let Some(tls) = &self.tls {
            return tls.ask(name, kind, manner).await;
        }
        match exchange::udp(address, name, kind, manner).await? {
            Outcome::Answer(message) if !message.metadata.truncation => Ok(message),
            Outcome::Answer(_) => {
                exchange::tcp(address, name, kind, manner).await.map(|(message, _)| message)
            }
            Outcome::OtherCase => self.ask_surely(name, kind, manner).await,
        }
    }

    /// The answer had other letters than the question: of a server that does not keep them, or forged. Over a connection it
    /// cannot be forged from aside; only where there is none, the number and the port have to do.
    async fn ask_surely(&self, name: &Name, kind: RecordType, manner: Manner) -> Result<Message, Trouble> {
        let now = boot_seconds();
        let without = Manner { random_case: false, ..manner };
        match exchange::tcp(self.server.address, name, kind, manner).await {
            Ok((message, keeps_case)) => {
                if !keeps_case {
                    self.loses_case.store(now.saturating_add(UNABLE), Ordering::Relaxed);
                }
                Ok(message)
            }
            Err(_) => match exchange::udp(self.server.address, name, kind, without).await? {
                Outcome::Answer(message) if !message.metadata.truncation => Ok(message),
                Outcome::Answer(_) => Err(Trouble::Truncated),
                Outcome::OtherCase => Err(Trouble::Foreign),
            },
        }
    }
}
