//! The bytes of a segment: headers, batches, records, states; and of its table of contents.
//!
//! The first byte of the input chooses; the rest is given to the decoder as it is, and once more
//! with checksums that fit. What is accepted is written again as it was.

use quorate_storage::disk::BLOCK;
use quorate_storage::log::contents::{Builder, Contents, Item, TABLE_HEADER_BYTES};
use quorate_storage::log::format::{
    self, BATCH_HEADER_BYTES, Invalid, Kind, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES,
    SegmentHeader,
};
use quorate_storage::{GroupId, GroupState};

const SEGMENT_BYTES: u64 = 1 << 20;
const SEGMENT: SegmentHeader = SegmentHeader { segment: 1, salt: 0x5a17, first_batch: 1 };

pub fn check(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    match choice % 5 {
        0 => segment_header(data),
        1 => batch(data),
        2 => record(data),
        3 => state(data),
        _ => contents(data),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut block = [0; SEGMENT_HEADER_BYTES];
    SEGMENT.encode(&mut block);
    let mut seeds = vec![[&[0], &block[..40]].concat()];
    let state = format::encode_state(&GroupState {
        vote: b"vote".as_slice().into(),
        committed: b"committed".as_slice().into(),
        purged: Some((3, 1)),
        last: Some((9, 2)),
    });
    let plain = format::encode_state(&GroupState::default());
    let record = |kind, index, payload| Record { kind, group: GroupId(7), index, term: 2, payload };
    let records = [
        record(Kind::Entry, 10, b"an entry".as_slice()),
        record(Kind::Copy, 4, b""),
        record(Kind::Put, 5, b"a body"),
        record(Kind::State, 0, &state),
        record(Kind::Tombstone, 1, b""),
    ];
    for seal in [false, true] {
        seeds.push([&[1], encode(&records, seal).as_slice()].concat());
    }
    seeds.push([&[1], encode(&records[..0], true).as_slice()].concat());
    for one in &records {
        let bytes = encode(std::slice::from_ref(one), false);
        seeds.push([&[2], &bytes[BATCH_HEADER_BYTES..]].concat());
    }
    seeds.extend([&state, &plain].map(|state| [&[3], state.as_ref()].concat()));
    let mut table = Builder::new(SEGMENT_BYTES);
    for (at, one) in [0, 2, 2, 3, 4, 1].into_iter().zip(0..) {
        let record = &records[at];
        table.push(&Item::of(4096 + 64 + one * 200, record));
        let next = Record { index: record.index + 1, ..record.clone() };
        table.push(&Item::of(4096 + 64 + one * 200 + record.encoded_len() as u32, &next));
    }
    for table in [table, Builder::new(SEGMENT_BYTES)] {
        let table = table.finish(&SEGMENT, 5, 16 << 10).expect("it is small");
        let end = TABLE_HEADER_BYTES + u32_at(&table, 52) as usize;
        seeds.push([&[4], &table[..end]].concat());
    }
    seeds
}

fn segment_header(data: &[u8]) {
    let _ = SegmentHeader::decode(data);
    let mut block = [0; SEGMENT_HEADER_BYTES];
    let length = data.len().min(40);
    block[..length].copy_from_slice(&data[..length]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..40]);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
    if let Ok(header) = SegmentHeader::decode(&block) {
        let mut again = [0; SEGMENT_HEADER_BYTES];
        header.encode(&mut again);
        assert_eq!(again, block, "{header:?}");
    }
}

fn batch(data: &[u8]) {
    let _ = read_batch(data);
    let bytes = with_checksums(data);
    let Ok((header, records)) = read_batch(&bytes) else { return };
    let mut again = encode(&records, header.seal);
    // The writer knows one batch to be durable, the one before; a reader takes any.
    again[24..40].copy_from_slice(&bytes[24..40]);
    let again = with_checksums(&again);
    assert_eq!(again, bytes[..header.bytes as usize], "{header:?} {records:?}");
}

type Batch<'a> = (format::BatchHeader, Vec<Record<&'a [u8]>>);

fn read_batch(bytes: &[u8]) -> Result<Batch<'_>, Invalid> {
    let header = format::decode_batch_header(&SEGMENT, bytes)?;
    let mut records = Vec::new();
    format::decode_batch(&header, bytes, |_, record| records.push(record))?;
    assert_eq!(records.len(), header.records as usize);
    Ok((header, records))
}

/// A batch without its padding.
fn encode(records: &[Record<&[u8]>], seal: bool) -> Vec<u8> {
    let bytes: usize = records.iter().map(Record::encoded_len).sum();
    let mut out = vec![0; BATCH_HEADER_BYTES + bytes];
    format::encode_batch(&SEGMENT, 1, seal, records, &mut out, &mut Vec::new());
    out
}

/// `data` as a batch whose magic, salt and checksums are right.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    out.resize(out.len().max(BATCH_HEADER_BYTES), 0);
    let (header, mut rest) = out.split_at_mut(BATCH_HEADER_BYTES);
    let mut crcs = 0;
    for _ in 0..u32_at(header, 44) {
        let Some(length) = record_length(rest) else { break };
        let (record, after) = rest.split_at_mut(length);
        let crc = crc32c::crc32c(&record[4..]).to_le_bytes();
        record[..4].copy_from_slice(&crc);
        crcs = crc32c::crc32c_append(crcs, &crc);
        rest = after;
    }
    header[..4].copy_from_slice(b"QBAT");
    // Not covered by any checksum, and not looked at.
    header[56..].fill(0);
    header[8..16].copy_from_slice(&SEGMENT.salt.to_le_bytes());
    header[16..24].copy_from_slice(&SEGMENT.segment.to_le_bytes());
    let crc = crc32c::crc32c(&header[8..52]);
    header[52..56].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c::crc32c_append(crcs, &header[8..56]);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

fn record(data: &[u8]) {
    let _ = format::decode_record(data);
    let Some(length) = record_length(data) else { return };
    let mut bytes = data[..length].to_vec();
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    if let Ok((record, found)) = format::decode_record(&bytes) {
        assert_eq!((record.encoded_len(), found), (length, crc));
        let again = encode(&[record], false);
        assert_eq!(again[BATCH_HEADER_BYTES..], bytes);
    }
}

/// Length of the record that `bytes` begin with, if all of it is there.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let payload = bytes.get(4..8)?;
    let length = RECORD_HEADER_BYTES.checked_add(u32_at(payload, 0) as usize)?;
    (length <= bytes.len()).then_some(length)
}

fn state(data: &[u8]) {
    if let Ok(state) = format::decode_state(data) {
        assert_eq!(format::encode_state(&state), data, "{state:?}");
    }
}

fn contents(data: &[u8]) {
    let _ = Contents::decode(&SEGMENT, data);
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().max(TABLE_HEADER_BYTES), 0);
    let body = (bytes.len() - TABLE_HEADER_BYTES) as u32;
    bytes[..8].copy_from_slice(b"QRTETOC\0");
    bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
    bytes[16..24].copy_from_slice(&SEGMENT.segment.to_le_bytes());
    bytes[24..32].copy_from_slice(&SEGMENT.salt.to_le_bytes());
    bytes[32..40].copy_from_slice(&SEGMENT.first_batch.to_le_bytes());
    bytes[52..56].copy_from_slice(&body.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    let Ok(contents) = Contents::decode(&SEGMENT, &bytes) else { return };
    let mut table = Builder::new(1 << 30);
    contents.items().for_each(|item| table.push(&item));
    let again = table.finish(&SEGMENT, contents.next_batch, contents.seal);
    assert_eq!(again.as_ref(), Some(&bytes), "{contents:?}");
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
