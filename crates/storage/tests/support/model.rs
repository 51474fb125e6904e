//! What a log must hold, kept in plain maps, with its whole history: after a crash the log has to
//! equal some moment of it, and none before the last acknowledgement.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_storage::{Entry, GroupId, Log};

/// splitmix64: the tests' only source of chance.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub entries: BTreeMap<u64, (u64, Bytes)>,
    pub raft: BTreeSet<u64>,
    pub vote: Bytes,
    pub purged: Option<(u64, u64)>,
    pub last: Option<(u64, u64)>,
}

impl Group {
    pub fn floor(&self) -> Option<u64> {
        self.purged.map(|(index, _)| index)
    }
}

pub type Moment = BTreeMap<GroupId, Group>;

/// The history since the log was opened.
pub struct Model {
    pub now: Moment,
    pub history: Vec<Moment>,
    /// What `retain` let go, ever: may be there or not, at or below the floor.
    pub dropped: BTreeMap<GroupId, BTreeSet<u64>>,
}

impl Model {
    pub fn new() -> Model {
        Model { now: Moment::new(), history: vec![Moment::new()], dropped: BTreeMap::new() }
    }

    fn step(&mut self) -> usize {
        self.history.push(self.now.clone());
        self.history.len() - 1
    }

    /// Each returns the moment at which all of it has happened.
    pub fn append(&mut self, id: GroupId, entries: &[Entry]) -> usize {
        for entry in entries {
            let group = self.now.entry(id).or_default();
            group.entries.insert(entry.index, (entry.term, entry.payload.clone()));
            group.raft.insert(entry.index);
            group.last = Some((entry.index, entry.term));
            self.step();
        }
        self.history.len() - 1
    }

    pub fn put(&mut self, id: GroupId, entries: &[Entry]) -> usize {
        for entry in entries {
            let group = self.now.entry(id).or_default();
            group.entries.insert(entry.index, (entry.term, entry.payload.clone()));
            self.step();
        }
        self.history.len() - 1
    }

    pub fn change(&mut self, id: GroupId, change: impl FnOnce(&mut Group)) -> usize {
        change(self.now.entry(id).or_default());
        self.step()
    }

    pub fn remove(&mut self, id: GroupId) -> usize {
        self.now.remove(&id);
        self.step()
    }

    pub fn retain(&mut self, id: GroupId, limit: u64, keep: &BTreeSet<u64>) {
        let Some(group) = self.now.get_mut(&id) else { return };
        let gone: Vec<u64> =
            group.entries.range(..=limit).map(|(i, _)| *i).filter(|i| !keep.contains(i)).collect();
        for index in gone {
            group.entries.remove(&index);
            group.raft.remove(&index);
            self.dropped.entry(id).or_default().insert(index);
        }
    }

    /// Finds the latest moment, not before `acknowledged`, that the log equals; goes on from it.
    pub fn recovered(&mut self, log: &Log, acknowledged: usize) -> Result<usize, String> {
        let mut reasons = Vec::new();
        for at in (acknowledged..self.history.len()).rev() {
            match self.equals(log, &self.history[at]) {
                Ok(()) => {
                    self.go_on_from(log, at);
                    return Ok(at);
                }
                Err(reason) => reasons.push(format!("moment {at}: {reason}")),
            }
        }
        let reasons = reasons.split_off(reasons.len().saturating_sub(12));
        Err(reasons.join("\n"))
    }

    fn equals(&self, log: &Log, moment: &Moment) -> Result<(), String> {
        let mut ids: BTreeSet<GroupId> = log.groups().into_iter().collect();
        ids.extend(moment.keys());
        for id in ids {
            let expected = moment.get(&id).cloned().unwrap_or_default();
            self.group_equals(log, id, &expected).map_err(|e| format!("group {id}: {e}"))?;
        }
        Ok(())
    }

    fn group_equals(&self, log: &Log, id: GroupId, expected: &Group) -> Result<(), String> {
        let state = log.state(id).unwrap_or_default();
        let found = (state.vote, state.purged, state.last);
        let wanted = (expected.vote.clone(), expected.purged, expected.last);
        if found != wanted {
            return Err(format!("state {found:?}, expected {wanted:?}"));
        }
        if !state.committed.is_empty() {
            let committed = String::from_utf8_lossy(&state.committed).parse().unwrap_or(u64::MAX);
            if state.last.is_none_or(|(last, _)| last < committed) {
                return Err(format!("committed {committed} beyond {:?}", state.last));
            }
        }
        let may_be_gone = |index: u64| self.optional(id, expected, index);
        let stored: BTreeSet<u64> = log.indexes(id).into_iter().flatten().collect();
        for (index, (term, payload)) in &expected.entries {
            if may_be_gone(*index) {
                continue;
            }
            let read = log.read(id, *index..index + 1, usize::MAX).map_err(|e| e.to_string())?;
            let wanted = Entry { index: *index, term: *term, payload: payload.clone() };
            if read != [wanted] {
                return Err(format!(
                    "entry {index} is {}",
                    if read.is_empty() { "missing" } else { "another" }
                ));
            }
        }
        match stored.iter().find(|i| !expected.entries.contains_key(i) && !may_be_gone(**i)) {
            None => Ok(()),
            Some(extra) => Err(format!("entry {extra} should not be there")),
        }
    }

    fn optional(&self, id: GroupId, group: &Group, index: u64) -> bool {
        let dropped = self.dropped.get(&id).is_some_and(|dropped| dropped.contains(&index));
        let stale = group.floor().is_some_and(|floor| index <= floor)
            && !group.entries.contains_key(&index);
        let below = group.last.is_none() || group.floor().is_some_and(|floor| index <= floor);
        stale || (dropped && below)
    }

    fn go_on_from(&mut self, log: &Log, at: usize) {
        let mut now = self.history[at].clone();
        for (id, group) in &mut now {
            let gone: Vec<u64> =
                group.entries.keys().copied().filter(|i| self.optional(*id, group, *i)).collect();
            for index in gone {
                group.entries.remove(&index);
                group.raft.remove(&index);
            }
            let keep: Vec<_> = group.entries.keys().map(|index| *index..=*index).collect();
            let upto = group.floor().unwrap_or(u64::MAX);
            log.retain(*id, upto, &keep);
        }
        self.history = vec![now.clone()];
        self.now = now;
    }
}
