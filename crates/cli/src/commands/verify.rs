//! `quorate verify RECEIPTS`: are the receipts that `quorate publish -o json` printed still honoured?
//!
//! ```text
//! lines of JSON ──► receipts by queue ──► VerifyReceipts at each queue's leader ──► what is not honoured
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use quorate_client::{AckLevel, LogPosition, Receipt, ReceiptVerdict};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;
use crate::table::Table;
use crate::units;

/// Options of `verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  quorate publish orders -o json < orders.jsonl > receipts.jsonl\n  \
quorate verify receipts.jsonl\n\nEnds with code 1 if a receipt of level quorum or all is not honoured. \
One of level accepted may be lost with its leader: it is named, and is no failure."
)]
pub struct Args {
    /// A file of receipts as `quorate publish -o json` prints them, one a line; `-` is standard input.
    #[arg(value_name = "FILE")]
    receipts: PathBuf,
}

/// A receipt of one message as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    queue: String,
    /// Absent at level `accepted`.
    #[serde(default)]
    offset: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    level: Level,
    /// Raft group of the queue.
    group: u64,
    /// Where in the queue's log the message is.
    term: u64,
    index: u64,
    /// Voters that had it, at level `all`.
    #[serde(default, skip_serializing_if = "is_zero")]
    in_sync: u32,
    /// Of a sharded queue, the number of the shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard: Option<u16>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// An ack level, as it is written on the command line and in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The leader has it on disk; may be lost with it.
    Accepted,
    /// A majority of the replicas has it on disk.
    #[default]
    Quorum,
    /// Every replica in sync has it on disk.
    All,
}

impl Level {
    /// As the SDK has it.
    pub fn ack(self) -> AckLevel {
        match self {
            Level::Accepted => AckLevel::Accepted,
            Level::Quorum => AckLevel::Quorum,
            Level::All => AckLevel::All,
        }
    }

    fn of(ack: AckLevel) -> Level {
        match ack {
            AckLevel::Accepted => Level::Accepted,
            AckLevel::All => Level::All,
            AckLevel::Quorum | AckLevel::Unspecified => Level::Quorum,
        }
    }

    /// As JSON and the command line have it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Accepted => "accepted",
            Level::Quorum => "quorum",
            Level::All => "all",
        }
    }
}

impl Line {
    /// The line of a receipt.
    pub fn new(queue: &str, receipt: &Receipt) -> Line {
        let LogPosition { group, term, index } = receipt.position;
        Line {
            queue: queue.to_owned(),
            offset: receipt.offset,
            duplicate: receipt.duplicate,
            level: Level::of(receipt.level),
            group,
            term,
            index,
            in_sync: receipt.in_sync,
            shard: receipt.shard,
        }
    }

    fn receipt(&self) -> Receipt {
        Receipt {
            offset: self.offset,
            duplicate: self.duplicate,
            level: self.level.ack(),
            position: LogPosition { group: self.group, term: self.term, index: self.index },
            in_sync: self.in_sync,
            shard: self.shard,
        }
    }

    fn place(&self) -> String {
        let offset = self.offset.map_or("-".to_owned(), |offset| offset.to_string());
        self.shard.map_or(offset.clone(), |shard| format!("{offset} of @{shard}"))
    }
}

/// What a verdict means for a receipt of a level.
fn told(verdict: ReceiptVerdict, level: Level) -> Option<&'static str> {
    match verdict {
        ReceiptVerdict::Honoured | ReceiptVerdict::Settled => None,
        ReceiptVerdict::Lost if level == Level::Accepted => Some("lost, as its level allows"),
        ReceiptVerdict::Lost => Some("LOST"),
        ReceiptVerdict::Unknown => Some("unknown: the log no longer reaches back to it"),
        ReceiptVerdict::OtherQueue => Some("of a queue that was deleted"),
        ReceiptVerdict::Unspecified => Some("not judged: the server is older than this program"),
    }
}

