//! `quorate queue explain NAME OFFSET`: where a message is, and why nobody gets it.
//!
//! One line says where it is, the lines under `why` what keeps it there and what to do; then what is known of the
//! message. Of one that was moved to the dead-letter queue, its place there is looked for.

use std::io::Write;
use std::time::Duration;

use futures_util::StreamExt;
use quorate_client::{
    BlockedMessage, BlockingMessage, Client, DeadMessage, DelayedMessage, DeliveryObstacle, GoneBy,
    GoneMessage, LeasedMessage, MessageExplanation, MessageFacts, MessageHolder, MessagePlace,
    ReadyMessage, ReplicaPresence, dead_letter,
};
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::session;
use crate::table::{Facts, Table};
use crate::units;

/// Most messages of a dead-letter queue that are looked at for one.
const TRACE_MESSAGES: u64 = 100_000;
/// The longest that this takes.
const TRACE_LIMIT: Duration = Duration::from_secs(10);

/// Where a message is in the dead-letter queue.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    queue: String,
    offset: u64,
    cause: String,
}

/// Explains one message.
pub async fn run(name: &str, offset: u64, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let asking = client.explain_message(name, offset);
    let explained = session::within(global, "explain the message", asking).await?;
    let trace = match &explained.place {
        Some(MessagePlace::Gone(gone)) => trace(&client, gone, &explained).await,
        _ => None,
    };
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(out, "{}", json(&explained, trace.as_ref()))?,
        Format::Table => write!(out, "{}", text(&explained, trace.as_ref()))?,
    }
    Ok(())
}

/// Looks for a message in the dead-letter queue, if any was moved there. That it is not found says nothing.
async fn trace(
    client: &Client,
    gone: &GoneMessage,
    explained: &MessageExplanation,
) -> Option<Trace> {
    if !gone.ways.iter().any(|way| way.by() == GoneBy::DeadLetter) || gone.dead_letter.is_empty() {
        return None;
    }
    let looking = async {
        let mut reader = client.reader(gone.dead_letter.as_str()).limit(TRACE_MESSAGES).build();
        while let Some(message) = reader.next().await {
            let message = message.ok()?;
            let says = |key: &str, value: &str| {
                message.headers.get(key).is_some_and(|is| is == value.as_bytes())
            };
            if says(dead_letter::SOURCE, &explained.queue)
                && says(dead_letter::OFFSET, &explained.offset.to_string())
            {
                let cause = message.headers.get(dead_letter::CAUSE).unwrap_or_default();
                let cause = String::from_utf8_lossy(&cause).into_owned();
                return Some(Trace {
                    queue: gone.dead_letter.clone(),
                    offset: message.offset,
                    cause,
                });
            }
        }
        None
    };
    tokio::time::timeout(TRACE_LIMIT, looking).await.ok().flatten()
}

fn text(explained: &MessageExplanation, trace: Option<&Trace>) -> String {
    let mut facts = Facts::default();
    facts.fact("queue", &explained.queue).fact("offset", explained.offset.to_string());
    facts.fact("state", state(explained));
    for (at, sentence) in why(explained, trace).into_iter().enumerate() {
        facts.fact(if at == 0 { "why" } else { "" }, sentence);
    }
    told(explained, &mut facts);
    let seen = match (explained.confirmed, explained.node_id) {
        (true, node) => format!("node {node}, which leads the queue, with a majority behind it"),
        (false, 0) => "nowhere: the node that was asked has no replica of the queue".to_owned(),
        (false, node) => {
            format!("node {node}'s replica alone: it may be older than what others have")
        }
    };
    facts.fact("seen from", seen);
    let mut text = facts.to_string();
    if !explained.replicas.is_empty() {
        text.push_str(&format!("\n{}", replicas(&explained.replicas)));
    }
    text
}

/// In one word.
fn state(explained: &MessageExplanation) -> &'static str {
    match &explained.place {
        None => "unknown",
        Some(MessagePlace::Unpublished(_)) => "unpublished",
        Some(MessagePlace::Ready(_)) => "ready",
        Some(MessagePlace::Delayed(_)) => "delayed",
        Some(MessagePlace::Leased(_)) => "leased",
        Some(MessagePlace::Blocked(_)) => "blocked",
        Some(MessagePlace::Dead(_)) => "dead",
        Some(MessagePlace::Gone(gone)) => {
            if gone.kept.as_ref().is_some_and(|kept| kept.readable) {
                "settled"
            } else {
                "gone"
            }
        }
    }
}

