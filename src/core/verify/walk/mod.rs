//! Random walks through the states of pools that are too large to explore.
//!
//! A walk follows from its seed alone: the settings, the weights, and each of its steps.
//! A naive reference model judges every transition by its events and effects
//! ([`reference`]): it knows what an event must cause ([`events`]), and what the pool may
//! and must do then ([`judge`], [`duty`]).
//!
//! In the first phase everything goes wrong that may. In the second nothing does: calls
//! succeed, holders return, nudged waiters claim; and every waiter must be served within a
//! number of steps that is known beforehand. Finally the pool is closed, and nothing may
//! be left. Two walks of three have a subscriber, always or at times, who must receive
//! every step ([`subscriber`]). The pool's reports are compared after each step
//! ([`picture`]).
//!
//! `FAIRPOOL_WALK_SEED=…` repeats one walk, `FAIRPOOL_WALKS=…` sets the number of walks,
//! `FAIRPOOL_WALK_SECONDS=…` the time.

mod duty;
mod events;
mod judge;
mod picture;
mod reference;
mod setting;
mod steps;
mod subscriber;
mod walker;
