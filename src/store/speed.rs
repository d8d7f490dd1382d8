//! How fast the disk takes writes of one kind, as those who write notice. An event loop writes by itself while they
//! return at once, as they do into the page cache; after one that took its time (the kernel throttles writers, the
//! journal is busy) they go to the disk lane until enough in a row were fast again. So a loop sleeps in the writes of one
//! step per slow phase. Any thread.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use crate::sys::clock;

/// A write that takes longer is slow; copying a megabyte may take as long again.
const SLOW: Duration = Duration::from_millis(1);

pub(crate) struct Speed {
    slow: AtomicBool,
    /// Writes in a row that were not slow, in a slow phase.
    fast: AtomicU32,
    /// So many end it.
    recovered_after: u32,
}

impl Speed {
    pub fn new(recovered_after: u32) -> Speed {
        Speed { slow: AtomicBool::new(false), fast: AtomicU32::new(0), recovered_after }
    }

    /// Carries out a write of `len` bytes and learns from it. Where the processor is busy, a write may take long for that
    /// alone: it is slow only if the thread slept.
    pub fn watch<T>(&self, len: usize, write: impl FnOnce() -> T) -> T {
        let (sleeps, before) = (clock::sleeps(), clock::monotonic());
        let result = write();
        let took = clock::monotonic() - before;
        // Not all kernels count sleeps.
        let slept = took > SLOW && !(1..=sleeps).contains(&clock::sleeps());
        self.note(len, if slept { took } else { Duration::ZERO });
        result
    }

    /// A write of `len` bytes took so long.
    pub fn note(&self, len: usize, took: Duration) {
        if took > SLOW * (1 + (len >> 20) as u32) {
            self.slow.store(true, Relaxed);
            self.fast.store(0, Relaxed);
        } else if self.is_slow() && self.fast.fetch_add(1, Relaxed) + 1 >= self.recovered_after {
            self.slow.store(false, Relaxed);
        }
    }

    /// Whether it is a slow phase.
    pub fn is_slow(&self) -> bool {
        self.slow.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_write_counts_until_enough_in_a_row_were_fast() {
        let speed = Speed::new(3);
        let note = |millis| speed.note(1 << 20, Duration::from_millis(millis));
        for (millis, slow) in [(2, false), (3, true), (0, true), (1, true), (5, true), (0, true), (0, true), (0, false)]
        {
            note(millis);
            assert_eq!(speed.is_slow(), slow, "{millis} ms");
        }
    }
}
