//! The text of an error that must stay on its thread.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::marker::PhantomData;

/// More sources than this are considered a circle.
const LONGEST_CHAIN: usize = 32;

/// The texts of an error `E` and of its sources.
///
/// It may go to other threads, whatever `E` is. See
/// [`Manager::errors_as_text`](crate::Manager::errors_as_text).
///
/// # Examples
///
/// ```
/// use std::error::Error;
/// use std::fmt;
/// use std::rc::Rc;
///
/// use fairpool_r2d2::TextError;
///
/// #[derive(Debug)]
/// struct NotSend(Rc<str>);
///
/// impl fmt::Display for NotSend {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         f.write_str(&self.0)
///     }
/// }
///
/// impl Error for NotSend {}
///
/// let error = TextError::from(NotSend("no route to host".into()));
/// assert_eq!(error.to_string(), "no route to host");
/// std::thread::spawn(move || drop(error)).join().unwrap();
/// ```
pub struct TextError<E> {
    texts: Texts,
    /// As of a function that returns it: no value of it is here.
    of: PhantomData<fn() -> E>,
}

struct Texts {
    display: String,
    debug: String,
    source: Option<Box<Texts>>,
}

impl Texts {
    /// The texts of this error, and of this many of its sources at most.
    fn of(error: &dyn Error, sources: usize) -> Texts {
        let source = error.source().filter(|_| sources > 0);
        Texts {
            display: print(format_args!("{error}")),
            debug: print(format_args!("{error:?}")),
            source: source.map(|source| Box::new(Texts::of(source, sources - 1))),
        }
    }

    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// What an error prints, as far as it succeeds. `to_string` would panic where it does not.
fn print(error: fmt::Arguments<'_>) -> String {
    let mut text = String::new();
    if text.write_fmt(error).is_err() && text.is_empty() {
        text.push_str("(an error without a text)");
    }
    text
}

impl<E: Error + 'static> From<E> for TextError<E> {
    /// Prints the error and its sources, and drops it.
    fn from(error: E) -> TextError<E> {
        TextError { texts: Texts::of(&error, LONGEST_CHAIN), of: PhantomData }
    }
}

impl<E> fmt::Display for TextError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.texts.fmt(f)
    }
}

/// What `E` prints for `{:?}`.
impl<E> fmt::Debug for TextError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.texts, f)
    }
}

impl<E> Error for TextError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.texts.source()
    }
}

impl fmt::Display for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display)
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.debug)
    }
}

impl Error for Texts {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Texts::source(self)
    }
}
