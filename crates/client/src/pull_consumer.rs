//! [`PullConsumer`]: takes one batch of messages a call, without a stream.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::v1::consumer_service_client::ConsumerServiceClient;
use quorate_proto::{reason, v1};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::client::Client;
use crate::consumer::check_filter;
use crate::error::{Error, Refusal, SettleError};
use crate::fault::Verdict;
use crate::nodes::{Effect, MAX_ANSWER_BYTES};
use crate::random;
use crate::sharding::{Sharding, is_of_sharded, shard_name};

/// A node is asked to wait no longer than this at a time, so that one that has died is noticed.
const SLICE: Duration = Duration::from_secs(4);

/// How long one of several shards may take to say that it has nothing.
const SHARD_WAIT: Duration = Duration::from_secs(1);
/// How long one that has not answered is left out.
const SILENT: Duration = Duration::from_secs(3);
/// For how long the list of shards is gone by: a queue that was made again may have others.
const LEARNED: Duration = Duration::from_secs(10);
/// How often one call learns the list anew since a shard of it was not there.
const LISTS: u32 = 3;
/// Between two rounds over shards that have nothing: the first pause, doubled up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

fn no_answer(shard: &str) -> Error {
    let message = format!("shard {shard} did not answer within {SHARD_WAIT:?}");
    let last = Refusal { message, ..Refusal::default() };
    Error::Unavailable { after: SHARD_WAIT, last }
}

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.reason == reason::QUEUE_NOT_FOUND)
}

fn consumers(channel: Channel) -> ConsumerServiceClient<Channel> {
    ConsumerServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// Takes messages from a queue a batch at a time, for scripts, functions and whatever runs now and then; made by
/// [`Client::pull_consumer`].
///
/// Messages are leased until they are settled or their leases end: nothing extends them, and nothing gives them back
/// when this program ends. So a message may be settled by another program than the one that received it, by its
/// [`Held`]. For a program that runs on, [`Consumer`](crate::Consumer) costs the cluster less and loses no time.
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use quorate_client::Settlement;
/// let puller = client.pull_consumer("orders");
/// for message in puller.receive(10, Duration::from_secs(20)).await? {
///     println!("{}: {:?}", message.held.offset, message.body);
///     puller.settle(message.held, Settlement::Ack).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PullConsumer {
    client: Client,
    queue: String,
    name: String,
    lease: Option<Duration>,
    filter: Vec<String>,
    /// Of a sharded queue, once that is known: its shards, and when they were learned.
    shards: Arc<Mutex<Option<Learned>>>,
    /// The place of the shard that is asked first.
    turn: Arc<AtomicUsize>,
}

/// When the shards were learned, and which they are.
type Learned = (Instant, Arc<Sharding>);

/// What came of asking the shards.
enum Taken {
    /// None, if they had nothing for long enough.
    Messages(Vec<Received>),
    /// A shard is not there, and the list of them is another by now.
    Missing(Error),
    /// There is time left, and the list is to be learned anew.
    Old,
}

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it is settled by.
    pub held: Held,
    /// 1 at the first delivery of the message, one more at each further one.
    pub attempt: u32,
    /// The message's headers, in the order in which they were given.
    pub headers: Vec<(String, Bytes)>,
    /// The message's payload.
    pub body: Bytes,
}

/// Names a message and its lease. As text it is `SESSION.TOKEN.OFFSET`, of a sharded queue with `@SHARD` behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// Whose lease it is.
    pub session: [u8; 16],
    /// The lease: what fences off those who were too slow.
    pub token: u64,
    /// The message's place in the queue.
    pub offset: u64,
    /// Of a sharded queue, the number of the shard.
    pub shard: Option<u16>,
}

impl fmt::Display for Held {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = u128::from_be_bytes(self.session);
        write!(formatter, "{session:032x}.{}.{}", self.token, self.offset)?;
        self.shard.map_or(Ok(()), |shard| write!(formatter, "@{shard}"))
    }
}

/// Text that names no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no received message: it is SESSION.TOKEN.OFFSET, of a sharded queue with @SHARD"
)]
pub struct HeldError(String);

impl FromStr for Held {
    type Err = HeldError;

    fn from_str(text: &str) -> Result<Self, HeldError> {
        let parse = || {
            let (message, shard) = match text.split_once('@') {
                Some((message, shard)) => (message, Some(shard.parse().ok()?)),
                None => (text, None),
            };
            let mut parts = message.split('.');
            let session = parts.next().filter(|session| session.len() == 32)?;
            let session = u128::from_str_radix(session, 16).ok()?.to_be_bytes();
            let (token, offset) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            parts.next().is_none().then_some(Self { session, token, offset, shard })
        };
        parse().ok_or_else(|| HeldError(text.to_owned()))
    }
}

