//! The words of a statement, as far as they say what it may leave.

/// A part of a statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word<'a> {
    /// A keyword or a name, with what comes before it: `shop.total`.
    Name {
        text: &'a str,
        /// `` `like this` ``, or `"like this"`, which may be a string, by `sql_mode`.
        is_quoted: bool,
        /// A parenthesis follows.
        is_called: bool,
    },
    /// A user variable: `@total`. (A read of a system variable, `@@version`, is none.)
    Variable,
    /// Another statement in the same text.
    NextStatement,
}

/// Reads a text from left to right.
pub(super) struct Words<'a> {
    text: &'a str,
    at: usize,
    /// After a semicolon.
    has_ended: bool,
}

impl<'a> Words<'a> {
    /// `None` if the text cannot be read for sure: with a backslash, after which a quote may or may
    /// not end a string, by `sql_mode`; with a comment whose content the server executes.
    pub(super) fn of(text: &'a str) -> Option<Words<'a>> {
        let is_sure = !text.contains('\\') && !text.contains("/*!") && !text.contains("/*M!");
        is_sure.then_some(Words { text, at: 0, has_ended: false })
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn skip_while(&mut self, is_part: impl Fn(u8) -> bool) {
        let rest = self.rest();
        self.at += rest.iter().position(|&byte| !is_part(byte)).unwrap_or(rest.len());
    }

    /// Skips to behind this text, or to the end.
    fn skip_past(&mut self, end: &str) {
        let rest = &self.text[self.at..];
        self.at += rest.find(end).map_or(rest.len(), |position| position + end.len());
    }

    /// Skips spaces and comments.
    fn skip_space(&mut self) {
        loop {
            self.skip_while(|byte| byte.is_ascii_whitespace());
            match self.rest() {
                [b'/', b'*', ..] => {
                    self.at += 2;
                    self.skip_past("*/");
                }
                [b'#', ..] => self.skip_past("\n"),
                [b'-', b'-', space, ..] if space.is_ascii_whitespace() => self.skip_past("\n"),
                _ => return,
            }
        }
    }

    /// Skips something quoted, from its first quote on. A doubled quote reads as the end of one and
    /// the beginning of another, which comes to the same.
    fn skip_quoted(&mut self, quote: &str) {
        self.at += 1;
        self.skip_past(quote);
    }

    /// A name with dots, and whether a part of it is quoted.
    fn name(&mut self) -> Word<'a> {
        let begin = self.at;
        let mut is_quoted = false;
        loop {
            match self.rest() {
                [quote @ (b'`' | b'"'), ..] => {
                    is_quoted = true;
                    self.skip_quoted(if *quote == b'`' { "`" } else { "\"" });
                }
                [b'.', ..] => self.at += 1,
                [byte, ..] if is_name(*byte) => self.skip_while(is_name),
                _ => break,
            }
        }
        let text = &self.text[begin..self.at];
        self.skip_space();
        Word::Name { text, is_quoted, is_called: self.rest().first() == Some(&b'(') }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
}

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        loop {
            self.skip_space();
            let first = *self.rest().first()?;
            if self.has_ended && first != b';' {
                self.at = self.text.len();
                return Some(Word::NextStatement);
            }
            match first {
                b'\'' => self.skip_quoted("'"),
                b'`' | b'"' => return Some(self.name()),
                b'@' if self.rest().starts_with(b"@@") => {
                    self.at += 2;
                    self.skip_while(|byte| is_name(byte) || byte == b'.');
                }
                b'@' => {
                    self.at += 1;
                    return Some(Word::Variable);
                }
                b';' => {
                    self.at += 1;
                    self.has_ended = true;
                }
                byte if is_name(byte) => return Some(self.name()),
                _ => self.at += 1,
            }
        }
    }
}
