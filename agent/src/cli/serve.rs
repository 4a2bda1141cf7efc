//! `stockade daemon`: what `stockade.service` runs.

use std::{path::PathBuf, sync::Arc, time::Duration};

use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};

use super::exit;
use crate::{
    audit::{ring::Ring, sink::Sink},
    daemon::{
        api::{Parts, RefusedPeer, Server, listen_metrics, socket::Socket},
        command::Command,
        config::{self, Config},
        core::{self, End, Inputs, StartError, Started},
        hub::{self, Hub},
        log::{Log, Unwritten},
        notify,
    },
    kernel::TagReader,
    scope::{host, tree::Tree},
};

/// Requests that wait for the core.
const COMMANDS: usize = 64;
/// For the API to end its answers.
const LAST: Duration = Duration::from_secs(5);

/// `stockade daemon`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Settings.
    #[arg(long, value_name = "FILE", default_value = "/etc/stockade/stockade.toml")]
    config: PathBuf,
    /// Where the policies are.
    #[arg(long, value_name = "DIRECTORY", default_value = host::DIRECTORY)]
    policies: PathBuf,
    /// Start although only the network can be policed.
    #[arg(long, value_parser = ["network-only"])]
    allow_degraded: Option<String>,
}

struct Failed {
    code: u8,
    message: String,
}

fn failed(code: u8, error: impl std::fmt::Display) -> Failed {
    Failed { code, message: error.to_string() }
}

/// Runs it; returns the exit code.
#[must_use]
pub fn run(args: &Args) -> u8 {
    match serve(args) {
        Ok(()) => 0,
        Err(Failed { code, message }) => {
            eprintln!("stockade: {message}");
            // Nobody may be listening.
            let _ = notify::status(&message);
            code
        }
    }
}

fn serve(args: &Args) -> Result<(), Failed> {
    let own = |error: &dyn std::fmt::Display| failed(exit::OWN_FAILURE, error);
    let config = config::load(&args.config).map_err(|error| failed(exit::USAGE, error))?;
    let Config { socket, group, metrics, log, log_max_size, dns } = config;
    // First, because it says that no other daemon is there.
    let socket = Socket::bind(&socket, &group).map_err(|error| own(&error))?;
    if socket.group().is_none() {
        eprintln!("stockade: there is no group {group:?}: only root can use the socket");
    }
    let metrics = metrics.map(listen_metrics).transpose().map_err(|error| own(&error))?;
    let unwritten = Unwritten::default();
    let log = log.map(|path| Log::new(&path, log_max_size, unwritten.clone(), Box::new(hub::gap)));
    let log = log.map(|log| Sink::start(Box::new(log))).transpose();
    let log = log.map_err(|error| own(&format!("[events] log: starting a thread: {error}")))?;
    let hub = Hub::default();
    let degraded = args.allow_degraded.is_some();
    let started = core::start(&args.policies, degraded, hub.clone(), (log, unwritten), dns);
    let Started { core, ring, asked, tags } = started.map_err(|error| {
        let code = match &error {
            StartError::Unavailable(_) => exit::UNAVAILABLE,
            StartError::Policies(_) => exit::USAGE,
            StartError::Kernel(_) | StartError::Foreign(_) | StartError::Other(_) => exit::OWN_FAILURE,
        };
        failed(code, error)
    })?;
    let (commands, requests) = mpsc::channel::<Command>(COMMANDS);
    let (peers, refused) = mpsc::channel::<RefusedPeer>(COMMANDS);
    let tree = Tree::find().map_err(|error| own(&error))?;
    let parts = Parts {
        commands,
        hub,
        tags: Arc::new(move |path: &std::path::Path| is_tagged(&tags, &tree, path)),
        // Who asks over and over is not told of each time.
        refused: Arc::new(move |peer| drop(peers.try_send(peer))),
    };
    let server = Server::new(socket, metrics, parts);
    let (end, ended) = oneshot::channel::<()>();
    let api = std::thread::Builder::new().name("api".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(server.serve(async move {
            // Also when the core is gone without a word.
            let _ = ended.await;
        }))
    });
    let api = api.map_err(|error| own(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| own(&error))?;
    let status = core.summary();
    let outcome = runtime.block_on(async move {
        let (ring, signals) = (Ring::new(ring)?, signals()?);
        let inputs = Inputs { ring, commands: requests, refused, asked, signals };
        notify::ready(&status)?;
        Ok::<End, std::io::Error>(core.serve(inputs).await)
    });
    let _ = end.send(());
    for _ in 0..LAST.as_millis() / 10 {
        if api.is_finished() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    if api.is_finished()
        && let Ok(Err(error)) = api.join()
    {
        eprintln!("stockade: the API: {error}");
    }
    outcome.map(drop).map_err(|error| own(&error))
}

/// What cannot be found out counts as tagged.
fn is_tagged(tags: &TagReader, tree: &Tree, path: &std::path::Path) -> bool {
    let lost = tags.lost().unwrap_or(true);
    let tagged = |path: &std::path::Path| match tree.id(path) {
        Ok(id) => tags.scope_of(id).map_or(true, |scope| scope.is_some()),
        Err(_) => true,
    };
    // The root is never tagged, and has no id of its own on every kernel.
    let mut groups = path.ancestors().filter(|path| path.parent().is_some());
    if lost { groups.any(tagged) } else { groups.next().is_some_and(tagged) }
}

fn signals() -> std::io::Result<mpsc::Receiver<Signal>> {
    let (send, receive) = mpsc::channel(8);
    for (kind, number) in [
        (SignalKind::hangup(), Signal::SIGHUP),
        (SignalKind::terminate(), Signal::SIGTERM),
        (SignalKind::interrupt(), Signal::SIGINT),
    ] {
        let (mut arrivals, send) = (signal(kind)?, send.clone());
        tokio::spawn(
            async move { while arrivals.recv().await.is_some() && send.send(number).await.is_ok() {} },
        );
    }
    Ok(receive)
}
