//! The part of a group that answers other replicas.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::ServerState;
use openraft::raft::{AppendEntriesResponse, StreamAppendError};
use openraft_rt::WatchReceiver;
use quorate_proto::internal as pb;
use quorate_proto::internal::rpc::Body;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::checkpoint::{Checkpoints, SnapshotData};
use crate::codec;
use crate::handle::Leadership;
use crate::network::{Peers, body_from};
use crate::offline::CHECKPOINT_BYTES_MAX;
use crate::parking::Parking;
use crate::recovery::timeline_of;
use crate::replica_log::ReplicaLog;
use crate::state_machine::Snapshot;
use crate::types::{Raft, SnapshotMeta, Vote};
use crate::wire;

/// Bytes of received bodies that are made durable at a time.
const STORE_BYTES: usize = 4 << 20;

/// One replica of a group, whatever its machine. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    pub(crate) group: u64,
    pub(crate) node: u64,
    pub(crate) raft: Raft,
    pub(crate) log: Arc<ReplicaLog>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) parking: Arc<Parking>,
}

impl Replica {
    /// The group's id.
    #[must_use]
    pub fn group(&self) -> u64 {
        self.group
    }

    /// Who leads, as this replica knows.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader && metrics.vote.committed;
        // While it rests, what it knows is from before the start.
        let leader = metrics.current_leader.filter(|_| !self.parking.is_resting());
        Leadership { leader, term: metrics.vote.leader_id.term, leads }
    }

    /// Index of the last entry applied here.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.raft.metrics().borrow_watched().last_applied.map_or(0, |id| id.index)
    }

    /// Answers one request of another replica.
    pub async fn answer(&self, request: Body) -> Body {
        // To be asked for one's opinion is no reason to wake, nor is being asked to park, nor a
        // heartbeat: one that comes late would start the timer of a follower whose leader is parked.
        let beats = matches!(&request, Body::Append(append) if append.entries.is_empty());
        let wakes = !beats && !matches!(request, Body::PreVote(_) | Body::Park(_));
        let appends = matches!(request, Body::Append(_));
        let answer = self.try_answer(request).await;
        // Not before: Raft has seen by now what renews the leader's lease.
        match &answer {
            Ok(answer) if appends && took_in(answer) => self.parking.heard(wakes),
            _ if wakes => self.parking.touch(),
            _ => {}
        }
        answer.unwrap_or_else(Body::Failed)
    }

    /// Raft's futures are boxed: thousands of replicas may be asked at once, mostly for what needs
    /// none of them, and each call would take the room of the largest.
    async fn try_answer(&self, request: Body) -> Result<Body, String> {
        fn text(error: impl ToString) -> String {
            error.to_string()
        }
        match request {
            Body::Vote(vote) => {
                let vote = wire::vote_request_from(vote).map_err(text)?;
                let timeline = self.check_timeline(&vote.vote)?;
                let answer = match self.refuse_for_less(&vote) {
                    Some(refused) => refused,
                    None => self.raft.vote(vote).boxed().await.map_err(text)?,
                };
                check_told(timeline, &answer.vote)?;
                Ok(Body::Voted(wire::vote_response_to(&answer)))
            }
            Body::PreVote(vote) => {
                let vote = wire::vote_request_from(vote).map_err(text)?;
                let timeline = self.check_timeline(&vote.vote)?;
                let refused = self.refuse_for_less(&vote);
                let answer = match refused.or_else(|| self.refuse_pre_vote(&vote)) {
                    Some(refused) => refused,
                    None => self.raft.pre_vote(vote).boxed().await.map_err(text)?,
                };
                if !answer.vote_granted {
                    // Whoever asks needs a leader and cannot be it: this replica may have to.
                    self.wanted();
                }
                check_told(timeline, &answer.vote)?;
                Ok(Body::Voted(wire::vote_response_to(&answer)))
            }
            Body::Append(append) => {
                let append = wire::append_from(append).map_err(text)?;
                let timeline = self.check_timeline(&append.vote)?;
                self.log.received.entries(&append.entries);
                let answer = self.raft.append_entries(append).boxed().await.map_err(text)?;
                if let AppendEntriesResponse::HigherVote(vote) = &answer {
                    check_told(timeline, vote)?;
                }
                Ok(Body::Appended(wire::appended_to(&answer)))
            }
            Body::Transfer(transfer) => {
                let transfer = wire::transfer_from(transfer).map_err(text)?;
                self.check_timeline(transfer.from_leader())?;
                let answer =
                    self.raft.handle_transfer_leader(transfer).boxed().await.map_err(text)?;
                answer.map_err(text)?;
                Ok(Body::Done(pb::Done {}))
            }
            Body::Park(request) => self.park(request).map(Body::Parked).map_err(text),
            Body::ReadIndex(_) => {
                let index = self.read_index().await.map_err(text)?;
                let timeline = self.log.timeline();
                Ok(Body::ReadIndexed(pb::ReadIndexAnswer { index, timeline }))
            }
            _ => Err("not a request".into()),
        }
    }

    /// Answers the requests of one append stream, in order. Ends after a refusal.
    pub fn answer_appends(
        &self,
        requests: impl Stream<Item = pb::AppendRequest> + Send + 'static,
    ) -> BoxStream<'static, Body> {
        // A malformed request ends the stream: the sender sees it end unanswered.
        let this = self.clone();
        let asked = Arc::new(AtomicU64::new(0));
        let told = asked.clone();
        let requests = requests
            .map(move |request| {
                let request = wire::append_from(request).map_err(|error| error.to_string())?;
                let timeline = this.check_timeline(&request.vote)?;
                asked.store(timeline, Ordering::Release);
                Ok::<_, String>(request)
            })
            .take_while(|request| std::future::ready(request.is_ok()))
            .filter_map(|request| std::future::ready(request.ok()));
        let log = self.log.clone();
        let requests = requests.inspect(move |request| log.received.entries(&request.entries));
        let answers = self.raft.stream_append(Box::pin(requests));
        let parking = self.parking.clone();
        answers
            .map(move |answer| {
                let answer = match answer {
                    Ok(answer) => match &answer {
                        Err(StreamAppendError::HigherVote(vote)) => {
                            check_told(told.load(Ordering::Acquire), vote).map(|()| answer)
                        }
                        _ => Ok(answer),
                    },
                    Err(fatal) => Err(fatal.to_string()),
                };
                let answer = match answer {
                    Ok(answer) => Body::Appended(wire::streamed_to(&answer)),
                    Err(reason) => Body::Failed(reason),
                };
                if took_in(&answer) {
                    parking.heard(true);
                }
                answer
            })
            .boxed()
    }

    /// Takes a snapshot in: stores its bodies, then installs it. It is durable when this returns.
    ///
    /// # Errors
    /// When the stream ends early, does not make sense, or cannot be stored.
    pub async fn install(
        &self,
        head: pb::SnapshotHead,
        mut rest: impl Stream<Item = Result<pb::SnapshotChunk, String>> + Unpin + Send,
    ) -> Result<pb::SnapshotAnswer, String> {
        use pb::snapshot_chunk::Chunk;
        let vote = wire::vote_from(head.vote).map_err(|e| e.to_string())?;
        let timeline = self.check_timeline(&vote)?;
        let last_membership =
            codec::decode_stored_membership(&head.membership).map_err(|e| e.to_string())?;
        let last_log_id = head.last.map(wire::stored_id_from).transpose();
        let last_log_id = last_log_id.map_err(|e| e.to_string())?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        // What is stored stays until this snapshot, or another, is installed.
        let _pin = self.log.pin();
        let transfer = self.log.received.begin_transfer();
        transfer.took(head.state.len());
        let applied = self.applied();
        let mut state = vec![head.state];
        let mut waiting = Vec::new();
        let mut bytes = 0;
        loop {
            let chunk = rest.next().await.ok_or("the snapshot ended before its end")??;
            match chunk.chunk {
                Some(Chunk::Bodies(bodies)) => {
                    for entry in bodies.entries {
                        let entry = body_from(entry).map_err(|e| e.to_string())?;
                        transfer.took(entry.payload.len());
                        if !self.log.has(entry.index, entry.term, applied) {
                            bytes += entry.payload.len();
                            waiting.push(entry);
                        }
                    }
                    if bytes >= STORE_BYTES {
                        self.store(&mut waiting).await?;
                        bytes = 0;
                    }
                }
                Some(Chunk::State(part)) => {
                    transfer.took(part.len());
                    state.push(part);
                    if state.iter().map(Bytes::len).sum::<usize>() > CHECKPOINT_BYTES_MAX {
                        return Err("the state in the snapshot is larger than 1 GiB".into());
                    }
                }
                Some(Chunk::End(_)) => break,
                Some(Chunk::Head(_)) | None => return Err("unexpected part of a snapshot".into()),
            }
        }
        self.store(&mut waiting).await?;
        let state = match state.len() {
            1 => state.swap_remove(0),
            _ => state.concat().into(),
        };
        let data = SnapshotData { state, source: None };
        let answer = self
            .raft
            .install_full_snapshot(vote, Snapshot { meta, snapshot: data })
            .await
            .map_err(|e| e.to_string())?;
        check_told(timeline, &answer.vote)?;
        Ok(pb::SnapshotAnswer { vote: Some(wire::vote_to(&answer.vote)) })
    }

    /// Refuses a replica of another timeline than this one's, which is returned; see
    /// [`recovery`](crate::recovery). A replica without a log follows a later one.
    fn check_timeline(&self, theirs: &Vote) -> Result<u64, String> {
        let (ours, asked) = (self.log.timeline(), timeline_of(theirs.leader_id.term));
        if asked == ours || (asked > ours && self.log.is_blank()) {
            return Ok(asked);
        }
        if asked > ours && theirs.committed {
            self.log.supersede(asked);
        }
        Err(format!("group {} is in timeline {ours} here, and in {asked} there", self.group))
    }

    /// The later timeline that this replica's group is in by now, if a leader of it was heard of: what this
    /// replica has is of before a recovery.
    #[must_use]
    pub fn superseded(&self) -> Option<u64> {
        self.log.superseded()
    }

    /// The timeline that this replica is on.
    #[must_use]
    pub fn timeline(&self) -> u64 {
        self.log.timeline()
    }

    async fn store(&self, bodies: &mut Vec<quorate_storage::Entry>) -> Result<(), String> {
        if bodies.is_empty() {
            return Ok(());
        }
        self.log.put_bodies(std::mem::take(bodies)).await.map_err(|e| e.to_string())
    }
}

/// Keeps the vote of a later timeline from whoever asked in an earlier one: it would stand in that one next.
fn check_told(asked: u64, vote: &Vote) -> Result<(), String> {
    match timeline_of(vote.leader_id.term) {
        ours if ours > asked => Err(format!("in timeline {ours} here, and in {asked} there")),
        _ => Ok(()),
    }
}

/// Whether an answer is one to the leader that this replica follows.
pub(crate) fn took_in(answer: &Body) -> bool {
    use pb::append_response::Kind;
    matches!(answer, Body::Appended(answer) if answer.kind() != Kind::HigherVote)
}
