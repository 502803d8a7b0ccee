//! Events that are marks and change nothing.

use fairpool::event::EventKind;
use fairpool::snapshot::Holder;
use serde_json::{Value, json};

use super::{Tracker, about};
use crate::piece::{Lane, Pieces};

impl Tracker {
    pub(super) fn add_notice(&self, notice: &EventKind, at: i64, pieces: &mut Pieces) {
        let (lane, name, args) = match notice {
            EventKind::Leak(holder) => {
                let args = about_holder(holder);
                return self.mark_thread(holder.call_site(), at, "leak", args, pieces);
            }
            EventKind::LeakEnded(holder) => {
                let args = about_holder(holder);
                return self.mark_thread(holder.call_site(), at, "leak ended", args, pieces);
            }
            EventKind::SelfDeadlock(nested) => {
                let threads: Vec<String> = nested.iter().map(ToString::to_string).collect();
                (Lane::Pool, "self-deadlock".to_string(), json!({ "threads": threads }))
            }
            EventKind::Outage(error) => {
                (Lane::Pool, "connecting fails".to_string(), json!({ "error": error }))
            }
            EventKind::OutageEnded { failures, lasted } => {
                let args = json!({ "failures": failures, "lasted": format!("{lasted:.1?}") });
                (Lane::Pool, "connecting succeeds again".to_string(), args)
            }
            EventKind::Abandoned { call, connection_id, after } => {
                let args = json!({ "connection": connection_id, "after": format!("{after:.1?}") });
                (self.lane_of(*connection_id), format!("{call} abandoned"), args)
            }
            EventKind::Health { from, health } => {
                let args = json!({
                    "before": from.to_string(),
                    "waiting": health.waiting,
                    "mean_wait": format!("{:.1?}", health.mean_wait),
                    "oldest_wait": format!("{:.1?}", health.oldest_wait),
                });
                (Lane::Pool, format!("health: {}", health.level), args)
            }
            _ => return,
        };
        self.mark(lane, at, &name, args, pieces);
    }

    /// The lane of a connection's slot; that of the pool if it has none yet.
    fn lane_of(&self, connection_id: Option<u64>) -> Lane {
        let mut slots = self.slots.iter();
        let slot =
            slots.find(|(_, slot)| connection_id.is_some() && slot.connection_id == connection_id);
        slot.map_or(Lane::Pool, |(slot, _)| Lane::Slot(*slot))
    }
}

fn about_holder(holder: &Holder) -> Value {
    let mut args = about(holder.call_site());
    args["connection"] = holder.connection_id().into();
    args["backend"] = holder.backend_id().into();
    args["held_for"] = format!("{:.1?}", holder.held_for()).into();
    args
}
