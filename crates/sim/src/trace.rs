//! What happened in a run, a line an event, the same to the byte for the same seed.
//!
//! The text is kept only when asked for; a digest of it, and its last lines, always.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use madsim::time::TimeHandle;

use crate::events::{Event, QueueEntry};

/// Last lines kept for the report of a failure.
const LAST_LINES: usize = 60;

/// A run's trace.
pub struct Trace {
    text: Option<String>,
    last: VecDeque<String>,
    line: String,
    digest: u64,
    lines: u64,
}

impl Trace {
    /// An empty trace.
    #[must_use]
    pub fn new(keep_text: bool) -> Trace {
        Trace {
            text: keep_text.then(String::new),
            last: VecDeque::with_capacity(LAST_LINES),
            line: String::new(),
            digest: 0,
            lines: 0,
        }
    }

    /// FNV-1a over CRC-32C of the lines so far.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Lines so far.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The whole text, if it was kept.
    pub fn take_text(&mut self) -> Option<String> {
        self.text.take()
    }

    /// The last lines.
    #[must_use]
    pub fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }

    /// Adds a line.
    pub fn line(&mut self, text: &str) {
        self.begin();
        self.line.push_str(text);
        self.end();
    }

    /// Adds an event.
    pub fn event(&mut self, event: &Event<'_>) {
        self.begin();
        // Writing to a string cannot fail.
        let _ = write_event(&mut self.line, event);
        self.end();
    }

    fn begin(&mut self) {
        self.line.clear();
        let now = TimeHandle::try_current().map_or(Duration::ZERO, |time| time.elapsed());
        let _ = write!(self.line, "{:>4}.{:06} ", now.as_secs(), now.subsec_micros());
    }

    fn end(&mut self) {
        const PRIME: u64 = 0x0100_0000_01b3;
        self.digest = (self.digest ^ u64::from(crc32c::crc32c(self.line.as_bytes())))
            .wrapping_mul(PRIME)
            .rotate_left(7);
        self.lines += 1;
        if let Some(text) = &mut self.text {
            text.push_str(&self.line);
            text.push('\n');
        }
        let mut oldest = match self.last.len() {
            LAST_LINES => self.last.pop_front().unwrap_or_default(),
            _ => String::new(),
        };
        oldest.clone_from(&self.line);
        self.last.push_back(oldest);
    }
}

