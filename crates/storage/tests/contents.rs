//! Tables of contents: with them a start finds what a scan finds; nothing depends on them; and what
//! damage they let a start pass by is found when it is read.

mod support;
#[path = "support/tables.rs"]
mod tables;

use std::sync::Arc;

use proptest::prelude::*;
use quorate_storage::disk::{AlignedBuffer, BLOCK, Fault, Operation};
use quorate_storage::log::contents::{Builder, Contents, Item, TABLE_HEADER_BYTES};
use quorate_storage::log::format::{self, Invalid, Kind, SegmentHeader};
use quorate_storage::{Disk as _, GroupId, GroupState, Log, OpenError, ReadError, SimDisk};
use support::{Watch, append, drain, entries, entry, open, options};
use tables::{compare_both_ways, recovered, tables};

const GROUP: GroupId = GroupId(3);
const SEGMENT: SegmentHeader = SegmentHeader { segment: 7, salt: 0x5a17, first_batch: 3 };
const SEAL: u32 = 63 << 20;
const SEGMENT_BYTES: u64 = 64 << 20;

fn segment(sequence: u64) -> String {
    format!("{sequence:020}.seg")
}

fn table(sequence: u64) -> String {
    format!("{sequence:020}.toc")
}

/// Three segments and a bit, in small batches; all of it is needed. The first three are sealed.
fn several_segments(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    let (log, mut writer) = open(&disk);
    for index in 1..=150 {
        append(&log, GROUP, vec![entry(index, 1, 1000)]);
        if index % 3 == 0 {
            log.save_vote(GroupId(index % 7), format!("{index}").into_bytes().into(), ignore());
            drain(&mut writer);
        }
    }
    drain(&mut writer);
    assert_eq!(tables(&disk), [table(1), table(2), table(3)]);
    disk
}

fn ignore() -> quorate_storage::Done {
    Watch::ignore()
}

fn open_error(disk: &SimDisk) -> OpenError {
    match Log::open(Arc::new(disk.reopen()), options()) {
        Err(error) => error,
        Ok(_) => panic!("a damaged log was opened"),
    }
}

fn write_file(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let mut buffer = AlignedBuffer::new();
    buffer.resize(bytes.len());
    buffer.as_mut_slice().copy_from_slice(bytes);
    let file = disk.reopen().create(name, bytes.len() as u64, &|| true).expect("create");
    file.write_durable(0, buffer.as_slice()).expect("write");
}

fn read_file(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.reopen().open(name).expect("open");
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).expect("read");
    bytes
}

/// As much of an item as can be chosen freely.
type Choice = (Kind, bool, u16, (u8, u64), (u8, u64), (u8, u64), u16);

fn choice() -> impl Strategy<Value = Choice> {
    let kinds = [Kind::Entry, Kind::Copy, Kind::Put, Kind::State, Kind::Tombstone];
    // Mostly what follows from the record before, as in a log.
    let number = || (0..4u8, any::<u64>());
    let kind = proptest::sample::select(kinds.to_vec());
    (kind, any::<bool>(), any::<u16>(), number(), number(), number(), 0..2000u16)
}

fn items<'a>(choices: &[Choice], state: &'a [u8]) -> Vec<Item<'a>> {
    let (mut end, mut group, mut index, mut term) = (4096u32, 1u64, 10u64, 2u64);
    let mut items = Vec::new();
    for (kind, adjacent, gap, new_group, new_index, new_term, bytes) in choices {
        let is_state = *kind == Kind::State;
        let offset = if *adjacent { end } else { end + u32::from(*gap) };
        group = if new_group.0 == 0 { new_group.1 } else { group };
        index = if new_index.0 == 0 { new_index.1 } else { index.wrapping_add(1) };
        term = if new_term.0 == 0 { new_term.1 } else { term };
        let state = if is_state { &state[..state.len().min(usize::from(*bytes))] } else { &[] };
        let item = Item {
            offset,
            kind: *kind,
            group: GroupId(group),
            index: if is_state { 0 } else { index },
            term: if is_state { 0 } else { term },
            payload_bytes: if is_state { state.len() as u32 } else { u32::from(*bytes) },
            state,
        };
        end = offset + item.record_bytes() as u32;
        items.push(item);
    }
    items
}

