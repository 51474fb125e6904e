//! A queue that is obviously right: one record a message, every question answered by looking at
//! all of them. It decides nothing about delivery; it says whether what was delivered was right.

use std::collections::BTreeMap;

use quorate_machine::queue::{
    Attach, Command, Publish, Rejection, Reply, Run, Session, Settings, SettleItem, SettleKind,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    Delayed { due: u64 },
    Leased { session: Session, token: u64, deadline: u64 },
    Acked,
    Rejected,
    Exhausted,
    Purged,
}

#[derive(Debug)]
pub struct Message {
    pub state: State,
    pub deliveries: u32,
    pub id: u64,
    batch: usize,
}

#[derive(Debug)]
struct Batch {
    index: u64,
    bytes: u64,
    count: u64,
}

#[derive(Debug)]
pub struct Consumer {
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
    offsets: BTreeMap<u64, u64>,
}

#[derive(Debug, Default)]
pub struct Reference {
    pub now: u64,
    pub settings: Settings,
    pub messages: Vec<Message>,
    pub consumers: BTreeMap<Session, Consumer>,
    batches: Vec<Batch>,
    producers: BTreeMap<Vec<u8>, Producer>,
    attachments: u64,
    last_publish_accepted: bool,
}

impl Reference {
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
        let over = |consumer: &Consumer| consumer.grace.is_some_and(|until| until <= now);
        let ended: Vec<Session> =
            self.consumers.iter().filter(|(_, c)| over(c)).map(|(s, _)| *s).collect();
        for session in ended {
            self.end(session);
        }
        let age = self.settings.dedup_age_ms;
        self.producers.retain(|_, producer| producer.used + age > now);
    }

    fn end(&mut self, ended: Session) {
        self.consumers.remove(&ended);
        self.return_where(
            |state| matches!(state, State::Leased { session, .. } if *session == ended),
        );
    }

    fn return_where(&mut self, which: impl Fn(&State) -> bool) {
        let max = self.settings.max_deliveries;
        for message in &mut self.messages {
            if which(&message.state) {
                message.state = returned(message.deliveries, max, State::Ready);
            }
        }
    }

    /// What the reply must be, and the state after it.
    pub fn apply(&mut self, index: u64, command: &Command, ids: &[u64]) -> Reply {
        match command {
            Command::Configure(settings) => {
                self.settings = settings.clone();
                Reply::Done
            }
            Command::Publish(publish) => self.publish(index, publish, ids),
            Command::Attach(attach) => self.attach(attach),
            Command::Detach { session, attachment } => {
                if self.consumers.get(session).is_some_and(|c| c.attachment == attachment.0) {
                    self.end(*session);
                }
                Reply::Done
            }
            Command::Disconnect { session, attachment } => {
                let until = self.now + u64::from(self.settings.session_grace_ms);
                if let Some(consumer) = self.consumers.get_mut(session)
                    && consumer.attachment == attachment.0
                {
                    consumer.grace.get_or_insert(until);
                }
                Reply::Done
            }
            Command::Settle { session, items } => self.settle(*session, items),
            Command::Tick => Reply::Done,
            Command::Purge => self.purge(),
            Command::LeaderChanged { .. } => {
                let until = self.now + u64::from(self.settings.session_grace_ms);
                for consumer in self.consumers.values_mut() {
                    consumer.grace.get_or_insert(until);
                }
                Reply::Done
            }
        }
    }

    fn publish(&mut self, index: u64, publish: &Publish, ids: &[u64]) -> Reply {
        let merge = std::mem::replace(&mut self.last_publish_accepted, false);
        let count = u64::from(publish.count);
        if let Some(reply) = self.judge(publish) {
            return reply;
        }
        let bytes = publish.frame.len() as u64;
        let (held, held_bytes) = (self.held(), self.bytes());
        if self.settings.max_messages.is_some_and(|max| held + count > max)
            || self.settings.max_bytes.is_some_and(|max| held_bytes + bytes > max)
        {
            return full();
        }
        let first = self.messages.len() as u64;
        match self.batches.last_mut() {
            Some(last) if merge && last.index == index => {
                last.count += count;
                last.bytes += bytes;
            }
            _ => self.batches.push(Batch { index, bytes, count }),
        }
        let batch = self.batches.len() - 1;
        self.messages.extend(ids.iter().map(|&id| Message {
            state: State::Ready,
            deliveries: 0,
            id,
            batch,
        }));
        if let Some(p) = &publish.producer {
            let fresh = Producer { epoch: p.epoch, next: 0, used: 0, offsets: BTreeMap::new() };
            let known = self.producers.entry(p.id.as_bytes().to_vec()).or_insert(fresh);
            if p.epoch > known.epoch {
                known.epoch = p.epoch;
                known.offsets.clear();
            }
            known.used = self.now;
            known.next = p.sequence + count;
            known.offsets.extend((0..count).map(|n| (p.sequence + n, first + n)));
        }
        self.last_publish_accepted = true;
        published(first, publish.count, false)
    }

    /// The reply to a batch that must not enter for its sequence.
    fn judge(&mut self, publish: &Publish) -> Option<Reply> {
        let p = publish.producer.as_ref()?;
        let rejected = |rejection| Some(Reply::Rejected(rejection));
        let first = || match p.sequence {
            0 => None,
            _ => rejected(Rejection::OutOfOrder { expected: 0 }),
        };
        let Some(known) = self.producers.get_mut(p.id.as_bytes()) else { return first() };
        let (expected, end) = (known.next, p.sequence + u64::from(publish.count));
        if p.epoch < known.epoch {
            return rejected(Rejection::Fenced { epoch: known.epoch });
        }
        if p.epoch > known.epoch {
            return first();
        }
        if p.sequence == expected {
            return None;
        }
        if p.sequence > expected {
            return rejected(Rejection::OutOfOrder { expected });
        }
        let oldest = *known.offsets.keys().next().unwrap();
        if p.sequence < oldest {
            return rejected(Rejection::TooOldToDeduplicate { oldest });
        }
        let first = known.offsets[&p.sequence];
        let dense =
            (p.sequence..end).all(|s| known.offsets.get(&s) == Some(&(first + (s - p.sequence))));
        if !dense {
            return rejected(Rejection::SequenceConflict { expected });
        }
        known.used = self.now;
        Some(published(first, publish.count, true))
    }

    fn attach(&mut self, attach: &Attach) -> Reply {
        self.attachments += 1;
        let consumer = Consumer {
            node: attach.node.0,
            prefetch: attach.prefetch,
            lease_ms: attach.lease_ms,
            attachment: self.attachments,
            grace: None,
        };
        let before = self.consumers.insert(attach.session, consumer);
        let attachment = quorate_machine::queue::Attachment(self.attachments);
        Reply::Attached { attachment, resumed: before.is_some() }
    }

    fn settle(&mut self, session: Session, items: &[SettleItem]) -> Reply {
        let mut outcome = quorate_machine::queue::Settled::default();
        for item in items {
            for offset in item.first.0..item.first.0 + u64::from(item.count) {
                if self.settle_one(session, item, offset) {
                    outcome.settled += 1;
                } else {
                    outcome.lost.push((quorate_machine::queue::Offset(offset), 1));
                }
            }
        }
        Reply::Settled(outcome)
    }

    fn settle_one(&mut self, by: Session, item: &SettleItem, offset: u64) -> bool {
        let (now, max) = (self.now, self.settings.max_deliveries);
        let Some(message) = self.messages.get_mut(offset as usize) else {
            return false;
        };
        let State::Leased { session, token, deadline } = message.state else {
            return false;
        };
        if session != by || token != item.token.0 {
            return false;
        }
        message.state = match item.kind {
            SettleKind::Ack => State::Acked,
            SettleKind::Reject => State::Rejected,
            SettleKind::Nack { delay_ms: 0 } => returned(message.deliveries, max, State::Ready),
            SettleKind::Nack { delay_ms } => {
                returned(message.deliveries, max, State::Delayed { due: now + u64::from(delay_ms) })
            }
            SettleKind::Extend { lease_ms } => {
                State::Leased { session, token, deadline: deadline.max(now + u64::from(lease_ms)) }
            }
        };
        true
    }

    fn purge(&mut self) -> Reply {
        self.last_publish_accepted = false;
        let count = self.held();
        for message in self.messages.iter_mut().filter(|message| is_held(message)) {
            message.state = State::Purged;
        }
        Reply::Purged { count }
    }

    pub fn end_of_entry(&mut self) {
        self.last_publish_accepted = false;
    }

    /// Takes over a delivery; it must be one that was allowed.
    pub fn deliver(&mut self, session: Session, token: u64, run: &Run) -> Vec<u64> {
        let consumer = &self.consumers[&session];
        assert_eq!(consumer.grace, None, "only a connected consumer is handed messages");
        let deadline = self.now + u64::from(consumer.lease_ms.unwrap_or(self.settings.lease_ms));
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

    /// Offsets that must be handed out now: the lowest, as many as there is credit for.
    pub fn due_deliveries(&self) -> Vec<u64> {
        let credit: u64 = self.consumers.keys().map(|&session| self.credit(session)).sum();
        let ready = (0u64..).zip(&self.messages).filter(|(_, m)| m.state == State::Ready);
        ready.map(|(offset, _)| offset).take(credit as usize).collect()
    }

    pub fn credit(&self, session: Session) -> u64 {
        let consumer = &self.consumers[&session];
        let leased = self.leased_by(session).count() as u64;
        if consumer.grace.is_some() {
            0
        } else {
            u64::from(consumer.prefetch).saturating_sub(leased)
        }
    }

    /// Offsets and tokens of what a session holds.
    pub fn leased_by(&self, by: Session) -> impl Iterator<Item = (u64, u64)> {
        (0u64..).zip(&self.messages).filter_map(move |(offset, message)| match message.state {
            State::Leased { session, token, .. } if session == by => Some((offset, token)),
            _ => None,
        })
    }

    pub fn count(&self, which: impl Fn(&State) -> bool) -> u64 {
        self.messages.iter().filter(|message| which(&message.state)).count() as u64
    }

    pub fn held(&self) -> u64 {
        self.messages.iter().filter(|message| is_held(message)).count() as u64
    }

    pub fn first_held(&self) -> u64 {
        self.messages.iter().position(is_held).unwrap_or(self.messages.len()) as u64
    }

    fn remaining(&self, at: usize) -> u64 {
        self.messages.iter().filter(|message| message.batch == at && is_held(message)).count()
            as u64
    }

    pub fn bytes(&self) -> u64 {
        let held = |(at, batch): (usize, &Batch)| batch.bytes * self.remaining(at) / batch.count;
        self.batches.iter().enumerate().map(held).sum()
    }

    /// Log indexes whose bodies are needed.
    pub fn live(&self) -> std::collections::BTreeSet<u64> {
        let held = self.messages.iter().filter(|message| is_held(message));
        held.map(|message| self.batches[message.batch].index).collect()
    }

    pub fn expected_sequence(&self, producer: &[u8], epoch: u32) -> u64 {
        let known = self.producers.get(producer).filter(|known| known.epoch >= epoch);
        known.map_or(0, |producer| producer.next)
    }
}

