//! Clocks that are wrong. They stay wrong: nobody sets them right.

use madsim::rand::{Rng, thread_rng};
use quorate_group::sim::Skew;
use tokio::time::sleep;

use super::{Target, a_while};

pub(super) async fn jump(target: &Target, direction: i64) {
    let most = if thread_rng().gen_bool(0.2) { 600_000 } else { 10_000 };
    let offset_ms = direction * thread_rng().gen_range(50..most);
    target.cluster.skew(target.leader_or_any(), Skew { offset_ms, drift_ppm: 0 });
    sleep(a_while(100..2_000)).await;
}

pub(super) async fn drift(target: &Target) {
    let drift_ppm = thread_rng().gen_range(-100_000..100_000);
    target.cluster.skew(target.leader_or_any(), Skew { offset_ms: 0, drift_ppm });
    sleep(a_while(100..2_000)).await;
}
