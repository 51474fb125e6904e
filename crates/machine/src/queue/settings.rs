//! What a queue's owner can set, and how it is persisted.

use bytes::{Buf, BufMut, Bytes};

use super::message_ids::MESSAGE_IDS_MAX;
use crate::catalog::QueueName;
use crate::wire::{self, DecodeError};

/// The longest lease: 12 hours, in milliseconds. A longer one is shortened to it.
pub const LEASE_MS_MAX: u32 = 12 * 60 * 60 * 1000;

/// The longest delay of a retry: 7 days, in milliseconds.
pub const RETRY_MS_MAX: u32 = 7 * 24 * 60 * 60 * 1000;

/// `retry_max_ms` where it is not set and `retry_ms` is no longer: 5 minutes.
pub const RETRY_MAX_MS_DEFAULT: u32 = 5 * 60 * 1000;

/// The longest `in_sync_lag_ms`.
pub const IN_SYNC_LAG_MS_MAX: u32 = 8_000;

/// The default of `message_id_window`.
const MESSAGE_ID_WINDOW_DEFAULT: u32 = 65_536;

/// Version of the persisted form. Version 1 ends before `min_in_sync`, version 2 before the fields that are numbered.
const VERSION: u8 = 3;

/// Most bytes of a numbered field.
const VALUE_BYTES_MAX: usize = 256;

/// Numbers of the fields that only version 3 has, each there if it says something, in ascending order.
const SINGLE_ACTIVE: u8 = 1;
const TTL_MS: u8 = 2;
const DROP_HEAD: u8 = 3;
const PRIORITIES: u8 = 4;
const RETRY_MS: u8 = 5;
const RETRY_MAX_MS: u8 = 6;
const MESSAGE_ID_WINDOW: u8 = 7;
const DEAD_LETTER: u8 = 8;
const FILTER_HEADER: u8 = 9;

/// The longest name of a header to filter by, in bytes: as long as the key of a header can be.
pub const FILTER_HEADER_BYTES_MAX: usize = 256;

/// Settings of a queue. A limit that is absent or 0 does not limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most messages held: ready, delayed, blocked, leased and dead. A publish that would exceed it is rejected, or the
    /// oldest ready ones make room for it: `drop_head`.
    pub max_messages: Option<u64>,
    /// Most bytes held: frames, with headers and length fields. Enforced like `max_messages`.
    pub max_bytes: Option<u64>,
    /// Deliveries of a message after which it is dropped instead of returned; 0: never.
    pub max_deliveries: u32,
    /// Length of a lease in milliseconds, unless the consumer asks for another.
    /// Default 30,000; 1 to [`LEASE_MS_MAX`].
    pub lease_ms: u32,
    /// How long a session outlives its stream, in milliseconds. Default 10,000.
    pub session_grace_ms: u32,
    /// Runs of consecutive sequences remembered a producer. A run grows as long as the producer's
    /// batches enter side by side, so it takes other producers' traffic to use up the window.
    /// Default 1,024; 0 counts as 1.
    pub dedup_window: u32,
    /// How long a silent producer is remembered, in milliseconds. Default 600,000.
    pub dedup_age_ms: u64,
    /// Voters, the leader's among them, that must be in sync for a publish that asks for all of them;
    /// 0: a majority.
    pub min_in_sync: u8,
    /// A voter is in sync while what it lacks has been on the leader's log for no longer than this, in
    /// milliseconds. Default 2,000; at most [`IN_SYNC_LAG_MS_MAX`].
    pub in_sync_lag_ms: u32,
    /// Settled messages are kept for readers until they are so old, in milliseconds from when they were
    /// published. With this and `retain_bytes` absent they are gone with their batch.
    pub retain_ms: Option<u64>,
    /// Settled messages are kept for readers up to so many bytes, the oldest go first.
    pub retain_bytes: Option<u64>,
    /// One consumer at a time is handed messages; the others stand by.
    pub single_active: bool,
    /// How long a message may wait, in milliseconds from when it was published, or is due if it is for later; then it
    /// leaves. Counts at the earliest from when this is set where it was not.
    pub ttl_ms: Option<u64>,
    /// The oldest ready messages make room for a publish that would exceed a limit. They leave for good, and never go to
    /// the dead-letter queue.
    pub drop_head: bool,
    /// Messages may have priorities.
    pub priorities: bool,
    /// How long a message waits that comes back for the first time, in milliseconds; doubled each time, with jitter of a
    /// half. 0: it is ready at once.
    pub retry_ms: u32,
    /// The longest that it waits, in milliseconds; 0: [`RETRY_MAX_MS_DEFAULT`], or `retry_ms` if that is longer.
    pub retry_max_ms: u32,
    /// The queue that messages are moved to that end without an ack. Without it they are dropped, and those wait that
    /// are dead already.
    pub dead_letter: Option<QueueName>,
    /// Message ids remembered; the oldest are forgotten first, and those as old as `dedup_age_ms`.
    /// Default 65,536; 1 to [`MESSAGE_IDS_MAX`], and taken as the nearest of these.
    pub message_id_window: u32,
    /// The header of messages that consumers can filter by; 1 to [`FILTER_HEADER_BYTES_MAX`] bytes. What is published
    /// before it is set has no value to filter by, and consumers that have a filter are ended when it changes. Those with
    /// a filter are handed nothing where one consumer at a time is, so it is not to be set together with
    /// `single_active`.
    pub filter_header: Option<String>,
    /// Version of these settings. Settings older than the queue's are refused, so that a late
    /// command cannot undo a newer one.
    pub version: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_messages: None,
            max_bytes: None,
            max_deliveries: 0,
            lease_ms: 30_000,
            session_grace_ms: 10_000,
            dedup_window: 1024,
            dedup_age_ms: 600_000,
            min_in_sync: 0,
            in_sync_lag_ms: 2_000,
            retain_ms: None,
            retain_bytes: None,
            single_active: false,
            ttl_ms: None,
            drop_head: false,
            priorities: false,
            retry_ms: 0,
            retry_max_ms: 0,
            dead_letter: None,
            message_id_window: MESSAGE_ID_WINDOW_DEFAULT,
            filter_header: None,
            version: 0,
        }
    }
}

