//! The road back from a run to its bytes: what its messages say, and what they were published with, from the entry that holds
//! them.

use bytes::Bytes;

use super::codec::{
    PUBLISH, PUBLISH_IF, PUBLISH_MOVED, PUBLISH_WITH, VERSION, decode, decode_moved,
    decode_properties, decode_publish, encode,
};
use super::command::{Command, Properties, Publish, PublishMoved};
use crate::wire::{self, DecodeError};
use crate::{entry, frame};

/// The messages of a [`super::Run`] as frames that share the memory of the entry: the `take`
/// messages after the first `skip`, counted over the publish commands of the entry from command
/// `ordinal` on.
///
/// # Errors
/// When the entry is damaged or holds fewer messages.
pub fn body(
    entry_payload: &Bytes,
    ordinal: u32,
    mut skip: u32,
    mut take: u32,
) -> Result<Vec<Bytes>, DecodeError> {
    let (_, commands) = entry::decode_entry(entry_payload.clone())?;
    let mut frames = Vec::new();
    for command in commands.skip(ordinal as usize) {
        if take == 0 {
            break;
        }
        // Where a body is does not depend on the properties.
        let Some(publish) = publish_within(command?, |_| Ok(Vec::new()))? else {
            continue;
        };
        if skip >= publish.count {
            skip -= publish.count;
            continue;
        }
        let here = take.min(publish.count - skip);
        // A whole batch, the usual case, needs no walk over its messages.
        let whole = here == publish.count;
        frames.push(if whole { publish.frame } else { frame::slice(&publish.frame, skip, here)? });
        skip = 0;
        take -= here;
    }
    match take {
        0 => Ok(frames),
        _ => Err(DecodeError::Invalid { what: "entry", why: "it holds too few messages" }),
    }
}

/// What the messages of a [`super::Run`] were published with, run by run; as [`body`].
///
/// # Errors
/// When the entry is damaged or holds fewer messages.
pub fn properties(
    entry_payload: &Bytes,
    ordinal: u32,
    mut skip: u32,
    mut take: u32,
) -> Result<Vec<Properties>, DecodeError> {
    let (_, commands) = entry::decode_entry(entry_payload.clone())?;
    let mut found = Vec::new();
    for command in commands.skip(ordinal as usize) {
        if take == 0 {
            break;
        }
        let Some(publish) = publish_within(command?, decode_properties)? else {
            continue;
        };
        let plain = Properties { count: publish.count, ..Properties::default() };
        let of_each = if publish.properties.is_empty() { vec![plain] } else { publish.properties };
        for of in of_each {
            let passed = skip.min(of.count);
            let count = take.min(of.count - passed);
            found.extend((count > 0).then_some(Properties { count, ..of }));
            (skip, take) = (skip - passed, take - count);
        }
    }
    match take {
        0 => Ok(found),
        _ => Err(DecodeError::Invalid { what: "entry", why: "it holds too few messages" }),
    }
}

/// The entry without what its messages say: the same commands, the frames [`frame::blanked`]. It gives a queue
/// the same state.
///
/// # Errors
/// When the entry cannot be read.
pub fn without_bodies(entry_payload: &Bytes) -> Result<Bytes, DecodeError> {
    let (now, commands) = entry::decode_entry(entry_payload.clone())?;
    let mut blank = entry::EntryBuilder::with_capacity(entry_payload.len());
    for command in commands {
        let mut command = decode(&mut command?)?;
        match &mut command {
            Command::Publish(Publish { frame, .. })
            | Command::PublishMoved(PublishMoved { frame, .. }) => {
                *frame = frame::blanked(frame).into();
            }
            _ => {}
        }
        blank.push(|out| encode(&command, out));
    }
    Ok(blank.freeze(now))
}

/// The publish that a command is, if it is one; `properties` makes of the encoded ones what is wanted of them.
fn publish_within(
    mut command: Bytes,
    properties: impl FnOnce(Bytes) -> Result<Vec<Properties>, DecodeError>,
) -> Result<Option<Publish>, DecodeError> {
    wire::expect_version(&mut command, "queue command", VERSION)?;
    let kind = wire::u8(&mut command)?;
    let publish = match kind {
        PUBLISH | PUBLISH_WITH | PUBLISH_IF => decode_publish(&mut command, kind, properties)?,
        PUBLISH_MOVED => {
            let PublishMoved { count, layout, frame, .. } = decode_moved(&mut command)?;
            Publish { layout, ..Publish::plain(count, frame) }
        }
        _ => return Ok(None),
    };
    match publish.layout {
        frame::LAYOUT => Ok(Some(publish)),
        version => Err(DecodeError::UnknownVersion { what: "frame", version }),
    }
}
