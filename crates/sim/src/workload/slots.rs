//! Slots of the workload: each client machine has one at each queue, reads through it, confirms what it has read,
//! or does not, lags until a bound is hit, drops it and makes it anew.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use madsim::rand::{Rng, thread_rng};
use quorate_client::{Client, ReadError, Reader, SlotSettings, SlotStart, reason};
use tokio::time::{sleep, timeout};

use super::{Queue, Shared, body};
use crate::events::Event;

/// A slot with this bound, and no other, is never lost.
const UNBOUNDED: u64 = 1 << 40;

pub(super) async fn run(shared: Arc<Shared>, client: Client, queue: Queue, machine: usize) {
    let slot = format!("slot-{machine}");
    while !shared.is_draining() {
        sleep(Duration::from_millis(thread_rng().gen_range(50..1_500))).await;
        let settings = settings();
        let is_bounded = settings.max_retained_bytes < UNBOUNDED || settings.max_idle.is_some();
        if client.create_slot(queue.name.as_str(), slot.as_str(), settings).await.is_err() {
            // With other parameters, by an attempt whose answer was lost: it begins anew.
            let _ = client.drop_slot(queue.name.as_str(), slot.as_str()).await;
            continue;
        }
        let life = Life { shared: &shared, client: &client, queue: &queue, slot: &slot };
        let readers = thread_rng().gen_range(1..6);
        for _ in 0..readers {
            if life.read(is_bounded).await.is_err() || shared.is_draining() {
                break;
            }
            sleep(Duration::from_millis(thread_rng().gen_range(0..2_500))).await;
        }
        let _ = client.drop_slot(queue.name.as_str(), slot.as_str()).await;
    }
}

fn settings() -> SlotSettings {
    let mut random = thread_rng();
    SlotSettings {
        from: if random.gen_bool(0.6) { SlotStart::First } else { SlotStart::Next },
        max_retained_bytes: match random.gen_bool(0.5) {
            true => UNBOUNDED,
            false => random.gen_range(500..20_000),
        },
        max_idle: random.gen_bool(0.3).then(|| Duration::from_millis(random.gen_range(300..6_000))),
    }
}

/// From a slot's creation to its end.
struct Life<'a> {
    shared: &'a Shared,
    client: &'a Client,
    queue: &'a Queue,
    slot: &'a str,
}

impl Life<'_> {
    /// Reads for a while; an error when the slot is of no use any more.
    async fn read(&self, is_bounded: bool) -> Result<(), ()> {
        let (group, slot, number) = (self.queue.group, self.slot, self.shared.next_reader());
        let record = self.shared.cluster.record();
        record.tell(Event::SlotReader { group, slot, reader: number });
        let mut reader = self.client.reader(self.queue.name.as_str()).slot(slot).follow().build();
        let lags = thread_rng().gen_bool(0.2);
        let mut outcome = Ok(());
        let enough = thread_rng().gen_range(1..200);
        for _ in 0..enough {
            match timeout(Duration::from_secs(3), reader.next()).await {
                Ok(Some(Ok(message))) => {
                    let (offset, id) = (message.offset, body::read(&message.body));
                    let slot = Some(slot);
                    record.tell(Event::Read { group, reader: number, offset, id, slot });
                    // What one call takes is confirmed with the next one.
                    if thread_rng().gen_bool(0.7) && !lags && reader.confirm(offset).is_err() {
                        break;
                    }
                }
                Ok(Some(Err(ReadError::Refused(refusal)))) => {
                    let reason = refusal.reason.as_str();
                    record.tell(Event::SlotRefused { group, slot, reason, is_bounded });
                    outcome = if reason == reason::SLOT_MOVED { Ok(()) } else { Err(()) };
                    break;
                }
                Ok(Some(Err(_)) | None) | Err(_) => break,
            }
            if lags {
                sleep(Duration::from_millis(thread_rng().gen_range(0..100))).await;
            }
        }
        self.end(reader).await;
        outcome
    }

    async fn end(&self, reader: Reader) {
        let way = thread_rng().gen_range(0..3);
        match way {
            0 => drop(reader.close().await),
            1 => drop(timeout(Duration::from_millis(20), reader.flush()).await),
            _ => {}
        }
    }
}
