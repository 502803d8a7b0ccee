//! A private network, with a link to it that can lose every packet: no reset, no
//! refusal, no answer. Needs root and `ip` (iproute2).
//!
//! The test runs outside. What runs inside the network is reached at
//! [`Network::inside`]. [`Network::swallow`] makes the route back a black hole. Then the
//! network also drops what the test sends, because it accepts only packets that it could
//! answer (`rp_filter`).
//!
//! The network is removed when it is dropped or the process ends.

use std::fmt::Write as _;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// `$1` is the namespace, `$2` the test's end of the link.
const KEEPER: &str = r#"
read -r line
ip link delete "$2" 2>/dev/null
ip netns delete "$1"
"#;

/// A network namespace with a link to it; dropping it removes both.
pub struct Network {
    name: String,
    /// The test's end of the link.
    near: String,
    /// The link's network of four addresses, in a range that no other network uses
    /// (RFC 2544, for benchmarks).
    prefix: String,
    keeper: Option<Child>,
}

impl Network {
    /// Makes a network.
    ///
    /// # Errors
    ///
    /// If the test may not make one, or `ip` is missing: the command that failed, and why.
    pub fn make() -> Result<Network, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = process::id();
        // The name of a link has at most 15 bytes.
        let near = format!("fpl{id}n{number}");
        let far = format!("fpl{id}f{number}");
        let name = format!("fairpool-{id}-{number}");
        let prefix = format!("198.{}.{}", 18 + id % 2, (id / 2 + number) % 256);
        ip(&["netns", "add", &name])?;
        let mut network = Network { near, prefix, keeper: None, name };
        network.keeper = Some(network.spawn_keeper()?);
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

    /// Returns the name of the namespace, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the address of servers inside.
    pub fn inside(&self) -> String {
        format!("{}.2", self.prefix)
    }

    /// Returns the address of the test.
    pub fn outside(&self) -> String {
        format!("{}.1", self.prefix)
    }

    /// Starts to lose every packet, in both directions.
    ///
    /// # Panics
    ///
    /// If packets are lost already.
    pub fn swallow(&self) {
        self.route("add");
    }

    /// Lets packets pass again.
    ///
    /// # Panics
    ///
    /// If packets pass already.
    pub fn pass(&self) {
        self.route("delete");
    }

    fn route(&self, what: &str) {
        let back = format!("{}/32", self.outside());
        ip(&["-n", &self.name, "route", what, "blackhole", &back]).expect("a route");
    }

    fn spawn_keeper(&self) -> Result<Child, String> {
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