/// What becomes of a message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done: it is never delivered again.
    Ack,
    /// It goes back to its place in the queue, not before a delay if one is given, and otherwise after the queue's
    /// back-off, if it has one.
    Nack(Option<Duration>),
    /// It was not handled: it is at its place in the queue at once, and this delivery does not count.
    PutBack,
    /// Not wanted: it leaves the queue.
    Reject,
    /// Not done yet: the lease lasts so much longer from now, 100 ms to 12 h.
    Extend(Duration),
}

impl Settlement {
    fn kind(self) -> (v1::SettleKind, u32) {
        match self {
            Self::Ack => (v1::SettleKind::Ack, 0),
            Self::Nack(delay) => (v1::SettleKind::Nack, millis(delay.unwrap_or_default())),
            Self::PutBack => (v1::SettleKind::Return, 0),
            Self::Reject => (v1::SettleKind::Reject, 0),
            Self::Extend(lease) => (v1::SettleKind::Extend, millis(lease)),
        }
    }
}

impl PullConsumer {
    pub(crate) fn new(client: Client, queue: String) -> Self {
        // Programs that ask once each come to all shards.
        let (shards, turn) = (Arc::default(), Arc::new(AtomicUsize::new(random::choice())));
        let (name, lease, filter) = (String::new(), None, Vec::new());
        Self { client, queue, name, lease, filter, shards, turn }
    }

    /// Shown to people in listings; at most 128 bytes, empty unless set.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Length of a lease, 100 ms to 12 h; the queue's setting unless set.
    #[must_use]
    pub fn lease(mut self, length: Duration) -> Self {
        self.lease = Some(length);
        self
    }

    /// Takes only messages with one of these values, as [`ConsumerBuilder::filter`](crate::ConsumerBuilder::filter).
    #[must_use]
    pub fn filter(mut self, values: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.filter = values.into_iter().map(Into::into).collect();
        self
    }

    /// Takes up to `most` messages (1 to 1,000) that are ready; if there are none, waits up to `wait` for the first ones.
    /// None have come if it is empty.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND` or `INVALID_ARGUMENT`; [`Error::Unavailable`] when no node answers within
    /// the client's request time limit. Messages of an answer that was lost come again when their leases end.
    pub async fn receive(&self, most: u32, wait: Duration) -> Result<Vec<Received>, Error> {
        check_filter(&self.filter)?;
        let (begun, session) = (Instant::now(), random::session());
        let slice = SLICE.min(self.client.nodes.request_timeout() / 2);
        let mut lists = 0;
        loop {
            let left = wait.saturating_sub(begun.elapsed());
            if let Some(sharding) = self.sharding().await? {
                match self.receive_of_any(&sharding, session, most, left).await? {
                    Taken::Messages(messages) => return Ok(messages),
                    Taken::Missing(error) if lists == LISTS => return Err(error),
                    Taken::Missing(_) => lists += 1,
                    Taken::Old => {}
                }
                continue;
            }
            let messages = match self.ask(None, session, most, left.min(slice)).await {
                Err(error) if is_of_sharded(&error) => {
                    self.keep(Some(Arc::new(self.client.sharding(&self.queue).await?)));
                    continue;
                }
                messages => messages?,
            };
            if !messages.is_empty() || left <= slice {
                return Ok(messages);
            }
        }
    }

