//! A whole log, opened from a disk whose bytes somebody has changed.
//!
//! ```text
//! input   0 | damage *     damage = file u8 | offset u16 | xor u8          of a log of real writes
//!                          file: bit 7 a table of contents, else a segment; which of them
//!         1 | record *     see `forged`                                    of a log made up here
//! ```
//!
//! Damage is refused, cut off with the last batch, or found when the entry is read, and never
//! believed. A forged log, whole but describing what no writer would write, is refused or is a log
//! with which one can go on. Looking at it without opening it finds what opening it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use quorate_storage::disk::{AlignedBuffer, BLOCK};
use quorate_storage::log::INDEX_MAX;
use quorate_storage::log::format::{self, Kind, Record, SegmentHeader};
use quorate_storage::log::offline;
use quorate_storage::{Disk, Entry, GroupId, GroupState, Log, Options, ReadError, SimDisk, Writer};

use crate::input::{Input, put_chunk};

const SEGMENT_BYTES: u64 = 32 << 10;
/// Steps in which a writer is done with whatever a target can ask of it.
const STEPS_MAX: usize = 10_000;

pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    if input.u8() == 0 { damaged(&mut input) } else { forged(&mut input) }
}

fn options() -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        max_batch_bytes: 8 << 10,
        tail_bytes: 0,
        spare_segments: 1,
    }
}

fn open(disk: &SimDisk) -> Option<(Log, Writer)> {
    Log::open(Arc::new(disk.reopen()), options()).ok()
}

fn drain(writer: &mut Writer) {
    let idle = (0..STEPS_MAX).any(|_| !writer.step());
    assert!(idle, "the writer finds no end");
}

fn segment_name(sequence: u64) -> String {
    format!("{sequence:020}.seg")
}

/// What a log holds: the states of its groups, and the entries that it can give.
type Content = BTreeMap<GroupId, (GroupState, Vec<Entry>)>;

fn content(log: &Log) -> Content {
    let of = |group| {
        let ranges = log.indexes(group).into_iter();
        let read = |range: std::ops::RangeInclusive<u64>| {
            let (start, end) = range.into_inner();
            let entries = log.read(group, start..end + 1, usize::MAX);
            let entries = entries.expect("what is indexed is readable");
            assert_eq!(entries.len() as u64, end - start + 1, "group {group} from {start}");
            entries
        };
        (log.state(group).expect("it is known"), ranges.flat_map(read).collect())
    };
    log.groups().into_iter().map(|group| (group, of(group))).collect()
}

/// What a damaged log holds, without the entries that it reports as damaged, and those.
fn readable(log: &Log) -> (Content, BTreeSet<(GroupId, u64)>) {
    let mut unreadable = BTreeSet::new();
    let mut of = |group| {
        let mut entries = Vec::new();
        for index in log.indexes(group).into_iter().flatten() {
            match log.read(group, index..index + 1, usize::MAX) {
                Ok(read) => entries.extend(read),
                Err(ReadError::Damaged { .. }) => drop(unreadable.insert((group, index))),
                Err(error) => panic!("group {group} index {index}: {error}"),
            }
        }
        (log.state(group).expect("it is known"), entries)
    };
    let content = log.groups().into_iter().map(|group| (group, of(group))).collect();
    (content, unreadable)
}

/// Reads the log as a tool does, after the fact: what was refused has a fault, and what has none holds what was
/// opened. Returns whether it has none.
fn looked_at(disk: &SimDisk, opened: Option<&Log>) -> bool {
    let read = offline::read(&disk.reopen(), &mut |_| ControlFlow::Continue(()));
    let read = read.expect("a disk in memory");
    let is_whole = |group| read.first_missing(group).is_none();
    let is_sound = read.faults().is_empty() && read.groups().all(is_whole);
    assert!(opened.is_some() || !is_sound, "what was refused has a fault");
    if let Some(log) = opened.filter(|_| is_sound) {
        assert!(read.groups().eq(log.groups()));
        for group in log.groups() {
            assert_eq!(read.state(group), log.state(group).as_ref(), "group {group}");
            let seen = read.entries(group, 0).map(|entry| (entry.index, Some(entry.term)));
            let held = log.indexes(group).into_iter().flatten();
            assert!(seen.eq(held.map(|index| (index, log.term_of(group, index)))), "{group}");
        }
    }
    is_sound
}

/// A log of several segments, with what it held before its last batch and after it.
struct Original {
    disk: SimDisk,
    segments: Vec<String>,
    /// Tables of contents, by name.
    tables: Vec<(String, Vec<u8>)>,
    before: Content,
    after: Content,
}

