//! The steps of which the exhaustive check makes every sequence, and the states it begins with.
//!
//! A small world: two consumers, a producer, messages in ones and twos. The replica that is
//! restored is restored before every step that is compared, so that needs no letter.

use quorate_machine::queue::{Control, Settings, SettleKind};

use super::op::{Condition, Entry, From, Kind, Names, Numbered, Op, Pick, Target, Whom};
use super::{dead_letter, settings};

const A: u8 = 1;
const B: u8 = 2;
const C: u8 = 3;

/// Letters: an entry each.
pub fn alphabet() -> Vec<Entry> {
    let limited = Settings {
        max_messages: Some(3),
        max_deliveries: 1,
        retain_ms: Some(100),
        retain_bytes: Some(40),
        ..settings()
    };
    let keeping = Settings { retain_ms: Some(10_000), ..settings() };
    let single = Settings { single_active: true, ..settings() };
    let lively = Settings {
        max_messages: Some(2),
        ttl_ms: Some(60),
        drop_head: true,
        priorities: true,
        ..settings()
    };
    let short = Settings { ttl_ms: Some(1), priorities: true, ..settings() };
    let patient = Settings { max_deliveries: 2, retry_ms: 80, retry_max_ms: 100, ..settings() };
    let giving_up = Settings { max_deliveries: 1, dead_letter: Some(dead_letter()), ..settings() };
    let burying = Settings { ttl_ms: Some(60), ..giving_up.clone() };
    let filterable = filterable();
    let (ack, later) = (SettleKind::Ack, SettleKind::Nack { delay_ms: 50 });
    let now = SettleKind::Nack { delay_ms: 0 };
    let extend = SettleKind::Extend { lease_ms: 300 };
    vec![
        after(1, publish(1, None)),
        after(1, publish(2, Some(0))),
        after(1, publish(2, Some(-2))),
        after(1, started_anew(2)),
        after(1, set_apart(2, &[Kind { delay: 60, ..plain() }, plain()])),
        after(1, set_apart(2, &[Kind { ttl: 60, ..plain() }, Kind { priority: 9, ..plain() }])),
        after(1, set_apart(1, &[Kind { delay: 60, ttl: 60, priority: 1, ..plain() }])),
        after(1, set_apart(2, &[grouped(1)])),
        after(1, set_apart(3, &[valued(1), Kind { priority: 9, ..valued(2) }])),
        after(1, set_apart(2, &[Kind { group: 1, ..valued(1) }])),
        after(1, filtering(B, 1, 1)),
        after(1, Op::Configure { settings: filterable.clone(), stale: false }),
        after(1, set_apart(3, &[Kind { ttl: 60, ..grouped(1) }, plain(), grouped(2)])),
        after(1, conditional(2, Some(0), None)),
        after(1, conditional(1, Some(0), Some(0))),
        after(1, conditional(1, None, Some(-1))),
        Entry {
            after_ms: 1,
            restore: true,
            ops: vec![publish(1, None), Op::Purge, publish(1, None)],
        },
        after(1, attach(A, 1, 2)),
        after(1, attach(A, 2, 1)),
        after(1, attach(B, 1, 1)),
        after(1, Op::Detach { session: A, stale: false }),
        after(1, Op::Disconnect { session: A, stale: false }),
        after(1, Op::Disconnect { session: A, stale: true }),
        after(1, settle(A, ack, Target::Held, 1)),
        after(1, settle(A, ack, Target::Held, 2)),
        after(1, settle(A, ack, Target::Handed, 2)),
        after(1, settle(A, ack, Target::Stale, 2)),
        after(1, settle(B, ack, Target::Any, 1)),
        after(1, settle(A, now, Target::Held, 1)),
        after(1, settle(A, later, Target::Held, 2)),
        after(1, settle(A, SettleKind::Reject, Target::Held, 1)),
        after(1, settle(A, extend, Target::Held, 1)),
        after(1, settle(A, SettleKind::Extend { lease_ms: 10 }, Target::Held, 1)),
        after(1, settle(A, SettleKind::Start, Target::Held, 1)),
        after(1, settle(A, SettleKind::Return, Target::Held, 1)),
        after(1, telling(A, 1, 2)),
        after(1, control(Whom::Session(A), Control::Pause)),
        after(1, control(Whom::Namesakes(A), Control::Resume)),
        after(1, control(Whom::Session(A), Control::Kick)),
        after(1, Op::Configure { settings: patient, stale: false }),
        after(-60, Op::Tick),
        after(60, Op::Tick),
        after(199, Op::Tick),
        after(200, Op::Tick),
        after(1, receive(B, 2, 30)),
        after(1, receive(C, 1, 0)),
        after(1, settle(C, ack, Target::Held, 1)),
        after(1, Op::LeaderChanged),
        after(1, Op::Purge),
        after(1, Op::PurgeBefore { back: 1 }),
        Entry {
            after_ms: 1,
            restore: true,
            ops: vec![publish(2, None), Op::PurgeBefore { back: 1 }, publish(1, None)],
        },
        after(1, seek(3, Names::Settled)),
        after(1, seek(1, Names::All)),
        after(1, seek(0, Names::Nothing)),
        Entry {
            after_ms: 1,
            restore: true,
            ops: vec![publish(1, None), seek(2, Names::Settled), publish(1, None)],
        },
        after(1, Op::Configure { settings: keeping, stale: false }),
        after(1, Op::Configure { settings: limited, stale: false }),
        after(1, Op::Configure { settings: single, stale: false }),
        after(1, Op::Configure { settings: lively, stale: false }),
        after(1, Op::Configure { settings: short, stale: false }),
        after(1, Op::Configure { settings: giving_up, stale: false }),
        after(1, Op::Configure { settings: burying, stale: false }),
        after(1, Op::Moved { by: 1 }),
        after(1, moved(0, 2)),
        after(1, moved(-1, 2)),
        after(1, create_slot(From::First, 60, 150)),
        after(1, Op::AdvanceSlot { slot: 0, by: 1 }),
        after(1, Op::AdvanceSlot { slot: 0, by: 2 }),
        after(1, Op::DropSlot { slot: 0 }),
    ]
}

