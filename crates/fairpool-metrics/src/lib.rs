//! Metrics for those who have a monitoring stack already.
//!
//! With the feature `prometheus` there is a collector for the crate
//! `prometheus-client`; with the feature `opentelemetry`, instruments for a meter of
//! the crate `opentelemetry`. Both show the same figures of a list of pools, of
//! whatever drivers. They do not keep pools alive: a pool that is gone disappears.
//! Each look takes a pool's lock once, for as long as it takes to copy its counters.
//!
//! # Names
//!
//! What [OpenTelemetry's conventions][names] have a name for has that name, and what
//! they lack begins with `fairpool.`. Prometheus shows them with underscores,
//! `_seconds` where the unit is seconds, and `_total` at the end of counters:
//! `db.client.connection.timeouts` is `db_client_connection_timeouts_total`. Each
//! carries the pool's name as `db.client.connection.pool.name`. If a pool is added
//! while another of its name lives, its name is followed by `-2` (or the next number
//! that is free), so that no two pools share a series.
//!
//! | name | kind | what |
//! |---|---|---|
//! | `db.client.connection.count` | gauge | connections, by `db.client.connection.state`: `idle`, `used` |
//! | `db.client.connection.max` | gauge | `max_size` |
//! | `db.client.connection.idle.max` | gauge | `max_idle` |
//! | `db.client.connection.idle.min` | gauge | `min_idle` |
//! | `db.client.connection.pending_requests` | gauge | callers that wait |
//! | `db.client.connection.timeouts` | counter | callers that left at their deadline |
//! | `db.client.connection.create_time` | histogram, s | how long connecting took |
//! | `db.client.connection.wait_time` | histogram, s | how long gets took, whatever came of them; one that found an idle connection counts as zero |
//! | `db.client.connection.use_time` | histogram, s | how long connections were held |
//! | `fairpool.gets` | counter | connections handed out |
//! | `fairpool.gets_waited` | counter | of those, to a caller that had to wait |
//! | `fairpool.time_waited` | counter, s | time that callers have spent in the queue |
//! | `fairpool.refused` | counter | callers refused because the queue was full |
//! | `fairpool.cancelled` | counter | callers whose token was cancelled |
//! | `fairpool.failed` | counter | callers that got another error: connecting fails for good, the pool was closed, or they waited for themselves |
//! | `fairpool.overtakes` | counter | gets served before somebody who waited |
//! | `fairpool.self_deadlocks` | counter | how often every connection was held by a thread that itself waited |
//! | `fairpool.oldest_wait` | gauge, s | how long the one has waited who has waited longest |
//! | `fairpool.mean_wait` | gauge, s | how long those who wait have waited on average |
//! | `fairpool.health` | gauge | 0 healthy, 1 warning, 2 critical |
//! | `fairpool.opened` | counter | connections opened |
//! | `fairpool.closed` | counter | connections that left the pool, by `reason`: the fields of [`ClosedBy`](crate::ClosedBy) |
//! | `fairpool.connect_failures` | counter | attempts to connect that failed or overran their limit |
//! | `fairpool.failing` | gauge, s | for how long connecting has failed; 0 if it does not |
//! | `fairpool.check_failures` | counter | resets and validations that failed |
//! | `fairpool.leaks` | counter | checkouts that lasted longer than `leak_threshold` |
//! | `fairpool.leaked` | gauge | of those, the ones that have not come back |
//! | `fairpool.opening` | gauge | connections being opened |
//! | `fairpool.checking` | gauge | connections being reset or validated; they count as `used` |
//! | `fairpool.closing` | gauge | connections being closed |
//! | `fairpool.abandoned` | gauge | driver calls that overran their limit and have not come back |
//! | `fairpool.abandoned_calls` | counter | driver calls that overran their limit |
//! | `fairpool.events_lost` | counter | events that subscribers were too slow for |
//! | `fairpool.validate_time` | histogram, s | how long resets and validations took |
//! | `fairpool.close_time` | histogram, s | how long closing took |
//!
//! The buckets of histograms end at 100, 250 and 500 µs, and so on to 10 s, and at
//! 30 s. A value is known to 1 %, and so is the bucket that it falls into.
//!
//! [names]: https://opentelemetry.io/docs/specs/semconv/database/database-metrics/

mod families;
#[cfg(feature = "opentelemetry")]
mod opentelemetry;
mod pools;
#[cfg(feature = "prometheus")]
mod prometheus;
mod reading;

#[cfg(feature = "opentelemetry")]
pub use self::opentelemetry::OpenTelemetryMetrics;
#[cfg(feature = "prometheus")]
pub use self::prometheus::{PrometheusCollector, TEXT_CONTENT_TYPE};
pub(crate) use self::reading::Reading;
