//! `quorate log replay`: the shipped machine over a slice, or over a directory's log.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::PathBuf;

use quorate_group::offline::{Base, CATALOG, Head, Replay, ReplayError, SliceError, SliceReader};
use quorate_machine::Machine;
use quorate_machine::catalog::Catalog;
use quorate_machine::queue::Queue;
use quorate_storage::Entry;
use serde_json::{Value, json};

use super::shown::{members, time};
use super::{Data, Which, history, no_history, open, shown};
use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::table::Facts;
use crate::units;

/// Options of `log replay`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Equal entries give equal states: the hash is that of every replica at the same index, on any machine.\nExamples:\n  \
quorate log replay --file orders.slice\n  quorate log replay --data ./quorate-data --queue orders --to 1000 --hashes"
)]
pub struct Args {
    /// A slice that `quorate log export` has written.
    #[arg(long, value_name = "SLICE", conflicts_with_all = ["data", "queue", "group"])]
    #[arg(required_unless_present = "data")]
    file: Option<PathBuf>,
    /// Data directory of a node that does not run, or a copy of one.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// End with this index; default: the last.
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// Print the state hash after each entry.
    #[arg(long)]
    hashes: bool,
}

/// Replays.
pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    match (&args.file, &args.data) {
        (Some(file), _) => slice(file, args, global),
        (None, Some(data)) => directory(Data { data: data.clone() }, args, global),
        (None, None) => Err(Failure::usage("say what to replay: --file SLICE, or --data DIR")),
    }
}

fn slice(path: &PathBuf, args: &Args, global: &Global) -> Result<(), Failure> {
    let doing = format!("read {}", shown(path));
    let failed = |error: &SliceError| Failure::new(Exit::Failed, format!("{doing}: {error}"));
    let file = File::open(path)
        .map_err(|error| Failure::new(Exit::Failed, format!("{doing}: {error}")))?;
    let reader = SliceReader::open(BufReader::new(file)).map_err(|error| failed(&error))?;
    let (head, base) = (reader.head().clone(), reader.base().cloned());
    let entries = reader.map(|entry| entry.map_err(|error| failed(&error)));
    replay(&head, base.as_ref(), entries, args, global)
}

fn directory(data: Data, args: &Args, global: &Global) -> Result<(), Failure> {
    if !args.which.is_given() {
        return Err(Failure::usage("say which queue: --queue NAME, or --group N"));
    }
    let opened = open(&data.data)?;
    let stopped = opened.read()?;
    let (head, history) = history(&opened, &stopped, &args.which, args.to, "replay")?;
    let entries =
        stopped.entries(&history).map(|entry| entry.map_err(|error| no_history("replay", &error)));
    replay(&head, history.base(), entries, args, global)
}

fn replay(
    head: &Head,
    base: Option<&Base>,
    entries: impl Iterator<Item = Result<Entry, Failure>>,
    args: &Args,
    global: &Global,
) -> Result<(), Failure> {
    if head.group == CATALOG {
        apply::<Catalog>(head, base, entries, args, global, catalog_stats)
    } else {
        apply::<Queue>(head, base, entries, args, global, queue_stats)
    }
}

