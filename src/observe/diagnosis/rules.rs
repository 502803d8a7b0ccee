//! The judgement: what two snapshots of a pool, put side by side, say is wrong.
//! Nothing here looks at a pool or at a clock.

mod evidence;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::{Finding, FindingKind, Severity};
use crate::observe::snapshot::{CallKind, DriverCall, Snapshot};
use crate::types::text::count;
use crate::types::{Holder, NestedGet};
use evidence::{PLACES, held_at, kept_at, more, wait_at};

/// A driver call that has taken so long hangs. The pool's own limits are mostly
/// longer; but of a call of a local driver it is a thousand times what is usual, and
/// of one over a network still ten times.
const HANGS: Duration = Duration::from_secs(1);

/// Waits that time out after less are no waits: that is how callers look whether a
/// connection is there.
const REAL_WAIT: Duration = Duration::from_millis(1);

/// Most severe first, and causes before what they cause.
pub(super) fn judge(before: &Snapshot, after: &Snapshot) -> Vec<Finding> {
    let pair = Pair::new(before, after);
    let mut findings: Vec<Finding> = [
        pair.closed(),
        pair.paused(),
        pair.nested_gets(),
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

/// Two looks, and what comes of comparing them.
struct Pair<'a> {
    before: &'a Snapshot,
    after: &'a Snapshot,
    span: Duration,
    /// Who had the same connection at both looks and did not return it in between,
    /// longest first.
    keepers: Vec<&'a Holder>,
    /// What happened in between.
    gets: u64,
    timeouts: u64,
    refused: u64,
    /// Waits that ended, and how long those took on average.
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

    // ---- what more than one rule asks ----

    /// Callers wait for long, by the pool's own standard.
    fn waits_long(&self) -> bool {
        let thresholds = &self.after.settings.health_thresholds;
        let oldest = self.before.health.oldest_wait.min(self.after.health.oldest_wait);
        let enough = self.waits >= u64::from(thresholds.waiters_warning);
        oldest >= thresholds.wait_warning || enough && self.mean_wait >= thresholds.wait_warning
    }

    /// … or for very long.
    fn wait_severity(&self) -> Severity {
        let critical = self.after.settings.health_thresholds.wait_critical;
        let oldest = self.after.health.oldest_wait;
        self.severity_if(oldest >= critical || self.waits > 0 && self.mean_wait >= critical)
    }

    /// Callers went without a connection, or will.
    fn callers_suffer(&self) -> bool {
        self.waits_long() || self.timeouts > 0 || self.refused > 0
    }

    fn all_in_use(&self) -> bool {
        let full = |look: &Snapshot| look.stats.in_use >= look.stats.max_size;
        full(self.before) && full(self.after)
    }

    /// All connections are in use, and not one came back.
    fn stands_still(&self) -> bool {
        let held = self.after.stats.in_use as usize;
        self.all_in_use() && self.keepers.len() == held && held > 0
    }

    fn deadlocked(&self) -> bool {
        !self.before.nested_gets.is_empty() && !self.after.nested_gets.is_empty()
    }

    /// More of those that queue time out than are served.
    fn mostly_times_out(&self) -> bool {
        self.timeouts > self.gets && self.mean_wait >= REAL_WAIT
    }

    fn is_saturated(&self) -> bool {
        self.all_in_use()
            && self.gets > 0
            && !self.after.paused
            && (self.waits_long() || self.mostly_times_out())
    }

    fn severity_if(&self, suffering: bool) -> Severity {
        if suffering { Severity::Critical } else { Severity::Warning }
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
                .advise("let these holders finish: the pool ends when the last connection is back")
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
                .advise("call resume() when whatever it was paused for is over"),
        )
    }

    fn nested_gets(&self) -> Option<Finding> {
        let (old, new) = (self.before.stats.self_deadlocks, self.after.stats.self_deadlocks);
        let times = new.saturating_sub(old);
        if !self.deadlocked() && times == 0 {
            return None;
        }
        let nested = &self.after.nested_gets;
        let often = count(times, "time", "times");
        let began = format!("this began {often} within {:.1?}", self.span);
        let summary = match self.deadlocked() {
            true => {
                "every connection is held by a thread that itself waits for another, so \
                     nobody can be served before one of them gives up"
            }
            false => {
                "for a while every connection was held by a thread that itself waited for \
                      another"
            }
        };
        Some(
            Finding::new(FindingKind::SelfDeadlock, self.severity_if(self.deadlocked()), summary)
                .because(nested.iter().take(PLACES).map(ToString::to_string))
                .because(more(nested.len(), PLACES, "thread does", "threads do", "the same"))
                .because((times > 0).then_some(began))
                .advise(
                    "pass the connection that the thread has on, instead of getting a second one; \
                     with SelfDeadlock::Fail one of them gets an error at once",
                )
                .held_by(nested.iter().map(NestedGet::holder)),
        )
    }

    fn leak(&self) -> Option<Finding> {
        if self.deadlocked() || self.after.paused || self.after.closed {
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
            Finding::new(FindingKind::Leak, self.severity_if(still), summary)
                .because(kept_at(&kept))
                .because(self.usual_holds())
                .because([self.who_waits(), self.what_moved()])
                .advise(
                    "see whether what was got at these lines is dropped on every path; if it is \
                     still at work, see what the database makes it wait for",
                )
                .held_by(kept.iter().copied()),
        )
    }

    /// From when on somebody has kept a connection for too long.
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
            // Each attempt was abandoned. If one still hangs, that says it better.
            None if self.hangs(FindingKind::ConnectHangs).is_some() => return None,
            None => "the driver's connect does not return in time".into(),
        };
        let (old, new) = (&self.before.stats, &self.after.stats);
        let failures = new.open_failures.saturating_sub(old.open_failures);
        // If no retry can cure it, callers do not even wait.
        let failed = new.failed.saturating_sub(old.failed);
        let is_tried = failures > 0 || failed > 0 || new.opening > 0 || new.waiting > 0;
        if !is_tried || self.after.closed {
            return None;
        }
        let severity = self.severity_if(failed > 0 || self.callers_suffer());
        let summary = format!("connecting has failed for {failing_for:.1?}");
        let (attempts, gets) =
            (count(failures, "attempt", "attempts"), count(failed, "get", "gets"));
        let attempts = format!("{attempts} and {gets} failed within {:.1?}", self.span);
        Some(
            Finding::new(FindingKind::ConnectFails, severity, summary)
                .because([error, attempts, self.connections(), self.who_waits()])
                .advise(
                    "look at the server, and at the way to it; the pool goes on trying and \
                     recovers by itself",
                ),
        )
    }

    /// Driver calls of one kind that hang.
    fn hangs(&self, kind: FindingKind) -> Option<Finding> {
        let (what, advice) = match kind {
            FindingKind::ConnectHangs => (
                CallKind::Connect,
                "look at the way to the server (a firewall that drops packets, DNS, a server that \
                 accepts and says nothing); set the driver's own connect timeout too",
            ),
            FindingKind::CheckHangs => (
                CallKind::Check,
                "look at the server and the way to it: a reset or a validation gets no answer; \
                 validation_timeout and reset_timeout say when the pool gives up",
            ),
            _ => (
                CallKind::Close,
                "look at what the driver does to close (it may wait for the server's last answer); \
                 max_closers and close_timeout say how many may hang, and for how long",
            ),
        };
        let calls = || self.after.calls.iter().filter(move |call| call.kind == what);
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
        // Those that were abandoned keep nobody waiting any more.
        let counts = hung.len() > abandoned || kind == FindingKind::ConnectHangs;
        let severity = self.severity_if(counts && self.waits_long());
        Some(
            Finding::new(kind, severity, format!("the driver's {what} hangs"))
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
        let (abandoned, most) = (self.after.stats.abandoned, self.after.settings.max_abandoned);
        let (abandoned_wide, most_wide) = (u64::from(abandoned), u64::from(most));
        if abandoned_wide * 5 < most_wide * 4 {
            return None;
        }
        let of_kind = |kind| {
            let calls = self.after.calls.iter();
            calls.filter(move |call| call.abandoned && call.kind == kind).count()
        };
        let oldest = self.after.calls.iter().filter(|call| call.abandoned);
        let oldest = oldest.map(|call| call.running_for).max().unwrap_or_default();
        let at_most = abandoned >= most;
        let summary = match at_most {
            true => {
                "as many driver calls are abandoned as may be: those that hang from now on \
                     keep their places in the pool"
            }
            false => "nearly as many driver calls are abandoned as may be",
        };
        let kinds = format!(
            "{} connects, {} checks, {} closes; each keeps a thread, and the server may \
             still count its connection, beyond max_size ({})",
            of_kind(CallKind::Connect),
            of_kind(CallKind::Check),
            of_kind(CallKind::Close),
            self.after.stats.max_size,
        );
        let many = format!("{abandoned} of {most} (max_abandoned), the oldest for {oldest:.1?}");
        Some(
            Finding::new(FindingKind::AbandonedCalls, self.severity_if(at_most), summary)
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
        let summary = format!("more is asked of the pool than its {connections} can serve");
        Some(
            Finding::new(FindingKind::Saturated, self.wait_severity(), summary)
            .because([self.what_moved(), self.who_waits()])
            .because(self.queue_grows())
            .because(held_at(&self.after.holders))
            .advise(format!(
                "hold connections for shorter, or raise max_size ({max_size}) if the server has \
                 room; max_waiters sheds what cannot be served in time"
            )),
        )
    }

    fn refused(&self) -> Option<Finding> {
        if self.refused == 0 {
            return None;
        }
        let most = match self.after.settings.max_waiters {
            Some(most) => format!("max_waiters is {most}"),
            None => "max_waiters is not set".to_string(),
        };
        let callers = count(self.refused, "caller was", "callers were");
        let summary = format!("{callers} refused because the queue was full");
        let often = format!("{} within {:.1?}; {most}", self.refused, self.span);
        Some(
            Finding::new(FindingKind::Refused, Severity::Warning, summary)
                .because([often, self.who_waits()])
                .advise(
                    "this sheds load, as it should; what fills the queue is to be mended, or the \
                     callers have to come more slowly",
                ),
        )
    }

    /// The rest of those that wait; `others` may say why.
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
            Some(cause) => format!("mend the cause ({}), and they are served", cause.kind),
            None => "see what the pool was busy with: connections may take long to open, or be \
                     held for long now and then"
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

/// A checkout is the same if its hold has grown by what has passed: both are told by
/// when it began. (It is told by a clock that ticks, always by the same tick.)
fn keepers<'a>(before: &Snapshot, after: &'a Snapshot, span: Duration) -> Vec<&'a Holder> {
    let earlier: HashMap<u64, Duration> =
        before.holders.iter().map(|held| (held.connection_id(), held.held_for())).collect();
    let is_same = |holder: &&Holder| {
        let held_before = earlier.get(&holder.connection_id());
        held_before.is_some_and(|&held| held + span == holder.held_for())
    };
    after.holders.iter().filter(is_same).collect()
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
