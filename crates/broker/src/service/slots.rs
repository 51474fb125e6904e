//! Slots of a queue: made, moved, listed and dropped at its leader. Reading through one is in `reader`.

use quorate_machine::queue::{
    Command, CreateSlot, Offset, RETAINED_MAX, Rejection, Reply, SLOT_RETAINED_BYTES_DEFAULT,
    SlotInfo, SlotName, SlotStart, SlotState,
};
use quorate_proto::{reason, v1};
use tonic::{Request, Response, Status};

use super::Services;
use crate::member::{Member, SLOTS_VERSION};
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{Place, forwarded, hops, passed_on};

pub(crate) fn slot_name(name: &str) -> Result<SlotName, Refusal> {
    SlotName::parse(name).map_err(|error| Refusal::invalid(error.to_string()))
}

/// The slot that a request asks for.
pub(crate) fn create_of(request: &v1::CreateSlotRequest) -> Result<CreateSlot, Refusal> {
    use v1::create_slot_request::From;
    Ok(CreateSlot {
        name: slot_name(&request.slot)?,
        from: match request.from {
            None | Some(From::First(_)) => SlotStart::First,
            Some(From::Next(_)) => SlotStart::Next,
            Some(From::Offset(offset)) => SlotStart::Offset(Offset(offset)),
        },
        max_retained_bytes: match request.max_retained_bytes {
            0 => SLOT_RETAINED_BYTES_DEFAULT,
            bytes => bytes,
        },
        max_idle_ms: request.max_idle_ms,
    })
}

fn description(queue: &Queue, slot: &SlotInfo) -> v1::SlotDescription {
    let state = match slot.state {
        SlotState::Reserved => v1::SlotState::Reserved,
        SlotState::Extended => v1::SlotState::Extended,
        SlotState::Unreserved => v1::SlotState::Unreserved,
        SlotState::Lost => v1::SlotState::Lost,
    };
    v1::SlotDescription {
        queue: queue.name.as_str().into(),
        slot: slot.name.as_str().into(),
        group_id: queue.handle.id(),
        made_at: slot.made_at,
        position: slot.position.0,
        state: state.into(),
        retained_bytes: slot.retained_bytes,
        lag_messages: slot.lag,
        max_retained_bytes: slot.max_retained_bytes,
        max_idle_ms: slot.max_idle_ms,
        waiting_since_ms: slot.waiting_since.map(|since| since.0),
        lost_from: slot.lost_from.map(|offset| offset.0),
    }
}

impl Refusal {
    pub(crate) fn slot_not_found(queue: &str, slot: &SlotName) -> Self {
        let message = format!(
            "queue `{queue}` has no slot `{slot}`; create it with `quorate slot create {queue} {slot}`"
        );
        Self::new(reason::SLOT_NOT_FOUND, message).with("queue", queue).with("slot", slot)
    }

    /// `first`: from where on the queue can be read.
    pub(crate) fn slot_lost(queue: &str, slot: &SlotInfo, from: Offset, first: Offset) -> Self {
        let (name, position) = (&slot.name, slot.position.0);
        let message = format!(
            "slot `{name}` at {position} is lost: messages from {} on were let go of, since it was beyond \
             its bounds (max_retained_bytes, max_idle_ms, or {RETAINED_MAX} settled batches), or the queue was \
             purged; drop it and create it anew, or read without it from {}, the first that can be read",
            from.0, first.0
        );
        Self::new(reason::SLOT_LOST, message)
            .with("queue", queue)
            .with("slot", name)
            .with("position", position)
            .with("lost_from", from.0)
            .with("first_offset", first.0)
    }

    pub(crate) fn slot_moved(queue: &str, slot: &SlotName, position: Offset, at: Offset) -> Self {
        let message = format!(
            "slot `{slot}` is at {} already, beyond {}: it moves forward only, and somebody else has moved \
             it; let one reader at a time use it, and begin again at its position",
            position.0, at.0
        );
        Self::new(reason::SLOT_MOVED, message)
            .with("queue", queue)
            .with("slot", slot)
            .with("position", position.0)
    }
}

impl Member {
    /// Proposes a command about a slot; a rejection is told with what to do.
    async fn propose_slot(
        &self,
        queue: &Queue,
        slot: &SlotName,
        at: Offset,
        command: Command,
    ) -> Result<Reply, Refusal> {
        self.expect_known(SLOTS_VERSION, "slots")?;
        let limit = self.config.limits.request_timeout();
        match tokio::time::timeout(limit, queue.handle.propose(command)).await {
            Ok(Ok(Reply::Rejected(rejection))) => Err(refused(queue, slot, at, rejection)),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(self.redirect(queue, error)),
            Err(_) => Err(Refusal::no_quorum("change the slot")),
        }
    }
}

