//! openraft's log over the node's shared log. Entries are readable as soon as they are queued, and
//! reported as flushed once they are on the disk.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use bytes::BytesMut;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};
use quorate_machine::planted::{self, Bug};
use quorate_storage as storage;

use crate::codec;
use crate::replica_log::{ReplicaLog, durable};
use crate::types::{Entry, LogId, Payload, Position, Types, Vote, log_id, term_of};

/// Most bytes that one read for replication gathers, so that a follower that lags is not sent more
/// at a time than it takes in well.
pub const READ_BYTES_MAX: usize = 1 << 20;

/// One replica's log: a group of the node-wide log.
#[derive(Clone)]
pub struct LogStore {
    log: Arc<ReplicaLog>,
    /// Told of every entry as it is appended.
    #[cfg(feature = "planted")]
    speculation: Option<Speculation>,
}

/// What a planted bug does with an entry at an index.
#[cfg(feature = "planted")]
pub(crate) type Speculation = Arc<dyn Fn(u64, bytes::Bytes) + Send + Sync>;

#[cfg(feature = "planted")]
impl LogStore {
    pub(crate) fn speculating(mut self, speculation: Speculation) -> Self {
        self.speculation = Some(speculation);
        self
    }
}

impl LogStore {
    pub(crate) fn new(log: Arc<ReplicaLog>) -> Self {
        Self {
            log,
            #[cfg(feature = "planted")]
            speculation: None,
        }
    }

