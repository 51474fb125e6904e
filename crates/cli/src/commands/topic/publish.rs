//! `quorate topic publish TOPIC SUBJECT MESSAGE...`.

use std::io::Write;

use quorate_client::{Delivered, Message};
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::commands::publish::parse_header;
use crate::commands::verify::Level;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;

/// Options of `topic publish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The topic.
    topic: String,
    /// Words with dots between them, e.g. orders.created.eu.
    subject: String,
    /// Messages; each queue takes those that are for it as one batch.
    #[arg(required = true)]
    messages: Vec<String>,
    /// Header for every message; repeatable.
    #[arg(short = 'H', long = "header", value_name = "KEY=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Let messages that no route takes go nowhere.
    #[arg(long)]
    allow_unrouted: bool,
    /// Name of what is published, 1 to 128 bytes: published again, it enters once at each queue.
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// Where a message has to be before its receipt comes.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    ack: Level,
}

/// Publishes and prints what has become of it at each queue.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let mut topic = client.topic(args.topic.as_str()).ack(args.ack.ack());
    if args.allow_unrouted {
        topic = topic.allow_unrouted();
    }
    if let Some(id) = &args.message_id {
        topic = topic.message_id(id.as_str());
    }
    let message = |body: String| {
        let headers = args.headers.iter();
        headers.fold(Message::new(body), |message, (key, value)| {
            message.header(key.clone(), value.clone())
        })
    };
    let messages = args.messages.iter().cloned().map(message).collect();
    let doing = format!("publish to topic {:?}", args.topic);
    let publishing = topic.publish(args.subject.as_str(), messages);
    let delivered = session::within(global, &doing, publishing).await?;
    show(&delivered, global)?;
    let failed = delivered.outcomes.iter().find_map(|outcome| outcome.receipt.as_ref().err());
    match failed {
        None => Ok(()),
        Some(refusal) => Err(Failure::new(
            Exit::of_reason(&refusal.reason),
            format!("{doing}: not every queue has taken it: {}", refusal.message),
        )
        .reason(&refusal.reason)),
    }
}

fn show(delivered: &Delivered, global: &Global) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for outcome in &delivered.outcomes {
        let (queue, count) = (&outcome.queue, outcome.messages.len());
        match (global.output, &outcome.receipt) {
            (Format::Json, Ok(receipt)) => {
                let first: Value = receipt.first_offset.into();
                let line = json!({ "queue": queue, "messages": outcome.messages, "offset": first });
                writeln!(out, "{line}")?;
            }
            (Format::Json, Err(refusal)) => {
                let (reason, message) = (&refusal.reason, &refusal.message);
                let line = json!({ "queue": queue, "messages": outcome.messages, "reason": reason, "message": message });
                writeln!(out, "{line}")?;
            }
            (Format::Table, Ok(receipt)) => {
                writeln!(out, "{queue}: {count} from offset {}", receipt.first_offset)?;
            }
            (Format::Table, Err(refusal)) => {
                writeln!(out, "{queue}: none of {count}: {}", refusal.message)?;
            }
        }
    }
    if delivered.outcomes.is_empty() && matches!(global.output, Format::Table) {
        writeln!(out, "no route took it")?;
    }
    Ok(())
}
