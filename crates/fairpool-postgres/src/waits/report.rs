//! The answer: holders and sessions, joined.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use fairpool::snapshot::Holder;
use fairpool::text::{Plain, count, wrapped};

use super::answer::{Answer, Lock, Row};
use crate::session::ServerSession;

/// The maximum number of lines of each kind. Further ones are only counted.
const LINES: usize = 20;

/// A session that has been idle longer than its holder has the connection, by more than this, was
/// not used by that holder: the pool's coarse clock makes a hold seem up to two ticks too short.
const EARLIER: Duration = Duration::from_millis(20);

/// The maximum number of sessions that one line names.
const NAMED: usize = 3;

/// Who waits for whom on the server. From [`WhoWaits::ask`](super::WhoWaits::ask).
///
/// It prints as a few lines for a terminal; texts from the server are escaped.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ServerReport {
    /// The pool's name.
    pub pool: String,
    /// The waits for locks: of the holders, longest first; then of the sessions between them and
    /// those that have the locks.
    pub waits: Vec<LockWait>,
    /// The holders that have asked the server nothing for a while, longest first: they are
    /// idle, in a transaction or without one.
    pub idle: Vec<Party>,
    /// The holders whose sessions the server does not list: they have ended.
    pub ended: Vec<Party>,
    /// How many holders were looked at.
    pub holders: u64,
    /// How many of them have no known session.
    pub unknown: u64,
}

/// A session that waits for a lock.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LockWait {
    /// Who waits.
    pub waiter: Party,
    /// The kind of lock, as in `pg_locks`: `transactionid` or `tuple` for that of a row,
    /// `relation`, `advisory`, …
    pub lock: String,
    /// The mode in which it is wanted, such as `ShareLock`.
    pub mode: String,
    /// The table or other relation, with its schema, if it is known.
    pub relation: Option<String>,
    /// For how long it has waited; `None` if the server does not tell. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds_or_none"))]
    pub waited: Option<Duration>,
    /// The ids of the processes that it waits for directly: they have the lock, or wait for it too
    /// and come first. Each waits itself in another [`LockWait`], or is in `held_by`.
    pub behind: Vec<i32>,
    /// Those that it waits for in the end: they wait for no lock themselves. Empty in a deadlock.
    pub held_by: Vec<Party>,
}

/// A session of the server, and who has it in this process.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Party {
    /// What the server says of it.
    pub session: ServerSession,
    /// The pool to which it belongs, if it is one that was asked for.
    pub pool: Option<String>,
    /// Who holds its connection. `None` for a stranger, and if the connection has changed hands
    /// since the server was asked.
    pub holder: Option<Holder>,
}

impl ServerReport {
    pub(super) fn join(
        pool: &str,
        lent: Vec<Lent<'_>>,
        answer: Answer,
        idle_after: Duration,
    ) -> ServerReport {
        let held = lent.iter().filter(|lent| lent.holder.is_some());
        let number = held.clone().count() as u64;
        let unknown = held.filter(|lent| lent.backend_id.is_none()).count() as u64;
        let join = Join::new(lent, answer);
        let mut ours: Vec<Party> = join.ours.keys().map(|&pid| join.party(pid)).collect();
        ours.retain(|party| party.holder.is_some());
        ours.sort_by_key(|party| Reverse((party.session.state_for, party.session.pid)));
        let (listed, ended): (Vec<_>, Vec<_>) =
            ours.into_iter().partition(|party| party.session.is_listed);
        let is_idle = |party: &Party| party.is_idle_for(idle_after);
        let idle = listed.into_iter().filter(is_idle).collect();
        let (pool, waits) = (pool.to_owned(), join.waits());
        ServerReport { pool, waits, idle, ended, holders: number, unknown }
    }
}

/// A connection that was lent before the question.
pub(super) struct Lent<'a> {
    pub(super) pool: &'a str,
    pub(super) backend_id: Option<u32>,
    /// Its holder then, who still is. `None` if it has changed hands.
    pub(super) holder: Option<Holder>,
}

/// What is known from both sides, by process.
struct Join<'a> {
    ours: HashMap<i32, Lent<'a>>,
    rows: HashMap<i32, Row>,
}

