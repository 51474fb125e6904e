//! Instructions that the hot paths take for each message, counted by callgrind: they repeat where
//! times do not, so a regression shows on a busy machine too.
//!
//! ```text
//! cargo xtask bench instructions          needs valgrind
//! ```
//! The program runs itself under `valgrind --tool=callgrind` once for each path, counting only
//! what happens inside of [`measured`]. Batches are 64 messages of 1 KB.

mod support;

use std::hint::black_box;
use std::process::{Command, ExitCode};

use quorate_machine::queue::Queue;
use quorate_machine::{Machine as _, decode_entry};
use quorate_storage::GroupId;
use quorate_storage::log::format::{self, Kind, Record, SegmentHeader};
use support::{BATCH, Replica, attach, build_frame, encode_entry, frame, publish};

/// Batches that each path takes, after as many that are not counted.
const BATCHES: u64 = 100;

/// What a path does with one batch, inside of `measured`.
type Path = fn(&mut Replica);

const PATHS: [(&str, Path); 10] = [
    ("frame, built by the SDK", |_| {
        measured(|| drop(black_box(build_frame())));
    }),
    ("frame, checked by the node", |_| {
        let frame = frame();
        measured(|| {
            quorate_machine::frame::validate(black_box(&frame.messages), BATCH, 1 << 20)
                .expect("it is valid");
        });
    }),
    ("frame, read by the SDK", |_| {
        let frame = frame();
        measured(|| {
            let messages = quorate_proto::frame::messages(black_box(frame)).expect("it is valid");
            messages.for_each(|message| drop(black_box(message)));
        });
    }),
    ("entry, encoded", |_| {
        frame();
        measured(|| drop(black_box(encode_entry())));
    }),
    ("entry, decoded", |_| {
        let entry = encode_entry();
        measured(|| {
            let (_, commands) = decode_entry(black_box(entry.clone())).expect("it is valid");
            for command in commands {
                let mut command = command.expect("it is valid");
                black_box(Queue::decode(&mut command).expect("it is valid"));
            }
        });
    }),
    ("machine, publish", |replica| {
        let mut publish = Some(publish());
        measured(|| publish.take().into_iter().for_each(|command| replica.apply(command)));
    }),
    ("machine, lease and deliver", |_| {
        let mut replica = Replica::with_backlog(2);
        let mut attach = Some(attach(BATCH));
        measured(|| attach.take().into_iter().for_each(|command| replica.apply(command)));
        assert_eq!(replica.acks().len(), 1, "it was delivered");
    }),
    ("machine, ack", |_| {
        let mut replica = Replica::with_backlog(1);
        replica.apply(attach(BATCH));
        let mut acks = replica.acks();
        measured(|| acks.drain(..).for_each(|ack| replica.apply(ack)));
        assert_eq!(replica.queue.stats().acked, u64::from(BATCH));
    }),
    ("log, batch encoded", |_| {
        let (segment, record, mut out) = log_batch();
        let mut offsets = Vec::with_capacity(1);
        let records = std::slice::from_ref(&record);
        measured(|| {
            format::encode_batch(&segment, 1, false, black_box(records), &mut out, &mut offsets);
        });
    }),
    ("log, batch decoded", |_| {
        let (segment, record, mut out) = log_batch();
        format::encode_batch(&segment, 1, false, &[record], &mut out, &mut Vec::new());
        measured(|| {
            let header = format::decode_batch_header(&segment, &out).expect("it is whole");
            format::decode_batch(&header, black_box(&out), |_, record| _ = black_box(record))
                .expect("it is whole");
        });
    }),
];

fn log_batch() -> (SegmentHeader, Record<bytes::Bytes>, Vec<u8>) {
    let payload = encode_entry();
    let record = Record { kind: Kind::Entry, group: GroupId(1), index: 1, term: 1, payload };
    let bytes = format::padded(format::BATCH_HEADER_BYTES + record.encoded_len());
    (SegmentHeader { segment: 1, salt: 1, first_batch: 1 }, record, vec![0; bytes])
}

/// Callgrind counts from entering this until leaving it. It must stay a function of its own.
fn measured(mut work: impl FnMut()) {
    instructions_counted(&mut work);
}

#[inline(never)]
fn instructions_counted(work: &mut dyn FnMut()) {
    work();
}

/// Runs a path as often as the parent divides by.
fn run(path: Path, batches: u64) {
    let mut replica = Replica::new();
    for _ in 0..batches {
        path(&mut replica);
        replica.effects.clear();
    }
}

/// Copies of this program of more than some kilobytes would else be one string instruction, which
/// callgrind counts once a byte and no processor executes like that.
const WIDE_COPIES: &str = "glibc.cpu.x86_rep_movsb_threshold=1073741824:\
                           glibc.cpu.x86_rep_stosb_threshold=1073741824";

/// Instructions of `batches` batches.
fn count(path: usize, batches: u64) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--collect-atstart=no", "--toggle-collect=*instructions_counted*"])
        .arg(own)
        .args(["--count", &path.to_string(), &batches.to_string()])
        .env("GLIBC_TUNABLES", WIDE_COPIES)
        .output()
        .map_err(|error| format!("start valgrind: {error}"))?;
    let told = String::from_utf8_lossy(&out.stderr);
    let collected = told.lines().find_map(|line| line.split_once("Collected : "));
    let figure = collected.and_then(|(_, figure)| figure.trim().parse().ok());
    figure.filter(|_| out.status.success()).ok_or_else(|| format!("valgrind said:\n{told}"))
}

fn report() -> Result<(), String> {
    let version = Command::new("valgrind").arg("--version").output();
    let version = version.map_err(|error| format!("start valgrind: {error}"))?.stdout;
    println!("{}, batches of {BATCH}", String::from_utf8_lossy(&version).trim());
    println!("{:<28} {:>12} {:>12}", "", "a batch", "a message");
    for (at, (name, _)) in PATHS.iter().enumerate() {
        // The first batches grow buffers and look at the processor: they are taken off again.
        let batches = (count(at, 2 * BATCHES)? - count(at, BATCHES)?) as f64 / BATCHES as f64;
        println!("{name:<28} {batches:>12.0} {:>12.1}", batches / f64::from(BATCH));
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize| arguments.get(at).and_then(|argument| argument.parse::<u64>().ok());
    if let (Some("--count"), Some(path), Some(batches)) =
        (arguments.get(1).map(String::as_str), number(2), number(3))
    {
        run(PATHS[path as usize].1, batches);
        return ExitCode::SUCCESS;
    }
    match report() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
