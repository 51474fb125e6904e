//! What went wrong between us and a node, in one shape for unary calls and streams, and what follows
//! from it.
//!
//! ```text
//! gRPC status ──┐                      ┌─ Refused   the answer is no; asking again does not help
//! Failure ──────┼──► Fault { verdict } ┼─ Dead      not taken; the same again, maybe elsewhere
//! broken stream ┘                      └─ Unknown   may have been taken; the same again
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::{reason, v1};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::address::Address;
use crate::error::Refusal;

/// What a fault says of the request that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Refused for good: it did not take effect, and the same again is refused again.
    Refused,
    /// It did not take effect; a retry may succeed.
    Dead,
    /// It may have taken effect; a retry may succeed.
    Unknown,
}

#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub verdict: Verdict,
    pub refusal: Refusal,
    /// The node that would take the request.
    pub leader: Option<Address>,
}

impl Fault {
    /// A fault without a word from a server.
    pub fn transport(message: impl Into<String>) -> Self {
        let refusal = Refusal { reason: String::new(), ..Refusal::default() };
        Self {
            verdict: Verdict::Unknown,
            refusal: Refusal { message: message.into(), ..refusal },
            leader: None,
        }
    }

    /// A node could not be reached, so nothing was asked of it.
    pub fn unreachable(address: &Address, why: &dyn std::error::Error) -> Self {
        let message = format!("{address} could not be reached: {}", with_causes(why));
        Self { verdict: Verdict::Dead, ..Self::transport(message) }
    }

    /// A node is there but has not answered in time, and this is what it says of the cluster: without a
    /// majority it waits for one, perhaps for longer than we do.
    pub fn silent(
        address: &Address,
        limit: Duration,
        status: Option<&v1::GetStatusResponse>,
    ) -> Self {
        let message = format!("{address} did not answer within {limit:?}");
        let lacks = match status {
            Some(status) if !has_leader(status) => "the catalog".to_owned(),
            Some(v1::GetStatusResponse { queues_without_leader: queues @ 1.., .. }) => {
                format!("{queues} of the queues")
            }
            _ => return Self::transport(message),
        };
        let mut fault = Self::transport(format!(
            "{message}: it knows no leader of {lacks}, as without a majority of the replicas"
        ));
        fault.refusal.reason = reason::NO_QUORUM.to_owned();
        fault
    }

    /// Names the node that the fault was met at.
    pub fn at(mut self, address: &Address) -> Self {
        self.refusal.message = format!("{address}: {}", self.refusal.message);
        self
    }

    /// The server said something that does not fit the protocol.
    pub fn protocol(message: &str) -> Self {
        Self::transport(format!("the server broke the protocol: {message}"))
    }

    pub fn is_retryable(&self) -> bool {
        self.verdict != Verdict::Refused
    }

    pub fn message(&self) -> String {
        self.refusal.to_string()
    }
}

/// A leader that has died is known until another one is elected.
fn has_leader(status: &v1::GetStatusResponse) -> bool {
    status.catalog_leader.as_ref().is_some_and(|leader| {
        !status.nodes.iter().any(|node| node.node_id == leader.node_id && !node.reachable)
    })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn verdict_of(reason: &str) -> Verdict {
    match reason {
        reason::NOT_LEADER
        | reason::RESOURCE_EXHAUSTED
        | reason::STALENESS_EXCEEDED
        | reason::SESSION_CLOSED
        | reason::SHUTTING_DOWN => Verdict::Dead,
        reason::NO_QUORUM | reason::UNKNOWN_OUTCOME => Verdict::Unknown,
        _ => Verdict::Refused,
    }
}

/// For a status without our reason: what a broken connection, a proxy or an old server says.
fn verdict_of_code(code: Code) -> Verdict {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Verdict::Refused,
        _ => Verdict::Unknown,
    }
}

/// False where no connection could be made, so that nothing was asked of the node.
#[cfg(not(madsim))]
fn was_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if cause.is::<tonic::ConnectError>() {
            return false;
        }
        source = cause.source();
    }
    true
}

