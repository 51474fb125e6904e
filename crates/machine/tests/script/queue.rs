//! Scripts for the queue.
//!
//! ```text
//! publish COUNT [bytes=N] [producer=NAME] [epoch=N] [sequence=N] [layout=N]
//!         [due=COUNT@MS,...] [groups=N,...]        0: at once; a group for each message, 0: none
//!         [runs=COUNT:dDUE:xEXPIRES:pPRIORITY:gGROUP:tVALUE,...]      each of the five may be left out
//!         [id=NAME] [next=OFFSET]
//! attach A [node=N] [prefetch=N] [lease=MS] [tells=1] [filter=VALUE,...]       detach|disconnect A [attachment=N]
//! receive A [node=N] [count=N] [lease=MS] [wait=MS] [filter=VALUE,...]
//! pause|resume|kick A|name=NAME|everyone=1
//! ack|nack|reject|extend|return|start A FIRST[-LAST] token=N [delay=MS] [lease=MS]
//! configure [max_messages=N] [max_bytes=N] [max_deliveries=N] [lease=MS] [grace=MS]
//!           [window=N] [age=MS] [ids=N] [retain_ms=MS] [retain_bytes=N] [retry=MS] [retry_max=MS]
//!           [single=true] [version=N] [ttl=MS] [drop_head=0|1] [priorities=0|1]      0: none
//!           [dead_letter=NAME|none] [filter_header=NAME|none]        values are of the header `region`
//! moved-in SOURCE FIRST COUNT [timeline=N] [bytes=N]   moved TO
//! seek OFFSET [again=FIRST@RUN,...]      a run as of `publish`; left out: all that is settled, as plain messages
//! tick   purge   purge_before OFFSET   leader N                          at MS   after MS   restore   deadline
//! slot create NAME [from=first|next|OFFSET] [bytes=N] [idle=MS]
//! slot advance NAME OFFSET   slot drop NAME   slots
//! place first|next|OFFSET|time=MS
//! read   stats   live   outstanding   dead   explain OFFSET ...
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use quorate_machine::catalog::QueueName;
use quorate_machine::queue::{
    Again, Attach, Attachment, Command, Condition, Control, CreateSlot, DeadRun, Effect, MessageId,
    Offset, Piece, Producer, ProducerId, Properties, Publish, PublishMoved, Queue, Receive, Reply,
    Run, SeekTo, Session, SettleItem, SettleKind, Settled, SlotInfo, SlotName, SlotStart, Target,
    Token, tag_of,
};
use quorate_machine::{Machine, Millis, NodeId};

use super::{Log, Runner, Words, explain};

pub struct Script {
    log: Log<Queue>,
    attachments: BTreeMap<Session, Attachment>,
}

impl Script {
    pub fn new() -> Self {
        Self { log: Log::new(), attachments: BTreeMap::new() }
    }

    fn command(&self, line: &str) -> Command {
        let words = Words::parse(line);
        match words.verb {
            "publish" => publish(&words),
            "attach" => attach(&words),
            "receive" => receive(&words),
            "detach" => {
                let (session, attachment) = self.attachment(&words);
                Command::Detach { session, attachment }
            }
            "disconnect" => {
                let (session, attachment) = self.attachment(&words);
                Command::Disconnect { session, attachment }
            }
            "ack" | "nack" | "reject" | "extend" | "return" | "start" => settle(&words),
            "pause" | "resume" | "kick" => control(&words),
            "configure" => self.configure(&words),
            "tick" => Command::Tick,
            "purge" => Command::Purge,
            "purge_before" => Command::PurgeBefore { before: Offset(words.number(0)) },
            "seek" => self.seek(&words),
            "leader" => Queue::leader_changed(words.number(0)),
            "slot" => slot(&words),
            "moved-in" => moved_in(&words),
            "moved" => Command::Moved { to: words.number(0) },
            verb => panic!("unknown command {verb}"),
        }
    }

    fn attachment(&self, words: &Words) -> (Session, Attachment) {
        let session = session(words);
        let latest = self.attachments.get(&session).copied().unwrap_or(Attachment(0));
        (session, words.get("attachment").map_or(latest, Attachment))
    }

