//! Settings of a producer, and its opening.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::frame::{MAX_FRAME_MESSAGES, MAX_MESSAGE_BYTES};
use quorate_proto::v1::AckLevel;

use crate::client::{Client, LIMIT_MAX};
use crate::error::Error;
use crate::link::Link;
use crate::producer::lane::Lane;
use crate::producer::shards::Shards;
use crate::producer::{Producer, Settings, Ways};
use crate::random;
use crate::sharding::is_of_sharded;

/// Most messages in flight that may be asked for.
const MAX_IN_FLIGHT: usize = 1 << 20;
/// Most bytes in flight that may be asked for: 1 GiB.
const MAX_IN_FLIGHT_BYTES: usize = 1 << 30;
/// Most bytes of a producer's id.
const MAX_PRODUCER_ID_BYTES: usize = 128;

/// Settings of a [`Producer`]; made by [`Client::producer`].
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// use std::time::Duration;
/// let producer = client
///     .producer("orders")
///     .in_flight(256)
///     .deadline(Duration::from_secs(5))
///     .build()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ProducerBuilder {
    client: Client,
    settings: Settings,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, queue: String) -> Self {
        let settings = Settings {
            queue,
            shard: None,
            generation: 0,
            producer_id: random::producer_id(),
            epoch: 0,
            in_flight: 8_192,
            max_in_flight_bytes: 32 * 1024 * 1024,
            batch_messages: 256,
            batch_bytes: 256 * 1024,
            deadline: Duration::from_secs(30),
            ack: AckLevel::Quorum,
        };
        Self { client, settings }
    }

    /// Most messages sent and not yet confirmed; 8,192 unless set. [`Producer::send`] waits beyond. Of a sharded queue,
    /// as all limits here, for each shard.
    pub fn in_flight(mut self, messages: usize) -> Self {
        self.settings.in_flight = messages;
        self
    }

    /// Most bytes sent and not yet confirmed, headers included; 32 MiB unless set. A message that is
    /// larger goes when it is alone.
    pub fn max_in_flight_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_in_flight_bytes = bytes;
        self
    }

    /// Most messages of one batch; 256 unless set.
    pub fn batch_messages(mut self, messages: usize) -> Self {
        self.settings.batch_messages = messages;
        self
    }

    /// Most bytes of one batch, headers included; 256 KiB unless set. A message that is larger goes in a
    /// batch of its own.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes = bytes;
        self
    }

    /// Names the producer; 1 to 128 bytes, random unless set.
    ///
    /// Sequences start at 0, so an id that an earlier run of the program has used needs a higher
    /// [`epoch`](Self::epoch): under the same one, new messages would be taken for retries of old ones.
    pub fn producer_id(mut self, id: impl Into<String>) -> Self {
        self.settings.producer_id = id.into();
        self
    }

    /// Which start of the producer id this is, 0 to 65,535; 0 unless set. A producer with a higher epoch
    /// fences off those of the same id with a lower one. Each start of a program needs one of its own: two
    /// with the same id and epoch would take each other's messages for retries.
    ///
    /// On the wire it is the upper half of the epoch; the lower half is what the producer itself counts
    /// when it has to number anew, so that it never comes under the epoch of a later start.
    pub fn epoch(mut self, epoch: u32) -> Self {
        self.settings.epoch = epoch;
        self
    }

    /// How long a message is retried before it fails, a year at most; 30 s unless set.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.settings.deadline = limit.min(LIMIT_MAX);
        self
    }

    /// Where a message has to be before its receipt comes; [`AckLevel::Quorum`] unless set.
    ///
    /// [`AckLevel::All`] waits for every voter in sync, and fails with
    /// [`PublishError::NotEnoughInSync`](crate::PublishError::NotEnoughInSync), or `Refused` with `NOT_ENOUGH_IN_SYNC`
    /// where the message did not enter, when they are fewer than the queue's `min_in_sync`. [`AckLevel::Accepted`]
    /// waits for the leader's disk alone: such a message is lost if the leader is, before a majority has it.
    pub fn ack(mut self, level: AckLevel) -> Self {
        self.settings.ack = level;
        self
    }

    /// Opens the producer at the node that leads the queue; of a sharded queue, at each shard's once something is for it.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`; [`Error::Unavailable`] when no node takes the stream
    /// within the client's request time limit; [`Error::Invalid`] when a setting is out of its range.
    pub async fn build(self) -> Result<Producer, Error> {
        let mut settings = self.settings;
        validate(&settings)?;
        settings.epoch = first_epoch(settings.epoch)?;
        let nodes = Arc::clone(&self.client.nodes);
        let request = settings.open(settings.epoch);
        let mut link = Link::new(Arc::clone(&nodes), settings.queue.clone(), request);
        let answer = match link.open_within(nodes.request_timeout()).await {
            Ok(answer) => answer,
            Err(error) if is_of_sharded(&error) => {
                let sharding = self.client.sharding(&settings.queue).await?;
                return Ok(Producer { ways: Ways::Shards(Shards::new(nodes, settings, sharding)) });
            }
            Err(error) => return Err(error),
        };
        let (lane, mut task) = Lane::with(link, settings);
        task.opened(answer);
        task.start();
        Ok(Producer { ways: Ways::One(lane) })
    }
}

/// The first of the epochs that belong to a start of a producer.
fn first_epoch(start: u32) -> Result<u32, Error> {
    match start.checked_mul(1 << u16::BITS) {
        Some(epoch) => Ok(epoch),
        None => Err(Error::Invalid(format!("epoch is {start}; at most {}", u16::MAX))),
    }
}

fn validate(settings: &Settings) -> Result<(), Error> {
    let check = |name: &str, value: usize, most: usize| match value {
        0 => Err(Error::Invalid(format!("{name} is 0; from 1 to {most}"))),
        value if value > most => Err(Error::Invalid(format!("{name} is {value}; at most {most}"))),
        _ => Ok(()),
    };
    check("in_flight", settings.in_flight, MAX_IN_FLIGHT)?;
    check("max_in_flight_bytes", settings.max_in_flight_bytes, MAX_IN_FLIGHT_BYTES)?;
    check("batch_messages", settings.batch_messages, MAX_FRAME_MESSAGES as usize)?;
    check("batch_bytes", settings.batch_bytes, MAX_MESSAGE_BYTES)?;
    check("length of producer_id", settings.producer_id.len(), MAX_PRODUCER_ID_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_producer_that_numbers_anew_stays_below_the_next_start() {
        let (first, second) = (first_epoch(3).unwrap(), first_epoch(4).unwrap());
        assert!(first + u32::from(u16::MAX) < second);
        assert_eq!(first_epoch(0).unwrap(), 0);
        assert!(first_epoch(u32::from(u16::MAX)).is_ok());
        assert!(first_epoch(u32::from(u16::MAX) + 1).is_err());
    }
}
