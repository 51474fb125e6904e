//! How openraft's types are written into the node's log and its checkpoints. openraft's own serde
//! layout is not a stable format, so entries, votes and memberships are encoded here.
//!
//! ```text
//! entry payload  empty                         blank: a new leader's first entry
//!                0xFF | membership             who the replicas are
//!                otherwise                     commands (quorate_machine::entry, version byte < 0xFF)
//! vote           version u8 | term u64 | node u64 | committed u8
//! log id         term u64 | index u64
//! membership     version u8 | configs u16 { voters u16 { node u64 } } | nodes u16 { node u64 }
//! ```
//! All integers little-endian.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::{EmptyNode, EntryPayload};

use crate::types::{Entry, LogId, Membership, Payload, StoredMembership, Vote, log_id, term_of};

const VERSION: u8 = 1;
const MEMBERSHIP: u8 = 0xFF;

/// Bytes that are not what this module writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("decode {what}: the bytes are cut short or of an unknown version")]
pub struct CodecError {
    what: &'static str,
}

fn take(what: &'static str, bytes: &mut impl Buf, needed: usize) -> Result<(), CodecError> {
    if bytes.remaining() < needed { Err(CodecError { what }) } else { Ok(()) }
}

fn version(what: &'static str, bytes: &mut impl Buf) -> Result<(), CodecError> {
    take(what, bytes, 1)?;
    if bytes.get_u8() == VERSION { Ok(()) } else { Err(CodecError { what }) }
}

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    out.put_u8(VERSION);
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
    out.freeze()
}

pub(crate) fn decode_vote(mut bytes: &[u8]) -> Result<Vote, CodecError> {
    version("vote", &mut bytes)?;
    take("vote", &mut bytes, 17)?;
    let (term, node) = (bytes.get_u64_le(), bytes.get_u64_le());
    Ok(if bytes.get_u8() == 1 { Vote::new_committed(term, node) } else { Vote::new(term, node) })
}

pub(crate) fn put_log_id(id: Option<&LogId>, out: &mut BytesMut) {
    out.put_u8(u8::from(id.is_some()));
    if let Some(id) = id {
        out.put_u64_le(term_of(id));
        out.put_u64_le(id.index);
    }
}

pub(crate) fn get_log_id(bytes: &mut impl Buf) -> Result<Option<LogId>, CodecError> {
    take("log id", bytes, 1)?;
    if bytes.get_u8() == 0 {
        return Ok(None);
    }
    take("log id", bytes, 16)?;
    let (term, index) = (bytes.get_u64_le(), bytes.get_u64_le());
    Ok(Some(log_id(term, index)))
}

fn put_membership(membership: &Membership, out: &mut BytesMut) {
    out.put_u8(VERSION);
    out.put_u16_le(membership.get_joint_config().len() as u16);
    for config in membership.get_joint_config() {
        out.put_u16_le(config.len() as u16);
        config.iter().for_each(|node| out.put_u64_le(*node));
    }
    let nodes: Vec<u64> = membership.nodes().map(|(node, _)| *node).collect();
    out.put_u16_le(nodes.len() as u16);
    nodes.iter().for_each(|node| out.put_u64_le(*node));
}

fn get_nodes(bytes: &mut impl Buf) -> Result<BTreeSet<u64>, CodecError> {
    take("membership", bytes, 2)?;
    let count = usize::from(bytes.get_u16_le());
    take("membership", bytes, count * 8)?;
    Ok((0..count).map(|_| bytes.get_u64_le()).collect())
}

fn get_membership(bytes: &mut impl Buf) -> Result<Membership, CodecError> {
    version("membership", bytes)?;
    take("membership", bytes, 2)?;
    let configs = bytes.get_u16_le();
    let configs = (0..configs).map(|_| get_nodes(bytes)).collect::<Result<Vec<_>, _>>()?;
    let nodes: BTreeMap<u64, EmptyNode> =
        get_nodes(bytes)?.into_iter().map(|node| (node, EmptyNode {})).collect();
    Membership::new(configs, nodes).map_err(|_| CodecError { what: "membership" })
}

/// A membership and the entry that it came with, as in checkpoints and snapshots.
pub(crate) fn encode_stored_membership(stored: &StoredMembership) -> Bytes {
    let mut out = BytesMut::new();
    put_log_id(stored.log_id().as_ref(), &mut out);
    put_membership(stored.membership(), &mut out);
    out.freeze()
}

pub(crate) fn decode_stored_membership(mut bytes: &[u8]) -> Result<StoredMembership, CodecError> {
    let id = get_log_id(&mut bytes)?;
    let empty = id.is_none() && bytes.len() == 5;
    if empty {
        return Ok(StoredMembership::default());
    }
    Ok(StoredMembership::new(id, get_membership(&mut bytes)?))
}

pub(crate) fn encode_payload(payload: &EntryPayload<Payload, u64, EmptyNode>) -> Bytes {
    match payload {
        EntryPayload::Blank => Bytes::new(),
        EntryPayload::Normal(commands) => commands.0.clone(),
        EntryPayload::Membership(membership) => {
            let mut out = BytesMut::new();
            out.put_u8(MEMBERSHIP);
            put_membership(membership, &mut out);
            out.freeze()
        }
    }
}

pub(crate) fn decode_entry(id: LogId, payload: Bytes) -> Result<Entry, CodecError> {
    let payload = match payload.first() {
        None => EntryPayload::Blank,
        Some(&MEMBERSHIP) => EntryPayload::Membership(get_membership(&mut &payload[1..])?),
        Some(_) => EntryPayload::Normal(Payload(payload)),
    };
    Ok(Entry { log_id: id, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn membership(voters: &BTreeSet<u64>, learners: &BTreeSet<u64>) -> Membership {
        let nodes: BTreeMap<u64, EmptyNode> =
            voters.union(learners).map(|node| (*node, EmptyNode {})).collect();
        Membership::new(vec![voters.clone()], nodes).unwrap()
    }

    proptest! {
        #[test]
        fn votes_come_back(term: u64, node: u64, committed: bool) {
            let vote = if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) };
            prop_assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        }

        #[test]
        fn memberships_come_back(
            voters in prop::collection::btree_set(any::<u64>(), 1..6),
            learners in prop::collection::btree_set(any::<u64>(), 0..3),
            term: u64,
            index: u64,
        ) {
            let stored = StoredMembership::new(Some(log_id(term, index)), membership(&voters, &learners));
            let back = decode_stored_membership(&encode_stored_membership(&stored)).unwrap();
            prop_assert_eq!(back, stored.clone());
            let payload = EntryPayload::Membership(stored.membership().clone());
            let entry = decode_entry(log_id(term, index), encode_payload(&payload)).unwrap();
            prop_assert!(entry.payload == payload);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode_vote(&bytes);
            let _ = decode_stored_membership(&bytes);
            let _ = decode_entry(log_id(1, 1), Bytes::from(bytes));
        }
    }

    #[test]
    fn a_membership_that_was_never_set_comes_back() {
        let none = StoredMembership::default();
        assert_eq!(decode_stored_membership(&encode_stored_membership(&none)).unwrap(), none);
    }
}
