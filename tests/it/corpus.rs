//! Replays what fuzzing found and what was written for it.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::test_runner::{Config, TestRunner};

#[path = "../../fuzz/targets.rs"]
mod targets;

use targets::TARGETS;

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.expect("readable").path();
        let data = fs::read(&path).expect("readable");
        (path, data)
    };
    let mut files: Vec<_> = fs::read_dir(folder).expect("each target has a corpus").map(read).collect();
    files.sort();
    files
}

#[test]
fn every_corpus_is_replayed() {
    for (name, target) in TARGETS {
        let files = corpus(name);
        assert!(!files.is_empty(), "{name} has nothing to begin with");
        for (path, data) in files {
            let replay = std::panic::catch_unwind(|| target(&data));
            assert!(replay.is_ok(), "{}", path.display());
        }
    }
}

/// A short walk around the corpus: lines and bytes of it, dropped, doubled, swapped and changed. Its seed is fixed; a longer
/// search is `cargo fuzz run`, or this with `SWARM_FUZZ_ROUNDS`.
#[test]
fn small_changes_to_the_corpus_do_no_harm() {
    use proptest::prelude::*;
    let rounds =
        std::env::var("SWARM_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(500);
    for (name, target) in TARGETS {
        let files = corpus(name);
        let change = (any::<u8>(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
        let plan = (0..files.len(), 0..files.len(), prop::collection::vec(change, 1..12));
        let mut runner = TestRunner::new_with_rng(
            Config { cases: rounds, failure_persistence: None, ..Config::default() },
            proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
        );
        let run = runner.run(&plan, |(file, other, changes)| {
            let mut data = files[file].1.clone();
            for (kind, at, to, byte) in changes {
                mutate(&mut data, &files[other].1, kind, at, to, byte);
            }
            target(&data);
            Ok(())
        });
        run.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

fn mutate(
    data: &mut Vec<u8>,
    other: &[u8],
    kind: u8,
    at: proptest::sample::Index,
    to: proptest::sample::Index,
    byte: u8,
) {
    if data.is_empty() {
        data.push(byte);
    }
    let here = at.index(data.len());
    match kind % 5 {
        0 => data[here] = byte,
        1 => drop(data.remove(here)),
        2 => data.insert(here, byte),
        _ => {
            let mut lines: Vec<Vec<u8>> = data.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            let others: Vec<&[u8]> = other.split(|byte| *byte == b'\n').collect();
            let (from, to) = (at.index(lines.len()), to.index(others.len()));
            match kind % 3 {
                0 => drop(lines.remove(from)),
                1 => lines.insert(from, others[to].to_vec()),
                _ => {
                    let len = lines.len();
                    lines.swap(from, to % len);
                }
            }
            *data = lines.join(&b'\n');
        }
    }
}
