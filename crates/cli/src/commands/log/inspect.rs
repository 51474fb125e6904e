//! `quorate log inspect`: whose directory it is, its segments, and the groups in it.

use std::fmt::Write as _;
use std::io::Write;

use quorate_group::offline::{GroupInfo, Stopped};
use quorate_storage::log::offline::{SegmentInfo, Tail};
use serde_json::{Value, json};

use super::{Data, Opened, names, open, shown};
use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::table::{Facts, Table};
use crate::units;

/// Options of `log inspect`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "All of the log is read, at the speed of the disk. What is live is what the next start \
would keep."
)]
pub struct Args {
    #[command(flatten)]
    data: Data,
}

/// Shows the directory.
pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let opened = open(&args.data.data)?;
    let mut stopped = opened.read()?;
    stopped.release();
    let names = names(&stopped).map_err(|error| error.to_string());
    if let Err(error) = &names {
        eprintln!("note: the names of the queues are not known: {error}");
    }
    let names = names.unwrap_or_default();
    let groups: Vec<Group> = stopped
        .groups()
        .into_iter()
        .map(|group| Group {
            info: stopped.info(group),
            name: names.get(&group).cloned(),
            checkpoint: checkpoint(&stopped, group),
        })
        .collect();
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(out, "{}", to_json(&opened, &stopped, &groups))?,
        Format::Table => write!(out, "{}", text(&opened, &stopped, &groups))?,
    }
    Ok(())
}

struct Group {
    info: GroupInfo,
    name: Option<String>,
    /// Index of the checkpoint, or what is wrong with it.
    checkpoint: Result<Option<u64>, String>,
}

fn checkpoint(stopped: &Stopped<'_>, group: u64) -> Result<Option<u64>, String> {
    let base = stopped.checkpoint(group)?;
    Ok(base.and_then(|base| base.position()).map(|at| at.index))
}

fn text(opened: &Opened, stopped: &Stopped<'_>, groups: &[Group]) -> String {
    let mut facts = Facts::default();
    facts.fact("directory", shown(opened.dir.path()));
    match opened.dir.identity() {
        Ok(identity) => facts
            .fact("cluster", &identity.cluster_id)
            .fact("node", identity.node_id.to_string())
            .fact("incarnation", identity.incarnation.to_string()),
        Err(error) => facts.fact("identity", error.to_string()),
    };
    let log = stopped.log();
    let used: u64 = log.segments().iter().map(|segment| segment.used_bytes).sum();
    let live: u64 = log.segments().iter().map(|segment| segment.live_bytes).sum();
    facts.fact(
        "log",
        format!(
            "{} segments and {} spare, {} written, {} live",
            log.segments().len(),
            log.spare_segments(),
            units::bytes(used),
            units::bytes(live)
        ),
    );
    facts.fact("end", end(stopped));
    let damage = log.faults().len() as u64 + log.unlisted_faults();
    if damage > 0 {
        let places = units::count(damage);
        facts.fact("damage", format!("in {places} places; `quorate log verify` names them"));
    }
    let mut text = facts.to_string();
    let _ = write!(text, "\n{}\n{}", segments(log.segments()), group_table(groups));
    text
}

fn end(stopped: &Stopped<'_>) -> String {
    match stopped.log().tail() {
        Tail::Clean => "clean".to_owned(),
        Tail::Torn(at) => format!("torn: {} at {}; the next start cuts it off", at.file, at.offset),
    }
}

fn segments(segments: &[SegmentInfo]) -> Table {
    let mut table = Table::new(&[
        ">segment",
        "state",
        ">written",
        ">live",
        ">records",
        ">live records",
        ">first batch",
        ">last",
        "table",
    ]);
    for segment in segments {
        table.row([
            segment.sequence.to_string(),
            if segment.sealed { "sealed" } else { "active" }.to_owned(),
            units::bytes(segment.used_bytes),
            units::bytes(segment.live_bytes),
            units::count(segment.records),
            units::count(segment.live_records),
            segment.first_batch.to_string(),
            (segment.first_batch + segment.batches).saturating_sub(1).to_string(),
            if segment.has_table { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}

fn group_table(groups: &[Group]) -> Table {
    let mut table = Table::new(&[
        ">group",
        "queue",
        ">first",
        ">last",
        ">term",
        "vote",
        ">committed",
        ">purged",
        ">checkpoint",
        ">entries",
        ">bytes",
    ]);
    let index = |index: Option<u64>| index.map_or("-".to_owned(), |index| index.to_string());
    for Group { info, name, checkpoint } in groups {
        table.row([
            info.group.to_string(),
            name.clone().unwrap_or_else(|| "?".to_owned()),
            index(info.first),
            index(info.last.map(|at| at.index)),
            index(info.last.map(|at| at.term)),
            info.vote.map_or("-".to_owned(), |vote| format!("{} in {}", vote.node, vote.term)),
            index(info.committed.map(|at| at.index)),
            index(info.purged.map(|at| at.index)),
            checkpoint.as_ref().map_or("damaged".to_owned(), |at| index(*at)),
            units::count(info.entries + info.bodies),
            units::bytes(info.bytes + info.bodies_bytes),
        ]);
    }
    table
}

fn to_json(opened: &Opened, stopped: &Stopped<'_>, groups: &[Group]) -> Value {
    let log = stopped.log();
    let tail = match log.tail() {
        Tail::Clean => json!({ "torn": false }),
        Tail::Torn(at) => {
            json!({ "torn": true, "file": at.file, "offset": at.offset, "reason": at.reason })
        }
    };
    let identity = opened.dir.identity().ok().map(|identity| {
        json!({
            "cluster_id": identity.cluster_id, "node_id": identity.node_id,
            "incarnation": identity.incarnation,
        })
    });
    json!({
        "directory": shown(opened.dir.path()),
        "locked": opened.dir.unlocked().is_none(),
        "identity": identity,
        "segments": log.segments().iter().map(segment_json).collect::<Vec<_>>(),
        "spare_segments": log.spare_segments(),
        "tail": tail,
        "faults": log.faults().len() as u64 + log.unlisted_faults(),
        "groups": groups.iter().map(group_json).collect::<Vec<_>>(),
    })
}

fn segment_json(segment: &SegmentInfo) -> Value {
    json!({
        "segment": segment.sequence, "sealed": segment.sealed, "file_bytes": segment.file_bytes,
        "used_bytes": segment.used_bytes, "live_bytes": segment.live_bytes,
        "records": segment.records, "live_records": segment.live_records,
        "first_batch": segment.first_batch, "batches": segment.batches,
        "table_of_contents": segment.has_table,
    })
}

fn group_json(group: &Group) -> Value {
    let info = &group.info;
    json!({
        "group": info.group, "queue": group.name,
        "first": info.first, "last": super::shown::position_json(info.last),
        "vote": super::shown::vote_json(info.vote),
        "committed": super::shown::position_json(info.committed),
        "purged": super::shown::position_json(info.purged),
        "checkpoint": group.checkpoint.as_ref().ok(),
        "checkpoint_error": group.checkpoint.as_ref().err(),
        "entries": info.entries, "bytes": info.bytes,
        "snapshot_bodies": info.bodies, "snapshot_bodies_bytes": info.bodies_bytes,
    })
}
