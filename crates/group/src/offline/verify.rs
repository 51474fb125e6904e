//! Whether a stopped node's log and checkpoints are sound: all that a node would find when it starts, and
//! what it would find only when it reads.

use std::ops::{ControlFlow, RangeInclusive};

use bytes::Bytes;
use quorate_machine::catalog::Catalog;
use quorate_machine::queue::{Command, Queue};
use quorate_machine::{CommandIter, Machine, frame};
use quorate_storage::log::offline::{Seen, Tail, file_name};
use quorate_storage::{Disk, GroupId, Meta, OpenError};

use super::content::{Content, content};
use super::{Base, CATALOG, Stopped, group_of};
use crate::replica_log::BODIES;

/// Most findings that are kept; more are counted.
const FINDINGS_MAX: usize = 1_000;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, and the byte offset in it; `None` if it has no one place.
    pub place: Option<(String, u64)>,
    /// The group that it concerns, if it is known.
    pub group: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// What was looked at, and what is wrong with it.
#[derive(Debug)]
pub struct Report {
    /// Segments of the log.
    pub segments: usize,
    /// Batches that are whole.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Commands in the entries.
    pub commands: u64,
    /// Groups of which anything is stored.
    pub groups: usize,
    /// Groups with a checkpoint that is sound.
    pub checkpoints: usize,
    /// Entries that checkpoints refer to for their bodies, and that are there.
    pub referred: u64,
    /// How the log ends.
    pub tail: Tail,
    /// What may be as it should, and may be not: of which group, if of one, and what.
    pub notes: Vec<(Option<u64>, String)>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub unlisted: u64,
}

impl Report {
    fn find(&mut self, place: Option<(String, u64)>, group: Option<u64>, what: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { place, group, what });
        } else {
            self.unlisted += 1;
        }
    }
}

/// Reads everything.
///
/// # Errors
/// When the log cannot be listed. Damage is no error here.
pub fn verify(disk: &dyn Disk, meta: Option<&dyn Meta>) -> Result<Report, OpenError> {
    let mut report = Report {
        segments: 0,
        batches: 0,
        records: 0,
        bytes: 0,
        commands: 0,
        groups: 0,
        checkpoints: 0,
        referred: 0,
        tail: Tail::Clean,
        notes: Vec::new(),
        findings: Vec::new(),
        unlisted: 0,
    };
    let stopped = Stopped::read(disk, meta, &mut |seen| {
        report.records += 1;
        report.bytes += seen.payload.len() as u64;
        match readable(seen) {
            Ok(commands) => report.commands += commands,
            Err(what) => {
                let (group, _) = group_of(seen.group);
                let what = format!("{:?} {}: {what}", seen.kind, seen.index);
                report.find(Some((file_name(seen.segment), seen.offset)), Some(group), what);
            }
        }
        ControlFlow::Continue(())
    })?;
    let log = stopped.log();
    for fault in log.faults() {
        report.find(Some((fault.file.clone(), fault.offset)), None, fault.reason.clone());
    }
    report.unlisted += log.unlisted_faults();
    report.segments = log.segments().len();
    report.batches = log.segments().iter().map(|segment| segment.batches).sum();
    report.tail = log.tail().clone();
    let groups = stopped.groups();
    if !groups.is_empty() && !groups.contains(&CATALOG) {
        let what = "nothing is stored of it, although queues are".to_owned();
        report.find(None, Some(CATALOG), what);
    }
    match stopped.checkpointed() {
        Ok(checkpointed) => {
            for group in checkpointed.difference(&groups) {
                let what = "there is a checkpoint, and nothing of it in the log";
                if *group == CATALOG || report.segments == 0 {
                    report.find(None, Some(*group), what.to_owned());
                } else {
                    report.notes.push((
                        Some(*group),
                        format!("{what}: of a queue that was deleted, or lost"),
                    ));
                }
            }
        }
        Err(error) => report.find(None, None, format!("list the checkpoints: {error}")),
    }
    if stopped.log().segments().last().is_some_and(|last| last.sealed) {
        let what = "the newest segment is full, and none follows: the crash came just as it was to be made, \
                    or the newest is lost";
        report.notes.push((None, what.to_owned()));
    }
    for group in groups {
        report.groups += 1;
        if stopped.is_leaving(group) {
            let what =
                "the replica was leaving this node when it ended; the next start forgets the rest";
            report.notes.push((Some(group), what.to_owned()));
            continue;
        }
        raft_log(&stopped, group, &mut report);
        checkpoint(&stopped, group, &mut report);
    }
    Ok(report)
}

/// Commands in the record, if all of it can be read.
fn readable(seen: &Seen<'_>) -> Result<u64, String> {
    match content(seen)? {
        Content::Commands(_, commands) if group_of(seen.group).0 == CATALOG => {
            count::<Catalog>(commands, |_| Ok(()))
        }
        Content::Commands(_, commands) => count::<Queue>(commands, |command| match command {
            Command::Publish(publish) if publish.layout == frame::LAYOUT => {
                frame::validate(&publish.frame, publish.count, u32::MAX).map_err(|e| e.to_string())
            }
            Command::PublishMoved(moved) if moved.layout == frame::LAYOUT => {
                frame::validate(&moved.frame, moved.count, u32::MAX).map_err(|e| e.to_string())
            }
            _ => Ok(()),
        }),
        _ => Ok(0),
    }
}

