//! Rules of the pool's code that no compiler checks: what may import what, and where
//! locks, threads and clocks come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up: each imports only itself and those before it.
const LAYERS: [&str; 7] = ["core", "sync", "types", "runtime", "observe", "api", "simulation"];

/// Tests in files of their own, which know more than the code may.
const TEST_SOURCES: [&str; 3] = ["core/verify", "models", "stub.rs"];

/// The pool's sources by their path below `src`, without comments and unit tests.
fn sources() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in TEST_SOURCES {
        assert!(root.join(path).exists(), "src/{path} is exempt, but does not exist");
    }
    let mut sources = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(&root).expect("below src").to_owned();
            if TEST_SOURCES.iter().any(|exempt| name == Path::new(exempt)) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !is_tests(&name)
            {
                let text = fs::read_to_string(&path).expect("a source");
                sources.insert(name, code(&text));
            }
        }
    }
    assert!(sources.len() > 50, "src has lost its sources");
    sources
}

fn is_tests(name: &Path) -> bool {
    name.file_name().is_some_and(|name| name == "tests.rs")
}

fn code(text: &str) -> String {
    let until_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    until_tests.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

// ---- imports ----

type Path_ = Vec<String>;

/// The modules, by their paths, with what they re-export from below.
struct Modules {
    files: BTreeMap<Path_, PathBuf>,
    reexports: BTreeMap<Path_, BTreeMap<String, Path_>>,
}

fn module_of(file: &Path) -> Path_ {
    let mut path: Path_ =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| last == "mod" || last == "lib") {
        path.pop();
    }
    path
}

impl Modules {
    fn of(sources: &BTreeMap<PathBuf, String>) -> Modules {
        let files = sources.keys().map(|file| (module_of(file), file.clone())).collect();
        let mut modules = Modules { files, reexports: BTreeMap::new() };
        for (file, text) in sources {
            let module = module_of(file);
            let of_module: BTreeMap<String, Path_> = use_items(text)
                .into_iter()
                .filter(|item| item.is_public)
                .map(|item| (item.name.clone(), modules.absolute(&module, item.path)))
                .collect();
            modules.reexports.insert(module, of_module);
        }
        modules
    }

    /// A path as seen from the crate's root.
    fn absolute(&self, module: &Path_, path: Path_) -> Path_ {
        let mut base = module.clone();
        let mut rest = path.into_iter().peekable();
        match rest.peek().map(String::as_str) {
            Some("crate") => {
                base.clear();
                rest.next();
            }
            Some("self") => drop(rest.next()),
            Some("super") => {
                while rest.next_if(|part| part == "super").is_some() {
                    base.pop();
                }
            }
            // A submodule, or another crate.
            _ => {}
        }
        base.extend(rest);
        base
    }

    /// The file that defines what this absolute path names.
    fn file_of(&self, path: &Path_) -> Option<&PathBuf> {
        for depth in (0..=path.len()).rev() {
            let (module, rest) = path.split_at(depth);
            let module = module.to_vec();
            let Some(file) = self.files.get(&module) else { continue };
            let Some(name) = rest.first() else { return Some(file) };
            return match self.reexports[&module].get(name) {
                Some(target) if *target != *path => {
                    self.file_of(&[&target[..], &rest[1..]].concat())
                }
                _ => Some(file),
            };
        }
        None
    }
}

struct UseItem {
    is_public: bool,
    name: String,
    path: Path_,
}

/// What the `use` declarations of a source name.
fn use_items(text: &str) -> Vec<UseItem> {
    let mut items = Vec::new();
    for declaration in text.split(';') {
        let Some(at) = declaration.rfind("use ") else { continue };
        let before = declaration[..at].trim_end();
        if !(before.is_empty()
            || before.ends_with([')', '}', '{', ']', '\n'])
            || before.ends_with("pub"))
        {
            continue;
        }
        let is_public = before.ends_with("pub") || before.ends_with(')');
        let tree: String = declaration[at + 4..].split_whitespace().collect::<Vec<_>>().join(" ");
        expand(&tree, &mut Vec::new(), &mut |path: &Path_| {
            let mut path = path.clone();
            let mut name = path.last().cloned().unwrap_or_default();
            if let Some((original, alias)) = name.clone().split_once(" as ") {
                *path.last_mut().expect("a name") = original.to_owned();
                name = alias.to_owned();
            }
            if path.last().is_some_and(|last| last == "self" || last == "*") {
                path.pop();
                name = path.last().cloned().unwrap_or_default();
            }
            items.push(UseItem { is_public, name, path });
        });
    }
    items
}

