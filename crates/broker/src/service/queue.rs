//! Publishing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use quorate_group::{Applied, Outcome};
use quorate_machine::frame::{self as frames, FrameError};
use quorate_machine::queue::{self as machine, Command, ProducerId, Reply};
use quorate_proto::frame::FrameBuilder;
use quorate_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, Services, requests};
use crate::member::Member;
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{Place, forwarded, hops, passed_on};

/// Batches of one stream that may wait for their receipts.
const BATCHES_IN_FLIGHT: usize = 4096;

/// A batch on its way through the quorum.
struct Underway {
    id: u64,
    outcome: Result<Submitted, Refusal>,
}

/// A batch that was queued, and until when its outcome is waited for.
struct Submitted {
    outcome: oneshot::Receiver<Outcome<machine::Queue>>,
    deadline: Instant,
}

/// Where the batches of one stream come from and go to.
struct Publisher {
    node: Arc<Member>,
    queue: Arc<Queue>,
    producer: Option<(ProducerId, u32)>,
}

pub(crate) fn producer_of(
    producer: Option<v1::Producer>,
) -> Result<Option<(ProducerId, u32)>, Refusal> {
    let Some(producer) = producer else { return Ok(None) };
    let id = ProducerId::new(producer.id).map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(Some((id, producer.epoch)))
}

impl Publisher {
    /// Checks a batch and queues it for the quorum; waits while the node holds too much.
    async fn submit(&self, sequence: u64, frame: v1::Frame) -> Result<Submitted, Refusal> {
        if self.node.disk.is_full() {
            return Err(Refusal::disk_full());
        }
        self.check(&frame)?;
        let memory = self.node.budget.memory(frame.messages.len()).await?;
        let bytes = frame.messages.len();
        let producer = self.producer.clone();
        let producer = producer.map(|(id, epoch)| machine::Producer { id, epoch, sequence });
        let command = Command::Publish(machine::Publish {
            producer,
            count: frame.count,
            layout: frames::LAYOUT,
            frame: frame.messages,
        });
        let limit = self.node.config.limits.request_timeout();
        let deadline = Instant::now() + limit;
        let submit = self.queue.handle.submit(command, bytes, Some(memory));
        match tokio::time::timeout(limit, submit).await {
            Ok(outcome) => Ok(Submitted { outcome: outcome?, deadline }),
            Err(_) => Err(Refusal::not_taken()),
        }
    }

    fn check(&self, frame: &v1::Frame) -> Result<(), Refusal> {
        let limits = &self.node.config.limits;
        if frame.layout != u32::from(frames::LAYOUT) {
            let message = format!("frame layout {} is not known to this node", frame.layout);
            return Err(Refusal::new(quorate_proto::reason::UNSUPPORTED_VERSION, message));
        }
        if frame.messages.len() > limits.max_frame_bytes as usize {
            let bytes = frame.messages.len() as u64;
            let limit = limits.max_frame_bytes.into();
            return Err(Refusal::message_too_large(bytes, limit, "max_frame_bytes"));
        }
        frames::validate(&frame.messages, frame.count, limits.max_message_bytes).map_err(|error| {
            match error {
                FrameError::TooLarge { bytes, limit, .. } => {
                    Refusal::message_too_large(bytes, limit, "max_message_bytes")
                }
                error => Refusal::invalid(error.to_string()),
            }
        })
    }

    async fn receipt(&self, submitted: Submitted) -> Result<v1::Receipt, Refusal> {
        let left = submitted.deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, submitted.outcome).await {
            Ok(Ok(Ok(Applied { reply, .. }))) => match reply {
                Reply::Published { first_offset, count, duplicate } => {
                    Ok(v1::Receipt { first_offset: first_offset.0, count, duplicate })
                }
                Reply::Rejected(rejection) => Err(rejection.into()),
                _ => Err(Refusal::unknown_outcome()),
            },
            Ok(Ok(Err(error))) => Err(self.node.redirect(&self.queue, error)),
            Ok(Err(_)) => Err(Refusal::unknown_outcome()),
            Err(_) => {
                let limit = self.node.config.limits.request_timeout();
                let mut refusal = Refusal::unknown_outcome();
                refusal.message =
                    format!("no majority confirmed within {limit:?}; {}", refusal.message);
                Err(refusal)
            }
        }
    }

    async fn answer(&self, underway: Underway) -> v1::PublishStreamResponse {
        use v1::publish_stream_response::Response;
        let id = underway.id;
        let receipt = match underway.outcome {
            Ok(outcome) => self.receipt(outcome).await,
            Err(refusal) => Err(refusal),
        };
        let response = match receipt {
            Ok(receipt) => Response::Receipt(v1::PublishReceipt { id, receipt: Some(receipt) }),
            Err(refusal) => {
                Response::Failure(v1::PublishFailure { id, failure: Some(refusal.into_failure()) })
            }
        };
        v1::PublishStreamResponse { response: Some(response) }
    }

    fn opened(&self) -> v1::PublishStreamResponse {
        use v1::publish_stream_response::Response;
        let term = self.queue.handle.leadership().term;
        let opened = v1::PublishOpened {
            leader: self.node.leader(self.node.id(), term),
            max_message_bytes: self.node.config.limits.max_message_bytes.into(),
            max_frame_bytes: self.node.config.limits.max_frame_bytes.into(),
        };
        v1::PublishStreamResponse { response: Some(Response::Opened(opened)) }
    }

    /// Reads batches until the client ends, and queues them. After a batch that did not enter, no
    /// later one of the stream may: their order would change.
    async fn read(
        self: Arc<Self>,
        mut requests: Streaming<v1::PublishStreamRequest>,
        underway: mpsc::Sender<Underway>,
    ) {
        use v1::publish_stream_request::Request;
        let mut refused: Option<Refusal> = None;
        loop {
            let request = tokio::select! {
                biased;
                () = self.node.shutdown.said() => return,
                request = requests.message() => request,
            };
            let next = match request {
                Ok(Some(v1::PublishStreamRequest { request: Some(Request::Batch(batch)) })) => {
                    let frame = batch.frame.unwrap_or_default();
                    let outcome = match &refused {
                        Some(refusal) => Err(refusal.clone()),
                        None => self.submit(batch.sequence, frame).await,
                    };
                    if let Err(refusal) = &outcome {
                        refused.get_or_insert_with(|| refusal.clone().for_followers());
                    }
                    Underway { id: batch.id, outcome }
                }
                Ok(Some(_)) => {
                    let refusal =
                        Refusal::invalid("a publish stream takes one `open`, then batches");
                    Underway { id: 0, outcome: Err(refusal) }
                }
                Ok(None) | Err(_) => return,
            };
            if underway.send(next).await.is_err() {
                return;
            }
        }
    }
}

