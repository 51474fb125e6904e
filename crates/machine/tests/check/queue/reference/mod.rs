//! A queue that is obviously right: one record a message, every question answered by looking at
//! all of them. It decides nothing about delivery; it says whether what was delivered was right.
//!
//! Here is how the state changes; `publish` has what a batch goes through, `overflow` what makes room for it, `retry` what
//! comes back, `expiry` what does not live so long, `dead` what becomes of what was given up, `slots` what is kept for whom,
//! `seeking` what comes back when consumers are set back, `questions` what can be asked.

use std::collections::{BTreeMap, BTreeSet};

use quorate_machine::queue::{
    Attach, Attachment, Cause, CloseReason, Command, Offset, Properties, Receive, Rejection, Reply,
    Run, Session, Settings, SettleItem, SettleKind, Settled, SlotName,
};

mod dead;
mod expiry;
mod overflow;
mod publish;
mod questions;
mod retry;
mod seeking;
mod slots;

pub use questions::STATES;
pub use slots::Slot;

/// 12 hours.
const LEASE_MS_MAX: u32 = 43_200_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    Delayed {
        due: u64,
    },
    /// Another of its group comes first.
    Blocked {
        due: u64,
    },
    /// `run` is the first message of those that were leased together and have not parted since.
    Leased {
        session: Session,
        token: u64,
        deadline: u64,
        started: bool,
        run: u64,
    },
    Acked,
    Rejected,
    Exhausted,
    Purged,
    Expired,
    Dropped,
    Dead {
        seq: u64,
        cause: Cause,
    },
    DeadLettered,
}

impl State {
    pub fn is_gone(self) -> bool {
        use State::{Blocked, Dead, Delayed, Leased, Ready};
        !matches!(self, Ready | Delayed { .. } | Blocked { .. } | Leased { .. } | Dead { .. })
    }
}

#[derive(Clone, Debug)]
pub struct Message {
    pub state: State,
    pub deliveries: u32,
    /// Times in a row that it came back uncharged from a consumer's death.
    pub uncharged: u32,
    pub id: u64,
    pub priority: u8,
    expires: Option<u64>,
    /// When the message was due, if it was published for later while the queue had a time to live, or has waited for
    /// its time when it was given one.
    due: Option<u64>,
    batch: usize,
    pub group: Option<u64>,
    /// As it was published.
    pub of: Properties,
    /// It was settled once, and consumers were set back.
    pub came_back: bool,
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
    /// How many it wants and until when, if it receives without a stream.
    pub receiver: Option<(u32, u64)>,
    pub paused: bool,
    pub tells: bool,
    /// The values that it takes; any messages, if there are none.
    pub filter: Vec<String>,
}

#[derive(Debug)]
struct Producer {
    epoch: u32,
    next: u64,
    used: u64,
    /// Where each sequence is that is remembered.
    offsets: BTreeMap<u64, u64>,
}

/// Why a stream is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Moved,
    Grace,
    Kicked,
    WaitOver,
    FilterChanged,
    SettingsChanged,
}

impl From<CloseReason> for Reason {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Moved => Self::Moved,
            CloseReason::GraceExpired => Self::Grace,
            CloseReason::Kicked => Self::Kicked,
            CloseReason::WaitOver => Self::WaitOver,
            CloseReason::FilterChanged => Self::FilterChanged,
            CloseReason::SettingsChanged => Self::SettingsChanged,
        }
    }
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
    Closed { session: Session, node: u64, attachment: u64, reason: Reason },
    Again { session: Session, node: u64, token: u64, offset: u64, attempt: u32, id: u64 },
}

#[derive(Debug, Default)]
pub struct Reference {
    pub now: u64,
    /// Index of the entry that is applied.
    index: u64,
    pub paused: bool,
    /// What came of messages that came back, for the tally.
    pub happened: BTreeMap<&'static str, u64>,
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
    /// Who stands by to be handed messages, the next one first, while that is one at a time.
    line: Vec<Session>,
    last_publish_accepted: bool,
    /// Since when the queue has a time to live.
    ttl_since: u64,
    /// Messages that came back, by the state that they were in, in the order of [`STATES`].
    came_back: [u64; 12],
}

