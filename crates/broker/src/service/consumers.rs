//! Consumers from an administrator's view: listed, paused, resumed and ended at the queue's leader. Consuming itself is in
//! `consumer`.

use quorate_machine::queue::{Command, ConsumerInfo, Control, Rejection, Reply, Session, Target};
use quorate_machine::{NodeId, catalog};
use quorate_proto::{reason, v1};
use tonic::{Request, Response, Status};

use super::Services;
use super::admin::{PAGE_DEFAULT, PAGE_MAX};
use super::consumer::{NAME_BYTES_MAX, session_of};
use crate::member::{BEHAVIOUR_VERSION, Member};
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{Place, forwarded, hops, passed_on};

/// The consumers that a request means.
pub(crate) fn target_of(request: &v1::ControlConsumerRequest) -> Result<Target, Refusal> {
    use v1::control_consumer_request::Target as Wanted;
    match &request.target {
        Some(Wanted::Session(session)) => Ok(Target::Session(session_of(session)?)),
        Some(Wanted::Name(name)) => {
            check_name(name)?;
            Ok(Target::Named(name.clone()))
        }
        Some(Wanted::Everyone(true)) => Ok(Target::Everyone),
        Some(Wanted::Everyone(false)) | None => {
            Err(Refusal::invalid("name the consumers: `session`, `name`, or `everyone` = true"))
        }
    }
}

pub(crate) fn control_of(request: &v1::ControlConsumerRequest) -> Result<Control, Refusal> {
    match request.what() {
        v1::ConsumerControl::Pause => Ok(Control::Pause),
        v1::ConsumerControl::Resume => Ok(Control::Resume),
        v1::ConsumerControl::Kick => Ok(Control::Kick),
        v1::ConsumerControl::Unspecified => {
            Err(Refusal::invalid("`what` is one of PAUSE, RESUME and KICK"))
        }
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    match name.len() {
        0..=NAME_BYTES_MAX => Ok(()),
        _ => Err(Refusal::invalid(format!("`name` is longer than {NAME_BYTES_MAX} bytes"))),
    }
}

pub(super) fn session_bytes(session: Session) -> bytes::Bytes {
    session.0.to_be_bytes().to_vec().into()
}

fn shown(target: &Target) -> String {
    match target {
        Target::Session(session) => format!("session {:032x}", session.0),
        Target::Named(name) => format!("`{name}`"),
        Target::Everyone => "everyone".to_owned(),
    }
}

impl Member {
    /// A consumer, with what its node is to the queue.
    pub(super) fn consumer(
        &self,
        info: ConsumerInfo,
        replicas: &[v1::Replica],
    ) -> v1::ConsumerDescription {
        let node = info.node.0;
        let zone = |catalog: &catalog::Catalog| {
            catalog.node(NodeId(node)).map(|node| node.zone.clone()).unwrap_or_default()
        };
        let replica = replicas.iter().find(|replica| replica.node_id == node);
        v1::ConsumerDescription {
            name: info.name,
            session: session_bytes(info.session),
            node_id: node,
            prefetch: info.prefetch,
            leased: info.leased,
            connected: info.connected,
            active: info.active,
            paused: info.paused,
            tells_starts: info.tells_starts,
            filter: info.filter,
            zone: self.catalog.read(zone),
            role: replica.map_or(0, |replica| replica.role),
        }
    }

    fn list_consumers(
        &self,
        queue: &Queue,
        request: &v1::ListConsumersRequest,
    ) -> Result<v1::ListConsumersResponse, Refusal> {
        check_name(&request.name)?;
        let size = match request.page_size {
            0 => PAGE_DEFAULT,
            size => size.min(PAGE_MAX),
        } as usize;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(u128::from_str_radix(token, 16).map(Session).map_err(|_| {
                Refusal::invalid("`page_token` is not that of a page of consumers")
            })?),
        };
        let one = match request.session.is_empty() {
            true => None,
            false => Some(session_of(&request.session)?),
        };
        let is_wanted = |info: &ConsumerInfo| {
            one.is_none_or(|one| info.session == one)
                && (request.name.is_empty() || info.name == request.name)
        };
        let (mut page, queue_paused) = queue.handle.read(|machine| {
            let wanted = machine.consumers_after(after).filter(is_wanted);
            (wanted.take(size + 1).collect::<Vec<_>>(), machine.is_paused())
        });
        let more = page.len() > size;
        page.truncate(size);
        let next_page_token = match page.last() {
            Some(last) if more => format!("{:032x}", last.session.0),
            _ => String::new(),
        };
        let known = self.known(&queue.name);
        let known = known.ok_or_else(|| Refusal::queue_not_found(queue.name.as_str()))?;
        let replicas = self.describe(&known).replicas;
        let consumers = page.into_iter().map(|info| self.consumer(info, &replicas)).collect();
        Ok(v1::ListConsumersResponse { consumers, next_page_token, queue_paused })
    }

    async fn control_consumers(
        &self,
        queue: &Queue,
        target: Target,
        what: Control,
    ) -> Result<u32, Refusal> {
        self.expect_known(BEHAVIOUR_VERSION, "the control of consumers")?;
        let meant = shown(&target);
        let limit = self.config.limits.request_timeout();
        let proposed = queue.handle.propose(Command::ControlConsumer { target, what });
        match tokio::time::timeout(limit, proposed).await {
            Ok(Ok(Reply::Controlled { consumers })) => {
                tracing::info!(node = self.id(), queue = %queue.name, %meant, ?what, consumers, "control");
                Ok(consumers)
            }
            Ok(Ok(Reply::Rejected(Rejection::ConsumerNotFound))) => {
                let name = queue.name.as_str();
                let message = format!(
                    "queue `{name}` has no consumer {meant}; `quorate consumer list {name}` shows those that it has"
                );
                Err(Refusal::new(reason::CONSUMER_NOT_FOUND, message).with("queue", name))
            }
            Ok(Ok(Reply::Rejected(rejection))) => Err(rejection.into()),
            Ok(Ok(_)) => Err(Refusal::unknown_outcome()),
            Ok(Err(error)) => Err(self.redirect(queue, error)),
            Err(_) => Err(Refusal::no_quorum("control the consumers")),
        }
    }
}

impl Services {
    pub(super) async fn consumers_listed(
        &self,
        request: Request<v1::ListConsumersRequest>,
    ) -> Result<Response<v1::ListConsumersResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        match self.node.place(&request.queue, hops).await? {
            Place::Here(queue) => Ok(Response::new(self.node.list_consumers(&queue, &request)?)),
            Place::There(node) => {
                let request = forwarded(request, hops);
                self.admin(node)?.list_consumers(request).await.map_err(passed_on)
            }
        }
    }

    pub(super) async fn consumers_controlled(
        &self,
        request: Request<v1::ControlConsumerRequest>,
    ) -> Result<Response<v1::ControlConsumerResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        let (target, what) = (target_of(&request)?, control_of(&request)?);
        if let Some(sharded) = self.node.sharded(&request.queue) {
            return self.shards_controlled(&sharded, &request).await;
        }
        match self.node.place(&request.queue, hops).await? {
            Place::Here(queue) => {
                let consumers = self.node.control_consumers(&queue, target, what).await?;
                let shards = Vec::new();
                Ok(Response::new(v1::ControlConsumerResponse { consumers, shards }))
            }
            Place::There(node) => {
                let request = forwarded(request, hops);
                self.admin(node)?.control_consumer(request).await.map_err(passed_on)
            }
        }
    }
}
