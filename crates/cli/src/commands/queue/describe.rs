//! `quorate queue describe NAME`, and the JSON form of a queue that the other verbs print too.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use quorate_client::{Overflow, QueueDescription, QueueSettings, ReplicaRole};
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::commands::consumer;
use crate::failure::Failure;
use crate::session;
use crate::table::{Facts, Table};
use crate::units;

/// Options of `queue describe`.
#[derive(Debug, clap::Args)]
pub struct Args {
    name: String,
}

/// Shows one queue.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let asking = client.describe_queue(args.name.as_str());
    let queue = session::within(global, "describe queue", asking).await?;
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(out, "{}", json(&queue))?,
        Format::Table => write!(out, "{}", text(&queue))?,
    }
    Ok(())
}

fn text(queue: &QueueDescription) -> String {
    let mut facts = Facts::default();
    facts.fact("queue", &queue.name);
    match &queue.sharding {
        Some(sharding) => facts
            .fact("shards", format!("{}, keys spread by {}", sharding.shards.len(), sharding.hash)),
        None => leader(queue, &mut facts),
    };
    if queue.paused {
        facts.fact("paused", "hands out nothing; `quorate queue resume` takes that back");
    }
    if queue.moving {
        facts.fact("replicas", "being changed");
    }
    settings(queue, &mut facts);
    counts(queue, &mut facts);
    if !queue.dead_letters_wait.is_empty() {
        facts.fact("dead letters wait", &queue.dead_letters_wait);
    }
    let mut text = facts.to_string();
    let table = if queue.sharding.is_some() { shards(queue) } else { replicas(queue) };
    text.push_str(&format!("\n{table}"));
    if !queue.consumers.is_empty() {
        text.push_str(&format!("\n{}", consumers(queue)));
    }
    text
}

fn leader<'a>(queue: &QueueDescription, facts: &'a mut Facts) -> &'a mut Facts {
    facts.fact(
        "leader",
        queue.leader.as_ref().map_or("none: no election has succeeded yet".to_owned(), |leader| {
            format!("node {} at {}, term {}", leader.node_id, leader.address, leader.term)
        }),
    )
}

/// Nodes that hold something of a queue.
pub fn nodes(queue: &QueueDescription) -> usize {
    let replicas = queue.shards.iter().flat_map(|shard| &shard.replicas).chain(&queue.replicas);
    replicas.map(|replica| replica.node_id).collect::<BTreeSet<_>>().len()
}

fn shards(queue: &QueueDescription) -> Table {
    let headers =
        ["shard", ">ready", ">leased", ">delayed", ">dead", ">size", ">next offset", ">leader"];
    let mut table = Table::new(&headers);
    for shard in &queue.shards {
        let counts = shard.counts.as_ref();
        let count = |figure: Option<u64>| figure.map_or("?".to_owned(), units::count);
        table.row([
            shard.name.clone(),
            count(counts.map(|counts| counts.ready)),
            count(counts.map(|counts| counts.leased)),
            count(counts.map(|counts| counts.delayed)),
            count(counts.map(|counts| counts.dead)),
            counts.map_or("?".to_owned(), |counts| units::bytes(counts.bytes)),
            counts.map_or("?".to_owned(), |counts| counts.next_offset.to_string()),
            shard.leader.as_ref().map_or("none".to_owned(), |leader| leader.node_id.to_string()),
        ]);
    }
    table
}

fn settings(queue: &QueueDescription, facts: &mut Facts) {
    let Some(settings) = &queue.settings else { return };
    let limit = |value: u64, shown: String| if value == 0 { "no limit".to_owned() } else { shown };
    let ttl = units::duration(Duration::from_millis(settings.ttl_ms));
    let time = |millis: u32| units::duration(Duration::from_millis(u64::from(millis)));
    facts
        .fact("max messages", limit(settings.max_messages, units::count(settings.max_messages)))
        .fact("max size", limit(settings.max_bytes, units::bytes(settings.max_bytes)))
        .fact(
            "max deliveries",
            limit(settings.max_deliveries.into(), settings.max_deliveries.to_string()),
        )
        .fact("overflow", overflow(settings))
        .fact("priorities", if settings.priorities { "0 to 9" } else { "no" })
        .fact("time to live", limit(settings.ttl_ms, ttl))
        .fact("retries", retries(settings))
        .fact(
            "dead letters",
            match settings.dead_letter.as_str() {
                "" => "dropped".to_owned(),
                queue => format!("to {queue}"),
            },
        )
        .fact("lease", time(settings.lease_ms))
        .fact("session grace", time(settings.session_grace_ms))
        .fact("dedup age", time(settings.dedup_age_ms))
        .fact("message ids", format!("{} at most", units::count(settings.message_id_window.into())))
        .fact("retains settled messages", retention(settings))
        .fact(
            "consumers",
            if settings.single_active { "one active at a time" } else { "side by side" },
        )
        .fact(
            "filtered by",
            match settings.filter_header.as_str() {
                "" => "nothing".to_owned(),
                header => format!("header {header}"),
            },
        )
        .fact(
            "in sync",
            format!("{} at least, within {}", settings.min_in_sync, time(settings.in_sync_lag_ms)),
        );
}

fn overflow(settings: &QueueSettings) -> &'static str {
    match settings.overflow() {
        Overflow::DropHead => "drop-head",
        Overflow::Reject | Overflow::Unspecified => "reject",
    }
}

fn retries(settings: &QueueSettings) -> String {
    let time = |millis: u32| units::duration(Duration::from_millis(u64::from(millis)));
    match settings.retry_ms {
        0 => "at once".to_owned(),
        first => format!("after {}, doubled up to {}", time(first), time(settings.retry_max_ms)),
    }
}

