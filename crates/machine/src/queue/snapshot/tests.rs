//! Snapshots come back as they were, those of older layouts too, and what contradicts itself is refused.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::command::{
    Attach, Command, Producer, Properties, Publish, PublishMoved, SettleItem, SettleKind,
};
use super::super::dead::{Cause, Dead, Died};
use super::super::groups::{Blocked, Groups};
use super::super::ids::Offset;
use super::super::lives::Life;
use super::super::sources::Source;
use super::*;
use crate::catalog::QueueName;
use crate::{At, Machine};

/// A queue that has something of everything.
fn queue() -> Queue {
    let dead_letter = QueueName::parse("dead").unwrap();
    let mut queue = Queue::new();
    let settings = Settings { lease_ms: 60_000, version: 1, ..Settings::default() };
    let settle = |kind, first, count| {
        let item = SettleItem { kind, token: Token(4), first: Offset(first), count };
        Command::Settle { session: Session(7), items: vec![item] }
    };
    let attach = |session, node| {
        Command::Attach(Attach {
            session: Session(session),
            node: NodeId(node),
            name: "consumer".to_owned(),
            prefetch: 9,
            lease_ms: (node == 2).then_some(5_000),
            tells_starts: node == 2,
            filter: Vec::new(),
        })
    };
    let log = [
        attach(7, 1),
        publish(0, 5),
        publish(5, 6),
        settle(SettleKind::Nack { delay_ms: 5_000 }, 2, 2),
        settle(SettleKind::Nack { delay_ms: 0 }, 5, 1),
        settle(SettleKind::Ack, 0, 1),
        settle(SettleKind::Reject, 7, 1),
        attach(8, 2),
        Command::Disconnect { session: Session(7), attachment: Attachment(1) },
        publish(11, 40),
        Command::Configure(Box::new(Settings {
            priorities: true,
            ttl_ms: Some(500),
            ..settings.clone()
        })),
        set_apart(&[(1, 0, 9, 0), (2, 900, 0, 0), (1, 900, 9, 400), (1, 0, 3, 300)]),
        attach(9, 3),
        Command::Configure(Box::new(Settings {
            priorities: true,
            ttl_ms: Some(200),
            ..settings.clone()
        })),
        set_apart(&[(1, 0, 1, 0), (1, 0, 0, 700)]),
        Command::Tick,
        of_groups(),
        Command::Configure(Box::new(Settings {
            priorities: true,
            ttl_ms: Some(200),
            dead_letter: Some(dead_letter),
            ..settings
        })),
        settle(SettleKind::Reject, 4, 3),
        Command::Moved { to: 1 },
        Command::PublishMoved(PublishMoved {
            source: 3,
            timeline: 1,
            first: 4,
            count: 2,
            layout: 1,
            frame: Bytes::from(vec![0; 12]),
        }),
    ];
    // The publishes share an index, so that the tokens above are known.
    for (command, index) in log
        .into_iter()
        .zip([1, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 34, 35, 36, 37, 38, 39])
    {
        let at = At { index, now: Millis((index * 10).min(350)) };
        queue.apply(at, 0, command, &mut Vec::new());
        queue.finish(at, &mut Vec::new());
    }
    let stats = queue.stats();
    assert!(stats.ready > 0 && stats.leased > 0 && stats.delayed > 0 && stats.rejected > 0);
    assert!(stats.blocked > 0);
    let lives: Vec<Life> = queue.expiry.lives.iter().map(|(_, life)| life).collect();
    assert!(lives.iter().any(|life| life.lapsed) && lives.iter().any(|life| life.due.is_some()));
    assert!(queue.leased.iter().any(|(_, _, lease)| lease.priority > 0));
    assert!(queue.delayed.iter().any(|(_, span)| span.priority > 0));
    assert!(queue.ready.urgent().next().is_some() && queue.expiry.judged > 0);
    assert!(stats.dead > 0 && stats.dead_lettered > 0 && queue.sources.len() > 0);
    queue
}

