//! The rules: they compare two snapshots of a pool and return what is wrong. They use
//! nothing but the snapshots, neither the pool nor a clock.

mod evidence;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::{Finding, FindingKind, Severity};
use crate::observe::snapshot::{CallKind, DriverCall, Snapshot};
use crate::types::text::count;
use crate::types::{Holder, NestedGet};
use evidence::{PLACES, held_at, kept_at, more, wait_at};

/// A driver call that takes this long hangs. The pool's own limits are mostly longer. But
/// it is a thousand times the usual time of a local driver, and ten times that of a driver
/// over a network.
const HANGS: Duration = Duration::from_secs(1);

/// Shorter waits that time out do not count: such callers only test whether a connection
/// is idle.
const REAL_WAIT: Duration = Duration::from_millis(1);

/// Returns the findings: most severe first, and causes before their effects.
pub(super) fn judge(before: &Snapshot, after: &Snapshot) -> Vec<Finding> {
    let pair = Pair::new(before, after);
    let mut findings: Vec<Finding> = [
        pair.closed(),
        pair.paused(),
        pair.self_deadlock(),
        pair.leak(),
        pair.connect_fails(),
        pair.hangs(FindingKind::ConnectHangs),
        pair.hangs(FindingKind::CheckHangs),
        pair.hangs(FindingKind::CloseHangs),
        pair.abandoned_calls(),
        pair.saturated(),
        pair.refused(),
    ]
    .into_iter()
    .flatten()
    .collect();
    findings.extend(pair.queue(&findings));
    findings.sort_by_key(|finding| (Reverse(finding.severity), finding.kind));
    findings
}

/// Two snapshots, with their differences.
struct Pair<'a> {
    before: &'a Snapshot,
    after: &'a Snapshot,
    span: Duration,
    /// Holders that have held their connections since before the first snapshot, longest
    /// first.
    keepers: Vec<&'a Holder>,
    /// How much the counters grew in between.
    gets: u64,
    timeouts: u64,
    refused: u64,
    /// How many waits ended in between, and how long they took on average.
    waits: u64,
    mean_wait: Duration,
}

