//! The clients that are connected: few at a time, and none can keep others out for long.

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

/// No client is disconnected sooner: a usual one has sent its request by then.
const GRACE: Duration = Duration::from_millis(100);

/// The pause before a newcomer tries again to get a place.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// The pause after the process ran out of descriptors, in which others can use those that were
/// given back.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// After a shortage, there may be one client more each time this has passed.
const RECOVERY: Duration = Duration::from_secs(10);

/// The state of a connected client. It is dropped when the client's connection ends.
pub(crate) struct ClientState {
    /// Since when the server has waited for the client: to send its request, or to read the
    /// answer.
    waiting_since: Cell<Instant>,
    has_request: Cell<bool>,
    /// The client's right to a recording. There are few permits, so a client that has one does
    /// not count toward the limit, and is never disconnected.
    permit: OnceCell<Arc<Permit>>,
}

impl ClientState {
    pub(crate) fn new() -> Rc<ClientState> {
        Rc::new(ClientState {
            waiting_since: Cell::new(Instant::now()),
            has_request: Cell::new(false),
            permit: OnceCell::new(),
        })
    }

    /// Its request has arrived.
    pub(crate) fn request_arrived(&self) {
        self.waiting_since.set(Instant::now());
        self.has_request.set(true);
    }

    pub(crate) fn has_request(&self) -> bool {
        self.has_request.get()
    }

    /// Keeps the right to a recording until the connection ends.
    pub(crate) fn keep_permit(&self, permit: Arc<Permit>) {
        let _ = self.permit.set(permit);
    }
}

/// A connected client.
struct Client {
    task: AbortHandle,
    state: Weak<ClientState>,
}

impl Client {
    fn is_recording(&self) -> bool {
        self.state.upgrade().is_some_and(|state| state.permit.get().is_some())
    }
}

/// All connected clients. Those with a recording do not count toward the limit.
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

    pub(crate) fn add(&mut self, state: Weak<ClientState>, task: AbortHandle) {
        self.connected.push(Client { task, state });
    }

    /// Waits until there is room for one more. If all places are taken, it disconnects the client
    /// that has kept the server waiting longest.
    pub(crate) async fn room(&mut self) {
        while self.number() >= self.limit_now() {
            if !self.disconnect_slowest().await {
                time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// No client could be accepted, because the process has no descriptor or no memory left.
    /// Disconnects half of the clients, and accepts none for a while, so that others can use the
    /// descriptors: above all, pools need them for their connections.
    pub(crate) async fn disconnect_half(&mut self) {
        let half = self.number() / 2;
        self.shortage = Some((half.max(1), Instant::now()));
        while self.number() > half && self.disconnect_slowest().await {}
        time::sleep(SHORTAGE_PAUSE).await;
    }

    fn number(&mut self) -> usize {
        self.connected.retain(|client| client.state.strong_count() > 0);
        self.connected.iter().filter(|client| !client.is_recording()).count()
    }

    fn limit_now(&self) -> usize {
        let Some((limit, since)) = self.shortage else { return self.limit };
        let more = since.elapsed().as_secs() / RECOVERY.as_secs();
        limit.saturating_add(usize::try_from(more).unwrap_or(usize::MAX)).min(self.limit)
    }

    /// Returns whether there was one that may be disconnected.
    async fn disconnect_slowest(&self) -> bool {
        let others = self.connected.iter().filter(|client| !client.is_recording());
        let since =
            others.filter_map(|client| Some((client.state.upgrade()?.waiting_since.get(), client)));
        let slowest = since.min_by_key(|(since, _)| *since);
        let Some((_, client)) = slowest.filter(|(since, _)| since.elapsed() >= GRACE) else {
            return false;
        };
        client.task.abort();
        // Its task is dropped when this one yields.
        yield_now().await;
        true
    }
}

/// Whether a connection ended before it was accepted.
pub(crate) fn is_about_one_client(error: &io::Error) -> bool {
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
