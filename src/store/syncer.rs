//! The syncer: one thread that makes the log durable by the store's policy, prepares the next segment before it is
//! needed, and starts write-back early so that an `fdatasync` finds little left to do. It sleeps while the store is
//! idle.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::core::Core;
use super::error::{Error, Result};
use super::location::Position;
use super::options::{LEAST_SEGMENT, Options, SEGMENTS, Severity, Sync};
use super::record::Kind;
use super::segment::{Plan, Segment};
use super::segments::Segments;
use super::space::Level;
use crate::sys;

/// A segment takes at least what comes in during this time.
const PREPARING: Duration = Duration::from_millis(20);
/// But no more than this, or twice the usual part of what lives in the store. Bytes.
const RUSH: u64 = 3 << 20;
/// Pause before another try where no segment could be made.
const RETRY: Duration = Duration::from_secs(1);
/// Pause between two looks at the free space while there is little, and between two attempts to write to a full disk.
const NEAR: Duration = Duration::from_secs(1);
/// Sizes of segments are multiples of this. Bytes.
const BLOCK: u64 = 4096;
/// Shortest time between two checkpoint records. (Under `always` every write would otherwise bring one.)
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(500);

/// How the syncer is called.
#[derive(Default)]
pub(crate) struct Bell {
    state: Mutex<Rung>,
    changed: Condvar,
    /// Rung and not yet heard: ringing again is free.
    rung: AtomicBool,
    /// There is something to sync, and the syncer knows.
    armed: AtomicBool,
    /// Held during an `fdatasync`.
    pub syncing: Mutex<()>,
}

#[derive(Default)]
struct Rung {
    rung: bool,
    stop: bool,
}

impl Bell {
    /// Wakes the syncer to look what there is to do.
    pub fn ring(&self) {
        if !self.rung.swap(true, SeqCst) {
            super::lock(&self.state).rung = true;
            self.changed.notify_one();
        }
    }

    /// Ends the syncer.
    pub fn stop(&self) {
        super::lock(&self.state).stop = true;
        self.changed.notify_one();
    }

    /// Whether a sync is due anyway.
    pub fn is_armed(&self) -> bool {
        self.armed.load(SeqCst)
    }

    /// Sleeps until rung or until `until`. `false`: it is over.
    pub fn wait(&self, until: Option<Instant>) -> bool {
        let mut state = super::lock(&self.state);
        while !state.rung && !state.stop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match left {
                Some(Duration::ZERO) => break,
                Some(left) => state = super::wait_timeout(&self.changed, state, left),
                None => state = super::wait(&self.changed, state),
            }
        }
        state.rung = false;
        self.rung.store(false, SeqCst);
        !state.stop
    }
}

/// The thread's own memory.
pub(crate) struct Syncer {
    core: Arc<Core>,
    /// When the next sync is due; under `always` never: it is due when rung.
    due: Option<Instant>,
    /// When to try again to make a segment.
    retry: Option<Instant>,
    /// When to try again to write to a full disk.
    again: Option<Instant>,
    /// When to look at the free space again.
    look: Option<Instant>,
    /// End of the log, and the bytes that were left, at the last look.
    looked: (Position, u64),
    /// End and time of the last checkpoint record.
    checkpoint: (Position, Instant),
}

impl Syncer {
    pub fn new(core: Arc<Core>) -> Syncer {
        let checkpoint = (core.log.end(), Instant::now());
        Syncer { core, due: None, retry: None, again: None, look: None, looked: (Position(0), 0), checkpoint }
    }

    /// The thread's body.
    pub fn run(mut self) {
        loop {
            self.retry_writes();
            self.look_at_space();
            let prepared = self.prepare_segment().and_then(|()| self.note_time());
            self.core.log.start_write_back();
            self.core.sweep();
            // A failure was reported where it happened, and has ended all writing: reads go on without this thread.
            let failed = prepared.and_then(|()| self.sync_if_due()).is_err();
            if failed || !self.core.bell.wait([self.due, self.retry, self.again, self.look].into_iter().flatten().min())
            {
                return;
            }
        }
    }

    /// Tries to write what found the disk full, at once and then from time to time.
    fn retry_writes(&mut self) {
        let now = Instant::now();
        if self.core.log.stalled().is_none() {
            self.again = None;
        } else if self.again.is_none_or(|again| again <= now) {
            self.core.log.retry();
            self.again = Some(now + NEAR);
        }
    }

