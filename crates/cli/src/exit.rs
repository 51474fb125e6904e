//! The exit codes of `quorate`: the only place that says what each number means.
//!
//! Scripts rely on these, so a code never changes its meaning.

use std::process::ExitCode;

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Ok,
    /// 1: tried and failed, for a reason that has no code of its own. `demo`: a confirmed message is missing.
    Failed,
    /// 2: the command line is wrong; nothing was tried. clap ends with the same code.
    Usage,
    /// 3: a node could not start: configuration, data directory or listen address. `log`: the data directory is in
    /// use or cannot be opened.
    CannotStart,
    /// 4: no node answered in time, or the cluster has no majority.
    Unavailable,
    /// 5: what was named does not exist.
    NotFound,
    /// 6: the cluster understood and refused: queue full, exists with other settings, message too large, and so on.
    Refused,
    /// 7: `cluster recover` without `--accept-loss`: it has shown what would be lost, and changed nothing.
    LossNotAccepted,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::CannotStart => 3,
            Exit::Unavailable => 4,
            Exit::NotFound => 5,
            Exit::Refused => 6,
            Exit::LossNotAccepted => 7,
        }
    }

    /// The code for an error reason as in `google.rpc.ErrorInfo.reason`.
    pub fn of_reason(reason: &str) -> Exit {
        match reason {
            "QUEUE_NOT_FOUND" | "SLOT_NOT_FOUND" | "TOPIC_NOT_FOUND" | "CONSUMER_NOT_FOUND" => {
                Exit::NotFound
            }
            "NO_QUORUM" | "NOT_LEADER" | "SHUTTING_DOWN" | "STALENESS_EXCEEDED" | "NO_SURVIVOR" => {
                Exit::Unavailable
            }
            "QUEUE_EXISTS"
            | "QUEUE_NOT_EMPTY"
            | "DEAD_LETTER_CYCLE"
            | "IS_DEAD_LETTER_QUEUE"
            | "SHARDED_QUEUE"
            | "IS_SHARD"
            | "SHARDS_CHANGED"
            | "QUEUE_FULL"
            | "PRIORITIES_OFF"
            | "NOT_ENOUGH_IN_SYNC"
            | "DISK_FULL"
            | "MESSAGE_TOO_LARGE"
            | "INVALID_ARGUMENT"
            | "NOT_ENOUGH_NODES"
            | "QUOTA_EXCEEDED"
            | "RESOURCE_EXHAUSTED"
            | "SLOT_EXISTS"
            | "TOPIC_CHANGED"
            | "NO_ROUTE"
            | "SLOT_LOST"
            | "SLOT_MOVED"
            | "CONSUMER_KICKED"
            | "FILTER_CHANGED"
            | "MESSAGE_ID_CONFLICT"
            | "UNEXPECTED_OFFSET"
            | "OFFSET_GONE"
            | "NOT_RETAINED"
            | "HAS_QUORUM"
            | "RECOVERING"
            | "UNSUPPORTED_VERSION" => Exit::Refused,
            _ => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn codes_are_what_scripts_were_promised() {
        let all = [
            Exit::Ok,
            Exit::Failed,
            Exit::Usage,
            Exit::CannotStart,
            Exit::Unavailable,
            Exit::NotFound,
            Exit::Refused,
            Exit::LossNotAccepted,
        ];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn reasons_map_to_the_code_a_script_would_branch_on() {
        assert_eq!(Exit::of_reason("QUEUE_NOT_FOUND"), Exit::NotFound);
        assert_eq!(Exit::of_reason("NO_QUORUM"), Exit::Unavailable);
        assert_eq!(Exit::of_reason("SLOT_NOT_FOUND"), Exit::NotFound);
        assert_eq!(Exit::of_reason("QUEUE_FULL"), Exit::Refused);
        assert_eq!(Exit::of_reason("SLOT_LOST"), Exit::Refused);
        assert_eq!(Exit::of_reason("HAS_QUORUM"), Exit::Refused);
        assert_eq!(Exit::of_reason("NO_SURVIVOR"), Exit::Unavailable);
        assert_eq!(Exit::of_reason("SOMETHING_NEW"), Exit::Failed);
    }
}
