//! The clients that are connected: few at a time, and none that keeps others out.

use std::cell::{Cell, OnceCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, yield_now};
use tokio::time;

use crate::recording::Permit;

/// A page makes two requests a second, each answered in a moment, so this is plenty. It is a
/// small part of the descriptors that a process may have open: mostly 1024 or more.
const MOST: usize = 32;

/// Of a lower limit of descriptors, at most one in this many.
const SHARE: usize = 8;

/// But at least this many.
const FEWEST: usize = 4;

/// No client is turned out sooner: an honest one has sent its request by then.
const GRACE: Duration = Duration::from_millis(100);

/// How often a newcomer looks for a place.
const LOOK: Duration = Duration::from_millis(10);

/// The pause after the process ran out of descriptors, which others can use then.
const PAUSE: Duration = Duration::from_millis(100);

/// After a shortage, there may be one client more each time this has passed.
const RECOVERY: Duration = Duration::from_secs(10);

/// A client's stay, which ends with its connection.
pub(crate) struct Visit {
    /// Since then the server has waited for it: to send its request, or to take the answer.
    since: Cell<Instant>,
    asked: Cell<bool>,
    /// There are few of these: such a client does not count, and is never turned out.
    permit: OnceCell<Arc<Permit>>,
}

impl Visit {
    pub(crate) fn begin() -> Rc<Visit> {
        let since = Cell::new(Instant::now());
        Rc::new(Visit { since, asked: Cell::new(false), permit: OnceCell::new() })
    }

    /// Its request has arrived.
    pub(crate) fn asks(&self) {
        self.since.set(Instant::now());
        self.asked.set(true);
    }

    pub(crate) fn has_asked(&self) -> bool {
        self.asked.get()
    }

    /// It keeps the right to its recording until its connection ends.
    pub(crate) fn records(&self, permit: Arc<Permit>) {
        let _ = self.permit.set(permit);
    }
}

/// A connected client.
struct Client {
    task: AbortHandle,
    visit: Weak<Visit>,
}

impl Client {
    fn records(&self) -> bool {
        self.visit.upgrade().is_some_and(|visit| visit.permit.get().is_some())
    }
}

/// All clients. Their number is that of those who do not record.
pub(crate) struct Clients {
    connected: Vec<Client>,
    limit: usize,
    /// After a shortage of descriptors: the limit at that time, and the time.
    shortage: Option<(usize, Instant)>,
}

impl Clients {
    pub(crate) fn new() -> Clients {
        let limit = descriptors().map_or(MOST, |most| (most / SHARE).clamp(FEWEST, MOST));
        Clients { connected: Vec::new(), limit, shortage: None }
    }

    pub(crate) fn add(&mut self, visit: Weak<Visit>, task: AbortHandle) {
        self.connected.push(Client { task, visit });
    }

    /// Waits until there is room for one more. If all places are taken, it turns out the client
    /// that has kept the server waiting longest.
    pub(crate) async fn room(&mut self) {
        while self.number() >= self.limit_now() {
            if !self.turn_out_slowest().await {
                time::sleep(LOOK).await;
            }
        }
    }

    /// No client could be accepted: the process has no descriptor left, or no memory. Gives back
    /// half of what clients hold, and leaves it to others for a while: above all, pools need
    /// descriptors for their connections.
    pub(crate) async fn make_do_with_less(&mut self) {
        let half = self.number() / 2;
        self.shortage = Some((half.max(1), Instant::now()));
        while self.number() > half && self.turn_out_slowest().await {}
        time::sleep(PAUSE).await;
    }

    fn number(&mut self) -> usize {
        self.connected.retain(|client| client.visit.strong_count() > 0);
        self.connected.iter().filter(|client| !client.records()).count()
    }

    fn limit_now(&self) -> usize {
        let Some((limit, since)) = self.shortage else { return self.limit };
        let more = since.elapsed().as_secs() / RECOVERY.as_secs();
        limit.saturating_add(usize::try_from(more).unwrap_or(usize::MAX)).min(self.limit)
    }

    /// Returns whether there was one that may be turned out.
    async fn turn_out_slowest(&self) -> bool {
        let others = self.connected.iter().filter(|client| !client.records());
        let since = others.filter_map(|client| Some((client.visit.upgrade()?.since.get(), client)));
        let slowest = since.min_by_key(|(since, _)| *since);
        let Some((_, client)) = slowest.filter(|(since, _)| since.elapsed() >= GRACE) else {
            return false;
        };
        client.task.abort();
        // It goes when this task rests.
        yield_now().await;
        true
    }
}

/// Whether a connection ended before it was accepted.
pub(crate) fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted].contains(&error.kind())
}

/// How many descriptors the process may have open.
#[cfg(unix)]
fn descriptors() -> Option<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    usize::try_from(limit.current?).ok()
}

#[cfg(not(unix))]
fn descriptors() -> Option<usize> {
    None
}
