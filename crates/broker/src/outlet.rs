//! The way from the machine's effects to one consumer's stream.
//!
//! ```text
//!  effects ──► Outlet ── at most UNREAD_PREFETCHES × prefetch messages ──► Outflow ──► the stream
//! ```
//! The machine leases a session no more than its prefetch, but leases of what is not read run out and the messages are
//! leased again: a client that keeps its stream open and does not read would have them pile up for ever. Such a stream is
//! overrun: it is given nothing any more, and the session is disconnected at once, as the stream itself does not get to
//! its end before its client reads. What an attach repeats comes on top, however much that is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use quorate_machine::queue::{Attachment, Run, Token};
use tokio::sync::{Notify, mpsc};

use crate::refusal::Refusal;

/// How many times its prefetch a stream may leave unread.
const UNREAD_PREFETCHES: u64 = 4;

/// What a consumer's stream is told.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Messages were leased to it by the entry at `index`, or are repeated by it; none if it has waited in vain.
    Deliver { index: u64, token: Token, runs: Vec<Run> },
    /// The session, as it was attached then, has been ended by the entry at `index`.
    Ended { index: u64, attachment: Attachment, refusal: Refusal },
    /// The session, as it was attached then, goes by settings that the entry at `index` has changed.
    Outdated { index: u64, attachment: Attachment, refusal: Refusal },
    /// The stream ends; the client attaches again where the refusal says.
    Close(Refusal),
}

impl Outgoing {
    fn messages(&self) -> u64 {
        match self {
            Outgoing::Deliver { runs, .. } => runs.iter().map(|run| u64::from(run.count)).sum(),
            _ => 0,
        }
    }
}

/// What a stream has not read yet, for both ends of it.
#[derive(Debug)]
pub(crate) struct Unread {
    messages: AtomicU64,
    prefetch: u32,
    /// No limit until the session is attached.
    limit: AtomicU64,
    /// Which attachment it is; none as long as it is not attached, or if only the leader knows.
    attachment: OnceLock<Attachment>,
    is_overrun: AtomicBool,
    overrun: Notify,
}

impl Unread {
    /// Waits until more is unread than may be. One task at a time.
    pub(crate) async fn overrun(&self) {
        while !self.is_overrun.load(Ordering::Acquire) {
            self.overrun.notified().await;
        }
    }
}

/// The sending end.
pub(crate) struct Outlet {
    sender: mpsc::UnboundedSender<Outgoing>,
    unread: Arc<Unread>,
}

/// The receiving end.
pub(crate) struct Outflow {
    receiver: mpsc::UnboundedReceiver<Outgoing>,
    unread: Arc<Unread>,
}

/// More is unread than may be: the outlet is to be given up, and the session disconnected.
#[derive(Debug)]
pub(crate) struct Overrun {
    pub(crate) attachment: Option<Attachment>,
}

/// Both ends, for a session with this prefetch.
pub(crate) fn outlet(prefetch: u32) -> (Outlet, Outflow) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let unread = Arc::new(Unread {
        messages: AtomicU64::new(0),
        prefetch,
        limit: AtomicU64::new(u64::MAX),
        attachment: OnceLock::new(),
        is_overrun: AtomicBool::new(false),
        overrun: Notify::new(),
    });
    (Outlet { sender, unread: unread.clone() }, Outflow { receiver, unread })
}

impl Outlet {
    /// Tells the stream.
    pub(crate) fn tell(&self, outgoing: Outgoing) -> Result<(), Overrun> {
        let more = outgoing.messages();
        let unread = self.unread.messages.fetch_add(more, Ordering::AcqRel) + more;
        if unread > self.unread.limit.load(Ordering::Acquire) {
            self.unread.is_overrun.store(true, Ordering::Release);
            self.unread.overrun.notify_one();
            return Err(Overrun { attachment: self.unread.attachment.get().copied() });
        }
        // Whoever ended the stream forgets the outlet, too.
        let _ = self.sender.send(outgoing);
        Ok(())
    }
}

impl Outflow {
    /// What comes next; a refusal if nothing does. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Outgoing, Refusal> {
        self.check()?;
        match self.receiver.recv().await {
            Some(outgoing) => {
                self.unread.messages.fetch_sub(outgoing.messages(), Ordering::AcqRel);
                Ok(outgoing)
            }
            None => self.check().and(Err(Refusal::not_leader(None))),
        }
    }

    /// The session was attached, as what is known here or not.
    pub(crate) fn attached(&self, attachment: Option<Attachment>) {
        let unread = &self.unread;
        if let Some(attachment) = attachment {
            let _ = unread.attachment.set(attachment);
        }
        let repeated = unread.messages.load(Ordering::Acquire);
        let limit = repeated + UNREAD_PREFETCHES * u64::from(unread.prefetch);
        // Behind the attachment: who is over the limit sees that, too.
        unread.limit.store(limit, Ordering::Release);
    }

    /// The refusal, if the stream is overrun.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match self.unread.is_overrun.load(Ordering::Acquire) {
            true => Err(Refusal::not_read()),
            false => Ok(()),
        }
    }

    pub(crate) fn unread(&self) -> Arc<Unread> {
        self.unread.clone()
    }
}

#[cfg(test)]
mod tests {
    use quorate_machine::LogIndex;
    use quorate_machine::queue::Offset;
    use quorate_proto::reason;

    use super::*;

    fn leased(count: u32) -> Outgoing {
        let (first_offset, index) = (Offset(0), LogIndex(1));
        let run = Run { first_offset, count, attempt: 1, index, ordinal: 0, skip: 0 };
        Outgoing::Deliver { index: 1, token: Token(1), runs: vec![run] }
    }

    #[tokio::test]
    async fn a_stream_that_reads_is_never_overrun() {
        let (outlet, mut outflow) = outlet(10);
        outflow.attached(Some(Attachment(7)));
        for _ in 0..100 {
            outlet.tell(leased(10)).unwrap();
            assert!(matches!(outflow.next().await, Ok(Outgoing::Deliver { .. })));
        }
    }

    #[tokio::test]
    async fn what_is_not_read_has_a_bound_and_its_owner_is_told() {
        let (outlet, mut outflow) = outlet(10);
        let unread = outflow.unread();
        outflow.attached(Some(Attachment(7)));
        for _ in 0..4 {
            outlet.tell(leased(10)).unwrap();
        }
        let overrun = outlet.tell(leased(1)).unwrap_err();
        assert_eq!(overrun.attachment, Some(Attachment(7)));
        unread.overrun().await;
        assert_eq!(outflow.next().await.unwrap_err().reason, reason::SESSION_CLOSED);
    }

    #[tokio::test]
    async fn what_an_attach_repeats_is_never_too_much() {
        let (outlet, mut outflow) = outlet(10);
        outlet.tell(leased(1_000)).unwrap();
        outflow.attached(Some(Attachment(7)));
        outlet.tell(leased(40)).unwrap();
        assert!(matches!(outflow.next().await, Ok(Outgoing::Deliver { .. })));
        assert!(outflow.check().is_ok());
    }
}
