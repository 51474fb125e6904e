//! Settings of a reader.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use quorate_proto::v1;
use quorate_proto::v1::read_request::{Consistency, From};

use crate::client::Client;
use crate::reader::confirms::Confirms;
use crate::reader::{Reader, Reading, Settings};

/// Settings of a [`Reader`]; made by [`Client::reader`].
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) {
/// use std::time::Duration;
/// let reader = client
///     .reader("orders")
///     .from_offset(1_000)
///     .follow()
///     .max_staleness(Duration::from_millis(200))
///     .zone("eu-1")
///     .build();
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ReaderBuilder {
    client: Client,
    settings: Settings,
}

impl ReaderBuilder {
    pub(crate) fn new(client: Client, queue: String) -> Self {
        let settings = Settings {
            queue,
            from: None,
            consistency: None,
            limit: None,
            follow: false,
            zone: String::new(),
            slot: None,
        };
        Self { client, settings }
    }

    /// Begins at this offset, or the first after it that can be read; at the first that can be read unless set.
    pub fn from_offset(mut self, offset: u64) -> Self {
        self.settings.from = Some(From::Offset(offset));
        self
    }

    /// Begins with the first message that was published at this time or later, by the leader's clock.
    pub fn from_time(mut self, time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.settings.from = Some(From::TimeMs(since.as_millis() as u64));
        self
    }

    /// Begins behind the last message.
    pub fn from_next(mut self) -> Self {
        self.settings.from = Some(From::Next(true));
        self
    }

    /// Reads through this slot: begins at its position, shows every message from there on, settled or not, and moves
    /// it behind what is told to be done with ([`Reader::confirm`]). What was not confirmed is shown again by the
    /// next reader of the slot: **at least once**. One reader at a time: if another one moves the slot beyond it, it
    /// fails with `SLOT_MOVED`. A slot that was lost fails with `SLOT_LOST` rather than leave a message out.
    ///
    /// In place of `from_…`; the server refuses to begin a slot elsewhere than at its position or an offset behind it.
    pub fn slot(mut self, name: impl Into<String>) -> Self {
        self.settings.slot = Some(name.into());
        self
    }

    /// Goes on with messages as they come, instead of ending at the end.
    pub fn follow(mut self) -> Self {
        self.settings.follow = true;
        self
    }

    /// Ends after so many messages.
    pub fn limit(mut self, messages: u64) -> Self {
        self.settings.limit = Some(messages);
        self
    }

    /// How old what is read may be, 1 ms to an hour; a second unless set. A replica that cannot hold it is left
    /// for another one, and if none can, the reader fails with `STALENESS_EXCEEDED`.
    pub fn max_staleness(mut self, bound: Duration) -> Self {
        let millis = u32::try_from(bound.as_millis()).unwrap_or(u32::MAX);
        self.settings.consistency = Some(Consistency::MaxStalenessMs(millis));
        self
    }

    /// Sees everything that was confirmed before it asks: each answer costs the replica a question to the leader.
    pub fn linearizable(mut self) -> Self {
        self.settings.consistency = Some(Consistency::Linearizable(true));
        self
    }

    /// The zone that this program runs in: a replica there is asked first.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.settings.zone = zone.into();
        self
    }

    /// The reader. It asks for nothing before it is polled; a queue that does not exist is its first item.
    pub fn build(self) -> Reader {
        let position = Arc::new(Mutex::new(v1::ReadPosition::default()));
        let slot = self.settings.slot.clone();
        let (client, queue) = (self.client.clone(), self.settings.queue.clone());
        let confirms = slot.map(|slot| Confirms::new(client, queue, slot));
        let reading = Reading::new(self.client, self.settings, Arc::clone(&position));
        let messages = stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|message| (message, reading)))
        });
        Reader { messages: messages.boxed(), position, confirms, shown: None }
    }
}
