//! The corpus, and mutations of it, given to the targets of the fuzzer.

use std::fs;
use std::path::PathBuf;

use quorate_fuzz::mutate::{Choices, mutated};
use quorate_fuzz::{self as fuzz, Target};

/// Most bytes of a file of the corpus.
const FILE_BYTES_MAX: usize = 8192;
/// Most bytes of the corpus.
const CORPUS_BYTES_MAX: usize = 500 << 10;

/// Names and contents of a target's files, in order of their names.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let files = fs::read_dir(&directory).expect("every target has a corpus");
    let mut files: Vec<_> = files
        .map(|file| {
            let file = file.expect("list the corpus");
            let name = file.file_name().into_string().expect("a plain name");
            (name, fs::read(file.path()).expect("read a file of the corpus"))
        })
        .collect();
    files.sort();
    files
}

fn run(target: &Target, data: &[u8], what: &str) {
    let ran = std::panic::catch_unwind(|| target.run(data));
    assert!(ran.is_ok(), "{} does not stand {what}: {}", target.name, data.escape_ascii());
}

fn replay(target: &Target) {
    let files = corpus(target);
    for (name, data) in &files {
        run(target, data, name);
    }
    for (at, (name, data)) in files.iter().enumerate() {
        for number in 0..target.mutations {
            let other = &files[(at + number as usize) % files.len()].1;
            let mut choices = Choices::of(name, number.into());
            let data = mutated(data, other, &mut choices);
            run(target, &data, &format!("mutation {number} of {name}"));
        }
    }
}

#[test]
fn the_log_format_stands_its_corpus() {
    replay(&fuzz::LOG_FORMAT);
}

#[test]
fn log_recovery_stands_its_corpus() {
    replay(&fuzz::LOG_RECOVERY);
}

#[test]
fn meta_chunks_stand_their_corpus() {
    replay(&fuzz::META_CHUNKS);
}

#[test]
fn the_identity_stands_its_corpus() {
    replay(&fuzz::IDENTITY);
}

#[test]
fn the_raft_codec_stands_its_corpus() {
    replay(&fuzz::RAFT_CODEC);
}

#[test]
fn commands_stand_their_corpus() {
    replay(&fuzz::COMMANDS);
}

#[test]
fn entries_stand_their_corpus() {
    replay(&fuzz::ENTRIES);
}

#[test]
fn queue_snapshots_stand_their_corpus() {
    replay(&fuzz::QUEUE_SNAPSHOT);
}

#[test]
fn catalog_snapshots_stand_their_corpus() {
    replay(&fuzz::CATALOG_SNAPSHOT);
}

#[test]
fn frames_stand_their_corpus() {
    replay(&fuzz::FRAME);
}

#[test]
fn requests_stand_their_corpus() {
    replay(&fuzz::REQUESTS);
}

#[test]
fn peer_messages_stand_their_corpus() {
    replay(&fuzz::PEER_MESSAGES);
}

#[test]
fn slices_stand_their_corpus() {
    replay(&fuzz::SLICE);
}

/// If this fails a format has changed: is its version raised, and are older ones still read? Then
/// keep the old seeds under other names, and write the new ones with `cargo run -p quorate-fuzz`.
#[test]
fn the_seeds_are_what_this_build_writes() {
    for target in fuzz::TARGETS {
        let mut kept = corpus(&target);
        kept.retain(|(name, _)| name.starts_with("seed-"));
        let kept: Vec<Vec<u8>> = kept.into_iter().map(|(_, data)| data).collect();
        assert_eq!(kept, (target.seeds)(), "{}", target.name);
    }
}

#[test]
fn the_corpus_is_small() {
    let mut bytes = 0;
    for target in fuzz::TARGETS {
        for (name, data) in corpus(&target) {
            assert!(data.len() < FILE_BYTES_MAX, "{}/{name}: {} bytes", target.name, data.len());
            bytes += data.len();
        }
    }
    assert!(bytes < CORPUS_BYTES_MAX, "{bytes} bytes");
}
