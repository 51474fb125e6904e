//! Looking into the logs of nodes that do not run: what is shown, what is found damaged, and that a replay
//! gives every replica's state.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_client::{Client, Message};
use quorate_tests::process::{Ended, run};
use quorate_tests::{Cluster, turn};
use serde_json::Value;
use tempfile::TempDir;

use crate::{HEAVY, SOON};

const QUEUE: &str = "orders";
/// In every body and header of a message; nowhere else.
const SECRET: &str = "confidential";

async fn quorate(args: &[&str]) -> Ended {
    run(args, SOON).await
}

async fn done(args: &[&str]) -> String {
    let ended = quorate(args).await;
    assert_eq!(ended.code, Some(0), "{args:?}: {}{}", ended.out, ended.err);
    ended.out
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

async fn json(args: &[&str]) -> Vec<Value> {
    lines(&done(&[args, &["-o", "json"]].concat()).await)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain characters")
}

/// Publishes `count` messages of about `bytes` bytes each.
async fn publish(client: &Client, count: usize, bytes: usize) {
    let producer = client.producer(QUEUE).build().await.expect("open a producer");
    let body = format!("{SECRET} {}", "x".repeat(bytes));
    let mut receipts = Vec::new();
    for _ in 0..count {
        let message = Message::new(body.clone()).header(SECRET, SECRET);
        receipts.push(producer.send(message).await.expect("taken"));
    }
    for receipt in receipts {
        receipt.await.expect("confirmed");
    }
    producer.close().await;
}

/// Three nodes after some traffic, stopped in order.
async fn stopped() -> Cluster {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.queue(QUEUE).await;
    publish(&client, 300, 20).await;
    let server = cluster.addresses().join(",");
    done(&["consume", QUEUE, "--count", "40", "--server", &server]).await;
    publish(&client, 100, 20).await;
    stop(&mut cluster).await;
    cluster
}

async fn stop(cluster: &mut Cluster) {
    for id in cluster.ids() {
        cluster.stop(id).await;
    }
}

fn data(cluster: &Cluster, node: u64) -> String {
    text(cluster.data(node)).to_owned()
}

/// The last entry that all three replicas have.
async fn common_index(cluster: &Cluster) -> u64 {
    let mut lasts = Vec::new();
    for id in cluster.ids() {
        let replay = json(&["log", "replay", "--data", &data(cluster, id), "--queue", QUEUE]).await;
        lasts.push(replay[0]["index"].as_u64().expect("an index"));
    }
    lasts.into_iter().min().expect("three nodes")
}

/// A copy of a data directory; what is done to it is done to nothing else.
fn copy(of: &Path) -> TempDir {
    fn files(of: &Path, to: &Path) {
        fs::create_dir_all(to).expect("make a directory");
        for entry in fs::read_dir(of).expect("list") {
            let (from, to) = entry.map(|e| (e.path(), to.join(e.file_name()))).expect("list");
            if from.is_dir() {
                files(&from, &to);
            } else {
                fs::copy(&from, &to).expect("copy a file");
            }
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    files(of, dir.path());
    dir
}

/// Every file below a directory with its content.
fn content(of: &Path) -> BTreeSet<(PathBuf, Vec<u8>)> {
    let mut all = BTreeSet::new();
    let mut left = vec![of.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).expect("list") {
            let path = entry.expect("list").path();
            if path.is_dir() {
                left.push(path);
            } else {
                let bytes = fs::read(&path).expect("read a file");
                all.insert((path, bytes));
            }
        }
    }
    all
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(data.join("log"))
        .expect("list")
        .map(|entry| entry.expect("list").path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.ends_with(".seg") && !name.starts_with("spare")
        })
        .collect();
    found.sort();
    found
}

#[test]
fn stopped_replicas_show_what_they_hold_and_replay_to_one_state() {
    turn::alone(HEAVY, async {
        let cluster = stopped().await;
        let before = content(cluster.data(1));
        let shown = json(&["log", "inspect", "--data", &data(&cluster, 1)]).await.remove(0);
        assert_eq!(shown["identity"]["node_id"], 1);
        assert_eq!(shown["locked"], true);
        assert_eq!(shown["faults"], 0);
        let groups = shown["groups"].as_array().expect("groups");
        let names: Vec<&str> = groups.iter().filter_map(|group| group["queue"].as_str()).collect();
        assert_eq!(names, ["(catalog)", QUEUE]);
        let last = groups[1]["last"]["index"].as_u64().expect("entries");
        assert_eq!(groups[1]["entries"].as_u64(), Some(last + 1), "{shown}");
        println!("{}", done(&["log", "inspect", "--data", &data(&cluster, 1)]).await);

        let dump = json(&["log", "dump", "--data", &data(&cluster, 1), "--queue", QUEUE]).await;
        let commands: Vec<&Value> =
            dump.iter().filter_map(|record| record["commands"].as_array()).flatten().collect();
        let published = commands.iter().filter(|command| command["command"] == "publish");
        assert_eq!(published.filter_map(|publish| publish["count"].as_u64()).sum::<u64>(), 400);
        let settled = commands.iter().filter(|command| command["command"] == "settle");
        let settled = settled.filter_map(|settle| settle["items"].as_array()).flatten();
        assert_eq!(settled.filter_map(|item| item["count"].as_u64()).sum::<u64>(), 40);
        assert!(!dump.iter().any(|record| record.to_string().contains(SECRET)));
        let args = ["log", "dump", "--data", &data(&cluster, 1), "--queue", QUEUE, "--bodies"];
        let bodies = done(&[&args[..], &["--from", "3", "--to", "5"]].concat()).await;
        assert!(bodies.contains(SECRET), "{bodies}");

        let common = common_index(&cluster).await.to_string();
        let mut states = Vec::new();
        for id in cluster.ids() {
            let args = ["log", "replay", "--data", &data(&cluster, id), "--queue", QUEUE];
            let replay = json(&[&args[..], &["--to", &common, "--hashes"]].concat()).await;
            assert_eq!(replay.len() as u64, common.parse::<u64>().expect("a number") + 2);
            let state = replay.last().expect("a state").clone();
            assert_eq!(state["hash"], replay[replay.len() - 2]["hash"]);
            assert_eq!(
                (&state["published"], &state["acked"]),
                (&400.into(), &40.into()),
                "{state}"
            );
            let hashes: Vec<String> = replay.iter().map(|line| line["hash"].to_string()).collect();
            states.push(hashes);
            let verified = done(&["log", "verify", "--data", &data(&cluster, id)]).await;
            assert!(verified.contains("clean"), "{verified}");
            let catalog = ["log", "replay", "--data", &data(&cluster, id), "--group", "0"];
            assert_eq!(json(&catalog).await[0]["queues"], 1);
        }
        assert!(states.iter().all(|state| *state == states[0]), "replicas differ: {states:?}");
        println!("index {common}: {} on all three", states[0].last().expect("a hash"));
        assert!(before == content(cluster.data(1)), "looking has changed a file");
    });
}

#[test]
fn a_slice_without_bodies_holds_no_payload_and_replays_to_the_same_state() {
    turn::alone(HEAVY, async {
        let cluster = stopped().await;
        let dir = tempfile::tempdir().expect("a directory");
        let (whole, blank) = (dir.path().join("whole"), dir.path().join("blank"));
        let from = ["log", "export", "--data", &data(&cluster, 2), "--queue", QUEUE, "--file"];
        println!("{}", done(&[&from[..], &[text(&whole)]].concat()).await);
        println!("{}", done(&[&from[..], &[text(&blank), "--without-bodies"]].concat()).await);
        let here = ["log", "replay", "--data", &data(&cluster, 2), "--queue", QUEUE, "--hashes"];
        let states = json(&here).await;
        let hashes = |states: &[Value]| {
            states.iter().map(|state| state["hash"].to_string()).collect::<Vec<_>>()
        };
        for slice in [&whole, &blank] {
            let replayed = json(&["log", "replay", "--file", text(slice), "--hashes"]).await;
            assert_eq!(hashes(&replayed), hashes(&states));
        }
        let holds = |path: &Path| {
            let bytes = fs::read(path).expect("read a slice");
            bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
        };
        assert!(holds(&whole) && !holds(&blank));
        let size = |path: &Path| fs::metadata(path).expect("a slice").len();
        assert_eq!(size(&whole), size(&blank));
        // Nobody's file is written over.
        quorate(&[&from[..], &[text(&blank)]].concat()).await.refused_with(1, &["exists"]);
        let file = OpenOptions::new().write(true).open(&blank).expect("open the slice");
        file.write_all_at(b"?", size(&blank) / 2).expect("damage the slice");
        let damaged = quorate(&["log", "replay", "--file", text(&blank)]).await;
        damaged.refused_with(1, &["damaged at byte", "checksum"]);
    });
}

#[test]
fn a_log_that_begins_behind_a_checkpoint_is_replayed_from_it() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        // Beyond 16 MiB a checkpoint is made; what has more than 8 MiB behind it is purged.
        publish(&client, 600, 60 << 10).await;
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        publish(&client, 10, 100).await;
        stop(&mut cluster).await;
        let common = common_index(&cluster).await.to_string();
        let mut hashes = Vec::new();
        for id in cluster.ids() {
            let data = data(&cluster, id);
            let shown = json(&["log", "inspect", "--data", &data]).await.remove(0);
            let group = &shown["groups"][1];
            let checkpoint = group["checkpoint"].as_u64().expect("a checkpoint");
            assert!(group["purged"]["index"].as_u64() <= Some(checkpoint), "{group}");
            assert!(group["purged"]["index"].as_u64() > Some(0), "{group}");
            let verified = json(&["log", "verify", "--data", &data]).await.remove(0);
            assert!(verified["referred_entries"].as_u64() > Some(0), "{verified}");
            let args = ["log", "replay", "--data", &data, "--queue", QUEUE];
            let replay = json(&[&args[..], &["--to", &common]].concat()).await.remove(0);
            assert_eq!(replay["published"], 610);
            hashes.push(replay["hash"].clone());
            let early = quorate(&[&args[..], &["--to", "3"]].concat()).await;
            early.refused_with(1, &["before the checkpoint", "--to"]);
            let file = cluster.data(id).with_extension("slice");
            let export = ["log", "export", "--data", &data, "--queue", QUEUE, "--to", &common];
            done(&[&export[..], &["--without-bodies", "--file", text(&file)]].concat()).await;
            let replayed = json(&["log", "replay", "--file", text(&file)]).await.remove(0);
            hashes.push(replayed["hash"].clone());
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
        println!("{} at {common} six times, {:?}", hashes[0], begun.elapsed());
    });
}

