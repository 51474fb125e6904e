//! Names of queues, checked once, where they come in.

use std::fmt;

use thiserror::Error;

/// Name of a queue: 1 to [`QueueName::LENGTH_MAX`] characters of `A-Z a-z 0-9 . _ -`, the first a
/// letter or a digit. So it can stand in a path, a metric label and a shell command as it is.
///
/// A shard of the sharded queue `NAME` is named `NAME@NUMBER`. No other name has an `@`, so none clashes with one.
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
    /// It names a shard, and not as shards are named.
    #[error("only a shard's name has an '@': behind it stands its number, as in orders@3")]
    Shard,
}

impl QueueName {
    /// The longest name.
    pub const LENGTH_MAX: usize = 128;

    /// Stands between the name of a sharded queue and the number of its shard.
    const SHARD: char = '@';

    /// Checks a name.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn parse(name: &str) -> Result<Self, QueueNameError> {
        match name.split_once(Self::SHARD) {
            None => Self::parse_whole(name),
            Some(_) if name.len() > Self::LENGTH_MAX => {
                Err(QueueNameError::TooLong { length: name.len() })
            }
            Some((whole, number)) => {
                Self::parse_whole(whole)?;
                // One number is written in one way.
                let known = number.parse::<u16>().is_ok_and(|value| value.to_string() == number);
                if known { Ok(Self(name.to_owned())) } else { Err(QueueNameError::Shard) }
            }
        }
    }

    fn parse_whole(name: &str) -> Result<Self, QueueNameError> {
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

    /// The name of a shard of this queue; none if it would be too long, or if this is a shard already.
    #[must_use]
    pub fn shard(&self, number: u16) -> Option<Self> {
        let name = format!("{}{}{number}", self.0, Self::SHARD);
        (!self.is_shard() && name.len() <= Self::LENGTH_MAX).then_some(Self(name))
    }

    /// Whether a shard has this name.
    #[must_use]
    pub fn is_shard(&self) -> bool {
        self.0.contains(Self::SHARD)
    }

    /// Of a shard, the name of its sharded queue, and its number.
    #[must_use]
    pub fn sharded(&self) -> Option<(Self, u16)> {
        let (whole, number) = self.0.split_once(Self::SHARD)?;
        Some((Self(whole.to_owned()), number.parse().ok()?))
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
        for name in ["a@", "a@x", "a@01", "a@+1", "a@70000", "a@1@2", "a@-1"] {
            assert_eq!(QueueName::parse(name), Err(E::Shard), "{name}");
        }
        assert_eq!(QueueName::parse("@1"), Err(E::Empty));
        assert_eq!(
            QueueName::parse(&format!("{}@1", "x".repeat(127))),
            Err(E::TooLong { length: 129 })
        );
    }

    #[test]
    fn a_shard_is_named_after_its_queue_and_by_nobody_else() {
        let whole = QueueName::parse("orders").unwrap();
        let shard = whole.shard(63).unwrap();
        assert_eq!((shard.as_str(), shard.is_shard()), ("orders@63", true));
        assert_eq!(QueueName::parse("orders@63"), Ok(shard.clone()));
        assert_eq!(shard.sharded(), Some((whole.clone(), 63)));
        assert_eq!(shard.shard(1), None);
        assert_eq!((whole.is_shard(), whole.sharded()), (false, None));
        let longest = QueueName::parse(&"x".repeat(125)).unwrap();
        assert!(longest.shard(63).is_some() && longest.shard(100).is_none());
    }
}