fn original() -> &'static Original {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let disk = SimDisk::new(1);
        let (log, mut writer) = open(&disk).expect("an empty log");
        let (raft, other) = (GroupId(1), GroupId(2));
        let entry = |index, term, bytes: usize| Entry {
            index,
            term,
            payload: Bytes::from(vec![index as u8; bytes]),
        };
        for round in 0..5u64 {
            let first = round * 4 + 1;
            let entries = (first..first + 4).map(|index| entry(index, 1, 900)).collect();
            log.append(raft, entries, Box::new(drop));
            log.save_vote(raft, format!("vote {round}").into_bytes().into(), Box::new(drop));
            drain(&mut writer);
            log.append(other, vec![entry(round + 1, 3, 40)], Box::new(drop));
            log.save_committed(other, Bytes::from_static(b"committed"));
            drain(&mut writer);
        }
        log.truncate_after(raft, Some((18, 1)), Box::new(drop));
        log.append(raft, vec![entry(19, 2, 10)], Box::new(drop));
        log.purge(other, (3, 3), Box::new(drop));
        log.put(GroupId(1 << 63 | 2), vec![entry(2, 3, 70)], Box::new(drop));
        log.append(GroupId(3), vec![entry(1, 1, 10)], Box::new(drop));
        drain(&mut writer);
        log.remove_group(GroupId(3), Box::new(drop));
        drain(&mut writer);
        let before = content(&log);
        log.append(raft, vec![entry(20, 2, 10)], Box::new(drop));
        drain(&mut writer);
        let after = content(&log);
        assert_eq!(open(&disk).map(|(log, _)| content(&log)).as_ref(), Some(&after));
        let mut names = disk.list().expect("a disk in memory");
        names.retain(|name| !name.starts_with("spare"));
        names.sort();
        let (segments, tables): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| name.ends_with(".seg"));
        assert_eq!(tables.len() + 1, segments.len(), "the sealed ones have tables");
        let tables = tables.into_iter().map(|name| (name.clone(), read_file(&disk, &name)));
        Original { tables: tables.collect(), disk, segments, before, after }
    })
}

fn read_file(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name).expect("it was made");
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).expect("a disk in memory");
    bytes
}

/// A log that reads damage removes the table of contents in question: it is put back.
fn restore_tables(disk: &SimDisk, tables: &[(String, Vec<u8>)]) {
    for (name, bytes) in tables.iter().filter(|(name, _)| disk.file_len(name).is_none()) {
        let mut buffer = AlignedBuffer::new();
        buffer.resize(bytes.len());
        buffer.as_mut_slice().copy_from_slice(bytes);
        let file = disk.create(name, bytes.len() as u64, &|| true).expect("a disk in memory");
        file.write_durable(0, buffer.as_slice()).expect("a disk in memory");
    }
}

fn damaged(input: &mut Input<'_>) {
    let Original { disk, segments, tables, before, after } = original();
    let mut places = Vec::new();
    while !input.is_empty() && places.len() < 8 {
        let which = input.u8();
        let at = usize::from(which & 127);
        let (name, bytes) = if which & 128 == 0 {
            (&segments[at % segments.len()], SEGMENT_BYTES)
        } else {
            let (name, bytes) = &tables[at % tables.len()];
            (name, bytes.len() as u64)
        };
        let offset = u64::from(input.u8()) | u64::from(input.u8()) << 8;
        places.push((name, offset % bytes, input.u8()));
    }
    let flip = || {
        for (name, offset, xor) in &places {
            (0..8).filter(|bit| xor >> bit & 1 == 1).for_each(|bit| {
                let is_there = disk.flip_bit(name, *offset, bit);
                assert!(is_there || name.ends_with(".toc"), "{name} has a byte {offset}");
            });
        }
    };
    flip();
    let opened = open(disk);
    let is_sound = looked_at(disk, opened.as_ref().map(|(log, _)| log));
    let found = opened.map(|(log, _)| readable(&log));
    let withdrawn = tables.iter().any(|(name, _)| disk.file_len(name).is_none());
    if found.as_ref().is_some_and(|(_, unreadable)| !unreadable.is_empty()) {
        assert!(!is_sound, "{places:?} are passed by");
        assert!(withdrawn && open(disk).is_none(), "{places:?} are passed by once more");
    }
    flip();
    restore_tables(disk, tables);
    let Some((found, unreadable)) = found else { return };
    if places.len() <= 1 {
        let all_but = |whole: &Content| {
            let mut rest = whole.clone();
            for (group, (_, entries)) in &mut rest {
                entries.retain(|entry| !unreadable.contains(&(*group, entry.index)));
            }
            rest
        };
        let as_written = found == all_but(before) || found == all_but(after);
        assert!(as_written, "{places:?} was believed: {found:?}");
        // A flipped bit lies in one record.
        assert!(unreadable.len() <= 1, "{places:?} hides {unreadable:?}");
    }
    // With more than one damage the end may seem to be further back, as after a torn write.
    for (group, (_, entries)) in found {
        let whole = after.get(&group).map(|(_, entries)| entries.as_slice()).unwrap_or_default();
        let written = |entry: &Entry| {
            let Entry { index, term, payload } = entry;
            let truncated = group == GroupId(1) && (19..=20).contains(index) && *term == 1;
            let removed = group == GroupId(3) && *index == 1;
            whole.contains(entry)
                || (truncated || removed) && payload.iter().all(|byte| *byte == *index as u8)
        };
        assert!(entries.iter().all(written), "{places:?} was believed: {entries:?}");
    }
}

