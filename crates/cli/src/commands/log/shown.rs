//! Records and commands in a form to read: a line of text, or an object of JSON.

use quorate_group::offline::{CATALOG, Content, Members, StateRecord, Vote, group_of};
use quorate_machine::catalog::{self, Catalog};
use quorate_machine::queue::{self, Publish, PublishMoved, Queue, SettleItem, SettleKind};
use quorate_machine::{Machine, NodeId, catalog::Command as CatalogCommand};
use quorate_proto::frame;
use quorate_proto::v1::Frame;
use quorate_storage::log::format::Kind;
use quorate_storage::log::offline::Seen;
use serde_json::{Map, Value, json};

use crate::message::insert_bytes;

/// Most bytes shown of one header or body.
const BODY_BYTES_MAX: usize = 1024;

/// A moment as in RFC 3339, in UTC.
pub fn time(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (s, ms) = (ms / 1000, ms % 1000);
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// The date of a day since 1970-01-01, by Howard Hinnant's `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, of_month)
}

/// `term.index`, as receipts are compared by it.
pub fn position(position: Option<quorate_group::Position>) -> String {
    position.map_or("none".to_owned(), |at| format!("{} (term {})", at.index, at.term))
}

pub fn position_json(position: Option<quorate_group::Position>) -> Value {
    position.map_or(Value::Null, |at| json!({ "index": at.index, "term": at.term }))
}

pub fn vote(vote: Option<Vote>) -> String {
    vote.map_or("none".to_owned(), |vote| {
        let elected = if vote.committed { ", elected" } else { "" };
        format!("node {} in term {}{elected}", vote.node, vote.term)
    })
}

pub fn vote_json(vote: Option<Vote>) -> Value {
    vote.map_or(
        Value::Null,
        |vote| json!({ "term": vote.term, "node": vote.node, "elected": vote.committed }),
    )
}

pub fn members(members: &Members) -> String {
    let voters: Vec<String> = members.voters.iter().map(|set| format!("{set:?}")).collect();
    let others = |node: &&u64| !members.voters.iter().any(|set| set.contains(node));
    let learners: Vec<&u64> = members.nodes.iter().filter(others).collect();
    let learners =
        if learners.is_empty() { String::new() } else { format!(", learners {learners:?}") };
    format!("voters {}{learners}", voters.join(" and "))
}

/// What a state record changes of the one before it, in the words of Raft.
pub fn changes(now: &StateRecord, before: &StateRecord, last: Option<u64>) -> Vec<&'static str> {
    let cut = now.last.map(|at| at.index) < last;
    let mut kinds = Vec::new();
    let mut when = |is: bool, kind| kinds.extend(is.then_some(kind));
    when(now.vote != before.vote, "vote");
    when(now.committed != before.committed, "committed");
    when(now.purged != before.purged, "purge");
    when(cut, "truncate");
    if kinds.is_empty() { vec!["state"] } else { kinds }
}

