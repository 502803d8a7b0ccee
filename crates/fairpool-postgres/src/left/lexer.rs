//! The lexical structure of PostgreSQL's SQL, as far as needed to distinguish words,
//! parentheses and the ends of statements from the contents of strings and comments.

/// A piece of a statement. Strings, numbers, parameters and operators are all `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword or a name without quotes.
    Word(&'a str),
    /// A name in double quotes, without these.
    Quoted(&'a str),
    Open,
    Close,
    Comma,
    Dot,
    Semicolon,
    Other,
}

/// The error of a text that does not end, or whose meaning depends on a setting of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    has_moment: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, has_moment: false }
    }

    /// Whether a string so far may be a time that the server reads by its clock when it prepares
    /// the statement, such as `'now'`.
    pub(super) fn has_moment(&self) -> bool {
        self.has_moment
    }

    /// The next token, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Token<'a>>, Unreadable> {
        self.skip_space()?;
        let Some(byte) = self.peek(0) else { return Ok(None) };
        let token = match byte {
            b'(' => self.one(Token::Open),
            b')' => self.one(Token::Close),
            b',' => self.one(Token::Comma),
            b'.' => self.one(Token::Dot),
            b';' => self.one(Token::Semicolon),
            b'"' => self.quoted()?,
            b'\'' => self.string()?,
            b'$' => self.dollar()?,
            byte if starts_word(byte) => return self.word().map(Some),
            _ => self.one(Token::Other),
        };
        Ok(Some(token))
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn one(&mut self, token: Token<'a>) -> Token<'a> {
        self.at += 1;
        token
    }

    /// Skips white space and comments. Block comments nest.
    fn skip_space(&mut self) -> Result<(), Unreadable> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c), _) => self.at += 1,
                (Some(b'-'), Some(b'-')) => {
                    while !matches!(self.peek(0), None | Some(b'\n' | b'\r')) {
                        self.at += 1;
                    }
                }
                (Some(b'/'), Some(b'*')) => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), Unreadable> {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0).ok_or(Unreadable)?, self.peek(1)) {
                (b'/', Some(b'*')) => (depth, self.at) = (depth + 1, self.at + 2),
                (b'*', Some(b'/')) => (depth, self.at) = (depth - 1, self.at + 2),
                _ => self.at += 1,
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn word(&mut self) -> Result<Token<'a>, Unreadable> {
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|byte| !continues_word(byte));
        let word = &rest[..end.unwrap_or(rest.len())];
        self.at += word.len();
        match (word, self.peek(0), self.peek(1)) {
            ("e" | "E", Some(b'\''), _) => self.escape_string(),
            // An identifier with Unicode escapes could be any name.
            ("u" | "U", Some(b'&'), Some(b'"')) => Err(Unreadable),
            _ => Ok(Token::Word(word)),
        }
    }

    fn quoted(&mut self) -> Result<Token<'a>, Unreadable> {
        self.at += 1;
        let start = self.at;
        loop {
            self.skip_to(b'"')?;
            if self.peek(0) != Some(b'"') {
                return Ok(Token::Quoted(&self.text[start..self.at - 1]));
            }
            self.at += 1;
        }
    }

    /// A string without the prefix `E`. Where a backslash stands before a quote, the
    /// string's end depends on `standard_conforming_strings`.
    fn string(&mut self) -> Result<Token<'a>, Unreadable> {
        self.at += 1;
        let start = self.at;
        loop {
            self.skip_to(b'\'')?;
            if self.at >= 2 && self.text.as_bytes()[self.at - 2] == b'\\' {
                return Err(Unreadable);
            }
            if self.peek(0) != Some(b'\'') {
                self.look_for_moment(start, self.at - 1);
                return Ok(Token::Other);
            }
            self.at += 1;
        }
    }

    fn escape_string(&mut self) -> Result<Token<'a>, Unreadable> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek(0).ok_or(Unreadable)? {
                b'\\' => self.at += 2,
                b'\'' if self.peek(1) == Some(b'\'') => self.at += 2,
                b'\'' => {
                    self.look_for_moment(start, self.at);
                    return Ok(self.one(Token::Other));
                }
                _ => self.at += 1,
            }
        }
    }

    /// A parameter or a string in dollar quotes.
    fn dollar(&mut self) -> Result<Token<'a>, Unreadable> {
        let start = self.at;
        self.at += 1;
        if self.peek(0).is_some_and(starts_word) {
            while self.peek(0).is_some_and(|byte| byte != b'$' && continues_word(byte)) {
                self.at += 1;
            }
        }
        if self.peek(0) != Some(b'$') {
            // The digits of a parameter follow as a token of their own.
            return Ok(Token::Other);
        }
        self.at += 1;
        let tag = &self.text[start..self.at];
        let length = self.text[self.at..].find(tag).ok_or(Unreadable)?;
        self.look_for_moment(self.at, self.at + length);
        self.at += length + tag.len();
        Ok(Token::Other)
    }

    fn look_for_moment(&mut self, start: usize, end: usize) {
        const MOMENTS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];
        // The server takes no longer ones for times.
        const LONGEST: usize = 128;
        if end - start <= LONGEST {
            let mut words = self.text[start..end].split(|c: char| !c.is_ascii_alphabetic());
            self.has_moment |=
                words.any(|word| MOMENTS.iter().any(|m| word.eq_ignore_ascii_case(m)));
        }
    }

    /// Moves past the next such byte.
    fn skip_to(&mut self, byte: u8) -> Result<(), Unreadable> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = rest.iter().position(|&other| other == byte).ok_or(Unreadable)?;
        self.at += length + 1;
        Ok(())
    }
}

const fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

const fn continues_word(byte: u8) -> bool {
    CONTINUES_WORD[byte as usize]
}

/// A table, since most bytes of a statement are looked up here.
const CONTINUES_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte: u8 = 0;
    loop {
        table[byte as usize] = starts_word(byte) || byte.is_ascii_digit() || byte == b'$';
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};
