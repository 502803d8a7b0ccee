//! Which metrics there are.

use std::time::Duration;

use fairpool::health::HealthLevel;

use crate::family::{Family, HistogramFamily, Kind, Unit, Values};

/// The attribute that has the pool's name.
pub const POOL_NAME: &str = "db.client.connection.pool.name";

const CONNECTIONS: Unit = Unit::Count("{connection}");
const REQUESTS: Unit = Unit::Count("{request}");
const CALLS: Unit = Unit::Count("{call}");

/// The metrics that are single values.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "db.client.connection.count",
        help: "Open connections, by state",
        kind: Kind::UpDown,
        unit: CONNECTIONS,
        values: Values::By(
            "db.client.connection.state",
            &[("idle", |r| r.stats.idle.into()), ("used", |r| r.stats.in_use.into())],
        ),
    },
    Family {
        name: "db.client.connection.max",
        help: "Maximum number of connections",
        kind: Kind::UpDown,
        unit: CONNECTIONS,
        values: Values::One(|r| r.stats.max_size.into()),
    },
    Family {
        name: "db.client.connection.idle.max",
        help: "Maximum number of idle connections",
        kind: Kind::UpDown,
        unit: CONNECTIONS,
        values: Values::One(|r| r.max_idle.into()),
    },
    Family {
        name: "db.client.connection.idle.min",
        help: "Number of connections that the pool keeps idle",
        kind: Kind::UpDown,
        unit: CONNECTIONS,
        values: Values::One(|r| r.min_idle.into()),
    },
    Family {
        name: "db.client.connection.pending_requests",
        help: "Callers in the queue",
        kind: Kind::UpDown,
        unit: REQUESTS,
        values: Values::One(|r| r.stats.waiting.into()),
    },
    Family {
        name: "db.client.connection.timeouts",
        help: "Gets that timed out",
        kind: Kind::Counter,
        unit: Unit::Count("{timeout}"),
        values: Values::One(|r| r.stats.timeouts.into()),
    },
    Family {
        name: "fairpool.gets",
        help: "Successful gets",
        kind: Kind::Counter,
        unit: REQUESTS,
        values: Values::One(|r| r.stats.gets.into()),
    },
    Family {
        name: "fairpool.gets_waited",
        help: "Successful gets that had to wait",
        kind: Kind::Counter,
        unit: REQUESTS,
        values: Values::One(|r| r.stats.gets_waited.into()),
    },
    Family {
        name: "fairpool.time_waited",
        help: "Total time that callers have spent in the queue",
        kind: Kind::Counter,
        unit: Unit::Seconds,
        values: Values::One(|r| r.stats.time_waited.into()),
    },
    Family {
        name: "fairpool.refused",
        help: "Gets refused because the queue was full",
        kind: Kind::Counter,
        unit: REQUESTS,
        values: Values::One(|r| r.stats.refused.into()),
    },
    Family {
        name: "fairpool.cancelled",
        help: "Gets cancelled by their token",
        kind: Kind::Counter,
        unit: REQUESTS,
        values: Values::One(|r| r.stats.cancelled.into()),
    },
    Family {
        name: "fairpool.failed",
        help: "Gets that failed for another reason: connect error (permanent, or failing fast), closed pool or self-deadlock",
        kind: Kind::Counter,
        unit: REQUESTS,
        values: Values::One(|r| r.stats.failed.into()),
    },
    Family {
        name: "fairpool.gets_not_taken",
        help: "Gets of tasks that were dropped, or not polled in time, after they were granted a connection",
        kind: Kind::Counter,
        unit: REQUESTS,
        values: Values::One(|r| r.stats.gets_not_taken.into()),
    },
    Family {
        name: "fairpool.driver.events",
        help: "What the driver counts, such as calls whose statement was prepared already",
        kind: Kind::Counter,
        unit: Unit::Count("{event}"),
        values: Values::OfDriver("fairpool.driver.event"),
    },
    Family {
        name: "fairpool.overtakes",
        help: "Gets served before a caller that was already waiting",
        kind: Kind::Counter,
        unit: REQUESTS,
        values: Values::One(|r| r.stats.overtakes.into()),
    },
    Family {
        name: "fairpool.self_deadlocks",
        help: "Times that every connection was held by a thread that itself waited for one",
        kind: Kind::Counter,
        unit: Unit::Count("{deadlock}"),
        values: Values::One(|r| r.stats.self_deadlocks.into()),
    },
    Family {
        name: "fairpool.oldest_wait",
        help: "Time that the longest-waiting caller has waited so far",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        values: Values::One(|r| r.health.oldest_wait.into()),
    },
    Family {
        name: "fairpool.mean_wait",
        help: "Mean time that the callers in the queue have waited so far",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        values: Values::One(|r| r.health.mean_wait.into()),
    },
    Family {
        name: "fairpool.health",
        help: "Health of the pool: 0 healthy, 1 warning, 2 critical",
        kind: Kind::Gauge,
        unit: Unit::Count("1"),
        values: Values::One(|r| health(r.health.level).into()),
    },
    Family {
        name: "fairpool.opened",
        help: "Connections opened",
        kind: Kind::Counter,
        unit: CONNECTIONS,
        values: Values::One(|r| r.stats.opened.into()),
    },
    Family {
        name: "fairpool.closed",
        help: "Connections that left the pool, by reason",
        kind: Kind::Counter,
        unit: CONNECTIONS,
        values: Values::By(
            "reason",
            &[
                ("broken", |r| r.stats.closed.broken.into()),
                ("invalid", |r| r.stats.closed.invalid.into()),
                ("expired", |r| r.stats.closed.expired.into()),
                ("idle_too_long", |r| r.stats.closed.idle_too_long.into()),
                ("excess", |r| r.stats.closed.excess.into()),
                ("stale", |r| r.stats.closed.stale.into()),
                ("pool_closed", |r| r.stats.closed.pool_closed.into()),
                ("use_handler", |r| r.stats.closed.use_handler.into()),
                ("detached", |r| r.stats.closed.detached.into()),
            ],
        ),
    },
    Family {
        name: "fairpool.connect_failures",
        help: "Attempts to connect that failed or overran their limit",
        kind: Kind::Counter,
        unit: CALLS,
        values: Values::One(|r| r.stats.open_failures.into()),
    },
    Family {
        name: "fairpool.failing",
        help: "Time since when connecting has failed; 0 if it works",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        values: Values::One(|r| r.failing_for.unwrap_or_default().into()),
    },
    Family {
        name: "fairpool.ready",
        help: "1 if the pool can be expected to serve its next caller, else 0",
        kind: Kind::Gauge,
        unit: Unit::Count("1"),
        values: Values::One(|r| u64::from(r.ready).into()),
    },
    Family {
        name: "fairpool.outdated",
        help: "Open connections that wait for their successors",
        kind: Kind::UpDown,
        unit: CONNECTIONS,
        values: Values::One(|r| r.stats.outdated.into()),
    },
    Family {
        name: "fairpool.check_failures",
        help: "Failed resets and validations of connections",
        kind: Kind::Counter,
        unit: CALLS,
        values: Values::One(|r| r.stats.check_failures.into()),
    },
    Family {
        name: "fairpool.leaks",
        help: "Checkouts that lasted longer than the leak threshold",
        kind: Kind::Counter,
        unit: CONNECTIONS,
        values: Values::One(|r| r.stats.leaks.into()),
    },
    Family {
        name: "fairpool.leaked",
        help: "Connections held for longer than the leak threshold now",
        kind: Kind::UpDown,
        unit: CONNECTIONS,
        values: Values::One(|r| r.leaked.into()),
    },
    Family {
        name: "fairpool.opening",
        help: "Connections being opened",
        kind: Kind::UpDown,
        unit: CONNECTIONS,
        values: Values::One(|r| r.stats.opening.into()),
    },
    Family {
        name: "fairpool.checking",
        help: "Connections being reset or validated",
        kind: Kind::UpDown,
        unit: CONNECTIONS,
        values: Values::One(|r| r.stats.checking.into()),
    },
    Family {
        name: "fairpool.closing",
        help: "Connections being closed, or waiting for a closer",
        kind: Kind::UpDown,
        unit: CONNECTIONS,
        values: Values::One(|r| r.stats.closing.into()),
    },
    Family {
        name: "fairpool.abandoned",
        help: "Driver calls that overran their limit and have not returned",
        kind: Kind::UpDown,
        unit: CALLS,
        values: Values::One(|r| r.stats.abandoned.into()),
    },
    Family {
        name: "fairpool.abandoned_calls",
        help: "Driver calls that overran their limit",
        kind: Kind::Counter,
        unit: CALLS,
        values: Values::One(|r| r.stats.abandoned_calls.into()),
    },
    Family {
        name: "fairpool.events_lost",
        help: "Events that subscribers were too slow to receive",
        kind: Kind::Counter,
        unit: Unit::Count("{event}"),
        values: Values::One(|r| r.stats.events_lost.into()),
    },
];

