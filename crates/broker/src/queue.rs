//! One queue's replica on this node: its group, and the consumers whose streams end here.
//!
//! ```text
//!  group ── Leading ──► configure, then serve        ── Following ──► close every stream
//!        ── Deliver{session, node, runs} ──► the session's outlet ──► its stream reads the bodies
//! ```
//! What a delivery says which node makes it: the one that a consumer asked, as leader or as a follower with a
//! replica of its own ([`at_follower`](crate::service::at_follower)).

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_group::{EffectsTaken, Event, Handle, ProposeError};
use quorate_machine::catalog::{Catalog, QueueName};
use quorate_machine::frame;
use quorate_machine::queue::{
    Attachment, CloseReason, Command, Effect, Queue as Machine, Reply, Run, Session, Token, body,
};
use quorate_proto::v1;
use tokio::sync::mpsc;

use crate::member::Member;
use crate::outlet::{Outflow, Outgoing, Outlet, outlet};
use crate::refusal::Refusal;

/// Longest wait for the settings to be in the machine, before they are proposed again.
const CONFIGURE_LIMIT: Duration = Duration::from_secs(2);
const CONFIGURE_RETRY: Duration = Duration::from_millis(20);
/// Pause before a disconnect is proposed again, to a leader that a majority does not answer.
const DISCONNECT_RETRY: Duration = Duration::from_millis(100);

/// A consumer's stream that ends here.
struct Stream {
    /// Distinguishes two streams of one session.
    id: u64,
    outlet: Outlet,
    _effects: EffectsTaken,
}

pub(crate) struct Queue {
    pub(crate) name: QueueName,
    pub(crate) handle: Handle<Machine>,
    /// None once the replica has stopped.
    streams: Mutex<Option<BTreeMap<Session, Stream>>>,
    last_stream: AtomicU64,
    /// Term in which this replica leads and is configured; 0 = it does not serve.
    serving: AtomicU64,
    /// Why what is dead cannot be moved, for as long as it is tried here.
    stuck: Mutex<Option<String>>,
    /// Version of settings that the machine is known to have, at least.
    settings: AtomicU64,
    /// Version of the newest settings that this node has proposed.
    proposed_settings: AtomicU64,
    /// Whether newer settings are being proposed.
    renewing: AtomicBool,
}

impl Queue {
    pub(crate) fn new(name: QueueName, handle: Handle<Machine>) -> Self {
        Self {
            name,
            handle,
            streams: Mutex::new(Some(BTreeMap::new())),
            last_stream: AtomicU64::new(0),
            serving: AtomicU64::new(0),
            stuck: Mutex::default(),
            settings: AtomicU64::new(0),
            proposed_settings: AtomicU64::new(0),
            renewing: AtomicBool::new(false),
        }
    }

    /// True if this replica leads, as far as it knows, and has the queue's settings.
    pub(crate) fn serves(&self) -> bool {
        let term = self.serving.load(Ordering::Acquire);
        let now = self.handle.leadership();
        term > 0 && now.leads && now.term == term
    }

    /// Notes what keeps dead messages from being moved; true if something does since now, or nothing any more.
    pub(crate) fn note_stuck(&self, why: Option<String>) -> bool {
        let mut stuck = self.stuck.lock().expect("no panic while held");
        let is_news = stuck.is_some() != why.is_some();
        *stuck = why;
        is_news
    }

    /// What keeps dead messages from being moved, if anything does.
    pub(crate) fn stuck(&self) -> Option<String> {
        self.stuck.lock().expect("no panic while held").clone()
    }

    /// Registers a consumer's stream, before its session is attached with this prefetch, so that no delivery is
    /// missed. A former stream of the session is closed.
    pub(crate) fn open(&self, session: Session, prefetch: u32) -> (u64, Outflow) {
        let (outlet, outflow) = outlet(prefetch);
        let id = self.last_stream.fetch_add(1, Ordering::Relaxed) + 1;
        let mut streams = self.lock();
        let Some(streams) = streams.as_mut() else {
            let _ = outlet.tell(Outgoing::Close(Refusal::not_leader(None)));
            return (id, outflow);
        };
        let stream = Stream { id, outlet, _effects: self.handle.take_effects() };
        if let Some(former) = streams.insert(session, stream) {
            let moved = Refusal::session_closed("it was attached again by another stream");
            let _ = former.outlet.tell(Outgoing::Close(moved));
        }
        (id, outflow)
    }

    /// Whether a stream or a call of the session is answered here.
    pub(crate) fn has_stream(&self, session: Session) -> bool {
        self.lock().as_ref().is_some_and(|streams| streams.contains_key(&session))
    }

