//! A directory of the operating system as a [`Disk`].
//!
//! Writes go through a descriptor opened with `O_DIRECT | O_DSYNC` where the file system takes it
//! (probed once at open): one system call, one flush, no second copy in the page cache. Elsewhere
//! it is a write followed by `fdatasync`. Reads go through a second, buffered descriptor, and large
//! ones past the cache too: what is read once would only displace there what is read again. All
//! agree because a range is read only after its write returned, and direct writes invalidate the
//! cached pages of their range.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{Advice, FallocateFlags, OFlags};

use super::{AlignedBuffer, BLOCK, Disk, File};

/// Zeros are pre-written in pieces of this size, in bytes.
const PREWRITE_BYTES: usize = 256 << 10;

/// From so many bytes on a read goes past the page cache.
const DIRECT_READ_BYTES: usize = 64 << 10;

const PROBE: &str = "probe.tmp";

/// How a write becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Direct,
    Buffered,
}

/// A directory; made if it does not exist.
pub struct RealDisk {
    path: PathBuf,
    mode: Mode,
}

impl RealDisk {
    /// Opens `path`, making it (and making that durable) if needed, and probes direct I/O.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let path = path.into();
        if !path.is_dir() {
            fs::create_dir_all(&path)?;
            if let Some(parent) = path.parent() {
                sync_directory(parent)?;
            }
        }
        let mode = if probe_direct(&path) { Mode::Direct } else { Mode::Buffered };
        Ok(RealDisk { path, mode })
    }

    /// The same without direct I/O: for comparison and for tests of the fallback.
    pub fn open_buffered(path: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let mut disk = Self::open(path)?;
        disk.mode = Mode::Buffered;
        Ok(disk)
    }

    /// Whether writes bypass the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.mode == Mode::Direct
    }

    fn open_path(&self, path: &Path) -> io::Result<RealFile> {
        let reader = fs::File::open(path)?;
        // Reads ask for what they need in one piece: read-ahead would only fill the cache with
        // the part of a segment that is about to be overwritten.
        let _ = rustix::fs::fadvise(&reader, 0, None, Advice::Random);
        let writer = open_writer(path, self.mode)?;
        let len = reader.metadata()?.len();
        Ok(RealFile { reader, writer, mode: self.mode, len })
    }

    fn prewrite(&self, path: &Path, len: u64, worthwhile: &dyn Fn() -> bool) -> io::Result<()> {
        fs::File::create(path)?;
        let mut options = fs::OpenOptions::new();
        options.write(true);
        if self.mode == Mode::Direct {
            // Piece by piece past the cache: a whole segment of dirty pages, flushed at once,
            // would stand in the way of the log's own writes for as long as it takes.
            options.custom_flags(OFlags::DIRECT.bits() as i32);
        }
        let file = options.open(path)?;
        let reserved = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len);
        // Where room cannot be reserved, only what is written has it.
        let must = reserved.is_err();
        reserved.or_else(unsupported)?;
        let mut zeros = AlignedBuffer::new();
        zeros.resize(PREWRITE_BYTES);
        let mut done = 0;
        while done < len && (must || worthwhile()) {
            let piece = (len - done).min(PREWRITE_BYTES as u64) as usize;
            file.write_all_at(&zeros.as_slice()[..piece], done)?;
            done += piece as u64;
        }
        file.sync_all()
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name != PROBE
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(
        &self,
        name: &str,
        len: u64,
        worthwhile: &dyn Fn() -> bool,
    ) -> io::Result<Box<dyn File>> {
        let path = self.path.join(name);
        let made = self
            .prewrite(&path, len, worthwhile)
            .and_then(|()| self.sync_dir())
            .and_then(|()| self.open_path(&path));
        match made {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => {
                // Best effort: what stays is found by its length when the log is opened.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn write_unflushed(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::write(self.path.join(name), bytes)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(self.open_path(&self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        sync_directory(&self.path)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stats = rustix::fs::statvfs(&self.path)?;
        Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        let read = fs::File::open("/dev/urandom")
            .and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes));
        match read {
            Ok(()) => u64::from_le_bytes(bytes),
            // Only the protection against crafted payloads is weaker without it.
            Err(_) => u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }
}

struct RealFile {
    reader: fs::File,
    writer: fs::File,
    mode: Mode,
    len: u64,
}

impl File for RealFile {
    fn write_durable(&self, offset: u64, aligned: &[u8]) -> io::Result<()> {
        debug_assert!(offset.is_multiple_of(BLOCK as u64) && aligned.len().is_multiple_of(BLOCK));
        self.writer.write_all_at(aligned, offset)?;
        match self.mode {
            Mode::Direct => Ok(()),
            Mode::Buffered => self.writer.sync_data(),
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact_at(buffer, offset)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let block = BLOCK as u64;
        let from = offset - offset % block;
        let to = (offset + len as u64).next_multiple_of(block);
        let direct = self.mode == Mode::Direct && len >= DIRECT_READ_BYTES && to <= self.len;
        let span = (to - from) as usize;
        let mut bytes = vec![0; if direct { span + BLOCK } else { len }];
        let aligned = bytes.as_ptr().align_offset(BLOCK);
        if direct && self.writer.read_exact_at(&mut bytes[aligned..aligned + span], from).is_ok() {
            let start = aligned + (offset - from) as usize;
            return Ok(Bytes::from(bytes).slice(start..start + len));
        }
        bytes.truncate(len);
        self.read_at(offset, &mut bytes)?;
        Ok(bytes.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.writer.sync_data()
    }

    fn len(&self) -> u64 {
        self.len
    }
}

fn open_writer(path: &Path, mode: Mode) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true);
    if mode == Mode::Direct {
        options.read(true).custom_flags((OFlags::DIRECT | OFlags::DSYNC).bits() as i32);
    }
    options.open(path)
}

/// Reserving space is a courtesy to the file system; not all of them offer it.
fn unsupported(error: rustix::io::Errno) -> io::Result<()> {
    match error {
        rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS => Ok(()),
        other => Err(other.into()),
    }
}

/// File systems differ in whether `open` or the first write refuses direct I/O, so both are tried.
fn probe_direct(directory: &Path) -> bool {
    let path = directory.join(PROBE);
    let mut block = AlignedBuffer::new();
    block.resize(BLOCK);
    let probe = || -> io::Result<()> {
        fs::File::create(&path)?;
        open_writer(&path, Mode::Direct)?.write_all_at(block.as_slice(), 0)
    };
    let works = probe().is_ok();
    let _ = fs::remove_file(&path);
    works
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    fs::File::open(path)?.sync_all()
}