fn encode(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(SEGMENT_BYTES);
    items.iter().for_each(|item| builder.push(item));
    builder.finish(&SEGMENT, 9, SEAL).expect("it is small")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_table_reads_back(
        choices in proptest::collection::vec(choice(), 0..60),
        state in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let items = items(&choices, &state);
        let bytes = encode(&items);
        prop_assert!(bytes.len().is_multiple_of(BLOCK));
        let contents = Contents::decode(&SEGMENT, &bytes).expect("it is whole");
        prop_assert_eq!((contents.next_batch, contents.seal), (9, SEAL));
        prop_assert_eq!(contents.items().collect::<Vec<_>>(), items);
    }

    #[test]
    fn a_changed_table_is_refused(
        choices in proptest::collection::vec(choice(), 0..20),
        at: prop::sample::Index,
        flip in 1..=255u8,
        cut: prop::sample::Index,
    ) {
        let mut bytes = encode(&items(&choices, b"state"));
        prop_assert!(Contents::decode(&SEGMENT, &bytes[..cut.index(bytes.len())]).is_err());
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(Contents::decode(&SEGMENT, &bytes).is_err());
    }

    #[test]
    fn a_table_of_another_use_of_the_file_is_refused(
        segment: u64,
        salt: u64,
        first_batch: u64,
    ) {
        let other = SegmentHeader { segment, salt, first_batch };
        prop_assume!(other != SEGMENT);
        prop_assert_eq!(
            Contents::decode(&other, &encode(&[])).map(|_| ()),
            Err(Invalid::NotOurs)
        );
    }

    #[test]
    fn arbitrary_records_are_refused_or_are_what_they_would_be_written_as(
        body in proptest::collection::vec(0..140u8, 0..60),
        records in 0..10u32,
    ) {
        let mut bytes = encode(&[]);
        bytes.truncate(TABLE_HEADER_BYTES);
        bytes[52..56].copy_from_slice(&(body.len() as u32).to_le_bytes());
        bytes[56..60].copy_from_slice(&records.to_le_bytes());
        bytes.extend(&body);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        if let Ok(contents) = Contents::decode(&SEGMENT, &bytes) {
            let items: Vec<_> = contents.items().collect();
            prop_assert_eq!(encode(&items), bytes);
        }
    }
}

#[test]
fn a_segment_with_too_much_to_say_has_no_table() {
    let state = format::encode_state(&GroupState::default());
    let mut builder = Builder::new(64 << 10);
    for at in 0..2000 {
        let record = format::Record {
            kind: Kind::State,
            group: GroupId(at),
            index: 0,
            term: 0,
            payload: state.clone(),
        };
        builder.push(&Item::of(4096 + at as u32 * 100, &record));
    }
    assert!(builder.finish(&SEGMENT, 9, SEAL).is_none());
}

#[test]
fn a_table_of_a_long_run_takes_some_bytes_an_entry() {
    let items: Vec<Item<'_>> = (0..50_000u32)
        .map(|at| Item {
            offset: 4096 + at * 1060,
            kind: Kind::Entry,
            group: GroupId(1),
            index: 1 + u64::from(at),
            term: 1,
            payload_bytes: 1024,
            state: &[],
        })
        .collect();
    assert!(encode(&items).len() < 160_000);
}

#[test]
fn recovery_by_tables_equals_recovery_by_scan() {
    let disk = several_segments(1);
    assert_eq!(compare_both_ways(&disk, &options()), 3);
    let (log, mut writer) = open(&disk);
    log.truncate_after(GROUP, Some((130, 1)), ignore());
    append(&log, GROUP, entries(131..160, 2));
    log.purge(GROUP, (100, 1), ignore());
    log.put(GroupId(1 << 63), vec![entry(5, 1, 100)], ignore());
    log.remove_group(GroupId(6), ignore());
    drain(&mut writer);
    log.retain(GROUP, 100, &[70..=72]);
    append(&log, GROUP, (160..300).map(|index| entry(index, 3, 1000)).collect());
    drain(&mut writer);
    assert!(compare_both_ways(&disk, &options()) >= 3);
}

