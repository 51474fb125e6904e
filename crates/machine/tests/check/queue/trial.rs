//! One sequence: three replicas apply the encoded log, and are compared after every entry.
//!
//! The leader is never restored, the follower is now and then: both must have the same hash and
//! ask for the same effects. The reference says what replies, deliveries and figures must be.
//! It goes first, so that a command can be about what the one before it in its entry did.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_machine::queue::{
    Cause, CloseReason, Command, ConsumerInfo, DeadRun, Effect, Limit, Offset, Piece, Queue,
    Rejection, Reply, Run, SeekTo, Session, Settled, SlotInfo, SlotState, Token, body,
};
use quorate_machine::{At, EntryBuilder, Machine, Millis, decode_entry};

use super::op::{Entry, Handed, Op, ids_of};
use super::reference::{self, Notice, Reference, STATES, State};
use super::{Tally, explained, settings};

pub struct Trial<'a> {
    leader: Queue,
    follower: Queue,
    reference: Reference,
    /// Payloads of all entries.
    log: BTreeMap<u64, Bytes>,
    handed: Vec<Handed>,
    last_token: BTreeMap<u64, u64>,
    index: u64,
    now: u64,
    next_id: u64,
    /// Messages exhausted, expired and dropped so far, for the tally.
    ended: [u64; 3],
    /// Who was handed messages last, of one at a time.
    last_active: Option<Session>,
    tally: &'a mut Tally,
}

/// A command, and what must come of it.
struct Expected {
    command: Command,
    reply: Reply,
    notices: Vec<Notice>,
}

impl<'a> Trial<'a> {
    pub fn new(tally: &'a mut Tally) -> Self {
        let mut trial = Self {
            leader: Queue::new(),
            follower: Queue::new(),
            reference: Reference::default(),
            log: BTreeMap::new(),
            handed: Vec::new(),
            last_token: BTreeMap::new(),
            index: 0,
            now: 1_000,
            next_id: 0,
            ended: [0; 3],
            last_active: None,
            tally,
        };
        let configure = Op::Configure { settings: settings(), stale: false };
        trial.step(&Entry { after_ms: 0, restore: false, ops: vec![configure] }, true);
        trial
    }

    /// Applies an entry everywhere and compares what comes of it; the states, and what a restored
    /// replica makes of them, if wanted.
    pub fn step(&mut self, entry: &Entry, compare: bool) {
        self.index += 1;
        self.now = self.now.saturating_add_signed(entry.after_ms);
        if entry.restore && compare {
            self.restore();
        }
        let expected: Vec<Expected> = entry.ops.iter().map(|op| self.expect(op)).collect();
        self.reference.advance(self.index, self.now);
        self.reference.end_of_entry();
        let at_end = self.take_notices();

        let mut builder = EntryBuilder::new();
        for Expected { command, .. } in &expected {
            builder.push_command::<Queue>(command);
        }
        let payload = builder.freeze(Millis(self.now));
        self.log.insert(self.index, payload.clone());
        self.apply(payload, &expected, &at_end);
        if compare {
            self.check_state();
        }
    }

    fn restore(&mut self) {
        self.follower = Queue::restore(&self.follower.snapshot()).unwrap();
        let mut effects = Vec::new();
        self.follower.outstanding(&mut effects);
        let mut expected = self.reference.outstanding();
        expected.sort_unstable();
        assert_eq!(self.notices(&effects), expected, "a new leader delivers what is leased");
        self.tally.add("restores", 1);
    }

    fn expect(&mut self, op: &Op) -> Expected {
        let ids: Vec<u64> = (self.next_id..self.next_id + op.publishes()).collect();
        self.next_id += op.publishes();
        self.reference.advance(self.index, self.now);
        let command = op.command(&self.reference, &self.handed, &ids);
        let reply = self.reference.apply(self.index, &command, &ids);
        self.tally.add("commands", 1);
        count_reply(self.tally, &reply);
        count_condition(self.tally, &command, &reply);
        Expected { command, reply, notices: self.take_notices() }
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        let mut notices = std::mem::take(&mut self.reference.notices);
        notices.sort_unstable();
        self.tally.add("notices", notices.len() as u64);
        notices
    }

