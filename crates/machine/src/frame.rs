//! Message frames: what a batch of messages looks like from client to log to consumer.
//!
//! ```text
//! frame   = message*                                  layout 1; integers little-endian
//! message = length u32 | headers u16 | header* | body   length counts all that follows it
//! header  = key length u16 | key (UTF-8) | value length u32 | value
//! ```
//!
//! The broker checks a frame once, where it comes in ([`validate`]). After that a frame is only
//! counted and cut ([`slice()`]): a contiguous run of messages is itself a frame. No machine looks into one,
//! so a log can be shown to others with [`blanked`] frames and gives the same states.

use bytes::Bytes;
use thiserror::Error;

use crate::wire::{self, DecodeError};

/// The frame layout that this module reads.
pub const LAYOUT: u8 = 1;

/// Most messages of one frame.
pub const MESSAGES_MAX: u32 = 65_536;
/// Most headers of one message.
pub const HEADERS_MAX: u16 = 64;
/// Most bytes of a header's key; the least is 1.
pub const KEY_BYTES_MAX: u16 = 256;

/// Bytes of a message's length field.
const LENGTH_BYTES: usize = 4;

/// Why a frame was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A message exceeds the limit.
    #[error("message {at} of the batch has {bytes} bytes, limit {limit}")]
    TooLarge {
        /// Position of the message in the frame, from 0.
        at: u32,
        /// Its bytes: headers and body, with their length fields.
        bytes: u64,
        /// The most allowed.
        limit: u64,
    },
    /// A message does not follow the layout.
    #[error("message {at} of the batch is malformed: {why}")]
    Malformed {
        /// Position of the message in the frame, from 0.
        at: u32,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// There are more messages than a frame may hold.
    #[error("the batch has {count} messages, limit {MESSAGES_MAX}")]
    TooMany {
        /// The count beside the frame.
        count: u32,
    },
    /// The batch does not hold as many messages as it says.
    #[error("the batch says {said} messages and holds {found}")]
    Count {
        /// The count beside the frame.
        said: u32,
        /// The messages in the frame; counting stops at `said + 1`.
        found: u32,
    },
}

/// Checks every message of a frame that comes from outside: whatever a consumer's reader
/// (`quorate_proto::frame`) would refuse must be refused here, or nobody could take it out again. `max_message_bytes` bounds the bytes
/// of one message after its length field.
///
/// # Errors
/// Names the first message that is too large or malformed, or the count that does not match.
pub fn validate(frame: &[u8], count: u32, max_message_bytes: u32) -> Result<(), FrameError> {
    if count > MESSAGES_MAX {
        return Err(FrameError::TooMany { count });
    }
    let mut rest = frame;
    let mut found = 0;
    while !rest.is_empty() {
        if found == count {
            return Err(FrameError::Count { said: count, found: found.saturating_add(1) });
        }
        let malformed = |why| FrameError::Malformed { at: found, why };
        let length = wire::u32(&mut rest).map_err(|_| malformed("its length is cut short"))?;
        if length > max_message_bytes {
            return Err(FrameError::TooLarge {
                at: found,
                bytes: length.into(),
                limit: max_message_bytes.into(),
            });
        }
        let Some((message, after)) = rest.split_at_checked(length as usize) else {
            return Err(malformed("it is cut short"));
        };
        validate_headers(message).map_err(malformed)?;
        rest = after;
        found += 1;
    }
    if found == count { Ok(()) } else { Err(FrameError::Count { said: count, found }) }
}

fn validate_headers(mut message: &[u8]) -> Result<(), &'static str> {
    let headers = wire::u16(&mut message).map_err(|_| "its header count is cut short")?;
    if headers > HEADERS_MAX {
        return Err("it has more than 64 headers");
    }
    for _ in 0..headers {
        let length = wire::u16(&mut message).map_err(|_| "a header key is cut short")?;
        if !(1..=KEY_BYTES_MAX).contains(&length) {
            return Err("a header key is empty or longer than 256 bytes");
        }
        let (key, rest) =
            message.split_at_checked(length.into()).ok_or("a header key is cut short")?;
        if std::str::from_utf8(key).is_err() {
            return Err("a header key is not UTF-8");
        }
        message = rest;
        let length = wire::u32(&mut message).map_err(|_| "a header value is cut short")?;
        message = message.get(length as usize..).ok_or("a header value is cut short")?;
    }
    Ok(())
}

/// The frame of `take` messages after the first `skip`, sharing the memory of `frame`.
///
/// # Errors
/// When the frame holds fewer messages or is cut short.
pub fn slice(frame: &Bytes, skip: u32, take: u32) -> Result<Bytes, DecodeError> {
    let start = advance(frame, 0, skip)?;
    let end = advance(frame, start, take)?;
    Ok(frame.slice(start..end))
}

