//! A comment that says for whom a statement runs.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::call::Source;
use super::state::State;

/// A comment as sqlcommenter specifies it, with a space before it.
pub(super) struct Comment(Box<str>);

impl Comment {
    /// `None` for no tags.
    pub(super) fn of(tags: &[(&str, &str)]) -> Option<Comment> {
        let sorted: BTreeMap<String, String> =
            tags.iter().map(|(name, value)| (encoded(name), encoded(value))).collect();
        let pairs: Vec<String> =
            sorted.iter().map(|(name, value)| format!("{name}='{value}'")).collect();
        (!pairs.is_empty()).then(|| Comment(format!(" /*{}*/", pairs.join(",")).into()))
    }

    /// The text with the comment. `None` if the text has one already, or what looks like one: it
    /// must stay as it is, and a comment after `--` would not be seen anyway.
    pub(super) fn append_to(&self, sql: &str) -> Option<String> {
        let has_one = sql.contains("--") || sql.contains("/*");
        (!has_one).then(|| [sql, &self.0].concat())
    }
}

impl State {
    /// The text to send instead of the statement's own, if this use has a comment.
    pub(super) fn commented(&self, source: Source<'_>) -> Option<String> {
        let comment = self.comment.as_ref()?;
        comment.append_to(source.named().err()?)
    }
}

/// Percent-encodes all but letters, digits and `-._~`: no quote, slash, star, backslash or line
/// break is left.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(sql: &str, tags: &[(&str, &str)]) -> Option<String> {
        Comment::of(tags)?.append_to(sql)
    }

    #[test]
    fn tags_are_sorted_encoded_and_quoted() {
        let traceparent = "00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01";
        let tags = [("traceparent", traceparent), ("label", "GET /a b"), ("a key", "ü")];
        let expected = format!(
            "SELECT 1 /*a%20key='%C3%BC',label='GET%20%2Fa%20b',traceparent='{traceparent}'*/"
        );
        assert_eq!(on("SELECT 1", &tags), Some(expected));
        assert_eq!(on("SELECT 1", &[("a", "1"), ("a", "2")]).unwrap(), "SELECT 1 /*a='2'*/");
        assert!(Comment::of(&[]).is_none());
    }

    #[test]
    fn no_text_can_end_the_comment() {
        let every_byte: String = (0..=255).map(char::from).collect();
        for text in ["*/ DROP TABLE t; --", "'*/", "\\'", "/*", "\n*/\r\0", "%2A%2F", &every_byte] {
            let sent = on("SELECT 1", &[(text, text)]).unwrap();
            let inside = sent.strip_prefix("SELECT 1 /*").and_then(|text| text.strip_suffix("*/"));
            let inside = inside.unwrap_or_else(|| panic!("{sent}"));
            let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%='".contains(&byte);
            assert!(inside.bytes().all(is_harmless), "{sent}");
            assert_eq!(inside.matches('\'').count(), 2, "{sent}");
        }
    }

    #[test]
    fn a_text_with_a_comment_stays_as_it_is() {
        for sql in ["SELECT 1 -- one", "/* one */ SELECT 1", "SELECT /*+ hint */ 1"] {
            assert_eq!(on(sql, &[("label", "x")]), None);
        }
    }
}
