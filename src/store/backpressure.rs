//! Holding writers back while more is overwritten than compaction can give back, so that the store keeps to its bound on
//! disk space however starved the compactor is. Writers may append up to a limit; whoever surveys the segments moves it,
//! and a round of compaction does so as it proceeds: a writer that has reached it waits for a few hundred kilobytes to be
//! compacted, not for a round.
//!
//! Asked before every write, by any thread: two loads. Set by the syncer and the compactor.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Mutex, MutexGuard};

/// No limit.
const NONE: u64 = u64::MAX;

/// See the head of this file. Bytes are those that were ever written to the log ([`super::log::Log::bytes`]).
#[derive(Debug)]
pub(crate) struct Backpressure {
    limit: AtomicU64,
    /// Who moves the limit on: without anybody there is none.
    movers: Mutex<Movers>,
}

/// Whether somebody compacts, and so moves the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Movers {
    /// The compactor does not run, or waits for somebody else's rounds.
    Nobody,
    Compactor,
}

impl Default for Backpressure {
    fn default() -> Backpressure {
        Backpressure { limit: AtomicU64::new(NONE), movers: Mutex::new(Movers::Nobody) }
    }
}

impl Backpressure {
    /// Whether writers must wait when `written` bytes were.
    pub fn holds(&self, written: u64) -> bool {
        written >= self.limit.load(Relaxed)
    }

    /// From now on, when `written` bytes were, `slack` more may follow.
    pub fn allow(&self, written: u64, slack: u64) {
        let movers = self.movers();
        if *movers == Movers::Compactor {
            self.limit.store(written.saturating_add(slack), SeqCst);
        }
    }

    /// Compaction has freed, or is about to, so many bytes more.
    pub fn credit(&self, bytes: u64) {
        // Past the greatest number there is no limit to move.
        let _ = self.limit.fetch_update(SeqCst, SeqCst, |limit| limit.checked_add(bytes));
    }

    /// Nothing more can be given back at present: writers go on.
    pub fn lift(&self) {
        let _movers = self.movers();
        self.limit.store(NONE, SeqCst);
    }

    /// The compactor is at work, and moves limits.
    pub fn begin(&self) {
        *self.movers() = Movers::Compactor;
    }

    /// The compactor is not there to move any limit.
    pub fn end(&self) {
        let mut movers = self.movers();
        *movers = Movers::Nobody;
        self.limit.store(NONE, SeqCst);
    }

    fn movers(&self) -> MutexGuard<'_, Movers> {
        super::lock(&self.movers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_held_at_the_limit_and_only_while_somebody_moves_it() {
        let pressure = Backpressure::default();
        pressure.allow(100, 10);
        assert!(!pressure.holds(u64::MAX - 1), "nobody would move it");
        pressure.begin();
        pressure.allow(100, 10);
        assert!(!pressure.holds(109) && pressure.holds(110));
        pressure.credit(5);
        assert!(!pressure.holds(114) && pressure.holds(115));
        pressure.lift();
        pressure.credit(5);
        assert!(!pressure.holds(u64::MAX - 1));
        pressure.allow(100, 0);
        assert!(pressure.holds(100));
        pressure.end();
        assert!(!pressure.holds(100));
    }
}