    /// What whoever asks reads in the log is not there to be read in a script.
    fn seek(&self, words: &Words) -> Command {
        let to = Offset(words.number(0));
        let again = match words.text("again") {
            Some(runs) => {
                let runs = runs.split(',').filter(|run| !run.is_empty()).map(|named| {
                    let (first, of) = named.split_once('@').expect("FIRST@RUN");
                    Again { first: Offset(first.parse().unwrap()), of: run(of) }
                });
                runs.collect()
            }
            None => {
                let settled = self.log.machine.settled_from(to).into_iter();
                let plain = settled.map(|Piece { run, .. }| Again {
                    first: run.first_offset,
                    of: Properties { count: run.count, ..Properties::default() },
                });
                plain.collect()
            }
        };
        Command::Seek { to, again }
    }

    fn configure(&self, words: &Words) -> Command {
        let mut settings = self.log.machine.settings().clone();
        let or = |key, old| words.get(key).unwrap_or(old);
        settings.max_messages = words.get("max_messages").or(settings.max_messages);
        settings.max_bytes = words.get("max_bytes").or(settings.max_bytes);
        settings.max_deliveries = or("max_deliveries", settings.max_deliveries);
        settings.lease_ms = or("lease", settings.lease_ms);
        settings.session_grace_ms = or("grace", settings.session_grace_ms);
        settings.dedup_window = or("window", settings.dedup_window);
        settings.dedup_age_ms = words.get("age").unwrap_or(settings.dedup_age_ms);
        settings.message_id_window = or("ids", settings.message_id_window);
        settings.retain_bytes = words.get("retain_bytes").or(settings.retain_bytes);
        settings.retain_ms = words.get("retain_ms").or(settings.retain_ms).filter(|&ms| ms > 0);
        settings.retry_ms = or("retry", settings.retry_ms);
        settings.retry_max_ms = or("retry_max", settings.retry_max_ms);
        settings.single_active = or_flag(words, "single", settings.single_active);
        settings.ttl_ms = words.get("ttl").or(settings.ttl_ms).filter(|&ttl_ms| ttl_ms > 0);
        let is_on = |key, old| words.get(key).map_or(old, |is_on: u8| is_on > 0);
        settings.drop_head = is_on("drop_head", settings.drop_head);
        settings.priorities = is_on("priorities", settings.priorities);
        if let Some(name) = words.text("dead_letter") {
            let name = Some(name).filter(|name| *name != "none");
            settings.dead_letter = name.map(|name| QueueName::parse(name).unwrap());
        }
        if let Some(header) = words.text("filter_header") {
            settings.filter_header = Some(header.to_owned()).filter(|name| name != "none");
        }
        settings.version = words.get("version").unwrap_or(settings.version + 1);
        Command::Configure(Box::new(settings))
    }

    fn show(&self, verb: &str, output: &mut String) -> bool {
        match verb {
            "stats" => show_stats(&self.log.machine, output),
            "slots" => {
                let slots = self.log.machine.stats().slots;
                slots.iter().for_each(|slot| show_slot(slot, output));
            }
            "read" => show_view(&self.log.machine, output),
            "dead" => show_dead(&self.log.machine, output),
            _ if verb.starts_with("place ") => {
                let offset = self.log.machine.offset_of(place(&Words::parse(verb)));
                writeln!(output, "place {}", offset.0).unwrap();
            }
            _ if verb.starts_with("explain ") => {
                for offset in verb.split_whitespace().skip(1) {
                    explain::show(&self.log.machine, offset.parse().unwrap(), output);
                }
            }
            "live" => writeln!(output, "live {:?}", self.log.machine.live()).unwrap(),
            "outstanding" => {
                let mut effects = Vec::new();
                self.log.machine.outstanding(&mut effects);
                effects.iter().for_each(|effect| show_effect(effect, output));
            }
            _ => return false,
        }
        true
    }
}

impl Runner for Script {
    fn line(&mut self, line: &str, output: &mut String) {
        if self.log.common(line, output) || self.show(line, output) {
            return;
        }
        let commands: Vec<Command> = line.split(';').map(|part| self.command(part)).collect();
        let (replies, effects) = self.log.apply(&commands);
        for (command, reply) in commands.iter().zip(&replies) {
            let session = match command {
                Command::Attach(attach) => Some(attach.session),
                Command::Receive(receive) => Some(receive.session),
                _ => None,
            };
            if let (Some(session), Reply::Attached { attachment, .. }) = (session, reply) {
                self.attachments.insert(session, *attachment);
            }
            show_reply(self.log.index, reply, output);
        }
        effects.iter().for_each(|effect| show_effect(effect, output));
        self.log.machine.check().unwrap();
    }
}

