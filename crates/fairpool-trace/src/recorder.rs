//! A thread that collects the events of pools.

use std::error;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::WeakPool;
use fairpool::event::Subscription;

use crate::trace::Trace;

/// Events that a pool may deliver while the recorder pauses. A busy pool takes more than
/// a hundred milliseconds for as many. They take memory only while they are not read.
const CAPACITY: usize = 1 << 16;

/// How long the recorder sleeps when there are no events: a small part of that time, and long
/// enough that an idle pool's recorder costs little.
const PAUSE: Duration = Duration::from_millis(10);

/// Records what happens in pools, on a thread of its own, until it is stopped.
///
/// It does not keep the pools alive. If events come faster than it can read them, the
/// trace shows how many were lost. A recorder that is dropped without
/// [`stop`](Recorder::stop) discards what it has recorded: its thread ends within a few
/// milliseconds, and the drop does not wait for it. Nothing of a recording stays with its
/// pools when it has ended.
///
/// A recording of an idle pool takes a few kilobytes, and grows with what happens.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use fairpool_trace::Recorder;
///
/// let pool = fairpool::Pool::new(StubManager)?;
/// let recorder = Recorder::start(&[pool.downgrade()])?;
/// drop(pool.get()?);
/// recorder.stop().write(std::io::sink())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Recorder {
    /// A message asks for the trace; without one, a dropped sender discards it.
    stop: Sender<()>,
    thread: JoinHandle<Trace>,
}

impl Recorder {
    /// Starts recording. The trace includes what is under way at this moment; pools that
    /// are gone are left out. It has the limit of [`Trace::new`].
    ///
    /// # Errors
    ///
    /// If there is no pool in the list, or the system cannot start a thread.
    pub fn start(pools: &[WeakPool]) -> Result<Recorder, StartError> {
        Recorder::start_with(pools, Trace::new())
    }

    /// Like [`start`](Recorder::start), but continues a trace: for example, one with
    /// another limit.
    ///
    /// # Errors
    ///
    /// As [`start`](Recorder::start).
    pub fn start_with(pools: &[WeakPool], mut trace: Trace) -> Result<Recorder, StartError> {
        if pools.is_empty() {
            return Err(StartError::NoPools);
        }
        let mut subscriptions = Vec::with_capacity(pools.len());
        for pool in pools {
            // It fails only if the pool is gone.
            if let Ok((scene, subscription)) = pool.follow(CAPACITY) {
                trace.begin(scene);
                subscriptions.push(subscription);
            }
        }
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("fairpool-recorder".to_string())
            .spawn(move || run(subscriptions, &stopped, trace))
            .map_err(StartError::Thread)?;
        Ok(Recorder { stop, thread })
    }

    /// Stops recording and returns the trace, with everything that has happened up to
    /// now.
    ///
    /// # Blocking
    ///
    /// For a few milliseconds, to read the events that are still on their way.
    pub fn stop(self) -> Trace {
        // It fails only if the thread has panicked, which the join reports.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    }
}

/// Records for a while.
///
/// # Errors
///
/// As [`Recorder::start`].
///
/// # Blocking
///
/// For `duration`.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use std::time::Duration;
///
/// let pool = fairpool::Pool::new(StubManager)?;
/// let trace = fairpool_trace::record(&[pool.downgrade()], Duration::from_millis(10))?;
/// trace.write(std::io::sink())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn record(pools: &[WeakPool], duration: Duration) -> Result<Trace, StartError> {
    let recorder = Recorder::start(pools)?;
    thread::sleep(duration);
    Ok(recorder.stop())
}

/// Why a [`Recorder`] could not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The list of pools is empty.
    NoPools,
    /// The system cannot start a thread.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NoPools => f.write_str("trace: there is no pool to record"),
            StartError::Thread(error) => {
                write!(f, "trace: cannot start the recorder's thread: {error}")
            }
        }
    }
}

impl error::Error for StartError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            StartError::NoPools => None,
            StartError::Thread(error) => Some(error),
        }
    }
}

fn run(mut subscriptions: Vec<Subscription>, stopped: &Receiver<()>, mut trace: Trace) -> Trace {
    loop {
        let mut idle = true;
        // A subscription ends with its pool.
        subscriptions.retain(|subscription| {
            idle &= subscription.is_empty();
            add_available(subscription, &mut trace)
        });
        match stopped.recv_timeout(if idle { PAUSE } else { Duration::ZERO }) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return trace,
            Ok(()) => break,
        }
    }
    for subscription in &subscriptions {
        flush(subscription);
        add_available(subscription, &mut trace);
    }
    trace.extend_to(Instant::now());
    trace
}

/// Adds the events that are there now. (Not those that arrive while it runs: under load
/// this would never end.) Returns `false` if there will be no more.
fn add_available(subscription: &Subscription, trace: &mut Trace) -> bool {
    // One more than there are, to see the end of the subscription.
    for _ in 0..=subscription.len() {
        match subscription.try_recv() {
            Ok(event) => trace.add(&event),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        }
    }
    true
}

/// Delivers pending events now. If this thread happens to hold the last reference to the
/// pool, the manager is dropped here: a panic of its destructor must not cost the trace.
fn flush(subscription: &Subscription) {
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| subscription.flush())) {
        // The payload's destructor could panic, too.
        std::mem::forget(payload);
    }
}
