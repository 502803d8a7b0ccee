//! What happens to a pool, one method for each event. A method applies the immediate
//! consequences; `judge` checks what the pool may choose, and what it must have done at
//! the end of the transition.

use std::time::Duration;

use super::super::toy::Toy;
use super::reference::{
    Call, Facts, Failing, Granted, Holding, Reference, Waiting, What, connection_ref,
};
use crate::core::state::Succession;
use crate::core::*;

impl Reference {
    /// A caller that found no idle connection joins, or fails.
    pub(super) fn join(&mut self, waiting: Waiting) -> Result<(), ErrorKind> {
        let client = waiting.client;
        let waited = self.now.since(waiting.since);
        if self.closed {
            self.counters.failed += u64::from(!waiting.only_idle);
            self.refused(client, waited, ErrorKind::Closed);
            return Err(ErrorKind::Closed);
        }
        if self.is_hopeless() {
            self.counters.failed += u64::from(!waiting.only_idle);
            self.refused(client, waited, ErrorKind::Connect);
            return Err(ErrorKind::Connect);
        }
        let check = self.serving() && self.top_needs_check();
        // Whose use begins has a connection.
        let absent = self.absent.iter().filter(|other| other.prepared_on.is_none());
        let others = (self.queue.len() + absent.count()) as u32;
        let served = self.policy.begins_uses && self.serving() && !self.idle.is_empty();
        let full = self.policy.max_waiters.is_some_and(|max| others >= max);
        if full && !check && !served && waited.is_zero() {
            self.counters.refused += u64::from(!waiting.only_idle);
            self.refused(client, waited, ErrorKind::QueueFull);
            return Err(ErrorKind::QueueFull);
        }
        self.note(Step::Enqueued { get_id: 0, caller: client, priority: waiting.priority });
        self.line_up(waiting);
        self.due.another_check = check;
        Ok(())
    }

    fn line_up(&mut self, waiting: Waiting) {
        let place = self.queue.partition_point(|other| other.came < waiting.came);
        self.queue.insert(place, waiting);
    }

    /// A task is polled. Returns whether it has a connection. If that is in doubt now, or was taken
    /// back, it is in the line again.
    pub(super) fn polled(&mut self, client: u8) -> bool {
        if let Some(place) = self.granted.iter().position(|g| g.waiting.client == client) {
            if !self.in_doubt(self.granted[place].conn) {
                self.granted.remove(place);
                return true;
            }
            self.not_polled(place);
            if self.must_not_wait(client) {
                return false;
            }
        }
        let is_absent = |w: &Waiting| w.client == client && w.prepared_on.is_none();
        if let Some(place) = self.absent.iter().position(is_absent) {
            let waiting = self.absent.remove(place);
            self.line_up(waiting);
        }
        false
    }

    /// Others get what this task was granted.
    fn not_polled(&mut self, place: usize) {
        let Granted { waiting, conn, .. } = self.granted.remove(place);
        self.returned_unused(conn);
        let (caller, priority) = (waiting.client, waiting.priority);
        self.note(Step::Enqueued { get_id: 0, caller, priority });
        let place = self.absent.partition_point(|other| other.came < waiting.came);
        self.absent.insert(place, waiting);
    }

    fn returned_unused(&mut self, conn: u32) {
        let unfit = self.unfit(conn);
        self.take_back(conn);
        self.counters.untaken += 1;
        match unfit {
            _ if self.policy.begins_uses => self.end_unused(conn, unfit),
            Some(reason) => self.retire_unfit(conn, reason),
            None => self.stack_unused(conn),
        }
    }

    /// A use has begun on this connection that nobody has had.
    fn end_unused(&mut self, conn: u32, unfit: Option<Reason>) {
        if let Some(reason) = unfit {
            return self.retire_unfit(conn, reason);
        }
        let check = Check {
            begin: false,
            end: self.policy.ends_uses,
            reset: true,
            validate: self.in_doubt(conn),
        };
        self.due.checks.push((conn, check, None));
    }

    pub(super) fn is_prepared(&self, conn: u32) -> bool {
        self.absent.iter().any(|waiting| waiting.prepared_on == Some(conn))
    }

    /// Whose use was to begin on this connection is in the line again.
    fn line_up_again(&mut self, conn: u32) {
        let is_its = |waiting: &Waiting| waiting.prepared_on == Some(conn);
        if let Some(place) = self.absent.iter().position(is_its) {
            let waiting = self.absent.remove(place);
            self.line_up(Waiting { prepared_on: None, ..waiting });
        }
    }

