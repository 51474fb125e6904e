//! [`Meta`] in memory: changes are lost at a loss of power unless they were synced.
//!
//! Like [`SimDisk`](crate::SimDisk) a handle belongs to one boot, and all choices come from the
//! seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{KEY_BYTES_MAX, Meta, MetaError};

type Values = BTreeMap<Bytes, Bytes>;

/// Small state in memory; clones are handles of the same boot.
#[derive(Clone)]
pub struct SimMeta {
    inner: Arc<Mutex<Inner>>,
    boot: u64,
}

struct Inner {
    boot: u64,
    values: Values,
    durable: Values,
    pending: Vec<(Bytes, Option<Bytes>)>,
    random: u64,
    fail_syncs: u32,
}

impl SimMeta {
    /// An empty store; its choices follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> SimMeta {
        let inner = Inner {
            boot: 0,
            values: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            random: seed | 1,
            fail_syncs: 0,
        };
        SimMeta { inner: Arc::new(Mutex::new(inner)), boot: 0 }
    }

    /// A handle for the boot after the last crash.
    #[must_use]
    pub fn reopen(&self) -> SimMeta {
        let boot = self.inner().boot;
        SimMeta { inner: self.inner.clone(), boot }
    }

    /// The power goes: of the changes since the last sync a random prefix survives.
    pub fn power_loss(&self) {
        let mut inner = self.inner();
        inner.boot += 1;
        // xorshift64 (Marsaglia 2003).
        inner.random ^= inner.random << 13;
        inner.random ^= inner.random >> 7;
        inner.random ^= inner.random << 17;
        let pending = std::mem::take(&mut inner.pending);
        let survive = inner.random as usize % (pending.len() + 1);
        let mut durable = std::mem::take(&mut inner.durable);
        for (key, value) in pending.into_iter().take(survive) {
            change(&mut durable, key, value);
        }
        inner.values = durable.clone();
        inner.durable = durable;
    }

    /// The process is killed: nothing is lost, but the boot ends.
    pub fn kill(&self) {
        self.inner().boot += 1;
    }

    /// The store is found damaged and wiped.
    pub fn wipe(&self) {
        let mut inner = self.inner();
        inner.boot += 1;
        inner.values.clear();
        inner.durable.clear();
        inner.pending.clear();
    }

    /// The next `count` syncs fail and make nothing durable.
    pub fn fail_syncs(&self, count: u32) {
        self.inner().fail_syncs = count;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Result<MutexGuard<'_, Inner>, MetaError> {
        let inner = self.inner();
        if inner.boot == self.boot {
            Ok(inner)
        } else {
            let reason = "this boot of the simulated store has ended".to_owned();
            Err(MetaError::Store { action: "use the store", reason })
        }
    }

    fn change(&self, key: &[u8], value: Option<Bytes>) -> Result<(), MetaError> {
        let mut inner = self.alive()?;
        let key = Bytes::copy_from_slice(key);
        inner.pending.push((key.clone(), value.clone()));
        change(&mut inner.values, key, value);
        Ok(())
    }
}

fn change(values: &mut Values, key: Bytes, value: Option<Bytes>) {
    match value {
        Some(value) => values.insert(key, value),
        None => values.remove(&key),
    };
}

impl Meta for SimMeta {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        Ok(self.alive()?.values.get(key).cloned())
    }

    fn put(&self, key: &[u8], value: &[&[u8]]) -> Result<(), MetaError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(MetaError::KeyTooLong(key.len()));
        }
        self.change(key, Some(value.concat().into()))
    }

    fn remove(&self, key: &[u8]) -> Result<(), MetaError> {
        self.change(key, None)
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, MetaError> {
        let inner = self.alive()?;
        let from = inner.values.range(Bytes::copy_from_slice(prefix)..);
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn sync(&self) -> Result<(), MetaError> {
        let mut inner = self.alive()?;
        if inner.fail_syncs > 0 {
            inner.fail_syncs -= 1;
            let reason = "planned failure".to_owned();
            return Err(MetaError::Store { action: "sync", reason });
        }
        inner.pending.clear();
        inner.durable = inner.values.clone();
        Ok(())
    }
}
