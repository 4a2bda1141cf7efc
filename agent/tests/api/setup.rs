//! A daemon of this test's own, and what a client of it does.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;
use stockade::daemon::{
    api::{
        Parts, RefusedPeer, Server,
        authorise::{Accounts, Caller},
        limit::Limits,
        listen_metrics,
        socket::Socket,
    },
    hub::Hub,
};
use tokio::sync::oneshot;

use super::core::{self, Asked};

/// Who the client is taken for, whoever runs the tests.
#[derive(Debug, Clone, Copy)]
pub enum As {
    Root,
    Member,
    Nobody,
}

struct Fixed(As);

impl Accounts for Fixed {
    fn caller(&self, uid: u32, _gid: u32) -> Caller {
        match self.0 {
            As::Root => Caller::Root,
            As::Member => Caller::Member { uid },
            As::Nobody => Caller::Nobody,
        }
    }
}

/// A daemon. Ends when dropped.
pub struct Daemon {
    pub path: PathBuf,
    pub hub: Hub,
    pub asked: Asked,
    pub tagged: Arc<AtomicBool>,
    pub refused: Arc<Mutex<Vec<RefusedPeer>>>,
    pub metrics: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

/// Times that a test can wait for.
pub fn limits() -> Limits {
    Limits {
        header: Duration::from_millis(300),
        read: Duration::from_millis(300),
        write: Duration::from_millis(300),
        stall: Duration::from_millis(400),
        ..Limits::default()
    }
}

impl Daemon {
    pub fn start(who: As) -> Self {
        Self::with(who, Limits::default())
    }

    pub fn with(who: As, limits: Limits) -> Self {
        Self::serving("no-such-group", |socket, metrics, parts| {
            Server::with(socket, Some(metrics), parts, Arc::new(Fixed(who)), limits)
        })
    }

    /// With the host's accounts, in a directory that everybody can look into.
    pub fn for_group(group: &str) -> Self {
        Self::serving(group, |socket, metrics, parts| {
            let folder = socket.path().parent().unwrap();
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
            Server::new(socket, Some(metrics), parts)
        })
    }

    fn serving(group: &str, server: impl FnOnce(Socket, std::net::TcpListener, Parts) -> Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let hub = Hub::default();
        let (commands, asked) = core::start(hub.clone());
        let tagged = Arc::new(AtomicBool::new(false));
        let refused = Arc::new(Mutex::new(Vec::new()));
        let parts = Parts {
            commands,
            hub: hub.clone(),
            tags: {
                let tagged = tagged.clone();
                Arc::new(move |_: &std::path::Path| tagged.load(Ordering::SeqCst))
            },
            refused: {
                let refused = refused.clone();
                Arc::new(move |peer| refused.lock().unwrap().push(peer))
            },
        };
        let listener = listen_metrics("127.0.0.1:0".parse().unwrap()).unwrap();
        let metrics = listener.local_addr().unwrap();
        let server = server(Socket::bind(&path, group).unwrap(), listener, parts);
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let ended = async { drop(ended.await) };
            runtime.block_on(server.serve(ended)).unwrap();
        });
        Self {
            path,
            hub,
            asked,
            tagged,
            refused,
            metrics,
            end: Some(end),
            thread: Some(thread),
            _folder: folder,
        }
    }

    /// Ends it, and waits until it has ended.
    pub fn stop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends text and reads until the daemon has said all.
    pub fn raw(&self, text: &str) -> String {
        exchange(self.connect(), text)
    }

    /// A request with a JSON body, or none: the status code and the answer.
    pub fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (code, text) = parse(&self.raw(&request(method, path, body)));
        let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        (code, value)
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.request("GET", path, "")
    }

    pub fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.request("POST", path, body)
    }

    /// The kind of the error that a request is answered with.
    pub fn refused(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (code, value) = self.request(method, path, body);
        assert!(value["message"].as_str().is_some_and(|message| !message.is_empty()), "{value}");
        (code, value["kind"].as_str().unwrap().to_owned())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn request(method: &str, path: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: stockade\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

pub fn exchange(mut stream: impl Read + Write, text: &str) -> String {
    // It may have closed the connection, having heard enough.
    let _ = stream.write_all(text.as_bytes());
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length) = stream.read(&mut chunk) {
        if length == 0 {
            break;
        }
        answer.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8(answer).unwrap()
}

/// Status code and body.
pub fn parse(text: &str) -> (u16, String) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
