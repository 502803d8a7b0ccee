//! Finds what is wrong with a pool, with evidence and advice.
//!
//! One snapshot does not distinguish a busy pool from one that stands still. Two snapshots
//! a second apart do: they show which holders kept their connections, what has grown, and
//! what has happened in between. The rules (`rules`) only compare the two.

mod report;
mod rules;

use std::time::{Duration, SystemTime};

use crate::observe::snapshot::Snapshot;
use crate::sync;
use crate::types::{Error, Holder};

/// The time between the snapshots of [`Pool::diagnose`]: many times longer than most work
/// holds a connection, and short enough to wait for.
pub(crate) const SPAN: Duration = Duration::from_secs(1);

/// Several ticks of the cheap clock. Within one tick, a connection that was returned and
/// got again cannot be distinguished from one that was kept.
const SHORTEST_SPAN: Duration = Duration::from_millis(50);
const LONGEST_SPAN: Duration = Duration::from_secs(60 * 60);

/// What is wrong with a pool. From [`Pool::diagnose`](crate::Pool::diagnose).
///
/// It prints as a report for a terminal. With the feature `serde` it can be serialised.
///
/// # What is found
///
/// A diagnosis compares two snapshots of the pool. A busy pool that works well has no
/// findings. Callers *wait long* only by the pool's own thresholds: if in both snapshots a
/// caller has waited for
/// [`HealthThresholds::wait_warning`](crate::health::HealthThresholds::wait_warning)
/// (default: 100 ms) or longer, or if at least
/// [`waiters_warning`](crate::health::HealthThresholds::waiters_warning) (default: 5) waits
/// ended in between and took that long on average.
///
/// | kind | found if |
/// |---|---|
/// | [`Leak`](FindingKind::Leak) | all connections are in use, none was returned between the snapshots, and callers wait long, time out or are refused; or a connection has been held for longer than `leak_threshold` (if that is not set: than `connection_timeout`, while callers wait long) |
/// | [`SelfDeadlock`](FindingKind::SelfDeadlock) | in both snapshots every connection is held by a thread that itself waits for another, or that began in between |
/// | [`ConnectFails`](FindingKind::ConnectFails) | connecting fails in both snapshots, and it is tried, callers wait, or gets fail because of it |
/// | [`ConnectHangs`](FindingKind::ConnectHangs), [`CheckHangs`](FindingKind::CheckHangs), [`CloseHangs`](FindingKind::CloseHangs) | a driver call runs in both snapshots and has taken one second or longer (a close that waits for a closer does not count) |
/// | [`AbandonedCalls`](FindingKind::AbandonedCalls) | the number of abandoned driver calls is at least four fifths of `max_abandoned` |
/// | [`Saturated`](FindingKind::Saturated) | all connections are in use in both snapshots and gets are served, but callers wait long, or more waits time out than gets are served |
/// | [`Queue`](FindingKind::Queue) | callers wait long, and the pool is not saturated; mostly together with the finding that is the cause |
/// | [`Refused`](FindingKind::Refused) | callers were refused between the snapshots because the queue was full |
/// | [`Paused`](FindingKind::Paused) | the pool is paused in both snapshots |
/// | [`Closed`](FindingKind::Closed) | the pool is closed, and the same callers hold connections in both snapshots |
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use std::time::Duration;
///
/// use fairpool::diagnosis::FindingKind;
///
/// let pool = fairpool::Pool::builder().name("orders").max_size(1).build(StubManager)?;
/// # let short = Duration::from_millis(100);
/// assert!(pool.diagnose_over(short)?.is_healthy());
///
/// let (leaked, line) = (pool.get()?, line!());
/// let waiter = std::thread::spawn({
///     let pool = pool.clone();
///     move || pool.get_timeout(Duration::from_secs(20)).map(drop)
/// });
/// let diagnosis = loop {
///     let diagnosis = pool.diagnose_over(short)?; // or diagnose(), which takes 1 s
///     if !diagnosis.is_healthy() {
///         break diagnosis;
///     }
/// };
/// let leak = diagnosis.finding(FindingKind::Leak).expect("a leak");
/// assert_eq!(leak.holders[0].location().line(), line);
/// println!("{diagnosis}");
/// # drop(leaked);
/// # waiter.join().unwrap()?;
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Diagnosis {
    /// The pool's name.
    pub pool: String,
    /// When the second snapshot was taken. Serialised as seconds since 1970.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::unix_time"))]
    pub taken_at: SystemTime,
    /// The time between the two snapshots. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub span: Duration,
    /// What is wrong: most severe first, and causes before their effects. Empty if nothing
    /// is wrong.
    pub findings: Vec<Finding>,
    /// The memory of the process; `None` if the system does not report it.
    pub memory: Option<Memory>,
    /// The second snapshot.
    pub snapshot: Snapshot,
}

