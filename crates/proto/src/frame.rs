//! The codec of frame layout 1: several messages as one contiguous run of bytes.
//!
//! ```text
//! frame   = message*                                   integers little-endian
//! message = length u32 | headers u16 | header* | body    length counts all that follows it
//! header  = key length u16 | key (UTF-8) | value length u32 | value
//! ```
//!
//! A producer builds a frame once ([`FrameBuilder`]); those bytes go unchanged to the leader, into the
//! log, to the followers and to the consumer, which reads them in place ([`messages`]): bodies and
//! header values share the frame's memory.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::v1::Frame;

/// The layout that this module reads and writes.
pub const LAYOUT: u32 = 1;
/// Most headers of one message.
pub const MAX_HEADERS: usize = 64;
/// Most bytes of a header's key; the least is 1.
pub const MAX_KEY_BYTES: usize = 256;
/// Most bytes of one message, headers included, whatever a server is configured to take: 16 MiB.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Most messages of one frame.
pub const MAX_FRAME_MESSAGES: u32 = 65_536;

/// The header that a message's group key is found in; see [`FrameBuilder::push_keyed`].
pub const GROUP_KEY_HEADER: &str = "quorate-group-key";
/// Most bytes of a group key.
pub const MAX_GROUP_KEY_BYTES: usize = 256;

/// Bytes of a message's length field, which the length does not count.
pub const LENGTH_BYTES: usize = 4;
const HEADER_COUNT_BYTES: usize = 2;
const KEY_LENGTH_BYTES: usize = 2;
const VALUE_LENGTH_BYTES: usize = 4;

/// Why a message cannot go into a frame, or a frame cannot be read. Positions count from 0.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame was written by a newer program.
    #[error("frame layout {found} is not known here; {LAYOUT} is")]
    UnknownLayout {
        /// The layout that the frame names.
        found: u32,
    },
    /// A message has more headers than allowed.
    #[error("message {at} has {found} headers, at most {MAX_HEADERS} are allowed")]
    TooManyHeaders {
        /// Position of the message in the frame.
        at: u32,
        /// Its headers.
        found: usize,
    },
    /// A header's key is empty or too long.
    #[error("message {at} has a header key of {bytes} bytes, 1 to {MAX_KEY_BYTES} are allowed")]
    KeyLength {
        /// Position of the message in the frame.
        at: u32,
        /// Bytes of the key.
        bytes: usize,
    },
    /// A message brings the header that is for its group key.
    #[error(
        "message {at} has a header `{GROUP_KEY_HEADER}`, which is for its group key: give that \
         instead"
    )]
    ReservedHeader {
        /// Position of the message in the frame.
        at: u32,
    },
    /// A group key is too long.
    #[error(
        "message {at} has a group key of {bytes} bytes, at most {MAX_GROUP_KEY_BYTES} are allowed"
    )]
    GroupKeyLength {
        /// Position of the message in the frame.
        at: u32,
        /// Bytes of the key.
        bytes: usize,
    },
    /// A message is larger than any server takes.
    #[error("message {at} has {bytes} bytes, at most {MAX_MESSAGE_BYTES} are allowed")]
    TooLarge {
        /// Position of the message in the frame.
        at: u32,
        /// Its bytes: headers and body, without its length field.
        bytes: usize,
    },
    /// The frame is full.
    #[error("a frame holds at most {MAX_FRAME_MESSAGES} messages")]
    TooManyMessages,
    /// A message does not follow the layout.
    #[error("message {at} is malformed: {why}")]
    Malformed {
        /// Position of the message in the frame.
        at: u32,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The frame does not hold as many messages as it says.
    #[error("the frame says {said} messages and holds {found}")]
    Count {
        /// The count beside the frame.
        said: u32,
        /// The messages found; counting stops at `said + 1`.
        found: u32,
    },
}

/// Bytes of a message in a frame after its length field, which is what servers limit.
#[must_use]
pub fn message_bytes<K: AsRef<str>, V: AsRef<[u8]>>(headers: &[(K, V)], body: &[u8]) -> usize {
    let headers: usize = headers
        .iter()
        .map(|(key, value)| {
            KEY_LENGTH_BYTES + key.as_ref().len() + VALUE_LENGTH_BYTES + value.as_ref().len()
        })
        .sum();
    HEADER_COUNT_BYTES + headers + body.len()
}

/// Checks a message as [`FrameBuilder::push`] does, and returns its bytes after the length field.
///
/// # Errors
/// The limit that the message exceeds, with position 0.
pub fn check<K: AsRef<str>, V: AsRef<[u8]>>(
    headers: &[(K, V)],
    body: &[u8],
) -> Result<usize, FrameError> {
    check_at(0, headers, body)
}

