//! How long does a log take to open, by what it holds?
//!
//! ```text
//! cargo xtask bench open [<directory> [gibibytes]...]
//! ```
//! Logs of that size (default: 1 GiB) in entries of 64 KiB (64 messages of 1 KB each) and of 1 KiB are
//! written, opened twice, and once more without their tables of contents, so that every segment is
//! scanned. The first and the last time nothing of them is in the page cache; the second time what
//! the first one read. The directory (default: the current one) has to be on the disk in question.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_storage::{Entry, GroupId, Log, Options, RealDisk};

const GROUP: GroupId = GroupId(1);
/// Given to the log at a time.
const PIECE_BYTES: u64 = 4 << 20;
/// In GiB.
const SIZES: [u64; 1] = [1];

fn open(path: &Path) -> (Log, quorate_storage::Writer) {
    let disk = RealDisk::open(path).expect("open disk");
    Log::open(Arc::new(disk), Options::default()).expect("open log")
}

fn write(path: &Path, bytes: u64, entry_bytes: usize) {
    let (log, writer) = open(path);
    let thread = std::thread::spawn(move || writer.run());
    let payload = Bytes::from((0..entry_bytes).map(|at| (at * 31) as u8).collect::<Vec<_>>());
    let per_piece = PIECE_BYTES / entry_bytes as u64;
    for piece in 0..bytes / PIECE_BYTES {
        let first = piece * per_piece + 1;
        let entry = |index| Entry { index, term: 1, payload: payload.clone() };
        let entries = (first..first + per_piece).map(entry).collect();
        log.append(GROUP, entries, Box::new(|result| result.expect("append")));
        while log.stats().queued_bytes > 2 * PIECE_BYTES as usize {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    log.close();
    thread.join().expect("writer");
}

fn time_to_open(path: &Path, entries: u64) -> f64 {
    let started = Instant::now();
    let (log, _writer) = open(path);
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(log.state(GROUP).and_then(|state| state.last), Some((entries, 1)));
    seconds
}

/// Removes the files with `suffix`; their number and bytes.
fn remove(path: &Path, suffix: &str) -> (usize, u64) {
    let files = std::fs::read_dir(path).expect("list").filter_map(Result::ok);
    let found: Vec<_> =
        files.filter(|file| file.file_name().to_string_lossy().ends_with(suffix)).collect();
    let bytes = found.iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    found.iter().for_each(|file| std::fs::remove_file(file.path()).expect("remove"));
    (found.len(), bytes)
}

/// Drops what the page cache holds of the files, so that the next read is a cold one.
fn forget(path: &Path) {
    let files = std::fs::read_dir(path).expect("list").filter_map(Result::ok);
    for file in files.filter_map(|file| std::fs::File::open(file.path()).ok()) {
        file.sync_all().expect("sync");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advise");
    }
}

fn measure(base: &Path, gibibytes: u64, entry_bytes: usize) {
    let directory = tempfile::tempdir_in(base).expect("directory");
    let path = directory.path();
    let bytes = gibibytes << 30;
    let entries = bytes / entry_bytes as u64;
    write(path, bytes, entry_bytes);
    forget(path);
    let cold = time_to_open(path, entries);
    let warm = time_to_open(path, entries);
    let (tables, table_bytes) = remove(path, ".toc");
    forget(path);
    let scan = time_to_open(path, entries);
    println!(
        "{gibibytes:>2} GiB in {entries:>8} entries of {entry_bytes:>5} bytes: opened in {cold:>7.3} s, \
         again in {warm:>7.3} s, by scanning in {scan:>7.3} s; {tables} tables of {table_bytes} bytes"
    );
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let base = arguments.first().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let given: Vec<u64> = arguments.iter().skip(1).filter_map(|size| size.parse().ok()).collect();
    let sizes = if given.is_empty() { SIZES.to_vec() } else { given };
    for entry_bytes in [64 << 10, 1 << 10] {
        for gibibytes in &sizes {
            measure(&base, *gibibytes, entry_bytes);
        }
    }
}
