//! The steps of which the exhaustive check makes every sequence, and the states it begins with.
//!
//! A small world: two consumers, a producer, messages in ones and twos. The replica that is
//! restored is restored before every step that is compared, so that needs no letter.

use quorate_machine::queue::{Settings, SettleKind};

use super::op::{Condition, Entry, From, Numbered, Op, Pick, Target};
use super::{dead_letter, settings};

const A: u8 = 1;
const B: u8 = 2;

/// Letters: an entry each.
pub fn alphabet() -> Vec<Entry> {
    let limited = Settings {
        max_messages: Some(3),
        max_deliveries: 1,
        retain_ms: Some(100),
        retain_bytes: Some(40),
        ..settings()
    };
    let giving_up = Settings { max_deliveries: 1, dead_letter: Some(dead_letter()), ..settings() };
    let (ack, later) = (SettleKind::Ack, SettleKind::Nack { delay_ms: 50 });
    let now = SettleKind::Nack { delay_ms: 0 };
    let extend = SettleKind::Extend { lease_ms: 300 };
    vec![
        after(1, publish(1, None)),
        after(1, publish(2, Some(0))),
        after(1, publish(2, Some(-2))),
        after(1, started_anew(2)),
        after(1, conditional(2, Some(0), None)),
        after(1, conditional(1, Some(0), Some(0))),
        after(1, conditional(1, None, Some(-1))),
        after(1, delayed(2, &[60, 0])),
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
        after(-60, Op::Tick),
        after(60, Op::Tick),
        after(199, Op::Tick),
        after(200, Op::Tick),
        after(1, Op::LeaderChanged),
        after(1, Op::Purge),
        after(1, Op::PurgeBefore { back: 1 }),
        Entry {
            after_ms: 1,
            restore: true,
            ops: vec![publish(2, None), Op::PurgeBefore { back: 1 }, publish(1, None)],
        },
        after(1, Op::Configure { settings: limited, stale: false }),
        after(1, Op::Configure { settings: giving_up, stale: false }),
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
    vec![
        ("an empty queue", Vec::new()),
        ("leases", leased.concat()),
        ("second deliveries", expired.concat()),
    ]
}

fn after(after_ms: i64, op: Op) -> Entry {
    Entry { after_ms, restore: true, ops: vec![op] }
}

fn publish(count: u32, shift: Option<i64>) -> Op {
    let producer = shift.map(|shift| Numbered { id: 0, epoch: 0, shift });
    Op::Publish { count, padding: 3, producer, delays: Vec::new(), condition: Condition::default() }
}

/// The first batch of the producer's next life.
fn delayed(count: u32, delays: &[u64]) -> Op {
    Op::Publish {
        count,
        padding: 3,
        producer: None,
        delays: delays.to_vec(),
        condition: Condition::default(),
    }
}

fn conditional(count: u32, id: Option<u8>, expected: Option<i64>) -> Op {
    let condition = Condition { id, expected };
    Op::Publish { count, padding: 3, producer: None, delays: Vec::new(), condition }
}

fn started_anew(count: u32) -> Op {
    let producer = Some(Numbered { id: 0, epoch: 1, shift: 0 });
    Op::Publish { count, padding: 3, producer, delays: Vec::new(), condition: Condition::default() }
}

fn create_slot(from: From, max_retained_bytes: u64, max_idle_ms: u64) -> Op {
    Op::CreateSlot { slot: 0, from, max_retained_bytes, max_idle_ms }
}

fn moved(shift: i64, count: u32) -> Op {
    Op::PublishMoved { source: 0, timeline: 1, shift, count, padding: 3 }
}

fn attach(session: u8, node: u64, prefetch: u32) -> Op {
    Op::Attach { session, node, prefetch, lease_ms: None }
}

fn settle(session: u8, kind: SettleKind, target: Target, count: u32) -> Op {
    Op::Settle { session, picks: vec![Pick { kind, target, at: 0, count }] }
}