impl<'a> Pair<'a> {
    fn new(before: &'a Snapshot, after: &'a Snapshot) -> Pair<'a> {
        let span = after.uptime.saturating_sub(before.uptime);
        let (old, new) = (&before.stats, &after.stats);
        let timeouts = new.timeouts.saturating_sub(old.timeouts);
        let served = new.gets_waited.saturating_sub(old.gets_waited);
        let waits = served + timeouts + new.cancelled.saturating_sub(old.cancelled);
        let time_waited = new.time_waited.saturating_sub(old.time_waited);
        Pair {
            before,
            after,
            span,
            keepers: keepers(before, after, span),
            gets: new.gets.saturating_sub(old.gets),
            timeouts,
            refused: new.refused.saturating_sub(old.refused),
            waits,
            mean_wait: mean(time_waited, waits),
        }
    }

    // ---- facts that several rules use ----

    /// Whether callers wait long, by the pool's own thresholds.
    fn waits_long(&self) -> bool {
        let thresholds = &self.after.settings.health_thresholds;
        let oldest = self.before.health.oldest_wait.min(self.after.health.oldest_wait);
        let enough = self.waits >= u64::from(thresholds.waiters_warning);
        oldest >= thresholds.wait_warning || enough && self.mean_wait >= thresholds.wait_warning
    }

    /// How severe the waits are: critical from `wait_critical` on.
    fn wait_severity(&self) -> Severity {
        let critical = self.after.settings.health_thresholds.wait_critical;
        let oldest = self.after.health.oldest_wait;
        critical_if(oldest >= critical || self.waits > 0 && self.mean_wait >= critical)
    }

    /// Whether callers wait long or get errors.
    fn callers_suffer(&self) -> bool {
        self.waits_long() || self.timeouts > 0 || self.refused > 0
    }

    fn all_in_use(&self) -> bool {
        let is_full = |snapshot: &Snapshot| snapshot.stats.in_use >= snapshot.stats.max_size;
        is_full(self.before) && is_full(self.after)
    }

    /// Whether all connections are in use, and none was returned in between.
    fn stands_still(&self) -> bool {
        let held = self.after.stats.in_use as usize;
        self.all_in_use() && self.keepers.len() == held && held > 0
    }

    fn is_deadlocked(&self) -> bool {
        !self.before.nested_gets.is_empty() && !self.after.nested_gets.is_empty()
    }

    /// Whether more waits timed out than gets were served.
    fn mostly_times_out(&self) -> bool {
        self.timeouts > self.gets && self.mean_wait >= REAL_WAIT
    }

    fn is_saturated(&self) -> bool {
        self.all_in_use()
            && self.gets > 0
            && !self.after.paused
            && (self.waits_long() || self.mostly_times_out())
    }

    // ---- the rules ----

    fn closed(&self) -> Option<Finding> {
        if !self.before.closed || self.keepers.is_empty() {
            return None;
        }
        let held = count(self.keepers.len() as u64, "connection is", "connections are");
        let summary = format!("the pool is closed, but {held} still out");
        Some(
            Finding::new(FindingKind::Closed, Severity::Warning, summary)
                .because(kept_at(&self.keepers))
                .advise(
                    "let these holders finish: the pool ends when the last connection is returned",
                )
                .held_by(self.keepers.iter().copied()),
        )
    }

    fn paused(&self) -> Option<Finding> {
        if !self.before.paused || !self.after.paused || self.after.closed {
            return None;
        }
        let waiting = self.after.stats.waiting;
        let severity = match (self.waits_long(), waiting) {
            (true, _) => self.wait_severity(),
            (false, 0) => Severity::Info,
            (false, _) => Severity::Warning,
        };
        let summary = "the pool is paused and hands out no connection";
        Some(
            Finding::new(FindingKind::Paused, severity, summary)
                .because([self.who_waits(), self.connections()])
                .advise("call resume() to hand out connections again"),
        )
    }

    fn self_deadlock(&self) -> Option<Finding> {
        let (old, new) = (self.before.stats.self_deadlocks, self.after.stats.self_deadlocks);
        let times = new.saturating_sub(old);
        if !self.is_deadlocked() && times == 0 {
            return None;
        }
        let nested = &self.after.nested_gets;
        let often = count(times, "time", "times");
        let began = format!("this began {often} within {:.1?}", self.span);
        let summary = if self.is_deadlocked() {
            "every connection is held by a thread that itself waits for another, so no caller \
             can be served before one of them leaves"
        } else {
            "for some time every connection was held by a thread that itself waited for another"
        };
        Some(
            Finding::new(FindingKind::SelfDeadlock, critical_if(self.is_deadlocked()), summary)
                .because(nested.iter().take(PLACES).map(ToString::to_string))
                .because(more(nested.len(), PLACES, "thread does", "threads do", "the same"))
                .because((times > 0).then_some(began))
                .advise(
                    "use the connection that the thread already holds instead of getting a second \
                     one; with SelfDeadlock::Fail one of the threads gets an error at once",
                )
                .held_by(nested.iter().map(NestedGet::holder)),
        )
    }

    fn leak(&self) -> Option<Finding> {
        if self.is_deadlocked() || self.after.paused || self.after.closed {
            return None;
        }
        let still = self.stands_still() && self.callers_suffer();
        let kept = if still { self.keepers.clone() } else { self.kept_too_long() };
        if kept.is_empty() {
            return None;
        }
        let in_use = self.after.stats.in_use;
        let summary = match (still, in_use) {
            (true, 1) => format!(
                "nothing comes back: the only connection is in use, by the same caller as {:.1?} \
                 ago",
                self.span
            ),
            (true, _) => format!(
                "nothing comes back: all {in_use} connections are in use, by the same callers as \
                 {:.1?} ago",
                self.span
            ),
            (false, _) => format!(
                "{} of {in_use} in use did not come back for {:.1?} or more",
                count(kept.len() as u64, "connection", "connections"),
                self.too_long(),
            ),
        };
        Some(
            Finding::new(FindingKind::Leak, critical_if(still), summary)
                .because(kept_at(&kept))
                .because(self.usual_holds())
                .because([self.who_waits(), self.what_moved()])
                .advise(
                    "check that the code at these lines drops its connection on every path; if it is \
                     still working, check what it waits for in the database",
                )
                .held_by(kept.iter().copied()),
        )
    }

    /// A connection that is held for this long is held for too long.
    fn too_long(&self) -> Duration {
        let settings = &self.after.settings;
        settings.leak_threshold.unwrap_or(settings.connection_timeout)
    }

    fn kept_too_long(&self) -> Vec<&'a Holder> {
        if self.after.settings.leak_threshold.is_none() && !self.waits_long() {
            return Vec::new();
        }
        let limit = self.too_long();
        self.keepers.iter().copied().filter(|holder| holder.held_for() >= limit).collect()
    }

    fn connect_fails(&self) -> Option<Finding> {
        let failing_for = self.after.failing_for.filter(|_| self.before.failing_for.is_some())?;
        let error = match self.last_error() {
            Some(error) => error,
            // Each attempt was abandoned. If one still hangs, `ConnectHangs` explains more.
            None if self.hangs(FindingKind::ConnectHangs).is_some() => return None,
            None => "the driver's connect does not return in time".into(),
        };
        let (old, new) = (&self.before.stats, &self.after.stats);
        let failures = new.open_failures.saturating_sub(old.open_failures);
        // If connecting fails permanently, or they fail fast, callers fail without waiting.
        let failed = new.failed.saturating_sub(old.failed);
        let is_tried = failures > 0 || failed > 0 || new.opening > 0 || new.waiting > 0;
        if !is_tried || self.after.closed {
            return None;
        }
        let severity = critical_if(failed > 0 || self.callers_suffer());
        let summary = format!("connecting has failed for {failing_for:.1?}");
        let (attempts, gets) =
            (count(failures, "attempt", "attempts"), count(failed, "get", "gets"));
        let attempts = format!("{attempts} and {gets} failed within {:.1?}", self.span);
        Some(
            Finding::new(FindingKind::ConnectFails, severity, summary)
                .because([error, attempts, self.connections(), self.who_waits()])
                .advise(
                    "check the server and the network to it; the pool goes on trying and recovers \
                     by itself",
                ),
        )
    }

    /// Driver calls of one kind that hang.
    fn hangs(&self, kind: FindingKind) -> Option<Finding> {
        let (call_kind, advice) = match kind {
            FindingKind::ConnectHangs => (
                CallKind::Connect,
                "check the network to the server (a firewall that drops packets, DNS, a server \
                 that accepts connections and never answers); also set the driver's own connect \
                 timeout",
            ),
            FindingKind::CheckHangs => (
                CallKind::Check,
                "check the server and the network to it: a reset or a validation gets no answer; \
                 validation_timeout and reset_timeout limit how long the pool waits",
            ),
            _ => (
                CallKind::Close,
                "check what the driver does to close (it may wait for the server's last answer); \
                 max_closers and close_timeout limit how many closes may hang, and for how long",
            ),
        };
        let calls = || self.after.calls.iter().filter(move |call| call.kind == call_kind);
        let hung: Vec<&DriverCall> = calls().filter(|call| self.is_hung(call)).collect();
        let oldest = hung.iter().map(|call| call.running_for).max()?;
        let abandoned = hung.iter().filter(|call| call.abandoned).count();
        let queued = calls().filter(|call| call.queued).count();
        let running = format!(
            "{} in the driver, the oldest for {oldest:.1?}; {abandoned} of them abandoned",
            count(hung.len() as u64, "call is", "calls are"),
        );
        let wait = count(queued as u64, "connection waits", "connections wait");
        let error = self.last_error().filter(|_| kind == FindingKind::ConnectHangs);
        // No caller waits because of an abandoned check or close.
        let delays_callers = hung.len() > abandoned || kind == FindingKind::ConnectHangs;
        let severity = critical_if(delays_callers && self.waits_long());
        Some(
            Finding::new(kind, severity, format!("the driver's {call_kind} hangs"))
                .because([running])
                .because((queued > 0).then(|| format!("{wait} for a closer")))
                .because(error)
                .because([self.connections(), self.who_waits()])
                .advise(advice),
        )
    }

    fn is_hung(&self, call: &DriverCall) -> bool {
        !call.queued && call.running_for >= HANGS.max(self.span)
    }

    fn abandoned_calls(&self) -> Option<Finding> {
        let (abandoned, max) = (self.after.stats.abandoned, self.after.settings.max_abandoned);
        if u64::from(abandoned) * 5 < u64::from(max) * 4 {
            return None;
        }
        let of_kind = |kind| {
            let calls = self.after.calls.iter();
            calls.filter(move |call| call.abandoned && call.kind == kind).count()
        };
        let oldest = self.after.calls.iter().filter(|call| call.abandoned);
        let oldest = oldest.map(|call| call.running_for).max().unwrap_or_default();
        let at_max = abandoned >= max;
        let summary = if at_max {
            "the maximum number of driver calls is abandoned: further calls that hang keep their \
             places in the pool"
        } else {
            "the number of abandoned driver calls is near its maximum"
        };
        let kinds = format!(
            "{} connects, {} checks, {} closes; each keeps a thread, and the server may \
             still count its connection, beyond max_size ({})",
            of_kind(CallKind::Connect),
            of_kind(CallKind::Check),
            of_kind(CallKind::Close),
            self.after.stats.max_size,
        );
        let many = format!("{abandoned} of {max} (max_abandoned), the oldest for {oldest:.1?}");
        Some(
            Finding::new(FindingKind::AbandonedCalls, critical_if(at_max), summary)
                .because([many, kinds])
                .advise(
                    "find out why the driver does not return; a higher max_abandoned only buys \
                     time",
                ),
        )
    }

    fn saturated(&self) -> Option<Finding> {
        if !self.is_saturated() {
            return None;
        }
        let max_size = self.after.stats.max_size;
        let connections = count(max_size, "connection", "connections");
        let summary = format!("the pool's load is higher than its {connections} can serve");
        Some(
            Finding::new(FindingKind::Saturated, self.wait_severity(), summary)
            .because([self.what_moved(), self.who_waits()])
            .because(self.queue_grows())
            .because(held_at(&self.after.holders))
            .advise(format!(
                "hold connections for a shorter time, or raise max_size ({max_size}) if the server \
                 has room; max_waiters sheds the load that cannot be served in time"
            )),
        )
    }

    fn refused(&self) -> Option<Finding> {
        if self.refused == 0 {
            return None;
        }
        let limit = match self.after.settings.max_waiters {
            Some(max) => format!("max_waiters is {max}"),
            None => "max_waiters is not set".to_string(),
        };
        let callers = count(self.refused, "caller was", "callers were");
        let summary = format!("{callers} refused because the queue was full");
        let often = format!("{} within {:.1?}; {limit}", self.refused, self.span);
        Some(
            Finding::new(FindingKind::Refused, Severity::Warning, summary)
                .because([often, self.who_waits()])
                .advise(
                    "this sheds load, as intended; fix what fills the queue, or reduce the load",
                ),
        )
    }

    /// Callers wait long, and the pool is not saturated. The cause may be in `others`.
    fn queue(&self, others: &[Finding]) -> Option<Finding> {
        if !self.waits_long() || self.is_saturated() {
            return None;
        }
        let explains = |finding: &&Finding| {
            !matches!(finding.kind, FindingKind::Refused | FindingKind::AbandonedCalls)
        };
        let severity = |finding: &&Finding| finding.severity;
        // The first of the most severe.
        let advice = match others.iter().rev().filter(explains).max_by_key(severity) {
            Some(cause) => format!("fix the cause ({}): they are then served", cause.kind),
            None => "check what the pool was busy with: connections may take long to open, or \
                     may sometimes be held for a long time"
                .into(),
        };
        Some(
            Finding::new(
                FindingKind::Queue,
                self.wait_severity(),
                "callers queue for a connection",
            )
            .because([self.who_waits()])
            .because(wait_at(self.after))
            .because(self.queue_grows())
            .because([self.what_moved(), self.connections()])
            .advise(advice),
        )
    }
}

