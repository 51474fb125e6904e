//! Reading: one reader's stream, from whichever replica is here.
//!
//! ```text
//! at least the session's index ─► complete as of long enough ago ─► what is to be seen ─► bodies from the log
//!          ▲                                                                                    │
//!          └───────────────── something was applied, or it is time to look again ◄──────────────┘
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use quorate_group::ProposeError;
use quorate_machine::Millis;
use quorate_machine::queue::{Offset, Queue as Machine, SlotInfo, SlotName, View};
use quorate_proto::{reason, v1};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::slots::slot_name;
use super::{Answers, Services};
use crate::member::Member;
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{Place, forwarded, hops, passed_on};

/// Most messages and bytes of one answer.
const PART_MESSAGES: u32 = 1_000;
const PART_BYTES: u64 = 256 * 1024;
/// How old a read may be that does not say.
const STALENESS: Duration = Duration::from_secs(1);
/// The longest `max_staleness_ms`: an hour.
const STALENESS_MS_MAX: u32 = 3_600_000;
/// A reader that follows and has nothing to see is told so this often, and how old that is.
const NEWS_EVERY: Duration = Duration::from_secs(1);
/// How long a replica tries to become complete enough before the reader is sent to another one: time to ask
/// the leader, and to hear of a new one.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two attempts to learn the read index.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Views whose bodies were let go of meanwhile, before that counts as a failure.
const ATTEMPTS: usize = 3;

/// How old what is read may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Staleness(Duration),
    Linearizable,
}

pub(crate) fn bound_of(request: &v1::ReadRequest) -> Result<Bound, Refusal> {
    use v1::read_request::Consistency;
    match request.consistency {
        None | Some(Consistency::Linearizable(false)) => Ok(Bound::Staleness(STALENESS)),
        Some(Consistency::Linearizable(true)) => Ok(Bound::Linearizable),
        Some(Consistency::MaxStalenessMs(ms @ 1..=STALENESS_MS_MAX)) => {
            Ok(Bound::Staleness(Duration::from_millis(ms.into())))
        }
        Some(Consistency::MaxStalenessMs(_)) => {
            let message = format!("`max_staleness_ms` must be within 1 and {STALENESS_MS_MAX}");
            Err(Refusal::invalid(message))
        }
    }
}

/// The slot that a request reads through.
pub(crate) fn slot_of(request: &v1::ReadRequest) -> Result<Option<SlotName>, Refusal> {
    use v1::read_request::From;
    match (request.slot.as_str(), request.from) {
        ("", _) => Ok(None),
        (_, Some(From::TimeMs(_) | From::Next(_))) => {
            Err(Refusal::invalid("with `slot`, `from` is left out or an `offset`"))
        }
        (slot, _) => slot_name(slot).map(Some),
    }
}

/// A reader's place in the queue, and what it asked for.
struct Reading {
    node: Arc<Member>,
    queue: Arc<Queue>,
    bound: Bound,
    at_least: u64,
    /// What the replica had applied at the last look, entries without commands included.
    applied: u64,
    /// Not known before the first look.
    next: Option<Offset>,
    from: Option<v1::read_request::From>,
    /// The slot that it reads through.
    slot: Option<SlotName>,
    /// When that was made, by the log; not known before the first look.
    slot_made_at: u64,
    /// Messages that it still wants.
    left: Option<u64>,
}

/// What one look at the replica showed.
struct Seen {
    view: View,
    position: v1::ReadPosition,
}

impl Reading {
    fn stale(&self, why: &str, staleness: Option<Duration>) -> Refusal {
        let asked = match self.bound {
            Bound::Staleness(bound) => format!("at most {bound:?} old"),
            Bound::Linearizable => "linearizable".to_owned(),
        };
        let message = format!(
            "node {} cannot serve a read that is {asked}: {why}; read at another replica, or allow \
             more (max_staleness_ms)",
            self.node.id()
        );
        Refusal::stale(message, staleness)
    }

