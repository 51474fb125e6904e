//! The requesting end of one append stream.
//!
//! Each request holds a part of two windows until its answer is read: the link's own and that of
//! all links to the peer. So a group that stalls at the peer holds up itself, not the others, and
//! what the peer has to queue is bounded here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_group::AppendLink;
use quorate_proto::internal as pb;
use quorate_proto::internal::rpc::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::line::Line;
use super::outbox::Item;
use super::{OUTSTANDING_BYTES_MAX, RPC_BYTES_MAX, lock, size_of};

/// Bytes of one append stream that may be unanswered. A single larger request goes alone.
pub const LINK_BYTES_MAX: usize = 4 << 20;
/// Requests of one append stream that may be unanswered.
pub const LINK_APPENDS_MAX: usize = 256;

/// What a request has at least of the windows, in bytes, so that they bound the count too.
const APPEND_BYTES_MIN: usize = LINK_BYTES_MAX / LINK_APPENDS_MAX;

/// What an unanswered request has of the windows; kept by the request while it is queued and by the
/// link until the answer is read.
pub(super) struct Hold {
    link: Arc<LinkState>,
    _windows: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Hold {
    pub(super) fn link_ended(&self) -> bool {
        self.link.ended.load(Ordering::Acquire)
    }
}

/// What a link shares with its senders and the line.
pub(super) struct LinkState {
    pub(super) group: u64,
    pub(super) id: u64,
    window: Arc<Semaphore>,
    unanswered: Mutex<VecDeque<Arc<Hold>>>,
    ended: AtomicBool,
}

impl LinkState {
    pub(super) fn new(group: u64, id: u64) -> Self {
        Self {
            group,
            id,
            window: Arc::new(Semaphore::new(LINK_BYTES_MAX)),
            unanswered: Mutex::default(),
            ended: AtomicBool::new(false),
        }
    }

    /// Nothing more is sent; senders that wait are told.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.window.close();
        lock(&self.unanswered).clear();
    }

    fn rpc(&self, body: Body) -> pb::Rpc {
        pb::Rpc { group: self.group, id: self.id, body: Some(body) }
    }
}

pub(super) struct Link {
    pub(super) line: Arc<Line>,
    pub(super) state: Arc<LinkState>,
    pub(super) answers: mpsc::UnboundedReceiver<Box<Body>>,
}

impl AppendLink for Link {
    fn sender(&self) -> Arc<dyn Fn(Body) -> BoxFuture<'static, Option<()>> + Send + Sync> {
        let (line, state) = (self.line.clone(), self.state.clone());
        Arc::new(move |body| send(line.clone(), state.clone(), body).boxed())
    }

    fn next(&mut self) -> BoxFuture<'_, Option<Body>> {
        async move {
            let answer = self.answers.recv().await;
            lock(&self.state.unanswered).pop_front();
            answer.map(|answer| *answer)
        }
        .boxed()
    }
}

async fn send(line: Arc<Line>, state: Arc<LinkState>, body: Body) -> Option<()> {
    let size = size_of(&body);
    if size > RPC_BYTES_MAX {
        let reason = format!("an append of {size} bytes is beyond the limit of {RPC_BYTES_MAX}");
        line.answer_link(state.id, Body::Failed(reason));
        return None;
    }
    let size = size.max(APPEND_BYTES_MIN);
    let own = take(&state.window, size.min(LINK_BYTES_MAX)).await?;
    let shared = take(line.window(), size.min(OUTSTANDING_BYTES_MAX)).await?;
    let hold = Arc::new(Hold { link: state.clone(), _windows: (own, shared) });
    {
        let mut unanswered = lock(&state.unanswered);
        // Checked under the lock that `end` takes afterwards: nothing is left behind in the queue.
        if state.ended.load(Ordering::Acquire) {
            return None;
        }
        unanswered.push_back(hold.clone());
    }
    line.outbox().push(Item { rpc: state.rpc(body), hold: Some(hold) }).ok()
}

async fn take(window: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let bytes = u32::try_from(bytes).expect("windows are far below 4 GiB");
    window.clone().acquire_many_owned(bytes).await.ok()
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.end();
        self.line.forget_link(self.state.id);
        let end = self.state.rpc(Body::EndStream(pb::Done {}));
        let _ = self.line.outbox().push(end);
    }
}
