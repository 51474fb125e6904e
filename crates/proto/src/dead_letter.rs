//! Headers of messages that were moved to a dead-letter queue, or back.

/// Why the message ended: `rejected` by a consumer, `exhausted` by `max_deliveries` deliveries, or `expired`. What makes room
/// for newer messages is dropped and never moved.
pub const CAUSE: &str = "quorate-dead-cause";
/// Name of the queue that it ended in.
pub const SOURCE: &str = "quorate-dead-source";
/// Its offset there.
pub const OFFSET: &str = "quorate-dead-offset";
/// How often it was delivered there.
pub const DELIVERIES: &str = "quorate-dead-deliveries";
/// When it was moved, in Unix milliseconds by the clock of the leader that moved it.
pub const MOVED_AT_MS: &str = "quorate-dead-moved-at-ms";

/// What a message has that was moved to a dead-letter queue, in the order in which it is given. One that has no room for
/// all of them, with its own headers, has the first.
pub const ALL: [&str; 5] = [CAUSE, SOURCE, OFFSET, DELIVERIES, MOVED_AT_MS];

/// `QUEUE/OFFSET` in the dead-letter queue that a message was sent back from.
pub const REDRIVEN_FROM: &str = "quorate-redriven-from";

/// `QUEUE/OFFSET` in the queue that a message was moved from by an operator.
pub const MOVED_FROM: &str = "quorate-moved-from";