/// A hold counts from up to two ticks of the cheap clock after it began.
const LAG: Duration = Duration::from_millis(20);

/// The holders in `after` that have kept their connections since before `before`. Their
/// time grew by exactly `span`, because both times are measured from the same tick. If it did
/// not count yet in `before`, it grew by a little less.
fn keepers<'a>(before: &Snapshot, after: &'a Snapshot, span: Duration) -> Vec<&'a Holder> {
    let earlier: HashMap<u64, Duration> =
        before.holders.iter().map(|held| (held.connection_id(), held.held_for())).collect();
    let is_same = |holder: &&Holder| {
        let held_before = earlier.get(&holder.connection_id());
        held_before.is_some_and(|&held| {
            let grown = holder.held_for().saturating_sub(held);
            grown == span || held.is_zero() && grown + LAG >= span
        })
    };
    after.holders.iter().filter(is_same).collect()
}

fn critical_if(condition: bool) -> Severity {
    if condition { Severity::Critical } else { Severity::Warning }
}

fn mean(sum: Duration, number: u64) -> Duration {
    match number {
        0 => Duration::ZERO,
        number => Duration::from_nanos((sum.as_nanos() / u128::from(number)) as u64),
    }
}

impl Finding {
    fn new(kind: FindingKind, severity: Severity, summary: impl Into<String>) -> Finding {
        let (summary, advice) = (summary.into(), String::new());
        Finding { kind, severity, summary, evidence: Vec::new(), advice, holders: Vec::new() }
    }

    fn because(mut self, evidence: impl IntoIterator<Item = String>) -> Finding {
        self.evidence.extend(evidence);
        self
    }

    fn advise(self, advice: impl Into<String>) -> Finding {
        Finding { advice: advice.into(), ..self }
    }

    fn held_by<'a>(self, holders: impl IntoIterator<Item = &'a Holder>) -> Finding {
        Finding { holders: holders.into_iter().cloned().collect(), ..self }
    }
}

#[cfg(test)]
mod tests;