impl Join<'_> {
    fn new(lent: Vec<Lent<'_>>, answer: Answer) -> Join<'_> {
        let known =
            lent.into_iter().filter_map(|lent| Some((i32::try_from(lent.backend_id?).ok()?, lent)));
        let rows = answer.0.into_iter().map(|row| (row.session.pid, row));
        Join { ours: known.collect(), rows: rows.collect() }
    }

    fn party(&self, pid: i32) -> Party {
        let session = self.rows.get(&pid).map(|row| row.session.clone());
        let lent = self.ours.get(&pid);
        let pool = lent.map(|lent| lent.pool.to_owned());
        let holder = lent.and_then(|lent| lent.holder.clone());
        Party { session: session.unwrap_or_else(|| ServerSession::unlisted(pid)), pool, holder }
    }

    /// The sessions that wait, with their locks. One that has no blockers has got its lock.
    fn waiting(&self) -> impl Iterator<Item = (&Row, &Lock)> {
        let waiting = self.rows.values().filter(|row| !row.blockers.is_empty());
        waiting.filter_map(|row| Some((row, row.lock.as_ref()?)))
    }

    fn waits(&self) -> Vec<LockWait> {
        let ends = self.ends();
        let wait = |(row, lock): (&Row, &Lock)| {
            let Lock { kind, mode, relation, waited } = lock.clone();
            let pid = row.session.pid;
            let mut behind = row.blockers.clone();
            behind.sort_unstable();
            behind.dedup();
            let held_by = ends.get(&pid).into_iter().flatten();
            LockWait {
                waiter: self.party(pid),
                lock: kind,
                mode,
                relation,
                waited,
                behind,
                held_by: held_by.map(|&pid| self.party(pid)).collect(),
            }
        };
        let mut waits: Vec<LockWait> = self.waiting().map(wait).collect();
        waits.sort_by_key(|wait| {
            let Party { session, holder, .. } = &wait.waiter;
            (holder.is_none(), Reverse(wait.waited), session.pid)
        });
        waits
    }

    /// For each session that waits, those at the ends of its chains. From the ends backwards, since
    /// they are few; a circle without an end is not reached.
    fn ends(&self) -> HashMap<i32, Vec<i32>> {
        let mut behind: HashMap<i32, Vec<i32>> = HashMap::new();
        let mut waiting = HashSet::new();
        for (row, _) in self.waiting() {
            waiting.insert(row.session.pid);
            for &blocker in &row.blockers {
                behind.entry(blocker).or_default().push(row.session.pid);
            }
        }
        let mut ends: Vec<i32> =
            behind.keys().copied().filter(|blocker| !waiting.contains(blocker)).collect();
        ends.sort_unstable();
        let mut ends_of: HashMap<i32, Vec<i32>> = HashMap::new();
        for end in ends {
            let (mut seen, mut next) = (HashSet::new(), vec![end]);
            while let Some(pid) = next.pop() {
                for &waiter in behind.get(&pid).into_iter().flatten() {
                    if seen.insert(waiter) {
                        ends_of.entry(waiter).or_default().push(end);
                        next.push(waiter);
                    }
                }
            }
        }
        ends_of
    }
}

impl Party {
    fn is_idle_for(&self, least: Duration) -> bool {
        let state = self.session.state.as_deref();
        let is_idle = state == Some("idle") || self.session.is_idle_in_transaction();
        is_idle && self.session.state_for.is_some_and(|span| span >= least)
    }

    /// Who it is, without what it does on the server. `pool` is that of the report.
    fn name(&self, pool: &str) -> String {
        match (&self.holder, &self.pool) {
            (Some(holder), Some(other)) if other != pool => {
                format!("{holder} of pool '{}'", Plain(other))
            }
            (Some(holder), _) => holder.to_string(),
            (None, Some(pool)) => {
                format!(
                    "a connection of pool '{}', meanwhile returned: {}",
                    Plain(pool),
                    self.session
                )
            }
            (None, None) => self.session.to_string(),
        }
    }

    fn name_and_state(&self, pool: &str) -> String {
        let state = match &self.holder {
            Some(_) => format!(", {}", self.session.state_text()),
            // The session's own text has it.
            None => String::new(),
        };
        format!("{}{state}{}", self.name(pool), self.statement())
    }

    fn statement(&self) -> String {
        let query = self.session.query.as_deref();
        query.map(|query| format!(" [{}]", Plain(query))).unwrap_or_default()
    }

