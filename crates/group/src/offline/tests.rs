//! Logs made up here, sound ones and ones that no node would write, and what is said of them.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quorate_machine::queue::{Command, Producer, ProducerId, Publish, Queue, without_bodies};
use quorate_machine::{At, EntryBuilder, Machine, Millis};
use quorate_storage::{Entry, GroupId, Log, Meta, Options, SimDisk, SimMeta, Writer};

use super::{CATALOG, Finding, HistoryError, Replay, ReplayError, Report, Stopped, verify};
use crate::checkpoint::{self, Checkpoint};
use crate::codec;
use crate::types::{SnapshotMeta, Vote, log_id};

const QUEUE: u64 = 1;
const SEGMENT: &str = "00000000000000000001.seg";

/// A queue's log of a node, beside an empty one of the catalog.
struct Node {
    disk: SimDisk,
    meta: SimMeta,
    log: Log,
    writer: Writer,
}

impl Node {
    fn new() -> Self {
        let disk = SimDisk::new(1);
        let options = Options { segment_bytes: 64 << 10, ..Options::default() };
        let (log, writer) = Log::open(Arc::new(disk.clone()), options).expect("an empty log");
        let mut node = Self { disk, meta: SimMeta::new(1), log, writer };
        node.append(0, vec![entry(0, 0, Bytes::new())]);
        node
    }

    fn append(&mut self, group: u64, entries: Vec<Entry>) {
        self.log.append(GroupId(group), entries, Box::new(|done| done.expect("durable")));
        self.drain();
    }

    fn drain(&mut self) {
        while self.writer.step() {}
    }

    fn vote(&mut self, term: u64) {
        let vote = codec::encode_vote(&Vote::new_committed(term, 1));
        self.log.save_vote(GroupId(QUEUE), vote, Box::new(|done| done.expect("durable")));
        self.drain();
    }

    fn purge(&mut self, upto: u64) {
        let done = Box::new(|done: Result<(), _>| done.expect("durable"));
        self.log.purge(GroupId(QUEUE), (upto, 1), done);
        self.drain();
    }

    fn checkpoint(&self, index: u64, state: Vec<u8>) {
        let meta = SnapshotMeta { last_log_id: Some(log_id(1, index)), ..SnapshotMeta::default() };
        let bytes = checkpoint::encode(&Checkpoint { meta, state: state.into() });
        self.meta.put(&checkpoint::key(QUEUE), &[&bytes]).expect("put");
    }

    fn look(&self) -> Stopped<'_> {
        Stopped::read(&self.disk, Some(&self.meta), &mut |_| ControlFlow::Continue(()))
            .expect("a disk in memory")
    }

    fn verify(&self) -> Report {
        verify(&self.disk, Some(&self.meta)).expect("a disk in memory")
    }

    fn finding(&self) -> Finding {
        let Report { mut findings, .. } = self.verify();
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }
}

fn entry(index: u64, term: u64, payload: Bytes) -> Entry {
    Entry { index, term, payload }
}

/// An entry that publishes one message.
fn publish(index: u64) -> Entry {
    let id = ProducerId::new(&b"producer"[..]).expect("short");
    let producer = Some(Producer { id, epoch: 1, sequence: index });
    let frame = Bytes::from_static(b"\x08\0\0\0\0\0secret");
    let command = Command::Publish(Publish { producer, ..Publish::plain(1, frame) });
    let mut builder = EntryBuilder::new();
    builder.push_command::<Queue>(&command);
    entry(index, 1, builder.freeze(Millis(1_000 + index)))
}

/// The state of a queue after `entries`, applied by hand.
fn state_after(entries: &[Entry]) -> Queue {
    let mut queue = Queue::new();
    for entry in entries {
        let (now, commands) =
            quorate_machine::decode_entry(entry.payload.clone()).expect("commands");
        let at = At { index: entry.index, now };
        for command in commands {
            let command = Queue::decode(&mut command.expect("whole")).expect("a command");
            queue.apply(at, 0, command, &mut Vec::new());
        }
        queue.finish(at, &mut Vec::new());
    }
    queue
}

fn replayed(stopped: &Stopped<'_>, to: Option<u64>) -> Result<Replay<Queue>, HistoryError> {
    let history = stopped.history(QUEUE, to)?;
    let mut replay = Replay::begin(history.base())?;
    for entry in stopped.entries(&history) {
        replay.apply(&entry?)?;
    }
    Ok(replay)
}

