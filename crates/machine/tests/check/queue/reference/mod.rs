//! A queue that is obviously right: one record a message, every question answered by looking at
//! all of them. It decides nothing about delivery; it says whether what was delivered was right.
//!
//! Here is how the state changes; `publish` has what a batch goes through, `dead` what becomes of what was given up, `slots` what is kept for whom,
//! `questions` what can be asked.

use std::collections::BTreeMap;

use quorate_machine::queue::{
    Attach, Attachment, Cause, Command, Offset, Rejection, Reply, Run, Session, Settings,
    SettleItem, SettleKind, Settled, SlotName,
};

mod dead;
mod publish;
mod questions;
mod slots;

pub use questions::STATES;
pub use slots::Slot;

/// 12 hours.
const LEASE_MS_MAX: u32 = 43_200_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    Delayed { due: u64 },
    Leased { session: Session, token: u64, deadline: u64 },
    Acked,
    Rejected,
    Exhausted,
    Purged,
    Dead { seq: u64, cause: Cause },
    DeadLettered,
}

#[derive(Debug)]
pub struct Message {
    pub state: State,
    pub deliveries: u32,
    pub id: u64,
    batch: usize,
}

/// Neighbouring publish commands of one entry.
#[derive(Debug)]
struct Batch {
    index: u64,
    first: u64,
    since: u64,
    bytes: u64,
    count: u64,
    /// None of its messages need be held any more, but readers may still see it.
    kept: bool,
}

#[derive(Debug)]
pub struct Consumer {
    pub name: String,
    pub node: u64,
    pub prefetch: u32,
    pub lease_ms: Option<u32>,
    pub attachment: u64,
    pub grace: Option<u64>,
}

#[derive(Debug)]
struct Producer {
    epoch: u32,
    next: u64,
    used: u64,
    /// Where each sequence is that is remembered.
    offsets: BTreeMap<u64, u64>,
}

/// A batch that has an id.
#[derive(Debug)]
struct Named {
    id: String,
    first: u64,
    count: u32,
    since: u64,
}

/// Something that a node must be told, beside new deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    Closed { session: Session, node: u64, attachment: u64, moved: bool },
    Again { session: Session, node: u64, token: u64, offset: u64, attempt: u32, id: u64 },
}

#[derive(Debug, Default)]
pub struct Reference {
    pub now: u64,
    pub settings: Settings,
    pub messages: Vec<Message>,
    pub consumers: BTreeMap<Session, Consumer>,
    /// What has become due to be told, until it is taken.
    pub notices: Vec<Notice>,
    batches: Vec<Batch>,
    producers: BTreeMap<Vec<u8>, Producer>,
    /// Ids with where their batches went and when, in the order in which they entered.
    message_ids: Vec<Named>,
    pub slots: BTreeMap<SlotName, Slot>,
    /// How many ever died.
    pub died: u64,
    /// Timeline and next number of each source.
    pub sources: BTreeMap<u64, (u64, u64)>,
    attachments: u64,
    last_publish_accepted: bool,
}

