//! Why a call was refused, once for all ways of saying it: a gRPC status with `ErrorInfo`, or a
//! `Failure` inside of a stream.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_group::ProposeError;
use quorate_machine::{catalog, queue};
use quorate_proto::{reason, v1};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// A refused call: reason, words for people, and what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of the documented reasons.
    pub reason: &'static str,
    /// What happened and what to do.
    pub message: String,
    /// A retry helps after this long.
    pub retry_after: Option<Duration>,
    /// The node that can serve the call.
    pub leader: Option<v1::Leader>,
    /// Facts for programs.
    pub metadata: BTreeMap<String, String>,
}

/// After an election has had a chance.
const RETRY_LEADER: Duration = Duration::from_millis(50);
/// After some of what is held may have gone.
const RETRY_LOAD: Duration = Duration::from_millis(500);

impl Refusal {
    /// A refusal for which a retry of the same call does not help.
    #[must_use]
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry_after: None,
            leader: None,
            metadata: BTreeMap::new(),
        }
    }

    pub(crate) fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    pub(crate) fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.into(), value.to_string());
        self
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(reason::INVALID_ARGUMENT, message)
    }

    pub(crate) fn queue_not_found(name: &str) -> Self {
        let message =
            format!("there is no queue `{name}`; create it with `quorate queue create {name}`");
        Self::new(reason::QUEUE_NOT_FOUND, message).with("queue", name)
    }

    pub(crate) fn not_leader(leader: Option<v1::Leader>) -> Self {
        let message = match &leader {
            Some(leader) => format!("node {} at {} leads; ask it", leader.node_id, leader.address),
            None => "this node does not lead and knows no leader; retry".to_string(),
        };
        Self { leader, ..Self::new(reason::NOT_LEADER, message).retry(RETRY_LEADER) }
    }

    pub(crate) fn no_quorum(what: &str) -> Self {
        let message = format!(
            "{what}: no majority of the replicas answered in time; check `quorate cluster status`"
        );
        Self::new(reason::NO_QUORUM, message).retry(RETRY_LOAD)
    }

    pub(crate) fn unknown_outcome() -> Self {
        let message = "the outcome is not known: it may have been done; retry with the same producer \
                       sequence, or look before you repeat";
        Self::new(reason::UNKNOWN_OUTCOME, message).retry(RETRY_LEADER)
    }

    /// The group takes nothing more in, since nothing comes back from its quorum.
    pub(crate) fn not_taken() -> Self {
        let message = "too much waits for a majority of the replicas already, so this did not enter; \
                       check `quorate cluster status`";
        Self::exhausted("commands_waiting", message)
    }

    fn never_fits(limit: queue::Limit, max: u64, held: u64) -> Self {
        let message = format!(
            "the batch alone exceeds {limit} = {max}, so it can never fit; publish smaller batches, or raise the limit with \
             `quorate queue update`"
        );
        let refusal = Self::new(reason::QUEUE_FULL, message);
        refusal.with("limit", limit).with("max", max).with("held", held)
    }

    /// Why a batch of so many messages, in a frame of so many bytes, did not enter.
    pub(crate) fn of_batch(rejection: queue::Rejection, count: u32, bytes: u64) -> Self {
        use queue::{Limit, Rejection as R};
        match rejection {
            R::QueueFull { limit: limit @ Limit::MaxMessages, max, held }
                if u64::from(count) > max =>
            {
                Self::never_fits(limit, max, held)
            }
            R::QueueFull { limit: limit @ Limit::MaxBytes, max, held } if bytes > max => {
                Self::never_fits(limit, max, held)
            }
            rejection => rejection.into(),
        }
    }

    /// What the batches behind a refused one are told: they did not enter either.
    pub(crate) fn for_followers(self) -> Self {
        if matches!(self.reason, reason::NOT_LEADER | reason::SHUTTING_DOWN) {
            return self;
        }
        let message =
            format!("a batch before this one of the same stream was refused: {}", self.message);
        Self { message, reason: reason::OUT_OF_ORDER, ..self }
    }

    pub(crate) fn disk_full() -> Self {
        let message = "the node's disk is below its reserve: publishes are refused until there is \
                       space; consume and settle, or free space (limits.disk_reserve_bytes)";
        Self::new(reason::DISK_FULL, message).retry(RETRY_LOAD).with("limit", "disk_reserve_bytes")
    }

    pub(crate) fn exhausted(limit: &str, message: impl Into<String>) -> Self {
        Self::new(reason::RESOURCE_EXHAUSTED, message).retry(RETRY_LOAD).with("limit", limit)
    }

    /// Too few voters are in sync for a publish that asks for all of them. `entered` is the first offset
    /// of a batch that a majority has.
    pub(crate) fn not_enough_in_sync(in_sync: usize, needed: usize, entered: Option<u64>) -> Self {
        let so = match entered {
            None => "so this did not enter".to_owned(),
            Some(offset) => {
                format!("so this is in the queue at offset {offset} on a majority only")
            }
        };
        let message = format!(
            "{in_sync} voters are in sync and min_in_sync is {needed}, {so}; bring replicas back and \
             retry with the same producer sequence, or ask for QUORUM"
        );
        let refusal = Self::new(reason::NOT_ENOUGH_IN_SYNC, message)
            .retry(RETRY_LOAD)
            .with("in_sync", in_sync)
            .with("min_in_sync", needed)
            .with("entered", entered.is_some());
        match entered {
            Some(offset) => refusal.with("first_offset", offset),
            None => refusal,
        }
    }

    pub(crate) fn session_closed(why: &str) -> Self {
        let message = format!("the session's stream is closed: {why}; attach again");
        Self::new(reason::SESSION_CLOSED, message).retry(RETRY_LEADER)
    }

    /// A consumer's stream was read so slowly, or not at all, that what was leased to it was leased again and again.
    pub(crate) fn not_read() -> Self {
        Self::session_closed("leases ran out before their messages were read, again and again")
    }

    /// What a consumer was told when it attached holds no longer.
    pub(crate) fn settings_changed() -> Self {
        let why = "the queue's lease_ms, max_deliveries or retry_ms was changed, what it had leased is kept, and \
                   `attached` says what holds now";
        Self::session_closed(why)
    }

    pub(crate) fn filter_changed(queue: &impl std::fmt::Display) -> Self {
        let message = format!(
            "the header that queue `{queue}` filters by has changed, and the filter of this consumer says nothing of the \
             new one: what it had is ready again; begin a new session with a filter for the header that is set now \
             (`quorate queue describe {queue}`)"
        );
        Self::new(reason::FILTER_CHANGED, message).with("queue", queue)
    }

    pub(crate) fn consumer_kicked(queue: &impl std::fmt::Display) -> Self {
        let message = format!(
            "an administrator has ended this consumer of queue `{queue}`: what it had goes to others; begin a new \
             session if it is to go on"
        );
        Self::new(reason::CONSUMER_KICKED, message).with("queue", queue)
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(reason::SHUTTING_DOWN, "this node is shutting down; ask another")
            .retry(RETRY_LEADER)
    }

    pub(crate) fn message_too_large(bytes: u64, limit: u64, name: &str) -> Self {
        let message =
            format!("{bytes} bytes are more than {name} = {limit}; split it, or raise the limit");
        Self::new(reason::MESSAGE_TOO_LARGE, message).with("limit", name).with("max", limit)
    }

    /// Whether the session that it ends a stream of may go on in another one.
    pub(crate) fn goes_on(&self) -> bool {
        self.reason == reason::SESSION_CLOSED
    }

    fn code(&self) -> Code {
        match self.reason {
            reason::INVALID_ARGUMENT | reason::MESSAGE_TOO_LARGE => Code::InvalidArgument,
            reason::QUEUE_NOT_FOUND
            | reason::SLOT_NOT_FOUND
            | reason::TOPIC_NOT_FOUND
            | reason::CONSUMER_NOT_FOUND => Code::NotFound,
            reason::QUEUE_EXISTS | reason::SLOT_EXISTS => Code::AlreadyExists,
            reason::QUEUE_FULL
            | reason::DISK_FULL
            | reason::QUOTA_EXCEEDED
            | reason::RESOURCE_EXHAUSTED => Code::ResourceExhausted,
            reason::NOT_LEADER
            | reason::NO_QUORUM
            | reason::NOT_ENOUGH_IN_SYNC
            | reason::STALENESS_EXCEEDED
            | reason::SHUTTING_DOWN => Code::Unavailable,
            reason::UNKNOWN_OUTCOME => Code::DeadlineExceeded,
            reason::SESSION_CLOSED
            | reason::CONSUMER_KICKED
            | reason::FILTER_CHANGED
            | reason::UNEXPECTED_OFFSET => Code::Aborted,
            reason::UNSUPPORTED_VERSION => Code::Unimplemented,
            _ => Code::FailedPrecondition,
        }
    }

    /// The same as a message inside of a stream.
    #[must_use]
    pub fn into_failure(self) -> v1::Failure {
        v1::Failure {
            reason: self.reason.into(),
            message: self.message,
            retry_after_ms: self.retry_after.map_or(0, |after| after.as_millis() as u32),
            leader: self.leader,
            metadata: self.metadata.into_iter().collect(),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = refusal.code();
        let mut metadata: std::collections::HashMap<String, String> =
            refusal.metadata.into_iter().collect();
        if let Some(leader) = refusal.leader {
            metadata.insert("leader_id".into(), leader.node_id.to_string());
            metadata.insert("leader_address".into(), leader.address);
            metadata.insert("leader_term".into(), leader.term.to_string());
        }
        let mut details = ErrorDetails::new();
        details.set_error_info(refusal.reason, reason::DOMAIN, metadata);
        if refusal.retry_after.is_some() {
            details.set_retry_info(refusal.retry_after);
        }
        Status::with_error_details(code, refusal.message, details)
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { .. } => Self::not_leader(None),
            ProposeError::Unknown => Self::unknown_outcome(),
            ProposeError::Stopped => Self::shutting_down(),
        }
    }
}