/// What kind of record it is.
pub fn kind(seen: &Seen<'_>, content: &Content) -> &'static str {
    match (seen.kind, content) {
        (Kind::Tombstone, _) => "forgotten",
        (Kind::State, _) => "state",
        (Kind::Copy, _) => "copy",
        (Kind::Put, _) => "body",
        (Kind::Entry, Content::Blank) => "blank",
        (Kind::Entry, Content::Membership(_)) => "membership",
        (Kind::Entry, _) => "entry",
    }
}

/// A command, as a line and as an object.
pub struct Shown {
    pub text: String,
    pub json: Value,
    /// Messages of a publish, if they were asked for.
    pub messages: Vec<Shown>,
}

/// Names and values, in the order in which they are read.
type FactList = Vec<(String, Value)>;

macro_rules! facts {
    ($($name:literal: $value:expr),* $(,)?) => { vec![$(($name.to_owned(), json!($value))),*] };
}

impl Shown {
    fn of(kind: &str, facts: FactList) -> Shown {
        let text = facts.iter().filter(|(_, value)| !value.is_null());
        let text = text.map(|(name, value)| match value {
            Value::String(text) => format!(" {name} {text:?}"),
            value => format!(" {name} {value}"),
        });
        let text = format!("{kind}{}", text.collect::<String>());
        let mut json = Map::new();
        json.insert("command".to_owned(), kind.into());
        json.extend(facts);
        Shown { text, json: Value::Object(json), messages: Vec::new() }
    }

    /// All of it as JSON.
    pub fn into_json(self) -> Value {
        let mut json = self.json;
        if !self.messages.is_empty() {
            json["messages"] = self.messages.into_iter().map(Shown::into_json).collect();
        }
        json
    }
}

/// A command of the record's group.
pub fn command(seen: &Seen<'_>, mut command: bytes::Bytes, bodies: bool) -> Shown {
    let bytes = command.len();
    let unreadable = |error| Shown::of("unreadable", facts! { "bytes": bytes, "error": error });
    if group_of(seen.group).0 == CATALOG {
        match Catalog::decode(&mut command) {
            Ok(command) => catalog_command(&command),
            Err(error) => unreadable(error.to_string()),
        }
    } else {
        match Queue::decode(&mut command) {
            Ok(command) => queue_command(&command, bodies),
            Err(error) => unreadable(error.to_string()),
        }
    }
}

fn queue_command(command: &queue::Command, bodies: bool) -> Shown {
    use queue::Command;
    let session = |session: &queue::Session| format!("{:032x}", session.0);
    match command {
        Command::Configure(settings) => Shown::of("configure", settings_facts(settings)),
        Command::Publish(publish) => self::publish(publish, bodies),
        Command::Attach(attach) => {
            let facts = facts! {
                "session": session(&attach.session), "node": attach.node.0, "name": attach.name,
                "prefetch": attach.prefetch, "lease_ms": attach.lease_ms,
                "tells_starts": attach.tells_starts, "filter": attach.filter,
            };
            Shown::of("attach", facts)
        }
        Command::Receive(receive) => {
            let facts = facts! {
                "session": session(&receive.session), "node": receive.node.0, "name": receive.name,
                "count": receive.count, "lease_ms": receive.lease_ms, "wait_ms": receive.wait_ms,
                "filter": receive.filter,
            };
            Shown::of("receive", facts)
        }
        Command::Detach { session: of, attachment } => {
            Shown::of("detach", facts! { "session": session(of), "attachment": attachment.0 })
        }
        Command::Disconnect { session: of, attachment } => {
            Shown::of("disconnect", facts! { "session": session(of), "attachment": attachment.0 })
        }
        Command::Settle { session: of, items } => {
            let text: Vec<String> = items.iter().map(settle_text).collect();
            let facts = facts! { "session": session(of) };
            let mut shown = Shown::of("settle", facts);
            shown.text = format!("{} {}", shown.text, text.join(", "));
            shown.json["items"] = items.iter().map(settle_json).collect();
            shown
        }
        Command::Tick => Shown::of("tick", Vec::new()),
        Command::Purge => Shown::of("purge messages", Vec::new()),
        Command::PurgeBefore { before } => {
            Shown::of("purge messages before", facts! { "offset": before.0 })
        }
        Command::Seek { to, again } => {
            let messages: u64 = again.iter().map(|run| u64::from(run.of.count)).sum();
            let facts = facts! { "to": to.0, "runs": again.len(), "messages": messages };
            Shown::of("seek", facts)
        }
        Command::LeaderChanged { node } => Shown::of("leader changed", facts! { "node": node.0 }),
        Command::CreateSlot(create) => {
            let from = match create.from {
                queue::SlotStart::First => "first".to_owned(),
                queue::SlotStart::Next => "next".to_owned(),
                queue::SlotStart::Offset(offset) => offset.0.to_string(),
            };
            let facts = facts! {
                "slot": create.name.as_str(), "from": from,
                "max_retained_bytes": create.max_retained_bytes, "max_idle_ms": create.max_idle_ms,
            };
            Shown::of("create slot", facts)
        }
        Command::AdvanceSlot { name, made_at, to } => {
            let facts = facts! { "slot": name.as_str(), "made_at": *made_at, "to": to.0 };
            Shown::of("advance slot", facts)
        }
        Command::DropSlot { name } => Shown::of("drop slot", facts! { "slot": name.as_str() }),
        Command::ControlConsumer { target, what } => {
            let what = match what {
                queue::Control::Pause => "pause",
                queue::Control::Resume => "resume",
                queue::Control::Kick => "kick",
            };
            let mut facts = facts! { "what": what };
            facts.extend(match target {
                queue::Target::Session(of) => facts! { "session": session(of) },
                queue::Target::Named(name) => facts! { "name": name },
                queue::Target::Everyone => facts! { "everyone": true },
            });
            Shown::of("control consumers", facts)
        }
        Command::PublishMoved(moved) => publish_moved(moved, bodies),
        Command::Moved { to } => Shown::of("moved", facts! { "to": *to }),
    }
}

fn settle_kind(kind: SettleKind) -> (&'static str, Option<(&'static str, u32)>) {
    match kind {
        SettleKind::Ack => ("ack", None),
        SettleKind::Nack { delay_ms } => ("nack", Some(("delay_ms", delay_ms))),
        SettleKind::Reject => ("reject", None),
        SettleKind::Extend { lease_ms } => ("extend", Some(("lease_ms", lease_ms))),
        SettleKind::Return => ("return", None),
        SettleKind::Start => ("start", None),
    }
}

