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
#[error("decode {what}: the bytes are cut short, malformed or of an unknown version")]
pub struct CodecError {
    what: &'static str,
}

fn take(what: &'static str, bytes: &mut impl Buf, needed: usize) -> Result<(), CodecError> {
    if bytes.remaining() < needed { Err(CodecError { what }) } else { Ok(()) }
}

fn flag(what: &'static str, bytes: &mut impl Buf) -> Result<bool, CodecError> {
    take(what, bytes, 1)?;
    match bytes.get_u8() {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CodecError { what }),
    }
}

fn end(what: &'static str, bytes: &impl Buf) -> Result<(), CodecError> {
    if bytes.has_remaining() { Err(CodecError { what }) } else { Ok(()) }
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
    take("vote", &mut bytes, 16)?;
    let (term, node) = (bytes.get_u64_le(), bytes.get_u64_le());
    let committed = flag("vote", &mut bytes)?;
    end("vote", &bytes)?;
    Ok(if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) })
}

pub(crate) fn put_log_id(id: Option<&LogId>, out: &mut BytesMut) {
    out.put_u8(u8::from(id.is_some()));
    if let Some(id) = id {
        out.put_u64_le(term_of(id));
        out.put_u64_le(id.index);
    }
}

pub(crate) fn get_log_id(bytes: &mut impl Buf) -> Result<Option<LogId>, CodecError> {
    if !flag("log id", bytes)? {
        return Ok(None);
    }
    take("log id", bytes, 16)?;
    let (term, index) = (bytes.get_u64_le(), bytes.get_u64_le());
    Ok(Some(log_id(term, index)))
}

/// Reads a log id that stands alone.
pub(crate) fn decode_log_id(mut bytes: &[u8]) -> Result<Option<LogId>, CodecError> {
    let id = get_log_id(&mut bytes)?;
    end("log id", &bytes)?;
    Ok(id)
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
    let nodes: Vec<u64> = (0..count).map(|_| bytes.get_u64_le()).collect();
    if nodes.is_sorted_by(|before, after| before < after) {
        Ok(nodes.into_iter().collect())
    } else {
        Err(CodecError { what: "membership" })
    }
}

/// Reads a membership to its end. One without voters is refused: in openraft's eyes any set of
/// nodes is a majority of it.
fn get_membership(bytes: &mut impl Buf) -> Result<Membership, CodecError> {
    version("membership", bytes)?;
    take("membership", bytes, 2)?;
    let configs = bytes.get_u16_le();
    if configs == 0 {
        return Err(CodecError { what: "membership" });
    }
    let configs = (0..configs).map(|_| get_nodes(bytes)).collect::<Result<Vec<_>, _>>()?;
    let nodes: BTreeMap<u64, EmptyNode> =
        get_nodes(bytes)?.into_iter().map(|node| (node, EmptyNode {})).collect();
    end("membership", bytes)?;
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
    let never_set = StoredMembership::default();
    if encode_stored_membership(&never_set) == bytes {
        return Ok(never_set);
    }
    let id = get_log_id(&mut bytes)?;
    Ok(StoredMembership::new(id, get_membership(&mut bytes)?))
}

pub(crate) fn encode_payload(payload: &EntryPayload<Payload, u64, EmptyNode>) -> Bytes {
    match payload {
        EntryPayload::Blank => Bytes::new(),
        EntryPayload::Normal(payload) => payload.commands.clone(),
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
        Some(_) => EntryPayload::Normal(Payload::new(payload)),
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
    fn what_this_module_does_not_write_is_refused() {
        let vote = encode_vote(&Vote::new(7, 1));
        for last in [2, 255] {
            assert!(decode_vote(&[&vote[..17], &[last]].concat()).is_err(), "committed {last}");
        }
        assert!(decode_vote(&[&vote[..], &[0]].concat()).is_err());
        assert!(decode_log_id(&[0, 0]).is_err());
        assert!(decode_log_id(&[2; 17]).is_err());
        let none = encode_stored_membership(&StoredMembership::default());
        for at in 0..none.len() {
            let mut damaged = none.to_vec();
            damaged[at] ^= 4;
            assert!(decode_stored_membership(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_membership_has_one_form_and_voters() {
        let node = u64::to_le_bytes;
        let one = |nodes: &[u8]| [&[1, 1, 0, 1, 0], &node(3)[..], nodes].concat();
        let read = |bytes: Vec<u8>| {
            decode_entry(log_id(1, 1), [&[MEMBERSHIP], &bytes[..]].concat().into())
        };
        assert!(read(one(&[&[1, 0], &node(3)[..]].concat())).is_ok());
        let again = one(&[&[2, 0], &node(3)[..], &node(3)].concat());
        let descending = one(&[&[2, 0], &node(4)[..], &node(3)].concat());
        let longer = one(&[&[1, 0], &node(3)[..], &[0]].concat());
        let nobody = vec![1, 0, 0, 0, 0];
        for refused in [again, descending, longer, nobody] {
            assert!(read(refused.clone()).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_membership_that_was_never_set_comes_back() {
        let none = StoredMembership::default();
        assert_eq!(decode_stored_membership(&encode_stored_membership(&none)).unwrap(), none);
    }
}
