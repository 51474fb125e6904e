//! Receiving: one batch a request, for those who hold no stream.
//!
//! A receiver is a session that wants messages only while a request waits. It is handed messages once, as many as are
//! ready then; or told that there were none when it has waited long enough. What it was handed is leased until it is
//! settled or the lease ends, with no stream to break before; and when it holds nothing and wants nothing, it is gone.

use super::Queue;
use super::command::{Attach, Receive};
use super::effect::{CloseReason, Effect};
use super::reply::{Rejection, Reply};

impl Queue {
    pub(super) fn receive(&mut self, receive: Receive) -> Reply {
        let prefetch = receive.count;
        if !(1..=Attach::PREFETCH_MAX).contains(&prefetch) {
            return Reply::Rejected(Rejection::InvalidPrefetch { prefetch });
        }
        let known = self.consumers.get(receive.session);
        if known.is_some_and(|consumer| consumer.receiver.is_none()) {
            return Reply::Rejected(Rejection::SessionHasStream);
        }
        let resumed = known.is_some();
        let tags = match self.admit_session(receive.session, &receive.filter) {
            Ok(tags) => tags,
            Err(rejection) => return Reply::Rejected(rejection),
        };
        let until = self.now.plus(receive.wait_ms.into());
        let attachment = self.consumers.receive(receive, tags, until);
        Reply::Attached { attachment, resumed }
    }

    /// Answers those who have waited long enough. Comes after handing out, so that who does not wait is handed what
    /// is there. Whether there were any.
    pub(super) fn end_waits(&mut self, effects: &mut Vec<Effect>) -> bool {
        let before = effects.len();
        while let Some(session) = self.consumers.wait_over(self.now) {
            if let Some(consumer) = self.consumers.get(session) {
                let (node, attachment) = (consumer.node, consumer.attachment);
                let reason = CloseReason::WaitOver;
                effects.push(Effect::Closed { session, node, attachment, reason });
            }
            self.consumers.stop_waiting(session);
        }
        effects.len() > before
    }
}
