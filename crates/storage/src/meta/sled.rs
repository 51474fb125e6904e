//! [`Meta`] in sled: one tree, small records (see [`chunks`]).
//!
//! Two habits of sled 0.34 shape this file. Its `flush` starts the writing but does not wait for
//! the device, so we sync its file after it. And damage can make it panic, so every call into it
//! is fenced; a store that cannot be opened is moved aside, because all of it can be rebuilt.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::chunks::{self, CHUNK_BYTES, Head};
use super::{KEY_BYTES_MAX, Meta, MetaError};
use crate::disk::sync_directory;

/// Memory that sled may use for its cache, in bytes.
const CACHE_BYTES: u64 = 16 << 20;
/// A larger value goes to the device by so many bytes: the log's small writes share that, and would wait for all of a value
/// that is synced at once.
const SYNC_BYTES: usize = 1 << 20;
/// By more at a time if that were more pieces.
const SYNCS_MAX: usize = 64;
/// The file that holds all of sled's data.
const DATA_FILE: &str = "db";

/// What was found when the store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// There was none.
    Fresh,
    /// It was there.
    Existed,
    /// It could not be used and was moved aside; what it held has to be rebuilt.
    Wiped {
        /// What was wrong, and where the old one lies.
        because: String,
    },
}

/// Small state in a directory.
pub struct SledMeta {
    db: ::sled::Db,
    data: fs::File,
    /// One writer at a time: a value's old generation is read before its new one is written.
    writing: Mutex<Vec<Vec<u8>>>,
}

impl SledMeta {
    /// Opens the store in `dir`, making it if needed.
    ///
    /// # Errors
    /// A store that is open elsewhere, and refusals of the device, are errors; a damaged store is
    /// not: see [`Opened::Wiped`].
    pub fn open(dir: impl AsRef<Path>) -> Result<(SledMeta, Opened), MetaError> {
        let dir = dir.as_ref();
        let existed = dir.join(DATA_FILE).exists();
        match open_db(dir) {
            Ok(db) => {
                let opened = if existed { Opened::Existed } else { Opened::Fresh };
                Ok((Self::with(db, dir)?, opened))
            }
            Err(OpenFailure::Refused(error)) => Err(error),
            Err(OpenFailure::Damaged(reason)) => {
                let aside = move_aside(dir).map_err(|e| store("move a damaged store aside", e))?;
                let because = format!("{reason}; the old one lies in {}", aside.display());
                tracing::warn!(%because, "small state is damaged and will be rebuilt");
                match open_db(dir) {
                    Ok(db) => Ok((Self::with(db, dir)?, Opened::Wiped { because })),
                    Err(OpenFailure::Refused(error)) => Err(error),
                    Err(OpenFailure::Damaged(reason)) => {
                        Err(MetaError::Store { action: "open an empty store", reason })
                    }
                }
            }
        }
    }

    /// Opens a copy, made in the empty directory `scratch`, of the store in `of`, which stays as it is.
    ///
    /// # Errors
    /// When it cannot be copied; and when the store is damaged.
    pub fn open_copy(of: &Path, scratch: &Path) -> Result<SledMeta, MetaError> {
        copy_files(of, scratch).map_err(|error| store("copy the store", error))?;
        match open_db(scratch) {
            Ok(db) => Self::with(db, scratch),
            Err(OpenFailure::Refused(error)) => Err(error),
            Err(OpenFailure::Damaged(reason)) => {
                Err(MetaError::Store { action: "open a copy of the store", reason })
            }
        }
    }

    fn with(db: ::sled::Db, dir: &Path) -> Result<SledMeta, MetaError> {
        let data = fs::File::open(dir.join(DATA_FILE)).map_err(|e| store("open data file", e))?;
        let meta = SledMeta { db, data, writing: Mutex::new(Vec::new()) };
        meta.sync()?;
        sync_directory(dir).map_err(|e| store("sync directory", e))?;
        if let Some(parent) = dir.parent() {
            sync_directory(parent).map_err(|e| store("sync directory", e))?;
        }
        Ok(meta)
    }

    fn value(&self, key: &[u8], record: &[u8]) -> Result<Bytes, MetaError> {
        match chunks::decode_head(key, record)? {
            Head::Inline(value) => Ok(Bytes::copy_from_slice(value)),
            Head::Chunked { generation, bytes, crc } => {
                let records = self.db.scan_prefix(chunks::generation_prefix(key, generation));
                let chunks = records.map(|record| {
                    let (_, chunk) = record.map_err(|e| sled_error("read a chunk", &e))?;
                    Ok(Bytes::copy_from_slice(&chunk))
                });
                chunks::assemble(key, bytes, crc, chunks)
            }
        }
    }

    /// Keys of all chunks of `key`.
    fn chunk_keys(&self, key: &[u8]) -> Result<Vec<Vec<u8>>, MetaError> {
        let keys = self.db.scan_prefix(chunks::chunks_prefix(key)).keys();
        keys.map(|k| k.map(|k| k.to_vec()).map_err(|e| sled_error("list chunks", &e))).collect()
    }