fn entries() -> Vec<Entry> {
    (0..20).map(publish).collect()
}

#[test]
fn a_whole_log_gives_the_state_at_every_index_and_meets_the_checkpoint() {
    let (mut node, entries) = (Node::new(), entries());
    node.vote(1);
    node.append(QUEUE, entries.clone());
    node.checkpoint(9, state_after(&entries[..10]).snapshot());
    let stopped = node.look();
    for to in 0..20 {
        let replay = replayed(&stopped, Some(to)).expect("a history");
        assert_eq!(replay.hash(), state_after(&entries[..=to as usize]).hash());
        assert_eq!(replay.position().map(|at| at.index), Some(to));
    }
    let landmark = |to| stopped.history(QUEUE, to).expect("a history").landmark();
    let met = landmark(None).expect("a checkpoint on the way");
    assert_eq!((met.index, met.hash), (9, state_after(&entries[..10]).hash()));
    assert_eq!(landmark(Some(8)), None);
    assert!(matches!(
        stopped.history(QUEUE, Some(20)),
        Err(HistoryError::BehindEnd { to: 20, last: 19 })
    ));
    assert!(matches!(stopped.history(7, None), Err(HistoryError::NoGroup(7))));
    let report = node.verify();
    assert_eq!((report.findings, report.commands, report.checkpoints), (vec![], 20, 1));
    assert_eq!(report.referred, 10);
}

#[test]
fn a_log_without_its_beginning_goes_on_from_the_checkpoint_or_is_told() {
    let (mut node, entries) = (Node::new(), entries());
    node.vote(1);
    node.append(QUEUE, entries.clone());
    node.purge(5);
    assert!(matches!(node.look().history(QUEUE, None), Err(HistoryError::NoBase { .. })));
    assert!(node.finding().what.contains("there is no checkpoint"));
    node.checkpoint(9, state_after(&entries[..10]).snapshot());
    let stopped = node.look();
    let replay = replayed(&stopped, None).expect("a history");
    assert_eq!(replay.hash(), state_after(&entries).hash());
    let at_the_base = replayed(&stopped, Some(9)).expect("a history");
    assert_eq!(at_the_base.hash(), state_after(&entries[..10]).hash());
    assert!(matches!(
        stopped.history(QUEUE, Some(8)),
        Err(HistoryError::BeforeBase { to: 8, base: 9 })
    ));
    assert_eq!(node.verify().findings, []);
}

#[test]
fn entries_without_bodies_give_the_same_state() {
    let mut blank = entries();
    for entry in &mut blank {
        let whole = entry.payload.clone();
        entry.payload = without_bodies(&whole).expect("commands");
        assert_eq!(entry.payload.len(), whole.len());
        assert!(!entry.payload.windows(6).any(|window| window == b"secret"));
        assert_eq!(without_bodies(&entry.payload), Ok(entry.payload.clone()));
    }
    assert_eq!(state_after(&blank).hash(), state_after(&entries()).hash());
}

#[test]
fn a_term_that_falls_is_found_where_it_does() {
    let mut node = Node::new();
    node.vote(3);
    let with = |index, term| Entry { term, ..publish(index) };
    node.append(QUEUE, vec![with(0, 1), with(1, 3), with(2, 2), with(3, 3)]);
    let finding = node.finding();
    assert!(finding.what.contains("falls from 3 to 2 at entry 2"), "{finding:?}");
    let stored = node.look().log().entries(GroupId(QUEUE), 2).next().expect("it is stored");
    assert_eq!(finding.place, Some((SEGMENT.to_owned(), stored.offset)));
}

#[test]
fn a_vote_that_is_behind_the_entries_is_found() {
    let mut node = Node::new();
    node.vote(1);
    node.append(QUEUE, vec![Entry { term: 2, ..publish(0) }]);
    assert!(node.finding().what.contains("the vote is of term 1, the last entry of 2"));
}