fn apply<M: Machine>(
    head: &Head,
    base: Option<&Base>,
    entries: impl Iterator<Item = Result<Entry, Failure>>,
    args: &Args,
    global: &Global,
    stats: fn(&M) -> Vec<(&'static str, Value)>,
) -> Result<(), Failure> {
    let stopped = |error: ReplayError| {
        Failure::new(Exit::Failed, format!("replay: {error}"))
            .cure("this is where a node would stop, too; a slice of it shows others why")
    };
    let mut machine = Replay::<M>::begin(base).map_err(stopped)?;
    if let (Some(to), Some(at)) = (args.to, machine.position())
        && to < at.index
    {
        let what = format!("index {to} is before the checkpoint at {}, where it begins", at.index);
        return Err(Failure::new(Exit::Failed, what).cure(format!("--to {} or later", at.index)));
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut met = None;
    let mut count = 0u64;
    for entry in entries {
        let entry = entry?;
        if args.to.is_some_and(|to| entry.index > to) {
            break;
        }
        machine.apply(&entry).map_err(stopped)?;
        count += 1;
        if args.hashes {
            print_hash(&mut out, global.output, &entry, machine.hash())?;
        }
        if head.landmark.is_some_and(|landmark| landmark.index == entry.index) {
            met = head.landmark.map(|landmark| (landmark, machine.hash()));
        }
    }
    if let Some(to) = args.to.filter(|to| machine.position().is_none_or(|at| at.index < *to)) {
        let last = machine.position().map_or("none".to_owned(), |at| at.index.to_string());
        let what = format!("index {to} is behind the last entry, {last}");
        return Err(Failure::new(Exit::Failed, what));
    }
    let facts = stats(machine.machine());
    match global.output {
        Format::Json => {
            let mut json = json!({
                "group": head.group, "queue": head.queue, "node_id": head.node_id,
                "bodies": head.bodies, "entries": count,
                "index": machine.position().map(|at| at.index),
                "term": machine.position().map(|at| at.term),
                "committed": head.committed.map(|at| at.index),
                "hash": hex(machine.hash()), "now_ms": machine.machine().now().0,
                "checkpoint_reached": met.map(|(landmark, _)| landmark.index),
            });
            json["voters"] = json!(machine.members().map(|members| &members.voters));
            facts.into_iter().for_each(|(name, value)| json[name] = value);
            writeln!(out, "{json}")?;
        }
        Format::Table => write!(out, "{}", text(head, base, &machine, count, facts))?,
    }
    if let Some((landmark, hash)) = met {
        if hash != landmark.hash {
            out.flush()?;
            let what = format!(
                "at {} the state is {}, and the node's checkpoint there is {}: it went astray, or this is \
                 another program",
                landmark.index,
                hex(hash),
                hex(landmark.hash)
            );
            return Err(Failure::new(Exit::Failed, what)
                .cure("replay it with the version that the node ran"));
        }
        if global.output == Format::Table {
            writeln!(out, "checkpoint   equal to the node's own at {}", landmark.index)?;
        }
    }
    out.flush()?;
    Ok(())
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

fn print_hash(
    out: &mut impl Write,
    format: Format,
    entry: &Entry,
    hash: u64,
) -> std::io::Result<()> {
    match format {
        Format::Json => {
            let (index, term) = (entry.index, entry.term);
            writeln!(out, "{}", json!({ "index": index, "term": term, "hash": hex(hash) }))
        }
        Format::Table => writeln!(out, "{:>10}  term {:<6} {}", entry.index, entry.term, hex(hash)),
    }
}

fn text<M: Machine>(
    head: &Head,
    base: Option<&Base>,
    machine: &Replay<M>,
    count: u64,
    stats: Vec<(&'static str, Value)>,
) -> String {
    let index = |index: Option<u64>| index.map_or("none".to_owned(), |index| index.to_string());
    let mut facts = Facts::default();
    let queue = if head.queue.is_empty() { "" } else { &head.queue };
    facts.fact("group", format!("{} {queue}", head.group).trim_end());
    let from = base.and_then(Base::position);
    let from =
        from.map_or("the beginning".to_owned(), |at| format!("the checkpoint at {}", at.index));
    facts.fact("applied", format!("{} entries from {from} on", units::count(count)));
    facts.fact("index", index(machine.position().map(|at| at.index)));
    facts.fact("term", index(machine.position().map(|at| at.term)));
    facts.fact("committed", index(head.committed.map(|at| at.index)));
    facts.fact("state hash", hex(machine.hash()));
    facts.fact("time", time(machine.machine().now().0));
    for (name, value) in stats {
        facts.fact(name, value.as_u64().map_or(value.to_string(), units::count));
    }
    if let Some(of) = machine.members() {
        facts.fact("replicas", members(of));
    }
    facts.to_string()
}

fn queue_stats(queue: &Queue) -> Vec<(&'static str, Value)> {
    let stats = queue.stats();
    vec![
        ("published", stats.published.into()),
        ("ready", stats.ready.into()),
        ("leased", stats.leased.into()),
        ("delayed", stats.delayed.into()),
        ("blocked", stats.blocked.into()),
        ("acked", stats.acked.into()),
        ("rejected", stats.rejected.into()),
        ("exhausted", stats.exhausted.into()),
        ("purged", stats.purged.into()),
        ("expired", stats.expired.into()),
        ("dropped", stats.dropped.into()),
        ("dead", stats.dead.into()),
        ("dead_lettered", stats.dead_lettered.into()),
        ("replayed", stats.replayed.into()),
        ("retained", stats.retained.into()),
        ("batches", stats.batches.into()),
        ("producers", stats.producers.into()),
        ("consumers", (stats.consumers.len() as u64).into()),
    ]
}

fn catalog_stats(catalog: &Catalog) -> Vec<(&'static str, Value)> {
    vec![
        ("nodes", (catalog.nodes().len() as u64).into()),
        ("queues", (catalog.queues().len() as u64).into()),
    ]
}