    /// The use handler has ended its call.
    pub(super) fn use_begun(
        &mut self,
        conn: u32,
        result: Result<(), (Reason, u8)>,
        core: &Core<Toy>,
        fx: &Effects<Toy>,
    ) {
        let held_back = self.checking() == 4 && self.policy.keepalive.is_some();
        let unfit = self.unfit(conn);
        let call = self.end_call(self.conns[conn as usize].permit);
        if call.abandoned {
            let reason = result.err().map_or(Reason::UseHandler, |(reason, _)| reason);
            return self.close_late(conn, reason);
        }
        if held_back {
            self.next_keepalive(core, fx);
        }
        let whose = self.absent.iter().find(|waiting| waiting.prepared_on == Some(conn));
        let whose = whose.map(|waiting| waiting.client);
        let Err((reason, cause)) = result else {
            match whose {
                Some(client) if self.serving() && unfit.is_none() && !self.in_doubt(conn) => {
                    self.due.begun = Some((client, conn));
                }
                _ => {
                    self.line_up_again(conn);
                    self.end_unused(conn, unfit);
                }
            }
            return;
        };
        self.counters.check_failures += 1;
        if reason == Reason::UseHandler {
            if let Some(client) = whose {
                self.dismiss(client, ErrorKind::UseHandler);
                self.due.answers.push((client, "refused"));
            }
        } else {
            self.line_up_again(conn);
            if !self.fails_for_good() {
                self.last_error = Some((self.now, cause));
            }
            self.doubt_because_of(conn, reason, call.begun);
        }
        self.retire(conn, reason);
    }

    /// A get without time fails where a use must begin first.
    pub(super) fn refused_without_time(&mut self, client: u8) {
        assert!(self.policy.begins_uses && !self.closed && !self.is_hopeless(), "it may be served");
        self.counters.timeouts += 1;
        self.refused(client, Duration::ZERO, ErrorKind::Timeout);
    }

    /// A task is dropped.
    pub(super) fn dropped(&mut self, client: u8) {
        if let Some(place) = self.granted.iter().position(|g| g.waiting.client == client) {
            let Granted { conn, .. } = self.granted.remove(place);
            return self.returned_unused(conn);
        }
        self.counters.cancelled += 1;
        self.dismiss(client, ErrorKind::Cancelled);
    }

    /// Takes back what tasks have not taken up in time.
    fn end_grants(&mut self) {
        while let Some(place) = self.granted.iter().position(|g| g.until <= self.now) {
            let client = self.granted[place].waiting.client;
            self.not_polled(place);
            self.must_not_wait(client);
        }
    }

    /// Ends the wait of a task that has lost its connection, if it must not wait again. Returns
    /// whether that is so.
    fn must_not_wait(&mut self, client: u8) -> bool {
        let waiting = self.absent.iter().find(|waiting| waiting.client == client);
        let waiting = waiting.expect("it is absent");
        let (deadline, cancelled) = (waiting.task.expect("a task"), waiting.cancelled);
        let (kind, answer) = match () {
            () if self.closed => (ErrorKind::Closed, "closed"),
            () if cancelled => (ErrorKind::Cancelled, "cancelled"),
            () if deadline <= self.now => (ErrorKind::Timeout, "timed out"),
            () => return false,
        };
        self.counters.cancelled += u64::from(kind == ErrorKind::Cancelled);
        self.counters.timeouts += u64::from(kind == ErrorKind::Timeout);
        self.dismiss(client, kind);
        self.due.answers.push((client, answer));
        true
    }

    /// A get fails before it waits.
    fn refused(&mut self, client: u8, waited: Duration, kind: ErrorKind) {
        self.note(Step::GetFailed { get_id: 0, caller: client, waited, kind });
    }

    pub(super) fn cancelled_before(&mut self, client: u8) {
        self.counters.cancelled += 1;
        self.refused(client, Duration::ZERO, ErrorKind::Cancelled);
    }

    /// A waiter leaves the queue without a connection.
    pub(super) fn dismiss(&mut self, client: u8, kind: ErrorKind) -> Waiting {
        let waiting = self.dequeue(client);
        let waited = self.now.since(waiting.since);
        if !waiting.only_idle && ![ErrorKind::Timeout, ErrorKind::Cancelled].contains(&kind) {
            self.counters.failed += 1;
        }
        self.note(Step::GetFailed { get_id: 0, caller: client, waited, kind });
        waiting
    }

    pub(super) fn dequeue(&mut self, client: u8) -> Waiting {
        let is = |waiting: &Waiting| waiting.client == client;
        let waiting = match self.absent.iter().position(is) {
            Some(place) => self.absent.remove(place),
            None => {
                let place = self.queue.iter().position(is);
                self.queue.remove(place.expect("P4: an answer for one that does not wait"))
            }
        };
        self.counters.time_waited += self.now.since(waiting.counted_to);
        if self.nudged == Some(client) {
            self.nudged = None;
        }
        waiting
    }