#[test]
fn an_entry_that_cannot_be_read_is_found_and_ends_a_replay() {
    let mut node = Node::new();
    node.vote(1);
    let mut cut = publish(1);
    cut.payload.truncate(cut.payload.len() - 1);
    node.append(QUEUE, vec![publish(0), cut, publish(2)]);
    let finding = node.finding();
    assert_eq!(finding.group, Some(QUEUE));
    assert!(finding.place.is_some() && finding.what.starts_with("Entry 1: "), "{finding:?}");
    match replayed(&node.look(), None) {
        Err(HistoryError::Replay(ReplayError::Command { index: 1, .. })) => {}
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_frame_that_is_not_one_is_found() {
    let mut node = Node::new();
    node.vote(1);
    let mut payload = BytesMut::from(&publish(0).payload[..]);
    let length = payload.len() - 12;
    payload[length] = 99;
    node.append(QUEUE, vec![entry(0, 1, payload.freeze())]);
    assert!(node.finding().what.contains("message 0 of the batch"), "{:?}", node.finding());
}

#[test]
fn messages_that_a_checkpoint_refers_to_and_that_are_gone_are_found() {
    let (mut node, entries) = (Node::new(), entries());
    node.vote(1);
    node.append(QUEUE, entries[5..].to_vec());
    node.purge(9);
    node.checkpoint(9, state_after(&entries[..10]).snapshot());
    let report = node.verify();
    assert_eq!((report.referred, report.findings.len()), (5, 5), "{:?}", report.findings);
    for (finding, missing) in report.findings.iter().zip(0..5) {
        let what = format!("the messages of entry {missing}, which is missing");
        assert!(finding.what.contains(&what), "{finding:?}");
    }
}

#[test]
fn a_checkpoint_that_restores_nothing_is_found() {
    let mut node = Node::new();
    node.vote(1);
    node.append(QUEUE, entries());
    let mut state = state_after(&entries()).snapshot();
    state[20] ^= 1;
    node.checkpoint(19, state);
    assert!(node.finding().what.contains("restores no machine"));
}

#[test]
fn a_beginning_that_is_lost_is_found() {
    let mut node = Node::new();
    node.vote(1);
    node.append(QUEUE, entries().split_off(5));
    let finding = node.finding();
    assert!(finding.what.contains("entries 0..=4 are missing"), "{finding:?}");
    assert!(matches!(node.look().history(QUEUE, None), Err(HistoryError::NoBase { .. })));
}

#[test]
fn checkpoints_without_a_log_are_a_finding() {
    let disk = SimDisk::new(1);
    let meta = SimMeta::new(1);
    for group in [CATALOG, QUEUE] {
        let snapshot = SnapshotMeta { last_log_id: Some(log_id(1, 5)), ..SnapshotMeta::default() };
        let bytes = checkpoint::encode(&Checkpoint { meta: snapshot, state: Bytes::new() });
        meta.put(&checkpoint::key(group), &[&bytes]).expect("put");
    }
    let report = verify(&disk, Some(&meta)).expect("a disk in memory");
    let groups: Vec<_> = report.findings.iter().map(|finding| finding.group).collect();
    assert_eq!(groups, [Some(CATALOG), Some(QUEUE)], "{:?}", report.findings);
}

#[test]
fn a_replica_that_was_leaving_is_no_damage_and_its_checkpoint_is_used_as_long_as_its_log_is_there()
{
    let mut node = Node::new();
    node.append(QUEUE, entries());
    node.vote(1);
    node.purge(3);
    node.checkpoint(3, state_after(&entries()[..4]).snapshot());
    node.meta.put(&checkpoint::leaving_key(QUEUE), &[]).expect("put");
    let report = node.verify();
    assert_eq!(report.findings, []);
    let notes: Vec<_> = report.notes.iter().map(|(group, _)| *group).collect();
    assert_eq!(notes, [Some(QUEUE)], "{:?}", report.notes);
    // It can be gone on with still: whoever wants to is shown all of it.
    assert!(node.look().checkpoint(QUEUE).expect("readable").is_some());
    let done = Box::new(|done: Result<(), _>| done.expect("durable"));
    node.log.reset_group(GroupId(QUEUE), Bytes::new(), done);
    node.drain();
    assert_eq!(node.verify().findings, []);
    assert!(node.look().checkpoint(QUEUE).expect("readable").is_none());
}

#[test]
fn entries_without_a_vote_are_a_finding() {
    let mut node = Node::new();
    node.append(QUEUE, entries());
    assert!(node.finding().what.contains("no vote"));
}
