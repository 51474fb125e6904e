//! The data directory of a node that does not run, to be looked at and not changed.
//!
//! A node holds its `lock` exclusively; whoever looks holds it shared, so that no node starts
//! meanwhile. The file is neither made nor written: a copy of a directory may have none, or stand on a
//! file system that cannot be written or locked, and is read all the same.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{DirError, Identity, LOCK, LOG, META, io_error, read_identity};
use crate::disk::{Disk, ReadOnlyDisk};
use crate::meta::{MetaError, SledMeta};

/// A data directory that nobody writes to.
#[derive(Debug)]
pub struct StoppedDir {
    path: PathBuf,
    lock: Result<fs::File, String>,
}

impl StoppedDir {
    /// Looks at the directory at `path`.
    ///
    /// # Errors
    /// When a node runs on it, or it holds no log.
    pub fn open(path: &Path) -> Result<StoppedDir, DirError> {
        if !path.join(LOG).is_dir() {
            return Err(DirError::Uninitialised { path: path.to_owned() });
        }
        Ok(StoppedDir { path: path.to_owned(), lock: lock_shared(path)? })
    }

    /// Why no lock is held: then it is the caller's word that no node runs on it. `None` if one is.
    #[must_use]
    pub fn unlocked(&self) -> Option<&str> {
        self.lock.as_ref().err().map(String::as_str)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    ///
    /// # Errors
    /// When that is missing or cannot be understood; the rest can be read all the same.
    pub fn identity(&self) -> Result<Identity, DirError> {
        let missing = || DirError::IdentityMissing { path: self.path.clone() };
        read_identity(&self.path)?.ok_or_else(missing)
    }

    /// The files of its log.
    #[must_use]
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(ReadOnlyDisk::new(self.path.join(LOG)))
    }

    /// Its small state. The store writes when it is opened, so a copy of it is made in `scratch`, an empty
    /// directory. `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be copied or opened.
    pub fn meta(&self, scratch: &Path) -> Result<Option<SledMeta>, MetaError> {
        let of = self.path.join(META);
        if of.is_dir() { SledMeta::open_copy(&of, scratch).map(Some) } else { Ok(None) }
    }
}

fn lock_shared(path: &Path) -> Result<Result<fs::File, String>, DirError> {
    let at = path.join(LOCK);
    let mut file = match fs::File::open(&at) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err("it has no lock file, so it is taken for a copy".to_owned()));
        }
        Err(error) => return Err(io_error("open", &at)(error)),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Ok(file)),
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let pid = read.ok().and_then(|_| holder.trim().parse().ok());
            Err(DirError::Locked { path: path.to_owned(), pid })
        }
        Err(error) => Ok(Err(format!("it cannot be locked ({error}), so it is taken for a copy"))),
    }
}
