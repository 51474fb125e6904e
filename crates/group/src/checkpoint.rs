//! A machine's state at one log index, kept in the node's `Meta`, and what a snapshot is made of.
//!
//! ```text
//! checkpoint = version u8 | log id | membership length u32 | membership | machine state
//! ```
//! A checkpoint refers to bodies in the log; a snapshot is the same with those bodies, sent to
//! another replica.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_machine::planted::{self, Bug};
use quorate_storage::Meta;
use tokio::sync::Mutex;

use crate::codec::{self, CodecError};
use crate::replica_log::{Pin, ReplicaLog};
use crate::runtime::blocking;
use crate::types::SnapshotMeta;

const VERSION: u8 = 1;

/// Most bytes of bodies in one message of a snapshot transfer, unless a single body is larger.
pub(crate) const TRANSFER_BYTES_MAX: usize = 1 << 20;

/// The durable checkpoints of one group.
#[derive(Clone)]
pub(crate) struct Checkpoints {
    meta: Arc<dyn Meta>,
    key: Bytes,
    /// Held by whoever saves or reads together with what the log keeps for it, so that one that is
    /// still being made never replaces a newer one that was installed meanwhile.
    last: Arc<Mutex<u64>>,
}

/// A machine's state and where in the log it stands.
#[derive(Clone)]
pub(crate) struct Checkpoint {
    pub(crate) meta: SnapshotMeta,
    pub(crate) state: Bytes,
}

impl Checkpoint {
    /// Log index that it stands at.
    pub(crate) fn index(&self) -> u64 {
        self.meta.last_log_id.as_ref().map_or(0, |id| id.index)
    }
}

impl Checkpoints {
    pub(crate) fn new(meta: Arc<dyn Meta>, group: u64) -> Self {
        Self { meta, key: key(group), last: Arc::default() }
    }

    pub(crate) async fn load(&self) -> io::Result<Option<Checkpoint>> {
        let this = self.clone();
        let bytes = blocking(move || this.meta.get(&this.key).map_err(io::Error::other)).await?;
        bytes.map(|bytes| decode(bytes).map_err(io::Error::other)).transpose()
    }

    /// Makes the checkpoint durable, then lets the log release what it does not refer to. Does
    /// nothing if a newer one is there. The checkpoint is on the device when this returns.
    pub(crate) async fn save(
        &self,
        checkpoint: &Checkpoint,
        mut live: Vec<RangeInclusive<u64>>,
        log: &ReplicaLog,
    ) -> io::Result<()> {
        if planted::is(Bug::DropLiveBody) && !live.is_empty() {
            live.remove(0);
        }
        let mut last = self.last.lock().await;
        let index = checkpoint.index();
        if index < *last {
            return Ok(());
        }
        let this = self.clone();
        let (head, state) = (head(&checkpoint.meta), checkpoint.state.clone());
        blocking(move || {
            this.meta.put(&this.key, &[&head, &state]).map_err(io::Error::other)?;
            this.meta.sync().map_err(io::Error::other)
        })
        .await?;
        *last = index;
        log.checkpointed(index, live);
        Ok(())
    }

    /// The last checkpoint with the entries that it refers to, which stay as long as it does.
    pub(crate) async fn current(
        &self,
        log: &Arc<ReplicaLog>,
    ) -> io::Result<Option<(SnapshotMeta, SnapshotData)>> {
        let _last = self.last.lock().await;
        let Some(checkpoint) = self.load().await? else { return Ok(None) };
        let data = SnapshotData::local(checkpoint.state, log, log.kept_live());
        Ok(Some((checkpoint.meta, data)))
    }

    /// Nothing is saved any more, though openraft may still be building one: the replica has stopped.
    pub(crate) async fn close(&self) {
        *self.last.lock().await = u64::MAX;
    }

    pub(crate) async fn remove(&self) -> io::Result<()> {
        let this = self.clone();
        blocking(move || this.meta.remove(&this.key).map_err(io::Error::other)).await
    }

    /// Notes durably that the replica leaves: log and checkpoint go one after the other, and one without the
    /// other is not to be used. What is left is on `timeline`, if it was on an earlier one.
    pub(crate) async fn begin_to_leave(&self, timeline: u64) -> io::Result<()> {
        let (this, key) = (self.clone(), self.leaving_key());
        // Without one it is the mark that programs of before recoveries know.
        let mark = if timeline == 0 { Vec::new() } else { timeline.to_be_bytes().to_vec() };
        blocking(move || {
            this.meta.put(&key, &[&mark]).map_err(io::Error::other)?;
            this.meta.sync().map_err(io::Error::other)
        })
        .await
    }

