//! Watches whether the path still means the file that a connection has open.
//!
//! A connection keeps its file open. So while it lives no other file gets the same number,
//! and one `stat` of the path tells whether a rename, a removal, a symbolic link or a new
//! mount has put another file there, or none.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fairpool::text::Plain;
use parking_lot::Mutex;

/// The numbers of a file: device and file.
type Id = (u64, u64);

/// The file of a connection, and what the file system last said about it.
pub(crate) struct WatchedFile {
    /// As the user wrote it, and absolute.
    path: PathBuf,
    main: Id,
    /// The write-ahead log and its shared memory, once they have been seen. Connections that
    /// keep them open share nothing with connections that make new ones.
    beside: [Mutex<Beside>; 2],
    watches_beside: AtomicBool,
    has_moved: AtomicBool,
    looked_at: AtomicU64,
    wal_bytes: AtomicU64,
}

struct Beside {
    path: PathBuf,
    id: Option<Id>,
}

impl WatchedFile {
    /// The file of a connection that was just opened. `None` if it has none.
    ///
    /// `resolved` is the path by which SQLite knows it.
    pub(crate) fn of(path: PathBuf, resolved: &Path) -> Option<WatchedFile> {
        let main = id(&fs::metadata(resolved).ok()?);
        let beside = ["-wal", "-shm"].map(|suffix| {
            let mut path = resolved.as_os_str().to_owned();
            path.push(suffix);
            Mutex::new(Beside { path: path.into(), id: None })
        });
        Some(WatchedFile {
            path,
            main,
            beside,
            watches_beside: AtomicBool::new(false),
            has_moved: AtomicBool::new(false),
            looked_at: AtomicU64::new(0),
            wal_bytes: AtomicU64::new(0),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// As [`look`](Self::look), but looks at most once per tick of the clock: a `stat` takes
    /// longer than a short use. A tick is at most 10 ms on Linux, and 1 ms elsewhere.
    #[inline]
    pub(crate) fn look_if_due(&self) -> bool {
        let now = clock::tick();
        if self.looked_at.load(Ordering::Relaxed) != now {
            self.looked_at.store(now, Ordering::Relaxed);
            return self.look();
        }
        self.has_moved.load(Ordering::Relaxed)
    }

    /// Looks at the file system. Returns whether the path, or that of a file beside it, means
    /// something else than before.
    #[cold]
    pub(crate) fn look(&self) -> bool {
        let is_there = match fs::metadata(&self.path) {
            Ok(found) => id(&found) == self.main,
            Err(error) => !is_absent(&error),
        };
        if !(is_there && self.beside_is_there()) {
            self.has_moved.store(true, Ordering::Relaxed);
        }
        self.has_moved.load(Ordering::Relaxed)
    }

    /// Sets whether the files beside the database are watched, from those on that are there
    /// at the next look. They are not watched while the connection is prepared, and after its
    /// holder changes the journal mode, which makes or removes them.
    pub(crate) fn watch_beside(&self, watch: bool) {
        self.beside.iter().for_each(|beside| beside.lock().id = None);
        self.watches_beside.store(watch, Ordering::Relaxed);
    }

    fn beside_is_there(&self) -> bool {
        if !self.watches_beside.load(Ordering::Relaxed) {
            return true;
        }
        let mut sizes = [0; 2];
        for (beside, size) in self.beside.iter().zip(&mut sizes) {
            let mut beside = beside.lock();
            match fs::metadata(&beside.path) {
                Ok(found) if beside.id.is_none_or(|before| before == id(&found)) => {
                    beside.id = Some(id(&found));
                    *size = found.len();
                }
                // SQLite removes them only after the last connection has left them.
                Err(error) if beside.id.is_none() || !is_absent(&error) => {}
                _ => return false,
            }
        }
        self.wal_bytes.store(sizes[0], Ordering::Relaxed);
        true
    }

    /// The size of the write-ahead log when it was last looked at.
    pub(crate) fn wal_bytes(&self) -> u64 {
        self.wal_bytes.load(Ordering::Relaxed)
    }

    /// SQLite calls this before a commit. `true` turns the commit into a rollback, so that a
    /// write into the old file is not reported as done.
    pub(crate) fn refuses_commit(&self) -> bool {
        let refuses = self.look_if_due();
        if refuses {
            log::warn!(
                "a commit is refused: the file of {} was moved, deleted or replaced",
                Plain(&self.path.to_string_lossy())
            );
        }
        refuses
    }
}

/// Whether the file is certainly absent. Other errors say nothing about it.
fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(unix)]
fn id(metadata: &Metadata) -> Id {
    use std::os::unix::fs::MetadataExt;

    (metadata.dev(), metadata.ino())
}

/// On other systems a file that is open keeps its name, so nothing is compared.
#[cfg(not(unix))]
fn id(_: &Metadata) -> Id {
    (0, 0)
}

/// A clock that is cheap to read, in steps of a few milliseconds.
pub(crate) mod clock {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn tick() -> u64 {
        use rustix::time::{ClockId, clock_gettime};

        let now = clock_gettime(ClockId::MonotonicCoarse);
        (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(crate) fn tick() -> u64 {
        use std::sync::OnceLock;
        use std::time::Instant;

        static START: OnceLock<Instant> = OnceLock::new();
        // Never zero, which means "not looked yet".
        (START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1) * 1_000_000
    }
}
