//! Steps of a queue's log. What they are about is named by position, and becomes a command when
//! the state that they meet is known.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_machine::queue::{
    Again, Attach, Attachment, Command, Control, CreateSlot, MessageId, Offset, Producer,
    ProducerId, Properties, Publish, PublishMoved, Queue, Receive, Session, Settings, SettleItem,
    SettleKind, SlotName, SlotStart, Token, tag_of,
};
use quorate_machine::{Machine, Millis, NodeId, queue};

use super::reference::Reference;
use super::settings as usual_settings;

/// An entry: commands applied at one time.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Since the entry before; below 0 for a leader whose clock is behind.
    pub after_ms: i64,
    /// One of the replicas is restored from its snapshot first.
    pub restore: bool,
    pub ops: Vec<Op>,
}

#[derive(Clone, Debug)]
pub enum Op {
    Publish {
        count: u32,
        padding: usize,
        producer: Option<Numbered>,
        /// What its messages are, one after the other, and from the first again; empty if they are plain.
        kinds: Vec<Kind>,
        condition: Condition,
    },
    Attach {
        session: u8,
        node: u64,
        prefetch: u32,
        lease_ms: Option<u32>,
        tells: bool,
        filter: Filter,
    },
    Receive {
        session: u8,
        node: u64,
        count: u32,
        lease_ms: Option<u32>,
        wait_ms: u32,
        filter: Filter,
    },
    Detach {
        session: u8,
        stale: bool,
    },
    Disconnect {
        session: u8,
        stale: bool,
    },
    Settle {
        session: u8,
        picks: Vec<Pick>,
    },
    Configure {
        settings: Settings,
        stale: bool,
    },
    Tick,
    Purge,
    /// What is before so many messages from the end; below 0 is beyond it.
    PurgeBefore {
        back: i64,
    },
    /// To so many messages from the end; below 0 is beyond it.
    Seek {
        back: i64,
        names: Names,
    },
    LeaderChanged,
    CreateSlot {
        slot: u8,
        from: From,
        max_retained_bytes: u64,
        max_idle_ms: u64,
    },
    /// So many messages on; below 0 is back.
    AdvanceSlot {
        slot: u8,
        by: i64,
    },
    DropSlot {
        slot: u8,
    },
    Control {
        target: Whom,
        what: Control,
    },
    /// From the number that the source is at; below 0 for what was sent before.
    PublishMoved {
        source: u8,
        timeline: u64,
        shift: i64,
        count: u32,
        padding: usize,
    },
    /// So many more than those that have left.
    Moved {
        by: i64,
    },
}

/// What a seek says is to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    Nothing,
    /// What is settled, as whoever asks sees it.
    Settled,
    /// All that there is, held or not, of before the last message.
    All,
    /// Something before the place.
    Wrong,
}

/// Whom an administrator means.
#[derive(Clone, Copy, Debug)]
pub enum Whom {
    Session(u8),
    /// Those that have the name of this one.
    Namesakes(u8),
    Everyone,
}

/// What sets a message apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// After how long it is due; at 1 it is already, at 0 it has no time.
    pub delay: u64,
    /// How long it lives, from when it is due on; at 1 it has expired already, at 0 it has no time.
    pub ttl: u64,
    pub priority: u8,
    /// 0 for none.
    pub group: u8,
    /// Which value it has in the header to filter by; 0 for none.
    pub value: u8,
}

/// Values that a consumer filters by, a bit each; 0 for no filter.
pub type Filter = u8;

/// On what a batch enters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Condition {
    pub id: Option<u8>,
    /// So far from the next offset as it is expected.
    pub expected: Option<i64>,
}

/// Where a slot begins.
#[derive(Clone, Copy, Debug)]
pub enum From {
    First,
    Next,
    /// So many messages before the end.
    Back(u64),
}