/// The metrics that are distributions of times.
pub const HISTOGRAMS: &[HistogramFamily] = &[
    HistogramFamily {
        name: "db.client.connection.create_time",
        help: "Time to open a connection",
        select: |times| &times.connect,
    },
    HistogramFamily {
        name: "db.client.connection.wait_time",
        help: "Time that a get took, successful or not",
        select: |times| &times.wait,
    },
    HistogramFamily {
        name: "db.client.connection.use_time",
        help: "Time that a caller held a connection",
        select: |times| &times.in_use,
    },
    HistogramFamily {
        name: "fairpool.validate_time",
        help: "Time of a reset or validation of a connection",
        select: |times| &times.validate,
    },
    HistogramFamily {
        name: "fairpool.close_time",
        help: "Time to close a connection",
        select: |times| &times.close,
    },
];

/// The upper bounds of the buckets of histograms; a last bucket has no bound.
pub const BUCKET_BOUNDS: [Duration; 17] = {
    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }
    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }
    [
        us(100),
        us(250),
        us(500),
        ms(1),
        us(2_500),
        ms(5),
        ms(10),
        ms(25),
        ms(50),
        ms(100),
        ms(250),
        ms(500),
        ms(1_000),
        ms(2_500),
        ms(5_000),
        ms(10_000),
        ms(30_000),
    ]
};

fn health(level: HealthLevel) -> u32 {
    match level {
        HealthLevel::Healthy => 0,
        HealthLevel::Warning => 1,
        _ => 2,
    }
}
