//! `quorate queue redrive QUEUE`: sends messages of a dead-letter queue back to where they died.
//!
//! ```text
//!  select (a reader, only if some are to stay) ─► take ─► publish ─► receipt ─► ack
//!                                                  └ not selected, or not taken: held, given back at the end
//! ```
//!
//! A message is acknowledged once a majority of the other queue has it, so what interrupts this loses nothing. A message
//! whose receipt came and whose ack did not is sent back once more by the next run: under the same message id, so that it
//! enters once if the other queue still remembers that.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressStyle};
use quorate_client::{
    Batch, Client, Consumer, Delivery, Error, Headers, Message, Producer, PublishError, Receipt,
    dead_letter,
};
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::{self, Reasoned};
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
    #[arg(long = "filter", value_name = "HEADER=VALUE", value_parser = filter)]
    filters: Vec<(String, String)>,
    /// At most so many messages a second, e.g. 100/s.
    #[arg(long, value_name = "N/s", value_parser = rate)]
    rate: Option<f64>,
    /// Send back at most so many messages, the oldest.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Show what would be sent back where, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Messages taken ahead, and sent without a receipt yet.
const AHEAD: u32 = 256;
/// Most messages that are passed over to come to others: they are leased meanwhile.
const PASSED_MAX: u64 = 65_000;
/// Without a message for so long, what is missing is leased to others or waits for its time.
const DRAINED_AFTER: Duration = Duration::from_secs(2);
/// Time between two lines about how far it is, where there is no progress bar.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// What a message without the header is listed under.
const UNKNOWN: &str = "unknown";

fn filter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a filter is HEADER=VALUE".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a rate is a number above 0, e.g. 100/s".to_owned()),
    }
}

fn text(headers: &Headers, key: &str) -> Option<String> {
    String::from_utf8(headers.get(key)?.to_vec()).ok()
}

fn cause(headers: &Headers) -> String {
    text(headers, dead_letter::CAUSE).unwrap_or_else(|| UNKNOWN.to_owned())
}

impl Args {
    /// Whether some of what is there is to stay.
    fn selects(&self) -> bool {
        !self.filters.is_empty() || self.max.is_some()
    }

    fn matches(&self, headers: &Headers) -> bool {
        let has = |(key, value): &(String, String)| {
            headers.iter().any(|(found, is)| found == key && is == value.as_bytes())
        };
        self.filters.iter().all(has)
    }

    /// Where a message goes.
    fn target(&self, headers: &Headers) -> Option<String> {
        self.to.clone().or_else(|| text(headers, dead_letter::SOURCE))
    }
}

/// Sends them back, and sums up.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    if args.to.as_ref() == Some(&args.queue) {
        return Err(Failure::usage("--to: another queue than the one that is emptied"));
    }
    let client = session::connect(global).await?;
    let describing = client.describe_queue(args.queue.as_str());
    let described = session::within(global, "describe queue", describing).await?;
    let counts = described.counts.unwrap_or_default();
    // What dies again meanwhile is for the next time.
    let mut plan = Plan {
        group: described.group_id,
        end: counts.next_offset,
        total: counts.ready + counts.leased + counts.delayed + counts.blocked,
        chosen: None,
        passed: 0,
    };
    if args.selects() || args.dry_run {
        let found = select(&client, &args, &mut plan).await?;
        if args.dry_run {
            return show_dry(&args, global.output, &found);
        }
    }
    let mut work = Work::new(client, args, plan);
    let outcome = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Ok(Ended::Interrupted),
        outcome = work.run(global) => outcome,
    };
    work.finish(global).await;
    work.sum_up(outcome?, global.output)
}

/// Which messages are sent back.
struct Plan {
    /// Raft group of the dead-letter queue, which a queue of the same name that is created anew does not have.
    group: u64,
    /// Those before this offset,
    end: u64,
    /// so many,
    total: u64,
    /// and of those only these, in order.
    chosen: Option<Vec<u64>>,
    /// Others before the last of them.
    passed: u64,
}

impl Plan {
    fn has(&self, offset: u64) -> bool {
        let chosen =
            self.chosen.as_ref().is_none_or(|chosen| chosen.binary_search(&offset).is_ok());
        chosen && offset < self.end
    }

