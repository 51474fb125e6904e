//! A disk in memory that behaves as badly as real ones may: what was not flushed can be lost,
//! partly and out of order; calls fail where a plan says so; bits flip.
//!
//! It has no clock and no randomness of its own: choices come from the seed. A [`SimDisk`] is a
//! handle of one boot. [`SimDisk::power_loss`] and [`SimDisk::kill`] end it: every file and handle
//! of it fails from then on, so a writer of the past cannot touch the disk any more, and
//! [`SimDisk::reopen`] gives a handle of the next boot.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{BLOCK, Disk, File};

/// What a device writes at once, in bytes: a torn write is made of whole sectors.
const SECTOR: usize = 512;

/// A kind of call, to plan faults for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// [`File::read_at`].
    Read,
    /// [`File::write_durable`], [`Disk::create`] and [`Disk::write_unflushed`].
    Write,
    /// The flush at the end of a write, [`File::sync`], [`Disk::sync_dir`].
    Flush,
    /// [`Disk::rename`] and [`Disk::remove`].
    Rename,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with an I/O error. A failed write has changed an unknown part; after a failed
    /// flush what it should have flushed is lost at the next loss of power.
    Error,
    /// The power goes while it runs.
    PowerLoss,
    /// The process is killed while it runs: what it wrote so far is visible, but not flushed.
    Kill,
}

/// A disk in memory; clones are handles of the same boot.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    boot: u64,
}

#[derive(Clone)]
struct Inode {
    /// As read.
    content: Vec<u8>,
    /// As after a loss of power, if no unflushed sector makes it.
    durable: Vec<u8>,
    /// Sectors in which the two may differ.
    unflushed: BTreeSet<usize>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

struct Inner {
    boot: u64,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<NameChange>,
    next_inode: u64,
    random: u64,
    capacity: u64,
    plans: BTreeMap<Operation, Vec<(u64, Fault)>>,
    calls: BTreeMap<Operation, u64>,
    latency: Duration,
    /// Where the last write to each inode began.
    last_writes: BTreeMap<u64, u64>,
    /// Planned faults that were met.
    met: u64,
}

impl SimDisk {
    /// An empty disk without a bound; all its choices follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        let inner = Inner {
            boot: 0,
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            next_inode: 1,
            random: seed,
            capacity: u64::MAX,
            plans: BTreeMap::new(),
            calls: BTreeMap::new(),
            latency: Duration::ZERO,
            last_writes: BTreeMap::new(),
            met: 0,
        };
        SimDisk { inner: Arc::new(Mutex::new(inner)), boot: 0 }
    }

    /// A handle for the boot after the last crash (the current one if there was none since).
    #[must_use]
    pub fn reopen(&self) -> SimDisk {
        let boot = self.inner().boot;
        SimDisk { inner: self.inner.clone(), boot }
    }

    /// The power goes: of what was not flushed a random part is lost, sector by sector, and the
    /// boot ends.
    pub fn power_loss(&self) {
        self.inner().power_loss();
    }

    /// The process is killed: nothing is lost yet, but the boot ends.
    pub fn kill(&self) {
        self.inner().boot += 1;
    }

    /// The call number `after` from now on (1 is the next) of this kind meets `fault`.
    pub fn plan(&self, operation: Operation, after: u64, fault: Fault) {
        let mut inner = self.inner();
        let call = inner.calls.get(&operation).copied().unwrap_or(0) + after;
        inner.plans.entry(operation).or_default().push((call, fault));
    }

    /// Forgets the planned faults of a kind of call.
    pub fn clear_plans_of(&self, operation: Operation) {
        self.inner().plans.remove(&operation);
    }

    /// How many planned faults came about.
    #[must_use]
    pub fn faults_met(&self) -> u64 {
        self.inner().met
    }

    /// Forgets all planned faults.
    pub fn clear_plans(&self) {
        self.inner().plans.clear();
    }

    /// How many calls of this kind there were.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        self.inner().calls.get(&operation).copied().unwrap_or(0)
    }

    /// Bounds the bytes of all files together; more is refused as "no space". Existing files stay.
    pub fn set_capacity(&self, bytes: u64) {
        self.inner().capacity = bytes;
    }

    /// Each write costs this much from now on: for who drives the log's writer to wait.
    pub fn set_latency(&self, latency: Duration) {
        self.inner().latency = latency;
    }

    /// What each write and flush costs.
    #[must_use]
    pub fn latency(&self) -> Duration {
        self.inner().latency
    }

    /// Flips one bit, on the medium and as read. False if there is no such byte.
    pub fn flip_bit(&self, name: &str, byte: u64, bit: u8) -> bool {
        let mut inner = self.inner();
        let Some(inode) = inner.inode_of(name) else { return false };
        let at = byte as usize;
        let mask = 1 << (bit % 8);
        match (inode.content.get_mut(at), inode.durable.get_mut(at)) {
            (Some(content), Some(durable)) => {
                *content ^= mask;
                *durable ^= mask;
                true
            }
            _ => false,
        }
    }

    /// Cuts a file, on the medium and as read.
    pub fn truncate(&self, name: &str, len: u64) {
        if let Some(inode) = self.inner().inode_of(name) {
            inode.content.truncate(len as usize);
            inode.durable.truncate(len as usize);
            inode.unflushed.retain(|sector| sector * SECTOR < len as usize);
        }
    }

    /// Whether this handle's boot still lasts.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.inner().boot == self.boot
    }

    /// Where the last write to a file began: from there on, damage cannot be told from a write that
    /// was torn. `None` if nothing was written to it.
    #[must_use]
    pub fn last_write(&self, name: &str) -> Option<u64> {
        let inner = self.inner();
        inner.last_writes.get(inner.names.get(name)?).copied()
    }

    /// A byte of a file, as read.
    #[must_use]
    pub fn byte(&self, name: &str, at: u64) -> Option<u8> {
        self.inner().inode_of(name)?.content.get(at as usize).copied()
    }

    /// Length of a file in bytes, if it exists.
    #[must_use]
    pub fn file_len(&self, name: &str) -> Option<u64> {
        self.inner().inode_of(name).map(|inode| inode.content.len() as u64)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.inner().used()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.inner();
        if inner.boot == self.boot { Ok(inner) } else { Err(gone()) }
    }
}

