//! Work that may never end, because it asks filesystems whose servers need not answer: it is done by threads that can be
//! given up.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// First descriptor that is not one of the standard ones.
const FIRST: libc::c_uint = 3;

/// Threads for one kind of work, with an end to how many of them can be stuck.
#[derive(Debug)]
pub(super) struct Apart {
    /// Each thread has one.
    alive: Arc<()>,
    most: usize,
    wake: Sender<()>,
    woken: UnboundedReceiver<()>,
}

/// What a thread has not said yet.
#[derive(Debug)]
pub(super) struct Pending<T> {
    said: Receiver<T>,
    end: Instant,
}

impl Apart {
    /// With room for so many threads.
    pub(super) fn new(most: usize) -> Self {
        let (tell, woken) = unbounded_channel();
        let (wake, awake) = mpsc::channel();
        // Waking the core takes a descriptor, which those threads do not have.
        let relay = thread::Builder::new().name("apart-relay".into()).spawn(move || relay(&awake, &tell));
        if let Err(error) = relay {
            eprintln!("stockade: starting a thread: {error}: what is found out is seen within a second");
        }
        Self { alive: Arc::new(()), most, wake, woken }
    }

    /// Returns when one of them has ended.
    pub(super) async fn woken(&mut self) {
        if self.woken.recv().await.is_none() {
            // There is no relay.
            std::future::pending::<()>().await;
        }
    }

    /// Whether there is no room for more.
    pub(super) fn is_full(&self) -> bool {
        Arc::strong_count(&self.alive) > self.most
    }

    /// Has something done. Why not, if not.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        end: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Pending<T>, String> {
        if self.is_full() {
            return Err("too many earlier ones still wait for files that do not answer".to_owned());
        }
        let wake = self.wake.clone();
        let said = spawn(&self.alive, move |tell| {
            // The core may have ended, or given it up.
            let _ = tell.send(work());
            let _ = wake.send(());
        })?;
        Ok(Pending { said, end })
    }
}

impl<T> Pending<T> {
    /// What came of it, if anything has yet; it is to be given up if that is an error.
    pub(super) fn poll(&self) -> Option<Result<T, String>> {
        match self.said.try_recv() {
            Ok(found) => Some(Ok(found)),
            Err(TryRecvError::Disconnected) => Some(Err(FAILED.to_owned())),
            Err(TryRecvError::Empty) => (Instant::now() >= self.end).then(|| Err(LATE.to_owned())),
        }
    }

    /// Waits for what comes of it.
    pub(super) fn wait(&self) -> Result<T, String> {
        wait(&self.said, self.end)
    }
}

/// Passes on that threads have ended, until nobody can start one any more.
fn relay(awake: &Receiver<()>, tell: &UnboundedSender<()>) {
    while awake.recv().is_ok() && tell.send(()).is_ok() {}
}

const LATE: &str = "no answer in time: a filesystem may hang";
const FAILED: &str = "the thread that looked has failed";

/// Starts a thread that may get stuck. What it says comes through the channel. It must bring no descriptors with it.
pub(super) fn spawn<T: Send + 'static>(
    alive: &Arc<()>,
    work: impl FnOnce(&Sender<T>) + Send + 'static,
) -> Result<Receiver<T>, String> {
    let (tell, said) = mpsc::channel();
    let alive = alive.clone();
    thread::Builder::new()
        .name("apart".into())
        .spawn(move || {
            leave_descriptors();
            work(&tell);
            drop(alive);
        })
        .map(|_| said)
        .map_err(|error| format!("starting a thread: {error}"))
}

/// Lets this thread have no descriptors of the daemon's: one that is stuck cannot be killed either, and must not keep the lock
/// that says there is a daemon when the others are gone.
fn leave_descriptors() {
    // SAFETY: takes numbers; descriptors are not shared any more afterwards, and this thread has none of its own yet.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if result < 0 {
        eprintln!("stockade: leaving the daemon's descriptors: {}", std::io::Error::last_os_error());
    }
}

