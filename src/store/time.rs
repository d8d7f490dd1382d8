//! Store time: seconds since 1970 as far as the host knew at the start, then counted on the boot clock. It never
//! goes back, not even over a restart of a board without a clock battery: it starts no earlier than the greatest
//! time the log recorded. Any thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::sys::clock;

/// What to add to the boot clock.
pub(crate) struct StoreTime {
    anchor: Duration,
    /// The greatest time on record at the opening, and the boot clock then.
    recorded: Duration,
    opened: Duration,
    clocks: Clocks,
    /// What [`StoreTime::now`] said last.
    seen: AtomicU64,
    /// The greatest time on record by now, and the greatest at which something expired that was told.
    noted: AtomicU64,
    told: AtomicU64,
    /// For tests: seconds ahead, and the second at which it was stopped or 0.
    #[cfg(feature = "debugtime")]
    moved: (AtomicU64, AtomicU64),
}

/// A clock that is so far ahead of the greatest time on record may be wrong. (Or the store was closed for so long.)
const LEAP: Duration = Duration::from_secs(3600);
/// For so long after the opening, nothing is destroyed on its word.
const DOUBT: Duration = Duration::from_secs(24 * 3600);

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
        let (recorded, opened) = (Duration::from_secs(greatest), clocks.boot());
        let wall = clocks.wall().max(recorded);
        StoreTime {
            anchor: wall.saturating_sub(opened),
            recorded,
            opened,
            clocks,
            seen: AtomicU64::new(wall.as_secs()),
            noted: AtomicU64::new(greatest),
            told: AtomicU64::new(0),
            #[cfg(feature = "debugtime")]
            moved: Default::default(),
        }
    }

    /// The time by which compaction takes records for expired. If the host's clock leapt forward while the store was
    /// closed, that may be a mistake: then, for a day, it is the time on record and what has passed since the opening.
    pub fn reclaim(&self) -> u64 {
        let passed = self.clocks.boot().saturating_sub(self.opened);
        let leapt = self.anchor + self.opened > self.recorded + LEAP;
        match leapt && passed < DOUBT && !self.recorded.is_zero() {
            true => (self.recorded + passed).as_secs(),
            false => self.now(),
        }
    }

    /// Whole seconds.
    pub fn now(&self) -> u64 {
        let now = (self.anchor + self.clocks.boot()).as_secs();
        #[cfg(feature = "debugtime")]
        let now = self.moved(now);
        if self.seen.load(Relaxed) != now {
            self.seen.store(now, Relaxed);
        }
        now
    }

    #[cfg(feature = "debugtime")]
    fn moved(&self, now: u64) -> u64 {
        match self.moved.1.load(Relaxed) {
            0 => now + self.moved.0.load(Relaxed),
            stopped => stopped,
        }
    }

    /// See [`super::Db::debug_time`].
    #[cfg(feature = "debugtime")]
    pub fn debug(&self, how: &[u8]) -> bool {
        let (ahead, stopped) = (&self.moved.0, &self.moved.1);
        match how {
            b"p" => stopped.store(self.now(), Relaxed),
            b"r" => {
                let lost = (self.anchor + self.clocks.boot()).as_secs() + ahead.load(Relaxed);
                ahead.fetch_sub(lost - stopped.swap(0, Relaxed).min(lost), Relaxed);
            }
            how => match std::str::from_utf8(how).map(str::parse) {
                Ok(Ok(seconds)) if stopped.load(Relaxed) == 0 => drop(ahead.fetch_add(seconds, Relaxed)),
                Ok(Ok(seconds)) => drop(stopped.fetch_add(seconds, Relaxed)),
                _ => return false,
            },
        }
        true
    }

    /// Somebody is told that what expired at `time` is gone. Whether the log must be told the time for that to stay so.
    pub fn tell(&self, time: u64) -> bool {
        time > self.noted.load(Relaxed) && self.told.fetch_max(time, Relaxed) < time
    }

    /// `time` is on record.
    pub fn note(&self, time: u64) {
        self.noted.fetch_max(time, Relaxed);
    }

    /// Whether all is on record that has been told.
    pub fn is_noted(&self) -> bool {
        self.told.load(Relaxed) <= self.noted.load(Relaxed)
    }

    /// What [`StoreTime::now`] said last: for where a second more or less makes no difference.
    pub fn last_seen(&self) -> u64 {
        self.seen.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_reclaimed_on_the_word_of_a_clock_that_leapt() {
        let wall = clock::wall_time().as_secs();
        let leapt = StoreTime::start(wall - 7200, Clocks::Host);
        assert!(leapt.now() >= wall && leapt.reclaim() < wall - 7100);
        let steady = StoreTime::start(wall - 60, Clocks::Host);
        assert!(steady.reclaim() >= wall);
        assert!(StoreTime::start(0, Clocks::Host).reclaim() >= wall, "a new store has nothing on record");
    }

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
