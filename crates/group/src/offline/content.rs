//! What a record of the log says, without openraft's types.

use bytes::Bytes;
use quorate_machine::{CommandIter, Millis, decode_entry};
use quorate_storage::GroupState;
use quorate_storage::log::format::{self, Kind};
use quorate_storage::log::offline::Seen;

use crate::codec;
use crate::types::{Entry, Membership, Position, log_id};

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The node that it went to.
    pub node: u64,
    /// That node has been elected.
    pub committed: bool,
}

/// Who the replicas are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Voters; two sets while they change.
    pub voters: Vec<Vec<u64>>,
    /// All nodes, with those that do not vote.
    pub nodes: Vec<u64>,
}

impl Members {
    pub(crate) fn of(membership: &Membership) -> Self {
        let configs = membership.get_joint_config().iter();
        Self {
            voters: configs.map(|config| config.iter().copied().collect()).collect(),
            nodes: membership.nodes().map(|(node, _)| *node).collect(),
        }
    }
}

/// A group's state, as a record of the log holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateRecord {
    /// For whom it voted last.
    pub vote: Option<Vote>,
    /// What it knew to be committed.
    pub committed: Option<Position>,
    /// The last entry that Raft let go.
    pub purged: Option<Position>,
    /// The last entry; those above it are gone.
    pub last: Option<Position>,
}

impl StateRecord {
    pub(crate) fn of(state: &GroupState) -> Result<Self, String> {
        let position = |(index, term)| Position { term, index };
        let vote = match state.vote.as_ref() {
            [] => None,
            bytes => {
                let vote = codec::decode_vote(bytes).map_err(|error| error.to_string())?;
                let (term, node) = (vote.leader_id.term, vote.leader_id.voted_for);
                Some(Vote { term, node, committed: vote.committed })
            }
        };
        let committed = match state.committed.as_ref() {
            [] => None,
            bytes => codec::decode_log_id(bytes).map_err(|error| error.to_string())?,
        };
        Ok(Self {
            vote,
            committed: committed.as_ref().map(Position::from),
            purged: state.purged.map(position),
            last: state.last.map(position),
        })
    }
}

/// What a record says.
#[derive(Debug)]
pub enum Content {
    /// The first entry of a new leader, which holds nothing.
    Blank,
    /// Who the replicas are from here on.
    Membership(Members),
    /// The leader's time, and commands to the group's machine.
    Commands(Millis, CommandIter),
    /// The group's vote, committed position, floor and end.
    State(StateRecord),
    /// The group is forgotten.
    Forgotten,
}

/// Reads what a record says.
///
/// # Errors
/// Says what is wrong with it.
pub fn content(seen: &Seen<'_>) -> Result<Content, String> {
    match seen.kind {
        Kind::Entry | Kind::Copy | Kind::Put => {
            entry(seen.term, seen.index, Bytes::copy_from_slice(seen.payload))
        }
        Kind::State => {
            let state = format::decode_state(seen.payload).map_err(|error| error.to_string())?;
            StateRecord::of(&state).map(Content::State)
        }
        Kind::Tombstone => Ok(Content::Forgotten),
    }
}

/// Reads what an entry says.
pub(super) fn entry(term: u64, index: u64, payload: Bytes) -> Result<Content, String> {
    use openraft::EntryPayload;
    let read = codec::decode_entry(log_id(term, index), payload);
    let Entry { payload, .. } = read.map_err(|error| error.to_string())?;
    Ok(match payload {
        EntryPayload::Blank => Content::Blank,
        EntryPayload::Membership(membership) => Content::Membership(Members::of(&membership)),
        EntryPayload::Normal(payload) => {
            let (now, commands) =
                decode_entry(payload.commands).map_err(|error| error.to_string())?;
            Content::Commands(now, commands)
        }
    })
}
