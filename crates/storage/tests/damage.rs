//! Torn tails are cut, damage before the end is refused, and what is read is verified.

mod support;

use quorate_storage::disk::{Fault, Operation};
use quorate_storage::{GroupId, Log, OpenError, ReadError, SimDisk};
use std::sync::Arc;
use support::{Watch, append, drain, entries, entry, open, options};

const GROUP: GroupId = GroupId(3);
const FIRST_BATCH: u64 = 4096;
const RECORD_IN_BATCH: u64 = 64;

fn segment(sequence: u64) -> String {
    format!("{sequence:020}.seg")
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

fn open_error(disk: &SimDisk) -> OpenError {
    match Log::open(Arc::new(disk.reopen()), options()) {
        Err(error) => error,
        Ok(_) => panic!("a damaged log was opened"),
    }
}

#[test]
fn a_torn_last_batch_is_cut_off_and_overwritten() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let (log, mut writer) = open(&disk);
        append(&log, GROUP, entries(1..4, 1));
        drain(&mut writer);
        disk.plan(Operation::Write, 1, Fault::PowerLoss);
        let torn = append(&log, GROUP, (4..9).map(|i| entry(i, 1, 2000)).collect());
        writer.step();
        assert!(!torn.is_ok());
        let (log, mut writer) = open(&disk);
        assert!(matches!(log.indexes(GROUP).as_slice(), [r] if r == &(1..=3) || r == &(1..=8)));
        let next = log.state(GROUP).and_then(|state| state.last).map_or(0, |(last, _)| last + 1);
        append(&log, GROUP, vec![entry(next, 2, 10)]);
        drain(&mut writer);
        let (log, _writer) = open(&disk);
        assert_eq!(log.indexes(GROUP), vec![1..=next], "seed {seed}");
    }
}

#[test]
fn damage_before_the_end_is_refused_with_its_place() {
    let disk = ten_batches();
    assert!(disk.flip_bit(&segment(1), FIRST_BATCH + 4 * 4096 + RECORD_IN_BATCH + 40, 3));
    match open_error(&disk) {
        OpenError::Damaged { file, offset, .. } => {
            assert_eq!((file, offset), (segment(1), FIRST_BATCH + 4 * 4096));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn damage_to_the_last_batch_but_one_is_proven_by_a_torn_last_one() {
    let disk = ten_batches();
    let last = FIRST_BATCH + 9 * 4096;
    assert!(disk.flip_bit(&segment(1), last + RECORD_IN_BATCH + 40, 3));
    assert!(disk.flip_bit(&segment(1), last - 4096 + RECORD_IN_BATCH + 40, 3));
    assert!(matches!(open_error(&disk), OpenError::Damaged { .. }));
}

#[test]
fn a_flipped_bit_is_never_believed() {
    for at in (0..11 * 4096).step_by(61) {
        let disk = ten_batches();
        assert!(disk.flip_bit(&segment(1), at, (at % 8) as u8));
        let Ok((log, _writer)) = Log::open(Arc::new(disk.reopen()), options()) else { continue };
        let found = log.read(GROUP, 1..100, usize::MAX).expect("what is indexed is readable");
        assert!(found == entries(1..11, 1) || found == entries(1..10, 1), "bit at {at}");
    }
}

#[test]
fn a_missing_segment_is_noticed_by_the_entries_it_held() {
    let disk = SimDisk::new(5);
    let (log, mut writer) = open(&disk);
    append(&log, GROUP, (1..200).map(|index| entry(index, 1, 1000)).collect());
    drain(&mut writer);
    use quorate_storage::Disk as _;
    disk.reopen().remove(&segment(2)).expect("remove");
    assert!(matches!(open_error(&disk), OpenError::Damaged { .. }));
}

#[test]
fn a_newer_format_is_refused_as_such() {
    let disk = ten_batches();
    // Version and checksum lie at 8 and 12 of the header.
    use quorate_storage::Disk as _;
    use quorate_storage::disk::AlignedBuffer;
    let file = disk.reopen().open(&segment(1)).expect("open");
    let mut block = AlignedBuffer::new();
    block.resize(4096);
    file.read_at(0, block.as_mut_slice()).expect("read");
    block.as_mut_slice()[8] = 9;
    let crc = crc32c::crc32c(&block.as_slice()[0..12]);
    let crc = crc32c::crc32c_append(crc, &block.as_slice()[16..40]);
    block.as_mut_slice()[12..16].copy_from_slice(&crc.to_le_bytes());
    file.write_durable(0, block.as_slice()).expect("write");
    assert!(matches!(open_error(&disk), OpenError::NewerFormat { version: 9, .. }));
}

#[test]
fn a_damaged_record_is_an_error_and_never_an_entry() {
    let disk = ten_batches();
    let (log, _writer) = open(&disk);
    assert!(disk.flip_bit(&segment(1), FIRST_BATCH + 2 * 4096 + RECORD_IN_BATCH + 40, 1));
    let error = log.read(GROUP, 3..4, usize::MAX).expect_err("damaged");
    assert!(matches!(error, ReadError::Damaged { index: 3, .. }), "{error}");
    assert_eq!(log.read(GROUP, 4..5, usize::MAX).expect("intact"), entries(4..5, 1));
}

#[test]
fn what_a_recycled_segment_held_before_never_comes_back() {
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let (mut log, mut writer) = open(&disk);
        let mut next = 1;
        for round in 0..12 {
            let last = next + 40;
            append(&log, GROUP, (next..=last).map(|i| entry(i, round + 1, 1000)).collect());
            drain(&mut writer);
            log.purge(GROUP, (last, round + 1), Watch::ignore());
            drain(&mut writer);
            log.retain(GROUP, last, &[]);
            drain(&mut writer);
            next = last + 1;
            disk.power_loss();
            (log, writer) = open(&disk);
            log.retain(GROUP, last, &[]);
            assert_eq!(log.indexes(GROUP), vec![], "seed {seed} round {round}");
            assert_eq!(log.state(GROUP).and_then(|s| s.last), Some((last, round + 1)));
        }
        assert!(log.stats().disk_bytes <= 5 * options().segment_bytes);
    }
}
