//! What each kind of statement may leave.
//!
//! The rule for all of this: what is not recognised may leave something. So a mistake of this
//! reader that costs a needless reset is harmless, and the other kind is a defect.

use super::functions::{self, Harmless};
use super::lexer::{Lexer, Token, Unreadable};
use super::{Effect, Left};

/// Reads a text of one or more statements.
pub(super) fn read(sql: &str, harmless: &Harmless) -> Result<Effect, Unreadable> {
    let lexer = Lexer::new(sql);
    let left = Left::NOTHING;
    let mut reader = Reader { lexer, token: None, harmless, left, open: None, index: false };
    reader.advance()?;
    let mut statements = 0;
    while reader.token.is_some() {
        // Only at the start of a text is END surely a COMMIT: it also ends the body of a
        // function.
        reader.statement(statements == 0)?;
        statements += 1;
    }
    Ok(Effect { leaves: reader.left, ends_transaction: reader.open == Some(false) })
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
    lexer: Lexer<'a>,
    /// The next token; `None` at the end of the text.
    token: Option<Token<'a>>,
    harmless: &'a Harmless,
    left: Left,
    /// Whether a transaction is open after all that was read, if that is known.
    open: Option<bool>,
    /// The statement is CREATE INDEX.
    index: bool,
}

/// What a scan has to know of the statement that it is in.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Query,
    Definition,
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
        while matches!(self.token, Some(Token::Open)) {
            self.advance()?;
        }
        let Some(Token::Word(word)) = self.token else {
            if self.token != Some(Token::Semicolon) {
                self.left |= Left::ANYTHING;
            }
            return self.scan(Kind::Query);
        };
        let mut buffer = [0; 16];
        match lower(word, &mut buffer) {
            // The word itself is part of the scan: it may announce a name.
            "select" | "insert" | "update" | "delete" | "merge" | "values" | "table" | "with"
            | "show" | "fetch" | "move" | "close" => return self.scan(Kind::Query),
            "explain" => return self.explain(),
            "create" | "alter" | "drop" => self.define()?,
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
            "reset" => self.left |= Left::SETTINGS,
            "discard" | "deallocate" => self.discard()?,
            "listen" => self.left |= Left::LISTEN,
            "declare" => self.left |= Left::CURSOR,
            "prepare" => self.prepare()?,
            "load" => self.left |= Left::BEYOND_RESET,
            "execute" | "do" | "call" => self.left |= Left::UNKNOWN,
            _ => {
                self.left |= Left::ANYTHING;
                self.open = None;
            }
        }
        self.scan(Kind::Definition)
    }

    /// `EXPLAIN ANALYZE` executes what follows.
    fn explain(&mut self) -> Result<(), Unreadable> {
        self.advance()?;
        if matches!(self.token, Some(Token::Open)) {
            self.advance()?;
            if self.is_any(EXPLAIN_OPTIONS) {
                self.skip_to_close()?;
            }
        }
        while self.is_any(&["analyze", "analyse", "verbose"]) {
            self.advance()?;
        }
        match self.token {
            Some(_) => self.statement(false),
            None => Ok(()),
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

    fn set(&mut self) -> Result<(), Unreadable> {
        self.advance()?;
        let local = self.eat("local")?;
        let _ = self.eat("session")?;
        // A parameter that RESET ALL leaves as it is.
        if self.is("seed") || self.token == Some(Token::Quoted("seed")) {
            self.left |= Left::BEYOND_RESET;
        }
        if !local && !self.is_any(&["transaction", "constraints"]) {
            self.left |= Left::SETTINGS;
        }
        Ok(())
    }

    /// Without their statements, a driver and those who keep its statements fail.
    fn discard(&mut self) -> Result<(), Unreadable> {
        self.advance()?;
        let _ = self.eat("prepare")?;
        if self.is("all") {
            self.left |= Left::SETTINGS | Left::BEYOND_RESET;
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), Unreadable> {
        self.advance()?;
        if self.is("transaction") {
            self.open = Some(false);
            return Ok(());
        }
        self.left |= Left::PREPARED;
        self.skip_name_and_list()
    }

    /// Reads to the end of the statement, and looks for calls of functions and for names of
    /// temporary things.
    fn scan(&mut self, kind: Kind) -> Result<(), Unreadable> {
        let mut scan = Scan::new(kind, self.index, self.harmless);
        while let Some(token) = self.token {
            self.advance()?;
            scan.token(token);
            if token == Token::Semicolon {
                break;
            }
        }
        self.left |= scan.left;
        // Only a text that the server rejects ends inside a list of arguments.
        if scan.set_config.is_some() {
            self.left |= Left::SETTINGS;
        }
        self.index = false;
        Ok(())
    }
}

/// A name that a parenthesis may follow.
#[derive(Clone, Copy)]
struct Name<'a> {
    schema: Option<Token<'a>>,
    last: Token<'a>,
    /// The token before it.
    before: Option<Token<'a>>,
    /// Where it stands it can only name a table, a column list or a new thing.
    is_declared: bool,
}

struct Scan<'a> {
    kind: Kind,
    harmless: &'a Harmless,
    left: Left,
    name: Option<Name<'a>>,
    previous: Option<Token<'a>>,
    /// The next name cannot be called.
    declares: bool,
    /// Inside CREATE INDEX.
    index: bool,
    depth: usize,
    /// The depth inside the arguments of `set_config`, and what its end shows: whether its last
    /// argument is TRUE, so that it lasts no longer than the transaction.
    set_config: Option<usize>,
    before_previous: Option<Token<'a>>,
}

impl<'a> Scan<'a> {
    fn new(kind: Kind, index: bool, harmless: &'a Harmless) -> Self {
        Self {
            kind,
            index,
            harmless,
            left: Left::NOTHING,
            name: None,
            previous: None,
            declares: false,
            depth: 0,
            set_config: None,
            before_previous: None,
        }
    }

