//! `docs/threat-model.md` promises; each promise names the tests that show it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The last cells of the rows under a header that ends with this.
const HEADER: &str = "| shown by |";

/// Row by row, the names of the tests in its last cell.
fn promises(document: &str) -> Vec<(&str, Vec<&str>)> {
    let mut promises = Vec::new();
    let mut in_table = false;
    for line in document.lines() {
        match line {
            line if line.ends_with(HEADER) => in_table = true,
            line if !line.starts_with('|') => in_table = false,
            line if in_table && !line.starts_with("|---") => {
                let cell = line.trim_end_matches('|').rsplit('|').next().expect("a row has cells");
                promises.push((line, cell.split('`').skip(1).step_by(2).collect()));
            }
            _ => {}
        }
    }
    promises
}

fn collect_tests(folder: &Path, tests: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("the folder is part of the source") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            if !path.ends_with("node_modules") {
                collect_tests(&path, tests);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            tests.extend(tests_in(&fs::read_to_string(&path).expect("source is UTF-8")));
        }
    }
}

/// The functions that stand behind a `test` attribute.
fn tests_in(source: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
            let name = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_');
            tests.push(name.collect());
            is_test = false;
        } else if !line.starts_with("//") {
            is_test = false;
        }
    }
    tests
}

#[test]
fn the_threat_model_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/threat-model.md")).expect("the threat model is there");
    let promises = promises(&document);
    assert!(promises.len() > 20, "the tables are read");
    let mut tests = BTreeSet::new();
    collect_tests(&root.join("src"), &mut tests);
    collect_tests(&root.join("tests"), &mut tests);
    for (row, names) in promises {
        assert!(!names.is_empty(), "no test shows this: {row}");
        for name in names {
            assert!(tests.contains(name), "there is no test {name}: {row}");
        }
    }
}
