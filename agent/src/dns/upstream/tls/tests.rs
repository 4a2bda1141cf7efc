use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_proto::op::MessageType;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    runtime::Builder,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer},
};

use super::*;

const MANNER: Manner = Manner { random_case: true, options: true };
const NAME: &str = "dns.example.test";

/// A name server with a certificate of its own making: where it is, whom to trust, and its connections.
async fn server() -> (SocketAddr, Trust, Arc<AtomicUsize>) {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                // Two questions a connection, then the server has enough.
                for _ in 0..2 {
                    let Ok(length) = stream.read_u16().await else { return };
                    let mut packet = vec![0; usize::from(length)];
                    stream.read_exact(&mut packet).await.unwrap();
                    let mut message = Message::from_vec(&packet).unwrap();
                    message.metadata.message_type = MessageType::Response;
                    let bytes = message.to_vec().unwrap();
                    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                    stream.flush().await.unwrap();
                }
            });
        }
    });
    (address, trust(roots), connections)
}

fn question() -> Name {
    Name::from_ascii("a.test.").unwrap()
}

#[test]
fn a_connection_is_used_again_and_made_anew_when_it_is_gone() {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (address, trust, connections) = server().await;
        let tls = Tls::trusting(address, NAME, trust);
        for asked in 1..=5 {
            let answer = tls.ask(&question(), RecordType::A, MANNER).await.unwrap();
            assert_eq!(answer.queries[0].name, question());
            assert_eq!(connections.load(Ordering::SeqCst), usize::div_ceil(asked, 2));
        }
    });
}

#[test]
fn another_name_or_an_unknown_certificate_is_no_answer() {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (address, trusted, connections) = server().await;
        let (_, other, _) = server().await;
        for tls in [Tls::trusting(address, "other.test", trusted), Tls::trusting(address, NAME, other)] {
            let error = tls.ask(&question(), RecordType::A, MANNER).await.unwrap_err();
            assert!(matches!(error, Trouble::Io("shaking hands by TLS", _)), "{error}");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 0);
        let error =
            Tls::trusting(address, NAME, Err("none".into())).ask(&question(), RecordType::A, MANNER).await;
        assert_eq!(error.unwrap_err().to_string(), "reading the host's certificates: none");
    });
}