    /// Returns `false` if it was answered or has left.
    pub(super) fn leave(&mut self, client: u8, kind: ErrorKind) -> bool {
        let mut granted = self.granted.iter_mut().map(|granted| &mut granted.waiting);
        if let Some(granted) = granted.find(|waiting| waiting.client == client) {
            granted.cancelled |= kind == ErrorKind::Cancelled;
        }
        let is_absent = self.absent.iter().any(|waiting| waiting.client == client);
        if self.waiting(client).is_none() && !is_absent {
            return false;
        }
        let waiting = self.dismiss(client, kind);
        if kind == ErrorKind::Timeout {
            self.counters.timeouts += u64::from(!waiting.only_idle);
        } else {
            assert_eq!(kind, ErrorKind::Cancelled, "the only other reason to leave");
            self.counters.cancelled += 1;
            self.due.answers.push((client, "cancelled"));
        }
        true
    }

    pub(super) fn lend(&mut self, conn: u32, client: u8, waited: Duration) {
        self.counters.gets += 1;
        let (since, truly_since) = (self.stamp(), self.truth());
        let slot = self.conns[conn as usize].permit;
        let connection = connection_ref(slot, Some(conn));
        let from = self.put(slot, ConnectionState::Busy);
        self.note(Step::CheckedOut { get_id: 0, caller: client, waited, connection, from });
        let (moved, leaking) = (false, false);
        self.conns[conn as usize].used = true;
        self.held.push(Holding { conn, client, since, truly_since, moved, leaking });
    }

    fn take_back(&mut self, conn: u32) {
        let place = self.held.iter().position(|holding| holding.conn == conn);
        let holding = self.held.remove(place.expect("P7: returned what nobody holds"));
        if holding.leaking {
            let held_for = self.now.since(holding.since);
            self.due.notices.push(format!("leak of {} ended after {held_for:?}", holding.client));
        }
    }

    pub(super) fn returned(&mut self, conn: u32, verdict: Verdict) {
        let unfit = self.unfit(conn);
        self.take_back(conn);
        match (verdict, unfit) {
            (Verdict::Broken, _) => {
                self.doubt_because_of(conn, Reason::Broken, 0);
                self.retire(conn, Reason::Broken);
            }
            (_, Some(reason)) => self.retire_unfit(conn, reason),
            (Verdict::Keep, _) if !self.policy.ends_uses => self.stack(conn),
            (verdict, _) => {
                let check = match verdict {
                    Verdict::Check(check) => check,
                    _ => Check::NONE,
                };
                let validate = check.validate || self.in_doubt(conn);
                let end = self.policy.ends_uses;
                self.due.checks.push((conn, Check { end, validate, ..check }, None));
            }
        }
    }

    pub(super) fn detached(&mut self, conn: u32) {
        self.take_back(conn);
        self.bury(conn, Some(Reason::Detached));
        self.counters.closed[Reason::Detached as usize] += 1;
        self.due.progress = true;
    }

    fn end_call(&mut self, permit: u32) -> Call {
        let place = self.calls.iter().position(|call| call.permit == permit);
        self.due.progress = true;
        let call = self.calls.remove(place.expect("P7: the end of a call that was not made"));
        if call.what == What::Connect && !call.abandoned {
            self.moved_at = self.now;
        }
        self.no_successor_without_connect();
        call
    }

    fn no_successor_without_connect(&mut self) {
        if self.succession == Succession::Opening && self.opening() == 0 {
            self.succession = Succession::None;
        }
    }

    /// An old connection ends since it may.
    pub(super) fn end_old(&mut self, conn: u32, may_end: bool) {
        let leaves_gap = self.conns[conn as usize].old && !self.is_past_its_life(conn);
        if leaves_gap && may_end && self.succession == Succession::None {
            self.succession = Succession::Short;
        }
    }

    fn retire_unfit(&mut self, conn: u32, reason: Reason) {
        self.end_old(conn, matches!(reason, Reason::Expired | Reason::Stale));
        self.retire(conn, reason);
    }

    /// It is no longer open.
    fn forget_old(&mut self, conn: u32) {
        if !std::mem::take(&mut self.conns[conn as usize].old) {
            return;
        }
        let for_none = self.succession == Succession::Opening && self.old() == 0;
        if for_none || self.succession == Succession::Ready {
            self.succession = Succession::None;
        }
    }

