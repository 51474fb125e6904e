//! `quorate log export`: one group's part of the log in a file of its own.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use quorate_group::offline::{CATALOG, Head, SliceError, SliceWriter};
use quorate_machine::queue::without_bodies;
use quorate_storage::Entry;
use serde_json::json;

use super::{Data, Which, history, no_history, open, shown};
use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::units;

/// Options of `log export`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file begins with the first entry, or with the node's checkpoint where the log does not reach back that \
far, and holds all entries after it. `quorate log replay --file FILE` runs it anywhere.\n--without-bodies leaves \
zeros in the place of bodies, header keys and header values. Names of the queue, of producers and of consumers stay, \
and so do sizes and times."
)]
pub struct Args {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    which: Which,
    /// End with this index; default: the last.
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// The file to write; it must not exist.
    #[arg(long, value_name = "SLICE")]
    file: PathBuf,
    /// Zeros instead of what the messages say.
    #[arg(long)]
    without_bodies: bool,
}

/// Writes the slice.
pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    if !args.which.is_given() {
        return Err(Failure::usage("say which queue: --queue NAME, or --group N"));
    }
    let opened = open(&args.data.data)?;
    let stopped = opened.read()?;
    let (head, history) = history(&opened, &stopped, &args.which, args.to, "export")?;
    let head = Head { bodies: !args.without_bodies, ..head };
    let group = head.group;
    let file = File::create_new(&args.file).map_err(|error| {
        Failure::new(Exit::Failed, format!("make {}: {error}", shown(&args.file)))
            .cure("--file names a file that does not exist yet")
    })?;
    let mut entries = 0u64;
    let write = || -> Result<u64, Failure> {
        let out = BufWriter::new(file);
        let mut slice =
            SliceWriter::begin(out, &head, history.base()).map_err(|e| unwritten(&e))?;
        for entry in stopped.entries(&history) {
            let entry = entry.map_err(|error| no_history("export", &error))?;
            let entry = if args.without_bodies { blanked(group, entry)? } else { entry };
            slice.entry(&entry).map_err(|error| unwritten(&error))?;
            entries += 1;
        }
        let mut out = slice.finish().map_err(|error| unwritten(&error))?;
        out.flush()?;
        Ok(out.get_ref().metadata()?.len())
    };
    let bytes = write().inspect_err(|_| {
        // What is not whole is of no use to anybody.
        let _ = std::fs::remove_file(&args.file);
    })?;
    let begins = history.base().and_then(|base| base.position()).map(|at| at.index);
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(
            out,
            "{}",
            json!({
                "file": shown(&args.file), "group": group, "checkpoint": begins, "entries": entries,
                "last": history.last().or(begins), "bytes": bytes, "bodies": !args.without_bodies,
            })
        )?,
        Format::Table => writeln!(
            out,
            "{}: {} entries of group {group}, {}, {}{}",
            shown(&args.file),
            units::count(entries),
            begins.map_or("from the first on".to_owned(), |at| format!(
                "behind the checkpoint at {at}"
            )),
            units::bytes(bytes),
            if args.without_bodies { ", without what the messages say" } else { "" }
        )?,
    }
    Ok(())
}

fn unwritten(error: &SliceError) -> Failure {
    Failure::new(Exit::Failed, format!("write the slice: {error}"))
}

/// The entry with zeros for what its messages say. What cannot be read is not let out.
fn blanked(group: u64, entry: Entry) -> Result<Entry, Failure> {
    let is_commands = entry.payload.first().is_some_and(|first| *first != 0xFF);
    if group == CATALOG || !is_commands {
        return Ok(entry);
    }
    let payload = without_bodies(&entry.payload).map_err(|error| {
        let what = format!(
            "entry {} cannot be read, so its messages cannot be taken out: {error}",
            entry.index
        );
        Failure::new(Exit::Failed, what).cure("`quorate log verify` shows what is damaged")
    })?;
    Ok(Entry { payload, ..entry })
}