    fn write_value(&self, key: &[u8], value: &[&[u8]], old: &[Vec<u8>]) -> Result<(), MetaError> {
        let insert = |at: Vec<u8>, record: &[u8]| {
            self.db.insert(at, record).map_err(|e| sled_error("write a record", &e))
        };
        let bytes: usize = value.iter().map(|piece| piece.len()).sum();
        if bytes <= CHUNK_BYTES {
            let head = Head::Inline(&value.concat()).encode(key);
            return insert(chunks::head_key(key), &head).map(drop);
        }
        let newest = old.iter().map(|chunk| chunks::generation_of(key, chunk)).max();
        let generation = newest.unwrap_or(0) + 1;
        let sync_bytes = SYNC_BYTES.max(bytes / SYNCS_MAX);
        let (mut crc, mut unsynced) = (0, 0);
        let pieces = value.iter().flat_map(|piece| piece.chunks(CHUNK_BYTES));
        for (number, chunk) in (0u32..).zip(pieces) {
            insert(chunks::chunk_key(key, generation, number), chunk)?;
            crc = crc32c::crc32c_append(crc, chunk);
            unsynced += chunk.len();
            if unsynced >= sync_bytes {
                self.sync_written()?;
                unsynced = 0;
            }
        }
        let head = Head::Chunked { generation, bytes: bytes as u64, crc };
        insert(chunks::head_key(key), &head.encode(key)).map(drop)
    }

    /// All that was written is on the device when this returns.
    fn sync_written(&self) -> Result<(), MetaError> {
        self.db.flush().map_err(|e| sled_error("flush", &e))?;
        self.data.sync_data().map_err(|e| store("sync data file", e))
    }
}

impl Meta for SledMeta {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        fenced("read a value", || {
            let record = self.db.get(chunks::head_key(key));
            let record = record.map_err(|e| sled_error("read a value", &e))?;
            record.map(|record| self.value(key, &record)).transpose()
        })
    }

    fn put(&self, key: &[u8], value: &[&[u8]]) -> Result<(), MetaError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(MetaError::KeyTooLong(key.len()));
        }
        let mut stale = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        fenced("write a value", || {
            let old = self.chunk_keys(key)?;
            self.write_value(key, value, &old)?;
            stale.extend(old);
            Ok(())
        })
    }

    fn remove(&self, key: &[u8]) -> Result<(), MetaError> {
        let mut stale = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        fenced("remove a value", || {
            stale.extend(self.chunk_keys(key)?);
            let removed = self.db.remove(chunks::head_key(key));
            removed.map(drop).map_err(|e| sled_error("remove a value", &e))
        })
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, MetaError> {
        fenced("scan values", || {
            let mut found = Vec::new();
            for record in self.db.scan_prefix(chunks::head_key(prefix)) {
                let (head_key, record) = record.map_err(|e| sled_error("scan values", &e))?;
                let key = chunks::key_of_head(&head_key);
                found.push((Bytes::copy_from_slice(key), self.value(key, &record)?));
            }
            Ok(found)
        })
    }

    fn sync(&self) -> Result<(), MetaError> {
        let mut stale = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        fenced("flush", || {
            self.sync_written()?;
            // What replaced them is on the device now. A crash from here on leaves some behind;
            // the next change of their key finds them again.
            for chunk in stale.drain(..) {
                self.db.remove(chunk).map_err(|e| sled_error("remove an old chunk", &e))?;
            }
            Ok(())
        })
    }
}

enum OpenFailure {
    /// Opening again later may work; the data is not to blame.
    Refused(MetaError),
    Damaged(String),
}

/// How often, and with which pause, a store that is locked is tried again.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

fn is_lock(error: &io::Error) -> bool {
    error.to_string().contains("acquire lock")
}

fn open_db(dir: &Path) -> Result<::sled::Db, OpenFailure> {
    let config = ::sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let open = || catch_unwind(AssertUnwindSafe(|| config.open()));
    let mut opened = open();
    // sled gives its lock up some time after it was dropped.
    for _ in 0..LOCK_TRIES {
        if !matches!(&opened, Ok(Err(::sled::Error::Io(error))) if is_lock(error)) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        opened = open();
    }
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(::sled::Error::Io(error))) if is_lock(&error) => {
            Err(OpenFailure::Refused(MetaError::Locked(dir.display().to_string())))
        }
        Ok(Err(::sled::Error::Io(error))) if is_refusal(&error) => {
            Err(OpenFailure::Refused(store("open", error)))
        }
        Ok(Err(error)) => Err(OpenFailure::Damaged(error.to_string())),
        Err(_) => Err(OpenFailure::Damaged("sled panicked while opening".to_owned())),
    }
}

/// Errors that speak of the device or the settings, not of the content.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::PermissionDenied | Kind::StorageFull | Kind::ReadOnlyFilesystem | Kind::NotADirectory
    )
}

/// Renames the store; an older one that was moved aside before is removed.
fn move_aside(dir: &Path) -> io::Result<PathBuf> {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".damaged");
    let aside = dir.with_file_name(name);
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    fs::rename(dir, &aside)?;
    if let Some(parent) = dir.parent() {
        sync_directory(parent)?;
    }
    Ok(aside)
}

fn copy_files(of: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(of)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &to)?;
        } else {
            // Not `fs::copy`: what cannot be written there has to be writable here.
            io::copy(&mut fs::File::open(entry.path())?, &mut fs::File::create(&to)?)?;
        }
    }
    Ok(())
}

/// Turns a panic of sled into an error.
fn fenced<T>(
    action: &'static str,
    call: impl FnOnce() -> Result<T, MetaError>,
) -> Result<T, MetaError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(MetaError::Store { action, reason: "sled panicked".to_owned() }))
}

fn sled_error(action: &'static str, error: &::sled::Error) -> MetaError {
    MetaError::Store { action, reason: error.to_string() }
}

fn store(action: &'static str, error: io::Error) -> MetaError {
    MetaError::Store { action, reason: error.to_string() }
}
