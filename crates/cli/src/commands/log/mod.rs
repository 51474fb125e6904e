//! `quorate log …`: looks into the log of a node that does not run, a file for each verb.
//!
//! ```text
//!  open ──► StoppedDir (its lock, shared), a copy of its checkpoints
//!             │ group::offline
//!             ├──► inspect, dump, verify
//!             └──► history ──► export ──► slice file ──► replay
//! ```
//! Nothing in the directory is changed, so a copy of one will do, also one that cannot be written.

mod dump;
mod export;
mod inspect;
mod replay;
mod shown;
mod verify;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use quorate_group::offline::{CATALOG, Head, History, HistoryError, Stopped};
use quorate_machine::catalog::QueueName;
use quorate_storage::log::offline::Seen;
use quorate_storage::{DirError, Disk, Meta, MetaError, OpenError, SledMeta, StoppedDir};
use tempfile::TempDir;

use crate::args::Global;
use crate::exit::Exit;
use crate::failure::Failure;

/// Verbs of `log`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what is in a data directory: whose it is, segments, groups.
    Inspect(inspect::Args),
    /// Print the records of the log, with the commands in them.
    Dump(dump::Args),
    /// Read everything, and name what is damaged with its place.
    Verify(verify::Args),
    /// Write one queue's part of the log to a file, to be replayed elsewhere.
    Export(export::Args),
    /// Run a queue's machine over its log and print the state that comes out.
    Replay(replay::Args),
}

/// Runs one verb.
pub fn run(command: &Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::Inspect(args) => inspect::run(args, global),
        Command::Dump(args) => dump::run(args, global),
        Command::Verify(args) => verify::run(args, global),
        Command::Export(args) => export::run(args, global),
        Command::Replay(args) => replay::run(args, global),
    }
}

/// The directory to look into.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Data {
    /// Data directory of a node that does not run, or a copy of one.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
}

/// One group, by number or by the name of its queue.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(multiple = false)]
struct Which {
    /// The queue.
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// The group; 0 is the catalog.
    #[arg(long, value_name = "N")]
    group: Option<u64>,
}

impl Which {
    fn is_given(&self) -> bool {
        self.queue.is_some() || self.group.is_some()
    }
}

/// An open directory.
pub(crate) struct Opened {
    pub(crate) dir: StoppedDir,
    meta: Result<Option<SledMeta>, String>,
    _scratch: TempDir,
}

impl Opened {
    fn disk(&self) -> std::sync::Arc<dyn Disk> {
        self.dir.disk()
    }

    fn meta(&self) -> Option<&dyn Meta> {
        self.meta.as_ref().ok()?.as_ref().map(|meta| meta as &dyn Meta)
    }

    /// Reads all of the log.
    pub(crate) fn read(&self) -> Result<Stopped<'_>, Failure> {
        self.walk(&mut |_| ControlFlow::Continue(()))
    }

    /// Reads all of the log, record by record, until `each` breaks.
    fn walk(
        &self,
        each: &mut dyn FnMut(&Seen<'_>) -> ControlFlow<()>,
    ) -> Result<Stopped<'_>, Failure> {
        Stopped::read(self.disk().as_ref(), self.meta(), each).map_err(|error| unlisted(&error))
    }
}

fn unlisted(error: &OpenError) -> Failure {
    Failure::new(Exit::Failed, format!("read the log: {error}{}", cause(error)))
}

/// What lies behind an error, for those that do not say so themselves.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or(String::new(), |source| format!(": {source}"))
}

/// Opens a directory. What is not as it should be, but keeps nobody from reading, is said on standard error.
pub(crate) fn open(data: &Path) -> Result<Opened, Failure> {
    let dir = StoppedDir::open(data).map_err(|error| unusable(data, &error))?;
    if let Some(why) = dir.unlocked() {
        eprintln!(
            "note: {} is not locked: {why}; start no node on it meanwhile",
            shown(dir.path())
        );
    }
    // What is wrong with the copy is not wrong with the store.
    let uncopied = |what: String| {
        let cure = "set TMPDIR to a directory with room for a copy of DIR/meta";
        Failure::new(Exit::Failed, what).cure(cure)
    };
    let scratch = tempfile::tempdir()
        .map_err(|error| uncopied(format!("make a directory for a copy: {error}")))?;
    let meta = match dir.meta(scratch.path()) {
        Err(MetaError::Store { action: "copy the store", reason }) => {
            return Err(uncopied(format!("copy the checkpoints: {reason}")));
        }
        meta => meta.map_err(|error| error.to_string()),
    };
    if let Err(error) = &meta {
        eprintln!("note: the checkpoints cannot be read: {error}");
    }
    Ok(Opened { dir, meta, _scratch: scratch })
}

pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}

pub(crate) fn unusable(path: &Path, error: &DirError) -> Failure {
    match error {
        DirError::Locked { .. } => Failure::new(Exit::CannotStart, error.to_string())
            .reason("DIRECTORY_IN_USE")
            .cure("stop the node first: a log that is being written cannot be looked into"),
        DirError::Uninitialised { .. } => {
            let what = format!("{} is no data directory: it holds no log", shown(path));
            Failure::new(Exit::NotFound, what).cure("--data takes what `quorate server` was given")
        }
        error => Failure::new(Exit::CannotStart, format!("{error}{}", cause(error))),
    }
}

/// Names of the queues by group, as far as this node's catalog tells.
fn names(stopped: &Stopped<'_>) -> Result<BTreeMap<u64, String>, HistoryError> {
    let catalog = stopped.catalog()?;
    let queues = catalog.queues().map(|queue| (queue.group.0, queue.name.to_string()));
    Ok(queues.chain([(CATALOG, "(catalog)".to_owned())]).collect())
}

/// The group that is meant, with the name of its queue if that is known.
fn group(stopped: &Stopped<'_>, which: &Which) -> Result<(u64, Option<String>), Failure> {
    let catalog = stopped.catalog();
    if let Some(name) = &which.queue {
        let catalog = catalog.map_err(|error| {
            let what = format!("find queue {name:?}: the catalog here does not tell: {error}");
            Failure::new(Exit::Failed, what)
                .cure("name it by --group; `quorate log inspect` lists them")
        })?;
        let queue = QueueName::parse(name).ok().and_then(|name| catalog.queue(&name).cloned());
        return match queue {
            Some(queue) if stopped.groups().contains(&queue.group.0) => {
                Ok((queue.group.0, Some(name.clone())))
            }
            Some(_) => {
                let what = format!("queue {name:?} has no replica in this directory");
                Err(Failure::new(Exit::NotFound, what).cure("look into another node's"))
            }
            None => Err(Failure::new(Exit::NotFound, format!("there is no queue {name:?} here"))
                .cure("`quorate log inspect` lists the queues; a deleted one is named by --group")),
        };
    }
    let group = which.group.unwrap_or_default();
    if !stopped.groups().contains(&group) {
        return Err(Failure::new(
            Exit::NotFound,
            format!("nothing of group {group} is stored here"),
        )
        .cure("`quorate log inspect` lists the groups"));
    }
    let queue = catalog.ok().and_then(|catalog| {
        let group = quorate_machine::catalog::GroupId(group);
        catalog.by_group(group).map(|queue| queue.name.to_string())
    });
    Ok((group, queue))
}

/// One group's history up to `to`, and who and what it is of.
fn history(
    opened: &Opened,
    stopped: &Stopped<'_>,
    which: &Which,
    to: Option<u64>,
    doing: &str,
) -> Result<(Head, History), Failure> {
    let (group, queue) = group(stopped, which)?;
    let history = stopped.history(group, to).map_err(|error| no_history(doing, &error))?;
    let identity = opened.dir.identity().ok();
    let head = Head {
        cluster_id: identity.as_ref().map(|of| of.cluster_id.clone()).unwrap_or_default(),
        node_id: identity.map_or(0, |of| of.node_id),
        group,
        queue: queue.unwrap_or_default(),
        bodies: true,
        committed: stopped.info(group).committed,
        landmark: history.landmark(),
    };
    Ok((head, history))
}

pub(crate) fn no_history(doing: &str, error: &HistoryError) -> Failure {
    let failure = Failure::new(Exit::Failed, format!("{doing}: {error}{}", cause(error)));
    match error {
        HistoryError::BeforeBase { base, .. } => {
            failure.cure(format!("--to {base} or a later index"))
        }
        HistoryError::BehindEnd { last, .. } => {
            failure.cure(format!("--to {last} or an earlier index"))
        }
        HistoryError::NoBase { .. } => failure.cure("another replica's directory"),
        _ => {
            failure.cure("`quorate log verify` names what is damaged; another replica's directory")
        }
    }
}
