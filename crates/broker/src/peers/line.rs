//! One standing connection to a peer, as its callers see it: who waits for which answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_group::LinkError;
use quorate_proto::internal as pb;
use quorate_proto::internal::rpc::Body;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::link::{Link, LinkState};
use super::outbox::Outbox;
use super::{OUTSTANDING_BYTES_MAX, RPC_BYTES_MAX, lock, size_of};

pub(super) struct Line {
    node: u64,
    outbox: Outbox,
    window: Arc<Semaphore>,
    /// Calls and links share one sequence of ids.
    last_id: AtomicU64,
    waiting: Mutex<Waiting>,
    heard: Mutex<Instant>,
}

enum Waiting {
    Open {
        calls: BTreeMap<u64, oneshot::Sender<Body>>,
        links: BTreeMap<u64, (Arc<LinkState>, mpsc::UnboundedSender<Box<Body>>)>,
    },
    Broken {
        reason: String,
    },
}

impl Line {
    pub(super) fn new(node: u64, outbox: Outbox) -> Self {
        Self {
            node,
            outbox,
            window: Arc::new(Semaphore::new(OUTSTANDING_BYTES_MAX)),
            last_id: AtomicU64::new(0),
            waiting: Mutex::new(Waiting::Open { calls: BTreeMap::new(), links: BTreeMap::new() }),
            heard: Mutex::new(Instant::now()),
        }
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(super) fn window(&self) -> &Arc<Semaphore> {
        &self.window
    }

    fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn failed(&self, reason: impl Into<String>) -> LinkError {
        LinkError { node: self.node, reason: reason.into() }
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call(&self, group: u64, body: Body) -> Result<Body, LinkError> {
        let size = size_of(&body);
        if size > RPC_BYTES_MAX {
            let reason =
                format!("a request of {size} bytes is beyond the limit of {RPC_BYTES_MAX}");
            return Err(self.failed(reason));
        }
        let id = self.next_id();
        let (sender, answer) = oneshot::channel();
        match &mut *lock(&self.waiting) {
            Waiting::Open { calls, .. } => calls.insert(id, sender),
            Waiting::Broken { reason } => return Err(self.failed(reason.clone())),
        };
        let _forget = ForgetCall { line: self, id };
        if self.outbox.send(pb::Rpc { group, id, body: Some(body) }).await.is_err() {
            return Err(self.failed(self.reason()));
        }
        answer.await.map_err(|_| self.failed(self.reason()))
    }

    /// Begins an append stream.
    pub(super) fn link(self: &Arc<Self>, group: u64) -> Result<Link, LinkError> {
        let state = Arc::new(LinkState::new(group, self.next_id()));
        let (sender, answers) = mpsc::unbounded_channel();
        match &mut *lock(&self.waiting) {
            Waiting::Open { links, .. } => links.insert(state.id, (state.clone(), sender)),
            Waiting::Broken { reason } => return Err(self.failed(reason.clone())),
        };
        Ok(Link { line: self.clone(), state, answers })
    }

    /// Hands answers to those who wait for them. Late ones are dropped.
    pub(super) fn take_in(&self, envelope: pb::Envelope) {
        *lock(&self.heard) = Instant::now();
        if envelope.rpcs.is_empty() {
            return;
        }
        let Waiting::Open { calls, links } = &mut *lock(&self.waiting) else { return };
        for rpc in envelope.rpcs {
            let Some(body) = rpc.body else { continue };
            if let Some((_, answers)) = links.get(&rpc.id) {
                let _ = answers.send(Box::new(body));
            } else if let Some(call) = calls.remove(&rpc.id) {
                let _ = call.send(body);
            }
        }
    }

    /// Hands a link an answer that does not come from the peer.
    pub(super) fn answer_link(&self, id: u64, body: Body) {
        if let Waiting::Open { links, .. } = &*lock(&self.waiting)
            && let Some((_, answers)) = links.get(&id)
        {
            let _ = answers.send(Box::new(body));
        }
    }

    pub(super) fn forget_link(&self, id: u64) {
        if let Waiting::Open { links, .. } = &mut *lock(&self.waiting) {
            links.remove(&id);
        }
    }

    /// Ends every call and every link.
    pub(super) fn break_off(&self, reason: &str) {
        let broken = Waiting::Broken { reason: reason.to_owned() };
        let before = std::mem::replace(&mut *lock(&self.waiting), broken);
        self.window.close();
        if let Waiting::Open { links, .. } = before {
            for (link, _) in links.into_values() {
                link.end();
            }
        }
    }

    /// How long ago the peer was last heard of.
    pub(super) fn silent_for(&self) -> Duration {
        lock(&self.heard).elapsed()
    }

    fn reason(&self) -> String {
        match &*lock(&self.waiting) {
            Waiting::Broken { reason } => reason.clone(),
            Waiting::Open { .. } => "the connection is closing".to_owned(),
        }
    }
}

/// A caller that stops waiting leaves nothing behind.
struct ForgetCall<'a> {
    line: &'a Line,
    id: u64,
}

impl Drop for ForgetCall<'_> {
    fn drop(&mut self) {
        if let Waiting::Open { calls, .. } = &mut *lock(&self.line.waiting) {
            calls.remove(&self.id);
        }
    }
}