/// Two segments of forged records. A record is:
///
/// ```text
/// choice u8 (kind: bits 0-2; ends its batch: bit 3; ends its segment: bit 4; raw state: bit 5)
/// group u8 | index number | term number | payload chunk, or for a state its parts
/// ```
fn forged(input: &mut Input<'_>) {
    let disk = SimDisk::new(1);
    let mut segment = Forger::begin(&disk, 1, 1 + input.number() % 4);
    let mut removed = BTreeSet::new();
    while !input.is_empty() && segment.is_some() {
        let choice = input.u8();
        let record = forged_record(choice, input);
        segment = segment.and_then(|mut segment| {
            // The log takes nothing in of a group that was removed, and recovery relies on it.
            let is_known = !removed.contains(&record.group);
            if record.kind == Kind::Tombstone {
                removed.insert(record.group);
            }
            segment.records.extend(is_known.then_some(record));
            match (choice & 8 != 0, choice & 16 != 0) {
                (_, true) => segment.seal().then_some(segment)?.successor(),
                (true, _) => segment.batch(false).then_some(segment),
                _ => Some(segment),
            }
        });
    }
    if let Some(mut segment) = segment {
        segment.batch(false);
    }
    let opened = open(&disk);
    let is_sound = looked_at(&disk, opened.as_ref().map(|(log, _)| log));
    assert_eq!(is_sound, opened.is_some());
    if let Some((log, writer)) = opened {
        go_on(&disk, &log, writer);
    }
}

fn forged_record(choice: u8, input: &mut Input<'_>) -> Record<Bytes> {
    let kinds = [Kind::Entry, Kind::Copy, Kind::Put, Kind::State, Kind::Tombstone];
    let kind = kinds[usize::from(choice & 7) % kinds.len()];
    let group = GroupId(u64::from(input.u8() % 3));
    let (index, term) = (input.number(), input.number());
    let payload = if kind == Kind::State && choice & 32 == 0 {
        let mut position = || (input.u8() & 1 == 1).then(|| (input.number(), input.number()));
        let (purged, last) = (position(), position());
        let vote = Bytes::copy_from_slice(input.chunk());
        format::encode_state(&GroupState { vote, committed: Bytes::new(), purged, last })
    } else {
        Bytes::copy_from_slice(input.chunk())
    };
    Record { kind, group, index, term, payload }
}

/// Writes batches to a segment as the log does.
struct Forger<'a> {
    disk: &'a SimDisk,
    header: SegmentHeader,
    offset: u64,
    next_batch: u64,
    records: Vec<Record<Bytes>>,
}

impl<'a> Forger<'a> {
    fn begin(disk: &'a SimDisk, segment: u64, first_batch: u64) -> Option<Self> {
        let header = SegmentHeader { segment, salt: 0x5a17 + segment, first_batch };
        let mut block = AlignedBuffer::new();
        block.resize(format::SEGMENT_HEADER_BYTES);
        header.encode(block.as_mut_slice());
        let file =
            disk.create(&segment_name(segment), SEGMENT_BYTES, &|| true).expect("a disk in memory");
        file.write_durable(0, block.as_slice()).expect("a disk in memory");
        let (offset, next_batch) = (format::SEGMENT_HEADER_BYTES as u64, first_batch);
        (segment <= 3).then_some(Self { disk, header, offset, next_batch, records: Vec::new() })
    }

