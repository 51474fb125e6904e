//! Which messages of a queue are taken: all before an end, or those that a reader has chosen by header; and that none of
//! them is still with a run that died.

use std::time::Duration;

use futures_util::StreamExt;
use quorate_client::{Client, Headers, QueueCounts};
use tokio::time::{Instant, sleep};

use crate::args::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::{session, units};

/// The longest lease that is asked for: how long a message waits whose run was killed.
const LEASE_MAX: Duration = Duration::from_secs(15);
/// How long it is waited for what a run that died has leased, beyond the times after which it comes back.
const DEAD_SLACK: Duration = Duration::from_secs(5);
/// A run that died a moment ago may look alive for so long.
const DYING: Duration = Duration::from_secs(1);
/// Time between two looks at who has messages.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A header that a message has to have.
pub type Filter = (String, String);

/// Reads `HEADER=VALUE`.
pub fn filter(text: &str) -> Result<Filter, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a filter is HEADER=VALUE".to_owned()),
    }
}

/// Whether a message has all of these headers.
pub fn matches(filters: &[Filter], headers: &Headers) -> bool {
    let has = |(key, value): &Filter| {
        headers.iter().any(|(found, is)| found == key && is == value.as_bytes())
    };
    filters.iter().all(has)
}

/// Which messages are taken.
#[derive(Debug)]
pub struct Plan {
    /// Raft group of the queue, which a queue of the same name that is created anew does not have.
    pub group: u64,
    /// Those before this offset,
    pub end: u64,
    /// at most so many,
    pub total: u64,
    /// and of those only these, in order. Where settled messages are kept, some of them may be settled.
    pub chosen: Option<Vec<u64>>,
    /// Others before the last of them.
    pub passed: u64,
    /// How long a lease is asked for.
    pub lease: Duration,
    /// The first that is held,
    pub(super) first: u64,
    /// and whether settled ones may be seen behind it.
    pub(super) keeps_settled: bool,
}

impl Plan {
    /// The messages that `counted` counts, before the end of the queue as it is now.
    pub async fn of(
        client: &Client,
        queue: &str,
        global: &Global,
        counted: impl Fn(&QueueCounts) -> u64,
    ) -> Result<Self, Failure> {
        let described = session::within(global, "describe queue", client.describe_queue(queue));
        let described = described.await?;
        let counts = described.counts.unwrap_or_default();
        let settings = described.settings.unwrap_or_default();
        let lease = Duration::from_millis(settings.lease_ms.into());
        let retains = settings.retain_ms > 0 || settings.retain_bytes > 0;
        Ok(Self {
            first: counts.first_offset,
            keeps_settled: retains
                || counts.retained > 0
                || counts.first_readable_offset < counts.first_offset,
            group: described.group_id,
            end: counts.next_offset,
            total: counted(&counts),
            chosen: None,
            passed: 0,
            lease: if lease.is_zero() { LEASE_MAX } else { lease.min(LEASE_MAX) },
        })
    }

    /// Reads all that is there, which takes nothing, and chooses by header; of what is chosen, `most` are taken at most. Tells
    /// each that was chosen to `found`. Where readers see settled messages too, those are chosen with the others, as they do
    /// not tell; so there as many are counted as come.
    pub async fn choose(
        &mut self,
        client: &Client,
        queue: &str,
        filters: &[Filter],
        most: Option<u64>,
        mut found: impl FnMut(&Headers),
    ) -> Result<(), Failure> {
        let doing = format!("read {queue:?}");
        let mut reader = client.reader(queue).from_offset(self.first).linearizable().build();
        let most = most.unwrap_or(u64::MAX);
        let stops_at = if self.keeps_settled { u64::MAX } else { most };
        let (mut chosen, mut passed) = (Vec::new(), 0);
        while let Some(message) = reader.next().await {
            let message = message.map_err(|error| session::failure(&doing, &error))?;
            if message.offset >= self.end || chosen.len() as u64 >= stops_at {
                break;
            }
            if !matches(filters, &message.headers) {
                passed += 1;
                continue;
            }
            found(&message.headers);
            chosen.push(message.offset);
            self.passed = passed;
        }
        self.total = self.total.min(most).min(chosen.len() as u64);
        self.chosen = Some(chosen);
        Ok(())
    }

    /// Whether the message at an offset is one of them.
    pub(super) fn has(&self, offset: u64) -> bool {
        let chosen =
            self.chosen.as_ref().is_none_or(|chosen| chosen.binary_search(&offset).is_ok());
        chosen && offset < self.end
    }
}

/// Waits until nothing is leased any more to a run of this kind that died: what it had sent comes first when it comes back,
/// and the other queue has to remember the ids until then. Bounded by the times after which it does.
pub async fn dead_runs_over(
    client: &Client,
    queue: &str,
    name: &str,
    global: &Global,
) -> Result<(), Failure> {
    let (begun, mut is_told) = (Instant::now(), false);
    loop {
        let described = session::within(global, "describe queue", client.describe_queue(queue));
        let described = described.await?;
        let grace = described.settings.map_or(0, |settings| settings.session_grace_ms);
        // A lease ends within its time, however long a session is waited for.
        let grace = Duration::from_millis(grace.into()).min(LEASE_MAX);
        let holds = |is_connected: bool| {
            let consumers = described.consumers.iter();
            let holders = consumers.filter(|it| it.name == name && it.connected == is_connected);
            holders.map(|it| u64::from(it.leased)).sum::<u64>()
        };
        let (held, held_by_others) = (holds(false), holds(true));
        let may_be_dying = held_by_others > 0 && begun.elapsed() < DYING;
        if held == 0 && !may_be_dying {
            return Ok(());
        }
        if begun.elapsed() > LEASE_MAX + grace + DEAD_SLACK {
            let what = format!(
                "{} messages of {queue} are still leased to a `{name}` that is gone",
                units::count(held)
            );
            return Err(Failure::new(Exit::Unavailable, what).cure(format!(
                "`quorate consumer list {queue}` shows it, and `quorate consumer kick` ends it"
            )));
        }
        if held > 0 && !std::mem::replace(&mut is_told, true) {
            eprintln!(
                "waiting for {} messages that a `{name}` has which is gone: they come back within {:?}",
                units::count(held),
                LEASE_MAX.min(grace) + DEAD_SLACK
            );
        }
        sleep(LOOK_EVERY).await;
    }
}
