//! Names of queues, checked once, where they come in.

use std::fmt;

use thiserror::Error;

/// Name of a queue: 1 to [`QueueName::LENGTH_MAX`] characters of `A-Z a-z 0-9 . _ -`, the first a
/// letter or a digit. So it can stand in a path, a metric label and a shell command as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(String);

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QueueNameError {
    /// It has no characters.
    #[error("a queue name must not be empty")]
    Empty,
    /// It has too many.
    #[error("a queue name has at most {max} characters, not {length}", max = QueueName::LENGTH_MAX)]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It begins with punctuation.
    #[error("a queue name begins with a letter or a digit (A-Z, a-z, 0-9), not {found:?}")]
    FirstCharacter {
        /// The character that it begins with.
        found: char,
    },
    /// It has a character that no name may have.
    #[error("a queue name has only A-Z, a-z, 0-9, '.', '_' and '-', not {found:?} at {at}")]
    Character {
        /// The first such character.
        found: char,
        /// Its position in bytes.
        at: usize,
    },
}

impl QueueName {
    /// The longest name.
    pub const LENGTH_MAX: usize = 128;

    /// Checks a name.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn parse(name: &str) -> Result<Self, QueueNameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let first = name.chars().next().ok_or(QueueNameError::Empty)?;
        if name.len() > Self::LENGTH_MAX {
            return Err(QueueNameError::TooLong { length: name.len() });
        }
        if let Some((at, found)) = name.char_indices().find(|&(_, c)| !allowed(c)) {
            return Err(QueueNameError::Character { found, at });
        }
        if !first.is_ascii_alphanumeric() {
            return Err(QueueNameError::FirstCharacter { found: first });
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_the_limits_are_accepted() {
        for name in ["a", "0", "orders.eu-west_1", &"x".repeat(128)] {
            assert_eq!(QueueName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn each_rule_has_its_error() {
        use QueueNameError as E;
        assert_eq!(QueueName::parse(""), Err(E::Empty));
        assert_eq!(QueueName::parse(&"x".repeat(129)), Err(E::TooLong { length: 129 }));
        assert_eq!(QueueName::parse(".a"), Err(E::FirstCharacter { found: '.' }));
        assert_eq!(QueueName::parse("a/b"), Err(E::Character { found: '/', at: 1 }));
        assert_eq!(QueueName::parse("aé"), Err(E::Character { found: 'é', at: 1 }));
    }
}
