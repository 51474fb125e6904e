//! [`Reader`]: sees a queue's messages without taking them.
//!
//! `Reader` is the handle, `builder` its settings; `confirms` moves its slot.

mod builder;
mod confirms;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use quorate_proto::frame::{self, Headers, MessageView};
use quorate_proto::v1;
use quorate_proto::v1::reader_service_client::ReaderServiceClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

pub use builder::ReaderBuilder;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, ReadError, Refusal};
use crate::fault::Fault;
use crate::nodes::MAX_ANSWER_BYTES;
use crate::replicas::Replicas;
use confirms::Confirms;

/// A followed stream that says nothing for so long is given up: a node tells at least each second how it is.
const SILENCE_MAX: Duration = Duration::from_secs(6);

/// Sees a queue's messages in order, without leasing or settling them; made by
/// [`Client::reader`](crate::Client::reader). Any number of readers see every message each.
///
/// It reads from the nearest replica, whether that leads or not, within the bound on staleness that it was built
/// with, and goes on at another one when that fails or cannot hold the bound: without a gap, a repetition, or going
/// back in time. Without [`follow`](ReaderBuilder::follow) the stream ends at the end of the queue.
///
/// A queue keeps settled messages for readers if it was created with `retain_ms` or `retain_bytes`, or has a slot
/// that needs them; otherwise only what has not been settled can be read.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use futures_util::StreamExt;
/// use quorate_client::Client;
/// let client = Client::connect(["127.0.0.1:7101"]).await?;
/// let mut reader = client.reader("orders").build();
/// while let Some(message) = reader.next().await {
///     let message = message?;
///     println!("{}: {:?}", message.offset, message.body);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Reader {
    messages: BoxStream<'static, Result<ReadMessage, ReadError>>,
    position: Arc<Mutex<v1::ReadPosition>>,
    /// Of a reader of a slot.
    confirms: Option<Confirms>,
    /// The last offset that the application has seen.
    shown: Option<u64>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("position", &self.position()).finish_non_exhaustive()
    }
}

impl Reader {
    /// What the last answer was read from, and how old it was at most: `staleness_ms`. All zero before the first.
    /// Its `next_offset` is behind all that was sent, which the stream may not have shown yet.
    #[must_use]
    pub fn position(&self) -> v1::ReadPosition {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of a reader of a [slot](ReaderBuilder::slot): the message at `offset` and all before it are done with. Returns
    /// at once; the slot is moved a few times a second, for all that was confirmed meanwhile, and once more when the
    /// reader is dropped. [`flush`](Self::flush) waits for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a reader without a slot, or an offset that it has not shown; [`Error::Refused`] once the
    /// slot could not be moved for good, with `SLOT_LOST`, `SLOT_MOVED` or `SLOT_NOT_FOUND`.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use futures_util::StreamExt;
    /// let mut reader = client.reader("orders").slot("warehouse").follow().build();
    /// while let Some(message) = reader.next().await {
    ///     let message = message?;
    ///     println!("{:?}", message.body);
    ///     reader.confirm(message.offset)?;
    /// }
    /// reader.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn confirm(&self, offset: u64) -> Result<(), Error> {
        let Some(confirms) = &self.confirms else {
            return Err(Error::Invalid("the reader has no slot to move".to_owned()));
        };
        if self.shown < Some(offset) {
            return Err(Error::Invalid(format!("offset {offset} has not been read yet")));
        }
        confirms.want(offset + 1, &self.position())
    }

    /// Waits until the slot is behind all that was confirmed. Without a slot there is nothing to wait for.
    ///
    /// # Errors
    /// Those of [`Client::advance_slot`](crate::Client::advance_slot). When no node took it, it is tried again.
    pub fn flush(&self) -> impl Future<Output = Result<(), Error>> + Send + '_ {
        // Not the whole reader is borrowed by the future: its stream cannot be shared between threads.
        flush(self.confirms.as_ref())
    }

    /// Flushes, and ends the reader.
    ///
    /// # Errors
    /// Those of [`flush`](Self::flush).
    pub async fn close(self) -> Result<(), Error> {
        let Self { confirms, .. } = self;
        flush(confirms.as_ref()).await
    }
}

async fn flush(confirms: Option<&Confirms>) -> Result<(), Error> {
    match confirms {
        Some(confirms) => confirms.flush().await,
        None => Ok(()),
    }
}

impl Stream for Reader {
    type Item = Result<ReadMessage, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(confirms) = &mut self.confirms {
            confirms.start();
        }
        let next = self.messages.poll_next_unpin(context);
        if let Poll::Ready(Some(Ok(message))) = &next {
            self.shown = Some(message.offset);
        }
        next
    }
}

/// A message that was read.
#[derive(Clone, Debug)]
pub struct ReadMessage {
    /// The message's place in the queue.
    pub offset: u64,
    /// When its batch was published, by the leader's clock.
    pub published_at: SystemTime,
    /// The message's headers, in the order in which they were given.
    pub headers: Headers,
    /// The message's payload.
    pub body: Bytes,
}

impl ReadMessage {
    /// The key that the message was published with, if it has one; see [`Message::group_key`](crate::Message::group_key).
    #[must_use]
    pub fn group_key(&self) -> Option<String> {
        self.headers.group_key()
    }
}

