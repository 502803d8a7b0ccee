//! Visits every state that a small pool can reach, and checks each one.
//!
//! A world is the core and its surroundings: callers, driver calls under way, a clock
//! that only the test moves. From the empty pool, every possible action is tried in
//! every new state, breadth first. A state is identified by its [`World::key`], in which
//! points in time count only by their age, up to the largest span that matters in the
//! setup.
//!
//! Checked on every step: the invariants of the core (P3, P4, P5), the order of service
//! (P2), that each connection has one owner and is closed once (P7), that nobody gets one that
//! was not proved since another has proved dead (P13), and that neither age, nor idleness, nor a
//! refresh empties the pool (P17). Checked from every state: when faults stop, every waiter is
//! served. Some setups are explored again with a subscriber: that changes nothing, and the
//! events are what has happened.
//!
//! | file | holds |
//! |---|---|
//! | `setups` | which pools are explored |
//! | `world` | what can happen |
//! | `gets` | how a client gets a connection |
//! | `judge` | what must hold |
//! | `key` | when two worlds are the same |

mod gets;
mod judge;
mod key;
mod setups;
mod world;

use std::collections::{HashSet, VecDeque};

use setups::{Setup, setups, setups_with_doubt, setups_with_uses};
use world::{Action, Client, Outcome, Wait, World};

use crate::core::state::Succession;
use crate::core::*;

impl World {
    /// From here on nothing fails: calls succeed, holders return, nudged waiters claim. Every
    /// waiter must be served.
    fn recover(&mut self) {
        let waiting = |world: &World| world.clients.iter().any(|client| client.wait.is_some());
        if self.core.is_paused() && !self.core.closed {
            self.apply(Action::Resume);
        }
        for _ in 0..50 {
            loop {
                let own = self.clients.iter().position(|client| client.own.is_some());
                if let Some(client) = own {
                    self.apply(Action::FinishOwn(client, Some(Outcome::Good)));
                } else if !self.jobs.is_empty() {
                    self.apply(Action::Finish(0, Outcome::Good));
                } else {
                    break;
                }
            }
            for client in 0..self.clients.len() {
                match &self.clients[client] {
                    Client { wait: Some(Wait { nudged: true, .. }), .. } => {
                        self.apply(Action::Claim(client));
                    }
                    Client { wait: None, held, .. } if !held.is_empty() => {
                        let is_dead = held.last().is_some_and(|last| self.is_dead(last));
                        let verdict = if is_dead { Verdict::Broken } else { Verdict::Keep };
                        self.apply(Action::Return(client, verdict));
                    }
                    _ => {}
                }
            }
            // Whoever fails fast relies on the pool to find the end of an outage.
            let tries = self.core.tries_by_itself() && !self.core.closed;
            let checks = self.clients.iter().any(|client| client.own.is_some());
            let calls = checks || !self.jobs.is_empty();
            if !waiting(self) && !calls && self.core.busy == 0 && !tries {
                assert_eq!(self.core.abandoned, 0, "P5: an abandoned call was not accounted for");
                assert!(!self.core.closed || self.core.is_drained(), "P11: not drained");
                let core = &self.core;
                let done = core.old == 0 && core.succession == Succession::None;
                assert!(
                    done || core.closed || core.outage.is_some(),
                    "P17: nobody replaces what is old"
                );
                return;
            }
            self.apply(Action::Advance);
        }
        panic!("P3: a waiter is never served");
    }
}

/// Explores a setup; returns the numbers of states and transitions.
fn explore(setup: &Setup) -> (usize, usize) {
    let mut seen = HashSet::new();
    let mut frontier = VecDeque::from([Vec::new()]);
    seen.insert(World::new(setup).key());
    let mut transitions = 0;
    while let Some(path) = frontier.pop_front() {
        let guard = PrintOnPanic(setup.name, &path, None);
        World::replay(setup, &path).recover();
        let actions = World::replay(setup, &path).actions();
        drop(guard);
        for action in actions {
            let guard = PrintOnPanic(setup.name, &path, Some(action));
            let mut world = World::replay(setup, &path);
            world.apply(action);
            drop(guard);
            transitions += 1;
            if seen.insert(world.key()) {
                let mut longer = path.clone();
                longer.push(action);
                frontier.push_back(longer);
            }
            assert!(seen.len() < 2_000_000, "{}: the state space does not close", setup.name);
        }
    }
    (seen.len(), transitions)
}

/// Prints the shortest path to a failure.
struct PrintOnPanic<'a>(&'static str, &'a [Action], Option<Action>);

impl Drop for PrintOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in setup {:?}, after {:?}, then {:?}", self.0, self.1, self.2);
        }
    }
}

/// A subscriber receives what happened, and changes nothing.
#[test]
fn p7_listeners_hear_the_truth_in_every_reachable_state() {
    let chosen = [
        "bounded overtaking, priorities, cancel",
        "failing and hanging opens and closes",
        "check always, and one that only tries",
    ];
    let chosen = setups().into_iter().filter(|setup| chosen.contains(&setup.name));
    for setup in chosen {
        let without = explore(&setup);
        let with = explore(&Setup { subscribed: true, ..setup });
        assert_eq!(with, without, "states and transitions with and without a subscriber");
    }
}

#[test]
fn p2_p3_p4_p5_p7_hold_in_every_reachable_state() {
    explore_all(setups());
}

#[test]
fn p13_nobody_gets_what_was_not_proved_since_in_every_reachable_state() {
    explore_all(setups_with_doubt());
}

/// Nobody gets a connection but with its own use, and none keeps the use of one who left.
#[test]
fn p1_p2_p3_p5_p13_hold_with_a_use_handler_in_every_reachable_state() {
    explore_all(setups_with_uses());
}

fn explore_all(setups: Vec<Setup>) {
    let started = std::time::Instant::now();
    let (mut states, mut transitions) = (0, 0);
    for setup in setups {
        let begun = std::time::Instant::now();
        let (some_states, some_transitions) = explore(&setup);
        println!(
            "{:50} {some_states:>7} states {some_transitions:>8} transitions {:>6.2} s",
            setup.name,
            begun.elapsed().as_secs_f64()
        );
        assert!(some_states > 100, "{}: too few states to mean anything", setup.name);
        states += some_states;
        transitions += some_transitions;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{:50} {states:>7} states {transitions:>8} transitions {seconds:>6.2} s", "all");
}
