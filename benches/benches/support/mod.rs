//! What the benches of the hot paths have in common: batches of 64 messages of 1 KB, and a queue that
//! is fed as a replica feeds it.
#![allow(dead_code)]

use std::sync::OnceLock;

use bytes::Bytes;
use quorate_machine::queue::{
    Attach, Command, Effect, Publish, Queue, Session, SettleItem, SettleKind,
};
use quorate_machine::{At, EntryBuilder, Machine as _, Millis, NodeId};
use quorate_proto::frame::FrameBuilder;
use quorate_proto::v1::Frame;

/// Messages of a batch.
pub const BATCH: u32 = 64;
/// Body of a message, in bytes.
pub const BODY_BYTES: usize = 1000;

/// A batch as a producer builds it.
pub fn build_frame() -> Frame {
    let body = [b'x'; BODY_BYTES];
    let mut builder = FrameBuilder::with_capacity(BATCH as usize * (BODY_BYTES + 16));
    for _ in 0..BATCH {
        builder.push::<&str, &[u8]>(&[], &body).expect("it is within all limits");
    }
    builder.finish()
}

/// The same batch, made once.
pub fn frame() -> &'static Frame {
    static FRAME: OnceLock<Frame> = OnceLock::new();
    FRAME.get_or_init(build_frame)
}

/// The command that publishes the batch.
pub fn publish() -> Command {
    let frame = frame();
    Command::Publish(Publish::plain(frame.count, frame.messages.clone()))
}

/// The entry that publishes the batch.
pub fn encode_entry() -> Bytes {
    let mut builder = EntryBuilder::with_capacity(frame().messages.len() + 64);
    builder.push_command::<Queue>(&publish());
    builder.freeze(Millis(1))
}

/// The command that attaches a consumer with `prefetch`.
pub fn attach(prefetch: u32) -> Command {
    Command::Attach(Attach {
        session: Session(1),
        node: NodeId(1),
        name: "bench".to_owned(),
        prefetch,
        lease_ms: None,
        tells_starts: false,
        filter: Vec::new(),
    })
}

/// A queue and the index of its last entry.
pub struct Replica {
    pub queue: Queue,
    pub index: u64,
    pub effects: Vec<Effect>,
}

impl Replica {
    pub fn new() -> Replica {
        Replica { queue: Queue::new(), index: 0, effects: Vec::new() }
    }

    /// A queue with so many batches in it, and no consumer.
    pub fn with_backlog(batches: u64) -> Replica {
        let mut replica = Replica::new();
        (0..batches).for_each(|_| replica.apply(publish()));
        replica
    }

    /// Applies a command that is alone in its entry.
    pub fn apply(&mut self, command: Command) {
        self.index += 1;
        let at = At { index: self.index, now: Millis(self.index) };
        self.queue.apply(at, 0, command, &mut self.effects);
        self.queue.finish(at, &mut self.effects);
    }

    /// The commands that acknowledge all that was delivered since the last call.
    pub fn acks(&mut self) -> Vec<Command> {
        self.effects.drain(..).filter_map(ack).collect()
    }
}

fn ack(effect: Effect) -> Option<Command> {
    let Effect::Deliver { session, token, runs, .. } = effect else { return None };
    let whole = |first, count| SettleItem { kind: SettleKind::Ack, token, first, count };
    let items = runs.iter().map(|run| whole(run.first_offset, run.count)).collect();
    Some(Command::Settle { session, items })
}