/// The values of the header `key`, each with the position of its message in the frame, from 0. A message that has
/// the header more than once says nothing by it, and is passed over. Ends where the frame is malformed.
pub fn header<'a>(frame: &'a [u8], key: &'a str) -> impl Iterator<Item = (u32, &'a [u8])> {
    let mut rest = frame;
    let messages = std::iter::from_fn(move || {
        let length = wire::u32(&mut rest).ok()?;
        let (message, after) = rest.split_at_checked(length as usize)?;
        rest = after;
        Some(message)
    });
    let found = messages.map(move |message| only(message, key.as_bytes()));
    (0..).zip(found).filter_map(|(at, value)| Some((at, value?)))
}

/// The value of a message's only header with this key.
fn only<'a>(mut message: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let headers = wire::u16(&mut message).ok()?;
    let mut found = None;
    for _ in 0..headers {
        let length = wire::u16(&mut message).ok()?;
        let (name, rest) = message.split_at_checked(length.into())?;
        message = rest;
        let length = wire::u32(&mut message).ok()?;
        let (value, rest) = message.split_at_checked(length as usize)?;
        message = rest;
        if name == key && found.replace(value).is_some() {
            return None;
        }
    }
    found
}

/// The frame with nothing of what it says: header keys, header values and bodies are zeros, the lengths and
/// counts are as they were. What follows something malformed is zeros altogether.
#[must_use]
pub fn blanked(frame: &[u8]) -> Vec<u8> {
    let mut blank = vec![0; frame.len()];
    let mut at = 0;
    while let Some(length) = keep::<LENGTH_BYTES>(frame, &mut blank, at) {
        let start = at + LENGTH_BYTES;
        let length = u32::from_le_bytes(length) as usize;
        let Some(end) = start.checked_add(length).filter(|end| *end <= frame.len()) else { break };
        blank_headers(&frame[start..end], &mut blank[start..end]);
        at = end;
    }
    blank
}

/// Keeps the lengths of a message's headers, and nothing else of it.
fn blank_headers(message: &[u8], blank: &mut [u8]) {
    let Some(headers) = keep::<2>(message, blank, 0) else { return };
    let mut at = 2;
    for _ in 0..u16::from_le_bytes(headers) {
        let Some(key) = keep::<2>(message, blank, at) else { return };
        at += 2 + usize::from(u16::from_le_bytes(key));
        let Some(value) = keep::<4>(message, blank, at) else { return };
        at = at.saturating_add(4).saturating_add(u32::from_le_bytes(value) as usize);
    }
}

/// Copies the `N` bytes at `at`, if they are there.
fn keep<const N: usize>(from: &[u8], to: &mut [u8], at: usize) -> Option<[u8; N]> {
    let kept: [u8; N] = from.get(at..at.checked_add(N)?)?.try_into().ok()?;
    to[at..at + N].copy_from_slice(&kept);
    Some(kept)
}