/// Proof that the table was used: a scan would have refused to open.
#[test]
fn damage_in_a_sealed_segment_is_found_when_it_is_read_and_by_the_next_start() {
    let disk = several_segments(1);
    let at = 4096 + 5 * 4096 + 64 + 36 + 10;
    assert!(disk.flip_bit(&segment(1), at, 3));
    for _ in 0..2 {
        open(&disk);
    }
    let (log, writer) = open(&disk);
    let damaged = |index: u64| log.read(GROUP, index..index + 1, usize::MAX).is_err();
    let found: Vec<u64> = (1..=150).filter(|index| damaged(*index)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(tables(&disk), [table(2), table(3)], "the table is withdrawn");
    let error = log.read(GROUP, 1..100, usize::MAX).expect_err("not skipped");
    assert!(matches!(error, ReadError::Damaged { index, .. } if index == found[0]));
    drop((log, writer));
    match open_error(&disk) {
        OpenError::Damaged { file, offset, .. } => {
            assert_eq!((file, offset), (segment(1), 4096 + 5 * 4096));
        }
        other => panic!("{other}"),
    }
    // Restored, the segment gets its table again.
    assert!(disk.flip_bit(&segment(1), at, 3));
    let (_log, mut writer) = open(&disk);
    drain(&mut writer);
    assert_eq!(tables(&disk).len(), 3);
}

#[test]
fn a_flipped_bit_in_a_segment_with_a_table_is_never_believed() {
    for at in (0..3 * (64 << 10)).step_by(331) {
        let disk = several_segments(1);
        let name = segment(1 + at / (64 << 10));
        assert!(disk.flip_bit(&name, at % (64 << 10), (at % 8) as u8));
        let Ok((log, _writer)) = Log::open(Arc::new(disk.reopen()), options()) else { continue };
        let mut damaged = 0;
        for index in 1..=150 {
            match log.read(GROUP, index..index + 1, usize::MAX) {
                Ok(found) => assert_eq!(found, [entry(index, 1, 1000)], "{name} at {at}"),
                Err(ReadError::Damaged { .. }) => damaged += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(damaged <= 1, "{name} at {at}");
        if damaged == 1 {
            assert!(matches!(open_error(&disk), OpenError::Damaged { .. }), "{name} at {at}");
        }
    }
}

#[test]
fn damage_that_copying_forward_finds_withdraws_the_table_too() {
    let disk = several_segments(1);
    assert!(disk.flip_bit(&segment(1), 4096 + 64 + 36 + 10, 3));
    let (log, mut writer) = open(&disk);
    log.purge(GROUP, (140, 1), ignore());
    drain(&mut writer);
    log.retain(GROUP, 140, &[1..=1]);
    drain(&mut writer);
    assert!(!tables(&disk).contains(&table(1)), "{:?}", tables(&disk));
    assert!(matches!(open_error(&disk), OpenError::Damaged { .. }));
}

#[test]
fn a_damaged_table_is_not_believed_and_is_replaced() {
    for at in (0..4096).step_by(7) {
        let disk = several_segments(1);
        let whole = read_file(&disk, &table(2));
        let before = recovered(&open(&disk).0);
        assert!(disk.flip_bit(&table(2), at, (at % 8) as u8));
        let (log, mut writer) = open(&disk);
        assert_eq!(recovered(&log), before, "bit at {at}");
        drain(&mut writer);
        assert_eq!(read_file(&disk, &table(2)), whole, "bit at {at}");
    }
}

#[test]
fn a_table_that_is_torn_empty_or_of_another_time_is_not_believed() {
    let disk = several_segments(1);
    let whole = read_file(&disk, &table(2));
    let before = recovered(&open(&disk).0);
    let mut torn = whole.clone();
    torn[512..].fill(0);
    let other_salt = read_file(&several_segments(2), &table(2));
    let other_segment = read_file(&disk, &table(1));
    let longer = [whole.as_slice(), &[0; BLOCK]].concat();
    let huge = vec![0; 64 << 10];
    for bytes in [torn, vec![0; BLOCK], other_salt, other_segment, longer, huge, vec![]] {
        write_file(&disk, &table(2), &bytes);
        let (log, mut writer) = open(&disk);
        assert_eq!(recovered(&log), before);
        drain(&mut writer);
        assert_eq!(read_file(&disk, &table(2)), whole);
    }
    disk.truncate(&table(2), 700);
    assert_eq!(recovered(&open(&disk).0), before);
}

#[test]
fn a_table_does_not_hide_that_its_segment_lost_its_end() {
    let disk = several_segments(1);
    disk.truncate(&segment(2), 40 << 10);
    assert!(matches!(open_error(&disk), OpenError::Damaged { .. }));
    let disk = several_segments(1);
    let last = disk.last_write(&segment(2)).expect("the seal");
    assert!(disk.flip_bit(&segment(2), last + 20, 1));
    assert!(matches!(open_error(&disk), OpenError::Damaged { .. }));
}

#[test]
fn a_segment_without_a_table_gets_one() {
    let disk = several_segments(1);
    let before = recovered(&open(&disk).0);
    let whole: Vec<_> = tables(&disk).iter().map(|name| read_file(&disk, name)).collect();
    tables(&disk).iter().for_each(|name| disk.reopen().remove(name).expect("remove"));
    let (log, mut writer) = open(&disk);
    assert_eq!(recovered(&log), before);
    assert!(tables(&disk).is_empty(), "opening writes nothing");
    drain(&mut writer);
    while tables(&disk).len() < 3 {
        writer.step();
    }
    let made: Vec<_> = tables(&disk).iter().map(|name| read_file(&disk, name)).collect();
    assert_eq!(made, whole);
}

#[test]
fn a_table_goes_with_its_segment_and_one_without_a_segment_is_removed() {
    let disk = several_segments(1);
    write_file(&disk, &table(9), &read_file(&disk, &table(1)));
    let (log, mut writer) = open(&disk);
    log.purge(GROUP, (150, 1), ignore());
    drain(&mut writer);
    assert_eq!(tables(&disk).len(), 3);
    log.retain(GROUP, 150, &[]);
    drain(&mut writer);
    assert_eq!(log.stats().segments, 1);
    assert!(tables(&disk).is_empty(), "{:?}", tables(&disk));
}

#[test]
fn a_table_that_cannot_be_written_does_no_harm() {
    let mut unharmed = 0;
    for operation in [Operation::Write, Operation::Flush] {
        for call in 1..60 {
            let disk = SimDisk::new(call);
            let (log, mut writer) = open(&disk);
            append(&log, GROUP, entries(1..2, 1));
            drain(&mut writer);
            disk.plan(operation, call, Fault::Error);
            let mut watches = Vec::new();
            for index in 2..100 {
                watches.push(append(&log, GROUP, vec![entry(index, 1, 1000)]));
                drain(&mut writer);
            }
            if log.poisoned().is_some() || disk.faults_met() == 0 {
                continue;
            }
            unharmed += 1;
            assert!(watches.iter().all(Watch::is_ok));
            let before = recovered(&log);
            drop((log, writer));
            disk.power_loss();
            let (log, mut writer) = open(&disk);
            assert_eq!(recovered(&log), before, "{operation:?} {call}");
            drain(&mut writer);
            compare_both_ways(&disk, &options());
        }
    }
    // Making the spares, and writing the tables.
    assert!(unharmed >= 3, "{unharmed} faults met a table");
}

#[test]
fn a_full_disk_has_no_room_for_tables_and_the_log_goes_on() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    append(&log, GROUP, entries(1..2, 1));
    drain(&mut writer);
    assert!(log.stats().spare_segments > 0);
    disk.set_capacity(disk.used_bytes());
    let watch = append(&log, GROUP, (2..90).map(|index| entry(index, 1, 1000)).collect());
    drain(&mut writer);
    assert!(watch.is_ok());
    assert!(log.poisoned().is_none());
    assert!(tables(&disk).is_empty());
    disk.set_capacity(u64::MAX);
    let before = recovered(&log);
    let (log, mut writer) = open(&disk);
    assert_eq!(recovered(&log), before);
    drain(&mut writer);
    assert_eq!(tables(&disk), [table(1)]);
}

#[test]
fn a_crash_at_any_point_of_sealing_loses_nothing() {
    for operation in [Operation::Write, Operation::Flush, Operation::Rename] {
        for fault in [Fault::PowerLoss, Fault::Kill] {
            for call in 1..120 {
                crash_while_sealing(operation, fault, call);
            }
        }
    }
}

fn crash_while_sealing(operation: Operation, fault: Fault, call: u64) {
    let what = format!("{operation:?} {fault:?} {call}");
    let disk = SimDisk::new(call);
    disk.plan(operation, call, fault);
    let mut term = 0;
    let mut acknowledged = 0;
    // The second boot goes on where the first ended; by then the fault has been met, or never is.
    for _ in 0..3 {
        term += 1;
        let (log, mut writer) = match Log::open(Arc::new(disk.reopen()), options()) {
            Ok(opened) => opened,
            // The fault was met while opening.
            Err(OpenError::Io { .. }) => continue,
            Err(error) => panic!("{what}: {error}"),
        };
        let last = log.state(GROUP).and_then(|state| state.last).map_or(0, |(last, _)| last);
        assert!(last >= acknowledged, "{what}: {last} of {acknowledged}");
        let found = log.read(GROUP, 1..last + 1, usize::MAX).expect("readable");
        assert_eq!(found.len() as u64, last, "{what}");
        for index in last + 1..last + 90 {
            let watch = append(&log, GROUP, vec![entry(index, term, 1000)]);
            drain(&mut writer);
            if watch.is_ok() {
                acknowledged = index;
            }
        }
        if term == 1 && !disk.is_alive() {
            disk.power_loss();
        }
        drop((log, writer));
    }
    disk.clear_plans();
    compare_both_ways(&disk, &options());
}
