//! The reasons that errors carry, as `google.rpc.ErrorInfo.reason` on unary calls and as
//! `Failure.reason` inside of streams.
//!
//! Each constant says what it means, whether the same call may be retried as it is, and the cure.

/// `google.rpc.ErrorInfo.domain` of every error of this product.
pub const DOMAIN: &str = "quorate";

/// `ErrorInfo.metadata` key: node id of the queue's leader, where that node is the cure.
pub const LEADER_ID: &str = "leader_id";
/// `ErrorInfo.metadata` key: `host:port` of the leader's gRPC endpoint.
pub const LEADER_ADDRESS: &str = "leader_address";
/// `ErrorInfo.metadata` key: Raft term of the leadership; a hint of a higher term is newer.
pub const LEADER_TERM: &str = "leader_term";

/// This node does not lead the queue and could not forward. Nothing entered. Retry: at the leader named
/// by the hint, else after a pause.
pub const NOT_LEADER: &str = "NOT_LEADER";
/// No leader was found, or no majority of the voters answered, in time. A change of the catalog or a purge may
/// still take effect; a publish that was taken in is told [`UNKNOWN_OUTCOME`] instead. A recovery: a node is there
/// that does not say what it has, or is gone for a moment only; metadata `node`. Retry: after a pause.
/// Cure: bring nodes back.
pub const NO_QUORUM: &str = "NO_QUORUM";
/// No queue of this name. Retry: no. Cure: create it, or correct the name.
pub const QUEUE_NOT_FOUND: &str = "QUEUE_NOT_FOUND";
/// No topic of this name. Retry: no. Cure: create it, or correct the name.
pub const TOPIC_NOT_FOUND: &str = "TOPIC_NOT_FOUND";
/// The topic is not as the caller has seen it. Nothing has changed. Metadata `version`: that of its routes, 0 if it is not
/// there. Retry: after looking again.
pub const TOPIC_CHANGED: &str = "TOPIC_CHANGED";
/// No route of the topic takes a message of the request (metadata `message`: its place). Nothing was published anywhere.
/// Retry: no. Cure: a route, or allowing that it goes nowhere.
pub const NO_ROUTE: &str = "NO_ROUTE";
/// A queue of this name exists with other settings. Retry: no. Cure: another name, or the same settings.
pub const QUEUE_EXISTS: &str = "QUEUE_EXISTS";
/// The dead letters of the queue would come back to it, at once or over others. Metadata `queues`: the way round. Nothing
/// was changed. Retry: no. Cure: another dead-letter queue.
pub const DEAD_LETTER_CYCLE: &str = "DEAD_LETTER_CYCLE";
/// The queue to be deleted is the dead-letter queue of others. Metadata `queues`: the first 16 of them. Retry: no. Cure:
/// delete those first.
pub const IS_DEAD_LETTER_QUEUE: &str = "IS_DEAD_LETTER_QUEUE";
/// The queue is sharded, and the call is for one queue. Metadata `queue`, `shards` (their number), `first_shard`. Nothing
/// was done. Retry: no. Cure: publish and consume with the SDK, which does it shard by shard, or name one shard.
pub const SHARDED_QUEUE: &str = "SHARDED_QUEUE";
/// The shards of the queue are not those that the client spreads keys by. Nothing entered. Metadata `sharded_queue`. Retry:
/// no. Cure: open a new producer, which learns them anew.
pub const SHARDS_CHANGED: &str = "SHARDS_CHANGED";
/// The queue is a shard, which is created, changed and deleted with the others only. Metadata `sharded_queue`. Retry: no.
/// Cure: name the sharded queue.
pub const IS_SHARD: &str = "IS_SHARD";
/// The queue to be deleted "if empty" holds messages. Retry: once it is drained.
pub const QUEUE_NOT_EMPTY: &str = "QUEUE_NOT_EMPTY";
/// The publish would exceed the queue's `max_messages` or `max_bytes`, or too many messages are for later, or have a
/// time to live or a priority of their own. Nothing entered, and nothing was dropped for it. Retry: once
/// consumers have caught up; the caller decides.
pub const QUEUE_FULL: &str = "QUEUE_FULL";
/// The leader's disk is at its reserve. Nothing entered. Retry: once space is free; settling goes on.
pub const DISK_FULL: &str = "DISK_FULL";
/// A message exceeds the server's limit. Nothing of its batch entered. Retry: no. Cure: a smaller message.
pub const MESSAGE_TOO_LARGE: &str = "MESSAGE_TOO_LARGE";
/// The request breaks a rule of the API, named by the message. Retry: no. Cure: correct the caller.
pub const INVALID_ARGUMENT: &str = "INVALID_ARGUMENT";
/// The lease ended, or the token is of an earlier one; the message is or will be delivered again.
/// Retry: no. Cure: longer leases, or extending them.
pub const LEASE_LOST: &str = "LEASE_LOST";
/// Fewer nodes are alive than the queue shall have replicas. Retry: after nodes joined or came back.
pub const NOT_ENOUGH_NODES: &str = "NOT_ENOUGH_NODES";
/// A limit on what the cluster holds, such as the number of queues. Retry: no. Cure: remove some, or
/// raise the limit.
pub const QUOTA_EXCEEDED: &str = "QUOTA_EXCEEDED";
/// The node is over a limit of memory, connections or streams. Nothing entered. Retry: after a pause.
pub const RESOURCE_EXHAUSTED: &str = "RESOURCE_EXHAUSTED";
/// Fewer voters are in sync than the queue's `min_in_sync`, so level ALL cannot be had. Metadata `in_sync`,
/// `min_in_sync`, and `entered`: "false", nothing entered; "true", the messages are in the queue at quorum level, at
/// `first_offset`. Retry: with the same producer sequence once replicas are back. Cure: bring replicas back, or ask for QUORUM.
pub const NOT_ENOUGH_IN_SYNC: &str = "NOT_ENOUGH_IN_SYNC";
/// A replica cannot serve a read within its bound: it is cut off or behind, or the way to the leader is slower
/// than the bound. Metadata `staleness_ms` where it is known. Retry: at another replica. Cure: a wider bound.
pub const STALENESS_EXCEEDED: &str = "STALENESS_EXCEEDED";
/// The request uses a layout or feature that this node does not know. Retry: no. Cure: upgrade the node.
pub const UNSUPPORTED_VERSION: &str = "UNSUPPORTED_VERSION";
/// A batch's sequence leaves a gap after the last one of its producer; nothing entered. Metadata
/// `expected_sequence`. Retry: with the missing batches first, or from 0 under a higher epoch.
pub const OUT_OF_ORDER: &str = "OUT_OF_ORDER";
/// The producer id is used under a higher epoch. Nothing entered. Retry: no. Cure: an id per program instance.
pub const PRODUCER_FENCED: &str = "PRODUCER_FENCED";
/// The batch entered or was passed over so long ago that its offsets are forgotten. Retry: no.
pub const TOO_OLD_TO_DEDUPLICATE: &str = "TOO_OLD_TO_DEDUPLICATE";
/// A batch overlaps batches that entered, in part only. Nothing of it entered. Retry: no. Cure: cut
/// retried batches as they were cut the first time.
pub const SEQUENCE_CONFLICT: &str = "SEQUENCE_CONFLICT";
/// A message has a priority, and its queue has none. Nothing of its batch entered. Retry: no. Cure: a queue with the
/// setting `priorities` (`quorate queue create --priorities`), or messages without.
pub const PRIORITIES_OFF: &str = "PRIORITIES_OFF";
/// A batch of the same message id has entered, with another number of messages. Nothing entered. Metadata `count`: the
/// messages of the one that did. Retry: no. Cure: an id for each batch, and the same batch for the same id.
pub const MESSAGE_ID_CONFLICT: &str = "MESSAGE_ID_CONFLICT";
/// The queue's next offset is not the one that the publish expects: another producer was first. Nothing entered.
/// Metadata `next_offset`. Retry: no. Cure: read what came before that offset, decide anew, and publish with it.
pub const UNEXPECTED_OFFSET: &str = "UNEXPECTED_OFFSET";
/// Consumers cannot be set back to where messages are missing: what was settled there is not retained any more. Nothing has
/// changed. Metadata `first_offset`: from there on all are there. Retry: no. Cure: seek to that offset, or to `first`.
pub const OFFSET_GONE: &str = "OFFSET_GONE";
/// Consumers cannot be set back in a queue that does not retain what is settled. Nothing has changed. Metadata `first_offset`:
/// the oldest message held. Retry: no. Cure: `retain_ms` or `retain_bytes`, for what is settled from then on.
pub const NOT_RETAINED: &str = "NOT_RETAINED";
/// No slot of this name at the queue. Retry: no. Cure: create it, or correct the name.
pub const SLOT_NOT_FOUND: &str = "SLOT_NOT_FOUND";
/// A slot of this name exists with other parameters. Retry: no. Cure: another name, or drop it first.
pub const SLOT_EXISTS: &str = "SLOT_EXISTS";
/// Something that the slot needed is gone: it was beyond its bounds of bytes, idle time or batches, or the queue was purged.
/// Metadata `lost_from`, `position`, `first_offset`. Retry: no. Cure: drop it and create it anew, or read from the
/// first offset that can be read.
pub const SLOT_LOST: &str = "SLOT_LOST";
/// The slot is beyond where the caller is: another reader or a person has moved it. Metadata `position`. Retry: no.
/// Cure: one reader a slot; begin again at its position.
pub const SLOT_MOVED: &str = "SLOT_MOVED";
/// A consumer's stream is closed: its session was attached again by another stream, or has ended since its grace is over
/// and what it had leased went back. Retry: attach again, unless that was done elsewhere.
pub const SESSION_CLOSED: &str = "SESSION_CLOSED";
/// An administrator has ended the consumer's session; what it had leased went back. Retry: not by itself. Cure: a new
/// session, if it is to go on.
pub const CONSUMER_KICKED: &str = "CONSUMER_KICKED";
/// The header that the queue filters by is another one now, or none, and the session of a consumer with a filter has ended;
/// what it had leased went back. Metadata `queue`. Retry: not by itself. Cure: a new session, with values of the header that
/// is set now.
pub const FILTER_CHANGED: &str = "FILTER_CHANGED";
/// The queue has no consumer of this session or name. Retry: no. Cure: correct it; the listing shows who is there.
pub const CONSUMER_NOT_FOUND: &str = "CONSUMER_NOT_FOUND";
/// The queue has a majority of its voters, or may have: there is nothing to recover. Retry: no. Cure: replace
/// single replicas (`queue replica replace`), or wait for an election.
pub const HAS_QUORUM: &str = "HAS_QUORUM";
/// No replica of the queue is reached that has anything to go on with. Retry: once a node that holds one is back.
pub const NO_SURVIVOR: &str = "NO_SURVIVOR";
/// The queue is being recovered on a node that is there. Metadata `survivor`. Retry: after a pause.
pub const RECOVERING: &str = "RECOVERING";
/// The node is going down in order. Nothing entered. Retry: at another node, at once.
pub const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
/// The call was handed on and no answer came, or no majority confirmed a publish in time: it may have taken
/// effect. Retry: publishes with a producer id, and calls that have the same effect twice.
pub const UNKNOWN_OUTCOME: &str = "UNKNOWN_OUTCOME";

