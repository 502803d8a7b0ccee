//! What servers say, without a server. `tests/server` provokes what it can.

use super::*;
use crate::manager::secrets::from_server;

/// Severity, SQLSTATE, text.
fn said(severity: &str, code: &str, text: &str) -> Error {
    let fields = [(b'S', severity), (b'V', severity), (b'C', code), (b'M', text)];
    from_server(&fields)
}

#[test]
fn nothing_that_a_server_says_is_permanent() {
    for (code, text) in [
        ("08004", "rejected"),
        ("08P01", "no such database: shop"),
        ("08P01", "no such user: app"),
        ("08P01", "query_wait_timeout"),
        ("08P01", "pgbouncer cannot connect to server"),
        ("22023", "invalid value for parameter \"default_tablespace\": \"fast\""),
        ("28000", "no pg_hba.conf entry for host \"10.0.0.7\""),
        ("28000", "role \"app\" is not permitted to log in"),
        ("28000", "role \"app\" does not exist"),
        ("28P01", "password authentication failed for user \"app\""),
        ("3D000", "database \"shop\" does not exist"),
        ("42501", "permission denied for database \"shop\""),
        ("42601", "invalid command-line argument for server process: x"),
        ("42704", "unrecognized configuration parameter \"jot\""),
        ("53100", "could not extend file: No space left on device"),
        ("53200", "out of memory"),
        ("53300", "sorry, too many clients already"),
        ("53300", "too many connections for role \"app\""),
        ("55000", "database \"shop\" is not currently accepting connections"),
        ("55006", "database \"shop\" is being accessed by other users"),
        ("55P02", "parameter \"port\" cannot be changed without restarting the server"),
        ("57P01", "terminating connection due to administrator command"),
        ("57P02", "terminating connection because of crash of another server process"),
        ("57P03", "the database system is starting up"),
        ("57P03", "the database system is in recovery mode"),
        ("57P03", "the database system is not yet accepting connections"),
        ("57P04", "database \"shop\" was dropped"),
        ("57014", "canceling authentication due to timeout"),
        ("58030", "could not read file \"base/5/1259\""),
        ("58P01", "could not access file \"auto_explain\""),
        ("XX000", "cache lookup failed"),
        ("XX001", "invalid page in block 0"),
        ("99999", "from the future"),
    ] {
        for severity in ["FATAL", "ERROR"] {
            let error = said(severity, code, text);
            assert_eq!(error.code().map(SqlState::code), Some(code));
            assert!(!is_permanent(&error), "{code}: {text}");
            assert!(is_fatal(&error) || severity == "ERROR", "{code}: {text}");
        }
    }
}

#[test]
fn the_severity_counts_also_if_it_is_not_repeated_in_english() {
    let bare = |severity| from_server(&[(b'S', severity), (b'C', "53300"), (b'M', "why")]);
    assert!(is_fatal(&bare("FATAL")) && is_fatal(&bare("PANIC")));
    assert!(!is_fatal(&bare("ERROR")));
    let translated = [(b'S', "FATAL"), (b'V', "ERROR"), (b'C', "53300"), (b'M', "why")];
    assert!(!is_fatal(&from_server(&translated)));
}

#[test]
fn connections_end_by_code_whatever_the_severity() {
    for code in ["08000", "08003", "08006", "08P01", "57P01", "57P02", "57P03", "57P04", "57P05"] {
        assert!(is_fatal(&said("ERROR", code, "why")), "{code}");
    }
    for code in ["0A000", "23505", "25P02", "40001", "42601", "53200", "55P03", "57014", "XX000"] {
        assert!(!is_fatal(&said("ERROR", code, "why")), "{code}");
    }
}