fn refused(queue: &Queue, slot: &SlotName, at: Offset, rejection: Rejection) -> Refusal {
    let message = rejection.to_string();
    let name = queue.name.as_str();
    match rejection {
        Rejection::SlotNotFound => Refusal::slot_not_found(name, slot),
        Rejection::SlotExists => Refusal::new(
            reason::SLOT_EXISTS,
            format!(
                "slot `{slot}` of queue `{name}` exists with other parameters; choose another name, or \
                 drop it first with `quorate slot drop {name} {slot}`"
            ),
        )
        .with("queue", name)
        .with("slot", slot),
        Rejection::SlotLost { from } => {
            let (info, first) =
                queue.handle.read(|machine| (machine.slot(slot), machine.first_readable()));
            match info {
                Some(info) => Refusal::slot_lost(name, &info, from, first),
                None => Refusal::slot_not_found(name, slot),
            }
        }
        Rejection::SlotBehind { position } => Refusal::slot_moved(name, slot, position, at),
        Rejection::SlotBeyondEnd { next } => {
            let message = format!("{message}: a slot is moved to {} at most, not {}", next.0, at.0);
            Refusal::invalid(message).with("next_offset", next.0)
        }
        Rejection::SlotNotReadable { first, next } => {
            Refusal::invalid(format!("{message}; leave the offset out to begin with the first"))
                .with("first_offset", first.0)
                .with("next_offset", next.0)
        }
        Rejection::TooManySlots { limit } => {
            let message = format!("{message}; drop those that nobody reads (`quorate slot list`)");
            Refusal::new(reason::QUOTA_EXCEEDED, message).with("limit", "slots").with("max", limit)
        }
        rejection => rejection.into(),
    }
}

impl Services {
    pub(super) async fn slot_created(
        &self,
        request: Request<v1::CreateSlotRequest>,
    ) -> Result<Response<v1::CreateSlotResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        let create = create_of(&request)?;
        let queue = match self.node.place(&request.queue, hops).await? {
            Place::Here(queue) => queue,
            Place::There(node) => {
                let request = forwarded(request, hops);
                return self.admin(node)?.create_slot(request).await.map_err(passed_on);
            }
        };
        let (name, command) = (create.name.clone(), Command::CreateSlot(create));
        match self.node.propose_slot(&queue, &name, Offset(0), command).await? {
            Reply::SlotCreated { slot, created } => {
                let slot = Some(description(&queue, &slot));
                Ok(Response::new(v1::CreateSlotResponse { slot, created }))
            }
            _ => Err(Refusal::unknown_outcome().into()),
        }
    }

    pub(super) async fn slot_advanced(
        &self,
        request: Request<v1::AdvanceSlotRequest>,
    ) -> Result<Response<v1::AdvanceSlotResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        let (name, to) = (slot_name(&request.slot)?, Offset(request.offset));
        let queue = match self.node.place(&request.queue, hops).await? {
            Place::Here(queue) => queue,
            Place::There(node) => {
                let request = forwarded(request, hops);
                return self.admin(node)?.advance_slot(request).await.map_err(passed_on);
            }
        };
        if request.group_id > 0 && request.group_id != queue.handle.id() {
            // Another queue of the name by now.
            return Err(Refusal::queue_not_found(&request.queue).into());
        }
        let made_at = request.made_at;
        let command = Command::AdvanceSlot { name: name.clone(), made_at, to };
        match self.node.propose_slot(&queue, &name, to, command).await? {
            Reply::SlotAdvanced { slot } => {
                let slot = Some(description(&queue, &slot));
                Ok(Response::new(v1::AdvanceSlotResponse { slot }))
            }
            _ => Err(Refusal::unknown_outcome().into()),
        }
    }

    pub(super) async fn slots_listed(
        &self,
        request: Request<v1::ListSlotsRequest>,
    ) -> Result<Response<v1::ListSlotsResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        match self.node.place(&request.queue, hops).await? {
            Place::Here(queue) => {
                let slots = queue.handle.read(|machine| machine.slots());
                let slots = slots.iter().map(|slot| description(&queue, slot)).collect();
                Ok(Response::new(v1::ListSlotsResponse { slots }))
            }
            Place::There(node) => {
                let request = forwarded(request, hops);
                self.admin(node)?.list_slots(request).await.map_err(passed_on)
            }
        }
    }

    pub(super) async fn slot_dropped(
        &self,
        request: Request<v1::DropSlotRequest>,
    ) -> Result<Response<v1::DropSlotResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        let name = slot_name(&request.slot)?;
        let queue = match self.node.place(&request.queue, hops).await? {
            Place::Here(queue) => queue,
            Place::There(node) => {
                let request = forwarded(request, hops);
                return self.admin(node)?.drop_slot(request).await.map_err(passed_on);
            }
        };
        let command = Command::DropSlot { name: name.clone() };
        self.node.propose_slot(&queue, &name, Offset(0), command).await?;
        Ok(Response::new(v1::DropSlotResponse {}))
    }
}