/// Checks a message as [`FrameBuilder::push_keyed`] does, and returns its bytes after the length field.
///
/// # Errors
/// The limit that the message exceeds, with position 0.
pub fn check_keyed<K: AsRef<str>, V: AsRef<[u8]>>(
    headers: &[(K, V)],
    group_key: &str,
    body: &[u8],
) -> Result<usize, FrameError> {
    match with_key(0, headers, group_key)? {
        None => check_at(0, headers, body),
        Some(headers) => check_at(0, &headers, body),
    }
}

type HeaderRef<'a> = (&'a str, &'a [u8]);

/// The headers with that of a group key, if there is one. Here is decided how a key goes with a message.
fn with_key<'a, K: AsRef<str>, V: AsRef<[u8]>>(
    at: u32,
    headers: &'a [(K, V)],
    group_key: &'a str,
) -> Result<Option<Vec<HeaderRef<'a>>>, FrameError> {
    if headers.iter().any(|(key, _)| key.as_ref() == GROUP_KEY_HEADER) {
        return Err(FrameError::ReservedHeader { at });
    }
    if group_key.len() > MAX_GROUP_KEY_BYTES {
        return Err(FrameError::GroupKeyLength { at, bytes: group_key.len() });
    }
    if group_key.is_empty() {
        return Ok(None);
    }
    let given = headers.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
    Ok(Some(given.chain([(GROUP_KEY_HEADER, group_key.as_bytes())]).collect()))
}

fn check_at<K: AsRef<str>, V: AsRef<[u8]>>(
    at: u32,
    headers: &[(K, V)],
    body: &[u8],
) -> Result<usize, FrameError> {
    if headers.len() > MAX_HEADERS {
        return Err(FrameError::TooManyHeaders { at, found: headers.len() });
    }
    for (key, _) in headers {
        check_key(at, key.as_ref().len())?;
    }
    let bytes = message_bytes(headers, body);
    if bytes > MAX_MESSAGE_BYTES {
        return Err(FrameError::TooLarge { at, bytes });
    }
    Ok(bytes)
}

fn check_key(at: u32, bytes: usize) -> Result<(), FrameError> {
    if (1..=MAX_KEY_BYTES).contains(&bytes) {
        Ok(())
    } else {
        Err(FrameError::KeyLength { at, bytes })
    }
}

/// Collects messages into a frame.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    bytes: BytesMut,
    count: u32,
}

impl FrameBuilder {
    /// An empty frame.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty frame with room for `bytes` bytes, so that filling it does not move what is there.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(bytes), count: 0 }
    }

    /// Appends a message. Header keys may repeat; their order is kept.
    ///
    /// # Errors
    /// The limit that the message or the frame would exceed; the frame is then as it was before.
    pub fn push<K: AsRef<str>, V: AsRef<[u8]>>(
        &mut self,
        headers: &[(K, V)],
        body: &[u8],
    ) -> Result<(), FrameError> {
        if self.count == MAX_FRAME_MESSAGES {
            return Err(FrameError::TooManyMessages);
        }
        let length = check_at(self.count, headers, body)?;
        self.bytes.reserve(LENGTH_BYTES + length);
        // The casts cannot cut: `check_at` bounds all three below the width of their fields.
        self.bytes.put_u32_le(length as u32);
        self.bytes.put_u16_le(headers.len() as u16);
        for (key, value) in headers {
            let (key, value) = (key.as_ref().as_bytes(), value.as_ref());
            self.bytes.put_u16_le(key.len() as u16);
            self.bytes.put_slice(key);
            self.bytes.put_u32_le(value.len() as u32);
            self.bytes.put_slice(value);
        }
        self.bytes.put_slice(body);
        self.count += 1;
        Ok(())
    }

    /// Appends a message with a group key, which becomes its last header, for consumers and readers to see. As
    /// [`push`](Self::push) if the key is empty, but that the header of the key is refused.
    ///
    /// # Errors
    /// As of [`push`](Self::push), and if the key is too long or there is a header of its name.
    pub fn push_keyed<K: AsRef<str>, V: AsRef<[u8]>>(
        &mut self,
        headers: &[(K, V)],
        group_key: &str,
        body: &[u8],
    ) -> Result<(), FrameError> {
        match with_key(self.count, headers, group_key)? {
            None => self.push(headers, body),
            Some(headers) => self.push(&headers, body),
        }
    }

    /// Bytes of the frame so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no message is in the frame yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Messages in the frame so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The frame as it goes over the wire.
    #[must_use]
    pub fn finish(self) -> Frame {
        Frame { layout: LAYOUT, count: self.count, messages: self.bytes.freeze() }
    }
}

