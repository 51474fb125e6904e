//! Clocks that are wrong. They stay wrong: nobody sets them right.

use madsim::rand::{Rng, thread_rng};
use quorate_group::sim::Skew;
use tokio::time::sleep;

use super::{Target, a_while};

pub(super) async fn jump(target: &Target, direction: i64) {
    let most = if thread_rng().gen_bool(0.2) { 600_000 } else { 10_000 };
    let by_ms = direction * thread_rng().gen_range(50..most);
    let node = target.leader_or_any();
    let skew = target.cluster.skew_of(node);
    target.cluster.skew(node, Skew { offset_ms: skew.offset_ms + by_ms, ..skew });
    sleep(a_while(100..2_000)).await;
}

pub(super) async fn drift(target: &Target) {
    let drift_ppm = thread_rng().gen_range(-100_000..100_000);
    let node = target.leader_or_any();
    target.cluster.skew(node, Skew { drift_ppm, ..target.cluster.skew_of(node) });
    sleep(a_while(100..2_000)).await;
}
