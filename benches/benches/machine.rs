//! Time of the queue machine, batches of 64 messages of 1 KB.
//!
//! ```text
//! cargo bench -p quorate-benches --bench machine
//! ```

mod support;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quorate_machine::Machine as _;
use quorate_machine::queue::Queue;
use support::{BATCH, Replica, attach, publish};

/// Batches that one iteration takes through the machine.
const BATCHES: u64 = 64;
const MESSAGES: u64 = BATCHES * BATCH as u64;

fn flow(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine");
    group.throughput(Throughput::Elements(MESSAGES));
    group.bench_function("publish", |bencher| {
        bencher.iter_batched_ref(
            || Replica::with_backlog(1),
            |replica| (0..BATCHES).for_each(|_| replica.apply(publish())),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("lease and deliver", |bencher| {
        bencher.iter_batched_ref(
            || (Replica::with_backlog(BATCHES), attach(MESSAGES as u32)),
            |(replica, attach)| replica.apply(attach.clone()),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("ack", |bencher| {
        bencher.iter_batched_ref(
            || {
                let mut replica = Replica::with_backlog(BATCHES);
                replica.apply(attach(MESSAGES as u32));
                let acks = replica.acks();
                (replica, acks)
            },
            |(replica, acks)| acks.drain(..).for_each(|ack| replica.apply(ack)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn snapshots(criterion: &mut Criterion) {
    const BACKLOG: u64 = 10_000;
    let replica = Replica::with_backlog(BACKLOG);
    let snapshot = replica.queue.snapshot();
    let mut group = criterion.benchmark_group("machine, backlog of 640,000");
    group.throughput(Throughput::Elements(BACKLOG * u64::from(BATCH)));
    group.bench_function("snapshot", |bencher| bencher.iter(|| replica.queue.snapshot()));
    group.bench_function("restore", |bencher| {
        bencher.iter(|| Queue::restore(black_box(&snapshot)).expect("it was just made"));
    });
    group.finish();
}

criterion_group!(benches, flow, snapshots);
criterion_main!(benches);
