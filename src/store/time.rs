//! Store time: seconds since 1970 as far as the host knew at the start, then counted on the boot clock. It never
//! goes back, not even over a restart of a board without a clock battery: it starts no earlier than the greatest
//! time the log recorded. Any thread.

use std::time::Duration;

use crate::sys::clock;

/// What to add to the boot clock.
pub(crate) struct StoreTime {
    anchor: Duration,
    clocks: Clocks,
}

/// The host's clocks, or those of a test.
#[derive(Clone, Default)]
pub(crate) enum Clocks {
    #[default]
    Host,
    #[cfg(test)]
    Set(std::sync::Arc<Hands>),
}

/// Clocks that a test sets. Seconds.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Hands {
    pub wall: std::sync::atomic::AtomicU64,
    pub boot: std::sync::atomic::AtomicU64,
}

impl Clocks {
    fn wall(&self) -> Duration {
        match self {
            Clocks::Host => clock::wall_time(),
            #[cfg(test)]
            Clocks::Set(hands) => Duration::from_secs(hands.wall.load(std::sync::atomic::Ordering::SeqCst)),
        }
    }

    fn boot(&self) -> Duration {
        match self {
            Clocks::Host => clock::boot_time(),
            #[cfg(test)]
            Clocks::Set(hands) => Duration::from_secs(hands.boot.load(std::sync::atomic::Ordering::SeqCst)),
        }
    }
}

impl StoreTime {
    /// Store time is `greatest` seconds now, or what the host believes, whichever is later.
    pub fn start(greatest: u64, clocks: Clocks) -> StoreTime {
        let wall = clocks.wall().max(Duration::from_secs(greatest));
        StoreTime { anchor: wall.saturating_sub(clocks.boot()), clocks }
    }

    /// Whole seconds.
    pub fn now(&self) -> u64 {
        (self.anchor + self.clocks.boot()).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_starts_no_earlier_than_it_was_seen() {
        let wall = clock::wall_time().as_secs();
        let now = |greatest| StoreTime::start(greatest, Clocks::Host).now();
        assert!(now(0) >= wall);
        assert!(now(wall + 1000) >= wall + 1000);
        assert!(now(wall + 1000) <= wall + 1002);
    }
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod clock_tests;
