//! Why an inspector could not start.

use std::error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use fairpool::text::Plain;

/// Why an [`Inspector`](crate::Inspector) could not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The list of pools is empty.
    NoPools,
    /// A [question](crate::Inspector::question) is about this pool, which is not in the list.
    NotShown(String),
    /// The address cannot be resolved.
    Resolve(io::Error),
    /// This address can be reached from other machines, which
    /// [`Inspector::allow_remote`](crate::Inspector::allow_remote) has not allowed.
    Remote(SocketAddr),
    /// The system cannot listen on any of these addresses.
    Listen {
        /// What the address resolved to.
        addrs: Vec<SocketAddr>,
        /// The error for the last of them.
        source: io::Error,
    },
    /// The system cannot start the server: for example, it has no thread to give.
    Start(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("inspect: ")?;
        match self {
            ServeError::NoPools => f.write_str("there is no pool to show"),
            ServeError::NotShown(pool) => {
                write!(f, "a question is about pool '{}', which is not shown", Plain(pool))
            }
            ServeError::Resolve(_) => f.write_str("the address cannot be resolved"),
            ServeError::Remote(addr) => write!(
                f,
                "{addr} can be reached from other machines; Inspector::allow_remote allows that"
            ),
            ServeError::Listen { addrs, .. } => {
                let addrs: Vec<String> = addrs.iter().map(SocketAddr::to_string).collect();
                write!(f, "cannot listen on {}", addrs.join(", "))
            }
            ServeError::Start(_) => f.write_str("cannot start the server"),
        }
    }
}

impl error::Error for ServeError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            ServeError::NoPools | ServeError::NotShown(_) | ServeError::Remote(_) => None,
            ServeError::Resolve(source)
            | ServeError::Listen { source, .. }
            | ServeError::Start(source) => Some(source),
        }
    }
}