/// Waits for what a thread says.
pub(super) fn wait<T>(said: &Receiver<T>, end: Instant) -> Result<T, String> {
    said.recv_timeout(end.saturating_duration_since(Instant::now())).map_err(|error| match error {
        RecvTimeoutError::Timeout => LATE.to_owned(),
        RecvTimeoutError::Disconnected => FAILED.to_owned(),
    })
}

/// Time for several things that may each get stuck: what the stuck ones take is taken from all.
#[derive(Debug)]
pub(super) struct Budget(Duration);

impl Budget {
    /// Everybody gets that much, even if there is nothing left.
    const LEAST: Duration = Duration::from_millis(50);

    /// So much time for waiting in vain.
    pub(super) fn new(time: Duration) -> Self {
        Self(time)
    }

    /// Until when the next one may take, at most `limit` from now.
    pub(super) fn end(&self, limit: Duration) -> Instant {
        Instant::now() + limit.min(self.0).max(Self::LEAST)
    }

    /// One was waited for in vain since then.
    pub(super) fn wasted(&mut self, since: Instant) {
        self.0 = self.0.saturating_sub(since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    fn soon(limit: u64) -> Instant {
        Instant::now() + Duration::from_millis(limit)
    }

    #[test]
    fn what_is_done_in_time_is_taken_once() {
        let apart = Apart::new(4);
        let pending = apart.begin(soon(10_000), || 7).unwrap();
        assert_eq!(pending.wait(), Ok(7));
        let failed =
            apart.begin(soon(10_000), || -> u32 { std::panic::resume_unwind(Box::new(())) }).unwrap();
        assert!(failed.wait().unwrap_err().contains("has failed"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_core_is_woken() {
        let mut apart = Apart::new(4);
        let pending = apart.begin(soon(10_000), || 7).unwrap();
        apart.woken().await;
        assert_eq!(pending.poll(), Some(Ok(7)));
    }

    #[test]
    fn who_does_not_answer_is_given_up_and_there_is_an_end_to_how_many() {
        let apart = Apart::new(2);
        let (_never, hang) = mpsc::channel::<()>();
        let hang = Arc::new(std::sync::Mutex::new(hang));
        let stalled = || {
            let hang = hang.clone();
            move || drop(hang.lock().map(|hang| hang.recv()))
        };
        let first = apart.begin(soon(20), stalled()).unwrap();
        assert!(first.poll().is_none());
        assert!(first.wait().unwrap_err().contains("no answer in time"));
        assert!(first.poll().unwrap().is_err());
        let _second = apart.begin(soon(20), stalled()).unwrap();
        assert!(apart.is_full());
        assert!(apart.begin(soon(20), || ()).unwrap_err().contains("too many"));
    }

    #[test]
    fn a_stuck_thread_keeps_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = File::create(&path).unwrap();
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        let (tell, running) = mpsc::channel();
        let (never, hang) = mpsc::channel::<()>();
        let apart = Apart::new(1);
        let pending = apart.begin(soon(10_000), move || {
            tell.send(()).unwrap();
            let _ = hang.recv();
        });
        running.recv().unwrap();
        // As at the end of the process: it is closed without being unlocked.
        // SAFETY: the number is of a descriptor that nobody uses any more.
        unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(&*held)) };
        std::mem::forget(held);
        let other = File::open(&path).unwrap();
        assert!(Flock::lock(other, FlockArg::LockExclusiveNonblock).is_ok());
        drop(never);
        pending.unwrap().wait().unwrap();
    }

    #[test]
    fn what_is_wasted_is_taken_from_all() {
        let mut budget = Budget::new(Duration::from_secs(10));
        let left =
            |budget: &Budget| budget.end(Duration::from_secs(5)).saturating_duration_since(Instant::now());
        assert!(left(&budget) > Duration::from_secs(4));
        budget.wasted(Instant::now().checked_sub(Duration::from_secs(8)).unwrap());
        assert!(left(&budget) <= Duration::from_secs(2));
        budget.wasted(Instant::now().checked_sub(Duration::from_secs(8)).unwrap());
        assert!(left(&budget) <= Budget::LEAST && left(&budget) > Duration::ZERO);
    }
}