fn count<M: Machine>(
    commands: CommandIter,
    check: impl Fn(&M::Command) -> Result<(), String>,
) -> Result<u64, String> {
    let mut count = 0;
    for command in commands {
        let mut command: Bytes = command.map_err(|error| error.to_string())?;
        check(&M::decode(&mut command).map_err(|error| format!("command {count}: {error}"))?)
            .map_err(|error| format!("command {count}: {error}"))?;
        count += 1;
    }
    Ok(count)
}

/// Entries without a gap from the first or the floor on, terms that never fall, and a vote that is not behind
/// them.
fn raft_log(stopped: &Stopped<'_>, group: u64, report: &mut Report) {
    let log = stopped.log();
    let Some(state) = log.state(GroupId(group)) else { return };
    if let Some((missing, last)) = log.first_missing(GroupId(group)) {
        let before = missing.checked_sub(1);
        let before =
            before.and_then(|at| log.entries(GroupId(group), at).next().filter(|e| e.index == at));
        let place = before.map(|entry| (file_name(entry.segment), entry.offset));
        let behind = if place.is_some() { "; the one before it stands here" } else { "" };
        let what = format!("entry {missing} of ..={last} is missing{behind}");
        report.find(place, Some(group), what);
    }
    let begins = log.entries(GroupId(group), 0).next().filter(|entry| entry.index > 0);
    if let Some(entry) = begins.filter(|_| state.purged.is_none()) {
        let place = Some((file_name(entry.segment), entry.offset));
        let last = entry.index - 1;
        let what = format!("entries 0..={last} are missing; the first that is there stands here");
        report.find(place, Some(group), what);
    }
    let (floor, mut term) = state.purged.map_or((0, 0), |(index, term)| (index + 1, term));
    let last = state.last.map_or(0, |(index, _)| index);
    for entry in log.entries(GroupId(group), floor).take_while(|entry| entry.index <= last) {
        if entry.term < term {
            let place = Some((file_name(entry.segment), entry.offset));
            let (index, lower) = (entry.index, entry.term);
            let what = format!("the term falls from {term} to {lower} at entry {index}");
            report.find(place, Some(group), what);
        }
        term = entry.term;
    }
    let info = stopped.info(group);
    let end = state.last.or(state.purged).map(|(index, _)| index);
    if let Some(committed) = info.committed.filter(|at| end.is_none_or(|end| at.index > end)) {
        let had = committed.index;
        let what = match end {
            None => format!(
                "the log is empty, and the replica had it up to {had}: its queue has moved to other nodes, or has \
                 just come back, or the log is lost"
            ),
            Some(end) => format!(
                "the replica had the log up to {had}, and it ends at {end}: it has just come back to this node, or a \
                 crash came while it took in a snapshot, or the end of the log is lost"
            ),
        };
        report.notes.push((Some(group), what));
    }
    let vote = info.vote;
    if vote.is_none() && term > 0 {
        let what = format!("there are entries of term {term}, and no vote");
        report.find(None, Some(group), what);
    }
    if let Some(vote) = vote.filter(|vote| vote.term < term) {
        let what = format!("the vote is of term {}, the last entry of {term}", vote.term);
        report.find(None, Some(group), what);
    }
}

/// A checkpoint that restores the machine, with every entry that it refers to; none only where the log
/// reaches back to the beginning.
fn checkpoint(stopped: &Stopped<'_>, group: u64, report: &mut Report) {
    let log = stopped.log();
    let purged = log.state(GroupId(group)).and_then(|state| state.purged);
    let base = match stopped.checkpoint(group) {
        Ok(Some(base)) => base,
        Ok(None) => {
            if let Some((index, _)) = purged {
                let what = format!("the log begins behind {index}, and there is no checkpoint");
                report.find(None, Some(group), what);
            }
            return;
        }
        Err(error) => return report.find(None, Some(group), format!("checkpoint: {error}")),
    };
    let last = log.state(GroupId(group)).and_then(|state| state.last);
    let covers = base.position().map_or(0, |at| at.index);
    if last.is_none_or(|(last, _)| last < covers) {
        let last = last.map_or("has no entries".to_owned(), |(last, _)| format!("ends at {last}"));
        report.notes.push((Some(group), format!(
            "the checkpoint covers {covers}, the log {last}; it may be of a crash, or the end of the log is lost"
        )));
    }
    let Some(live) = live(group, &base) else {
        return report.find(None, Some(group), "the checkpoint restores no machine".to_owned());
    };
    report.checkpoints += 1;
    if let Some((index, _)) = purged.filter(|(index, _)| *index > covers) {
        let what = format!("the log begins behind {index}, and the checkpoint covers {covers}");
        report.find(None, Some(group), what);
    }
    for index in live.into_iter().flatten() {
        if log.has(GroupId(group), index) || log.has(GroupId(group | BODIES), index) {
            report.referred += 1;
        } else {
            let what = format!(
                "the checkpoint at {covers} refers to the messages of entry {index}, which is missing"
            );
            report.find(None, Some(group), what);
        }
    }
}

/// The entries that a checkpoint refers to; `None` if it is no state of the group's machine.
pub(super) fn live(group: u64, base: &Base) -> Option<Vec<RangeInclusive<u64>>> {
    if group == CATALOG {
        Catalog::restore(base.state()).ok().map(|machine| machine.live())
    } else {
        Queue::restore(base.state()).ok().map(|machine| machine.live())
    }
}