/// Compares and reports.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let queues = read(&args.receipts)?;
    let client = session::connect(global).await?;
    let mut table = Table::new(&["queue", ">offset", "level", ">term", ">index", "receipt"]);
    let (mut honoured, mut settled, mut broken, mut weak) = (0u64, 0u64, 0u64, 0u64);
    let mut out = std::io::stdout().lock();
    for (queue, lines) in &queues {
        let receipts: Vec<Receipt> = lines.iter().map(Line::receipt).collect();
        let verifying = client.verify_receipts(queue.as_str(), &receipts);
        let doing = format!("verify receipts of {queue:?}");
        let verdicts = session::within(global, &doing, verifying).await?;
        for (line, verdict) in lines.iter().zip(verdicts) {
            match verdict {
                ReceiptVerdict::Honoured => honoured += 1,
                ReceiptVerdict::Settled => settled += 1,
                _ if line.level == Level::Accepted => weak += 1,
                _ => broken += 1,
            }
            let Some(told) = told(verdict, line.level) else { continue };
            match global.output {
                Format::Json => {
                    let mut shown = serde_json::to_value(line)?;
                    shown["receipt"] = told.into();
                    writeln!(out, "{shown}")?;
                }
                Format::Table => {
                    let (term, index) = (line.term.to_string(), line.index.to_string());
                    let level = line.level.name().to_owned();
                    table.row([queue.clone(), line.place(), level, term, index, told.to_owned()]);
                }
            }
        }
    }
    match global.output {
        Format::Json => writeln!(
            out,
            "{}",
            json!({ "honoured": honoured, "settled": settled, "accepted_lost": weak, "broken": broken })
        )?,
        Format::Table => {
            if broken + weak > 0 {
                writeln!(out, "{table}")?;
            }
            writeln!(
                out,
                "{} receipts are honoured: {} in the log, {} settled since",
                units::count(honoured + settled),
                units::count(honoured),
                units::count(settled)
            )?;
            if weak > 0 {
                let weak = units::count(weak);
                writeln!(out, "{weak} of level accepted are not, as that level allows")?;
            }
        }
    }
    match broken {
        0 => Ok(()),
        n => Err(Failure::new(
            Exit::Failed,
            format!("{} receipts are not honoured", units::count(n)),
        )
        .cure("`quorate queue describe` and the nodes' logs show what happened to the replicas")),
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Vec<Line>>, Failure> {
    let text = match path.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin())?,
        _ => std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Exit::Failed, format!("read {}: {error}", path.display()))
        })?,
    };
    parse(&text)
}

fn parse(text: &str) -> Result<BTreeMap<String, Vec<Line>>, Failure> {
    let mut queues: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for (n, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let line: Line = serde_json::from_str(line).map_err(|error| {
            Failure::usage(format!("line {n} is not a receipt: {error}"))
                .cure("`quorate publish QUEUE -o json` prints receipts that can be verified")
        })?;
        queues.entry(line.queue.clone()).or_default().push(line);
    }
    Ok(queues)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_are_read_by_queue_and_a_line_that_is_none_is_named() {
        let receipt = Receipt {
            offset: Some(7),
            duplicate: false,
            level: AckLevel::All,
            position: LogPosition { group: 1, term: 2, index: 3 },
            in_sync: 3,
            shard: Some(4),
        };
        let line = |queue| serde_json::to_string(&Line::new(queue, &receipt)).expect("json");
        let text = format!("{}\n\n{}\n{}\n", line("a"), line("b"), line("a"));
        let read = parse(&text).expect("receipts");
        assert_eq!(read.values().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(read["a"][0].receipt(), receipt);
        let error = parse(&format!("{}\n{{\"offset\": 1}}", line("a"))).expect_err("no receipt");
        assert!(error.to_string().contains("line 2 is not a receipt"), "{error}");
    }

    #[test]
    fn a_lost_receipt_is_named_at_every_level_but_breaks_no_promise_of_accepted() {
        assert_eq!(told(ReceiptVerdict::Settled, Level::All), None);
        assert_eq!(told(ReceiptVerdict::Lost, Level::Quorum), Some("LOST"));
        assert_eq!(told(ReceiptVerdict::Lost, Level::Accepted), Some("lost, as its level allows"));
    }
}
