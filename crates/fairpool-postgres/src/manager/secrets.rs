//! What may be shown of a configuration: names, and no value that can be a secret.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use postgres::config::Host;
use postgres::error::DbError;
use postgres::{Config, Error, NoTls};
use tokio::io::{AsyncRead, ReadBuf};

/// Prints a configuration. Unlike the driver's own `Debug` it hides the value of
/// `options`, and everything that may be the rest of a password: in
/// `postgresql://user:p@ss@host/db` the first `@` ends the password, so that the driver
/// takes `ss@host` for the host.
pub(super) struct Shown<'a>(pub(super) &'a Config);

/// Prints as the driver prints a password.
pub(super) struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0;
        let user = config.get_user().map(|user| user.split(':').next().unwrap_or_default());
        let mut shown = f.debug_struct("Config");
        shown.field("user", &user);
        shown.field("password", &config.get_password().map(|_| Hidden));
        if has_password_in_address(config) {
            shown.field("address", &Hidden);
            shown.field("note", &"an @ in a host or database name: escape the password as %40");
        } else {
            shown.field("host", &config.get_hosts());
            shown.field("hostaddr", &config.get_hostaddrs());
            shown.field("port", &config.get_ports());
            shown.field("dbname", &config.get_dbname());
        }
        shown
            .field("options", &config.get_options().map(|_| Hidden))
            .field("application_name", &config.get_application_name())
            .field("ssl_mode", &config.get_ssl_mode())
            .field("ssl_negotiation", &config.get_ssl_negotiation())
            .field("connect_timeout", &config.get_connect_timeout())
            .field("tcp_user_timeout", &config.get_tcp_user_timeout())
            .field("keepalives", &config.get_keepalives())
            .field("keepalives_idle", &config.get_keepalives_idle())
            .field("keepalives_interval", &config.get_keepalives_interval())
            .field("keepalives_retries", &config.get_keepalives_retries())
            .field("target_session_attrs", &config.get_target_session_attrs())
            .field("channel_binding", &config.get_channel_binding())
            .field("load_balance_hosts", &config.get_load_balance_hosts())
            .finish()
    }
}

/// Whether the address seems to contain the rest of a password: no host has an `@` in its
/// name, and hardly any database.
fn has_password_in_address(config: &Config) -> bool {
    let of_host = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
    config.get_hosts().iter().any(of_host)
        || config.get_dbname().is_some_and(|name| name.contains('@'))
}

/// Parses a connection string. The driver's error may quote what it takes for the name of
/// an option, which may be part of a password.
pub(super) fn parse(text: &str) -> Result<Config, Error> {
    text.parse().map_err(|error: Error| {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        let name = cause.strip_prefix("unknown option `").and_then(|rest| rest.strip_suffix('`'));
        let may_be_secret = match name {
            Some(name) => !is_option_of_libpq(name) && (!is_word(name) || may_split_password(text)),
            None => cause.starts_with("unexpected character"),
        };
        match may_be_secret {
            true => unknown_option("(not shown, as it may be part of a password)"),
            false => error,
        }
    })
}

fn is_word(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// Whether this text may have a password that the driver splits, so that it takes a part of it
/// for an option.
fn may_split_password(text: &str) -> bool {
    text.contains("password") || text.matches('@').count() > 1
}

/// Whether this is an option of `libpq` that the driver does not have.
fn is_option_of_libpq(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "passfile",
        "service",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslsni",
        "gssencmode",
        "krbsrvname",
        "client_encoding",
        "require_auth",
    ];
    NAMES.contains(&name)
}

/// The driver's own error for an unknown option of this name. (The driver offers no other way
/// to make an error.)
fn unknown_option(name: &str) -> Error {
    let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let parsed = format!("postgresql://?{encoded}=").parse::<Config>();
    parsed.expect_err("BUG: the driver knows this option")
}