impl From<queue::Rejection> for Refusal {
    fn from(rejection: queue::Rejection) -> Self {
        use queue::Rejection as R;
        let message = rejection.to_string();
        match rejection {
            // Nothing is held, so the batch alone is too much and waiting does not help.
            R::QueueFull { limit, max, held: 0 } => Self::never_fits(limit, max, 0),
            R::QueueFull { limit, max, held } => Self::new(
                reason::QUEUE_FULL,
                match limit {
                    queue::Limit::Delayed => {
                        format!("{message}; wait until some have left, or use another queue")
                    }
                    queue::Limit::Dead => format!(
                        "{message}: nothing is taken in until they can be moved; see `dead_letters_wait` \
                         of the queue's description"
                    ),
                    _ => format!(
                        "{message}; consume, purge, or raise the limit with `quorate queue update`"
                    ),
                },
            )
            .retry(RETRY_LOAD)
            .with("limit", limit)
            .with("max", max)
            .with("held", held),
            R::OutOfOrder { expected } => {
                Self::new(reason::OUT_OF_ORDER, message).with("expected_sequence", expected)
            }
            R::TooOldToDeduplicate { oldest } => {
                Self::new(reason::TOO_OLD_TO_DEDUPLICATE, message).with("oldest_sequence", oldest)
            }
            R::SequenceConflict { expected } => {
                Self::new(reason::SEQUENCE_CONFLICT, message).with("expected_sequence", expected)
            }
            R::MessageIdConflict { count } => Self::new(
                reason::MESSAGE_ID_CONFLICT,
                format!("{message}; give each batch an id of its own"),
            )
            .with("count", count),
            R::UnexpectedOffset { next } => Self::new(
                reason::UNEXPECTED_OFFSET,
                format!("{message}; read what has come before it, and decide anew"),
            )
            .with("next_offset", next.0),
            R::Fenced { epoch } => Self::new(reason::PRODUCER_FENCED, message).with("epoch", epoch),
            R::TooManyConsumers { .. } => {
                Self::new(reason::QUOTA_EXCEEDED, message).with("limit", "consumers")
            }
            R::TooManyFilters { .. } => {
                Self::new(reason::QUOTA_EXCEEDED, message).with("limit", "filters")
            }
            R::NoFilter => Self::invalid(
                "the queue has no header to filter by: name one with its setting `filter_header` (`quorate queue \
                 update --filter-header KEY`), or consume without a filter",
            ),
            R::NoPriorities => Self::new(
                reason::PRIORITIES_OFF,
                "the queue takes no messages with a priority; switch its setting `priorities` on (`quorate queue update \
                 NAME --priorities`), or publish without",
            ),
            R::TooManySources { .. } => {
                Self::new(reason::QUOTA_EXCEEDED, message).with("limit", "sources")
            }
            R::UnknownLayout { .. } => Self::new(reason::UNSUPPORTED_VERSION, message),
            _ => Self::invalid(message),
        }
    }
}

