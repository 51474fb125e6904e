//! Sessions come, break, come back and end.

use super::Queue;
use super::command::Attach;
use super::consumers::CONSUMERS_MAX;
use super::effect::{CloseReason, Effect};
use super::ids::{Attachment, Session};
use super::reply::{Rejection, Reply};
use super::retry::Ending;

impl Queue {
    /// A session that comes back keeps its leases, and is handed them again: its client may never
    /// have received them. The token is the same, so the client can tell.
    pub(super) fn attach(&mut self, attach: Attach, effects: &mut Vec<Effect>) -> Reply {
        let prefetch = attach.prefetch;
        if !(1..=Attach::PREFETCH_MAX).contains(&prefetch) {
            return Reply::Rejected(Rejection::InvalidPrefetch { prefetch });
        }
        let (session, node, tells) = (attach.session, attach.node, attach.tells_starts);
        let is_new = self.consumers.get(session).is_none();
        if is_new && self.consumers.len() >= CONSUMERS_MAX as usize {
            return Reply::Rejected(Rejection::TooManyConsumers { limit: CONSUMERS_MAX });
        }
        let (attachment, before) = self.consumers.attach(attach);
        if let Some(before) = before.filter(|before| before.node != node) {
            let (node, attachment) = (before.node, before.attachment);
            effects.push(Effect::Closed { session, node, attachment, reason: CloseReason::Moved });
        }
        if !tells {
            self.leased.start_all(session);
        }
        self.deliver_again(session, node, effects);
        Reply::Attached { attachment, resumed: !is_new }
    }

    pub(super) fn detach(&mut self, session: Session, attachment: Attachment) -> Reply {
        if self.is_present(session, attachment) {
            self.end(session, Ending::Told);
        }
        Reply::Done
    }

    pub(super) fn disconnect(&mut self, session: Session, attachment: Attachment) -> Reply {
        if self.is_present(session, attachment) {
            let until = self.now.plus(self.settings.session_grace_ms.into());
            self.consumers.disconnect(session, until);
        }
        Reply::Done
    }

    pub(super) fn leader_changed(&mut self) -> Reply {
        let until = self.now.plus(self.settings.session_grace_ms.into());
        self.consumers.disconnect_all(until);
        Reply::Done
    }

    /// Ends the sessions whose grace period is over.
    pub(super) fn end_graces(&mut self, effects: &mut Vec<Effect>) {
        while let Some(session) = self.consumers.grace_over(self.now) {
            if let Some(consumer) = self.consumers.get(session) {
                let (node, attachment) = (consumer.node, consumer.attachment);
                let reason = CloseReason::GraceExpired;
                effects.push(Effect::Closed { session, node, attachment, reason });
            }
            self.end(session, Ending::Death);
        }
    }

    /// Whether an attachment is the session's present one.
    fn is_present(&self, session: Session, attachment: Attachment) -> bool {
        self.consumers.get(session).is_some_and(|consumer| consumer.attachment == attachment)
    }

    pub(super) fn end(&mut self, session: Session, ending: Ending) {
        self.consumers.remove(session);
        while let Some((span, started)) = self.leased.pop_of(session) {
            self.take_back(span, started, ending);
        }
    }
}
