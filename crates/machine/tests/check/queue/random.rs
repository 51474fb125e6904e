//! Random logs of a queue.
//!
//! Every sequence has a mood: some ops are frequent in it, some never happen. So there are
//! sequences in which nothing but one thing goes on, which an even mixture would never give.
//! (Groce and others, "Swarm testing", 2012.)

use quorate_machine::queue::{Control, Settings, SettleKind};

use super::op::{Condition, Entry, Filter, From, Kind, Names, Numbered, Op, Pick, Target, Whom};
use super::{Rng, dead_letter, settings};

struct Mood {
    /// Of the ops, in the order of `op`.
    weights: [u64; 18],
    kinds: [u64; 6],
    targets: [u64; 4],
    /// One in so many entries comes after a restore.
    restore: u64,
    /// One in so many entries comes after a pause.
    pause: u64,
    ops_max: u64,
    batch_max: u64,
    prefetch_max: u64,
    sessions: u64,
    /// One in so many batches has messages for later.
    delayed: u64,
    /// One in so many batches has messages of groups.
    grouped: u64,
    /// One in so many batches has messages with a time to live.
    ttl: u64,
    /// One in so many batches has messages with a priority.
    priority: u64,
    /// One in so many consumers tells what it has started.
    tells: u64,
    /// One in so many batches has an id, and as many expect an offset.
    conditional: u64,
    /// One in so many consumers has a filter.
    filtering: u64,
    /// One in so many batches has messages with values to filter by.
    valued: u64,
}

impl Mood {
    fn new(rng: &mut Rng) -> Self {
        let mut weight = |usual: u64| usual * rng.pick(&[0, 1, 1, 4]);
        let weights = [24, 8, 3, 3, 60, 3, 3, 1, 2, 3, 6, 1, 6, 4, 3, 4, 2, 5];
        let mut weights = weights.map(&mut weight);
        let mut kinds = [4, 3, 1, 2, 2, 3].map(&mut weight);
        let mut targets = [9, 3, 1, 1].map(&mut weight);
        weights[0] += 6;
        weights[1] += 3;
        kinds[0] += 1;
        targets[0] += 1;
        Self {
            weights,
            kinds,
            targets,
            restore: rng.pick(&[2, 5, 30]),
            pause: rng.pick(&[2, 5, 20]),
            ops_max: rng.pick(&[1, 2, 4]),
            batch_max: rng.pick(&[1, 1, 3, 8, 8]),
            prefetch_max: rng.pick(&[1, 4, 12, 12, 200]),
            sessions: rng.pick(&[1, 1, 2, 4]),
            delayed: rng.pick(&[1, 3, 1_000, 1_000]),
            grouped: rng.pick(&[1, 3, 1_000, 1_000]),
            ttl: rng.pick(&[1, 3, 1_000, 1_000]),
            priority: rng.pick(&[1, 3, 1_000, 1_000]),
            tells: rng.pick(&[1, 2, 1_000]),
            conditional: rng.pick(&[1, 3, 1_000, 1_000]),
            filtering: rng.pick(&[1, 2, 1_000, 1_000, 1_000, 1_000]),
            valued: rng.pick(&[1, 1, 3, 1_000, 1_000]),
        }
    }

    /// The mood of [`hoard`]: first little is settled, then little is published.
    fn hoard(rng: &mut Rng, settles: bool) -> Self {
        let (publish, settle) = if settles { (1, 16) } else { (16, 1) };
        Self {
            weights: [publish, 0, 0, 0, settle, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0],
            kinds: [8, 0, 1, 0, 0, 0],
            targets: [1, 0, 0, 0],
            restore: 50,
            pause: 1_000,
            ops_max: 4,
            batch_max: 1 + rng.below(2),
            prefetch_max: 200,
            sessions: 1,
            delayed: 1_000,
            grouped: 1_000,
            ttl: 1_000,
            priority: 1_000,
            tells: 1_000,
            conditional: 1_000,
            filtering: 1_000,
            valued: 1_000,
        }
    }

    fn session(&self, rng: &mut Rng) -> u8 {
        rng.below(self.sessions) as u8
    }
}

