//! What each kind of statement may leave.
//!
//! The rule for all of this: what is not recognised may leave something. So a mistake of this
//! reader that costs a needless reset is harmless, and the other kind is a defect.

use super::functions::Harmless;
use super::lexer::{Lexer, Token, Unreadable};
use super::scan::{Kind, Scan, lower};
use super::{Effect, Left, is_name_of_driver, parameters};

/// Reads a text of one or more statements.
pub(super) fn read(sql: &str, harmless: &Harmless) -> Result<Effect, Unreadable> {
    let lexer = Lexer::new(sql);
    let left = Left::NOTHING;
    let mut reader = Reader {
        sql,
        lexer,
        token: None,
        harmless,
        left,
        open: None,
        changes_meaning: false,
        is_fleeting: false,
        index: false,
    };
    reader.advance()?;
    let mut statements = 0;
    while reader.token.is_some() {
        // Only at the start of a text is END surely a COMMIT: it also ends the body of a
        // function.
        reader.statement(statements == 0)?;
        statements += 1;
    }
    let Reader { left: leaves, changes_meaning, is_fleeting, open, .. } = reader;
    let is_fleeting = is_fleeting || reader.lexer.has_moment();
    Ok(Effect { leaves, changes_meaning, is_fleeting, ends_transaction: open == Some(false) })
}

/// Whether this is a type whose strings are read when a statement is prepared, and not again if
/// what they name is dropped and created: `'mood'::regtype`. (`regclass` is.)
fn is_name_of_catalogue(token: Token<'_>) -> bool {
    let Token::Word(word) = token else { return false };
    let types = ["type", "proc", "procedure", "role", "namespace", "oper", "operator"];
    let is_reg = word.get(..3).is_some_and(|reg| reg.eq_ignore_ascii_case("reg"));
    is_reg && types.iter().any(|name| word[3..].eq_ignore_ascii_case(name))
}

/// What the list after EXPLAIN starts with, if it is not a query in parentheses.
const EXPLAIN_OPTIONS: &[&str] = &[
    "analyze",
    "analyse",
    "verbose",
    "costs",
    "settings",
    "generic_plan",
    "buffers",
    "serialize",
    "wal",
    "timing",
    "summary",
    "memory",
    "format",
];

struct Reader<'a> {
    sql: &'a str,
    lexer: Lexer<'a>,
    /// The next token; `None` at the end of the text.
    token: Option<Token<'a>>,
    harmless: &'a Harmless,
    left: Left,
    /// Whether a transaction is open after all that was read, if that is known.
    open: Option<bool>,
    /// See [`Effect`].
    changes_meaning: bool,
    is_fleeting: bool,
    /// The statement is CREATE INDEX.
    index: bool,
}

impl<'a> Reader<'a> {
    fn advance(&mut self) -> Result<(), Unreadable> {
        self.token = self.lexer.next()?;
        Ok(())
    }

    fn is(&self, word: &str) -> bool {
        matches!(self.token, Some(Token::Word(token)) if token.eq_ignore_ascii_case(word))
    }

