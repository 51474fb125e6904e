//! `quorate queue redrive QUEUE`: sends messages of a dead-letter queue back to where they died.
//!
//! How they go, once each, is in `transfer`; here is which ones, where to, and what is told of it.

use std::collections::BTreeMap;
use std::io::Write;

use quorate_client::{Delivery, Headers, Message, dead_letter};
use serde_json::json;

use super::transfer::{self, Ended, Errand, Filter, Outcome, Plan, Properties, Work};
use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::session;
use crate::table::Table;
use crate::units;

/// Options of `queue redrive`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Interrupted, it loses nothing: run it again to go on. Each message is published under a message id of \
                  its own, so it enters once even so, unless the other queue has forgotten the id: its dedup age or its \
                  message id window is over."
)]
pub struct Args {
    /// The dead-letter queue.
    queue: String,
    /// Send all to this queue, instead of each to the one that it died in.
    #[arg(long, value_name = "QUEUE")]
    to: Option<String>,
    /// Only messages with this header; given several times, with all of them.
    #[arg(long = "filter", value_name = "HEADER=VALUE", value_parser = transfer::filter)]
    filters: Vec<Filter>,
    /// At most so many messages a second, e.g. 100/s.
    #[arg(long, value_name = "N/s", value_parser = transfer::rate)]
    rate: Option<f64>,
    /// Send back at most so many messages, the first that would be handed out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Show what would be sent back where, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What a message without the header is listed under.
const UNKNOWN: &str = "unknown";

/// Messages by cause and by the queue that they go to.
type Found = BTreeMap<(String, String), u64>;

fn text(headers: &Headers, key: &str) -> Option<String> {
    String::from_utf8(headers.get(key)?.to_vec()).ok()
}

fn cause(headers: &Headers) -> String {
    text(headers, dead_letter::CAUSE).unwrap_or_else(|| UNKNOWN.to_owned())
}

impl Errand for Args {
    fn from(&self) -> &str {
        &self.queue
    }

    fn name(&self) -> &'static str {
        "quorate queue redrive"
    }

    fn id_prefix(&self) -> &'static str {
        "quorate-redrive"
    }

    fn done(&self) -> &'static str {
        "redriven"
    }

    fn filters(&self) -> &[Filter] {
        &self.filters
    }

    fn rate(&self) -> Option<f64> {
        self.rate
    }

    fn class(&self, headers: &Headers) -> String {
        cause(headers)
    }

    fn target(&self, headers: &Headers) -> Result<String, String> {
        let to = self.to.clone().or_else(|| text(headers, dead_letter::SOURCE));
        let why = "the message does not say where it died; name a queue with --to";
        to.ok_or_else(|| why.to_owned())
    }

    /// A dead letter has none of its own: it came in as a plain message.
    fn looks_up(&self) -> bool {
        false
    }

    /// Where to is found in the messages.
    fn weighs(&self) -> bool {
        true
    }

    fn fewer(&self) -> &'static str {
        "--max"
    }

    fn without(&self) -> &'static [&'static str] {
        &dead_letter::ALL
    }

    fn says(&self) -> &'static str {
        dead_letter::REDRIVEN_FROM
    }

    fn message(&self, delivery: &Delivery, _: Properties) -> Message {
        transfer::carried(delivery, self)
    }
}

/// Sends them back, and sums up.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    if args.to.as_ref() == Some(&args.queue) {
        return Err(Failure::usage("--to: another queue than the one that is emptied"));
    }
    let client = session::connect(global).await?;
    if !args.dry_run {
        transfer::dead_runs_over(&client, &args.queue, args.name(), global).await?;
    }
    // What dies again meanwhile is for the next time.
    let mut plan = Plan::of(&client, &args.queue, global, |counts| {
        counts.ready + counts.leased + counts.delayed + counts.blocked
    })
    .await?;
    if args.filters.is_empty() && !args.dry_run {
        plan.total = plan.total.min(args.max.unwrap_or(u64::MAX));
    } else {
        let mut found = Found::new();
        let note = |headers: &Headers| {
            let to = args.target(headers).unwrap_or_else(|_| UNKNOWN.to_owned());
            *found.entry((cause(headers), to)).or_default() += 1;
        };
        plan.choose(&client, &args.queue, &args.filters, args.max, note).await?;
        if args.dry_run {
            return show_dry(&args, global.output, &found);
        }
    }
    let (args, outcome) = Work::new(client, args, plan).carry_out(global).await?;
    sum_up(&args, &outcome, global.output)
}

fn show_dry(args: &Args, format: Format, found: &Found) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let total: u64 = found.values().sum();
    if format == Format::Json {
        let of = |((cause, to), count): (&(String, String), &u64)| json!({ "cause": cause, "to": to, "messages": count });
        let would: Vec<_> = found.iter().map(of).collect();
        writeln!(out, "{}", json!({ "queue": args.queue, "would_redrive": total, "of": would }))?;
        return Ok(());
    }
    let mut table = Table::new(&["cause", "to", ">messages"]);
    for ((cause, to), count) in found {
        table.row([cause.clone(), to.clone(), units::count(*count)]);
    }
    write!(out, "{table}")?;
    writeln!(out, "{} messages of {} would be sent back", units::count(total), args.queue)?;
    Ok(())
}

fn sum_up(args: &Args, outcome: &Outcome, format: Format) -> Result<(), Failure> {
    let (sent, missing) = (outcome.sent(), outcome.missing());
    let mut out = std::io::stdout().lock();
    if format == Format::Json {
        let causes = outcome.by_class.iter().map(
            |(cause, tally)| json!({ "cause": cause, "redriven": tally.sent, "left": tally.left }),
        );
        let refused = outcome.refused.iter();
        let refused = refused.map(|(to, (why, _))| json!({ "queue": to, "why": why }));
        let line = json!({
            "queue": args.queue, "redriven": sent, "left": outcome.left(), "not_reached": missing,
            "interrupted": outcome.ended == Ended::Interrupted, "not_acknowledged": outcome.owed,
            "by_cause": causes.collect::<Vec<_>>(), "refused": refused.collect::<Vec<_>>(),
        });
        writeln!(out, "{line}")?;
    } else {
        let mut table = Table::new(&["cause", ">redriven", ">left"]);
        for (cause, tally) in &outcome.by_class {
            table.row([cause.clone(), units::count(tally.sent), units::count(tally.left)]);
        }
        if !outcome.by_class.is_empty() {
            write!(out, "{table}")?;
        }
        writeln!(out, "{} of {} redriven", units::count(sent), units::count(outcome.total))?;
    }
    outcome.failure(&args.queue).map_or(Ok(()), Err)
}
