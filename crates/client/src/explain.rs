//! Asking where a message is.

use quorate_proto::v1;

use crate::admin::admin;
use crate::client::Client;
use crate::error::Error;
use crate::nodes::Effect;

impl Client {
    /// Where a message is and why it is not delivered, as the queue's leader has it: not published yet, ready and behind how
    /// many, delayed, leased and by whom, blocked by which message of its key, dead, or gone. It changes nothing.
    ///
    /// Without a leader or a majority the answer is what the replica of some node has, and not
    /// [`confirmed`](crate::MessageExplanation::confirmed).
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`; [`Error::Unavailable`] when no node answers that knows the queue.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::MessagePlace;
    /// match client.explain_message("orders", 17).await?.place {
    ///     Some(MessagePlace::Ready(ready)) => println!("behind {}: {:?}", ready.ahead, ready.obstacles),
    ///     Some(MessagePlace::Leased(leased)) => println!("{:?} has it", leased.holder),
    ///     other => println!("{other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn explain_message(
        &self,
        queue: impl Into<String>,
        offset: u64,
    ) -> Result<v1::ExplainMessageResponse, Error> {
        let request = v1::ExplainMessageRequest { queue: queue.into(), offset };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).explain_message(request).await }
        };
        Ok(self.nodes.call(Effect::Reads, ask).await?)
    }
}