impl From<catalog::Rejection> for Refusal {
    fn from(rejection: catalog::Rejection) -> Self {
        use catalog::Rejection as R;
        let message = rejection.to_string();
        match rejection {
            R::QueueExists { .. } => Self::new(
                reason::QUEUE_EXISTS,
                "a queue of this name exists with other settings, or with another number of shards; `quorate queue \
                 describe` shows them, `quorate queue update` changes settings",
            ),
            R::NotEnoughNodes { have, need } => Self::new(
                reason::NOT_ENOUGH_NODES,
                format!("{message}; start more nodes or ask for fewer replicas"),
            )
            .with("have", have)
            .with("need", need),
            R::TooManyQueues { limit } => Self::new(reason::QUOTA_EXCEEDED, message)
                .with("limit", "max_queues")
                .with("max", limit),
            R::NotFound => Self::new(reason::QUEUE_NOT_FOUND, message),
            R::NoDeadLetterQueue { name } => {
                let message = format!("{message}; create it first");
                Self::new(reason::QUEUE_NOT_FOUND, message).with("queue", name)
            }
            R::DeadLetterCycle { way } => {
                let way: Vec<&str> = way.iter().map(catalog::QueueName::as_str).collect();
                let message = format!("{message}; what nobody can process would go on for ever");
                Self::new(reason::DEAD_LETTER_CYCLE, message).with("queues", way.join(" "))
            }
            R::IsDeadLetterQueue { of } => {
                let of: Vec<&str> = of.iter().map(catalog::QueueName::as_str).collect();
                let message = format!("{message}; delete those first");
                Self::new(reason::IS_DEAD_LETTER_QUEUE, message).with("queues", of.join(" "))
            }
            R::IsShard { ref of } => {
                let of = of.as_str().to_owned();
                Self::new(reason::IS_SHARD, format!("{message}; name `{of}`"))
                    .with("sharded_queue", of)
            }
            R::ShardedDeadLetter { ref name } => {
                let name = name.as_str().to_owned();
                let message = format!("{message}; send them to a queue that is not sharded");
                Self::new(reason::SHARDED_QUEUE, message).with("queue", name)
            }
            R::ShardedRoute { ref name } => {
                let name = name.as_str().to_owned();
                let message = format!("{message}; let it lead to one shard, or to other queues");
                Self::new(reason::SHARDED_QUEUE, message).with("queue", name)
            }
            R::Recovering { survivor } => Self::new(reason::RECOVERING, message)
                .retry(RETRY_LOAD)
                .with("survivor", survivor.0),
            _ => Self::invalid(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_an_empty_queue_cannot_hold_is_told_that_it_never_fits() {
        let full = |held| {
            let limit = queue::Limit::MaxMessages;
            Refusal::from(queue::Rejection::QueueFull { limit, max: 10, held })
        };
        let never = full(0);
        assert_eq!(never.reason, reason::QUEUE_FULL);
        assert!(never.message.contains("max_messages = 10, so it can never fit"), "{never:?}");
        assert_eq!(never.retry_after, None);
        let later = full(9);
        assert!(!later.message.contains("never") && later.retry_after.is_some(), "{later:?}");
    }

    #[test]
    fn a_batch_larger_than_a_limit_is_told_that_it_never_fits_whatever_the_queue_holds() {
        use queue::Limit;
        let never = |limit, count, bytes| {
            let full = queue::Rejection::QueueFull { limit, max: 10, held: 9 };
            let refusal = Refusal::of_batch(full, count, bytes);
            assert_eq!(refusal.reason, reason::QUEUE_FULL);
            assert_eq!(refusal.metadata["held"], "9");
            assert_eq!(refusal.retry_after.is_none(), refusal.message.contains("never fit"));
            refusal.retry_after.is_none()
        };
        assert!(never(Limit::MaxMessages, 11, 0));
        assert!(never(Limit::MaxBytes, 1, 11));
        for (limit, count, bytes) in [
            (Limit::MaxMessages, 10, 11),
            (Limit::MaxBytes, 11, 10),
            (Limit::Delayed, 11, 11),
            (Limit::Dead, 11, 11),
        ] {
            assert!(!never(limit, count, bytes), "{limit}: {count}, {bytes}");
        }
    }
}
