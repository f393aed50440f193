//! What the documents say of the code is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Names in `docs/security.md` that look like those of tests and are of something else.
const NO_TESTS: [&str; 5] = ["enable_cpu_features", "map_component", "map_module", "max_response", "watch_trust"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // The fuzz target of tests/differential may have been built there.
            if !path.ends_with("target") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The tests of each file, by its path from here.
fn tests() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests", "image", "compiler", "loader", "runtimes", "benches", "cache-server"] {
        sources(&root.join(dir), &mut files);
    }
    let mut tests = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut of_file = BTreeSet::new();
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            let rest = line.strip_prefix("async ").unwrap_or(line);
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some(name) = rest.strip_prefix("fn ")
                && std::mem::take(&mut is_test)
            {
                of_file.insert(name.split(['(', '<']).next().unwrap().to_owned());
            }
        }
        tests.insert(file.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), of_file);
    }
    tests
}

/// The texts between back ticks.
fn code_spans(document: &str) -> impl Iterator<Item = &str> {
    document.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md")).unwrap();
    let tests = tests();
    let all: BTreeSet<&String> = tests.values().flatten().collect();
    let mut named = 0;
    for span in code_spans(&document) {
        if let Some((file, name)) = span.split_once(".rs::") {
            let file = format!("{file}.rs");
            assert!(tests.get(&file).is_some_and(|names| names.contains(name)), "{file} has no test `{name}`");
            named += 1;
        } else if span.contains('_')
            && span.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && !NO_TESTS.contains(&span)
        {
            assert!(all.contains(&span.to_owned()), "there is no test `{span}`");
            named += 1;
        }
    }
    assert!(named > 150, "only {named} are named");
    // The tables are read as tables: as many cells in each row as in its head.
    for (number, line) in document.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
        assert!(line.ends_with('|'), "docs/security.md, line {}: a row without its end", number + 1);
    }
    assert!(document.matches('`').count().is_multiple_of(2), "docs/security.md has a back tick too many");
}
