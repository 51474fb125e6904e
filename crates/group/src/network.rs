//! The way from one replica to the others: openraft's network over the node's connections.
//!
//! A pair of nodes has one connection, which carries all groups; the owner of the connections
//! implements [`Peers`]. Appends are pipelined: requests of one append stream go out as they come,
//! their answers come back in the same order.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_stream::stream;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
#[cfg(feature = "planted")]
use quorate_machine::planted::{self, Bug};
use quorate_proto::internal as pb;
use quorate_proto::internal::rpc::Body;
use quorate_storage::Entry;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::checkpoint::{SnapshotData, Source, TRANSFER_BYTES_MAX};
use crate::codec;
use crate::received::bytes_of;
use crate::state_machine::Snapshot;
use crate::types::{Types, Vote, term_of};
use crate::wire::{self, WireError};

/// A request that got no answer from the peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reach node {node}: {reason}")]
pub struct LinkError {
    /// The peer.
    pub node: u64,
    /// What went wrong.
    pub reason: String,
}

/// The requesting end of one append stream: answers come in the order of the requests.
pub trait AppendLink: Send {
    /// Queues a request; waits while the connection is full. `None`: the connection is gone.
    fn sender(&self) -> Arc<dyn Fn(Body) -> BoxFuture<'static, Option<()>> + Send + Sync>;
    /// The next answer; `None` when the connection is gone.
    fn next(&mut self) -> BoxFuture<'_, Option<Body>>;
}

/// The connections to the other nodes.
pub trait Peers: Send + Sync + 'static {
    /// Sends one request and waits for its answer, however long that takes: callers set the limit.
    fn call(&self, node: u64, group: u64, body: Body) -> BoxFuture<'_, Result<Body, LinkError>>;
    /// Begins an append stream.
    fn open(&self, node: u64, group: u64) -> BoxFuture<'_, Result<Box<dyn AppendLink>, LinkError>>;
    /// Whether the node is there, as its connection tells: while it is, parked groups rely on it.
    /// The owner of the groups is told when that changes, and tells them ([`Replica::node_changed`]).
    ///
    /// [`Replica::node_changed`]: crate::Replica::node_changed
    fn is_there(&self, node: u64) -> bool;
    /// Resolves once the node is there.
    fn until_there(&self, node: u64) -> BoxFuture<'_, ()>;
    /// Sends a snapshot.
    fn snapshot(
        &self,
        node: u64,
        chunks: BoxStream<'static, pb::SnapshotChunk>,
    ) -> BoxFuture<'_, Result<pb::SnapshotAnswer, LinkError>>;
}

/// Makes openraft's clients of one group.
pub(crate) struct Network {
    group: u64,
    peers: Arc<dyn Peers>,
    commit_patience: Duration,
    sent: Sent,
    /// Bytes a second; 0 = no limit.
    snapshot_rate: u64,
}

/// What was sent to each node.
#[derive(Clone, Default)]
pub(crate) struct Sent(Arc<Mutex<BTreeMap<u64, SentTo>>>);

/// What was sent to a node since this replica was opened.
#[derive(Clone, Copy, Default)]
pub(crate) struct SentTo {
    /// The last entry.
    pub(crate) last: Option<u64>,
    /// Bytes of entries.
    pub(crate) log_bytes: u64,
    /// Bytes of bodies and states in snapshots.
    pub(crate) snapshot_bytes: u64,
}

impl Sent {
    fn note(&self, node: u64, request: &AppendEntriesRequest<Types>) {
        let Some(last) = request.entries.last() else { return };
        let bytes = bytes_of(&request.entries);
        let mut sent = lock(&self.0);
        let to = sent.entry(node).or_default();
        to.last = Some(last.log_id.index);
        to.log_bytes += bytes;
    }

    fn note_snapshot(&self, node: u64, bytes: u64) {
        lock(&self.0).entry(node).or_default().snapshot_bytes += bytes;
    }

    pub(crate) fn to(&self, node: u64) -> SentTo {
        lock(&self.0).get(&node).copied().unwrap_or_default()
    }
}