/// What keeps it where it is, and what to do about it.
fn why(explained: &MessageExplanation, trace: Option<&Trace>) -> Vec<String> {
    let mut why = Vec::new();
    if !explained.confirmed {
        why.push(format!("not confirmed: {}", explained.unconfirmed));
    }
    let (now, facts) = (explained.now_ms, explained.facts.clone().unwrap_or_default());
    match &explained.place {
        None => {
            why.push("nothing is known of it: no replica of the queue could be asked".to_owned())
        }
        Some(MessagePlace::Unpublished(_)) => why.push(format!(
            "no message has this offset yet: the next one will get {}",
            units::count(explained.next_offset)
        )),
        Some(MessagePlace::Ready(ready)) => why.extend(of_ready(ready, &explained.queue)),
        Some(MessagePlace::Delayed(delayed)) => {
            why.push(of_delayed(delayed, &facts, now));
        }
        Some(MessagePlace::Leased(leased)) => why.extend(of_leased(leased, &facts, now)),
        Some(MessagePlace::Blocked(blocked)) => {
            why.extend(of_blocked(blocked, &facts, &explained.queue, now));
        }
        Some(MessagePlace::Dead(dead)) => why.extend(of_dead(dead)),
        Some(MessagePlace::Gone(gone)) => why.extend(of_gone(gone, explained, trace)),
    }
    if facts.expires_at_ms.is_some_and(|at| at <= now) {
        why.push(match &explained.place {
            Some(MessagePlace::Leased(_)) => {
                "it has expired: acknowledged it counts as done, given back it leaves".to_owned()
            }
            _ => "it has expired: it is not delivered any more, and leaves".to_owned(),
        });
    }
    why
}

fn of_ready(ready: &ReadyMessage, queue: &str) -> Vec<String> {
    let mut why = Vec::new();
    why.push(match (ready.ahead, ready.ahead_by_priority) {
        (0, _) => "it is the next".to_owned(),
        (ahead, 0) => format!("{} messages are handed out before it", units::count(ahead)),
        (ahead, higher) => format!(
            "{} messages are handed out before it, {} of them for a higher priority",
            units::count(ahead),
            units::count(higher)
        ),
    });
    for obstacle in ready.obstacles() {
        why.push(of_obstacle(obstacle, ready, queue));
    }
    if ready.obstacles.is_empty() {
        why.push("nothing is in the way: it is being handed out".to_owned());
    }
    why
}

fn of_obstacle(obstacle: DeliveryObstacle, ready: &ReadyMessage, queue: &str) -> String {
    let crowd = crowd(ready);
    let active = || ready.active.as_ref().map_or_else(|| "another consumer".to_owned(), holder);
    match obstacle {
        DeliveryObstacle::QueuePaused => {
            format!("the queue is paused: `quorate queue resume {queue}`")
        }
        DeliveryObstacle::TooManyDead => format!(
            "too many dead messages wait to be moved: `quorate queue describe {queue}` says why"
        ),
        DeliveryObstacle::ExpiryBehind => {
            "many messages have expired at once; it goes on when they have left".to_owned()
        }
        DeliveryObstacle::NoConsumer => "nobody consumes".to_owned(),
        DeliveryObstacle::ConsumersAway => {
            format!("none of the {crowd} is there, or asks for messages")
        }
        DeliveryObstacle::ConsumersPaused => format!(
            "of the {crowd}, those that are there are paused: `quorate consumer list {queue}`"
        ),
        DeliveryObstacle::FilteredOut => format!(
            "of the {crowd}, those that are there have a filter that it does not pass: `quorate consumer describe {queue} \
             NAME` shows each"
        ),
        DeliveryObstacle::CreditUsed => format!(
            "all {crowd}: those that could take it hold as many as they may (prefetch), and have settled none"
        ),
        DeliveryObstacle::ActiveFull => format!(
            "one consumer at a time: {} is the active one and holds as many as it may; the others stand by",
            active()
        ),
        DeliveryObstacle::OthersHold => format!(
            "one consumer at a time: {} is not the next, and what it holds has to be settled or given back first",
            active()
        ),
        DeliveryObstacle::Unspecified => {
            "the server names an obstacle that this program does not know".to_owned()
        }
    }
}

