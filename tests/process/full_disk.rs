//! A disk that fills up: publishes are refused, settling goes on, and space makes all well again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use quorate_client::{Client, Message, QueueSettings, reason};
use quorate_proto::v1::SettleKind;
use quorate_tests::process::is_root;
use quorate_tests::raw::{self, RawConsumer, item};
use quorate_tests::{Cluster, Plan, turn};
use tempfile::TempDir;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::health::becomes;
use crate::{HEAVY, SOON};

const QUEUE: &str = "orders";
const MIB: u64 = 1 << 20;
const SIZE: u64 = 96 * MIB;
/// Below this the node refuses publishes.
const RESERVE: u64 = 24 * MIB;
const BODY_BYTES: usize = 1_000;

/// A file system in memory, unmounted when dropped.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// `None` if this process may not mount; says so.
    fn mount() -> Option<Self> {
        if !is_root() {
            println!("skipped: mounting a small file system needs root");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let size = format!("size={SIZE}");
        let mut mount = Command::new("mount");
        match mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status() {
            Ok(status) if status.success() => Some(Self { dir }),
            other => {
                println!("skipped: `mount -t tmpfs` does not work here: {other:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes space until `left` bytes are free.
    fn fill(&self, left: u64) -> PathBuf {
        let ballast = self.path().join("ballast");
        let free = rustix::fs::statvfs(self.path()).map(|stat| stat.f_bavail * stat.f_frsize);
        let bytes = free.expect("look at the disk").saturating_sub(left);
        fs::write(&ballast, vec![1; bytes as usize]).expect("write the ballast");
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.path().display());
        }
    }
}

fn plan(nodes: u64) -> Plan {
    Plan::of(nodes)
        .set(&format!("limits.disk_reserve_bytes={RESERVE}"))
        .set(&format!("storage.segment_bytes={}", 8 * MIB))
}

/// Publishes until refused; the offsets that were confirmed.
async fn publish_until_refused(address: &str) -> Vec<u64> {
    let mut offsets = Vec::new();
    let begun = Instant::now();
    loop {
        match raw::publish(address, QUEUE, vec![7; BODY_BYTES], None).await {
            Ok(receipt) => offsets.push(receipt.first_offset),
            Err(status) => {
                assert_eq!(raw::reason(&status), reason::DISK_FULL);
                assert!(status.message().contains("disk_reserve_bytes"), "{status:?}");
                return offsets;
            }
        }
        assert!(begun.elapsed() < SOON, "publishes are never refused");
    }
}

async fn publish_until_accepted(client: &Client) {
    let producer = client.producer(QUEUE).build().await.expect("a producer");
    let begun = Instant::now();
    while let Err(error) = producer.publish(Message::new("after")).await {
        assert!(begun.elapsed() < SOON, "publishes are still refused: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Acks everything that is confirmed, by hand and at this one node.
async fn drain(address: &str, offsets: &[u64]) {
    let attach = raw::attach(QUEUE, &raw::session(), 100);
    let mut consumer = RawConsumer::attach(address, attach).await.expect("attach");
    let mut next = offsets.iter();
    let mut left = offsets.len();
    while left > 0 {
        let delivery = consumer.delivery().await;
        let bodies = raw::bodies(&delivery);
        for (body, offset) in bodies.iter().zip(delivery.first_offset..) {
            assert_eq!(Some(&offset), next.next());
            assert_eq!(body.len(), BODY_BYTES);
        }
        left -= bodies.len();
        // Not waited for: deliveries that come before the answer must not be passed over.
        consumer.settle_later(item(SettleKind::Ack, &delivery, 0)).await;
    }
    consumer.settled_all().await;
}

async fn status_says_full(cluster: &Cluster, node: u64, full: bool) {
    let begun = Instant::now();
    loop {
        let status = cluster.status(node).await.expect("the node answers");
        if status.nodes.iter().any(|seen| seen.node_id == node && seen.disk_full == full) {
            return;
        }
        assert!(begun.elapsed() < SOON, "disk_full is not {full}: {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_full_disk_refuses_publishes_settles_on_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount() else { return };
    turn::alone(HEAVY, async {
        let cluster = plan(1).data(1, disk.path().join("node-1")).start().await;
        let client = cluster.queue(QUEUE).await;
        let address = cluster.address(1);
        let mut offsets = Vec::new();
        for _ in 0..50 {
            let receipt = raw::publish(&address, QUEUE, vec![7; BODY_BYTES], None).await;
            offsets.push(receipt.expect("there is room").first_offset);
        }
        let ballast = disk.fill(RESERVE - MIB);
        offsets.extend(publish_until_refused(&address).await);
        status_says_full(&cluster, 1, true).await;
        becomes(&cluster, 1, "quorate.v1.QueueService", ServingStatus::NotServing).await;
        for goes_on in
            ["", "quorate.v1.ConsumerService", "quorate.v1.ReaderService", "queue/orders"]
        {
            becomes(&cluster, 1, goes_on, ServingStatus::Serving).await;
        }
        drain(&address, &offsets).await;
        let counts = client.describe_queue(QUEUE).await.expect("describe").counts.expect("counts");
        assert_eq!(counts.acked, offsets.len() as u64);
        fs::remove_file(ballast).expect("free the space");
        publish_until_accepted(&client).await;
        status_says_full(&cluster, 1, false).await;
        becomes(&cluster, 1, "quorate.v1.QueueService", ServingStatus::Serving).await;
    });
}

#[test]
fn a_full_disk_of_the_leader_loses_nothing_that_was_confirmed_even_over_a_restart() {
    let Some(disk) = SmallDisk::mount() else { return };
    turn::alone(HEAVY, async {
        let mut cluster = plan(3).data(1, disk.path().join("node-1")).start().await;
        let client =
            cluster.queue_with(QUEUE, QueueSettings { replicas: 3, ..Default::default() }).await;
        let address = cluster.address(1);
        let mut offsets = Vec::new();
        for _ in 0..50 {
            let receipt = raw::publish(&address, QUEUE, vec![7; BODY_BYTES], None).await;
            offsets.push(receipt.expect("there is room").first_offset);
        }
        let ballast = disk.fill(MIB);
        status_says_full(&cluster, 1, true).await;
        // Two of three have room: whoever leads, messages that are confirmed stay.
        for _ in 0..50 {
            if let Ok(receipt) = raw::publish(&address, QUEUE, vec![7; BODY_BYTES], None).await {
                offsets.push(receipt.first_offset);
            }
        }
        cluster.kill9(1);
        fs::remove_file(ballast).expect("free the space");
        cluster.start_node(1);
        cluster.ready().await;
        publish_until_accepted(&client).await;
        drain(&address, &offsets).await;
    });
}
