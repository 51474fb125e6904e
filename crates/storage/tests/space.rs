//! The disk stays bounded, a full disk is waited for, a failed write is the end.

mod support;

use quorate_storage::disk::{Fault, Operation};
use quorate_storage::{Entry, GroupId, LogError, SimDisk};
use support::{Watch, append, drain, entries, entry, open, options};

const STUCK: GroupId = GroupId(1);
const BUSY: GroupId = GroupId(2);

fn kilobytes(range: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    range.map(|index| entry(index, 1, 1000)).collect()
}

/// Traffic that is consumed at once; 250 times the size of a segment, as 1 GB is 16 times 64 MiB.
#[test]
fn stuck_head_message_disk_bounded() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    append(&log, STUCK, entries(1..2, 1));
    append(&log, BUSY, entries(1..2, 1));
    drain(&mut writer);
    let mut last = 1;
    let mut most = 0;
    for _ in 0..1600 {
        append(&log, BUSY, kilobytes(last + 1..=last + 10));
        last += 10;
        log.purge(BUSY, (last, 1), Watch::ignore());
        drain(&mut writer);
        // Entry 1 of the busy group, too, is never consumed.
        log.retain(BUSY, last, &[1..=1]);
        drain(&mut writer);
        most = most.max(log.stats().disk_bytes);
    }
    assert!(most <= 4 * options().segment_bytes, "{most} bytes");
    let (log, _writer) = open(&disk);
    assert_eq!(log.read(STUCK, 1..2, 1).expect("read"), entries(1..2, 1));
    assert_eq!(log.read(BUSY, 1..2, 1).expect("read"), entries(1..2, 1));
}

#[test]
fn segments_that_are_freed_at_once_leave_the_disk() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    let mut last = 0;
    for _ in 0..160 {
        append(&log, BUSY, kilobytes(last + 1..=last + 10));
        last += 10;
        drain(&mut writer);
    }
    let held = log.stats().disk_bytes;
    log.purge(BUSY, (last, 1), Watch::ignore());
    drain(&mut writer);
    log.retain(BUSY, last, &[]);
    drain(&mut writer);
    let left = log.stats().disk_bytes;
    assert!(held > 10 * options().segment_bytes, "{held} bytes");
    assert!(left <= 4 * options().segment_bytes, "{left} of {held} bytes");
}

#[test]
fn a_truncation_after_a_copy_forward_wins_after_a_restart() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    append(&log, STUCK, entries(1..6, 1));
    fill_and_consume(&log, &mut writer, 1, 300);
    assert!(log.stats().copied_bytes > 0, "the stuck entries were copied");
    log.truncate_after(STUCK, Some((2, 1)), Watch::ignore());
    drain(&mut writer);
    let (log, mut writer) = open(&disk);
    assert_eq!(log.indexes(STUCK), vec![1..=2]);
    append(&log, STUCK, entries(3..5, 2));
    fill_and_consume(&log, &mut writer, 301, 300);
    let (log, _writer) = open(&disk);
    assert_eq!(log.indexes(STUCK), vec![1..=4]);
    assert_eq!(log.term_of(STUCK, 3), Some(2));
    assert_eq!(log.state(STUCK).and_then(|state| state.last), Some((4, 2)));
}

fn fill_and_consume(
    log: &quorate_storage::Log,
    writer: &mut quorate_storage::Writer,
    first: u64,
    count: u64,
) {
    for index in (first..first + count).step_by(10) {
        append(log, BUSY, kilobytes(index..=index + 9));
        log.purge(BUSY, (index + 9, 1), Watch::ignore());
        drain(writer);
        log.retain(BUSY, index + 9, &[]);
        drain(writer);
    }
}

#[test]
fn nothing_is_acknowledged_without_room_and_it_goes_on_by_itself() {
    let disk = SimDisk::new(1);
    disk.set_capacity(3 * options().segment_bytes);
    let (log, mut writer) = open(&disk);
    let watches: Vec<Watch> =
        (0..40).map(|i| append(&log, BUSY, kilobytes(i * 10 + 1..=i * 10 + 10))).collect();
    drain(&mut writer);
    let written = watches.iter().filter(|watch| watch.is_ok()).count();
    assert!(log.stats().waiting_for_space);
    assert!(log.poisoned().is_none());
    assert!(written > 0 && written < 40);
    assert!(watches[written..].iter().all(|watch| !watch.is_done()));
    assert_eq!(log.read(BUSY, 395..396, 1).map(|e| e.len()).expect("cached"), 1);
    disk.set_capacity(u64::MAX);
    drain(&mut writer);
    assert!(!log.stats().waiting_for_space);
    assert!(watches.iter().all(Watch::is_ok));
}

#[test]
fn consumed_segments_make_room_on_a_full_disk() {
    let disk = SimDisk::new(1);
    disk.set_capacity(3 * options().segment_bytes);
    let (log, mut writer) = open(&disk);
    append(&log, BUSY, kilobytes(1..=120));
    drain(&mut writer);
    log.purge(BUSY, (120, 1), Watch::ignore());
    let more = append(&log, BUSY, kilobytes(121..=200));
    drain(&mut writer);
    assert!(log.stats().waiting_for_space && !more.is_done());
    log.retain(BUSY, 120, &[]);
    drain(&mut writer);
    assert!(more.is_ok());
}

#[test]
fn a_failed_write_or_flush_poisons_the_log() {
    for operation in [Operation::Write, Operation::Flush] {
        let disk = SimDisk::new(1);
        let (log, mut writer) = open(&disk);
        append(&log, BUSY, entries(1..3, 1));
        drain(&mut writer);
        disk.plan(operation, 1, Fault::Error);
        let failed = append(&log, BUSY, entries(3..4, 1));
        drain(&mut writer);
        assert!(matches!(failed.result(), Some(Err(LogError::Poisoned { .. }))));
        let later = append(&log, BUSY, entries(4..5, 1));
        assert!(matches!(later.result(), Some(Err(LogError::Poisoned { .. }))));
        assert!(log.stats().poisoned && !writer.step());
        assert_eq!(log.read_cached(BUSY, 3..4, 1).map(|e| e.len()), Some(1));
    }
}

#[test]
fn a_failed_read_is_an_error_and_does_no_harm() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    append(&log, BUSY, entries(1..3, 1));
    drain(&mut writer);
    let (log, _writer) = open(&disk);
    disk.plan(Operation::Read, 1, Fault::Error);
    assert!(log.read(BUSY, 1..3, usize::MAX).is_err());
    assert_eq!(log.read(BUSY, 1..3, usize::MAX).expect("read"), entries(1..3, 1));
}
