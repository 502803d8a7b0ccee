//! Rules of the code that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

/// Those of a folder and of the folders in it, but for the ones that are named here.
fn sources(folder: &str, exempt: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in exempt {
        assert!(root.join(path).exists(), "{path} is exempt, but not there");
    }
    let mut files = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder of sources") {
            let path = entry.expect("an entry").path();
            if exempt.iter().any(|exempt| path == root.join(exempt)) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 10, "{folder} has lost its sources");
    files
}

/// They know more than the core may.
const TESTS_OF_THE_CORE: [&str; 5] = [
    "src/core/cases.rs",
    "src/core/explore.rs",
    "src/core/listener.rs",
    "src/core/walk.rs",
    "src/core/walk",
];

/// Without comments and without what only tests see.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let until_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    until_tests.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn the_core_is_pure() {
    let allowed = ["collections", "time", "mem", "fmt"];
    for (path, text) in sources("src/core", &TESTS_OF_THE_CORE) {
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
    for (path, text) in sources("src", &[]) {
        if path.ends_with("src/shared.rs") {
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
    // The drivers are not part of the shell, and models have threads of their own.
    let mut exempt =
        vec!["src/sync", "src/models", "src/models.rs", "src/postgres.rs", "src/sqlite.rs"];
    exempt.extend(TESTS_OF_THE_CORE);
    for (path, text) in sources("src", &exempt) {
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
    for (path, text) in sources("src", &["src/sync", "src/models", "src/models.rs"]) {
        // The line that declares the models is there for no other purpose.
        let known = usize::from(path.ends_with("src/lib.rs"));
        let mentions = |line: &&str| {
            ["fairpool_model", "loom::", "shuttle::"].iter().any(|word| line.contains(word))
        };
        assert_eq!(code(&text).filter(mentions).count(), known, "{}", path.display());
    }
}
