//! One accepted stream: reads requests, has the replicas answer them, sends the answers back.
//!
//! ```text
//!  reader ── call ───────────► a task each ─────────────► Replica::answer ──────────► outbox
//!         └─ append of (g, n) ─► channel of (g, n) ─► task: Replica::answer_appends ─► outbox
//! ```
//!
//! The reader never waits for a group: a call that is one too many is refused, and so is an append
//! stream whose requests pile up, which peers that keep to their windows do not let happen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_stream::stream;
use futures_util::{Stream, StreamExt};
use quorate_group::Replica;
use quorate_proto::internal as pb;
use quorate_proto::internal::rpc::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::outbox::Outbox;
use super::{AbortOnDrop, Directory, LINK_APPENDS_MAX, SILENCE_MAX};

/// Calls of one peer that may be under way.
pub const CALLS_MAX: usize = 4096;
/// Append streams of one peer.
pub const STREAMS_MAX: usize = 65_536;
/// Requests of one append stream that may wait. A sender keeps fewer unanswered; one that does not
/// loses its stream.
pub const APPENDS_WAITING_MAX: usize = 2 * LINK_APPENDS_MAX;

/// A caller is let in again this often.
const ADMIT_EVERY: Duration = Duration::from_secs(1);

pub(super) const NO_ENTRIES: &str =
    "the disk of this node is too full to take entries in: free space on it";

pub(super) fn no_replica(group: u64) -> String {
    format!("no replica of group {group} here")
}

pub(super) struct Serving {
    directory: Arc<dyn Directory>,
    answers: Outbox,
    peer: u64,
    hello: pb::Hello,
    calls: Arc<Semaphore>,
    /// By group and id.
    streams: BTreeMap<(u64, u64), Appends>,
}

/// An append stream, until its sender ends it.
struct Appends {
    /// `None` once it was refused: the rest of it is ignored. Boxed, because a channel keeps room for
    /// 32 of what it carries, and there is one for each queue that is led elsewhere.
    requests: Option<mpsc::Sender<Box<pb::AppendRequest>>>,
    overrun: Arc<AtomicBool>,
    _task: AbortOnDrop,
}

impl Serving {
    pub(super) fn new(directory: Arc<dyn Directory>, answers: Outbox, hello: pb::Hello) -> Self {
        let calls = Arc::new(Semaphore::new(CALLS_MAX));
        let peer = hello.node_id;
        Self { directory, answers, peer, hello, calls, streams: BTreeMap::new() }
    }

    /// Serves until the connection ends; says why it did.
    pub(super) async fn run(mut self, mut incoming: Streaming<pb::Envelope>) -> Status {
        let mut admitted_at = Instant::now();
        loop {
            let envelope = match tokio::time::timeout(SILENCE_MAX, incoming.message()).await {
                Ok(Ok(Some(envelope))) => envelope,
                Ok(Ok(None)) => return Status::cancelled("the caller ended the connection"),
                Ok(Err(status)) => return status,
                Err(_) => return Status::deadline_exceeded("the caller was silent for too long"),
            };
            // The caller may have been removed from the cluster since.
            if admitted_at.elapsed() >= ADMIT_EVERY {
                admitted_at = Instant::now();
                if let Err(refused) = self.directory.admit(&self.hello) {
                    return refused;
                }
            }
            for rpc in envelope.rpcs {
                let (group, id) = (rpc.group, rpc.id);
                match rpc.body {
                    Some(Body::StreamAppend(append)) => self.take_append(group, id, append),
                    Some(Body::EndStream(_)) => drop(self.streams.remove(&(group, id))),
                    Some(call) => self.take_call(group, id, call),
                    None => self.refuse(group, id, "a request of an unknown kind"),
                }
            }
            if self.streams.len() > STREAMS_MAX {
                tracing::warn!(peer = self.peer, "too many append streams");
                return Status::resource_exhausted("too many append streams");
            }
        }
    }

    fn refuse(&self, group: u64, id: u64, reason: &str) {
        let body = Some(Body::Failed(reason.to_owned()));
        self.answers.offer(pb::Rpc { group, id, body });
    }

