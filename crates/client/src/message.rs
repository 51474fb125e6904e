//! What a producer sends.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quorate_proto::sharding::SHARD_KEY_BYTES_MAX;
use quorate_proto::{reason, v1};

use crate::error::{PublishError, Refusal};
use crate::sharding::refused;

/// A message to be published: a body and, if wanted, headers.
///
/// Headers keep their order and pass through untouched; keys are 1 to 256 bytes, at most 64 headers a
/// message. How large a message may be, headers included, is the server's setting (1 MiB unless set,
/// never more than 16 MiB).
///
/// ```
/// use quorate_client::Message;
/// let message = Message::new(r#"{"order": 7}"#).header("content-type", "application/json");
/// assert_eq!(message.headers().len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    body: Bytes,
    headers: Vec<(String, Bytes)>,
    /// In a box, since few messages have one and all are moved about; none that is as `Apart::default()`.
    apart: Option<Box<Apart>>,
}

/// What sets a message apart from plain ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Apart {
    due: Due,
    group_key: String,
    shard_key: String,
    ttl: Option<Duration>,
    priority: u8,
}

/// The longest delay and time to live.
const DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// The highest priority.
const PRIORITY_MAX: u8 = 9;

/// When a message may be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Due {
    #[default]
    AtOnce,
    After(Duration),
    At(SystemTime),
}

impl Message {
    /// A message without headers.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    fn set(mut self, set: impl FnOnce(&mut Apart)) -> Self {
        let mut apart = self.apart.take().unwrap_or_default();
        set(&mut apart);
        self.apart = Some(apart).filter(|apart| **apart != Apart::default());
        self
    }

    /// Appends a header. A key may be given more than once.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((key.into(), value.into()));
        self
    }

    /// Not delivered to consumers before so much time has passed since the leader has it; at most 366 days, to the
    /// millisecond. Readers see it at once. When it is due it is the first in line for its offset.
    ///
    /// ```
    /// use std::time::Duration;
    /// use quorate_client::Message;
    /// let reminder = Message::new("your cart is waiting").delay(Duration::from_secs(3600));
    /// ```
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        self.set(|apart| apart.due = Due::After(delay))
    }

    /// Not delivered to consumers before this time, by the clock of the queue's leader; at most 366 days from now. A
    /// time that has passed is no delay. In place of [`delay`](Self::delay): the later call counts.
    #[must_use]
    pub fn deliver_at(self, time: SystemTime) -> Self {
        self.set(|apart| apart.due = Due::At(time))
    }

    /// Delivered one after the other with all messages of the same key, in the order of their offsets, whoever
    /// consumes: the next one once the one before it is acked or has left the queue otherwise. What is retried holds
    /// back its own key and no other. At most 256 bytes; an empty key is none. Consumers and readers see it as the
    /// header `quorate-group-key`, which is one of the 64 that a message may have, and cannot be given otherwise.
    ///
    /// ```
    /// use quorate_client::Message;
    /// let message = Message::new("paid").group_key("order 7");
    /// ```
    #[must_use]
    pub fn group_key(self, key: impl Into<String>) -> Self {
        self.set(|apart| apart.group_key = key.into())
    }

    /// With a sharded queue: goes to the same shard as all messages with this key, which keeps their order there. At most
    /// 256 bytes; an empty key is none. Nobody sees it later. A message that has a [group key](Self::group_key) goes by that,
    /// and other queues take no notice.
    #[must_use]
    pub fn shard_key(self, key: impl Into<String>) -> Self {
        self.set(|apart| apart.shard_key = key.into())
    }

    /// What chooses its shard; empty if nothing does.
    pub(crate) fn spread_by(&self) -> &str {
        match &self.apart {
            Some(apart) if apart.group_key.is_empty() => &apart.shard_key,
            _ => self.key(),
        }
    }

    pub(crate) fn check_shard_key(&self) -> Result<(), PublishError> {
        let bytes = self.apart.as_ref().map_or(0, |apart| apart.shard_key.len());
        let most = SHARD_KEY_BYTES_MAX;
        match bytes > most {
            true => Err(refused(format!("the shard key has {bytes} bytes; at most {most}"))),
            false => Ok(()),
        }
    }

    /// Its key; empty if it has none.
    pub(crate) fn key(&self) -> &str {
        self.apart.as_ref().map_or("", |apart| &apart.group_key)
    }

    /// Not delivered any more once so much time has passed since the leader has it, or since it is due if it is for
    /// later; at most 366 days, to the millisecond. A consumer that has the message by then keeps it; given back, it is
    /// gone. With a time to live of the queue too, the one that ends first counts.
    ///
    /// ```
    /// use std::time::Duration;
    /// use quorate_client::Message;
    /// let quote = Message::new("42.17").ttl(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        self.set(|apart| apart.ttl = Some(ttl))
    }

    /// 0 to 9, 0 unless set: of what is ready, the highest priority goes out first, and of equal ones the lowest
    /// offset. Other than 0 only in a queue that has [`priorities`](crate::QueueSettings::priorities); others refuse
    /// the batch with `PRIORITIES_OFF`.
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.set(|apart| apart.priority = priority)
    }

    /// Refuses what no server takes, before it fails the batch that it is in.
    pub(crate) fn check_properties(&self) -> Result<(), PublishError> {
        let refused = |message: String| {
            let reason = reason::INVALID_ARGUMENT.to_owned();
            Err(PublishError::Refused(Refusal { reason, message, ..Refusal::default() }))
        };
        let Some(apart) = &self.apart else { return Ok(()) };
        match (apart.due, apart.ttl) {
            (Due::After(delay), _) if delay > DELAY_MAX => {
                refused(format!("the delay is {delay:?}; at most 366 days"))
            }
            (_, Some(ttl)) if ttl > DELAY_MAX => {
                refused(format!("the time to live is {ttl:?}; at most 366 days"))
            }
            _ if apart.priority > PRIORITY_MAX => {
                refused(format!("the priority is {}; 0 to 9", apart.priority))
            }
            _ => Ok(()),
        }
    }

    /// Adds what sets this message apart to that of those before it in a batch, of which there are `before`;
    /// plain ones are left out until there is one that is not.
    pub(crate) fn add_properties(&self, properties: &mut Vec<v1::Properties>, before: u32) {
        let plain = v1::Properties { count: 1, ..<_>::default() };
        let of = match &self.apart {
            None if properties.is_empty() => return,
            None => plain.clone(),
            Some(apart) => apart.to_proto(),
        };
        if properties.is_empty() {
            if of == plain {
                return;
            }
            if before > 0 {
                properties.push(v1::Properties { count: before, ..plain });
            }
        }
        match properties.last_mut() {
            Some(last) if (v1::Properties { count: 1, ..last.clone() }) == of => last.count += 1,
            _ => properties.push(of),
        }
    }

    /// The message by itself, as calls take it that have no frame.
    pub(crate) fn into_proto(self) -> v1::Message {
        let mut properties = Vec::new();
        self.add_properties(&mut properties, 0);
        let of: v1::Properties = properties.pop().unwrap_or_default();
        let headers = self.headers.into_iter().map(|(key, value)| v1::Header { key, value });
        v1::Message {
            body: self.body,
            headers: headers.collect(),
            delay_ms: of.delay_ms,
            deliver_at_ms: of.deliver_at_ms,
            ttl_ms: of.ttl_ms,
            priority: of.priority,
            group_key: of.group_key,
        }
    }

    /// The payload.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers in order.
    #[must_use]
    pub fn headers(&self) -> &[(String, Bytes)] {
        &self.headers
    }
}

