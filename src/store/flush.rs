//! `flush_all`: everything before a point of the log is gone, at once or from a given second on. Two records make
//! it survive a restart: *pending* when it is ordered with a delay, *fired* when it happens. Nothing is walked
//! over: a record is gone if it lies before the last *fired*. Any thread.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard};

use super::core::Core;
use super::error::Result;
use super::location::{Location, Position};
use super::options::Severity;
use super::record::{Fields, Kind};
use super::replay::Facts;

#[derive(Default)]
pub(crate) struct Flushes {
    /// End of the last *fired* record; zero: there is none.
    fired: AtomicU64,
    /// Store time at which the pending flush fires; zero: none is pending.
    due: AtomicU64,
    /// The index may still name flushed records.
    unswept: AtomicBool,
    /// Held while a record is appended and the state follows it.
    order: Mutex<()>,
}

impl Flushes {
    /// As recovery found them.
    pub fn new(fired: Position, due: u64) -> Flushes {
        Flushes { fired: AtomicU64::new(fired.0), due: AtomicU64::new(due), ..Flushes::default() }
    }

    /// Keeps flushes from firing for as long as it is held.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        super::lock(&self.order)
    }

    pub fn fired(&self) -> Position {
        Position(self.fired.load(SeqCst))
    }
}

impl Core {
    /// Whether the record at `location` was flushed. Costs one load in a store that never was.
    pub fn is_flushed(&self, location: Location) -> bool {
        let fired = self.flushes.fired();
        fired.0 != 0 && self.log.segments.position(location) < fired
    }

    /// Flushes now, or at second `at`; either replaces a flush that is pending.
    pub fn flush_all(&self, at: Option<u64>) -> Result<Position> {
        let _order = super::lock(&self.flushes.order);
        match at {
            None => self.fire(),
            Some(at) => {
                let position = self.append_control(Kind::FlushPending, &at.to_le_bytes())?;
                self.flushes.due.store(at.max(1), SeqCst);
                Ok(position)
            }
        }
    }

    /// Fires the pending flush if it is due; tells whether it did.
    pub fn tick(&self, now: u64) -> Result<bool> {
        let is_due = || matches!(self.flushes.due.load(SeqCst), due if due != 0 && due <= now);
        if !is_due() {
            return Ok(false);
        }
        let _order = super::lock(&self.flushes.order);
        if is_due() { self.fire().map(|_| true) } else { Ok(false) }
    }

    fn fire(&self) -> Result<Position> {
        // Who has seen that a record is not flushed appends what he makes of it before the flush, or looks again.
        let position = self.index.stop(|| {
            let position = self.append_control(Kind::FlushFired, b"")?;
            self.flushes.fired.store(position.0, SeqCst);
            Ok(position)
        })?;
        self.flushes.due.store(0, SeqCst);
        self.flushes.unswept.store(true, SeqCst);
        self.bell.ring();
        Ok(position)
    }

    /// Takes flushed records off the index, whose memory they hold. For the syncer.
    pub fn sweep(&self) {
        if self.flushes.unswept.swap(false, SeqCst) {
            self.index.retain(|entry| {
                let flushed = self.is_flushed(entry.location);
                if flushed {
                    self.note_dead(entry);
                }
                !flushed
            });
            if let Err(error) = self.cache.clear() {
                (self.options.report)(Severity::Warning, &format!("cannot clear the record cache: {error}"));
            }
        }
    }

    /// Where the log ends now, and what the store knows there besides its keys.
    pub fn facts(&self) -> (Position, Facts) {
        let _order = super::lock(&self.flushes.order);
        let position = self.log.end();
        let facts = Facts {
            sequence: self.sequence.load(SeqCst),
            time: self.time.now(),
            flushed: self.flushes.fired(),
            flush_due: self.flushes.due.load(SeqCst),
            removed: self.removed.load(SeqCst),
        };
        (position, facts)
    }

    /// Says again that a flush is pending, if one is, before compaction removes where it was said first; or sees to it
    /// that none is said to be. The caller holds `compaction.rounds`.
    pub fn append_pending_flush(&self) -> Result<()> {
        let order = super::lock(&self.flushes.order);
        match self.flushes.due.load(SeqCst) {
            0 => {
                drop(order);
                self.forget_pending_flush()
            }
            due => self.append_needed(Kind::FlushPending, &due.to_le_bytes()).map(drop),
        }
    }

    /// As [`Core::append_control`], for notes without which compaction cannot make room.
    pub fn append_needed(&self, kind: Kind, body: &[u8]) -> Result<Position> {
        let record = Fields::control(kind, body, self.next_sequence());
        self.log.append_needed(&record).map(|(_, position)| position)
    }

    /// Appends a record without a key.
    pub fn append_control(&self, kind: Kind, body: &[u8]) -> Result<Position> {
        let record = Fields::control(kind, body, self.next_sequence());
        let (location, position) = self.log.append(&record)?;
        if kind == Kind::FlushFired {
            self.log.segments.usage(location.handle()).note_flush();
        }
        Ok(position)
    }
}