impl Network {
    /// News of a commit alone waits for `commit_patience` for an append that says it too.
    pub(crate) fn new(
        group: u64,
        peers: Arc<dyn Peers>,
        commit_patience: Duration,
        sent: Sent,
        snapshot_rate: u64,
    ) -> Self {
        Self { group, peers, commit_patience, sent, snapshot_rate }
    }

    fn client(&self, target: u64, streams: bool) -> Client {
        let (peers, commit_patience) = (self.peers.clone(), self.commit_patience);
        let (sent, snapshot_rate) = (self.sent.clone(), self.snapshot_rate);
        let node = target;
        Client { group: self.group, node, peers, streams, commit_patience, sent, snapshot_rate }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Client {
        self.client(target, true)
    }

    // A heartbeat is one request; a stream of its own would be set up for each.
    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> Client {
        self.client(target, false)
    }
}

/// One group's way to one other node.
pub(crate) struct Client {
    group: u64,
    node: u64,
    peers: Arc<dyn Peers>,
    streams: bool,
    commit_patience: Duration,
    sent: Sent,
    snapshot_rate: u64,
}

fn unreachable(error: impl std::error::Error + 'static) -> Unreachable<Types> {
    Unreachable::new(&error)
}

impl Client {
    fn failed(&self, reason: impl ToString) -> LinkError {
        LinkError { node: self.node, reason: reason.to_string() }
    }

    async fn call(&self, body: Body, limit: Duration) -> Result<Body, LinkError> {
        match tokio::time::timeout(limit, self.peers.call(self.node, self.group, body)).await {
            Ok(Ok(Body::Failed(reason))) => Err(self.failed(reason)),
            Ok(answer) => answer,
            Err(_) => Err(self.failed(format!("no answer within {limit:?}"))),
        }
    }

    async fn call_vote(
        &self,
        body: Body,
        limit: Duration,
    ) -> Result<VoteResponse<Types>, LinkError> {
        match self.call(body, limit).await? {
            Body::Voted(vote) => wire::vote_response_from(vote).map_err(|e| self.failed(e)),
            _ => Err(self.failed("answered a vote with something else")),
        }
    }

