//! Random logs against the reference queue, which has a record for every message.
//!
//! Three replicas apply the encoded log: the leader, one that is restored from a snapshot now and
//! then, and the reference. After every entry the first two must have the same hash and must have
//! asked for the same effects; the third says what the replies, deliveries and figures must be.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use quorate_machine::queue::{
    Attach, Attachment, Command, Effect, Offset, Producer, ProducerId, Publish, Queue, Session,
    Settings, SettleItem, SettleKind, Token, body,
};
use quorate_machine::{At, EntryBuilder, Machine, Millis, NodeId, decode_entry, frame};

mod reference;
use reference::{Reference, State, same_reply};

#[derive(Clone, Debug)]
enum Op {
    Publish { count: u32, padding: usize, producer: Option<(u8, u32, i64)> },
    Attach { session: u8, node: u64, prefetch: u32, lease_ms: Option<u32> },
    Detach { session: u8, stale: bool },
    Disconnect { session: u8, stale: bool },
    Settle { session: u8, picks: Vec<(SettleKind, u16, u32, bool)> },
    Configure { max_messages: Option<u64>, max_bytes: Option<u64>, max_deliveries: u32 },
    Tick,
    Purge,
    LeaderChanged,
}

#[derive(Clone, Debug)]
struct Entry {
    after_ms: i64,
    restore: bool,
    ops: Vec<Op>,
}