    /// What names a message for the queue that it goes to. The digest is for a dead-letter queue that was recovered
    /// from a replica without all of its log, and has another message at the offset.
    fn message_id(&self, delivery: &Delivery) -> String {
        message_id(self.group, delivery.offset, &delivery.headers, &delivery.body)
    }
}

fn message_id(group: u64, offset: u64, headers: &Headers, body: &[u8]) -> String {
    let digest = headers.iter().fold(crc32c::crc32c(body), |digest, (key, value)| {
        crc32c::crc32c_append(crc32c::crc32c_append(digest, key.as_bytes()), &value)
    });
    format!("quorate-redrive/{group}/{offset}/{digest:08x}")
}

/// Messages by cause and by the queue that they go to.
type Found = BTreeMap<(String, String), u64>;

/// Reads all that is there, which takes nothing, and chooses.
async fn select(client: &Client, args: &Args, plan: &mut Plan) -> Result<Found, Failure> {
    let doing = format!("read {:?}", args.queue);
    let mut reader = client.reader(args.queue.as_str()).linearizable().build();
    let (mut found, mut chosen, mut passed) = (Found::new(), Vec::new(), 0);
    while let Some(message) = reader.next().await {
        let message = message.map_err(|error| session::failure(&doing, &error))?;
        if message.offset >= plan.end || args.max.is_some_and(|max| chosen.len() as u64 >= max) {
            break;
        }
        if !args.matches(&message.headers) {
            passed += 1;
            continue;
        }
        let to = args.target(&message.headers).unwrap_or_else(|| UNKNOWN.to_owned());
        *found.entry((cause(&message.headers), to)).or_default() += 1;
        chosen.push(message.offset);
        plan.passed = passed;
    }
    plan.total = chosen.len() as u64;
    plan.chosen = Some(chosen);
    Ok(found)
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

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    Interrupted,
    /// No more came, though there was more when it began.
    Drained,
}

#[derive(Default)]
struct Tally {
    sent: u64,
    left: u64,
}

/// A message on its way.
type Sent = (Delivery, String, String, Result<Receipt, PublishError>);

struct Work {
    client: Client,
    args: Args,
    plan: Plan,
    consumer: Option<Consumer>,
    /// By the queue that they publish to.
    producers: BTreeMap<String, Producer>,
    /// Queues that refused one, and why: the rest of theirs stays.
    refused: BTreeMap<String, (String, Exit)>,
    under_way: FuturesUnordered<BoxFuture<'static, Sent>>,
    /// Taken and not sent back; given back at the end, so that they do not come again at once.
    held: Vec<Delivery>,
    /// Offsets that were looked at: one whose lease ended comes again.
    seen: BTreeSet<u64>,
    /// Of those, what is in the other queue.
    confirmed: BTreeSet<u64>,
    by_cause: BTreeMap<String, Tally>,
    bar: ProgressBar,
    told: Instant,
    /// When the next may be sent.
    next_at: Instant,
}

