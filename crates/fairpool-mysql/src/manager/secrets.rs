//! What may be shown of a configuration: names, and no value that can be a secret.

use std::fmt;

use mysql::{Error, MySqlError, Opts, UrlError};

use super::errors::refuse;

/// Prints options, without the password and what may be the rest of one, SQL, and attributes.
pub(super) struct Shown<'a>(pub(super) &'a Opts);

/// Prints in place of a value.
struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let opts = self.0;
        f.debug_struct("Opts")
            .field("host", &opts.get_ip_or_hostname())
            .field("port", &opts.get_tcp_port())
            .field("socket", &opts.get_socket())
            .field("user", &opts.get_user())
            .field("password", &opts.get_pass().map(|_| Hidden))
            .field("database", &opts.get_db_name())
            .field("tls", &opts.get_ssl_opts().is_some())
            .field("init", &opts.get_init().iter().map(|_| Hidden).collect::<Vec<_>>())
            .field("tcp_connect_timeout", &opts.get_tcp_connect_timeout())
            .field("read_timeout", &opts.get_read_timeout())
            .field("write_timeout", &opts.get_write_timeout())
            .finish_non_exhaustive()
    }
}

/// Parses a URL. An `@`, `/`, `?` or `#` in a password must be escaped; where it is not, the driver
/// takes a part of the password for something else, and its error may quote that.
pub(super) fn parse(url: &str) -> Result<Opts, Error> {
    let refused = |what: &str| {
        refuse(format!(
            "the URL is not valid: {what} (the value is not shown, as it may be part of a password; \
             escape special characters of a password: %40 for @)"
        ))
    };
    if has_late_at(url) {
        return Err(refused("an `@` after the host, which must be escaped"));
    }
    Opts::from_url(url).map_err(|error| match error {
        UrlError::UnknownParameter(_) => refused("the driver has no such parameter"),
        UrlError::InvalidValue(name, _) if is_word(&name) => {
            refused(&format!("the value of the parameter `{name}`"))
        }
        UrlError::InvalidValue(..) => refused("the value of a parameter"),
        UrlError::UnsupportedScheme(_) => refused("it does not begin with mysql://"),
        other => other.into(),
    })
}

/// Whether there is an `@` in the path, the query or the fragment. A password whose `/`, `?` or `#` is
/// not escaped ends the host's part, so that the rest of it, up to its `@`, would be taken for a name.
fn has_late_at(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find(['/', '?', '#']).is_some_and(|end| rest[end..].contains('@'))
}

fn is_word(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// The error of a statement of the configuration, without the server's own words, which may quote
/// a value. Errors that are not about the statement stay as they are.
pub(super) fn of_statement(error: Error, what: &str) -> Error {
    match error {
        Error::MySqlError(error) if !is_about_the_server(&error) => {
            let message = format!(
                "the server rejects {what} (values and the server's own words are not shown)"
            );
            Error::MySqlError(MySqlError { message, ..error })
        }
        other => other,
    }
}

/// The same for a statement that sets these variables. The server's words tell which one is meant.
pub(super) fn of_settings(error: Error, settings: &[(String, String)]) -> Error {
    let message = match &error {
        Error::MySqlError(error) => error.message.clone(),
        _ => return error,
    };
    let names = settings.iter().map(|(name, _)| name.as_str());
    let is_meant = |name: &&str| message.contains(&format!("'{name}'"));
    let meant: Vec<&str> = names.clone().filter(is_meant).collect();
    let names = if meant.is_empty() { names.collect() } else { meant };
    of_statement(error, &format!("session_setting {}", names.join(", ")))
}

/// Resources, a shutdown, a lost connection.
fn is_about_the_server(error: &MySqlError) -> bool {
    error.state.starts_with("08")
        || matches!(error.code, 1021 | 1037 | 1038 | 1040 | 1041 | 1053 | 1203 | 1226 | 1927)
}

#[cfg(test)]
mod tests;