    /// All connections that are open now and whose time is up by then are old.
    pub(super) fn make_old(&mut self, until: Time) {
        let held = self.held.iter().map(|holding| holding.conn);
        let is_check = |call: &&Call| matches!(call.what, What::Check(..)) && !call.abandoned;
        let checked = self.calls.iter().filter(is_check).filter_map(|call| call.conn);
        let open: Vec<u32> = self.idle.iter().copied().chain(held).chain(checked).collect();
        for conn in open {
            let facts = &mut self.conns[conn as usize];
            facts.old |= facts.expires <= until;
        }
    }

    pub(super) fn opened(
        &mut self,
        permit: u32,
        conn: u32,
        expires: Time,
        idle_time: Option<Duration>,
    ) {
        assert_eq!(conn as usize, self.conns.len());
        self.counters.opened += 1;
        if let Some(Failing { began, failures, .. }) = self.failing.take() {
            let lasted = self.now.since(began);
            self.due.notices.push(format!("outage ended after {failures}, {lasted:?}"));
        }
        self.last_error = None;
        match self.policy.max_lifetime {
            None => assert_eq!(expires, Time::NEVER),
            Some(life) => {
                let kept = 1000 - self.policy.lifetime_jitter_permille;
                let took = self.calls.iter().find(|call| call.permit == permit).expect("a connect");
                let took = self.now.since(took.since).as_nanos() as u64;
                let shortest = life.as_nanos() as u64 * u64::from(kept) / 1000;
                let early = u64::from(!self.policy.ends_on_time);
                let lead =
                    early * (took * u64::from(2 * self.policy.max_size)).min(shortest.div_ceil(2));
                // One nanosecond for rounding.
                assert!(
                    expires.0 + 1 >= self.now.0 + shortest - lead,
                    "a lifetime that is too short"
                );
                assert!(expires <= self.now.after(life), "a lifetime that is too long");
            }
        }
        match (self.policy.idle_timeout, idle_time) {
            (Some(timeout), Some(time)) => {
                assert!(time >= timeout, "an idle time that is too short");
                let most = timeout * (1000 + self.policy.lifetime_jitter_permille) / 1000;
                assert!(time <= most + Duration::from_nanos(1), "an idle time that is too long");
            }
            (timeout, time) => assert_eq!(timeout, time),
        }
        let too_many = self.open(0) + self.opening() > self.policy.max_size;
        let is_permit = |call: &&Call| call.permit == permit;
        let call = *self.calls.iter().find(is_permit).expect("P7: it was not made");
        let unfit = self.unfit_new(call.generation, too_many);
        if !call.abandoned && unfit.is_none() {
            self.succession = match self.succession {
                Succession::Opening => Succession::Ready,
                Succession::Short => Succession::None,
                other => other,
            };
        }
        let call = self.end_call(permit);
        self.learn(self.now.since(call.since));
        let (generation, proved) = (call.generation, call.begun);
        self.conns.push(Facts {
            permit,
            alive: true,
            expires,
            idle_time,
            old: false,
            used: false,
            fresh_at: self.now,
            idle_since: self.now,
            truly_fresh_at: self.now,
            truly_idle_since: self.now,
            checked_at: None,
            retired_at: Time::NEVER,
            generation,
            proved,
            dead: false,
        });
        match unfit {
            _ if call.abandoned => self.take_in(conn, Reason::Excess),
            Some(reason) => self.retire(conn, reason),
            None => self.offer(conn),
        }
    }

    /// A connect took this long.
    fn learn(&mut self, took: Duration) {
        let Policy { patience_min: least, patience_max: most, max_opening, .. } = self.policy;
        self.at_once = (self.at_once + 1).min(max_opening);
        let fits = took.saturating_mul(3).max(least).min(most);
        let Some(usual) = self.usual else {
            self.usual = Some(fits);
            for call in self.calls.iter_mut().filter(|call| call.what == What::Connect) {
                call.patience_ends = call.patience_ends.min(call.since.after(fits));
            }
            return;
        };
        let twice = usual.saturating_mul(2);
        self.usual = Some(if fits > usual { fits.min(twice) } else { fits.max(usual / 2) });
    }

