//! Persisted bytes read back, and bytes that were never written by us are refused.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_storage::log::format::{
    BATCH_HEADER_BYTES, Invalid, Kind, Record, SegmentHeader, decode_batch, decode_batch_header,
    decode_record, decode_state, encode_batch, encode_state, padded,
};
use quorate_storage::{GroupId, GroupState};

const SEGMENT: SegmentHeader = SegmentHeader { segment: 7, salt: 0x5a17, first_batch: 3 };

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Entry),
        Just(Kind::Copy),
        Just(Kind::Put),
        Just(Kind::State),
        Just(Kind::Tombstone)
    ]
}

fn record() -> impl Strategy<Value = Record<Vec<u8>>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..3000);
    (kind(), any::<u64>(), any::<u64>(), any::<u64>(), payload).prop_map(
        |(kind, group, index, term, payload)| Record {
            kind,
            group: GroupId(group),
            index,
            term,
            payload,
        },
    )
}

fn encode(records: &[Record<Vec<u8>>], batch: u64, seal: bool) -> (Vec<u8>, Vec<u32>) {
    let bytes: usize = records.iter().map(Record::encoded_len).sum();
    let mut out = vec![0xee; padded(BATCH_HEADER_BYTES + bytes)];
    let mut offsets = Vec::new();
    encode_batch(&SEGMENT, batch, seal, records, &mut out, &mut offsets);
    (out, offsets)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_batch_reads_back(
        records in proptest::collection::vec(record(), 0..20),
        batch: u64,
        seal: bool,
    ) {
        let (bytes, offsets) = encode(&records, batch, seal);
        let header = decode_batch_header(&SEGMENT, &bytes).expect("header");
        prop_assert_eq!((header.batch, header.seal), (batch, seal));
        let mut found = Vec::new();
        decode_batch(&header, &bytes, |offset, record| {
            found.push((offset, Record {
                kind: record.kind,
                group: record.group,
                index: record.index,
                term: record.term,
                payload: record.payload.to_vec(),
            }));
        }).expect("batch");
        let (found_offsets, found): (Vec<u32>, Vec<_>) = found.into_iter().unzip();
        prop_assert_eq!(found_offsets, offsets);
        prop_assert_eq!(found, records);
    }

    #[test]
    fn a_changed_batch_is_refused(
        records in proptest::collection::vec(record(), 1..8),
        at: prop::sample::Index,
        flip in 1..=255u8,
    ) {
        let (mut bytes, _) = encode(&records, 9, false);
        let used = decode_batch_header(&SEGMENT, &bytes).expect("header").bytes as usize;
        // The last 8 bytes of the header are reserved.
        let at = at.index(used);
        prop_assume!(!(56..BATCH_HEADER_BYTES).contains(&at));
        bytes[at] ^= flip;
        let accepted = decode_batch_header(&SEGMENT, &bytes)
            .and_then(|header| decode_batch(&header, &bytes, |_, _| ()));
        prop_assert!(accepted.is_err());
    }

    #[test]
    fn a_batch_of_another_segment_is_not_ours(segment: u64, salt: u64) {
        let (bytes, _) = encode(&[], 1, true);
        let other = SegmentHeader { segment, salt, first_batch: 1 };
        prop_assume!((segment, salt) != (SEGMENT.segment, SEGMENT.salt));
        prop_assert!(decode_batch_header(&other, &bytes).is_err());
    }

    #[test]
    fn a_state_reads_back(
        vote: Vec<u8>,
        committed: Vec<u8>,
        purged: Option<(u64, u64)>,
        last: Option<(u64, u64)>,
    ) {
        let state = GroupState {
            vote: Bytes::from(vote),
            committed: Bytes::from(committed),
            purged,
            last,
        };
        prop_assert_eq!(decode_state(&encode_state(&state)), Ok(state));
    }

    #[test]
    fn a_segment_header_reads_back(segment: u64, salt: u64, first_batch: u64) {
        let header = SegmentHeader { segment, salt, first_batch };
        let mut block = vec![1; 4096];
        header.encode(&mut block);
        prop_assert_eq!(SegmentHeader::decode(&block), Ok(header));
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        good_start: bool,
    ) {
        let _ = decode_state(&bytes);
        let _ = decode_record(&bytes);
        let _ = SegmentHeader::decode(&bytes);
        let _ = decode_batch_header(&SEGMENT, &bytes);
        let (mut batch, _) = encode(&[], 1, false);
        let header = decode_batch_header(&SEGMENT, &batch).expect("header");
        let start = if good_start { BATCH_HEADER_BYTES } else { 0 };
        let end = (start + bytes.len()).min(batch.len());
        batch[start..end].copy_from_slice(&bytes[..end - start]);
        for records in [0, 1, 5] {
            for len in [64, 65, 100, 264, u32::MAX] {
                let header = quorate_storage::log::format::BatchHeader {
                    records,
                    bytes: len,
                    ..header
                };
                let _ = decode_batch(&header, &batch, |_, _| ());
            }
        }
    }
}

#[test]
fn what_is_not_known_is_refused_although_the_checksum_fits() {
    let record = Record { kind: Kind::Put, group: GroupId(1), index: 2, term: 3, payload: vec![4] };
    let (bytes, offsets) = encode(std::slice::from_ref(&record), 1, false);
    let mut one = bytes[offsets[0] as usize..][..record.encoded_len()].to_vec();
    for at in 9..12 {
        one[at] = 1;
        let crc = crc32c::crc32c(&one[4..]).to_le_bytes();
        one[..4].copy_from_slice(&crc);
        assert_eq!(decode_record(&one), Err(Invalid::Malformed), "byte {at}");
        one[at] = 0;
    }
    let mut header = bytes[..BATCH_HEADER_BYTES].to_vec();
    header[48] |= 2;
    let crc = crc32c::crc32c(&header[8..52]).to_le_bytes();
    header[52..56].copy_from_slice(&crc);
    assert_eq!(decode_batch_header(&SEGMENT, &header), Err(Invalid::Malformed));
    let mut state = encode_state(&GroupState::default()).to_vec();
    state[1] |= 4;
    assert_eq!(decode_state(&state), Err(Invalid::Malformed));
}