    fn apply(&mut self, payload: Bytes, expected: &[Expected], at_end: &[Notice]) {
        let (now, commands) = decode_entry(payload).unwrap();
        let at = At { index: self.index, now };
        let (mut effects, mut follower_effects) = (Vec::new(), Vec::new());
        for ((ordinal, bytes), expected) in (0..).zip(commands).zip(expected) {
            let command = Queue::decode(&mut bytes.unwrap()).unwrap();
            assert_eq!(command, expected.command, "a command comes back as it was written");
            let before = effects.len();
            let reply = self.leader.apply(at, ordinal, command.clone(), &mut effects);
            let follower_reply = self.follower.apply(at, ordinal, command, &mut follower_effects);
            assert_eq!(reply, follower_reply, "a restored replica replies alike");
            assert_eq!(flat(reply), expected.reply, "reply to {:?}", expected.command);
            let notices = self.notices(&effects[before..]);
            assert_eq!(notices, expected.notices, "notices of {:?}", expected.command);
        }
        let before = effects.len();
        self.leader.finish(at, &mut effects);
        self.follower.finish(at, &mut follower_effects);
        assert_eq!(effects, follower_effects, "a restored replica asks for the same");
        let is_delivery = |effect: &Effect| matches!(effect, Effect::Deliver { .. });
        let is_wait_over = |effect: &Effect| {
            matches!(effect, Effect::Closed { reason: CloseReason::WaitOver, .. })
        };
        // Those who take over from who waited in vain are handed messages after that.
        let mut deliveries = effects.split_off(before);
        let waits = deliveries.iter().position(is_wait_over).unwrap_or(deliveries.len());
        let (waits, later): (Vec<_>, Vec<_>) =
            deliveries.split_off(waits).into_iter().partition(is_wait_over);
        let (deliveries, closed): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(is_delivery);
        assert_eq!(self.notices(&closed), at_end, "notices at the end of an entry");
        let served = self.check_deliveries(&deliveries);
        let over = self.reference.end_waits(&served);
        self.tally.add("waits over", over.len() as u64);
        assert_eq!(self.notices(&waits), over, "who has waited long enough is told");
        let served = self.check_deliveries(&later);
        assert_eq!(self.reference.end_waits(&served), [], "nobody has waited longer");
        self.tally.add("handed after waits", later.len() as u64);
    }

    /// Effects, message by message, with the ids that their bodies have in the log.
    fn notices(&self, effects: &[Effect]) -> Vec<Notice> {
        let mut notices = Vec::new();
        for effect in effects {
            match effect {
                Effect::Closed { session, node, attachment, reason } => {
                    let (session, node, attachment) = (*session, node.0, attachment.0);
                    let reason = (*reason).into();
                    notices.push(Notice::Closed { session, node, attachment, reason });
                }
                Effect::Deliver { session, node, token, runs } => {
                    let (session, node, token) = (*session, node.0, token.0);
                    for run in runs {
                        let again = |(offset, id)| {
                            let attempt = run.attempt;
                            Notice::Again { session, node, token, offset, attempt, id }
                        };
                        notices.extend((run.first_offset.0..).zip(self.bodies(run)).map(again));
                    }
                }
            }
        }
        notices.sort_unstable();
        notices
    }

    fn bodies(&self, run: &Run) -> Vec<u64> {
        let payload = &self.log[&run.index.0];
        ids_of(&body(payload, run.ordinal, run.skip, run.count).unwrap())
    }

    /// Who was handed something.
    fn check_deliveries(&mut self, effects: &[Effect]) -> Vec<Session> {
        let taken = self.taken_by_filter(effects);
        let due = self.reference.due_deliveries(&taken);
        let (mut delivered, mut served) = (Vec::new(), Vec::new());
        let single = self.reference.settings.single_active;
        let active = self.reference.next_active();
        for effect in effects {
            let Effect::Deliver { session, node, token, runs } = effect else { continue };
            assert_eq!(*token, Token(self.index), "the token is the entry's");
            assert_eq!(node.0, self.reference.consumers[session].node);
            served.push(*session);
            if single {
                assert_eq!(Some(*session), active, "the active one is handed messages");
                let others = self.reference.leases().count();
                let own = self.reference.leased_by(*session).count();
                assert_eq!(others, own, "nobody is handed messages while others hold some");
                let waiting = self.reference.consumers.len() as u64 - 1;
                self.tally.add("stood by", waiting);
                self.tally.add("took over", (self.last_active.replace(*session) != active).into());
            }
            let count: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
            assert!(count <= self.reference.credit(*session), "no more than the prefetch");
            for run in runs {
                let ids = self.reference.deliver(*session, token.0, run);
                assert_eq!(self.bodies(run), ids, "a run leads back to its messages");
                let first = run.first_offset.0;
                for offset in first..first + u64::from(run.count) {
                    self.hand(*session, offset, token.0);
                    delivered.extend((!taken.contains(&offset)).then_some(offset));
                }
                self.tally.add("redeliveries", u64::from(run.attempt > 1));
            }
        }
        delivered.sort_unstable();
        assert_eq!(delivered, due, "the most urgent ready messages go out, up to the credit");
        self.tally.add("deliveries", (delivered.len() + taken.len()) as u64);
        self.tally.add("filtered", taken.len() as u64);
        self.check_filters(&taken);
        self.check_ordering();
        served
    }

