//! The amounts at which a group cuts entries, makes checkpoints and lets go of its log.

use std::time::Duration;

/// The defaults suit nodes in production; a simulated world, which handles kilobytes, makes all of
/// them small, so that checkpoints, purges and snapshots happen there too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volumes {
    /// Bytes after which an entry takes no further command. A single larger command is an entry of
    /// its own.
    pub entry_bytes: usize,
    /// A checkpoint is due after so many bytes of entries,
    pub checkpoint_bytes: u64,
    /// or so many entries,
    pub checkpoint_entries: u64,
    /// or so long, if anything was applied since the last. Of all three up to three eighths more: nodes with neighbouring ids
    /// differ in that.
    pub checkpoint_age: Duration,
    /// Entries kept behind the last checkpoint for followers,
    pub kept_entries: u64,
    /// unless they have more than so many bytes.
    pub kept_bytes: u64,
    /// Bodies of a snapshot go to a replica at this rate at most; 0 = as fast as they can.
    pub snapshot_bytes_per_second: u64,
}

impl Volumes {
    /// For this node: the replicas of a group do not all make their checkpoints at once, when a majority of them would be busy.
    pub(crate) fn of_node(self, node: u64) -> Self {
        let later = |volume: u64| volume + volume / 8 * (node % 4);
        let age = self.checkpoint_age;
        Self {
            checkpoint_bytes: later(self.checkpoint_bytes),
            checkpoint_entries: later(self.checkpoint_entries),
            checkpoint_age: age + age / 8 * (node % 4) as u32,
            ..self
        }
    }
}

impl Default for Volumes {
    fn default() -> Self {
        Self {
            entry_bytes: 1 << 20,
            checkpoint_bytes: 16 << 20,
            checkpoint_entries: 20_000,
            checkpoint_age: Duration::from_secs(20),
            kept_entries: 10_000,
            kept_bytes: 8 << 20,
            snapshot_bytes_per_second: 32 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_nodes_make_their_checkpoints_at_different_times_and_none_sooner_than_is_set() {
        let set = Volumes::default();
        let of = [1, 2, 3].map(|node| set.of_node(node));
        for pair in of.windows(2) {
            assert!(pair[0].checkpoint_bytes < pair[1].checkpoint_bytes);
            assert!(pair[0].checkpoint_entries < pair[1].checkpoint_entries);
            assert!(pair[0].checkpoint_age < pair[1].checkpoint_age);
        }
        assert!(set.checkpoint_entries < of[0].checkpoint_entries);
        assert!(of[2].checkpoint_entries < set.checkpoint_entries * 3 / 2);
        assert_eq!(set.of_node(4), set);
    }
}
