//! Which pools are explored: small ones, each with some of what may happen.

use std::time::Duration;

use super::super::toy::policy;
use super::world::Action;
use crate::core::*;

/// For how long a task waits.
pub(super) const TASK_TIMEOUT: u64 = 2;

pub(super) const fn nanos(n: u64) -> Duration {
    Duration::from_nanos(n)
}

/// One exploration: the policy, and what may happen besides gets, returns and results.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) name: &'static str,
    pub(super) policy: Policy,
    pub(super) priorities: &'static [u8],
    pub(super) verdicts: &'static [Verdict],
    pub(super) leave: bool,
    pub(super) detach: bool,
    pub(super) faults: bool,
    pub(super) owner: &'static [Action],
    /// Points in time older than this are equal.
    pub(super) horizon: u64,
    /// The last client waits for a check, but not for a connect.
    pub(super) last_only_tries: bool,
    /// How many connections a client holds at most.
    pub(super) most_held: usize,
    /// The first so many clients are tasks.
    pub(super) tasks: usize,
    /// Clients make checks themselves.
    pub(super) checks_itself: bool,
    /// Clients keep connections that have proved dead for a while.
    pub(super) marks: bool,
    /// The journal is open.
    pub(super) subscribed: bool,
}

impl Setup {
    pub(super) fn is_task(&self, client: usize) -> bool {
        client < self.tasks
    }

    pub(super) fn only_idle(&self, client: usize) -> bool {
        self.last_only_tries && client + 1 == self.priorities.len()
    }
}

const KEEP: &[Verdict] = &[Verdict::Keep];

const KEEP_OR_BREAK: &[Verdict] = &[Verdict::Keep, Verdict::Broken];

fn plain(name: &'static str, max_size: u32, priorities: &'static [u8]) -> Setup {
    Setup {
        name,
        policy: policy(max_size),
        priorities,
        verdicts: KEEP,
        leave: false,
        detach: false,
        faults: false,
        owner: &[],
        horizon: 2,
        last_only_tries: false,
        most_held: 1,
        tasks: 0,
        checks_itself: false,
        marks: false,
        subscribed: false,
    }
}