/// `3 consumers (1 away, 2 full)`.
fn crowd(ready: &ReadyMessage) -> String {
    let parts = [
        (ready.consumers_away, "away"),
        (ready.consumers_paused, "paused"),
        (ready.consumers_filtered, "filtered"),
        (ready.consumers_full, "full"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, what)| format!("{count} {what}")).collect();
    let s = if ready.consumers == 1 { "" } else { "s" };
    format!("{} consumer{s} ({})", ready.consumers, parts.join(", "))
}

/// `consumer "billing" (session 9f…, node 2, 3 of 10)`.
fn holder(holder: &MessageHolder) -> String {
    let state = match (holder.connected, holder.paused) {
        (false, _) => ", not connected",
        (true, true) => ", paused",
        (true, false) => "",
    };
    format!(
        "consumer {:?} (session {}, node {}, holds {} of {}{state})",
        holder.name,
        session_text(holder),
        holder.node_id,
        holder.leased,
        holder.prefetch
    )
}

fn session_text(holder: &MessageHolder) -> String {
    holder.session.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_delayed(delayed: &DelayedMessage, facts: &MessageFacts, now: u64) -> String {
    let due = when(delayed.due_ms, now);
    match facts.deliveries {
        Some(tries @ 1..) => format!(
            "it came back and waits to be tried again: due {due}, delivered {} so far",
            of_most(tries, facts)
        ),
        _ => format!("it was published for later: due {due}"),
    }
}

fn of_most(deliveries: u32, facts: &MessageFacts) -> String {
    match facts.max_deliveries {
        0 if deliveries == 1 => "once".to_owned(),
        0 => format!("{deliveries} times"),
        most => format!("{deliveries} of at most {most} times"),
    }
}

fn of_leased(leased: &LeasedMessage, facts: &MessageFacts, now: u64) -> Vec<String> {
    let who = leased.holder.as_ref().map_or_else(|| "a consumer".to_owned(), holder);
    let begun = if leased.started { "" } else { ", and has not begun with it" };
    let mut why = vec![format!("{who} has it{begun}")];
    why.push(format!(
        "its lease ends {} unless it is extended; delivered {}, this one included",
        when(leased.until_ms, now),
        of_most(facts.deliveries.unwrap_or(1), facts)
    ));
    why
}

fn of_blocked(
    blocked: &BlockedMessage,
    facts: &MessageFacts,
    queue: &str,
    now: u64,
) -> Vec<String> {
    let head = blocked.head_offset;
    let mut why = vec![match blocked.ahead {
        0 | 1 => format!("its group key waits for message {head}"),
        ahead => format!(
            "{} messages of its group key come first, message {head} before all",
            units::count(ahead)
        ),
    }];
    match &blocked.head {
        Some(BlockingMessage::Leased(leased)) => {
            let of_head = MessageFacts { deliveries: None, max_deliveries: 0, ..facts.clone() };
            why.push(format!("{head}: {}", of_leased(leased, &of_head, now)[0]));
            why.push(format!("{head}: its lease ends {}", when(leased.until_ms, now)));
        }
        Some(BlockingMessage::Delayed(delayed)) => {
            why.push(format!("{head} waits for its time: due {}", when(delayed.due_ms, now)));
        }
        Some(BlockingMessage::Ready(ready)) => {
            why.extend(of_ready(ready, queue).into_iter().map(|line| format!("{head}: {line}")));
        }
        None => {}
    }
    why.push(format!("more of {head}: `quorate queue explain {queue} {head}`"));
    if blocked.due_ms > now {
        why.push(format!("for itself it is due {}", when(blocked.due_ms, now)));
    }
    why
}

fn of_dead(dead: &DeadMessage) -> Vec<String> {
    let to = match dead.dead_letter.as_str() {
        "" => "another queue, which is not named any more".to_owned(),
        queue => queue.to_owned(),
    };
    let mut why = vec![format!("it was {}, and waits to be moved to {to}", dead.cause)];
    if dead.ahead > 0 {
        why.push(format!("{} dead messages are moved before it", units::count(dead.ahead)));
    }
    if !dead.waits.is_empty() {
        why.push(format!("they wait: {}", dead.waits));
    }
    why
}

fn of_gone(
    gone: &GoneMessage,
    explained: &MessageExplanation,
    trace: Option<&Trace>,
) -> Vec<String> {
    let mut why = Vec::new();
    if let Some(trace) = trace {
        why.push(format!(
            "it was {} and moved: it is {}/{} now",
            trace.cause, trace.queue, trace.offset
        ));
    } else {
        why.extend(of_ways(gone));
    }
    let queue = &explained.queue;
    match &gone.kept {
        None if explained.offset < explained.first_offset => why.push(format!(
            "nothing is left of it: the oldest message that the queue holds is {}",
            explained.first_offset
        )),
        None => why.push("nothing is left of it".to_owned()),
        Some(kept) if !kept.readable => why.push(format!(
            "its bytes are in the log as long as {} others of its batch are held; readers do not see them",
            kept.held_with
        )),
        Some(kept) => {
            let mut until = Vec::new();
            if kept.until_ms > 0 {
                until.push(format!("until {}", when(kept.until_ms, explained.now_ms)));
            }
            if !kept.slots.is_empty() {
                until.push(format!("while slot {} needs it", kept.slots.join(", ")));
            }
            if kept.held_with > 0 {
                until.push(format!("while {} of its batch are held", kept.held_with));
            }
            if until.is_empty() {
                until.push("as long as there is room".to_owned());
            }
            why.push(format!(
                "it is kept for readers {}: `quorate read {queue} --from {} -n 1`",
                until.join(", "),
                explained.offset
            ));
        }
    }
    why
}

fn of_ways(gone: &GoneMessage) -> Vec<String> {
    let ways: Vec<(String, u64)> =
        gone.ways.iter().map(|way| (way_text(way.by()), way.messages)).collect();
    let mut why = match &ways[..] {
        [] => Vec::new(),
        [(way, _)] => vec![format!("it {way}: no message of this queue has left otherwise")],
        several => {
            let ways =
                several.iter().map(|(way, count)| format!("{way} ({})", units::count(*count)));
            let ways = ways.collect::<Vec<_>>().join(", or ");
            vec![format!("it {ways}: which of these is not remembered message by message")]
        }
    };
    if gone.ways.iter().any(|way| way.by() == GoneBy::DeadLetter) && !gone.dead_letter.is_empty() {
        why.push(format!(
            "it is not among the first {} of the dead-letter queue {}, as far as that could be read",
            units::count(TRACE_MESSAGES),
            gone.dead_letter
        ));
    }
    why
}

fn way_text(by: GoneBy) -> String {
    match by {
        GoneBy::Ack => "was acknowledged",
        GoneBy::Reject => "was rejected and dropped, as there was no dead-letter queue",
        GoneBy::Exhaustion => {
            "was delivered too often and dropped, as there was no dead-letter queue"
        }
        GoneBy::Expiry => "expired and was dropped, as there was no dead-letter queue",
        GoneBy::Overflow => "was dropped to make room",
        GoneBy::DeadLetter => "was moved to the dead-letter queue",
        GoneBy::Purge => "was purged",
        GoneBy::Unspecified => "left in a way that this program does not know",
    }
    .to_owned()
}

/// `in 12.3 s`, or `5 min 02 s ago`.
fn when(at: u64, now: u64) -> String {
    let apart = |ms: u64| units::duration(Duration::from_millis(ms));
    match at.checked_sub(now) {
        Some(ahead @ 1..) => format!("in {}", apart(ahead)),
        _ => format!("{} ago", apart(now - at.min(now))),
    }
}

/// What is known of the message itself.
fn told(explained: &MessageExplanation, facts: &mut Facts) {
    let Some(known) = &explained.facts else { return };
    let now = explained.now_ms;
    let mut say = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            facts.fact(name, value);
        }
    };
    say("published", known.published_at_ms.map(|at| when(at, now)));
    say("size", known.bytes.map(units::bytes));
    say("headers", known.headers.map(|headers| headers.to_string()));
    let key = known.group_key.clone().filter(|key| !key.is_empty());
    say("group key", key.map(|key| format!("{key:?}")));
    say("priority", known.priority.map(|priority| priority.to_string()));
    let of_most = |deliveries: u32| match known.max_deliveries {
        0 => deliveries.to_string(),
        most => format!("{deliveries} of at most {most}"),
    };
    say("deliveries", known.deliveries.map(of_most));
    say("expires", known.expires_at_ms.map(|at| when(at, now)));
}