fn settle_text(item: &SettleItem) -> String {
    let (kind, argument) = settle_kind(item.kind);
    let argument = argument.map_or(String::new(), |(name, value)| format!(" {name} {value}"));
    let last = item.first.0.saturating_add(u64::from(item.count).saturating_sub(1));
    format!("{kind} {}..={last} token {}{argument}", item.first.0, item.token.0)
}

fn settle_json(item: &SettleItem) -> Value {
    let (kind, argument) = settle_kind(item.kind);
    let mut json = json!({
        "kind": kind, "first": item.first.0, "count": item.count, "token": item.token.0,
    });
    if let Some((name, value)) = argument {
        json[name] = value.into();
    }
    json
}

fn publish(publish: &Publish, bodies: bool) -> Shown {
    let mut facts = FactList::new();
    if let Some(producer) = &publish.producer {
        facts.extend(bytes_fact("producer", producer.id.as_bytes()));
        facts.extend(facts! { "epoch": producer.epoch, "sequence": producer.sequence });
    }
    if let Some(id) = publish.message_id() {
        facts.extend(facts! { "message_id": id.as_str() });
    }
    if let Some(expected) = publish.expected_next() {
        facts.extend(facts! { "expected_next_offset": expected.0 });
    }
    facts.extend(facts! { "count": publish.count, "bytes": publish.frame.len() });
    let mut shown = Shown::of("publish", facts);
    if bodies {
        show_messages(&mut shown, publish.layout, publish.count, &publish.frame);
    }
    shown
}

fn publish_moved(moved: &PublishMoved, bodies: bool) -> Shown {
    let facts = facts! {
        "source": moved.source, "timeline": moved.timeline, "first": moved.first,
        "count": moved.count, "bytes": moved.frame.len(),
    };
    let mut shown = Shown::of("publish moved", facts);
    if bodies {
        show_messages(&mut shown, moved.layout, moved.count, &moved.frame);
    }
    shown
}

fn show_messages(shown: &mut Shown, layout: u8, count: u32, messages: &bytes::Bytes) {
    match frame::messages(&Frame { layout: layout.into(), count, messages: messages.clone() }) {
        Ok(messages) => {
            let of = |(number, message): (u32, frame::MessageView)| message_shown(number, &message);
            shown.messages = (0..).zip(messages).map(of).collect();
        }
        Err(error) => shown.json["unreadable"] = error.to_string().into(),
    }
}

fn message_shown(number: u32, message: &frame::MessageView) -> Shown {
    let cut = |bytes: &bytes::Bytes| bytes.slice(..bytes.len().min(BODY_BYTES_MAX));
    let headers = message.headers.iter().map(|(key, value)| {
        let mut header = Map::new();
        header.insert("key".to_owned(), key.into());
        insert_bytes(&mut header, "value", &text_prefix(cut(&value), value.len()));
        Value::Object(header)
    });
    let mut facts = facts! { "number": number, "bytes": message.body.len() };
    if !message.headers.is_empty() {
        facts.push(("headers".to_owned(), headers.collect()));
    }
    if message.body.len() > BODY_BYTES_MAX {
        facts.push(("cut".to_owned(), true.into()));
    }
    facts.extend(bytes_fact("body", &text_prefix(cut(&message.body), message.body.len())));
    let mut shown = Shown::of("message", facts);
    if let Value::Object(json) = &mut shown.json {
        json.remove("command");
    }
    shown
}

fn bytes_fact(name: &str, bytes: &[u8]) -> Map<String, Value> {
    let mut fact = Map::new();
    insert_bytes(&mut fact, name, bytes);
    fact
}

/// A text that was cut inside of a character ends before it.
fn text_prefix(bytes: bytes::Bytes, whole: usize) -> bytes::Bytes {
    match std::str::from_utf8(&bytes) {
        Err(error) if bytes.len() < whole && error.error_len().is_none() => {
            bytes.slice(..error.valid_up_to())
        }
        _ => bytes,
    }
}

fn settings_json(settings: &queue::Settings) -> Value {
    Value::Object(settings_facts(settings).into_iter().collect())
}

fn settings_facts(settings: &queue::Settings) -> FactList {
    facts! {
        "max_messages": settings.max_messages, "max_bytes": settings.max_bytes,
        "max_deliveries": settings.max_deliveries, "lease_ms": settings.lease_ms,
        "session_grace_ms": settings.session_grace_ms, "dedup_window": settings.dedup_window,
        "dedup_age_ms": settings.dedup_age_ms, "min_in_sync": settings.min_in_sync,
        "in_sync_lag_ms": settings.in_sync_lag_ms, "retain_ms": settings.retain_ms,
        "retain_bytes": settings.retain_bytes, "single_active": settings.single_active,
        "ttl_ms": settings.ttl_ms, "drop_head": settings.drop_head,
        "priorities": settings.priorities, "retry_ms": settings.retry_ms,
        "retry_max_ms": settings.retry_max_ms,
        "dead_letter": settings.dead_letter.as_ref().map(catalog::QueueName::as_str),
        "message_id_window": settings.message_id_window, "filter_header": settings.filter_header,
        "version": settings.version,
    }
}