    /// Takes the note away: both are gone, for good, or both stay.
    pub(crate) async fn has_left(&self) -> io::Result<()> {
        let (this, key) = (self.clone(), self.leaving_key());
        blocking(move || {
            this.meta.sync().map_err(io::Error::other)?;
            this.meta.remove(&key).map_err(io::Error::other)?;
            // A mark that came back would end the replica's next life.
            this.meta.sync().map_err(io::Error::other)
        })
        .await
    }

    /// Whether the replica has begun to leave, and was not done with it when the node ended; for which timeline.
    pub(crate) async fn is_leaving(&self) -> io::Result<Option<u64>> {
        let (this, key) = (self.clone(), self.leaving_key());
        blocking(move || {
            let Some(mark) = this.meta.get(&key).map_err(io::Error::other)? else {
                return Ok(None);
            };
            match (mark.is_empty(), mark[..].try_into()) {
                (true, _) => Ok(Some(0)),
                (_, Ok(timeline)) => Ok(Some(u64::from_be_bytes(timeline))),
                _ => Err(io::Error::other("the mark of a replica that leaves is malformed")),
            }
        })
        .await
    }

    fn leaving_key(&self) -> Vec<u8> {
        [LEAVING, &self.key[CHECKPOINT.len()..]].concat()
    }
}

pub(crate) const CHECKPOINT: &[u8] = b"checkpoint/";
const LEAVING: &[u8] = b"leaving/";

/// Key of the mark of a replica that is leaving its node.
pub(crate) fn leaving_key(group: u64) -> Vec<u8> {
    [LEAVING, &group.to_be_bytes()].concat()
}

/// Key of a group's checkpoint in the small state.
pub(crate) fn key(group: u64) -> Bytes {
    let mut key = BytesMut::from(CHECKPOINT);
    key.put_u64(group);
    key.freeze()
}

/// What comes before the machine's state.
fn head(meta: &SnapshotMeta) -> Bytes {
    let membership = codec::encode_stored_membership(&meta.last_membership);
    let mut out = BytesMut::with_capacity(64 + membership.len());
    out.put_u8(VERSION);
    codec::put_log_id(meta.last_log_id.as_ref(), &mut out);
    out.put_u32_le(membership.len() as u32);
    out.put_slice(&membership);
    out.freeze()
}

/// All of a checkpoint.
pub(crate) fn encode(checkpoint: &Checkpoint) -> Bytes {
    [head(&checkpoint.meta), checkpoint.state.clone()].concat().into()
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("checkpoint of an unknown version or cut short")]
    Malformed,
    #[error(transparent)]
    Codec(#[from] CodecError),
}

pub(crate) fn decode(mut bytes: Bytes) -> Result<Checkpoint, CheckpointError> {
    if !bytes.has_remaining() || bytes.get_u8() != VERSION {
        return Err(CheckpointError::Malformed);
    }
    let last_log_id = codec::get_log_id(&mut bytes)?;
    if bytes.remaining() < 4 {
        return Err(CheckpointError::Malformed);
    }
    let length = bytes.get_u32_le() as usize;
    if bytes.remaining() < length {
        return Err(CheckpointError::Malformed);
    }
    let last_membership = codec::decode_stored_membership(&bytes.split_to(length))?;
    Ok(Checkpoint { meta: SnapshotMeta { last_log_id, last_membership }, state: bytes })
}

/// openraft's snapshot data: a checkpoint's machine state and, when it is to be sent, the way to
/// the bodies that it refers to, which are held back from release as long as this exists.
pub struct SnapshotData {
    pub(crate) state: Bytes,
    pub(crate) source: Option<Source>,
}

pub(crate) struct Source {
    pub(crate) log: Arc<ReplicaLog>,
    pub(crate) live: Vec<RangeInclusive<u64>>,
    pub(crate) _pin: Pin,
}

impl SnapshotData {
    pub(crate) fn local(
        state: Bytes,
        log: &Arc<ReplicaLog>,
        live: Vec<RangeInclusive<u64>>,
    ) -> Self {
        let source = Source { log: log.clone(), live, _pin: log.pin() };
        Self { state, source: Some(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::log_id;

    #[test]
    fn a_checkpoint_comes_back() {
        let checkpoint = Checkpoint {
            meta: SnapshotMeta { last_log_id: Some(log_id(3, 9)), ..SnapshotMeta::default() },
            state: Bytes::from_static(b"state"),
        };
        let back = decode(encode(&checkpoint)).unwrap();
        assert_eq!(back.meta, checkpoint.meta);
        assert_eq!(back.state, checkpoint.state);
    }

    #[test]
    fn a_cut_checkpoint_is_an_error() {
        let bytes = encode(&Checkpoint { meta: SnapshotMeta::default(), state: Bytes::new() });
        for length in 0..bytes.len() {
            assert!(decode(bytes.slice(..length)).is_err(), "{length} bytes");
        }
    }
}
