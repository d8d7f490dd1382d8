//! Store time: seconds since 1970 as far as the host knew at the start, then counted on the boot clock. It never
//! goes back, not even over a restart of a board without a clock battery: it starts no earlier than the greatest
//! time the log recorded. Any thread.

use std::time::Duration;

use crate::sys::clock;

/// What to add to the boot clock.
pub(crate) struct StoreTime {
    anchor: Duration,
}

impl StoreTime {
    /// Store time is `greatest` seconds now, or what the host believes, whichever is later.
    pub fn start(greatest: u64) -> StoreTime {
        let wall = clock::wall_time().max(Duration::from_secs(greatest));
        StoreTime { anchor: wall.saturating_sub(clock::boot_time()) }
    }

    /// Whole seconds.
    pub fn now(&self) -> u64 {
        (self.anchor + clock::boot_time()).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_starts_no_earlier_than_it_was_seen() {
        let wall = clock::wall_time().as_secs();
        assert!(StoreTime::start(0).now() >= wall);
        assert!(StoreTime::start(wall + 1000).now() >= wall + 1000);
        assert!(StoreTime::start(wall + 1000).now() <= wall + 1002);
    }
}
