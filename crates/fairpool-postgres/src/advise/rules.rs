//! The rules by which settings are judged: on figures alone.

use std::time::Duration;

use super::{Recommendation, ServerFigures};
use crate::Severity;
use crate::core::Policy;

/// How much of the server this service may take, in percent: the rest is for
/// migrations, backups, people, and the next release that runs beside this one.
const SHARE: u64 = 70;
const MOST_IDLE: u32 = 20;
const LIFETIME: Duration = Duration::from_secs(5 * 60);
const LONGEST_GET: Duration = Duration::from_secs(30);

/// A pool's settings, as far as there are rules for them.
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

impl Settings {
    pub(super) fn of(policy: &Policy, connection_timeout: Duration) -> Settings {
        Settings {
            max_size: policy.max_size,
            max_idle: policy.max_idle_now().min(policy.max_size),
            max_waiters: policy.max_waiters,
            max_lifetime: policy.max_lifetime,
            has_jitter: policy.lifetime_jitter_permille > 0,
            idle_timeout: policy.idle_timeout,
            keepalive: policy.keepalive,
            leak_threshold: policy.leak_threshold,
            connection_timeout,
        }
    }

    /// The longest that a connection rests before it is closed or checked.
    fn longest_rest(&self) -> Option<Duration> {
        [self.idle_timeout, self.keepalive, self.max_lifetime].into_iter().flatten().min()
    }
}

fn say(
    setting: &'static str,
    severity: Severity,
    reason: String,
    advice: impl Into<String>,
) -> Option<Recommendation> {
    Some(Recommendation { setting, severity, reason, advice: advice.into() })
}

/// Whether the server has room for all these pools.
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
        0 => "run fewer instances, raise max_connections, or put a PgBouncer between".to_owned(),
        most => format!("set it to at most {most}"),
    };
    say("max_size", severity, format!("{product}, {limit}"), advice)
}

/// What is said instead if the server's connections are not the pool's own.
pub(super) fn something_between(
    pool: &Settings,
    server: &ServerFigures,
    instances: u32,
    ports: &[u16],
) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let wanted = u64::from(pool.max_size) * u64::from(instances);
    format!(
        "whether {wanted} connections fit: the pool connects to port {}, and the server listens on \
         {}, so something stands between, such as a PgBouncer; its limits count then \
         (max_client_conn for the pool, default_pool_size for the server's {}), and timeouts set \
         for the session are reliable only if they are set for the role",
        if ports.is_empty() { "5432".to_owned() } else { ports.join(", ") },
        server.port,
        server.max_connections,
    )
}

/// All other rules.
pub(super) fn rest(pool: &Settings, server: &ServerFigures) -> Vec<Recommendation> {
    let rules = [
        waits_in_the_pool(pool),
        idle_in_transaction(server),
        locks(server),
        statements(server),
        rests(pool, server),
        jitter(pool),
        lifetime(pool),
        idle(pool),
        waiters(pool),
        leaks(pool),
    ];
    rules.into_iter().flatten().collect()
}

fn waits_in_the_pool(pool: &Settings) -> Option<Recommendation> {
    let span = pool.connection_timeout;
    if span <= LONGEST_GET {
        return None;
    }
    let reason = format!("callers wait up to {span:?}, longer than anybody waits for an answer");
    say("connection_timeout", Severity::Warning, reason, "set a few seconds, 30 at the most")
}

fn statements(server: &ServerFigures) -> Option<Recommendation> {
    if server.statement_timeout.is_some() {
        return None;
    }
    let reason = "0, so a statement may run for ever".to_owned();
    say("statement_timeout", Severity::Warning, reason, "set what the longest may take")
}

/// A statement that waits for a lock ends with its statement's limit too.
fn locks(server: &ServerFigures) -> Option<Recommendation> {
    if server.lock_timeout.is_some() {
        return None;
    }
    let (severity, until) = match server.statement_timeout {
        Some(limit) => (Severity::Info, format!("until statement_timeout ({limit:?})")),
        None => (Severity::Warning, "for ever".to_owned()),
    };
    let reason = format!("0, so one open transaction can stop all {until}");
    say("lock_timeout", severity, reason, "set a second or two")
}

fn idle_in_transaction(server: &ServerFigures) -> Option<Recommendation> {
    if server.idle_in_transaction_session_timeout.is_some() {
        return None;
    }
    let reason = "0, so open transactions keep locks".to_owned();
    let setting = "idle_in_transaction_session_timeout";
    say(setting, Severity::Warning, reason, "set 10 to 60 s")
}

fn rests(pool: &Settings, server: &ServerFigures) -> Option<Recommendation> {
    let limit = server.idle_session_timeout?;
    let rest = pool.longest_rest();
    if rest.is_some_and(|rest| rest < limit) {
        return None;
    }
    let rest = match rest {
        Some(rest) => format!("connections rest for up to {rest:?}"),
        None => "connections rest for ever".to_owned(),
    };
    let reason = format!("{rest}, but the server's idle_session_timeout ends them after {limit:?}");
    let advice = format!("set it, or keepalive, to less than {limit:?}");
    say("idle_timeout", Severity::Warning, reason, advice)
}

fn jitter(pool: &Settings) -> Option<Recommendation> {
    if pool.has_jitter || pool.max_lifetime.is_none() {
        return None;
    }
    let reason = "0, so connections that were opened together end together".to_owned();
    say("lifetime_jitter", Severity::Warning, reason, "leave it at 0.1")
}

fn lifetime(pool: &Settings) -> Option<Recommendation> {
    let advice = "300s find a new server sooner, and old sessions grow less";
    match pool.max_lifetime {
        None => {
            let reason = "connections live for ever".to_owned();
            say("max_lifetime", Severity::Warning, reason, advice)
        }
        Some(life) if life > LIFETIME => {
            let reason = format!("up to {life:?}");
            say("max_lifetime", Severity::Info, reason, advice)
        }
        Some(_) => None,
    }
}

fn idle(pool: &Settings) -> Option<Recommendation> {
    let best = pool.max_size.min(MOST_IDLE);
    let reason = format!("up to {} connections rest, of {}", pool.max_idle, pool.max_size);
    let why = match pool.max_idle {
        many if many > best => "more only cost the server memory",
        few if few < best => "with fewer, connections are closed and opened all the time",
        _ => return None,
    };
    say("max_idle", Severity::Info, reason, format!("set it to {best}: {why}"))
}

fn waiters(pool: &Settings) -> Option<Recommendation> {
    if pool.max_waiters.is_some() {
        return None;
    }
    let reason = "not set, so only deadlines end the queue".to_owned();
    say("max_waiters", Severity::Info, reason, "set what is served within one")
}

fn leaks(pool: &Settings) -> Option<Recommendation> {
    if pool.leak_threshold.is_some() {
        return None;
    }
    let reason = "not set, so leaks show when the pool is dry".to_owned();
    say("leak_threshold", Severity::Info, reason, "set what no transaction takes")
}

#[cfg(test)]
mod tests;
