//! Nodes that cannot start: exit code 3, and a message that names the file or setting and what to do.

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_client::Message;
use quorate_tests::process::{Ended, is_root, run};
use quorate_tests::{Cluster, ports, turn};
use tempfile::TempDir;

use crate::LIGHT;

/// Exit code of a node that could not start.
const CANNOT_START: i32 = 3;
/// How long it may take to say so.
const SAID_WITHIN: Duration = Duration::from_secs(20);
/// Every batch of the log begins on a block.
const BLOCK: u64 = 4096;

async fn server(args: &[&str]) -> Ended {
    let listen = ports::free().to_string();
    let given = args.contains(&"--listen");
    let listen: &[&str] = if given { &[] } else { &["--listen", &listen] };
    run(&[&["server"], listen, args].concat(), SAID_WITHIN).await
}

fn directory() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data").display().to_string();
    (dir, data)
}

/// A file with settings beside the data directory.
fn settings(dir: &TempDir, text: &str) -> String {
    let path = dir.path().join("quorate.toml");
    fs::write(&path, text).expect("write the settings");
    path.display().to_string()
}

/// A single node that has confirmed `batches` batches, one after the other, and was then killed.
async fn killed_after(batches: u64) -> Cluster {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.queue("orders").await;
    let producer = client.producer("orders").build().await.expect("a producer");
    for number in 0..batches {
        let message = Message::new(format!("message {number}"));
        producer.publish(message).await.expect("publish");
    }
    cluster.kill9(1);
    cluster
}

async fn start_again(cluster: &Cluster) -> Ended {
    let data = cluster.data(1).display().to_string();
    server(&["--data", &data]).await
}

/// The only segment of a small log.
fn segment(cluster: &Cluster) -> PathBuf {
    let log = cluster.data(1).join("log");
    let names =
        fs::read_dir(&log).expect("list the log").map(|entry| entry.expect("an entry").path());
    let mut segments: Vec<PathBuf> = names.filter(|path| begins_with(path, b"QRTESEG\0")).collect();
    segments.sort();
    assert_eq!(segments.len(), 1, "{segments:?}");
    segments.remove(0)
}

fn begins_with(path: &Path, magic: &[u8]) -> bool {
    let mut start = vec![0; magic.len()];
    let read = fs::File::open(path).and_then(|file| file.read_exact_at(&mut start, 0));
    read.is_ok() && start == magic
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("open the file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    byte[0] ^= 0xff;
    file.write_all_at(&byte, offset).expect("write");
}

/// Gives a segment's header another version, and the checksum that goes with it:
/// `magic 8 | version 4 | crc 4 | fields 24`, the checksum being of all but itself.
fn write_version(segment: &Path, version: u32) {
    let file = OpenOptions::new().read(true).write(true).open(segment).expect("open the segment");
    let mut header = vec![0; BLOCK as usize];
    file.read_exact_at(&mut header, 0).expect("read the header");
    header[8..12].copy_from_slice(&version.to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..40]);
    header[12..16].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&header, 0).expect("write the header");
}

#[test]
fn a_second_process_on_one_data_directory_is_refused() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(1).await;
        let data = cluster.data(1).display().to_string();
        server(&["--data", &data]).await.refused_with(CANNOT_START, &[&data, "in use by process"]);
        cluster.queue("orders").await;
    });
}

#[test]
fn damage_in_the_middle_of_the_log_is_refused() {
    turn::beside_others(LIGHT, async {
        let cluster = killed_after(30).await;
        let segment = segment(&cluster);
        // The header takes the first block; the second one is within an early batch.
        flip(&segment, 2 * BLOCK + 100);
        let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
        let ended = start_again(&cluster).await;
        ended.refused_with(CANNOT_START, &[&name, "damaged at", "replace the node"]);
    });
}

#[test]
fn a_damaged_node_is_refused_while_the_others_go_on() {
    turn::beside_others(LIGHT, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue("orders").await;
        let producer = client.producer("orders").build().await.expect("a producer");
        for number in 0..20 {
            producer.publish(Message::new(format!("{number}"))).await.expect("publish");
        }
        let follower = cluster.follower_of("orders").await;
        cluster.stop(follower).await;
        let log = cluster.data(follower).join("log");
        let first = fs::read_dir(&log).expect("list the log").map(|entry| entry.expect("an entry"));
        let first = first.map(|entry| entry.path()).find(|path| begins_with(path, b"QRTESEG\0"));
        flip(&first.expect("a segment"), 2 * BLOCK + 100);
        let args = cluster.server_args(follower);
        let args: Vec<&str> =
            std::iter::once("server").chain(args.iter().map(String::as_str)).collect();
        run(&args, SAID_WITHIN).await.refused_with(CANNOT_START, &["damaged at"]);
        producer.publish(Message::new("after")).await.expect("the others go on");
    });
}

#[test]
fn a_log_of_a_newer_format_is_refused() {
    turn::beside_others(LIGHT, async {
        let cluster = killed_after(3).await;
        let segment = segment(&cluster);
        write_version(&segment, 9);
        let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
        let ended = start_again(&cluster).await;
        ended.refused_with(CANNOT_START, &[&name, "newer version (format 9)", "upgrade this node"]);
    });
}

