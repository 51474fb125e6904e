//! Entries as they come out of the log: decoded, applied, and their messages found again.
//!
//! ```text
//! input   machine u8 | entry (length u16, bytes) *         applied at indexes 1, 2, …
//! ```
//!
//! Whatever commands an entry holds, the machine answers them, stays sound, and can be restored
//! from its snapshot.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_machine::catalog::Catalog;
use quorate_machine::queue::{Command, Effect, Queue, Run, body};
use quorate_machine::{At, EntryBuilder, Machine, Millis, decode_entry, frame};

use crate::commands::{catalog_commands, queue_commands};
use crate::input::{Input, put_chunk};

pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let is_queue = input.u8() == 0;
    let mut entries = Vec::new();
    while !input.is_empty() {
        entries.push(Bytes::copy_from_slice(input.chunk()));
    }
    if is_queue { queue(&entries) } else { catalog(&entries) }
}

fn queue(entries: &[Bytes]) {
    let mut queue = Queue::new();
    // By index, the entries whose frames are as the broker lets them in.
    let mut sound = BTreeMap::new();
    for (entry, index) in entries.iter().zip(1..) {
        if frames_are_valid(entry) {
            sound.insert(index, entry.clone());
        }
        for effect in apply(&mut queue, index, entry) {
            if let Effect::Deliver { runs, .. } = effect {
                runs.iter().for_each(|run| find(&sound, run));
            }
        }
        queue.check().expect("the queue is sound");
        let _ = queue.stats();
    }
    let mut outstanding = Vec::new();
    queue.outstanding(&mut outstanding);
    restore(&queue);
}

fn catalog(entries: &[Bytes]) {
    let mut catalog = Catalog::new();
    for (entry, index) in entries.iter().zip(1..) {
        apply(&mut catalog, index, entry);
    }
    for queue in catalog.queues() {
        assert_eq!(catalog.by_group(queue.group), Some(queue));
        assert!(!catalog.is_deleted(queue.group));
    }
    restore(&catalog);
}

/// Applies an entry as a replica does; one that cannot be read ends there, as the replica would.
fn apply<M: Machine>(machine: &mut M, index: u64, entry: &Bytes) -> Vec<M::Effect> {
    let mut effects = Vec::new();
    let Ok((now, commands)) = decode_entry(entry.clone()) else { return effects };
    let at = At { index, now };
    for (command, ordinal) in commands.zip(0..) {
        let Ok(command) = command.and_then(|mut command| M::decode(&mut command)) else { break };
        machine.apply(at, ordinal, command, &mut effects);
    }
    machine.finish(at, &mut effects);
    effects
}

fn restore<M: Machine>(machine: &M) {
    let snapshot = machine.snapshot();
    let restored = M::restore(&snapshot).expect("a snapshot is restored");
    assert_eq!(restored.snapshot(), snapshot);
    assert_eq!(restored.hash(), machine.hash());
    assert_eq!(restored.live(), machine.live());
    assert_eq!(restored.next_deadline(), machine.next_deadline());
}

fn frames_are_valid(entry: &Bytes) -> bool {
    let Ok((_, commands)) = decode_entry(entry.clone()) else { return false };
    commands.into_iter().all(|command| match command.map(|mut c| Queue::decode(&mut c)) {
        Ok(Ok(Command::Publish(publish))) => {
            frame::validate(&publish.frame, publish.count, u32::MAX).is_ok()
        }
        Ok(Ok(_)) => true,
        _ => false,
    })
}

/// A run that was delivered leads to its messages.
fn find(sound: &BTreeMap<u64, Bytes>, run: &Run) {
    let Some(entry) = sound.get(&run.index.0) else { return };
    let frames = body(entry, run.ordinal, run.skip, run.count).expect("the messages are there");
    let frame = frames.concat();
    assert_eq!(frame::validate(&frame, run.count, u32::MAX), Ok(()), "{run:?}");
}

pub fn seeds() -> Vec<Vec<u8>> {
    let queue: Vec<Bytes> = queue_commands().iter().map(crate::commands::encode::<Queue>).collect();
    let catalog = catalog_commands();
    let catalog: Vec<Bytes> = catalog.iter().map(crate::commands::encode::<Catalog>).collect();
    vec![
        // An entry for each command, so that leases are there when they are settled; all in one;
        // and something between.
        seed(0, &queue, 1),
        seed(0, &queue, queue.len()),
        seed(0, &queue[1..], 3),
        seed(1, &catalog, 1),
        seed(1, &catalog, catalog.len()),
    ]
}

fn seed(machine: u8, commands: &[Bytes], per_entry: usize) -> Vec<u8> {
    let mut out = vec![machine];
    for (commands, now) in commands.chunks(per_entry).zip(1..) {
        let mut entry = EntryBuilder::new();
        for command in commands {
            entry.push(|out| out.extend_from_slice(command));
        }
        put_chunk(&mut out, &entry.freeze(Millis(now * 1_000)));
    }
    out
}
