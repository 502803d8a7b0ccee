//! Who asks for a connection, and where. A caller is small, because each checkout copies
//! one into its slot.

use std::fmt;
use std::panic::Location;

use super::text::Plain;
use super::thread::{Name, Thread};
use crate::core::ThreadId;
use crate::sync::Arc;

/// What a connection is for: a literal, a `String` or an `Arc<str>`, for
/// [`Request::label`](crate::Request::label).
///
/// A literal costs nothing. A `String` is copied once; an `Arc<str>` is shared, so keep one
/// for a label that is built once and used often. The pool keeps a label for as long as the
/// connection, the waiter, the error or the event that it belongs to.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// # let pool = fairpool::Pool::builder().build(StubManager)?;
/// let route = "/orders/{id}"; // from a router, for example
/// let conn = pool.request().label(format!("GET {route}")).get()?;
/// assert_eq!(pool.holders()[0].label(), Some("GET /orders/{id}"));
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone)]
pub struct Label(Text);

#[derive(Clone)]
enum Text {
    /// Empty if there is no label.
    Literal(&'static str),
    /// Thin, so that this is no larger than a literal alone.
    Shared(Arc<String>),
}

impl Label {
    pub(crate) const NONE: Label = Label(Text::Literal(""));

    fn get(&self) -> Option<&str> {
        Some(self.as_str()).filter(|text| !text.is_empty())
    }

    fn as_str(&self) -> &str {
        match &self.0 {
            Text::Literal(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl From<&'static str> for Label {
    fn from(text: &'static str) -> Label {
        Label(Text::Literal(text))
    }
}

impl From<String> for Label {
    fn from(text: String) -> Label {
        Label(Text::Shared(Arc::new(text)))
    }
}

impl From<Arc<str>> for Label {
    fn from(text: Arc<str>) -> Label {
        text.to_string().into()
    }
}

impl PartialEq for Label {
    fn eq(&self, other: &Label) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Label {}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(to)
    }
}

/// The thread, place and purpose of a checkout.
#[derive(Clone)]
pub(crate) struct Caller {
    thread: Thread,
    pub(super) location: &'static Location<'static>,
    label: Label,
    priority: u8,
}

impl Caller {
    #[inline]
    pub(crate) fn here(
        location: &'static Location<'static>,
        label: Label,
        priority: u8,
    ) -> Caller {
        Caller { thread: Thread::current(), location, label, priority }
    }

    pub(crate) fn label(&self) -> Option<&str> {
        self.label.get()
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
    label: Label,
    priority: u8,
}

impl From<&Caller> for CallSite {
    fn from(caller: &Caller) -> CallSite {
        let Caller { thread, location, label, priority } = caller.clone();
        CallSite { thread: thread.name(), number: thread.number, location, label, priority }
    }
}

impl CallSite {
    /// The name of the thread (its first 23 bytes), or `unnamed-` and its number.
    pub fn thread(&self) -> &str {
        self.thread.as_str()
    }

    /// The number of the thread: unique in the process, unlike its name.
    pub fn thread_id(&self) -> u64 {
        self.number
    }

    /// The line at which the get was called, or the one given with
    /// [`Request::location`](crate::Request::location).
    pub fn location(&self) -> &'static Location<'static> {
        self.location
    }

    /// The label given with [`Request::label`](crate::Request::label).
    pub fn label(&self) -> Option<&str> {
        self.label.get()
    }

    /// The priority of the get.
    pub fn priority(&self) -> u8 {
        self.priority
    }
}

impl fmt::Display for CallSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread '{}' at {}", Plain(self.thread()), Place(self.location))?;
        self.label().map_or(Ok(()), |label| write!(f, " ({})", Plain(label)))
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
