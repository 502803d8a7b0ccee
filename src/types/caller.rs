//! Who asks for a connection, and where. A caller is small, because each checkout copies
//! one into its slot.

use std::fmt;
use std::panic::Location;

use super::text::Plain;
use super::thread::{self, Name, Thread};
use crate::core::ThreadId;

/// The thread, place and purpose of a checkout.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    thread: Thread,
    pub(super) location: &'static Location<'static>,
    label: Option<&'static str>,
    priority: u8,
}

impl Caller {
    #[inline]
    pub(crate) fn here(
        location: &'static Location<'static>,
        label: Option<&'static str>,
        priority: u8,
    ) -> Caller {
        Caller { thread: Thread::current(), location, label, priority }
    }

    /// A task, of which only the line matters.
    pub(crate) fn task(
        location: &'static Location<'static>,
        label: Option<&'static str>,
        priority: u8,
    ) -> Caller {
        Caller { thread: Thread::of_task(), location, label, priority }
    }

    pub(crate) fn label(&self) -> Option<&'static str> {
        self.label
    }

    pub(crate) fn priority(&self) -> u8 {
        self.priority
    }
}

impl ThreadId for Caller {
    fn thread_id(&self) -> u64 {
        self.thread.number
    }
}

/// The thread and the line of a get, with its label and priority.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct CallSite {
    /// A copy of the name: the thread may end before the call site is printed.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::thread"))]
    thread: Name,
    /// Unique, unlike the name.
    #[cfg_attr(feature = "serde", serde(skip))]
    number: u64,
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::location"))]
    location: &'static Location<'static>,
    label: Option<&'static str>,
    priority: u8,
}

impl From<Caller> for CallSite {
    fn from(caller: Caller) -> CallSite {
        let Caller { thread, location, label, priority } = caller;
        CallSite { thread: thread.name(), number: thread.number, location, label, priority }
    }
}

impl CallSite {
    /// The name of the thread (its first 23 bytes), or `unnamed-` and its number; `task` for a
    /// [`get_async`](crate::Pool::get_async).
    pub fn thread(&self) -> &str {
        self.thread.as_str()
    }

    /// The number of the thread: unique in the process, unlike its name. Zero for a task.
    pub fn thread_id(&self) -> u64 {
        self.number
    }

    /// The line at which the get was called.
    pub fn location(&self) -> &'static Location<'static> {
        self.location
    }

    /// The label given with [`Request::label`](crate::Request::label).
    pub fn label(&self) -> Option<&'static str> {
        self.label
    }

    /// The priority of the get.
    pub fn priority(&self) -> u8 {
        self.priority
    }
}

impl fmt::Display for CallSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            thread::NONE => write!(f, "task at {}", Place(self.location))?,
            _ => write!(f, "thread '{}' at {}", Plain(self.thread()), Place(self.location))?,
        }
        self.label.map_or(Ok(()), |label| write!(f, " ({})", Plain(label)))
    }
}

/// Prints a line of source code. The name of its file is the compiler's caller's choice.
pub(crate) struct Place(pub(crate) &'static Location<'static>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Plain(&self.0.to_string()).fmt(f)
    }
}

impl fmt::Debug for CallSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallSite")
            .field("thread", &self.thread())
            .field("location", self.location())
            .field("label", &self.label())
            .field("priority", &self.priority())
            .finish()
    }
}
