//! What is queued for a peer, and how it is gathered into envelopes. Both ends of a connection send
//! through one.
//!
//! ```text
//!  urgent  calls, answers: at most QUEUED_MAX, senders wait  ┐
//!                                                            ├─► Outgoing::next ─► Envelope
//!  ordered appends of all links, ends of links               ┘   (all that waits, ≤ 1 MiB)
//! ```
//!
//! Two lanes, because a vote must not wait behind megabytes of entries. The ordered lane has no
//! bound of its own: what its senders hold while they send (`Item::hold`) bounds it.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::internal as pb;
use tokio::sync::mpsc;

use super::link::Hold;
use super::size_of;

/// An envelope takes no further message after so many bytes. A single larger one goes alone.
pub const ENVELOPE_BYTES: usize = 1 << 20;
/// Calls or answers that may wait to be sent; senders wait beyond it.
pub const QUEUED_MAX: usize = 1024;

/// One message on its way out.
pub(super) struct Item {
    pub(super) rpc: pb::Rpc,
    /// What it has taken of its sender's windows.
    pub(super) hold: Option<Arc<Hold>>,
}

impl From<pb::Rpc> for Item {
    fn from(rpc: pb::Rpc) -> Self {
        Self { rpc, hold: None }
    }
}

/// The sending end. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outbox {
    urgent: mpsc::Sender<Item>,
    ordered: mpsc::UnboundedSender<Item>,
}

/// The connection is gone.
#[derive(Debug)]
pub(super) struct Gone;

impl Outbox {
    /// Queues a call or an answer; waits while [`QUEUED_MAX`] are queued.
    pub(super) async fn send(&self, item: impl Into<Item>) -> Result<(), Gone> {
        self.urgent.send(item.into()).await.map_err(|_| Gone)
    }

    /// Queues an answer if there is room.
    pub(super) fn offer(&self, item: impl Into<Item>) {
        let _ = self.urgent.try_send(item.into());
    }

    /// Queues a message of a link behind all earlier ones.
    pub(super) fn push(&self, item: impl Into<Item>) -> Result<(), Gone> {
        self.ordered.send(item.into()).map_err(|_| Gone)
    }

    /// Waits until the connection is gone.
    pub(super) async fn gone(&self) {
        self.urgent.closed().await;
    }
}

/// The end that the connection reads.
pub(super) struct Outgoing {
    urgent: mpsc::Receiver<Item>,
    ordered: mpsc::UnboundedReceiver<Item>,
    /// Did not fit into the envelope before.
    held: Option<Item>,
    beat: Duration,
}

/// With nothing to send for `beat`, an empty envelope goes out.
pub(super) fn outbox(beat: Duration) -> (Outbox, Outgoing) {
    let (urgent_sender, urgent) = mpsc::channel(QUEUED_MAX);
    let (ordered_sender, ordered) = mpsc::unbounded_channel();
    let outgoing = Outgoing { urgent, ordered, held: None, beat };
    (Outbox { urgent: urgent_sender, ordered: ordered_sender }, outgoing)
}

/// Nobody waits for its answer any more.
fn is_moot(item: &Item) -> bool {
    item.hold.as_ref().is_some_and(|hold| hold.link_ended())
}

impl Outgoing {
    /// The next envelope: an empty one if there is nothing to send for a beat; `None` once all
    /// senders are gone.
    pub(super) async fn next(&mut self) -> Option<pb::Envelope> {
        let beat = tokio::time::sleep(self.beat);
        tokio::pin!(beat);
        let first = loop {
            if let Some(item) = self.held.take() {
                break item;
            }
            let item = tokio::select! {
                biased;
                item = self.urgent.recv() => item?,
                item = self.ordered.recv() => item?,
                () = &mut beat => return Some(pb::Envelope::default()),
            };
            if !is_moot(&item) {
                break item;
            }
        };
        Some(as_sent(self.gather(first)))
    }

    fn gather(&mut self, first: Item) -> pb::Envelope {
        let mut bytes = size_of_rpc(&first.rpc);
        let mut rpcs = vec![first.rpc];
        while bytes < ENVELOPE_BYTES {
            let Some(item) = self.try_next() else { break };
            if is_moot(&item) {
                continue;
            }
            let size = size_of_rpc(&item.rpc);
            if bytes + size > ENVELOPE_BYTES {
                self.held = Some(item);
                break;
            }
            bytes += size;
            rpcs.push(item.rpc);
        }
        pb::Envelope { hello: None, rpcs }
    }

    fn try_next(&mut self) -> Option<Item> {
        self.urgent.try_recv().ok().or_else(|| self.ordered.try_recv().ok())
    }
}

#[cfg(not(madsim))]
fn as_sent(envelope: pb::Envelope) -> pb::Envelope {
    envelope
}

/// The simulated transport hands messages over as they are: encode them here, so that what arrives
/// went through bytes there too.
#[cfg(madsim)]
fn as_sent(envelope: pb::Envelope) -> pb::Envelope {
    use prost::Message;
    let bytes = envelope.encode_to_vec();
    pb::Envelope::decode(&bytes[..]).expect("what was encoded can be decoded")
}

fn size_of_rpc(rpc: &pb::Rpc) -> usize {
    rpc.body.as_ref().map_or(0, size_of)
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_proto::internal::rpc::Body;

    fn append(id: u64, bytes: usize) -> pb::Rpc {
        let entries = vec![pb::Entry { id: None, payload: Bytes::from(vec![0; bytes]) }];
        let append = pb::AppendRequest { entries, ..Default::default() };
        pb::Rpc { group: 1, id, body: Some(Body::StreamAppend(append)) }
    }

    fn vote(id: u64) -> pb::Rpc {
        pb::Rpc { group: 1, id, body: Some(Body::Vote(pb::VoteRequest::default())) }
    }

    async fn ids(outgoing: &mut Outgoing) -> Vec<u64> {
        outgoing.next().await.unwrap().rpcs.iter().map(|rpc| rpc.id).collect()
    }

    #[tokio::test]
    async fn all_that_waits_goes_as_one_envelope_with_calls_first() {
        let (outbox, mut outgoing) = outbox(Duration::from_millis(20));
        outbox.push(append(1, 10)).unwrap();
        outbox.push(append(2, 10)).unwrap();
        outbox.send(vote(3)).await.unwrap();
        assert_eq!(ids(&mut outgoing).await, [3, 1, 2]);
    }

    #[tokio::test]
    async fn an_envelope_is_bounded_and_a_larger_message_goes_alone() {
        let (outbox, mut outgoing) = outbox(Duration::from_millis(20));
        for (id, bytes) in [(1, 10), (2, 3 << 20), (3, 600 << 10), (4, 600 << 10), (5, 10)] {
            outbox.push(append(id, bytes)).unwrap();
        }
        for expected in [&[1][..], &[2], &[3], &[4, 5]] {
            assert_eq!(ids(&mut outgoing).await, expected);
        }
    }

    #[tokio::test]
    async fn an_idle_connection_beats_and_ends_with_its_senders() {
        let (outbox, mut outgoing) = outbox(Duration::from_millis(20));
        assert!(ids(&mut outgoing).await.is_empty());
        drop(outbox);
        assert!(outgoing.next().await.is_none());
    }
}
