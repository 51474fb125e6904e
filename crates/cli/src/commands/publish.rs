//! `quorate publish QUEUE [MESSAGE...]`.
//!
//! ```text
//! arguments | lines of stdin | lines of a file | a whole file ──► Input ──► Producer.send ──► receipts, in order
//! ```
//! Sending and collecting receipts run side by side, so a pipe into `publish` is as fast as the cluster.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use quorate_client::{AckLevel, Batch, Message, Pending, Producer, PublishError, Receipt};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::mpsc;

use crate::args::{Format, Global};
use crate::commands::verify::{Level, Line};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;
use crate::table::Table;
use crate::units;

/// Options of `publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate publish orders '{\"id\": 1}'\n  \
cat orders.jsonl | quorate publish orders\n  quorate publish orders --whole-file invoice.pdf -H type=pdf")]
pub struct Args {
    /// The queue.
    queue: String,
    /// Messages; without any, or with `-`, each line of standard input is one.
    #[arg(conflicts_with_all = ["file", "whole_file"])]
    messages: Vec<String>,
    /// Each line of this file is a message.
    #[arg(long, value_name = "FILE", conflicts_with = "whole_file")]
    file: Option<PathBuf>,
    /// This file is one message.
    #[arg(long, value_name = "FILE")]
    whole_file: Option<PathBuf>,
    /// Header for every message; repeatable.
    #[arg(short = 'H', long = "header", value_name = "KEY=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Publish each message this many times.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Deliver the messages to consumers only after this time, e.g. 90s, 2h.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    delay: Option<Duration>,
    /// Deliver the messages to consumers only after this moment, as `date -Is` writes it, e.g. 2026-12-24T18:00:00Z; by the
    /// clock of the queue's leader.
    #[arg(long, value_name = "MOMENT", conflicts_with = "delay", value_parser = units::parse_moment)]
    deliver_at: Option<SystemTime>,
    /// Deliver the messages one after the other with all others of this key, in order; up to 256 bytes.
    #[arg(long, value_name = "KEY", default_value = "")]
    group_key: String,
    /// Publish the messages to the shard of this key, if the queue is sharded and they have no group key; up to 256 bytes.
    #[arg(long, value_name = "KEY", default_value = "")]
    shard_key: String,
    /// Deliver the messages within this time or not at all, e.g. 30s.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    ttl: Option<Duration>,
    /// Priority of the messages, 0 to 9, the highest first; the queue has to have priorities.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// Publish all messages as one batch of this name, 1 to 128 bytes: published again, it enters once.
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// Publish all messages as one batch, and only if its first message gets this offset.
    #[arg(long, value_name = "OFFSET")]
    expect_offset: Option<u64>,
    /// Where a message has to be before its receipt comes.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    ack: Level,
}

/// Up to here each receipt is printed in table form; beyond, a summary says more than a page of offsets.
const RECEIPTS_LISTED: usize = 20;
/// Receipts that may be waited for at once; the SDK bounds what is in flight below this.
const PENDING_LIMIT: usize = 4096;
/// Longest line taken as a message; the server's own limit is at most this.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Most messages that enter as one.
const BATCH_MESSAGES_MAX: usize = 65_536;
/// Longest name of a batch.
const MESSAGE_ID_BYTES_MAX: usize = 128;

/// A header as options give it.
pub fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?}: write KEY=VALUE")),
    }
}

/// Publishes and prints receipts.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    let mut input = Input::open(&args).await?;
    let client = session::connect(global).await?;
    let mut producer = client.producer(args.queue.as_str()).deadline(global.timeout);
    if args.is_batch() {
        producer = producer.in_flight(BATCH_MESSAGES_MAX);
    }
    let building = producer.ack(args.ack.ack()).build();
    let producer = session::within(global, "open producer", building).await?;
    let started = Instant::now();
    let (pending, receipts) = mpsc::channel(PENDING_LIMIT);
    let doing = format!("publish to {:?}", args.queue);
    let mut report = Report::new(&args.queue, global.output);
    let (sent, collected) = tokio::join!(
        send_all(&mut input, &args, &producer, pending, &doing),
        collect(receipts, &mut report, &doing),
    );
    // What was confirmed is told even if something failed: those messages are in the queue.
    report.finish(started)?;
    let outcome = collected.and(sent);
    outcome.map_err(|failure| match report.confirmed {
        0 => failure,
        n => failure.context(format!("{} messages were confirmed, then", units::count(n))),
    })?;
    producer.close().await;
    Ok(())
}

impl Args {
    fn is_batch(&self) -> bool {
        self.message_id.is_some() || self.expect_offset.is_some()
    }