/// The place of a batch in what a producer sends.
#[derive(Clone, Copy, Debug)]
pub struct Numbered {
    pub id: u8,
    pub epoch: u32,
    /// Sequences from the one that is expected; below 0 for what was sent before.
    pub shift: i64,
}

/// An item of a settle.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    pub kind: SettleKind,
    pub target: Target,
    /// Which of the targets.
    pub at: u16,
    pub count: u32,
}

/// What an item is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A message that the session holds, under its token.
    Held,
    /// One that it was handed at some time, under the token of that time.
    Handed,
    /// One that it holds, under the token before.
    Stale,
    /// Any message, or one that does not exist.
    Any,
}

/// A message that was handed out: to whom, which, under which token.
pub type Handed = (Session, u64, u64);

impl Op {
    /// The command. `ids` has one for each message, should it publish any.
    pub fn command(&self, now: &Reference, handed: &[Handed], ids: &[u64]) -> Command {
        match self {
            Self::Receive { session, node, count, lease_ms, wait_ms, filter } => {
                Command::Receive(Receive {
                    session: Session((*session).into()),
                    node: NodeId(*node),
                    name: consumer_name(*session),
                    count: *count,
                    lease_ms: *lease_ms,
                    wait_ms: *wait_ms,
                    filter: values(*filter),
                })
            }
            Self::Publish { count, padding, producer, kinds, condition } => {
                let next = now.messages.len() as u64;
                let id = |id| MessageId::new(&format!("id-{id}")).unwrap();
                let expected = |by| Offset(next.saturating_add_signed(by));
                Command::Publish(Publish {
                    condition: quorate_machine::queue::Condition::of(
                        condition.id.map(id),
                        condition.expected.map(expected),
                    ),
                    producer: producer.map(|numbered| numbered.producer(now)),
                    properties: properties(*count, kinds, now),
                    ..Publish::plain(*count, frame_of(ids, *padding))
                })
            }
            Self::Attach { session, node, prefetch, lease_ms, tells, filter } => {
                Command::Attach(Attach {
                    session: Session((*session).into()),
                    node: NodeId(*node),
                    name: consumer_name(*session),
                    prefetch: *prefetch,
                    lease_ms: *lease_ms,
                    tells_starts: *tells,
                    filter: values(*filter),
                })
            }
            Self::Detach { session, stale } => {
                let (session, attachment) = attachment(now, *session, *stale);
                Command::Detach { session, attachment }
            }
            Self::Disconnect { session, stale } => {
                let (session, attachment) = attachment(now, *session, *stale);
                Command::Disconnect { session, attachment }
            }
            Self::Settle { session, picks } => {
                let session = Session((*session).into());
                let items = picks.iter().map(|pick| pick.item(now, session, handed)).collect();
                Command::Settle { session, items }
            }
            Self::Configure { settings, stale } => {
                let present = now.settings.version;
                let version = if *stale { present.saturating_sub(1) } else { present + 1 };
                Command::Configure(Box::new(Settings { version, ..settings.clone() }))
            }
            Self::Tick => Command::Tick,
            Self::Purge => Command::Purge,
            Self::PurgeBefore { back } => {
                let next = now.messages.len() as u64;
                Command::PurgeBefore { before: Offset(next.saturating_add_signed(-back)) }
            }
            Self::Seek { back, names } => {
                let next = now.messages.len() as u64;
                let to = next.saturating_add_signed(-back);
                Command::Seek { to: Offset(to), again: again(now, to, *names) }
            }
            Self::LeaderChanged => Queue::leader_changed(1),
            Self::CreateSlot { slot, from, max_retained_bytes, max_idle_ms } => {
                let next = now.messages.len() as u64;
                let from = match from {
                    From::First => SlotStart::First,
                    From::Next => SlotStart::Next,
                    From::Back(by) => SlotStart::Offset(Offset(next.wrapping_sub(*by))),
                };
                let (max_retained_bytes, max_idle_ms) = (*max_retained_bytes, *max_idle_ms);
                let name = slot_name(*slot);
                Command::CreateSlot(CreateSlot { name, from, max_retained_bytes, max_idle_ms })
            }
            Self::AdvanceSlot { slot, by } => {
                let name = slot_name(*slot);
                let position = now.slots.get(&name).map_or(0, |slot| slot.position);
                // The one that is there, whichever there is, or one that was there before.
                let made_at = now.slots.get(&name).map_or(1, |slot| slot.made_at);
                let made_at = [made_at, 0, 1][(by.unsigned_abs() % 3) as usize];
                let to = Offset(position.saturating_add_signed(*by));
                Command::AdvanceSlot { name, made_at, to }
            }
            Self::DropSlot { slot } => Command::DropSlot { name: slot_name(*slot) },
            Self::Control { target, what } => {
                let target = match target {
                    Whom::Session(session) => queue::Target::Session(Session((*session).into())),
                    Whom::Namesakes(session) => queue::Target::Named(consumer_name(*session)),
                    Whom::Everyone => queue::Target::Everyone,
                };
                Command::ControlConsumer { target, what: *what }
            }
            Self::PublishMoved { source, timeline, shift, count, padding } => {
                let source = u64::from(*source);
                let next = now.sources.get(&source).map_or(3, |(_, next)| *next);
                Command::PublishMoved(PublishMoved {
                    source,
                    timeline: *timeline,
                    first: next.saturating_add_signed(*shift),
                    count: *count,
                    layout: 1,
                    frame: frame_of(ids, *padding),
                })
            }
            Self::Moved { by } => {
                let first = now.dead().first().map_or(now.died, |(seq, ..)| *seq);
                Command::Moved { to: first.saturating_add_signed(*by) }
            }
        }
    }

