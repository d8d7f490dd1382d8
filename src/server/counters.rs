//! Counters of one worker. Only the worker itself writes them, with plain loads and stores that are atomic
//! for the reader's sake (no locked instruction), and each worker's stand in cache lines of their own.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Counter {
    CmdGet,
    CmdSet,
    CmdFlush,
    CmdTouch,
    CmdMeta,
    AuthCmds,
    AuthErrors,
    GetHits,
    GetMisses,
    GetExpired,
    DeleteMisses,
    DeleteHits,
    IncrMisses,
    IncrHits,
    DecrMisses,
    DecrHits,
    CasMisses,
    CasHits,
    CasBadval,
    TouchHits,
    TouchMisses,
    StoreTooLarge,
    IdleKicks,
    BytesRead,
    BytesWritten,
    ConnYields,
    TotalConnections,
    RejectedConnections,
    ListenDisabledNum,
    ListenDisabledMicros,
    /// A gauge: connections now.
    Connections,
    /// A gauge: entries the table has room for were needed at most.
    ConnectionsPeak,
    Turns,
}

const COUNT: usize = Counter::Turns as usize + 1;

/// The values at one moment, by [`Counter`].
pub type Values = [u64; COUNT];

/// See the module's head.
#[repr(align(64))]
pub struct Counters([AtomicU64; COUNT]);

impl Counters {
    /// All zero.
    pub fn new() -> Self {
        Self([const { AtomicU64::new(0) }; COUNT])
    }

    /// Adds to one. By the owning worker only.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        let cell = &self.0[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets a gauge. By the owning worker only.
    pub fn set(&self, counter: Counter, value: u64) {
        self.0[counter as usize].store(value, Ordering::Relaxed);
    }

    /// One value. From any thread.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }

    /// Adds all values to `sum`. From any thread.
    pub fn add_to(&self, sum: &mut Values) {
        for (sum, cell) in sum.iter_mut().zip(&self.0) {
            *sum = sum.wrapping_add(cell.load(Ordering::Relaxed));
        }
    }
}

/// All zero.
pub const ZERO: Values = [0; COUNT];