    /// The pool draws `retry_at`: any delay between half and all of the backoff.
    pub(super) fn failed(&mut self, begun: Time, retry_at: Time, permanent: bool) {
        self.counters.open_failures += 1;
        self.at_once = 1;
        self.failing.iter_mut().for_each(|failing| failing.failures += 1);
        if let Some(failing) = &mut self.failing
            && begun <= failing.failed_at
        {
            assert_eq!(retry_at, failing.retry_at, "of a volley, the first counts");
            failing.permanent |= permanent;
            return;
        }
        let before = self.failing.as_ref();
        let (attempts, failures) = before.map_or((0, 1), |f| (f.attempts, f.failures));
        let began = before.map_or(self.now, |failing| failing.began);
        let doubled = (0..attempts)
            .fold(self.policy.backoff_min, |delay, _| (delay * 2).min(self.policy.backoff_max));
        let delay = retry_at.since(self.now);
        assert!(delay <= doubled && delay >= doubled / 2, "a delay of {delay:?}, not {doubled:?}");
        let failed_at = self.now;
        let attempts = attempts + 1;
        // Counted anew after a time without attempts.
        let known = before.map_or(Time::NEVER, |failing| failing.fails_fast_from);
        let fails_fast_from = known.min(self.now.after_opt(self.policy.fail_fast_after));
        self.failing = Some(Failing {
            began,
            failures,
            attempts,
            failed_at,
            retry_at,
            fails_fast_from,
            permanent,
        });
    }

    pub(super) fn open_failed(&mut self, permit: u32, cause: u8, permanent: bool, retry_at: Time) {
        let call = self.end_call(permit);
        let reason = Some(Reason::ConnectFailed).filter(|_| !call.abandoned);
        self.note_move(permit, None, ConnectionState::Gone, reason);
        if call.abandoned {
            return;
        }
        let permanent = permanent && self.counters.opened == 0;
        if self.failing.is_none() {
            self.due.notices.push(format!("outage {:?}", Some(cause)));
        }
        self.failed(call.since, retry_at, permanent);
        if permanent || !self.fails_for_good() {
            self.last_error = Some((self.now, cause));
        }
    }

    fn answer_first(&mut self, how: &'static str, kind: ErrorKind) {
        let first = self.first().expect("somebody waits").client;
        self.dismiss(first, kind);
        self.due.answers.push((first, how));
    }

    /// A caller's own check has succeeded. Returns whether the caller gets the connection.
    pub(super) fn own_checked(
        &mut self,
        conn: u32,
        client: u8,
        arrival: Arrival,
        priority: u8,
        core: &Core<Toy>,
        fx: &Effects<Toy>,
    ) -> bool {
        let call = self.calls.iter().find(|call| call.conn == Some(conn)).expect("it is checked");
        self.conns[conn as usize].checked_at = Some(self.now);
        let lost = call.abandoned || !self.serving() || call.begun <= self.doubted;
        if lost || !self.may_pass(arrival, priority) || self.unfit(conn).is_some() {
            self.checked(conn, Ok(()), core, fx);
            return false;
        }
        let held_back = self.checking() == 4 && self.policy.keepalive.is_some();
        let call = self.end_call(self.conns[conn as usize].permit);
        // Nobody waits for the end of a pool that serves.
        self.due.progress = false;
        self.conns[conn as usize].proved = call.begun;
        if held_back {
            self.next_keepalive(core, fx);
        }
        let waited = self.now.since(arrival.since);
        self.lend(conn, client, waited);
        self.counters.gets_waited += u64::from(!waited.is_zero());
        self.counters.time_waited += waited;
        self.counters.overtakes += u64::from(!self.queue.is_empty());
        let waits = !self.queue.is_empty();
        self.due.another_check = self.serving() && waits && self.top_needs_check();
        true
    }

    /// A connection has proved dead while a caller has it, or checked it itself.
    pub(super) fn proved_dead(&mut self, conn: u32, reason: Reason) {
        let call = self.calls.iter().find(|call| call.conn == Some(conn));
        let begun = call.map_or(0, |call| call.begun);
        self.doubt_because_of(conn, reason, begun);
        let facts = &mut self.conns[conn as usize];
        (facts.dead, facts.proved) = (true, 0);
    }