/// A frame made of plain messages.
pub(crate) fn frame_of(request: &mut v1::PublishRequest) -> Result<v1::Frame, Refusal> {
    if let Some(frame) = request.frame.take() {
        if !request.messages.is_empty() {
            return Err(Refusal::invalid("give `messages` or `frame`, not both"));
        }
        return Ok(frame);
    }
    let mut frame = FrameBuilder::new();
    for message in std::mem::take(&mut request.messages) {
        let headers: Vec<(String, Bytes)> =
            message.headers.into_iter().map(|header| (header.key, header.value)).collect();
        frame.push(&headers, &message.body).map_err(|error| Refusal::invalid(error.to_string()))?;
    }
    Ok(frame.finish())
}

#[tonic::async_trait]
impl v1::queue_service_server::QueueService for Services {
    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let hops = hops(request.metadata());
        let mut request = request.into_inner();
        let queue = match self.node.place(&request.queue, hops).await? {
            Place::Here(queue) => queue,
            Place::There(node) => {
                let channel = self.node.channel(node)?;
                let mut client = v1::queue_service_client::QueueServiceClient::new(channel)
                    .max_decoding_message_size(crate::peers::MESSAGE_BYTES_MAX);
                return client.publish(forwarded(request, hops)).await.map_err(passed_on);
            }
        };
        let frame = frame_of(&mut request)?;
        let producer = producer_of(request.producer.take())?;
        let publisher = Publisher { node: self.node.clone(), queue, producer };
        let submitted = publisher.submit(request.sequence, frame).await?;
        let receipt = publisher.receipt(submitted).await?;
        Ok(Response::new(v1::PublishResponse { receipt: Some(receipt) }))
    }

    type PublishStreamStream = Answers<v1::PublishStreamResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        use v1::publish_stream_request::Request as Kind;
        let hops = hops(request.metadata());
        let stream = self.node.budget.stream()?;
        let mut batches = request.into_inner();
        let first = tokio::time::timeout(FIRST_MESSAGE, batches.message()).await;
        let first =
            first.map_err(|_| Refusal::invalid("the stream's first message did not come"))??;
        let Some(v1::PublishStreamRequest { request: Some(Kind::Open(open)) }) = first else {
            return Err(Refusal::invalid("the first message of a publish stream is `open`").into());
        };
        let queue = match self.node.place(&open.queue, hops).await? {
            Place::Here(queue) => queue,
            Place::There(node) => {
                let channel = self.node.channel(node)?;
                let mut client = v1::queue_service_client::QueueServiceClient::new(channel)
                    .max_decoding_message_size(crate::peers::MESSAGE_BYTES_MAX);
                let first = v1::PublishStreamRequest { request: Some(Kind::Open(open)) };
                let request = forwarded(requests(first, batches), hops);
                let answers = client.publish_stream(request).await.map_err(passed_on)?;
                let answers = answers.into_inner().map_err(passed_on);
                return Ok(Response::new(Box::pin(answers)));
            }
        };
        let producer = producer_of(open.producer)?;
        let publisher = Arc::new(Publisher { node: self.node.clone(), queue, producer });
        let (sender, mut underway) = mpsc::channel(BATCHES_IN_FLIGHT);
        tokio::spawn(publisher.clone().read(batches, sender));
        let answers = async_stream::stream! {
            let _stream = stream;
            yield Ok(publisher.opened());
            while let Some(next) = underway.recv().await {
                yield Ok(publisher.answer(next).await);
            }
        };
        Ok(Response::new(Box::pin(answers)))
    }
}

/// How long a stream may take until its first message.
pub(super) const FIRST_MESSAGE: Duration = Duration::from_secs(10);