/// A simulated connection does not say.
#[cfg(madsim)]
fn was_sent(_: &Status) -> bool {
    true
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == reason::DOMAIN);
        let Some(info) = info else {
            let message = format!("{} ({:?})", status.message(), status.code());
            let verdict = match was_sent(&status) {
                true => verdict_of_code(status.code()),
                false => Verdict::Dead,
            };
            return Self { verdict, ..Self::transport(message) };
        };
        let retry_after = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
        let leader = info.metadata.get(reason::LEADER_ADDRESS);
        Self {
            verdict: verdict_of(&info.reason),
            leader: leader.and_then(|address| Address::parse(address).ok()),
            refusal: Refusal {
                reason: info.reason,
                message: status.message().to_owned(),
                retry_after,
                metadata: info.metadata.into_iter().collect::<BTreeMap<_, _>>(),
            },
        }
    }
}

impl From<v1::Failure> for Fault {
    fn from(failure: v1::Failure) -> Self {
        let leader = failure.leader.and_then(|leader| Address::parse(&leader.address).ok());
        let retry_after = Duration::from_millis(failure.retry_after_ms.into());
        Self {
            verdict: verdict_of(&failure.reason),
            leader,
            refusal: Refusal {
                reason: failure.reason,
                message: failure.message,
                retry_after: Some(retry_after).filter(|after| !after.is_zero()),
                metadata: failure.metadata.into_iter().collect(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    #[test]
    fn every_reason_has_a_verdict_and_unknown_ones_are_refusals() {
        let retried: Vec<&str> =
            reason::ALL.iter().copied().filter(|r| verdict_of(r) != Verdict::Refused).collect();
        let expected = [
            reason::NOT_LEADER,
            reason::NO_QUORUM,
            reason::RESOURCE_EXHAUSTED,
            reason::STALENESS_EXCEEDED,
            reason::SESSION_CLOSED,
            reason::SHUTTING_DOWN,
            reason::UNKNOWN_OUTCOME,
        ];
        assert_eq!(retried, expected);
        assert_eq!(verdict_of("FROM_THE_FUTURE"), Verdict::Refused);
    }

    #[test]
    fn a_status_gives_reason_hint_and_pause() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info(
                reason::NOT_LEADER,
                reason::DOMAIN,
                [(reason::LEADER_ADDRESS.to_owned(), "n2:7100".to_owned())],
            )
            .set_retry_info(Some(Duration::from_millis(70)));
        let status = Status::with_error_details(Code::Unavailable, "elsewhere", details);
        let fault = Fault::from(status);
        assert_eq!(fault.verdict, Verdict::Dead);
        assert_eq!(fault.leader, Address::parse("n2:7100").ok());
        assert_eq!(fault.refusal.retry_after, Some(Duration::from_millis(70)));
        assert_eq!(fault.message(), "elsewhere (NOT_LEADER)");
    }

    #[test]
    fn silence_of_a_node_without_a_leader_is_no_quorum() {
        let address = Address::parse("n1:7100").unwrap();
        let silent = |status: Option<&v1::GetStatusResponse>| {
            Fault::silent(&address, Duration::from_secs(1), status)
        };
        let mut status = v1::GetStatusResponse::default();
        assert_eq!(silent(Some(&status)).refusal.reason, reason::NO_QUORUM);
        assert_eq!(silent(Some(&status)).verdict, Verdict::Unknown);
        status.catalog_leader = Some(v1::Leader::default());
        assert_eq!(silent(Some(&status)).refusal.reason, "");
        status.nodes = vec![v1::NodeDescription::default()];
        assert_eq!(silent(Some(&status)).refusal.reason, reason::NO_QUORUM, "it is unreachable");
        status.nodes[0].reachable = true;
        status.queues_without_leader = 1;
        assert_eq!(silent(Some(&status)).refusal.reason, reason::NO_QUORUM);
        assert_eq!(silent(None).refusal.reason, "");
    }

    #[test]
    fn a_status_without_our_reason_is_judged_by_its_code() {
        assert_eq!(Fault::from(Status::unavailable("gone")).verdict, Verdict::Unknown);
        #[cfg(not(madsim))]
        {
            let refused = tonic::ConnectError("refused".into());
            assert_eq!(Fault::from(Status::from_error(refused.into())).verdict, Verdict::Dead);
        }
        assert_eq!(Fault::from(Status::unimplemented("what")).verdict, Verdict::Refused);
    }
}
