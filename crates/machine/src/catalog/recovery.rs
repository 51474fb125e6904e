//! Queues that go on with one replica after the others were lost, and what a catalog that did so itself makes
//! of it.
//!
//! ```text
//!  RecoverQueue ─► a later timeline, is_recovering, replicas = [survivor]     the others keep what they have
//!                     │ the survivor's node rewrites its replica
//!                     ▼
//!  QueueTookOver ─► it is known from where on the timeline is another
//!                     │ the survivor leads alone
//!                     ▼
//!  QueuePlaced  ─► leaving is let go                                      healing brings it to `voters_wanted`
//! ```
//!
//! If the survivor is lost too before that, the queue can be recovered once more, on another replica.

use super::command::{Change, Fork, Queue, Rejection, Reply};
use super::moves::in_order;
use super::{Catalog, Done, GroupId};
use crate::{At, NodeId};

/// Groups that a catalog may have given in entries which were lost with the other replicas; as many queues can
/// not have been created between two answers of a majority.
const GROUPS_SKIPPED: u64 = 1 << 20;

/// Groups are counted up to here.
const GROUPS_MAX: u64 = (1 << 63) - 1;

impl Catalog {
    pub(super) fn recover_queue(
        &mut self,
        at: At,
        group: GroupId,
        moved: u64,
        survivor: NodeId,
        timeline: u64,
    ) -> Result<Done, Rejection> {
        let known = self.by_group(group).ok_or(Rejection::NotFound)?;
        if known.moved != moved {
            return Err(Rejection::PlacementChanged { moved: known.moved });
        }
        if !known.holders().any(|node| node == survivor) {
            return Err(Rejection::NotAReplica { id: survivor });
        }
        if timeline <= known.timeline {
            return Err(Rejection::TimelinePassed { timeline: known.timeline });
        }
        let mut queue = self.queues.remove(&known.name.clone()).expect("it was found by its group");
        self.loads.remove(&queue);
        let held: Vec<NodeId> = queue.holders().collect();
        let had = queue.replicas.len() as u8;
        queue.voters_wanted =
            if had > 1 { had.max(queue.voters_wanted) } else { queue.voters_wanted };
        queue.replicas = vec![survivor];
        queue.observers.retain(|node| *node != survivor);
        let leaves = |node: &NodeId| *node != survivor && !queue.observers.contains(node);
        queue.leaving = in_order(held.into_iter().filter(leaves).collect());
        // Two changes of one entry must differ.
        queue.moved = at.index.max(moved + 1);
        queue.timeline = timeline;
        (queue.is_moving, queue.is_recovering) = (true, true);
        queue.preferred_leader = survivor;
        let (name, moved) = (queue.name.clone(), queue.moved);
        self.insert(queue);
        Ok((Reply::Placed { moved }, Some(Change::QueueMoved { name, group })))
    }

    pub(super) fn took_over(
        &mut self,
        group: GroupId,
        moved: u64,
        from: u64,
    ) -> Result<Done, Rejection> {
        let name = self.by_group.get(&group).ok_or(Rejection::NotFound)?.clone();
        let queue = self.queues.get_mut(&name).expect("every queue has a group of its own");
        if queue.moved != moved {
            return Err(Rejection::PlacementChanged { moved: queue.moved });
        }
        if !std::mem::take(&mut queue.is_recovering) {
            return Ok((Reply::Done, None));
        }
        if queue.forks.len() == Queue::FORKS_MAX {
            queue.forks.remove(0);
        }
        queue.forks.push(Fork { timeline: queue.timeline, from });
        Ok((Reply::Done, Some(Change::QueueMoved { name, group })))
    }

    /// Whether a group may have been given to a queue that this catalog lost the knowledge of when it was recovered.
    /// What nodes have of it is left alone.
    #[must_use]
    pub fn is_forgotten(&self, group: GroupId) -> bool {
        let before = self.recovered_at.range(..group.0).next_back();
        before.is_some_and(|(before, _)| group.0 - before <= GROUPS_SKIPPED)
    }

    /// Whether the placement of a queue is from before this catalog was recovered: what came after it may be lost, and
    /// with it that the queue had moved to other nodes.
    #[must_use]
    pub fn may_have_moved(&self, queue: &Queue) -> bool {
        let last = self.recovered_at.last_key_value();
        last.is_some_and(|(groups, index)| queue.group.0 <= *groups && queue.moved < *index)
    }

    /// Whether this catalog was recovered since a group was given: of what became of its queue before that, it may know
    /// less than there was.
    #[must_use]
    pub fn was_recovered_since(&self, group: GroupId) -> bool {
        self.recovered_at.last_key_value().is_some_and(|(groups, _)| group.0 <= *groups)
    }

    pub(super) fn recovered(&mut self, at: At) -> Result<Done, Rejection> {
        self.recovered_at.insert(self.groups, at.index);
        self.groups = self.groups.saturating_add(GROUPS_SKIPPED).min(GROUPS_MAX);
        Ok((Reply::Done, None))
    }
}
