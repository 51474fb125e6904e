//! Consumers set to a place, at their queue's leader. The machine decides what that does (`machine/src/queue/seeking.rs`); what
//! it does not know, what set the messages apart that are to come back, is read in the log here and goes into the command.

use bytes::Bytes;
use quorate_machine::planted::{self, Bug};
use quorate_machine::queue::{
    Again, Command, Offset, Piece, Properties, Rejection, Reply, SEEK_RUNS_MAX, SeekTo, properties,
};
use quorate_machine::{DecodeError, Millis};
use quorate_proto::{reason, v1};
use tonic::{Request, Response, Status};

use super::Services;
use crate::member::{Member, SEEKS_VERSION};
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::routing::{Place as Routed, forwarded, hops, passed_on};

/// Attempts at a place that is not an offset, as what is there may be let go of between looking and doing.
const ATTEMPTS: usize = 3;

/// Entries read of the log after which others have their turn.
const ENTRIES_AT_ONCE: usize = 64;

/// Pieces of entries looked at after which they have it, too.
const PIECES_AT_ONCE: usize = 4_096;

/// The place that a request means.
pub(crate) fn place_of(request: &v1::SeekConsumersRequest) -> Result<SeekTo, Refusal> {
    use v1::seek_consumers_request::To;
    match request.to {
        Some(To::First(true)) => Ok(SeekTo::First),
        Some(To::Next(true)) => Ok(SeekTo::Next),
        Some(To::Offset(offset)) => Ok(SeekTo::Offset(Offset(offset))),
        Some(To::TimeMs(time)) => Ok(SeekTo::Time(Millis(time))),
        Some(To::First(false) | To::Next(false)) | None => Err(Refusal::invalid(
            "say where to: `offset`, `time_ms`, `first` = true or `next` = true",
        )),
    }
}

/// What was published alike, as one, as far as it is next to each other.
fn add(again: &mut Vec<Again>, first: u64, of: Properties) {
    let kind = |of: Properties| Properties { count: 0, ..of };
    if let Some(last) = again.last_mut()
        && last.first.0 + u64::from(last.of.count) == first
        && kind(last.of) == kind(of)
        && let Some(count) = last.of.count.checked_add(of.count)
    {
        last.of.count = count;
        return;
    }
    again.push(Again { first: Offset(first), of });
}

fn too_many(queue: &Queue, reached: Offset, next: Offset) -> Refusal {
    let message = format!(
        "more than {SEEK_RUNS_MAX} runs of messages would come back, each alike in key, priority and times and next to each \
         other: those from {} to before {} are as many as one seek takes; seek nearer to the end",
        reached.0, next.0
    );
    Refusal::new(reason::QUOTA_EXCEEDED, message)
        .with("limit", "seek_runs")
        .with("max", SEEK_RUNS_MAX)
        .with("queue", queue.name.as_str())
}

fn refused(queue: &Queue, rejection: Rejection) -> Refusal {
    let (message, name) = (rejection.to_string(), queue.name.as_str());
    match rejection {
        Rejection::SeekBeyondEnd { next } => {
            let message = format!("{message}: consumers are set to {} at most", next.0);
            Refusal::invalid(message).with("queue", name).with("next_offset", next.0)
        }
        Rejection::SeekForgotten { first } => {
            let message = format!(
                "{message}: consumers of queue `{name}` can be set back to {}, the first offset that there is",
                first.0
            );
            Refusal::new(reason::OFFSET_GONE, message)
                .with("queue", name)
                .with("first_offset", first.0)
        }
        Rejection::SeekNotRetained { first } => {
            let message = format!(
                "queue `{name}` does not keep settled messages, so its consumers can be set forward only, from {} on; \
                 `quorate queue update {name} --retain` keeps those that are settled from then on",
                first.0
            );
            Refusal::new(reason::NOT_RETAINED, message)
                .with("queue", name)
                .with("first_offset", first.0)
        }
        Rejection::SeekNoRoom { limit, max, held } => {
            let message = format!(
                "the messages that would come back do not fit: {message}; seek nearer to the end, or raise the limit with \
                 `quorate queue update`"
            );
            Refusal::new(reason::QUEUE_FULL, message)
                .with("queue", name)
                .with("limit", limit)
                .with("max", max)
                .with("would_hold", held)
        }
        rejection => rejection.into(),
    }
}