fn kinds() -> impl Strategy<Value = SettleKind> {
    prop_oneof![
        4 => Just(SettleKind::Ack),
        2 => prop_oneof![Just(0u32), 1..300u32].prop_map(|delay_ms| SettleKind::Nack { delay_ms }),
        1 => Just(SettleKind::Reject),
        1 => (0..400u32).prop_map(|lease_ms| SettleKind::Extend { lease_ms }),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let producer = prop::option::of((
        0..2u8,
        prop_oneof![9 => Just(0u32), 1 => 0..3u32],
        prop_oneof![6 => Just(0i64), 2 => -12..3i64],
    ));
    let picks =
        prop::collection::vec((kinds(), any::<u16>(), 0..9u32, prop::bool::weighted(0.1)), 1..4);
    prop_oneof![
        8 => (1..9u32, 0..40usize, producer)
            .prop_map(|(count, padding, producer)| Op::Publish { count, padding, producer }),
        4 => (0..4u8, 1..4u64, 1..12u32, prop::option::of(50..300u32)).prop_map(
            |(session, node, prefetch, lease_ms)| Op::Attach { session, node, prefetch, lease_ms }),
        1 => (0..4u8, prop::bool::weighted(0.3)).prop_map(|(session, stale)| Op::Detach { session, stale }),
        1 => (0..4u8, prop::bool::weighted(0.3)).prop_map(|(session, stale)| Op::Disconnect { session, stale }),
        10 => (0..4u8, picks).prop_map(|(session, picks)| Op::Settle { session, picks }),
        1 => (prop::option::of(1..60u64), prop::option::of(1..4000u64), 0..4u32).prop_map(
            |(max_messages, max_bytes, max_deliveries)| Op::Configure { max_messages, max_bytes, max_deliveries }),
        1 => Just(Op::Tick),
        1 => prop::bool::weighted(0.2).prop_map(|purge| if purge { Op::Purge } else { Op::Tick }),
        1 => prop::bool::weighted(0.3).prop_map(|change| if change { Op::LeaderChanged } else { Op::Tick }),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let after = prop_oneof![4 => 0..20i64, 1 => 50..400i64, 1 => -50..0i64];
    let entry = (after, prop::bool::weighted(0.2), prop::collection::vec(ops(), 0..6))
        .prop_map(|(after_ms, restore, ops)| Entry { after_ms, restore, ops });
    prop::collection::vec(entry, 1..60)
}

struct Trial {
    leader: Queue,
    follower: Queue,
    reference: Reference,
    entries: BTreeMap<u64, Bytes>,
    now: u64,
    next_id: u64,
    last_token: BTreeMap<u64, u64>,
}

impl Trial {
    fn new() -> Self {
        let mut trial = Self {
            leader: Queue::new(),
            follower: Queue::new(),
            reference: Reference::default(),
            entries: BTreeMap::new(),
            now: 1_000,
            next_id: 0,
            last_token: BTreeMap::new(),
        };
        let settings = Settings {
            lease_ms: 200,
            session_grace_ms: 100,
            dedup_age_ms: 500,
            ..Settings::default()
        };
        trial.run(vec![(Command::Configure(settings), Vec::new())], 1);
        trial
    }

    /// Applies an entry everywhere and compares.
    fn run(&mut self, commands: Vec<(Command, Vec<u64>)>, index: u64) {
        let mut builder = EntryBuilder::new();
        for (command, _) in &commands {
            builder.push_command::<Queue>(command);
        }
        let payload = builder.freeze(Millis(self.now));
        self.entries.insert(index, payload.clone());

        let (now, iter) = decode_entry(payload).unwrap();
        let at = At { index, now };
        let (mut effects, mut follower_effects) = (Vec::new(), Vec::new());
        self.reference.advance(now.0);
        for ((ordinal, bytes), (command, ids)) in (0..).zip(iter).zip(&commands) {
            let decoded = Queue::decode(&mut bytes.unwrap()).unwrap();
            assert_eq!(&decoded, command);
            let before = effects.len();
            let reply = self.leader.apply(at, ordinal, decoded.clone(), &mut effects);
            let expected = self.reference.apply(index, command, ids);
            assert!(same_reply(&reply, &expected), "{command:?}: {reply:?}, expected {expected:?}");
            self.check_redeliveries(&effects[before..]);
            let same = self.follower.apply(at, ordinal, decoded, &mut follower_effects);
            assert_eq!(reply, same);
        }
        self.reference.end_of_entry();
        let before = effects.len();
        self.leader.finish(at, &mut effects);
        self.follower.finish(at, &mut follower_effects);
        assert_eq!(effects, follower_effects);
        self.check_deliveries(index, &effects[before..]);
        self.check_state();
    }

    fn check_redeliveries(&self, effects: &[Effect]) {
        for effect in effects {
            let Effect::Deliver { session, token, runs, .. } = effect else { continue };
            for run in runs {
                for offset in run.first_offset.0..run.first_offset.0 + u64::from(run.count) {
                    let held = self.reference.leased_by(*session).find(|held| held.0 == offset);
                    assert_eq!(held, Some((offset, token.0)), "only what is held is repeated");
                    assert_eq!(self.reference.messages[offset as usize].deliveries, run.attempt);
                }
            }
        }
    }

    fn check_deliveries(&mut self, index: u64, effects: &[Effect]) {
        let due = self.reference.due_deliveries();
        let mut delivered = Vec::new();
        for effect in effects {
            let Effect::Deliver { session, node, token, runs } = effect else { continue };
            assert_eq!(*token, Token(index));
            assert_eq!(node.0, self.reference.consumers[session].node);
            let count: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
            assert!(count <= self.reference.credit(*session), "no more than the prefetch");
            for run in runs {
                let ids = self.reference.deliver(*session, token.0, run);
                let entry = &self.entries[&run.index.0];
                let frames = body(entry, run.ordinal, run.skip, run.count).unwrap();
                assert_eq!(ids_of(&frames), ids, "a run leads back to its messages");
                let offsets = run.first_offset.0..run.first_offset.0 + u64::from(run.count);
                for offset in offsets {
                    let before = self.last_token.insert(offset, token.0);
                    assert!(before < Some(token.0), "tokens of a message grow");
                    delivered.push(offset);
                }
            }
        }
        delivered.sort_unstable();
        assert_eq!(delivered, due, "the lowest ready messages go out, up to the credit");
    }

    fn check_state(&mut self) {
        self.leader.check().unwrap();
        assert_eq!(self.leader.hash(), self.follower.hash());
        let (stats, reference) = (self.leader.stats(), &self.reference);
        assert_eq!(stats.published, reference.messages.len() as u64);
        assert_eq!(stats.ready, reference.count(|state| *state == State::Ready));
        assert_eq!(stats.leased, reference.count(|state| matches!(state, State::Leased { .. })));
        assert_eq!(stats.delayed, reference.count(|state| matches!(state, State::Delayed { .. })));
        assert_eq!(stats.acked, reference.count(|state| *state == State::Acked));
        assert_eq!(stats.rejected, reference.count(|state| *state == State::Rejected));
        assert_eq!(stats.exhausted, reference.count(|state| *state == State::Exhausted));
        assert_eq!(stats.purged, reference.count(|state| *state == State::Purged));
        assert_eq!(stats.bytes, reference.bytes());
        assert_eq!(stats.first_offset.0, reference.first_held());
        assert_eq!(stats.consumers.len(), reference.consumers.len());
        let live: Vec<u64> = self.leader.live().into_iter().flatten().collect();
        assert!(live.iter().eq(&reference.live()), "live {live:?}");
        let due = self.leader.next_deadline();
        assert!(due.is_none_or(|due| due.0 > reference.now), "what is due is done");
    }

    fn command(&mut self, op: &Op) -> (Command, Vec<u64>) {
        let mut ids = Vec::new();
        let command = match op {
            Op::Publish { count, padding, producer } => {
                ids = (self.next_id..).take(*count as usize).collect();
                self.next_id += u64::from(*count);
                let producer = producer.map(|(id, epoch, shift)| self.producer(id, epoch, shift));
                let frame = frame_of(&ids, *padding);
                Command::Publish(Publish { producer, count: *count, layout: frame::LAYOUT, frame })
            }
            Op::Attach { session, node, prefetch, lease_ms } => Command::Attach(Attach {
                session: Session(u128::from(*session)),
                node: NodeId(*node),
                name: format!("consumer {session}"),
                prefetch: *prefetch,
                lease_ms: *lease_ms,
            }),
            Op::Detach { session, stale } => {
                let (session, attachment) = self.attachment(*session, *stale);
                Command::Detach { session, attachment }
            }
            Op::Disconnect { session, stale } => {
                let (session, attachment) = self.attachment(*session, *stale);
                Command::Disconnect { session, attachment }
            }
            Op::Settle { session, picks } => {
                let session = Session(u128::from(*session));
                let items = picks.iter().map(|pick| self.item(session, *pick)).collect();
                Command::Settle { session, items }
            }
            Op::Configure { max_messages, max_bytes, max_deliveries } => {
                Command::Configure(Settings {
                    max_messages: *max_messages,
                    max_bytes: *max_bytes,
                    max_deliveries: *max_deliveries,
                    ..self.reference.settings.clone()
                })
            }
            Op::Tick => Command::Tick,
            Op::Purge => Command::Purge,
            Op::LeaderChanged => Queue::leader_changed(1),
        };
        (command, ids)
    }

    fn producer(&self, id: u8, epoch: u32, shift: i64) -> Producer {
        let id = vec![b'p', id];
        let sequence = self.reference.expected_sequence(&id, epoch).saturating_add_signed(shift);
        Producer { id: ProducerId::new(id).unwrap(), epoch, sequence }
    }

    fn attachment(&self, session: u8, stale: bool) -> (Session, Attachment) {
        let session = Session(u128::from(session));
        let present = self.reference.consumers.get(&session).map_or(0, |c| c.attachment);
        (session, Attachment(present - u64::from(stale && present > 0)))
    }

    fn item(&self, session: Session, pick: (SettleKind, u16, u32, bool)) -> SettleItem {
        let (kind, at, count, stale) = pick;
        let held: Vec<(u64, u64)> = self.reference.leased_by(session).collect();
        let any = (u64::from(at) % (self.reference.messages.len() as u64 + 1), 0);
        let (first, token) = held.get(usize::from(at) % held.len().max(1)).copied().unwrap_or(any);
        let token = Token(token.saturating_sub(u64::from(stale)));
        SettleItem { kind, token, first: Offset(first), count }
    }
}

fn frame_of(ids: &[u64], padding: usize) -> Bytes {
    let mut frame = BytesMut::new();
    for id in ids {
        frame.put_u32_le(2 + 8 + padding as u32);
        frame.put_u16_le(0);
        frame.put_u64_le(*id);
        frame.put_bytes(b'x', padding);
    }
    frame.freeze()
}

fn ids_of(frames: &[Bytes]) -> Vec<u64> {
    let mut ids = Vec::new();
    for frame in frames {
        let mut rest = &frame[..];
        while !rest.is_empty() {
            let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            ids.push(u64::from_le_bytes(rest[6..14].try_into().unwrap()));
            rest = &rest[4 + length..];
        }
    }
    ids
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_queue_behaves_like_the_reference(entries in entries()) {
        let mut trial = Trial::new();
        for (index, entry) in (2..).zip(&entries) {
            trial.now = trial.now.saturating_add_signed(entry.after_ms);
            if entry.restore {
                trial.follower = Queue::restore(&trial.follower.snapshot()).unwrap();
            }
            let commands = entry.ops.iter().map(|op| trial.command(op)).collect();
            trial.run(commands, index);
        }
    }
}
