//! The queue's leader is killed under a steady load.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Metric, QUEUE, metric, open_loop};
use crate::system::{Cluster, Entry};

const PER_SECOND: u32 = 1_000;
/// Load before the kill.
const BEFORE: Duration = Duration::from_secs(3);
/// Load after it; a system that needs longer has failed.
const AFTER: Duration = Duration::from_secs(20);
/// Confirms so shortly before the kill are the last of the old leader.
const MARGIN: Duration = Duration::from_millis(100);

/// Longest time without a confirm from the kill on.
pub async fn run(cluster: &mut dyn Cluster, entry: Entry) -> Result<Vec<Metric>> {
    let leader = cluster.leader(QUEUE).await?;
    let producer = cluster.producer(QUEUE, open_loop::WINDOW, entry).await?;
    let begun = Instant::now();
    let until = begun + BEFORE + AFTER;
    let sending = open_loop::send(producer, PER_SECOND, until);
    tokio::time::sleep(BEFORE).await;
    let killed_at = Instant::now();
    cluster.nodes()[leader].kill();
    let outcomes = sending.join().await?;
    let unconfirmed = outcomes.iter().filter(|outcome| outcome.confirmed.is_err()).count();
    let confirms = outcomes.iter().filter_map(|outcome| outcome.confirmed.as_ref().ok());
    let Some(gap) = longest_gap(confirms.copied().collect(), killed_at - MARGIN, until) else {
        bail!("no confirm within {AFTER:?} of the kill");
    };
    Ok(vec![
        metric("longest gap s", gap.as_secs_f64()),
        metric("publishes failed", unconfirmed as f64),
    ])
}

/// `None` if there was no confirm after the first, so that the gap has no end.
fn longest_gap(mut confirms: Vec<Instant>, from: Instant, until: Instant) -> Option<Duration> {
    confirms.retain(|at| (from..until).contains(at));
    confirms.sort_unstable();
    let last = confirms.last()?;
    let gap = confirms.windows(2).map(|pair| pair[1] - pair[0]).max()?;
    (until - *last < AFTER / 4).then_some(gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_the_longest_time_between_confirms_that_has_an_end() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let until = start + AFTER;
        let confirms = vec![at(0), at(10), at(19_990), at(1_010)];
        assert_eq!(longest_gap(confirms, start, until), Some(Duration::from_millis(18_980)));
        assert_eq!(longest_gap(vec![at(0), at(10)], start, until), None);
        assert_eq!(longest_gap(vec![], start, until), None);
    }
}
