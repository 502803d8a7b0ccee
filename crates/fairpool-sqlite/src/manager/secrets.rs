//! What may be shown of a database's name: a URI may have a key in it.

use std::path::Path;

use rusqlite::Error;

/// The parameters whose values are no secrets.
const HARMLESS: [&str; 7] = ["cache", "immutable", "mode", "modeof", "nolock", "psow", "vfs"];

/// The name of a database without values of parameters that may be secrets, such as
/// `hexkey`. Their names stay.
pub(super) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let Some((name, parameters)) = text.split_once('?') else { return text.into_owned() };
    let shown = parameters.split('&').map(|parameter| match parameter.split_once('=') {
        Some((key, _)) if HARMLESS.contains(&key) => parameter.to_owned(),
        Some((key, _)) => format!("{key}=_"),
        None => "_".to_owned(),
    });
    format!("{name}?{}", shown.collect::<Vec<_>>().join("&"))
}

/// The error of opening this database, whose text may quote its name.
pub(super) fn of_open(error: Error, path: &Path) -> Error {
    match error {
        Error::SqliteFailure(code, Some(text)) => {
            let text = text.replace(&*path.to_string_lossy(), &shown(path));
            Error::SqliteFailure(code, Some(text))
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SqliteConnectionManager;
    use fairpool::ManageConnection;
    use std::error::Error as _;

    #[test]
    fn a_key_in_a_uri_is_not_shown() {
        for (uri, expected) in [
            ("file:/no/such/a.db?key=zzsecret", "file:/no/such/a.db?key=_"),
            ("file:/no/such/a.db?hexkey=zzsecret&mode=rw", "file:/no/such/a.db?hexkey=_&mode=rw"),
            ("file:/no/such/a.db?vfs=unix&textkey=a%26zzsecret", "?vfs=unix&textkey=_"),
            ("file:/no/such/a.db?%6Bey=zzsecret", "?%6Bey=_"),
            ("file:/no/such/a.db?zzsecret", "/a.db?_"),
            ("file:/no/such/a.db?key=a=zzsecret#zzsecret", "?key=_"),
            ("/no/such/a.db?key=zzsecret", "/no/such/a.db?key=_"),
            ("file:no/such/a.db?key=zzsecret", "no/such/a.db?key=_"),
        ] {
            let manager = SqliteConnectionManager::file(uri);
            let mut texts = vec![format!("{manager:?} {manager:#?}")];
            let error = manager.connect().map(drop).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            texts.push(format!("{error} {error:?} {:?}", error.source()));
            for text in texts {
                assert!(!text.contains("zzsecret") && text.contains(expected), "{uri}: {text}");
            }
        }
    }

    #[test]
    fn a_plain_path_is_shown_as_it_is() {
        for path in ["/var/lib/shop.db", "file:shop.db", "file:shop.db?mode=ro&cache=private"] {
            assert_eq!(shown(Path::new(path)), path);
        }
    }
}
