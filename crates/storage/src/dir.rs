//! The data directory: whose it is, and that only one process uses it.
//!
//! ```text
//!  <path>/lock           held for as long as a DataDir lives; contains the holder's process id
//!  <path>/identity.json  cluster, node and incarnation; written once, whole or not at all
//!  <path>/log/  meta/    see the other modules
//! ```
//!
//! A directory with a log but without an identity is refused: taking it for a new node would let
//! it vote twice under one name. In simulation a [`SimDir`] takes the directory's place;
//! a [`StoppedDir`] is for looking only.

use std::fmt;
use std::fs;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use std::sync::Arc;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, RealDisk, sync_directory};
use crate::meta::{Meta, MetaError, Opened, SledMeta};

mod sim;
mod stopped;

pub use sim::SimDir;
pub use stopped::StoppedDir;

/// Version of the directory's layout; a newer one is refused.
pub const DIR_FORMAT_VERSION: u32 = 1;

const LOCK: &str = "lock";
const IDENTITY: &str = "identity.json";
const IDENTITY_DRAFT: &str = "identity.json.tmp";
const LOG: &str = "log";
const META: &str = "meta";

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster, chosen when it was bootstrapped.
    pub cluster_id: String,
    /// The node within the cluster.
    pub node_id: u64,
    /// Chosen at random when the directory was made: a node with another disk has another one.
    pub incarnation: u64,
    /// Whether the node joined a cluster that existed, rather than founding it.
    #[serde(default)]
    pub joined: bool,
}

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format_version: u32,
    #[serde(flatten)]
    identity: Identity,
}

#[derive(Deserialize)]
struct VersionOnly {
    format_version: u32,
}

/// Where a node keeps its state.
#[derive(Clone, Debug)]
pub enum Home {
    /// A directory of the operating system.
    Directory(PathBuf),
    /// A simulated machine.
    Simulated(SimDir),
}

impl From<PathBuf> for Home {
    fn from(path: PathBuf) -> Home {
        Home::Directory(path)
    }
}

impl From<&PathBuf> for Home {
    fn from(path: &PathBuf) -> Home {
        Home::Directory(path.clone())
    }
}

impl From<&Path> for Home {
    fn from(path: &Path) -> Home {
        Home::Directory(path.to_owned())
    }
}

impl From<SimDir> for Home {
    fn from(dir: SimDir) -> Home {
        Home::Simulated(dir)
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Home::Directory(path) => path.display().fmt(f),
            Home::Simulated(_) => f.write_str("the simulated directory"),
        }
    }
}

/// An open data directory; other processes are kept out until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    home: Home,
    identity: Identity,
    _lock: Option<fs::File>,
}

