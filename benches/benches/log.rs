//! Is the log worth having beside sled, and does it keep its promises about bytes?
//!
//! ```text
//! cargo bench -p quorate-benches --bench log [-- <directory>]
//! ```
//! 64 writers append entries of 1 KiB to 100 groups, each waiting until its entry is durable, on
//! our log and on sled in turns. sled has the best front end we could give it: one tree, a thread
//! that applies all that is queued as one batch, flushes, and syncs the file (its own `flush` does
//! not reach the device). Then one writer alone, then 1 GB of consumed traffic behind one message
//! that is stuck. The directory (default: the current one) has to be on the disk in question.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use quorate_storage::{Disk as _, Entry, GroupId, Log, Options, RealDisk};

const WRITERS: u64 = 64;
const GROUPS: u64 = 100;
const PAYLOAD_BYTES: usize = 1024;
const ROUNDS: usize = 3;
const MEASURE: Duration = Duration::from_secs(4);
const STUCK_BYTES: u64 = 1 << 30;
const STUCK_LIMIT: u64 = 256_000_000;

type Ack = Box<dyn FnOnce() + Send>;

/// Something that makes an entry durable.
trait Store: Send + Sync {
    fn append(&self, group: u64, index: u64, payload: Bytes, ack: Ack);
}

struct Ours(Log);

impl Store for Ours {
    fn append(&self, group: u64, index: u64, payload: Bytes, ack: Ack) {
        let entry = Entry { index, term: 1, payload };
        let done = move |result: Result<(), _>| {
            result.expect("append");
            ack();
        };
        self.0.append(GroupId(group), vec![entry], Box::new(done));
    }
}

struct Sled(mpsc::Sender<(Vec<u8>, Bytes, Ack)>);

impl Store for Sled {
    fn append(&self, group: u64, index: u64, payload: Bytes, ack: Ack) {
        let key = [group.to_be_bytes(), index.to_be_bytes()].concat();
        self.0.send((key, payload, ack)).expect("sled writer");
    }
}

/// Applies all that is queued, flushes, syncs, acknowledges.
fn sled_writer(path: &Path, queue: &mpsc::Receiver<(Vec<u8>, Bytes, Ack)>) {
    let config = sled::Config::new().path(path).flush_every_ms(None);
    let db = config.cache_capacity(64 << 20).open().expect("open sled");
    let file = std::fs::File::open(path.join("db")).expect("open its file");
    while let Ok(first) = queue.recv() {
        let mut batch = sled::Batch::default();
        let mut acks = Vec::new();
        for (key, payload, ack) in std::iter::once(first).chain(queue.try_iter()) {
            batch.insert(key, payload.as_ref());
            acks.push(ack);
        }
        db.apply_batch(batch).expect("apply");
        db.flush().expect("flush");
        file.sync_data().expect("sync");
        acks.into_iter().for_each(|ack| ack());
    }
}

struct Figures {
    entries_per_second: f64,
    latencies: Histogram<u64>,
}