/// One message of a frame, sharing the frame's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageView {
    /// The headers, in the order in which they were given.
    pub headers: Headers,
    /// The payload.
    pub body: Bytes,
}

/// Headers of a message, read where they lie in the frame.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    count: u16,
    bytes: Bytes,
}

impl Headers {
    /// Number of headers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.into()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The value of the first header with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.iter().find(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// The value of the first header with this key, if it is text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        String::from_utf8(self.get(key)?.into()).ok()
    }

    /// The key of the group that the message is delivered in order with, if it was given one.
    #[must_use]
    pub fn group_key(&self) -> Option<String> {
        self.text(GROUP_KEY_HEADER)
    }

    /// Keys and values in order.
    #[must_use]
    pub fn iter(&self) -> HeaderIter<'_> {
        HeaderIter { headers: self, at: 0 }
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

impl<'a> IntoIterator for &'a Headers {
    type Item = (&'a str, Bytes);
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

/// Iterates over the headers of a message.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    headers: &'a Headers,
    at: usize,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a str, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        // `Headers` are only made from bytes that `read_headers` has checked.
        let mut cursor = Cursor { bytes: &self.headers.bytes, at: self.at };
        let header = cursor.header().ok()?;
        self.at = cursor.at;
        let key = std::str::from_utf8(header.key).ok()?;
        Some((key, self.headers.bytes.slice(header.value)))
    }
}

/// Checks a frame and iterates over its messages, without copying them.
///
/// # Errors
/// Names the first message that breaks the layout or a limit, or the count that does not match.
pub fn messages(frame: &Frame) -> Result<Messages, FrameError> {
    if frame.layout != LAYOUT {
        return Err(FrameError::UnknownLayout { found: frame.layout });
    }
    if frame.count > MAX_FRAME_MESSAGES {
        return Err(FrameError::TooManyMessages);
    }
    let mut at = 0;
    let mut found = 0;
    while at < frame.messages.len() {
        if found == frame.count {
            return Err(FrameError::Count { said: frame.count, found: found.saturating_add(1) });
        }
        at = check_message(found, &frame.messages, at)?;
        found += 1;
    }
    if found != frame.count {
        return Err(FrameError::Count { said: frame.count, found });
    }
    Ok(Messages { rest: frame.messages.clone(), left: frame.count })
}

/// Checks the message that starts at `at` and returns where it ends.
fn check_message(number: u32, frame: &[u8], at: usize) -> Result<usize, FrameError> {
    let malformed = |why| FrameError::Malformed { at: number, why };
    let mut cursor = Cursor { bytes: frame, at };
    let length = cursor.u32("its length is cut short").map_err(malformed)?;
    if length > MAX_MESSAGE_BYTES {
        return Err(FrameError::TooLarge { at: number, bytes: length });
    }
    let message = cursor.take(length, "it is cut short").map_err(malformed)?;
    let mut inner = Cursor { bytes: &frame[message.clone()], at: 0 };
    let headers = inner.u16("its header count is cut short").map_err(malformed)?;
    if headers > MAX_HEADERS {
        return Err(FrameError::TooManyHeaders { at: number, found: headers });
    }
    for _ in 0..headers {
        let header = inner.header().map_err(malformed)?;
        check_key(number, header.key.len())?;
        std::str::from_utf8(header.key).map_err(|_| malformed("a header key is not UTF-8"))?;
    }
    Ok(message.end)
}

/// The messages of a frame that [`messages`] has checked.
#[derive(Clone, Debug)]
pub struct Messages {
    rest: Bytes,
    left: u32,
}

impl Iterator for Messages {
    type Item = MessageView;