/// What a reader was built with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    queue: String,
    from: Option<v1::read_request::From>,
    consistency: Option<v1::read_request::Consistency>,
    limit: Option<u64>,
    follow: bool,
    zone: String,
    slot: Option<String>,
}

/// A reader at work: its place, and the stream that is open.
struct Reading {
    client: Client,
    settings: Settings,
    replicas: Replicas,
    position: Arc<Mutex<v1::ReadPosition>>,
    stream: Option<Open>,
    ready: VecDeque<ReadMessage>,
    /// Where to go on, once something was answered.
    next: Option<u64>,
    at_least: u64,
    group: u64,
    slot_made_at: u64,
    left: Option<u64>,
    backoff: Backoff,
    /// Since when nothing has helped.
    failing_since: Option<Instant>,
    /// The end of the queue at the first answer, and whether a reader that does not follow has reached it.
    end: Option<u64>,
    ended: bool,
}

struct Open {
    answers: Streaming<v1::ReadResponse>,
    at: String,
}

impl Reading {
    fn new(client: Client, settings: Settings, position: Arc<Mutex<v1::ReadPosition>>) -> Self {
        Self {
            replicas: Replicas::new(settings.zone.clone()),
            left: settings.limit,
            client,
            settings,
            position,
            stream: None,
            ready: VecDeque::new(),
            next: None,
            at_least: 0,
            group: 0,
            slot_made_at: 0,
            backoff: Backoff::new(),
            failing_since: None,
            end: None,
            ended: false,
        }
    }

    /// The next message; `None` at the end of a reader that does not follow.
    async fn next(&mut self) -> Result<Option<ReadMessage>, ReadError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            if self.ended || self.left == Some(0) {
                return Ok(None);
            }
            if let Err(fault) = self.advance().await? {
                self.failed(fault).await?;
            }
        }
    }

    /// Takes one answer in, opening a stream if there is none.
    async fn advance(&mut self) -> Result<Result<(), Fault>, ReadError> {
        if self.stream.is_none() {
            match self.open().await {
                Ok(open) => self.stream = Some(open),
                Err(fault) => return Ok(Err(fault)),
            }
        }
        let Some(open) = &mut self.stream else { return Ok(Ok(())) };
        match timeout(SILENCE_MAX, open.answers.message()).await {
            Ok(Ok(Some(answer))) => self.take(&answer).map(Ok),
            Ok(Ok(None)) => Ok(Err(Fault::transport(format!("{}: the stream ended", open.at)))),
            Ok(Err(status)) => Ok(Err(Fault::from(status))),
            Err(_) => Ok(Err(Fault::transport(format!("{}: silent for {SILENCE_MAX:?}", open.at)))),
        }
    }

    async fn open(&mut self) -> Result<Open, Fault> {
        let address = self.replicas.next(&self.client, &self.settings.queue).await?;
        let limit = self.client.nodes.request_timeout();
        let opening = async {
            let channel = self.client.nodes.channel(&address).await?;
            let mut client =
                ReaderServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
            let from = self.next.map(v1::read_request::From::Offset).or(self.settings.from);
            let request = v1::ReadRequest {
                queue: self.settings.queue.clone(),
                from,
                max_messages: self.left.unwrap_or(0),
                follow: self.settings.follow,
                consistency: self.settings.consistency,
                at_least_index: self.at_least,
                group_id: self.group,
                slot: self.settings.slot.clone().unwrap_or_default(),
                slot_made_at: self.slot_made_at,
            };
            Ok(client.read(request).await.map_err(Fault::from)?.into_inner())
        };
        let at = address.to_string();
        match timeout(limit, opening).await {
            Ok(Ok(answers)) => Ok(Open { answers, at }),
            Ok(Err(fault)) => {
                self.client.nodes.failed(&address, &fault);
                Err(fault)
            }
            Err(_) => Err(Fault::transport(format!("{at} did not answer within {limit:?}"))),
        }
    }

    fn take(&mut self, answer: &v1::ReadResponse) -> Result<(), ReadError> {
        let position = answer.position.unwrap_or_default();
        for batch in &answer.batches {
            let published_at =
                SystemTime::UNIX_EPOCH + Duration::from_millis(batch.published_at_ms);
            let frame = batch.frame.clone().unwrap_or_default();
            for (offset, message) in (batch.first_offset..).zip(frame::messages(&frame)?) {
                let MessageView { headers, body } = message;
                self.ready.push_back(ReadMessage { offset, published_at, headers, body });
            }
        }
        self.left = self.left.map(|left| left.saturating_sub(self.ready.len() as u64));
        self.next = Some(position.next_offset);
        self.at_least = self.at_least.max(position.index);
        self.group = position.group_id;
        self.slot_made_at = position.slot_made_at;
        let end = *self.end.get_or_insert(position.end_offset);
        self.ended = !self.settings.follow && position.next_offset >= end;
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = position;
        self.backoff.reset();
        self.failing_since = None;
        Ok(())
    }

    /// Gives the stream up, and waits before the next try; fails when none has helped for too long.
    async fn failed(&mut self, fault: Fault) -> Result<(), ReadError> {
        self.stream = None;
        if !fault.is_retryable() {
            return Err(ReadError::Refused(fault.refusal));
        }
        let after = self.client.nodes.request_timeout();
        let last: Refusal = fault.refusal;
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= after {
            return Err(ReadError::Unavailable { after, last });
        }
        sleep(self.backoff.pause(None)).await;
        Ok(())
    }
}