    /// What those with a filter were handed.
    fn taken_by_filter(&self, effects: &[Effect]) -> BTreeSet<u64> {
        let mut taken = BTreeSet::new();
        for effect in effects {
            let Effect::Deliver { session, runs, .. } = effect else { continue };
            if !self.reference.consumers[session].filter.is_empty() {
                let offsets =
                    |run: &Run| run.first_offset.0..run.first_offset.0 + u64::from(run.count);
                taken.extend(runs.iter().flat_map(offsets));
            }
        }
        taken
    }

    /// Nothing is left that one with a filter and with credit could have had, or that is more urgent than what it got.
    fn check_filters(&self, taken: &BTreeSet<u64>) {
        let filtered = self.reference.consumers.iter().filter(|(_, of)| !of.filter.is_empty());
        for (&session, consumer) in filtered.filter(|_| !self.reference.paused) {
            let left = self.reference.ready_for(session).into_iter().min();
            let Some(left) = left else { continue };
            let own =
                self.reference.leased_by(session).filter(|(offset, _)| taken.contains(offset));
            let own: Vec<_> = own.collect();
            // What a receiver wants is counted down when the entry ends.
            let counted = if consumer.receiver.is_some() { own.len() as u64 } else { 0 };
            let credit = self.reference.credit(session);
            assert_eq!(credit, counted, "{session:?} could take {left:?}");
            for (offset, _) in own {
                let priority = Reverse(self.reference.messages[offset as usize].priority);
                assert!((priority, offset) < left, "what is more urgent goes first");
            }
        }
    }

    /// Whatever the reference has come to: one of a group is in flight, the first of it that is held but for what came back
    /// since; and no message is ready for ever where one consumer at a time is handed some.
    fn check_ordering(&self) {
        let mut groups = BTreeMap::new();
        let held = self.reference.messages.iter().filter(|message| reference::lives(message));
        for message in held {
            let Some(group) = message.group else { continue };
            let (before, in_flight) = groups.entry(group).or_insert((0, 0));
            if matches!(message.state, State::Leased { .. }) {
                *in_flight += 1;
                assert_eq!(*before, 0, "what is in flight is the first of its group");
            }
            assert!(*in_flight <= 1, "one of a group is in flight");
            *before += u64::from(!message.came_back);
        }
        let reference = &self.reference;
        let mut sessions = reference.consumers.keys();
        let could_take = sessions.any(|&session| {
            reference.credit(session) > 0 && !reference.ready_for(session).is_empty()
        });
        let stuck = could_take && !reference.paused && reference.leases().next().is_none();
        assert!(!stuck, "a message is ready, nobody holds any, and somebody could take it");
    }

    fn hand(&mut self, session: Session, offset: u64, token: u64) {
        let before = self.last_token.insert(offset, token);
        assert!(before < Some(token), "tokens of a message grow");
        self.handed.push((session, offset, token));
    }

