//! Groups holders or waiters by the line of their get, as a dump of goroutines does.

use std::collections::HashMap;
use std::panic::Location;
use std::time::Duration;

use crate::types::text::Plain;
use crate::types::{CallSite, Holder, Place, Waiter};

/// Holders or waiters whose gets have the same line and label.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pub(crate) location: &'static Location<'static>,
    pub(crate) label: Option<&'a str>,
    pub(crate) threads: Vec<&'a str>,
    pub(crate) shortest: Duration,
    pub(crate) longest: Duration,
}

impl Group<'_> {
    pub(crate) fn len(&self) -> usize {
        self.threads.len()
    }

    /// The line and the label.
    pub(crate) fn place(&self) -> String {
        match self.label {
            Some(label) => format!("{} ({})", Place(self.location), Plain(label)),
            None => Place(self.location).to_string(),
        }
    }

    /// How long they have held or waited: the shortest and the longest time.
    pub(crate) fn span(&self) -> String {
        let (shortest, longest) =
            (format!("{:.1?}", self.shortest), format!("{:.1?}", self.longest));
        if shortest == longest { longest } else { format!("{shortest} to {longest}") }
    }
}

/// Builds groups, in the order of their first members.
pub(crate) fn of<'a>(all: impl Iterator<Item = (&'a CallSite, Duration)>) -> Vec<Group<'a>> {
    let mut places = HashMap::new();
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (call_site, span) in all {
        let (location, label) = (call_site.location(), call_site.label());
        let place = *places.entry((location, label)).or_insert(groups.len());
        if place == groups.len() {
            let threads = Vec::new();
            groups.push(Group { location, label, threads, shortest: span, longest: span });
        }
        let group = &mut groups[place];
        group.threads.push(call_site.thread());
        group.shortest = group.shortest.min(span);
        group.longest = group.longest.max(span);
    }
    groups
}

pub(crate) fn of_holders<'a>(holders: impl IntoIterator<Item = &'a Holder>) -> Vec<Group<'a>> {
    of(holders.into_iter().map(|holder| (holder.call_site(), holder.held_for())))
}

pub(crate) fn of_waiters<'a>(waiters: impl IntoIterator<Item = &'a Waiter>) -> Vec<Group<'a>> {
    of(waiters.into_iter().map(|waiter| (waiter.call_site(), waiter.waited())))
}