    fn kept(&self) -> Option<Learned> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, sharding: Option<Arc<Sharding>>) {
        let learned = sharding.map(|sharding| (Instant::now(), sharding));
        *self.shards.lock().unwrap_or_else(PoisonError::into_inner) = learned;
    }

    /// The shards, as they were not long ago; none if the queue is not known to be sharded.
    async fn sharding(&self) -> Result<Option<Arc<Sharding>>, Error> {
        match self.kept() {
            Some((learned, _)) if learned.elapsed() >= LEARNED => self.learn().await,
            kept => Ok(kept.map(|(_, sharding)| sharding)),
        }
    }

    /// Learns the shards anew, and goes by those known if no node says in time.
    async fn learn(&self) -> Result<Option<Arc<Sharding>>, Error> {
        let told = tokio::time::timeout(SHARD_WAIT, self.client.sharding(&self.queue)).await;
        let present = match told {
            Ok(Ok(sharding)) => Some(Arc::new(sharding)),
            // It is gone, or not sharded any more: asked by its name, it says which.
            Ok(Err(error)) if is_not_found(&error) => None,
            Ok(Err(error @ (Error::Refused(_) | Error::Invalid(_)))) => return Err(error),
            Ok(Err(_)) | Err(_) => self.kept().map(|(_, sharding)| sharding),
        };
        self.keep(present.clone());
        Ok(present)
    }

    /// Asks the shards in turn for what they have, until one has something. One that does not answer is left out for a
    /// while. Each is asked once, however short the wait, if the client's request time limit is enough for that.
    async fn receive_of_any(
        &self,
        sharding: &Sharding,
        session: [u8; 16],
        most: u32,
        wait: Duration,
    ) -> Result<Taken, Error> {
        let (begun, count) = (Instant::now(), sharding.shards().len());
        let mut silent: Vec<Option<Instant>> = vec![None; count];
        let mut pause = PAUSES.0;
        let mut limit = wait.max(self.client.nodes.request_timeout());
        loop {
            let (from, mut failed) = (self.turn.fetch_add(1, Ordering::Relaxed) % count, None);
            for place in (from..count).chain(0..from) {
                if begun.elapsed() >= limit {
                    break;
                }
                silent[place].take_if(|since| since.elapsed() >= SILENT);
                if silent[place].is_some() {
                    continue;
                }
                let shard = sharding.shards()[place].number;
                let asked = self.ask(Some(shard), session, most, Duration::ZERO);
                let error = match tokio::time::timeout(SHARD_WAIT, asked).await {
                    Ok(Ok(messages)) if messages.is_empty() => continue,
                    Ok(Ok(messages)) => return Ok(Taken::Messages(messages)),
                    Ok(Err(error)) if is_not_found(&error) => {
                        let present = self.learn().await?;
                        if present.is_none_or(|now| now.generation != sharding.generation) {
                            return Ok(Taken::Missing(error));
                        }
                        error
                    }
                    Ok(Err(error @ Error::Refused(_))) => return Err(error),
                    Ok(Err(error)) => error,
                    Err(_) => no_answer(&sharding.shards()[place].name),
                };
                (silent[place], failed) = (Some(Instant::now()), Some(error));
            }
            if let Some(error) = failed.filter(|_| silent.iter().all(Option::is_some)) {
                return Err(error);
            }
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(Taken::Messages(Vec::new()));
            }
            if self.kept().is_none_or(|(learned, _)| learned.elapsed() >= LEARNED) {
                return Ok(Taken::Old);
            }
            limit = wait;
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn ask(
        &self,
        shard: Option<u16>,
        session: [u8; 16],
        most: u32,
        wait: Duration,
    ) -> Result<Vec<Received>, Error> {
        let request = v1::ReceiveRequest {
            queue: shard_name(&self.queue, shard),
            session: Bytes::copy_from_slice(&session),
            name: self.name.clone(),
            max_messages: most.max(1),
            wait_ms: millis(wait),
            lease_ms: self.lease.map_or(0, |lease| millis(lease).max(1)),
            filter: self.filter.clone(),
        };
        let ask = |channel| {
            let request = request.clone();
            async move { consumers(channel).receive(request).await }
        };
        // Asked again it takes others, and none is lost.
        let answer = self.client.nodes.call(Effect::Reads, ask).await?;
        let received = |message: v1::ReceivedMessage| Received {
            held: Held { session, token: message.token, offset: message.offset, shard },
            attempt: message.attempt,
            headers: message.headers.into_iter().map(|of| (of.key, of.value)).collect(),
            body: message.body,
        };
        Ok(answer.messages.into_iter().map(received).collect())
    }

    /// Settles a message. Returns once a majority has that on disk. It may have been received through another one.
    ///
    /// # Errors
    /// See [`SettleError`].
    pub async fn settle(&self, held: Held, how: Settlement) -> Result<(), SettleError> {
        let (kind, delay_ms) = how.kind();
        let item = v1::SettleItem {
            kind: kind.into(),
            token: held.token,
            first_offset: held.offset,
            count: 1,
            delay_ms,
        };
        let request = v1::SettleRequest {
            queue: shard_name(&self.queue, held.shard),
            session: Bytes::copy_from_slice(&held.session),
            items: vec![item],
        };
        let asked = AtomicU32::new(0);
        let ask = |channel| {
            asked.fetch_add(1, Ordering::Relaxed);
            let request = request.clone();
            async move { consumers(channel).settle(request).await }
        };
        match self.client.nodes.call(Effect::Writes, ask).await {
            Ok(answer) if answer.lost.is_empty() => Ok(()),
            // An attempt before may have settled it.
            Ok(_) if asked.into_inner() > 1 => Err(SettleError::UnknownOutcome),
            Ok(_) => Err(SettleError::LeaseLost),
            Err(failed) if failed.maybe_done || failed.fault.verdict == Verdict::Unknown => {
                Err(SettleError::UnknownOutcome)
            }
            Err(failed) => Err(SettleError::Refused(failed.fault.refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_back_from_its_text_and_nothing_else_does() {
        let held = Held { session: [0xab; 16], token: 7, offset: 12, shard: None };
        let of_shard = Held { shard: Some(3), ..held };
        assert_eq!(of_shard.to_string(), format!("{held}@3"));
        assert_eq!(of_shard.to_string().parse(), Ok(of_shard));
        assert_eq!(held.to_string(), format!("{}.7.12", "ab".repeat(16)));
        assert_eq!(held.to_string().parse(), Ok(held));
        for text in [
            "",
            "7.12",
            "zz.7.12",
            &format!("{held}.1"),
            &held.to_string()[1..],
            &format!("{held}@"),
            &format!("{held}@x"),
        ] {
            let error = text.parse::<Held>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
