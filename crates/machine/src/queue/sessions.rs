//! Sessions come, break, come back and end.

use super::Queue;
use super::command::Attach;
use super::consumers::{CONSUMERS_MAX, FILTERED_MAX};
use super::effect::{CloseReason, Effect};
use super::ids::{Attachment, Session};
use super::reply::{Rejection, Reply};
use super::retry::Ending;
use super::settings::Settings;
use super::tags::tag_of;

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
        let tags = match self.admit_session(session, &attach.filter) {
            Ok(tags) => tags,
            Err(rejection) => return Reply::Rejected(rejection),
        };
        let (attachment, before) = self.consumers.attach(attach, tags);
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

    /// The tags that a session asks for, if there is room for it.
    pub(super) fn admit_session(
        &self,
        session: Session,
        filter: &[String],
    ) -> Result<Vec<u64>, Rejection> {
        let known = self.consumers.get(session);
        if known.is_none() && self.consumers.len() >= CONSUMERS_MAX as usize {
            return Err(Rejection::TooManyConsumers { limit: CONSUMERS_MAX });
        }
        if filter.is_empty() {
            return Ok(Vec::new());
        }
        let is_short = |value: &String| value.len() <= Attach::FILTER_VALUE_BYTES_MAX;
        if filter.len() > Attach::FILTER_VALUES_MAX || !filter.iter().all(is_short) {
            return Err(Rejection::InvalidFilter);
        }
        let is_more = known.is_none_or(|consumer| consumer.filter.is_empty());
        if is_more && self.consumers.filtered() >= FILTERED_MAX as usize {
            return Err(Rejection::TooManyFilters { limit: FILTERED_MAX });
        }
        let header = self.settings.filter_header.as_ref().ok_or(Rejection::NoFilter)?;
        Ok(filter.iter().map(|value| tag_of(header, value.as_bytes())).collect())
    }

    /// The header to filter by is another one: no filter says any more what its consumer wants.
    pub(super) fn end_filtered(&mut self, effects: &mut Vec<Effect>) {
        let filtered = self.consumers.iter().filter(|(_, consumer)| !consumer.filter.is_empty());
        for session in filtered.map(|(session, _)| session).collect::<Vec<_>>() {
            self.dismiss(session, CloseReason::FilterChanged, effects);
        }
    }

    /// Closes the streams of those who go by what has changed since they attached: how long a lease is, unless they said so
    /// themselves, and whether to tell what they begin.
    pub(super) fn close_outdated(&self, before: &Settings, effects: &mut Vec<Effect>) {
        let is_lease_new = before.lease_ms != self.settings.lease_ms;
        let is_charge_new = before.charges() != self.settings.charges();
        if !is_lease_new && !is_charge_new {
            return;
        }
        for (session, consumer) in self.consumers.iter() {
            let has_stream = consumer.receiver.is_none() && consumer.grace.is_none();
            if has_stream && (is_charge_new || consumer.lease_ms.is_none()) {
                let (node, attachment) = (consumer.node, consumer.attachment);
                let reason = CloseReason::SettingsChanged;
                effects.push(Effect::Closed { session, node, attachment, reason });
            }
        }
    }

    /// Ends a session that did not ask for it.
    pub(super) fn dismiss(
        &mut self,
        session: Session,
        reason: CloseReason,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(consumer) = self.consumers.get(session) {
            let (node, attachment) = (consumer.node, consumer.attachment);
            effects.push(Effect::Closed { session, node, attachment, reason });
        }
        self.end(session, Ending::Told);
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
