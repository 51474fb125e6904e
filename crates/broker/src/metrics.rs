//! The node's figures for Prometheus, in the OpenMetrics text format.
//!
//! Aggregates by default, so that their number does not grow with the queues; figures of single queues only
//! for those that are asked for. Names and units follow the conventions: base units, `_total` for what only
//! grows. What a leader alone knows is told by the leader's node: sum over the nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quorate_machine::queue::{SlotInfo, SlotState, Stats};

use crate::health::has_majority;
use crate::member::Member;
use crate::queue::Queue;

/// Queues whose own figures are told at once, at most.
const QUEUES_MAX: usize = 1_000;

/// Which figures are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Aggregates,
    AllQueues,
    Queues(Vec<String>),
}

impl Wanted {
    pub(crate) fn add(&mut self, queue: &str) {
        match self {
            Self::Queues(queues) if queues.len() < QUEUES_MAX => queues.push(queue.to_owned()),
            Self::Aggregates => *self = Self::Queues(vec![queue.to_owned()]),
            Self::AllQueues | Self::Queues(_) => {}
        }
    }

    fn includes(&self, queue: &str) -> bool {
        match self {
            Self::Aggregates => false,
            Self::AllQueues => true,
            Self::Queues(queues) => queues.iter().any(|wanted| wanted == queue),
        }
    }
}

/// Label and value; none for a figure of the whole node.
type Label<'a> = Option<(&'static str, &'a str)>;
type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// Gathers figures as they are now; those of one name are one family.
#[derive(Default)]
struct Figures {
    gauges: BTreeMap<&'static str, (&'static str, Gauges)>,
    counters: BTreeMap<&'static str, (&'static str, Counters)>,
}

impl Figures {
    fn gauge(&mut self, name: &'static str, help: &'static str, label: Label<'_>, value: f64) {
        let (_, family) = self.gauges.entry(name).or_insert_with(|| (help, Family::default()));
        family.get_or_create(&labels(label)).set(value);
    }

    /// The format adds `_total` to the name.
    fn counter(&mut self, name: &'static str, help: &'static str, label: Label<'_>, value: u64) {
        let (_, family) = self.counters.entry(name).or_insert_with(|| (help, Family::default()));
        family.get_or_create(&labels(label)).inc_by(value);
    }