impl Reference {
    /// Does all that is due.
    pub fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        let now = self.now;
        self.return_where(
            |state| matches!(state, State::Leased { deadline, .. } if *deadline <= now),
        );
        for message in &mut self.messages {
            if matches!(message.state, State::Delayed { due } if due <= now) {
                message.state = State::Ready;
            }
        }
        let grace = |(&session, consumer): (&Session, &Consumer)| Some((consumer.grace?, session));
        let mut ended: Vec<(u64, Session)> = self.consumers.iter().filter_map(grace).collect();
        ended.retain(|(until, _)| *until <= now);
        ended.sort_unstable();
        for (_, session) in ended {
            let Consumer { node, attachment, .. } = self.consumers[&session];
            self.notices.push(Notice::Closed { session, node, attachment, moved: false });
            self.end(session);
        }
        let age = self.settings.dedup_age_ms;
        self.producers.retain(|_, producer| producer.used + age > now);
        self.message_ids.retain(|named| named.since + age > now);
        let window = self.settings.message_id_window.max(1) as usize;
        self.message_ids.drain(..self.message_ids.len().saturating_sub(window));
        self.trim();
    }

    fn end(&mut self, ended: Session) {
        self.consumers.remove(&ended);
        let leased: Vec<u64> = self.leased_by(ended).map(|(offset, _)| offset).collect();
        leased.into_iter().for_each(|offset| self.give_back(offset as usize, State::Ready));
    }

    fn return_where(&mut self, which: impl Fn(&State) -> bool) {
        let all = (0..self.messages.len()).filter(|&at| which(&self.messages[at].state));
        let mut returning: Vec<usize> = all.collect();
        // It matters to those that die now.
        returning.sort_by_key(|&at| self.deadline(at));
        for at in returning {
            self.give_back(at, State::Ready);
        }
    }

    /// What the reply must be, and the state after it.
    pub fn apply(&mut self, index: u64, command: &Command, ids: &[u64]) -> Reply {
        match command {
            Command::Configure(settings) => self.configure(settings),
            Command::Publish(publish) => self.publish(index, publish, ids),
            Command::Attach(attach) => self.attach(attach),
            Command::Detach { session, attachment } => {
                if self.is_present(*session, *attachment) {
                    self.end(*session);
                }
                Reply::Done
            }
            Command::Disconnect { session, attachment } => {
                if self.is_present(*session, *attachment) {
                    self.start_grace(*session);
                }
                Reply::Done
            }
            Command::Settle { session, items } => self.settle(*session, items),
            Command::Tick => Reply::Done,
            Command::Purge => self.purge(),
            Command::PurgeBefore { before } => self.purge_before(before.0),
            Command::LeaderChanged { .. } => {
                for session in self.consumers.keys().copied().collect::<Vec<_>>() {
                    self.start_grace(session);
                }
                Reply::Done
            }
            Command::CreateSlot(create) => self.create_slot(index, create),
            Command::AdvanceSlot { name, made_at, to } => self.advance_slot(name, *made_at, to.0),
            Command::DropSlot { name } => self.drop_slot(name),
            Command::PublishMoved(moved) => self.publish_moved(index, moved, ids),
            Command::Moved { to } => self.moved(*to),
        }
    }

    pub fn end_of_entry(&mut self) {
        self.last_publish_accepted = false;
    }

    fn configure(&mut self, settings: &Settings) -> Reply {
        let version = self.settings.version;
        if settings.version < version {
            return Reply::Rejected(Rejection::StaleSettings { version });
        }
        self.settings = settings.clone();
        Reply::Done
    }

    fn attach(&mut self, attach: &Attach) -> Reply {
        let (session, node, prefetch) = (attach.session, attach.node.0, attach.prefetch);
        if prefetch == 0 || prefetch > 65_535 {
            return Reply::Rejected(Rejection::InvalidPrefetch { prefetch });
        }
        self.attachments += 1;
        let consumer = Consumer {
            name: attach.name.clone(),
            node,
            prefetch,
            lease_ms: attach.lease_ms,
            attachment: self.attachments,
            grace: None,
        };
        let before = self.consumers.insert(session, consumer);
        if let Some(Consumer { node, attachment, .. }) = before
            && node != attach.node.0
        {
            self.notices.push(Notice::Closed { session, node, attachment, moved: true });
        }
        let again: Vec<Notice> = self.again(session).collect();
        self.notices.extend(again);
        Reply::Attached { attachment: Attachment(self.attachments), resumed: before.is_some() }
    }

    fn is_present(&self, session: Session, attachment: Attachment) -> bool {
        self.consumers.get(&session).is_some_and(|c| c.attachment == attachment.0)
    }

    fn start_grace(&mut self, session: Session) {
        let until = self.now + u64::from(self.settings.session_grace_ms);
        self.consumers.get_mut(&session).unwrap().grace.get_or_insert(until);
    }

    fn settle(&mut self, session: Session, items: &[SettleItem]) -> Reply {
        let mut outcome = Settled::default();
        for item in items {
            for offset in item.first.0..item.first.0 + u64::from(item.count) {
                if self.settle_one(session, item, offset) {
                    outcome.settled += 1;
                } else {
                    outcome.lost.push((Offset(offset), 1));
                }
            }
        }
        Reply::Settled(outcome)
    }

    fn settle_one(&mut self, by: Session, item: &SettleItem, offset: u64) -> bool {
        let (now, at) = (self.now, offset as usize);
        let Some(message) = self.messages.get(at) else {
            return false;
        };
        let State::Leased { session, token, deadline } = message.state else {
            return false;
        };
        if session != by || token != item.token.0 {
            return false;
        }
        match item.kind {
            SettleKind::Ack => self.messages[at].state = State::Acked,
            SettleKind::Reject => self.die(at, Cause::Rejected),
            SettleKind::Nack { delay_ms: 0 } => self.give_back(at, State::Ready),
            SettleKind::Nack { delay_ms } => {
                self.give_back(at, State::Delayed { due: now + u64::from(delay_ms) });
            }
            SettleKind::Extend { lease_ms } => {
                let until = now + u64::from(lease_ms.min(LEASE_MS_MAX));
                let deadline = deadline.max(until);
                self.messages[at].state = State::Leased { session, token, deadline };
            }
        }
        true
    }

    fn purge(&mut self) -> Reply {
        self.last_publish_accepted = false;
        let count = self.held();
        for message in self.messages.iter_mut().filter(|message| is_held(message)) {
            message.state = State::Purged;
        }
        self.batches.iter_mut().for_each(|batch| batch.kept = false);
        self.lose_slots(0, self.messages.len() as u64);
        Reply::Purged { count }
    }

    fn purge_before(&mut self, before: u64) -> Reply {
        self.last_publish_accepted = false;
        let held_batches = self.held_batches();
        let doomed = self.messages.iter_mut().take(before as usize);
        let doomed = doomed.filter(|message| is_held(message));
        let count = doomed.map(|message| message.state = State::Purged).count() as u64;
        for at in 0..self.batches.len() {
            let Batch { first, count, kept, .. } = self.batches[at];
            let was_there = kept || held_batches.contains(&at);
            if was_there && first + count <= before {
                self.batches[at].kept = false;
                self.lose_slots(first, first + count);
            }
        }
        Reply::Purged { count }
    }

    /// Takes over a delivery; it must be one that was allowed.
    pub fn deliver(&mut self, session: Session, token: u64, run: &Run) -> Vec<u64> {
        let consumer = &self.consumers[&session];
        assert_eq!(consumer.grace, None, "only a connected consumer is handed messages");
        let lease_ms = consumer.lease_ms.unwrap_or(self.settings.lease_ms).clamp(1, LEASE_MS_MAX);
        let deadline = self.now + u64::from(lease_ms);
        let first = run.first_offset.0 as usize;
        let mut ids = Vec::new();
        for message in &mut self.messages[first..first + run.count as usize] {
            assert_eq!(message.state, State::Ready, "what is delivered was ready");
            message.state = State::Leased { session, token, deadline };
            message.deliveries += 1;
            assert_eq!(message.deliveries, run.attempt, "deliveries are counted");
            assert_eq!(self.batches[message.batch].index, run.index.0);
            ids.push(message.id);
        }
        ids
    }
}

fn is_held(message: &Message) -> bool {
    matches!(
        message.state,
        State::Ready | State::Delayed { .. } | State::Leased { .. } | State::Dead { .. }
    )
}
