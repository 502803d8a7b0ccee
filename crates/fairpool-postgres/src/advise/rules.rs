//! The rules: pure functions of the settings and the server's figures.

use std::time::Duration;

use fairpool::diagnosis::Severity;
use fairpool::snapshot;

use super::{Recommendation, ServerFigures};

/// How much of the server this service may use, in percent. The rest is for migrations,
/// backups, administrators, and a new release that runs beside the old one.
const SHARE: u64 = 70;
const MOST_IDLE: u32 = 20;
const LIFETIME: Duration = Duration::from_secs(5 * 60);
const LONGEST_GET: Duration = Duration::from_secs(30);

/// The settings of a pool for which there are rules.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    max_size: u32,
    max_idle: u32,
    max_waiters: Option<u32>,
    max_lifetime: Option<Duration>,
    has_jitter: bool,
    idle_timeout: Option<Duration>,
    keepalive: Option<Duration>,
    leak_threshold: Option<Duration>,
    connection_timeout: Duration,
}

impl From<&snapshot::Settings> for Settings {
    fn from(all: &snapshot::Settings) -> Settings {
        Settings {
            max_size: all.max_size,
            max_idle: all.max_idle.min(all.max_size),
            max_waiters: all.max_waiters,
            max_lifetime: all.max_lifetime,
            has_jitter: all.lifetime_jitter_permille > 0,
            idle_timeout: all.idle_timeout,
            keepalive: all.keepalive,
            leak_threshold: all.leak_threshold,
            connection_timeout: all.connection_timeout,
        }
    }
}

impl Settings {
    /// How long a connection can be idle before it is closed or checked.
    fn longest_idle(&self) -> Option<Duration> {
        [self.idle_timeout, self.keepalive, self.max_lifetime].into_iter().flatten().min()
    }
}

fn recommend(
    setting: &'static str,
    severity: Severity,
    reason: String,
    advice: impl Into<String>,
) -> Option<Recommendation> {
    Some(Recommendation { setting, severity, reason, advice: advice.into() })
}

/// Checks that the server has room for all instances of the pool.
pub(super) fn connections(
    pool: &Settings,
    server: &ServerFigures,
    instances: u32,
) -> Option<Recommendation> {
    let &ServerFigures { max_connections, reserved, others, .. } = server;
    let wanted = u64::from(pool.max_size) * u64::from(instances);
    let share = u64::from(max_connections) * SHARE / 100;
    let free = u64::from(max_connections.saturating_sub(reserved)).saturating_sub(others);
    if wanted <= share.min(free) {
        return None;
    }
    let severity = if wanted > free { Severity::Critical } else { Severity::Warning };
    let product = match instances {
        1 => format!("{wanted} connections"),
        many => format!("{many} × {} = {wanted} connections", pool.max_size),
    };
    let limit = match wanted > free {
        true => format!(
            "but {free} are free: of {max_connections}, {reserved} are reserved and \
                         {others} taken by others"
        ),
        false => format!("more than {share}, {SHARE} % of max_connections ({max_connections})"),
    };
    let advice = match share.min(free) / u64::from(instances) {
        0 => "run fewer instances, raise max_connections, or put PgBouncer in between".to_owned(),
        most => format!("set it to at most {most}"),
    };
    recommend("max_size", severity, format!("{product}, {limit}"), advice)
}

/// Explains why the server's room was not checked.
pub(super) fn proxy_between(
    pool: &Settings,
    server: &ServerFigures,
    instances: u32,
    ports: &[u16],
) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let wanted = u64::from(pool.max_size) * u64::from(instances);
    format!(
        "whether {wanted} connections fit: the pool connects to port {}, but the server listens on \
         {}, so there is a proxy in between, such as PgBouncer; its limits apply \
         (max_client_conn for the pool, default_pool_size for the server's {} connections), and \
         session timeouts are reliable only if they are set for the role",
        if ports.is_empty() { "5432".to_owned() } else { ports.join(", ") },
        server.port,
        server.max_connections,
    )
}

/// Applies all other rules.
pub(super) fn all_but_connections(pool: &Settings, server: &ServerFigures) -> Vec<Recommendation> {
    let rules = [
        long_wait(pool),
        idle_in_transaction(server),
        locks(server),
        statements(server),
        idle_sessions(pool, server),
        jitter(pool),
        lifetime(pool),
        idle_connections(pool),
        waiters(pool),
        leaks(pool, server),
    ];
    rules.into_iter().flatten().collect()
}

