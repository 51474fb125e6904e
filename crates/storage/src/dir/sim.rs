//! The data directory of a simulated machine: a disk, small state and an identity that all survive
//! its crashes as far as they were made durable.
//!
//! Like its parts a [`SimDir`] is a handle of one boot: what an earlier boot still holds is dead.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::Identity;
use crate::disk::SimDisk;
use crate::meta::SimMeta;

/// A simulated data directory; clones are handles of the same boot.
#[derive(Clone)]
pub struct SimDir {
    disk: SimDisk,
    meta: SimMeta,
    identity: Arc<Mutex<Option<Identity>>>,
}

impl SimDir {
    /// An empty one; all its choices follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> SimDir {
        SimDir { disk: SimDisk::new(seed), meta: SimMeta::new(seed), identity: Arc::default() }
    }

    /// What the log is kept on.
    #[must_use]
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// The small state.
    #[must_use]
    pub fn meta(&self) -> &SimMeta {
        &self.meta
    }

    /// Whose directory it is. It is written once, whole or not at all.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_identity(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// The process is killed: nothing is lost, but the boot ends. Returns the next boot's handle.
    #[must_use]
    pub fn kill(&self) -> SimDir {
        self.disk.kill();
        self.meta.kill();
        self.reopen()
    }

    /// The power goes: what was not flushed may be lost, and the boot ends. Returns the next boot's
    /// handle.
    #[must_use]
    pub fn power_loss(&self) -> SimDir {
        self.disk.power_loss();
        self.meta.power_loss();
        self.reopen()
    }

    fn reopen(&self) -> SimDir {
        let identity = self.identity.clone();
        SimDir { disk: self.disk.reopen(), meta: self.meta.reopen(), identity }
    }
}

impl fmt::Debug for SimDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDir").field("identity", &self.identity()).finish_non_exhaustive()
    }
}
