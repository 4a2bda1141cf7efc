//! The gate: a thread that answers, and what others ask of it.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use stockade_common::net::{Granted, PrefixData};
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime::{Builder, Runtime},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::AbortHandle,
    time::{MissedTickBehavior, interval},
};

use super::{
    DnsConfig, GateEvent, Granting, Held, Kernel, NameTable,
    clock::boot_seconds,
    core::{Asker, Core},
    datagrams::Datagrams,
    resolve::Resolver,
    serve::Server,
    sockets::{self, Sockets},
    upstream::{OwnPorts, Upstream},
};

/// How often what is over is forgotten.
const SWEEP: Duration = Duration::from_secs(10);

/// The DNS gates of all scopes.
pub struct Gate {
    core: Arc<Core>,
    own: OwnPorts,
    open: Mutex<HashMap<Place, u16>>,
    orders: Option<UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// A scope in a network namespace.
type Place = (u32, u64);

enum Order {
    Serve(Asker, Sockets),
    End(Place),
}

impl fmt::Debug for Gate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Gate").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Gate {
    /// Starts its thread. `events` is called from there and from [`Gate::switch`], and must neither wait nor call the gate.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be made.
    pub fn start(
        config: &DnsConfig,
        kernel: Arc<dyn Kernel>,
        events: impl Fn(GateEvent) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let core = Arc::new(Core::new(kernel, events));
        note_own(&core);
        let own = OwnPorts::default();
        let resolver = Arc::new(Resolver::new(
            Arc::clone(&core),
            Upstream::new(config.upstream.clone(), Arc::clone(&own)),
        ));
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let (orders, receiver) = unbounded_channel();
        let of_thread = Arc::clone(&core);
        let thread = thread::Builder::new()
            .name("dns-gate".into())
            .spawn(move || run(&runtime, of_thread, resolver, receiver))?;
        let (orders, thread) = (Some(orders), Some(thread));
        Ok(Self { core, own, open: Mutex::default(), orders, thread })
    }

