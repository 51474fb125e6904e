//! What fuzzing asks of this crate's decoders. They and their types are private, so the properties
//! stand here; `quorate-fuzz` calls them, and nothing else does.
//!
//! Each takes bytes, or a message, of anybody's making. None may panic; and what is accepted is
//! written again as it was, so that there is one form for one meaning.

use bytes::{Bytes, BytesMut};
use quorate_proto::internal as pb;
use quorate_proto::internal::rpc::Body;
use quorate_storage::Entry;

use crate::checkpoint::Checkpoint;
use crate::offline::{Base, Head, Landmark, SliceReader, SliceWriter};
use crate::types::{Position, SnapshotMeta, log_id};
use crate::{checkpoint, codec, network, wire};

/// A vote, as in a group's state record.
pub fn vote(bytes: &[u8]) {
    if let Ok(vote) = codec::decode_vote(bytes) {
        assert_eq!(codec::encode_vote(&vote), bytes, "{vote:?}");
    }
}

/// A committed position, as in a group's state record.
pub fn committed(bytes: &[u8]) {
    if let Ok(id) = codec::decode_log_id(bytes) {
        let mut again = BytesMut::new();
        codec::put_log_id(id.as_ref(), &mut again);
        assert_eq!(again, bytes, "{id:?}");
    }
}

/// A membership with its log id, as in checkpoints and snapshots.
pub fn stored_membership(bytes: &[u8]) {
    if let Ok(stored) = codec::decode_stored_membership(bytes) {
        assert_eq!(codec::encode_stored_membership(&stored), bytes, "{stored:?}");
    }
}

/// The payload of a log entry.
pub fn entry(payload: &[u8]) {
    if let Ok(entry) = codec::decode_entry(log_id(1, 1), Bytes::copy_from_slice(payload)) {
        assert_eq!(codec::encode_payload(&entry.payload), payload);
    }
}

/// A checkpoint.
pub fn checkpoint(bytes: &[u8]) {
    if let Ok(checkpoint) = checkpoint::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(checkpoint::encode(&checkpoint), bytes, "{:?}", checkpoint.meta);
    }
}

/// A slice of a group's log.
pub fn slice(bytes: &[u8]) {
    let Ok(mut reader) = SliceReader::open(bytes) else { return };
    let (head, base) = (reader.head().clone(), reader.base().cloned());
    let mut writer = SliceWriter::begin(Vec::new(), &head, base.as_ref()).expect("it was read");
    for entry in reader.by_ref() {
        let Ok(entry) = entry else { return };
        writer.entry(&entry).expect("it was read");
    }
    assert!(reader.next().is_none(), "it has ended");
    assert_eq!(writer.finish().expect("it was read"), bytes, "{head:?}");
}

/// A slice with a checkpoint at entry 9, of `state`, if there is any, and entries behind it.
#[must_use]
pub fn slice_of(state: Option<&[u8]>, payloads: &[&[u8]]) -> Vec<u8> {
    let base = state.map(|state| {
        let meta = SnapshotMeta { last_log_id: Some(log_id(7, 9)), ..SnapshotMeta::default() };
        let checkpoint = Checkpoint { meta, state: Bytes::copy_from_slice(state) };
        Base::decode(checkpoint::encode(&checkpoint)).expect("a checkpoint")
    });
    let first = if base.is_some() { 10 } else { 0 };
    let head = Head {
        cluster_id: "c".repeat(32),
        node_id: 2,
        group: 5,
        queue: "orders".to_owned(),
        bodies: base.is_none(),
        committed: Some(Position { term: 7, index: 9 }),
        landmark: base.is_none().then_some(Landmark { index: 1, hash: u64::MAX }),
    };
    let mut writer = SliceWriter::begin(Vec::new(), &head, base.as_ref()).expect("small");
    for (payload, index) in payloads.iter().zip(first..) {
        let payload = Bytes::copy_from_slice(payload);
        writer.entry(&Entry { index, term: 7, payload }).expect("small");
    }
    writer.finish().expect("small")
}

/// What a replica makes of a message of another node, request or answer.
pub fn message(body: &Body) {
    let Some(once) = understood(body.clone()) else { return };
    let again = understood(once.clone());
    assert_eq!(again, Some(once), "of {body:?}");
}

/// Reads a message as the replica does, and writes what was understood.
fn understood(body: Body) -> Option<Body> {
    Some(match body {
        Body::Vote(vote) => Body::Vote(wire::vote_request_to(&wire::vote_request_from(vote).ok()?)),
        Body::PreVote(vote) => {
            Body::PreVote(wire::vote_request_to(&wire::vote_request_from(vote).ok()?))
        }
        Body::Voted(vote) => {
            Body::Voted(wire::vote_response_to(&wire::vote_response_from(vote).ok()?))
        }
        Body::Append(append) => Body::Append(wire::append_to(&wire::append_from(append).ok()?)),
        Body::StreamAppend(append) => {
            Body::StreamAppend(wire::append_to(&wire::append_from(append).ok()?))
        }
        Body::Appended(answer) => {
            if let Ok(streamed) = wire::streamed_from(answer) {
                let once = wire::streamed_to(&streamed);
                let again = wire::streamed_from(once).map(|a| wire::streamed_to(&a));
                assert_eq!(again, Ok(once));
            }
            Body::Appended(wire::appended_to(&wire::appended_from(answer).ok()?))
        }
        Body::Transfer(transfer) => {
            let request = wire::transfer_from(transfer).ok()?;
            let (from, to) = (request.from_leader(), *request.to_node_id());
            Body::Transfer(wire::transfer_to(from, to, request.last_log_id()))
        }
        other => other,
    })
}

/// What a replica makes of one part of a snapshot on its way.
pub fn snapshot_chunk(chunk: &pb::snapshot_chunk::Chunk) {
    use pb::snapshot_chunk::Chunk;
    match chunk {
        Chunk::Head(head) => {
            let _ = wire::vote_from(head.vote);
            stored_membership(&head.membership);
        }
        Chunk::Bodies(bodies) => {
            for entry in bodies.entries.iter().cloned() {
                let payload = entry.payload.clone();
                if let Ok(body) = network::body_from(entry) {
                    assert_eq!(body.payload, payload);
                }
            }
        }
        Chunk::State(_) | Chunk::End(_) => {}
    }
}