fn retention(settings: &QueueSettings) -> String {
    let age = || units::duration(Duration::from_millis(settings.retain_ms));
    match (settings.retain_ms, settings.retain_bytes) {
        (0, 0) => "no".to_owned(),
        (0, bytes) => format!("up to {}", units::bytes(bytes)),
        (_, 0) => format!("for {}", age()),
        (_, bytes) => format!("for {}, up to {}", age(), units::bytes(bytes)),
    }
}

fn counts(queue: &QueueDescription, facts: &mut Facts) {
    let Some(counts) = &queue.counts else {
        facts.fact("counts", "unknown: the leader did not answer");
        return;
    };
    facts
        .fact("published", units::count(counts.published))
        .fact("ready", units::count(counts.ready))
        .fact("leased", units::count(counts.leased))
        .fact("delayed", units::count(counts.delayed))
        .fact("blocked", units::count(counts.blocked))
        .fact("acked", units::count(counts.acked))
        .fact("rejected", units::count(counts.rejected))
        .fact("exhausted", units::count(counts.exhausted))
        .fact("purged", units::count(counts.purged))
        .fact("expired", units::count(counts.expired))
        .fact("dropped", units::count(counts.dropped))
        .fact("dead", units::count(counts.dead))
        .fact("dead-lettered", units::count(counts.dead_lettered))
        .fact("replayed", units::count(counts.replayed))
        .fact("size", units::bytes(counts.bytes))
        .fact(
            "retained",
            format!("{}, {}", units::count(counts.retained), units::bytes(counts.retained_bytes)),
        );
    if queue.sharding.is_none() {
        let offsets = format!("{} to before {}", counts.first_offset, counts.next_offset);
        facts.fact("offsets", offsets);
    }
}

fn replicas(queue: &QueueDescription) -> Table {
    let mut table = Table::new(&[">node", "zone", "address", "role", ">matched", ">lag"]);
    for replica in &queue.replicas {
        table.row([
            replica.node_id.to_string(),
            replica.zone.clone(),
            replica.address.clone(),
            if replica.leaving { "leaving" } else { role(replica.role()) }.to_owned(),
            units::count(replica.matched_index),
            units::count(replica.lag),
        ]);
    }
    table
}

fn consumers(queue: &QueueDescription) -> Table {
    consumer::table(&queue.consumers)
}

pub fn role(role: ReplicaRole) -> &'static str {
    match role {
        ReplicaRole::Leader => "leader",
        ReplicaRole::Follower => "follower",
        ReplicaRole::Observer => "observer",
        ReplicaRole::Unspecified => "unknown",
    }
}

/// The queue as JSON, by the names of the API; what is unknown is null.
pub fn json(queue: &QueueDescription) -> Value {
    let mut json = json!({
        "name": queue.name,
        "group_id": queue.group_id,
        "leader": queue.leader.as_ref().map(|leader| json!({
            "node_id": leader.node_id, "address": leader.address, "term": leader.term,
        })),
        "settings": queue.settings.as_ref().map(|settings| json!({
            "replicas": settings.replicas,
            "max_messages": settings.max_messages,
            "max_bytes": settings.max_bytes,
            "max_deliveries": settings.max_deliveries,
            "lease_ms": settings.lease_ms,
            "session_grace_ms": settings.session_grace_ms,
            "dedup_age_ms": settings.dedup_age_ms,
            "min_in_sync": settings.min_in_sync,
            "in_sync_lag_ms": settings.in_sync_lag_ms,
            "retain_ms": settings.retain_ms,
            "retain_bytes": settings.retain_bytes,
            "single_active": settings.single_active,
            "ttl_ms": settings.ttl_ms,
            "overflow": overflow(settings),
            "priorities": settings.priorities,
            "retry_ms": settings.retry_ms,
            "retry_max_ms": settings.retry_max_ms,
            "dead_letter": settings.dead_letter,
            "message_id_window": settings.message_id_window,
            "filter_header": settings.filter_header,
        })),
        "counts": queue.counts.as_ref().map(|counts| json!({
            "published": counts.published, "ready": counts.ready, "leased": counts.leased,
            "delayed": counts.delayed, "blocked": counts.blocked, "acked": counts.acked, "rejected": counts.rejected,
            "exhausted": counts.exhausted, "purged": counts.purged, "bytes": counts.bytes,
            "first_offset": counts.first_offset, "next_offset": counts.next_offset,
            "retained": counts.retained, "retained_bytes": counts.retained_bytes,
            "first_readable_offset": counts.first_readable_offset,
            "expired": counts.expired, "dropped": counts.dropped,
            "dead": counts.dead, "dead_lettered": counts.dead_lettered, "replayed": counts.replayed,
        })),
        "replicas": queue.replicas.iter().map(|replica| json!({
            "node_id": replica.node_id, "address": replica.address, "role": role(replica.role()),
            "matched_index": replica.matched_index, "lag": replica.lag, "zone": replica.zone,
            "leaving": replica.leaving,
        })).collect::<Vec<_>>(),
        "moving": queue.moving,
        "paused": queue.paused,
        "dead_letters_wait": queue.dead_letters_wait,
        "consumers": queue.consumers.iter().map(consumer::json).collect::<Vec<_>>(),
    });
    if let Some(sharding) = &queue.sharding {
        json["sharding"] = json!({
            "generation": sharding.generation, "hash": sharding.hash, "shards": sharding.shards,
        });
        let shards: Vec<Value> = queue.shards.iter().map(self::json).collect();
        json["shards"] = shards.into();
    }
    json
}
