//! Messages that come back: whether it counts, when they are ready again; and what an administrator does.

use quorate_machine::queue::{
    Cause, Control, Rejection, Reply, Run, Session, SettleItem, SettleKind, Target,
};

use super::{Notice, Reason, Reference, State};

impl Reference {
    /// Messages come back whose leases end: by a consumer's death, or because it said so.
    pub(super) fn take_back(&mut self, returning: Vec<usize>, died: bool) {
        for offset in returning {
            let message = &mut self.messages[offset];
            let State::Leased { started, run, .. } = message.state else { continue };
            let too_often = died && message.uncharged == 16;
            let event = if too_often && !started { "charged after all" } else { "uncharged" };
            *self.happened.entry(event).or_default() += u64::from(!started);
            if started || too_often {
                self.charge(offset as u64, run, 0);
            } else {
                message.deliveries -= 1;
                message.uncharged += u32::from(died);
                self.back(offset as u64, State::Ready);
            }
        }
    }

    /// A message comes back after a delivery that counts.
    pub(super) fn charge(&mut self, offset: u64, run: u64, delay_ms: u32) {
        let message = &mut self.messages[offset as usize];
        message.uncharged = 0;
        let max = self.settings.max_deliveries;
        let delay = match u64::from(delay_ms) {
            0 => back_off(&self.settings, self.index, run, message.deliveries),
            own => own,
        };
        *self.happened.entry("backed off").or_default() += u64::from(delay_ms == 0 && delay > 0);
        match delay {
            _ if max > 0 && message.deliveries >= max => {
                self.die(offset as usize, Cause::Exhausted);
            }
            0 => self.back(offset, State::Ready),
            _ => self.back(offset, State::Delayed { due: self.now + delay }),
        }
    }

    /// A message goes back, unless its time is over.
    pub(super) fn back(&mut self, offset: u64, otherwise: State) {
        let expires = self.expires(&self.messages[offset as usize]);
        if expires.is_some_and(|expires| expires <= self.now) {
            self.die(offset as usize, Cause::Expired);
        } else {
            self.messages[offset as usize].state = otherwise;
        }
    }

    /// The run that messages belong to which are delivered now: that of those before them, if these are delivered alike.
    pub(super) fn run_of(&self, to: Session, by: u64, run: &Run) -> u64 {
        let first = run.first_offset.0;
        let before = first.checked_sub(1).map(|before| &self.messages[before as usize]);
        let priority = self.messages[first as usize].priority;
        let before = before.filter(|message| message.priority == priority);
        match before.map(|message| (message.state, message.deliveries)) {
            Some((State::Leased { session, token, run: joined, .. }, deliveries))
                if (session, token, deliveries) == (to, by, run.attempt) =>
            {
                joined
            }
            _ => first,
        }
    }

    /// A settle parts what it is about from the rest of each run, unless it changes nothing.
    pub(super) fn part(&mut self, by: Session, item: &SettleItem) {
        let (first, end) = (item.first.0, item.first.0 + u64::from(item.count));
        for offset in first..self.messages.len() as u64 {
            let State::Leased { session, token, run, started, .. } =
                &mut self.messages[offset as usize].state
            else {
                continue;
            };
            let nothing = item.kind == SettleKind::Start && *started;
            if *session != by || *token != item.token.0 || nothing || item.count == 0 {
                continue;
            }
            if offset < end {
                *run = (*run).max(first);
            } else if *run < end {
                *run = end;
            }
        }
    }

    pub(super) fn start_all(&mut self, of: Session) {
        for message in &mut self.messages {
            if let State::Leased { session, started, .. } = &mut message.state
                && *session == of
            {
                *started = true;
            }
        }
    }

    pub(super) fn control(&mut self, target: &Target, what: Control) -> Reply {
        let consumers = self.consumers.iter();
        let meant = consumers.filter(|(session, consumer)| match target {
            Target::Session(one) => *session == one,
            Target::Named(name) => consumer.name == *name,
            Target::Everyone => true,
        });
        let meant: Vec<Session> = meant.map(|(session, _)| *session).collect();
        let everyone = *target == Target::Everyone;
        if meant.is_empty() && !everyone {
            return Reply::Rejected(Rejection::ConsumerNotFound);
        }
        if everyone && what != Control::Kick {
            self.paused = what == Control::Pause;
        }
        for session in &meant {
            let consumer = self.consumers.get_mut(session).unwrap();
            match what {
                Control::Kick => {
                    let (session, node, attachment) =
                        (*session, consumer.node, consumer.attachment);
                    let reason = Reason::Kicked;
                    self.notices.push(Notice::Closed { session, node, attachment, reason });
                    self.end(session, false);
                }
                _ if everyone => {}
                Control::Pause => {
                    consumer.paused = true;
                    self.leave_line(*session);
                }
                Control::Resume => {
                    consumer.paused = false;
                    self.line_up(*session);
                }
            }
        }
        Reply::Controlled { consumers: meant.len() as u32 }
    }
}

/// Half of the delay, and jitter up to the other half.
fn back_off(
    settings: &quorate_machine::queue::Settings,
    index: u64,
    run: u64,
    deliveries: u32,
) -> u64 {
    if settings.retry_ms == 0 {
        return 0;
    }
    let most = match settings.retry_max_ms {
        0 => settings.retry_ms.max(300_000),
        most => most,
    };
    let mut full = u64::from(settings.retry_ms);
    for _ in 1..deliveries {
        full = (full * 2).min(most.into());
    }
    let full = full.min(most.into());
    let mut hash = 0u64;
    for word in [index, run, deliveries.into()] {
        hash = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
    }
    let fixed = full - full / 2;
    fixed + hash % (full / 2 + 1)
}