/// Runs of so many messages, due at, of a priority, and that expire at so many milliseconds; 0 says nothing.
fn set_apart(runs: &[(u32, u64, u8, u64)]) -> Command {
    let time = |ms: u64| (ms > 0).then_some(Millis(ms));
    let of = |&(count, due, priority, expires): &(u32, u64, u8, u64)| {
        let (due, expires) = (time(due), time(expires));
        Properties { count, due, expires, priority, ..Properties::default() }
    };
    let properties: Vec<Properties> = runs.iter().map(of).collect();
    let count: u32 = properties.iter().map(|of| of.count).sum();
    let frame = Bytes::from(vec![0; count as usize * 6]);
    Command::Publish(Publish { properties, ..Publish::plain(count, frame) })
}

fn publish(sequence: u64, count: u32) -> Command {
    let id = ProducerId::new(&b"producer"[..]).unwrap();
    let producer = Some(Producer { id, epoch: 1, sequence });
    let frame = Bytes::from(vec![0; count as usize * 6]);
    Command::Publish(Publish { producer, ..Publish::plain(count, frame) })
}

/// Two groups; of one there is something for later behind the head.
fn of_groups() -> Command {
    let of = |count, group, due: Option<u64>| Properties {
        count,
        due: due.map(Millis),
        group: Some(group),
        ..Properties::default()
    };
    let properties = vec![of(1, 7, Some(90)), of(3, 9, None), of(2, 7, None), of(1, 7, Some(900))];
    Command::Publish(Publish { properties, ..Publish::plain(7, Bytes::from(vec![0; 42])) })
}

#[test]
fn delayed_messages_as_before_version_5_are_read() {
    let queue = queue();
    let mut delayed: Vec<(Millis, Span)> = queue.delayed.iter().collect();
    assert!(delayed.len() >= 2, "{delayed:?}");
    delayed.sort_unstable_by_key(|&(due, span)| (due, span.first));
    let (mut now, mut before) = (Vec::new(), Vec::new());
    write_delayed(&mut now, &queue.delayed);
    put_varint(&mut before, delayed.len() as u64);
    for (due, span) in delayed {
        put_varint(&mut before, due.0);
        write_span(&mut before, span);
    }
    let state = state(&queue);
    let at = state.windows(now.len()).position(|window| window == now).unwrap();
    let mut old = [&state[..at], &before, &state[at + now.len()..]].concat();
    old[0] = 4;
    assert_eq!(write(&read(&wire::seal(old)).unwrap()), write(&queue));
}

#[test]
fn groups_that_contradict_the_rest_are_refused() {
    let refused = |change: &dyn Fn(&mut Queue)| {
        let mut queue = queue();
        change(&mut queue);
        Queue::restore(&queue.snapshot()).unwrap_err()
    };
    let end = queue().ready.next();
    let beyond = refused(&|queue| queue.groups.lead(1, end));
    let why = "its head cannot be one";
    assert_eq!(beyond, SnapshotError::Decode(DecodeError::Invalid { what: "group", why }));
    let gone = refused(&|queue| queue.groups.lead(1, 0));
    let rule = "the head of a group is ready, delayed or leased";
    assert_eq!(gone, SnapshotError::Inconsistent(rule));
    let twice = refused(&|queue| {
        let run = Blocked { count: 1, due: None, priority: 0 };
        queue.groups.block(7, end - 8, run);
    });
    assert!(matches!(twice, SnapshotError::Inconsistent(_)), "{twice:?}");
    let forgotten = refused(&|queue| {
        let head = queue.groups.head(9).unwrap();
        queue.groups = Groups::default();
        queue.groups.lead(9, head);
    });
    assert_eq!(forgotten, SnapshotError::Inconsistent("a batch has left what is held of it"));
}

#[test]
fn a_restored_queue_is_the_same() {
    let queue = queue();
    let restored = Queue::restore(&queue.snapshot()).unwrap();
    assert_eq!(restored.snapshot(), queue.snapshot());
    assert_eq!(restored.stats(), queue.stats());
    assert_eq!(restored.next_deadline(), queue.next_deadline());
}

