//! Going on without a majority: one replica that is left becomes the only voter of its group, with all that
//! it has. What only the others had is lost, and they must never outvote it.
//!
//! Raft has no such step, so it is taken in the log of a replica that does not run. The rewritten log is a new
//! *timeline*, as PostgreSQL calls what follows a recovery: the upper half of the term says which one it is.
//!
//! ```text
//!  term      timeline (32 bits) │ elections in it (32 bits)      nothing recovered: timeline 0
//!
//!  survivor  … (3, 70) (3, 71) │ (1·2³², 72) voters {self}      vote (1·2³², self): stands as 1·2³² + 1
//!  others    … (3, 70) (3, 71) (3, 72) (4, 73)                  terms grow by one: never reach 1·2³²
//! ```
//!
//! Replicas of different timelines do not talk ([`Replica`](crate::Replica) sees to it): not even a vote is
//! told, since a term of the new timeline in the hands of an old replica would let it be elected there. A
//! replica of an older timeline takes part again only after it has forgotten its log
//! ([`leave_timeline`]), which may hold what the survivor never had.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::{EmptyNode, EntryPayload};
use quorate_storage::{Entry, GroupId, Log, Meta};

use crate::checkpoint::Checkpoints;
use crate::codec;
use crate::handle::NOBODY;
use crate::members::{Members, begin_to_leave, finish_leaving, forget_but_vote};
use crate::replica_log::{Had, ReplicaLog, durable};
use crate::types::{Membership, Position, StoredMembership, Vote, term_of};

/// Bits of a term that count elections.
const ELECTION_BITS: u32 = 32;

/// Entries that are read at a time while the last membership is looked for.
const READ_BYTES: usize = 1 << 20;

/// The timeline that a term belongs to; 0 = before any recovery.
#[must_use]
pub fn timeline_of(term: u64) -> u64 {
    term >> ELECTION_BITS
}

/// The first term of a timeline, that of the entries which a recovery writes. Elections have later ones.
fn first_term(timeline: u64) -> u64 {
    timeline << ELECTION_BITS
}

/// Why a replica cannot take its group over. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is nothing to go on with.
    #[error("nothing of group {group} is stored here")]
    Nothing {
        /// The group.
        group: u64,
    },
    /// A timeline that cannot be told in a term.
    #[error("group {group} cannot be recovered once more: it is in timeline {timeline}")]
    TooOften {
        /// The group.
        group: u64,
        /// The one that it would get.
        timeline: u64,
    },
    /// Its checkpoint or log could not be read or written.
    #[error("rewrite the replica's log: {0}")]
    Storage(#[from] io::Error),
}

/// What a replica has, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The end of its log, or what its checkpoint stands at if that is further; `None` = it has nothing.
    pub last: Option<Position>,
    /// How far its log is known to be committed.
    pub committed: Option<Position>,
    /// The term that it votes in.
    pub term: u64,
    /// Who belongs to the group, by its log; `None` if that was never told.
    pub members: Option<Members>,
}

impl Stored {
    /// The timeline that it is on.
    #[must_use]
    pub fn timeline(&self) -> u64 {
        timeline_of(self.term)
    }
}

/// The timeline of what is stored of a group on this node; `None` if nothing is.
#[must_use]
pub fn stored_timeline(log: &Log, group: u64) -> Option<u64> {
    log.state(GroupId(group)).map(|_| ReplicaLog::new(log.clone(), NOBODY, group).timeline())
}

/// The latest timeline that anything stored of a group on this node is of, its vote or the end of its log; `None` if
/// nothing is. The two differ where a rewriting was cut off ([`take_over`]).
#[must_use]
pub fn latest_timeline(log: &Log, group: u64) -> Option<u64> {
    let replica = ReplicaLog::new(log.clone(), NOBODY, group);
    log.state(replica.group).map(|_| replica.timeline().max(last_timeline(&replica)))
}

/// The timeline of the last entry.
pub(crate) fn last_timeline(replica: &ReplicaLog) -> u64 {
    end(replica).map_or(0, |(term, _)| timeline_of(term))
}

