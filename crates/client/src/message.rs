//! What a producer sends.

use bytes::Bytes;

/// A message to be published: a body and, if wanted, headers.
///
/// Headers keep their order and pass through untouched; keys are 1 to 256 bytes, at most 64 headers a
/// message. How large a message may be, headers included, is the server's setting (1 MiB unless set,
/// never more than 16 MiB).
///
/// ```
/// use quorate_client::Message;
/// let message = Message::new(r#"{"order": 7}"#).header("content-type", "application/json");
/// assert_eq!(message.headers().len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    body: Bytes,
    headers: Vec<(String, Bytes)>,
}

impl Message {
    /// A message without headers.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), headers: Vec::new() }
    }

    /// Appends a header. A key may be given more than once.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((key.into(), value.into()));
        self
    }

    /// The payload.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers in order.
    #[must_use]
    pub fn headers(&self) -> &[(String, Bytes)] {
        &self.headers
    }
}
