//! What a pool says unasked: connections held too long, and threads that wait
//! for themselves.

use log::Level;

use crate::caller::{Holder, NestedGet};
use crate::conn::Kind;
use crate::core::Notice;
use crate::error::Nested;
use crate::event::{HandleEvent, LeakEvent, SelfDeadlockEvent};
use crate::manage::ManageConnection;
use crate::shared::Shared;

impl<M: ManageConnection> Shared<M> {
    /// Says it to the log and to the handler. Called outside the pool's lock.
    #[cold]
    pub(crate) fn announce(&self, notice: Notice<Kind<M>>) {
        let handler = self.config.event_handler.as_deref();
        match notice {
            Notice::Leak(held) => {
                let event = LeakEvent { holder: Holder::from(held) };
                let holder = &event.holder;
                self.say(Level::Warn, format_args!("a connection may be leaked: held by {holder}"));
                self.tell("handle_leak", handler, |handler| handler.handle_leak(event));
            }
            Notice::LeakEnded(held) => {
                let event = LeakEvent { holder: Holder::from(held) };
                let holder = &event.holder;
                self.say(Level::Warn, format_args!("it was not leaked, but held by {holder}"));
                self.tell("handle_leak_end", handler, |handler| handler.handle_leak_end(event));
            }
            Notice::SelfDeadlock(waits) => {
                let nested = waits.into_iter().map(NestedGet::from).collect();
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