/// Why a data directory could not be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// Another process uses it.
    #[error("{path} is in use by process {pid}", pid = pid.map_or("?".into(), |p| p.to_string()))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process, if it said so.
        pid: Option<u32>,
    },
    /// It does not exist, or is empty: no node was made here yet.
    #[error("{path} holds no node yet; initialise it first")]
    Uninitialised {
        /// The directory.
        path: PathBuf,
    },
    /// A node was made here before.
    #[error("{path} already belongs to node {node_id} of cluster {cluster_id}", node_id = identity.node_id, cluster_id = identity.cluster_id)]
    AlreadyInitialised {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        identity: Box<Identity>,
    },
    /// It holds data, but not whose.
    #[error(
        "{path} holds a log but no {IDENTITY}; restore that file, or replace the node with an \
         empty directory"
    )]
    IdentityMissing {
        /// The directory.
        path: PathBuf,
    },
    /// The identity cannot be understood.
    #[error("{path}: {reason}; restore the file, or replace the node with an empty directory")]
    IdentityDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by a newer version of this program.
    #[error("{path} was written by a newer version (format {version}); upgrade this node")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version found.
        version: u32,
    },
    /// The device refused.
    #[error("{action} {path}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DataDir {
    /// Opens the directory of an existing node and locks it.
    ///
    /// # Errors
    /// When there is none, it is in use, or what it says cannot be understood.
    pub fn open(home: impl Into<Home>) -> Result<DataDir, DirError> {
        let home = home.into();
        let (identity, lock) = match &home {
            Home::Simulated(dir) => (dir.identity(), None),
            Home::Directory(path) if !path.is_dir() => (None, None),
            Home::Directory(path) => {
                let lock = lock(path)?;
                (read_identity(path)?, Some(lock))
            }
        };
        match identity {
            Some(identity) => Ok(DataDir { home, identity, _lock: lock }),
            None if home.holds_data() => Err(DirError::IdentityMissing { path: home.path() }),
            None => Err(DirError::Uninitialised { path: home.path() }),
        }
    }

    /// Makes the directory of a new node and locks it. The identity is durable when it returns.
    ///
    /// # Errors
    /// When a node was made there before, or the device refuses.
    pub fn create(home: impl Into<Home>, identity: Identity) -> Result<DataDir, DirError> {
        let home = home.into();
        let (existing, lock) = match &home {
            Home::Simulated(dir) => (dir.identity(), None),
            Home::Directory(path) => {
                fs::create_dir_all(path).map_err(io_error("make", path))?;
                let lock = lock(path)?;
                (read_identity(path)?, Some(lock))
            }
        };
        if let Some(identity) = existing {
            let identity = Box::new(identity);
            return Err(DirError::AlreadyInitialised { path: home.path(), identity });
        }
        if home.holds_data() {
            return Err(DirError::IdentityMissing { path: home.path() });
        }
        match &home {
            Home::Simulated(dir) => dir.set_identity(identity.clone()),
            Home::Directory(path) => {
                write_identity(path, &identity).map_err(io_error("write the identity in", path))?
            }
        }
        Ok(DataDir { home, identity, _lock: lock })
    }

    /// Whose directory this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it is.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// What the log is kept on.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn disk(&self) -> io::Result<Arc<dyn Disk>> {
        match &self.home {
            Home::Directory(path) => Ok(Arc::new(RealDisk::open(path.join(LOG))?)),
            Home::Simulated(dir) => Ok(Arc::new(dir.disk().clone())),
        }
    }

    /// The small state, and whether it had to be wiped.
    ///
    /// # Errors
    /// When it cannot be opened although its content is not to blame.
    pub fn meta(&self) -> Result<(Arc<dyn Meta>, Opened), MetaError> {
        match &self.home {
            Home::Directory(path) => {
                let (meta, opened) = SledMeta::open(path.join(META))?;
                Ok((Arc::new(meta), opened))
            }
            Home::Simulated(dir) => {
                // As sled's form does: what is found is flushed before it is believed.
                dir.meta().sync()?;
                Ok((Arc::new(dir.meta().clone()), Opened::Existed))
            }
        }
    }

    /// Where the small state is, for messages to people.
    #[must_use]
    pub fn meta_place(&self) -> String {
        match &self.home {
            Home::Directory(path) => path.join(META).display().to_string(),
            Home::Simulated(_) => self.home.to_string(),
        }
    }
}

impl Home {
    fn path(&self) -> PathBuf {
        match self {
            Home::Directory(path) => path.clone(),
            Home::Simulated(_) => PathBuf::from("simulated"),
        }
    }

    fn holds_data(&self) -> bool {
        match self {
            Home::Directory(path) => [LOG, META].iter().any(|name| path.join(name).exists()),
            Home::Simulated(dir) => dir.disk().used_bytes() > 0,
        }
    }
}

fn lock(path: &Path) -> Result<fs::File, DirError> {
    let at = path.join(LOCK);
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&at).map_err(io_error("open", &at))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let pid = read.ok().and_then(|_| holder.trim().parse().ok());
            return Err(DirError::Locked { path: path.to_owned(), pid });
        }
        Err(error) => return Err(io_error("lock", &at)(error.into())),
    }
    let mut write_pid = || {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid().map_err(io_error("write", &at))?;
    Ok(file)
}

fn read_identity(path: &Path) -> Result<Option<Identity>, DirError> {
    let at = path.join(IDENTITY);
    let text = match fs::read(&at) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &at)(error)),
    };
    let damaged = |error: serde_json::Error| DirError::IdentityDamaged {
        path: at.clone(),
        reason: error.to_string(),
    };
    // The version first: a newer file may have other fields.
    let version: VersionOnly = serde_json::from_slice(&text).map_err(damaged)?;
    if version.format_version > DIR_FORMAT_VERSION {
        return Err(DirError::NewerFormat { path: at, version: version.format_version });
    }
    if version.format_version < DIR_FORMAT_VERSION {
        let reason = format!("format version {} never was", version.format_version);
        return Err(DirError::IdentityDamaged { path: at, reason });
    }
    let file: IdentityFile = serde_json::from_slice(&text).map_err(damaged)?;
    Ok(Some(file.identity))
}

fn write_identity(path: &Path, identity: &Identity) -> io::Result<()> {
    let file = IdentityFile { format_version: DIR_FORMAT_VERSION, identity: identity.clone() };
    let draft = path.join(IDENTITY_DRAFT);
    let mut out = fs::File::create(&draft)?;
    out.write_all(&serde_json::to_vec_pretty(&file)?)?;
    out.write_all(b"\n")?;
    out.sync_all()?;
    fs::rename(&draft, path.join(IDENTITY))?;
    sync_directory(path)?;
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirError {
    let path = path.to_owned();
    move |source| DirError::Io { action, path, source }
}
