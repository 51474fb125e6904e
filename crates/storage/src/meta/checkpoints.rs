//! The newest checkpoint of each group, over any [`Meta`].

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::chunks::damaged;
use super::{Meta, MetaError};
use crate::log::GroupId;

const PREFIX: &[u8] = b"checkpoint/";
const VERSION: u8 = 1;

/// Checkpoints by group. One is durable after [`Checkpoints::sync`]; only then may the log drop
/// what it no longer refers to.
#[derive(Clone)]
pub struct Checkpoints {
    meta: Arc<dyn Meta>,
}

impl Checkpoints {
    /// Checkpoints kept in `meta`, under keys that begin with `checkpoint/`.
    #[must_use]
    pub fn new(meta: Arc<dyn Meta>) -> Checkpoints {
        Checkpoints { meta }
    }

    /// Replaces the checkpoint of `group`: its state after the entry at `index`.
    pub fn put(&self, group: GroupId, index: u64, state: &[u8]) -> Result<(), MetaError> {
        let mut value = BytesMut::with_capacity(9 + state.len());
        value.put_u8(VERSION);
        value.put_u64(index);
        value.put_slice(state);
        self.meta.put(&key(group), &value)
    }

    /// The checkpoint of `group`: index and state.
    pub fn get(&self, group: GroupId) -> Result<Option<(u64, Bytes)>, MetaError> {
        let key = key(group);
        let Some(mut value) = self.meta.get(&key)? else { return Ok(None) };
        if value.len() < 9 || value.get_u8() != VERSION {
            return Err(damaged(&key, "unknown version of a checkpoint"));
        }
        let index = value.get_u64();
        Ok(Some((index, value)))
    }

    /// Forgets the checkpoint of `group`.
    pub fn remove(&self, group: GroupId) -> Result<(), MetaError> {
        self.meta.remove(&key(group))
    }

    /// All changes so far are on the device when this returns.
    pub fn sync(&self) -> Result<(), MetaError> {
        self.meta.sync()
    }
}

fn key(group: GroupId) -> Vec<u8> {
    [PREFIX, &group.0.to_be_bytes()].concat()
}
