//! A network of one's own with a link to it that can lose every packet: no
//! reset, no refusal, nothing comes back. Needs root and `ip` (iproute2).
//!
//! The test stays where it is. What runs inside the network is reached at
//! [`Network::inside`]; [`Network::swallow`] makes a black hole of the route
//! back, which has the network drop what comes from the test as well, since it
//! is set to accept only what it could answer (`rp_filter`).
//!
//! As with the cluster, a shell script removes everything when a pipe from the
//! test ends, however the test does.

use std::fmt::Write as _;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// `$1` is the namespace, `$2` the test's end of the link.
const KEEPER: &str = r#"
read -r line
ip link delete "$2" 2>/dev/null
ip netns delete "$1"
"#;

pub(crate) struct Network {
    name: String,
    /// The test's end of the link.
    near: String,
    /// The link's network: four addresses, which are nobody's on any network
    /// (RFC 2544, for benchmarks).
    prefix: String,
    keeper: Option<Child>,
}

impl Network {
    /// Makes one, or says why it cannot.
    pub(crate) fn make() -> Result<Network, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = process::id();
        // A name of a link has at most 15 bytes.
        let near = format!("fpl{id}n{number}");
        let far = format!("fpl{id}f{number}");
        let name = format!("fairpool-{id}-{number}");
        let prefix = format!("198.{}.{}", 18 + id % 2, (id / 2 + number) % 256);
        ip(&["netns", "add", &name])?;
        let mut network = Network { near, prefix, keeper: None, name };
        network.keeper = Some(network.hire()?);
        let (near, name) = (&network.near, &network.name);
        ip(&["link", "add", near, "type", "veth", "peer", "name", &far, "netns", name])?;
        ip(&["address", "add", &format!("{}/30", network.outside()), "dev", near])?;
        ip(&["link", "set", near, "up"])?;
        ip(&["-n", name, "address", "add", &format!("{}/30", network.inside()), "dev", &far])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "link", "set", &far, "up"])?;
        let strict = "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter";
        ip(&["netns", "exec", name, "sh", "-c", strict])?;
        Ok(network)
    }

    /// The name of the namespace, for `ip netns exec`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The address of what runs inside.
    pub(crate) fn inside(&self) -> String {
        format!("{}.2", self.prefix)
    }

    /// The address from which the test comes.
    pub(crate) fn outside(&self) -> String {
        format!("{}.1", self.prefix)
    }

    /// From now on every packet is lost, in both directions.
    pub(crate) fn swallow(&self) {
        self.route("add");
    }

    /// Packets pass again.
    pub(crate) fn pass(&self) {
        self.route("delete");
    }

    fn route(&self, what: &str) {
        let back = format!("{}/32", self.outside());
        ip(&["-n", &self.name, "route", what, "blackhole", &back]).expect("a route");
    }

    fn hire(&self) -> Result<Child, String> {
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper", &self.name, &self.near]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(|error| format!("sh: {error}"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        match self.keeper.take() {
            Some(mut keeper) => {
                drop(keeper.stdin.take());
                // Returns when everything is removed.
                let _ = keeper.wait();
            }
            None => drop(ip(&["netns", "delete", &self.name])),
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let mut what = String::from("ip");
    for argument in arguments {
        let _ = write!(what, " {argument}");
    }
    let mut command = Command::new("ip");
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim_end()))
}