    /// Looks at the free space from time to time while the store is written to, and while there is little of it.
    fn look_at_space(&mut self) {
        let now = Instant::now();
        let stalled = self.core.log.stalled().is_some();
        // Much was taken meanwhile: others may have done as much.
        let less = self.core.space.headroom() < self.looked.1 - self.looked.1 / 8;
        // By what was counted since the last look there is none left; how much of that was given back is not known.
        let none = self.core.space.headroom() == 0 && self.core.space.level() == Level::Enough;
        if stalled || less || none || self.look.is_some_and(|look| look <= now) {
            self.core.measure_space();
            if self.core.space.level() != Level::Enough {
                self.core.compaction.bell.ring();
            }
            (self.look, self.looked) = (None, (self.core.log.end(), self.core.space.headroom()));
        }
        if self.look.is_none() {
            let near = self.core.space.level() != Level::Enough;
            let changed = self.core.log.end() != self.looked.0;
            self.look = match (near, changed) {
                (true, _) => Some(now + NEAR.min(self.core.options.polling_interval)),
                (false, true) => Some(now + self.core.options.polling_interval),
                (false, false) => None,
            };
        }
    }

    fn sync_if_due(&mut self) -> Result<()> {
        let now = Instant::now();
        match self.core.options.sync {
            Sync::None => return Ok(()),
            Sync::Always => {}
            Sync::Interval if self.due.is_some_and(|due| due <= now) => {}
            Sync::Interval => return self.arm(now),
        }
        self.sync()?;
        self.due = None;
        self.core.bell.armed.store(false, SeqCst);
        // What was written meanwhile found the syncer armed and did not ring.
        match self.core.options.sync {
            Sync::Interval => self.arm(Instant::now()),
            Sync::Always | Sync::None => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<()> {
        let target = self.core.log.progress.written();
        self.core.sync(target)?;
        self.write_checkpoint(target)
    }

    fn arm(&mut self, now: Instant) -> Result<()> {
        if self.due.is_none() && self.core.log.progress.durable() < self.core.log.progress.written() {
            self.due = Some(now + self.core.options.sync_interval);
            self.core.bell.armed.store(true, SeqCst);
        }
        Ok(())
    }

    /// Notes in the log how far it is durable, if anything but the last such note became so.
    fn write_checkpoint(&mut self, durable: Position) -> Result<()> {
        let (end, at) = self.checkpoint;
        if durable <= end || (self.core.options.sync == Sync::Always && at.elapsed() < CHECKPOINT_PAUSE) {
            return Ok(());
        }
        let position = self.core.append_checkpoint(durable)?;
        self.checkpoint = (position, Instant::now());
        self.core.log.write_all();
        Ok(())
    }

    /// Has the log know the time by which clients were told that something has expired: the next start may be in 1970.
    fn note_time(&mut self) -> Result<()> {
        if self.core.time.is_noted() {
            return Ok(());
        }
        // Not one that says that all before it is durable: the next sync brings that.
        self.core.append_checkpoint(self.core.log.progress.durable())?;
        self.core.log.write_all();
        Ok(())
    }

    fn prepare_segment(&mut self) -> Result<()> {
        let waiting = self.retry.is_some_and(|retry| retry > Instant::now());
        // What is kept back is for compaction first: while values are refused, one segment is enough for long.
        let spares = self.core.space.level() == Level::Refusing && !self.core.log.is_at_reserve();
        if !self.core.log.wants_spare() || spares {
            self.retry = None;
            return Ok(());
        }
        if waiting {
            return Ok(());
        }
        let made = self.core.prepare_spare();
        self.core.measure_space();
        self.core.look_behind();
        self.core.compaction.bell.ring();
        self.retry = made.is_err().then(|| Instant::now() + RETRY);
        if let Err(error) = &made {
            (self.core.options.report)(Severity::Error, &format!("no new log segment: {error}"));
        }
        // Where nothing else is ever synced, once per segment is, so that recovery knows a torn tail from damage.
        if self.core.options.sync == Sync::None { self.sync() } else { Ok(()) }
    }
}

impl Core {
    /// Appends a checkpoint record: the log before `durable` is on the disk, and it is now.
    pub fn append_checkpoint(&self, durable: Position) -> Result<Position> {
        let now = self.time.now();
        match self.append_control(Kind::Checkpoint, self.checkpoint(durable, now).as_slice()) {
            Err(failed @ Error::ReadOnly(_)) => Err(failed),
            // No room for a note now: recovery goes by the one before, and whoever writes data is told.
            Err(_) => Ok(self.log.end()),
            appended => appended.inspect(|_| self.time.note(now)),
        }
    }

    /// As [`Core::append_checkpoint`], but no room for it is an error.
    pub fn append_checkpoint_for_sure(&self, durable: Position) -> Result<Position> {
        self.append_needed(Kind::Checkpoint, self.checkpoint(durable, self.time.now()).as_slice())
    }

    fn checkpoint(&self, durable: Position, now: u64) -> Vec<u8> {
        let removed = self.removed.load(SeqCst);
        let words = [durable.0, now, removed];
        let known = if removed == 0 { &words[..2] } else { &words };
        known.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn make_segment(&self) -> Result<Arc<Segment>> {
        let room = self.space.room();
        if room < LEAST_SEGMENT {
            return Err(Error::Full("there is no room for another segment of the log".into()));
        }
        // Much is not taken where little is left: a segment is given back whole. In a cache that is full there is room for
        // two all the time, and for no more.
        let parts = if self.options.evict { 2 } else { SEGMENTS };
        let size = self.next_size().min(self.space.headroom() / parts).max(LEAST_SEGMENT) & !(BLOCK - 1);
        let order = self.log.active_order() + 1;
        let make = |size| next_segment(&self.options, self.home.store, &self.log.segments, order, size);
        match make(size) {
            // A quota, or a limit on the size of files.
            Err(Error::Full(_)) if size > LEAST_SEGMENT => make(LEAST_SEGMENT),
            made => made,
        }
    }

    /// How large the next segment should be: a small part of what the store holds, so that what stands in it cannot
    /// waste much; but with many writes no smaller than what comes in while another is made.
    fn next_size(&self) -> u64 {
        let bytes = self.log.bytes.load(Relaxed);
        let mut last = super::lock(&self.log.preparing_since);
        let (since, before) = std::mem::replace(&mut *last, (Instant::now(), bytes));
        let elapsed = since.elapsed().max(Duration::from_millis(1)).as_secs_f64();
        let rush = ((bytes - before) as f64 / elapsed * PREPARING.as_secs_f64()) as u64;
        let live = self.index.bytes();
        self.options.segment_size(live.max(SEGMENTS * rush.min(RUSH.max(2 * live / SEGMENTS))))
    }

    /// Makes the next segment, if it is not ready.
    pub fn prepare_spare(&self) -> Result<()> {
        let _one = super::lock(&self.log.preparing);
        if self.log.has_spare() {
            return Ok(());
        }
        let made = match self.make_segment() {
            Err(Error::Full(_)) => self.give_back_and_make_segment(),
            made => made,
        };
        let outcome = made.as_ref().map(|_| ()).map_err(Error::clone);
        self.log.set_spare(made);
        outcome
    }

    /// Full segments have room reserved that they did not need: syncing gives it back.
    fn give_back_and_make_segment(&self) -> Result<Arc<Segment>> {
        self.sync(self.log.progress.written())?;
        self.measure_space();
        self.make_segment()
    }

    /// Moves on to another segment, so that the one that is active now can be compacted.
    pub fn seal_active(&self) -> Result<()> {
        self.prepare_spare()?;
        self.log.leave_active();
        // Only a record in the next segment shows that all of this one is durable.
        self.append_checkpoint_for_sure(self.log.progress.durable()).map(drop)
    }

    /// The clean end: gives back the room that was reserved for more, and the segment that was never used.
    pub fn trim(&self) -> Result<()> {
        let (active, end, spare) = self.log.rest();
        let cut = active.file.set_len(end).and_then(|()| active.file.sync_all());
        cut.map_err(|error| Error::io("cut to its records", &active.path, &error))?;
        let Some(spare) = spare else { return Ok(()) };
        let failed = |error| Error::io("remove", &spare.path, &error);
        std::fs::remove_file(&spare.path).map_err(failed)?;
        sys::file::sync_directory(&self.options.path).map_err(failed)
    }
}

/// Makes the segment that stands at `order` in the log, and adds it to the table.
pub(crate) fn next_segment(
    options: &Options,
    store: u64,
    segments: &Segments,
    order: u64,
    size: u64,
) -> Result<Arc<Segment>> {
    let ((handle, number), dir) = (segments.reserve()?, &options.path);
    let made = Arc::new(Plan { dir, store, number, handle, order, size, compacted: false }.create()?);
    segments.add(&made);
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Db;
    use crate::store::recovery::tests::{options, scratch};

    #[test]
    fn who_need_not_make_a_segment_does_not_wake_up_for_it() {
        let dir = scratch();
        let db = Db::open(options(dir.path())).unwrap();
        let mut syncer = Syncer::new(db.core().clone());
        syncer.retry = Some(Instant::now());
        syncer.prepare_segment().unwrap();
        assert_eq!(syncer.retry, None, "whoever waits until a time that has passed does not wait");
    }
}