fn catalog_command(command: &CatalogCommand) -> Shown {
    match command {
        CatalogCommand::Bootstrap { cluster_id } => {
            Shown::of("bootstrap", facts! { "cluster_id": format!("{cluster_id:032x}") })
        }
        CatalogCommand::RegisterNode(node) => {
            let facts = facts! {
                "node": node.id.0, "incarnation": node.incarnation.to_string(),
                "address": node.address, "zone": node.zone, "version": node.version,
                "replace": node.replace,
            };
            Shown::of("register node", facts)
        }
        CatalogCommand::CreateSharded(create) => {
            let facts = facts! {
                "queue": create.queue.name.as_str(), "shards": create.shards,
                "replicas": create.queue.replicas,
            };
            let mut shown = Shown::of("create sharded queue", facts);
            shown.json["settings"] = settings_json(&create.queue.settings);
            shown
        }
        CatalogCommand::CreateQueue(create) => {
            let candidates: Vec<u64> = create.candidates.iter().map(|node| node.0).collect();
            let mut shown = Shown::of(
                "create queue",
                facts! {
                    "queue": create.name.as_str(), "replicas": create.replicas,
                    "candidates": candidates,
                },
            );
            shown.json["settings"] = settings_json(&create.settings);
            shown
        }
        CatalogCommand::DeleteQueue { name } => {
            Shown::of("delete queue", facts! { "queue": name.as_str() })
        }
        CatalogCommand::UpdateQueue { name, settings } => {
            let mut shown = Shown::of("update queue", facts! { "queue": name.as_str() });
            shown.json["settings"] = settings_json(settings);
            shown
        }
        CatalogCommand::DrainNode { id, draining } => {
            Shown::of("drain node", facts! { "node": id.0, "draining": draining })
        }
        CatalogCommand::PlaceQueue(place) => {
            let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
            let facts = facts! {
                "group": place.group.0, "decided_on": place.moved,
                "replicas": ids(&place.replicas), "observers": ids(&place.observers),
            };
            Shown::of("place queue", facts)
        }
        CatalogCommand::QueuePlaced { group, moved } => {
            Shown::of("queue placed", facts! { "group": group.0, "moved": moved })
        }
        CatalogCommand::RemoveNode { id } => Shown::of("remove node", facts! { "node": id.0 }),
        CatalogCommand::RetireNode { id } => Shown::of("retire node", facts! { "node": id.0 }),
        CatalogCommand::RecoverQueue { group, moved, survivor, timeline } => Shown::of(
            "recover queue",
            facts! {
                "group": group.0, "decided_on": moved, "survivor": survivor.0, "timeline": timeline,
            },
        ),
        CatalogCommand::QueueTookOver { group, moved, from } => {
            Shown::of("queue took over", facts! { "group": group.0, "moved": moved, "from": from })
        }
        CatalogCommand::SetTopic { name, version, routes } => {
            let routes: Vec<String> =
                routes.iter().map(|route| format!("{} {}", route.queue, route.subject)).collect();
            let facts = facts! {
                "name": name.as_str(), "version": *version, "routes": routes.join(", "),
            };
            Shown::of("set topic", facts)
        }
        CatalogCommand::DeleteTopic { name } => {
            Shown::of("delete topic", facts! { "name": name.as_str() })
        }
        CatalogCommand::CatalogRecovered => Shown::of("catalog recovered", Vec::new()),
        CatalogCommand::Tick => Shown::of("tick", Vec::new()),
        catalog::Command::LeaderChanged { node } => {
            Shown::of("leader changed", facts! { "node": node.0 })
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = Bytes::from("ä".repeat(1000));
        let cut = text_prefix(long.slice(..1023), long.len());
        assert_eq!(std::str::from_utf8(&cut).map(str::len), Ok(1022));
        let other = Bytes::from_static(&[0xff; 4]);
        assert_eq!(text_prefix(other.clone(), 9), other);
    }

    #[test]
    fn a_state_says_what_it_changes() {
        let at = |index| Some(quorate_group::Position { term: 1, index });
        let before = StateRecord { last: at(9), ..StateRecord::default() };
        assert_eq!(changes(&before, &before, Some(9)), ["state"]);
        let cut = StateRecord { last: at(7), committed: at(7), ..before };
        assert_eq!(changes(&cut, &before, Some(9)), ["committed", "truncate"]);
    }
}
