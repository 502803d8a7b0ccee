//! The driver's own limits of time, which must fit into the pool's.

use std::sync::OnceLock;
use std::time::Duration;

use fairpool::CallLimits;
use mysql::Opts;

/// The limits without a pool: the pool's own defaults.
const OPEN: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_secs(2);

/// The limits of the manager's pool, once there is one.
#[derive(Default)]
pub(super) struct PoolLimits(OnceLock<CallLimits>);

impl PoolLimits {
    pub(super) fn set(&self, limits: &CallLimits) {
        self.0.get_or_init(|| *limits);
    }

    /// How long a connect to one of this many servers may take.
    pub(super) fn open(&self, servers: u32) -> Duration {
        share(self.0.get().map_or(OPEN, |limits| limits.open)) / servers
    }

    pub(super) fn validation(&self) -> Duration {
        share(self.0.get().map_or(SHORT, |limits| limits.validation))
    }

    pub(super) fn reset(&self) -> Duration {
        share(self.0.get().map_or(SHORT, |limits| limits.reset))
    }
}

/// How long the driver may take in a call, so that it says what is wrong before the pool
/// abandons the call.
fn share(limit: Duration) -> Duration {
    limit / 5 * 4
}

/// A sentence for the log if the user's own limit for opening sockets does not fit into the pool's.
pub(super) fn connect_timeout_misfit(
    opts: &Opts,
    servers: u32,
    pool: &CallLimits,
) -> Option<String> {
    let timeout = opts.get_tcp_connect_timeout()?;
    if timeout.saturating_mul(servers) <= share(pool.open) {
        return None;
    }
    let each = match servers {
        1 => String::new(),
        many => format!(" for each of {many} servers"),
    };
    let (most, open) = (share(pool.open) / servers, pool.open);
    let least = timeout.saturating_mul(servers).saturating_mul(5) / 4;
    Some(format!(
        "tcp_connect_timeout ({timeout:?}{each}) does not fit well into open_timeout ({open:?}): \
         the pool gives up a connect before the driver can say why it fails; set \
         tcp_connect_timeout to at most {most:?}, or open_timeout to at least {least:?}"
    ))
}
