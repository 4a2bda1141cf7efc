//! Takes questions from sockets and sends replies.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{TcpListener, TcpStream, UdpSocket, tcp::OwnedReadHalf},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{
    clock::boot_seconds,
    core::{Asker, Core, Step},
    datagrams::{Datagrams, Place},
    question::{MAX_QUESTION, Question, Transport},
    resolve::Resolver,
    scope::Counted,
};

/// Batches of datagrams that are taken from a socket before others have their turn.
const BATCHES: usize = 4;
/// Connections of a scope.
const MAX_CONNECTIONS: u32 = 64;
/// Questions of a connection that are answered at once.
const PIPELINE: usize = 16;
/// How long a connection may be without a question, or a client without reading.
const IDLE: Duration = Duration::from_secs(10);

/// What serving needs.
#[derive(Clone)]
pub struct Server {
    pub core: Arc<Core>,
    pub resolver: Arc<Resolver>,
    pub asker: Asker,
    /// Room that all sockets share: each needs it for no longer than its turn.
    pub datagrams: Arc<Mutex<Datagrams>>,
}

impl Server {
    /// The reply to a question that has to go upstream.
    async fn answered(self, question: Box<Question>, counted: Counted) -> Vec<u8> {
        let found = Arc::clone(&self.resolver).find(&question).await;
        drop(counted);
        self.core.finish(&self.asker, &question, found, boot_seconds())
    }

    /// Answers datagrams, for ever.
    pub async fn udp(self, socket: Arc<UdpSocket>) {
        loop {
            if let Err(error) = socket.readable().await {
                tracing::error!(scope = self.asker.scope.id, %error, "a gate's socket is broken");
                return;
            }
            self.turn(&socket);
            tokio::task::yield_now().await;
        }
    }

    /// Answers the datagrams that are there; not all, if they are many.
    fn turn(&self, socket: &Arc<UdpSocket>) {
        let mut datagrams = self.datagrams.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..BATCHES {
            let datagrams = &mut *datagrams;
            let places = match socket.try_io(Interest::READABLE, || datagrams.receive(socket.as_fd())) {
                Ok(places) => places,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What an earlier reply met, for instance a client that is gone.
                Err(_) => continue,
            };
            let now = boot_seconds();
            for place in &mut *places {
                self.datagram(socket, place, now);
            }
            Datagrams::send(places, socket.as_fd());
        }
    }

    fn datagram(&self, socket: &Arc<UdpSocket>, place: &mut Place, now: u32) {
        let (packet, reply) = place.parts();
        if self.core.repeat(&self.asker, packet, now, reply) {
            return;
        }
        match self.core.take(&self.asker, packet, Transport::Udp, now) {
            Step::Nothing => {}
            Step::Reply(bytes) => *reply = bytes,
            Step::Ask(question, counted) => {
                let (server, socket, peer) = (self.clone(), Arc::clone(socket), place.peer.address());
                tokio::spawn(async move {
                    let reply = server.answered(question, counted).await;
                    if !reply.is_empty() {
                        drop(socket.send_to(&reply, peer).await);
                    }
                });
            }
        }
    }

    /// Takes connections, for ever.
    pub async fn tcp(self, listener: Arc<TcpListener>) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: waiting is all that helps.
                    tracing::warn!(scope = self.asker.scope.id, %error, "a connection to a gate cannot be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(counted) = self.asker.scope.connections.take(MAX_CONNECTIONS) else { continue };
            let server = self.clone();
            tokio::spawn(async move {
                server.connection(stream).await;
                drop(counted);
            });
        }
    }

    async fn connection(self, stream: TcpStream) {
        let (mut read, mut write) = stream.into_split();
        let (replies, mut outgoing) = mpsc::channel::<Vec<u8>>(PIPELINE);
        let writer = async move {
            while let Some(reply) = outgoing.recv().await {
                let Ok(length) = u16::try_from(reply.len()) else { return };
                let framed = [&length.to_be_bytes(), &reply[..]].concat();
                if !matches!(timeout(IDLE, write.write_all(&framed)).await, Ok(Ok(()))) {
                    return;
                }
            }
        };
        let reader = async move {
            let slots = Arc::new(Semaphore::new(PIPELINE));
            loop {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                let Ok(Some(packet)) = timeout(IDLE, one_question(&mut read)).await else { return };
                match self.core.take(&self.asker, &packet, Transport::Tcp, boot_seconds()) {
                    Step::Nothing => return,
                    Step::Reply(reply) => {
                        if reply.is_empty() || replies.send(reply).await.is_err() {
                            return;
                        }
                    }
                    Step::Ask(question, counted) => {
                        let (server, replies) = (self.clone(), replies.clone());
                        tokio::spawn(async move {
                            let reply = server.answered(question, counted).await;
                            drop(replies.send(reply).await);
                            drop(slot);
                        });
                    }
                }
            }
        };
        // The writer ends when nobody can send replies any more, or the client does not take them.
        let writer = tokio::spawn(writer);
        tokio::select! {
            () = reader => {}
            () = writer_is_gone(&writer) => {}
        }
        drop(writer.await);
    }
}

async fn writer_is_gone(writer: &tokio::task::JoinHandle<()>) {
    while !writer.is_finished() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// `None` where there is no further one, or it is too long to be one.
async fn one_question(read: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let length = usize::from(read.read_u16().await.ok()?);
    if length > MAX_QUESTION {
        return None;
    }
    let mut packet = vec![0; length];
    read.read_exact(&mut packet).await.ok()?;
    Some(packet)
}
