//! Bugs that can be planted, to see that the simulation catches them.
//!
//! They are only there in builds with the feature `planted`; in all others [`is`] is false, and the
//! compiler removes what asks it. One at a time, for the whole process.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// Entries count as durable before they are written.
    SkipFsync = 1,
    /// A leader takes what it has sent for what a follower has written.
    ConfirmBeforeQuorum,
    /// A vote is not kept over a restart.
    ForgetVote,
    /// A queue that was empty when it was restored numbers its messages from 0.
    ReuseOffsets,
    /// A settle is not compared with the token of the lease.
    SkipFencing,
    /// A snapshot does not hold the producers' sequences.
    LoseDeduplication,
    /// A checkpoint says that it stands one entry before where it does.
    ApplyTwice,
    /// The log lets go of an entry that a checkpoint refers to.
    DropLiveBody,
    /// A leader delivers what it has appended and not committed.
    DeliverUncommitted,
    /// A lease ends at half its time.
    ExpireEarly,
    /// A restarted leader leads on without an election.
    WrongLeaderRestore,
    /// A replica that left its node and came back forgets how much it had.
    ForgetWhatItHad,
    /// What a slot holds back is let go of all the same.
    TrimPastSlots,
    /// A message that is to be delivered again does not hold back those behind it.
    OvertakeInGroup,
    /// The queue's time to live is over at half its time.
    ExpireTtlEarly,
    /// A message that is given back with a delay waits half of it.
    RetryEarly,
    /// Messages without a priority are handed out first.
    IgnorePriority,
    /// One message more makes room than has to.
    DropOneMore,
    /// A purge before an offset takes the message there too.
    PurgeOneMore,
    /// A message id is forgotten after a second.
    ForgetMessageIds,
    /// A batch enters whatever offset it expects.
    IgnoreExpectedOffset,
    /// What has expired is dead as if it had been rejected.
    MistakeCause,
    /// A dead-letter queue takes in again what it has.
    MoveDeadTwice,
    /// Dead messages leave though the dead-letter queue did not answer.
    LetGoOfDead,
    /// A topic brings a queue all but the first message of its part.
    TearTopicPart,
    /// Those who stand by are handed messages too.
    ServeStandby,
    /// Who has a filter is handed what it does not filter for.
    IgnoreFilter,
    /// A seek brings back all that it names but the last one.
    SeekOneLess,
    /// A seek brings back the message before the first that it names, too.
    SeekOneMore,
    /// A seek takes the message at its place for one before it.
    SkipOneMore,
    /// Messages come back by a seek without the key that they were published with.
    SeekWithoutKeys,
    /// A node that is asked to publish by a key takes another shard than clients do.
    StrayFromShard,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 32] = [
        Bug::SkipFsync,
        Bug::ConfirmBeforeQuorum,
        Bug::ForgetVote,
        Bug::ReuseOffsets,
        Bug::SkipFencing,
        Bug::LoseDeduplication,
        Bug::ApplyTwice,
        Bug::DropLiveBody,
        Bug::DeliverUncommitted,
        Bug::ExpireEarly,
        Bug::WrongLeaderRestore,
        Bug::ForgetWhatItHad,
        Bug::TrimPastSlots,
        Bug::OvertakeInGroup,
        Bug::ExpireTtlEarly,
        Bug::RetryEarly,
        Bug::IgnorePriority,
        Bug::DropOneMore,
        Bug::PurgeOneMore,
        Bug::ForgetMessageIds,
        Bug::IgnoreExpectedOffset,
        Bug::MistakeCause,
        Bug::MoveDeadTwice,
        Bug::LetGoOfDead,
        Bug::TearTopicPart,
        Bug::ServeStandby,
        Bug::IgnoreFilter,
        Bug::SeekOneLess,
        Bug::SeekOneMore,
        Bug::SkipOneMore,
        Bug::SeekWithoutKeys,
        Bug::StrayFromShard,
    ];

    /// As the command line names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Bug::SkipFsync => "skip_fsync",
            Bug::ConfirmBeforeQuorum => "confirm_before_quorum",
            Bug::ForgetVote => "forget_vote",
            Bug::ReuseOffsets => "reuse_offsets",
            Bug::SkipFencing => "skip_fencing",
            Bug::LoseDeduplication => "lose_deduplication",
            Bug::ApplyTwice => "apply_twice",
            Bug::DropLiveBody => "drop_live_body",
            Bug::DeliverUncommitted => "deliver_uncommitted",
            Bug::ExpireEarly => "expire_early",
            Bug::WrongLeaderRestore => "wrong_leader_restore",
            Bug::ForgetWhatItHad => "forget_what_it_had",
            Bug::TrimPastSlots => "trim_past_slots",
            Bug::OvertakeInGroup => "overtake_in_group",
            Bug::ExpireTtlEarly => "expire_ttl_early",
            Bug::RetryEarly => "retry_early",
            Bug::IgnorePriority => "ignore_priority",
            Bug::DropOneMore => "drop_one_more",
            Bug::PurgeOneMore => "purge_one_more",
            Bug::ForgetMessageIds => "forget_message_ids",
            Bug::IgnoreExpectedOffset => "ignore_expected_offset",
            Bug::MistakeCause => "mistake_cause",
            Bug::MoveDeadTwice => "move_dead_twice",
            Bug::LetGoOfDead => "let_go_of_dead",
            Bug::TearTopicPart => "tear_topic_part",
            Bug::ServeStandby => "serve_standby",
            Bug::IgnoreFilter => "ignore_filter",
            Bug::SeekOneLess => "seek_one_less",
            Bug::SeekOneMore => "seek_one_more",
            Bug::SkipOneMore => "skip_one_more",
            Bug::SeekWithoutKeys => "seek_without_keys",
            Bug::StrayFromShard => "stray_from_shard",
        }
    }
}

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Whether `bug` is planted.
#[cfg(feature = "planted")]
#[must_use]
pub fn is(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether `bug` is planted: never, in this build.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}

/// Plants a bug in place of the one before, or none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8), std::sync::atomic::Ordering::Relaxed);
}