fn long_wait(pool: &Settings) -> Option<Recommendation> {
    let span = pool.connection_timeout;
    if span <= LONGEST_GET {
        return None;
    }
    let reason = format!("callers wait up to {span:?}, longer than most users wait for an answer");
    recommend("connection_timeout", Severity::Warning, reason, "set a few seconds, at most 30")
}

fn statements(server: &ServerFigures) -> Option<Recommendation> {
    if server.statement_timeout.is_some() {
        return None;
    }
    let reason = "0, so a statement may run for ever".to_owned();
    recommend(
        "statement_timeout",
        Severity::Warning,
        reason,
        "set it above the longest that a statement may take",
    )
}

/// Milder if there is a `statement_timeout`, which ends waits for locks too.
fn locks(server: &ServerFigures) -> Option<Recommendation> {
    if server.lock_timeout.is_some() {
        return None;
    }
    let (severity, until) = match server.statement_timeout {
        Some(limit) => (Severity::Info, format!("until statement_timeout ({limit:?})")),
        None => (Severity::Warning, "for ever".to_owned()),
    };
    let reason = format!("0, so one open transaction can block all others {until}");
    recommend("lock_timeout", severity, reason, "set 1 to 2 s")
}

fn idle_in_transaction(server: &ServerFigures) -> Option<Recommendation> {
    if server.idle_in_transaction_session_timeout.is_some() {
        return None;
    }
    let reason = "0, so a forgotten transaction keeps its locks".to_owned();
    let setting = "idle_in_transaction_session_timeout";
    recommend(setting, Severity::Warning, reason, "set 10 to 60 s")
}

fn idle_sessions(pool: &Settings, server: &ServerFigures) -> Option<Recommendation> {
    let limit = server.idle_session_timeout?;
    let idle = pool.longest_idle();
    if idle.is_some_and(|idle| idle < limit) {
        return None;
    }
    let idle = match idle {
        Some(idle) => format!("connections stay idle for up to {idle:?}"),
        None => "connections stay idle for ever".to_owned(),
    };
    let reason = format!("{idle}, but the server's idle_session_timeout ends them after {limit:?}");
    let advice = format!("set it, or keepalive, to less than {limit:?}");
    recommend("idle_timeout", Severity::Warning, reason, advice)
}

fn jitter(pool: &Settings) -> Option<Recommendation> {
    if pool.has_jitter || pool.max_lifetime.is_none() {
        return None;
    }
    let reason = "0, so connections that were opened together end together".to_owned();
    recommend("lifetime_jitter", Severity::Warning, reason, "set it to 0.1, the default")
}

fn lifetime(pool: &Settings) -> Option<Recommendation> {
    let advice = "set 300s: connections move to a new server sooner, and sessions use less memory";
    match pool.max_lifetime {
        None => {
            let reason = "connections live for ever".to_owned();
            recommend("max_lifetime", Severity::Warning, reason, advice)
        }
        Some(life) if life > LIFETIME => {
            let reason = format!("up to {life:?}");
            recommend("max_lifetime", Severity::Info, reason, advice)
        }
        Some(_) => None,
    }
}

fn idle_connections(pool: &Settings) -> Option<Recommendation> {
    let best = pool.max_size.min(MOST_IDLE);
    let reason = format!("up to {} of {} connections stay idle", pool.max_idle, pool.max_size);
    let why = match pool.max_idle {
        many if many > best => "more only cost the server memory",
        few if few < best => "with fewer, the pool keeps closing and opening connections",
        _ => return None,
    };
    recommend("max_idle", Severity::Info, reason, format!("set it to {best}: {why}"))
}

fn waiters(pool: &Settings) -> Option<Recommendation> {
    if pool.max_waiters.is_some() {
        return None;
    }
    let reason = "not set, so only deadlines limit the queue".to_owned();
    recommend(
        "max_waiters",
        Severity::Info,
        reason,
        "set how many callers the pool can serve within connection_timeout",
    )
}

/// The pool should name the holder before the server ends its transaction.
fn leaks(pool: &Settings, server: &ServerFigures) -> Option<Recommendation> {
    let (reason, advice) = match (pool.leak_threshold, server.idle_in_transaction_session_timeout) {
        (None, _) => (
            "not set, so a leak shows only when the pool is exhausted".to_owned(),
            "set it above the longest that a transaction takes".to_owned(),
        ),
        (Some(leak), Some(limit)) if leak >= limit => (
            format!(
                "{leak:?}, but the server ends a forgotten transaction after {limit:?} \
                 (idle_in_transaction_session_timeout), before the pool names its holder"
            ),
            format!("set it to less than {limit:?}"),
        ),
        _ => return None,
    };
    recommend("leak_threshold", Severity::Info, reason, advice)
}

#[cfg(test)]
mod tests;
