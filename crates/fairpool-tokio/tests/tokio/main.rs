//! The pool's gets for tasks, and `interact`, on real runtimes.

mod crowd;
mod dropping;
mod failing;
mod interact;
mod order;
mod support;
mod waiting;