#[test]
fn a_data_directory_of_a_newer_format_is_refused() {
    turn::beside_others(LIGHT, async {
        let cluster = killed_after(3).await;
        let identity = cluster.data(1).join("identity.json");
        let text = fs::read_to_string(&identity).expect("read the identity");
        let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        value["format_version"] = 9.into();
        fs::write(&identity, value.to_string()).expect("write the identity");
        let ended = start_again(&cluster).await;
        ended.refused_with(CANNOT_START, &["identity.json", "format 9", "upgrade this node"]);
    });
}

#[test]
fn a_log_without_its_identity_is_refused() {
    turn::beside_others(LIGHT, async {
        let cluster = killed_after(3).await;
        fs::remove_file(cluster.data(1).join("identity.json")).expect("remove the identity");
        let ended = start_again(&cluster).await;
        ended
            .refused_with(CANNOT_START, &["holds a log but no identity.json", "restore that file"]);
    });
}

#[test]
fn a_torn_end_of_the_log_is_no_reason_to_refuse() {
    turn::beside_others(LIGHT, async {
        let mut cluster = killed_after(10).await;
        // Half a block of garbage where the next batch would be written.
        let segment = segment(&cluster);
        let bytes = fs::read(&segment).expect("read the segment");
        let blocks = bytes.chunks(BLOCK as usize);
        let used =
            blocks.rev().position(|block| block.iter().any(|byte| *byte != 0)).expect("a batch");
        let end = bytes.len() as u64 - used as u64 * BLOCK;
        let file = OpenOptions::new().write(true).open(&segment).expect("open the segment");
        file.write_all_at(&[0xa5; 2000], end).expect("write garbage");
        cluster.start_node(1);
        cluster.ready().await;
        let queue = cluster.client().await.describe_queue("orders").await.expect("describe");
        assert_eq!(queue.counts.expect("counts").published, 10);
    });
}

#[test]
fn an_unreadable_settings_file_is_named() {
    turn::beside_others(LIGHT, async {
        let (dir, data) = directory();
        let missing = dir.path().join("missing.toml").display().to_string();
        let ended = server(&["--data", &data, "--config", &missing]).await;
        ended.refused_with(CANNOT_START, &[&missing, "try:"]);
        let folder = dir.path().display().to_string();
        let ended = server(&["--data", &data, "--config", &folder]).await;
        ended.refused_with(CANNOT_START, &[&folder, "try:"]);
    });
}

#[test]
fn an_unknown_or_impossible_setting_is_named_with_its_line() {
    turn::beside_others(LIGHT, async {
        let (dir, data) = directory();
        let file = settings(&dir, "zone = \"a\"\n\n[limits]\nmax_mesage_bytes = 5\n");
        let place = format!("{file}:4");
        let ended = server(&["--data", &data, "--config", &file]).await;
        ended.refused_with(CANNOT_START, &[&place, "max_mesage_bytes", "try:"]);
        let file = settings(&dir, "[raft]\nelection_timeout_ms = 100\n");
        let ended = server(&["--data", &data, "--config", &file]).await;
        ended.refused_with(CANNOT_START, &[&file, "raft.election_timeout_ms", "heartbeats"]);
        let file = settings(&dir, "zone = \n");
        let ended = server(&["--data", &data, "--config", &file]).await;
        ended.refused_with(CANNOT_START, &[&format!("{file}:1")]);
        assert!(!Path::new(&data).exists(), "a directory was made for settings that cannot be");
    });
}

#[test]
fn a_port_in_use_is_named() {
    turn::beside_others(LIGHT, async {
        let (_dir, data) = directory();
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("its address").to_string();
        let ended = server(&["--data", &data, "--listen", &address]).await;
        ended.refused_with(CANNOT_START, &[&address, "in use", "try: --listen with a free port"]);
    });
}

#[test]
fn listening_beyond_loopback_without_insecure_is_refused() {
    turn::beside_others(LIGHT, async {
        let (_dir, data) = directory();
        let port = ports::free().port();
        let listen = format!("0.0.0.0:{port}");
        let args = ["--data", &data, "--listen", &listen, "--advertise", "localhost:7100"];
        server(&args).await.refused_with(CANNOT_START, &[&listen, "no TLS", "--insecure"]);
    });
}

#[test]
fn a_data_directory_that_cannot_be_made_or_written_is_named() {
    turn::beside_others(LIGHT, async {
        let (dir, _) = directory();
        let file = dir.path().join("file");
        fs::write(&file, "not a directory").expect("write a file");
        let data = file.join("data").display().to_string();
        server(&["--data", &data]).await.refused_with(CANNOT_START, &[&data]);
        if is_root() {
            println!(
                "not tried as root, whom no permission stops: a directory without write permission"
            );
            return;
        }
        let sealed = dir.path().join("sealed");
        fs::create_dir(&sealed).expect("make a directory");
        fs::set_permissions(&sealed, fs::Permissions::from_mode(0o500)).expect("seal it");
        let data = sealed.join("data").display().to_string();
        server(&["--data", &data]).await.refused_with(CANNOT_START, &[&data]);
    });
}