/// Walks a tree such as `a::{b, c::{d, e}}`.
fn expand(tree: &str, prefix: &mut Path_, found: &mut impl FnMut(&Path_)) {
    let depth = prefix.len();
    let (parts, braces) = match tree.find('{') {
        Some(at) => (&tree[..at], Some(&tree[at + 1..tree.rfind('}').expect("a closing brace")])),
        None => (tree, None),
    };
    prefix.extend(
        parts.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned),
    );
    match braces {
        None => found(prefix),
        Some(inner) => {
            let (mut level, mut start) = (0, 0);
            for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
                match c {
                    '{' => level += 1,
                    '}' => level -= 1,
                    ',' if level == 0 => {
                        let part = inner[start..at].trim();
                        if !part.is_empty() {
                            expand(part, prefix, found);
                        }
                        start = at + 1;
                    }
                    _ => {}
                }
            }
        }
    }
    prefix.truncate(depth);
}

/// Paths that are spelled out where they are used.
fn inline_paths(text: &str) -> Vec<Path_> {
    let mut paths = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == ':' || c == '_') {
                continue;
            }
            let path: String = text[at..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == ':' || *c == '_')
                .collect();
            paths.push(
                path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect(),
            );
        }
    }
    paths
}

/// Which file imports from which.
fn imports() -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let sources = sources();
    let modules = Modules::of(&sources);
    let mut imports = BTreeMap::new();
    for (file, text) in &sources {
        let module = module_of(file);
        let is_map = file.ends_with("mod.rs") || file.ends_with("lib.rs");
        let used = use_items(text).into_iter().filter(|item| !(is_map && item.is_public));
        let paths = used.map(|item| item.path).chain(inline_paths(&without_uses(text)));
        let targets: BTreeSet<PathBuf> = paths
            .filter(|path| ["crate", "super", "self"].contains(&path[0].as_str()))
            .filter_map(|path| modules.file_of(&modules.absolute(&module, path)).cloned())
            .filter(|target| target != file)
            .collect();
        imports.insert(file.clone(), targets);
    }
    let edges: usize = imports.values().map(BTreeSet::len).sum();
    assert!(edges > 150, "only {edges} imports were found");
    imports
}

fn without_uses(text: &str) -> String {
    let is_use = |part: &str| {
        part.trim_start().starts_with("use ")
            || part.contains("\nuse ")
            || part.contains("pub(crate) use ")
            || part.contains("pub use ")
    };
    text.split_inclusive(';').filter(|part| !is_use(part)).collect()
}

fn layer(file: &Path) -> Option<usize> {
    let first = file.with_extension("");
    let first = first.iter().next()?.to_string_lossy().into_owned();
    LAYERS.iter().position(|layer| *layer == first)
}

#[test]
fn imports_go_down_the_layers() {
    for (file, targets) in imports() {
        let Some(from) = layer(&file) else { continue };
        for target in targets {
            let to = layer(&target);
            assert!(
                to.is_some_and(|to| to <= from),
                "src/{} imports from src/{}, which is above it",
                file.display(),
                target.display(),
            );
        }
    }
}

#[test]
fn no_imports_go_in_a_circle() {
    let imports = imports();
    let mut done = BTreeSet::new();
    for file in imports.keys() {
        let mut way = Vec::new();
        if let Some(circle) = circle_from(file, &imports, &mut way, &mut done) {
            let names: Vec<String> =
                circle.iter().map(|file| format!("src/{}", file.display())).collect();
            panic!("these files import each other: {}", names.join(" → "));
        }
    }
}

/// A way that comes back to a file on it, if there is one from here.
fn circle_from(
    file: &PathBuf,
    imports: &BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    way: &mut Vec<PathBuf>,
    done: &mut BTreeSet<PathBuf>,
) -> Option<Vec<PathBuf>> {
    if let Some(at) = way.iter().position(|before| before == file) {
        return Some([&way[at..], std::slice::from_ref(file)].concat());
    }
    if done.contains(file) {
        return None;
    }
    way.push(file.clone());
    let circle = imports[file].iter().find_map(|target| circle_from(target, imports, way, done));
    way.pop();
    done.insert(file.clone());
    circle
}

