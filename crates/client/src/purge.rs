//! Dropping what is before an offset or a time.

use std::time::SystemTime;

use quorate_proto::v1;
use quorate_proto::v1::purge_queue_request::Before;

use crate::admin::admin;
use crate::client::Client;
use crate::error::Error;
use crate::nodes::Effect;
use crate::sharding::in_part;

/// What [`Client::purge_queue_before`] drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurgeBefore {
    /// Messages before this offset.
    Offset(u64),
    /// Messages published before this time, by the clock of the queue's leader; batch by batch.
    Time(SystemTime),
}

impl Client {
    /// Drops the messages of a queue that are before an offset or a time: ready, delayed and leased ones, whose leases
    /// are lost. Slots that needed any of them are lost too. Returns how many messages were dropped, and the first offset
    /// that was not; that is 0 of a sharded queue, which is purged before a time only. After a retry, that is how many the last attempt
    /// dropped.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`; [`Error::UnknownOutcome`] when the answer was lost.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::PurgeBefore;
    /// let (purged, next) = client.purge_queue_before("orders", PurgeBefore::Offset(1_000)).await?;
    /// println!("{purged} messages dropped, it goes on at {next}");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn purge_queue_before(
        &self,
        name: impl Into<String>,
        before: PurgeBefore,
    ) -> Result<(u64, u64), Error> {
        let before = Some(match before {
            PurgeBefore::Offset(offset) => Before::BeforeOffset(offset),
            PurgeBefore::Time(time) => {
                let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Before::BeforeTimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        });
        let request = v1::PurgeQueueRequest { name: name.into(), before };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).purge_queue(request).await }
        };
        let answer = self.nodes.call(Effect::Writes, ask).await?;
        in_part("purged", answer.shards)?;
        Ok((answer.purged, answer.next_offset))
    }
}
