//! openraft's messages as the protobuf messages between nodes, and back.

use std::time::Duration;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use quorate_proto::internal as pb;
use quorate_storage::log::INDEX_MAX;

use crate::codec::{self, CodecError};
use crate::types::{Entry, LogId, Types, Vote, log_id, term_of};

/// A message that lacks a part or has an impossible one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the peer's message lacks its {0}")]
    Missing(&'static str),
    #[error("the peer's message speaks of index {0}, which no log reaches")]
    Index(u64),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

pub(crate) fn vote_to(vote: &Vote) -> pb::Vote {
    pb::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from(vote: Option<pb::Vote>) -> Result<Vote, WireError> {
    let vote = vote.ok_or(WireError::Missing("vote"))?;
    Ok(if vote.committed {
        Vote::new_committed(vote.term, vote.node_id)
    } else {
        Vote::new(vote.term, vote.node_id)
    })
}

pub(crate) fn id_to(id: &LogId) -> pb::LogId {
    pb::LogId { term: term_of(id), index: id.index }
}

pub(crate) fn id_from(id: pb::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(crate) fn vote_request_to(request: &VoteRequest<Types>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_to(&request.vote)),
        last: request.last_log_id.as_ref().map(id_to),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from(request: pb::VoteRequest) -> Result<VoteRequest<Types>, WireError> {
    let mut out = VoteRequest::new(vote_from(request.vote)?, request.last.map(id_from));
    out.leadership_transfer = request.leadership_transfer;
    Ok(out)
}

pub(crate) fn vote_response_to(response: &VoteResponse<Types>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(vote_to(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(id_to),
    }
}

pub(crate) fn vote_response_from(
    response: pb::VoteResponse,
) -> Result<VoteResponse<Types>, WireError> {
    let vote = vote_from(response.vote)?;
    Ok(VoteResponse::new(vote, response.last.map(id_from), response.granted))
}

pub(crate) fn entry_to(entry: &Entry) -> pb::Entry {
    pb::Entry { id: Some(id_to(&entry.log_id)), payload: codec::encode_payload(&entry.payload) }
}

/// A position that is going to be stored: recovery must not take it for damage.
pub(crate) fn stored_id_from(id: pb::LogId) -> Result<LogId, WireError> {
    if id.index <= INDEX_MAX { Ok(id_from(id)) } else { Err(WireError::Index(id.index)) }
}

fn entry_from(entry: pb::Entry) -> Result<Entry, WireError> {
    let id = stored_id_from(entry.id.ok_or(WireError::Missing("log id"))?)?;
    Ok(codec::decode_entry(id, entry.payload)?)
}

pub(crate) fn append_to(request: &AppendEntriesRequest<Types>) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some(vote_to(&request.vote)),
        prev: request.prev_log_id.as_ref().map(id_to),
        committed: request.leader_commit.as_ref().map(id_to),
        entries: request.entries.iter().map(entry_to).collect(),
    }
}

pub(crate) fn append_from(
    request: pb::AppendRequest,
) -> Result<AppendEntriesRequest<Types>, WireError> {
    Ok(AppendEntriesRequest {
        vote: vote_from(request.vote)?,
        prev_log_id: request.prev.map(id_from),
        leader_commit: request.committed.map(id_from),
        entries: request.entries.into_iter().map(entry_from).collect::<Result<_, _>>()?,
    })
}

fn response(kind: pb::append_response::Kind) -> pb::AppendResponse {
    pb::AppendResponse { kind: kind.into(), ..Default::default() }
}

pub(crate) fn appended_to(answer: &AppendEntriesResponse<Types>) -> pb::AppendResponse {
    use pb::append_response::Kind;
    match answer {
        AppendEntriesResponse::Success => response(Kind::Success),
        AppendEntriesResponse::PartialSuccess(upto) => {
            pb::AppendResponse { matched: upto.as_ref().map(id_to), ..response(Kind::Partial) }
        }
        AppendEntriesResponse::Conflict => response(Kind::Conflict),
        AppendEntriesResponse::HigherVote(vote) => {
            pb::AppendResponse { vote: Some(vote_to(vote)), ..response(Kind::HigherVote) }
        }
    }
}

pub(crate) fn appended_from(
    answer: pb::AppendResponse,
) -> Result<AppendEntriesResponse<Types>, WireError> {
    use pb::append_response::Kind;
    match answer.kind() {
        Kind::Success => Ok(AppendEntriesResponse::Success),
        Kind::Partial => Ok(AppendEntriesResponse::PartialSuccess(answer.matched.map(id_from))),
        Kind::Conflict => Ok(AppendEntriesResponse::Conflict),
        Kind::HigherVote => Ok(AppendEntriesResponse::HigherVote(vote_from(answer.vote)?)),
        Kind::Unspecified => Err(WireError::Missing("kind of answer")),
    }
}

pub(crate) fn streamed_to(answer: &StreamAppendResult<Types>) -> pb::AppendResponse {
    use pb::append_response::Kind;
    match answer {
        Ok(matched) => {
            pb::AppendResponse { matched: matched.as_ref().map(id_to), ..response(Kind::Success) }
        }
        Err(StreamAppendError::Conflict(at)) => {
            pb::AppendResponse { matched: Some(id_to(at)), ..response(Kind::Conflict) }
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            pb::AppendResponse { vote: Some(vote_to(vote)), ..response(Kind::HigherVote) }
        }
    }
}

pub(crate) fn streamed_from(
    answer: pb::AppendResponse,
) -> Result<StreamAppendResult<Types>, WireError> {
    use pb::append_response::Kind;
    match answer.kind() {
        Kind::Success | Kind::Partial => Ok(Ok(answer.matched.map(id_from))),
        Kind::Conflict => {
            let at = answer.matched.ok_or(WireError::Missing("place of the conflict"))?;
            Ok(Err(StreamAppendError::Conflict(id_from(at))))
        }
        Kind::HigherVote => Ok(Err(StreamAppendError::HigherVote(vote_from(answer.vote)?))),
        Kind::Unspecified => Err(WireError::Missing("kind of answer")),
    }
}

pub(crate) fn transfer_to(from: &Vote, to: u64, last: Option<&LogId>) -> pb::TransferRequest {
    pb::TransferRequest { from: Some(vote_to(from)), to, last: last.map(id_to) }
}

pub(crate) fn transfer_from(
    request: pb::TransferRequest,
) -> Result<TransferLeaderRequest<Types>, WireError> {
    let from = vote_from(request.from)?;
    Ok(TransferLeaderRequest::new(from, request.to, request.last.map(id_from)))
}

pub(crate) fn park_to(vote: &Vote, last: &LogId, renewal: Duration) -> pb::ParkRequest {
    let renewal_ms = u64::try_from(renewal.as_millis()).unwrap_or(u64::MAX);
    pb::ParkRequest { vote: Some(vote_to(vote)), last: Some(id_to(last)), renewal_ms }
}

pub(crate) fn park_from(request: pb::ParkRequest) -> Result<(Vote, LogId, Duration), WireError> {
    let vote = vote_from(request.vote)?;
    let last = id_from(request.last.ok_or(WireError::Missing("log id"))?);
    Ok((vote, last, Duration::from_millis(request.renewal_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_at_an_index_that_could_not_be_recovered_is_refused() {
        let entry =
            |index| pb::Entry { id: Some(pb::LogId { term: 1, index }), ..pb::Entry::default() };
        assert!(entry_from(entry(INDEX_MAX)).is_ok());
        let refused = entry_from(entry(INDEX_MAX + 1)).map(|_| ());
        assert_eq!(refused, Err(WireError::Index(INDEX_MAX + 1)));
    }
}
