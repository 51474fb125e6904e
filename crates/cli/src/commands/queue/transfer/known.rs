//! Which message is which, and what a run knows of those that it has sent.

use std::collections::BTreeSet;

use quorate_client::Headers;

/// Which message: by its offset, and a digest of it for a queue that was recovered from a replica without all of its log, or
/// deleted and made again, and has another one at the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Which {
    pub(super) offset: u64,
    pub(super) digest: u32,
}

impl Which {
    pub(super) fn of(offset: u64, headers: &Headers, body: &[u8]) -> Self {
        let digest = headers.iter().fold(crc32c::crc32c(body), |digest, (key, value)| {
            crc32c::crc32c_append(crc32c::crc32c_append(digest, key.as_bytes()), &value)
        });
        Self { offset, digest }
    }

    /// What names it for the queue that it goes to.
    pub(super) fn id(self, prefix: &str, group: u64) -> String {
        format!("{prefix}/{group}/{}/{:08x}", self.offset, self.digest)
    }
}

/// What came of a message.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Those that were looked at: one whose lease ended comes again.
    pub(super) seen: BTreeSet<Which>,
    /// Of those, what is in the other queue,
    pub(super) confirmed: BTreeSet<Which>,
    /// and of that, what may be in this one still.
    pub(super) owed: BTreeSet<Which>,
}

impl Known {
    /// It has come; true if it is in the other queue, and has only to be acknowledged.
    pub(super) fn came(&mut self, which: Which) -> bool {
        // Another one that was at its offset is there no more.
        self.owed.retain(|it| it.offset != which.offset || it.digest == which.digest);
        self.confirmed.contains(&which)
    }

    pub(super) fn is_in(&mut self, which: Which, is_acked: bool) {
        self.confirmed.insert(which);
        match is_acked {
            true => self.owed.remove(&which),
            false => self.owed.insert(which),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_same_id_whenever_it_is_sent_back_and_no_other_has_it() {
        let none = Headers::default();
        let id =
            |prefix, group, offset, body: &[u8]| Which::of(offset, &none, body).id(prefix, group);
        let known = id("quorate-redrive", 3, 7, b"body");
        assert_eq!(known, id("quorate-redrive", 3, 7, b"body"));
        assert_ne!(known, id("quorate-move", 3, 7, b"body"));
        for other in [(4, 7, "body"), (3, 8, "body"), (3, 7, "bodies")] {
            let (group, offset, body) = other;
            assert_ne!(known, id("quorate-redrive", group, offset, body.as_bytes()), "{other:?}");
        }
        let longest = id("quorate-redrive", u64::MAX, u64::MAX, &[0; 64]);
        assert!(longest.len() <= 128, "{longest}");
    }

    #[test]
    fn only_the_message_that_is_in_the_other_queue_is_acknowledged_without_being_sent() {
        let none = Headers::default();
        let (sent, other) = (Which::of(7, &none, b"sent"), Which::of(7, &none, b"another"));
        let mut known = Known::default();
        known.is_in(sent, false);
        assert!(known.came(sent) && known.owed.contains(&sent), "its ack is outstanding");
        assert!(!known.came(other), "another message at the offset is not in the other queue");
        assert!(known.owed.is_empty(), "what was at the offset before is there no more");
    }
}
