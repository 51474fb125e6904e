//! The connection that a command talks to the cluster by, and what its errors mean to a person.

use std::error::Error as StdError;
use std::future::Future;
use std::time::Duration;

use quorate_client::{
    Client, ConnectError, ConsumeError, Error, PublishError, ReadError, SettleError,
};

use crate::args::Global;
use crate::exit::Exit;
use crate::failure::Failure;

/// One node that swallows packets must not use up the time for those that answer.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(2);
/// The SDK keeps the time limit itself and says more when it is over; ours is the net below.
const SLACK: Duration = Duration::from_secs(2);

/// Connects to the first of the named nodes that answers.
pub async fn connect(global: &Global) -> Result<Client, Failure> {
    let builder = Client::builder()
        .addresses(global.server.iter().cloned())
        .connect_timeout(global.timeout.min(CONNECT_TIMEOUT_MAX))
        .request_timeout(global.timeout);
    within(global, "connect", builder.connect()).await
}

/// Waits for one request, at most `--timeout`; names what was being done if it fails.
pub async fn within<T, E: Reasoned>(
    global: &Global,
    doing: &str,
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(global.timeout + SLACK, request).await {
        Ok(outcome) => outcome.map_err(|error| failure(doing, &error)),
        Err(_) => Err(Failure::new(
            Exit::Unavailable,
            format!(
                "{doing}: no answer from {} within {:?}",
                global.server.join(", "),
                global.timeout
            ),
        )
        .reason("TIMEOUT")
        .cure("`quorate cluster status` shows which nodes are up; --timeout allows more time")),
    }
}

/// An error of the SDK, told with its reason, the code to end with and a cure.
pub fn failure<E: Reasoned>(doing: &str, error: &E) -> Failure {
    let mut what = with_causes(error);
    let Some(reason) = error.reason() else {
        let failure = Failure::new(error.exit(), format!("{doing}: {what}"));
        return match error.exit() {
            Exit::Unavailable => failure.reason("UNREACHABLE").cure(
                "start a cluster with `quorate dev`, or name a running node with --server HOST:PORT",
            ),
            _ => failure,
        };
    };
    // The reason has a line of its own.
    let in_brackets = format!(" ({reason})");
    what.truncate(what.strip_suffix(&in_brackets).map_or(what.len(), str::len));
    let failure = Failure::new(error.exit(), format!("{doing}: {what}")).reason(&reason);
    match cure_of(&reason) {
        Some(cure) => failure.cure(cure),
        None => failure,
    }
}