#[test]
fn the_replay_of_a_whole_log_meets_the_nodes_checkpoint() {
    turn::beside_others(HEAVY, async {
        let mut cluster = Cluster::start(1).await;
        let client = cluster.queue(QUEUE).await;
        publish(&client, 50, 20).await;
        // A checkpoint is due 20 seconds after the last, if anything was applied.
        let data = data(&cluster, 1);
        tokio::time::sleep(Duration::from_secs(26)).await;
        publish(&client, 5, 20).await;
        stop(&mut cluster).await;
        let replay = json(&["log", "replay", "--data", &data, "--queue", QUEUE]).await.remove(0);
        let met = replay["checkpoint_reached"].as_u64().expect("a checkpoint on the way");
        assert!(replay["index"].as_u64() > Some(met), "{replay}");
        println!("the checkpoint at {met} is met on the way to {}", replay["index"]);
        let slice = cluster.data(1).with_extension("slice");
        done(&["log", "export", "--data", &data, "--queue", QUEUE, "--file", text(&slice)]).await;
        let replayed = json(&["log", "replay", "--file", text(&slice)]).await.remove(0);
        assert_eq!(replayed["checkpoint_reached"], met);
        assert_eq!(replayed["hash"], replay["hash"]);
    });
}

#[test]
fn a_directory_in_use_is_refused_and_a_copy_of_it_that_cannot_be_written_is_read() {
    turn::beside_others(HEAVY, async {
        let mut cluster = Cluster::start(1).await;
        let client = cluster.queue(QUEUE).await;
        publish(&client, 20, 20).await;
        let running = data(&cluster, 1);
        for verb in ["inspect", "dump", "verify"] {
            let refused = quorate(&["log", verb, "--data", &running]).await;
            refused.refused_with(3, &["is in use by process", "DIRECTORY_IN_USE", "stop the node"]);
        }
        stop(&mut cluster).await;
        let copied = copy(cluster.data(1));
        fs::remove_file(copied.path().join("lock")).expect("remove the lock");
        let mode = |mode| {
            let mut left = vec![copied.path().to_owned()];
            while let Some(path) = left.pop() {
                if path.is_dir() {
                    left.extend(
                        fs::read_dir(&path).expect("list").map(|e| e.expect("list").path()),
                    );
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            }
        };
        mode(0o555);
        let before = content(copied.path());
        let shown = quorate(&["log", "inspect", "--data", text(copied.path())]).await;
        assert_eq!(shown.code, Some(0), "{}", shown.err);
        assert!(shown.err.contains("is not locked"), "{}", shown.err);
        done(&["log", "verify", "--data", text(copied.path())]).await;
        // Who runs this may be allowed to write all the same.
        assert!(before == content(copied.path()), "looking has changed a file");
        mode(0o755);
        let nothing = tempfile::tempdir().expect("a directory");
        let missing = quorate(&["log", "inspect", "--data", text(nothing.path())]).await;
        missing.refused_with(5, &["holds no log"]);
        let args = ["log", "replay", "--data", &running, "--queue", "nowhere"];
        quorate(&args).await.refused_with(5, &["nowhere"]);
    });
}

/// Where the record stands that holds an entry of the queue: segment file and byte.
async fn place_of(data: &str, index: u64) -> (PathBuf, u64) {
    let index = index.to_string();
    let args = ["log", "dump", "--data", data, "--queue", QUEUE, "--from", &index, "--to", &index];
    let record = json(&args).await.remove(0);
    let segment = record["segment"].as_u64().expect("a segment");
    let file = Path::new(data).join("log").join(format!("{segment:020}.seg"));
    (file, record["offset"].as_u64().expect("an offset"))
}

#[test]
fn damage_is_named_with_its_place_and_a_torn_tail_is_none() {
    turn::alone(HEAVY, async {
        let cluster = stopped().await;
        let verify =
            async |dir: &TempDir| quorate(&["log", "verify", "--data", text(dir.path())]).await;

        // A byte of an entry in the middle.
        let flipped = copy(cluster.data(1));
        let (file, offset) = place_of(text(flipped.path()), 4).await;
        let segment =
            OpenOptions::new().read(true).write(true).open(&file).expect("open a segment");
        let mut byte = [0];
        segment.read_exact_at(&mut byte, offset + 60).expect("read a byte");
        segment.write_all_at(&[byte[0] ^ 1], offset + 60).expect("flip a bit");
        let batch = offset - offset % 4096;
        let found = verify(&flipped).await;
        found.refused_with(1, &["damaged"]);
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(found.out.contains(&format!("{name} at {batch}: ")), "{}", found.out);
        assert!(found.out.contains("checksum mismatch"), "{}", found.out);
        println!("{}{}", found.out, found.err);
        let shown = done(&["log", "inspect", "--data", text(flipped.path())]).await;
        assert!(shown.contains("quorate log verify"), "{shown}");
        let server = cluster.server_args(1);
        let at = server.iter().position(|arg| arg == "--data").expect("the data directory");
        let mut server: Vec<&str> = server.iter().map(String::as_str).collect();
        server[at + 1] = text(flipped.path());
        // The node itself says the same.
        quorate(&[&["server"], &server[..]].concat())
            .await
            .refused_with(3, &[name, &batch.to_string()]);

        // The end of the last batch: what a crash leaves.
        let torn = copy(cluster.data(1));
        let inspected = json(&["log", "inspect", "--data", text(torn.path())]).await.remove(0);
        let last = inspected["segments"].as_array().and_then(|all| all.last()).expect("a segment");
        let used = last["used_bytes"].as_u64().expect("bytes");
        let file = segments(torn.path()).pop().expect("a segment");
        let segment =
            OpenOptions::new().read(true).write(true).open(&file).expect("open a segment");
        segment.read_exact_at(&mut byte, used - 4096 + 70).expect("read a byte");
        segment.write_all_at(&[!byte[0]], used - 4096 + 70).expect("tear the last batch");
        let found = verify(&torn).await;
        assert_eq!(found.code, Some(0), "{}{}", found.out, found.err);
        assert!(found.out.contains("torn") && found.out.contains(&(used - 4096).to_string()));
        println!("{}", found.out);
        segment.set_len(used - 4096 + 100).expect("cut the file");
        let found = verify(&torn).await;
        assert_eq!(found.code, Some(0), "{}{}", found.out, found.err);
        assert!(found.out.contains("torn"), "{}", found.out);

        // Whose directory it is has to be known, too.
        let unsure = copy(cluster.data(1));
        fs::write(unsure.path().join("identity.json"), b"{").expect("damage the identity");
        verify(&unsure).await.refused_with(1, &["damaged"]);
    });
}

#[test]
fn a_segment_that_is_gone_is_missed() {
    turn::alone(HEAVY, async {
        let mut cluster =
            quorate_tests::Plan::of(1).set("storage.segment_bytes=8388608").start().await;
        let client = cluster.queue(QUEUE).await;
        publish(&client, 350, 60 << 10).await;
        stop(&mut cluster).await;
        let whole = done(&["log", "verify", "--data", &data(&cluster, 1)]).await;
        let found = segments(cluster.data(1));
        assert!(found.len() >= 3, "{whole}");
        for (at, segment) in found.iter().enumerate().take(found.len() - 1) {
            let dir = copy(cluster.data(1));
            let name = segment.file_name().expect("a name");
            fs::remove_file(dir.path().join("log").join(name)).expect("remove a segment");
            let missed = quorate(&["log", "verify", "--data", text(dir.path())]).await;
            missed.refused_with(1, &["damaged"]);
            assert!(missed.out.contains("missing"), "segment {at}: {}", missed.out);
            println!(
                "without {}:\n{}",
                name.display(),
                missed.out.lines().next().unwrap_or_default()
            );
        }
    });
}
