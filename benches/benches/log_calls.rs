//! Time of single calls of the log, entries of 64 messages of 1 KB.
//!
//! ```text
//! cargo bench -p quorate-benches --bench log_calls
//! ```
//! "In memory" has the simulated disk under it and is what the log costs the processor, that disk's
//! copying included; "durable" waits for the device of the current directory. What load and many
//! writers make of it: `--bench log`.

mod support;

use std::sync::{Arc, mpsc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_storage::{Entry, GroupId, Log, Options, RealDisk, SimDisk};
use support::{BATCH, encode_entry};

const GROUP: GroupId = GroupId(1);
/// The log lets go of what is older than this many entries.
const KEPT: u64 = 64;

fn trim(log: &Log, index: u64) {
    if index.is_multiple_of(KEPT) {
        log.purge(GROUP, (index, 1), Box::new(drop));
        log.retain(GROUP, index, &[]);
    }
}

fn in_memory(criterion: &mut Criterion) {
    let payload = encode_entry();
    let options = Options { segment_bytes: 8 << 20, ..Options::default() };
    let (log, mut writer) = Log::open(Arc::new(SimDisk::new(1)), options).expect("open");
    let mut index = 0;
    let mut group = criterion.benchmark_group("log in memory");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.bench_function("append and write", |bencher| {
        bencher.iter(|| {
            index += 1;
            let entry = Entry { index, term: 1, payload: payload.clone() };
            log.append(GROUP, vec![entry], Box::new(|result| result.expect("append")));
            while writer.step() {}
            trim(&log, index);
        });
    });
    // Behind the floor nothing is left; what is read stays.
    let (log, mut writer) =
        Log::open(Arc::new(SimDisk::new(2)), Options { tail_bytes: 1 << 20, ..Options::default() })
            .expect("open");
    let entries = (1..=256).map(|index| Entry { index, term: 1, payload: payload.clone() });
    log.append(GROUP, entries.collect(), Box::new(|result| result.expect("append")));
    while writer.step() {}
    group.bench_function("read what is cached", |bencher| {
        bencher.iter(|| log.read_cached(GROUP, 256..257, 1).expect("it is cached"));
    });
    group.bench_function("read from the disk", |bencher| {
        bencher.iter(|| log.read(GROUP, 1..2, 1).expect("it is whole"));
    });
    group.finish();
}

fn durable(criterion: &mut Criterion) {
    let payload = encode_entry();
    let directory = tempfile::tempdir_in(".").expect("directory");
    let disk = RealDisk::open(directory.path()).expect("open disk");
    let (log, writer) = Log::open(Arc::new(disk), Options::default()).expect("open");
    let thread = std::thread::spawn(move || writer.run());
    let mut index = 0;
    let mut group = criterion.benchmark_group("log durable");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.bench_function("append", |bencher| {
        bencher.iter(|| {
            index += 1;
            let (told, done) = mpsc::sync_channel(1);
            let entry = Entry { index, term: 1, payload: payload.clone() };
            let tell = move |result: Result<(), _>| {
                result.expect("append");
                told.send(()).expect("it is waited for");
            };
            log.append(GROUP, vec![entry], Box::new(tell));
            done.recv().expect("the writer lives");
            trim(&log, index);
        });
    });
    group.finish();
    log.close();
    thread.join().expect("writer");
}

criterion_group!(benches, in_memory, durable);
criterion_main!(benches);
