use mysql::UrlError;

use super::*;

fn server(code: u16, state: &str) -> Error {
    Error::MySqlError(MySqlError { code, state: state.to_owned(), message: "words".to_owned() })
}

#[test]
fn p10_errors_that_end_a_connection_are_fatal() {
    for (code, state) in [
        (1927, "70100"),
        (1053, "08S01"),
        (1047, "08S01"),
        (1153, "08S01"),
        (1158, "08S01"),
        (3169, "HY000"),
        (4031, "HY000"),
    ] {
        assert!(is_fatal(&server(code, state)), "{code}");
    }
    let lost = |what: &str| {
        let message = format!("Unknown prepared statement handler (7) given to {what}");
        Error::MySqlError(MySqlError { code: 1243, state: "HY000".to_owned(), message })
    };
    assert!(is_fatal(&lost("mysqld_stmt_execute")));
    assert!(!is_fatal(&lost("EXECUTE")));
    let lost = io::Error::from(io::ErrorKind::UnexpectedEof);
    assert!(is_fatal(&Error::IoError(lost)));
    assert!(is_fatal(&Error::DriverError(DriverError::PacketOutOfSync)));
    assert!(is_fatal(&Error::DriverError(DriverError::UnexpectedPacket)));
}

#[test]
fn errors_of_statements_are_not_fatal() {
    // Syntax, a duplicate key, no such table, a lock timeout, a deadlock, an interrupted query,
    // and the three refused writes, which only raise a question.
    for code in [1064, 1062, 1146, 1205, 1213, 1317, 1290, 1792, 1836] {
        assert!(!is_fatal(&server(code, "HY000")), "{code}");
    }
    assert!(!is_fatal(&Error::DriverError(DriverError::MixedParams)));
    assert!(!is_fatal(&Error::DriverError(DriverError::MismatchedStmtParams(1, 2))));
}

#[test]
fn p9_only_this_process_s_own_settings_are_permanent() {
    assert!(is_permanent(&Error::UrlError(UrlError::BadUrl)));
    assert!(is_permanent(&refuse("a bad name".to_owned())));
    for code in [1040, 1044, 1045, 1049, 1129, 1130, 1203, 1231] {
        assert!(!is_permanent(&server(code, "HY000")), "{code}");
    }
    let own = io::Error::new(io::ErrorKind::InvalidInput, "not of this crate");
    assert!(!is_permanent(&Error::IoError(own)));
    assert!(!is_permanent(&Error::DriverError(DriverError::ConnectTimeout)));
    assert!(!is_permanent(&Error::DriverError(DriverError::TlsNotSupported)));
}