    /// Messages that it brings.
    pub fn publishes(&self) -> u64 {
        match self {
            Self::Publish { count, .. } | Self::PublishMoved { count, .. } => (*count).into(),
            _ => 0,
        }
    }

    /// Ops that do less, or are about less.
    pub fn simpler(&self) -> Vec<Self> {
        match self {
            Self::Publish { count, padding, producer, kinds, condition } => {
                let with = |count, padding, producer, kinds: &[Kind], condition| Self::Publish {
                    count,
                    padding,
                    producer,
                    kinds: kinds.to_vec(),
                    condition,
                };
                let of = |count, padding, producer, kinds: &[Kind]| {
                    with(count, padding, producer, kinds, *condition)
                };
                let is_conditional = condition.id.is_some() || condition.expected.is_some();
                let unconditional = is_conditional
                    .then(|| with(*count, *padding, *producer, kinds, Condition::default()));
                let fewer = (*count > 1).then(|| of(count / 2, *padding, *producer, kinds));
                let bare = (*padding > 0).then(|| of(*count, 0, *producer, kinds));
                let unnumbered = producer.map(|_| of(*count, *padding, None, kinds));
                let plainer = kinds.split_last();
                let plainer = plainer.map(|(_, less)| of(*count, *padding, *producer, less));
                let without = [
                    |kind: &Kind| Kind { delay: 0, ..*kind },
                    |kind: &Kind| Kind { ttl: 0, ..*kind },
                    |kind: &Kind| Kind { priority: 0, ..*kind },
                    |kind: &Kind| Kind { group: 0, ..*kind },
                    |kind: &Kind| Kind { value: 0, ..*kind },
                ];
                let without = without.map(|without| kinds.iter().map(without).collect::<Vec<_>>());
                let without = without.into_iter().filter(|less| less != kinds);
                let without = without.map(|less| of(*count, *padding, *producer, &less));
                let less = [fewer, bare, unnumbered, plainer, unconditional].into_iter().flatten();
                less.chain(without).collect()
            }
            Self::Settle { session, picks } => {
                let settle = |picks| Self::Settle { session: *session, picks };
                let without = |at| settle([&picks[..at], &picks[at + 1..]].concat());
                let with = |at, pick| settle([&picks[..at], &[pick], &picks[at + 1..]].concat());
                let all = 0..picks.len();
                let fewer = all.clone().filter(|_| picks.len() > 1).map(without);
                let less = all.flat_map(|at| picks[at].simpler().map(move |pick| with(at, pick)));
                fewer.chain(less).collect()
            }
            Self::Configure { settings, stale } => {
                let configure = |settings| Self::Configure { settings, stale: *stale };
                simpler_settings(settings).map(configure).collect()
            }
            Self::Seek { back, names } if *back > 1 => {
                vec![Self::Seek { back: *back / 2, names: *names }]
            }
            Self::AdvanceSlot { slot, by } if *by != 0 => {
                vec![Self::AdvanceSlot { slot: *slot, by: *by / 2 }]
            }
            Self::Attach { session, node, prefetch, lease_ms, tells, filter } if *filter > 0 => {
                let of = |filter| Self::Attach {
                    session: *session,
                    node: *node,
                    prefetch: *prefetch,
                    lease_ms: *lease_ms,
                    tells: *tells,
                    filter,
                };
                vec![of(0), of(*filter & (*filter - 1))]
            }
            _ => Vec::new(),
        }
    }
}

