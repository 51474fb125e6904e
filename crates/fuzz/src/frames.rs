//! Message frames, which the node and the SDK read with code of their own: both must agree. And
//! the road back from a position in an entry to the bytes of its messages.
//!
//! ```text
//! input   count u32 | frame
//! ```

use bytes::{Bytes, BytesMut};
use quorate_machine::queue::{Command, Publish, Queue, body};
use quorate_machine::{EntryBuilder, Machine, Millis, frame as machine};
use quorate_proto::frame as proto;
use quorate_proto::v1;

use crate::input::Input;

pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let count = input.u32();
    let bytes = Bytes::copy_from_slice(input.rest());
    // A wrong count is soon found; the right one gets the fuzzer further.
    agree(count, &bytes);
    if let Some(count) = count_of(&bytes) {
        agree(count, &bytes);
    }
    let (skip, take) = (count & 0xff, count >> 8);
    let _ = machine::slice(&bytes, skip, take);
    let _ = body(&bytes, skip & 3, skip, take);
    let entry = entry(&[(count, bytes.clone())]);
    let _ = body(&entry, 0, skip, take);
}

/// The node and the SDK judge a frame alike; if it is good, all that is done with it works.
fn agree(count: u32, bytes: &Bytes) {
    let max = proto::MAX_MESSAGE_BYTES as u32;
    let node = machine::validate(bytes, count, max);
    let frame = v1::Frame { layout: proto::LAYOUT, count, messages: bytes.clone() };
    let sdk = proto::messages(&frame);
    assert_eq!(node.is_ok(), sdk.is_ok(), "{node:?} {:?}", sdk.as_ref().map(|_| ()));
    let Ok(messages) = sdk else { return };
    assert_eq!(messages.len(), count as usize);
    let mut again = proto::FrameBuilder::new();
    for message in messages {
        let headers: Vec<_> = message.headers.iter().collect();
        assert_eq!(headers.len(), message.headers.len());
        again.push(&headers, &message.body).expect("what was read can be written");
    }
    assert_eq!(again.finish(), frame);
    cut(count, bytes);
}

/// Every piece is found, in the frame and in an entry that holds it in two batches.
fn cut(count: u32, bytes: &Bytes) {
    let at = count / 2;
    let head = machine::slice(bytes, 0, at).expect("a part of a good frame");
    let tail = machine::slice(bytes, at, count - at).expect("a part of a good frame");
    assert_eq!([head.clone(), tail.clone()].concat(), bytes.as_ref());
    let entry = entry(&[(at, head), (count - at, tail)]);
    for (skip, take) in [(0, count), (at, count - at), (at / 2, at), (count / 3, count / 3)] {
        let pieces = body(&entry, 0, skip, take).expect("the messages are there");
        let wanted = machine::slice(bytes, skip, take).expect("the messages are there");
        assert_eq!(pieces.concat(), wanted, "{take} after {skip} of {count}");
    }
    assert!(body(&entry, 0, 0, count + 1).is_err());
}

fn entry(batches: &[(u32, Bytes)]) -> Bytes {
    let mut entry = EntryBuilder::new();
    for (count, frame) in batches {
        let publish = Publish::plain(*count, frame.clone());
        entry.push(|out: &mut BytesMut| Queue::encode(&Command::Publish(publish), out));
    }
    entry.freeze(Millis(1))
}

/// The messages that the lengths in `frame` lead over, if they lead to its end.
pub fn count_of(frame: &[u8]) -> Option<u32> {
    let (mut rest, mut count) = (frame, 0);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        rest = after.get(u32::from_le_bytes(*length) as usize..)?;
        count += 1;
    }
    rest.is_empty().then_some(count)
}

pub fn seeds() -> Vec<Vec<u8>> {
    let with_count = |frame: v1::Frame| [&frame.count.to_le_bytes(), &frame.messages[..]].concat();
    frames().into_iter().map(with_count).collect()
}

/// Some frames.
pub fn frames() -> Vec<v1::Frame> {
    const NONE: &[(&str, &[u8])] = &[];
    let header = |key, value: &'static [u8]| vec![(key, value)];
    let mut frames = vec![proto::FrameBuilder::new()];
    let mut frame = proto::FrameBuilder::new();
    frame.push(NONE, b"").expect("small");
    frames.push(frame);
    let mut frame = proto::FrameBuilder::new();
    frame.push(&header("k", b"v"), b"body").expect("small");
    frame.push(NONE, b"second").expect("small");
    frame.push_keyed(&header("größe", b""), "order 7", b"third").expect("small");
    frames.push(frame);
    let mut frame = proto::FrameBuilder::new();
    frame.push(&vec![("key", b"value".as_slice()); proto::MAX_HEADERS], b"").expect("small");
    let long = "k".repeat(proto::MAX_KEY_BYTES);
    frame.push(&[(long.as_str(), b"")], b"long key").expect("small");
    frames.push(frame);
    let mut frame = proto::FrameBuilder::new();
    (0..40u8).for_each(|n| frame.push(NONE, &[n; 9]).expect("small"));
    frames.push(frame);
    frames.into_iter().map(proto::FrameBuilder::finish).collect()
}
