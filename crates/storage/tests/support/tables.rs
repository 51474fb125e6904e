//! Opening a log both ways: by its tables of contents, and by scanning all segments.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_storage::{Disk as _, Entry, GroupId, GroupState, Log, Options, SimDisk};

/// All that a log says of what it recovered.
#[derive(Debug, PartialEq, Eq)]
pub struct Recovered {
    groups: BTreeMap<GroupId, (GroupState, Vec<Entry>)>,
    segments: usize,
    live_bytes: u64,
    entries: usize,
}

pub fn recovered(log: &Log) -> Recovered {
    let of = |group: GroupId| {
        let read = |range: std::ops::RangeInclusive<u64>| {
            let (start, end) = range.into_inner();
            log.read(group, start..end + 1, usize::MAX).expect("what is indexed is readable")
        };
        let entries = log.indexes(group).into_iter().flat_map(read).collect();
        (group, (log.state(group).expect("it is known"), entries))
    };
    let stats = log.stats();
    Recovered {
        groups: log.groups().into_iter().map(of).collect(),
        segments: stats.segments,
        live_bytes: stats.live_bytes,
        entries: stats.entries,
    }
}

/// Names of the tables of contents on the disk.
pub fn tables(disk: &SimDisk) -> Vec<String> {
    let mut names = disk.reopen().list().expect("list");
    names.retain(|name| name.ends_with(".toc"));
    names.sort();
    names
}

/// Opens the log twice, the second time with tables that cannot be believed, and compares what is
/// recovered. Returns how many tables there are.
pub fn compare_both_ways(disk: &SimDisk, options: &Options) -> usize {
    let open = || {
        let (log, _writer) = Log::open(Arc::new(disk.reopen()), options.clone())
            .unwrap_or_else(|error| panic!("open: {error}"));
        recovered(&log)
    };
    let by_tables = open();
    let tables = tables(disk);
    let flip = || {
        tables.iter().for_each(|name| {
            assert!(disk.flip_bit(name, 0, 0) || disk.file_len(name) == Some(0), "{name}");
        });
    };
    flip();
    let by_scan = open();
    flip();
    assert_eq!(by_tables, by_scan);
    tables.len()
}
