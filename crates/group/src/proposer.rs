//! Gathers commands into entries and hands them to Raft.
//!
//! Commands that arrive while entries are on their way to the disks wait, and become one entry as
//! soon as one of those is done: batching follows the flush, without a linger timer.
//!
//! ```text
//! command ─► channel ─► [ gather ≤ entry_bytes ] ─► Raft ─► applied ─► replies to each command
//!                              ▲ at most ENTRIES_IN_FLIGHT under way
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate_machine::{EntryBuilder, Machine, Millis};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::clock::Clock;
use crate::parking::Parking;
use crate::types::{OnComplete, OnDisk, Payload, Position, Raft, Types, Written};

/// Commands that may wait to be gathered.
pub const COMMANDS_WAITING_MAX: usize = 4096;
/// Entries of one group on their way at a time.
pub const ENTRIES_IN_FLIGHT: usize = 2;

/// Why a command was not applied, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads, or none: the command did not enter the log.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<u64>,
    },
    /// Leadership was lost on the way: the command may have been applied or may still be.
    #[error("leadership was lost before the outcome was known")]
    Unknown,
    /// The replica has stopped.
    #[error("the replica has stopped")]
    Stopped,
}

/// The outcome of a command.
pub type Outcome<M> = Result<Applied<<M as Machine>::Reply>, ProposeError>;

/// A command that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied<R> {
    /// Where its entry is.
    pub position: Position,
    /// What the machine says.
    pub reply: R,
}

pub(crate) struct Proposal<M: Machine> {
    pub(crate) command: M::Command,
    /// Its size, encoded; roughly.
    pub(crate) bytes: usize,
    /// Told once the command is on this node's own disk, which is before a majority has it.
    pub(crate) written: Option<oneshot::Sender<OnDisk>>,
    pub(crate) reply: Answer<M>,
}

/// Who waits for a command's outcome, and what it holds until then.
pub(crate) struct Answer<M: Machine> {
    pub(crate) reply: oneshot::Sender<Outcome<M>>,
    pub(crate) _hold: Option<OwnedSemaphorePermit>,
}

type Waiting<M> = Vec<Answer<M>>;

/// While no entry in flight comes back, leadership is looked at this often.
const SLOT_PATIENCE: Duration = Duration::from_millis(250);

/// Runs until the group's handles are gone or Raft has stopped.
pub(crate) async fn run<M: Machine>(
    raft: Raft,
    clock: Clock,
    leading: Arc<AtomicBool>,
    entry_bytes: usize,
    parking: Arc<Parking>,
    mut commands: mpsc::Receiver<Proposal<M>>,
) {
    let slots = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT));
    let mut held: Option<Proposal<M>> = None;
    loop {
        let first = match held.take() {
            Some(proposal) => proposal,
            None => match commands.recv().await {
                Some(proposal) => proposal,
                None => return,
            },
        };
        let acquired = tokio::time::timeout(SLOT_PATIENCE, slots.clone().acquire_owned()).await;
        let slot = match acquired {
            Ok(Ok(slot)) => slot,
            Ok(Err(_)) => return,
            Err(_) if leading.load(Ordering::Acquire) => {
                held = Some(first);
                continue;
            }
            Err(_) => {
                // Cut off: what waits here never entered the log.
                refuse(first);
                while let Ok(proposal) = commands.try_recv() {
                    refuse(proposal);
                }
                continue;
            }
        };
        let mut entry = EntryBuilder::new();
        let mut waiting: Waiting<M> = Vec::new();
        let mut written = Vec::new();
        let mut next = Some(first);
        while let Some(proposal) = next.take() {
            if proposal.reply.reply.is_closed() {
                next = commands.try_recv().ok();
                continue;
            }
            if !waiting.is_empty() && entry.len() + proposal.bytes > entry_bytes {
                held = Some(proposal);
                break;
            }
            entry.push_command::<M>(&proposal.command);
            waiting.push(proposal.reply);
            written.extend(proposal.written);
            next = commands.try_recv().ok();
        }
        if waiting.is_empty() {
            continue;
        }
        // A group with work under way is awake, and its replicas are not parked behind it.
        parking.awake().await;
        let now_ms = clock.now_ms();
        let commands = entry.freeze(Millis(now_ms));
        let payload = Payload { commands, written: Written::new(written, now_ms) };
        let complete = OnComplete::new(move |result| answer::<M>(result, waiting, slot));
        if raft.client_write_ff(payload, Some(complete)).await.is_err() {
            // The waiting commands were dropped with the entry, which tells their proposers.
            return;
        }
    }
}

fn answer<M: Machine>(
    result: openraft::raft::ClientWriteResult<Types>,
    waiting: Waiting<M>,
    slot: OwnedSemaphorePermit,
) {
    use openraft::error::ClientWriteError;
    drop(slot);
    let error = match result {
        Ok(response) => {
            let replies = response.data.0.downcast::<Vec<M::Reply>>();
            let replies = replies.expect("a group applies commands of its own machine");
            let position = Position::from(&response.log_id);
            for (waiting, reply) in waiting.into_iter().zip(*replies) {
                let _ = waiting.reply.send(Ok(Applied { position, reply }));
            }
            return;
        }
        Err(ClientWriteError::ForwardToLeader(to)) => {
            ProposeError::NotLeader { leader: to.leader_id }
        }
        Err(_) => ProposeError::Unknown,
    };
    for waiting in waiting {
        let _ = waiting.reply.send(Err(error.clone()));
    }
}

fn refuse<M: Machine>(proposal: Proposal<M>) {
    let _ = proposal.reply.reply.send(Err(ProposeError::NotLeader { leader: None }));
}
