//! `quorate log verify`: reads everything and says what is wrong, and where.

use std::io::Write;

use quorate_group::offline::{Finding, Report};
use quorate_storage::log::offline::Tail;
use serde_json::{Value, json};

use super::{Data, open, unlisted};
use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::table::Facts;
use crate::units;

/// Options of `log verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every batch of every segment is read: checksums, order, that each entry can be decoded, that no entry \
of a group is missing and no term falls, that checkpoints restore their machines and what they refer to is there. \
Ends with code 1 if anything is damaged. A write that was cut off at the end of the log by a crash is no damage: it was \
never confirmed."
)]
pub struct Args {
    #[command(flatten)]
    data: Data,
}

/// Verifies the directory.
pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let opened = open(&args.data.data)?;
    let report = quorate_group::offline::verify(opened.disk().as_ref(), opened.meta());
    let mut report = report.map_err(|error| unlisted(&error))?;
    let mut beside = |what| report.findings.push(Finding { place: None, group: None, what });
    if let Err(error) = opened.dir.identity() {
        beside(error.to_string());
    }
    if let Err(error) = &opened.meta {
        beside(format!("the checkpoints cannot be read: {error}"));
    }
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => {
            for finding in &report.findings {
                writeln!(out, "{}", finding_json(finding))?;
            }
            for (group, note) in &report.notes {
                writeln!(out, "{}", json!({ "note": note, "group": group }))?;
            }
            writeln!(out, "{}", summary_json(&report))?;
        }
        Format::Table => {
            for finding in &report.findings {
                writeln!(out, "{}", finding_text(finding))?;
            }
            for (group, note) in &report.notes {
                let of = group.map_or(String::new(), |group| format!("group {group}: "));
                writeln!(out, "note     {of}{note}")?;
            }
            write!(out, "{}", summary(&report))?;
        }
    }
    match report.findings.len() as u64 + report.unlisted {
        0 => Ok(()),
        n => Err(Failure::new(
            Exit::Failed,
            format!("the log is damaged: {} findings", units::count(n)),
        )
        .cure("keep this directory for inspection and replace the node: docs/OPERATIONS.md")),
    }
}

fn finding_text(finding: &Finding) -> String {
    let place = finding.place.as_ref().map(|(file, offset)| format!("{file} at {offset}: "));
    let group = finding.group.map(|group| format!("group {group}: "));
    format!("DAMAGED  {}{}{}", place.unwrap_or_default(), group.unwrap_or_default(), finding.what)
}

fn finding_json(finding: &Finding) -> Value {
    let (file, offset) = finding.place.clone().unzip();
    json!({
        "finding": finding.what, "file": file, "offset": offset, "group": finding.group,
    })
}

fn summary(report: &Report) -> String {
    let mut facts = Facts::default();
    facts
        .fact("segments", units::count(report.segments as u64))
        .fact("batches", units::count(report.batches))
        .fact(
            "records",
            format!("{}, {}", units::count(report.records), units::bytes(report.bytes)),
        )
        .fact("commands", units::count(report.commands))
        .fact("groups", units::count(report.groups as u64))
        .fact(
            "checkpoints",
            format!(
                "{}, which refer to {} entries",
                units::count(report.checkpoints as u64),
                units::count(report.referred)
            ),
        );
    facts.fact(
        "end",
        match &report.tail {
            Tail::Clean => "clean".to_owned(),
            Tail::Torn(at) => format!(
                "torn: {} at {}: {}; a write that a crash cut off, not confirmed: the next start overwrites it",
                at.file, at.offset, at.reason
            ),
        },
    );
    facts.fact("findings", units::count(report.findings.len() as u64 + report.unlisted));
    facts.to_string()
}

fn summary_json(report: &Report) -> Value {
    let tail = match &report.tail {
        Tail::Clean => Value::Null,
        Tail::Torn(at) => json!({ "file": at.file, "offset": at.offset, "reason": at.reason }),
    };
    json!({
        "segments": report.segments, "batches": report.batches, "records": report.records,
        "bytes": report.bytes, "commands": report.commands, "groups": report.groups,
        "checkpoints": report.checkpoints, "referred_entries": report.referred, "torn_tail": tail,
        "findings": report.findings.len() as u64 + report.unlisted,
    })
}
