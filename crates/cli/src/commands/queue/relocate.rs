//! `quorate queue move FROM TO`: takes the ready messages of a queue to another one.
//!
//! How they go, once each, is in `transfer`. Here is what has to be so before one is taken: whatever would have a message
//! arrive as less than it was is refused first, with what to do.

use std::io::Write;

use quorate_client::{Client, Delivery, Headers, Message, QueueDescription, dead_letter};
use serde_json::json;

use super::transfer::{self, Coming, Ended, Errand, Filter, Outcome, Plan, Properties, Work};
use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;
use crate::units;

/// Options of `queue move`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Messages keep their headers, group keys, priorities and their own times to live, and get a header \
quorate-moved-from (QUEUE/OFFSET). They go in the order in which consumers would get them. Delayed messages and those that \
consumers have stay where they are.\n\nEach is acknowledged once a majority of the other queue has it, and is \
published under a message id of its own: run again after an interruption, it enters once, unless the other queue has \
forgotten the id (its dedup age or its message id window is over). What a run that was killed had taken comes back after \
the session grace of the queue, and after 15 s at most; the next run waits for it."
)]
pub struct Args {
    /// The queue that messages are taken from.
    from: String,
    /// The queue that they go to.
    to: String,
    /// Only messages with this header; given several times, with all of them.
    #[arg(long = "where", alias = "filter", value_name = "HEADER=VALUE", value_parser = transfer::filter)]
    filters: Vec<Filter>,
    /// At most so many messages a second, e.g. 100/s.
    #[arg(long, value_name = "N/s", value_parser = transfer::rate)]
    rate: Option<f64>,
    /// Move at most so many messages, the first.
    #[arg(short = 'n', long, alias = "max", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Move them without their priorities.
    #[arg(long)]
    without_priorities: bool,
    /// Show how many would be moved, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Errand for Args {
    fn from(&self) -> &str {
        &self.from
    }

    fn name(&self) -> &'static str {
        "quorate queue move"
    }

    fn id_prefix(&self) -> &'static str {
        "quorate-move"
    }

    fn done(&self) -> &'static str {
        "moved"
    }

    fn filters(&self) -> &[Filter] {
        &self.filters
    }

    fn rate(&self) -> Option<f64> {
        self.rate
    }

    fn class(&self, _: &Headers) -> String {
        String::new()
    }

    fn target(&self, _: &Headers) -> Result<String, String> {
        Ok(self.to.clone())
    }

    fn looks_up(&self) -> bool {
        true
    }

    /// It is seen before one is taken.
    fn weighs(&self) -> bool {
        false
    }

    fn fewer(&self) -> &'static str {
        "--count"
    }

    fn without(&self) -> &'static [&'static str] {
        &[]
    }

    fn says(&self) -> &'static str {
        dead_letter::MOVED_FROM
    }

    fn message(&self, delivery: &Delivery, properties: Properties) -> Message {
        let message = transfer::carried(delivery, self);
        let message = match properties.ttl {
            Some(left) => message.ttl(left),
            None => message,
        };
        if self.without_priorities { message } else { message.priority(properties.priority) }
    }
}

/// Moves them, and sums up.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    if args.from == args.to {
        return Err(Failure::usage("a queue is not moved to itself: name another one to move to"));
    }
    let client = session::connect(global).await?;
    let (from, to) = (describe(&client, &args.from, global), describe(&client, &args.to, global));
    let (from, to) = (from.await?, to.await?);
    if !args.dry_run {
        transfer::dead_runs_over(&client, &args.from, args.name(), global).await?;
    }
    // What is blocked is ready when the one before it has been moved.
    let mut plan =
        Plan::of(&client, &args.from, global, |counts| counts.ready + counts.blocked).await?;
    if args.filters.is_empty() {
        // However many come in meanwhile, and before the others for their priority.
        plan.end = u64::MAX;
        plan.total = plan.total.min(args.count.unwrap_or(u64::MAX));
    } else {
        plan.choose(&client, &args.from, &args.filters, args.count, |_| ()).await?;
    }
    check(&args, &from, &to, plan.total)?;
    if args.dry_run {
        return show_dry(&args, global.output, plan.total);
    }
    let (args, outcome) = Work::new(client, args, plan).carry_out(global).await?;
    sum_up(&args, &outcome, global.output)
}

async fn describe(
    client: &Client,
    queue: &str,
    global: &Global,
) -> Result<QueueDescription, Failure> {
    let doing = format!("describe queue {queue:?}");
    session::within(global, &doing, client.describe_queue(queue)).await
}

