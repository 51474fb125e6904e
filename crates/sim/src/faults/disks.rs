//! Disks that fail, fill up, take their time, tear a write, or flip a bit.

use madsim::rand::seq::SliceRandom;
use madsim::rand::{Rng, thread_rng};
use quorate_storage::disk::{Disk, Fault, Operation};
use tokio::time::sleep;

use super::{Target, a_while};
use crate::events::Event;
use crate::world::{Cluster, FLUSH, Status};

fn told(target: &Target, kind: &'static str, node: u64, what: &str) {
    let what = format!("{node} {what}");
    target.cluster.record().tell(Event::Fault { kind, what: what.trim_end() });
}

/// The call comes, or does not: plans that did not come about are forgotten.
async fn plan(target: &Target, node: u64, operation: Operation, fault: Fault) {
    let disk = target.cluster.disk(node);
    let met = disk.faults_met();
    disk.plan(operation, thread_rng().gen_range(1..6), fault);
    sleep(a_while(100..3_000)).await;
    disk.clear_plans_of(operation);
    if disk.faults_met() > met {
        told(target, "disk_error_met", node, "");
    }
}

pub(super) async fn read_error(target: &Target, node: u64) {
    told(target, "read_error", node, "");
    plan(target, node, Operation::Read, Fault::Error).await;
}

pub(super) async fn write_error(target: &Target, node: u64) {
    told(target, "write_error", node, "");
    plan(target, node, Operation::Write, Fault::Error).await;
}

pub(super) async fn flush_error(target: &Target, node: u64) {
    told(target, "flush_error", node, "");
    plan(target, node, Operation::Flush, Fault::Error).await;
}

pub(super) async fn checkpoint_error(target: &Target, node: u64) {
    told(target, "checkpoint_error", node, "");
    target.cluster.meta(node).fail_syncs(1);
    sleep(a_while(500..5_000)).await;
    target.cluster.meta(node).fail_syncs(0);
}

/// The power goes while a write is under way, and with it the node.
pub(super) async fn torn_write(target: &Target, node: u64) {
    told(target, "torn_write", node, "");
    target.cluster.lose_power_in_a_write(&[node]).await;
    sleep(a_while(50..1_500)).await;
    if target.cluster.status(node) == Status::Down {
        target.cluster.start_again(node);
    }
}

pub(super) async fn full(target: &Target, node: u64) {
    told(target, "disk_full", node, "");
    let disk = target.cluster.disk(node);
    // A little is left, so that it is the reserve, or the next segment, that meets the end.
    let left = *[0, 100 << 10, 300 << 10].choose(&mut thread_rng()).unwrap_or(&0);
    disk.set_capacity(disk.used_bytes() + left);
    sleep(a_while(500..8_000)).await;
    disk.set_capacity(u64::MAX);
}

pub(super) async fn slow(target: &Target, node: u64) {
    told(target, "slow_disk", node, "");
    let disk = target.cluster.disk(node);
    disk.set_latency(a_while(20..400));
    sleep(a_while(500..6_000)).await;
    disk.set_latency(FLUSH);
}

/// On a node that is down. It has to refuse to start, to do without what was damaged, or to stop
/// when it reads it; then the bit is flipped back.
pub(super) async fn bit_flip(target: &Target, node: u64) {
    let cluster = &target.cluster;
    cluster.kill(node);
    let disk = cluster.disk(node);
    let Some((name, byte)) = somewhere(&disk) else { return cluster.start_again(node) };
    let bit = thread_rng().gen_range(0..8);
    told(target, "bit_flip", node, &format!("{name} byte {byte} bit {bit}"));
    disk.flip_bit(&name, byte, bit);
    let flipped = disk.byte(&name, byte);
    cluster.start_again(node);
    sleep(a_while(500..3_000)).await;
    cluster.kill(node);
    // Unless something else stands there by now.
    if disk.byte(&name, byte) == flipped {
        disk.flip_bit(&name, byte, bit);
    }
    told(target, "bit_repair", node, "");
    cluster.start_again(node);
}

/// A byte of a segment or of a table of contents; of a segment not of what was written to it last,
/// or behind: damage there cannot be told from a write that was torn.
fn somewhere(disk: &quorate_storage::SimDisk) -> Option<(String, u64)> {
    let mut names = disk.list().ok()?;
    names.retain(|name| name.ends_with(".seg") || name.ends_with(".toc"));
    names.sort_unstable();
    let name = names.choose(&mut thread_rng())?.clone();
    let is_table = name.ends_with(".toc");
    let end = if is_table { disk.file_len(&name)? } else { disk.last_write(&name)? };
    (end > 0).then(|| (name, thread_rng().gen_range(0..end)))
}

pub(super) fn heal(cluster: &Cluster, node: u64) {
    let disk = cluster.disk(node);
    disk.clear_plans();
    disk.set_capacity(u64::MAX);
    disk.set_latency(FLUSH);
    cluster.meta(node).fail_syncs(0);
}