/// The two tests above see what they should: an import through a re-export, a nested
/// tree, a path in the code, and a circle.
#[test]
fn imports_are_found_and_circles_too() {
    let sources: BTreeMap<PathBuf, String> = [
        ("lib.rs", "mod a;\nmod b;"),
        ("a/mod.rs", "mod one;\nmod two;\npub(crate) use one::{First, Other as Second};"),
        ("a/one.rs", "pub(crate) struct First;"),
        ("a/two.rs", "use crate::{\n    a::Second,\n    b::{self, Thing},\n};\nfn f() {}"),
        ("b.rs", "fn f() -> crate::a::two::Two { todo() }"),
    ]
    .map(|(name, text)| (PathBuf::from(name), text.to_owned()))
    .into();
    let modules = Modules::of(&sources);
    let two = module_of(Path::new("a/two.rs"));
    let targets: Vec<String> = use_items(&sources[Path::new("a/two.rs")])
        .into_iter()
        .filter_map(|item| modules.file_of(&modules.absolute(&two, item.path)))
        .map(|file| file.display().to_string())
        .collect();
    assert_eq!(targets, ["a/one.rs", "b.rs", "b.rs"]);
    let inline = inline_paths(&sources[Path::new("b.rs")]);
    assert_eq!(inline, [["crate", "a", "two", "Two"].map(String::from)]);

    let imports = [("x", "y"), ("y", "z"), ("z", "y")]
        .map(|(from, to)| (PathBuf::from(from), BTreeSet::from([PathBuf::from(to)])))
        .into();
    let circle = circle_from(&"x".into(), &imports, &mut Vec::new(), &mut BTreeSet::new());
    assert_eq!(circle, Some(["y", "z", "y"].map(PathBuf::from).to_vec()));
}

// ---- purity ----

#[test]
fn the_core_is_pure() {
    let allowed = ["cmp", "collections", "time", "mem", "fmt"];
    for (file, text) in sources() {
        if !file.starts_with("core") {
            continue;
        }
        for line in text.lines() {
            for (at, _) in line.match_indices("std::") {
                let module = line[at + 5..].split(|c: char| !c.is_alphanumeric()).next();
                // `std::iter` is the prelude's, spelled out.
                let pure = module.is_some_and(|m| allowed.contains(&m) || m == "iter");
                assert!(pure, "src/{}: {line}", file.display());
            }
            for foreign in ["parking_lot", "crossbeam", "log::", "Instant"] {
                assert!(!line.contains(foreign), "src/{}: {line}", file.display());
            }
        }
    }
}

#[test]
fn only_shared_locks_the_core() {
    for (file, text) in sources() {
        let locks = ["core.lock()", "core.try_lock()"].iter().any(|lock| text.contains(lock));
        assert_eq!(locks, file == Path::new("runtime/shared.rs"), "src/{}", file.display());
    }
}

#[test]
fn locks_threads_and_clocks_come_from_the_facade() {
    let direct =
        ["parking_lot::", "std::sync::", "thread::spawn", "thread::Builder", "Instant::now"];
    for (file, text) in sources() {
        if file.starts_with("sync") {
            continue;
        }
        for line in text.lines() {
            // The errors of a subscription are those of `std`'s channels.
            if line.contains("std::sync::mpsc::{RecvError") {
                continue;
            }
            for direct in direct {
                assert!(!line.contains(direct), "src/{}: {line}", file.display());
            }
        }
    }
}

/// What is modelled is the code that runs.
#[test]
fn only_the_facade_knows_of_models() {
    for (file, text) in sources() {
        if file.starts_with("sync") {
            continue;
        }
        // `lib.rs` declares the models.
        let known = usize::from(file == Path::new("lib.rs"));
        let mentions = |line: &&str| {
            ["fairpool_model", "loom::", "shuttle::"].iter().any(|w| line.contains(w))
        };
        assert_eq!(text.lines().filter(mentions).count(), known, "src/{}", file.display());
    }
}
