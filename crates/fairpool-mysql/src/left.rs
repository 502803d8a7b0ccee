//! What a statement may leave on its session, by its text.

mod functions;
mod words;

use self::functions::leaves_nothing;
use self::words::{Word, Words};

/// What a statement may leave on its session.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing, with `autocommit` on or in a transaction that is known of.
    Nothing,
    /// Something that a reset undoes: user variables, locks by name.
    Session,
    /// Anything, also a transaction or another default database.
    Anything,
    /// As [`Anything`](Effect::Anything), by several statements.
    Several,
}

/// The user's own functions that leave nothing, in lower case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Harmless(Vec<String>);

impl Harmless {
    pub(crate) fn add(&mut self, names: impl Iterator<Item = String>) {
        self.0.extend(names.map(|name| name.to_ascii_lowercase()));
    }

    /// A name may have its database before it, and a `*` at its end stands for the rest.
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|known| match known.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == known,
        })
    }
}

/// The statements that leave nothing, unless they call something or set a variable.
const USUAL: [&str; 10] = [
    "select", "insert", "update", "delete", "replace", "show", "explain", "describe", "desc",
    "values",
];

/// Statements that run several others.
const PROCEDURES: [&str; 2] = ["call", "execute"];

fn of_call(name: &str, is_quoted: bool, harmless: &Harmless) -> Effect {
    let name = name.to_ascii_lowercase();
    let is_known = !is_quoted && leaves_nothing(&name) || harmless.has(&name);
    if is_known { Effect::Nothing } else { Effect::Session }
}

impl Effect {
    /// Reads a text once, without recursion. In doubt it may leave more than it does.
    pub(crate) fn of(sql: &str, harmless: &Harmless) -> Effect {
        let Some(words) = Words::of(sql) else { return Effect::Several };
        let mut effect = Effect::Nothing;
        let mut is_first = true;
        // The name of a table comes before its columns in parentheses, as that of a function does.
        let mut is_table = false;
        for word in words {
            match word {
                Word::Name { text, is_quoted, is_called } => {
                    let is = |word: &&str| !is_quoted && text.eq_ignore_ascii_case(word);
                    if is_first && PROCEDURES.iter().any(is) {
                        return Effect::Several;
                    }
                    if is_first && !USUAL.iter().any(is) {
                        effect = Effect::Anything;
                    }
                    if is_called && !is_table && effect == Effect::Nothing {
                        effect = of_call(text, is_quoted, harmless);
                    }
                    is_table = is(&"into");
                }
                Word::Variable if effect == Effect::Nothing => effect = Effect::Session,
                Word::Variable => {}
                Word::NextStatement => return Effect::Several,
            }
            is_first = false;
        }
        effect
    }
}

#[cfg(test)]
mod tests;