    fn take_call(&self, group: u64, id: u64, body: Body) {
        let Ok(permit) = self.calls.clone().try_acquire_owned() else {
            return self.refuse(group, id, "too many calls are under way");
        };
        tokio::spawn(answer_call(
            self.directory.clone(),
            self.answers.clone(),
            permit,
            pb::Rpc { group, id, body: Some(body) },
        ));
    }

    fn take_append(&mut self, group: u64, id: u64, append: pb::AppendRequest) {
        let stream = self
            .streams
            .entry((group, id))
            .or_insert_with(|| Appends::begin(&self.directory, &self.answers, group, id));
        let Some(requests) = &stream.requests else { return };
        match requests.try_send(Box::new(append)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => stream.requests = None,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!(peer = self.peer, group, "an append stream overran its limit");
                stream.overrun.store(true, Ordering::Release);
                stream.requests = None;
            }
        }
    }
}

/// Answers one call, or drops it when the connection is gone.
async fn answer_call(
    directory: Arc<dyn Directory>,
    answers: Outbox,
    _permit: OwnedSemaphorePermit,
    rpc: pb::Rpc,
) {
    let (group, id) = (rpc.group, rpc.id);
    let answered = async {
        let body = match (rpc.body, directory.replica(group)) {
            (Some(Body::Append(append)), _) if refuses(&*directory, &append) => {
                Body::Failed(NO_ENTRIES.to_owned())
            }
            (Some(body), Some(replica)) => replica.answer(body).await,
            _ => Body::Failed(no_replica(group)),
        };
        let _ = answers.send(pb::Rpc { group, id, body: Some(body) }).await;
    };
    tokio::select! {
        biased;
        () = answers.gone() => {}
        () = answered => {}
    }
}

fn refuses(directory: &dyn Directory, append: &pb::AppendRequest) -> bool {
    !append.entries.is_empty() && !directory.accepts_entries()
}

impl Appends {
    fn begin(directory: &Arc<dyn Directory>, answers: &Outbox, group: u64, id: u64) -> Self {
        let (sender, requests) = mpsc::channel(APPENDS_WAITING_MAX);
        let overrun = Arc::new(AtomicBool::new(false));
        let task = answer_appends(
            directory.clone(),
            answers.clone(),
            requests,
            overrun.clone(),
            (group, id),
        );
        Self { requests: Some(sender), overrun, _task: AbortOnDrop(tokio::spawn(task)) }
    }
}

/// Answers one append stream in order. A last word says why it ended, unless its sender ended it,
/// which aborts this.
async fn answer_appends(
    directory: Arc<dyn Directory>,
    answers: Outbox,
    requests: mpsc::Receiver<Box<pb::AppendRequest>>,
    overrun: Arc<AtomicBool>,
    (group, id): (u64, u64),
) {
    let rpc = |body| pb::Rpc { group, id, body: Some(body) };
    let full = Arc::new(AtomicBool::new(false));
    let last = match directory.replica(group) {
        None => no_replica(group),
        Some(replica) => {
            let accepted = accepted(requests, directory, full.clone());
            if forward(&replica, accepted, &answers, rpc).await.is_err() {
                return;
            }
            match (full.load(Ordering::Acquire), overrun.load(Ordering::Acquire)) {
                (true, _) => NO_ENTRIES.to_owned(),
                (_, true) => format!("more than {APPENDS_WAITING_MAX} appends wait"),
                _ => "the replica ended the append stream".to_owned(),
            }
        }
    };
    let _ = answers.send(rpc(Body::Failed(last))).await;
}

async fn forward(
    replica: &Replica,
    requests: impl Stream<Item = pb::AppendRequest> + Send + 'static,
    answers: &Outbox,
    rpc: impl Fn(Body) -> pb::Rpc,
) -> Result<(), super::outbox::Gone> {
    let mut bodies = replica.answer_appends(requests);
    while let Some(body) = bodies.next().await {
        answers.send(rpc(body)).await?;
    }
    Ok(())
}

/// The requests up to the first that this node has no room for.
fn accepted(
    mut requests: mpsc::Receiver<Box<pb::AppendRequest>>,
    directory: Arc<dyn Directory>,
    full: Arc<AtomicBool>,
) -> impl Stream<Item = pb::AppendRequest> + Send + 'static {
    stream! {
        while let Some(append) = requests.recv().await {
            if refuses(&*directory, &append) {
                full.store(true, Ordering::Release);
                return;
            }
            yield *append;
        }
    }
}
