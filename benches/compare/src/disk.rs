//! What the disk itself does: the floor below every confirmation that waits for it.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::scenario::{latencies, record};

const BLOCK_BYTES: usize = 4096;
const WRITES: usize = 500;

/// p50 and p99, in milliseconds, of appending 4 KB to a growing file and `fdatasync`.
pub fn probe(directory: &Path) -> Result<(f64, f64)> {
    let mut file = tempfile::tempfile_in(directory).context("make a file to probe the disk")?;
    let mut histogram = latencies();
    let block = [0x51; BLOCK_BYTES];
    for _ in 0..WRITES {
        let started = Instant::now();
        file.write_all(&block).context("write")?;
        file.sync_data().context("fdatasync")?;
        record(&mut histogram, started.elapsed());
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Ok((at(0.5), at(0.99)))
}
