//! A manager of r2d2 whose calls do what the test says.

use std::error::Error;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fairpool::{Builder, ManageConnection, Pool};
use fairpool_testing::stub::{WATCHDOG, watched};

type Call<R> = Box<dyn Fn() -> R + Send + Sync>;

/// The manager. `E` need be neither `Send` nor `Sync`.
pub struct Driver<E> {
    pub connect: Call<Result<(), E>>,
    pub is_valid: Call<Result<(), E>>,
    pub has_broken: Call<bool>,
    pub live: Live,
}

impl<E> Driver<E> {
    /// One whose calls succeed.
    pub fn new() -> Driver<E> {
        Driver {
            connect: Box::new(|| Ok(())),
            is_valid: Box::new(|| Ok(())),
            has_broken: Box::new(|| false),
            live: Live::default(),
        }
    }
}

impl<E: Error + 'static> r2d2::ManageConnection for Driver<E> {
    type Connection = Conn;
    type Error = E;

    fn connect(&self) -> Result<Conn, E> {
        (self.connect)()?;
        self.live.0.fetch_add(1, Ordering::SeqCst);
        Ok(Conn { customized: false, live: self.live.clone() })
    }

    fn is_valid(&self, _: &mut Conn) -> Result<(), E> {
        (self.is_valid)()
    }

    fn has_broken(&self, _: &mut Conn) -> bool {
        (self.has_broken)()
    }
}

/// How many connections are open.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<AtomicUsize>);

impl Live {
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
pub struct Conn {
    pub customized: bool,
    live: Live,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.live.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An error that may go anywhere.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub u32);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with code {}", self.0)
    }
}

impl Error for Refused {}

/// One that is neither `Send` nor `Sync`, with a source.
#[derive(Debug)]
pub struct Local {
    host: Rc<str>,
    source: Refused,
}

impl Local {
    pub fn new() -> Local {
        Local { host: "db1".into(), source: Refused(7) }
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no session on {}", self.host)
    }
}

impl Error for Local {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Settings that leave every decision to the test.
pub fn builder<M: ManageConnection>() -> Builder<M> {
    Pool::builder()
        .max_size(1)
        .min_idle(Some(0))
        .test_on_check_out(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .connection_timeout(WATCHDOG)
        .connect_backoff(Duration::from_millis(1), Duration::from_millis(4))
}

/// The error of a get that waits while connecting fails.
pub fn refusal<M: ManageConnection>(pool: &Pool<M>) -> fairpool::Error {
    let pool = pool.clone();
    watched("a failed connect", move || {
        loop {
            // On a busy machine no attempt may end within it.
            let error = pool.get_timeout(Duration::from_millis(50)).map(drop).unwrap_err();
            if error.source().is_some() {
                return error;
            }
        }
    })
}