/// A log. Most are short, as a short one shows most mistakes; some are long enough for what only
/// happens after a hundred messages. Most begin with consumers, as else nothing is delivered.
pub fn entries(rng: &mut Rng) -> Vec<Entry> {
    if rng.one_in(1_000) {
        return hoard(rng);
    }
    if rng.one_in(1_000) {
        return deaths(rng);
    }
    if rng.one_in(150) {
        return replays(rng);
    }
    let mood = Mood::new(rng);
    let most = if rng.one_in(800) { 300 } else { rng.pick(&[6, 12, 24]) };
    let length = 1 + rng.below(most);
    let mut entries: Vec<Entry> = (0..length).map(|_| entry(rng, &mood)).collect();
    // Times to live that change are met by messages that had another one.
    if mood.ttl == 1 {
        for _ in 0..rng.below(3) {
            let at = rng.below(length) as usize;
            entries[at].ops.insert(0, Op::Configure { settings: limits(rng), stale: false });
        }
    }
    let filters = mood.filtering < 1_000 && !rng.one_in(8);
    if !rng.one_in(8) {
        let sessions = 0..mood.sessions as u8;
        entries[0].ops.splice(0..0, sessions.map(|session| attach(rng, &mood, session)));
    }
    if filters {
        let filter_header = Some("region".to_owned());
        let settings = Settings { filter_header, priorities: true, ..settings() };
        entries[0].ops.insert(0, Op::Configure { settings, stale: false });
    }
    entries
}

/// A log in which a consumer gathers messages of many batches and then settles them in any order:
/// so records of what is gone pile up between those of what is not.
fn hoard(rng: &mut Rng) -> Vec<Entry> {
    let (prefetch, lease_ms) = (200, Some(u32::MAX));
    let attach = Op::Attach { session: 0, node: 1, prefetch, lease_ms, tells: false, filter: 0 };
    let mut entries = vec![Entry { after_ms: 0, restore: false, ops: vec![attach] }];
    for settles in [false, true] {
        let mood = Mood::hoard(rng, settles);
        entries.extend((0..60 + rng.below(80)).map(|_| entry(rng, &mood)));
    }
    entries
}

/// A log in which a consumer that tells what it has started dies again and again with what it has not: so often that
/// it is charged after all.
fn deaths(rng: &mut Rng) -> Vec<Entry> {
    let (session, node, lease_ms, tells) = (0, 1, Some(u32::MAX), true);
    let attach = Op::Attach { session, node, prefetch: 3, lease_ms, tells, filter: 0 };
    let (condition, kinds) = (Condition::default(), Vec::new());
    let publish = Op::Publish { count: 2, padding: 0, producer: None, kinds, condition };
    let mut entries = vec![Entry { after_ms: 0, restore: false, ops: vec![publish] }];
    for _ in 0..18 + rng.below(6) {
        let ops = vec![attach.clone()];
        entries.push(Entry { after_ms: 1, restore: rng.one_in(4), ops });
        let ops = vec![Op::Disconnect { session, stale: false }];
        entries.push(Entry { after_ms: 1, restore: false, ops });
        entries.push(Entry { after_ms: 500, restore: false, ops: vec![Op::Tick] });
    }
    entries
}

/// A log in which consumers are set back to what is settled and kept, and what came after it waits still.
fn replays(rng: &mut Rng) -> Vec<Entry> {
    let mut mood = Mood::new(rng);
    (mood.grouped, mood.sessions, mood.batch_max, mood.restore) = (1, 1, 3, 4);
    let one = |op| Entry { after_ms: 1, restore: false, ops: vec![op] };
    let settings = Settings {
        retain_ms: Some(10_000),
        priorities: true,
        max_messages: rng.one_in(3).then(|| 2 + rng.below(4)),
        max_bytes: rng.one_in(3).then(|| 40 + rng.below(120)),
        ..settings()
    };
    let (session, node, prefetch, lease_ms) = (0, 1, 6, None);
    let attach = Op::Attach { session, node, prefetch, lease_ms, tells: false, filter: 0 };
    let control = |what| Op::Control { target: Whom::Everyone, what };
    let mut entries = vec![one(Op::Configure { settings, stale: false }), one(attach)];
    for _ in 0..1 + rng.below(4) {
        entries.extend([one(publish(rng, &mood)), one(publish(rng, &mood))]);
        let ack = Pick { kind: SettleKind::Ack, target: Target::Held, at: 0, count: 8 };
        let settle = Op::Settle { session: 0, picks: vec![ack; 4] };
        entries.extend([one(settle.clone()), one(settle), one(control(Control::Pause))]);
        entries.extend([one(publish(rng, &mood)), one(seek(rng)), entry(rng, &mood)]);
        entries.push(one(control(Control::Resume)));
    }
    entries
}

fn entry(rng: &mut Rng, mood: &Mood) -> Entry {
    let after_ms = match rng.below(12) {
        0 => rng.within(-50, 0),
        _ if rng.one_in(mood.pause) => rng.pick(&[49, 50, 99, 100, 199, 200, 201, 333, 500]),
        _ => rng.within(0, 20),
    };
    let restore = rng.one_in(mood.restore);
    let count = if rng.one_in(10) { 0 } else { 1 + rng.below(mood.ops_max) };
    let ops = (0..count).map(|_| op(rng, mood)).collect();
    Entry { after_ms, restore, ops }
}

