//! The one that writes: takes batches from the queue, makes them durable, moves on to the next
//! segment when one is full.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::contents::{Builder, Item};
use super::drain::{Batch, Room};
use super::format::{self, BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::recover::End;
use super::segment::{Segment, Spare, Table, Usage, segment_name};
use super::state::Shared;
use super::upkeep::Upkeep;
use super::{Done, LogError};
use crate::disk::{AlignedBuffer, BLOCK};

/// How long a writer without room waits before it tries again.
const SPACE_RETRY: Duration = Duration::from_millis(200);
/// How often the upkeep thread looks around when nothing wakes it.
const UPKEEP_PERIOD: Duration = Duration::from_secs(1);

/// Owns the files; exactly one exists for a log.
pub struct Writer {
    shared: Arc<Shared>,
    upkeep: Option<Upkeep>,
    active: Option<Active>,
    last_segment: u64,
    next_batch: u64,
    buffer: AlignedBuffer,
    offsets: Vec<u32>,
}

/// The segment being written.
struct Active {
    segment: Arc<Segment>,
    /// Where the next batch goes.
    end: u64,
    /// Of all that was written to it.
    contents: Builder,
}

/// What one attempt to write came to.
enum Progress {
    Wrote,
    Idle,
    /// Something waits, but no new segment can be had.
    NoSegment,
    Failed,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, end: End) -> Writer {
        let last_segment = end.active.as_ref().map_or(0, |(segment, _)| segment.header.segment);
        if end.sealed
            && let Some(usage) = shared.lock().segments.get_mut(&(last_segment as u32))
        {
            usage.sealed = true;
        }
        let active = end
            .active
            .filter(|_| !end.sealed)
            .zip(end.contents)
            .map(|((segment, offset), contents)| Active { segment, end: offset, contents });
        Writer {
            upkeep: Some(Upkeep::new(shared.clone())),
            shared,
            active,
            last_segment,
            next_batch: end.next_batch,
            buffer: AlignedBuffer::new(),
            offsets: Vec::new(),
        }
    }

    /// Writes until [`Log::close`](super::Log::close) is called and the queue is written, or a
    /// write fails. For a thread of its own: it blocks, and starts one more for the upkeep.
    pub fn run(mut self) {
        let Some(mut upkeep) = self.upkeep.take() else { return };
        let shared = self.shared.clone();
        std::thread::scope(|scope| {
            let started = std::thread::Builder::new()
                .name("log-upkeep".to_owned())
                .spawn_scoped(scope, move || keep_up(&shared, &mut upkeep));
            if let Err(error) = started {
                self.fail("start the upkeep thread", &error);
            }
            self.write_until_closed();
            self.shared.lock().ended = true;
            self.shared.upkeep.notify_all();
        });
    }

    /// Writes one batch of what is queued, and does the upkeep that is due. False if nothing was
    /// written: the queue is empty, or no segment can be made
    /// ([`Stats::waiting_for_space`](super::Stats), to be tried again after a while).
    pub fn step(&mut self) -> bool {
        if let Some(upkeep) = &mut self.upkeep {
            upkeep.pass();
            upkeep.refresh_free_bytes();
        }
        let progress = self.write();
        let wrote = matches!(progress, Progress::Wrote);
        if let Some(upkeep) = &mut self.upkeep
            && wrote
        {
            upkeep.pass();
        }
        wrote
    }

    fn write_until_closed(&mut self) {
        loop {
            match self.write() {
                Progress::Wrote => {}
                Progress::Failed => return,
                Progress::NoSegment => {
                    self.shared.upkeep.notify_all();
                    let mut state = self.shared.lock();
                    if state.spares.is_empty() {
                        state.starved = true;
                        let waited = self.shared.work.wait_timeout(state, SPACE_RETRY);
                        drop(waited);
                    }
                }
                Progress::Idle => {
                    let mut state = self.shared.lock();
                    if state.closing || state.poison.is_some() {
                        return;
                    }
                    if state.queue.is_empty() {
                        state.writer_sleeps = true;
                        drop(self.shared.work.wait(state));
                    }
                }
            }
        }
    }

    fn write(&mut self) -> Progress {
        let batch = {
            let mut state = self.shared.lock();
            if state.poison.is_some() {
                return Progress::Failed;
            }
            let idle = state.queue.is_empty() && (state.dirty.is_empty() || !state.closing);
            if idle {
                return Progress::Idle;
            }
            self.active.as_ref().and_then(|active| {
                let room = self.room(active);
                state.drain(active.segment.header.segment, room)
            })
        };
        match batch {
            Some(batch) if batch.is_empty() => Progress::Idle,
            Some(batch) => self.write_batch(batch),
            None => self.rotate_and_write(),
        }
    }

    fn rotate_and_write(&mut self) -> Progress {
        let Some(spare) = self.take_spare() else {
            let mut state = self.shared.lock();
            state.waiting_for_space = state.spare_refused;
            return Progress::NoSegment;
        };
        match self.rotate(spare) {
            Ok(()) => self.write(),
            Err(error) => self.fail("take a new segment into use", &error),
        }
    }

    /// What still fits, keeping a block for the seal.
    fn room(&self, active: &Active) -> Room {
        let left = active.segment.file.len().saturating_sub(active.end);
        let frame = (BLOCK + BATCH_HEADER_BYTES) as u64;
        Room {
            preferred: self.shared.options.max_batch_bytes,
            segment: left.saturating_sub(frame) as usize,
        }
    }

    fn write_batch(&mut self, mut batch: Batch) -> Progress {
        if batch.records.is_empty() {
            tell(std::mem::take(&mut batch.dones), &Ok(()));
            drop(self.shared.lock().complete(batch, 0, 0, &[]));
            return Progress::Wrote;
        }
        let Some(active) = &mut self.active else { return Progress::NoSegment };
        let bytes = format::padded(BATCH_HEADER_BYTES + batch.bytes);
        self.buffer.resize(bytes);
        format::encode_batch(
            &active.segment.header,
            self.next_batch,
            false,
            &batch.records,
            self.buffer.as_mut_slice(),
            &mut self.offsets,
        );
        let written = active.segment.file.write_durable(active.end, self.buffer.as_slice());
        if let Err(error) = written {
            let dones = std::mem::take(&mut batch.dones);
            let progress = self.fail("write a batch", &error);
            tell(dones, &Err(self.poison()));
            return progress;
        }
        let base = active.end as u32;
        for (record, offset) in batch.records.iter().zip(&self.offsets) {
            active.contents.push(&Item::of(base + offset, record));
        }
        let copied = batch.copies();
        active.end += bytes as u64;
        self.next_batch += 1;
        let segment = active.segment.header.segment as u32;
        let dones = {
            let mut state = self.shared.lock();
            state.counters.written_bytes += bytes as u64;
            state.counters.flushes += 1;
            state.complete(batch, segment, base, &self.offsets)
        };
        if copied {
            self.shared.upkeep.notify_all();
        }
        tell(dones, &Ok(()));
        Progress::Wrote
    }

    /// A pre-written file; a stepped writer makes one if there is none.
    fn take_spare(&mut self) -> Option<Spare> {
        let ready = |shared: &Shared| {
            let mut state = shared.lock();
            let at = state.spares.iter().position(|spare| spare.usable)?;
            Some(state.spares.remove(at))
        };
        if let Some(spare) = ready(&self.shared) {
            return Some(spare);
        }
        let upkeep = self.upkeep.as_ref()?;
        if upkeep.make_spare() { ready(&self.shared) } else { None }
    }

    /// Seals the active segment (its table of contents is left to the upkeep), then takes `spare` into use: its header is durable before its
    /// name says that it is a segment.
    fn rotate(&mut self, spare: Spare) -> io::Result<()> {
        self.seal()?;
        let header = SegmentHeader {
            segment: self.last_segment + 1,
            salt: self.shared.disk.random(),
            first_batch: self.next_batch,
        };
        let sequence = u32::try_from(header.segment).map_err(io::Error::other)?;
        let name = segment_name(header.segment);
        self.buffer.resize(SEGMENT_HEADER_BYTES);
        header.encode(self.buffer.as_mut_slice());
        spare.file.write_durable(0, self.buffer.as_slice())?;
        self.shared.disk.rename(&spare.name, &name)?;
        self.shared.disk.sync_dir()?;
        let segment = Arc::new(Segment { header, name, file: spare.file });
        let usage = Usage::new(segment.clone(), false, Table::None);
        let contents = Builder::new(segment.file.len());
        let mut state = self.shared.lock();
        state.counters.written_bytes += SEGMENT_HEADER_BYTES as u64;
        state.waiting_for_space = false;
        state.starved = false;
        state.segments.insert(sequence, usage);
        drop(state);
        self.last_segment = header.segment;
        self.active = Some(Active { segment, end: SEGMENT_HEADER_BYTES as u64, contents });
        self.shared.upkeep.notify_all();
        Ok(())
    }

    fn seal(&mut self) -> io::Result<()> {
        let Some(active) = self.active.take() else { return Ok(()) };
        self.buffer.resize(BLOCK);
        let none: [format::Record<&[u8]>; 0] = [];
        let header = &active.segment.header;
        let buffer = self.buffer.as_mut_slice();
        format::encode_batch(header, self.next_batch, true, &none, buffer, &mut self.offsets);
        active.segment.file.write_durable(active.end, self.buffer.as_slice())?;
        self.next_batch += 1;
        let table = active.contents.finish(header, self.next_batch, active.end as u32);
        let mut state = self.shared.lock();
        state.counters.written_bytes += BLOCK as u64;
        if let Some(usage) = state.segments.get_mut(&(header.segment as u32)) {
            usage.sealed = true;
            usage.table = table.map_or(Table::None, Table::Due);
        }
        Ok(())
    }

    fn fail(&self, action: &str, error: &io::Error) -> Progress {
        let reason = format!("{action}: {error}");
        tracing::error!(%reason, "log is poisoned");
        let dones = self.shared.lock().fail(LogError::Poisoned { reason });
        tell(dones, &Err(self.poison()));
        Progress::Failed
    }

    fn poison(&self) -> LogError {
        self.shared.lock().poison.clone().unwrap_or(LogError::Closed)
    }
}

impl Drop for Writer {
    /// Without a writer nothing becomes durable any more: later operations are refused at once.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        drop(state);
        self.shared.upkeep.notify_all();
    }
}

fn tell(dones: Vec<Done>, result: &Result<(), LogError>) {
    dones.into_iter().for_each(|done| done(result.clone()));
}

/// The upkeep thread.
fn keep_up(shared: &Shared, upkeep: &mut Upkeep) {
    let mut refreshed: Option<std::time::Instant> = None;
    while !shared.lock().ended {
        if refreshed.is_none_or(|at| at.elapsed() >= UPKEEP_PERIOD) {
            upkeep.refresh_free_bytes();
            refreshed = Some(std::time::Instant::now());
        }
        upkeep.pass();
        if upkeep.is_busy() {
            continue;
        }
        let state = shared.lock();
        if !state.ended {
            drop(shared.upkeep.wait_timeout(state, UPKEEP_PERIOD));
        }
    }
}
