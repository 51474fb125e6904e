//! The device as the log sees it: a flat directory of files of fixed length, written in aligned
//! blocks that are durable when the call returns; and small files that need not be.
//!
//! [`RealDisk`] is a directory of the operating system, [`ReadOnlyDisk`] one that is only looked at,
//! [`SimDisk`] the same in memory with a crash model. `tests/conformance.rs` holds both to one behaviour.

mod align;
mod read_only;
mod real;
mod sim;

pub use align::AlignedBuffer;
pub use read_only::ReadOnlyDisk;
pub use real::RealDisk;
pub(crate) use real::sync_directory;
pub use sim::{Fault, Operation, SimDisk};

use std::io;

use bytes::Bytes;

/// Every offset, length and buffer address given to [`File::write_durable`] is a multiple of this,
/// in bytes: what direct I/O needs on the devices in use.
pub const BLOCK: usize = 4096;

/// A directory of segment files. Names are plain file names without separators.
pub trait Disk: Send + Sync + 'static {
    /// The names of all files, in no particular order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file of `len` bytes that read as zero, the room for them taken and the directory entry
    /// durable. Zeros are written too, as long as that is `worthwhile`: a write over what was written
    /// needs no change of the file system's own records, and is faster. On an error nothing is left
    /// behind. An existing file of the name is replaced.
    fn create(
        &self,
        name: &str,
        len: u64,
        worthwhile: &dyn Fn() -> bool,
    ) -> io::Result<Box<dyn File>>;

    /// Makes a file of `bytes`, or replaces one, without waiting for the device: a loss of power
    /// may take it, leave parts of it, or leave zeros. For what has a checksum and can be made
    /// again, and is not worth a flush.
    fn write_unflushed(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Opens an existing file.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Renames; durable only after [`Disk::sync_dir`]. Open handles go on with the same file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes; durable only after [`Disk::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes that a process without privileges can still allocate on the file system.
    fn free_bytes(&self) -> io::Result<u64>;

    /// A number that a client of the broker cannot guess. The log marks its batches with it, so
    /// that a payload crafted to look like a batch is never taken for one.
    fn random(&self) -> u64;
}

/// An open file of a [`Disk`]. Reads may run beside a write of another range.
pub trait File: Send + Sync {
    /// Writes `aligned` at `offset`; on the device when it returns. Both are multiples of
    /// [`BLOCK`], as is the buffer's address (see [`AlignedBuffer`]). After an error the content of
    /// the range is unknown, and the caller must not rely on any later flush of this file.
    fn write_durable(&self, offset: u64, aligned: &[u8]) -> io::Result<()>;

    /// Fills `buffer` from `offset`, through the system's page cache; `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// `len` bytes from `offset`, which may go past the page cache; `UnexpectedEof` if the file ends before.
    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; len];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Makes durable what an earlier process may have written without living to flush it.
    fn sync(&self) -> io::Result<()>;

    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether the file has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
