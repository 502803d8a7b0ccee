//! What is wrong with a pool, in words, with what shows it.
//!
//! One look cannot tell a busy pool from one that stands still. Two looks a second
//! apart can: who has kept a connection all the while, what has grown, what has
//! moved. The judgement itself (`rules`) only compares the two.

mod memory;
mod report;
mod rules;

use std::time::{Duration, SystemTime};

use crate::observe::snapshot::Snapshot;
use crate::sync;
use crate::types::{Error, Holder};

pub use memory::Memory;

/// How far [`Pool::diagnose`]'s looks are apart. Many times what a connection is held
/// for by most work, and still short enough to wait for.
pub(crate) const SPAN: Duration = Duration::from_secs(1);

/// Holds and returns within the same tick of the clock could not be told from a
/// connection that never came back.
const SHORTEST_SPAN: Duration = Duration::from_millis(50);
const LONGEST_SPAN: Duration = Duration::from_secs(60 * 60);

/// What is wrong with a pool. From [`Pool::diagnose`](crate::Pool::diagnose).
///
/// It prints as a report for a terminal; with the feature `serde` it can be
/// serialised.
///
/// # What is found
///
/// Two looks at the pool, the *span* apart, are compared. A pool that works is not
/// reported, however busy: those who wait are a finding only when they wait for long
/// by the pool's own standard,
/// [`HealthThresholds::wait_warning`](crate::health::HealthThresholds::wait_warning) (100 ms
/// unless set). Below, callers *wait long* if at both looks somebody has waited for
/// that long, or if at least
/// [`waiters_warning`](crate::health::HealthThresholds::waiters_warning) (5) waits ended in
/// between and took that long on average.
///
/// | kind | found when |
/// |---|---|
/// | [`Leak`](FindingKind::Leak) | all connections are in use, none came back between the looks, and callers wait long, time out or are refused; or somebody has kept one for longer than `leak_threshold` (if that is not set: than `connection_timeout`, while callers wait long) |
/// | [`NestedGets`](FindingKind::SelfDeadlock) | at both looks each connection is held by a thread that itself waits for one, or that happened in between |
/// | [`ConnectFails`](FindingKind::ConnectFails) | connecting fails at both looks, and is tried or waited for, or gets fail for it |
/// | [`ConnectHangs`](FindingKind::ConnectHangs), [`CheckHangs`](FindingKind::CheckHangs), [`CloseHangs`](FindingKind::CloseHangs) | a driver call runs at both looks and has taken for a second or more (one that waits for a closer does not count) |
/// | [`AbandonedCalls`](FindingKind::AbandonedCalls) | of as many abandoned driver calls as `max_abandoned` allows, four fifths are there |
/// | [`Saturated`](FindingKind::Saturated) | all connections are in use at both looks and connections come back, but callers wait long, or more of those that queue time out than are served |
/// | [`Queue`](FindingKind::Queue) | callers wait long otherwise; mostly beside the finding that says why |
/// | [`Refused`](FindingKind::Refused) | callers were refused between the looks because the queue was full |
/// | [`Paused`](FindingKind::Paused) | the pool is paused at both looks |
/// | [`Closed`](FindingKind::Closed) | the pool is closed, and the same callers hold connections at both looks |
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
///     let diagnosis = pool.diagnose_over(short)?; // or diagnose(), which takes a second
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
    /// When the second look was taken. Serialised as seconds since 1970.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::unix_time"))]
    pub taken_at: SystemTime,
    /// How far the two looks are apart. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub span: Duration,
    /// What was found, most severe first, and causes before what they cause. Empty if
    /// nothing is wrong.
    pub findings: Vec<Finding>,
    /// The memory of the process; `None` where it is not known.
    pub memory: Option<Memory>,
    /// The second look, for those who want to see for themselves.
    pub snapshot: Snapshot,
}

impl Diagnosis {
    /// Compares two snapshots of one pool: for those who take some anyway and do not
    /// want to wait. The memory is that of now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if they are of pools of
    /// different names, or the second is not at least 50 ms younger than the first.
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

    /// The finding of this kind, if there is one; there are never two.
    pub fn finding(&self, kind: FindingKind) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.kind == kind)
    }

    /// The worst of the findings' severities.
    pub fn severity(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}

/// Something that is wrong.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub summary: String,
    /// What shows it: figures, ages, and who holds or waits at which lines.
    pub evidence: Vec<String>,
    /// What to do, in one sentence.
    pub advice: String,
    /// Those who hold the connections in question, longest first; empty if no holder
    /// is to blame.
    pub holders: Vec<Holder>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Severity {
    /// Nobody suffers; it may be meant to be so.
    Info,
    /// Callers notice, or soon will.
    Warning,
    /// Callers suffer.
    Critical,
}

/// What kind of thing is wrong; [`Diagnosis`] says when each is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
// Causes before what they cause: findings of one severity are in this order.
pub enum FindingKind {
    /// The pool is closed, and connections are still out.
    Closed,
    /// The pool hands out nothing because it is paused.
    Paused,
    /// Every connection is held by a thread that itself waits for one.
    SelfDeadlock,
    /// Connections do not come back: they are leaked, or the work done with them
    /// hangs. Which of the two, only their holders' lines can tell.
    Leak,
    /// Connecting fails.
    ConnectFails,
    /// The driver's connect hangs.
    ConnectHangs,
    /// The driver's reset or validation hangs.
    CheckHangs,
    /// The driver's close hangs.
    CloseHangs,
    /// As many driver calls have been abandoned as may be, or nearly.
    AbandonedCalls,
    /// More is asked of the pool than its connections can serve.
    Saturated,
    /// Callers are refused because too many wait.
    Refused,
    /// Callers wait for long.
    Queue,
}

/// Compares two snapshots that are `span` apart. `None` if either is.
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
