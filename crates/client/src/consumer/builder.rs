//! Settings of a consumer, and its attachment.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::v1;
use quorate_proto::v1::consume_request::Request;
use tokio::sync::{mpsc, oneshot};

use crate::client::Client;
use crate::consumer::Consumer;
use crate::consumer::task::{Consume, Shown, Task};
use crate::error::Error;
use crate::link::Link;
use crate::random;
use crate::replicas::Replicas;
use crate::sharding::Sharding;

/// Prefetch that a server takes.
const PREFETCH: RangeInclusive<u32> = 1..=65_535;
/// Length of a lease that a server takes, in milliseconds: 100 ms to 12 h.
const LEASE_MS: RangeInclusive<u128> = 100..=43_200_000;
/// What a replica may lag that a server takes, in milliseconds: 100 ms to an hour.
const MAX_LAG_MS: RangeInclusive<u128> = 100..=3_600_000;
/// Most bytes of a consumer's name.
const MAX_NAME_BYTES: usize = 128;
/// Most values of a filter.
const FILTER_VALUES_MAX: usize = 16;
/// Most bytes of one of them.
const FILTER_VALUE_BYTES_MAX: usize = 256;
/// Session grace of a queue that does not say its own.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// Settings of a [`Consumer`]; made by [`Client::consumer`].
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// use std::time::Duration;
/// let consumer = client
///     .consumer("orders")
///     .name("billing")
///     .prefetch(32)
///     .lease(Duration::from_secs(10))
///     .build()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ConsumerBuilder {
    client: Client,
    queue: String,
    name: String,
    prefetch: u32,
    lease: Option<Duration>,
    max_lag: Option<Duration>,
    zone: String,
    filter: Vec<String>,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, queue: String) -> Self {
        Self {
            client,
            queue,
            name: String::new(),
            prefetch: 256,
            lease: None,
            max_lag: None,
            zone: String::new(),
            filter: Vec::new(),
        }
    }

    /// Shown to people in listings; at most 128 bytes, empty unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Most messages leased to this consumer at a time, 1 to 65,535; 256 unless set. Of a sharded queue, each shard has an
    /// equal share of them, and one at least.
    pub fn prefetch(mut self, messages: u32) -> Self {
        self.prefetch = messages;
        self
    }

    /// Length of a lease, 100 ms to 12 h; the queue's setting unless set. It is how long others wait for a
    /// message whose consumer has died; a living consumer extends it.
    pub fn lease(mut self, length: Duration) -> Self {
        self.lease = Some(length);
        self
    }

    /// Takes messages from the nearest replica of the queue, whether that leads or not, as long as it is at most so
    /// far behind: 100 ms to an hour, and well below a lease, which begins when the leader grants it. Its node reads them from its own disk, so the leader sends this consumer nothing
    /// but the outcome of its settles. A replica that lags more hands the consumer to the leader, where it stays
    /// until that stream breaks. Unless set, the leader's node delivers.
    pub fn max_lag(mut self, bound: Duration) -> Self {
        self.max_lag = Some(bound);
        self
    }

    /// The zone that this program runs in: with [`max_lag`](Self::max_lag), a replica there is asked first.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    /// Takes only messages that have one of these values in the header that the queue's setting `filter_header` names; any
    /// messages unless set. At most 16 values of at most 256 bytes. The broker picks them: what is not wanted here is not sent,
    /// and waits for others. A message that several consumers want goes to one of them.
    pub fn filter(mut self, values: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.filter = values.into_iter().map(Into::into).collect();
        self
    }

    /// Attaches the consumer at the node that leads the queue, or with [`max_lag`](Self::max_lag) at a replica.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, or with `INVALID_ARGUMENT` if there is a filter and the queue has no
    /// `filter_header`; [`Error::Unavailable`] when no node takes the stream
    /// within the client's request time limit; [`Error::Invalid`] when a setting is out of its range.
    pub async fn build(self) -> Result<Consumer, Error> {
        let session = random::session();
        self.attach(&self.queue, session, self.prefetch)?;
        let queue = self.client.describe_queue(self.queue.as_str()).await?;
        let grace = grace(queue.settings);
        let (shown, deliveries) = mpsc::unbounded_channel();
        if let Some(sharding) = queue.sharding {
            let close = self.attach_to_all(&Sharding::of(&sharding)?, session, grace, &shown)?;
            return Ok(Consumer::new(close, deliveries));
        }
        let mut link = self.link(&self.queue, session, self.prefetch)?;
        let answer = link.open_within(self.client.nodes.request_timeout()).await?;
        let (handle, commands) = mpsc::unbounded_channel();
        let mut task = Task::new(link, self.prefetch, grace, handle, commands, shown);
        task.attached(answer);
        Ok(Consumer::new(vec![task.start()], deliveries))
    }

    /// Begins a stream to each shard, all of which show what they get in one place. None is waited for: those whose shard
    /// has no leader now are opened when it has.
    fn attach_to_all(
        &self,
        sharding: &Sharding,
        session: [u8; 16],
        grace: Duration,
        shown: &mpsc::UnboundedSender<Shown>,
    ) -> Result<Vec<oneshot::Sender<oneshot::Sender<()>>>, Error> {
        let shards = sharding.shards();
        let mut closes = Vec::with_capacity(shards.len());
        for (shard, prefetch) in shards.iter().zip(shares(self.prefetch, shards.len() as u32)) {
            let link = self.link(&shard.name, session, prefetch)?;
            let (handle, commands) = mpsc::unbounded_channel();
            let mut task = Task::new(link, prefetch, grace, handle, commands, shown.clone());
            task.shard = Some(shard.number);
            closes.push(task.start());
        }
        Ok(closes)
    }

    fn link(&self, queue: &str, session: [u8; 16], prefetch: u32) -> Result<Link<Consume>, Error> {
        let request = self.attach(queue, session, prefetch)?;
        let link = Link::new(Arc::clone(&self.client.nodes), queue.to_owned(), request);
        Ok(match self.max_lag {
            Some(_) => link.at_any(Replicas::new(self.zone.clone())),
            None => link,
        })
    }

    fn attach(
        &self,
        queue: &str,
        session: [u8; 16],
        prefetch: u32,
    ) -> Result<v1::ConsumeRequest, Error> {
        let invalid = |what: String| Err(Error::Invalid(what));
        if !PREFETCH.contains(&self.prefetch) {
            return invalid(format!("prefetch is {}; from 1 to 65,535", self.prefetch));
        }
        if self.name.len() > MAX_NAME_BYTES {
            return invalid(format!("the name has {} bytes; at most 128", self.name.len()));
        }
        check_filter(&self.filter)?;
        let lease_ms = match self.lease {
            None => 0,
            Some(lease) if LEASE_MS.contains(&lease.as_millis()) => lease.as_millis() as u32,
            Some(lease) => return invalid(format!("the lease is {lease:?}; from 100 ms to 12 h")),
        };
        let max_lag_ms = match self.max_lag {
            None => 0,
            Some(lag) if MAX_LAG_MS.contains(&lag.as_millis()) => lag.as_millis() as u32,
            Some(lag) => return invalid(format!("max_lag is {lag:?}; from 100 ms to 1 h")),
        };
        let attach = v1::Attach {
            queue: queue.to_owned(),
            session: session.to_vec().into(),
            name: self.name.clone(),
            prefetch,
            lease_ms,
            max_lag_ms,
            tells_starts: true,
            filter: self.filter.clone(),
        };
        Ok(v1::ConsumeRequest { request: Some(Request::Attach(attach)) })
    }
}

