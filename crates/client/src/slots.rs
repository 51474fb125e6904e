//! Calls about the slots of a queue. Reading through one is [`ReaderBuilder::slot`](crate::ReaderBuilder::slot).

use std::time::Duration;

use quorate_proto::{reason, v1};

use crate::admin::admin;
use crate::client::Client;
use crate::error::Error;
use crate::nodes::{Effect, Failed};

/// Where a slot begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotStart {
    /// At the first offset from which on no message is missing.
    #[default]
    First,
    /// Behind the last message.
    Next,
    /// At this offset, if no message is missing from there on.
    Offset(u64),
}

/// What a slot is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotSettings {
    /// Where it begins.
    pub from: SlotStart,
    /// Most bytes of settled messages that it keeps; 0 for the server's default, 1 GiB. Beyond, it keeps nothing,
    /// and is lost as soon as something that it needs is let go of.
    pub max_retained_bytes: u64,
    /// It keeps nothing either once it had something to read and was not moved for so long.
    pub max_idle: Option<Duration>,
}

/// What [`Client::create_slot`] has found or made.
#[derive(Clone, Debug, PartialEq)]
pub struct CreatedSlot {
    /// The slot as it is now.
    pub slot: v1::SlotDescription,
    /// False if it existed already, with the same parameters.
    pub created: bool,
}

fn described(slot: Option<v1::SlotDescription>) -> Result<v1::SlotDescription, Error> {
    slot.ok_or_else(|| Error::Invalid("the server's answer does not describe a slot".to_owned()))
}

impl Client {
    /// Makes a slot of a queue: a named read position that keeps every message from there on readable, settled or
    /// not, until it is moved on. Making one that exists with the same parameters succeeds, and tells where it is.
    ///
    /// # Errors
    /// [`Error::Refused`] with `SLOT_EXISTS` (with other parameters), `QUEUE_NOT_FOUND`, `QUOTA_EXCEEDED` (64 slots a
    /// queue), or `INVALID_ARGUMENT` when messages are missing behind the offset.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// use quorate_client::SlotSettings;
    /// let settings = SlotSettings { max_retained_bytes: 10 << 30, ..Default::default() };
    /// let created = client.create_slot("orders", "warehouse", settings).await?;
    /// println!("begins at {}", created.slot.position);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_slot(
        &self,
        queue: impl Into<String>,
        slot: impl Into<String>,
        settings: SlotSettings,
    ) -> Result<CreatedSlot, Error> {
        use v1::create_slot_request::From;
        let request = v1::CreateSlotRequest {
            queue: queue.into(),
            slot: slot.into(),
            from: Some(match settings.from {
                SlotStart::First => From::First(true),
                SlotStart::Next => From::Next(true),
                SlotStart::Offset(offset) => From::Offset(offset),
            }),
            max_retained_bytes: settings.max_retained_bytes,
            max_idle_ms: settings.max_idle.map_or(0, |idle| idle.as_millis().max(1) as u64),
        };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).create_slot(request).await }
        };
        let answer = self.nodes.call(Effect::Writes, ask).await?;
        Ok(CreatedSlot { slot: described(answer.slot)?, created: answer.created })
    }

    /// Moves a slot forward: `offset` is the first message that it needs from now on. Moved to where it is already, it
    /// stays there, and counts as moved. A [`Reader`](crate::Reader) of the slot does this for what it is told to
    /// confirm.
    ///
    /// # Errors
    /// [`Error::Refused`] with `SLOT_NOT_FOUND`, `SLOT_LOST`, `SLOT_MOVED` (it is beyond), or `INVALID_ARGUMENT` for an
    /// offset beyond the end of the queue.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// client.advance_slot("orders", "warehouse", 1_000).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn advance_slot(
        &self,
        queue: impl Into<String>,
        slot: impl Into<String>,
        offset: u64,
    ) -> Result<v1::SlotDescription, Error> {
        let (queue, slot) = (queue.into(), slot.into());
        self.move_slot(v1::AdvanceSlotRequest { queue, slot, offset, ..Default::default() }).await
    }

    pub(crate) async fn move_slot(
        &self,
        request: v1::AdvanceSlotRequest,
    ) -> Result<v1::SlotDescription, Error> {
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).advance_slot(request).await }
        };
        described(self.nodes.call(Effect::Writes, ask).await?.slot)
    }

    /// The slots of a queue, in order of name.
    ///
    /// # Errors
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// for slot in client.list_slots("orders").await? {
    ///     println!("{} at {}: {} bytes kept", slot.slot, slot.position, slot.retained_bytes);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_slots(
        &self,
        queue: impl Into<String>,
    ) -> Result<Vec<v1::SlotDescription>, Error> {
        let request = v1::ListSlotsRequest { queue: queue.into() };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).list_slots(request).await }
        };
        Ok(self.nodes.call(Effect::Reads, ask).await?.slots)
    }

    /// Removes a slot: it keeps nothing any more.
    ///
    /// # Errors
    /// [`Error::Refused`] with `SLOT_NOT_FOUND` or `QUEUE_NOT_FOUND`.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// client.drop_slot("orders", "warehouse").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drop_slot(
        &self,
        queue: impl Into<String>,
        slot: impl Into<String>,
    ) -> Result<(), Error> {
        let request = v1::DropSlotRequest { queue: queue.into(), slot: slot.into() };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).drop_slot(request).await }
        };
        match self.nodes.call(Effect::Writes, ask).await {
            Ok(_) => Ok(()),
            Err(Failed { fault, maybe_done: true, .. })
                if fault.refusal.reason == reason::SLOT_NOT_FOUND =>
            {
                // An earlier attempt, whose answer was lost, has removed it.
                Ok(())
            }
            Err(failed) => Err(failed.into()),
        }
    }
}
