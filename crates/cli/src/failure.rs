//! Why a command ended without success, as it is told to a person and to the shell.
//!
//! Every command returns `Result<(), Failure>`; `main` alone prints it:
//! ```text
//! error: queue "orders" does not exist
//!   reason: QUEUE_NOT_FOUND
//!   try: quorate queue list
//! ```

use std::fmt;
use std::io;

use crate::exit::Exit;

/// A failed command: exit code, what happened, the reason's name, the cure.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    what: String,
    reason: Option<String>,
    cure: Option<String>,
    quiet: bool,
}

impl Failure {
    /// A failure with the given code; `what` is one sentence without "error:".
    pub fn new(exit: Exit, what: impl Into<String>) -> Failure {
        Failure { exit, what: what.into(), reason: None, cure: None, quiet: false }
    }

    /// The command line asked for something that makes no sense.
    pub fn usage(what: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, what)
    }

    /// Names the reason, as in docs/ERRORS.md.
    pub fn reason(mut self, reason: impl Into<String>) -> Failure {
        self.reason = Some(reason.into());
        self
    }

    /// Says what to do about it; the first cure given stands.
    pub fn cure(mut self, cure: impl Into<String>) -> Failure {
        self.cure.get_or_insert_with(|| cure.into());
        self
    }

    /// Puts what was being done in front: "create queue: ...".
    pub fn context(mut self, doing: impl fmt::Display) -> Failure {
        self.what = format!("{doing}: {}", self.what);
        self
    }

    /// The code to end with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Nothing to print: the reader of our output has left, as `head` does.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(reason) = &self.reason {
            write!(f, "\n  reason: {reason}")?;
        }
        if let Some(cure) = &self.cure {
            write!(f, "\n  try: {cure}")?;
        }
        Ok(())
    }
}

/// For standard output and input: a closed pipe is the reader's decision, not an error of ours.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure { quiet: true, ..Failure::new(Exit::Ok, "output closed") };
        }
        Failure::new(Exit::Failed, format!("standard input or output: {error}"))
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        Failure::from(io::Error::from(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_happened_the_reason_and_the_cure() {
        let failure = Failure::new(Exit::NotFound, "queue \"orders\" does not exist")
            .reason("QUEUE_NOT_FOUND")
            .cure("quorate queue list")
            .cure("a later cure does not replace the first");
        assert_eq!(
            failure.to_string(),
            "error: queue \"orders\" does not exist\n  reason: QUEUE_NOT_FOUND\n  try: quorate queue list"
        );
    }

    #[test]
    fn closed_output_is_quiet_and_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.is_quiet());
        assert_eq!(failure.exit(), Exit::Ok);
        let other = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert!(!other.is_quiet());
        assert_eq!(other.exit(), Exit::Failed);
    }
}
