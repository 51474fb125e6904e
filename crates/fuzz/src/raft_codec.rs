//! Votes, log ids, memberships, entry payloads and checkpoints. The first byte of the input
//! chooses; the properties stand beside the decoders, in `quorate_group::fuzz`.

use quorate_group::fuzz;

pub fn check(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    match choice % 5 {
        0 => fuzz::vote(data),
        1 => fuzz::committed(data),
        2 => fuzz::stored_membership(data),
        3 => fuzz::entry(data),
        _ => fuzz::checkpoint(data),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let log_id = id(7, 9);
    let none = [0].as_slice();
    let single = membership(&[&[1, 2, 3]], &[1, 2, 3]);
    let joint = membership(&[&[1, 2, 3], &[2, 3, 4]], &[1, 2, 3, 4, 5]);
    let empty = membership(&[], &[]);
    let stored = [log_id.as_slice(), &single].concat();
    let never = [none, &empty].concat();
    let checkpoint = |id: &[u8], membership: &[u8], state: &[u8]| {
        let length = (membership.len() as u32).to_le_bytes();
        [&[1], id, &length, membership, state].concat()
    };
    let seed = |choice: u8, parts: &[&[u8]]| [[choice].as_slice(), &parts.concat()].concat();
    vec![
        seed(0, &[&[1], &7u64.to_le_bytes(), &1u64.to_le_bytes(), &[1]]),
        seed(0, &[&[1], &7u64.to_le_bytes(), &1u64.to_le_bytes(), &[0]]),
        seed(1, &[&log_id]),
        seed(1, &[none]),
        seed(2, &[&stored]),
        seed(2, &[&log_id, &joint]),
        seed(2, &[&never]),
        seed(3, &[]),
        seed(3, &[&[0xff], &single]),
        seed(3, &[&[0xff], &joint]),
        seed(3, &[&[1], &[0; 8]]),
        seed(4, &[&checkpoint(&log_id, &stored, b"state")]),
        seed(4, &[&checkpoint(none, &never, b"")]),
    ]
}

/// As in docs/FORMATS.md.
pub fn membership(configs: &[&[u64]], nodes: &[u64]) -> Vec<u8> {
    fn put(out: &mut Vec<u8>, nodes: &[u64]) {
        out.extend((nodes.len() as u16).to_le_bytes());
        nodes.iter().for_each(|node| out.extend(node.to_le_bytes()));
    }
    let mut out = vec![1];
    out.extend((configs.len() as u16).to_le_bytes());
    configs.iter().for_each(|config| put(&mut out, config));
    put(&mut out, nodes);
    out
}

/// A log id, as in docs/FORMATS.md.
pub fn id(term: u64, index: u64) -> Vec<u8> {
    [[1].as_slice(), &term.to_le_bytes(), &index.to_le_bytes()].concat()
}
