//! Topics: publishing to several queues at once, and calls about what leads where.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::v1;
use quorate_proto::v1::topic_service_client::TopicServiceClient;
use tonic::transport::Channel;

use crate::client::Client;
use crate::error::{Error, Refusal};
use crate::message::Message;
use crate::nodes::{Effect, MAX_ANSWER_BYTES};

fn topics(channel: Channel) -> TopicServiceClient<Channel> {
    TopicServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Publishes to a topic; made by [`Client::topic`].
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// use quorate_client::{Message, Route};
/// client.set_topic("orders", 0, vec![
///     Route::new("billing", "orders.*.paid"),
///     Route::new("audit", "orders.>").header("region", "eu"),
/// ]).await?;
/// let delivered = client.topic("orders").publish("orders.42.paid", vec![Message::new("paid")]).await?;
/// for outcome in &delivered.outcomes {
///     println!("{}: {:?}", outcome.queue, outcome.receipt);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Topic {
    client: Client,
    name: String,
    ack: v1::AckLevel,
    allow_unrouted: bool,
    message_id: String,
}

/// Where some of a topic's messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The queue.
    pub queue: String,
    /// Subjects: words with dots between them, `*` for any one word, `>` at the end for one word or more.
    pub subject: String,
    /// Headers that a message has to have, with just these values.
    pub headers: BTreeMap<String, String>,
}

impl Route {
    /// Leads messages of these subjects to a queue.
    pub fn new(queue: impl Into<String>, subject: impl Into<String>) -> Self {
        Self { queue: queue.into(), subject: subject.into(), headers: BTreeMap::new() }
    }

    /// Only those that have this header, with this value.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(key.into(), value.into());
        self
    }
}

impl From<v1::Route> for Route {
    fn from(route: v1::Route) -> Self {
        let headers = route.headers.into_iter().collect();
        Self { queue: route.queue, subject: route.subject, headers }
    }
}

impl From<Route> for v1::Route {
    fn from(route: Route) -> Self {
        let headers = route.headers.into_iter().collect();
        Self { queue: route.queue, subject: route.subject, headers }
    }
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Changes with its routes.
    pub version: u64,
    /// Sorted.
    pub routes: Vec<Route>,
}

/// What has become of messages that were published to a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    /// By queue. None, if no route took any of them and that is allowed.
    pub outcomes: Vec<TopicOutcome>,
}

impl Delivered {
    /// Whether every queue has what was for it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.receipt.is_ok())
    }
}

/// What has become of them at one queue.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicOutcome {
    /// The queue.
    pub queue: String,
    /// Which messages were for it, by their place.
    pub messages: Vec<u32>,
    /// They are in it, as one batch; or none of them is, or with `UNKNOWN_OUTCOME` they may be.
    pub receipt: Result<v1::Receipt, Refusal>,
}

impl Topic {
    pub(crate) fn new(client: Client, name: String) -> Self {
        let (ack, message_id) = (v1::AckLevel::Quorum, String::new());
        Self { client, name, ack, allow_unrouted: false, message_id }
    }

    /// Where messages have to be before their receipts come; on a majority unless set.
    #[must_use]
    pub fn ack(mut self, level: v1::AckLevel) -> Self {
        self.ack = level;
        self
    }

    /// Lets messages that no route takes go nowhere. Unless set that is an error.
    #[must_use]
    pub fn allow_unrouted(mut self) -> Self {
        self.allow_unrouted = true;
        self
    }

    /// Gives what is published a name, 1 to 128 bytes, under which it enters once at each queue: a publish that is made
    /// again, as its outcome is not known, or some queue has not taken it, adds nothing where it has entered. Remembered like
    /// the id of a [`Batch`](crate::Batch).
    #[must_use]
    pub fn message_id(mut self, id: impl Into<String>) -> Self {
        self.message_id = id.into();
        self
    }