/// States to begin with, as the entries that lead to them.
pub fn scenes() -> Vec<(&'static str, Vec<Entry>)> {
    let both = vec![after(1, attach(A, 1, 2)), after(1, attach(B, 1, 1))];
    let leased = [both.clone(), vec![after(1, publish(2, Some(0))), after(1, publish(2, None))]];
    let expired = [leased.concat(), vec![after(200, Op::Tick)]];
    let single = Settings { single_active: true, ..settings() };
    let one_at_a_time = vec![after(1, Op::Configure { settings: single, stale: false })];
    let groups = vec![
        after(1, set_apart(3, &[grouped(1), grouped(2)])),
        after(1, set_apart(2, &[grouped(1)])),
    ];
    let ordered = [one_at_a_time, both, groups];
    let told = vec![
        after(1, telling(A, 1, 3)),
        after(1, publish(3, None)),
        after(1, settle(A, SettleKind::Start, Target::Held, 1)),
    ];
    let keeping = Settings { retain_ms: Some(10_000), priorities: true, ..settings() };
    let settled = vec![
        after(1, Op::Configure { settings: keeping, stale: false }),
        after(1, attach(A, 1, 2)),
        after(1, set_apart(3, &[grouped(1), Kind { priority: 9, ..plain() }])),
        after(1, settle(A, SettleKind::Ack, Target::Held, 2)),
        after(1, set_apart(1, &[Kind { ttl: 60, ..grouped(1) }])),
        after(1, settle(A, SettleKind::Ack, Target::Held, 1)),
    ];
    let filtered = vec![
        after(1, Op::Configure { settings: filterable(), stale: false }),
        after(1, filtering(A, 1, 1)),
        after(1, set_apart(4, &[valued(1), valued(2), plain()])),
    ];
    vec![
        ("what is settled and kept", settled),
        ("an empty queue", Vec::new()),
        ("leases", leased.concat()),
        ("second deliveries", expired.concat()),
        ("groups and one active consumer", ordered.concat()),
        ("some started", told),
        ("filters", filtered),
    ]
}

fn filterable() -> Settings {
    Settings { filter_header: Some("region".to_owned()), priorities: true, ..settings() }
}

fn after(after_ms: i64, op: Op) -> Entry {
    Entry { after_ms, restore: true, ops: vec![op] }
}

fn publish(count: u32, shift: Option<i64>) -> Op {
    let producer = shift.map(|shift| Numbered { id: 0, epoch: 0, shift });
    batch(count, producer, &[], Condition::default())
}

fn batch(count: u32, producer: Option<Numbered>, kinds: &[Kind], condition: Condition) -> Op {
    Op::Publish { count, padding: 3, producer, kinds: kinds.to_vec(), condition }
}

fn plain() -> Kind {
    Kind::default()
}

fn grouped(group: u8) -> Kind {
    Kind { group, ..plain() }
}

fn set_apart(count: u32, kinds: &[Kind]) -> Op {
    batch(count, None, kinds, Condition::default())
}

fn conditional(count: u32, id: Option<u8>, expected: Option<i64>) -> Op {
    batch(count, None, &[], Condition { id, expected })
}

/// The first batch of the producer's next life.
fn started_anew(count: u32) -> Op {
    let producer = Some(Numbered { id: 0, epoch: 1, shift: 0 });
    batch(count, producer, &[], Condition::default())
}

fn create_slot(from: From, max_retained_bytes: u64, max_idle_ms: u64) -> Op {
    Op::CreateSlot { slot: 0, from, max_retained_bytes, max_idle_ms }
}

fn seek(back: i64, names: Names) -> Op {
    Op::Seek { back, names }
}

fn moved(shift: i64, count: u32) -> Op {
    Op::PublishMoved { source: 0, timeline: 1, shift, count, padding: 3 }
}

fn attach(session: u8, node: u64, prefetch: u32) -> Op {
    Op::Attach { session, node, prefetch, lease_ms: None, tells: false, filter: 0 }
}

/// One that filters by the first value.
fn filtering(session: u8, node: u64, prefetch: u32) -> Op {
    Op::Attach { session, node, prefetch, lease_ms: None, tells: false, filter: 2 }
}

fn valued(value: u8) -> Kind {
    Kind { value, ..plain() }
}

fn telling(session: u8, node: u64, prefetch: u32) -> Op {
    Op::Attach { session, node, prefetch, lease_ms: None, tells: true, filter: 0 }
}

fn control(target: Whom, what: Control) -> Op {
    Op::Control { target, what }
}

fn receive(session: u8, count: u32, wait_ms: u32) -> Op {
    Op::Receive { session, node: 1, count, lease_ms: None, wait_ms, filter: 0 }
}

fn settle(session: u8, kind: SettleKind, target: Target, count: u32) -> Op {
    Op::Settle { session, picks: vec![Pick { kind, target, at: 0, count }] }
}
