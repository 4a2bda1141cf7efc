//! The daemon's log of events: one file, and the one before it. Whatever becomes of the disk, it goes on when it can again, and
//! says how many events are missing.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Between two attempts to go on.
const RETRY: Duration = Duration::from_secs(5);

/// Events that the log does not have, from whoever finds it out.
#[derive(Debug, Clone, Default)]
pub struct Unwritten(Arc<AtomicU64>);

impl Unwritten {
    /// So many more.
    pub fn add(&self, events: u64) {
        self.0.fetch_add(events, Ordering::AcqRel);
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Makes the line that says that so many events are missing.
pub type Gap = Box<dyn Fn(u64) -> String + Send>;

/// A file that is put aside, as `NAME.1`, when it has grown past a size. What cannot be written is counted, and told in the
/// file when it can be again; so writing to it never fails.
pub struct Log {
    path: PathBuf,
    limit: u64,
    retry: Duration,
    file: Result<Open, Instant>,
    unwritten: Unwritten,
    /// Of these the file tells.
    told: u64,
    gap: Gap,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Where the last line ends.
    size: u64,
}

impl fmt::Debug for Log {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, file, unwritten, .. } = self;
        out.debug_struct("Log")
            .field("path", path)
            .field("file", file)
            .field("unwritten", unwritten)
            .finish_non_exhaustive()
    }
}

fn open(path: &Path) -> io::Result<Open> {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    Ok(Open { file, size: metadata.len() })
}

impl Open {
    /// Appends whole lines, or nothing.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        match self.file.write_all(lines) {
            Ok(()) => {
                self.size += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half of a line is none.
                self.file.set_len(self.size)?;
                Err(error)
            }
        }
    }
}

impl Log {
    /// Goes on with what is there. If that cannot be opened it is tried again.
    #[must_use]
    pub fn new(path: &Path, limit: u64, unwritten: Unwritten, gap: Gap) -> Self {
        let mut log = Self {
            path: path.to_path_buf(),
            limit,
            retry: RETRY,
            file: Err(Instant::now()),
            told: unwritten.total(),
            unwritten,
            gap,
        };
        if let Err(error) = log.reopen() {
            log.give_up(&error);
        }
        log
    }

    fn reopen(&mut self) -> io::Result<()> {
        let mut opened = open(&self.path)?;
        // A daemon that was killed may have been at it.
        if opened.size > 0 && !ends_a_line(&self.path, opened.size)? {
            opened.append(b"\n")?;
        }
        self.file = Ok(opened);
        Ok(())
    }

    fn give_up(&mut self, error: &io::Error) {
        eprintln!(
            "stockade: [events] log {}: {error}; events are counted as unwritten, and it is tried again every {} s",
            self.path.display(),
            self.retry.as_secs(),
        );
        self.file = Err(Instant::now());
    }

    /// Whether it can be written, as far as is known.
    fn is_open(&mut self) -> bool {
        match self.file {
            Ok(_) => true,
            Err(since) if since.elapsed() < self.retry => false,
            Err(_) => match self.reopen() {
                Ok(()) => true,
                Err(_) => {
                    // It was said once.
                    self.file = Err(Instant::now());
                    false
                }
            },
        }
    }

    /// Says what is missing, and has been told nowhere.
    fn tell(&mut self) -> io::Result<()> {
        let total = self.unwritten.total();
        let Ok(open) = &mut self.file else { return Ok(()) };
        if total > self.told {
            let mut line = (self.gap)(total - self.told);
            line.push('\n');
            open.append(line.as_bytes())?;
            eprintln!(
                "stockade: [events] log {}: {} events are missing before this moment",
                self.path.display(),
                total - self.told
            );
            self.told = total;
        }
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        fs::rename(&self.path, aside)?;
        self.file = Ok(open(&self.path)?);
        Ok(())
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.file.as_ref().is_ok_and(|open| open.size > self.limit) {
            self.turn()?;
        }
        self.tell()?;
        match &mut self.file {
            Ok(open) => open.append(lines),
            Err(_) => Ok(()),
        }
    }
}

fn ends_a_line(path: &Path, size: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut last = [0];
    File::open(path)?.read_exact_at(&mut last, size - 1)?;
    Ok(last == *b"\n")
}

impl Write for Log {
    /// Takes whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        if !self.is_open() {
            self.unwritten.add(count);
        } else if let Err(error) = self.append(lines) {
            self.unwritten.add(count);
            self.give_up(&error);
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_open()
            && let Err(error) = self.tell()
        {
            self.give_up(&error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(path: &Path, limit: u64) -> Log {
        let gap = Box::new(|lost| format!("gap {lost}"));
        Log { retry: Duration::from_millis(20), ..Log::new(path, limit, Unwritten::default(), gap) }
    }

    #[test]
    fn a_log_past_its_size_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        fs::write(&path, "earlier\n").unwrap();
        let mut log = log(&path, 10);
        for line in ["one\n", "two\n", "three\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(folder.path().join("events.jsonl.1")).unwrap(), "earlier\none\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\nthree\n");
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, path) = (folder.path().join("victim"), folder.path().join("events.jsonl"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let mut log = log(&path, 10);
        log.write_all(b"one\n").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(log.unwritten.total(), 1);
        let device = self::log(Path::new("/dev/null"), 10);
        assert!(device.file.is_err());
    }

    #[test]
    fn a_log_goes_on_when_it_can_again_and_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later/events.jsonl");
        let mut log = log(&path, 1000);
        log.write_all(b"one\ntwo\n").unwrap();
        fs::create_dir(folder.path().join("later")).unwrap();
        // Not asked at once.
        log.retry = Duration::from_secs(60);
        log.write_all(b"three\n").unwrap();
        assert_eq!((log.unwritten.total(), path.exists()), (3, false));
        log.retry = Duration::ZERO;
        log.write_all(b"four\n").unwrap();
        // What did not fit the queue is missing, too.
        log.unwritten.add(2);
        log.flush().unwrap();
        log.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "gap 3\nfour\ngap 2\n");
        assert_eq!(log.unwritten.total(), 5);
    }

    #[test]
    fn a_full_disk_leaves_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut log = log(&path, 1 << 20);
        log.write_all(b"one\n").unwrap();
        // A file that takes nothing more, for this thread's process: writing to it fails in the midst.
        let full = File::options().write(true).open("/dev/full").unwrap();
        let whole = std::mem::replace(&mut log.file.as_mut().unwrap().file, full);
        log.write_all(b"two\nthree\n").unwrap();
        drop(whole);
        assert!(log.file.is_err());
        assert_eq!(log.unwritten.total(), 2);
        // What a killed daemon has left half is a line by itself.
        fs::write(&path, "one\ntw").unwrap();
        log.retry = Duration::ZERO;
        log.write_all(b"four\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntw\ngap 2\nfour\n");
    }
}
