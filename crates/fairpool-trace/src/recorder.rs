//! A thread that listens to pools and keeps what it hears.

use std::time::Duration;

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded};

use super::Trace;
use crate::error::Error;
use crate::event::Event;
use crate::snapshot::WeakPool;
use crate::sync;

/// Events that may come between two looks of the recorder. What a busy pool does in
/// more than a hundred milliseconds.
const CAPACITY: usize = 1 << 16;

/// So many are read before it looks again who has some, and whether it is to stop.
const BATCH: usize = 1000;

/// Records what happens in pools, on a thread of its own, until it is stopped.
///
/// It does not keep the pools alive, and listens until it is stopped or dropped.
/// Events that it was too slow for are counted in the trace.
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
    /// Its end stops the recorder.
    stop: Sender<()>,
    trace: Receiver<Trace>,
}

impl Recorder {
    /// Starts to record, with what is going on at this moment. Pools that are gone
    /// leave nothing. The trace has the limit of [`Trace::new`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if there is no pool in the list,
    /// or the system has no thread to give.
    pub fn start(pools: &[WeakPool]) -> Result<Recorder, Error> {
        Recorder::start_with(pools, Trace::new())
    }

    /// As [`start`](Recorder::start), going on with a trace: one with another limit.
    ///
    /// # Errors
    ///
    /// As [`start`](Recorder::start).
    pub fn start_with(pools: &[WeakPool], mut trace: Trace) -> Result<Recorder, Error> {
        if pools.is_empty() {
            return Err(Error::config("trace: there is no pool to record".to_string()));
        }
        let mut listeners = Vec::with_capacity(pools.len());
        for watch in pools {
            let Some(pool) = watch.pool() else { continue };
            let (events, scene) = pool.follow(CAPACITY)?;
            trace.begin(scene);
            listeners.push((watch.clone(), events));
        }
        let (stop, stopped) = bounded(0);
        let (done, result) = bounded(1);
        let body = move || {
            listen(&mut listeners, &stopped, &mut trace);
            // Nobody asks for it if the recorder was dropped.
            let _ = done.send(trace);
        };
        sync::spawn("fairpool-recorder".to_string(), body).map_err(|error| {
            Error::config(format!("trace: cannot start the recorder's thread: {error}"))
        })?;
        Ok(Recorder { stop, trace: result })
    }

    /// Stops, and returns what was recorded.
    ///
    /// # Blocking
    ///
    /// For the moment that it takes to read the events up to now.
    pub fn stop(self) -> Trace {
        drop(self.stop);
        self.trace.recv().expect("BUG: the recorder has ended without a trace")
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
pub fn record(pools: &[WeakPool], duration: Duration) -> Result<Trace, Error> {
    let recorder = Recorder::start(pools)?;
    sync::sleep(duration);
    Ok(recorder.stop())
}

/// Until it is stopped; then it reads what has happened by then.
fn listen(
    listeners: &mut Vec<(WeakPool, Receiver<Event>)>,
    stopped: &Receiver<()>,
    trace: &mut Trace,
) {
    while let Some(ended) = listen_to_all(listeners, stopped, trace) {
        // That pool has ended.
        listeners.swap_remove(ended);
    }
    for (watch, events) in listeners {
        // Events come late: these now.
        watch.pool().iter().for_each(|pool| pool.deliver());
        // And no others, of which there may be new ones all the time.
        events.try_iter().take(events.len()).for_each(|event| trace.add(&event));
    }
    trace.extend_to(sync::instant());
}

/// Returns who has ended; `None` if the recorder was stopped.
fn listen_to_all(
    listeners: &[(WeakPool, Receiver<Event>)],
    stopped: &Receiver<()>,
    trace: &mut Trace,
) -> Option<usize> {
    let mut select = Select::new();
    select.recv(stopped);
    listeners.iter().for_each(|(_, events)| _ = select.recv(events));
    loop {
        let ready = select.ready().checked_sub(1)?;
        for _ in 0..BATCH {
            match listeners[ready].1.try_recv() {
                Ok(event) => trace.add(&event),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Some(ready),
            }
        }
    }
}
