//! DNS over TLS: the host's certificates say whom to trust, the configuration which name the server has to have.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

use super::exchange::{self, Manner, Trouble};

/// For an answer, the handshake included.
const PATIENCE: Duration = Duration::from_millis(3500);

/// One server, and a connection to it that is not in use.
pub struct Tls {
    address: SocketAddr,
    name: String,
    trust: Trust,
    idle: Mutex<Option<TlsStream<TcpStream>>>,
}

/// Whom to trust, or why nobody.
type Trust = Result<Arc<ClientConfig>, String>;

impl Tls {
    /// With the host's certificates.
    pub fn new(address: SocketAddr, name: &str) -> Self {
        static HOST: OnceLock<Trust> = OnceLock::new();
        Self::trusting(address, name, HOST.get_or_init(host_trust).clone())
    }

    /// With others.
    pub fn trusting(address: SocketAddr, name: &str, trust: Trust) -> Self {
        Self { address, name: name.to_owned(), trust, idle: Mutex::new(None) }
    }

    /// Asks it.
    pub async fn ask(&self, name: &Name, kind: RecordType, manner: Manner) -> Result<Message, Trouble> {
        timeout(PATIENCE, self.ask_in_time(name, kind, manner)).await.map_err(|_| Trouble::Late)?
    }

    async fn ask_in_time(&self, name: &Name, kind: RecordType, manner: Manner) -> Result<Message, Trouble> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut stream) = idle {
            // The server may have ended it meanwhile.
            if let Ok((message, _)) = exchange::over(&mut stream, name, kind, manner).await {
                self.keep(stream);
                return Ok(message);
            }
        }
        let mut stream = self.connect().await?;
        let (message, _) = exchange::over(&mut stream, name, kind, manner).await?;
        self.keep(stream);
        Ok(message)
    }

    fn keep(&self, stream: TlsStream<TcpStream>) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, Trouble> {
        let failed = |step: &'static str, error: String| Trouble::Io(step, error);
        let config = self.trust.clone().map_err(|error| failed("reading the host's certificates", error))?;
        let name = ServerName::try_from(self.name.clone())
            .map_err(|error| failed("reading the name of the certificate", error.to_string()))?;
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| failed("connecting", error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| failed("connecting", error.to_string()))?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        stream.map_err(|error| failed("shaking hands by TLS", error.to_string()))
    }
}

fn host_trust() -> Trust {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(format!("there are none ({})", errors.join("; ")));
    }
    trust(roots)
}

/// Trusts whom these sign.
pub fn trust(roots: RootCertStore) -> Trust {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests;