/// Every reason, in the order of this file.
pub const ALL: &[&str] = &[
    NOT_LEADER,
    NO_QUORUM,
    QUEUE_NOT_FOUND,
    QUEUE_EXISTS,
    DEAD_LETTER_CYCLE,
    IS_DEAD_LETTER_QUEUE,
    SHARDED_QUEUE,
    IS_SHARD,
    SHARDS_CHANGED,
    QUEUE_NOT_EMPTY,
    QUEUE_FULL,
    DISK_FULL,
    MESSAGE_TOO_LARGE,
    INVALID_ARGUMENT,
    LEASE_LOST,
    NOT_ENOUGH_NODES,
    QUOTA_EXCEEDED,
    RESOURCE_EXHAUSTED,
    NOT_ENOUGH_IN_SYNC,
    STALENESS_EXCEEDED,
    UNSUPPORTED_VERSION,
    OUT_OF_ORDER,
    PRODUCER_FENCED,
    TOO_OLD_TO_DEDUPLICATE,
    SEQUENCE_CONFLICT,
    TOPIC_NOT_FOUND,
    TOPIC_CHANGED,
    NO_ROUTE,
    PRIORITIES_OFF,
    MESSAGE_ID_CONFLICT,
    UNEXPECTED_OFFSET,
    OFFSET_GONE,
    NOT_RETAINED,
    SLOT_NOT_FOUND,
    SLOT_EXISTS,
    SLOT_LOST,
    SLOT_MOVED,
    SESSION_CLOSED,
    CONSUMER_KICKED,
    FILTER_CHANGED,
    CONSUMER_NOT_FOUND,
    HAS_QUORUM,
    NO_SURVIVOR,
    RECOVERING,
    SHUTTING_DOWN,
    UNKNOWN_OUTCOME,
];
