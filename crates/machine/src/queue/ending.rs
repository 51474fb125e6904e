//! How messages end that nobody acknowledged.

use super::Queue;
use super::ready::Span;

/// Why a message ended without an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A consumer rejected it.
    Rejected,
    /// It was delivered often enough.
    Exhausted,
    /// Nobody took it in time.
    Expired,
    /// It made room for newer ones.
    Dropped,
}

impl Queue {
    /// Messages that are in no place any more leave without an ack.
    pub(super) fn end_unacked(&mut self, span: Span, cause: Cause) {
        self.leave(span);
        let count = match cause {
            Cause::Rejected => &mut self.gone.rejected,
            Cause::Exhausted => &mut self.gone.exhausted,
            Cause::Expired => &mut self.gone.expired,
            Cause::Dropped => &mut self.gone.dropped,
        };
        *count += span.count;
    }

    pub(super) fn drop_expired(&mut self, span: Span) {
        self.end_unacked(span, Cause::Expired);
    }
}