impl Diagnosis {
    /// Compares two snapshots of one pool that were taken before, without waiting. The
    /// memory is that of now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if the pools have different names,
    /// or if the second snapshot was not taken at least 50 ms after the first.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use std::time::Duration;
    ///
    /// use fairpool::diagnosis::Diagnosis;
    ///
    /// let pool = fairpool::Pool::new(StubManager)?;
    /// let before = pool.snapshot();
    /// assert!(Diagnosis::between(&before, &before).is_err());
    /// std::thread::sleep(Duration::from_millis(60));
    /// assert!(Diagnosis::between(&before, &pool.snapshot())?.is_healthy());
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn between(before: &Snapshot, after: &Snapshot) -> Result<Diagnosis, Error> {
        if before.pool != after.pool {
            return Err(Error::config(format!(
                "diagnosis: the snapshots must be of one pool, but are of '{}' and '{}'",
                before.pool, after.pool
            )));
        }
        let span = after.uptime.saturating_sub(before.uptime);
        if span < SHORTEST_SPAN {
            return Err(Error::config(format!(
                "diagnosis: the second snapshot must be at least {SHORTEST_SPAN:?} younger than \
                 the first, but is {span:?}"
            )));
        }
        Ok(Diagnosis {
            pool: after.pool.clone(),
            taken_at: after.taken_at,
            span,
            findings: rules::judge(before, after),
            memory: Memory::now(),
            snapshot: after.clone(),
        })
    }

    /// Whether nothing was found.
    pub fn is_healthy(&self) -> bool {
        self.findings.is_empty()
    }

    /// The finding of this kind, if there is one. There is at most one of each kind.
    pub fn finding(&self, kind: FindingKind) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.kind == kind)
    }

    /// The worst severity of all findings; `None` if there are no findings.
    pub fn severity(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}

/// One thing that is wrong with a pool.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// The kind of the finding.
    pub kind: FindingKind,
    /// The severity.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub summary: String,
    /// The evidence: figures, ages, and the lines at which callers hold or wait.
    pub evidence: Vec<String>,
    /// What to do, in one sentence.
    pub advice: String,
    /// The holders that cause it, longest first; empty if no holder does.
    pub holders: Vec<Holder>,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Severity {
    /// No caller is affected; it may be intended.
    Info,
    /// Callers are affected a little, or may be soon.
    Warning,
    /// Callers wait very long, or get errors.
    Critical,
}

/// The kind of a finding. [`Diagnosis`] explains when each is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
// Causes before their effects: findings of one severity are sorted in this order.
pub enum FindingKind {
    /// The pool is closed, and connections are still in use.
    Closed,
    /// The pool is paused and hands out no connection.
    Paused,
    /// Every connection is held by a thread that itself waits for another.
    SelfDeadlock,
    /// Connections are not returned: they are leaked, or the work with them hangs. Only
    /// the code at the holders' lines shows which.
    Leak,
    /// Connecting fails.
    ConnectFails,
    /// The driver's connect hangs.
    ConnectHangs,
    /// The driver's reset or validation hangs.
    CheckHangs,
    /// The driver's close hangs.
    CloseHangs,
    /// The number of abandoned driver calls is at its maximum, or near it.
    AbandonedCalls,
    /// The load is higher than the connections can serve.
    Saturated,
    /// Callers are refused because the queue is full.
    Refused,
    /// Callers wait long.
    Queue,
}

/// Takes two snapshots `span` apart and compares them. `None`: `snapshot` returned `None`.
pub(crate) fn over(
    span: Duration,
    snapshot: impl Fn() -> Option<Snapshot>,
) -> Result<Option<Diagnosis>, Error> {
    if !(SHORTEST_SPAN..=LONGEST_SPAN).contains(&span) {
        return Err(Error::config(format!(
            "diagnose: the span must be between {SHORTEST_SPAN:?} and one hour, but is {span:?}"
        )));
    }
    let Some(before) = snapshot() else { return Ok(None) };
    sync::sleep(span);
    snapshot().map(|after| Diagnosis::between(&before, &after)).transpose()
}

/// The memory of the process, as the system counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Memory {
    /// Bytes in physical memory now.
    pub resident: u64,
    /// The maximum of `resident` since the process started.
    pub peak: u64,
}

impl Memory {
    /// The memory of this process now. `None` except on Linux.
    ///
    /// # Examples
    ///
    /// ```
    /// if let Some(memory) = fairpool::diagnosis::Memory::now() {
    ///     assert!(memory.resident > 0);
    /// }
    /// ```
    pub fn now() -> Option<Memory> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        Memory::parse(&std::fs::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(status: &str) -> Option<Memory> {
        let bytes = |name: &str| {
            let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kilobytes = rest.trim().strip_suffix("kB")?.trim_end();
            kilobytes.parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(Memory { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let status = "Name:\tx\nVmPeak:\t  9999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(Memory::parse(status), Some(Memory { resident: 1 << 20, peak: 2 << 20 }));
        assert_eq!(Memory::parse("Name:\tkthread\n"), None);
        assert_eq!(Memory::parse("VmRSS:\tmuch kB\nVmHWM:\t1 kB"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_some() {
        let memory = Memory::now().expect("/proc/self/status");
        assert!(memory.resident >= 1 << 16, "{memory:?}");
        assert!(memory.peak >= 1 << 16, "{memory:?}");
    }
}