impl Member {
    async fn seek(
        &self,
        queue: &Queue,
        place: SeekTo,
        dry_run: bool,
    ) -> Result<v1::SeekConsumersResponse, Refusal> {
        self.expect_known(SEEKS_VERSION, "seeks of consumers")?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let (to, may) = queue.handle.read(|machine| {
                let to = machine.offset_of(place);
                (to, machine.seek_outlook(to, &[]))
            });
            // Nothing is read for what would be refused.
            let again = match may {
                Ok(_) => self.coming_back(queue, to).await?,
                Err(rejection) => return Err(refused(queue, rejection)),
            };
            let Some(again) = again else {
                continue;
            };
            let sought = match dry_run {
                true => queue.handle.read(|machine| machine.seek_outlook(to, &again)),
                false => self.propose_seek(queue, to, again).await?,
            };
            match sought {
                Ok((replayed, skipped)) => {
                    let offset = to.0;
                    return Ok(v1::SeekConsumersResponse { offset, replayed, skipped });
                }
                Err(rejection @ Rejection::SeekForgotten { .. })
                    if !matches!(place, SeekTo::Offset(_)) =>
                {
                    last = Some(rejection);
                }
                Err(rejection) => return Err(refused(queue, rejection)),
            }
        }
        Err(last.map_or_else(|| unreadable(queue), |rejection| refused(queue, rejection)))
    }

    async fn propose_seek(
        &self,
        queue: &Queue,
        to: Offset,
        again: Vec<Again>,
    ) -> Result<Result<(u64, u64), Rejection>, Refusal> {
        let limit = self.config.limits.request_timeout();
        let proposed = queue.handle.propose(Command::Seek { to, again });
        match tokio::time::timeout(limit, proposed).await {
            Ok(Ok(Reply::Sought { again, left })) => {
                let (node, offset) = (self.id(), to.0);
                tracing::info!(node, queue = %queue.name, offset, again, left, "seek");
                Ok(Ok((again, left)))
            }
            Ok(Ok(Reply::Rejected(rejection))) => Ok(Err(rejection)),
            Ok(Ok(_)) => Err(Refusal::unknown_outcome()),
            Ok(Err(error)) => Err(self.redirect(queue, error)),
            // It is in the log, and may be committed yet.
            Err(_) => Err(Refusal::unknown_outcome()),
        }
    }

    /// What is settled from an offset on, with what it was published with; `None` if some of it was let go of meanwhile. Reads
    /// all entries that it is in, one after the other.
    async fn coming_back(&self, queue: &Queue, to: Offset) -> Result<Option<Vec<Again>>, Refusal> {
        let pieces = queue.handle.read(|machine| machine.settled_from(to));
        let mut again: Vec<Again> = Vec::new();
        let mut read: Option<(u64, Bytes)> = None;
        let mut batch: Option<(u64, u32, Published)> = None;
        let mut entries = 0;
        // From the end, so that a refusal can say how far it would go, and the first piece of a batch says how far that is
        // looked at.
        for (at, Piece { run, .. }) in pieces.into_iter().rev().enumerate() {
            let (index, ordinal) = (run.index.0, run.ordinal);
            if at % PIECES_AT_ONCE == PIECES_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let entry = match read.take().filter(|(of, _)| *of == index) {
                Some((_, entry)) => entry,
                None => {
                    entries += 1;
                    if entries % ENTRIES_AT_ONCE == 0 {
                        tokio::task::yield_now().await;
                    }
                    match queue.handle.entry(index).await {
                        Ok(entry) => entry,
                        Err(error) => {
                            tracing::debug!(queue = %queue.name, index, %error, "read what is settled");
                            return Ok(None);
                        }
                    }
                }
            };
            let known = batch.take().filter(|(i, o, _)| (*i, *o) == (index, ordinal));
            let published = match known {
                Some((_, _, published)) => published,
                None => Published::read(&entry, ordinal, run.skip + run.count)
                    .map_err(|error| damaged(queue, index, &error))?,
            };
            let mut first = run.first_offset.0;
            let mut here: Vec<Again> = Vec::new();
            for mut of in published.cut(run.skip, run.count) {
                of.group = of.group.filter(|_| !planted::is(Bug::SeekWithoutKeys));
                add(&mut here, first, of);
                first += u64::from(of.count);
            }
            (read, batch) = (Some((index, entry)), Some((index, ordinal, published)));
            prepend(&mut again, here);
            if again.len() > SEEK_RUNS_MAX {
                let next = queue.handle.read(|machine| machine.next_offset());
                return Err(too_many(queue, Offset(first), next));
            }
        }
        again.reverse();
        Ok(Some(again))
    }
}

/// What the messages of a batch were published with, up to some message.
struct Published {
    /// Each run with its first message, counted within the batch.
    runs: Vec<(u32, Properties)>,
}

impl Published {
    /// Of the first `count` messages of a batch.
    fn read(entry: &Bytes, ordinal: u32, count: u32) -> Result<Self, DecodeError> {
        let mut runs = Vec::new();
        let mut first = 0;
        for of in properties(entry, ordinal, 0, count)? {
            runs.push((first, of));
            first += of.count;
        }
        Ok(Self { runs })
    }