impl Inner {
    /// splitmix64 (Steele, Lea, Flood 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fault(&mut self, operation: Operation) -> Option<Fault> {
        let call = self.calls.entry(operation).or_default();
        *call += 1;
        let call = *call;
        let plans = self.plans.get_mut(&operation)?;
        let at = plans.iter().position(|(planned, _)| *planned == call)?;
        let fault = plans.swap_remove(at).1;
        self.met += 1;
        Some(fault)
    }

    /// Carries a fault out for calls that change no bytes.
    fn meet(&mut self, operation: Operation) -> io::Result<()> {
        let Some(fault) = self.fault(operation) else { return Ok(()) };
        self.end_boot(fault);
        Err(io_error(fault))
    }

    fn end_boot(&mut self, fault: Fault) {
        match fault {
            Fault::Error => {}
            Fault::PowerLoss => self.power_loss(),
            Fault::Kill => self.boot += 1,
        }
    }

    fn power_loss(&mut self) {
        self.boot += 1;
        let survives = self.next_random() as usize % (self.pending_names.len() + 1);
        let pending = std::mem::take(&mut self.pending_names);
        let mut names = std::mem::take(&mut self.durable_names);
        for change in pending.into_iter().take(survives) {
            change.apply(&mut names);
        }
        self.names = names.clone();
        self.durable_names = names;
        let mut inodes = std::mem::take(&mut self.inodes);
        inodes.retain(|id, _| self.names.values().any(|named| named == id));
        for inode in inodes.values_mut() {
            // All, none, or a random part of the unflushed sectors: a flush may have been near.
            let style = self.next_random() % 4;
            for sector in std::mem::take(&mut inode.unflushed) {
                let written = match style {
                    0 => true,
                    1 => false,
                    _ => self.next_random().is_multiple_of(2),
                };
                inode.flush_sector(sector, written);
            }
            inode.content.clone_from(&inode.durable);
        }
        self.inodes = inodes;
    }

    fn inode_of(&mut self, name: &str) -> Option<&mut Inode> {
        let id = self.names.get(name)?;
        self.inodes.get_mut(id)
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        let sizes = self.inodes.iter().filter(|(id, _)| named.contains(id));
        sizes.map(|(_, inode)| inode.content.len() as u64).sum()
    }

    fn write(&mut self, id: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let fault = self.fault(Operation::Write);
        let sectors = bytes.len() / SECTOR;
        // A write that is interrupted has reached the cache up to some sector.
        let reached = match fault {
            None => sectors,
            Some(_) => self.next_random() as usize % (sectors + 1),
        };
        let Some(inode) = self.inodes.get_mut(&id) else { return Err(gone()) };
        let start = offset as usize;
        self.last_writes.insert(id, offset);
        if start + bytes.len() > inode.content.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "write beyond the file"));
        }
        let len = reached * SECTOR;
        inode.content[start..start + len].copy_from_slice(&bytes[..len]);
        inode.unflushed.extend(start / SECTOR..(start + len) / SECTOR);
        if let Some(fault) = fault {
            self.end_boot(fault);
            return Err(io_error(fault));
        }
        self.flush(id, Some(start / SECTOR..(start + len) / SECTOR))
    }

    /// Flushes the given sectors, or all.
    fn flush(&mut self, id: u64, sectors: Option<std::ops::Range<usize>>) -> io::Result<()> {
        if let Some(fault) = self.fault(Operation::Flush) {
            self.end_boot(fault);
            return Err(io_error(fault));
        }
        let Some(inode) = self.inodes.get_mut(&id) else { return Err(gone()) };
        let flushed: Vec<usize> = match sectors {
            Some(range) => range.collect(),
            None => inode.unflushed.iter().copied().collect(),
        };
        for sector in flushed {
            inode.unflushed.remove(&sector);
            inode.flush_sector(sector, true);
        }
        Ok(())
    }
}