    /// Writes what was gathered; false if it does not fit.
    fn batch(&mut self, seal: bool) -> bool {
        let records = std::mem::take(&mut self.records);
        let bytes: usize = records.iter().map(Record::encoded_len).sum();
        let mut out = AlignedBuffer::new();
        out.resize(format::padded(format::BATCH_HEADER_BYTES + bytes));
        let (batch, block) = (self.next_batch, out.as_mut_slice());
        format::encode_batch(&self.header, batch, seal, &records, block, &mut Vec::new());
        let file = self.disk.open(&segment_name(self.header.segment)).expect("it was made");
        // The log keeps room for the seal.
        let end = self.offset + out.as_slice().len() as u64;
        let fits = end + if seal { 0 } else { BLOCK as u64 } <= SEGMENT_BYTES;
        if fits {
            file.write_durable(self.offset, out.as_slice()).expect("a disk in memory");
        }
        self.offset = end;
        self.next_batch += 1;
        fits
    }

    fn seal(&mut self) -> bool {
        (self.records.is_empty() || self.batch(false)) && self.batch(true)
    }

    fn successor(self) -> Option<Self> {
        Self::begin(self.disk, self.header.segment + 1, self.next_batch)
    }
}

/// Uses a log that was opened, in every way, and opens it again.
fn go_on(disk: &SimDisk, log: &Log, mut writer: Writer) {
    let mut groups = content(log);
    let _ = log.stats();
    groups.retain(|_, (state, _)| state.last.is_none_or(|(last, _)| last < INDEX_MAX));
    for (group, (state, _)) in &groups {
        let (next, term) = state.last.map_or((1, 1), |(index, term)| (index + 1, term));
        let entry = Entry { index: next, term, payload: Bytes::from_static(b"next") };
        log.append(*group, vec![entry.clone()], Box::new(drop));
        log.save_vote(*group, Bytes::from_static(b"vote"), Box::new(drop));
        drain(&mut writer);
        assert_eq!(log.read(*group, next..next + 1, usize::MAX).ok(), Some(vec![entry]));
    }
    let grown = content(log);
    let (log, mut writer) = open(disk).expect("what was written can be opened");
    // Forged entries that no state covers may be gone; nothing else is, and nothing is new.
    let reopened = content(&log);
    for group in groups.keys() {
        let ((state, entries), (was, before)) = (&reopened[group], &grown[group]);
        assert_eq!(state, was, "group {group}");
        assert!(entries.iter().all(|entry| before.contains(entry)), "group {group}");
        let is_last = |entry: &&Entry| state.last == Some((entry.index, entry.term));
        assert!(entries.iter().any(|entry| is_last(&entry)), "group {group}");
    }
    for group in groups.into_keys() {
        let last = log.state(group).and_then(|state| state.last).expect("an entry was appended");
        log.put(group, vec![Entry { index: 1, term: 1, payload: Bytes::new() }], Box::new(drop));
        log.truncate_after(group, Some((last.0 - 1, last.1)), Box::new(drop));
        log.purge(group, last, Box::new(drop));
        drain(&mut writer);
        log.retain(group, last.0, &[1..=1]);
        drain(&mut writer);
        log.remove_group(group, Box::new(drop));
        drain(&mut writer);
        assert_eq!(log.state(group), None);
    }
    assert!(open(disk).is_some(), "what was written can be opened");
}

pub fn seeds() -> Vec<Vec<u8>> {
    // Of a segment header, batch headers, records, payloads, both segments.
    let damages: [&[u8]; 8] = [
        &[],
        &[0, 16, 0, 1],
        &[0, 0, 16, 4],
        &[0, 44, 16, 1],
        &[0, 64, 16, 1],
        &[1, 120, 32, 255],
        &[2, 60, 16, 1],
        &[0, 0, 16, 1, 1, 0, 16, 1],
    ];
    let mut seeds: Vec<Vec<u8>> = damages.iter().map(|damage| [&[0], *damage].concat()).collect();
    seeds.push(forged_seed(&[(0, 1), (0, 2), (8, 3), (0, 4), (16, 5), (8, 6)]));
    seeds.push(forged_seed(&[(3, 0), (0, 5), (8, 6), (1, 5), (2, 9), (16, 7), (4, 1), (11, 0)]));
    seeds.push(forged_seed(&[(2, 7), (2, 240), (10, 3)]));
    // Of a table of contents; of it and of its segment.
    seeds.push(vec![0, 128, 70, 0, 1]);
    seeds.push(vec![0, 128, 20, 0, 1, 0, 120, 16, 1]);
    seeds
}

/// Records of group 1 in term 1, given by choice and index.
fn forged_seed(records: &[(u8, u8)]) -> Vec<u8> {
    let mut seed = vec![1, 0];
    for (choice, index) in records {
        seed.extend([*choice, 1, *index, 1]);
        if choice & 7 == 3 {
            // A floor at 4, a last entry at 4, and a vote.
            seed.extend([1, 4, 1, 1, 4, 1]);
        }
        put_chunk(&mut seed, b"payload");
    }
    seed
}