    pub(super) fn checked(
        &mut self,
        conn: u32,
        result: Result<(), (Reason, u8)>,
        core: &Core<Toy>,
        fx: &Effects<Toy>,
    ) {
        let held_back = self.checking() == 4 && self.policy.keepalive.is_some();
        let unfit = self.unfit(conn);
        let call = self.end_call(self.conns[conn as usize].permit);
        let What::Check(check, idle_since) = call.what else { panic!("P7: it was not checked") };
        if result.is_ok() && check.validate {
            self.conns[conn as usize].checked_at = Some(self.now);
        }
        if result.is_ok() && check.validate && !self.conns[conn as usize].dead {
            self.conns[conn as usize].proved = call.begun;
        }
        if call.abandoned {
            return match result {
                Ok(()) => {
                    self.is_fresh_now(conn);
                    self.take_in(conn, Reason::Invalid);
                }
                Err((reason, _)) => self.close_late(conn, reason),
            };
        }
        if held_back {
            self.next_keepalive(core, fx);
        }
        self.counters.check_failures += u64::from(result.is_err());
        if let Err((reason, cause)) = result
            && reason != Reason::UseHandler
            && !self.fails_for_good()
        {
            self.last_error = Some((self.now, cause));
        }
        if let Err((reason, _)) = result
            && reason != Reason::UseHandler
        {
            self.doubt_because_of(conn, reason, call.begun);
        }
        match (result, unfit, idle_since) {
            (Err((reason, _)), ..) => self.retire(conn, reason),
            (_, Some(reason), _) => self.retire_unfit(conn, reason),
            (.., Some(idle_since)) if self.queue.is_empty() => {
                self.is_fresh_now(conn);
                self.conns[conn as usize].idle_since = idle_since;
                let doubted = self.idle.iter().take_while(|&&idle| self.in_doubt(idle)).count();
                self.idle.insert(if self.in_doubt(conn) { 0 } else { doubted }, conn);
                self.note_move_of(conn, ConnectionState::Idle, None);
            }
            _ if check.validate => self.offer(conn),
            _ => self.stack(conn),
        }
        let waits = self.queue.len() > usize::from(self.due.grant.is_some());
        self.due.another_check = self.serving() && waits && self.top_needs_check();
    }

    /// A keepalive that waited for the end of a check may start; the pool chooses which.
    fn next_keepalive(&mut self, core: &Core<Toy>, fx: &Effects<Toy>) {
        let begun = fx.jobs.iter().find_map(|job| {
            let Job::Check(lease, _) = job else { return None };
            let slot = &core.slots[lease.permit.index()];
            let keepalive = slot.state == ConnectionState::Checking && slot.idle_since.is_some();
            keepalive.then_some(lease.conn)
        });
        let Some(conn) = begun else { return };
        let place = self.idle.iter().position(|&idle| idle == conn).expect("it was idle");
        self.idle.remove(place);
        let facts = &self.conns[conn as usize];
        assert!(self.now >= facts.fresh_at.after_opt(self.policy.keepalive), "not due");
        assert!(self.now >= facts.truly_fresh_at.after_opt(self.policy.keepalive), "early");
        self.due.checks.push((conn, Check::VALIDATE, Some(facts.idle_since)));
    }

    pub(super) fn close_ended(&mut self, conn: u32) {
        self.bury(conn, None);
        self.end_call(self.conns[conn as usize].permit);
    }

    fn bury(&mut self, conn: u32, reason: Option<Reason>) {
        self.note_move_of(conn, ConnectionState::Gone, reason);
        let alive = std::mem::take(&mut self.conns[conn as usize].alive);
        assert!(alive, "P7: connection {conn} is closed twice");
        self.forget_old(conn);
    }

    /// The connection is dead, or the check that began then does not end. What was proved
    /// before must be checked: after an error, before now; else before that check.
    fn doubt_because_of(&mut self, conn: u32, reason: Reason, checked: u64) {
        if self.conns[conn as usize].dead {
            return; // It is known.
        }
        let doubted = match reason {
            Reason::Broken => self.order + self.due.checks.len() as u64,
            Reason::Invalid => checked - 1,
            _ => panic!("{reason:?} says nothing of the others"),
        };
        let known: Vec<bool> = self.idle.iter().map(|&idle| self.in_doubt(idle)).collect();
        self.doubted = self.doubted.max(doubted);
        let idle = self.idle.iter().zip(known);
        let newly = idle.filter(|&(&idle, known)| self.in_doubt(idle) && !known).count();
        if newly > 0 {
            let id = Toy::connection_id(&conn);
            self.due.notices.push(format!("{id} is {reason}: {newly} in doubt"));
            // Below the others, in the same order.
            let (doubted, proved): (Vec<u32>, Vec<u32>) =
                std::mem::take(&mut self.idle).into_iter().partition(|&idle| self.in_doubt(idle));
            self.idle = [doubted, proved].concat();
        }
    }

    pub(super) fn retire(&mut self, conn: u32, reason: Reason) {
        self.counters.closed[reason as usize] += 1;
        self.conns[conn as usize].retired_at = self.now;
        self.retired.push((conn, reason));
        self.forget_old(conn);
        self.note_move_of(conn, ConnectionState::Retired, Some(reason));
    }

    fn is_fresh_now(&mut self, conn: u32) {
        let facts = &mut self.conns[conn as usize];
        (facts.fresh_at, facts.truly_fresh_at) = (self.now, self.now);
    }