fn replicas(replicas: &[ReplicaPresence]) -> Table {
    let mut table = Table::new(&[">node", "address", "zone", "role", "state"]);
    for replica in replicas {
        let away = replica.away_ms.map(|ms| units::duration(Duration::from_millis(ms)));
        let state = match (replica.reachable, away) {
            (true, _) => "up".to_owned(),
            (false, Some(away)) => format!("away {away}"),
            (false, None) => "away".to_owned(),
        };
        table.row([
            replica.node_id.to_string(),
            replica.address.clone(),
            replica.zone.clone(),
            if replica.voter { "voter" } else { "observer" }.to_owned(),
            state,
        ]);
    }
    table
}

fn json(explained: &MessageExplanation, trace: Option<&Trace>) -> Value {
    let facts = explained.facts.clone().unwrap_or_default();
    let replica = |replica: &ReplicaPresence| {
        json!({
            "node_id": replica.node_id, "address": replica.address, "zone": replica.zone,
            "reachable": replica.reachable, "away_ms": replica.away_ms, "voter": replica.voter,
        })
    };
    json!({
        "queue": explained.queue, "offset": explained.offset, "group_id": explained.group_id,
        "state": state(explained), "why": why(explained, trace),
        "confirmed": explained.confirmed, "unconfirmed": explained.unconfirmed,
        "node_id": explained.node_id, "now_ms": explained.now_ms,
        "first_offset": explained.first_offset, "next_offset": explained.next_offset,
        "place": explained.place.as_ref().map(place_json),
        "dead_letter": trace.map(|trace| {
            json!({ "queue": trace.queue, "offset": trace.offset, "cause": trace.cause })
        }),
        "published_at_ms": facts.published_at_ms, "bytes": facts.bytes, "headers": facts.headers,
        "group_key": facts.group_key, "priority": facts.priority,
        "expires_at_ms": facts.expires_at_ms, "own_expires_at_ms": facts.own_expires_at_ms,
        "deliveries": facts.deliveries, "max_deliveries": facts.max_deliveries,
        "replicas": explained.replicas.iter().map(replica).collect::<Vec<_>>(),
    })
}

