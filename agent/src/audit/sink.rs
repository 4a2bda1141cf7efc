//! Where events go. Whoever reads them may be slow, or gone, and a disk may be full: neither may hold up the ring or the
//! command. So a thread of its own writes, fed through a bounded queue; what does not fit is counted.

use std::{
    io::{self, BufWriter, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};

/// Events that may wait to be written, and bytes of them: the workload chooses how long its names are.
const QUEUE: usize = 8192;
const QUEUE_BYTES: usize = 32 << 20;

/// The end of the queue that events are put into.
#[derive(Debug)]
pub struct Sink {
    queue: mpsc::Sender<Vec<u8>>,
    done: oneshot::Receiver<Option<io::Error>>,
    offered: u64,
    progress: Arc<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Events written.
    written: AtomicU64,
    /// Bytes in the queue.
    waiting: AtomicUsize,
}

/// How writing ended.
#[derive(Debug)]
pub struct Closed {
    /// Events that were taken and not written.
    pub unwritten: u64,
    /// What kept them from being written; `None` with `unwritten`: it took too long.
    pub error: Option<io::Error>,
}

impl Sink {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(out: Box<dyn Write + Send>) -> io::Result<Self> {
        let (queue, events) = mpsc::channel(QUEUE);
        let (ended, done) = oneshot::channel();
        let progress = Arc::new(Progress::default());
        let shared = Arc::clone(&progress);
        thread::Builder::new().name("events".into()).spawn(move || {
            // Nobody may be waiting any more.
            let _ = ended.send(write(events, BufWriter::new(out), &shared).err());
        })?;
        Ok(Self { queue, done, offered: 0, progress })
    }

    /// Hands an event over; false if there is no room for it, or nobody to write it.
    pub fn offer(&mut self, line: Vec<u8>) -> bool {
        let length = line.len();
        let waiting = self.progress.waiting.fetch_add(length, Ordering::AcqRel);
        let taken = waiting + length <= QUEUE_BYTES && self.queue.try_send(line).is_ok();
        if !taken {
            self.progress.waiting.fetch_sub(length, Ordering::AcqRel);
        }
        self.offered += u64::from(taken);
        taken
    }

    /// Hands the last events over and waits until all is written, but no longer than `patience`.
    pub async fn close(mut self, last: Vec<Vec<u8>>, patience: Duration) -> Closed {
        let deadline = tokio::time::Instant::now() + patience;
        let mut missed = 0;
        for line in last {
            self.progress.waiting.fetch_add(line.len(), Ordering::AcqRel);
            match tokio::time::timeout_at(deadline, self.queue.send(line)).await {
                Ok(Ok(())) => self.offered += 1,
                Ok(Err(_)) | Err(_) => missed += 1,
            }
        }
        drop(self.queue);
        let error = match tokio::time::timeout_at(deadline, self.done).await {
            Ok(Ok(error)) => error,
            Ok(Err(_)) => Some(io::Error::other("the thread that writes has ended early")),
            Err(_) => None,
        };
        let unwritten = missed + self.offered.saturating_sub(self.progress.written.load(Ordering::Acquire));
        Closed { unwritten, error }
    }
}

/// Writes whatever comes, and flushes whenever nothing more has come yet. Ends with the queue, or the first error.
fn write(
    mut events: mpsc::Receiver<Vec<u8>>,
    mut out: BufWriter<Box<dyn Write + Send>>,
    progress: &Progress,
) -> io::Result<()> {
    let mut taken = 0;
    let result = loop {
        let line = match events.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Empty) => {
                if let Err(error) = out.flush() {
                    break Err(error);
                }
                progress.written.store(taken, Ordering::Release);
                match events.blocking_recv() {
                    Some(line) => line,
                    None => break Ok(()),
                }
            }
            Err(TryRecvError::Disconnected) => break out.flush(),
        };
        progress.waiting.fetch_sub(line.len(), Ordering::AcqRel);
        if let Err(error) = out.write_all(&line) {
            break Err(error);
        }
        taken += 1;
    };
    match &result {
        Ok(()) => progress.written.store(taken, Ordering::Release),
        // What the buffer holds cannot be written, and must not be tried again when it is dropped: that could block.
        Err(_) => drop(out.into_parts()),
    }
    result
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Mutex, mpsc::Receiver},
        time::Instant,
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes nothing until told.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn closed(sink: Sink, last: Vec<Vec<u8>>, patience: Duration) -> Closed {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(sink.close(last, patience))
    }

    #[test]
    fn everything_is_written_in_order() {
        let shared = Shared::default();
        let mut sink = Sink::start(Box::new(shared.clone())).unwrap();
        assert!(sink.offer(b"one\n".to_vec()) && sink.offer(b"two\n".to_vec()));
        let closed = closed(sink, vec![b"end\n".to_vec()], Duration::from_secs(10));
        assert!(closed.unwritten == 0 && closed.error.is_none(), "{closed:?}");
        assert_eq!(*shared.0.lock().unwrap(), b"one\ntwo\nend\n");
    }

    #[test]
    fn a_stuck_sink_holds_nothing_up() {
        let (_go, wait) = std::sync::mpsc::channel();
        let begin = Instant::now();
        let mut sink = Sink::start(Box::new(Stuck(wait))).unwrap();
        let line = vec![b'x'; 1000];
        let taken = (0..2 * QUEUE as u64).filter(|_| sink.offer(line.clone())).count() as u64;
        assert!((QUEUE as u64..2 * QUEUE as u64).contains(&taken), "{taken}");
        let closed = closed(sink, vec![line], Duration::from_millis(50));
        assert!(closed.unwritten >= taken && closed.error.is_none(), "{closed:?}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_full_disk_is_told() {
        let mut sink = Sink::start(Box::new(Full)).unwrap();
        sink.offer(b"one\n".to_vec());
        let closed = closed(sink, vec![], Duration::from_secs(10));
        assert_eq!(closed.unwritten, 1);
        assert_eq!(closed.error.unwrap().kind(), io::ErrorKind::StorageFull);
    }
}