    fn check_state(&mut self) {
        self.leader.check().unwrap();
        assert_eq!(self.leader.hash(), self.follower.hash(), "replicas have the same state");
        let (stats, reference) = (self.leader.stats(), &self.reference);
        assert_eq!(stats.published, reference.messages.len() as u64, "published");
        assert_eq!(stats.next_offset.0, stats.published, "offsets are dense");
        assert_eq!(stats.replayed, reference.replayed(), "messages that came back");
        let counts = [
            stats.ready,
            stats.delayed,
            stats.blocked,
            stats.leased,
            stats.acked,
            stats.rejected,
            stats.exhausted,
            stats.purged,
            stats.expired,
            stats.dropped,
            stats.dead,
            stats.dead_lettered,
        ];
        assert_eq!(counts, reference.counts(), "messages that are {STATES}");
        assert_eq!(stats.bytes, reference.bytes(), "bytes held");
        assert_eq!(stats.first_offset.0, reference.first_held(), "the oldest message held");
        let first_place = self.leader.offset_of(SeekTo::First).0;
        assert_eq!(first_place, reference.first_place(), "the first place to seek to");
        assert_eq!(stats.oldest.map(|since| since.0), reference.oldest(), "since when it is held");
        assert_eq!(stats.producers, reference.producers(), "producers remembered");
        assert_eq!(stats.message_ids, reference.message_ids(), "message ids remembered");
        let live: Vec<u64> = self.leader.live().into_iter().flatten().collect();
        assert!(live.iter().eq(&reference.live()), "live {live:?}, not {:?}", reference.live());
        let reference_slots = reference.slot_infos();
        let due = self.leader.next_deadline().map_or(u64::MAX, |due| due.0);
        assert!(due > reference.now, "what is due is done");
        assert!(due <= reference.next_deadline().unwrap_or(u64::MAX), "no deadline is missed");
        self.check_view();
        self.check_dead();
        explained::check(&self.leader, &self.reference, self.index, self.tally);
        assert_eq!(stats.slots, reference_slots, "slots");
        count_slots(self.tally, &reference_slots);
        assert_eq!(stats.paused, self.reference.paused, "whether the queue is paused");
        self.check_consumers(&stats.consumers);
        self.tally.add("blocked", stats.blocked);
        self.count_meetings();
        for (event, times) in std::mem::take(&mut self.reference.happened) {
            self.tally.add(event, times);
        }
        let ended = [stats.exhausted, stats.expired, stats.dropped];
        for (at, event) in ["exhausted", "expired", "dropped"].into_iter().enumerate() {
            self.tally.add(event, ended[at] - self.ended[at]);
        }
        self.ended = ended;
    }

    /// Where one thing meets another, for the tally.
    fn count_meetings(&mut self) {
        let Reference { consumers, messages, settings, .. } = &self.reference;
        let paused = || consumers.values().filter(|consumer| consumer.paused);
        let receivers = paused().filter(|consumer| consumer.receiver.is_some()).count();
        let out_of_line = if settings.single_active { paused().count() } else { 0 };
        let came_back = |message: &&reference::Message| {
            message.group.is_some() && (message.deliveries > 0 || message.uncharged > 0)
        };
        let of_group = messages.iter().filter(came_back);
        let (mut wait, mut untouched) = (0, 0);
        for message in of_group {
            wait += u64::from(matches!(message.state, State::Delayed { .. }));
            untouched += u64::from(message.uncharged > 0);
        }
        self.tally.add("receivers paused", receivers as u64);
        self.tally.add("paused out of line", out_of_line as u64);
        self.tally.add("groups backed off", wait);
        self.tally.add("groups uncharged", untouched);
    }

    /// A reader that takes a few messages at a time sees the same as one that takes all.
    fn check_view(&mut self) {
        let readable = self.reference.readable();
        let first =
            readable.first().map_or(self.reference.messages.len() as u64, |(first, _)| *first);
        assert!(self.leader.first_readable().0 <= first, "what can be read begins there");
        for most in [u32::MAX, 1 + self.index as u32 % 3] {
            let (mut from, mut seen) = (Offset(0), Vec::new());
            loop {
                let view = self.leader.view(from, most, u64::MAX);
                for Piece { run, .. } in &view.pieces {
                    let offsets = run.first_offset.0..;
                    seen.extend(offsets.zip(self.bodies(run)));
                }
                if view.pieces.is_empty() {
                    assert_eq!(view.next.0, self.reference.messages.len() as u64, "to the end");
                    break;
                }
                assert!(view.next > from, "a reader gets on");
                from = view.next;
            }
            assert_eq!(seen, readable, "what a reader sees");
        }
        self.tally.add("read", readable.len() as u64);
    }

    /// Whoever moves what is dead sees it in the order of dying, as much of it at a time as it wants.
    fn check_dead(&mut self) {
        let dead = self.reference.dead();
        for most in [u64::MAX, 1 + self.index % 3] {
            let mut seen = Vec::new();
            for DeadRun { seq, run, cause } in self.leader.dead_letters(most) {
                let each = (seq..).zip(run.first_offset.0..).zip(self.bodies(&run));
                seen.extend(each.map(|((seq, offset), id)| (seq, offset, run.attempt, cause, id)));
            }
            assert!(seen.iter().eq(dead.iter().take(most.min(1 << 20) as usize)), "what is dead");
        }
        self.tally.add("dead", dead.len() as u64);
        let of_age = dead.iter().filter(|(.., cause, _)| *cause == Cause::Expired);
        self.tally.add("dead of age", of_age.count() as u64);
    }