    fn stack(&mut self, conn: u32) {
        let (stamp, truth) = (self.stamp(), self.truth());
        let facts = &mut self.conns[conn as usize];
        (facts.fresh_at, facts.truly_fresh_at) = (stamp, truth);
        self.put_back(conn, self.idle.len());
    }

    /// It was not used, which proves nothing: below those that are fit for longer.
    fn stack_unused(&mut self, conn: u32) {
        let longer = |&&other: &&u32| self.fit_until(other) > self.fit_until(conn);
        let above = self.idle.iter().rev().take_while(longer).count();
        self.put_back(conn, self.idle.len() - above);
    }

    fn put_back(&mut self, conn: u32, place: usize) {
        let (stamp, truth) = (self.stamp(), self.truth());
        let facts = &mut self.conns[conn as usize];
        (facts.idle_since, facts.truly_idle_since) = (stamp, truth);
        // What is in doubt is used last.
        let place = if self.in_doubt(conn) { 0 } else { place };
        self.idle.insert(place, conn);
        self.note_move_of(conn, ConnectionState::Idle, None);
    }

    fn offer(&mut self, conn: u32) {
        if self.serving() && !self.queue.is_empty() && !self.in_doubt(conn) {
            self.due.grant = Some(conn);
        } else {
            self.stack(conn);
        }
    }

    fn take_in(&mut self, conn: u32, otherwise: Reason) {
        let full = self.live() >= self.policy.max_size;
        match self.unfit_new(self.conns[conn as usize].generation, full) {
            None => {
                self.offer(conn);
                self.full_again(u32::from(self.due.grant.is_some()));
            }
            // Without room for it, the reason is what made it late.
            Some(Reason::Excess) => self.close_late(conn, otherwise),
            Some(reason) => self.close_late(conn, reason),
        }
    }

    /// A pool that is full waits for no successor of what has ended; `granted` counts too.
    fn full_again(&mut self, granted: u32) {
        let full = self.open(granted) + self.opening() >= self.policy.max_size;
        if full && self.succession == Succession::Short {
            self.succession = Succession::None;
        }
    }

    fn close_late(&mut self, conn: u32, reason: Reason) {
        self.counters.closed[reason as usize] += 1;
        self.due.late_closes.push((conn, reason));
    }

    pub(super) fn set_max_size(&mut self, max_size: u32) {
        self.policy.max_size = max_size;
        while !self.idle.is_empty() && self.open(0) + self.opening() > max_size {
            let oldest = self.idle.remove(0);
            self.retire(oldest, Reason::Excess);
        }
        self.full_again(0);
        if self.open(0) >= max_size {
            let failing = self.failing.as_mut();
            failing.into_iter().for_each(|failing| failing.fails_fast_from = Time::NEVER);
        }
    }

    pub(super) fn retire_idle(&mut self, reason: Reason) {
        for conn in std::mem::take(&mut self.idle) {
            self.retire(conn, reason);
        }
    }

    pub(super) fn close(&mut self) {
        if self.closed {
            return;
        }
        self.due.progress = true;
        self.closed = true;
        while !self.queue.is_empty() {
            self.answer_first("closed", ErrorKind::Closed);
        }
        while let Some(client) = self.absent.first().map(|waiting| waiting.client) {
            self.dismiss(client, ErrorKind::Closed);
            self.due.answers.push((client, "closed"));
        }
        self.retire_idle(Reason::PoolClosed);
    }

    /// If not all calls that overran may be abandoned, the pool chooses which are.
    pub(super) fn tick(&mut self, core: &Core<Toy>) {
        let may = self.policy.max_abandoned - self.abandoned();
        let mut overran = 0;
        let mut abandoned = 0;
        let mut failed = Vec::new();
        let late = |reference: &Reference, call: &Call| reference.limit(call) <= reference.now;
        self.calls.sort_by_key(|call| call.permit);
        for index in 0..self.calls.len() {
            let call = self.calls[index];
            if call.abandoned {
                continue;
            }
            let over = call.patience_ends <= self.now || late(self, &call);
            if over && !call.slow && call.what != What::Close {
                self.calls[index].slow = true;
                self.at_once = if call.what == What::Connect { 1 } else { self.at_once };
            }
            overran += u32::from(late(self, &call));
            if core.slots[call.permit as usize].state == ConnectionState::Abandoned {
                assert!(late(self, &call), "P5: a call was abandoned before its limit");
                self.calls[index].abandoned = true;
                abandoned += 1;
                self.abandoned_now(call);
            } else if late(self, &call) {
                self.calls[index].overdue = true;
            }
            if let (true, What::Check(Check::BEGIN, _), Some(conn)) =
                (late(self, &call), call.what, call.conn)
            {
                self.line_up_again(conn);
            }
            let after = self.calls[index];
            let news = after.abandoned || (after.overdue && !call.overdue);
            if let (What::Check(check, _), Some(conn), true) = (call.what, call.conn, news) {
                let reason = if check.validate { Reason::Invalid } else { Reason::Broken };
                self.doubt_because_of(conn, reason, call.begun);
            }
            if self.calls[index].abandoned && call.what == What::Connect {
                failed.push(call.since);
            }
        }
        assert_eq!(abandoned, overran.min(may), "P5: abandoned calls");
        // At most one of them counts: the pool may visit them in any order.
        failed.sort_unstable();
        if self.failing.is_none() && !failed.is_empty() {
            self.due.notices.push("outage None".to_string());
        }
        for begun in failed.into_iter().rev() {
            let retry_at = core.outage.as_ref().expect("an open has failed").retry_at;
            self.failed(begun, retry_at, false);
        }
        if self.policy.max_lifetime.is_some() {
            self.make_old(self.now);
        }
        self.end_grants();
        self.reap();
        self.find_leaks();
    }

