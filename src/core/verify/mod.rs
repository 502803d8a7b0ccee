//! Tests of the core: every state that small pools can reach, random walks through large
//! ones, and single cases.

mod cases;
mod connects;
mod explore;
mod listener;
mod queue;
mod toy;
mod walk;