    async fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.log
            .read(range, max_bytes)
            .await?
            .into_iter()
            .map(|entry| {
                codec::decode_entry(log_id(entry.term, entry.index), entry.payload)
                    .map_err(io::Error::other)
            })
            .collect()
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        // A bound that is given is not cut to what is stored: what openraft takes for stored it counts as applied, also
        // when it is given nothing of it, as after a write that failed.
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => {
                let last = self.log.log.state(self.log.group).and_then(|state| state.last);
                last.map_or(0, |(index, _)| index + 1)
            }
        };
        let mut entries = Vec::new();
        let mut next = start;
        while next < end {
            let part = self.read(next..end, READ_BYTES_MAX).await?;
            let Some(last) = part.last() else {
                return Err(io::Error::other(format!("the log has no entry {next}")));
            };
            next = last.log_id.index + 1;
            entries.extend(part);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        match self.log.log.state(self.log.group) {
            Some(state) if !state.vote.is_empty() => {
                codec::decode_vote(&state.vote).map(Some).map_err(io::Error::other)
            }
            _ => Ok(None),
        }
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.log.log.state(self.log.group).unwrap_or_default();
        let id = |(index, term)| log_id(term, index);
        Ok(LogState {
            last_purged_log_id: state.purged.map(id),
            last_log_id: state.last.or(state.purged).map(id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if planted::is(Bug::ForgetVote) {
            return Ok(());
        }
        self.log.save_vote(vote).await
    }

    // The record is queued behind the entries that it speaks of, in one log with one writer, so it
    // can never be durable before them.
    //
    // While the replica has less than it had, that is kept in its place.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if self.log.had().is_some() {
            return Ok(());
        }
        let mut bytes = BytesMut::with_capacity(17);
        codec::put_log_id(committed.as_ref(), &mut bytes);
        self.log.log.save_committed(self.log.group, bytes.freeze());
        Ok(())
    }

    // A position beyond the log, as a crash in the middle of installing a snapshot leaves it, is of
    // no use: what it speaks of comes again from the leader.
    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let state = self.log.log.state(self.log.group).unwrap_or_default();
        if state.committed.is_empty() {
            return Ok(None);
        }
        let committed = codec::decode_log_id(&state.committed).map_err(io::Error::other)?;
        // Nor is one that the log has another entry at: what a replica once had, before it left its node, need
        // not have been committed.
        let is_here = |id: &LogId| {
            let (index, term) = (id.index, term_of(id));
            let stored = self.log.log.term_of(self.log.group, index);
            stored.or(state.purged.filter(|at| at.0 == index).map(|at| at.1)) == Some(term)
        };
        let last = state.last.or(state.purged);
        let within = |id: &LogId| last.is_some_and(|(index, _)| id.index <= index);
        Ok(committed.filter(|id| within(id) && is_here(id)))
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut written = Vec::new();
        let entries: Vec<storage::Entry> = entries
            .into_iter()
            .map(|entry| {
                if let EntryPayload::Normal(Payload { written: Some(waiting), .. }) = &entry.payload
                {
                    written.push((Position::from(&entry.log_id), waiting.clone()));
                }
                storage::Entry {
                    index: entry.log_id.index,
                    term: term_of(&entry.log_id),
                    payload: codec::encode_payload(&entry.payload),
                }
            })
            .collect();
        #[cfg(feature = "planted")]
        let appended: Vec<(u64, bytes::Bytes)> =
            entries.iter().map(|entry| (entry.index, entry.payload.clone())).collect();
        if planted::is(Bug::SkipFsync) {
            flushed.io_completed(Ok(()));
            self.log.log.append(self.log.group, entries, Box::new(|_| {}));
            return Ok(());
        }
        let (log, last) = (self.log.clone(), entries.last().map(|entry| entry.index));
        let done = Box::new(move |result: Result<(), storage::LogError>| {
            if result.is_ok() {
                if last.is_some() {
                    log.received.flushed(last);
                }
                written.into_iter().for_each(|(position, waiting)| waiting.tell(position));
            }
            flushed.io_completed(result.map_err(io::Error::other));
        });
        self.log.log.append(self.log.group, entries, done);
        #[cfg(feature = "planted")]
        if let Some(speculation) =
            self.speculation.as_ref().filter(|_| planted::is(Bug::DeliverUncommitted))
        {
            appended.into_iter().for_each(|(index, payload)| speculation(index, payload));
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let last = last.map(|id| (id.index, term_of(&id)));
        durable(|done| {
            let log = self.log.clone();
            // Before what is appended after it is flushed, as the writer tells of both in order.
            let noted = Box::new(move |result: Result<(), storage::LogError>| {
                log.received.flushed(last.map(|(index, _)| index));
                done(result);
            });
            self.log.log.truncate_after(self.log.group, last, noted);
        })
        .await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let upto = (upto.index, term_of(&upto));
        durable(|done| self.log.log.purge(self.log.group, upto, done)).await?;
        self.log.release();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use quorate_storage::disk::{Fault, Operation};
    use quorate_storage::{GroupId, Log, LogError, Options, SimDisk};

    use super::*;

    const GROUP: u64 = 1;

    fn blanks(indexes: Range<u64>) -> Vec<storage::Entry> {
        let payload = codec::encode_payload(&EntryPayload::Blank);
        indexes.map(|index| storage::Entry { index, term: 1, payload: payload.clone() }).collect()
    }

    /// openraft applies what it takes for stored, and counts a range as applied whatever it is given of it.
    #[tokio::test]
    async fn entries_that_a_log_refused_are_an_error_when_they_are_read() {
        let disk = SimDisk::new(1);
        let (log, mut writer) =
            Log::open(Arc::new(disk.clone()), Options::default()).expect("an empty log");
        let mut store = LogStore::new(Arc::new(ReplicaLog::new(log.clone(), 1, GROUP)));
        let mut append = |entries| {
            let told = Arc::new(Mutex::new(None));
            let tell = told.clone();
            let done = Box::new(move |result| *tell.lock().expect("not held") = Some(result));
            log.append(GroupId(GROUP), entries, done);
            while writer.step() {}
            told.lock().expect("not held").take().expect("it is told")
        };
        append(blanks(0..3)).expect("durable");
        assert_eq!(store.try_get_log_entries(0..3).await.expect("stored").len(), 3);
        disk.plan(Operation::Write, 1, Fault::Error);
        append(blanks(3..4)).expect_err("the write fails");
        let refused = append(blanks(4..6));
        assert!(matches!(refused, Err(LogError::Poisoned { .. })), "{refused:?}");
        let all = store.try_get_log_entries(0..).await.expect("what there is").len() as u64;
        let read = store.try_get_log_entries(0..6).await;
        assert!(read.is_err(), "{all} of 6 entries pass for all: {read:?}");
    }
}