#[test]
fn a_count_that_does_not_add_up_is_refused() {
    let mut queue = queue();
    queue.gone.acked += 1;
    let refused = Queue::restore(&queue.snapshot()).unwrap_err();
    let rule = "every message published is held or gone";
    assert_eq!(refused, SnapshotError::Inconsistent(rule));
}

fn refused(queue: &Queue) -> DecodeError {
    match Queue::restore(&queue.snapshot()) {
        Err(SnapshotError::Decode(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Restored, these would overflow with the next publish or attach, or hand out without end.
#[test]
fn numbers_with_which_the_queue_could_not_go_on_are_refused() {
    const TOO_LARGE: &str = "it is larger than can be";
    let mut queue = Queue { ready: Ready::new(1 << 63, 1 << 63), ..Queue::default() };
    queue.gone.acked = 1 << 63;
    assert_eq!(refused(&queue), DecodeError::Invalid { what: "next offset", why: TOO_LARGE });
    let attachments = Consumers::from_parts(BTreeMap::new(), VecDeque::new(), u64::MAX);
    let queue = Queue { consumers: attachments, ..Queue::default() };
    assert_eq!(refused(&queue), DecodeError::Invalid { what: "attachments", why: TOO_LARGE });
    for prefetch in [0, Attach::PREFETCH_MAX + 1] {
        let mut queue = Queue::new();
        let attach = Attach {
            session: Session(1),
            node: NodeId(1),
            name: String::new(),
            prefetch,
            lease_ms: None,
            tells_starts: false,
            filter: Vec::new(),
        };
        queue.consumers.attach(attach, Vec::new());
        let why = "no consumer may have it";
        assert_eq!(refused(&queue), DecodeError::Invalid { what: "prefetch", why });
    }
}

/// What died never had more numbers than were given, and a source has something here.
#[test]
fn numbers_of_the_dead_that_were_not_given_are_refused() {
    let mut queue = queue();
    queue.dead = Dead::new(queue.dead.first());
    queue.dead.restore(Died {
        seq: queue.dead.next(),
        span: Span { first: 8, count: 2, attempts: 1, priority: 0 },
        cause: Cause::Rejected,
    });
    let why = "there are more than numbers";
    assert_eq!(refused(&queue), DecodeError::Invalid { what: "dead", why });
    let mut queue = self::queue();
    queue.sources.insert(9, Source { timeline: 0, next: 0 });
    let why = "nothing came from it";
    assert_eq!(refused(&queue), DecodeError::Invalid { what: "source", why });
}

#[test]
fn a_session_that_is_there_twice_is_refused() {
    let mut bytes = state(&queue());
    let consumer = |session: u128| {
        [session.to_le_bytes().as_slice(), &8u32.to_le_bytes(), b"consumer"].concat()
    };
    let second = bytes.windows(28).position(|window| window == consumer(8));
    let second = second.expect("session 8 is a consumer");
    bytes[second..second + 28].copy_from_slice(&consumer(7));
    let error = DecodeError::Invalid { what: "session", why: "it is out of order" };
    assert_eq!(read(&wire::seal(bytes)).unwrap_err(), SnapshotError::Decode(error));
}

proptest! {
    /// The checksum is made to fit, so that what is behind it is reached.
    #[test]
    fn arbitrary_snapshots_never_panic(bytes: Vec<u8>) {
        let _ = Queue::restore(&bytes);
        let _ = read(&wire::seal([vec![VERSION], bytes].concat()));
    }

    #[test]
    fn changed_snapshots_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = state(&queue());
        for (at, byte) in changes {
            *at.get_mut(&mut bytes) = byte;
        }
        if let Ok(mut queue) = read(&wire::seal(bytes)) {
            queue.check().unwrap();
            let at = At { index: u64::MAX, now: Millis(u64::MAX) };
            queue.apply(at, 0, Command::Purge, &mut Vec::new());
        }
    }
}
