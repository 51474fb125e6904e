//! What the fake nodes answer to administration: little but what a test asks for.

use std::net::SocketAddr;

use quorate_proto::v1::admin_service_server::AdminService;
use quorate_proto::v1::cluster_service_server::ClusterService;
use quorate_proto::{reason, v1};
use tonic::{Request, Response, Status};

use super::{Node, refusal};

#[tonic::async_trait]
impl AdminService for Node {
    async fn create_queue(
        &self,
        request: Request<v1::CreateQueueRequest>,
    ) -> Result<Response<v1::CreateQueueResponse>, Status> {
        let name = request.into_inner().name;
        if name == "taken" {
            return Err(refusal(reason::QUEUE_EXISTS));
        }
        let queue = Some(v1::QueueDescription { name, ..Default::default() });
        Ok(Response::new(v1::CreateQueueResponse { queue, created: true }))
    }

    async fn describe_queue(
        &self,
        request: Request<v1::DescribeQueueRequest>,
    ) -> Result<Response<v1::DescribeQueueResponse>, Status> {
        let name = request.into_inner().name;
        self.exists(&name)?;
        if self.queue().leaderless {
            return Err(refusal(reason::NO_QUORUM));
        }
        let settings = Some(v1::QueueSettings { session_grace_ms: 1_000, ..Default::default() });
        let queue = Some(v1::QueueDescription { name, settings, ..Default::default() });
        Ok(Response::new(v1::DescribeQueueResponse { queue }))
    }

    async fn create_sharded_queue(
        &self,
        _: Request<v1::CreateShardedQueueRequest>,
    ) -> Result<Response<v1::CreateShardedQueueResponse>, Status> {
        Err(refusal(reason::UNSUPPORTED_VERSION))
    }

    async fn get_shards(
        &self,
        _: Request<v1::GetShardsRequest>,
    ) -> Result<Response<v1::GetShardsResponse>, Status> {
        Err(refusal(reason::QUEUE_NOT_FOUND))
    }

    async fn list_queues(
        &self,
        request: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        let (name, next_page_token) = match request.into_inner().page_token.as_str() {
            "" => ("a", "1"),
            _ => ("b", ""),
        };
        let queues = vec![v1::QueueDescription { name: name.into(), ..Default::default() }];
        let next_page_token = next_page_token.into();
        Ok(Response::new(v1::ListQueuesResponse { queues, next_page_token }))
    }