/// The first log index of the timeline that the stored replica is on, or of what is left of it.
#[must_use]
pub fn began_at(log: &Log, group: u64) -> Option<u64> {
    let replica = ReplicaLog::new(log.clone(), NOBODY, group);
    let state = log.state(replica.group)?;
    let (last, _) = state.last?;
    let floor = state.purged.map_or(0, |(index, _)| index + 1);
    let here = |index: &u64| {
        let term = log.term_of(replica.group, *index);
        term.is_some_and(|term| timeline_of(term) == replica.timeline())
    };
    (floor..=last).rev().take_while(here).last()
}

/// What is stored of a group on this node.
///
/// # Errors
/// When its checkpoint or log cannot be read.
pub async fn stored(log: &Log, meta: &Arc<dyn Meta>, group: u64) -> io::Result<Stored> {
    let replica = ReplicaLog::new(log.clone(), NOBODY, group);
    let checkpoint = Checkpoints::new(meta.clone(), group).load().await?;
    let state = log.state(GroupId(group)).unwrap_or_default();
    let position = |(term, index)| Position { term, index };
    let checkpointed = checkpoint.as_ref().and_then(|checkpoint| checkpoint.meta.last_log_id);
    let last = end(&replica).max(checkpointed.map(|id| (term_of(&id), id.index)));
    let committed = codec::decode_log_id(&state.committed).ok().flatten();
    let members = match last_membership(&replica).await? {
        Some(found) => Some(found),
        None => checkpoint.map(|checkpoint| checkpoint.meta.last_membership),
    };
    let members = members.map(|stored: StoredMembership| Members {
        voters: stored.membership().get_joint_config().clone(),
        all: stored.nodes().map(|(node, _)| *node).collect(),
        is_committed: stored.log_id().as_ref() <= committed.as_ref(),
    });
    Ok(Stored {
        last: last.map(position),
        committed: committed.filter(|_| replica.had().is_none()).as_ref().map(Position::from),
        term: vote(&state.vote)?.map_or(0, |vote| vote.leader_id.term),
        members,
    })
}

/// Makes a replica that does not run the only voter of its group, in the given timeline, with everything
/// that it has; `note` is entered behind that as commands. All of it is durable when this returns, and it may be
/// called again after a crash in the middle. The replica stands for election when it is started.
///
/// One that was to be forgotten ([`leave_timeline_at_start`]), and still has all, is not any more: that it goes on says
/// that what it should have followed is lost too.
///
/// # Errors
/// See [`RecoverError`].
pub async fn take_over(
    log: &Log,
    meta: &Arc<dyn Meta>,
    node: u64,
    group: u64,
    timeline: u64,
    note: Option<Bytes>,
) -> Result<Position, RecoverError> {
    if timeline == 0 || timeline > u64::from(u32::MAX) {
        return Err(RecoverError::TooOften { group, timeline });
    }
    let replica = ReplicaLog::new(log.clone(), node, group);
    let checkpoints = Checkpoints::new(meta.clone(), group);
    // Of one that was leaving the log goes first, and in one step. Without it there is nothing any more: a checkpoint
    // that is left is not to be believed.
    if replica.is_blank() {
        finish_leaving(&replica, &checkpoints).await?;
    }
    let term = first_term(timeline);
    let checkpoint = checkpoints.load().await?;
    let checkpointed = checkpoint.as_ref().and_then(|checkpoint| checkpoint.meta.last_log_id);
    if let Some(at) = checkpointed.map(|id| (term_of(&id), id.index))
        && end(&replica) < Some(at)
    {
        cut_to(&replica, at).await?;
    }
    let (last_term, last) = end(&replica).ok_or(RecoverError::Nothing { group })?;
    // First the entries, then the vote, by which it is known that this is done. The mark of one that leaves goes in
    // between: without it and without them a start would not know that this was begun, with it and the vote the start
    // would forget all.
    let mut position = Position { term: last_term, index: last };
    if last_term < term {
        let alone =
            Membership::new(vec![BTreeSet::from([node])], BTreeMap::from([(node, EmptyNode {})]))
                .map_err(|error| io::Error::other(error.to_string()))?;
        let alone = codec::encode_payload(&EntryPayload::Membership(alone));
        let entries: Vec<Entry> = [Some(alone), note]
            .into_iter()
            .flatten()
            .zip(last + 1..)
            .map(|(payload, index)| Entry { index, term, payload })
            .collect();
        position = Position { term, index: last + entries.len() as u64 };
        durable(|done| log.append(replica.group, entries, done)).await?;
    } else if let Some(note) = note
        && last_term == term
        && last.checked_sub(1).and_then(|before| log.term_of(replica.group, before)) != Some(term)
    {
        // The membership got to the disk and the note did not.
        position.index = last + 1;
        let entries = vec![Entry { index: position.index, term, payload: note }];
        durable(|done| log.append(replica.group, entries, done)).await?;
    }
    if checkpoints.is_leaving().await?.is_some() {
        checkpoints.has_left().await?;
    }
    if replica.timeline() < timeline {
        let vote = codec::encode_vote(&Vote::new(term, node));
        durable(|done| log.save_vote(replica.group, vote, done)).await?;
    }
    Ok(position)
}