/// The error of the statement that applies these session settings, without the server's
/// own words, which quote the value. Errors that are not about a setting stay as they are.
pub(super) fn of_settings(error: Error, settings: &[(String, String)]) -> Error {
    // Classes that are not about a setting: resources, an operator, the system, a lost
    // connection.
    const ABOUT_THE_SERVER: [&str; 5] = ["08", "53", "57", "58", "XX"];
    let names = settings.iter().map(|(name, _)| name.as_str());
    match error.as_db_error() {
        Some(db) if !settings.is_empty() && !ABOUT_THE_SERVER.contains(&class(db)) => {
            rejected(db, "session_setting", names.collect())
        }
        _ => error,
    }
}

/// The error of a connect, without the server's own words if they may quote a value of
/// `options`.
pub(super) fn of_connect(error: Error, config: &Config) -> Error {
    const ABOUT_OPTIONS: [&str; 4] = ["0A", "22", "42", "55"];
    let options = config.get_options().unwrap_or_default();
    match error.as_db_error() {
        Some(db)
            if !options.is_empty()
                && ABOUT_OPTIONS.contains(&class(db))
                && db.code().code() != "42501" =>
        {
            rejected(db, "options", names_in(options))
        }
        _ => error,
    }
}

/// The first two characters of the SQLSTATE.
fn class(db: &DbError) -> &str {
    db.code().code().get(..2).unwrap_or_default()
}

/// The names in `-c name=value --name=value`. A backslash before a space makes the space a
/// part of the value.
fn names_in(options: &str) -> Vec<&str> {
    let (mut names, mut after_c, mut goes_on) = (Vec::new(), false, false);
    for word in options.split_whitespace() {
        let pair = match after_c {
            _ if goes_on => None,
            true => Some(word),
            false => word.strip_prefix("--").or_else(|| word.strip_prefix("-c")),
        };
        names.extend(pair.and_then(|pair| pair.split_once('=')).map(|(name, _)| name));
        after_c = word == "-c" && !goes_on;
        goes_on = word.ends_with('\\');
    }
    names
}

fn rejected(db: &DbError, what: &str, names: Vec<&str>) -> Error {
    let message = db.message();
    let is_meant = |name: &&str| message.contains(&format!("\"{name}\""));
    let meant: Vec<&str> = names.iter().copied().filter(is_meant).collect();
    let names = if meant.is_empty() { names } else { meant };
    let text = format!(
        "the server rejects {what} {} (the value and the server's own words are not shown)",
        names.join(", ")
    );
    server_error(db, &text)
}

/// An error with the severity and the code of another, and with this text.
fn server_error(db: &DbError, text: &str) -> Error {
    let severity = db.parsed_severity().map(|severity| severity.to_string());
    let mut fields = vec![(b'S', db.severity()), (b'C', db.code().code()), (b'M', text)];
    fields.extend(severity.as_deref().map(|severity| (b'V', severity)));
    from_server(&fields)
}

/// The driver's error for a server's message with these fields.
pub(crate) fn from_server(all: &[(u8, &str)]) -> Error {
    let mut fields = Vec::new();
    for &(field, value) in all {
        fields.push(field);
        fields.extend(value.bytes().filter(|&byte| byte != 0));
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
    let message = [b"E".as_slice(), &length.to_be_bytes(), &fields].concat();
    from_answer(message.as_slice())
}

/// The driver's error whose cause is this one.
pub(super) fn from_io(error: io::Error) -> Error {
    struct Failing(Option<io::Error>);

    impl AsyncRead for Failing {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(self.0.take().map_or(Ok(()), Err))
        }
    }

    from_answer(Failing(Some(error)))
}

/// The driver's error for what a server answers. The driver itself reads the answer from memory,
/// because there is no other way to make its errors.
fn from_answer(answer: impl AsyncRead + Unpin) -> Error {
    let mut config = tokio_postgres::Config::new();
    config.user("nobody").ssl_mode(tokio_postgres::config::SslMode::Disable);
    let server = tokio::io::join(answer, tokio::io::sink());
    let answered = pin!(config.connect_raw(server, NoTls));
    // The answer is in memory, so that one poll is enough.
    match answered.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(error)) => error,
        Poll::Ready(Ok(_)) | Poll::Pending => unreachable!("BUG: the driver reads no error"),
    }
}

#[cfg(test)]
mod tests;
