//! The ways in which pools run dry.

use crate::scenario::Scenario;

mod cancel_race;
mod close_serialisation;
mod leak_and_outage;
mod long_transaction;
mod nested_get;
mod policies;
mod reaper_race;
mod runaway_queue;

pub static SCENARIOS: [Scenario; 8] = [
    runaway_queue::SCENARIO,
    long_transaction::SCENARIO,
    leak_and_outage::SCENARIO,
    cancel_race::SCENARIO,
    close_serialisation::SCENARIO,
    reaper_race::SCENARIO,
    nested_get::SCENARIO,
    policies::SCENARIO,
];
