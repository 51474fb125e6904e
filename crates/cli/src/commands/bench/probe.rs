//! The disk alone, before the load: what confirm latencies are to be seen beside.
//!
//! It is a lower bound on a quiet machine only. On a busy one the probe, which sleeps through each write, also
//! waits for its turn on a processor, and can come out slower than a confirm of the same run.
//!
//! Two ways to make 4 KiB durable: appended to a growing file with `fdatasync`, as a program would do it without
//! thinking, and into a pre-written segment, as the log does it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quorate_storage::disk::{AlignedBuffer, BLOCK};
use quorate_storage::{Disk, RealDisk};

use crate::commands::bench::record;

/// Writes of each kind.
const WRITES: u64 = 300;
/// A disk that is this slow has told enough.
const LIMIT: Duration = Duration::from_secs(5);

/// Microseconds to make 4 KiB durable.
#[derive(Debug)]
pub struct Probe {
    /// Append and `fdatasync`.
    pub appended_us: Histogram<u64>,
    /// As the log writes.
    pub logged_us: Histogram<u64>,
}

/// Measures the disk of a directory and leaves nothing behind. Blocks.
pub fn measure(directory: &Path) -> io::Result<Probe> {
    let place = tempfile::Builder::new().prefix("probe-").tempdir_in(directory)?;
    Ok(Probe { appended_us: append(place.path())?, logged_us: log(place.path())? })
}

fn append(directory: &Path) -> io::Result<Histogram<u64>> {
    let mut file = File::create(directory.join("appended"))?;
    timed(|_| {
        file.write_all(&[7; BLOCK])?;
        file.sync_data()
    })
}

fn log(directory: &Path) -> io::Result<Histogram<u64>> {
    let disk = RealDisk::open(directory)?;
    let segment = disk.create("logged", WRITES * BLOCK as u64, &|| true)?;
    let mut block = AlignedBuffer::new();
    block.resize(BLOCK);
    block.as_mut_slice().fill(7);
    timed(|number| segment.write_durable(number * BLOCK as u64, block.as_slice()))
}

fn timed(mut write: impl FnMut(u64) -> io::Result<()>) -> io::Result<Histogram<u64>> {
    let mut took_us = record::histogram();
    let begun = Instant::now();
    for number in 0..WRITES {
        let started = Instant::now();
        write(number)?;
        took_us.saturating_record(started.elapsed().as_micros() as u64);
        if begun.elapsed() > LIMIT {
            break;
        }
    }
    Ok(took_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_measured_and_nothing_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let probe = measure(directory.path()).expect("measure");
        assert!(!probe.appended_us.is_empty() && !probe.logged_us.is_empty());
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 0);
    }
}