/// Whether a server takes a filter.
pub(crate) fn check_filter(values: &[String]) -> Result<(), Error> {
    if let Some(long) = values.iter().find(|value| value.len() > FILTER_VALUE_BYTES_MAX) {
        let message = format!("a value to filter by has {} bytes; at most 256", long.len());
        return Err(Error::Invalid(message));
    }
    match values.len() > FILTER_VALUES_MAX {
        true => Err(Error::Invalid(format!("the filter has {} values; at most 16", values.len()))),
        false => Ok(()),
    }
}

/// A prefetch, divided among so many shards: equal parts, but for what is left over, and each has something.
fn shares(prefetch: u32, shards: u32) -> impl Iterator<Item = u32> {
    let (each, over) = (prefetch / shards, prefetch % shards);
    (0..shards).map(move |shard| (each + u32::from(shard < over)).max(1))
}

fn grace(settings: Option<v1::QueueSettings>) -> Duration {
    match settings.map(|settings| settings.session_grace_ms) {
        Some(millis @ 1..) => Duration::from_millis(millis.into()),
        Some(0) | None => DEFAULT_GRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefetch_is_divided_and_no_shard_goes_without() {
        assert_eq!(shares(8, 3).collect::<Vec<_>>(), [3, 3, 2]);
        assert_eq!(shares(2, 3).collect::<Vec<_>>(), [1, 1, 1]);
    }
}