fn place_json(place: &MessagePlace) -> Value {
    match place {
        MessagePlace::Unpublished(_) => json!({}),
        MessagePlace::Ready(ready) => ready_json(ready),
        MessagePlace::Delayed(delayed) => json!({ "due_ms": delayed.due_ms }),
        MessagePlace::Leased(leased) => leased_json(leased),
        MessagePlace::Blocked(blocked) => {
            let head = match &blocked.head {
                Some(BlockingMessage::Ready(ready)) => json!({ "ready": ready_json(ready) }),
                Some(BlockingMessage::Delayed(it)) => json!({ "delayed": { "due_ms": it.due_ms } }),
                Some(BlockingMessage::Leased(leased)) => json!({ "leased": leased_json(leased) }),
                None => Value::Null,
            };
            json!({
                "head_offset": blocked.head_offset, "ahead": blocked.ahead, "due_ms": blocked.due_ms,
                "head": head,
            })
        }
        MessagePlace::Dead(dead) => json!({
            "cause": dead.cause, "dead_letter": dead.dead_letter, "ahead": dead.ahead, "waits": dead.waits,
        }),
        MessagePlace::Gone(gone) => {
            let name = |by: GoneBy| super::short(by.as_str_name(), "GONE_BY_");
            let ways = gone.ways.iter();
            let ways = ways.map(|way| json!({ "by": name(way.by()), "messages": way.messages }));
            let kept = gone.kept.as_ref().map(|kept| {
                json!({
                    "readable": kept.readable, "held_with": kept.held_with,
                    "until_ms": kept.until_ms, "slots": kept.slots,
                })
            });
            json!({
                "ways": ways.collect::<Vec<_>>(), "kept": kept, "dead_letter": gone.dead_letter,
            })
        }
    }
}

