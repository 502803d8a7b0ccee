//! The evidence of findings: figures, ages and lines of code.

use std::cmp::Reverse;
#[cfg(feature = "histograms")]
use std::time::Duration;

use super::Pair;
use crate::observe::groups::{self, Group};
use crate::observe::snapshot::Snapshot;
use crate::types::Holder;
use crate::types::text::{count, names};

/// The maximum number of groups of holders or waiters in the evidence. Further ones are
/// only counted.
pub(super) const PLACES: usize = 5;

/// The room for names of threads, in characters.
const NAMES: usize = 60;

impl Pair<'_> {
    pub(super) fn who_waits(&self) -> String {
        let health = &self.after.health;
        match health.waiting {
            0 => "nobody waits at the moment".into(),
            waiting => format!(
                "{}, for {:.1?} on average and {:.1?} at most",
                count(waiting, "caller waits", "callers wait"),
                health.mean_wait,
                health.oldest_wait,
            ),
        }
    }

    /// How long connections are usually held, which distinguishes long work from a leak.
    #[cfg(feature = "histograms")]
    pub(super) fn usual_holds(&self) -> Option<String> {
        let holds = &self.after.stats.times.in_use;
        let uses = count(holds.count, "use that ended", "uses that ended");
        let of = |p99: Duration| format!("of {uses}, 99 % took no longer than {p99:.1?}");
        (holds.count > 0).then(|| of(holds.p99))
    }

    #[cfg(not(feature = "histograms"))]
    pub(super) fn usual_holds(&self) -> Option<String> {
        None
    }

    pub(super) fn queue_grows(&self) -> Option<String> {
        let (old, new) = (self.before.stats.waiting, self.after.stats.waiting);
        let left = match self.timeouts {
            0 => ", and nobody left at a deadline".to_string(),
            timeouts => format!(", although {timeouts} left at their deadlines"),
        };
        (new > old).then(|| format!("the queue grew from {old} to {new}{left}"))
    }

    pub(super) fn what_moved(&self) -> String {
        let mut text = format!(
            "within {:.1?}: {} served, {} timed out",
            self.span,
            count(self.gets, "get", "gets"),
            self.timeouts
        );
        if self.waits > 0 {
            let waits = count(self.waits, "wait", "waits");
            text += &format!("; {waits} ended, after {:.1?} on average", self.mean_wait);
        }
        text
    }

    pub(super) fn last_error(&self) -> Option<String> {
        let error = self.after.last_error.as_ref()?;
        Some(format!("last error, {:.1?} ago: {}", error.age, error.text))
    }

    pub(super) fn connections(&self) -> String {
        let stats = &self.after.stats;
        format!(
            "{} of {} connections open ({} idle, {} in use), {} opening, {} closing",
            stats.open, stats.max_size, stats.idle, stats.in_use, stats.opening, stats.closing
        )
    }
}

pub(super) fn kept_at(holders: &[&Holder]) -> Vec<String> {
    let line = |group: &Group<'_>| {
        let were = count(group.len() as u64, "connection was", "connections were");
        let (place, span, by) = (group.place(), group.span(), names(&group.threads, NAMES));
        format!("{were} got at {place}, {span} ago, by {by}")
    };
    places(groups::of_holders(holders.iter().copied()), "connection", line)
}

pub(super) fn held_at(holders: &[Holder]) -> Vec<String> {
    let line = |group: &Group<'_>| {
        let are = count(group.len() as u64, "connection is", "connections are");
        format!("{are} held from {}, for {} so far", group.place(), group.span())
    };
    places(groups::of_holders(holders), "connection", line)
}

pub(super) fn wait_at(snapshot: &Snapshot) -> Vec<String> {
    let line = |group: &Group<'_>| {
        let wait = count(group.len() as u64, "waits", "wait");
        format!("{wait} at {}, for {}", group.place(), group.span())
    };
    places(groups::of_waiters(&snapshot.waiters), "caller", line)
}

/// A line for each of the largest groups, and one for the rest.
fn places(
    mut groups: Vec<Group<'_>>,
    of: &str,
    line: impl Fn(&Group<'_>) -> String,
) -> Vec<String> {
    groups.sort_by_key(|group| Reverse(group.len()));
    let mut lines: Vec<String> = groups.iter().take(PLACES).map(line).collect();
    let others: u64 = groups.iter().skip(PLACES).map(|group| group.len() as u64).sum();
    let many = format!("{of}s");
    if others > 0 {
        let lines_left = groups.len() - PLACES;
        let other_lines = count(lines_left as u64, "other line", "other lines");
        lines.push(format!("{} at {other_lines}", count(others, of, &many)));
    }
    lines
}

pub(super) fn more(all: usize, shown: usize, one: &str, many: &str, what: &str) -> Option<String> {
    let rest = all.saturating_sub(shown);
    (rest > 0).then(|| format!("{} {what}", count(rest as u64, one, many)))
}