fn op(rng: &mut Rng, mood: &Mood) -> Op {
    match rng.weighted(&mood.weights) {
        0 => publish(rng, mood),
        1 => {
            let session = mood.session(rng);
            attach(rng, mood, session)
        }
        2 => Op::Detach { session: any_session(rng, mood), stale: rng.one_in(4) },
        3 => Op::Disconnect { session: any_session(rng, mood), stale: rng.one_in(4) },
        4 => {
            let picks = (0..1 + rng.below(3)).map(|_| pick(rng, mood)).collect();
            Op::Settle { session: any_session(rng, mood), picks }
        }
        5 => Op::Configure { settings: limits(rng), stale: rng.one_in(8) },
        6 => Op::Tick,
        7 => Op::Purge,
        8 => Op::LeaderChanged,
        9 => create_slot(rng),
        10 => {
            let by = rng.pick(&[-1, 0, 1, 1, 2, 3, 8]);
            Op::AdvanceSlot { slot: rng.below(3) as u8, by }
        }
        11 => Op::DropSlot { slot: rng.below(3) as u8 },
        12 => receive(rng, mood),
        13 => control(rng, mood),
        14 => Op::PublishMoved {
            source: rng.below(2) as u8,
            timeline: if rng.one_in(8) { rng.below(3) } else { 1 },
            shift: rng.pick(&[0, 0, 0, 1, -1, -2, -3]),
            count: rng.pick(&[1, 1, 2, 3, 0]),
            padding: rng.pick(&[0, 7]),
        },
        15 => Op::Moved { by: rng.pick(&[0, 1, 1, 2, 3, 200, -1]) },
        16 => Op::PurgeBefore { back: rng.pick(&[-1, 0, 1, 1, 2, 3, 5, 8, 20]) },
        _ => seek(rng),
    }
}

fn seek(rng: &mut Rng) -> Op {
    let names = match rng.below(12) {
        0 => Names::Wrong,
        1 | 2 => Names::Nothing,
        3 | 4 => Names::All,
        _ => Names::Settled,
    };
    Op::Seek { back: rng.pick(&[-1, 0, 1, 2, 3, 5, 8, 20, 100]), names }
}

/// A consumer's or, now and then, a receiver's.
fn any_session(rng: &mut Rng, mood: &Mood) -> u8 {
    mood.session(rng) + if rng.one_in(4) { 8 } else { 0 }
}

fn control(rng: &mut Rng, mood: &Mood) -> Op {
    let target = match rng.below(4) {
        0 => Whom::Everyone,
        1 => Whom::Namesakes(any_session(rng, mood)),
        _ => Whom::Session(any_session(rng, mood)),
    };
    // Mostly they go on, as else nothing happens.
    let what = rng.pick(&[Control::Pause, Control::Resume, Control::Resume, Control::Kick]);
    Op::Control { target, what }
}

fn create_slot(rng: &mut Rng) -> Op {
    let from = match rng.below(4) {
        0 | 1 => From::First,
        2 => From::Next,
        _ => From::Back(rng.below(12)),
    };
    // Mostly the same, so that it is asked for again.
    let max_retained_bytes = rng.pick(&[10_000, 10_000, 10_000, 500, 100, 0]);
    let max_idle_ms = rng.pick(&[0, 0, 0, 50, 300]);
    Op::CreateSlot { slot: rng.below(3) as u8, from, max_retained_bytes, max_idle_ms }
}

fn publish(rng: &mut Rng, mood: &Mood) -> Op {
    let count = match rng.below(100) {
        0 => 0,
        1 => rng.within(1, 200),
        _ => rng.within(1, mood.batch_max as i64),
    };
    let padding = rng.pick(&[0, 0, 1, 7, 40]);
    let numbered = |rng: &mut Rng| Numbered {
        id: rng.below(2) as u8,
        epoch: if rng.one_in(12) { rng.below(3) as u32 } else { 0 },
        shift: match rng.below(8) {
            0 | 1 => rng.within(-12, 2),
            2 => -count,
            _ => 0,
        },
    };
    let producer = (!rng.one_in(3)).then(|| numbered(rng));
    let kinds = kinds(rng, mood);
    let id = rng.one_in(mood.conditional).then(|| rng.below(4) as u8);
    let expected = rng.one_in(mood.conditional).then(|| rng.pick(&[0, 0, 0, -1, -3, 1]));
    let condition = Condition { id, expected };
    Op::Publish { count: count as u32, padding, producer, kinds, condition }
}

