//! The language of the scenario scripts: what both machines' scripts have in common.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use quorate_machine::{At, EntryBuilder, Machine, Millis, decode_entry};

pub mod catalog;
mod explain;
pub mod queue;

/// Runs the lines of a script.
pub trait Runner {
    /// Runs one line and appends what it gave.
    fn line(&mut self, line: &str, output: &mut String);
}

/// A command line: a verb, words, and `key=value` pairs.
pub struct Words<'a> {
    pub verb: &'a str,
    words: Vec<&'a str>,
    pairs: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    pub fn parse(line: &'a str) -> Self {
        let mut tokens = line.split_whitespace();
        let verb = tokens.next().unwrap_or_default();
        let (pairs, words): (Vec<_>, Vec<_>) = tokens.partition(|token| token.contains('='));
        let pairs = pairs.into_iter().filter_map(|pair| pair.split_once('=')).collect();
        Self { verb, words, pairs }
    }

    pub fn word(&self, at: usize) -> &'a str {
        self.words.get(at).copied().unwrap_or_else(|| panic!("{}: word {at} missing", self.verb))
    }

    pub fn all(&self) -> &[&'a str] {
        &self.words
    }

    pub fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    pub fn number(&self, at: usize) -> u64 {
        self.word(at).parse().unwrap_or_else(|_| panic!("{}: not a number", self.verb))
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.pairs.get(key).copied()
    }

    pub fn get<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        let parse = |value: &&str| value.parse().ok();
        self.pairs.get(key).map(|value| parse(value).unwrap_or_else(|| panic!("{key}={value}")))
    }
}

/// A machine and the log that it applies.
pub struct Log<M: Machine> {
    pub machine: M,
    pub index: u64,
    pub now: u64,
}

impl<M: Machine> Log<M> {
    pub fn new() -> Self {
        Self { machine: M::new(), index: 0, now: 0 }
    }

    /// Handles what every script can say; false if the line is not of that kind.
    pub fn common(&mut self, line: &str, output: &mut String) -> bool {
        let words = Words::parse(line);
        match words.verb {
            "at" => self.now = words.number(0),
            "after" => self.now += words.number(0),
            "restore" => {
                let restored = M::restore(&self.machine.snapshot()).unwrap();
                assert_eq!(restored.hash(), self.machine.hash());
                self.machine = restored;
            }
            "deadline" => match self.machine.next_deadline() {
                Some(due) => writeln!(output, "deadline {}", due.0).unwrap(),
                None => writeln!(output, "no deadline").unwrap(),
            },
            _ => return false,
        }
        true
    }

    /// Applies an entry, encoded and decoded as the log does; replies and effects.
    pub fn apply(&mut self, commands: &[M::Command]) -> (Vec<M::Reply>, Vec<M::Effect>) {
        self.index += 1;
        let mut builder = EntryBuilder::new();
        for command in commands {
            builder.push_command::<M>(command);
        }
        let (now, iter) = decode_entry(builder.freeze(Millis(self.now))).unwrap();
        let at = At { index: self.index, now };
        let mut effects = Vec::new();
        let mut replies = Vec::new();
        for (ordinal, bytes) in (0..).zip(iter) {
            let command = M::decode(&mut bytes.unwrap()).unwrap();
            replies.push(self.machine.apply(at, ordinal, command, &mut effects));
        }
        self.machine.finish(at, &mut effects);
        (replies, effects)
    }
}