    async fn update_queue(
        &self,
        request: Request<v1::UpdateQueueRequest>,
    ) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        let v1::UpdateQueueRequest { name, settings, fields, dry_run } = request.into_inner();
        self.exists(&name)?;
        let queue = Some(v1::QueueDescription { name, settings, ..Default::default() });
        let (before, effective) = (Some(v1::QueueSettings::default()), !dry_run);
        let answer = v1::UpdateQueueResponse { before, queue, changed: fields, effective };
        Ok(Response::new(answer))
    }

    async fn purge_queue(
        &self,
        request: Request<v1::PurgeQueueRequest>,
    ) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        let purging = {
            let mut queue = self.queue();
            queue.purges.push(request.into_inner().before.is_none());
            queue.purging
        };
        purging.befall().await?;
        Ok(Response::new(v1::PurgeQueueResponse { purged: 7, next_offset: 9, ..<_>::default() }))
    }

    async fn verify_receipts(
        &self,
        request: Request<v1::VerifyReceiptsRequest>,
    ) -> Result<Response<v1::VerifyReceiptsResponse>, Status> {
        let request = request.into_inner();
        self.exists(&request.name)?;
        let verdict = |receipt: &v1::Receipt| match receipt.position {
            Some(v1::LogPosition { term: 1, .. }) => v1::ReceiptVerdict::Honoured.into(),
            _ => v1::ReceiptVerdict::Lost.into(),
        };
        let verdicts = request.receipts.iter().map(verdict).collect();
        Ok(Response::new(v1::VerifyReceiptsResponse { verdicts, next_offset: 0 }))
    }

    async fn create_slot(
        &self,
        request: Request<v1::CreateSlotRequest>,
    ) -> Result<Response<v1::CreateSlotResponse>, Status> {
        let v1::CreateSlotRequest { queue, slot, .. } = request.into_inner();
        self.exists(&queue)?;
        let created = self.queue().slot.is_none();
        let position = *self.queue().slot.get_or_insert(0);
        let slot = Some(v1::SlotDescription { queue, slot, position, ..Default::default() });
        Ok(Response::new(v1::CreateSlotResponse { slot, created }))
    }

    async fn advance_slot(
        &self,
        request: Request<v1::AdvanceSlotRequest>,
    ) -> Result<Response<v1::AdvanceSlotResponse>, Status> {
        let v1::AdvanceSlotRequest { queue, slot, offset, .. } = request.into_inner();
        match &mut self.queue().slot {
            None => return Err(refusal(reason::SLOT_NOT_FOUND)),
            Some(position) if *position > offset => return Err(refusal(reason::SLOT_MOVED)),
            Some(position) => *position = offset,
        }
        let slot = v1::SlotDescription { queue, slot, position: offset, ..Default::default() };
        Ok(Response::new(v1::AdvanceSlotResponse { slot: Some(slot) }))
    }

    async fn list_slots(
        &self,
        request: Request<v1::ListSlotsRequest>,
    ) -> Result<Response<v1::ListSlotsResponse>, Status> {
        self.exists(&request.into_inner().queue)?;
        let slots = self.queue().slot.into_iter();
        let slots = slots.map(|position| v1::SlotDescription { position, ..Default::default() });
        Ok(Response::new(v1::ListSlotsResponse { slots: slots.collect() }))
    }

    async fn list_consumers(
        &self,
        request: Request<v1::ListConsumersRequest>,
    ) -> Result<Response<v1::ListConsumersResponse>, Status> {
        let request = request.into_inner();
        self.exists(&request.queue)?;
        // Two pages of one, whoever is meant.
        let second = !request.page_token.is_empty();
        let name = if second { "second" } else { "first" }.to_owned();
        Ok(Response::new(v1::ListConsumersResponse {
            consumers: vec![v1::ConsumerDescription { name, ..Default::default() }],
            next_page_token: if second { String::new() } else { "first".to_owned() },
            queue_paused: true,
        }))
    }

    async fn control_consumer(
        &self,
        request: Request<v1::ControlConsumerRequest>,
    ) -> Result<Response<v1::ControlConsumerResponse>, Status> {
        use v1::control_consumer_request::Target;
        let request = request.into_inner();
        self.exists(&request.queue)?;
        match request.target {
            Some(Target::Name(name)) if name == "nobody" => {
                Err(refusal(reason::CONSUMER_NOT_FOUND))
            }
            Some(Target::Everyone(true)) => {
                Ok(Response::new(v1::ControlConsumerResponse { consumers: 2, ..<_>::default() }))
            }
            _ => Ok(Response::new(v1::ControlConsumerResponse { consumers: 1, ..<_>::default() })),
        }
    }

    async fn seek_consumers(
        &self,
        request: Request<v1::SeekConsumersRequest>,
    ) -> Result<Response<v1::SeekConsumersResponse>, Status> {
        use v1::seek_consumers_request::To;
        let request = request.into_inner();
        self.exists(&request.queue)?;
        let seeking = {
            let mut queue = self.queue();
            queue.seeks.push(request.dry_run);
            queue.seeking
        };
        seeking.befall().await?;
        let (offset, replayed) = match request.to {
            Some(To::First(true)) => (3, 6),
            Some(To::Next(true)) => (9, 0),
            Some(To::Offset(offset)) if offset < 3 => return Err(refusal(reason::OFFSET_GONE)),
            Some(To::Offset(offset)) => (offset, 9 - offset),
            Some(To::TimeMs(time)) => (time, 0),
            _ => return Err(refusal(reason::INVALID_ARGUMENT)),
        };
        let skipped = u64::from(!request.dry_run);
        Ok(Response::new(v1::SeekConsumersResponse { offset, replayed, skipped }))
    }

    async fn drop_slot(
        &self,
        _: Request<v1::DropSlotRequest>,
    ) -> Result<Response<v1::DropSlotResponse>, Status> {
        match self.queue().slot.take() {
            // The first answer is lost.
            Some(_) => Err(Status::unavailable("scripted break")),
            None => Err(refusal(reason::SLOT_NOT_FOUND)),
        }
    }

    async fn explain_placement(
        &self,
        _: Request<v1::ExplainPlacementRequest>,
    ) -> Result<Response<v1::ExplainPlacementResponse>, Status> {
        Err(Status::unimplemented("explain"))
    }

    async fn explain_message(
        &self,
        request: Request<v1::ExplainMessageRequest>,
    ) -> Result<Response<v1::ExplainMessageResponse>, Status> {
        use v1::explain_message_response::Place;
        let v1::ExplainMessageRequest { queue, offset } = request.into_inner();
        self.exists(&queue)?;
        // A node that is not the leader, and cannot ask it: another one is asked.
        if self.number == 0 {
            return Err(refusal(reason::NOT_LEADER));
        }
        let place = Some(Place::Unpublished(v1::UnpublishedMessage {}));
        let confirmed = true;
        Ok(Response::new(v1::ExplainMessageResponse {
            queue,
            offset,
            confirmed,
            place,
            ..<_>::default()
        }))
    }

    async fn delete_queue(
        &self,
        request: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        self.exists(&request.into_inner().name)?;
        self.queue().deleted = true;
        // The first answer is lost.
        Err(Status::unavailable("scripted break"))
    }
}