/// `writers` threads, each appending and waiting, for a while.
fn load(store: &Arc<dyn Store>, writers: u64) -> Figures {
    let next: Vec<Mutex<u64>> = (0..GROUPS).map(|_| Mutex::new(0)).collect();
    let next = Arc::new(next);
    let payload = Bytes::from((0..PAYLOAD_BYTES).map(|at| (at * 31) as u8).collect::<Vec<_>>());
    let started = Instant::now();
    let threads: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, next, payload) = (store.clone(), next.clone(), payload.clone());
            thread::spawn(move || {
                let mut latencies = Histogram::<u64>::new(3).expect("histogram");
                let mut group = writer;
                while started.elapsed() < MEASURE {
                    group = (group + 7) % GROUPS;
                    let (sender, receiver) = mpsc::sync_channel(1);
                    let ack: Ack = Box::new(move || sender.send(()).unwrap_or_default());
                    let from = Instant::now();
                    {
                        let mut next = next[group as usize].lock().expect("lock");
                        *next += 1;
                        store.append(group, *next, payload.clone(), ack);
                    }
                    receiver.recv().expect("acknowledged");
                    let micros = from.elapsed().as_micros() as u64;
                    latencies.record(micros).expect("record");
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Histogram::new(3).expect("histogram");
    for thread in threads {
        latencies.add(thread.join().expect("writer")).expect("add");
    }
    let entries_per_second = latencies.len() as f64 / started.elapsed().as_secs_f64();
    Figures { entries_per_second, latencies }
}

fn print(name: &str, figures: &Figures, written_per_payload: f64) {
    println!(
        "{name:<8} {:>9.0} entries/s   p50 {:>7.2} ms   p99 {:>7.2} ms   {written_per_payload:.2} \
         bytes written per payload byte",
        figures.entries_per_second,
        figures.latencies.value_at_quantile(0.5) as f64 / 1000.0,
        figures.latencies.value_at_quantile(0.99) as f64 / 1000.0,
    );
}

/// Bytes this process has handed to block devices, by the kernel's account.
fn device_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

fn start_log(path: &Path) -> (Log, thread::JoinHandle<()>) {
    let disk = RealDisk::open(path).expect("open disk");
    let (log, writer) = Log::open(Arc::new(disk), Options::default()).expect("open log");
    let thread = thread::spawn(move || writer.run());
    (log, thread)
}

fn measure_ours(path: &Path, writers: u64) -> Figures {
    let (log, thread) = start_log(path);
    // Let the first segments be pre-written: a node does that before it serves.
    log.append(GroupId(u64::MAX), vec![], Box::new(|_| ()));
    while log.stats().spare_segments == 0 {
        thread::sleep(Duration::from_millis(10));
    }
    let store: Arc<dyn Store> = Arc::new(Ours(log.clone()));
    let figures = load(&store, writers);
    let stats = log.stats();
    log.close();
    thread.join().expect("writer");
    let ratio = stats.written_bytes as f64 / stats.payload_bytes as f64;
    print(&format!("log/{writers}"), &figures, ratio);
    figures
}

fn measure_sled(path: &Path, writers: u64) -> Figures {
    let (sender, receiver) = mpsc::channel();
    let directory = path.to_owned();
    let before = device_bytes();
    let thread = thread::spawn(move || sled_writer(&directory, &receiver));
    let store: Arc<dyn Store> = Arc::new(Sled(sender));
    let figures = load(&store, writers);
    let payload = figures.latencies.len() * PAYLOAD_BYTES as u64;
    let ratio = (device_bytes() - before) as f64 / payload as f64;
    drop(store);
    thread.join().expect("sled writer");
    print(&format!("sled/{writers}"), &figures, ratio);
    figures
}

/// One message at the head is never consumed; 1 GB behind it is, at once.
fn stuck_head(path: &Path) {
    let (log, thread) = start_log(path);
    let busy = GroupId(1);
    let payload = Bytes::from(vec![7; 64 << 10]);
    let per_round = 64;
    let mut most = 0;
    let durable = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut last = 0;
    while last * (payload.len() as u64) < STUCK_BYTES {
        let entry = |index| Entry { index, term: 1, payload: payload.clone() };
        let entries = (last + 1..=last + per_round).map(entry).collect();
        last += per_round;
        let (told, upto) = (durable.clone(), last);
        log.append(busy, entries, Box::new(|result| result.expect("append")));
        let done = move |result: Result<(), _>| {
            result.expect("purge");
            told.store(upto, Ordering::SeqCst);
        };
        log.purge(busy, (last, 1), Box::new(done));
        while durable.load(Ordering::SeqCst) < last {
            thread::yield_now();
        }
        log.retain(busy, last, std::slice::from_ref(&(1..=1)));
        most = most.max(disk_bytes(path));
    }
    let head = log.read(busy, 1..2, 1).expect("read the head");
    assert_eq!(head.first().map(|entry| entry.index), Some(1));
    let seconds = started.elapsed().as_secs_f64();
    log.close();
    thread.join().expect("writer");
    let verdict = if most < STUCK_LIMIT { "ok" } else { "TOO MUCH" };
    println!(
        "stuck head: 1 GiB passed in {seconds:.1} s, at most {} MB on disk ({verdict})",
        most / 1_000_000
    );
}

fn disk_bytes(path: &Path) -> u64 {
    let files = std::fs::read_dir(path).expect("list").filter_map(Result::ok);
    files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

fn main() {
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let base = argument.map_or_else(|| PathBuf::from("."), PathBuf::from);
    let directory = tempfile::tempdir_in(&base).expect("directory");
    let fresh = |name: &str| directory.path().join(name);
    let direct = RealDisk::open(fresh("probe")).map(|disk| (disk.is_direct(), disk.free_bytes()));
    println!(
        "{WRITERS} writers, {GROUPS} groups, {PAYLOAD_BYTES} byte entries; direct: {direct:?}"
    );
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let ours = measure_ours(&fresh(&format!("log-{round}")), WRITERS);
        rates.entry("log").or_default().push(ours.entries_per_second);
        let sled = measure_sled(&fresh(&format!("sled-{round}")), WRITERS);
        rates.entry("sled").or_default().push(sled.entries_per_second);
    }
    let median = |name: &str| {
        let mut values = rates[name].clone();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!("log / sled: {:.2} times the entries per second", median("log") / median("sled"));
    measure_ours(&fresh("log-one"), 1);
    measure_sled(&fresh("sled-one"), 1);
    stuck_head(&fresh("stuck"));
}