/// The values that a filter names.
fn values(filter: Filter) -> Vec<String> {
    (1..8).filter(|bit| filter >> bit & 1 == 1).map(|value| format!("value {value}")).collect()
}

/// Runs of messages that are alike.
fn properties(count: u32, kinds: &[Kind], reference: &Reference) -> Vec<Properties> {
    let now = reference.now;
    let header = reference.settings.filter_header.as_deref().unwrap_or("region");
    let mut runs: Vec<Properties> = Vec::new();
    for kind in kinds.iter().cycle().take(count as usize) {
        let time = |after: u64| match after {
            0 => None,
            1 => Some(Millis(now)),
            after => Some(Millis(now + after)),
        };
        // One that expires at once does so even if it is for later.
        let ttl = if kind.ttl > 1 { kind.delay + kind.ttl } else { kind.ttl };
        let (due, expires, priority) = (time(kind.delay), time(ttl), kind.priority);
        let group = (kind.group > 0).then_some(kind.group.into());
        let tag = |value| tag_of(header, format!("value {value}").as_bytes());
        let tag = (kind.value > 0).then(|| tag(kind.value));
        let run = Properties { count: 1, due, expires, priority, group, tag };
        match runs.last_mut() {
            Some(last) if Properties { count: 1, ..*last } == run => last.count += 1,
            _ => runs.push(run),
        }
    }
    runs
}

/// Messages from `to` on that are to come back, with what they were published with.
fn again(now: &Reference, to: u64, names: Names) -> Vec<Again> {
    let mut runs: Vec<Again> = Vec::new();
    let from = if names == Names::Wrong { to.saturating_sub(1) } else { to };
    for (at, message) in (0..).zip(&now.messages).skip(from as usize) {
        let is_named = match names {
            Names::Nothing => false,
            Names::Settled => message.state.is_gone(),
            Names::All | Names::Wrong => true,
        };
        if !is_named {
            continue;
        }
        match runs.last_mut() {
            Some(last)
                if last.first.0 + u64::from(last.of.count) == at
                    && Properties { count: 1, ..last.of } == message.of =>
            {
                last.of.count += 1;
            }
            _ => runs.push(Again { first: Offset(at), of: message.of }),
        }
    }
    runs
}

/// Two neighbours have the same.
fn consumer_name(session: u8) -> String {
    format!("consumer {}", session / 2)
}

fn slot_name(slot: u8) -> SlotName {
    SlotName::parse(&format!("slot-{slot}")).unwrap()
}

