//! What a name means to SQLite: a path, or a URI.

use std::path::{Path, PathBuf};

const SCHEME: &str = "file:";

/// The same name, so that it does not depend on the process's folder.
pub(super) fn absolute(name: &Path, folder: Option<&Path>) -> PathBuf {
    let Some(folder) = folder else { return name.to_owned() };
    match uri(name) {
        Some(uri) => absolute_uri(uri, folder).map_or_else(|| name.to_owned(), PathBuf::from),
        // Empty: a temporary database.
        None if name.as_os_str().is_empty() => PathBuf::new(),
        None => folder.join(name),
    }
}

/// The part after `file:`. The SQLite that is compiled in takes such a name as a URI,
/// whatever the flags.
fn uri(name: &Path) -> Option<&str> {
    name.to_str()?.strip_prefix(SCHEME)
}

/// `None` if the URI is absolute, or names no file.
fn absolute_uri(uri: &str, folder: &Path) -> Option<String> {
    let path = &uri[..path_length(uri)];
    let parameters = &uri[path.len()..];
    // A database in memory, or in a file system of its own, is found by its name alone.
    let is_no_file = path.is_empty()
        || decoded(path) == ":memory:"
        || parameters.contains("mode=memory")
        || parameters.contains("vfs=");
    if is_no_file || path.starts_with('/') || !cfg!(unix) {
        return None;
    }
    let folder = folder.to_str()?.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    Some(format!("{SCHEME}{folder}/{uri}"))
}

/// The path of the file that an absolute name means, as the user wrote it.
pub(super) fn file_of(name: &Path) -> Option<PathBuf> {
    let Some(uri) = uri(name) else {
        return (!name.as_os_str().is_empty()).then(|| name.to_owned());
    };
    let path = &uri[..path_length(uri)];
    // `file://localhost/path`, or `file:///path`.
    let path = match path.strip_prefix("//") {
        Some(rest) => &rest[rest.find('/')?..],
        None => path,
    };
    (!path.is_empty()).then(|| PathBuf::from(decoded(path)))
}

fn path_length(uri: &str) -> usize {
    uri.find(['?', '#']).unwrap_or(uri.len())
}

/// Resolves `%xx`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'%').then(|| tail.get(..2)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_absolute(name: &str) -> String {
        let name = absolute(Path::new(name), Some(Path::new("/a b/100%")));
        name.to_str().unwrap().to_owned()
    }

    #[cfg(unix)]
    #[test]
    fn a_relative_name_gets_the_folder_and_others_stay() {
        for (name, expected) in [
            ("shop.db", "/a b/100%/shop.db"),
            (" ", "/a b/100%/ "),
            ("", ""),
            ("/x/shop.db", "/x/shop.db"),
            ("file:shop.db?mode=ro", "file:/a b/100%25/shop.db?mode=ro"),
            ("file:/x/shop.db?mode=ro", "file:/x/shop.db?mode=ro"),
            ("file:///x/shop.db", "file:///x/shop.db"),
            ("file:", "file:"),
            ("file:?mode=ro", "file:?mode=ro"),
            ("file::memory:", "file::memory:"),
            ("file:%3amemory:", "file:%3amemory:"),
            ("file::x", "file:/a b/100%25/:x"),
            ("file:shop?mode=memory&cache=shared", "file:shop?mode=memory&cache=shared"),
            ("file:shop?vfs=memdb", "file:shop?vfs=memdb"),
        ] {
            assert_eq!(made_absolute(name), expected, "{name}");
        }
    }

    #[test]
    fn the_file_of_a_uri_is_found() {
        for (name, expected) in [
            ("/x/shop.db", Some("/x/shop.db")),
            ("file:/x/a%20b%3f%zz.db?mode=ro#top", Some("/x/a b?%zz.db")),
            ("file:///x/shop.db", Some("/x/shop.db")),
            ("file://localhost/x/shop.db", Some("/x/shop.db")),
            ("file:", None),
            ("file://localhost", None),
            ("", None),
        ] {
            let found = file_of(Path::new(name));
            assert_eq!(found.as_deref(), expected.map(Path::new), "{name}");
        }
    }
}
