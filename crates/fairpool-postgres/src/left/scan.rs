//! Within a statement: calls of functions, and names of temporary things.

use super::Left;
use super::functions::{self, Harmless};
use super::lexer::Token;

/// What a scan has to know of the statement that it is in.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Query,
    Update,
    Definition,
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

/// A `JOIN (`, which may also be a call of a function of that name. What follows decides.
#[derive(Clone, Copy, PartialEq)]
enum Join {
    Decided,
    Opened,
    Values,
}

/// Takes the tokens of a statement one by one.
pub(super) struct Scan<'a> {
    kind: Kind,
    harmless: &'a Harmless,
    left: Left,
    name: Option<Name<'a>>,
    previous: Option<Token<'a>>,
    /// The next name cannot be called.
    declares: bool,
    /// Inside CREATE INDEX.
    index: bool,
    /// The SET of an UPDATE is still to come.
    expects_set: bool,
    /// An `ON CONFLICT` may be the condition of a join.
    joins: bool,
    join: Join,
    depth: usize,
    /// By depth, whether the open parenthesis is one of a call. Of the first 64 depths.
    calls: u64,
    /// The last parenthesis closed was one of a call.
    closed_call: bool,
    /// The depth of the arguments of `set_config`, while the scan is inside them. Their end shows
    /// whether the last one is TRUE: then the setting ends with the transaction.
    set_config: Option<usize>,
    configures: bool,
    before_previous: Option<Token<'a>>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(kind: Kind, index: bool, harmless: &'a Harmless) -> Self {
        Self {
            kind,
            index,
            harmless,
            left: Left::NOTHING,
            name: None,
            previous: None,
            declares: false,
            expects_set: kind == Kind::Update,
            joins: false,
            join: Join::Decided,
            depth: 0,
            calls: 0,
            closed_call: false,
            set_config: None,
            configures: false,
            before_previous: None,
        }
    }

    /// What the tokens so far may leave.
    pub(super) fn left(&self) -> Left {
        // Only a text that the server rejects ends inside a list of arguments.
        if self.set_config.is_some() { self.left | Left::SETTINGS } else { self.left }
    }

    /// Whether `set_config` is called.
    pub(super) fn configures(&self) -> bool {
        self.configures
    }

    pub(super) fn token(&mut self, token: Token<'a>) {
        if self.join != Join::Decided {
            self.in_join(token);
        }
        match token {
            Token::Word(_) | Token::Quoted(_) => self.on_name(token),
            Token::Dot => {}
            Token::Open => {
                self.depth += 1;
                let is_call = self.name.take().is_some_and(|name| self.on_parenthesis(name));
                let bit = self.at_depth();
                self.calls = if is_call { self.calls | bit } else { self.calls & !bit };
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
        let mut is_declared = std::mem::take(&mut self.declares);
        if let Token::Word(word) = token {
            is_declared |= self.is_clause(word);
            self.on_word(word);
        }
        self.name = Some(Name { schema: None, last: token, before: self.previous, is_declared });
    }

    /// Whether this word, which may also name a function, starts a clause here that has
    /// parentheses.
    fn is_clause(&mut self, word: &str) -> bool {
        let is = |candidate| word.eq_ignore_ascii_case(candidate);
        match word.len() {
            // A table of this name would follow one of those words.
            3 if self.expects_set && self.depth == 0 && is("set") => {
                self.expects_set = self.follows_any(&["update", "only", "as"]);
                !self.expects_set
            }
            4 | 6 if is("over") || is("filter") => {
                self.previous == Some(Token::Close) && self.closed_call
            }
            _ => false,
        }
    }

    fn on_word(&mut self, word: &str) {
        // Most words are none of these, so their length is compared first.
        let is = |candidates: &[&str]| candidates.iter().any(|c| word.eq_ignore_ascii_case(c));
        let (announces, temporary, in_definitions): (&[_], &[_], &[_]) = match word.len() {
            2 => (&["as"], &[], &[]),
            // AS NOT MATERIALIZED
            3 if self.follows("as") => (&["not"], &[], &[]),
            4 => (&["into", "with"], &["temp"], &["view"]),
            5 => (&["table"], &["local"], &[]),
            6 => (&["update"], &["global"], &["exists"]),
            8 => (&[], &[], &["function"]),
            9 => (&["recursive"], &["temporary"], &["procedure", "aggregate"]),
            10 => (&["references"], &[], &[]),
            _ => (&[], &[], &[]),
        };
        if is(announces) || self.kind == Kind::Definition && is(in_definitions) {
            self.declares = true;
        } else if is(temporary) && self.follows_any(&["into", "local", "global"]) {
            self.left |= Left::TEMPORARY;
            self.declares = true;
        } else if self.index && is(&["on", "using"]) {
            self.declares = true;
        } else if word.len() == 7
            && (is(&["program"]) || self.kind == Kind::Definition && is(&["execute"]))
        {
            self.left |= Left::UNKNOWN;
        }
        self.joins |= matches!(word.len(), 4 | 5) && is(&["join", "merge"]);
    }

    fn follows(&self, word: &str) -> bool {
        matches!(self.previous, Some(Token::Word(other)) if other.eq_ignore_ascii_case(word))
    }

    fn follows_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.follows(word))
    }

    /// Returns whether OVER or FILTER may follow the parenthesis's end, and an expression cannot.
    fn on_parenthesis(&mut self, name: Name<'a>) -> bool {
        if name.is_declared {
            return true;
        }
        let mut buffer = [0; 64];
        let last = match name.last {
            Token::Word(word) => lower(word, &mut buffer),
            Token::Quoted(name) => name,
            _ => return false,
        };
        let is_plain = name.schema.is_none() && matches!(name.last, Token::Word(_));
        if is_plain && functions::is_never_function(last) {
            // Of these only WITHIN GROUP belongs to a call.
            return last == "group";
        }
        if is_plain && self.is_syntax(last, name.before) {
            return false;
        }
        let (schema, of_server) = match name.schema {
            Some(Token::Word(schema)) => (Some(schema), schema.eq_ignore_ascii_case("pg_catalog")),
            Some(Token::Quoted(schema)) => (Some(schema), schema == "pg_catalog"),
            _ => (None, true),
        };
        let left = functions::call(schema, last, of_server, self.harmless);
        self.configures |= left == Left::SETTINGS;
        if left == Left::SETTINGS && self.set_config.is_none() {
            self.set_config = Some(self.depth);
        } else {
            self.left |= left;
        }
        true
    }

    /// Whether this word, which may also name a function, is syntax after that token.
    fn is_syntax(&mut self, word: &str, before: Option<Token<'_>>) -> bool {
        let follows = |words: &[&str]| match before {
            Some(Token::Word(before)) => words.iter().any(|word| before.eq_ignore_ascii_case(word)),
            _ => false,
        };
        match word {
            "by" => follows(&["order", "group", "partition"]),
            "join" => {
                // These cannot stand before an expression.
                let kinds = ["inner", "left", "right", "full", "outer", "cross", "natural"];
                if !follows(&kinds) {
                    self.join = Join::Opened;
                }
                true
            }
            "conflict" => follows(&["on"]) && !self.joins,
            "key" => follows(&["primary", "foreign"]),
            "sets" => follows(&["grouping"]),
            "varying" => follows(&["character", "char"]),
            _ => false,
        }
    }

    /// No list of arguments starts with a query that has no parentheses of its own.
    fn in_join(&mut self, token: Token<'a>) {
        let is = |word: &str| matches!(token, Token::Word(t) if t.eq_ignore_ascii_case(word));
        let is_query = match self.join {
            Join::Values => token == Token::Open,
            _ => ["select", "with", "table"].into_iter().any(is),
        };
        let is_values = self.join == Join::Opened && is("values");
        self.join = if is_values { Join::Values } else { Join::Decided };
        if !is_query && !is_values {
            self.left |= functions::call(None, "join", true, self.harmless);
        }
    }

    /// The bit of this depth in `calls`; none of one that is too deep.
    fn at_depth(&self) -> u64 {
        u32::try_from(self.depth).ok().and_then(|depth| 1_u64.checked_shl(depth)).unwrap_or(0)
    }

    fn on_close(&mut self) {
        self.closed_call = self.calls & self.at_depth() != 0;
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

/// The word in lower case, in the buffer; a longer one, which is no keyword, as it is.
pub(super) fn lower<'b>(word: &'b str, buffer: &'b mut [u8]) -> &'b str {
    let Some(buffer) = buffer.get_mut(..word.len()) else { return word };
    buffer.copy_from_slice(word.as_bytes());
    buffer.make_ascii_lowercase();
    std::str::from_utf8(buffer).unwrap_or(word)
}