impl Work {
    fn new(client: Client, args: Args, plan: Plan) -> Self {
        // Hidden by itself when standard error is no terminal.
        let bar = ProgressBar::new(plan.total);
        let style = "redriven {bar:32} {human_pos}/{human_len}  {per_sec}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self {
            client,
            args,
            plan,
            consumer: None,
            producers: BTreeMap::new(),
            refused: BTreeMap::new(),
            under_way: FuturesUnordered::new(),
            held: Vec::new(),
            seen: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            by_cause: BTreeMap::new(),
            bar,
            told: Instant::now(),
            next_at: Instant::now(),
        }
    }

    async fn run(&mut self, global: &Global) -> Result<Ended, Failure> {
        if self.plan.total == 0 {
            return Ok(Ended::Done);
        }
        if self.plan.passed > PASSED_MAX {
            return Err(Failure::new(
                Exit::Failed,
                format!(
                    "{} messages that stay are before others that are sent back, at most {} can be \
                     passed over",
                    units::count(self.plan.passed),
                    units::count(PASSED_MAX)
                ),
            )
            .cure("send back or consume the older ones first, with --max or another --filter"));
        }
        let doing = format!("consume from {:?}", self.args.queue);
        let building = self.client.consumer(self.args.queue.as_str());
        let building =
            building.name("quorate queue redrive").prefetch(AHEAD + self.plan.passed as u32);
        self.consumer = Some(session::within(global, "open consumer", building.build()).await?);
        let mut is_over = false;
        loop {
            let done = is_over || self.seen.len() as u64 >= self.plan.total;
            if done && self.under_way.is_empty() {
                return Ok(if is_over { Ended::Drained } else { Ended::Done });
            }
            let has_room = !done && self.under_way.len() < AHEAD as usize;
            let (consumer, next_at) = (&mut self.consumer, self.next_at);
            let next = async {
                sleep_until(next_at).await;
                match consumer {
                    Some(consumer) => timeout(DRAINED_AFTER, consumer.next()).await.ok().flatten(),
                    None => None,
                }
            };
            tokio::select! {
                biased;
                Some(sent) = self.under_way.next(), if !self.under_way.is_empty() => self.settle(sent),
                next = next, if has_room => match next {
                    Some(Ok(delivery)) => self.take(delivery).await,
                    Some(Err(error)) => return Err(session::failure(&doing, &error)),
                    None => is_over = true,
                },
            }
        }
    }

    /// Sends a message on its way, or keeps it to the end.
    async fn take(&mut self, delivery: Delivery) {
        let offset = delivery.offset;
        if self.confirmed.contains(&offset) {
            // Its lease had ended before its ack was there.
            delivery.ack_later();
            return;
        }
        if !self.plan.has(offset) {
            self.hold(delivery);
            return;
        }
        self.seen.insert(offset);
        let cause = cause(&delivery.headers);
        let Some(to) = self.args.target(&delivery.headers) else {
            let why = "the message does not say where it died; name a queue with --to".to_owned();
            self.leave(delivery, &cause, UNKNOWN, why, Exit::Failed);
            return;
        };
        if self.refused.contains_key(&to) {
            self.by_cause.entry(cause).or_default().left += 1;
            self.hold(delivery);
            return;
        }
        if let Some(rate) = self.args.rate {
            // What was not sent in time is not made up for.
            self.next_at = Instant::now() + Duration::from_secs_f64(1.0 / rate);
        }
        let message = returned(&self.args.queue, &delivery);
        let batch = Batch::from(message).id(self.plan.message_id(&delivery));
        let sent = match self.producer(&to).await {
            Ok(producer) => producer.send_batch(batch).await.map_err(|e| (e.to_string(), e.exit())),
            Err(error) => Err((error.to_string(), error.exit())),
        };
        match sent {
            Ok(mut sent) => {
                let pending = sent.pop().expect("a message has a receipt");
                let sent = async move { (delivery, cause, to, pending.await) };
                self.under_way.push(Box::pin(sent));
            }
            Err((why, exit)) => self.leave(delivery, &cause, &to, why, exit),
        }
    }

    async fn producer(&mut self, to: &str) -> Result<&Producer, Error> {
        if !self.producers.contains_key(to) {
            let producer = self.client.producer(to).build().await?;
            self.producers.insert(to.to_owned(), producer);
        }
        Ok(&self.producers[to])
    }

    fn settle(&mut self, (delivery, cause, to, outcome): Sent) {
        match outcome {
            Ok(_) => {
                self.by_cause.entry(cause).or_default().sent += 1;
                self.confirmed.insert(delivery.offset);
                delivery.ack_later();
                self.bar.inc(1);
                self.tell();
            }
            Err(error) => {
                let (why, exit) = (error.to_string(), error.exit());
                self.leave(delivery, &cause, &to, why, exit);
            }
        }
    }

    fn leave(&mut self, delivery: Delivery, cause: &str, to: &str, why: String, exit: Exit) {
        self.by_cause.entry(cause.to_owned()).or_default().left += 1;
        self.refused.entry(to.to_owned()).or_insert((why, exit));
        self.hold(delivery);
    }

    /// Without what it takes memory for.
    fn hold(&mut self, mut delivery: Delivery) {
        delivery.body = Bytes::new();
        delivery.headers = Headers::default();
        self.held.push(delivery);
    }

    fn tell(&mut self) {
        if !std::io::stderr().is_terminal() && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let (sent, total) = (self.confirmed.len() as u64, self.plan.total);
            eprintln!("redriven {} of {}", units::count(sent), units::count(total));
        }
    }

    /// Waits for what is on its way, acknowledges it, and gives the rest back.
    async fn finish(&mut self, global: &Global) {
        let settle = async {
            while let Some(sent) = self.under_way.next().await {
                self.settle(sent);
            }
        };
        let _ = timeout(global.timeout, settle).await;
        if let Some(consumer) = self.consumer.take() {
            let _ = timeout(global.timeout, consumer.close()).await;
        }
        self.held.clear();
        self.bar.finish_and_clear();
    }

    fn sum_up(&self, ended: Ended, format: Format) -> Result<(), Failure> {
        let sent: u64 = self.by_cause.values().map(|tally| tally.sent).sum();
        let left: u64 = self.by_cause.values().map(|tally| tally.left).sum();
        let missing = self.plan.total.saturating_sub(sent + left);
        let mut out = std::io::stdout().lock();
        if format == Format::Json {
            let causes = self.by_cause.iter().map(|(cause, tally)| {
                json!({ "cause": cause, "redriven": tally.sent, "left": tally.left })
            });
            let refused = self.refused.iter();
            let refused = refused.map(|(to, (why, _))| json!({ "queue": to, "why": why }));
            let line = json!({
                "queue": self.args.queue, "redriven": sent, "left": left, "not_reached": missing,
                "interrupted": ended == Ended::Interrupted,
                "by_cause": causes.collect::<Vec<_>>(), "refused": refused.collect::<Vec<_>>(),
            });
            writeln!(out, "{line}")?;
        } else {
            let mut table = Table::new(&["cause", ">redriven", ">left"]);
            for (cause, tally) in &self.by_cause {
                table.row([cause.clone(), units::count(tally.sent), units::count(tally.left)]);
            }
            if !self.by_cause.is_empty() {
                write!(out, "{table}")?;
            }
            writeln!(out, "{} of {} redriven", units::count(sent), units::count(self.plan.total))?;
        }
        if ended == Ended::Interrupted {
            let what = format!("interrupted after {} of {}", sent, self.plan.total);
            return Err(Failure::new(Exit::Failed, what).cure("the same again goes on from there"));
        }
        if let Some((to, (why, exit))) = self.refused.first_key_value() {
            let what = format!("{left} messages stay in {}: {to}: {why}", self.args.queue);
            return Err(Failure::new(*exit, what).cure("the same again once that is mended"));
        }
        if missing > 0 {
            let what = format!(
                "{missing} messages did not come: they are leased to other consumers, or wait for their \
                 time"
            );
            return Err(Failure::new(Exit::Failed, what).cure("the same again goes on from there"));
        }
        Ok(())
    }
}

