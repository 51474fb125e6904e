//! Which replica a reader, or a consumer that takes from any, asks next: the nearest, and of those rather one that
//! does not lead.

use std::time::Duration;

use quorate_proto::v1::{self, ReplicaRole};
use tokio::time::timeout;

use crate::address::Address;
use crate::client::Client;
use crate::error::{Error, Refusal};
use crate::fault::{Fault, Verdict};
use crate::random;

/// The replicas of a queue, in the order in which they are asked.
#[derive(Debug)]
pub(crate) struct Replicas {
    /// Of who asks; empty if it does not say.
    zone: String,
    /// As the queue was last described, in order.
    known: Vec<Address>,
    /// Those not tried since, the next one last.
    left: Vec<Address>,
}

/// How long the queue's leader may take to describe it: without one, replicas can be read all the same.
const DESCRIBE_MAX: Duration = Duration::from_secs(2);

impl Replicas {
    pub fn new(zone: String) -> Self {
        Self { zone, known: Vec::new(), left: Vec::new() }
    }

    /// The next one to ask is the best again, as the queue is described then.
    pub fn begin_anew(&mut self) {
        self.left.clear();
    }

    /// The next one to ask; after the last, the queue is described again.
    pub async fn next(&mut self, client: &Client, queue: &str) -> Result<Address, Fault> {
        if self.left.is_empty() {
            match timeout(DESCRIBE_MAX, client.describe_queue(queue)).await {
                // Any node says that it is not to be read as one.
                Ok(Ok(described)) if described.sharding.is_some() => {
                    return Ok(client.nodes.current());
                }
                Ok(Ok(described)) => {
                    self.known = in_order(&described.replicas, &self.zone, random::choice());
                }
                Ok(Err(Error::Refused(refusal))) => return Err(fault_of(refusal)),
                // Those that are known, or any node: one without a replica forwards.
                Ok(Err(_)) | Err(_) if self.known.is_empty() => {
                    return Ok(client.nodes.current());
                }
                Ok(Err(_)) | Err(_) => {}
            }
            self.left = self.known.iter().rev().cloned().collect();
        }
        self.left.pop().ok_or_else(|| Fault::transport("the queue has no replica with an address"))
    }
}

fn fault_of(refusal: Refusal) -> Fault {
    Fault { verdict: Verdict::Refused, refusal, ..Fault::transport("") }
}

/// Those of the zone first, followers before the leader; `choice` decides among equals, so that they spread.
fn in_order(replicas: &[v1::Replica], zone: &str, choice: usize) -> Vec<Address> {
    let mut replicas: Vec<&v1::Replica> = replicas.iter().collect();
    if !replicas.is_empty() {
        let by = choice % replicas.len();
        replicas.rotate_left(by);
    }
    replicas.sort_by_key(|replica| {
        let elsewhere = !zone.is_empty() && replica.zone != zone;
        (elsewhere, replica.role() == ReplicaRole::Leader)
    });
    replicas.into_iter().filter_map(|replica| Address::parse(&replica.address).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_comes_first_then_followers_and_equals_take_turns() {
        let replica = |n: u64, zone: &str, role: ReplicaRole| v1::Replica {
            node_id: n,
            address: format!("n{n}:7100"),
            zone: zone.to_owned(),
            role: role.into(),
            ..Default::default()
        };
        let (leader, follower) = (ReplicaRole::Leader, ReplicaRole::Follower);
        let replicas = [
            replica(1, "a", leader),
            replica(2, "b", follower),
            replica(3, "b", follower),
            replica(4, "a", follower),
        ];
        let order = |zone, choice| {
            let order = in_order(&replicas, zone, choice);
            order.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(order("a", 0), ["n4:7100", "n1:7100", "n2:7100", "n3:7100"]);
        assert_eq!(order("b", 0), ["n2:7100", "n3:7100", "n4:7100", "n1:7100"]);
        assert_eq!(order("", 0), ["n2:7100", "n3:7100", "n4:7100", "n1:7100"]);
        assert_eq!(order("", 2), ["n3:7100", "n4:7100", "n2:7100", "n1:7100"]);
        assert!(in_order(&[], "", 7).is_empty());
    }
}
