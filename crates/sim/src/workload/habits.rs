//! In which of all the ways a queue is used, by seed, and the settings that go with it.

use madsim::rand::{Rng, thread_rng};
use quorate_client::{Overflow, QueueSettings};

/// Name of the queue that others' dead messages are moved to.
pub(super) const DEAD_LETTERS: &str = "dead-letters";

/// Header that messages of some queues have, and consumers filter by.
pub(super) const HEADER: &str = "flavour";
/// Its values.
const FLAVOURS: [&str; 4] = ["sweet", "sour", "salt", ""];

/// One of the values.
pub(super) fn flavour() -> &'static str {
    FLAVOURS[thread_rng().gen_range(0..FLAVOURS.len())]
}

/// What clients do with a queue, beyond publishing to it and consuming from it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// Of 100 messages, how many have a time to live of their own.
    pub ttl_percent: u32,
    /// Messages have priorities.
    pub priorities: bool,
    /// Batches are published under message ids, and again.
    pub named: bool,
    /// Producers race for its offsets, and none publishes to it as it likes.
    pub claimed: bool,
    /// It is consumed from without streams, too.
    pub pulled: bool,
    /// Its first messages are purged now and then.
    pub purged: bool,
    /// Its consumers take little at a time, and their time: messages wait for them.
    pub slow: bool,
    /// Its messages have a header, and some of its consumers filter by it.
    pub filtered: bool,
    /// Its consumers are set to a place now and then, back or forward.
    pub sought: bool,
    /// It is a sharded queue, or one of its shards: published to and consumed from as one.
    pub shard: bool,
    /// Others' dead messages are moved to it; nobody else publishes to it.
    pub dead_letters: bool,
}

impl Habits {
    /// Whether producers publish to it as they like.
    pub(super) fn is_published_to(self) -> bool {
        !self.claimed && !self.dead_letters && !self.shard
    }

    /// Whether a topic leads to it, if there is one.
    pub(super) fn is_routed(self) -> bool {
        self.is_published_to()
    }
}

fn some(chance: f64, range: std::ops::Range<u64>) -> u64 {
    let mut random = thread_rng();
    if random.gen_bool(chance) { random.gen_range(range) } else { 0 }
}

fn overflow() -> i32 {
    match thread_rng().gen_bool(0.6) {
        true => Overflow::DropHead.into(),
        false => Overflow::Reject.into(),
    }
}

/// What is random already, and more of it.
pub(super) fn random(settings: QueueSettings, has_dead: bool) -> (QueueSettings, Habits) {
    let mut random = thread_rng();
    let habits = Habits {
        ttl_percent: if random.gen_bool(0.3) { random.gen_range(5..50) } else { 0 },
        priorities: random.gen_bool(0.3),
        named: random.gen_bool(0.35),
        claimed: random.gen_bool(0.12),
        pulled: random.gen_bool(0.35),
        purged: random.gen_bool(0.3),
        slow: random.gen_bool(0.35),
        filtered: random.gen_bool(0.25),
        sought: is_sought(&settings),
        shard: false,
        dead_letters: false,
    };
    // Now and then others publish too, and the claims have to be made anew.
    let habits =
        Habits { named: habits.named && !(habits.claimed && random.gen_bool(0.7)), ..habits };
    let max_messages = settings.max_messages.max(some(0.15, 10..120));
    let dead_letter = if has_dead && random.gen_bool(0.7) { DEAD_LETTERS } else { "" };
    let settings = QueueSettings {
        ttl_ms: some(0.25, 200..5_000),
        max_messages,
        max_bytes: some(0.1, 16_000..60_000),
        overflow: overflow(),
        priorities: habits.priorities,
        single_active: !habits.filtered && random.gen_bool(0.15),
        filter_header: if habits.filtered { HEADER.to_owned() } else { String::new() },
        message_id_window: some(0.5, 3..40) as u32,
        dead_letter: dead_letter.to_owned(),
        ..settings
    };
    (settings, habits)
}

/// Whether somebody seeks: mostly where there is a way back.
pub(super) fn is_sought(settings: &QueueSettings) -> bool {
    let retains = settings.retain_ms > 0 || settings.retain_bytes > 0;
    thread_rng().gen_bool(if retains { 0.4 } else { 0.05 })
}

/// Of the queue that is to get what others lose: it has no limits, so that in the end all of it comes.
pub(super) fn of_the_dead(settings: QueueSettings) -> QueueSettings {
    QueueSettings { max_messages: 0, ..settings }
}

/// A change of settings: their values, and the names of those that change.
pub(super) fn random_update() -> (QueueSettings, Vec<&'static str>) {
    let mut random = thread_rng();
    let plain = QueueSettings::default();
    match random.gen_range(0..7) {
        0 => (QueueSettings { ttl_ms: some(0.6, 200..5_000), ..plain }, vec!["ttl_ms"]),
        1 => {
            let lease_ms = random.gen_range(800..5_000);
            (QueueSettings { lease_ms, ..plain }, vec!["lease_ms"])
        }
        2 => {
            let max_deliveries = some(0.6, 1..6) as u32;
            (QueueSettings { max_deliveries, ..plain }, vec!["max_deliveries"])
        }
        3 => {
            let retry_ms = some(0.6, 10..1_000) as u32;
            let retry_max_ms = if retry_ms > 0 { 1_500 } else { 0 };
            let settings = QueueSettings { retry_ms, retry_max_ms, ..plain };
            (settings, vec!["retry_ms", "retry_max_ms"])
        }
        4 => {
            let message_id_window = some(0.8, 2..30) as u32;
            (QueueSettings { message_id_window, ..plain }, vec!["message_id_window"])
        }
        5 => {
            // Where there are no filters it changes nothing, and one consumer at a time is refused to have them.
            let filter_header = if random.gen_bool(0.8) { HEADER } else { "" }.to_owned();
            (QueueSettings { filter_header, ..plain }, vec!["filter_header"])
        }
        _ => {
            let settings = QueueSettings { overflow: overflow(), ..plain };
            (settings, vec!["overflow"])
        }
    }
}
