//! What an administrator does about consumers: let them wait, let them go on, end them.
//!
//! A consumer that is paused keeps its session and its leases, may settle and extend them, and is handed nothing more.
//! That is part of its session: it lasts while the stream breaks and comes back, and until the session ends. One that
//! receives without a stream has a session only while a call waits or it holds something, so its pause lasts no longer. A
//! queue that is paused hands out nothing to anybody, also to consumers that come later.
//!
//! Where one consumer at a time is active, one that is paused has no place in the line: the next one is active once it
//! holds nothing, and it is behind all others when it is resumed.

use super::Queue;
use super::effect::{CloseReason, Effect};
use super::ids::Session;
use super::reply::{Rejection, Reply};

/// Consumers that an administrator means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One.
    Session(Session),
    /// All that have this name now.
    Named(String),
    /// All, and those that come later.
    Everyone,
}

/// What is to become of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// They are handed nothing more.
    Pause,
    /// They go on. What paused everyone is taken back by resuming everyone, what paused one by resuming that one.
    Resume,
    /// Their sessions end at once, and their leases with them.
    Kick,
}

impl Queue {
    pub(super) fn control(
        &mut self,
        target: &Target,
        what: Control,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let meant: Vec<Session> = match target {
            Target::Session(session) => {
                self.consumers.get(*session).map(|_| *session).into_iter().collect()
            }
            Target::Named(name) => {
                let named = self.consumers.iter().filter(|(_, consumer)| consumer.name == *name);
                named.map(|(session, _)| session).collect()
            }
            Target::Everyone => self.consumers.iter().map(|(session, _)| session).collect(),
        };
        if meant.is_empty() && *target != Target::Everyone {
            return Reply::Rejected(Rejection::ConsumerNotFound);
        }
        match (what, target) {
            (Control::Pause, Target::Everyone) => self.paused = true,
            (Control::Resume, Target::Everyone) => self.paused = false,
            (Control::Pause, _) => meant.iter().for_each(|&s| self.consumers.pause(s, true)),
            (Control::Resume, _) => meant.iter().for_each(|&s| self.consumers.pause(s, false)),
            (Control::Kick, _) => {
                meant.iter().for_each(|&s| self.dismiss(s, CloseReason::Kicked, effects));
            }
        }
        Reply::Controlled { consumers: meant.len() as u32 }
    }
}
