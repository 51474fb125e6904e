//! Bodies kept in memory: all that are not durable yet, and the most recent of the others.
//!
//! First in, first out over the whole node. Dropping an entry early (truncation, retention) frees
//! its body at once but leaves its ticket in the queue, with its weight: so the queue itself is
//! bounded too.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::GroupId;

/// What a ticket costs beside its payload, in bytes.
const TICKET_BYTES: usize = 96;

struct Ticket {
    group: GroupId,
    index: u64,
    op: u64,
    weight: usize,
}

/// The memory tail of all groups.
pub struct Tail {
    bodies: BTreeMap<GroupId, BTreeMap<u64, (u64, Bytes)>>,
    tickets: VecDeque<Ticket>,
    weight: usize,
    held: usize,
    limit: usize,
}

impl Tail {
    /// `limit` bounds what is kept beyond what is pending, in bytes.
    pub fn new(limit: usize) -> Tail {
        Tail { bodies: BTreeMap::new(), tickets: VecDeque::new(), weight: 0, held: 0, limit }
    }

    /// Keeps the body that operation `op` writes.
    pub fn insert(&mut self, group: GroupId, index: u64, op: u64, body: Bytes) {
        let weight = body.len() + TICKET_BYTES;
        self.held += body.len();
        self.weight += weight;
        self.tickets.push_back(Ticket { group, index, op, weight });
        let replaced = self.bodies.entry(group).or_default().insert(index, (op, body));
        self.held -= replaced.map_or(0, |(_, body)| body.len());
    }

    pub fn get(&self, group: GroupId, index: u64) -> Option<&Bytes> {
        Some(&self.bodies.get(&group)?.get(&index)?.1)
    }

    pub fn remove(&mut self, group: GroupId, index: u64) {
        if let Some(bodies) = self.bodies.get_mut(&group) {
            self.held -= bodies.remove(&index).map_or(0, |(_, body)| body.len());
            if bodies.is_empty() {
                self.bodies.remove(&group);
            }
        }
    }

    pub fn remove_group(&mut self, group: GroupId) {
        let bodies = self.bodies.remove(&group).unwrap_or_default();
        self.held -= bodies.values().map(|(_, body)| body.len()).sum::<usize>();
    }

    /// Lets go of the oldest bodies beyond the limit, but of none written after `durable`.
    pub fn evict(&mut self, durable: u64) {
        while self.weight > self.limit
            && self.tickets.front().is_some_and(|oldest| oldest.op <= durable)
            && let Some(oldest) = self.tickets.pop_front()
        {
            self.weight -= oldest.weight;
            let current = self
                .bodies
                .get(&oldest.group)
                .and_then(|bodies| bodies.get(&oldest.index))
                .is_some_and(|(op, _)| *op == oldest.op);
            if current {
                self.remove(oldest.group, oldest.index);
            }
        }
    }

    /// Bytes of payload held.
    pub fn held_bytes(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_bodies_stay_whatever_the_limit() {
        let mut tail = Tail::new(0);
        for op in 1..=10 {
            tail.insert(GroupId(1), op, op, Bytes::from_static(b"body"));
        }
        tail.evict(4);
        assert!(tail.get(GroupId(1), 4).is_none());
        assert!(tail.get(GroupId(1), 5).is_some());
        assert_eq!(tail.held_bytes(), 24);
    }

    #[test]
    fn a_replaced_body_outlives_the_ticket_of_its_predecessor() {
        let mut tail = Tail::new(2 * (TICKET_BYTES + 1));
        tail.insert(GroupId(1), 7, 1, Bytes::from_static(b"a"));
        tail.insert(GroupId(1), 7, 2, Bytes::from_static(b"b"));
        tail.insert(GroupId(1), 8, 3, Bytes::from_static(b"c"));
        tail.evict(3);
        assert_eq!(tail.get(GroupId(1), 7), Some(&Bytes::from_static(b"b")));
        assert_eq!(tail.held_bytes(), 2);
    }
}
