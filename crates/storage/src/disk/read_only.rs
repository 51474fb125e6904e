//! A directory that is only looked at: nothing is made, probed, written or removed in it.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::{Disk, File};

/// A directory of the operating system, for reading.
pub struct ReadOnlyDisk {
    path: PathBuf,
}

impl ReadOnlyDisk {
    /// Whatever is in `path`.
    pub fn new(path: impl Into<PathBuf>) -> ReadOnlyDisk {
        ReadOnlyDisk { path: path.into() }
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for ReadOnlyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, _: &str, _: u64, _: &dyn Fn() -> bool) -> io::Result<Box<dyn File>> {
        refused()
    }

    fn write_unflushed(&self, _: &str, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let file = fs::File::open(self.path.join(name))?;
        let len = file.metadata()?.len();
        Ok(Box::new(ReadOnlyFile { file, len }))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self) -> io::Result<()> {
        refused()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stats = rustix::fs::statvfs(&self.path)?;
        Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
    }

    /// Nothing is written here that would have to be marked.
    fn random(&self) -> u64 {
        0
    }
}

struct ReadOnlyFile {
    file: fs::File,
    len: u64,
}

impl File for ReadOnlyFile {
    fn write_durable(&self, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        refused()
    }

    fn len(&self) -> u64 {
        self.len
    }
}
