//! `quorate log dump`: the records of the log in the order in which they were written.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;

use quorate_group::offline::{Content, StateRecord, content, group_of};
use quorate_storage::log::format::Kind;
use quorate_storage::log::offline::Seen;
use serde_json::{Value, json};

use super::shown::{self, Shown};
use super::{Data, Which, group, open};
use crate::args::{Format, Global};
use crate::failure::Failure;

/// Options of `log dump`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One line a record, one more for each command in it: where it stands (segment:byte), its group, \
its kind, index and term, the leader's time.\nKinds: entry (commands), blank, membership; copy (an entry moved to \
a later segment), body (came with a snapshot); vote, committed, purge, truncate (what a state record changes), state \
(it changes nothing), forgotten (the group was removed).\nWith --from or --to only records of entries are shown. \
-o json prints one object a line."
)]
pub struct Args {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    which: Which,
    /// Begin with this index.
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// End with this index.
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// End after so many records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Show the messages too, up to 1 KiB of each: text, or base64 of other bytes.
    #[arg(long)]
    bodies: bool,
}

impl Args {
    fn wants(&self, seen: &Seen<'_>) -> bool {
        let is_entry = matches!(seen.kind, Kind::Entry | Kind::Copy | Kind::Put);
        match (self.from, self.to) {
            (None, None) => true,
            (from, to) => {
                is_entry && seen.index >= from.unwrap_or(0) && seen.index <= to.unwrap_or(u64::MAX)
            }
        }
    }
}

/// Prints the records.
pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let opened = open(&args.data.data)?;
    let only = match args.which.is_given() {
        true => Some(group(&opened.read()?, &args.which)?.0),
        false => None,
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut states = States::default();
    let mut outcome = Ok(());
    let stopped = opened.walk(&mut |seen| {
        let kinds = states.follow(seen);
        let is_meant = only.is_none_or(|only| only == group_of(seen.group).0);
        if !is_meant || !args.wants(seen) {
            return ControlFlow::Continue(());
        }
        left -= 1;
        outcome = match global.output {
            Format::Json => writeln!(out, "{}", object(seen, &kinds, args.bodies)),
            Format::Table => write!(out, "{}", lines(seen, &kinds, args.bodies)),
        };
        if left == 0 || outcome.is_err() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    outcome?;
    out.flush()?;
    let damage = stopped.log().faults().len() as u64 + stopped.log().unlisted_faults();
    if damage > 0 {
        eprintln!(
            "note: the log is damaged in {damage} places, which are left out here; `quorate log verify` names them"
        );
    }
    Ok(())
}

/// What each group's last state record said, and its last entry: what the next one is compared with.
#[derive(Default)]
struct States {
    states: BTreeMap<u64, (StateRecord, Option<u64>)>,
}

impl States {
    /// Kinds of a state record; none of other ones.
    fn follow(&mut self, seen: &Seen<'_>) -> Vec<&'static str> {
        let (before, last) = self.states.entry(seen.group.0).or_default();
        match (seen.kind, content(seen)) {
            (Kind::Entry, _) => {
                *last = Some(seen.index);
                Vec::new()
            }
            (Kind::State, Ok(Content::State(now))) => {
                let kinds = shown::changes(&now, before, *last);
                (*before, *last) = (now, now.last.map(|at| at.index));
                kinds
            }
            _ => Vec::new(),
        }
    }
}

fn kind(seen: &Seen<'_>, content: &Result<Content, String>, kinds: &[&'static str]) -> String {
    match content {
        Err(_) => "unreadable".to_owned(),
        Ok(_) if !kinds.is_empty() => kinds.join("+"),
        Ok(content) => shown::kind(seen, content).to_owned(),
    }
}

fn commands(seen: &Seen<'_>, content: Content, bodies: bool) -> Vec<Shown> {
    let Content::Commands(_, commands) = content else { return Vec::new() };
    let shown = commands.map(|command| match command {
        Ok(command) => Ok(shown::command(seen, command, bodies)),
        Err(error) => Err(error.to_string()),
    });
    shown.flatten().collect()
}

fn lines(seen: &Seen<'_>, kinds: &[&'static str], bodies: bool) -> String {
    let content = content(seen);
    let kind = kind(seen, &content, kinds);
    let place = format!("{}:{}", seen.segment, seen.offset);
    let mut text = format!("{place:<12} group {:<4} {kind:<12}", group_of(seen.group).0);
    if seen.kind != Kind::State && seen.kind != Kind::Tombstone {
        text.push_str(&format!(" {:>8} term {}", seen.index, seen.term));
    }
    let mut after = String::new();
    match content {
        Ok(Content::Blank | Content::Forgotten) => {}
        Ok(Content::Membership(members)) => {
            text.push_str(&format!("  {}", shown::members(&members)))
        }
        Ok(Content::State(state)) => text.push_str(&format!(
            " vote {}; committed {}; purged {}; last {}",
            shown::vote(state.vote),
            shown::position(state.committed),
            shown::position(state.purged),
            shown::position(state.last)
        )),
        Ok(Content::Commands(now, list)) => {
            text.push_str(&format!("  {}  {} bytes", shown::time(now.0), seen.payload.len()));
            for command in commands(seen, Content::Commands(now, list), bodies) {
                after.push_str(&format!("    {}\n", command.text));
                for message in command.messages {
                    after.push_str(&format!("      {}\n", message.text));
                }
            }
        }
        Err(error) => text.push_str(&format!("  {error}")),
    }
    format!("{}\n{after}", text.trim_end())
}

fn object(seen: &Seen<'_>, kinds: &[&'static str], bodies: bool) -> Value {
    let content = content(seen);
    let kind = kind(seen, &content, kinds);
    let mut json = json!({
        "segment": seen.segment, "offset": seen.offset, "batch": seen.batch,
        "group": group_of(seen.group).0, "kind": kind, "bytes": seen.payload.len(),
    });
    if seen.kind != Kind::State && seen.kind != Kind::Tombstone {
        json["index"] = seen.index.into();
        json["term"] = seen.term.into();
    }
    match content {
        Ok(Content::Blank | Content::Forgotten) => {}
        Ok(Content::Membership(members)) => {
            json["voters"] = json!(members.voters);
            json["nodes"] = json!(members.nodes);
        }
        Ok(Content::State(state)) => {
            json["vote"] = shown::vote_json(state.vote);
            json["committed"] = shown::position_json(state.committed);
            json["purged"] = shown::position_json(state.purged);
            json["last"] = shown::position_json(state.last);
        }
        Ok(Content::Commands(now, list)) => {
            json["time_ms"] = now.0.into();
            let commands = commands(seen, Content::Commands(now, list), bodies);
            json["commands"] = commands.into_iter().map(Shown::into_json).collect();
        }
        Err(error) => json["error"] = error.into(),
    }
    json
}