/// The position `messages` further on than `at`.
fn advance(frame: &[u8], mut at: usize, messages: u32) -> Result<usize, DecodeError> {
    for _ in 0..messages {
        let mut rest = &frame[at..];
        let length = wire::u32(&mut rest)? as usize;
        if rest.len() < length {
            return Err(DecodeError::Truncated { needed: length, left: rest.len() });
        }
        at += LENGTH_BYTES + length;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(headers: &[(&[u8], &[u8])], body: &[u8]) -> Vec<u8> {
        let mut rest = u16::try_from(headers.len()).unwrap().to_le_bytes().to_vec();
        for (key, value) in headers {
            rest.extend(u16::try_from(key.len()).unwrap().to_le_bytes());
            rest.extend(*key);
            rest.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
            rest.extend(*value);
        }
        rest.extend(body);
        [&u32::try_from(rest.len()).unwrap().to_le_bytes(), rest.as_slice()].concat()
    }

    fn frame(bodies: &[&[u8]]) -> Bytes {
        bodies.iter().flat_map(|body| message(&[(b"k", b"v")], body)).collect()
    }

    #[test]
    fn a_run_is_a_slice_of_the_frame() {
        let whole = frame(&[b"a", b"bb", b"", b"dddd"]);
        assert_eq!(slice(&whole, 1, 2).unwrap(), frame(&[b"bb", b""]));
        assert_eq!(slice(&whole, 0, 4).unwrap(), whole);
        assert_eq!(slice(&whole, 4, 0).unwrap(), Bytes::new());
        assert!(slice(&whole, 3, 2).is_err());
        assert!(slice(&whole.slice(..whole.len() - 1), 0, 4).is_err());
    }

    #[test]
    fn a_header_is_found_with_the_place_of_its_message() {
        let key: &[u8] = b"traceparent";
        let parts = [
            message(&[], b"traceparent"),
            message(&[(b"k", b"traceparent"), (key, b"1"), (b"l", b"")], b"b"),
            message(&[(key, b"2"), (key, b"2")], b"twice"),
            message(&[(b"Traceparent", b"3")], b""),
            message(&[(key, b"")], b""),
        ];
        let whole = parts.concat();
        let found = |frame| header(frame, "traceparent").collect::<Vec<_>>();
        assert_eq!(found(&whole), [(1, b"1".as_slice()), (4, b"".as_slice())]);
        // Whatever is cut off, it ends there.
        for end in 0..whole.len() {
            assert!(found(&whole[..end]).len() <= 1, "cut at {end}");
        }
        assert_eq!(found(&u32::MAX.to_le_bytes()), []);
    }

    #[test]
    fn a_count_that_does_not_match_is_refused() {
        let whole = frame(&[b"a", b"b"]);
        assert_eq!(validate(&whole, 2, 100), Ok(()));
        assert_eq!(validate(&whole, 1, 100), Err(FrameError::Count { said: 1, found: 2 }));
        assert_eq!(validate(&whole, 3, 100), Err(FrameError::Count { said: 3, found: 2 }));
    }

    #[test]
    fn a_message_at_the_limit_passes_and_one_above_does_not() {
        let one = message(&[], b"12345");
        assert_eq!(validate(&one, 1, 7), Ok(()));
        assert_eq!(validate(&one, 1, 6), Err(FrameError::TooLarge { at: 0, bytes: 7, limit: 6 }));
    }

    #[test]
    fn malformed_headers_are_named() {
        let not_utf8 = message(&[(b"\xff", b"v")], b"");
        let why = "a header key is not UTF-8";
        assert_eq!(validate(&not_utf8, 1, 100), Err(FrameError::Malformed { at: 0, why }));
        let mut cut = message(&[(b"key", b"value")], b"");
        cut.truncate(cut.len() - 1);
        let length = u32::try_from(cut.len() - 4).unwrap();
        cut[..4].copy_from_slice(&length.to_le_bytes());
        let why = "a header value is cut short";
        assert_eq!(validate(&cut, 1, 100), Err(FrameError::Malformed { at: 0, why }));
    }

    #[test]
    fn what_no_consumer_reads_is_refused() {
        let malformed = |why| Err(FrameError::Malformed { at: 0, why });
        let most = vec![(b"k".as_slice(), b"".as_slice()); HEADERS_MAX.into()];
        assert_eq!(validate(&message(&most, b""), 1, u32::MAX), Ok(()));
        let more = [most.as_slice(), &most[..1]].concat();
        let refused = validate(&message(&more, b""), 1, u32::MAX);
        assert_eq!(refused, malformed("it has more than 64 headers"));
        let longest = [b'k'; KEY_BYTES_MAX as usize + 1];
        assert_eq!(validate(&message(&[(&longest[1..], b"")], b""), 1, u32::MAX), Ok(()));
        for key in [b"".as_slice(), &longest] {
            let refused = validate(&message(&[(key, b"")], b""), 1, u32::MAX);
            assert_eq!(refused, malformed("a header key is empty or longer than 256 bytes"));
        }
        let many = message(&[], b"").repeat(MESSAGES_MAX as usize + 1);
        let (count, most) = (MESSAGES_MAX + 1, many.len() - message(&[], b"").len());
        assert_eq!(validate(&many[..most], MESSAGES_MAX, u32::MAX), Ok(()));
        assert_eq!(validate(&many, count, u32::MAX), Err(FrameError::TooMany { count }));
    }

    #[test]
    fn a_blanked_frame_has_the_same_shape_and_no_content() {
        let secret = b"secret".as_slice();
        let whole =
            [message(&[(secret, secret), (secret, b"")], secret), message(&[], b"")].concat();
        let blank = blanked(&whole);
        assert_eq!(validate(&blank, 2, u32::MAX), Ok(()));
        assert_eq!(blank.len(), whole.len());
        assert!(!blank.windows(6).any(|window| window == secret));
        assert!(!blank.iter().any(u8::is_ascii_lowercase));
        assert_eq!(blanked(&blank), blank);
    }

    proptest! {
        #[test]
        fn blanking_keeps_the_length_and_what_validation_says(bytes: Vec<u8>, count in 0u32..8) {
            let blank = blanked(&bytes);
            prop_assert_eq!(blank.len(), bytes.len());
            prop_assert!(validate(&bytes, count, 64).is_err() || validate(&blank, count, 64).is_ok());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, count in 0u32..8, skip in 0u32..8) {
            let _ = validate(&bytes, count, 64);
            let _ = slice(&Bytes::from(bytes), skip, count);
        }

        #[test]
        fn what_is_valid_can_be_cut_anywhere(bodies: Vec<Vec<u8>>, at: prop::sample::Index) {
            let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
            let whole = frame(&bodies);
            let count = u32::try_from(bodies.len()).unwrap();
            prop_assert_eq!(validate(&whole, count, u32::MAX), Ok(()));
            let cut = u32::try_from(at.index(bodies.len() + 1)).unwrap();
            let (head, tail) = (slice(&whole, 0, cut)?, slice(&whole, cut, count - cut)?);
            prop_assert_eq!([head, tail].concat(), whole);
        }
    }
}
