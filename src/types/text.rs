//! Text for a terminal: lines that fit its width, without characters that control it. The
//! pool's reports are printed with it. Drivers and exporters can use it for theirs.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// The assumed width of a terminal, in characters.
pub const WIDTH: usize = 100;

/// How many characters of a text that comes from outside are printed: enough for any name
/// and for nearly every error, and few enough that a server's error of a megabyte fills
/// neither a log nor the memory.
pub const LONGEST: usize = 4096;

/// Prints a text that may come from anywhere, such as a name, a label or an error, so that
/// it stays on one line.
///
/// Line breaks, characters that would control a terminal, and those that change the
/// direction of text are escaped. After [`LONGEST`] characters the text ends in `…`.
///
/// The pool prints everything with it that it has not written itself: in the `Display` of
/// its types and in its log records. (`source()` of an error is the driver's own, as it
/// is.) Drivers and exporters should do the same.
///
/// # Examples
///
/// ```
/// use fairpool::text::Plain;
///
/// assert_eq!(Plain("no such table\n\u{1b}[2J").to_string(), r"no such table\n\u{1b}[2J");
/// ```
#[derive(Debug)]
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut to = PlainWriter::new(f, LONGEST);
        match to.write_str(self.0) {
            Err(_) if to.is_full() => Ok(()),
            result => result,
        }
    }
}

/// [`Plain`] for a writer: what is written to it is escaped and cut. It refuses what
/// follows the cut.
pub(crate) struct PlainWriter<W> {
    to: W,
    room: Option<usize>,
}

impl<W: Write> PlainWriter<W> {
    pub(crate) fn new(to: W, room: usize) -> PlainWriter<W> {
        PlainWriter { to, room: Some(room) }
    }

    /// Whether the text was cut.
    pub(crate) fn is_full(&self) -> bool {
        self.room.is_none()
    }
}

impl<W: Write> Write for PlainWriter<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match self.room {
                None => return Err(fmt::Error),
                Some(0) => {
                    self.room = None;
                    self.to.write_char('…')?;
                    return Err(fmt::Error);
                }
                Some(room) => self.room = Some(room - 1),
            }
            if controls_terminal(c) {
                write!(self.to, "{}", c.escape_default())?;
            } else {
                self.to.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Whether this is a control character, a line separator, or a character that changes the
/// direction of text.
fn controls_terminal(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// A text as [`Plain`] prints it.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let is_plain = text.len() <= LONGEST && !text.chars().any(controls_terminal);
    if is_plain { text.into() } else { Plain(text).to_string().into() }
}

/// Escapes a text as [`Plain`] does, and cuts it to `room` characters.
pub(crate) fn truncated(text: &str, room: usize) -> String {
    let text = Plain(text).to_string();
    if text.chars().count() <= room {
        return text;
    }
    text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

/// Writes `first` and then `text`, wrapped at [`WIDTH`]. Further lines are indented by the
/// width of `first`. The text is escaped as [`Plain`] does, but not cut.
///
/// # Errors
///
/// Those of the writer.
pub fn wrapped(f: &mut dyn Write, first: &str, text: &str) -> fmt::Result {
    let indent = first.chars().count();
    let mut plain = String::new();
    PlainWriter::new(&mut plain, usize::MAX).write_str(text)?;
    let mut at = indent;
    f.write_str(first)?;
    for (number, word) in plain.split_whitespace().enumerate() {
        let len = word.chars().count();
        if number > 0 && at + 1 + len > WIDTH {
            write!(f, "\n{:indent$}", "")?;
            at = indent;
        } else if number > 0 {
            f.write_char(' ')?;
            at += 1;
        }
        f.write_str(word)?;
        at += len;
    }
    f.write_char('\n')
}

/// A number with its noun: `1 caller`, `2 callers`.
pub fn count(number: impl Into<u64>, one: &str, many: &str) -> String {
    match number.into() {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    }
}

/// Lists as many names as fit into `room` characters (one at least), and the number of the
/// others.
pub(crate) fn names<'a>(all: &[&'a str], room: usize) -> Cow<'a, str> {
    let mut text = String::new();
    for (number, name) in all.iter().enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        let rest = match all.len() - number - 1 {
            0 => 0,
            // " and 4294967295 more"
            more => 10 + more.to_string().len(),
        };
        let name = Plain(name).to_string();
        if number > 0 && text.chars().count() + comma.len() + name.chars().count() + rest > room {
            return format!("{text} and {} more", all.len() - number).into();
        }
        text.push_str(comma);
        text.push_str(&name);
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_act_on() {
        let hostile = "a\u{1b}[2Jb\nc\u{202e}d\u{9b}e";
        assert_eq!(Plain(hostile).to_string(), r"a\u{1b}[2Jb\nc\u{202e}d\u{9b}e");
        assert_eq!(Plain("größer ✓").to_string(), "größer ✓");
        for c in ['\r', '\0', '\u{85}', '\u{2028}', '\u{200f}', '\u{61c}', '\u{2066}'] {
            assert!(plain(&c.to_string()).is_ascii(), "{c:?}");
        }
    }

    #[test]
    fn a_text_of_any_length_is_printed_short() {
        let long = "ü".repeat(LONGEST + 1);
        let cut = format!("{}…", "ü".repeat(LONGEST));
        assert_eq!(Plain(&long).to_string(), cut);
        assert_eq!(plain(&long), cut);
        assert_eq!(Plain(&long[2..]).to_string(), long[2..], "no more than fits is no cut");
        let mut writer = PlainWriter::new(String::new(), 3);
        assert!(writer.write_str("abc").is_ok() && !writer.is_full());
        assert!(writer.write_str("d").is_err() && writer.is_full());
        assert!(writer.write_str("e").is_err());
        assert_eq!(writer.to, "abc…");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(truncated("ääää", 4), "ääää");
        assert_eq!(truncated("äääää", 4), "äää…");
    }

    #[test]
    fn lines_are_no_longer_than_the_terminal_unless_a_word_is() {
        let mut text = String::new();
        wrapped(&mut text, "  - ", &"word ".repeat(50)).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("    word")), "{text}");
        assert_eq!(text.matches("word").count(), 50);
        let mut long = String::new();
        wrapped(&mut long, "", &"x".repeat(200)).unwrap();
        assert_eq!(long.lines().count(), 1);
    }

    #[test]
    fn names_that_do_not_fit_are_counted() {
        assert_eq!(names(&["a", "b", "c"], 20), "a, b, c");
        assert_eq!(names(&["worker-1", "worker-2", "worker-3"], 21), "worker-1 and 2 more");
        assert_eq!(names(&["a-long-name"], 3), "a-long-name", "one is always shown");
        assert_eq!(names(&[], 3), "");
    }
}
