//! The driver's own limits of time, which must fit into the pool's.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use fairpool::CallLimits;
use postgres::Config;
use postgres::config::Host;

/// The default of `connect_timeout` without a pool.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default is not less than this, however many addresses there are: enough for a
/// connect to another continent.
const SHORTEST: Duration = Duration::from_millis(500);

/// The limits of the manager's pool, once there is one. A clone of the manager has none,
/// because it is for another pool.
#[derive(Default)]
pub(super) struct PoolLimits(OnceLock<CallLimits>);

impl PoolLimits {
    pub(super) fn set(&self, limits: &CallLimits) {
        self.0.get_or_init(|| *limits);
    }

    pub(super) fn get(&self) -> Option<&CallLimits> {
        self.0.get()
    }
}

impl Clone for PoolLimits {
    fn clone(&self) -> PoolLimits {
        PoolLimits::default()
    }
}

/// How long the driver may take in a call, so that it says what is wrong before the pool
/// abandons the call.
fn share(limit: Duration) -> Duration {
    limit / 5 * 4
}

/// The default of `connect_timeout`, which the driver applies to one address after the
/// other.
pub(super) fn default_connect_timeout(config: &Config, pool: Option<&CallLimits>) -> Duration {
    let Some(limits) = pool else { return CONNECT_TIMEOUT };
    let share = share(limits.open);
    // Most names have an address of each kind at the most.
    (share / addresses(config, 2)).max(SHORTEST.min(share))
}

/// A sentence for the log if the connects to all addresses do not fit into the pool's limit.
pub(super) fn connect_timeout_misfit(config: &Config, pool: &CallLimits) -> Option<String> {
    let timeout = *config.get_connect_timeout()?;
    let addresses = addresses(config, 1);
    if timeout.saturating_mul(addresses) <= share(pool.open) {
        return None;
    }
    let each = match addresses {
        1 => String::new(),
        many => format!(" for each of {many} addresses"),
    };
    let (most, open) = (share(pool.open) / addresses, pool.open);
    let least = timeout.saturating_mul(addresses).saturating_mul(5) / 4;
    Some(format!(
        "connect_timeout ({timeout:?}{each}) does not fit well into open_timeout ({open:?}): the \
         pool gives up a connect before the driver can say why it fails; set connect_timeout to \
         at most {most:?}, or open_timeout to at least {least:?}"
    ))
}

/// The number of addresses to which the driver connects one after the other if none answers.
/// A name counts as `of_name` addresses, and a Unix socket as none: it answers at once.
fn addresses(config: &Config, of_name: u32) -> u32 {
    let of_host = |host: &Host| match host {
        Host::Tcp(name) if name.parse::<IpAddr>().is_ok() => 1,
        Host::Tcp(_) => of_name,
        #[cfg(unix)]
        Host::Unix(_) => 0,
    };
    let all = match config.get_hostaddrs() {
        [] => config.get_hosts().iter().map(of_host).sum(),
        addresses => u32::try_from(addresses.len()).unwrap_or(u32::MAX),
    };
    all.max(1)
}