impl Inode {
    fn flush_sector(&mut self, sector: usize, written: bool) {
        let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.content.len());
        if written {
            self.durable[range.clone()].copy_from_slice(&self.content[range]);
        }
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Create(name, id) => {
                names.insert(name, id);
            }
            NameChange::Rename(from, to) => {
                if let Some(id) = names.remove(&from) {
                    names.insert(to, id);
                }
            }
            NameChange::Remove(name) => {
                names.remove(&name);
            }
        }
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.alive()?.names.keys().cloned().collect())
    }

    fn create(
        &self,
        name: &str,
        len: u64,
        _worthwhile: &dyn Fn() -> bool,
    ) -> io::Result<Box<dyn File>> {
        let mut inner = self.alive()?;
        inner.meet(Operation::Write)?;
        if inner.used().saturating_add(len) > inner.capacity {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let zeros = vec![0; len as usize];
        let inode = Inode { content: zeros.clone(), durable: zeros, unflushed: BTreeSet::new() };
        let id = inner.next_inode;
        inner.next_inode += 1;
        inner.inodes.insert(id, inode);
        inner.names.insert(name.to_owned(), id);
        inner.durable_names.insert(name.to_owned(), id);
        Ok(Box::new(SimFile { disk: self.clone(), id, len }))
    }

    fn write_unflushed(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.alive()?;
        let fault = inner.fault(Operation::Write);
        let replaced = inner.inode_of(name).map_or(0, |inode| inode.content.len() as u64);
        let used = inner.used() - replaced;
        if used.saturating_add(bytes.len() as u64) > inner.capacity {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let reached = match fault {
            None => bytes.len(),
            Some(_) => inner.next_random() as usize % (bytes.len() + 1),
        };
        let mut content = vec![0; bytes.len()];
        content[..reached].copy_from_slice(&bytes[..reached]);
        let unflushed = (0..bytes.len().div_ceil(SECTOR)).collect();
        let id = inner.next_inode;
        inner.next_inode += 1;
        inner.inodes.insert(id, Inode { content, durable: vec![0; bytes.len()], unflushed });
        let change = NameChange::Create(name.to_owned(), id);
        change.clone().apply(&mut inner.names);
        inner.pending_names.push(change);
        match fault {
            None => Ok(()),
            Some(fault) => {
                inner.end_boot(fault);
                Err(io_error(fault))
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let inner = self.alive()?;
        let id = *inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let len = inner.inodes.get(&id).map_or(0, |inode| inode.content.len() as u64);
        Ok(Box::new(SimFile { disk: self.clone(), id, len }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.alive()?;
        inner.meet(Operation::Rename)?;
        if !inner.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Rename(from.to_owned(), to.to_owned());
        change.clone().apply(&mut inner.names);
        inner.pending_names.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.alive()?;
        inner.meet(Operation::Rename)?;
        if inner.names.remove(name).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.pending_names.push(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.alive()?;
        inner.meet(Operation::Flush)?;
        inner.pending_names.clear();
        inner.durable_names = inner.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let inner = self.alive()?;
        Ok(inner.capacity.saturating_sub(inner.used()))
    }

    fn random(&self) -> u64 {
        self.inner().next_random()
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
    len: u64,
}

impl File for SimFile {
    fn write_durable(&self, offset: u64, aligned: &[u8]) -> io::Result<()> {
        let block = BLOCK as u64;
        let address = aligned.as_ptr().align_offset(BLOCK);
        if !offset.is_multiple_of(block) || !aligned.len().is_multiple_of(BLOCK) || address != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "write is not aligned"));
        }
        self.disk.alive()?.write(self.id, offset, aligned)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut inner = self.disk.alive()?;
        if let Some(fault) = inner.fault(Operation::Read) {
            inner.end_boot(fault);
            return Err(io_error(fault));
        }
        let inode = inner.inodes.get(&self.id).ok_or_else(gone)?;
        let start = offset as usize;
        let bytes = start.checked_add(buffer.len()).and_then(|end| inode.content.get(start..end));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.alive()?.flush(self.id, None)
    }

    fn len(&self) -> u64 {
        self.len
    }
}

fn gone() -> io::Error {
    io::Error::other("this boot of the simulated disk has ended")
}

fn io_error(fault: Fault) -> io::Error {
    match fault {
        Fault::Error => io::Error::from_raw_os_error(5),
        Fault::PowerLoss | Fault::Kill => gone(),
    }
}