impl Apart {
    /// As one message has it; what concerns its shard is not of it.
    fn to_proto(&self) -> v1::Properties {
        let (delay_ms, deliver_at_ms) = match self.due {
            Due::AtOnce => (0, 0),
            // Rounded up: never early.
            Due::After(delay) => (millis(delay), 0),
            Due::At(time) => {
                (0, millis(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()))
            }
        };
        // 0 on the wire is none.
        let ttl_ms = self.ttl.map_or(0, |ttl| millis(ttl).max(1));
        let (priority, group_key) = (self.priority.into(), self.group_key.clone());
        v1::Properties { count: 1, delay_ms, deliver_at_ms, ttl_ms, priority, group_key }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_are_alike_have_one_set_of_properties_and_plain_batches_none() {
        let runs = |delays: &[u64]| {
            let mut properties = Vec::new();
            for (before, &delay) in (0..).zip(delays) {
                let message = Message::new("body");
                let message = match delay {
                    0 => message,
                    micros => message.delay(Duration::from_micros(micros)),
                };
                message.add_properties(&mut properties, before);
            }
            properties.iter().map(|of| (of.count, of.delay_ms)).collect::<Vec<_>>()
        };
        assert_eq!(runs(&[0, 0, 0]), []);
        assert_eq!(runs(&[0, 0, 5_000, 4_001, 0]), [(2, 0), (2, 5), (1, 0)]);
        assert_eq!(runs(&[1]), [(1, 1)]);
    }

    #[test]
    fn a_key_sets_messages_apart_as_a_delay_does() {
        let mut properties = Vec::new();
        for (before, key) in (0..).zip(["", "a", "a", "b", ""]) {
            Message::new("body").group_key(key).add_properties(&mut properties, before);
        }
        let runs: Vec<_> = properties.iter().map(|of| (of.count, of.group_key.as_str())).collect();
        assert_eq!(runs, [(1, ""), (2, "a"), (1, "b"), (1, "")]);
    }

    #[test]
    fn times_to_live_and_priorities_set_messages_apart_and_are_checked_before_they_are_sent() {
        let mut properties = Vec::new();
        let messages = [
            Message::new("body").ttl(Duration::from_micros(1_500)),
            Message::new("body").ttl(Duration::from_millis(2)),
            Message::new("body").ttl(Duration::ZERO),
            Message::new("body").priority(9),
            Message::new("body"),
        ];
        for (before, message) in (1..).zip(&messages) {
            message.add_properties(&mut properties, before);
            message.check_properties().unwrap();
        }
        let runs: Vec<_> = properties.iter().map(|of| (of.count, of.ttl_ms, of.priority)).collect();
        assert_eq!(runs, [(1, 0, 0), (2, 2, 0), (1, 1, 0), (1, 0, 9), (1, 0, 0)]);
        for message in [Message::new("body").ttl(Duration::MAX), Message::new("body").priority(10)]
        {
            assert!(matches!(message.check_properties(), Err(PublishError::Refused(_))));
        }
    }
}