fn returned(deliveries: u32, max: u32, otherwise: State) -> State {
    if max > 0 && deliveries >= max { State::Exhausted } else { otherwise }
}

fn is_held(message: &Message) -> bool {
    matches!(message.state, State::Ready | State::Delayed { .. } | State::Leased { .. })
}

fn published(first: u64, count: u32, duplicate: bool) -> Reply {
    let first_offset = quorate_machine::queue::Offset(first);
    Reply::Published { first_offset, count, duplicate }
}

/// Which limit is named does not matter to the reference; see `same_reply`.
fn full() -> Reply {
    let limit = quorate_machine::queue::Limit::MaxMessages;
    Reply::Rejected(Rejection::QueueFull { limit, max: 0, held: 0 })
}

/// Whether two replies say the same: lost runs message by message, a full queue whatever is full.
pub fn same_reply(left: &Reply, right: &Reply) -> bool {
    let full = |reply: &Reply| matches!(reply, Reply::Rejected(Rejection::QueueFull { .. }));
    match (left, right) {
        (Reply::Settled(left), Reply::Settled(right)) => {
            left.settled == right.settled && flat(&left.lost) == flat(&right.lost)
        }
        _ => left == right || full(left) && full(right),
    }
}

fn flat(lost: &[(quorate_machine::queue::Offset, u32)]) -> Vec<u64> {
    lost.iter().flat_map(|&(first, count)| first.0..first.0 + u64::from(count)).collect()
}