#[tonic::async_trait]
impl ClusterService for Node {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let describe = |(number, address): (usize, &SocketAddr)| v1::NodeDescription {
            node_id: number as u64 + 1,
            address: address.to_string(),
            ..Default::default()
        };
        let nodes = self.addresses.iter().enumerate().map(describe).collect();
        let node_id = self.number as u64 + 1;
        let catalog_leader = Some(self.leader()).filter(|_| !self.queue().leaderless);
        let status = v1::GetStatusResponse { node_id, nodes, catalog_leader, ..Default::default() };
        Ok(Response::new(status))
    }

    async fn locate_queue(
        &self,
        request: Request<v1::LocateQueueRequest>,
    ) -> Result<Response<v1::LocateQueueResponse>, Status> {
        self.exists(&request.into_inner().queue)?;
        if self.queue().leaderless {
            std::future::pending::<()>().await;
        }
        let nodes = self.addresses.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::LocateQueueResponse { leader: Some(self.leader()), nodes }))
    }

    async fn join_cluster(
        &self,
        _: Request<v1::JoinClusterRequest>,
    ) -> Result<Response<v1::JoinClusterResponse>, Status> {
        Err(Status::unimplemented("join"))
    }

    async fn transfer_leader(
        &self,
        _: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        Err(Status::unimplemented("transfer"))
    }

    async fn get_replication(
        &self,
        _: Request<v1::GetReplicationRequest>,
    ) -> Result<Response<v1::GetReplicationResponse>, Status> {
        Err(Status::unimplemented("replication"))
    }

    async fn get_receivers(
        &self,
        _: Request<v1::GetReceiversRequest>,
    ) -> Result<Response<v1::GetReceiversResponse>, Status> {
        Err(Status::unimplemented("receivers"))
    }

    async fn change_replicas(
        &self,
        _request: Request<v1::ChangeReplicasRequest>,
    ) -> Result<Response<v1::ChangeReplicasResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn recover_queues(
        &self,
        _request: Request<v1::RecoverQueuesRequest>,
    ) -> Result<Response<v1::RecoverQueuesResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn remove_node(
        &self,
        _request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn drain_node(
        &self,
        _: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        Err(Status::unimplemented("drain"))
    }

    async fn balance_leaders(
        &self,
        _: Request<v1::BalanceLeadersRequest>,
    ) -> Result<Response<v1::BalanceLeadersResponse>, Status> {
        Err(Status::unimplemented("balance"))
    }
}