    /// Of `count` messages behind the first `skip`, which are among those that were read.
    fn cut(&self, skip: u32, count: u32) -> impl Iterator<Item = Properties> {
        let end = skip + count;
        let from = self.runs.partition_point(|(first, of)| first + of.count <= skip);
        let within = self.runs[from..].iter().take_while(move |(first, _)| *first < end);
        within.map(move |&(first, of)| {
            let count = (first + of.count).min(end) - first.max(skip);
            Properties { count, ..of }
        })
    }
}

/// Puts runs, which are in order, before those that are in reverse order.
fn prepend(again: &mut Vec<Again>, mut here: Vec<Again>) {
    if let (Some(before), Some(&after)) = (here.last_mut(), again.last()) {
        let mut joined = vec![*before];
        add(&mut joined, after.first.0, after.of);
        if let [one] = joined[..] {
            *before = one;
            again.pop();
        }
    }
    again.extend(here.into_iter().rev());
}

fn unreadable(queue: &Queue) -> Refusal {
    let message = "what is settled was let go of while it was looked at, or cannot be read in the log; the same again, \
                   or nearer to the end";
    Refusal::new(reason::OFFSET_GONE, message).with("queue", queue.name.as_str())
}

fn damaged(queue: &Queue, index: u64, error: &DecodeError) -> Refusal {
    tracing::error!(queue = %queue.name, index, %error, "an entry of the log cannot be read");
    Refusal::new(
        reason::OFFSET_GONE,
        format!("the entry at {index} cannot be read ({error}); see the log of the queue's leader"),
    )
    .with("queue", queue.name.as_str())
}

impl Services {
    pub(super) async fn consumers_sought(
        &self,
        request: Request<v1::SeekConsumersRequest>,
    ) -> Result<Response<v1::SeekConsumersResponse>, Status> {
        let hops = hops(request.metadata());
        let request = request.into_inner();
        let place = place_of(&request)?;
        match self.node.place(&request.queue, hops).await? {
            Routed::Here(queue) => {
                Ok(Response::new(self.node.seek(&queue, place, request.dry_run).await?))
            }
            Routed::There(node) => {
                let request = forwarded(request, hops);
                self.admin(node)?.seek_consumers(request).await.map_err(passed_on)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_machine::EntryBuilder;
    use quorate_machine::queue::Publish;

    use super::*;

    fn published(publishes: &[&[Properties]]) -> Bytes {
        let mut entry = EntryBuilder::new();
        for properties in publishes {
            let count = properties.iter().map(|of| of.count).sum();
            let plain = Publish::plain(count, Bytes::from_static(b"frame"));
            let properties = properties.to_vec();
            entry.push_command::<quorate_machine::queue::Queue>(&Command::Publish(Publish {
                properties,
                ..plain
            }));
        }
        entry.freeze(Millis(1))
    }

    #[test]
    fn pieces_are_cut_out_of_what_a_batch_was_published_with() {
        let all = [of(2, None), of(3, Some(7)), of(1, Some(8)), of(4, Some(7))];
        let entry = published(&[&all[..2], &all[2..]]);
        let batch = Published::read(&entry, 0, 10).unwrap();
        for skip in 0..10 {
            for count in 1..=10 - skip {
                let cut: Vec<_> = batch.cut(skip, count).collect();
                assert_eq!(cut, properties(&entry, 0, skip, count).unwrap(), "{skip}+{count}");
            }
        }
        assert!(Published::read(&entry, 0, 11).is_err(), "it holds ten");
    }

    fn of(count: u32, group: Option<u64>) -> Properties {
        Properties { count, group, ..Properties::default() }
    }

    fn run(first: u64, count: u32, group: Option<u64>) -> Again {
        Again { first: Offset(first), of: of(count, group) }
    }

    #[test]
    fn neighbours_that_were_published_alike_are_one_run() {
        let mut again = Vec::new();
        for (first, count, group) in
            [(0, 2, None), (2, 1, None), (3, 1, Some(7)), (4, 1, Some(7)), (6, 1, Some(7))]
        {
            add(&mut again, first, of(count, group));
        }
        assert_eq!(again, [run(0, 3, None), run(3, 2, Some(7)), run(6, 1, Some(7))]);
    }

    #[test]
    fn batches_read_from_the_last_to_the_first_are_in_order() {
        let mut again = Vec::new();
        prepend(&mut again, vec![run(8, 1, Some(7)), run(9, 3, None)]);
        prepend(&mut again, vec![run(4, 2, None), run(6, 2, Some(7))]);
        prepend(&mut again, vec![run(1, 1, None)]);
        again.reverse();
        let expected = [run(1, 1, None), run(4, 2, None), run(6, 3, Some(7)), run(9, 3, None)];
        assert_eq!(again, expected);
    }
}