fn session(words: &Words) -> Session {
    Session(u128::from(words.word(0).as_bytes()[0]))
}

fn place(words: &Words) -> SeekTo {
    if let Some(time) = words.get("time") {
        return SeekTo::Time(Millis(time));
    }
    match words.word(0) {
        "first" => SeekTo::First,
        "next" => SeekTo::Next,
        _ => SeekTo::Offset(Offset(words.number(0))),
    }
}

fn publish(words: &Words) -> Command {
    let count = words.number(0) as u32;
    let bytes = words.get("bytes").unwrap_or(10 * count as usize);
    let producer = words.text("producer").map(|id| Producer {
        id: ProducerId::new(id.to_owned().into_bytes()).unwrap(),
        epoch: words.get("epoch").unwrap_or(0),
        sequence: words.get("sequence").unwrap_or(0),
    });
    let message_id = words.text("id").map(|id| MessageId::new(id).unwrap());
    let expected_next = words.get("next").map(Offset);
    let layout = words.get("layout").unwrap_or(1);
    let properties = words.text("due").unwrap_or_default();
    let properties = properties.split(',').filter(|run| !run.is_empty()).map(|run| {
        let (count, due) = run.split_once('@').expect("COUNT@MS");
        let due = Some(due.parse().unwrap()).filter(|&due| due > 0).map(Millis);
        Properties { count: count.parse().unwrap(), due, ..Properties::default() }
    });
    let runs = words.text("runs").into_iter().flat_map(|runs| runs.split(','));
    let properties = properties.chain(runs.map(run));
    let properties = match words.text("groups") {
        None => properties.collect(),
        Some(groups) => grouped(properties, groups),
    };
    let frame = Bytes::from(vec![0; bytes]);
    let plain = Publish::plain(count, frame);
    let condition = Condition::of(message_id, expected_next);
    Command::Publish(Publish { producer, condition, layout, properties, ..plain })
}

fn or_flag(words: &Words, key: &str, old: bool) -> bool {
    words.get(key).unwrap_or(old)
}

/// Properties of messages each of which has its group, beside what they have else.
fn grouped(of: impl Iterator<Item = Properties>, groups: &str) -> Vec<Properties> {
    let dues = of.flat_map(|of| (0..of.count).map(move |_| of.due)).chain(std::iter::repeat(None));
    let mut runs: Vec<Properties> = Vec::new();
    for (due, group) in dues.zip(groups.split(',')) {
        let group = Some(group.parse().unwrap()).filter(|&group| group > 0);
        match runs.last_mut().filter(|last| (last.due, last.group) == (due, group)) {
            Some(last) => last.count += 1,
            None => runs.push(Properties { count: 1, due, group, ..Properties::default() }),
        }
    }
    runs
}

/// What sets a run of messages apart.
fn run(text: &str) -> Properties {
    let mut parts = text.split(':');
    let count = parts.next().unwrap().parse().unwrap();
    let mut run = Properties { count, ..Properties::default() };
    for part in parts {
        let (kind, number) = part.split_at(1);
        if kind == "t" {
            run.tag = Some(tag_of("region", number.as_bytes()));
            continue;
        }
        let number: u64 = number.parse().unwrap();
        match kind {
            "d" => run.due = Some(Millis(number)),
            "g" => run.group = Some(number),
            "x" => run.expires = Some(Millis(number)),
            _ => run.priority = number as u8,
        }
    }
    run
}

fn attach(words: &Words) -> Command {
    Command::Attach(Attach {
        session: session(words),
        node: NodeId(words.get("node").unwrap_or(1)),
        name: words.word(0).to_owned(),
        prefetch: words.get("prefetch").unwrap_or(10),
        lease_ms: words.get("lease"),
        tells_starts: words.get("tells").unwrap_or(0) != 0,
        filter: filter(words),
    })
}

