//! What is delivered to one consumer's stream: leased messages, from the effects of the replica here, with their
//! bodies from this node's log.

use std::sync::Arc;

use futures_util::Stream;
use quorate_machine::queue::{Attachment, Offset, Run, Session, Token};
use quorate_proto::v1;
use tonic::Status;

use crate::member::Member;
use crate::outlet::{Outflow, Outgoing, Unread};
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::telemetry::Deliveries;

/// The near end of a session's outlet; dropping it closes that.
pub(super) struct Inlet {
    node: Arc<Member>,
    queue: Arc<Queue>,
    session: Session,
    stream: u64,
    /// Log index of the attach. What was leased to the session before it is repeated by it.
    since: u64,
    /// Which attachment it is; none if only the leader knows, which then ends the stream.
    attachment: Option<Attachment>,
    outgoing: Outflow,
    /// What is told of its deliveries.
    traces: Arc<Deliveries>,
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.queue.close(self.session, self.stream);
    }
}

/// Messages that one entry leased to the session.
pub(super) type Leased = (Token, Vec<Run>);

impl Inlet {
    /// Opens a session's outlet, before the session is attached with this prefetch, so that no delivery is missed.
    pub fn open(
        node: Arc<Member>,
        queue: Arc<Queue>,
        session: Session,
        prefetch: u32,
        traces: Arc<Deliveries>,
    ) -> Self {
        let (stream, outgoing) = queue.open(session, prefetch);
        Self { node, queue, session, stream, since: 0, attachment: None, outgoing, traces }
    }

    /// The session was attached by the entry at `index`: what came before it is passed over.
    pub fn attached_at(&mut self, index: u64, attachment: Option<Attachment>) {
        (self.since, self.attachment) = (index, attachment);
        self.outgoing.attached(attachment);
    }

    /// Whether what ended was the session before: one that comes back in the entry of its end is a new one.
    fn was_before(&self, index: u64, ended: Attachment) -> bool {
        index < self.since || (index == self.since && self.attachment != Some(ended))
    }

    /// What was leased next, or why the stream ends. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Leased, Refusal> {
        loop {
            match self.outgoing.next().await? {
                Outgoing::Deliver { index, .. } if index < self.since => {}
                Outgoing::Ended { index, attachment, .. } if self.was_before(index, attachment) => {
                }
                // Where only the leader knows the attachment, it ends the stream when it has answered what was settled.
                Outgoing::Outdated { index, attachment, .. }
                    if self.attachment.is_none() || self.was_before(index, attachment) => {}
                Outgoing::Deliver { token, runs, .. } => return Ok((token, runs)),
                Outgoing::Ended { refusal, .. }
                | Outgoing::Outdated { refusal, .. }
                | Outgoing::Close(refusal) => return Err(refusal),
            }
        }
    }

    /// The refusal, if its client left too much unread.
    pub fn check(&self) -> Result<(), Refusal> {
        self.outgoing.check()
    }

    /// What the stream has not read yet.
    pub fn unread(&self) -> Arc<Unread> {
        self.outgoing.unread()
    }

    /// What the client is told of it. Nothing may follow an error.
    pub fn answers(
        &self,
        leased: Result<Leased, Refusal>,
    ) -> impl Stream<Item = Result<v1::ConsumeResponse, Status>> + Send + '_ {
        async_stream::stream! {
            let (token, runs) = match leased {
                Ok(leased) => leased,
                Err(refusal) => {
                    yield Err(refusal.into());
                    return;
                }
            };
            for run in runs {
                match self.delivery(token, run).await {
                    Ok(None) => {}
                    Ok(Some(delivery)) => {
                        let response = Some(v1::consume_response::Response::Delivery(delivery));
                        yield Ok(v1::ConsumeResponse { response });
                    }
                    Err(refusal) => {
                        yield Err(refusal.into());
                        return;
                    }
                }
            }
        }
    }

    /// A run of leased messages with their bodies; `None` if they are gone meanwhile, by a purge
    /// or because the lease ended. A body that is to be delivered and cannot be read stops this
    /// node, and ends the stream, so that nothing behind it overtakes: another node's copy is
    /// sound, and the message must not be used up by failing here.
    pub async fn delivery(&self, token: Token, run: Run) -> Result<Option<v1::Delivery>, Refusal> {
        let begun = self.traces.now();
        let frame = match self.queue.frame(run).await {
            Ok(frame) => frame,
            Err(error) => {
                let end = run.first_offset.0 + u64::from(run.count);
                let mut offsets = (run.first_offset.0..end).map(Offset);
                let held = self
                    .queue
                    .handle
                    .read(|queue| offsets.any(|offset| queue.holds(self.session, token, offset)));
                // A replica that is removed has let go of its log already.
                let group = self.queue.handle.id();
                let is_here = self
                    .node
                    .queues
                    .get(group)
                    .is_some_and(|queue| Arc::ptr_eq(&queue, &self.queue));
                if held && !is_here {
                    return Err(Refusal::not_leader(None));
                }
                if held {
                    let (queue, index) = (&self.queue.name, run.index.0);
                    self.node
                        .fail(format!("queue {queue}: read the body at index {index}: {error}"));
                    return Err(Refusal::shutting_down());
                }
                return Ok(None);
            }
        };
        self.traces.delivered(begun, token, run, &frame);
        self.node.counts.delivered.add(run.count.into());
        self.node.counts.delivered_bytes.add(frame.messages.len() as u64);
        let delivery = v1::Delivery {
            token: token.0,
            first_offset: run.first_offset.0,
            attempt: run.attempt,
            frame: Some(frame),
        };
        Ok(Some(delivery))
    }
}
