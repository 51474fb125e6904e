//! Setting the consumers of a queue to a place.

use std::time::SystemTime;

use quorate_proto::v1;
use quorate_proto::v1::seek_consumers_request::To;

use crate::admin::admin;
use crate::client::Client;
use crate::error::Error;
use crate::nodes::Effect;

/// Where the consumers of a queue are to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// At the first offset from which on all messages are there, settled or not, or the first that is held, if that is
    /// before it.
    First,
    /// Behind the last message.
    Next,
    /// At this offset.
    Offset(u64),
    /// At the first message published at this time or later, by the clock of the queue's leader; batch by batch. Not
    /// before `First`.
    Time(SystemTime),
}

/// What [`Client::seek_consumers`] has done, or [`Client::preview_seek`] says that it would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sought {
    /// The place.
    pub offset: u64,
    /// Settled messages from there on that are to be handed out once more.
    pub replayed: u64,
    /// Messages before it that left as if they were acknowledged.
    pub skipped: u64,
}

impl Client {
    /// Sets the consumers of a queue to a place: settled messages from there on that the queue has retained are ready
    /// again, as if never delivered, and ready ones before it leave as if acknowledged. What a consumer has stays its own;
    /// what is for later or dead stays what it is. Once more, it brings back what was settled meanwhile.
    ///
    /// The node reads all that is to come back in the log, and answers only then: the whole of the client's time limit
    /// for requests is for that. It is not asked twice where the answer is lost, since what has come meanwhile would be
    /// set to the place as well: look where the consumers are ([`Client::preview_seek`]) before asking again.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`; with `NOT_RETAINED` if the queue keeps nothing that is settled, so that
    /// there is no way back; with `OFFSET_GONE`, and `first_offset`, if messages after the place are not there any more;
    /// with `QUEUE_FULL` if more would be held than the queue may hold, or `QUOTA_EXCEEDED` for too many runs of
    /// messages at a time. [`Error::UnknownOutcome`] when the answer was lost.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::SeekTo;
    /// use std::time::{Duration, SystemTime};
    /// let since = SystemTime::now() - Duration::from_secs(3_600);
    /// let sought = client.seek_consumers("orders", SeekTo::Time(since)).await?;
    /// println!("{} messages are handed out again, from {} on", sought.replayed, sought.offset);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn seek_consumers(
        &self,
        queue: impl Into<String>,
        to: SeekTo,
    ) -> Result<Sought, Error> {
        self.seek(queue.into(), to, false).await
    }

    /// What [`Client::seek_consumers`] would do now; changes nothing.
    ///
    /// # Errors
    /// As that.
    pub async fn preview_seek(
        &self,
        queue: impl Into<String>,
        to: SeekTo,
    ) -> Result<Sought, Error> {
        self.seek(queue.into(), to, true).await
    }

    async fn seek(&self, queue: String, to: SeekTo, dry_run: bool) -> Result<Sought, Error> {
        let to = Some(match to {
            SeekTo::First => To::First(true),
            SeekTo::Next => To::Next(true),
            SeekTo::Offset(offset) => To::Offset(offset),
            SeekTo::Time(time) => {
                let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                To::TimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        });
        let request = v1::SeekConsumersRequest { queue, to, dry_run };
        let effect = if dry_run { Effect::Reads } else { Effect::Once };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).seek_consumers(request).await }
        };
        let v1::SeekConsumersResponse { offset, replayed, skipped } =
            self.nodes.call_patiently(effect, ask).await?;
        Ok(Sought { offset, replayed, skipped })
    }
}
