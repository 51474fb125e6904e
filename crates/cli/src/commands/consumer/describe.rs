//! `quorate consumer describe QUEUE NAME|SESSION`.

use std::io::Write;

use quorate_client::ConsumerDescription;

use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::table::Facts;
use crate::{session, units};

/// Options of `consumer describe`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queue.
    queue: String,
    /// A name, or a session of 32 hexadecimal digits.
    who: String,
}

/// Shows all that are meant.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let queue = args.queue.as_str();
    let asking = client.list_consumers(queue, super::who(&args.who));
    let list = session::within(global, "describe consumer", asking).await?;
    if list.consumers.is_empty() {
        let message = format!("queue {queue:?} has no consumer {:?}", args.who);
        return Err(Failure::new(Exit::NotFound, message)
            .reason("CONSUMER_NOT_FOUND")
            .cure(format!("`quorate consumer list {queue}` shows those that it has")));
    }
    let mut out = std::io::stdout().lock();
    for (number, consumer) in list.consumers.iter().enumerate() {
        match global.output {
            Format::Json => writeln!(out, "{}", super::json(consumer))?,
            Format::Table => {
                let gap = if number > 0 { "\n" } else { "" };
                write!(out, "{gap}{}", text(consumer, list.queue_paused))?;
            }
        }
    }
    Ok(())
}

fn text(consumer: &ConsumerDescription, queue_paused: bool) -> String {
    let mut facts = Facts::default();
    let zone = if consumer.zone.is_empty() { "-" } else { consumer.zone.as_str() };
    let node = format!("{}, zone {zone}, {}", consumer.node_id, super::role(consumer.role()));
    facts
        .fact("consumer", &consumer.name)
        .fact("session", super::session(consumer))
        .fact("node", node)
        .fact("state", super::state(consumer))
        .fact("leased", units::count(consumer.leased.into()))
        .fact("prefetch", units::count(consumer.prefetch.into()))
        .fact(
            "if it dies",
            match consumer.tells_starts {
                true => "what it has not begun comes back uncharged",
                false => "all that it has counts as delivered",
            },
        );
    if !consumer.filter.is_empty() {
        let values: Vec<String> =
            consumer.filter.iter().map(|value| format!("{value:?}")).collect();
        facts.fact("filter", values.join(", "));
    }
    if queue_paused {
        facts.fact("queue", "is paused: nobody is handed anything");
    }
    facts.to_string()
}