    /// Publishes messages to each queue that a route leads to.
    ///
    /// # Errors
    /// [`Error::Refused`] with `TOPIC_NOT_FOUND`, `NO_ROUTE` or `INVALID_ARGUMENT`: nothing was published.
    /// [`Error::UnknownOutcome`]: it may have been, at some or all of the queues. With a
    /// [`message_id`](Self::message_id) it is tried again at other nodes before that; without one it would enter twice.
    pub async fn publish(
        &self,
        subject: impl Into<String>,
        messages: Vec<Message>,
    ) -> Result<Delivered, Error> {
        let request = v1::PublishToTopicRequest {
            topic: self.name.clone(),
            subject: subject.into(),
            messages: messages.into_iter().map(Message::into_proto).collect(),
            ack: self.ack.into(),
            allow_unrouted: self.allow_unrouted,
            message_id: self.message_id.clone(),
        };
        let ask = |channel| {
            let request = request.clone();
            async move { topics(channel).publish_to_topic(request).await }
        };
        let effect = if self.message_id.is_empty() { Effect::Once } else { Effect::Writes };
        let answer = self.client.nodes.call(effect, ask).await?;
        Ok(Delivered { outcomes: answer.outcomes.into_iter().map(outcome).collect() })
    }
}

fn outcome(outcome: v1::TopicOutcome) -> TopicOutcome {
    use v1::topic_outcome::Outcome;
    let receipt = match outcome.outcome {
        Some(Outcome::Receipt(receipt)) => Ok(receipt),
        Some(Outcome::Failure(failure)) => Err(Refusal {
            reason: failure.reason,
            message: failure.message,
            retry_after: (failure.retry_after_ms > 0)
                .then(|| Duration::from_millis(failure.retry_after_ms.into())),
            ..Refusal::default()
        }),
        None => Err(Refusal::default()),
    };
    TopicOutcome { queue: outcome.queue, messages: outcome.messages, receipt }
}

impl Client {
    /// Publishes to a topic.
    #[must_use]
    pub fn topic(&self, name: impl Into<String>) -> Topic {
        Topic::new(self.clone(), name.into())
    }

    /// Makes a topic or replaces its routes, decided on when it had `version`; 0: there was none. Gives the version that it
    /// has now. All nodes route by it a moment later.
    ///
    /// # Errors
    /// [`Error::Refused`] with `TOPIC_CHANGED` (somebody else was faster), `QUEUE_NOT_FOUND`, `QUOTA_EXCEEDED` or
    /// `INVALID_ARGUMENT`.
    pub async fn set_topic(
        &self,
        name: impl Into<String>,
        version: u64,
        routes: Vec<Route>,
    ) -> Result<u64, Error> {
        let routes = routes.into_iter().map(v1::Route::from).collect();
        let request = v1::SetTopicRequest { name: name.into(), version, routes };
        let ask = |channel| {
            let request = request.clone();
            async move { topics(channel).set_topic(request).await }
        };
        Ok(self.nodes.call(Effect::Writes, ask).await?.version)
    }

    /// Deletes a topic. Queues and what they hold stay.
    ///
    /// # Errors
    /// [`Error::Refused`] with `TOPIC_NOT_FOUND`.
    pub async fn delete_topic(&self, name: impl Into<String>) -> Result<(), Error> {
        let request = v1::DeleteTopicRequest { name: name.into() };
        let ask = |channel| {
            let request = request.clone();
            async move { topics(channel).delete_topic(request).await }
        };
        self.nodes.call(Effect::Writes, ask).await?;
        Ok(())
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers.
    pub async fn list_topics(&self) -> Result<Vec<TopicDescription>, Error> {
        const PAGE: u32 = 1_000;
        let mut all: Vec<TopicDescription> = Vec::new();
        loop {
            let after = all.last().map_or(String::new(), |topic| topic.name.clone());
            let request = v1::ListTopicsRequest { after, limit: PAGE };
            let ask = |channel| {
                let request = request.clone();
                async move { topics(channel).list_topics(request).await }
            };
            let page = self.nodes.call(Effect::Reads, ask).await?.topics;
            let is_last = page.len() < PAGE as usize;
            all.extend(page.into_iter().map(|topic| TopicDescription {
                name: topic.name,
                version: topic.version,
                routes: topic.routes.into_iter().map(Route::from).collect(),
            }));
            if is_last {
                return Ok(all);
            }
        }
    }
}