/// A message as it is sent back: with its own headers, and the one that says where from.
fn returned(queue: &str, delivery: &Delivery) -> Message {
    const HEADERS_MAX: usize = 64;
    // It says the group key, is refused of who gives it as a header, and counts among them.
    const GROUP_KEY: &str = "quorate-group-key";
    let key = delivery.group_key().unwrap_or_default();
    let room = HEADERS_MAX - usize::from(!key.is_empty());
    let mut message = Message::new(delivery.body.clone()).group_key(key);
    for (key, value) in &delivery.headers {
        let is_new = dead_letter::ALL.contains(&key) || key == dead_letter::REDRIVEN_FROM;
        if !is_new && key != GROUP_KEY {
            message = message.header(key, value);
        }
    }
    match message.headers().len() < room {
        true => message.header(dead_letter::REDRIVEN_FROM, format!("{queue}/{}", delivery.offset)),
        false => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_same_id_whenever_it_is_sent_back_and_no_other_has_it() {
        let none = Headers::default();
        let id = message_id(3, 7, &none, b"body");
        assert_eq!(id, message_id(3, 7, &none, b"body"));
        for other in [(4, 7, "body"), (3, 8, "body"), (3, 7, "bodies")] {
            let (group, offset, body) = other;
            assert_ne!(id, message_id(group, offset, &none, body.as_bytes()), "{other:?}");
        }
        let longest = message_id(u64::MAX, u64::MAX, &none, &[0; 64]);
        assert!(longest.len() <= 128, "{longest}");
    }

    #[test]
    fn rates_and_filters_are_read_as_they_are_written() {
        assert_eq!(rate("100/s"), Ok(100.0));
        assert_eq!(rate("0.5"), Ok(0.5));
        for wrong in ["0/s", "-1/s", "fast", "inf", "10/m"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!(filter("k=v=w"), Ok(("k".to_owned(), "v=w".to_owned())));
        assert!(filter("k").is_err() && filter("=v").is_err());
    }
}