    fn message(&self, body: &Bytes) -> Message {
        let mut message = Message::new(body.clone());
        for (key, value) in &self.headers {
            message = message.header(key.clone(), value.clone());
        }
        if let Some(delay) = self.delay {
            message = message.delay(delay);
        }
        if let Some(moment) = self.deliver_at {
            message = message.deliver_at(moment);
        }
        if let Some(ttl) = self.ttl {
            message = message.ttl(ttl);
        }
        let message = message.shard_key(self.shard_key.as_str());
        message.group_key(self.group_key.as_str()).priority(self.priority.unwrap_or(0))
    }

    /// What is to enter as one.
    fn batch(&self, messages: Vec<Message>) -> Result<Batch, Failure> {
        let mut batch = Batch::new(messages);
        if let Some(id) = &self.message_id {
            if !(1..=MESSAGE_ID_BYTES_MAX).contains(&id.len()) {
                let what = format!("--message-id: 1 to {MESSAGE_ID_BYTES_MAX} bytes");
                return Err(Failure::usage(what));
            }
            batch = batch.id(id.as_str());
        }
        Ok(match self.expect_offset {
            Some(offset) => batch.expect_offset(offset),
            None => batch,
        })
    }
}

/// Sends all messages as one batch.
async fn send_batch(
    input: &mut Input,
    args: &Args,
    producer: &Producer,
    pending: mpsc::Sender<Pending>,
    doing: &str,
) -> Result<(), Failure> {
    let mut messages = Vec::new();
    while let Some(body) = input.next().await? {
        for _ in 0..args.count {
            if messages.len() == BATCH_MESSAGES_MAX {
                let what = format!("{doing}: a batch has at most {BATCH_MESSAGES_MAX} messages");
                return Err(Failure::usage(what));
            }
            messages.push(args.message(&body));
        }
    }
    let sent = producer.send_batch(args.batch(messages)?).await;
    for sent in sent.map_err(|error| session::failure(doing, &error))? {
        if pending.send(sent).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn send_all(
    input: &mut Input,
    args: &Args,
    producer: &Producer,
    pending: mpsc::Sender<Pending>,
    doing: &str,
) -> Result<(), Failure> {
    if args.is_batch() {
        return send_batch(input, args, producer, pending, doing).await;
    }
    while let Some(body) = input.next().await? {
        for _ in 0..args.count {
            let sent = producer.send(args.message(&body)).await;
            let sent = sent.map_err(|error| session::failure(doing, &error))?;
            // The collector has met a failure and left: it reports it.
            if pending.send(sent).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn collect(
    mut receipts: mpsc::Receiver<Pending>,
    report: &mut Report,
    doing: &str,
) -> Result<(), Failure> {
    while let Some(pending) = receipts.recv().await {
        let receipt: Result<_, PublishError> = pending.await;
        let receipt = receipt.map_err(|error| session::failure(doing, &error))?;
        report.receipt(&receipt)?;
    }
    Ok(())
}

/// Receipts as they come in, printed as the format asks.
struct Report {
    queue: String,
    format: Format,
    confirmed: u64,
    first: Vec<Receipt>,
    offsets: Option<(u64, u64)>,
    /// Numbers of the shards, if the queue has any.
    shards: BTreeSet<u16>,
}

impl Report {
    fn new(queue: &str, format: Format) -> Report {
        let queue = queue.to_owned();
        let (first, offsets, shards) = Default::default();
        Report { queue, format, confirmed: 0, first, offsets, shards }
    }

    fn receipt(&mut self, receipt: &Receipt) -> Result<(), Failure> {
        self.confirmed += 1;
        self.shards.extend(receipt.shard);
        if let Some(offset) = receipt.offset {
            let (low, high) = self.offsets.unwrap_or((offset, offset));
            self.offsets = Some((low.min(offset), high.max(offset)));
        }
        match self.format {
            Format::Json => {
                let line = serde_json::to_string(&Line::new(&self.queue, receipt))?;
                writeln!(std::io::stdout().lock(), "{line}")?;
            }
            Format::Table if self.first.len() <= RECEIPTS_LISTED => self.first.push(*receipt),
            Format::Table => {}
        }
        Ok(())
    }

    fn finish(&self, started: Instant) -> Result<(), Failure> {
        if self.confirmed == 0 || self.format == Format::Json {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        if self.first.len() <= RECEIPTS_LISTED {
            let is_sharded = !self.shards.is_empty();
            let mut table = match is_sharded {
                true => Table::new(&["shard", ">offset", "receipt"]),
                false => Table::new(&[">offset", "receipt"]),
            };
            for receipt in &self.first {
                let offset = receipt.offset.map_or("-".to_owned(), |offset| offset.to_string());
                let shard = receipt.shard.map(|shard| format!("{}@{shard}", self.queue));
                let cells = [offset, word(receipt)];
                table.row(is_sharded.then(|| shard.unwrap_or_default()).into_iter().chain(cells));
            }
            write!(out, "{table}")?;
            return Ok(());
        }
        let elapsed = started.elapsed();
        let rate = self.confirmed as f64 / elapsed.as_secs_f64();
        let at = match self.offsets {
            _ if !self.shards.is_empty() => format!("confirmed in {} shards", self.shards.len()),
            Some((low, high)) => format!("confirmed at offsets {low} to {high}"),
            None => "accepted".to_owned(),
        };
        writeln!(
            out,
            "{} messages {at} in {} ({} messages/s)",
            units::count(self.confirmed),
            units::duration(elapsed),
            units::count(rate as u64),
        )?;
        Ok(())
    }
}

/// What a receipt says, in a word or two.
fn word(receipt: &Receipt) -> String {
    match receipt.level {
        _ if receipt.duplicate => "duplicate".to_owned(),
        AckLevel::Accepted => "accepted".to_owned(),
        AckLevel::All => format!("confirmed by {}", receipt.in_sync),
        AckLevel::Quorum | AckLevel::Unspecified => "confirmed".to_owned(),
    }
}

/// Where messages come from.
enum Input {
    Listed(std::vec::IntoIter<Bytes>),
    Lines(Box<dyn AsyncBufRead>),
}

/// What lines are read from.
trait AsyncBufRead: tokio::io::AsyncBufRead + Send + Unpin {}
impl<R: AsyncRead + Send + Unpin> AsyncBufRead for BufReader<R> {}

impl Input {
    async fn open(args: &Args) -> Result<Input, Failure> {
        let failed = |path: &PathBuf, error: std::io::Error| {
            Failure::new(Exit::Failed, format!("read {}: {error}", path.display()))
        };
        if let Some(path) = &args.whole_file {
            let body = tokio::fs::read(path).await.map_err(|error| failed(path, error))?;
            return Ok(Input::Listed(vec![Bytes::from(body)].into_iter()));
        }
        if let Some(path) = &args.file {
            let file = tokio::fs::File::open(path).await.map_err(|error| failed(path, error))?;
            return Ok(Input::Lines(Box::new(BufReader::new(file))));
        }
        if args.messages.is_empty() || args.messages == ["-"] {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
            let stdin = tokio::fs::File::from_std(std::fs::File::from(stdin));
            return Ok(Input::Lines(Box::new(BufReader::new(stdin))));
        }
        let bodies: Vec<Bytes> = args.messages.iter().cloned().map(Bytes::from).collect();
        Ok(Input::Listed(bodies.into_iter()))
    }

    /// The next message; lines without their line end, whatever bytes they hold.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let reader = match self {
            Input::Listed(bodies) => return Ok(bodies.next()),
            Input::Lines(reader) => reader,
        };
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(Failure::new(Exit::Failed, "a line is longer than 16 MiB")
                .reason("MESSAGE_TOO_LARGE"));
        }
        Ok(Some(Bytes::from(line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_key_and_a_value_that_may_hold_equal_signs() {
        assert_eq!(parse_header("k=v=w"), Ok(("k".to_owned(), "v=w".to_owned())));
        assert_eq!(parse_header("k="), Ok(("k".to_owned(), String::new())));
        assert!(parse_header("=v").is_err());
        assert!(parse_header("k").is_err());
    }

    #[test]
    fn a_moment_to_deliver_at_is_given_in_place_of_a_delay() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: Args,
        }
        let parse = |more: &[&str]| {
            let args = [&["publish", "orders", "x"], more].concat();
            <Cli as clap::Parser>::try_parse_from(args).map(|cli| cli.args)
        };
        let at = ["--deliver-at", "2026-12-24T18:00:00Z"];
        let args = parse(&at).unwrap();
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_798_135_200);
        assert_eq!(args.deliver_at, Some(moment));
        assert!(parse(&[&at[..], &["--delay", "1h"]].concat()).is_err());
        assert!(parse(&["--deliver-at", "tomorrow"]).is_err());
    }

    #[tokio::test]
    async fn lines_are_messages_without_their_line_ends() {
        let text: &[u8] = b"one\n\ntwo \xff\nlast without end";
        let mut input = Input::Lines(Box::new(BufReader::new(text)));
        let mut lines = Vec::new();
        while let Some(line) = input.next().await.expect("read") {
            lines.push(line);
        }
        assert_eq!(lines, [&b"one"[..], b"", b"two \xff", b"last without end"]);
    }
}