impl Numbered {
    fn producer(self, now: &Reference) -> Producer {
        let id = vec![b'p', self.id];
        let expected = now.expected_sequence(&id, self.epoch);
        let sequence = expected.saturating_add_signed(self.shift);
        Producer { id: ProducerId::new(id).unwrap(), epoch: self.epoch, sequence }
    }
}

impl Pick {
    fn simpler(self) -> impl Iterator<Item = Self> {
        let earlier = (self.at > 0).then_some(Self { at: self.at / 2, ..self });
        let fewer = (self.count > 1).then_some(Self { count: self.count / 2, ..self });
        earlier.into_iter().chain(fewer)
    }

    fn item(self, now: &Reference, session: Session, handed: &[Handed]) -> SettleItem {
        let Self { kind, target, at, count } = self;
        let any = u64::from(at) % (now.messages.len() as u64 + 1);
        let (first, token) = match target {
            Target::Held => nth(now.leased_by(session), at),
            Target::Stale => {
                nth(now.leased_by(session).map(|(first, token)| (first, token - 1)), at)
            }
            Target::Handed => {
                let mine = handed.iter().filter(|(to, _, _)| *to == session);
                nth(mine.map(|&(_, first, token)| (first, token)), at)
            }
            Target::Any => nth(now.leases().filter(|&(first, _)| first == any), 0),
        }
        .unwrap_or((any, 0));
        SettleItem { kind, token: Token(token), first: Offset(first), count }
    }
}

/// Settings of which one more is the usual one.
fn simpler_settings(settings: &Settings) -> impl Iterator<Item = Settings> {
    let usual = usual_settings();
    let of = |change: fn(&mut Settings, &Settings)| {
        let mut simpler = settings.clone();
        change(&mut simpler, &usual);
        simpler
    };
    let all = [
        of(|settings, _| settings.max_messages = None),
        of(|settings, _| settings.max_bytes = None),
        of(|settings, _| settings.max_deliveries = 0),
        of(|settings, _| (settings.retry_ms, settings.retry_max_ms) = (0, 0)),
        of(|settings, _| settings.retry_max_ms = 0),
        of(|settings, _| settings.dead_letter = None),
        of(|settings, usual| settings.lease_ms = usual.lease_ms),
        of(|settings, usual| settings.session_grace_ms = usual.session_grace_ms),
        of(|settings, usual| settings.dedup_window = usual.dedup_window),
        of(|settings, usual| settings.dedup_age_ms = usual.dedup_age_ms),
        of(|settings, _| settings.single_active = false),
        of(|settings, _| settings.ttl_ms = None),
        of(|settings, _| settings.drop_head = false),
        of(|settings, _| settings.priorities = false),
        of(|settings, _| settings.filter_header = None),
        of(|settings, usual| settings.message_id_window = usual.message_id_window),
    ];
    let before = settings.clone();
    all.into_iter().filter(move |simpler| *simpler != before)
}

/// The one at `at`, counted on from the first after the last.
fn nth(all: impl Iterator<Item = (u64, u64)>, at: u16) -> Option<(u64, u64)> {
    let all: Vec<_> = all.collect();
    all.get(usize::from(at) % all.len().max(1)).copied()
}

fn attachment(now: &Reference, session: u8, stale: bool) -> (Session, Attachment) {
    let session = Session(session.into());
    let present = now.consumers.get(&session).map_or(0, |consumer| consumer.attachment);
    (session, Attachment(present - u64::from(stale && present > 0)))
}

/// A frame of messages, each of which holds its id.
fn frame_of(ids: &[u64], padding: usize) -> Bytes {
    let mut frame = BytesMut::with_capacity(ids.len() * (14 + padding));
    for id in ids {
        frame.put_u32_le(2 + 8 + padding as u32);
        frame.put_u16_le(0);
        frame.put_u64_le(*id);
        frame.put_bytes(b'x', padding);
    }
    frame.freeze()
}

/// The ids of the messages in frames.
pub fn ids_of(frames: &[Bytes]) -> Vec<u64> {
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