impl Reference {
    /// Does all that is due.
    pub fn advance(&mut self, index: u64, now: u64) {
        self.index = index;
        self.now = self.now.max(now);
        let now = self.now;
        let mut late: Vec<(u64, Session)> = Vec::new();
        for message in &self.messages {
            if let State::Leased { deadline, session, .. } = message.state
                && deadline <= now
            {
                late.push((deadline, session));
            }
        }
        late.sort_by_key(|(deadline, _)| *deadline);
        let all = 0..self.messages.len();
        let is_late = |at: &usize| self.deadline(*at).is_some_and(|deadline| deadline <= now);
        let mut returning: Vec<usize> = all.filter(is_late).collect();
        // It matters to those that die now.
        returning.sort_by_key(|&at| self.deadline(at));
        self.take_back(returning, true);
        late.into_iter().for_each(|(_, session)| self.send_back(session));
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
            self.notices.push(Notice::Closed { session, node, attachment, reason: Reason::Grace });
            self.end(session, true);
        }
        self.expire();
        let age = self.settings.dedup_age_ms;
        self.producers.retain(|_, producer| producer.used + age > now);
        self.message_ids.retain(|named| named.since + age > now);
        let window = self.settings.message_id_window.max(1) as usize;
        self.message_ids.drain(..self.message_ids.len().saturating_sub(window));
        self.trim();
        self.forget_receivers();
    }

    fn end(&mut self, ended: Session, died: bool) {
        self.leave_line(ended);
        self.consumers.remove(&ended);
        let leased: Vec<usize> = self.leased_by(ended).map(|(at, _)| at as usize).collect();
        self.take_back(leased, died);
    }

    /// The first of each group of which none is out waits for no other.
    pub(super) fn let_go(&mut self) {
        let now = self.now;
        let out = self
            .messages
            .iter()
            .filter(|message| lives(message) && !matches!(message.state, State::Blocked { .. }));
        let mut groups: BTreeSet<u64> = out.filter_map(|message| message.group).collect();
        for at in 0..self.messages.len() {
            let message = &self.messages[at];
            if !lives(message) || message.group.is_some_and(|group| groups.contains(&group)) {
                continue;
            }
            if let State::Blocked { due } = message.state {
                let is_due = due <= now;
                self.messages[at].state =
                    if is_due { State::Ready } else { State::Delayed { due } };
            }
            let message = &self.messages[at];
            groups.extend(message.group.filter(|_| lives(message)));
        }
    }

    fn leave_line(&mut self, session: Session) {
        self.line.retain(|other| *other != session);
    }

    fn send_back(&mut self, session: Session) {
        self.leave_line(session);
        self.line_up(session);
    }

    /// Who can take messages and is not in the line goes to its end.
    fn line_up(&mut self, session: Session) {
        let has_filter = !self.consumers[&session].filter.is_empty();
        if self.credit(session) > 0 && !self.line.contains(&session) && !has_filter {
            self.line.push(session);
        }
    }

    /// Who can take messages again since it settled some goes on where it was, or else in front.
    fn bring_forward(&mut self, session: Session) {
        let can_take = self.consumers.get(&session).is_some_and(|of| of.filter.is_empty())
            && self.credit(session) > 0;
        if can_take && !self.line.contains(&session) {
            self.line.insert(0, session);
        }
    }

    /// What the reply must be, and the state after it.
    pub fn apply(&mut self, index: u64, command: &Command, ids: &[u64]) -> Reply {
        let reply = self.execute(index, command, ids);
        self.forget_receivers();
        reply
    }

    fn execute(&mut self, index: u64, command: &Command, ids: &[u64]) -> Reply {
        match command {
            Command::Configure(settings) => self.configure(settings),
            Command::Publish(publish) => self.publish(index, publish, ids),
            Command::Attach(attach) => self.attach(attach),
            Command::Detach { session, attachment } => {
                if self.is_present(*session, *attachment) {
                    self.end(*session, false);
                }
                Reply::Done
            }
            Command::Disconnect { session, attachment } => {
                if self.is_present(*session, *attachment) {
                    self.start_grace(*session);
                }
                Reply::Done
            }
            Command::Receive(receive) => self.receive(receive),
            Command::Settle { session, items } => self.settle(*session, items),
            Command::Tick => Reply::Done,
            Command::Purge => self.purge(),
            Command::PurgeBefore { before } => self.purge_before(before.0),
            Command::Seek { to, again } => self.seek(to.0, again),
            Command::LeaderChanged { .. } => {
                for session in self.consumers.keys().copied().collect::<Vec<_>>() {
                    self.start_grace(session);
                }
                Reply::Done
            }
            Command::CreateSlot(create) => self.create_slot(index, create),
            Command::AdvanceSlot { name, made_at, to } => self.advance_slot(name, *made_at, to.0),
            Command::DropSlot { name } => self.drop_slot(name),
            Command::ControlConsumer { target, what } => self.control(target, *what),
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
        let begins = settings.single_active && !self.settings.single_active;
        let before = std::mem::replace(&mut self.settings, settings.clone());
        self.ttl_configured(before.ttl_ms);
        if begins {
            self.line = self.consumers.keys().copied().collect();
            self.line.sort_by_key(|session| self.consumers[session].attachment);
            let stands_by =
                |s: &Session| self.credit(*s) > 0 && self.consumers[s].filter.is_empty();
            self.line = self.line.iter().copied().filter(stands_by).collect();
        }
        if before.filter_header != self.settings.filter_header {
            let filtered = self.consumers.iter().filter(|(_, of)| !of.filter.is_empty());
            for session in filtered.map(|(&session, _)| session).collect::<Vec<_>>() {
                let Consumer { node, attachment, .. } = self.consumers[&session];
                let reason = Reason::FilterChanged;
                self.notices.push(Notice::Closed { session, node, attachment, reason });
                self.end(session, false);
                *self.happened.entry("filters ended").or_default() += 1;
            }
        }
        let counts = |of: &Settings| of.max_deliveries != 0 || of.retry_ms != 0;
        let told_otherwise = counts(&before) != counts(&self.settings);
        for (&session, consumer) in &self.consumers {
            let is_there = consumer.grace.is_none() && consumer.receiver.is_none();
            let other_lease =
                consumer.lease_ms.is_none() && before.lease_ms != self.settings.lease_ms;
            if is_there && (told_otherwise || other_lease) {
                let Consumer { node, attachment, .. } = *consumer;
                let reason = Reason::SettingsChanged;
                self.notices.push(Notice::Closed { session, node, attachment, reason });
                *self.happened.entry("streams outdated").or_default() += 1;
            }
        }
        Reply::Done
    }

    fn attach(&mut self, attach: &Attach) -> Reply {
        let (session, node, prefetch) = (attach.session, attach.node.0, attach.prefetch);
        if prefetch == 0 || prefetch > 65_535 {
            return Reply::Rejected(Rejection::InvalidPrefetch { prefetch });
        }
        if !attach.filter.is_empty() && self.settings.filter_header.is_none() {
            return Reply::Rejected(Rejection::NoFilter);
        }
        self.attachments += 1;
        let consumer = Consumer {
            filter: attach.filter.clone(),
            name: attach.name.clone(),
            node,
            prefetch,
            lease_ms: attach.lease_ms,
            attachment: self.attachments,
            grace: None,
            receiver: None,
            paused: self.consumers.get(&session).is_some_and(|before| before.paused),
            tells: attach.tells_starts,
        };
        if !attach.tells_starts {
            self.start_all(session);
        }
        let before = self.consumers.insert(session, consumer);
        if let Some(Consumer { node, attachment, .. }) = before
            && node != attach.node.0
        {
            self.notices.push(Notice::Closed { session, node, attachment, reason: Reason::Moved });
        }
        self.send_back(session);
        let again: Vec<Notice> = self.again(session).collect();
        self.notices.extend(again);
        Reply::Attached { attachment: Attachment(self.attachments), resumed: before.is_some() }
    }

    fn receive(&mut self, receive: &Receive) -> Reply {
        let Receive { session, node, ref name, count: prefetch, lease_ms, wait_ms, ref filter } =
            *receive;
        if prefetch == 0 || prefetch > 65_535 {
            return Reply::Rejected(Rejection::InvalidPrefetch { prefetch });
        }
        let before = self.consumers.get(&session);
        if before.is_some_and(|consumer| consumer.receiver.is_none()) {
            return Reply::Rejected(Rejection::SessionHasStream);
        }
        let (resumed, paused) = (before.is_some(), before.is_some_and(|before| before.paused));
        if !filter.is_empty() && self.settings.filter_header.is_none() {
            return Reply::Rejected(Rejection::NoFilter);
        }
        self.attachments += 1;
        let consumer = Consumer {
            filter: filter.clone(),
            name: name.clone(),
            node: node.0,
            prefetch,
            lease_ms,
            attachment: self.attachments,
            grace: None,
            receiver: Some((prefetch, self.now + u64::from(wait_ms))),
            paused,
            tells: false,
        };
        self.consumers.insert(session, consumer);
        self.send_back(session);
        Reply::Attached { attachment: Attachment(self.attachments), resumed }
    }

    /// Those who wait for nothing and hold nothing.
    fn forget_receivers(&mut self) {
        let idle = |(session, consumer): (&Session, &Consumer)| {
            let idle = consumer.receiver.is_some_and(|(wants, _)| wants == 0)
                && self.leased_by(*session).next().is_none();
            idle.then_some(*session)
        };
        let gone: Vec<Session> = self.consumers.iter().filter_map(idle).collect();
        gone.iter().for_each(|session| drop(self.consumers.remove(session)));
    }

    /// After what an entry hands out: who was handed something wants no more, and who has waited long enough is told.
    pub fn end_waits(&mut self, served: &[Session]) -> Vec<Notice> {
        let mut notices = Vec::new();
        for (&session, consumer) in &mut self.consumers {
            let Some((wants, until)) = &mut consumer.receiver else { continue };
            if served.contains(&session) {
                *wants = 0;
            }
            if *wants > 0 && *until <= self.now {
                *wants = 0;
                let (node, attachment) = (consumer.node, consumer.attachment);
                notices.push(Notice::Closed {
                    session,
                    node,
                    attachment,
                    reason: Reason::WaitOver,
                });
            }
        }
        let consumers = &self.consumers;
        let wants_none = |session: &Session| matches!(consumers[session].receiver, Some((0, _)));
        self.line.retain(|session| !wants_none(session));
        self.forget_receivers();
        notices
    }

    fn is_present(&self, session: Session, attachment: Attachment) -> bool {
        self.consumers.get(&session).is_some_and(|c| c.attachment == attachment.0)
    }

    fn start_grace(&mut self, session: Session) {
        self.leave_line(session);
        let until = self.now + u64::from(self.settings.session_grace_ms);
        let consumer = self.consumers.get_mut(&session).unwrap();
        match &mut consumer.receiver {
            Some((wants, _)) => *wants = 0,
            None => drop(consumer.grace.get_or_insert(until)),
        }
    }

    fn settle(&mut self, session: Session, items: &[SettleItem]) -> Reply {
        let mut outcome = Settled::default();
        for item in items {
            self.part(session, item);
            for offset in item.first.0..item.first.0 + u64::from(item.count) {
                if self.settle_one(session, item, offset) {
                    outcome.settled += 1;
                } else {
                    outcome.lost.push((Offset(offset), 1));
                }
            }
        }
        self.bring_forward(session);
        Reply::Settled(outcome)
    }

    fn settle_one(&mut self, by: Session, item: &SettleItem, offset: u64) -> bool {
        let (now, at) = (self.now, offset as usize);
        let Some(message) = self.messages.get_mut(at) else {
            return false;
        };
        let State::Leased { session, token, deadline, run, started } = message.state else {
            return false;
        };
        if session != by || token != item.token.0 {
            return false;
        }
        match item.kind {
            SettleKind::Ack => {
                message.state = State::Acked;
                self.left(at);
            }
            SettleKind::Reject => self.die(at, Cause::Rejected),
            SettleKind::Nack { delay_ms } => {
                self.charge(offset, run, delay_ms);
            }
            SettleKind::Return => {
                message.deliveries -= 1;
                self.back(offset, State::Ready);
            }
            SettleKind::Start => {
                message.state = State::Leased { session, token, deadline, run, started: true };
            }
            SettleKind::Extend { lease_ms } => {
                let until = now + u64::from(lease_ms.min(LEASE_MS_MAX));
                let deadline = deadline.max(until);
                message.state = State::Leased { session, token, deadline, run, started };
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
        let sessions: Vec<Session> = self.consumers.keys().copied().collect();
        sessions.into_iter().for_each(|session| self.bring_forward(session));
        Reply::Purged { count }
    }

    fn purge_before(&mut self, before: u64) -> Reply {
        self.last_publish_accepted = false;
        let held_batches = self.held_batches();
        let doomed = (0..self.messages.len()).take(before as usize);
        let doomed: Vec<usize> = doomed.filter(|&at| is_held(&self.messages[at])).collect();
        // Nobody waits for what is dead.
        let living = doomed.iter().copied().filter(|&at| lives(&self.messages[at]));
        let living: Vec<usize> = living.collect();
        doomed.iter().for_each(|&at| self.messages[at].state = State::Purged);
        // What is left of a run that was leased is one of its own.
        for message in &mut self.messages {
            if let State::Leased { run, .. } = &mut message.state {
                *run = (*run).max(before);
            }
        }
        let sessions: Vec<Session> = self.consumers.keys().copied().collect();
        sessions.into_iter().for_each(|session| self.bring_forward(session));
        living.iter().for_each(|&at| self.left(at));
        let count = doomed.len() as u64;
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
        assert!(!consumer.paused && !self.paused, "who is paused is handed nothing");
        let started = !consumer.tells;
        let deadline = self.now + u64::from(lease_ms);
        let run_first = self.run_of(session, token, run);
        let first = run.first_offset.0 as usize;
        let mut passing = self.messages[first..first + run.count as usize].iter();
        assert!(passing.all(|message| self.passes(session, message)), "a filter is kept to");
        let mut ids = Vec::new();
        for message in &mut self.messages[first..first + run.count as usize] {
            assert_eq!(message.state, State::Ready, "what is delivered was ready");
            message.state = State::Leased { session, token, deadline, started, run: run_first };
            message.deliveries += 1;
            assert_eq!(message.deliveries, run.attempt, "deliveries are counted");
            assert_eq!(self.batches[message.batch].index, run.index.0);
            ids.push(message.id);
        }
        if self.credit(session) == 0 {
            self.leave_line(session);
        }
        ids
    }
}

/// It is held and not dead.
pub fn lives(message: &Message) -> bool {
    is_held(message) && !matches!(message.state, State::Dead { .. })
}

fn is_held(message: &Message) -> bool {
    !message.state.is_gone()
}
