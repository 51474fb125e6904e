//! Receiving: one batch a call, for those who hold no stream.

use std::sync::Arc;
use std::time::Duration;

use quorate_machine::NodeId;
use quorate_machine::queue::{
    Attach, Command, Offset, Receive, Run, Session, SettleItem, SettleKind, Token,
};
use quorate_proto::{frame, v1};

use super::Services;
use super::consumer::{Attached, attached, check_consumer, check_filter, session_of};
use super::inlet::Inlet;
use crate::member::{BEHAVIOUR_VERSION, FILTERS_VERSION};
use crate::queue::Queue;
use crate::random::random;
use crate::refusal::Refusal;

/// Most messages of one answer.
const MESSAGES_MAX: u32 = 1_000;
/// Longest wait for a first message, in milliseconds.
const WAIT_MS_MAX: u32 = 60_000;
/// Most bytes of an answer with more than one message: below what gRPC clients take unless they are told otherwise.
const ANSWER_BYTES: usize = 3 << 20;

/// What a request asks for.
pub(crate) fn receive_of(
    request: &v1::ReceiveRequest,
    node: u64,
    new_session: impl FnOnce() -> Session,
) -> Result<Receive, Refusal> {
    let lease_ms = check_consumer(&request.name, request.lease_ms)?;
    let filter = check_filter(&request.filter)?;
    if request.max_messages > MESSAGES_MAX {
        return Err(Refusal::invalid(format!("`max_messages` is at most {MESSAGES_MAX}")));
    }
    if request.wait_ms > WAIT_MS_MAX {
        return Err(Refusal::invalid(format!("`wait_ms` is at most {WAIT_MS_MAX}")));
    }
    let session = match request.session.is_empty() {
        true => new_session(),
        false => session_of(&request.session)?,
    };
    Ok(Receive {
        session,
        node: NodeId(node),
        name: request.name.clone(),
        count: request.max_messages.max(1),
        lease_ms,
        wait_ms: request.wait_ms,
        filter,
    })
}

impl Services {
    pub(super) async fn receive_here(
        &self,
        queue: Arc<Queue>,
        request: &v1::ReceiveRequest,
    ) -> Result<v1::ReceiveResponse, Refusal> {
        self.node.expect_known(BEHAVIOUR_VERSION, "receiving without a stream")?;
        let receive = receive_of(request, self.node.id(), || Session(random()))?;
        if !receive.filter.is_empty() {
            self.node.expect_known(FILTERS_VERSION, "consumers that filter")?;
        }
        let (node, session) = (self.node.clone(), receive.session);
        let has_stream = queue.handle.read(|machine| machine.has_stream(session));
        if has_stream || queue.has_stream(session) {
            return Err(Refusal::invalid(
                "`session` is in use: by a consumer's stream, or by a call that waits",
            ));
        }
        let attach = Attach {
            session,
            node: receive.node,
            name: receive.name.clone(),
            // Traces follow no further than the answer: what becomes of the messages is told by other calls.
            prefetch: 0,
            lease_ms: receive.lease_ms,
            tells_starts: false,
            filter: Vec::new(),
        };
        let traces = Arc::new(node.telemetry.deliveries(&queue, &attach));
        let traces_of = traces.clone();
        let mut inlet = Inlet::open(node.clone(), queue.clone(), session, receive.count, traces_of);
        let wait = Duration::from_millis(receive.wait_ms.into());
        let limit = node.config.limits.request_timeout();
        let command = Command::Receive(receive);
        // In a task of its own: a caller that goes away leaves nobody behind that waits.
        let by = node.id();
        let attaching = attached(node.clone(), queue.clone(), traces, session, by, command);
        let mut attached = match tokio::time::timeout(limit, tokio::spawn(attaching)).await {
            Ok(Ok(attached)) => attached?,
            Ok(Err(_)) => return Err(Refusal::unknown_outcome()),
            Err(_) => return Err(Refusal::no_quorum("receive messages")),
        };
        inlet.attached_at(attached.since, Some(attached.attachment));
        let leased = match tokio::time::timeout(wait + limit, inlet.next()).await {
            Ok(leased) => leased?,
            Err(_) => return Err(Refusal::no_quorum("receive messages")),
        };
        attached.is_over = true;
        let messages = received(attached, &inlet, leased).await?;
        let session = session.0.to_be_bytes().to_vec().into();
        Ok(v1::ReceiveResponse { session, messages })
    }
}

/// The messages of what was leased, as far as an answer has room for them; the others are given back.
async fn received(
    attached: Attached,
    inlet: &Inlet,
    (token, runs): (Token, Vec<Run>),
) -> Result<Vec<v1::ReceivedMessage>, Refusal> {
    let (mut messages, mut bytes) = (Vec::new(), 0);
    let mut runs = runs.into_iter();
    while let Some(run) = runs.next() {
        let Some(delivery) = inlet.delivery(token, run).await? else { continue };
        let frame = delivery.frame.unwrap_or_default();
        let views = frame::messages(&frame).map_err(|error| {
            // They were checked when they were published.
            let offset = run.first_offset.0;
            tracing::error!(queue = %attached.queue.name, offset, %error, "a frame cannot be cut");
            Refusal::unknown_outcome()
        })?;
        for (skip, message) in (0..).zip(views) {
            let offset = run.first_offset.0 + u64::from(skip);
            let headers: Vec<_> = message.headers.iter().collect();
            let message_bytes = frame::message_bytes(&headers, &message.body);
            if bytes > 0 && bytes + message_bytes > ANSWER_BYTES {
                let rest = Run { first_offset: Offset(offset), count: run.count - skip, ..run };
                give_back(attached, token, std::iter::once(rest).chain(runs));
                return Ok(messages);
            }
            bytes += message_bytes;
            let headers = headers.into_iter();
            messages.push(v1::ReceivedMessage {
                token: token.0,
                offset,
                attempt: run.attempt,
                headers: headers
                    .map(|(key, value)| v1::Header { key: key.to_owned(), value })
                    .collect(),
                body: message.body,
            });
        }
    }
    Ok(messages)
}

/// What the answer has no room for was never delivered: it goes back uncharged. If it comes to nothing, the leases end in
/// any case. That all nodes know the kind was seen to before anything was received.
fn give_back(attached: Attached, token: Token, runs: impl Iterator<Item = Run>) {
    let item = |run: Run| SettleItem {
        kind: SettleKind::Return,
        token,
        first: run.first_offset,
        count: run.count,
    };
    let (session, items) = (attached.session, runs.map(item).collect());
    // Not dropped before it is in the log, which would withdraw it.
    tokio::spawn(async move {
        let settle = Command::Settle { session, items };
        if let Err(error) = attached.queue.handle.propose(settle).await {
            tracing::debug!(queue = %attached.queue.name, %error, "give back: the leases end");
        }
    });
}