    async fn call_append(
        &self,
        request: &AppendEntriesRequest<Types>,
        limit: Duration,
    ) -> Result<AppendEntriesResponse<Types>, LinkError> {
        match self.call(Body::Append(wire::append_to(request)), limit).await? {
            Body::Appended(answer) => wire::appended_from(answer).map_err(|e| self.failed(e)),
            _ => Err(self.failed("answered an append with something else")),
        }
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Ok(self.call_append(&request, option.soft_ttl()).await.map_err(unreachable)?)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendAnswers<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        if !self.streams {
            return openraft::network::stream_append_sequential(self, input, option);
        }
        let patience = self.commit_patience;
        async move {
            let opened = self.peers.open(self.node, self.group);
            match tokio::time::timeout(option.soft_ttl(), opened).await {
                #[cfg(feature = "planted")]
                Ok(Ok(link)) if planted::is(Bug::ConfirmBeforeQuorum) => {
                    Ok(unquestioned(link, input).boxed())
                }
                Ok(Ok(link)) => {
                    let (node, sent) = (self.node, self.sent.clone());
                    let input = input.inspect(move |request| sent.note(node, request));
                    Ok(pipelined(node, link, with_commits(input, patience)).boxed())
                }
                Ok(Err(error)) => {
                    // openraft's own back-off begins with the first request of a stream; without
                    // one it would try again at once.
                    tokio::time::sleep(OPEN_RETRY).await;
                    let there = self.peers.until_there(self.node);
                    let _ = tokio::time::timeout(AWAY_RETRY, there).await;
                    Err(unreachable(error).into())
                }
                Err(_) => Err(unreachable(self.failed("no connection in time")).into()),
            }
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = Body::Vote(wire::vote_request_to(&request));
        Ok(self.call_vote(body, option.soft_ttl()).await.map_err(unreachable)?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = Body::PreVote(wire::vote_request_to(&request));
        Ok(self.call_vote(body, option.soft_ttl()).await.map_err(unreachable)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sent = (self.sent.clone(), self.node);
        let chunks = snapshot_chunks(self.group, vote, snapshot, self.snapshot_rate, sent);
        let sent = self.peers.snapshot(self.node, chunks.boxed());
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            answer = sent => {
                let answer = answer.map_err(unreachable)?;
                let vote = wire::vote_from(answer.vote).map_err(unreachable)?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let last = request.last_log_id();
        let body = wire::transfer_to(request.from_leader(), *request.to_node_id(), last);
        self.call(Body::Transfer(body), option.soft_ttl()).await.map_err(unreachable)?;
        Ok(Ok(()))
    }
}

type AppendAnswers<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

/// Pause before a stream is tried again that could not be opened.
const OPEN_RETRY: Duration = Duration::from_millis(25);
/// Longest pause while the node is away.
const AWAY_RETRY: Duration = Duration::from_secs(5);
/// An append that is not answered for so long ends its stream. A flush that stalls for less does
/// not; that a peer is gone is noticed by its connection.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// Sends requests as they come; yields their answers in order. Ends when the input has ended and
/// all is answered, or with an error when an answer does not come.
fn pipelined(
    node: u64,
    mut link: Box<dyn AppendLink>,
    input: impl Stream<Item = AppendEntriesRequest<Types>> + Send + 'static,
) -> impl Stream<Item = Result<StreamAppendResult<Types>, RPCError<Types>>> + Send {
    // When each unanswered request was sent.
    let unanswered = Arc::new(Mutex::new(VecDeque::new()));
    let send = link.sender();
    let sent = unanswered.clone();
    let (ended_sender, mut ended) = tokio::sync::oneshot::channel::<()>();
    // An idle stream has no timer: it is told when there is something to wait for.
    let busy = Arc::new(Notify::new());
    let busy_bell = busy.clone();
    let pump = tokio::spawn(async move {
        let mut requests = pin!(input);
        while let Some(request) = requests.next().await {
            let was_idle = {
                let mut unanswered = lock(&sent);
                unanswered.push_back(Instant::now());
                unanswered.len() == 1
            };
            if was_idle {
                busy_bell.notify_one();
            }
            if send(Body::StreamAppend(wire::append_to(&request))).await.is_none() {
                break;
            }
        }
        drop(ended_sender);
    });
    stream! {
        let _pump = AbortOnDrop(pump);
        let failed = |reason: String| {
            RPCError::Unreachable(unreachable(LinkError { node, reason }))
        };
        let mut input_ended = false;
        loop {
            let oldest = lock(&unanswered).front().copied();
            if input_ended && oldest.is_none() {
                return;
            }
            let patience = oldest.map_or(ANSWER_PATIENCE, |sent: Instant| {
                ANSWER_PATIENCE.saturating_sub(sent.elapsed())
            });
            let next = tokio::select! {
                biased;
                answer = link.next() => Some(answer),
                _ = &mut ended, if !input_ended => { input_ended = true; continue }
                () = busy.notified(), if oldest.is_none() => continue,
                () = tokio::time::sleep(patience), if oldest.is_some() => None,
            };
            match next {
                Some(Some(Body::Appended(answer))) => {
                    lock(&unanswered).pop_front();
                    match wire::streamed_from(answer) {
                        Ok(result) => yield Ok(result),
                        Err(error) => { yield Err(failed(error.to_string())); return }
                    }
                }
                Some(Some(Body::Failed(reason))) => { yield Err(failed(reason)); return }
                Some(Some(_)) => { yield Err(failed("answered with something else".into())); return }
                Some(None) => { yield Err(failed("the connection is gone".into())); return }
                None if oldest.is_some() => {
                    yield Err(failed(format!("no answer within {ANSWER_PATIENCE:?}")));
                    return;
                }
                None => {}
            }
        }
    }
}

/// Leaves out what says nothing but that more is committed, if the next request comes soon: it says so
/// too, and its answer counts for both. Otherwise a follower gets two requests for each entry. The last
/// request of a stream is never left out, nor is the first, which may ask where the logs part.
fn with_commits(
    mut input: impl Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    patience: Duration,
) -> impl Stream<Item = AppendEntriesRequest<Types>> + Send {
    stream! {
        let mut first = true;
        let mut next = input.next().await;
        while let Some(request) = next {
            let may_wait = !std::mem::take(&mut first) && request.entries.is_empty() && !patience.is_zero();
            if !may_wait {
                yield request;
                next = input.next().await;
                continue;
            }
            next = match tokio::time::timeout(patience, input.next()).await {
                Ok(Some(later)) => Some(later),
                Ok(None) => {
                    yield request;
                    None
                }
                Err(_) => {
                    yield request;
                    input.next().await
                }
            };
        }
    }
}

/// What a planted bug takes for a follower's answers, once the first has come.
#[cfg(feature = "planted")]
fn unquestioned(
    mut link: Box<dyn AppendLink>,
    mut input: impl Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
) -> impl Stream<Item = Result<StreamAppendResult<Types>, RPCError<Types>>> + Send {
    let send = link.sender();
    stream! {
        let Some(first) = input.next().await else { return };
        if send(Body::StreamAppend(wire::append_to(&first))).await.is_none() {
            return;
        }
        let Some(Body::Appended(answer)) = link.next().await else { return };
        let Ok(answer) = wire::streamed_from(answer) else { return };
        yield Ok(answer);
        while let Some(request) = input.next().await {
            let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
            if send(Body::StreamAppend(wire::append_to(&request))).await.is_none() {
                return;
            }
            while link.next().now_or_never().flatten().is_some() {}
            yield Ok(Ok(last));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no panic while held")
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Most of a state that is sent in the head, where nodes that know no parts of a state look for all of it; the rest
/// follows in parts. A simulated state is a few kilobytes.
const HEAD_STATE_MAX: usize = if cfg!(madsim) { 1 << 10 } else { 60 << 20 };

/// A snapshot as it is sent: its head, what is left of the state, the bodies that it refers to, its end. If a body
/// cannot be read the stream ends without its end, and the receiver refuses it.
fn snapshot_chunks(
    group: u64,
    vote: Vote,
    snapshot: Snapshot,
    bytes_per_second: u64,
    (counted, node): (Sent, u64),
) -> impl Stream<Item = pb::SnapshotChunk> + Send + 'static {
    use pb::snapshot_chunk::Chunk;
    let chunk = |chunk| pb::SnapshotChunk { chunk: Some(chunk) };
    stream! {
        let mut state = snapshot.snapshot.state.clone();
        let head = pb::SnapshotHead {
            hello: None,
            group,
            vote: Some(wire::vote_to(&vote)),
            last: snapshot.meta.last_log_id.as_ref().map(wire::id_to),
            membership: codec::encode_stored_membership(&snapshot.meta.last_membership),
            state: state.split_to(HEAD_STATE_MAX.min(state.len())),
        };
        counted.note_snapshot(node, head.state.len() as u64);
        yield chunk(Chunk::Head(head));
        let begun = Instant::now();
        let mut sent = 0;
        while !state.is_empty() {
            let part = state.split_to(TRANSFER_BYTES_MAX.min(state.len()));
            counted.note_snapshot(node, part.len() as u64);
            sent += part.len() as u64;
            yield chunk(Chunk::State(part));
            tokio::time::sleep_until(begun + time_for(sent, bytes_per_second)).await;
        }
        if let Some(source) = &snapshot.snapshot.source {
            let mut wanted: VecDeque<_> = source.live.iter().cloned().flatten().collect();
            while !wanted.is_empty() {
                match next_bodies(source, &mut wanted).await {
                    Ok(entries) => {
                        let bytes = entries.iter().map(|entry| entry.payload.len() as u64).sum::<u64>();
                        counted.note_snapshot(node, bytes);
                        sent += bytes;
                        yield chunk(Chunk::Bodies(pb::Bodies { entries }));
                        // Disks and network are the producers' too.
                        tokio::time::sleep_until(begun + time_for(sent, bytes_per_second)).await;
                    }
                    Err(error) => {
                        tracing::error!(group, %error, "read a body for a snapshot transfer");
                        return;
                    }
                }
            }
        }
        yield chunk(Chunk::End(pb::Done {}));
    }
}

async fn next_bodies(
    source: &Source,
    wanted: &mut VecDeque<u64>,
) -> std::io::Result<Vec<pb::Entry>> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    while bytes < TRANSFER_BYTES_MAX {
        let Some(index) = wanted.pop_front() else { break };
        let entry = source.log.body(index).await?;
        bytes += entry.payload.len();
        let id = Some(pb::LogId { term: entry.term, index: entry.index });
        entries.push(pb::Entry { id, payload: entry.payload });
    }
    Ok(entries)
}

/// How long so many bytes take at a rate; no time if it has no limit.
fn time_for(bytes: u64, per_second: u64) -> Duration {
    match per_second {
        0 => Duration::ZERO,
        rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
    }
}

/// A body as it came with a snapshot.
pub(crate) fn body_from(entry: pb::Entry) -> Result<Entry, WireError> {
    let id = wire::stored_id_from(entry.id.ok_or(WireError::Missing("log id"))?)?;
    Ok(Entry { index: id.index, term: term_of(&id), payload: entry.payload })
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::types::{Payload, log_id};

    const FOR_EVER: Duration = Duration::from_secs(3_600);

    /// An append that ends at `last`, with an entry or without, and says that `commit` is committed.
    fn append(last: u64, entry: bool, commit: u64) -> AppendEntriesRequest<Types> {
        let payload = EntryPayload::Normal(Payload::new(bytes::Bytes::new()));
        let entries = entry.then(|| openraft::Entry { log_id: log_id(1, last), payload });
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(1, if entry { last - 1 } else { last })),
            entries: entries.into_iter().collect(),
            leader_commit: Some(log_id(1, commit)),
        }
    }

    /// What goes out, each as its number of entries and its commit.
    async fn sent(
        requests: impl Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
        patience: Duration,
    ) -> Vec<(usize, u64)> {
        let out = with_commits(requests, patience);
        let told = |request: AppendEntriesRequest<Types>| {
            (request.entries.len(), request.leader_commit.map_or(0, |id| id.index))
        };
        out.map(told).collect().await
    }

    fn stream(
        requests: Vec<AppendEntriesRequest<Types>>,
    ) -> impl Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static {
        futures_util::stream::iter(requests)
    }

    #[tokio::test]
    async fn a_commit_alone_is_said_by_the_append_that_follows() {
        let requests =
            vec![append(1, true, 0), append(1, false, 1), append(2, true, 1), append(2, false, 2)];
        let out = sent(stream(requests), FOR_EVER).await;
        assert_eq!(out, [(1, 0), (1, 1), (0, 2)], "the last is sent, nothing follows it");
    }

    #[tokio::test]
    async fn the_first_request_of_a_stream_goes_out_though_it_has_no_entry() {
        let requests = vec![append(1, false, 1), append(2, true, 1)];
        assert_eq!(sent(stream(requests), FOR_EVER).await, [(0, 1), (1, 1)]);
    }

    #[tokio::test]
    async fn a_commit_that_nothing_follows_goes_out_when_patience_is_over() {
        let requests = stream(vec![append(1, true, 0), append(1, false, 1)]);
        let out = requests.chain(futures_util::stream::pending());
        let mut out = Box::pin(with_commits(out, Duration::from_millis(1)));
        assert_eq!(out.next().await.map(|request| request.entries.len()), Some(1));
        assert_eq!(out.next().await.map(|request| request.entries.len()), Some(0));
    }

    #[tokio::test]
    async fn a_state_goes_in_messages_that_a_peer_takes() {
        use pb::snapshot_chunk::Chunk;
        let state: bytes::Bytes = (0..HEAD_STATE_MAX * 5 / 2).map(|at| at as u8).collect();
        let data = SnapshotData { state: state.clone(), source: None };
        let snapshot = Snapshot { meta: Default::default(), snapshot: data };
        let sent = snapshot_chunks(1, Vote::new_committed(1, 1), snapshot, 0, (Sent::default(), 2));
        let mut parts: Vec<bytes::Bytes> = Vec::new();
        let mut sent = std::pin::pin!(sent);
        while let Some(chunk) = sent.next().await {
            match chunk.chunk {
                Some(Chunk::Head(head)) => parts.push(head.state),
                Some(Chunk::State(part)) => parts.push(part),
                _ => {}
            }
        }
        assert!(parts.iter().all(|part| part.len() <= HEAD_STATE_MAX) && parts.concat() == state);
    }

    #[tokio::test]
    async fn without_patience_each_request_goes_out() {
        let requests = vec![append(1, true, 0), append(1, false, 1), append(2, true, 1)];
        assert_eq!(sent(stream(requests), Duration::ZERO).await, [(1, 0), (0, 1), (1, 1)]);
    }
}
