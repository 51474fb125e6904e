//! Calls about the consumers of a queue. Consuming itself is [`Client::consumer`].

use quorate_proto::v1;

use crate::admin::admin;
use crate::client::Client;
use crate::error::Error;
use crate::nodes::Effect;
use crate::sharding::in_part;

/// Consumers asked for in one call when listing.
const PAGE: u32 = 1_000;

/// Which consumers of a queue are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consumers {
    /// The one of this session, as [`ConsumerDescription::session`](crate::ConsumerDescription) says it: 16 bytes.
    Session([u8; 16]),
    /// All that have this name now.
    Named(String),
    /// All. Paused, the queue hands out nothing, also to those that come later.
    All,
}

/// What [`Client::list_consumers`] has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsumerList {
    /// By session; those that are waited for included.
    pub consumers: Vec<v1::ConsumerDescription>,
    /// The queue hands out nothing to anybody until all are resumed.
    pub queue_paused: bool,
}

impl Client {
    /// The consumers of a queue: all, or those that are meant. Nobody is no error.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::Consumers;
    /// for consumer in client.list_consumers("orders", Consumers::All).await?.consumers {
    ///     println!("{} at node {}: {} of {}", consumer.name, consumer.node_id, consumer.leased, consumer.prefetch);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_consumers(
        &self,
        queue: impl Into<String>,
        which: Consumers,
    ) -> Result<ConsumerList, Error> {
        let mut request =
            v1::ListConsumersRequest { queue: queue.into(), page_size: PAGE, ..<_>::default() };
        match which {
            Consumers::Session(session) => request.session = session.to_vec().into(),
            Consumers::Named(name) => request.name = name,
            Consumers::All => {}
        }
        let mut list = ConsumerList::default();
        loop {
            let ask = |channel| {
                let request = request.clone();
                async move { admin(channel).list_consumers(request).await }
            };
            let page = self.nodes.call(Effect::Reads, ask).await?;
            list.consumers.extend(page.consumers);
            list.queue_paused = page.queue_paused;
            if page.next_page_token.is_empty() {
                return Ok(list);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Pauses consumers, resumes them, or ends them, and says how many were meant.
    ///
    /// One that is paused keeps its session and its messages, may settle them, and is handed nothing more, whichever node
    /// leads. One that is kicked gets `CONSUMER_KICKED`, does not come back by itself, and what it had goes to others.
    ///
    /// # Errors
    /// [`Error::Refused`] with `CONSUMER_NOT_FOUND`, `QUEUE_NOT_FOUND` or `UNSUPPORTED_VERSION`; after a retry, a kick may
    /// find nobody any more although this call ended the consumer.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::{ConsumerControl, Consumers};
    /// let billing = Consumers::Named("billing".to_owned());
    /// client.control_consumers("orders", billing, ConsumerControl::Pause).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn control_consumers(
        &self,
        queue: impl Into<String>,
        which: Consumers,
        what: v1::ConsumerControl,
    ) -> Result<u32, Error> {
        use v1::control_consumer_request::Target;
        let target = match which {
            Consumers::Session(session) => Target::Session(session.to_vec().into()),
            Consumers::Named(name) => Target::Name(name),
            Consumers::All => Target::Everyone(true),
        };
        let (queue, target) = (queue.into(), Some(target));
        let request = v1::ControlConsumerRequest { queue, target, what: what.into() };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).control_consumer(request).await }
        };
        let answer = self.nodes.call(Effect::Writes, ask).await?;
        in_part("done", answer.shards)?;
        Ok(answer.consumers)
    }
}