    fn next(&mut self) -> Option<MessageView> {
        let mut cursor = Cursor { bytes: &self.rest, at: 0 };
        let length = cursor.u32("").ok()?;
        let range = cursor.take(length, "").ok()?;
        let message = self.rest.slice(range.clone());
        self.rest = self.rest.slice(range.end..);
        self.left -= 1;
        split_message(&message)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Messages {}

fn split_message(message: &Bytes) -> Option<MessageView> {
    let mut cursor = Cursor { bytes: message, at: 0 };
    let count = cursor.u16("").ok()?;
    let start = cursor.at;
    for _ in 0..count {
        cursor.header().ok()?;
    }
    let end = cursor.at;
    let headers = Headers { count: count as u16, bytes: message.slice(start..end) };
    Some(MessageView { headers, body: message.slice(end..) })
}

struct Header<'a> {
    key: &'a [u8],
    value: std::ops::Range<usize>,
}

/// Reads fields off a slice; every method says what is missing and moves only when it succeeds.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(
        &mut self,
        length: usize,
        missing: &'static str,
    ) -> Result<std::ops::Range<usize>, &'static str> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let range = self.at..end.ok_or(missing)?;
        self.at = range.end;
        Ok(range)
    }

    fn array<const N: usize>(&mut self, missing: &'static str) -> Result<[u8; N], &'static str> {
        let range = self.take(N, missing)?;
        self.bytes[range].try_into().map_err(|_| missing)
    }

    fn u16(&mut self, missing: &'static str) -> Result<usize, &'static str> {
        self.array(missing).map(|bytes| u16::from_le_bytes(bytes).into())
    }

    fn u32(&mut self, missing: &'static str) -> Result<usize, &'static str> {
        self.array(missing).map(|bytes| u32::from_le_bytes(bytes) as usize)
    }

    fn header(&mut self) -> Result<Header<'a>, &'static str> {
        let length = self.u16("a header key is cut short")?;
        let key = self.take(length, "a header key is cut short")?;
        let length = self.u32("a header value is cut short")?;
        let value = self.take(length, "a header value is cut short")?;
        Ok(Header { key: &self.bytes[key], value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: &[(&str, &[u8])] = &[];

    #[test]
    fn the_bytes_are_those_of_the_documented_layout() {
        let mut frame = FrameBuilder::new();
        frame.push(&[("k", b"vw".as_slice())], b"body").unwrap();
        let expected =
            [[15, 0, 0, 0].as_slice(), &[1, 0], &[1, 0, b'k'], &[2, 0, 0, 0, b'v', b'w'], b"body"];
        let frame = frame.finish();
        assert_eq!(frame.messages, expected.concat());
        assert_eq!((frame.layout, frame.count), (1, 1));
    }

    #[test]
    fn bodies_and_values_share_the_memory_of_the_frame() {
        let mut builder = FrameBuilder::new();
        builder.push(&[("key", b"value".as_slice())], b"body").unwrap();
        let frame = builder.finish();
        let message = messages(&frame).unwrap().next().unwrap();
        let within = frame.messages.as_ptr_range();
        assert!(within.contains(&message.body.as_ptr()));
        assert!(within.contains(&message.headers.get("key").unwrap().as_ptr()));
    }

    #[test]
    fn limits_are_refused_by_the_builder_and_by_the_reader() {
        let mut builder = FrameBuilder::new();
        let many = vec![("k", b"".as_slice()); MAX_HEADERS + 1];
        assert_eq!(
            builder.push(&many, b""),
            Err(FrameError::TooManyHeaders { at: 0, found: MAX_HEADERS + 1 })
        );
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        for key in ["", long.as_str()] {
            let refused = builder.push(&[(key, b"".as_slice())], b"");
            assert_eq!(refused, Err(FrameError::KeyLength { at: 0, bytes: key.len() }));
        }
        let large = vec![0; MAX_MESSAGE_BYTES];
        let bytes = MAX_MESSAGE_BYTES + HEADER_COUNT_BYTES;
        assert_eq!(builder.push(NONE, &large), Err(FrameError::TooLarge { at: 0, bytes }));
        assert!(builder.is_empty());

        let mut forged = vec![8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        let frame =
            |bytes: &[u8]| Frame { layout: 1, count: 1, messages: Bytes::copy_from_slice(bytes) };
        let empty_key = Err(FrameError::KeyLength { at: 0, bytes: 0 });
        assert_eq!(messages(&frame(&forged)).map(|_| ()), empty_key);
        forged[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(messages(&frame(&forged)), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn a_count_that_does_not_match_is_refused() {
        let mut builder = FrameBuilder::new();
        builder.push(NONE, b"a").unwrap();
        builder.push(NONE, b"b").unwrap();
        let mut frame = builder.finish();
        for (said, found) in [(1, 2), (3, 2)] {
            frame.count = said;
            assert_eq!(messages(&frame).map(|_| ()), Err(FrameError::Count { said, found }));
        }
        frame.count = MAX_FRAME_MESSAGES + 1;
        assert_eq!(messages(&frame).map(|_| ()), Err(FrameError::TooManyMessages));
        frame.layout = 2;
        assert_eq!(messages(&frame).map(|_| ()), Err(FrameError::UnknownLayout { found: 2 }));
    }

    #[test]
    fn a_key_that_is_not_utf8_is_refused() {
        let bytes = [9, 0, 0, 0, 1, 0, 1, 0, 0xff, 0, 0, 0, 0];
        let frame = Frame { layout: 1, count: 1, messages: Bytes::copy_from_slice(&bytes) };
        let why = "a header key is not UTF-8";
        assert_eq!(messages(&frame).map(|_| ()), Err(FrameError::Malformed { at: 0, why }));
    }

    #[test]
    fn a_header_is_text_only_if_it_is() {
        let mut builder = FrameBuilder::new();
        let headers = [("lang", &b"en"[..]), ("digest", b"\xff\x00"), ("lang", b"de")];
        builder.push(&headers, b"").unwrap();
        let message = messages(&builder.finish()).unwrap().next().unwrap();
        assert_eq!(message.headers.text("lang").as_deref(), Some("en"), "the first");
        assert_eq!(message.headers.text("digest"), None);
        assert_eq!(message.headers.text("absent"), None);
    }

    #[test]
    fn a_group_key_is_the_last_header_and_no_other_may_have_its_name() {
        let mut builder = FrameBuilder::new();
        builder.push_keyed(&[("k", b"v".as_slice())], "order 7", b"body").unwrap();
        builder.push_keyed(NONE, "", b"plain").unwrap();
        let long = "k".repeat(MAX_GROUP_KEY_BYTES + 1);
        let bytes = long.len();
        let too_long = FrameError::GroupKeyLength { at: 2, bytes };
        assert_eq!(builder.push_keyed(NONE, &long, b""), Err(too_long));
        for key in ["", "key"] {
            let header = [(GROUP_KEY_HEADER, b"mine".as_slice())];
            let reserved = FrameError::ReservedHeader { at: 2 };
            assert_eq!(builder.push_keyed(&header, key, b""), Err(reserved));
        }
        let many = vec![("k", b"".as_slice()); MAX_HEADERS];
        let found = MAX_HEADERS + 1;
        let too_many = FrameError::TooManyHeaders { at: 2, found };
        assert_eq!(builder.push_keyed(&many, "key", b""), Err(too_many));
        let messages: Vec<_> = messages(&builder.finish()).unwrap().collect();
        let keys: Vec<_> = messages[0].headers.iter().map(|(key, _)| key.to_owned()).collect();
        assert_eq!(keys, ["k", GROUP_KEY_HEADER]);
        assert_eq!(messages[0].headers.group_key().as_deref(), Some("order 7"));
        assert_eq!((messages.len(), messages[1].headers.group_key()), (2, None));
    }

    type Plain = (Vec<(String, Vec<u8>)>, Vec<u8>);

    fn plain() -> impl Strategy<Value = Vec<Plain>> {
        let header = ("\\PC{1,20}", prop::collection::vec(any::<u8>(), 0..20));
        let headers = prop::collection::vec(header, 0..4);
        prop::collection::vec((headers, prop::collection::vec(any::<u8>(), 0..100)), 0..20)
    }

    proptest! {
        #[test]
        fn what_was_pushed_is_read_back(given in plain()) {
            let mut builder = FrameBuilder::new();
            let mut bytes = 0;
            for (headers, body) in &given {
                builder.push(headers, body).unwrap();
                bytes += LENGTH_BYTES + message_bytes(headers, body);
                prop_assert_eq!(builder.len(), bytes);
            }
            let frame = builder.finish();
            let read: Vec<Plain> = messages(&frame)
                .unwrap()
                .map(|message| {
                    let headers = message.headers.iter();
                    let headers = headers.map(|(k, v)| (k.to_owned(), v.to_vec())).collect();
                    (headers, message.body.to_vec())
                })
                .collect();
            prop_assert_eq!(read, given);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, layout in 0u32..3, count in 0u32..6) {
            let frame = Frame { layout, count, messages: bytes.into() };
            if let Ok(messages) = messages(&frame) {
                prop_assert_eq!(messages.count(), count as usize);
            }
        }

        #[test]
        fn a_flipped_byte_never_panics(given in plain(), at: prop::sample::Index, to: u8) {
            let mut builder = FrameBuilder::new();
            for (headers, body) in &given {
                builder.push(headers, body).unwrap();
            }
            let frame = builder.finish();
            let mut bytes = frame.messages.to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            let frame = Frame { messages: bytes.into(), ..frame };
            if let Ok(messages) = messages(&frame) {
                for message in messages {
                    prop_assert_eq!(message.headers.iter().count(), message.headers.len());
                }
            }
        }
    }
}
