//! Shared by the tests of the log: small segments, and a look at what `done` was told.
#![allow(dead_code)]

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_storage::{Done, Entry, GroupId, Log, LogError, Options, SimDisk, Writer};

/// Segments of 64 KiB, so that a few hundred entries fill several.
pub fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        max_batch_bytes: 16 << 10,
        tail_bytes: 8 << 10,
        ..Options::default()
    }
}

/// Opens a log with small segments.
pub fn open(disk: &SimDisk) -> (Log, Writer) {
    Log::open(Arc::new(disk.reopen()), options()).expect("open log")
}

/// Writes all that is queued, and does all the upkeep that follows from it.
pub fn drain(writer: &mut Writer) {
    while writer.step() {}
}

/// What a `done` was told.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Option<Result<(), LogError>>>>);

impl Watch {
    /// A watch and the `done` that it watches.
    pub fn new() -> (Watch, Done) {
        let watch = Watch::default();
        let told = watch.clone();
        (watch, Box::new(move |result| *told.0.lock().expect("lock") = Some(result)))
    }

    /// A `done` that nobody watches.
    pub fn ignore() -> Done {
        Box::new(|_| ())
    }

    /// What was said, if anything.
    pub fn result(&self) -> Option<Result<(), LogError>> {
        self.0.lock().expect("lock").clone()
    }

    /// Whether anything was said.
    pub fn is_done(&self) -> bool {
        self.result().is_some()
    }

    /// Whether it is durable.
    pub fn is_ok(&self) -> bool {
        self.result() == Some(Ok(()))
    }
}

/// Appends and watches.
pub fn append(log: &Log, group: GroupId, entries: Vec<Entry>) -> Watch {
    let (watch, done) = Watch::new();
    log.append(group, entries, done);
    watch
}

/// Entries whose payload says where they belong.
pub fn entries(range: Range<u64>, term: u64) -> Vec<Entry> {
    range.map(|index| entry(index, term, 24)).collect()
}

/// One entry of `len` payload bytes that says where it belongs.
pub fn entry(index: u64, term: u64, len: usize) -> Entry {
    let mut payload = format!("{index}/{term}/").into_bytes();
    payload.resize(len.max(payload.len()), b'.');
    Entry { index, term, payload: Bytes::from(payload) }
}
