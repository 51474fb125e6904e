//! Calls about queues and the cluster. Each is retried at other nodes within the request time limit.

use std::collections::BTreeMap;

use quorate_proto::v1;
use quorate_proto::v1::admin_service_client::AdminServiceClient;
use quorate_proto::v1::cluster_service_client::ClusterServiceClient;
use tonic::transport::Channel;

use crate::client::Client;
use crate::error::Error;
use crate::nodes::{self, Effect, Failed, MAX_ANSWER_BYTES};
use crate::producer::Receipt;
use crate::sharding::{in_part, shard_name};
use quorate_proto::reason;

/// What [`Client::create_queue`] has found or made.
#[derive(Clone, Debug, PartialEq)]
pub struct CreatedQueue {
    /// The queue as it is now.
    pub queue: v1::QueueDescription,
    /// False if it existed already, with the same settings.
    pub created: bool,
}

/// What [`Client::update_queue`] has changed, or would change.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdatedQueue {
    /// The queue with its settings as they are from now on.
    pub queue: v1::QueueDescription,
    /// The settings as they were.
    pub before: v1::QueueSettings,
    /// Names of the settings that differ, by those of the fields of [`QueueSettings`](crate::QueueSettings); empty if
    /// nothing had to be changed.
    pub changed: Vec<String>,
    /// The queue's leader goes by the settings. If not, a leader does as soon as there is a majority.
    pub effective: bool,
}

/// Queues asked for in one call when listing.
const PAGE: u32 = 1_000;
/// Receipts compared in one call.
const RECEIPTS: usize = 10_000;

pub(crate) fn admin(channel: Channel) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

