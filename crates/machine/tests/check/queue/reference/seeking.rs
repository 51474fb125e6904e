//! What the reference makes of consumers that are set to a place.

use quorate_machine::queue::{Again, Cause, Limit, Offset, Properties, Rejection, Reply};

use super::{Message, Reference, State, is_held, lives};

impl Reference {
    pub(super) fn seek(&mut self, to: u64, again: &[Again]) -> Reply {
        if let Some(rejection) = self.seek_refused(to, again) {
            return Reply::Rejected(rejection);
        }
        let now = self.now;
        let mut leaving = Vec::new();
        for (at, message) in self.messages.iter().enumerate().take(to as usize) {
            let waits = match message.state {
                State::Ready => true,
                State::Blocked { due } => due <= now,
                _ => false,
            };
            leaving.extend(waits.then_some(at));
        }
        let named = again.iter().flat_map(|run| run.first.0..run.first.0 + u64::from(run.of.count));
        let coming: Vec<usize> =
            named.map(|at| at as usize).filter(|&at| self.comes_back(at)).collect();
        if let Some(rejection) = self.has_no_room(&leaving, &coming) {
            return Reply::Rejected(rejection);
        }
        self.last_publish_accepted = false;
        leaving.iter().for_each(|&at| self.messages[at].state = State::Acked);
        leaving.iter().for_each(|&at| self.left(at));
        coming.iter().for_each(|&at| self.come_back(at));
        Reply::Sought { again: coming.len() as u64, left: leaving.len() as u64 }
    }

    fn seek_refused(&self, to: u64, again: &[Again]) -> Option<Rejection> {
        let next = self.messages.len() as u64;
        if to > next {
            return Some(Rejection::SeekBeyondEnd { next: Offset(next) });
        }
        let mut at = to;
        for &Again { first: Offset(first), of: Properties { count, .. } } in again {
            if first < at || count == 0 || first.saturating_add(count.into()) > next {
                return Some(Rejection::SeekOutOfOrder { at: Offset(first) });
            }
            at = first + u64::from(count);
        }
        let first = self.first_place();
        if !self.settings.retains() {
            let is_back = to < first || !again.is_empty();
            return is_back.then_some(Rejection::SeekNotRetained { first: Offset(first) });
        }
        (to < first).then_some(Rejection::SeekForgotten { first: Offset(first) })
    }

    /// Nothing that is held is before it.
    pub fn first_place(&self) -> u64 {
        let held = self.first_held();
        if self.settings.retains() { self.gapless_from().min(held) } else { held }
    }

    fn comes_back(&self, at: usize) -> bool {
        let message = &self.messages[at];
        let is_there =
            self.batches[message.batch].kept || self.held_batches().contains(&message.batch);
        let due = self.due_again(message);
        let again = Message { due, ..message.clone() };
        let is_over = self.expires(&again).is_some_and(|expires| expires <= self.now);
        !is_held(message) && is_there && !is_over
    }

    /// When a message was due that was published for later, if the queue has a time to live.
    fn due_again(&self, message: &Message) -> Option<u64> {
        let since = self.batches[message.batch].since.max(self.ttl_since);
        let due = message.of.due.map(|due| due.0).filter(|&due| due > since);
        due.filter(|_| self.settings.ttl_ms.is_some())
    }

    fn has_no_room(&mut self, leaving: &[usize], coming: &[usize]) -> Option<Rejection> {
        if coming.is_empty() {
            return None;
        }
        let all = leaving.iter().chain(coming);
        let before: Vec<_> = all.map(|&at| (at, self.messages[at].state)).collect();
        leaving.iter().for_each(|&at| self.messages[at].state = State::Acked);
        coming.iter().for_each(|&at| self.messages[at].state = State::Ready);
        let held = [
            (Limit::MaxMessages, self.settings.max_messages, self.held()),
            (Limit::MaxBytes, self.settings.max_bytes, self.bytes()),
        ];
        before.into_iter().for_each(|(at, state)| self.messages[at].state = state);
        let over = |(limit, max, held): (Limit, Option<u64>, u64)| {
            max.filter(|&max| held > max).map(|max| Rejection::SeekNoRoom { limit, max, held })
        };
        held.into_iter().find_map(over)
    }

    fn come_back(&mut self, at: usize) {
        let now = self.now;
        let due_again = self.due_again(&self.messages[at]);
        self.came_back[self.messages[at].state.number()] += 1;
        let message = &mut self.messages[at];
        (message.deliveries, message.uncharged) = (0, 0);
        (message.due, message.came_back) = (due_again, true);
        let due = message.of.due.map_or(0, |due| due.0);
        let alone = if due > now { State::Delayed { due } } else { State::Ready };
        let Some(group) = message.group else {
            message.state = alone;
            return;
        };
        let is_out = |other: &Message| {
            other.group == Some(group)
                && lives(other)
                && !matches!(other.state, State::Blocked { .. })
        };
        let head = self.messages.iter().position(is_out);
        self.messages[at].state = match head {
            Some(_) => State::Blocked { due },
            None => alone,
        };
        let Some(head) = head.filter(|&head| head > at && self.messages[head].deliveries == 0)
        else {
            return;
        };
        // One that was never handed out does not come before it.
        let due = match self.messages[head].state {
            State::Delayed { due } => due,
            _ => 0,
        };
        self.messages[head].state = State::Blocked { due };
        *self.happened.entry("stepped back").or_default() += 1;
        self.next_of(group);
    }

    /// A group of which all wait goes on with the first of them that is not too old.
    pub(super) fn next_of(&mut self, group: u64) {
        let of_group = |message: &Message| message.group == Some(group) && lives(message);
        let waits = |message: &Message| matches!(message.state, State::Blocked { .. });
        if self.messages.iter().any(|message| of_group(message) && !waits(message)) {
            return;
        }
        let Some(next) = self.messages.iter().position(of_group) else { return };
        let message = &self.messages[next];
        let State::Blocked { due } = message.state else { return };
        if self.expires(message).is_some_and(|expires| expires <= self.now) {
            return self.die(next, Cause::Expired);
        }
        let is_due = due <= self.now;
        self.messages[next].state = if is_due { State::Ready } else { State::Delayed { due } };
    }
}
