//! Somebody who sets the consumers of a queue to a place now and then: back to what has been settled, or forward beyond what
//! has not. What came of it is noted where it is known.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use madsim::rand::{Rng, thread_rng};
use quorate_client::{Client, Error, SeekTo};
use tokio::time::{sleep, timeout};

use super::{Queue, Shared, producer};
use crate::events::Event;

/// Offsets before the end of the queue among which a place is chosen.
const BACK_MAX: u64 = 200;

pub(super) async fn run(shared: Arc<Shared>, client: Client, queue: Queue) {
    loop {
        sleep(Duration::from_millis(thread_rng().gen_range(500..9_000))).await;
        if shared.is_quiet() {
            return;
        }
        let Some(to) = place(&shared, &client, &queue).await else { continue };
        if shared.is_quiet() {
            return;
        }
        seek(&shared, &client, &queue, to).await;
    }
}

/// Some place, or none if it cannot be told where the queue is.
async fn place(shared: &Shared, client: &Client, queue: &Queue) -> Option<SeekTo> {
    match thread_rng().gen_range(0..8) {
        0..=1 => Some(SeekTo::First),
        2 => Some(SeekTo::Next),
        3..=4 => {
            let now_ms = shared.cluster.record().time_ms(queue.group)?;
            let ago_ms = thread_rng().gen_range(0..8_000);
            let time = Duration::from_millis(now_ms.saturating_sub(ago_ms));
            Some(SeekTo::Time(SystemTime::UNIX_EPOCH + time))
        }
        _ => {
            let described = client.describe_queue(queue.name.as_str()).await.ok()?;
            let next = described.counts?.next_offset;
            // A little beyond the end, too, which is refused.
            let range = next.saturating_sub(BACK_MAX)..=next + 2;
            Some(SeekTo::Offset(thread_rng().gen_range(range)))
        }
    }
}

async fn seek(shared: &Shared, client: &Client, queue: &Queue, to: SeekTo) {
    let (group, seek) = (queue.group, shared.next_seek());
    let record = shared.cluster.record();
    if thread_rng().gen_bool(0.1) {
        // Changes nothing: nobody has asked for anything.
        let previewed = client.preview_seek(queue.name.as_str(), to).await;
        return record.tell(Event::Note(&format!("previewed {to:?}: {previewed:?}")));
    }
    record.tell(Event::Seeking { group, seek, to });
    // One that is given up may come to be yet; not after the time that the run gives it before its end.
    let sought = client.seek_consumers(queue.name.as_str(), to);
    match timeout(producer::DEADLINE, sought).await {
        Ok(Ok(sought)) => record.tell(Event::Sought { group, seek, sought: Ok(sought) }),
        Ok(Err(Error::Refused(refusal) | Error::Unavailable { last: refusal, .. })) => {
            let sought = Err(refusal.reason.as_str());
            record.tell(Event::Sought { group, seek, sought });
        }
        Ok(Err(error)) => record.tell(Event::Note(&format!("seek {seek}: {error}"))),
        Err(_) => record.tell(Event::Note(&format!("seek {seek} was given up"))),
    }
}
