//! A snapshot as text for a terminal.

use std::fmt;
use std::time::Duration;

use super::groups::{self, Group};
use super::snapshot::{DriverCall, Snapshot};
use crate::types::text::{Plain, WIDTH, names, truncated, wrapped};
use crate::types::{CallSite, Place};

/// Up to this number, each holder or waiter has a row. More are grouped by the line of
/// their get.
const SINGLES: usize = 12;

/// The maximum number of rows. Further ones are only counted.
const ROWS: usize = 20;

impl fmt::Display for Snapshot {
    /// A dump: figures, holders, waiters, and driver calls. If there are many holders or
    /// waiters, those of one line share a row.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.numbers(f)?;
        self.errors(f)?;
        self.nested(f)?;
        self.holders(f)?;
        self.waiters(f)?;
        self.calls(f)
    }
}

impl Snapshot {
    fn numbers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        let state = match (self.closed, self.paused) {
            (true, _) => ", closed",
            (false, true) => ", paused",
            (false, false) => "",
        };
        wrapped(f, "", &format!("pool '{}' is {}{state}", Plain(&self.pool), self.health))?;
        let connections = format!(
            "{} of {}: {} idle, {} in use ({} in a check), {} opening, {} closing; \
             {} abandoned",
            stats.open + stats.opening + stats.closing,
            stats.max_size,
            stats.idle,
            stats.in_use,
            stats.checking,
            stats.opening,
            stats.closing,
            stats.abandoned,
        );
        wrapped(f, "  connections: ", &connections)?;
        let gets = format!(
            "{} served, {} of them after a wait; {} timed out, {} refused, {} cancelled",
            stats.gets, stats.gets_waited, stats.timeouts, stats.refused, stats.cancelled,
        );
        wrapped(f, "  gets: ", &gets)?;
        let driver = stats.driver.iter();
        let driver: Vec<String> =
            driver.map(|count| format!("{} {}", Plain(count.name), count.total)).collect();
        if !driver.is_empty() {
            wrapped(f, "  driver: ", &driver.join(", "))?;
        }
        #[cfg(feature = "histograms")]
        write!(f, "{}", stats.times)?;
        Ok(())
    }

    fn errors(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.last_error {
            wrapped(f, &format!("  last error, {:.1?} ago: ", error.age), &error.text)?;
        }
        self.failing_for
            .map_or(Ok(()), |lasted| writeln!(f, "  connecting has failed for {lasted:.1?}"))
    }

    fn nested(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nested_gets.is_empty() {
            return Ok(());
        }
        writeln!(f, "  every connection is held by a thread that itself waits for one:")?;
        rows(f, &self.nested_gets, |f, nested| wrapped(f, "    ", &nested.to_string()))
    }

    fn holders(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.holders.iter().map(|holder| {
            let not_polled = if holder.is_granted_not_polled() { ", not polled" } else { "" };
            let backend = holder.backend_id().map(|id| format!(", backend {id}"));
            let backend = backend.unwrap_or_default();
            let what = format!("connection {}{backend}{not_polled}", holder.connection_id());
            Entry::new(holder.held_for(), what, holder.call_site())
        });
        callers(f, "held", "longest first", entries)
    }

    fn waiters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.waiters.iter().map(|waiter| {
            let what = format!("priority {}", waiter.priority());
            Entry::new(waiter.waited(), what, waiter.call_site())
        });
        callers(f, "waiting", "next first", entries)
    }

    fn calls(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.calls.is_empty() {
            return Ok(());
        }
        writeln!(f, "  driver calls ({}), slowest first:", self.calls.len())?;
        rows(f, &self.calls, call)
    }
}

fn rows<T>(
    f: &mut fmt::Formatter<'_>,
    all: &[T],
    mut one: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    all.iter().take(ROWS).try_for_each(|item| one(f, item))?;
    match all.len().saturating_sub(ROWS) {
        0 => Ok(()),
        more => writeln!(f, "    … and {more} more"),
    }
}

/// A holder or a waiter.
struct Entry<'a> {
    span: Duration,
    what: String,
    thread: String,
    call_site: &'a CallSite,
}

impl<'a> Entry<'a> {
    fn new(span: Duration, what: String, call_site: &'a CallSite) -> Entry<'a> {
        Entry { span, what, thread: Plain(call_site.thread()).to_string(), call_site }
    }
}

/// A row for each, in columns, or for each line at which they asked if they are many.
fn callers<'a>(
    f: &mut fmt::Formatter<'_>,
    head: &str,
    order: &str,
    all: impl Iterator<Item = Entry<'a>>,
) -> fmt::Result {
    let all: Vec<Entry<'_>> = all.collect();
    if all.is_empty() {
        return Ok(());
    }
    writeln!(f, "  {head} ({}), {order}:", all.len())?;
    if all.len() > SINGLES {
        return grouped(f, &groups::of(all.iter().map(|entry| (entry.call_site, entry.span))));
    }
    let widest = |column: fn(&Entry<'_>) -> usize| all.iter().map(column).max().unwrap_or(0);
    let wide = widest(|entry| entry.what.chars().count());
    let wider = widest(|entry| entry.thread.chars().count());
    for Entry { span, what, thread, call_site } in &all {
        let (span, location) = (format!("{span:.1?}"), Place(call_site.location()));
        let row = format!("    {span:>8}  {what:<wide$}  {thread:<wider$}  {location}");
        f.write_str(&row)?;
        if let Some(label) = call_site.label() {
            write!(f, " ({})", truncated(label, room_after(&row)))?;
        }
        writeln!(f)?;
    }
    Ok(())
}

/// The room for a label in parentheses: the rest of the line, but 12 characters at least.
fn room_after(row: &str) -> usize {
    WIDTH.saturating_sub(row.chars().count() + 3).max(12)
}

/// Writes one row for each group.
fn grouped(f: &mut fmt::Formatter<'_>, groups: &[Group<'_>]) -> fmt::Result {
    let digits = groups.iter().map(|group| group.len().to_string().len()).max().unwrap_or(0);
    for group in groups.iter().take(ROWS) {
        let begin = format!("    × {:>digits$} at {}", group.len(), Place(group.location));
        let end = format!(", longest {:.1?}", group.longest);
        let label = match group.label {
            Some(label) => {
                let room = room_after(&format!("{begin}{end}"));
                format!(" ({})", truncated(label, room))
            }
            None => String::new(),
        };
        let row = format!("{begin}{label}{end}");
        let room = WIDTH.saturating_sub(row.chars().count() + 2);
        let threads = names(&group.threads, room);
        if threads.chars().count() <= room {
            writeln!(f, "{row}: {threads}")?;
        } else {
            writeln!(f, "{row}")?;
        }
    }
    match groups.get(ROWS..) {
        None | Some([]) => Ok(()),
        Some(rest) => {
            let more: usize = rest.iter().map(Group::len).sum();
            writeln!(f, "    … and {more} more at {} other lines", rest.len())
        }
    }
}

fn call(f: &mut fmt::Formatter<'_>, call: &DriverCall) -> fmt::Result {
    write!(f, "    {:>8}  {}", format!("{:.1?}", call.running_for), call.kind)?;
    if let Some(id) = call.connection_id {
        write!(f, " of connection {id}")?;
    }
    let state = match (call.abandoned, call.queued) {
        (true, _) => ", abandoned",
        (_, true) => ", waits for a closer",
        _ => "",
    };
    writeln!(f, "{state}")
}