    fn token(&mut self, token: Token<'a>) {
        match token {
            Token::Word(_) | Token::Quoted(_) => self.on_name(token),
            Token::Dot => {}
            Token::Open => {
                self.depth += 1;
                if let Some(name) = self.name.take() {
                    self.on_parenthesis(name);
                }
                self.declares = false;
            }
            Token::Close => {
                self.on_close();
                self.name = None;
                self.declares = false;
            }
            Token::Comma | Token::Semicolon | Token::Other => {
                self.name = None;
                self.declares = false;
            }
        }
        self.before_previous = self.previous;
        self.previous = Some(token);
    }

    fn on_name(&mut self, token: Token<'a>) {
        let text = match token {
            Token::Word(text) | Token::Quoted(text) => text,
            _ => return,
        };
        let is_temporary = text.len() >= 7 && text.as_bytes()[..7].eq_ignore_ascii_case(b"pg_temp");
        if is_temporary {
            self.left |= Left::TEMPORARY;
        }
        if let (Some(Token::Dot), Some(name)) = (self.previous, self.name) {
            self.name = Some(Name { schema: Some(name.last), last: token, ..name });
            return;
        }
        let is_declared = std::mem::take(&mut self.declares);
        if let Token::Word(word) = token {
            self.on_word(word);
        }
        self.name = Some(Name { schema: None, last: token, before: self.previous, is_declared });
    }

    fn on_word(&mut self, word: &str) {
        // Most words are none of these, so they are told apart by their length first.
        let is = |candidates: &[&str]| candidates.iter().any(|c| word.eq_ignore_ascii_case(c));
        let (announces, temporary, in_definitions): (&[_], &[_], &[_]) = match word.len() {
            2 => (&["as"], &[], &[]),
            4 => (&["into", "with"], &["temp"], &["view"]),
            5 => (&["table"], &["local"], &[]),
            6 => (&[], &["global"], &["exists"]),
            8 => (&[], &[], &["function"]),
            9 => (&["recursive"], &["temporary"], &["procedure", "aggregate"]),
            10 => (&["references"], &[], &[]),
            _ => (&[], &[], &[]),
        };
        if is(announces) || self.kind == Kind::Definition && is(in_definitions) {
            self.declares = true;
        } else if is(temporary) && ["into", "local", "global"].iter().any(|w| self.follows(w)) {
            self.left |= Left::TEMPORARY;
            self.declares = true;
        } else if self.index && is(&["on", "using"]) {
            self.declares = true;
        } else if word.len() == 7
            && (is(&["program"]) || self.kind == Kind::Definition && is(&["execute"]))
        {
            self.left |= Left::UNKNOWN;
        }
    }

    fn follows(&self, word: &str) -> bool {
        matches!(self.previous, Some(Token::Word(other)) if other.eq_ignore_ascii_case(word))
    }

    fn on_parenthesis(&mut self, name: Name<'a>) {
        if name.is_declared {
            return;
        }
        let mut buffer = [0; 64];
        let last = match name.last {
            Token::Word(word) => lower(word, &mut buffer),
            Token::Quoted(name) => name,
            _ => return,
        };
        let is_plain = name.schema.is_none() && matches!(name.last, Token::Word(_));
        if is_plain && (functions::is_never_function(last) || is_syntax(last, name.before)) {
            return;
        }
        let (schema, of_server) = match name.schema {
            Some(Token::Word(schema)) => (Some(schema), schema.eq_ignore_ascii_case("pg_catalog")),
            Some(Token::Quoted(schema)) => (Some(schema), schema == "pg_catalog"),
            _ => (None, true),
        };
        let left = functions::call(schema, last, of_server, self.harmless);
        if left == Left::SETTINGS && self.set_config.is_none() {
            self.set_config = Some(self.depth);
        } else {
            self.left |= left;
        }
    }

    fn on_close(&mut self) {
        if self.set_config == Some(self.depth) {
            self.set_config = None;
            let is_local = self.follows("true") && self.before_previous == Some(Token::Comma);
            if !is_local {
                self.left |= Left::SETTINGS;
            }
        }
        self.depth = self.depth.saturating_sub(1);
    }
}

/// Whether this word, which may also name a function, is syntax after that token.
fn is_syntax(word: &str, before: Option<Token<'_>>) -> bool {
    let follows = |words: &[&str]| match before {
        Some(Token::Word(before)) => words.iter().any(|word| before.eq_ignore_ascii_case(word)),
        _ => false,
    };
    match word {
        "over" | "filter" => before == Some(Token::Close),
        "by" => follows(&["order", "group", "partition"]),
        // After UPDATE, or after a table's name.
        "set" => follows(&["update"]) || before.is_some_and(is_name),
        "conflict" => follows(&["on"]),
        "key" => follows(&["primary", "foreign"]),
        "sets" => follows(&["grouping"]),
        "materialized" => follows(&["as", "not"]),
        "varying" => follows(&["character", "char"]),
        "group" => follows(&["within"]),
        _ => false,
    }
}

fn is_name(token: Token<'_>) -> bool {
    match token {
        Token::Word(word) => !functions::is_never_function(lower(word, &mut [0; 64])),
        Token::Quoted(_) => true,
        _ => false,
    }
}

/// The word in lower case, in the buffer; a longer one, which is no keyword, as it is.
fn lower<'b>(word: &'b str, buffer: &'b mut [u8]) -> &'b str {
    let Some(buffer) = buffer.get_mut(..word.len()) else { return word };
    buffer.copy_from_slice(word.as_bytes());
    buffer.make_ascii_lowercase();
    std::str::from_utf8(buffer).unwrap_or(word)
}
