//! The page shows what the programs do.

use std::fs;
use std::path::Path;

#[test]
fn every_snippet_of_the_page_is_in_a_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(folder.join(path)).expect("a file");
    let page = read("../../docs/in-a-web-service.md");
    let files = [
        "src/lib.rs",
        "src/failure.rs",
        "src/bin/axum.rs",
        "src/bin/actix.rs",
        "src/bin/rocket.rs",
    ];
    let programs = files.map(|path| unindented(&read(path)));
    let blocks: Vec<_> = page.split("\n```").skip(1).step_by(2).collect();
    let snippets = blocks.iter().filter_map(|block| block.strip_prefix("rust,ignore\n"));
    let mut count = 0;
    for snippet in snippets {
        count += 1;
        // A line `// …` stands for what is left out.
        for part in unindented(snippet).split("// …\n") {
            assert!(programs.iter().any(|program| program.contains(part)), "{part}");
        }
    }
    assert!(count > 4, "{count} snippets");
}

fn unindented(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim())).collect()
}