    /// Forgets a consumer's stream, unless the session has another one by now.
    pub(crate) fn close(&self, session: Session, stream: u64) {
        let mut streams = self.lock();
        let Some(streams) = streams.as_mut() else { return };
        if streams.get(&session).is_some_and(|open| open.id == stream) {
            streams.remove(&session);
        }
    }

    /// Tells the machine that a session's stream broke, for as long as this replica leads: the next
    /// leader takes every session for disconnected. Without it the session would be given messages for
    /// ever.
    pub(crate) async fn disconnect(&self, session: Session, attachment: Attachment) {
        loop {
            let outcome = self.handle.propose(Command::Disconnect { session, attachment }).await;
            match outcome {
                Ok(_) => return,
                Err(ProposeError::Stopped) => return,
                Err(error) if !self.handle.leadership().leads => {
                    tracing::debug!(queue = %self.name, %error, "disconnect: the next leader does it");
                    return;
                }
                Err(_) => tokio::time::sleep(DISCONNECT_RETRY).await,
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<BTreeMap<Session, Stream>>> {
        self.streams.lock().expect("no panic while held")
    }

    fn close_all(&self, refusal: &Refusal) {
        let streams = self.lock().as_mut().map(std::mem::take);
        for stream in streams.into_iter().flat_map(BTreeMap::into_values) {
            let _ = stream.outlet.tell(Outgoing::Close(refusal.clone()));
        }
    }

    fn tell(self: &Arc<Self>, session: Session, outgoing: Outgoing) {
        let mut streams = self.lock();
        let Some(streams) = streams.as_mut() else { return };
        let told = streams.get(&session).map_or(Ok(()), |stream| stream.outlet.tell(outgoing));
        let Err(overrun) = told else { return };
        streams.remove(&session);
        tracing::warn!(
            queue = %self.name, session = %format_args!("{:032x}", session.0),
            "a consumer does not read what it is given: it is disconnected"
        );
        if let Some(attachment) = overrun.attachment {
            let queue = self.clone();
            tokio::spawn(async move { queue.disconnect(session, attachment).await });
        }
    }

    fn carry_out(self: &Arc<Self>, index: u64, effect: Effect) {
        match effect {
            Effect::Deliver { node, .. } if node.0 != self.handle.node() => {}
            Effect::Deliver { session, token, runs, .. } => {
                self.tell(session, Outgoing::Deliver { index, token, runs });
            }
            Effect::Closed { session, attachment, reason: CloseReason::GraceExpired, .. } => {
                let refusal = Refusal::session_closed("its grace is over");
                self.tell(session, Outgoing::Ended { index, attachment, refusal });
            }
            Effect::Closed { session, attachment, reason: CloseReason::Kicked, .. } => {
                let refusal = Refusal::consumer_kicked(&self.name);
                self.tell(session, Outgoing::Ended { index, attachment, refusal });
            }
            Effect::Closed { session, attachment, reason: CloseReason::FilterChanged, .. } => {
                let refusal = Refusal::filter_changed(&self.name);
                self.tell(session, Outgoing::Ended { index, attachment, refusal });
            }
            Effect::Closed {
                session, attachment, reason: CloseReason::SettingsChanged, ..
            } => {
                let refusal = Refusal::settings_changed();
                self.tell(session, Outgoing::Outdated { index, attachment, refusal });
            }
            Effect::Closed { session, reason: CloseReason::WaitOver, .. } => {
                let (token, runs) = (Token(index), Vec::new());
                self.tell(session, Outgoing::Deliver { index, token, runs });
            }
            // The new stream took the old one's place when it opened.
            Effect::Closed { reason: CloseReason::Moved, .. } => {}
        }
    }

    /// The messages of a run, from the log of this replica.
    pub(crate) async fn frame(&self, run: Run) -> io::Result<v1::Frame> {
        let entry = self.handle.entry(run.index.0).await?;
        let slices = body(&entry, run.ordinal, run.skip, run.count).map_err(io::Error::other)?;
        Ok(v1::Frame { layout: frame::LAYOUT.into(), count: run.count, messages: joined(slices) })
    }

    /// Serves once the machine has its settings; gives up when the term is over.
    async fn begin_serving(&self, node: &Member, term: u64) {
        loop {
            let now = self.handle.leadership();
            if !now.leads || now.term != term || node.shutdown.is_said() {
                return;
            }
            match tokio::time::timeout(CONFIGURE_LIMIT, self.configure(node)).await {
                Ok(Ok(())) => {
                    self.handle.replica().settle();
                    return self.serving.store(term, Ordering::Release);
                }
                Ok(Err(error)) => tracing::debug!(queue = %self.name, %error, "configure"),
                Err(_) => tracing::debug!(queue = %self.name, "configure: no quorum yet"),
            }
            tokio::time::sleep(CONFIGURE_RETRY).await;
        }
    }

    /// Gives the machine newer settings. One attempt: the reconciler asks again.
    fn renew_settings(self: Arc<Self>, node: &Arc<Member>) {
        if self.renewing.swap(true, Ordering::AcqRel) {
            return;
        }
        let node = Arc::clone(node);
        tokio::spawn(async move {
            match tokio::time::timeout(CONFIGURE_LIMIT, self.configure(&node)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(queue = %self.name, %error, "configure anew"),
                Err(_) => tracing::debug!(queue = %self.name, "configure anew: no quorum yet"),
            }
            self.renewing.store(false, Ordering::Release);
        });
    }

    /// Whether the machine goes by these settings, and by them only for all that is in the log by now.
    pub(crate) fn keeps_settings(&self, version: u64) -> bool {
        // In this order: what was proposed and applied in between shows in the machine.
        self.proposed_settings.load(Ordering::Acquire) <= version
            && self.handle.read(|machine| machine.settings().version) == version
    }

    /// Gives the machine the settings that the catalog has for it.
    async fn configure(&self, node: &Member) -> Result<(), quorate_group::ProposeError> {
        let wanted = node
            .catalog
            .read(|catalog| catalog.queue(&self.name).map(|queue| queue.settings.clone()));
        let Some(wanted) = wanted else { return Ok(()) };
        let version = wanted.version;
        if self.handle.read(|machine| machine.settings().version) >= version {
            self.settings.fetch_max(version, Ordering::AcqRel);
            return Ok(());
        }
        self.proposed_settings.fetch_max(wanted.version, Ordering::AcqRel);
        match self.handle.propose(Command::Configure(Box::new(wanted))).await? {
            Reply::Rejected(rejection) => {
                tracing::debug!(queue = %self.name, %rejection, "configure");
            }
            _ => tracing::debug!(queue = %self.name, "configured"),
        }
        self.settings.fetch_max(version, Ordering::AcqRel);
        Ok(())
    }
}

/// Gives the machines of the queues that are led here the settings that the catalog has by now.
pub(crate) fn renew_settings(node: &Arc<Member>) {
    let led: Vec<Arc<Queue>> =
        node.queues.all().into_iter().filter(|queue| queue.serves()).collect();
    let is_outdated = |catalog: &Catalog, queue: &Arc<Queue>| {
        let wanted = catalog.queue(&queue.name).map(|known| known.settings.version);
        wanted > Some(queue.settings.load(Ordering::Acquire))
    };
    let outdated: Vec<Arc<Queue>> = node
        .catalog
        .read(|catalog| led.into_iter().filter(|queue| is_outdated(catalog, queue)).collect());
    outdated.into_iter().for_each(|queue| queue.renew_settings(node));
}

/// One frame of the slices of several: their messages one after the other.
fn joined(mut slices: Vec<Bytes>) -> Bytes {
    if slices.len() == 1 {
        return slices.remove(0);
    }
    let mut all = BytesMut::with_capacity(slices.iter().map(Bytes::len).sum());
    slices.iter().for_each(|slice| all.extend_from_slice(slice));
    all.freeze()
}

/// Owns a queue's events until its replica stops.
pub(crate) async fn own(
    queue: Arc<Queue>,
    mut events: mpsc::UnboundedReceiver<Event<Effect>>,
    node: Weak<Member>,
) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Effects { index, effects } => {
                effects.into_iter().for_each(|effect| queue.carry_out(index, effect));
            }
            Event::Leading { term } => {
                let Some(node) = node.upgrade() else { return };
                tracing::info!(node = node.id(), queue = %queue.name, term, "leads");
                // Those that are there were attached through another leader.
                queue.close_all(&Refusal::not_leader(None));
                queue.begin_serving(&node, term).await;
            }
            Event::Following => {
                queue.serving.store(0, Ordering::Release);
                tracing::info!(queue = %queue.name, "leads no more");
                queue.close_all(&Refusal::not_leader(None));
            }
            // Deliveries may have been among what was not applied here: they are repeated by attaching again.
            Event::Restored => queue.close_all(&Refusal::not_leader(None)),
            Event::Failed(reason) => {
                if let Some(node) = node.upgrade() {
                    node.fail(format!("queue {}: {reason}", queue.name));
                }
            }
        }
    }
    queue.serving.store(0, Ordering::Release);
    queue.close_all(&Refusal::shutting_down());
    *queue.lock() = None;
}
