//! The catalog goes on with one node after the others were lost for ever: its replica, on a node that does not run,
//! becomes the only voter. The queues follow once the node runs (`service/recovery`).

use quorate_group::recovery::{
    RecoverError, latest_timeline, leaves_at_start, stored_timeline, take_over,
};
use quorate_machine::catalog::{Catalog, Command};
use quorate_machine::{EntryBuilder, Millis};
use quorate_storage::{DataDir, DirError, Home};

use crate::config::Config;
use crate::log_writer::LogWriter;
use crate::member::CATALOG;
use crate::server::{StartError, open_storage};

/// Notes of recoveries in one entry. So many one after the other, none of which this node was part of, there are not.
const RECOVERIES_NOTED_MAX: u64 = 1_000;

/// A catalog that has gone on with one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredCatalog {
    /// The node that leads it alone from its next start on.
    pub node_id: u64,
    /// Term of the entries that say so.
    pub term: u64,
    /// The last log index.
    pub index: u64,
}

/// Why the catalog cannot go on with a node.
#[derive(Debug, thiserror::Error)]
pub enum RecoverCatalogError {
    /// The node's state cannot be opened; it runs, perhaps.
    #[error(transparent)]
    Open(#[from] StartError),
    /// The catalog's replica cannot take over.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The log's writer did not end in order.
    #[error("the log was not written to its end")]
    Writer,
}

impl From<DirError> for RecoverCatalogError {
    fn from(error: DirError) -> Self {
        Self::Open(error.into())
    }
}

/// Makes the node at `home`, which must not run, the only voter of the catalog, with all that it has. All of it
/// is durable when this returns.
///
/// # Errors
/// When the node runs, its state cannot be read or written, or it has nothing of the catalog.
pub async fn recover_catalog(
    home: impl Into<Home>,
) -> Result<RecoveredCatalog, RecoverCatalogError> {
    let dir = DataDir::open(home.into())?;
    let (log, writer, meta) = open_storage(&Config::default(), &dir)?;
    let lost = quorate_group::without_checkpoint(&log, &meta).await;
    let lost = lost.map_err(StartError::Checkpoints)?;
    if lost.contains(&CATALOG) {
        let path = dir.meta_place();
        return Err(StartError::CheckpointsLost { groups: lost.len(), path }.into());
    }
    // One that was to take the catalog from where it was recovered before: that is lost too, and this is what follows.
    let left_for = leaves_at_start(&log, &meta, CATALOG).await.map_err(RecoverError::Storage)?;
    let writer = LogWriter::start(&dir, &log, writer).map_err(StartError::Disk)?;
    let node = dir.identity().node_id;
    let stored = stored_timeline(&log, CATALOG).unwrap_or(0);
    // A rewriting that was cut off is gone on with, in its own timeline.
    let begun = latest_timeline(&log, CATALOG).unwrap_or(0);
    let timeline = begun.max(stored + 1).max(left_for.map_or(0, |other| other + 1));
    let mut note = EntryBuilder::new();
    // Once for each recovery that this catalog has not seen: what those gave is not given again.
    for _ in 0..(timeline - stored).min(RECOVERIES_NOTED_MAX) {
        note.push_command::<Catalog>(&Command::CatalogRecovered);
    }
    // Its time is that of the entry before: it does not go back.
    let note = note.freeze(Millis(0));
    let taken = take_over(&log, &meta, node, CATALOG, timeline, Some(note)).await;
    log.close();
    let is_written = writer.ended().await;
    let position = taken?;
    if !is_written {
        return Err(RecoverCatalogError::Writer);
    }
    Ok(RecoveredCatalog { node_id: node, term: position.term, index: position.index })
}