fn ready_json(ready: &ReadyMessage) -> Value {
    let name = |it: DeliveryObstacle| super::short(it.as_str_name(), "DELIVERY_OBSTACLE_");
    json!({
        "ahead": ready.ahead, "ahead_by_priority": ready.ahead_by_priority,
        "obstacles": ready.obstacles().map(name).collect::<Vec<_>>(),
        "consumers": ready.consumers, "consumers_away": ready.consumers_away,
        "consumers_paused": ready.consumers_paused, "consumers_full": ready.consumers_full,
        "consumers_filtered": ready.consumers_filtered,
        "active": ready.active.as_ref().map(holder_json),
    })
}

fn leased_json(leased: &LeasedMessage) -> Value {
    json!({
        "holder": leased.holder.as_ref().map(holder_json), "token": leased.token,
        "until_ms": leased.until_ms, "started": leased.started,
    })
}

fn holder_json(holder: &MessageHolder) -> Value {
    json!({
        "name": holder.name, "session": session_text(holder), "node_id": holder.node_id,
        "leased": holder.leased, "prefetch": holder.prefetch, "connected": holder.connected,
        "paused": holder.paused,
    })
}

#[cfg(test)]
mod tests {
    use quorate_client::WayGone;

    use super::*;

    fn explained(place: MessagePlace) -> MessageExplanation {
        let facts = MessageFacts { deliveries: Some(2), max_deliveries: 5, ..Default::default() };
        MessageExplanation {
            queue: "orders".to_owned(),
            offset: 7,
            confirmed: true,
            node_id: 1,
            now_ms: 10_000,
            next_offset: 9,
            facts: Some(facts),
            place: Some(place),
            ..Default::default()
        }
    }

    fn lines(place: MessagePlace) -> String {
        why(&explained(place), None).join("\n")
    }

    #[test]
    fn what_is_in_the_way_comes_with_the_command_that_clears_it() {
        let mut ready = ReadyMessage { ahead: 3, ahead_by_priority: 1, ..Default::default() };
        ready.push_obstacles(DeliveryObstacle::QueuePaused);
        let said = lines(MessagePlace::Ready(ready));
        assert!(said.contains("3 messages are handed out before it, 1 of them"), "{said}");
        assert!(said.contains("quorate queue resume orders"), "{said}");
        let mut ready = ReadyMessage { consumers: 2, consumers_full: 2, ..Default::default() };
        ready.push_obstacles(DeliveryObstacle::CreditUsed);
        let said = lines(MessagePlace::Ready(ready));
        assert!(said.contains("the next") && said.contains("2 consumers (2 full)"), "{said}");
    }

    #[test]
    fn a_retry_says_when_and_how_many_are_left() {
        let said = lines(MessagePlace::Delayed(DelayedMessage { due_ms: 11_500 }));
        assert!(said.contains("due in 1.50 s") && said.contains("2 of at most 5 times"), "{said}");
    }

    #[test]
    fn of_one_that_has_left_only_what_is_certain_is_said() {
        let way = |by: GoneBy, messages| WayGone { by: by.into(), messages };
        let gone = GoneMessage { ways: vec![way(GoneBy::Ack, 8)], ..Default::default() };
        let said = lines(MessagePlace::Gone(gone.clone()));
        assert!(said.starts_with("it was acknowledged: no message"), "{said}");
        let ways = vec![way(GoneBy::Ack, 8), way(GoneBy::Purge, 1)];
        let said = lines(MessagePlace::Gone(GoneMessage { ways, ..gone }));
        assert!(said.contains("not remembered"), "{said}");
    }

    #[test]
    fn without_a_majority_that_is_said_first_and_who_is_there() {
        let unconfirmed = MessageExplanation {
            confirmed: false,
            unconfirmed: "no majority".to_owned(),
            replicas: vec![ReplicaPresence { node_id: 3, away_ms: Some(2_000), ..<_>::default() }],
            ..explained(MessagePlace::Delayed(DelayedMessage { due_ms: 0 }))
        };
        assert!(why(&unconfirmed, None)[0].starts_with("not confirmed: no majority"));
        let said = text(&unconfirmed, None);
        assert!(said.contains("away 2.00 s") && said.contains("replica alone"), "{said}");
    }
}