    fn open_gates(&self) -> MutexGuard<'_, HashMap<Place, u16>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        // The thread ends only when this is dropped.
        if let Some(orders) = &self.orders {
            drop(orders.send(order));
        }
    }

    /// Gives a scope the names of another policy. What answers that clients may still use come to under it is handed to
    /// `put`, which makes the policy the scope's; meanwhile no question of the scope is answered. If it fails, nothing has
    /// changed.
    ///
    /// # Errors
    /// Those of `put`.
    pub fn switch<T, E>(
        &self,
        scope: u32,
        table: Arc<NameTable>,
        put: impl FnOnce(Vec<(PrefixData, Granted)>) -> Result<T, E>,
    ) -> Result<T, E> {
        let scope = self.core.scope(scope);
        let mut state = scope.lock();
        let (ledger, lost) = state.ledger.under(&table, boot_seconds());
        let done = put(ledger.all())?;
        state.table = table;
        state.ledger = ledger;
        drop(state);
        for (name, error) in lost {
            let granting = Granting { scope: scope.id, netns: 0, name, error: error.to_string() };
            (self.core.events)(GateEvent::NotGranted(granting));
        }
        Ok(done)
    }

    /// Listens for a scope in a network namespace, or in our own. Returns the namespace's cookie and the port, by UDP and TCP
    /// on `127.0.0.1` and `::1`. If it listens there already, so it stays. `guard` is given the sockets before anything is read
    /// from them, to keep others away.
    ///
    /// # Errors
    /// If the namespace cannot be entered or no port is free; those of `guard`.
    pub fn open(
        &self,
        scope: u32,
        netns: Option<OwnedFd>,
        guard: impl FnOnce(&[BorrowedFd<'_>]) -> io::Result<()>,
    ) -> io::Result<(u64, u16)> {
        let sockets = sockets::open(netns)?;
        guard(&sockets.descriptors())?;
        let (netns, port) = (sockets.netns, sockets.port);
        let mut open = self.open_gates();
        if let Some(port) = open.get(&(scope, netns)) {
            return Ok((netns, *port));
        }
        open.insert((scope, netns), port);
        self.note_ports(&open);
        self.order(Order::Serve(Asker { scope: self.core.scope(scope), netns }, sockets));
        Ok((netns, port))
    }

    fn note_ports(&self, open: &HashMap<Place, u16>) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) =
            open.values().copied().collect::<HashSet<_>>();
    }

    /// Stops listening for a scope in a network namespace. What was granted stays until it expires.
    pub fn close(&self, scope: u32, netns_cookie: u64) {
        let mut open = self.open_gates();
        if open.remove(&(scope, netns_cookie)).is_some() {
            self.note_ports(&open);
            self.order(Order::End((scope, netns_cookie)));
        }
    }

    /// Forgets a scope and all its gates. Nothing is said to the kernel: its policy is gone.
    pub fn forget(&self, scope: u32) {
        let mut open = self.open_gates();
        let places: Vec<_> = open.keys().filter(|(of, _)| *of == scope).copied().collect();
        for place in places {
            open.remove(&place);
            self.order(Order::End(place));
        }
        self.note_ports(&open);
        self.core.forget(scope);
    }

    /// Which names of a scope were answered with which addresses, for [`Gate::recall`] of the daemon that comes after.
    #[must_use]
    pub fn held(&self, scope: u32) -> Vec<Held> {
        self.core.known(scope).map(|scope| scope.lock().ledger.held()).unwrap_or_default()
    }

    /// Takes over what an earlier gate has held for a scope: to be called before the scope's first [`Gate::switch`], which hands
    /// over what of it the policy allows. Expiry is by the clock of this boot.
    pub fn recall(&self, scope: u32, held: &[Held]) {
        self.core.scope(scope).lock().ledger.recall(held);
    }

    /// The name that an address is allowed for by a rule, as it was asked for.
    #[must_use]
    pub fn name_of(&self, scope: u32, address: PrefixData, rule: u32) -> Option<String> {
        let scope = self.core.known(scope)?;
        let state = scope.lock();
        state.ledger.name_of(&state.table, address, rule).map(ToString::to_string)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// This host's addresses change.
fn note_own(core: &Core) {
    if let Some(addresses) = core.kernel.own_addresses() {
        core.set_own(addresses);
    }
}

fn run(runtime: &Runtime, core: Arc<Core>, resolver: Arc<Resolver>, mut orders: UnboundedReceiver<Order>) {
    runtime.block_on(async move {
        let mut serving: HashMap<Place, Vec<AbortHandle>> = HashMap::new();
        let datagrams = Arc::new(Mutex::new(Datagrams::new()));
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Serve(asker, sockets)) => {
                        let place = (asker.scope.id, asker.netns);
                        let (core, resolver) = (Arc::clone(&core), Arc::clone(&resolver));
                        let server = Server { core, resolver, asker, datagrams: Arc::clone(&datagrams) };
                        serving.insert(place, serve(&server, sockets));
                    }
                    Some(Order::End(place)) => {
                        for task in serving.remove(&place).into_iter().flatten() {
                            task.abort();
                        }
                    }
                    None => return,
                },
                _ = sweep.tick() => {
                    note_own(&core);
                    core.sweep(boot_seconds());
                }
            }
        }
    });
}

/// Answers on sockets, each in a task of its own.
fn serve(server: &Server, sockets: Sockets) -> Vec<AbortHandle> {
    let Sockets { netns: _, port: _, udp, tcp } = sockets;
    let mut tasks = Vec::new();
    for socket in udp {
        match UdpSocket::from_std(socket) {
            Ok(socket) => {
                let (server, socket) = (server.clone(), Arc::new(socket));
                tasks.push(lasting(move || server.clone().udp(Arc::clone(&socket))));
            }
            Err(error) => tracing::error!(%error, "a gate's socket cannot be waited for"),
        }
    }
    for socket in tcp {
        match TcpListener::from_std(socket) {
            Ok(socket) => {
                let (server, socket) = (server.clone(), Arc::new(socket));
                tasks.push(lasting(move || server.clone().tcp(Arc::clone(&socket))));
            }
            Err(error) => tracing::error!(%error, "a gate's socket cannot be waited for"),
        }
    }
    tasks
}

/// Runs something that never ends; begins it anew if it panics, which costs the questions that came with the one that made it.
fn lasting<F: Future<Output = ()> + Send + 'static>(begin: impl Fn() -> F + Send + 'static) -> AbortHandle {
    let task = tokio::spawn(async move {
        let mut inner = Ending(tokio::spawn(begin()));
        while (&mut inner.0).await.is_err_and(|error| error.is_panic()) {
            tracing::error!("answering a question has panicked");
            inner = Ending(tokio::spawn(begin()));
        }
    });
    task.abort_handle()
}

/// A task that ends with what waits for it.
struct Ending(tokio::task::JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}