fn receive(words: &Words) -> Command {
    Command::Receive(Receive {
        session: session(words),
        node: NodeId(words.get("node").unwrap_or(1)),
        name: words.word(0).to_owned(),
        count: words.get("count").unwrap_or(10),
        lease_ms: words.get("lease"),
        wait_ms: words.get("wait").unwrap_or(0),
        filter: filter(words),
    })
}

/// Values with commas between them.
fn filter(words: &Words) -> Vec<String> {
    let values = words.text("filter").into_iter().flat_map(|values| values.split(','));
    values.map(str::to_owned).collect()
}

fn settle(words: &Words) -> Command {
    let kind = match words.verb {
        "ack" => SettleKind::Ack,
        "nack" => SettleKind::Nack { delay_ms: words.get("delay").unwrap_or(0) },
        "reject" => SettleKind::Reject,
        "return" => SettleKind::Return,
        "start" => SettleKind::Start,
        _ => SettleKind::Extend { lease_ms: words.get("lease").expect("extend needs lease=") },
    };
    let range = words.word(1);
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
    let token = Token(words.get("token").expect("a settle needs token="));
    let count = (last - first + 1) as u32;
    let item = SettleItem { kind, token, first: Offset(first), count };
    Command::Settle { session: session(words), items: vec![item] }
}

fn control(words: &Words) -> Command {
    let target = match (words.text("name"), words.text("everyone")) {
        (Some(name), _) => Target::Named(name.to_owned()),
        (None, Some(_)) => Target::Everyone,
        (None, None) => Target::Session(session(words)),
    };
    let what = match words.verb {
        "pause" => Control::Pause,
        "resume" => Control::Resume,
        _ => Control::Kick,
    };
    Command::ControlConsumer { target, what }
}

fn moved_in(words: &Words) -> Command {
    let count = words.number(2) as u32;
    let bytes = words.get("bytes").unwrap_or(10 * count as usize);
    Command::PublishMoved(PublishMoved {
        source: words.number(0),
        timeline: words.get("timeline").unwrap_or(0),
        first: words.number(1),
        count,
        layout: 1,
        frame: Bytes::from(vec![0; bytes]),
    })
}

fn slot(words: &Words) -> Command {
    let name = SlotName::parse(words.word(1)).unwrap();
    match words.word(0) {
        "create" => Command::CreateSlot(CreateSlot {
            name,
            from: match words.text("from").unwrap_or("first") {
                "first" => SlotStart::First,
                "next" => SlotStart::Next,
                offset => SlotStart::Offset(Offset(offset.parse().unwrap())),
            },
            max_retained_bytes: words.get("bytes").unwrap_or(1_000),
            max_idle_ms: words.get("idle").unwrap_or(0),
        }),
        "advance" => {
            let made_at = words.get("made_at").unwrap_or(0);
            Command::AdvanceSlot { name, made_at, to: Offset(words.number(2)) }
        }
        _ => Command::DropSlot { name },
    }
}

fn show_reply(index: u64, reply: &Reply, output: &mut String) {
    let text = match reply {
        Reply::Done => "done".to_owned(),
        Reply::Published { first_offset, count, duplicate } => {
            let duplicate = if *duplicate { ", a duplicate" } else { "" };
            format!("published {}{duplicate}", range(first_offset.0, *count))
        }
        Reply::Attached { attachment, resumed } => {
            let how = if *resumed { "resumed" } else { "attached" };
            format!("{how} as {}", attachment.0)
        }
        Reply::Settled(Settled { settled, lost }) => {
            let lost: String = lost
                .iter()
                .map(|(first, count)| format!(", lost {}", range(first.0, *count)))
                .collect();
            format!("settled {settled}{lost}")
        }
        Reply::Purged { count } => format!("purged {count}"),
        Reply::Sought { again, left } => format!("{again} ready again, {left} left"),
        Reply::SlotCreated { slot, created } => {
            let how = if *created { "created" } else { "exists" };
            format!("slot {how} at {}", slot.position.0)
        }
        Reply::SlotAdvanced { slot } => format!("slot at {}", slot.position.0),
        Reply::Controlled { consumers } => format!("{consumers} consumers"),
        Reply::AlreadyMoved => "already moved".to_owned(),
        Reply::Moved { count } => format!("moved {count}"),
        Reply::Rejected(rejection) => format!("rejected: {rejection}"),
    };
    writeln!(output, "[{index}] {text}").unwrap();
}