    fn text(self) -> String {
        let mut registry = Registry::with_prefix("quorate");
        for (name, (help, family)) in self.gauges {
            registry.register(name, help, family);
        }
        for (name, (help, family)) in self.counters {
            registry.register(name, help, family);
        }
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

fn labels(label: Label<'_>) -> Labels {
    label.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

/// Everything that is wanted, as text.
pub(crate) async fn of(member: &Member, wanted: &Wanted) -> String {
    let mut figures = Figures::default();
    node(member, &mut figures);
    log(member, &mut figures);
    traffic(member, &mut figures);
    traces(member, &mut figures);
    let queues = member.queues.all();
    held(&queues, &mut figures);
    replication(&queues, &mut figures).await;
    let shown = led(&queues).filter(|queue| wanted.includes(queue.name.as_str()));
    for queue in shown.take(QUEUES_MAX) {
        single(queue, &mut figures).await;
    }
    figures.text()
}

fn node(member: &Member, figures: &mut Figures) {
    let version = ("version", env!("CARGO_PKG_VERSION"));
    figures.gauge("build_info", "Version of the program", Some(version), 1.0);
    let is = |holds: bool| f64::from(u8::from(holds));
    figures.gauge("ready", "Whether the node can serve", None, is(has_majority(member)));
    figures.gauge(
        "draining",
        "Whether it is being drained",
        None,
        is(member.is_draining(member.id())),
    );
    figures.gauge("disk_full", "Whether it refuses publishes", None, is(member.disk.is_full()));
    let free = member.disk.free_bytes() as f64;
    figures.gauge("disk_free_bytes", "Free on the file system of its data", None, free);
    let peers: Vec<u64> = member.catalog.read(|catalog| {
        catalog.nodes().map(|node| node.id.0).filter(|id| *id != member.id()).collect()
    });
    for peer in peers {
        let reachable = is(member.connections.reachable(peer));
        let label = peer.to_string();
        let help = "Whether another node is reached";
        figures.gauge("peer_reachable", help, Some(("peer", label.as_str())), reachable);
    }
}

fn log(member: &Member, figures: &mut Figures) {
    let log = member.log.stats();
    let help = "Bytes written to the log, with headers and padding";
    figures.counter("log_written_bytes", help, None, log.written_bytes);
    let help = "Bytes of entries written to the log";
    figures.counter("log_payload_bytes", help, None, log.payload_bytes);
    figures.counter("log_flushes", "Durable writes of the log", None, log.flushes);
    figures.counter("log_records", "Records written to the log", None, log.records);
    let help = "Bytes copied forward to free segments";
    figures.counter("log_copied_bytes", help, None, log.copied_bytes);
    let disk = log.disk_bytes as f64;
    figures.gauge("log_disk_bytes", "Bytes of the log's files", None, disk);
    let live = log.live_bytes as f64;
    figures.gauge("log_live_bytes", "Bytes of the log that are needed", None, live);
    let queued = log.queued_bytes as f64;
    figures.gauge("log_queued_bytes", "Bytes that wait to be written", None, queued);
    figures.gauge("log_entries", "Entries stored", None, log.entries as f64);
}

fn traffic(member: &Member, figures: &mut Figures) {
    let counts = &member.counts;
    let help = "Messages of publishes that were taken in";
    figures.counter("published_messages", help, None, counts.published.get());
    let help = "Bytes of publishes that were taken in";
    figures.counter("published_bytes", help, None, counts.published_bytes.get());
    for (level, count) in
        [("accepted", &counts.accepted), ("quorum", &counts.quorum), ("all", &counts.all)]
    {
        let help = "Messages with a receipt, by its level";
        figures.counter("confirmed_messages", help, Some(("level", level)), count.get());
    }
    let help = "Publishes that were answered with a failure";
    figures.counter("failed_publishes", help, None, counts.failed.get());
    let help = "Messages handed to consumers, repeated ones included";
    figures.counter("delivered_messages", help, None, counts.delivered.get());
    let help = "Bytes handed to consumers";
    figures.counter("delivered_bytes", help, None, counts.delivered_bytes.get());
    let help = "Messages moved to dead-letter queues, from the queues that this node leads";
    figures.counter("dead_lettered_messages", help, None, counts.dead_lettered.get());
    figures.counter("read_messages", "Messages shown to readers", None, counts.read.get());
    figures.counter("read_bytes", "Bytes shown to readers", None, counts.read_bytes.get());
}

/// Nothing where no collector is named.
fn traces(member: &Member, figures: &mut Figures) {
    let Some(stats) = member.telemetry.stats() else { return };
    figures.counter("spans_exported", "Spans that the collector took", None, stats.exported.get());
    let dropped =
        [("rate", &stats.beyond_rate), ("queue", &stats.queue_full), ("refused", &stats.refused)];
    for (reason, count) in dropped {
        let help = "Spans that were not told, by what was in the way";
        figures.counter("spans_dropped", help, Some(("reason", reason)), count.get());
    }
}

/// What the queues hold that this node leads.
fn held(queues: &[Arc<Queue>], figures: &mut Figures) {
    let replicas = queues.len() as f64;
    figures.gauge("queue_replicas", "Replicas of queues on this node", None, replicas);
    let parked = queues.iter().filter(|queue| queue.handle.replica().is_parked()).count();
    figures.gauge("queue_replicas_parked", "Of those, parked", None, parked as f64);
    let leaderless = |queue: &&Arc<Queue>| queue.handle.leadership().leader.is_none();
    let leaderless = queues.iter().filter(leaderless).count() as f64;
    figures.gauge("queue_replicas_without_leader", "Of those, without a leader", None, leaderless);
    let led: Vec<_> = led(queues).collect();
    figures.gauge("queues_led", "Queues that this node leads", None, led.len() as f64);
    let stats = led.iter().map(|queue| queue.handle.read(|machine| machine.stats()));
    let mut sums = [0u64; 8];
    let mut slots = Slots::default();
    for stats in stats {
        slots.add(&stats.slots);
        let connected = stats.consumers.iter().filter(|consumer| consumer.connected).count();
        let Stats { ready, leased, delayed, blocked, retained, dead, bytes, .. } = stats;
        let of = [ready, leased, delayed, blocked, retained, dead, bytes];
        sums.iter_mut().zip(of).for_each(|(sum, of)| *sum += of);
        sums[7] += connected as u64;
    }
    let states = ["ready", "leased", "delayed", "blocked", "retained", "dead"];
    for (state, sum) in states.into_iter().zip(sums) {
        let help = "Messages in the queues that this node leads, by their state";
        figures.gauge("messages", help, Some(("state", state)), sum as f64);
    }
    let help = "Bytes held in the queues that this node leads";
    figures.gauge("messages_bytes", help, None, sums[6] as f64);
    let help = "Consumers connected to the queues that this node leads";
    figures.gauge("consumers", help, None, sums[7] as f64);
    let stuck = led.iter().filter(|queue| queue.stuck().is_some()).count() as f64;
    let help = "Queues that this node leads whose dead messages cannot be moved for the moment";
    figures.gauge("queues_with_stuck_dead_letters", help, None, stuck);
    slots.tell(figures);
}

/// The slots of the queues that this node leads, all together.
#[derive(Default)]
struct Slots {
    states: [u64; 4],
    retained_bytes: u64,
    bound_used: f64,
}

impl Slots {
    fn add(&mut self, slots: &[SlotInfo]) {
        for slot in slots {
            self.states[slot.state as usize] += 1;
            self.retained_bytes += slot.retained_bytes;
            // One that is lost keeps nothing, and is told by its state.
            let used = slot.retained_bytes as f64 / slot.max_retained_bytes.max(1) as f64;
            self.bound_used = self.bound_used.max(used);
        }
    }

    fn tell(&self, figures: &mut Figures) {
        let states = [
            ("reserved", SlotState::Reserved),
            ("extended", SlotState::Extended),
            ("unreserved", SlotState::Unreserved),
            ("lost", SlotState::Lost),
        ];
        for (name, state) in states {
            let help = "Slots of the queues that this node leads, by their state";
            let count = self.states[state as usize] as f64;
            figures.gauge("slots", help, Some(("state", name)), count);
        }
        let help = "Bytes that are retained from the slots' positions on, each slot's added up";
        figures.gauge("slots_retained_bytes", help, None, self.retained_bytes as f64);
        let help =
            "The largest part of its bound that any slot has used; beyond 1 it keeps nothing";
        figures.gauge("slots_bound_used_ratio", help, None, self.bound_used);
    }
}

fn led(queues: &[Arc<Queue>]) -> impl Iterator<Item = &Arc<Queue>> {
    queues.iter().filter(|queue| queue.handle.leadership().leads)
}

/// How far the replicas are of the queues that this node leads.
async fn replication(queues: &[Arc<Queue>], figures: &mut Figures) {
    let (mut in_sync, mut lagging, mut away) = (0u64, 0u64, 0u64);
    let (mut entries, mut bytes, mut oldest_ms) = (0u64, 0u64, 0u64);
    // To tell how old the lag is, an entry is read for each.
    let mut looks = LAGS_MAX;
    for queue in led(queues) {
        let handle = &queue.handle;
        let limit = handle.read(|machine| u64::from(machine.settings().in_sync_lag_ms));
        for seen in handle.progress() {
            let is_looked_up = seen.lag > 0 && looks > 0;
            looks -= u32::from(is_looked_up);
            let behind = match is_looked_up {
                true => handle.behind_ms(seen.matched).await,
                false => 0,
            };
            match (seen.is_there, behind <= limit) {
                (false, _) => away += 1,
                (true, true) => in_sync += 1,
                (true, false) => lagging += 1,
            }
            if let (Some(matched), 1..) = (seen.matched, seen.lag) {
                entries += seen.lag;
                bytes += if is_looked_up { handle.bytes_behind(matched) } else { 0 };
                // One that the log no longer reaches back to is as old as it can be told.
                oldest_ms = oldest_ms.max(if behind == u64::MAX { FOREVER_MS } else { behind });
            }
        }
    }
    for (state, count) in [("in_sync", in_sync), ("lagging", lagging), ("away", away)] {
        let help = "Replicas of the queues that this node leads, by their state";
        figures.gauge("replicas", help, Some(("state", state)), count as f64);
    }
    let help = "Entries that replicas lack, all queues that this node leads together";
    figures.gauge("replication_lag_entries", help, None, entries as f64);
    figures.gauge("replication_lag_bytes", "The same in bytes", None, bytes as f64);
    let help = "Age of the oldest entry that any replica lacks, of the queues that this node leads";
    figures.gauge("replication_lag_seconds", help, None, oldest_ms as f64 / 1000.0);
}

/// Replicas whose lag is looked up in one scrape, at most; only these count for its age and bytes, and as lagging.
const LAGS_MAX: u32 = 64;
/// A lag beyond the log: a week.
const FOREVER_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// One queue's own figures, at its leader.
async fn single(queue: &Queue, figures: &mut Figures) {
    let handle = &queue.handle;
    let label = Some(("queue", queue.name.as_str()));
    let stats = handle.read(|machine| machine.stats());
    figures.gauge("queue_ready_messages", "Messages ready", label, stats.ready as f64);
    figures.gauge("queue_leased_messages", "Messages leased", label, stats.leased as f64);
    figures.gauge("queue_delayed_messages", "Messages delayed", label, stats.delayed as f64);
    figures.gauge("queue_blocked_messages", "Messages blocked", label, stats.blocked as f64);
    let help = "Messages that wait to be moved to the dead-letter queue";
    figures.gauge("queue_dead_messages", help, label, stats.dead as f64);
    let help = "Messages ever moved to the dead-letter queue";
    figures.counter("queue_dead_lettered_messages", help, label, stats.dead_lettered);
    let stuck = f64::from(u8::from(queue.stuck().is_some()));
    let help = "Whether dead messages cannot be moved for the moment";
    figures.gauge("queue_dead_letters_stuck", help, label, stuck);
    figures.gauge("queue_retained_messages", "Messages retained", label, stats.retained as f64);
    figures.gauge("queue_bytes", "Bytes held", label, stats.bytes as f64);
    figures.counter("queue_published_messages", "Messages ever taken in", label, stats.published);
    figures.counter("queue_acked_messages", "Messages ever acknowledged", label, stats.acked);
    let help = "Times that a settled message was made ready again, as consumers were set back";
    figures.counter("queue_replayed_messages", help, label, stats.replayed);
    figures.counter("queue_expired_messages", "Messages that expired", label, stats.expired);
    let help = "Messages that made room for newer ones";
    figures.counter("queue_dropped_messages", help, label, stats.dropped);
    let retained = stats.slots.iter().map(|slot| slot.retained_bytes).max().unwrap_or(0);
    let help = "Bytes that are retained for the slot that needs most";
    figures.gauge("queue_slot_retained_bytes", help, label, retained as f64);
    let lag = stats.slots.iter().map(|slot| slot.lag).max().unwrap_or(0);
    let help = "Messages between the slot that is furthest behind and the end of the queue";
    figures.gauge("queue_slot_lag_messages", help, label, lag as f64);
    let mut lag_ms = 0;
    for seen in handle.progress().into_iter().filter(|seen| seen.lag > 0) {
        lag_ms = lag_ms.max(handle.behind_ms(seen.matched).await.min(FOREVER_MS));
    }
    let help = "Age of the oldest entry that any replica lacks";
    figures.gauge("queue_replication_lag_seconds", help, label, lag_ms as f64 / 1000.0);
}
