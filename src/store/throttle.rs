//! The limit on incoming bytes per second: a bucket of tokens that fills with time and is drawn from by what comes in.
//! Whoever finds it empty waits, as with a log that has no room; nothing is refused. A command may draw more than there
//! is: what it owes is paid before the next one, so the rate holds whatever the size of the values.
//!
//! Any thread; without a limit it costs a comparison.

use std::sync::Mutex;
use std::time::Duration;

use crate::sys::clock;

/// The bucket holds what comes in during this time.
const BURST: Duration = Duration::from_millis(100);

pub(crate) struct Throttle {
    /// Bytes per second; 0: no limit.
    rate: u64,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    /// Bytes that may come in; below zero, bytes that came in too early.
    tokens: i64,
    /// When the tokens were counted, on the monotonic clock.
    counted: Duration,
}

impl Throttle {
    pub fn new(rate: u64) -> Throttle {
        Throttle { rate, bucket: Mutex::new(Bucket { tokens: burst(rate), counted: clock::monotonic() }) }
    }

    /// How long to wait until something may come in; `None`: it may now.
    pub fn wait(&self) -> Option<Duration> {
        if self.rate == 0 {
            return None;
        }
        self.wait_at(clock::monotonic())
    }

    fn wait_at(&self, now: Duration) -> Option<Duration> {
        let mut bucket = super::lock(&self.bucket);
        bucket.fill(self.rate, now);
        let owed = u64::try_from(1 - bucket.tokens).ok().filter(|&owed| owed > 0)?;
        Some(Duration::from_secs_f64(owed as f64 / self.rate as f64))
    }

    /// Whether so many bytes may come at once and others do not wait longer for it than they do after any burst.
    pub fn allows_at_once(&self, bytes: usize) -> bool {
        self.rate == 0 || burst(self.rate) >= bytes as i64
    }

    /// Counts bytes that came in.
    pub fn draw(&self, bytes: usize) {
        if self.rate != 0 {
            super::lock(&self.bucket).tokens -= bytes as i64;
        }
    }
}

impl Bucket {
    fn fill(&mut self, rate: u64, now: Duration) {
        let passed = now.saturating_sub(self.counted);
        let new = (u128::from(rate) * passed.as_nanos() / 1_000_000_000) as i64;
        self.tokens = self.tokens.saturating_add(new).min(burst(rate));
        // The time of a fraction of a token is not lost.
        let spent = u128::from(new.unsigned_abs()) * 1_000_000_000 / u128::from(rate);
        self.counted += Duration::from_nanos(u64::try_from(spent).unwrap_or(u64::MAX));
    }
}

fn burst(rate: u64) -> i64 {
    (u128::from(rate) * BURST.as_nanos() / 1_000_000_000).clamp(1, 1 << 40) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_nobody_waits() {
        let throttle = Throttle::new(0);
        throttle.draw(usize::MAX >> 1);
        assert_eq!(throttle.wait(), None);
        assert!(throttle.allows_at_once(usize::MAX >> 1));
    }

    #[test]
    fn what_comes_at_once_is_what_comes_in_a_tenth_of_a_second() {
        assert!(Throttle::new(1000).allows_at_once(100) && !Throttle::new(1000).allows_at_once(101));
    }

    #[test]
    fn what_comes_in_is_never_more_than_time_and_burst_allow() {
        for rate in [1, 999, 100_000, 50_000_000] {
            let throttle = Throttle::new(rate);
            let start = clock::monotonic();
            let (mut now, mut total) = (start, 0_u64);
            for step in 0..10_000_u64 {
                match throttle.wait_at(now) {
                    Some(wait) => now += wait,
                    None => {
                        let bytes = step * 7919 % 70_000;
                        throttle.draw(bytes as usize);
                        total += bytes;
                        let allowed = (now - start).as_secs_f64() * rate as f64 + burst(rate) as f64 + 70_000.0;
                        assert!(total as f64 <= allowed + 1.0, "{total} bytes at {rate}, {allowed} allowed");
                    }
                }
            }
            // The control: it is the rate, and not less, that comes in.
            let allowed = (now - start).as_secs_f64() * rate as f64;
            assert!(total as f64 >= allowed * 0.95, "{total} bytes at {rate}, {allowed} would do");
        }
    }
}
