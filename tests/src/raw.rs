//! Calls without the SDK: one node, one answer, nothing retried, and what the SDK would never send.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use quorate_proto::v1::consume_request::Request;
use quorate_proto::v1::consume_response::Response;
use quorate_proto::{reason, v1};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_types::StatusExt;

/// Longest wait for one answer: longer than the node's own limit on a call.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Requests that may wait to be sent.
const REQUESTS_MAX: usize = 64;

/// A connection to one node, made when it is first used.
///
/// # Panics
/// When the address makes no sense.
#[must_use]
pub fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect_timeout(Duration::from_secs(2)).timeout(ANSWER_LIMIT).connect_lazy()
}

/// `ErrorInfo.reason` of a refusal, if it is one of ours.
#[must_use]
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.filter(|info| info.domain == quorate_proto::reason::DOMAIN)
        .map_or_else(|| format!("none, but {status:?}"), |info| info.reason)
}

/// The address of the leader that a refusal names.
#[must_use]
pub fn leader(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    info.metadata.get(quorate_proto::reason::LEADER_ADDRESS).cloned()
}

/// A session of a consumer that nobody else has.
#[must_use]
pub fn session() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<[u8; 16]>())
}

/// Publishes one message at one node.
///
/// # Errors
/// What the node says.
pub async fn publish(
    address: &str,
    queue: &str,
    body: impl Into<Bytes>,
    producer: Option<(&str, u64)>,
) -> Result<v1::Receipt, Status> {
    let message = v1::Message { body: body.into(), ..<_>::default() };
    let request = v1::PublishRequest {
        queue: queue.to_owned(),
        messages: vec![message],
        frame: None,
        producer: producer.map(|(id, _)| v1::Producer { id: id.to_owned(), epoch: 0 }),
        sequence: producer.map_or(0, |(_, sequence)| sequence),
        ..<_>::default()
    };
    publish_request(address, request).await
}

