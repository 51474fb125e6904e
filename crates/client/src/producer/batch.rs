//! Messages that enter together, under an id or on a condition.

use crate::message::Message;

/// Messages that enter together and in this order, or not at all; for
/// [`Producer::publish_batch`](crate::Producer::publish_batch).
///
/// ```
/// use quorate_client::{Batch, Message};
/// let payment = Batch::from(Message::new(r#"{"order": 7, "paid": true}"#)).id("payment-of-order-7");
/// let steps = Batch::new([Message::new("debit"), Message::new("credit")]).expect_offset(41);
/// assert_eq!((payment.len(), steps.len()), (1, 2));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub(crate) messages: Vec<Message>,
    pub(crate) condition: Condition,
}

/// On what a batch enters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    pub message_id: String,
    pub expected_next_offset: Option<u64>,
}

impl Batch {
    /// Messages to enter as one.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        Self { messages: messages.into_iter().collect(), ..Self::default() }
    }

    /// Names the batch, 1 to 128 bytes: however often a batch of this id is published, by this producer or another
    /// one, now or after a restart of the program, it enters once. Whoever publishes it again gets receipts with the
    /// offsets of the first time, marked as duplicates.
    ///
    /// The queue remembers ids for its `dedup_age_ms` (10 minutes unless set) from when they were first published,
    /// and at most `message_id_window` of them (65,536). What the messages say is not compared, but their number is:
    /// `MESSAGE_ID_CONFLICT` refuses another one.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.condition.message_id = id.into();
        self
    }

    /// The batch enters only if its first message gets this offset: nobody else has published since the caller
    /// looked. Otherwise it fails with `UNEXPECTED_OFFSET`;
    /// [`PublishError::next_offset`](crate::PublishError::next_offset) then tells where the queue ends. 0 is the first
    /// offset of a queue.
    ///
    /// It is a compare-and-set on the whole queue: of several producers that expect the same offset, one wins. A retry
    /// of a batch that has entered succeeds.
    #[must_use]
    pub fn expect_offset(mut self, offset: u64) -> Self {
        self.condition.expected_next_offset = Some(offset);
        self
    }

    /// How many messages it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it has none; such a batch cannot be published.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl From<Message> for Batch {
    fn from(message: Message) -> Self {
        Self::new([message])
    }
}
