//! How a log reads its disk: what is wanted once goes past the page cache, what is wanted again through it.

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use quorate_storage::{Disk, File, GroupId, Log, SimDisk};
use support::{Watch, append, drain, entry, options};

const GROUP: GroupId = GroupId(7);

/// Reads of payloads past the page cache and through it.
#[derive(Default)]
struct Reads {
    past: AtomicUsize,
    through: AtomicUsize,
}

impl Reads {
    fn take(&self) -> (usize, usize) {
        (self.past.swap(0, Ordering::Relaxed), self.through.swap(0, Ordering::Relaxed))
    }
}

/// A disk whose reads are counted.
struct Counted {
    disk: SimDisk,
    reads: Arc<Reads>,
}

struct CountedFile {
    file: Box<dyn File>,
    reads: Arc<Reads>,
}

impl Counted {
    fn file(&self, file: Box<dyn File>) -> Box<dyn File> {
        Box::new(CountedFile { file, reads: self.reads.clone() })
    }
}

impl Disk for Counted {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(
        &self,
        name: &str,
        len: u64,
        worthwhile: &dyn Fn() -> bool,
    ) -> io::Result<Box<dyn File>> {
        self.disk.create(name, len, worthwhile).map(|file| self.file(file))
    }

    fn write_unflushed(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.disk.write_unflushed(name, bytes)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.disk.open(name).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn random(&self) -> u64 {
        self.disk.random()
    }
}

impl File for CountedFile {
    fn write_durable(&self, offset: u64, aligned: &[u8]) -> io::Result<()> {
        self.file.write_durable(offset, aligned)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.reads.through.fetch_add(1, Ordering::Relaxed);
        self.file.read_at(offset, buffer)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.reads.past.fetch_add(1, Ordering::Relaxed);
        self.file.read(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }
}

#[test]
fn an_entry_that_is_read_again_by_itself_comes_through_the_page_cache() {
    let reads = Arc::new(Reads::default());
    let disk = Counted { disk: SimDisk::new(1), reads: reads.clone() };
    let (log, mut writer) = Log::open(Arc::new(disk), options()).expect("open log");
    // Too large to be kept once read, and pushed out of the tail by those that follow.
    for index in 1..=4 {
        append(&log, GROUP, vec![entry(index, 1, 10 << 10)]);
        drain(&mut writer);
    }
    reads.take();
    let read = |range| log.read(GROUP, range, usize::MAX).expect("read");
    assert_eq!(read(1..2), [entry(1, 1, 10 << 10)]);
    assert_eq!(reads.take(), (1, 0), "the first time");
    for _ in 0..2 {
        assert_eq!(read(1..2), [entry(1, 1, 10 << 10)]);
        assert_eq!(reads.take(), (0, 1), "again");
    }
    assert_eq!(read(1..3).len(), 2);
    assert_eq!(reads.take(), (1, 0), "as part of a longer read");
    assert_eq!(read(2..3), [entry(2, 1, 10 << 10)]);
    assert_eq!(reads.take(), (1, 0), "by itself for the first time");
    // What takes the place of an entry has not been read.
    log.truncate_after(GROUP, Some((1, 1)), Watch::ignore());
    for index in 2..=5 {
        append(&log, GROUP, vec![entry(index, 2, 10 << 10)]);
        drain(&mut writer);
    }
    reads.take();
    assert_eq!(read(2..3), [entry(2, 2, 10 << 10)]);
    assert_eq!(reads.take(), (1, 0), "another entry");
}
