//! Time of the codecs that a message passes, batches of 64 messages of 1 KB.
//!
//! ```text
//! cargo bench -p quorate-benches --bench codec
//! ```

mod support;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_machine::queue::{Queue, body};
use quorate_machine::{Machine as _, decode_entry};
use quorate_storage::GroupId;
use quorate_storage::log::format::{self, Kind, Record, SegmentHeader};
use support::{BATCH, build_frame, encode_entry, frame};

fn codecs(criterion: &mut Criterion) {
    let frame = frame();
    let entry = encode_entry();
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.bench_function("frame, built by the SDK", |bencher| bencher.iter(build_frame));
    group.bench_function("frame, checked by the node", |bencher| {
        bencher.iter(|| {
            quorate_machine::frame::validate(black_box(&frame.messages), BATCH, 1 << 20)
                .expect("it is valid");
        });
    });
    group.bench_function("frame, read by the SDK", |bencher| {
        bencher.iter(|| {
            let messages = quorate_proto::frame::messages(black_box(frame)).expect("it is valid");
            messages.for_each(|message| drop(black_box(message)));
        });
    });
    group.bench_function("entry, encoded", |bencher| bencher.iter(encode_entry));
    group.bench_function("entry, decoded", |bencher| {
        bencher.iter(|| {
            let (_, commands) = decode_entry(black_box(entry.clone())).expect("it is valid");
            for command in commands {
                let mut command = command.expect("it is valid");
                black_box(Queue::decode(&mut command).expect("it is valid"));
            }
        });
    });
    group.bench_function("body, cut out of its entry", |bencher| {
        bencher.iter(|| body(black_box(&entry), 0, 0, BATCH).expect("it is there"));
    });
    let record =
        Record { kind: Kind::Entry, group: GroupId(1), index: 1, term: 1, payload: entry.clone() };
    let records = std::slice::from_ref(&record);
    let segment = SegmentHeader { segment: 1, salt: 1, first_batch: 1 };
    let mut out = vec![0; format::padded(format::BATCH_HEADER_BYTES + record.encoded_len())];
    let mut offsets = Vec::new();
    group.bench_function("log batch, encoded", |bencher| {
        bencher.iter(|| {
            format::encode_batch(&segment, 1, false, black_box(records), &mut out, &mut offsets);
        });
    });
    group.bench_function("log batch, decoded", |bencher| {
        bencher.iter(|| {
            let header = format::decode_batch_header(&segment, &out).expect("it is whole");
            format::decode_batch(&header, &out, |_, record| _ = black_box(record))
                .expect("it is whole");
        });
    });
    group.finish();
}

criterion_group!(benches, codecs);
criterion_main!(benches);
