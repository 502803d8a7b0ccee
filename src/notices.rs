//! What a pool says unasked: connections held too long, and threads that wait
//! for themselves.

use std::collections::VecDeque;

use log::Level;

use crate::caller::{Holder, NestedGet};
use crate::conn::Kind;
use crate::core::Notice;
use crate::error::Nested;
use crate::event::{HandleEvent, LeakEvent, SelfDeadlockEvent};
use crate::manage::ManageConnection;
use crate::shared::Shared;
use crate::sync::Mutex;

/// So many wait to be told at the most. There are that many only if the handler,
/// or the logger, hangs.
const MOST_UNTOLD: usize = 1000;

/// What has not been told yet. A worker tells it, one at a time and in order: the
/// thread on which it came up may be the reaper, which nobody must hold up, or
/// somebody's who is to wait until a deadline.
pub(crate) struct Notices(Mutex<Untold>);

struct Untold {
    notices: VecDeque<Told>,
    /// How many more there were.
    lost: usize,
    /// There is a worker that tells them, or will.
    has_teller: bool,
}

/// A notice with the names of its threads, which may have ended when it is told.
enum Told {
    Leak(Holder),
    LeakEnded(Holder),
    SelfDeadlock(Vec<NestedGet>),
}

impl<M: ManageConnection> From<Notice<Kind<M>>> for Told {
    fn from(notice: Notice<Kind<M>>) -> Told {
        match notice {
            Notice::Leak(held) => Told::Leak(held.into()),
            Notice::LeakEnded(held) => Told::LeakEnded(held.into()),
            Notice::SelfDeadlock(waits) => {
                Told::SelfDeadlock(waits.into_iter().map(NestedGet::from).collect())
            }
        }
    }
}

impl Notices {
    pub(crate) fn new() -> Notices {
        Notices(Mutex::new(Untold { notices: VecDeque::new(), lost: 0, has_teller: false }))
    }

    /// Returns whether a teller has to be sent for. Called under the pool's lock,
    /// so that notices are told in the order in which things happened.
    pub(crate) fn add<M: ManageConnection>(&self, new: Vec<Notice<Kind<M>>>) -> bool {
        if new.is_empty() {
            return false;
        }
        let mut untold = self.0.lock();
        for notice in new {
            match untold.notices.len() {
                MOST_UNTOLD.. => untold.lost += 1,
                _ => untold.notices.push_back(notice.into()),
            }
        }
        !std::mem::replace(&mut untold.has_teller, true)
    }

    /// Whether there is nothing to tell, and nobody who tells it.
    pub(crate) fn are_told(&self) -> bool {
        !self.0.lock().has_teller
    }

    /// The next one, and how many were lost after it; the teller is done when
    /// there is none.
    fn next(&self) -> Option<(Told, usize)> {
        let mut untold = self.0.lock();
        let next = untold.notices.pop_front();
        untold.has_teller = next.is_some();
        let lost = if untold.notices.is_empty() { std::mem::take(&mut untold.lost) } else { 0 };
        next.map(|notice| (notice, lost))
    }
}

impl<M: ManageConnection> Shared<M> {
    /// Tells all there is to tell.
    pub(crate) fn tell_owner(&self) {
        while let Some((notice, lost)) = self.notices.next() {
            self.announce(notice);
            if lost > 0 {
                let reason = "since the handler of one did not return for so long";
                self.say(Level::Warn, format_args!("{lost} notices were lost, {reason}"));
            }
        }
    }

    /// Says it to the log and to the handler.
    fn announce(&self, notice: Told) {
        let handler = self.config.event_handler.as_deref();
        match notice {
            Told::Leak(holder) => {
                let event = LeakEvent { holder };
                let holder = &event.holder;
                self.say(Level::Warn, format_args!("a connection may be leaked: held by {holder}"));
                self.tell("handle_leak", handler, |handler| handler.handle_leak(event));
            }
            Told::LeakEnded(holder) => {
                let event = LeakEvent { holder };
                let holder = &event.holder;
                self.say(Level::Warn, format_args!("it was not leaked, but held by {holder}"));
                self.tell("handle_leak_end", handler, |handler| handler.handle_leak_end(event));
            }
            Told::SelfDeadlock(nested) => {
                let event = SelfDeadlockEvent { nested };
                self.say(Level::Warn, format_args!("{}", Nested(&event.nested)));
                self.tell("handle_self_deadlock", handler, |handler| {
                    handler.handle_self_deadlock(event);
                });
            }
        }
    }

    fn tell(
        &self,
        what: &str,
        told: Option<&dyn HandleEvent>,
        tell: impl FnOnce(&dyn HandleEvent),
    ) {
        if let Some(handler) = told {
            let _ = self.contain(what, || tell(handler));
        }
    }
}