fn show_effect(effect: &Effect, output: &mut String) {
    match effect {
        Effect::Deliver { session, node, token, runs } => {
            let name = name(*session);
            writeln!(output, "  deliver to {name} at node {}, token {}:", node.0, token.0).unwrap();
            runs.iter().for_each(|run| show_run(run, output));
        }
        Effect::Closed { session, node, attachment, reason } => {
            let (name, attachment) = (name(*session), attachment.0);
            writeln!(
                output,
                "  close {name} at node {}, attachment {attachment}: {reason:?}",
                node.0
            )
            .unwrap();
        }
    }
}

fn show_run(run: &Run, output: &mut String) {
    let Run { first_offset, count, attempt, index, ordinal, skip } = run;
    let range = range(first_offset.0, *count);
    writeln!(output, "    {range} attempt {attempt} from {}.{ordinal}+{skip}", index.0).unwrap();
}

fn show_stats(queue: &Queue, output: &mut String) {
    let s = queue.stats();
    let blocked = match s.blocked {
        0 => String::new(),
        blocked => format!(" + blocked {blocked}"),
    };
    writeln!(
        output,
        "published {} = ready {} + leased {} + delayed {}{blocked} + acked {} + rejected {} + exhausted {} + purged {}",
        s.published, s.ready, s.leased, s.delayed, s.acked, s.rejected, s.exhausted, s.purged
    )
    .unwrap();
    if s.expired + s.dropped > 0 {
        writeln!(output, "  + expired {} + dropped {}", s.expired, s.dropped).unwrap();
    }
    writeln!(
        output,
        "offsets {}..{}, {} bytes in {} batches, {} producers",
        s.first_offset.0, s.next_offset.0, s.bytes, s.batches, s.producers
    )
    .unwrap();
    if s.dead + s.dead_lettered > 0 {
        writeln!(output, "+ dead {} + dead-lettered {}", s.dead, s.dead_lettered).unwrap();
    }
    if s.replayed > 0 {
        writeln!(output, "replayed {}", s.replayed).unwrap();
    }
    if s.paused {
        writeln!(output, "paused").unwrap();
    }
    for consumer in s.consumers {
        let state = if consumer.connected { "connected" } else { "waited for" };
        let state = if consumer.active { format!("{state}, active") } else { state.to_owned() };
        let paused = if consumer.paused { ", paused" } else { "" };
        let filter = match consumer.filter.as_slice() {
            [] => String::new(),
            values => format!(", filter {}", values.join(" ")),
        };
        let (name, leased, prefetch) = (consumer.name, consumer.leased, consumer.prefetch);
        writeln!(
            output,
            "{name} at node {}: {leased} of {prefetch}, {state}{paused}{filter}",
            consumer.node.0
        )
        .unwrap();
    }
}

fn show_slot(slot: &SlotInfo, output: &mut String) {
    let (name, position, bytes, lag) = (&slot.name, slot.position.0, slot.retained_bytes, slot.lag);
    let state = format!("{:?}", slot.state).to_lowercase();
    let lost = slot.lost_from.map_or_else(String::new, |from| format!(" from {}", from.0));
    writeln!(output, "{name} at {position}: {state}{lost}, {bytes} bytes, lag {lag}").unwrap();
}

fn show_dead(queue: &Queue, output: &mut String) {
    for DeadRun { seq, run, cause } in queue.dead_letters(u64::MAX) {
        let what = range(seq, run.count);
        writeln!(output, "dead {what}, {}:", cause.as_str()).unwrap();
        show_run(&run, output);
    }
}

fn show_view(queue: &Queue, output: &mut String) {
    let view = queue.view(Offset(0), u32::MAX, u64::MAX);
    let ranges = view.pieces.iter().map(|piece| range(piece.run.first_offset.0, piece.run.count));
    let ranges: Vec<String> = ranges.collect();
    writeln!(output, "read {} to {}", ranges.join(" "), view.next.0).unwrap();
}

fn name(session: Session) -> char {
    char::from(session.0 as u8)
}

fn range(first: u64, count: u32) -> String {
    match count {
        1 => first.to_string(),
        _ => format!("{first}-{}", first + u64::from(count) - 1),
    }
}