    fn idle_text(&self, pool: &str) -> String {
        let (name, session) = (self.name(pool), &self.session);
        let asked_before = |holder: &Holder| session.state_for >= Some(holder.held_for() + EARLIER);
        let what = if session.is_idle_in_transaction() {
            format!("is {}", session.state_text())
        } else if self.holder.as_ref().is_some_and(asked_before) {
            "has asked the server nothing since it got its connection".to_owned()
        } else {
            format!(
                "has asked the server nothing for {:.1?}",
                session.state_for.unwrap_or_default()
            )
        };
        format!("{name} {what}{}", self.statement())
    }
}

impl LockWait {
    fn text(&self, report: &ServerReport) -> String {
        let waiter = format!("{}{}", self.waiter.name(&report.pool), self.waiter.statement());
        let waited = self.waited.map(|span| format!(" for {span:.1?}")).unwrap_or_default();
        let (lock, held) = (self.lock_text(), self.held_text(report));
        format!("{waiter} waits for {lock}{waited}, held by {held}")
    }

    fn lock_text(&self) -> String {
        let relation = self.relation.as_deref().map(Plain);
        match (self.lock.as_str(), relation) {
            ("transactionid" | "tuple", Some(table)) => format!("a row of {table}"),
            ("transactionid" | "virtualxid", None) => "the end of another transaction".to_owned(),
            ("relation", Some(table)) => table.to_string(),
            ("advisory", _) => "an advisory lock".to_owned(),
            (kind, Some(table)) => format!("a lock of {table} ({})", Plain(kind)),
            (kind, None) => format!("a lock ({})", Plain(kind)),
        }
    }

    fn held_text(&self, report: &ServerReport) -> String {
        if self.held_by.is_empty() {
            return self.deadlock_text(report);
        }
        let is_end = |pid: &&i32| self.held_by.iter().any(|party| party.session.pid == **pid);
        let held_by = list(&self.held_by, |party| party.name_and_state(&report.pool));
        match self.behind.iter().filter(|pid| !is_end(pid)).count() as u64 {
            0 => held_by,
            between => format!(
                "{held_by}; {} before it",
                count(between, "other session waits", "other sessions wait")
            ),
        }
    }

    fn deadlock_text(&self, report: &ServerReport) -> String {
        let name = |pid: &i32| {
            let mut waiters = report.waits.iter().map(|wait| &wait.waiter);
            let party = waiters.find(|waiter| waiter.session.pid == *pid);
            party.map_or_else(|| format!("backend {pid}"), |party| party.name(&report.pool))
        };
        let what = if self.behind.len() == 1 { "which waits" } else { "which wait" };
        format!(
            "{}, {what} too: a deadlock, which the server ends after its deadlock_timeout",
            list(&self.behind, name)
        )
    }
}

fn list<P>(all: &[P], text: impl Fn(&P) -> String) -> String {
    let mut texts: Vec<String> = all.iter().take(NAMED).map(text).collect();
    let more = all.len().saturating_sub(NAMED) as u64;
    if more > 0 {
        texts.push(count(more, "other session", "other sessions"));
    }
    texts.join(" and ")
}

impl fmt::Display for ServerReport {
    /// A line that sums up, one for each wait, and one for each holder that is idle or whose
    /// session has ended.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.pool.as_str();
        let waiting = self.waits.iter().filter(|wait| wait.waiter.holder.is_some()).count();
        let holders = count(self.holders, "holder", "holders");
        let head = match (self.holders, waiting) {
            (0, _) => "no connection is held".to_owned(),
            (_, 0) => format!("none of {holders} waits for a lock"),
            (_, 1) => format!("1 of {holders} waits for a lock"),
            (_, waiting) => format!("{waiting} of {holders} wait for locks"),
        };
        wrapped(f, "", &format!("pool '{}' at its server: {head}", Plain(pool)))?;
        lines(f, &self.waits, |wait| wait.text(self))?;
        lines(f, &self.idle, |party| party.idle_text(pool))?;
        lines(f, &self.ended, |party| {
            format!("{} has no session on the server: it has ended", party.name(pool))
        })?;
        match self.unknown {
            0 => Ok(()),
            unknown => {
                let unknown = count(unknown, "holder", "holders");
                wrapped(f, "  - ", &format!("the sessions of {unknown} are not known"))
            }
        }
    }
}

fn lines<L>(f: &mut fmt::Formatter<'_>, all: &[L], text: impl Fn(&L) -> String) -> fmt::Result {
    all.iter().take(LINES).try_for_each(|line| wrapped(f, "  - ", &text(line)))?;
    match all.len().saturating_sub(LINES) {
        0 => Ok(()),
        more => writeln!(f, "  - … and {more} more such lines"),
    }
}