    fn is_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }

    /// Takes the next token if it is this word.
    fn eat(&mut self, word: &str) -> Result<bool, Unreadable> {
        let found = self.is(word);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn statement(&mut self, is_first: bool) -> Result<(), Unreadable> {
        let is_first = !self.skip_to_verb()? && is_first;
        let Some(Token::Word(word)) = self.token else {
            if !matches!(self.token, None | Some(Token::Semicolon)) {
                self.left |= Left::ANYTHING;
                self.changes_meaning = true;
            }
            return self.scan(Kind::Query);
        };
        let mut buffer = [0; 16];
        match lower(word, &mut buffer) {
            // The word itself is part of the scan: it may announce a name.
            "update" => return self.scan(Kind::Update),
            "select" | "insert" | "delete" | "merge" | "values" | "table" | "with" | "show"
            | "move" | "close" => return self.scan(Kind::Query),
            // Another cursor of this name has other columns.
            "fetch" => {
                self.is_fleeting = true;
                return self.scan(Kind::Query);
            }
            "create" | "alter" | "drop" => {
                self.changes_meaning = true;
                self.define()?;
            }
            "truncate" | "comment" | "grant" | "revoke" | "vacuum" | "analyze" | "analyse"
            | "reindex" | "cluster" | "refresh" | "lock" | "notify" | "unlisten" | "checkpoint"
            | "savepoint" | "release" | "security" | "reassign" => {
                return self.scan(Kind::Definition);
            }
            "copy" => return self.copy(),
            "begin" | "start" => self.begin(),
            "commit" | "rollback" | "abort" => self.end()?,
            "end" if is_first => self.end()?,
            "end" => {}
            "set" => self.set()?,
            "reset" => {
                self.left |= Left::SETTINGS;
                self.changes_meaning = true;
            }
            "discard" | "deallocate" => self.discard()?,
            "listen" => self.left |= Left::LISTEN,
            "declare" => self.left |= Left::CURSOR,
            "prepare" => self.prepare()?,
            "load" => self.left |= Left::BEYOND_RESET,
            "execute" | "do" | "call" => {
                self.left |= Left::UNKNOWN;
                self.is_fleeting |= self.is("execute");
            }
            _ => {
                self.left |= Left::ANYTHING;
                self.changes_meaning = true;
                self.open = None;
            }
        }
        self.scan(Kind::Definition)
    }

    /// Skips parentheses, and `EXPLAIN` with its options: `EXPLAIN ANALYZE` executes what
    /// follows. Returns whether there was one. Not recursive: a text may have any number of them.
    fn skip_to_verb(&mut self) -> Result<bool, Unreadable> {
        let mut is_explained = false;
        loop {
            if self.token == Some(Token::Open) {
                self.advance()?;
                if is_explained && self.is_any(EXPLAIN_OPTIONS) {
                    self.skip_to_close()?;
                }
            } else if is_explained && self.is_any(&["analyze", "analyse", "verbose"]) {
                self.advance()?;
            } else if self.eat("explain")? {
                is_explained = true;
            } else {
                return Ok(is_explained);
            }
        }
    }

    fn define(&mut self) -> Result<(), Unreadable> {
        self.advance()?;
        while self.is_any(&["or", "replace", "local", "global"]) {
            self.advance()?;
        }
        if self.is_any(&["temp", "temporary"]) {
            self.left |= Left::TEMPORARY;
        }
        // Its script runs.
        if self.is("extension") {
            self.left |= Left::UNKNOWN;
        }
        let _ = self.eat("unique")?;
        self.index = self.is("index");
        Ok(())
    }

    fn copy(&mut self) -> Result<(), Unreadable> {
        self.advance()?;
        self.skip_name_and_list()?;
        self.scan(Kind::Query)
    }

    /// Skips a name and the list of columns or types that may follow it.
    fn skip_name_and_list(&mut self) -> Result<(), Unreadable> {
        if !matches!(self.token, Some(Token::Word(_) | Token::Quoted(_))) {
            return Ok(());
        }
        self.advance()?;
        while self.token == Some(Token::Dot) {
            self.advance()?;
            self.advance()?;
        }
        self.skip_list()
    }

    fn skip_list(&mut self) -> Result<(), Unreadable> {
        if self.token == Some(Token::Open) {
            self.skip_to_close()?;
        }
        Ok(())
    }

    fn skip_to_close(&mut self) -> Result<(), Unreadable> {
        while !matches!(self.token, None | Some(Token::Close)) {
            self.advance()?;
        }
        self.advance()
    }

    fn begin(&mut self) {
        self.left |= Left::TRANSACTION;
        self.open = Some(true);
    }

    fn end(&mut self) -> Result<(), Unreadable> {
        self.advance()?;
        if self.is_any(&["work", "transaction"]) {
            self.advance()?;
        }
        // `ROLLBACK TO` stays in the transaction, `COMMIT PREPARED` has none.
        if self.is_any(&["to", "prepared"]) {
            return Ok(());
        }
        if self.eat("and")? && !self.is("no") {
            self.begin();
        } else {
            self.open = Some(false);
        }
        Ok(())
    }

    /// Takes the next token if it is this word, and if the word is not itself a name here: the
    /// first part of a parameter's, as in `local.x`.
    fn eat_before_name(&mut self, word: &str) -> Result<bool, Unreadable> {
        Ok(self.eat(word)? && matches!(self.token, Some(Token::Word(_) | Token::Quoted(_))))
    }

    fn set(&mut self) -> Result<(), Unreadable> {
        self.advance()?;
        let local = self.eat_before_name("local")?;
        let _ = self.eat_before_name("session")?;
        let is_of_transaction =
            self.eat_before_name("transaction")? || self.eat_before_name("constraints")?;
        if !is_of_transaction && !local {
            self.left |= Left::SETTINGS;
        }
        if !is_of_transaction && !self.eat_before_name("characteristics")? {
            self.changes_meaning |= !self.is_harmless_parameter()?;
        }
        Ok(())
    }

    /// Reads the name of a parameter. Other forms are no names of parameters: `TIME ZONE`,
    /// `SCHEMA`, `ROLE`.
    fn is_harmless_parameter(&mut self) -> Result<bool, Unreadable> {
        let Some(Token::Word(name) | Token::Quoted(name)) = self.token else {
            // The first part of the name was taken for a word of SET.
            return Ok(self.token == Some(Token::Dot));
        };
        self.advance()?;
        Ok(self.token == Some(Token::Dot) || parameters::is_harmless(name))
    }

    /// Without its statements, a driver fails, and so do those who keep some.
    fn discard(&mut self) -> Result<(), Unreadable> {
        self.advance()?;
        let _ = self.eat("prepare")?;
        if self.is("all") {
            self.left |= Left::SETTINGS | Left::BEYOND_RESET;
        }
        // DISCARD TEMP
        self.changes_meaning = true;
        if let Some(Token::Word(name) | Token::Quoted(name)) = self.token
            && is_name_of_driver(name)
        {
            self.left |= Left::BEYOND_RESET;
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), Unreadable> {
        self.advance()?;
        let is_transaction = self.eat("transaction")?;
        if is_transaction && self.token == Some(Token::Other) {
            self.open = Some(false);
            return Ok(());
        }
        self.left |= Left::PREPARED;
        // Without a string that was the name of a statement.
        if is_transaction { self.skip_list() } else { self.skip_name_and_list() }
    }

    /// Reads to the end of the statement, and looks for calls of functions and for names of
    /// temporary things.
    fn scan(&mut self, kind: Kind) -> Result<(), Unreadable> {
        let mut scan = Scan::new(kind, self.index, self.harmless);
        while let Some(token) = self.token {
            self.advance()?;
            scan.token(token);
            self.is_fleeting |= is_name_of_catalogue(token);
            if token == Token::Semicolon {
                break;
            }
        }
        self.left |= scan.left();
        self.changes_meaning |= scan.configures() && !parameters::sets_harmless(self.sql);
        // SELECT INTO
        self.changes_meaning |= self.left.intersects(Left::TEMPORARY);
        self.index = false;
        Ok(())
    }
}