/// Refuses what could not be done as it is meant.
fn check(
    args: &Args,
    from: &QueueDescription,
    to: &QueueDescription,
    total: u64,
) -> Result<(), Failure> {
    let refused = |what: String| Err(Failure::new(Exit::Refused, what));
    let settings = |queue: &QueueDescription| queue.settings.clone().unwrap_or_default();
    let (had, has) = (settings(from), settings(to));
    let (source, target) = (&args.from, &args.to);
    if from.paused {
        let what = format!("queue {source} is paused: it hands out nothing, to nobody");
        return refused(what).map_err(|it| {
            it.cure(format!(
                "`quorate queue resume {source}`; its consumers alone can be kept waiting with `quorate consumer pause`"
            ))
        });
    }
    if had.priorities && !has.priorities && !args.without_priorities {
        let what = format!(
            "messages of {source} may have priorities, and {target} takes none that has one"
        );
        return refused(what).map_err(|it| {
            it.reason("PRIORITIES_OFF").cure(format!(
                "`quorate queue update {target} --priorities`, or move them with --without-priorities"
            ))
        });
    }
    if let Some((what, cure)) = transfer::short_window(target, has.message_id_window) {
        return refused(what).map_err(|it| it.cure(cure));
    }
    transfer::makes_room(to, coming(args, from, total), args.fewer())
        .map_or(Ok(()), |it| Err(Failure::new(it.exit, it.what).cure(it.cure)))
}

/// What is to come, by the mean: messages are not weighed one by one.
fn coming(args: &Args, from: &QueueDescription, total: u64) -> Coming {
    let source = from.counts.unwrap_or_default();
    let mean = source.bytes.div_ceil(transfer::held(&source).max(1));
    let each = mean + transfer::says_bytes(args);
    Coming { messages: total, bytes: each.saturating_mul(total) }
}

fn show_dry(args: &Args, format: Format, total: u64) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let (from, to) = (&args.from, &args.to);
    match format {
        Format::Json => {
            writeln!(out, "{}", json!({ "from": from, "to": to, "would_move": total }))?;
        }
        Format::Table => {
            writeln!(out, "{} messages of {from} would be moved to {to}", units::count(total))?;
        }
    }
    Ok(())
}

fn sum_up(args: &Args, outcome: &Outcome, format: Format) -> Result<(), Failure> {
    let (sent, missing) = (outcome.sent(), outcome.missing());
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => {
            let refused = outcome.refused.iter();
            let refused = refused.map(|(to, (why, _))| json!({ "queue": to, "why": why }));
            let line = json!({
                "from": args.from, "to": args.to, "moved": sent, "left": outcome.left(),
                "not_reached": missing, "interrupted": outcome.ended == Ended::Interrupted,
                "not_acknowledged": outcome.owed, "refused": refused.collect::<Vec<_>>(),
            });
            writeln!(out, "{line}")?;
        }
        Format::Table => {
            writeln!(out, "{} of {} moved", units::count(sent), units::count(outcome.total))?;
        }
    }
    outcome.failure(&args.from).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use quorate_client::{Overflow, QueueCounts, QueueSettings};

    use super::*;

    fn args() -> Args {
        Args {
            from: "a".to_owned(),
            to: "b".to_owned(),
            filters: Vec::new(),
            rate: None,
            count: None,
            without_priorities: false,
            dry_run: false,
        }
    }

    fn queue(settings: QueueSettings, held: u64) -> QueueDescription {
        let counts =
            QueueCounts { published: held, ready: held, bytes: held * 100, ..<_>::default() };
        let window =
            if settings.message_id_window == 0 { 65_536 } else { settings.message_id_window };
        let settings = QueueSettings { message_id_window: window, ..settings };
        QueueDescription { settings: Some(settings), counts: Some(counts), ..<_>::default() }
    }

    fn plain() -> QueueSettings {
        QueueSettings::default()
    }

    #[test]
    fn what_would_lose_a_part_of_a_message_is_refused_before_one_is_taken() {
        let priorities = || QueueSettings { priorities: true, ..plain() };
        let refused = |from, to| check(&args(), &from, &to, 10).unwrap_err().exit();
        assert_eq!(refused(queue(priorities(), 10), queue(plain(), 0)), Exit::Refused);
        check(&args(), &queue(priorities(), 10), &queue(priorities(), 0), 10).unwrap();
        check(&args(), &queue(plain(), 10), &queue(priorities(), 0), 10).unwrap();
        let without = Args { without_priorities: true, ..args() };
        check(&without, &queue(priorities(), 10), &queue(plain(), 0), 10).unwrap();
        let short = QueueSettings { message_id_window: 100, ..plain() };
        assert_eq!(refused(queue(plain(), 10), queue(short, 0)), Exit::Refused);
        let paused = QueueDescription { paused: true, ..queue(plain(), 10) };
        assert_eq!(refused(paused, queue(plain(), 0)), Exit::Refused);
    }

    #[test]
    fn nothing_is_dropped_to_make_room_for_what_is_moved() {
        let drops = |max_messages, max_bytes| {
            let mut settings = QueueSettings { max_messages, max_bytes, ..plain() };
            settings.set_overflow(Overflow::DropHead);
            settings
        };
        let from = queue(plain(), 10);
        for (settings, held, refused) in [
            (drops(15, 0), 6, true),
            (drops(15, 0), 5, false),
            // Each comes with one more header.
            (drops(0, 1_960), 6, true),
            (drops(0, 1_960), 5, false),
            (QueueSettings { max_messages: 5, ..plain() }, 5, false),
        ] {
            let checked = check(&args(), &from, &queue(settings.clone(), held), 10);
            assert_eq!(checked.is_err(), refused, "{settings:?} with {held}");
        }
    }
}
