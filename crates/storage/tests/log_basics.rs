//! What a log does when nothing goes wrong: order, visibility, durability over a restart.

mod support;

use bytes::Bytes;
use quorate_storage::log::INDEX_MAX;
use quorate_storage::{GroupId, LogError, SimDisk};
use support::{Watch, append, drain, entries, entry, open};

const GROUP: GroupId = GroupId(7);

#[test]
fn entries_are_readable_at_once_and_after_a_restart() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    let watch = append(&log, GROUP, entries(0..10, 1));
    assert_eq!(log.read_cached(GROUP, 0..10, usize::MAX).map(|e| e.len()), Some(10));
    assert!(!watch.is_done());
    drain(&mut writer);
    assert!(watch.is_ok());
    disk.power_loss();
    let (log, _writer) = open(&disk.reopen());
    assert_eq!(log.read(GROUP, 0..100, usize::MAX).expect("read"), entries(0..10, 1));
    assert_eq!(log.read(GROUP, 3..100, 1).expect("read"), entries(3..4, 1));
    assert!(log.read_cached(GROUP, 0..1, usize::MAX).is_none(), "nothing is cached yet");
    assert_eq!(log.state(GROUP).and_then(|state| state.last), Some((9, 1)));
    assert_eq!(log.term_of(GROUP, 4), Some(1));
}

#[test]
fn an_append_that_leaves_a_gap_is_refused_and_changes_nothing() {
    let disk = SimDisk::new(1);
    let (log, _writer) = open(&disk);
    append(&log, GROUP, entries(1..3, 1));
    let watch = append(&log, GROUP, entries(4..5, 1));
    let refused = LogError::NotContiguous { group: GROUP, expected: 3, got: 4 };
    assert_eq!(watch.result(), Some(Err(refused)));
    assert_eq!(log.indexes(GROUP), vec![1..=2]);
}

#[test]
fn a_truncated_tail_is_replaced_by_what_follows() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    append(&log, GROUP, entries(1..11, 1));
    log.truncate_after(GROUP, Some((5, 1)), Watch::ignore());
    append(&log, GROUP, entries(6..8, 2));
    drain(&mut writer);
    let (log, _writer) = open(&disk.reopen());
    assert_eq!(log.indexes(GROUP), vec![1..=7]);
    assert_eq!(log.term_of(GROUP, 6), Some(2));
    assert_eq!(log.state(GROUP).and_then(|state| state.last), Some((7, 2)));
}

#[test]
fn committed_rides_with_the_next_batch_and_causes_none() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    append(&log, GROUP, entries(1..2, 1));
    drain(&mut writer);
    log.save_committed(GROUP, Bytes::from_static(b"1"));
    assert!(!writer.step());
    append(&log, GROUP, entries(2..3, 1));
    drain(&mut writer);
    let (log, _writer) = open(&disk.reopen());
    assert_eq!(log.state(GROUP).map(|state| state.committed), Some(Bytes::from_static(b"1")));
}

#[test]
fn bodies_beside_the_raft_log_survive_its_truncation() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    append(&log, GROUP, entries(1..4, 1));
    log.put(GROUP, entries(40..42, 1), Watch::ignore());
    log.truncate_after(GROUP, None, Watch::ignore());
    log.save_vote(GROUP, Bytes::from_static(b"v"), Watch::ignore());
    drain(&mut writer);
    assert_eq!(log.indexes(GROUP), vec![40..=41]);
    let (log, _writer) = open(&disk.reopen());
    assert_eq!(log.indexes(GROUP), vec![40..=41]);
    let state = log.state(GROUP).expect("known");
    assert_eq!((state.last, state.vote), (None, Bytes::from_static(b"v")));
}

#[test]
fn a_purge_beyond_the_end_moves_the_end() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    append(&log, GROUP, entries(1..4, 1));
    log.purge(GROUP, (100, 3), Watch::ignore());
    append(&log, GROUP, entries(101..102, 3));
    drain(&mut writer);
    log.retain(GROUP, 100, &[2..=2]);
    assert_eq!(log.indexes(GROUP), vec![2..=2, 101..=101]);
    let (log, _writer) = open(&disk.reopen());
    let state = log.state(GROUP).expect("known");
    assert_eq!((state.purged, state.last), (Some((100, 3)), Some((101, 3))));
}

#[test]
fn a_removed_group_stays_forgotten_and_is_refused() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    append(&log, GROUP, entries(1..4, 1));
    log.remove_group(GROUP, Watch::ignore());
    drain(&mut writer);
    let (log, _writer) = open(&disk.reopen());
    assert_eq!(log.groups(), vec![]);
    let watch = append(&log, GROUP, entries(1..2, 1));
    assert_eq!(watch.result(), Some(Err(LogError::Removed { group: GROUP })));
}

#[test]
fn a_closed_log_refuses_and_writes_what_was_queued() {
    let disk = SimDisk::new(1);
    let (log, writer) = open(&disk);
    let before = append(&log, GROUP, entries(1..4, 1));
    log.save_committed(GROUP, Bytes::from_static(b"3"));
    log.close();
    let after = append(&log, GROUP, entries(4..5, 1));
    writer.run();
    assert!(before.is_ok());
    assert_eq!(after.result(), Some(Err(LogError::Closed)));
    let (log, _writer) = open(&disk.reopen());
    assert_eq!(log.state(GROUP).map(|state| state.committed), Some(Bytes::from_static(b"3")));
}

#[test]
fn an_index_with_which_the_log_could_not_be_opened_is_refused() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    for (index, taken) in [(INDEX_MAX, true), (INDEX_MAX + 1, false)] {
        let (watch, done) = Watch::new();
        log.put(GROUP, vec![entry(index, 1, 10)], done);
        drain(&mut writer);
        assert_eq!(watch.is_ok(), taken, "index {index}");
    }
    let (log, _writer) = open(&disk);
    assert_eq!(log.indexes(GROUP), vec![INDEX_MAX..=INDEX_MAX]);
}
