//! Subjects, and the patterns that they are compared with: words with dots between them, as NATS has them.
//!
//! ```text
//! orders.created.eu        a subject
//! orders.*.eu              `*` is any one word
//! orders.>                 `>`, at the end, is one word or more
//! ```

use std::fmt;

use thiserror::Error;

/// What a message that is published to a topic is about: 1 to [`Subject::BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject(String);

/// Subjects that a route takes; as long as a subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(String);

/// Why text is no subject, or no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SubjectError {
    /// It is empty, or there is nothing between two dots, or beside one.
    #[error("a subject is of words with dots between them, none of them empty")]
    EmptyWord,
    /// It is too long.
    #[error("a subject has at most {max} bytes, not {length}", max = Subject::BYTES_MAX)]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// A word has a character that no word may have.
    #[error("a subject has no spaces or control characters, as there is at byte {at}")]
    Character {
        /// Where.
        at: usize,
    },
    /// A subject has a wildcard, or a pattern has one that is not a word of its own, or `>` before its end.
    #[error("`*` and `>` are words of their own, in patterns only, and `>` is the last one")]
    Wildcard,
}

impl Subject {
    /// The longest subject.
    pub const BYTES_MAX: usize = 256;

    /// Checks a subject.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        check(text)?;
        match text.contains(['*', '>']) {
            true => Err(SubjectError::Wildcard),
            false => Ok(Self(text.to_owned())),
        }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Pattern {
    /// Checks a pattern.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        check(text)?;
        let mut words = text.split('.').peekable();
        while let Some(word) = words.next() {
            let is_last = words.peek().is_none();
            let is_wild = word == "*" || (word == ">" && is_last);
            if word.contains(['*', '>']) && !is_wild {
                return Err(SubjectError::Wildcard);
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it takes a subject.
    #[must_use]
    pub fn takes(&self, subject: &Subject) -> bool {
        let mut words = subject.0.split('.');
        for wanted in self.0.split('.') {
            match (wanted, words.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(word)) if wanted == word => {}
                _ => return false,
            }
        }
        words.next().is_none()
    }
}

fn check(text: &str) -> Result<(), SubjectError> {
    if text.len() > Subject::BYTES_MAX {
        return Err(SubjectError::TooLong { length: text.len() });
    }
    if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_whitespace() || c.is_control()) {
        return Err(SubjectError::Character { at });
    }
    match text.split('.').any(str::is_empty) {
        true => Err(SubjectError::EmptyWord),
        false => Ok(()),
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_what_it_says_and_nothing_else() {
        for (pattern, subject, takes) in [
            ("orders", "orders", true),
            ("orders", "orders.eu", false),
            ("orders.eu", "orders", false),
            ("orders.*.eu", "orders.created.eu", true),
            ("orders.*.eu", "orders.eu", false),
            ("orders.*.eu", "orders.a.b.eu", false),
            ("orders.*", "orders.created", true),
            ("orders.*", "orders", false),
            ("orders.>", "orders.created", true),
            ("orders.>", "orders.created.eu", true),
            ("orders.>", "orders", false),
            (">", "orders", true),
            ("*", "orders.eu", false),
            ("*.*", "orders.eu", true),
        ] {
            let (left, right) =
                (Pattern::parse(pattern).unwrap(), Subject::parse(subject).unwrap());
            assert_eq!(left.takes(&right), takes, "{pattern} of {subject}");
        }
    }

    #[test]
    fn each_rule_has_its_error() {
        let long = "a".repeat(Subject::BYTES_MAX + 1);
        for (text, error) in [
            ("", SubjectError::EmptyWord),
            ("a..b", SubjectError::EmptyWord),
            (".a", SubjectError::EmptyWord),
            ("a.", SubjectError::EmptyWord),
            ("a b", SubjectError::Character { at: 1 }),
            ("a\n", SubjectError::Character { at: 1 }),
            (&long, SubjectError::TooLong { length: Subject::BYTES_MAX + 1 }),
        ] {
            assert_eq!(Subject::parse(text), Err(error), "{text:?}");
            assert_eq!(Pattern::parse(text), Err(error), "{text:?}");
        }
        for text in ["a*", "a.*b", ">.a", "a.b>"] {
            assert_eq!(Pattern::parse(text), Err(SubjectError::Wildcard), "{text:?}");
        }
        for text in ["*", "a.*", "a.>"] {
            assert_eq!(Subject::parse(text), Err(SubjectError::Wildcard), "{text:?}");
            assert!(Pattern::parse(text).is_ok(), "{text:?}");
        }
    }
}