fn write_event(out: &mut String, event: &Event<'_>) -> std::fmt::Result {
    match event {
        Event::Applied { node, group, term, index, body } => {
            let crc = crc32c::crc32c(body);
            write!(out, "n{node} g{group} applied {index} of term {term} {crc:08x}")
        }
        Event::State { node, group, index, hash } => {
            write!(out, "n{node} g{group} state {index} {hash:016x}")
        }
        Event::Made(entry) => write_entry(out, entry),
        Event::Restored { node, group, index } => {
            write!(out, "n{node} g{group} RESTORED at {index}")
        }
        Event::Leads { node, group, term } => write!(out, "n{node} g{group} LEADS term {term}"),
        Event::Ended { node, group } => write!(out, "n{node} g{group} ENDED"),
        Event::Parked { node, group, parked } => {
            write!(out, "n{node} g{group} {}", if *parked { "parked" } else { "awake" })
        }
        Event::Sent { group, id } => write!(out, "g{group} sent {id}"),
        Event::Confirmed { group, id, offset, duplicate, level, position } => {
            let again = if *duplicate { ", a duplicate" } else { "" };
            let quorate_client::LogPosition { term, index, .. } = position;
            write!(out, "g{group} confirmed {id} at {offset:?}{again} {level:?} {term}/{index}")
        }
        Event::Refused { group, id, reason } => write!(out, "g{group} refused {id}: {reason}"),
        Event::Part { group, ids } => {
            let first = ids.first().map(ToString::to_string).unwrap_or_default();
            write!(out, "g{group} part of {} from {first} on", ids.len())
        }
        Event::Keyed { id, key, .. } => write!(out, "{id} is of {key:?}"),
        Event::Claimed { group, id, expected, got } => match got {
            Ok(offset) => write!(out, "g{group} {id} was to have {expected}, has {offset}"),
            Err(next) => write!(out, "g{group} {id} was to have {expected}, next was {next}"),
        },
        Event::Unknown { group, id } => write!(out, "g{group} unknown {id}"),
        Event::Delivered { group, consumer, offset, attempt, token, id } => {
            write!(out, "g{group} c{consumer} got {offset} attempt {attempt} token {token} ")?;
            match id {
                Some(id) => write!(out, "{id}"),
                None => out.write_str("of unknown content"),
            }
        }
        Event::Looked { group, bound, position, .. } => {
            write!(out, "g{group} looked within {bound:?}: {position:?}")
        }
        Event::Read { group, reader, offset, id, slot } => {
            let slot = slot.map_or_else(String::new, |slot| format!(" through {slot}"));
            write!(out, "g{group} r{reader} read {offset} {id:?}{slot}")
        }
        Event::SlotReader { group, slot, reader } => {
            write!(out, "g{group} r{reader} begins with {slot}")
        }
        Event::SlotRefused { group, slot, reason, .. } => {
            write!(out, "g{group} {slot} refused: {reason}")
        }
        Event::Settling { group, consumer, offset, token, settle } => {
            write!(out, "g{group} c{consumer} settles {offset} token {token} {settle:?}")
        }
        Event::Settled { group, consumer, offset, token, settle, error } => {
            write!(out, "g{group} c{consumer} settled {offset} token {token} {settle:?}: ")?;
            out.write_str(error.unwrap_or("done"))
        }
        Event::Seeking { group, seek, to } => write!(out, "g{group} seek {seek} to {to:?}"),
        Event::Sought { group, seek, sought } => write!(out, "g{group} seek {seek}: {sought:?}"),
        Event::Counted { group, counts } => write!(out, "g{group} counts {counts:?}"),
        Event::Fault { kind, what } => write!(out, "FAULT {kind} {what}"),
        Event::Node { node, does } => write!(out, "n{node} NODE {does}"),
        Event::Note(note) => write!(out, "-- {note}"),
    }
}

fn write_entry(out: &mut String, entry: &QueueEntry<'_>) -> std::fmt::Result {
    use quorate_machine::queue::Command;
    write!(out, "g{} entry {} at {}:", entry.group, entry.index, entry.now_ms)?;
    for (command, reply) in entry.commands.iter().zip(entry.replies) {
        match command {
            Command::Publish(publish) => {
                let producer = publish.producer.as_ref().map(|p| (p.epoch, p.sequence));
                write!(out, " publish {} {producer:?}", publish.count)?;
            }
            other => write!(out, " {other:?}")?,
        }
        write!(out, " -> {reply:?};")?;
    }
    for effect in entry.effects {
        write!(out, " {effect:?}")?;
    }
    Ok(())
}

/// While the guard lives, what the broker and the SDK log on this thread goes into the trace.
#[must_use]
pub fn log_into(record: crate::events::Record) -> tracing::subscriber::DefaultGuard {
    use tracing_subscriber::layer::SubscriberExt;
    let filter = tracing_subscriber::filter::Targets::new()
        .with_target("quorate", tracing::Level::DEBUG)
        .with_target("openraft", tracing::Level::INFO);
    let filter = quorate_crates()
        .into_iter()
        .fold(filter, |filter, name| filter.with_target(name, tracing::Level::DEBUG));
    let layer = tracing_subscriber::Layer::with_filter(Lines { record }, filter);
    tracing::subscriber::set_default(tracing_subscriber::registry().with(layer))
}

fn quorate_crates() -> [&'static str; 4] {
    ["quorate_broker", "quorate_client", "quorate_group", "quorate_storage"]
}

/// A line of the trace for each event.
struct Lines {
    record: crate::events::Record,
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Fields(String);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let _ = match field.name() {
                    "message" => write!(self.0, " {value:?}"),
                    name => write!(self.0, " {name}={value:?}"),
                };
            }
        }
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        let metadata = event.metadata();
        let line = format!("   {} {}:{}", metadata.level(), metadata.target(), fields.0);
        self.record.with_trace(|trace| trace.line(&line));
    }
}