impl Settings {
    /// Whether two settings ask for the same, whatever their versions.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        Self { version: 0, ..self.clone() } == Self { version: 0, ..other.clone() }
    }

    fn says_nothing_new(&self) -> bool {
        let default = Self::default();
        self.min_in_sync == default.min_in_sync
            && self.in_sync_lag_ms == default.in_sync_lag_ms
            && !self.retains()
    }

    /// Whether nodes have to know the version of commands that came with numbered fields.
    #[must_use]
    pub fn are_numbered(&self) -> bool {
        !self.numbered().is_empty()
    }

    /// The numbered fields that say something.
    fn numbered(&self) -> Vec<(u8, Bytes)> {
        let flag = |is_set: bool| is_set.then(|| Bytes::from_static(&[1]));
        let number = |number: u64| Bytes::copy_from_slice(&number.to_le_bytes());
        let millis = |value: u32| (value > 0).then(|| word(value));
        let window = self.message_id_window;
        let text = |text: &String| Bytes::copy_from_slice(text.as_bytes());
        let name = |name: &QueueName| Bytes::copy_from_slice(name.as_str().as_bytes());
        let fields = [
            (SINGLE_ACTIVE, flag(self.single_active)),
            (TTL_MS, self.ttl_ms.filter(|&ttl_ms| ttl_ms > 0).map(number)),
            (DROP_HEAD, flag(self.drop_head)),
            (PRIORITIES, flag(self.priorities)),
            (RETRY_MS, millis(self.retry_ms)),
            (RETRY_MAX_MS, millis(self.retry_max_ms)),
            (MESSAGE_ID_WINDOW, (window != MESSAGE_ID_WINDOW_DEFAULT).then(|| word(window))),
            (DEAD_LETTER, self.dead_letter.as_ref().map(name)),
            (FILTER_HEADER, self.filter_header.as_ref().map(text)),
        ];
        fields.into_iter().filter_map(|(number, value)| Some((number, value?))).collect()
    }

    fn set_numbered(&mut self, number: u8, value: &mut Bytes) -> Result<(), DecodeError> {
        match number {
            SINGLE_ACTIVE => self.single_active = wire::flag(value, "single active")?,
            TTL_MS => self.ttl_ms = Some(wire::u64(value)?).filter(|&ttl_ms| ttl_ms > 0),
            DROP_HEAD => self.drop_head = wire::flag(value, "drop head")?,
            PRIORITIES => self.priorities = wire::flag(value, "priorities")?,
            RETRY_MS => self.retry_ms = wire::u32(value)?,
            RETRY_MAX_MS => self.retry_max_ms = wire::u32(value)?,
            MESSAGE_ID_WINDOW => self.message_id_window = wire::u32(value)?,
            DEAD_LETTER => self.dead_letter = Some(queue_name(value)?),
            FILTER_HEADER => self.filter_header = Some(header_name(value)?),
            kind => return Err(DecodeError::UnknownKind { what: "setting", kind }),
        }
        wire::expect_end(value)
    }

    /// Appends the persisted form.
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        // In the oldest form that says all: nodes that are upgraded one by one read it.
        let numbered = self.numbered();
        let version = match (numbered.is_empty(), self.says_nothing_new()) {
            (true, true) => 1,
            (true, false) => 2,
            (false, _) => VERSION,
        };
        out.put_u8(version);
        out.put_u64_le(self.max_messages.unwrap_or(0));
        out.put_u64_le(self.max_bytes.unwrap_or(0));
        out.put_u32_le(self.max_deliveries);
        out.put_u32_le(self.lease_ms);
        out.put_u32_le(self.session_grace_ms);
        out.put_u32_le(self.dedup_window);
        out.put_u64_le(self.dedup_age_ms);
        out.put_u64_le(self.version);
        if version >= 2 {
            out.put_u8(self.min_in_sync);
            out.put_u32_le(self.in_sync_lag_ms);
            out.put_u64_le(self.retain_ms.unwrap_or(0));
            out.put_u64_le(self.retain_bytes.unwrap_or(0));
        }
        if version >= 3 {
            out.put_u8(numbered.len() as u8);
            for (number, value) in numbered {
                out.put_u8(number);
                wire::put_bytes(out, &value);
            }
        }
    }

    /// Reads what [`Settings::encode`] wrote; a limit of 0 comes back as none.
    pub(crate) fn decode(buf: &mut impl Buf) -> Result<Self, DecodeError> {
        let version = wire::u8(buf)?;
        if !(1..=VERSION).contains(&version) {
            return Err(DecodeError::UnknownVersion { what: "settings", version });
        }
        let mut settings = Self {
            max_messages: Some(wire::u64(buf)?).filter(|&limit| limit > 0),
            max_bytes: Some(wire::u64(buf)?).filter(|&limit| limit > 0),
            max_deliveries: wire::u32(buf)?,
            lease_ms: wire::u32(buf)?,
            session_grace_ms: wire::u32(buf)?,
            dedup_window: wire::u32(buf)?,
            dedup_age_ms: wire::u64(buf)?,
            version: wire::u64(buf)?,
            ..Self::default()
        };
        if version >= 2 {
            settings.min_in_sync = wire::u8(buf)?;
            settings.in_sync_lag_ms = wire::u32(buf)?;
            settings.retain_ms = Some(wire::u64(buf)?).filter(|&limit| limit > 0);
            settings.retain_bytes = Some(wire::u64(buf)?).filter(|&limit| limit > 0);
        }
        if version >= 3 {
            let (count, mut last) = (wire::u8(buf)?, None);
            for _ in 0..count {
                let number = wire::u8(buf)?;
                wire::ascending(last.as_ref(), &number, "setting")?;
                last = Some(number);
                settings
                    .set_numbered(number, &mut wire::bytes(buf, "setting", VALUE_BYTES_MAX)?)?;
            }
            if settings.numbered().len() != usize::from(count) {
                return Err(DecodeError::Invalid { what: "settings", why: "one says nothing" });
            }
        }
        let is_oldest = match version {
            1 => true,
            2 => !settings.says_nothing_new(),
            _ => settings.are_numbered(),
        };
        if !is_oldest {
            return Err(DecodeError::Invalid { what: "settings", why: "they have an older form" });
        }
        Ok(settings)
    }

    /// Most message ids that are remembered.
    pub(super) fn message_ids_max(&self) -> usize {
        self.message_id_window.clamp(1, MESSAGE_IDS_MAX) as usize
    }

    /// Whether settled messages are kept for readers.
    #[must_use]
    pub fn retains(&self) -> bool {
        self.retain_ms.is_some() || self.retain_bytes.is_some()
    }

    /// The longest that a message waits that comes back, in milliseconds.
    #[must_use]
    pub fn retry_max_ms(&self) -> u32 {
        match self.retry_max_ms {
            0 => RETRY_MAX_MS_DEFAULT.max(self.retry_ms),
            most => most,
        }
    }

    /// Whether it matters which deliveries are counted, so that consumers had better tell what they have begun.
    #[must_use]
    pub fn charges(&self) -> bool {
        self.max_deliveries > 0 || self.retry_ms > 0
    }

    /// Voters that must be in sync for a publish that asks for all, among `voters`.
    #[must_use]
    pub fn in_sync_needed(&self, voters: usize) -> usize {
        match self.min_in_sync {
            0 => voters / 2 + 1,
            needed => needed.into(),
        }
    }
}

/// Takes all that is left.
fn queue_name(value: &mut Bytes) -> Result<QueueName, DecodeError> {
    let name = value.split_to(value.len());
    let name = std::str::from_utf8(&name).ok().and_then(|name| QueueName::parse(name).ok());
    name.ok_or(DecodeError::Invalid { what: "queue name", why: "no queue may have it" })
}

/// Takes all that is left.
fn header_name(value: &mut Bytes) -> Result<String, DecodeError> {
    let name = value.split_to(value.len());
    let name = std::str::from_utf8(&name).ok().filter(|name| !name.is_empty());
    let name = name.map(str::to_owned);
    name.ok_or(DecodeError::Invalid { what: "filter header", why: "no header may have the name" })
}

/// The value of a numbered field of 32 bits.
fn word(value: u32) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}
