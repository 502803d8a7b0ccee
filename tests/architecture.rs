//! Rules of the code that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).expect("the folder of sources");
    let files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| (path.clone(), fs::read_to_string(&path).expect("a source")))
        .collect();
    assert!(files.len() > 5, "{} has lost its sources", folder.display());
    files
}

/// Without comments and without what only tests see.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let until_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    until_tests.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn the_core_is_pure() {
    let allowed = ["collections", "time", "mem", "fmt"];
    for (path, text) in sources("src/core") {
        if ["explore.rs", "cases.rs", "walk.rs"].iter().any(|tests| path.ends_with(tests)) {
            continue;
        }
        for line in code(&text) {
            for (at, _) in line.match_indices("std::") {
                let module = line[at + 5..].split(|c: char| !c.is_alphanumeric()).next();
                // `std::iter` is the prelude's, spelled out.
                let pure = module.is_some_and(|m| allowed.contains(&m) || m == "iter");
                assert!(pure, "{}: {line}", path.display());
            }
            for foreign in ["crate::", "parking_lot", "crossbeam", "log::", "Instant"] {
                // `pub(crate)` has no colons, so this is an import from above.
                assert!(!line.contains(foreign), "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn only_shared_locks_the_core() {
    for (path, text) in sources("src") {
        if path.ends_with("shared.rs") {
            assert_eq!(
                code(&text).filter(|line| line.contains("core.lock()")).count(),
                5,
                "the places that lock the core are few and known"
            );
            continue;
        }
        assert!(
            !code(&text).any(|line| line.contains("core.lock()")),
            "{} locks the core",
            path.display()
        );
    }
}

#[test]
fn locks_threads_and_clocks_come_from_the_facade() {
    for (path, text) in sources("src") {
        // The drivers are not part of the shell, and models have threads of their own.
        let exempt = ["models.rs", "postgres.rs", "sqlite.rs"];
        if exempt.iter().any(|file| path.ends_with(file)) {
            continue;
        }
        for line in code(&text) {
            for direct in
                ["parking_lot::", "std::sync::", "thread::spawn", "thread::Builder", "Instant::now"]
            {
                assert!(!line.contains(direct), "{}: {line}", path.display());
            }
        }
    }
}

/// What is modelled is the code that runs.
#[test]
fn only_the_facade_knows_of_models() {
    for folder in ["src", "src/core"] {
        for (path, text) in sources(folder) {
            if path.ends_with("models.rs") {
                continue;
            }
            // The line that declares the models is there for no other purpose.
            let known = usize::from(path.ends_with("src/lib.rs"));
            let mentions = |line: &&str| {
                ["fairpool_model", "loom::", "shuttle::"].iter().any(|word| line.contains(word))
            };
            assert_eq!(code(&text).filter(mentions).count(), known, "{}", path.display());
        }
    }
}