    fn abandoned_now(&mut self, call: Call) {
        self.due.progress = true;
        self.moved_at = if call.what == What::Connect { self.now } else { self.moved_at };
        self.counters.abandoned += 1;
        self.no_successor_without_connect();
        if let (What::Check(..), Some(conn)) = (call.what, call.conn) {
            self.forget_old(conn);
        }
        let connection = connection_ref(call.permit, call.conn);
        let after = self.now.since(call.since);
        let what =
            format!("abandoned {:?} of {} after {after:?}", call.kind(), connection.connection_id);
        self.due.notices.push(what);
        self.note_move(call.permit, call.conn, ConnectionState::Abandoned, Some(Reason::Overran));
    }

    fn reap(&mut self) {
        let long = self.idle.iter().filter(|&&conn| self.now >= self.idle_until(conn)).count();
        let mut too_many = long.saturating_sub(self.kept_idle() as usize);
        for conn in std::mem::take(&mut self.idle) {
            let facts = &self.conns[conn as usize];
            let truly_fresh_until = facts.truly_fresh_at.after_opt(self.policy.keepalive);
            let truly_idle_until = facts.truly_idle_since.after_opt(self.policy.idle_timeout);
            let checks = self.checking() + self.due.checks.len() as u32;
            if too_many > 0 && self.now >= self.idle_until(conn) {
                assert!(self.now >= truly_idle_until, "closed early");
                too_many -= 1;
                self.retire(conn, Reason::IdleTooLong);
            } else if checks < 4 && self.now >= facts.fresh_at.after_opt(self.policy.keepalive) {
                assert!(self.now >= truly_fresh_until, "a keepalive is early");
                let idle_since = Some(facts.idle_since);
                self.due.checks.push((conn, Check::VALIDATE, idle_since));
            } else {
                self.idle.push(conn);
            }
        }
    }

    /// Returns whether something is done to find out whether the pool works.
    pub(super) fn prove(&mut self, proof_lasts: Duration) -> bool {
        let open = self.idle.iter().copied().chain(self.held.iter().map(|holding| holding.conn));
        let known = open.filter(|&conn| !self.in_doubt(conn));
        let proved = known.map(|conn| self.conns[conn as usize].fresh_at).max();
        let proved = proved.is_some_and(|at| self.now.since(at) < proof_lasts);
        let comes = self.checking() + self.opening() > 0 || self.opens_missing() > 0;
        if !self.serving() || !self.queue.is_empty() || proved || comes {
            return false;
        }
        let waits_for_retry = self.failing.as_ref().is_some_and(|f| self.now < f.retry_at);
        if !self.idle.is_empty() {
            let conn = self.idle.remove(0);
            let since = self.conns[conn as usize].idle_since;
            self.due.checks.push((conn, Check::VALIDATE, Some(since)));
        } else {
            let room = self.live() < self.policy.max_size;
            self.due.proof = self.held.is_empty() && room && !waits_for_retry;
        }
        true
    }

    fn find_leaks(&mut self) {
        let Some(threshold) = self.policy.leak_threshold else { return };
        for holding in &mut self.held {
            let held_for = self.now.since(holding.since);
            if held_for >= threshold && !holding.leaking {
                assert!(self.now.since(holding.truly_since) >= held_for, "reported early");
                holding.leaking = true;
                self.counters.leaks += 1;
                self.due.notices.push(format!("leak of {} after {held_for:?}", holding.client));
            }
        }
    }
}
