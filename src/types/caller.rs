//! Who asks for a connection, and where. A caller is small, because each checkout copies
//! one into its slot.

use std::fmt;
use std::panic::Location;

use super::text::Plain;
use super::thread::{self, Name, Thread};
use crate::core::ThreadId;
use crate::sync::Arc;

/// What a connection is for, made from any string, for
/// [`Request::label`](crate::Request::label). An empty one is none.
///
/// A literal costs nothing. Another string is allocated once, and a clone of the label shares
/// it: so keep a label that is used often. The memory is freed when the label, its clones, and
/// whatever shows it (errors, events, snapshots) are gone; the pool itself keeps, for each
/// connection, the label of the last caller that got it.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// # let pool = fairpool::Pool::builder().max_size(2).build(StubManager)?;
/// use fairpool::Label;
///
/// let route = String::from("GET /orders/{id}"); // from a router, for example
/// let label = Label::from(route);
/// let _first = pool.request().label(label.clone()).get()?;
/// let _second = pool.request().label(label).get()?;
/// assert!(pool.holders().iter().all(|holder| holder.label() == Some("GET /orders/{id}")));
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone)]
pub struct Label(Text);

#[derive(Clone)]
enum Text {
    Literal(&'static str),
    /// A thin pointer: so a label is no larger than a literal, and a checkout copies no more.
    Shared(Arc<String>),
}

impl Label {
    pub(crate) const NONE: Label = Label(Text::Literal(""));

    pub(crate) fn text(&self) -> Option<&str> {
        let text = match &self.0 {
            Text::Literal(text) => text,
            Text::Shared(text) => text.as_str(),
        };
        (!text.is_empty()).then_some(text)
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
        self.text() == other.text()
    }
}

impl Eq for Label {}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().unwrap_or_default().fmt(f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.text().serialize(to)
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
    pub(crate) fn here(location: &'static Location<'static>, label: Label, priority: u8) -> Caller {
        Caller::on(Thread::current(), location, label, priority)
    }

    /// A task, which belongs to no thread.
    pub(crate) fn task(location: &'static Location<'static>, label: Label, priority: u8) -> Caller {
        Caller::on(Thread::of_task(), location, label, priority)
    }

    #[inline]
    pub(crate) fn on(
        thread: Thread,
        location: &'static Location<'static>,
        label: Label,
        priority: u8,
    ) -> Caller {
        Caller { thread, location, label, priority }
    }

    pub(crate) fn label(&self) -> Option<&str> {
        self.label.text()
    }

    pub(crate) fn priority(&self) -> u8 {
        self.priority
    }

    pub(crate) fn thread(&self) -> Thread {
        self.thread
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
    /// The name of the thread (its first 23 bytes), or `unnamed-` and its number; `task` for a
    /// [`get_async`](crate::Pool::get_async).
    pub fn thread(&self) -> &str {
        self.thread.as_str()
    }

    /// The number of the thread: unique in the process, unlike its name. Zero for a task.
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
        self.label.text()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_of_any_string_is_no_larger_than_a_literal() {
        assert_eq!(size_of::<Label>(), size_of::<&str>());
        assert_eq!(size_of::<Caller>(), 6 * size_of::<usize>());
    }

    #[test]
    fn labels_are_equal_if_their_texts_are() {
        let literal = Label::from("a report");
        assert_eq!(literal, Label::from(String::from("a report")));
        assert_ne!(literal, Label::from(Arc::<str>::from("another")));
        assert_eq!(Label::NONE, Label::from(String::new()));
        assert_eq!(format!("{literal:?}"), "\"a report\"");
    }
}