    fn check_consumers(&self, infos: &[ConsumerInfo]) {
        assert_eq!(infos.len(), self.reference.consumers.len(), "sessions");
        for (info, (session, consumer)) in infos.iter().zip(&self.reference.consumers) {
            assert_eq!(info.session, *session);
            assert_eq!(info.name, consumer.name);
            assert_eq!((info.node.0, info.prefetch), (consumer.node, consumer.prefetch));
            let waits = |(wants, _)| wants > 0;
            let connected = consumer.receiver.map_or(consumer.grace.is_none(), waits);
            assert_eq!(info.connected, connected, "who is connected");
            assert_eq!(info.active, self.reference.is_active(*session), "who is active");
            assert_eq!(info.paused, consumer.paused, "who is paused");
            assert_eq!(info.tells_starts, consumer.tells, "who tells");
            assert_eq!(info.filter, consumer.filter, "who filters by what");
            let held: Vec<_> = self.reference.leased_by(*session).collect();
            assert_eq!(u64::from(info.leased), held.len() as u64, "leased to a session");
            for (offset, token) in held {
                assert!(self.leader.holds(*session, Token(token), Offset(offset)));
            }
        }
    }
}

/// A reply with its lost runs message by message, as the reference has them.
fn flat(reply: Reply) -> Reply {
    let Reply::Settled(Settled { settled, lost }) = reply else { return reply };
    let single = |(first, count): (Offset, u32)| {
        (first.0..first.0 + u64::from(count)).map(|offset| (Offset(offset), 1))
    };
    Reply::Settled(Settled { settled, lost: lost.into_iter().flat_map(single).collect() })
}

fn count_reply(tally: &mut Tally, reply: &Reply) {
    match reply {
        Reply::Done => {}
        Reply::Published { duplicate: true, .. } => tally.add("duplicates", 1),
        Reply::Published { count, .. } => tally.add("published", (*count).into()),
        Reply::Attached { resumed, .. } => tally.add("resumed", (*resumed).into()),
        Reply::Settled(outcome) => {
            tally.add("settled", outcome.settled);
            tally.add("lost", outcome.lost.len() as u64);
        }
        Reply::Purged { count } => tally.add("purged", *count),
        Reply::SlotCreated { created, .. } => tally.add("slots", (*created).into()),
        Reply::SlotAdvanced { .. } => tally.add("slots moved", 1),
        Reply::Controlled { consumers } => tally.add("controlled", (*consumers).into()),
        Reply::AlreadyMoved => tally.add("moved again", 1),
        Reply::Moved { count } => tally.add("moved", *count),
        Reply::Sought { again, left } => {
            tally.add("replayed", *again);
            tally.add("skipped", *left);
        }
        Reply::Rejected(rejection) => {
            tally.add("refused", 1);
            match rejection {
                Rejection::NoFilter => tally.add("filters refused", 1),
                Rejection::MovedInPart { .. } => tally.add("moved in part", 1),
                Rejection::MessageIdConflict { .. } => tally.add("id conflicts", 1),
                Rejection::UnexpectedOffset { .. } => tally.add("unexpected offsets", 1),
                Rejection::SeekNotRetained { .. } => tally.add("nothing kept to seek", 1),
                Rejection::SeekForgotten { .. } => tally.add("forgotten places", 1),
                Rejection::SeekNoRoom { limit: Limit::MaxBytes, .. } => {
                    tally.add("no room to seek, bytes", 1);
                }
                Rejection::SeekNoRoom { .. } => tally.add("no room to seek", 1),
                _ => {}
            }
        }
    }
}

/// What only a message id, a condition or an offset to purge before has done.
fn count_condition(tally: &mut Tally, command: &Command, reply: &Reply) {
    match (command, reply) {
        (Command::PurgeBefore { .. }, Reply::Purged { count }) => {
            tally.add("purged before", *count);
        }
        (Command::Publish(publish), Reply::Published { duplicate, .. }) => {
            let named = *duplicate && publish.message_id().is_some() && publish.producer.is_none();
            tally.add("ids repeated", named.into());
            let met = !duplicate && publish.expected_next().is_some();
            tally.add("conditions met", met.into());
        }
        _ => {}
    }
}

fn count_slots(tally: &mut Tally, slots: &[SlotInfo]) {
    for slot in slots {
        let state = match slot.state {
            SlotState::Reserved => "slots reserved",
            SlotState::Extended => "slots extended",
            SlotState::Unreserved => "slots unreserved",
            SlotState::Lost => "slots lost",
        };
        tally.add(state, 1);
    }
}
