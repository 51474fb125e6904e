//! `quorate receive QUEUE`.

use std::time::Duration;

use quorate_client::{Received, Settlement};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::{message, session, units};

/// Options of `receive`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each message is held for its lease: `quorate settle` acknowledges it by the `held` that \
    --output json shows. Without one it comes again when the lease ends."
)]
pub struct Args {
    /// The queue.
    queue: String,
    /// Most messages, up to 1,000.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000))]
    count: u32,
    /// How long to wait for a first message.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::parse_duration)]
    wait: Duration,
    /// How long the messages are held; the queue's setting unless given.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    lease: Option<Duration>,
    /// Take only messages with this value in the queue's filter header; may be given 16 times.
    #[arg(long, value_name = "VALUE")]
    filter: Vec<String>,
    /// Acknowledge each message once it has been printed.
    #[arg(long)]
    ack: bool,
    /// Name shown in listings of consumers.
    #[arg(long, default_value = "quorate receive", value_name = "NAME")]
    name: String,
}

/// Takes messages that are ready, or the first that come, and prints them.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let mut receiver = client.pull_consumer(args.queue.as_str()).name(args.name.as_str());
    receiver = receiver.filter(args.filter.iter().cloned());
    if let Some(lease) = args.lease {
        receiver = receiver.lease(lease);
    }
    let doing = format!("receive from {:?}", args.queue);
    // Its parts each have the whole of --timeout.
    let receiving = receiver.receive(args.count, args.wait).await;
    let messages = receiving.map_err(|error| session::failure(&doing, &error))?;
    for received in messages {
        print(global.output, &received)?;
        if args.ack {
            let settling = receiver.settle(received.held, Settlement::Ack);
            session::within(global, "acknowledge", settling).await?;
        }
    }
    Ok(())
}

fn print(format: Format, received: &Received) -> Result<(), Failure> {
    let held = received.held;
    let facts = [
        ("offset", held.offset.into()),
        ("shard", held.shard.into()),
        ("attempt", received.attempt.into()),
        ("held", held.to_string().into()),
    ];
    let headers = received.headers.iter().map(|(key, value)| (key.as_str(), value.clone()));
    message::print(format, facts, headers, &received.body)
}
