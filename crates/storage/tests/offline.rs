//! Looking at a log without opening it: the same is seen, nothing is changed, and damage does not end it.

mod support;

use std::ops::ControlFlow;

use quorate_storage::log::format::Kind;
use quorate_storage::log::offline::{self, Fault, Offline, Tail};
use quorate_storage::{Disk, GroupId, ReadOnlyDisk, RealDisk, SimDisk};
use support::{Watch, append, drain, entries, entry, open};

const GROUP: GroupId = GroupId(3);
const BLOCK: u64 = 4096;

fn look(disk: &dyn Disk) -> Offline {
    offline::read(disk, &mut |_| ControlFlow::Continue(())).expect("the log is listed")
}

/// Ten batches of one entry each, a block long.
fn ten_batches() -> SimDisk {
    let disk = SimDisk::new(5);
    let (log, mut writer) = open(&disk);
    for index in 1..=10 {
        append(&log, GROUP, entries(index..index + 1, 1));
        drain(&mut writer);
    }
    disk
}

fn place(fault: &Fault) -> (&str, u64) {
    (fault.file.as_str(), fault.offset)
}

#[test]
fn it_sees_what_a_start_sees() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    for round in 0..60 {
        append(&log, GROUP, (round * 4..round * 4 + 4).map(|i| entry(i, 1, 900)).collect());
        log.save_vote(GROUP, vec![1; 3].into(), Watch::ignore());
        drain(&mut writer);
    }
    log.truncate_after(GROUP, Some((200, 1)), Watch::ignore());
    log.purge(GROUP, (20, 1), Watch::ignore());
    append(&log, GROUP, vec![entry(201, 2, 10)]);
    drain(&mut writer);
    let names = |disk: &SimDisk| {
        let mut names = disk.list().expect("list");
        names.sort();
        names
    };
    let before = names(&disk.reopen());
    let seen = look(&disk.reopen());
    assert_eq!(names(&disk.reopen()), before);
    assert_eq!((seen.faults(), seen.tail()), (&[][..], &Tail::Clean));
    let (log, _writer) = open(&disk);
    assert!(seen.groups().eq(log.groups()));
    assert_eq!(seen.state(GROUP), log.state(GROUP).as_ref());
    let range = 21..202;
    let read = seen.read(GROUP, range.clone(), usize::MAX).expect("read");
    assert_eq!(read, log.read(GROUP, range, usize::MAX).expect("read"));
    let stats = log.stats();
    assert_eq!(seen.segments().len(), stats.segments);
    let live: u64 = seen.segments().iter().map(|segment| segment.live_bytes).sum();
    assert_eq!(live, stats.live_bytes);
    assert!(
        seen.segments().iter().rev().skip(1).all(|segment| segment.sealed && segment.has_table)
    );
}

#[test]
fn records_come_in_order_until_it_is_enough() {
    let disk = ten_batches();
    let mut seen = Vec::new();
    let read = offline::read(&disk.reopen(), &mut |record| {
        assert_eq!(record.offset, record.batch * BLOCK + 64, "the header, then a block a batch");
        seen.push((record.kind, record.index));
        if seen.len() == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    read.expect("the log is listed");
    assert_eq!(seen, [1, 2, 3, 4].map(|index| (Kind::Entry, index)));
}

#[test]
fn every_damage_is_named_with_its_place_and_reading_goes_on_behind_it() {
    let disk = ten_batches();
    let segment = "00000000000000000001.seg";
    // The payload of batch 3, and the header of batch 6.
    for at in [3 * BLOCK + 64 + 40, 6 * BLOCK + 30] {
        assert!(disk.flip_bit(segment, at, 3));
    }
    let seen = look(&disk.reopen());
    let places: Vec<_> = seen.faults().iter().map(place).collect();
    assert_eq!(places, [(segment, 3 * BLOCK), (segment, 6 * BLOCK)]);
    let indexes: Vec<u64> = seen.entries(GROUP, 0).map(|entry| entry.index).collect();
    assert_eq!(indexes, [1, 2, 4, 5, 7, 8, 9, 10]);
    assert_eq!(seen.tail(), &Tail::Clean);
}

#[test]
fn a_torn_last_batch_is_the_tail_and_no_fault() {
    let disk = ten_batches();
    assert!(disk.flip_bit("00000000000000000001.seg", 10 * BLOCK + 64 + 40, 3));
    let seen = look(&disk.reopen());
    assert_eq!(seen.faults(), []);
    match seen.tail() {
        Tail::Torn(at) => assert_eq!(place(at), ("00000000000000000001.seg", 10 * BLOCK)),
        Tail::Clean => panic!("the last batch is torn"),
    }
}

#[test]
fn a_header_that_is_not_one_does_not_hide_the_other_segments() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    for index in 0..100 {
        append(&log, GROUP, vec![entry(index, 1, 3000)]);
        drain(&mut writer);
    }
    assert!(disk.flip_bit("00000000000000000002.seg", 20, 0));
    let seen = look(&disk.reopen());
    let fault = seen.faults().first().expect("a fault");
    assert_eq!(place(fault), ("00000000000000000002.seg", 0));
    assert!(seen.segments().len() > 2 && seen.has(GROUP, 0) && seen.has(GROUP, 99));
    let (missing, last) = seen.first_missing(GROUP).expect("entries are missing");
    assert!(missing > 0 && last == 99);
}

#[test]
fn a_disk_to_be_read_makes_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let real = RealDisk::open(dir.path().join("log")).expect("a directory");
    real.write_unflushed("one", b"content").expect("write");
    let disk = ReadOnlyDisk::new(dir.path().join("log"));
    assert_eq!(disk.list().expect("list"), ["one"]);
    let file = disk.open("one").expect("open");
    assert_eq!(file.read(3, 4).expect("read"), b"tent".as_slice());
    assert!(file.write_durable(0, &[0; 4096]).is_err() && file.sync().is_err());
    assert!(disk.create("two", 4096, &|| true).is_err());
    assert!(disk.write_unflushed("two", b"").is_err());
    assert!(disk.rename("one", "two").is_err() && disk.remove("one").is_err());
    assert_eq!(disk.list().expect("list"), ["one"]);
    assert!(ReadOnlyDisk::new(dir.path().join("nowhere")).list().is_err());
    assert!(!dir.path().join("nowhere").exists());
}
