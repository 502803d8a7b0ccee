//! Text for a terminal: lines that fit its width, without characters that control it. The
//! pool's reports are printed with it. Drivers and exporters can use it for theirs.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// The assumed width of a terminal, in characters.
pub const WIDTH: usize = 100;

/// Prints a text that may come from anywhere, such as a name, a label or an error.
/// Characters that would control the terminal are escaped.
#[derive(Debug)]
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| {
            if controls_terminal(c) { write!(f, "{}", c.escape_default()) } else { f.write_char(c) }
        })
    }
}

/// Whether this is a control character, a line separator, or a character that changes the
/// direction of text.
fn controls_terminal(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
/// width of `first`.
///
/// # Errors
///
/// Those of the writer.
pub fn wrapped(f: &mut dyn Write, first: &str, text: &str) -> fmt::Result {
    let indent = first.chars().count();
    let plain = Plain(text).to_string();
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