pub(super) fn setups() -> Vec<Setup> {
    let strict = Setup {
        leave: true,
        verdicts: KEEP_OR_BREAK,
        ..plain("strict order, cancel, broken returns", 2, &[5, 5, 5, 5])
    };

    let mut bounded = Setup {
        leave: true,
        horizon: 3,
        ..plain("bounded overtaking, priorities, cancel", 2, &[1, 2, 2, 2])
    };
    bounded.policy.fairness_bound = nanos(2);
    bounded.policy.priority_ageing = nanos(1);

    let mut full = Setup { leave: true, ..plain("a bounded queue", 2, &[5, 5, 5, 5, 5]) };
    full.policy.max_waiters = Some(2);
    full.policy.fairness_bound = nanos(1);

    let mut faults = Setup {
        faults: true,
        leave: true,
        verdicts: KEEP_OR_BREAK,
        ..plain("failing and hanging opens and closes", 2, &[5, 5, 5])
    };
    faults.policy.open_limit = nanos(1);
    faults.policy.close_limit = nanos(1);

    let mut slow =
        Setup { leave: true, ..plain("connects that are no longer counted on", 3, &[5, 5, 5]) };
    (slow.policy.patience_min, slow.policy.patience_max) = (nanos(1), nanos(1));
    slow.policy.open_limit = nanos(2);

    let mut hedges = Setup {
        leave: true,
        horizon: 5,
        ..plain("connects of all lengths, and more where they hang", 3, &[5, 5, 5])
    };
    hedges.policy.max_opening = 1;
    (hedges.policy.patience_min, hedges.policy.patience_max) = (nanos(1), nanos(3));
    hedges.policy.open_limit = nanos(4);

    let mut ramp = Setup {
        faults: true,
        ..plain("an outage, and more connects again after it", 3, &[5, 5, 5])
    };
    ramp.policy.max_opening = 3;
    (ramp.policy.patience_min, ramp.policy.patience_max) = (nanos(2), nanos(2));

    let mut fails_fast = Setup {
        faults: true,
        verdicts: KEEP_OR_BREAK,
        horizon: 3,
        owner: &[Action::Pause, Action::Resume],
        ..plain("failing fast", 2, &[5, 5])
    };
    fails_fast.policy.fail_fast_after = Some(nanos(2));
    fails_fast.policy.open_limit = nanos(2);

    let owner = Setup {
        owner: &[
            Action::Refresh,
            Action::Pause,
            Action::Resume,
            Action::SetMax(1),
            Action::SetMax(3),
            Action::Close,
        ],
        detach: true,
        leave: true,
        ..plain("refresh, pause, resize, close, detach", 2, &[5, 5])
    };

    let mut leaving = Setup {
        owner: &[Action::Close],
        faults: true,
        verdicts: &[
            Verdict::Keep,
            Verdict::Broken,
            Verdict::Check(Check { reset: true, ..Check::NONE }),
        ],
        ..plain("the last handle is dropped", 2, &[5, 5])
    };
    leaving.policy.max_closers = 1;
    leaving.policy.close_limit = nanos(1);
    leaving.policy.reset_limit = nanos(1);

    let mut checks =
        Setup { faults: true, leave: true, ..plain("failing and hanging checks", 2, &[5, 5]) };
    checks.policy.fresh_for = nanos(1);
    checks.policy.validation_limit = nanos(1);

    let mut resets = Setup {
        verdicts: &[Verdict::Keep, Verdict::Check(Check { reset: true, ..Check::NONE })],
        leave: true,
        ..plain("hanging resets", 2, &[5, 5])
    };
    resets.policy.validation_limit = nanos(1);
    resets.policy.reset_limit = nanos(1);

    // Its priority tells the client that only tries from the others in the key.
    let mut always = Setup {
        faults: true,
        leave: true,
        last_only_tries: true,
        ..plain("check always, and one that only tries", 2, &[5, 5, 6])
    };
    always.policy.fresh_for = Duration::ZERO;
    always.policy.fairness_bound = nanos(1);

    let mut checked = Setup {
        faults: true,
        last_only_tries: true,
        ..plain("only checks count, and one that only tries", 2, &[5, 6])
    };
    checked.policy.fresh_by_check = true;
    checked.policy.fresh_for = nanos(2);
    checked.policy.fairness_bound = nanos(1);
    checked.policy.priority_ageing = nanos(1);

    let mut ageing = Setup {
        horizon: 5,
        verdicts: KEEP,
        ..plain("lifetime, idle timeout, keepalive, min and max idle", 2, &[5, 5])
    };
    ageing.policy.max_lifetime = Some(nanos(4));
    ageing.policy.idle_timeout = Some(nanos(3));
    ageing.policy.keepalive = Some(nanos(2));
    ageing.policy.min_idle = Some(1);
    ageing.policy.max_idle = Some(1);

    let mut on_time = Setup {
        faults: true,
        horizon: 5,
        owner: &[Action::Refresh],
        ..plain("ends on time: lifetime, idle timeout, refresh, faults", 2, &[5])
    };
    on_time.policy.ends_on_time = true;
    on_time.policy.max_lifetime = Some(nanos(4));
    on_time.policy.idle_timeout = Some(nanos(3));
    on_time.policy.min_idle = Some(1);

    let mut all_on_time =
        Setup { horizon: 5, ..plain("ends on time: lifetimes in a full pool", 2, &[5, 5]) };
    all_on_time.policy.ends_on_time = true;
    all_on_time.policy.min_idle = None;
    all_on_time.policy.max_lifetime = Some(nanos(4));

    let mut nested = Setup {
        most_held: 2,
        leave: true,
        verdicts: KEEP_OR_BREAK,
        owner: &[Action::SetMax(1), Action::SetMax(2), Action::Refresh],
        ..plain("holders that wait for another, and deadlock", 2, &[5, 5, 5])
    };
    nested.policy.self_deadlock_limit = Some(nanos(1));

    let mut leaks = Setup {
        horizon: 5,
        verdicts: KEEP_OR_BREAK,
        ..plain("leaks, and an idle time", 2, &[5, 5])
    };
    leaks.policy.leak_threshold = Some(nanos(2));
    leaks.policy.idle_timeout = Some(nanos(3));

    let mut replaced = Setup {
        faults: true,
        owner: &[Action::Refresh, Action::Prove],
        ..plain("successors, refresh, proofs, faults", 2, &[5])
    };
    replaced.policy.min_idle = Some(1);

    let mut all_kept = Setup { horizon: 5, ..plain("lifetimes in a full pool", 2, &[5, 5]) };
    all_kept.policy.min_idle = None;
    all_kept.policy.max_lifetime = Some(nanos(4));

    let mut replaced_late = Setup {
        faults: true,
        horizon: 1,
        owner: &[Action::Refresh],
        ..plain("successors, connects that hang, failing fast", 3, &[5])
    };
    replaced_late.policy.fail_fast_after = Some(nanos(2));
    replaced_late.policy.open_limit = nanos(2);
    let patience = (nanos(1), nanos(1));
    (replaced_late.policy.patience_min, replaced_late.policy.patience_max) = patience;

    let tasks = Setup {
        tasks: 2,
        leave: true,
        verdicts: KEEP_OR_BREAK,
        horizon: 3,
        ..plain("tasks and a thread, polled late or never", 2, &[5, 5, 5])
    };

    let mut tasks_checked = Setup {
        tasks: 2,
        leave: true,
        faults: true,
        horizon: 3,
        ..plain("tasks: check always, overtaking, failing fast", 1, &[5, 5, 5])
    };
    tasks_checked.policy.fresh_for = Duration::ZERO;
    tasks_checked.policy.fairness_bound = nanos(1);
    tasks_checked.policy.fail_fast_after = Some(nanos(1));

    let tasks_and_owner = Setup {
        tasks: 2,
        owner: &[
            Action::Refresh,
            Action::Pause,
            Action::Resume,
            Action::SetMax(1),
            Action::SetMax(2),
            Action::Close,
        ],
        horizon: 3,
        ..plain("tasks: refresh, pause, resize, close", 2, &[5, 5])
    };

    vec![
        tasks,
        tasks_checked,
        tasks_and_owner,
        strict,
        bounded,
        full,
        faults,
        slow,
        hedges,
        ramp,
        fails_fast,
        owner,
        leaving,
        checks,
        resets,
        always,
        checked,
        ageing,
        on_time,
        all_on_time,
        nested,
        leaks,
        replaced,
        replaced_late,
        all_kept,
    ]
}

