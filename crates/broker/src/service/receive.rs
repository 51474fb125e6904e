//! Receiving: one batch a call, for those who hold no stream.

use std::sync::Arc;
use std::time::Duration;

use quorate_machine::NodeId;
use quorate_machine::queue::{Attach, Command, Receive, Run, Session, Token};
use quorate_proto::{frame, v1};

use super::Services;
use super::consumer::{Attached, attached, check_consumer, session_of, submit};
use super::inlet::Inlet;
use crate::member::BEHAVIOUR_VERSION;
use crate::queue::Queue;
use crate::random::random;
use crate::refusal::Refusal;

/// Most messages of one answer.
const MESSAGES_MAX: u32 = 1_000;
/// Longest wait for a first message, in milliseconds.
const WAIT_MS_MAX: u32 = 60_000;
/// Beyond so many bytes of messages an answer takes in no further run.
const ANSWER_BYTES: usize = 16 << 20;

/// What a request asks for.
pub(crate) fn receive_of(
    request: &v1::ReceiveRequest,
    node: u64,
    new_session: impl FnOnce() -> Session,
) -> Result<Receive, Refusal> {
    let lease_ms = check_consumer(&request.name, request.lease_ms)?;
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
        let (node, session) = (self.node.clone(), receive.session);
        let attach = Attach {
            session,
            node: receive.node,
            name: receive.name.clone(),
            prefetch: receive.count,
            lease_ms: receive.lease_ms,
        };
        let traces = Arc::new(node.telemetry.deliveries(&queue, &attach));
        let mut inlet = Inlet::open(node.clone(), queue.clone(), session, traces.clone());
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
        inlet.attached_at(attached.since);
        let leased = match tokio::time::timeout(wait + limit, inlet.next()).await {
            Ok(leased) => leased?,
            Err(_) => return Err(Refusal::no_quorum("receive messages")),
        };
        attached.is_over = true;
        let messages = received(&attached, &inlet, leased).await?;
        let session = session.0.to_be_bytes().to_vec().into();
        Ok(v1::ReceiveResponse { session, messages })
    }
}

/// The messages of what was leased, as far as an answer has room for them; the others are given back.
async fn received(
    attached: &Attached,
    inlet: &Inlet,
    (token, runs): (Token, Vec<Run>),
) -> Result<Vec<v1::ReceivedMessage>, Refusal> {
    let (mut messages, mut bytes) = (Vec::new(), 0);
    let mut runs = runs.into_iter();
    while let Some(run) = runs.next() {
        let Some(delivery) = inlet.delivery(token, run).await? else { continue };
        let frame = delivery.frame.unwrap_or_default();
        if bytes > 0 && bytes + frame.messages.len() > ANSWER_BYTES {
            give_back(attached, token, std::iter::once(run).chain(runs)).await?;
            break;
        }
        bytes += frame.messages.len();
        let views = frame::messages(&frame).map_err(|error| {
            // They were checked when they were published.
            let offset = run.first_offset.0;
            tracing::error!(queue = %attached.queue.name, offset, %error, "a frame cannot be cut");
            Refusal::unknown_outcome()
        })?;
        for (offset, message) in (run.first_offset.0..).zip(views) {
            let headers = message.headers.iter();
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

async fn give_back(
    attached: &Attached,
    token: Token,
    runs: impl Iterator<Item = Run>,
) -> Result<(), Refusal> {
    let item = |run: Run| v1::SettleItem {
        kind: v1::SettleKind::Nack.into(),
        token: token.0,
        first_offset: run.first_offset.0,
        count: run.count,
        delay_ms: 0,
    };
    let items: Vec<_> = runs.map(item).collect();
    // What becomes of it need not be waited for: their leases end in any case.
    submit(&attached.node, &attached.queue, attached.session, &items).await.map(drop)
}
