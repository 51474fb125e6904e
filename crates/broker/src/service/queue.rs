//! Publishing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use quorate_proto::frame::FrameBuilder;
use quorate_proto::v1;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::publisher::{Publisher, condition_of, producer_of};
use super::{Answers, Services, requests};
use crate::refusal::Refusal;
use crate::routing::{Place, forwarded, hops, passed_on};

/// Batches of one stream that may wait for their receipts.
const BATCHES_IN_FLIGHT: usize = 4096;

/// The frame of a request, and its messages' properties: those that come with the frame, or those of each message.
pub(crate) fn frame_of(
    request: &mut v1::PublishRequest,
) -> Result<(v1::Frame, Vec<v1::Properties>), Refusal> {
    let mut properties = std::mem::take(&mut request.properties);
    if let Some(frame) = request.frame.take() {
        if !request.messages.is_empty() {
            return Err(Refusal::invalid("give `messages` or `frame`, not both"));
        }
        return Ok((frame, properties));
    }
    if !properties.is_empty() {
        return Err(Refusal::invalid("`properties` are those of a `frame`; a message has its own"));
    }
    let mut frame = FrameBuilder::new();
    for message in std::mem::take(&mut request.messages) {
        let v1::Message { body, headers, delay_ms, deliver_at_ms, ttl_ms, priority, group_key } =
            message;
        let headers: Vec<(String, Bytes)> =
            headers.into_iter().map(|header| (header.key, header.value)).collect();
        let pushed = frame.push_keyed(&headers, &group_key, &body);
        pushed.map_err(|error| Refusal::invalid(error.to_string()))?;
        let of = v1::Properties { count: 1, delay_ms, deliver_at_ms, ttl_ms, priority, group_key };
        let is_plain = of == v1::Properties { count: 1, ..<_>::default() };
        if !is_plain && properties.is_empty() && frame.count() > 1 {
            properties.push(v1::Properties { count: frame.count() - 1, ..<_>::default() });
        }
        if !is_plain || !properties.is_empty() {
            properties.push(of);
        }
    }
    Ok((frame.finish(), properties))
}

#[tonic::async_trait]
impl v1::queue_service_server::QueueService for Services {
    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let hops = hops(request.metadata());
        let mut request = request.into_inner();
        let routed = self.shard_to_publish_to(&request)?;
        if let Some(routed) = &routed {
            request.queue = routed.shard.as_str().to_owned();
            request.shards_generation = routed.generation;
        }
        let shard = routed.map(|routed| routed.shard.as_str().to_owned());
        let queue = match self.node.place(&request.queue, hops).await? {
            Place::Here(queue) => queue,
            Place::There(node) => {
                let channel = self.node.channel(node)?;
                let mut client = v1::queue_service_client::QueueServiceClient::new(channel)
                    .max_decoding_message_size(crate::peers::MESSAGE_BYTES_MAX);
                let mut answer =
                    client.publish(forwarded(request, hops)).await.map_err(passed_on)?;
                // The node where it is led knows of no other name.
                if let Some(shard) = shard {
                    answer.get_mut().shard = shard;
                }
                return Ok(answer);
            }
        };
        self.node.check_routed(&queue.name, request.shards_generation)?;
        let (frame, properties) = frame_of(&mut request)?;
        let producer = producer_of(request.producer.take())?;
        let condition = condition_of(&request.message_id, request.expected_next_offset)?;
        let publisher = Publisher::new(self.node.clone(), queue, producer);
        let v1::PublishRequest { sequence, ack, .. } = request;
        let submitted = publisher.submit(sequence, frame, &properties, condition, ack).await?;
        let receipt = publisher.receipt(submitted).await?;
        let shard = shard.unwrap_or_default();
        Ok(Response::new(v1::PublishResponse { receipt: Some(receipt), shard }))
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
        self.node.check_generation(&queue.name, open.shards_generation)?;
        let producer = producer_of(open.producer)?;
        let publisher = Arc::new(Publisher::new(self.node.clone(), queue, producer));
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
