//! Patterns of names: `*` stands for any characters, also for none, `?` for one.

use crate::refusal::Refusal;

/// Most bytes of a pattern.
const BYTES_MAX: usize = 256;

/// What names are chosen by.
pub(super) struct Pattern<'a>(&'a str);

impl<'a> Pattern<'a> {
    /// The pattern; an empty one matches every name.
    pub fn of(pattern: &'a str) -> Result<Self, Refusal> {
        match pattern.len() {
            0 => Ok(Self("*")),
            1..=BYTES_MAX => Ok(Self(pattern)),
            bytes => Err(Refusal::invalid(format!(
                "a pattern has at most {BYTES_MAX} bytes, not {bytes}"
            ))),
        }
    }

    /// Whether all of a name matches.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut place) = (0, 0);
        // Where the last `*` is, and how much of the name it stands for.
        let mut star: Option<(usize, usize)> = None;
        while place < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, place));
                    at += 1;
                }
                Some(&byte) if byte == b'?' || byte == name[place] => {
                    at += 1;
                    place += 1;
                }
                _ => {
                    let Some((of, upto)) = star else { return false };
                    star = Some((of, upto + 1));
                    (at, place) = (of + 1, upto + 1);
                }
            }
        }
        pattern[at..].iter().all(|&byte| byte == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything_and_question_marks_for_one() {
        let matches = |pattern, name| Pattern::of(pattern).unwrap().matches(name);
        for (pattern, name) in [
            ("", "orders"),
            ("orders", "orders"),
            ("ord*", "orders"),
            ("*.eu", "mail.eu"),
            ("*a*b*", "xxaxxbab"),
            ("mail.??-1", "mail.eu-1"),
            ("**", "x"),
            ("a*ab", "aaab"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("orders", "orders2"),
            ("ord", "orders"),
            ("?", "ab"),
            ("*.eu", "mail.eu2"),
            ("a*b", "ba"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert!(Pattern::of(&"x".repeat(257)).is_err());
    }
}
