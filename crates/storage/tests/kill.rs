//! A real process on a real disk, killed again and again: what it said was durable is there.
//!
//! The test runs itself as the process to be killed; the environment tells which of the two it is.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use quorate_storage::{Entry, GroupId, Log, Options, RealDisk};

const DIRECTORY: &str = "QUORATE_KILL_TEST_DIRECTORY";
const ROUNDS: u64 = 20;
const GROUPS: u64 = 3;

fn open(path: &Path) -> (Log, quorate_storage::Writer) {
    let options = Options { segment_bytes: 1 << 20, ..Options::default() };
    let disk = RealDisk::open(path).expect("open disk");
    Log::open(Arc::new(disk), options).expect("open log")
}

fn body(group: u64, index: u64) -> Bytes {
    let len = 100 + (index * 37 % 1500) as usize;
    let mut body = format!("{group}/{index}/").into_bytes();
    body.resize(len, b'z');
    body.into()
}

/// Appends for ever, and prints what is durable.
fn write_until_killed(path: &Path) {
    let (log, writer) = open(path);
    std::thread::spawn(move || writer.run());
    let (sender, receiver) = mpsc::sync_channel::<(u64, u64)>(64);
    std::thread::spawn(move || {
        for group in (0..GROUPS).cycle() {
            let id = GroupId(group);
            let index = log.state(id).and_then(|state| state.last).map_or(1, |(last, _)| last + 1);
            let entry = Entry { index, term: 1, payload: body(group, index) };
            let sender = sender.clone();
            let done = move |result: Result<(), _>| {
                if result.is_ok() {
                    let _ = sender.send((group, index));
                }
            };
            log.append(id, vec![entry], Box::new(done));
            while log.stats().queued_bytes > 64 << 10 {
                std::thread::yield_now();
            }
        }
    });
    let mut out = std::io::stdout();
    while let Ok((group, index)) = receiver.recv() {
        writeln!(out, "durable {group} {index}").and_then(|()| out.flush()).expect("print");
    }
}

fn run_and_kill(path: &Path, millis: u64, durable: &mut [u64]) {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "nothing_acknowledged_is_lost_by_kill", "--nocapture"])
        .env(DIRECTORY, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let out = BufReader::new(child.stdout.take().expect("output"));
    let reader = std::thread::spawn(move || {
        let parse = |line: String| -> Option<(usize, u64)> {
            let mut words = line.split_once("durable ")?.1.split(' ');
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        out.lines().map_while(Result::ok).filter_map(parse).collect::<Vec<_>>()
    });
    std::thread::sleep(Duration::from_millis(millis));
    child.kill().expect("kill");
    child.wait().expect("wait");
    for (group, index) in reader.join().expect("reader") {
        durable[group] = durable[group].max(index);
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill() {
    if let Some(path) = std::env::var_os(DIRECTORY) {
        return write_until_killed(Path::new(&path));
    }
    let directory = tempfile::tempdir().expect("directory");
    let mut durable = vec![0; GROUPS as usize];
    for round in 0..ROUNDS {
        run_and_kill(directory.path(), 40 + round * 13 % 90, &mut durable);
        let (log, _writer) = open(directory.path());
        for group in 0..GROUPS {
            let acknowledged = durable[group as usize];
            let last = log.state(GroupId(group)).and_then(|s| s.last).map_or(0, |(last, _)| last);
            assert!(last >= acknowledged, "round {round} group {group}: {last} < {acknowledged}");
            let found = log.read(GroupId(group), 1..last + 1, usize::MAX).expect("read");
            assert_eq!(found.len() as u64, last);
            assert!(found.iter().all(|entry| entry.payload == body(group, entry.index)));
        }
    }
    assert!(durable.iter().all(|index| *index > 0), "the writer never got anywhere: {durable:?}");
}