fn cluster(channel: Channel) -> ClusterServiceClient<Channel> {
    ClusterServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

fn described(queue: Option<v1::QueueDescription>) -> Result<v1::QueueDescription, Error> {
    queue.ok_or_else(|| Error::Invalid("the server's answer does not describe a queue".to_owned()))
}

impl Client {
    /// Creates a queue and waits until it has a leader. Creating one that exists with the same settings
    /// succeeds. Settings left at 0 are the server's defaults.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_EXISTS` (with other settings), `INVALID_ARGUMENT`,
    /// `NOT_ENOUGH_NODES` or `QUOTA_EXCEEDED`; after a retry `created` may be false although this call
    /// created the queue.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::QueueSettings;
    /// let settings = QueueSettings { replicas: 3, max_messages: 1_000_000, ..Default::default() };
    /// let created = client.create_queue("orders", settings).await?;
    /// assert_eq!(created.queue.name, "orders");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_queue(
        &self,
        name: impl Into<String>,
        settings: v1::QueueSettings,
    ) -> Result<CreatedQueue, Error> {
        let request = v1::CreateQueueRequest { name: name.into(), settings: Some(settings) };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).create_queue(request).await }
        };
        let answer = self.nodes.call(Effect::Writes, ask).await?;
        Ok(CreatedQueue { queue: described(answer.queue)?, created: answer.created })
    }

    /// Creates a sharded queue: one name, and 2 to 64 queues behind it, `NAME@0` and so on, each with these settings and
    /// replicated on its own. All of them or none. Creating one that exists with as many shards and the same settings
    /// succeeds. Producers, consumers and workers take its name as that of any queue.
    ///
    /// # Errors
    /// As [`create_queue`](Self::create_queue), and `UNSUPPORTED_VERSION`.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::{Message, QueueSettings};
    /// client.create_sharded_queue("orders", 8, QueueSettings::default()).await?;
    /// let producer = client.producer("orders").build().await?;
    /// # let _ =
    /// producer.send(Message::new("paid").shard_key("order 7")).await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_sharded_queue(
        &self,
        name: impl Into<String>,
        shards: u32,
        settings: v1::QueueSettings,
    ) -> Result<CreatedQueue, Error> {
        let (name, settings) = (name.into(), Some(settings));
        let request = v1::CreateShardedQueueRequest { name, settings, shards };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).create_sharded_queue(request).await }
        };
        let answer = self.nodes.call(Effect::Writes, ask).await?;
        Ok(CreatedQueue { queue: described(answer.queue)?, created: answer.created })
    }

    /// Changes settings of a queue, live: those that `fields` names, by the names of
    /// [`QueueSettings`](crate::QueueSettings), get the values that they have in `settings`; the others stay. With
    /// `dry_run` it only says what would change. Asking for what is so already succeeds.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, or with `INVALID_ARGUMENT` for a value that makes no sense, an unknown
    /// field, or another number of replicas.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::QueueSettings;
    /// let settings = QueueSettings { max_messages: 2_000_000, ..Default::default() };
    /// let updated = client.update_queue("orders", settings, &["max_messages"], false).await?;
    /// println!("changed: {:?}", updated.changed);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn update_queue(
        &self,
        name: impl Into<String>,
        settings: v1::QueueSettings,
        fields: &[&str],
        dry_run: bool,
    ) -> Result<UpdatedQueue, Error> {
        let request = v1::UpdateQueueRequest {
            name: name.into(),
            settings: Some(settings),
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
            dry_run,
        };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).update_queue(request).await }
        };
        let effect = if dry_run { Effect::Reads } else { Effect::Writes };
        let answer = self.nodes.call(effect, ask).await?;
        Ok(UpdatedQueue {
            queue: described(answer.queue)?,
            before: answer.before.unwrap_or_default(),
            changed: answer.changed,
            effective: answer.effective,
        })
    }

    /// Settings, leader, replicas, counts and consumers of a queue.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let queue = client.describe_queue("orders").await?;
    /// println!("{} replicas", queue.replicas.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn describe_queue(
        &self,
        name: impl Into<String>,
    ) -> Result<v1::QueueDescription, Error> {
        let request = v1::DescribeQueueRequest { name: name.into() };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).describe_queue(request).await }
        };
        described(self.nodes.call(Effect::Reads, ask).await?.queue)
    }

    /// Why a queue's replicas are where they are, as the rules of placement have it now, and which rule the placement
    /// breaks.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// for node in client.explain_placement("orders").await?.nodes {
    ///     println!("node {}: {:?}, {:?}", node.node_id, node.role(), node.reason());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn explain_placement(
        &self,
        name: impl Into<String>,
    ) -> Result<v1::ExplainPlacementResponse, Error> {
        let request = v1::ExplainPlacementRequest { name: name.into() };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).explain_placement(request).await }
        };
        Ok(self.nodes.call(Effect::Reads, ask).await?)
    }

    /// Compares receipts with what the queue's leader has in its log: a verdict for each, in order. For those
    /// of level `Accepted`, and after a loss of more replicas than the queue can bear.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, or with `INVALID_ARGUMENT` for a receipt without a position.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client, receipt: quorate_client::Receipt)
    /// # -> Result<(), quorate_client::Error> {
    /// use quorate_client::ReceiptVerdict;
    /// let verdicts = client.verify_receipts("orders", &[receipt]).await?;
    /// assert_ne!(verdicts[0], ReceiptVerdict::Lost);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn verify_receipts(
        &self,
        name: impl Into<String>,
        receipts: &[Receipt],
    ) -> Result<Vec<v1::ReceiptVerdict>, Error> {
        let name = name.into();
        let mut by_shard: BTreeMap<Option<u16>, Vec<usize>> = BTreeMap::new();
        for (at, receipt) in receipts.iter().enumerate() {
            by_shard.entry(receipt.shard).or_default().push(at);
        }
        let mut verdicts = vec![v1::ReceiptVerdict::Unspecified; receipts.len()];
        for (shard, places) in by_shard {
            let of_shard: Vec<Receipt> = places.iter().map(|at| receipts[*at]).collect();
            let told = self.verify_at(shard_name(&name, shard), &of_shard).await?;
            places.into_iter().zip(told).for_each(|(at, verdict)| verdicts[at] = verdict);
        }
        Ok(verdicts)
    }

    /// The same of one queue.
    async fn verify_at(
        &self,
        name: String,
        receipts: &[Receipt],
    ) -> Result<Vec<v1::ReceiptVerdict>, Error> {
        let mut verdicts = Vec::with_capacity(receipts.len());
        for part in receipts.chunks(RECEIPTS) {
            let receipts: Vec<v1::Receipt> = part.iter().copied().map(Receipt::to_wire).collect();
            let request = v1::VerifyReceiptsRequest { name: name.clone(), receipts };
            let ask = |channel| {
                let request = request.clone();
                async move { admin(channel).verify_receipts(request).await }
            };
            let answer = self.nodes.call(Effect::Reads, ask).await?;
            if answer.verdicts.len() != part.len() {
                return Err(Error::Invalid("the server's answer has other receipts".to_owned()));
            }
            verdicts.extend(answer.verdicts());
        }
        Ok(verdicts)
    }

    /// All queues, in order of name.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers in time.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// for queue in client.list_queues().await? {
    ///     println!("{}", queue.name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_queues(&self) -> Result<Vec<v1::QueueDescription>, Error> {
        self.find_queues("").await
    }

    /// Queues whose whole name matches a pattern, in order of name: `*` stands for any characters, `?` for one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers in time; [`Error::Refused`] with `INVALID_ARGUMENT` for a pattern of
    /// more than 256 bytes.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// println!("{} queues", client.find_queues("orders.*").await?.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn find_queues(&self, pattern: &str) -> Result<Vec<v1::QueueDescription>, Error> {
        let mut queues = Vec::new();
        let mut page_token = String::new();
        loop {
            let pattern = pattern.to_owned();
            let request = v1::ListQueuesRequest { page_size: PAGE, page_token, pattern };
            let ask = |channel| {
                let request = request.clone();
                async move { admin(channel).list_queues(request).await }
            };
            let page = self.nodes.call(Effect::Reads, ask).await?;
            queues.extend(page.queues);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(queues);
            }
            if page_token == request.page_token {
                return Err(Error::Invalid("the server's listing does not end".to_owned()));
            }
        }
    }

    /// Drops every message of a queue, leased ones too, and returns how many; of a sharded queue at every shard, or with
    /// an error that says where it was done and where not.
    ///
    /// It is not asked twice where the answer is lost, since what was published meanwhile would be dropped as well: look at
    /// what the queue holds ([`Client::describe_queue`]) before asking again, or drop what is before an offset
    /// ([`Client::purge_queue_before`]), which drops the same however often it is asked for.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`; [`Error::UnknownOutcome`] when the answer was lost.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// println!("{} messages dropped", client.purge_queue("orders").await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn purge_queue(&self, name: impl Into<String>) -> Result<u64, Error> {
        let request = v1::PurgeQueueRequest { name: name.into(), before: None };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).purge_queue(request).await }
        };
        let answer = self.nodes.call_patiently(Effect::Once, ask).await?;
        in_part("purged", answer.shards)?;
        Ok(answer.purged)
    }

    /// Removes a queue and its messages; with `if_empty` only if it holds none.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND` or `QUEUE_NOT_EMPTY`; [`Error::UnknownOutcome`] when the
    /// answer was lost.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// client.delete_queue("orders", true).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_queue(&self, name: impl Into<String>, if_empty: bool) -> Result<(), Error> {
        let request = v1::DeleteQueueRequest { name: name.into(), if_empty };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).delete_queue(request).await }
        };
        match self.nodes.call(Effect::Writes, ask).await {
            Ok(_) => Ok(()),
            Err(Failed { fault, maybe_done: true, .. })
                if fault.refusal.reason == reason::QUEUE_NOT_FOUND =>
            {
                // An earlier attempt, whose answer was lost, has removed it.
                Ok(())
            }
            Err(failed) => Err(failed.into()),
        }
    }

    /// Nodes and catalog, as the node that answers sees them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers in time.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// for node in client.status().await?.nodes {
    ///     println!("{} at {}: {}", node.node_id, node.address, node.reachable);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn status(&self) -> Result<v1::GetStatusResponse, Error> {
        let status = self.nodes.call(Effect::Reads, nodes::get_status).await?;
        self.nodes.learn(status.nodes.iter().map(|node| &node.address));
        Ok(status)
    }

    /// Which node leads a queue; waits for an election in progress.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`; [`Error::Unavailable`] while there is no leader.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// println!("led by {}", client.locate("orders").await?.address);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn locate(&self, queue: impl Into<String>) -> Result<v1::Leader, Error> {
        let queue = queue.into();
        let ask = |channel| nodes::locate_queue(channel, queue.clone());
        let answer = self.nodes.call(Effect::Reads, ask).await?;
        self.nodes.learn(&answer.nodes);
        answer.leader.ok_or_else(|| Error::Invalid("the server named no leader".to_owned()))
    }

    /// Hands the leadership of a queue to another of its voters, `to`, or to the one that has most. Returns once
    /// that one leads. Producers and consumers go on there by themselves.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, `INVALID_ARGUMENT` when the node has no vote, or `NOT_ENOUGH_NODES`
    /// when it is not there.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let leader = client.transfer_leader("orders", Some(2)).await?;
    /// assert_eq!(leader.node_id, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn transfer_leader(
        &self,
        queue: impl Into<String>,
        to: Option<u64>,
    ) -> Result<v1::Leader, Error> {
        let request =
            v1::TransferLeaderRequest { queue: queue.into(), node_id: to.unwrap_or_default() };
        let ask = |channel| {
            let request = request.clone();
            async move { cluster(channel).transfer_leader(request).await }
        };
        let answer = self.nodes.call(Effect::Writes, ask).await?;
        answer.leader.ok_or_else(|| Error::Invalid("the server named no leader".to_owned()))
    }

    /// How far each replica of a queue is, or of all queues, in order of name.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// for queue in client.replication(None).await? {
    ///     for replica in queue.replicas {
    ///         println!("{} node {}: {:?} ms behind", queue.queue, replica.node_id, replica.lag_ms);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn replication(
        &self,
        queue: Option<&str>,
    ) -> Result<Vec<v1::QueueReplication>, Error> {
        let request = v1::GetReplicationRequest { queue: queue.unwrap_or_default().to_owned() };
        let ask = |channel| {
            let request = request.clone();
            async move { cluster(channel).get_replication(request).await }
        };
        Ok(self.nodes.call(Effect::Reads, ask).await?.queues)
    }

    /// What each replica of a queue, or of all queues, has received that does not lead, as it knows itself; only those
    /// on `node`, if one is given. In order of queue and node.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, or with `INVALID_ARGUMENT` when there is no such node.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// for receiver in client.receivers(Some("orders"), None).await? {
    ///     println!("node {}: {:?}", receiver.node_id, receiver.state());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn receivers(
        &self,
        queue: Option<&str>,
        node: Option<u64>,
    ) -> Result<Vec<v1::Receiver>, Error> {
        let queue = queue.unwrap_or_default().to_owned();
        let request = v1::GetReceiversRequest { queue, node_id: node.unwrap_or(0) };
        let ask = |channel| {
            let request = request.clone();
            async move { cluster(channel).get_receivers(request).await }
        };
        Ok(self.nodes.call(Effect::Reads, ask).await?.receivers)
    }

    /// Keeps leaderships away from a node before its maintenance, or lets it have them again. It hands over what
    /// it leads; [`status`](Self::status) tells when it leads nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] with `INVALID_ARGUMENT` when there is no such node.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// client.drain_node(2, true).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drain_node(&self, node_id: u64, draining: bool) -> Result<(), Error> {
        let ask = |channel| async move {
            cluster(channel).drain_node(v1::DrainNodeRequest { node_id, draining }).await
        };
        self.nodes.call(Effect::Writes, ask).await?;
        Ok(())
    }

    /// Changes which nodes hold a queue and which of them vote: those in `change` become voters, become observers,
    /// or hold it no more; the others stay as they are. Returns once that is to be; it is so when
    /// [`describe_queue`](Self::describe_queue) shows the `placement` of the answer, or a later one, and not `moving`. Producers and consumers go on meanwhile.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, or with `INVALID_ARGUMENT` when there is no such node, or the
    /// queue would not have 1, 3 or 5 voters.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::ChangeReplicasRequest;
    /// // Node 4 takes the place of node 3.
    /// let change = ChangeReplicasRequest { voters: vec![4], remove: vec![3], ..Default::default() };
    /// let placed = client.change_replicas("orders", change).await?;
    /// println!("voters: {:?}", placed.voters);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn change_replicas(
        &self,
        queue: impl Into<String>,
        change: v1::ChangeReplicasRequest,
    ) -> Result<v1::ChangeReplicasResponse, Error> {
        let request = v1::ChangeReplicasRequest { queue: queue.into(), ..change };
        let ask = |channel| {
            let request = request.clone();
            async move { cluster(channel).change_replicas(request).await }
        };
        Ok(self.nodes.call(Effect::Writes, ask).await?)
    }

    /// Takes a node out of the cluster, alive or dead: what it holds moves to other nodes, then it is forgotten.
    /// Returns how many replicas it holds still; [`status`](Self::status) shows it until it holds none.
    ///
    /// # Errors
    /// [`Error::Refused`] with `INVALID_ARGUMENT` when there is no such node or it is the last, or with
    /// `NOT_ENOUGH_NODES` when a queue has nowhere to go.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// println!("{} replicas move away", client.remove_node(3).await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn remove_node(&self, node_id: u64) -> Result<u64, Error> {
        let ask = |channel| async move {
            cluster(channel).remove_node(v1::RemoveNodeRequest { node_id }).await
        };
        Ok(self.nodes.call(Effect::Writes, ask).await?.replicas)
    }

    /// Shows what is left of queues that have lost the majority of their replicas for ever; with `accept_loss`, has
    /// them go on with it, on the replica that has the most. What only the lost replicas had is lost. The queue is
    /// there again when [`describe_queue`](Self::describe_queue) shows the `placement` of the answer, or a later one,
    /// and a leader.
    ///
    /// # Errors
    /// [`Error::Refused`] with `HAS_QUORUM` when there is nothing to recover, with `NO_SURVIVOR` when no replica is
    /// left that has anything, or with `QUEUE_NOT_FOUND`; then no queue was changed.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::RecoverQueuesRequest;
    /// let request = RecoverQueuesRequest { queues: vec!["orders".into()], ..Default::default() };
    /// for queue in client.recover_queues(request).await?.queues {
    ///     println!("{} could go on with what node {} has", queue.queue, queue.survivor);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recover_queues(
        &self,
        request: v1::RecoverQueuesRequest,
    ) -> Result<v1::RecoverQueuesResponse, Error> {
        let effect = if request.accept_loss { Effect::Writes } else { Effect::Reads };
        let ask = |channel| {
            let request = request.clone();
            async move { cluster(channel).recover_queues(request).await }
        };
        Ok(self.nodes.call(effect, ask).await?)
    }

    /// Gives each queue to the leader that it was placed with, where that one may lead.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers in time.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// println!("{} leaderships moved", client.balance_leaders().await?.moved);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn balance_leaders(&self) -> Result<v1::BalanceLeadersResponse, Error> {
        let ask = |channel| async move {
            cluster(channel).balance_leaders(v1::BalanceLeadersRequest {}).await
        };
        Ok(self.nodes.call(Effect::Writes, ask).await?)
    }
}