/// Publishes one message of a producer until it has a receipt: between two leaders, a node says that there
/// is none, or that it does not know the outcome, and the producer's sequence makes the retry safe.
///
/// # Panics
/// When the node says something else, or nothing else for half a minute.
pub async fn publish_surely(
    address: &str,
    queue: &str,
    body: impl Into<Bytes>,
    producer: (&str, u64),
) -> v1::Receipt {
    const PASSING: [&str; 4] =
        [reason::NOT_LEADER, reason::NO_QUORUM, reason::UNKNOWN_OUTCOME, reason::SHUTTING_DOWN];
    let (body, begun) = (body.into(), Instant::now());
    loop {
        let status = match publish(address, queue, body.clone(), Some(producer)).await {
            Ok(receipt) => return receipt,
            Err(status) => status,
        };
        let reason = self::reason(&status);
        assert!(PASSING.contains(&reason.as_str()), "{status:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a publish as it is.
///
/// # Errors
/// What the node says.
pub async fn publish_request(
    address: &str,
    request: v1::PublishRequest,
) -> Result<v1::Receipt, Status> {
    let mut client = v1::queue_service_client::QueueServiceClient::new(channel(address))
        .max_encoding_message_size(usize::MAX);
    let answer = client.publish(request).await?.into_inner();
    answer.receipt.ok_or_else(|| Status::internal("an answer without receipt"))
}

/// What a consumer says first.
#[must_use]
pub fn attach(queue: &str, session: &Bytes, prefetch: u32) -> v1::Attach {
    v1::Attach {
        queue: queue.to_owned(),
        session: session.clone(),
        name: String::new(),
        prefetch,
        lease_ms: 0,
        max_lag_ms: 0,
        tells_starts: false,
        filter: Vec::new(),
    }
}

/// A consumer's stream at one node. Dropping it breaks the stream, as the death of its process does.
#[derive(Debug)]
pub struct RawConsumer {
    requests: mpsc::Sender<v1::ConsumeRequest>,
    answers: Streaming<v1::ConsumeResponse>,
    /// What the node said first.
    pub attached: v1::Attached,
    settles: u64,
    /// The last settle that was answered.
    settled: u64,
}

impl RawConsumer {
    /// Opens the stream with `first` and waits until the consumer is attached.
    ///
    /// # Errors
    /// What the node says.
    pub async fn open(address: &str, first: Option<Request>) -> Result<Self, Status> {
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        // The channel has just been made: there is room.
        let _ = requests.send(v1::ConsumeRequest { request: first }).await;
        let sent = stream::unfold(waiting, |mut waiting| async {
            waiting.recv().await.map(|request| (request, waiting))
        });
        // A stream has no time limit of its own.
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy();
        let mut client = v1::consumer_service_client::ConsumerServiceClient::new(channel);
        let answers = client.consume(sent).await?.into_inner();
        let attached = v1::Attached::default();
        let mut consumer = Self { requests, answers, attached, settles: 0, settled: 0 };
        match consumer.answer().await? {
            Some(Response::Attached(attached)) => Ok(Self { attached, ..consumer }),
            other => Err(Status::internal(format!("attached was expected, not {other:?}"))),
        }
    }

    /// Opens the stream with an attachment.
    ///
    /// # Errors
    /// What the node says.
    pub async fn attach(address: &str, attach: v1::Attach) -> Result<Self, Status> {
        Self::open(address, Some(Request::Attach(attach))).await
    }

    /// The next answer; `None` at the stream's end.
    ///
    /// # Errors
    /// What the node says, or that it says nothing in time.
    pub async fn answer(&mut self) -> Result<Option<Response>, Status> {
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.answers.message()).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("no answer came"))??;
        Ok(answer.and_then(|answer| answer.response))
    }

    /// The next delivery.
    ///
    /// # Panics
    /// When something else comes, or nothing in time.
    pub async fn delivery(&mut self) -> v1::Delivery {
        loop {
            match self.answer().await {
                Ok(Some(Response::Delivery(delivery))) => return delivery,
                Ok(Some(Response::Settled(settled))) => {
                    assert!(settled.lost.is_empty() && settled.failure.is_none(), "{settled:?}");
                    self.settled = settled.id;
                }
                other => panic!("a delivery was expected, not {other:?}"),
            }
        }
    }

    /// Whether nothing comes for `time`.
    pub async fn is_silent_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.answers.message()).await.is_err()
    }

    /// Settles and waits for the answer; deliveries that come meanwhile are passed over.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn settle(&mut self, item: v1::SettleItem) -> v1::Settled {
        self.settles += 1;
        let settle = v1::Settle { id: self.settles, items: vec![item] };
        self.send(Request::Settle(settle)).await;
        loop {
            match self.answer().await {
                Ok(Some(Response::Settled(settled))) if settled.id == self.settles => {
                    self.settled = settled.id;
                    return settled;
                }
                Ok(Some(Response::Delivery(_))) => {}
                other => panic!("an answer to the settle was expected, not {other:?}"),
            }
        }
    }

    /// Settles without waiting for the answer.
    pub async fn settle_later(&mut self, item: v1::SettleItem) {
        self.settles += 1;
        self.send(Request::Settle(v1::Settle { id: self.settles, items: vec![item] })).await;
    }

    /// Waits for the answer to the last settle.
    ///
    /// # Panics
    /// When no answer comes, or one of a settle that failed or was too late.
    pub async fn settled_all(&mut self) {
        while self.settled < self.settles {
            match self.answer().await {
                Ok(Some(Response::Settled(settled))) => {
                    assert!(settled.lost.is_empty() && settled.failure.is_none(), "{settled:?}");
                    self.settled = settled.id;
                }
                Ok(Some(Response::Delivery(_))) => {}
                other => panic!("an answer to the settle was expected, not {other:?}"),
            }
        }
    }

    /// Sends a request.
    pub async fn send(&self, request: Request) {
        // If the stream has ended, the answers tell.
        let _ = self.requests.send(v1::ConsumeRequest { request: Some(request) }).await;
    }
}

/// A settle of one whole delivery.
#[must_use]
pub fn item(kind: v1::SettleKind, delivery: &v1::Delivery, delay_ms: u32) -> v1::SettleItem {
    v1::SettleItem {
        kind: kind.into(),
        token: delivery.token,
        first_offset: delivery.first_offset,
        count: delivery.frame.as_ref().map_or(1, |frame| frame.count),
        delay_ms,
    }
}

/// Bodies of a delivery.
///
/// # Panics
/// When its frame is malformed.
#[must_use]
pub fn bodies(delivery: &v1::Delivery) -> Vec<Bytes> {
    let frame = delivery.frame.as_ref().expect("a delivery has a frame");
    let messages = quorate_proto::frame::messages(frame).expect("the frame is well-formed");
    messages.map(|message| message.body).collect()
}