    /// Looks at the replica once it is complete enough.
    async fn look(&mut self) -> Result<Seen, Refusal> {
        let begun = Instant::now();
        // Where a slot is, is told as of now: an older position would be read again.
        let asked = match self.slot {
            Some(_) if self.next.is_none() && self.at_least == 0 => Bound::Linearizable,
            _ => self.bound,
        };
        let bound = match asked {
            Bound::Staleness(bound) => bound,
            Bound::Linearizable => Duration::ZERO,
        };
        let most = self.node.config.limits.request_timeout();
        let behind = self.queue.handle.applied_at_least(self.at_least);
        match tokio::time::timeout(PATIENCE.min(most), behind).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Refusal::shutting_down()),
            Err(_) => {
                return Err(self.stale("its replica is behind what the reader has seen", None));
            }
        }
        // A replica that takes seconds to have what the leader had is as old as that, and may be good enough.
        let limit = bound.max(PATIENCE).min(most);
        let mut asks_anew = false;
        loop {
            if self.node.shutdown.is_said() {
                return Err(Refusal::shutting_down());
            }
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(self.stale("no leader answers it", None));
            }
            let since = match asked {
                Bound::Staleness(bound) if !asks_anew => {
                    Instant::now().checked_sub(bound).unwrap_or(begun)
                }
                Bound::Staleness(_) => begun,
                Bound::Linearizable => begun,
            };
            match tokio::time::timeout(left, self.queue.handle.complete_as_of(since)).await {
                Ok(Ok(as_of)) => {
                    let seen = self.see(as_of)?;
                    let staleness = Duration::from_millis(seen.position.staleness_ms.into());
                    if asked == Bound::Linearizable || staleness <= bound {
                        return Ok(seen);
                    }
                    // What was known of it became too old while it was looked at: ask.
                    if !std::mem::replace(&mut asks_anew, true) && as_of < begun {
                        continue;
                    }
                    // The answer took longer to come than it was good for.
                    return Err(self.stale("the way to the leader is slower", Some(staleness)));
                }
                Ok(Err(ProposeError::Stopped)) => return Err(Refusal::shutting_down()),
                Ok(Err(_)) => tokio::time::sleep(ASK_EVERY).await,
                Err(_) => return Err(self.stale("no leader answers it", None)),
            }
        }
    }

    fn see(&mut self, as_of: Instant) -> Result<Seen, Refusal> {
        let most = self.left.map_or(PART_MESSAGES, |left| left.min(PART_MESSAGES.into()) as u32);
        let handle = &self.queue.handle;
        self.applied = handle.replica().applied();
        let (view, first, end, index) = handle.read_at(|machine, index| {
            let view = self
                .start(machine)
                .map(|(next, made_at)| (machine.view(next, most, PART_BYTES), made_at));
            (view, machine.first_readable(), machine.next_offset(), index)
        });
        let (view, made_at) = view?;
        self.slot_made_at = made_at;
        // Rounded up: it is an upper bound.
        let staleness = as_of.elapsed().as_micros().div_ceil(1000);
        let position = v1::ReadPosition {
            node_id: self.node.id(),
            index,
            staleness_ms: u32::try_from(staleness).unwrap_or(u32::MAX),
            next_offset: view.next.0,
            first_offset: first.0,
            end_offset: end.0,
            group_id: self.queue.handle.id(),
            slot_made_at: made_at,
        };
        Ok(Seen { view, position })
    }

    /// Where to go on, or to begin; and of which life of the slot, if it reads through one.
    fn start(&self, machine: &Machine) -> Result<(Offset, u64), Refusal> {
        use v1::read_request::From;
        let next = self.next.or(match self.from {
            None => None,
            Some(From::Offset(offset)) => Some(Offset(offset)),
            Some(From::TimeMs(time)) => Some(machine.offset_at(Millis(time))),
            Some(From::Next(_)) => Some(machine.next_offset()),
        });
        match &self.slot {
            None => Ok((next.unwrap_or_else(|| machine.first_readable()), 0)),
            Some(name) => self.start_of_slot(machine, name, next),
        }
    }

    /// From a slot's position on all messages are there, as long as it is not lost.
    fn start_of_slot(
        &self,
        machine: &Machine,
        name: &SlotName,
        next: Option<Offset>,
    ) -> Result<(Offset, u64), Refusal> {
        let queue = self.queue.name.as_str();
        // One of the name that was made meanwhile has a place of its own.
        let meant = |slot: &SlotInfo| [0, slot.made_at].contains(&self.slot_made_at);
        let Some(slot) = machine.slot(name).filter(meant) else {
            return Err(Refusal::slot_not_found(queue, name));
        };
        match (slot.lost_from, next) {
            (Some(from), _) => {
                Err(Refusal::slot_lost(queue, &slot, from, machine.first_readable()))
            }
            (None, Some(next)) if next < slot.position => {
                Err(Refusal::slot_moved(queue, name, slot.position, next))
            }
            (None, next) => Ok((next.unwrap_or(slot.position), slot.made_at)),
        }
    }

    /// The next part of what is to be read.
    async fn part(&mut self) -> Result<v1::ReadResponse, Refusal> {
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            let seen = self.look().await?;
            match self.bodies(&seen.view).await {
                Ok(batches) => {
                    let read: u64 = seen.view.pieces.iter().map(|p| u64::from(p.run.count)).sum();
                    let bytes = batches.iter().filter_map(|batch| batch.frame.as_ref());
                    let bytes: usize = bytes.map(|frame| frame.messages.len()).sum();
                    self.node.counts.read.add(read);
                    self.node.counts.read_bytes.add(bytes as u64);
                    self.next = Some(seen.view.next);
                    self.at_least = seen.position.index;
                    self.left = self.left.map(|left| left - read);
                    return Ok(v1::ReadResponse { batches, position: Some(seen.position) });
                }
                // Let go of between the look and the reading: look again.
                Err(error) => failed = Some(error),
            }
        }
        let error = failed.map_or_else(String::new, |error| error.to_string());
        let (queue, node) = (&self.queue.name, self.node.id());
        tracing::error!(node, %queue, %error, "a reader's messages cannot be read");
        let message =
            format!("node {node} cannot read the messages: {error}; read another replica");
        Err(Refusal::stale(message, None))
    }

    async fn bodies(&self, view: &View) -> io::Result<Vec<v1::ReadBatch>> {
        let mut batches = Vec::with_capacity(view.pieces.len());
        for piece in &view.pieces {
            batches.push(v1::ReadBatch {
                first_offset: piece.run.first_offset.0,
                published_at_ms: piece.since.0,
                frame: Some(self.queue.frame(piece.run).await?),
            });
        }
        Ok(batches)
    }

    fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Until there may be something new to tell.
    async fn wait(&self) -> Result<(), Refusal> {
        tokio::select! {
            biased;
            () = self.node.shutdown.said() => Err(Refusal::shutting_down()),
            // Without its replica, the queue is deleted or moved: elsewhere it is known which.
            waited = self.queue.handle.applied_beyond(self.applied, NEWS_EVERY) => {
                waited.map_err(|_| Refusal::not_leader(None))
            }
        }
    }
}