/// Those in which a handler begins and ends uses.
pub(super) fn setups_with_uses() -> Vec<Setup> {
    let handled = |ends, setup: Setup| {
        let policy = Policy { begins_uses: true, ends_uses: ends, ..setup.policy };
        Setup { policy, ..setup }
    };
    let mut uses = handled(
        true,
        Setup {
            faults: true,
            horizon: 1,
            ..plain("uses that begin and end, fail and hang", 2, &[5, 5])
        },
    );
    uses.policy.validation_limit = nanos(1);

    let mut late = handled(
        false,
        Setup {
            leave: true,
            last_only_tries: true,
            horizon: 1,
            ..plain("uses that begin: cancel, one that only tries, a bounded queue", 2, &[5, 5, 6])
        },
    );
    late.policy.validation_limit = nanos(1);
    late.policy.fresh_for = nanos(1);
    late.policy.max_waiters = Some(1);

    let tasks = handled(
        true,
        Setup {
            tasks: 1,
            leave: true,
            faults: true,
            horizon: 3,
            ..plain("uses of tasks that are polled late or never", 1, &[5, 5])
        },
    );

    let owner = handled(
        true,
        Setup {
            owner: &[
                Action::Refresh,
                Action::Pause,
                Action::Resume,
                Action::SetMax(1),
                Action::SetMax(2),
                Action::Close,
            ],
            detach: true,
            horizon: 1,
            ..plain("uses: refresh, pause, resize, close, detach", 2, &[5, 5])
        },
    );

    let doubt = handled(
        false,
        Setup {
            faults: true,
            verdicts: KEEP_OR_BREAK,
            marks: true,
            horizon: 1,
            ..plain("uses that begin: doubt", 2, &[5, 5, 5])
        },
    );

    vec![uses, late, tasks, owner, doubt]
}

/// Those in which connections die, and others are in doubt because of it.
pub(super) fn setups_with_doubt() -> Vec<Setup> {
    let mut doubt = Setup {
        faults: true,
        verdicts: &[
            Verdict::Keep,
            Verdict::Broken,
            Verdict::Check(Check { reset: true, ..Check::NONE }),
        ],
        last_only_tries: true,
        ..plain("doubt: errors, failed checks, and one that only tries", 2, &[5, 5, 6])
    };
    doubt.policy.fairness_bound = nanos(1);
    doubt.policy.priority_ageing = nanos(1);

    let three = Setup {
        faults: true,
        verdicts: KEEP_OR_BREAK,
        most_held: 2,
        marks: true,
        horizon: 1,
        ..plain("doubt: three connections", 3, &[5, 5])
    };

    let mut late = Setup {
        faults: true,
        verdicts: KEEP_OR_BREAK,
        horizon: 2,
        ..plain("doubt: checks that hang, keepalives", 2, &[5, 5])
    };
    late.policy.validation_limit = nanos(1);
    late.policy.keepalive = Some(nanos(2));

    let mut own = Setup {
        faults: true,
        verdicts: KEEP_OR_BREAK,
        checks_itself: true,
        leave: true,
        ..plain("doubt: callers that check themselves", 2, &[5, 5, 5])
    };
    own.policy.fresh_for = nanos(1);
    own.policy.fairness_bound = nanos(1);

    let mut own_late = Setup {
        checks_itself: true,
        last_only_tries: true,
        owner: &[Action::Close, Action::Pause, Action::Resume],
        ..plain("doubt: callers' own checks that hang, close, pause", 2, &[5, 6])
    };
    own_late.policy.fresh_for = Duration::ZERO;
    own_late.policy.validation_limit = nanos(1);

    let mut own_checked = Setup {
        verdicts: KEEP_OR_BREAK,
        checks_itself: true,
        horizon: 3,
        ..plain("doubt: only checks count, and callers check themselves", 2, &[5, 5])
    };
    own_checked.policy.fresh_by_check = true;
    own_checked.policy.fresh_for = nanos(2);
    own_checked.policy.keepalive = Some(nanos(3));

    let tasks = Setup {
        tasks: 2,
        faults: true,
        verdicts: KEEP_OR_BREAK,
        marks: true,
        horizon: 3,
        ..plain("doubt: tasks that are polled late", 2, &[5, 5, 5])
    };

    vec![doubt, three, late, own, own_late, own_checked, tasks]
}
