//! Which figures there are, and what they are called.

use std::time::Duration;

use crate::metrics::Reading;
use crate::times::Timed;

/// The attribute that says which pool it is.
pub(super) const POOL_NAME: &str = "db.client.connection.pool.name";

/// A figure of each pool, or one for each value of an attribute.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Unit,
    pub(super) figures: Figures,
}

pub(super) type Figure = fn(&Reading) -> Amount;

#[derive(Clone, Copy)]
pub(super) enum Figures {
    One(Figure),
    By(&'static str, &'static [(&'static str, Figure)]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// How much there is now: that of several pools can be added up.
    Level,
    /// How much it is now.
    Gauge,
    /// What has happened so far.
    Counter,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// A number of these.
    Count(&'static str),
    Seconds,
}

/// A whole number, or seconds.
#[derive(Clone, Copy)]
pub(super) enum Amount {
    Whole(u64),
    Span(Duration),
}

impl From<u32> for Amount {
    fn from(number: u32) -> Amount {
        Amount::Whole(number.into())
    }
}

impl From<u64> for Amount {
    fn from(number: u64) -> Amount {
        Amount::Whole(number)
    }
}

impl From<Duration> for Amount {
    fn from(span: Duration) -> Amount {
        Amount::Span(span)
    }
}

impl Family {
    /// Shows each of its figures, with the attribute it is for.
    pub(super) fn each<E>(
        &self,
        reading: &Reading,
        mut show: impl FnMut(Option<(&'static str, &'static str)>, Amount) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.figures {
            Figures::One(figure) => show(None, figure(reading)),
            Figures::By(attribute, all) => all
                .iter()
                .try_for_each(|(value, figure)| show(Some((attribute, value)), figure(reading))),
        }
    }
}

/// A distribution of times.
pub(super) struct TimesFamily {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) of: Timed,
}

/// Where the buckets of the distributions end.
pub(super) const BOUNDS: [Duration; 17] = {
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

pub(super) const TIMES: [TimesFamily; 5] = [
    TimesFamily {
        name: "db.client.connection.create_time",
        help: "How long it took to open a connection",
        of: Timed::Connect,
    },
    TimesFamily {
        name: "db.client.connection.wait_time",
        help: "How long callers waited for a connection, whatever came of it",
        of: Timed::Wait,
    },
    TimesFamily {
        name: "db.client.connection.use_time",
        help: "How long connections were held",
        of: Timed::InUse,
    },
    TimesFamily {
        name: "fairpool.validate_time",
        help: "How long resets and validations of connections took",
        of: Timed::Validate,
    },
    TimesFamily {
        name: "fairpool.close_time",
        help: "How long it took to close a connection",
        of: Timed::Close,
    },
];

const CONNECTIONS: Unit = Unit::Count("{connection}");
const REQUESTS: Unit = Unit::Count("{request}");
const CALLS: Unit = Unit::Count("{call}");

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "db.client.connection.count",
        help: "Connections that are open, by state",
        kind: Kind::Level,
        unit: CONNECTIONS,
        figures: Figures::By(
            "db.client.connection.state",
            &[("idle", |r| r.stats.idle.into()), ("used", |r| r.stats.in_use.into())],
        ),
    },
    Family {
        name: "db.client.connection.max",
        help: "The most connections that there may be",
        kind: Kind::Level,
        unit: CONNECTIONS,
        figures: Figures::One(|r| r.stats.max_size.into()),
    },
    Family {
        name: "db.client.connection.idle.max",
        help: "The most connections that may be idle",
        kind: Kind::Level,
        unit: CONNECTIONS,
        figures: Figures::One(|r| r.max_idle.into()),
    },
    Family {
        name: "db.client.connection.idle.min",
        help: "The fewest connections that are to be idle",
        kind: Kind::Level,
        unit: CONNECTIONS,
        figures: Figures::One(|r| r.min_idle.into()),
    },
    Family {
        name: "db.client.connection.pending_requests",
        help: "Callers that wait for a connection",
        kind: Kind::Level,
        unit: REQUESTS,
        figures: Figures::One(|r| r.stats.waiting.into()),
    },
    Family {
        name: "db.client.connection.timeouts",
        help: "Callers that left at their deadline without a connection",
        kind: Kind::Counter,
        unit: Unit::Count("{timeout}"),
        figures: Figures::One(|r| r.stats.timeouts.into()),
    },
    Family {
        name: "fairpool.gets",
        help: "Connections handed out",
        kind: Kind::Counter,
        unit: REQUESTS,
        figures: Figures::One(|r| r.stats.gets.into()),
    },
    Family {
        name: "fairpool.gets_waited",
        help: "Connections handed out to callers that had to wait",
        kind: Kind::Counter,
        unit: REQUESTS,
        figures: Figures::One(|r| r.stats.gets_waited.into()),
    },
    Family {
        name: "fairpool.time_waited",
        help: "Time that callers have spent in the queue",
        kind: Kind::Counter,
        unit: Unit::Seconds,
        figures: Figures::One(|r| r.stats.time_waited.into()),
    },
    Family {
        name: "fairpool.refused",
        help: "Callers that were refused because the queue was full",
        kind: Kind::Counter,
        unit: REQUESTS,
        figures: Figures::One(|r| r.stats.refused.into()),
    },
    Family {
        name: "fairpool.cancelled",
        help: "Callers that left because they were cancelled",
        kind: Kind::Counter,
        unit: REQUESTS,
        figures: Figures::One(|r| r.stats.cancelled.into()),
    },
    Family {
        name: "fairpool.failed",
        help: "Callers that got another error: connecting fails for good, or the pool was closed",
        kind: Kind::Counter,
        unit: REQUESTS,
        figures: Figures::One(|r| r.stats.failed.into()),
    },
    Family {
        name: "fairpool.overtakes",
        help: "Callers that were served before somebody who waited",
        kind: Kind::Counter,
        unit: REQUESTS,
        figures: Figures::One(|r| r.stats.overtakes.into()),
    },
    Family {
        name: "fairpool.self_deadlocks",
        help: "How often every connection was held by a thread that itself waited",
        kind: Kind::Counter,
        unit: Unit::Count("{deadlock}"),
        figures: Figures::One(|r| r.stats.self_deadlocks.into()),
    },
    Family {
        name: "fairpool.oldest_wait",
        help: "How long the caller has waited who has waited longest",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        figures: Figures::One(|r| r.health.oldest_wait.into()),
    },
    Family {
        name: "fairpool.mean_wait",
        help: "How long the callers that wait have waited on average",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        figures: Figures::One(|r| r.health.mean_wait.into()),
    },
    Family {
        name: "fairpool.health",
        help: "How the pool is: 0 healthy, 1 warning, 2 critical",
        kind: Kind::Gauge,
        unit: Unit::Count("1"),
        figures: Figures::One(|r| (r.health.level as u32).into()),
    },
    Family {
        name: "fairpool.opened",
        help: "Connections opened",
        kind: Kind::Counter,
        unit: CONNECTIONS,
        figures: Figures::One(|r| r.stats.opened.into()),
    },
    Family {
        name: "fairpool.closed",
        help: "Connections that left the pool, by reason",
        kind: Kind::Counter,
        unit: CONNECTIONS,
        figures: Figures::By(
            "reason",
            &[
                ("broken", |r| r.stats.closed.broken.into()),
                ("invalid", |r| r.stats.closed.invalid.into()),
                ("expired", |r| r.stats.closed.expired.into()),
                ("idle_too_long", |r| r.stats.closed.idle_too_long.into()),
                ("excess", |r| r.stats.closed.excess.into()),
                ("stale", |r| r.stats.closed.stale.into()),
                ("closed", |r| r.stats.closed.closed.into()),
                ("detached", |r| r.stats.closed.detached.into()),
            ],
        ),
    },
    Family {
        name: "fairpool.connect_failures",
        help: "Attempts to open a connection that failed or overran their limit",
        kind: Kind::Counter,
        unit: CALLS,
        figures: Figures::One(|r| r.stats.open_failures.into()),
    },
    Family {
        name: "fairpool.failing",
        help: "For how long connecting has failed; 0 if it does not",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        figures: Figures::One(|r| r.failing_for.unwrap_or_default().into()),
    },
    Family {
        name: "fairpool.check_failures",
        help: "Resets and validations of connections that failed",
        kind: Kind::Counter,
        unit: CALLS,
        figures: Figures::One(|r| r.stats.check_failures.into()),
    },
    Family {
        name: "fairpool.leaks",
        help: "Connections that were held longer than the leak threshold",
        kind: Kind::Counter,
        unit: CONNECTIONS,
        figures: Figures::One(|r| r.stats.leaks.into()),
    },
    Family {
        name: "fairpool.leaked",
        help: "Connections held longer than the leak threshold that have not come back",
        kind: Kind::Level,
        unit: CONNECTIONS,
        figures: Figures::One(|r| r.leaked.into()),
    },
    Family {
        name: "fairpool.opening",
        help: "Connections that are being opened",
        kind: Kind::Level,
        unit: CONNECTIONS,
        figures: Figures::One(|r| r.stats.opening.into()),
    },
    Family {
        name: "fairpool.checking",
        help: "Connections that are being reset or validated",
        kind: Kind::Level,
        unit: CONNECTIONS,
        figures: Figures::One(|r| r.stats.checking.into()),
    },
    Family {
        name: "fairpool.closing",
        help: "Connections that are being closed or wait for it",
        kind: Kind::Level,
        unit: CONNECTIONS,
        figures: Figures::One(|r| r.stats.closing.into()),
    },
    Family {
        name: "fairpool.abandoned",
        help: "Driver calls that overran their limit and have not come back",
        kind: Kind::Level,
        unit: CALLS,
        figures: Figures::One(|r| r.stats.abandoned.into()),
    },
    Family {
        name: "fairpool.abandoned_calls",
        help: "Driver calls that overran their limit",
        kind: Kind::Counter,
        unit: CALLS,
        figures: Figures::One(|r| r.stats.abandoned_calls.into()),
    },
    Family {
        name: "fairpool.events_lost",
        help: "Events that subscribers were too slow for",
        kind: Kind::Counter,
        unit: Unit::Count("{event}"),
        figures: Figures::One(|r| r.stats.events_lost.into()),
    },
];