fn cure_of(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "QUEUE_NOT_FOUND" => {
            "`quorate queue list` shows the queues, `quorate queue create` makes one"
        }
        "LEASE_LOST" => "receive it again; a longer --lease leaves more time to settle",
        "QUEUE_EXISTS" => "another name, or `quorate queue update` to change its settings",
        "DEAD_LETTER_CYCLE" => {
            "another dead-letter queue; `quorate queue describe` shows where each sends"
        }
        "IS_DEAD_LETTER_QUEUE" => {
            "delete the queues first that send it their dead letters, or give them another with `quorate queue update`"
        }
        "SHARDED_QUEUE" => "name one of its shards; `quorate queue describe` shows them",
        "IS_SHARD" => "name the sharded queue, and it is done to all shards",
        "QUEUE_NOT_EMPTY" => "consume the queue first, or leave --if-empty out",
        "QUEUE_FULL" => {
            "consume from the queue, publish smaller batches, or raise the limit with `quorate queue update`"
        }
        "MESSAGE_ID_CONFLICT" => "another id for another batch",
        "UNEXPECTED_OFFSET" => {
            "`quorate queue peek` shows what has come before that offset; expect the one that is next now"
        }
        "OFFSET_GONE" => "--to first for all that is there, or a later offset",
        "NOT_RETAINED" => {
            "`quorate queue update --retain` keeps what is settled from then on; --to next skips what waits"
        }
        "PRIORITIES_OFF" => {
            "`quorate queue update NAME --priorities` switches them on; or no --priority"
        }
        "NOT_ENOUGH_IN_SYNC" => {
            "`quorate queue describe` shows which replicas lag; bring them back, or use --ack quorum"
        }
        "STALENESS_EXCEEDED" => {
            "allow more with --max-staleness; `quorate cluster status` shows which nodes are up"
        }
        "DISK_FULL" => "free disk space on the node; it accepts publishes again by itself",
        "NO_QUORUM" | "NOT_LEADER" => "`quorate cluster status` shows which nodes are down",
        "NOT_ENOUGH_NODES" => "fewer --replicas, or more nodes",
        "HAS_QUORUM" => {
            "`quorate queue replica replace` for a replica that is lost; `quorate queue describe` shows them"
        }
        "NO_SURVIVOR" => "start a node that holds the queue; `quorate queue describe` shows which",
        "RECOVERING" => "`quorate queue describe` shows when it is done",
        "UNKNOWN_OUTCOME" => {
            "it may have been done, or the message have entered: look first (`queue describe`, `consumer seek --dry-run`, \
             consume), or do it again; a purge then drops what has come since, too"
        }
        "TOPIC_NOT_FOUND" => {
            "`quorate topic list` shows the topics, `quorate topic create` makes one"
        }
        "NO_ROUTE" => "`quorate topic bind` adds a route; --allow-unrouted lets it go nowhere",
        "TOPIC_CHANGED" => "the same again",
        "CONSUMER_NOT_FOUND" => "`quorate consumer list` shows the consumers of the queue",
        "FILTER_CHANGED" => "consume with values of the header that is set now",
        "CONSUMER_KICKED" => "the same again, if it is to go on",
        "SLOT_NOT_FOUND" => "`quorate slot list` shows the slots, `quorate slot create` makes one",
        "SLOT_EXISTS" => "another name, or `quorate slot drop` first; `quorate slot list` shows it",
        "SLOT_LOST" => {
            "`quorate slot drop` and `quorate slot create` to begin anew, or `quorate read` without --slot"
        }
        "SLOT_MOVED" => {
            "the same again: it begins where the slot is; let one reader at a time use it"
        }
        "RESOURCE_EXHAUSTED" | "SHUTTING_DOWN" => "the same again in a moment",
        "UNSUPPORTED_VERSION" => "the same version of quorate on all nodes and here",
        _ => return None,
    })
}

fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        source = cause.source();
    }
    text
}

/// What the SDK's error types have in common for us.
pub trait Reasoned: StdError + 'static {
    /// The reason's name, when there is one.
    fn reason(&self) -> Option<String>;

    /// The code to end with.
    fn exit(&self) -> Exit;
}

impl Reasoned for ConnectError {
    fn reason(&self) -> Option<String> {
        ConnectError::reason(self).map(str::to_owned)
    }

    fn exit(&self) -> Exit {
        match self {
            ConnectError::NoAddress | ConnectError::InvalidAddress { .. } => Exit::Usage,
            _ => Exit::Unavailable,
        }
    }
}

impl Reasoned for Error {
    fn reason(&self) -> Option<String> {
        Error::reason(self).map(str::to_owned)
    }

    fn exit(&self) -> Exit {
        match self {
            Error::Unavailable { .. } => Exit::Unavailable,
            _ => by_reason(Error::reason(self)),
        }
    }
}

impl Reasoned for PublishError {
    fn reason(&self) -> Option<String> {
        PublishError::reason(self).map(str::to_owned)
    }

    fn exit(&self) -> Exit {
        match self {
            PublishError::Unavailable { .. } => Exit::Unavailable,
            _ => by_reason(PublishError::reason(self)),
        }
    }
}

impl Reasoned for ConsumeError {
    fn reason(&self) -> Option<String> {
        ConsumeError::reason(self).map(str::to_owned)
    }

    fn exit(&self) -> Exit {
        by_reason(ConsumeError::reason(self))
    }
}

impl Reasoned for SettleError {
    fn reason(&self) -> Option<String> {
        SettleError::reason(self).map(str::to_owned)
    }

    fn exit(&self) -> Exit {
        match self {
            SettleError::UnknownOutcome => Exit::Unavailable,
            _ => by_reason(SettleError::reason(self)),
        }
    }
}

impl Reasoned for ReadError {
    fn reason(&self) -> Option<String> {
        ReadError::reason(self).map(str::to_owned)
    }

    fn exit(&self) -> Exit {
        match self {
            ReadError::Unavailable { .. } => Exit::Unavailable,
            _ => by_reason(ReadError::reason(self)),
        }
    }
}

fn by_reason(reason: Option<&str>) -> Exit {
    reason.map_or(Exit::Failed, Exit::of_reason)
}
