//! `quorate consume QUEUE`.
//!
//! A message is acknowledged after it has been written out, so what a closed pipe or a kill interrupts is
//! delivered again, never lost.

use std::time::Duration;

use futures_util::StreamExt;
use quorate_client::Consumer;

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::message;
use crate::session;
use crate::units;

/// Options of `consume`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --count and --follow it ends once no message has come for --idle-timeout."
)]
pub struct Args {
    /// The queue.
    queue: String,
    /// End after this many messages.
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "follow")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Wait for further messages until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// Look only: give the messages back at the end. Counts as a delivery of each; shows at most --prefetch.
    #[arg(long)]
    no_ack: bool,
    /// Messages taken ahead.
    #[arg(long, value_name = "N", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_535))]
    prefetch: u32,
    /// End once no message has come for this long.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    #[arg(conflicts_with = "follow")]
    idle_timeout: Option<Duration>,
    /// Take from the nearest replica, whether it leads or not, as long as it lags at most this.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    max_lag: Option<Duration>,
    /// With --max-lag: prefer a replica of this zone.
    #[arg(
        long,
        value_name = "ZONE",
        default_value = "",
        hide_default_value = true,
        requires = "max_lag"
    )]
    zone: String,
    /// Take only messages with this value in the queue's filter header; may be given 16 times.
    #[arg(long, value_name = "VALUE")]
    filter: Vec<String>,
    /// Name shown in listings of consumers.
    #[arg(long, default_value = "quorate consume", value_name = "NAME")]
    name: String,
}

/// Without other wishes the queue counts as drained after this.
const DRAINED_AFTER: Duration = Duration::from_secs(2);

impl Args {
    /// How long to wait for the next message; `None` = for ever.
    fn patience(&self) -> Option<Duration> {
        match (self.idle_timeout, self.follow, self.count) {
            (Some(idle), _, _) => Some(idle),
            (None, false, None) => Some(DRAINED_AFTER),
            (None, _, _) => None,
        }
    }

    /// What is taken ahead. Looking only frees no credit, so all that is to be seen must fit into it; and who
    /// wants few messages takes no more than those, as each one given back counts as delivered.
    fn credit(&self) -> u32 {
        let wanted = self.count.map(|count| u32::try_from(count).unwrap_or(u32::MAX).min(65_535));
        match (self.no_ack, wanted) {
            (_, None) => self.prefetch,
            (true, Some(wanted)) => self.prefetch.max(wanted),
            (false, Some(wanted)) => self.prefetch.min(wanted),
        }
    }
}

/// Takes messages, prints them, acknowledges them.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let mut building =
        client.consumer(args.queue.as_str()).name(args.name.as_str()).prefetch(args.credit());
    building = building.filter(args.filter.iter().cloned());
    if let Some(bound) = args.max_lag {
        building = building.max_lag(bound).zone(args.zone.as_str());
    }
    let mut consumer = session::within(global, "open consumer", building.build()).await?;
    let outcome = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Ok(()),
        outcome = take(&mut consumer, &args, global.output) => outcome,
    };
    // Gives back at once what was taken ahead, and waits for the acks under way.
    let _ = tokio::time::timeout(global.timeout, consumer.close()).await;
    outcome
}

async fn take(consumer: &mut Consumer, args: &Args, format: Format) -> Result<(), Failure> {
    let doing = format!("consume from {:?}", args.queue);
    let mut looked_at = Vec::new();
    let mut taken = 0;
    while args.count.is_none_or(|count| taken < count) {
        let Some(delivery) = next(consumer, args.patience()).await else { break };
        let delivery = delivery.map_err(|error| session::failure(&doing, &error))?;
        let facts = [
            ("offset", delivery.offset.into()),
            ("shard", delivery.shard.into()),
            ("attempt", delivery.attempt.into()),
        ];
        message::print(format, facts, &delivery.headers, &delivery.body)?;
        taken += 1;
        if args.no_ack {
            // Held to the end: given back now, it would come again at once.
            looked_at.push(delivery);
        } else {
            delivery.ack_later();
        }
    }
    Ok(())
}

async fn next(
    consumer: &mut Consumer,
    patience: Option<Duration>,
) -> Option<<Consumer as futures_util::Stream>::Item> {
    match patience {
        Some(limit) => tokio::time::timeout(limit, consumer.next()).await.ok().flatten(),
        None => consumer.next().await,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Args {
        Only::parse_from(["consume", "orders"].iter().chain(words)).args
    }

    #[test]
    fn it_waits_for_ever_only_if_asked_to() {
        assert_eq!(parse(&[]).patience(), Some(DRAINED_AFTER));
        assert_eq!(parse(&["--follow"]).patience(), None);
        assert_eq!(parse(&["--count", "3"]).patience(), None);
        let limited = parse(&["--count", "3", "--idle-timeout", "5s"]);
        assert_eq!(limited.patience(), Some(Duration::from_secs(5)));
    }

    #[test]
    fn looking_only_takes_credit_for_all_that_is_to_be_seen() {
        assert_eq!(parse(&["--count", "1000", "--no-ack"]).credit(), 1000);
        assert_eq!(parse(&["--count", "100000", "--no-ack"]).credit(), 65_535);
    }

    #[test]
    fn who_wants_few_takes_few() {
        assert_eq!(parse(&["--count", "1"]).credit(), 1);
        assert_eq!(parse(&["--count", "1000"]).credit(), 256);
        assert_eq!(parse(&["--follow", "--prefetch", "7"]).credit(), 7);
    }
}