/// Forgets what this node has of a group that does not run here, in favour of a later timeline: only replicas
/// of that one are listened to from here on.
///
/// # Errors
/// When the log or the checkpoint store fails.
pub async fn leave_timeline(
    log: &Log,
    meta: &Arc<dyn Meta>,
    node: u64,
    group: u64,
    timeline: u64,
) -> io::Result<()> {
    let replica = ReplicaLog::new(log.clone(), node, group);
    forget_but_vote(&replica, &Checkpoints::new(meta.clone(), group), timeline).await
}

/// The same for a group that runs: it is forgotten when it is started the next time.
///
/// # Errors
/// When the checkpoint store fails.
pub async fn leave_timeline_at_start(
    meta: &Arc<dyn Meta>,
    group: u64,
    timeline: u64,
) -> io::Result<()> {
    begin_to_leave(&Checkpoints::new(meta.clone(), group), timeline).await
}

/// The timeline in favour of which a group is forgotten when it is started the next time, while all of it is there
/// still; `None` if it is not to be.
///
/// # Errors
/// When the checkpoint store cannot be read.
pub async fn leaves_at_start(
    log: &Log,
    meta: &Arc<dyn Meta>,
    group: u64,
) -> io::Result<Option<u64>> {
    if ReplicaLog::new(log.clone(), NOBODY, group).is_blank() {
        return Ok(None);
    }
    Checkpoints::new(meta.clone(), group).is_leaving().await
}

/// The vote that says no more than which timeline a replica is on.
pub(crate) fn vote_of(timeline: u64) -> Vote {
    Vote::new(first_term(timeline), NOBODY)
}

pub(crate) fn vote(bytes: &[u8]) -> io::Result<Option<Vote>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    codec::decode_vote(bytes).map(Some).map_err(io::Error::other)
}

fn end(replica: &ReplicaLog) -> Option<Had> {
    let state = replica.log.state(replica.group)?;
    state.last.or(state.purged).map(|(index, term)| (term, index))
}

/// A checkpoint came with a snapshot, and the log was not cut to it when the node ended: what the log has beyond
/// contradicts it, and was never committed.
async fn cut_to(replica: &ReplicaLog, (term, index): Had) -> io::Result<()> {
    durable(|done| replica.log.purge(replica.group, (index, term), done)).await?;
    durable(|done| replica.log.truncate_after(replica.group, Some((index, term)), done)).await
}

/// The last membership in the Raft log, looked for from its end.
async fn last_membership(replica: &ReplicaLog) -> io::Result<Option<StoredMembership>> {
    let state = replica.log.state(replica.group).unwrap_or_default();
    let Some((last, _)) = state.last else { return Ok(None) };
    let floor = state.purged.map_or(0, |(index, _)| index + 1);
    /// Entries that are looked at in one go; they are read from the first on.
    const STRIDE: u64 = 256;
    let mut upto = last + 1;
    while upto > floor {
        let from = upto.saturating_sub(STRIDE).max(floor);
        let mut found = None;
        let mut next = from;
        while next < upto {
            let part = replica.read(next..upto, READ_BYTES).await?;
            // What is missing below is there in a checkpoint.
            let Some(end) = part.last() else { break };
            next = end.index + 1;
            for entry in part {
                let id = crate::types::log_id(entry.term, entry.index);
                let decoded = codec::decode_entry(id, entry.payload).map_err(io::Error::other)?;
                if let EntryPayload::Membership(membership) = decoded.payload {
                    found = Some(StoredMembership::new(Some(id), membership));
                }
            }
        }
        if found.is_some() {
            return Ok(found);
        }
        upto = from;
    }
    Ok(None)
}

#[cfg(all(test, not(madsim)))]
mod tests;