impl Refusal {
    fn stale(message: String, staleness: Option<Duration>) -> Self {
        let refusal = Self::new(reason::STALENESS_EXCEEDED, message).retry(ASK_EVERY);
        match staleness {
            Some(staleness) => refusal.with("staleness_ms", staleness.as_millis()),
            None => refusal,
        }
    }
}

#[tonic::async_trait]
impl v1::reader_service_server::ReaderService for Services {
    type ReadStream = Answers<v1::ReadResponse>;

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let hops = hops(request.metadata());
        let permit = self.node.budget.stream()?;
        let request = request.into_inner();
        let bound = bound_of(&request)?;
        let slot = slot_of(&request)?;
        let queue = match self.node.place_to_read(&request.queue, hops).await? {
            Place::Here(queue) => queue,
            Place::There(node) => {
                let channel = self.node.channel(node)?;
                let mut client = v1::reader_service_client::ReaderServiceClient::new(channel)
                    .max_decoding_message_size(crate::peers::MESSAGE_BYTES_MAX);
                let answers = client.read(forwarded(request, hops)).await.map_err(passed_on)?;
                let answers = answers.into_inner().map_err(passed_on);
                return Ok(Response::new(Box::pin(answers)));
            }
        };
        if request.group_id > queue.handle.id() {
            // This node has not heard of the later queue yet.
            return Err(Refusal::not_leader(None).into());
        }
        if request.group_id > 0 && request.group_id < queue.handle.id() {
            let mut refusal = Refusal::queue_not_found(&request.queue);
            refusal.message =
                format!("queue `{}` was deleted and created again since", request.queue);
            return Err(refusal.into());
        }
        let mut reading = Reading {
            node: self.node.clone(),
            queue,
            bound,
            at_least: request.at_least_index,
            applied: 0,
            next: None,
            from: request.from,
            slot,
            slot_made_at: request.slot_made_at,
            left: (request.max_messages > 0).then_some(request.max_messages),
        };
        let follows = request.follow;
        // What cannot be served at all is refused before the stream begins.
        let mut part = reading.part().await?;
        // Where a reader that does not follow ends: a queue may grow as fast as it is read.
        let end = part.position.unwrap_or_default().end_offset;
        let answers = async_stream::stream! {
            let _permit = permit;
            let mut told: Option<Instant> = None;
            loop {
                let position = part.position.unwrap_or_default();
                let at_end = position.next_offset >= position.end_offset;
                let is_last = reading.is_done() || (position.next_offset >= end && !follows);
                // Entries without messages for it are no news, but now and then how old it is.
                let is_news = told.is_none_or(|at| at.elapsed() >= NEWS_EVERY);
                if is_last || is_news || !part.batches.is_empty() {
                    told = Some(Instant::now());
                    yield Ok(part);
                }
                if is_last {
                    return;
                }
                let waited = if at_end { reading.wait().await } else { Ok(()) };
                let next = match waited {
                    Ok(()) => reading.part().await,
                    Err(refusal) => Err(refusal),
                };
                part = match next {
                    Ok(part) => part,
                    Err(refusal) => {
                        yield Err(refusal.into());
                        return;
                    }
                };
            }
        };
        Ok(Response::new(Box::pin(answers)))
    }
}