fn kinds(rng: &mut Rng, mood: &Mood) -> Vec<Kind> {
    let moods = [mood.delayed, mood.ttl, mood.priority, mood.grouped, mood.valued];
    let [delayed, ttl, priority, grouped, valued] = moods.map(|one| rng.one_in(one));
    if !(delayed || ttl || priority || grouped || valued) {
        return Vec::new();
    }
    let kind = |rng: &mut Rng| Kind {
        delay: if delayed { rng.pick(&[0, 0, 1, 2, 50, 50, 100, 300]) } else { 0 },
        ttl: if ttl { rng.pick(&[0, 0, 1, 2, 20, 50, 100, 300]) } else { 0 },
        priority: if priority { rng.pick(&[0, 0, 1, 5, 9, 9]) } else { 0 },
        group: if grouped { rng.pick(&[0, 1, 1, 1, 2, 3]) } else { 0 },
        value: if valued { rng.pick(&[0, 1, 1, 1, 2, 3]) } else { 0 },
    };
    (0..1 + rng.below(3)).map(|_| kind(rng)).collect()
}

fn attach(rng: &mut Rng, mood: &Mood, session: u8) -> Op {
    let prefetch = match rng.below(50) {
        0 => rng.pick(&[0, 65_535, 65_536]),
        _ => rng.within(1, mood.prefetch_max as i64) as u32,
    };
    let lease_ms = rng.one_in(3).then(|| rng.pick(&[0, 1, 50, 150, 300, u32::MAX]));
    let tells = rng.one_in(mood.tells);
    let filter = filter(rng, mood);
    Op::Attach { session, node: 1 + rng.below(3), prefetch, lease_ms, tells, filter }
}

/// Mostly in a session of its own, so that it is no consumer's.
fn receive(rng: &mut Rng, mood: &Mood) -> Op {
    let session = mood.session(rng) + if rng.one_in(6) { 0 } else { 8 };
    let count = if rng.one_in(50) { rng.pick(&[0, 65_536]) } else { rng.pick(&[1, 1, 2, 5, 100]) };
    let lease_ms = rng.one_in(3).then(|| rng.pick(&[1, 50, 300]));
    let wait_ms = rng.pick(&[0, 0, 20, 100]);
    let filter = filter(rng, mood);
    Op::Receive { session, node: 1 + rng.below(3), count, lease_ms, wait_ms, filter }
}

/// Values that a consumer filters by, most often one or two of three.
fn filter(rng: &mut Rng, mood: &Mood) -> Filter {
    if rng.one_in(mood.filtering) { 1 << rng.below(4) | 1 << (1 + rng.below(3)) } else { 0 }
}

fn pick(rng: &mut Rng, mood: &Mood) -> Pick {
    let kind = match rng.weighted(&mood.kinds) {
        0 => SettleKind::Ack,
        1 => SettleKind::Nack { delay_ms: rng.pick(&[0, 0, 1, 50, 100, 300]) },
        2 => SettleKind::Reject,
        4 => SettleKind::Return,
        5 => SettleKind::Start,
        _ => SettleKind::Extend { lease_ms: rng.pick(&[0, 10, 100, 250, 400, u32::MAX]) },
    };
    let targets = [Target::Held, Target::Handed, Target::Stale, Target::Any];
    let target = targets[rng.weighted(&mood.targets)];
    let count = if rng.one_in(40) { 150 } else { rng.pick(&[0, 1, 1, 1, 2, 3, 8]) };
    Pick { kind, target, at: rng.below(1 << 16) as u16, count }
}

fn limits(rng: &mut Rng) -> Settings {
    let usual = settings();
    Settings {
        max_messages: rng.one_in(2).then(|| 1 + rng.below(30)),
        max_bytes: rng.one_in(3).then(|| 1 + rng.below(1_000)),
        max_deliveries: rng.pick(&[0, 0, 1, 2, 3]),
        dead_letter: rng.one_in(2).then(dead_letter),
        lease_ms: rng.pick(&[usual.lease_ms, usual.lease_ms, 0, 100]),
        session_grace_ms: rng.pick(&[usual.session_grace_ms, usual.session_grace_ms, 0, 50]),
        dedup_window: rng.pick(&[usual.dedup_window, 0, 1, 2, 3]),
        dedup_age_ms: rng.pick(&[usual.dedup_age_ms, usual.dedup_age_ms, 0, 100]),
        retry_ms: rng.pick(&[0, 0, 0, 1, 30, 100]),
        retry_max_ms: rng.pick(&[0, 1, 50, 200]),
        message_id_window: rng.pick(&[usual.message_id_window, 0, 1, 2, 3]),
        retain_ms: rng.one_in(3).then(|| 1 + rng.below(1_000)),
        retain_bytes: rng.one_in(3).then(|| 1 + rng.below(1_000)),
        single_active: rng.one_in(3),
        ttl_ms: rng.one_in(3).then(|| rng.pick(&[1, 20, 50, 100, 300, 1_000])),
        drop_head: rng.one_in(2),
        priorities: !rng.one_in(4),
        filter_header: (!rng.one_in(4)).then(|| rng.pick(&["region", "region", "kind"]).to_owned()),
        ..usual
    }
}
