//! Slices of a log, as somebody may send them with a report. Checksums are made to fit, so that what is behind
//! them is reached; the property stands beside the decoder, in `quorate_group::fuzz`.

use quorate_group::fuzz;
use quorate_machine::queue::{Queue, without_bodies};
use quorate_machine::{EntryBuilder, Millis};

use crate::commands::{encode, queue_commands};
use crate::raft_codec::membership;

/// Bytes in front of the first part.
const MAGIC_BYTES: usize = 12;
/// Bytes of a part before its content.
const HEADER_BYTES: usize = 12;
/// Kind of the part that ends a slice, and bytes of its content before the checksum of all checksums.
const END: (u8, usize) = (4, 8);

pub fn check(data: &[u8]) {
    fuzz::slice(data);
    let mut data = data.to_vec();
    fit(&mut data);
    fuzz::slice(&data);
}

/// Makes the checksums fit, of as many parts as there are.
fn fit(data: &mut [u8]) {
    let mut at = MAGIC_BYTES;
    let mut crcs = 0;
    while let Some(header) = data.get(at..at + HEADER_BYTES) {
        let bytes = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let is_end = header[8] == END.0;
        let Some(end) = (at + HEADER_BYTES).checked_add(bytes).filter(|end| *end <= data.len())
        else {
            return;
        };
        let all = at + HEADER_BYTES + END.1;
        if is_end && all + 4 <= end {
            data[all..all + 4].copy_from_slice(&u32::to_le_bytes(crcs));
        }
        let crc = crc32c::crc32c(&data[at + 4..end]).to_le_bytes();
        data[at..at + 4].copy_from_slice(&crc);
        crcs = crc32c::crc32c_append(crcs, &crc);
        at = end;
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut entry = EntryBuilder::new();
    for command in queue_commands() {
        entry.push(|out| out.extend_from_slice(&encode::<Queue>(&command)));
    }
    let entry = entry.freeze(Millis(1_000));
    let blank = without_bodies(&entry).expect("sound");
    let members = [&[0xff][..], &membership(&[&[1, 2, 3]], &[1, 2, 3])].concat();
    vec![
        fuzz::slice_of(None, &[]),
        fuzz::slice_of(None, &[&members, b"", &entry]),
        fuzz::slice_of(Some(b"state"), &[b"", &blank]),
        fuzz::slice_of(Some(b""), &[]),
    ]
}
