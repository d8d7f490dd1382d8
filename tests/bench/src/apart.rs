//! How far the load's core and the servers' are apart: how long a cache line takes from one to the other and back. A virtual
//! machine's processors are moved about on what is below: at times they share a cache, and at others it costs one of them
//! four to five times as much to write what the other has just read. Figures of what is sent mean little without this.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::sys;

const TRIPS: u32 = 20_000;

/// Nanoseconds for one round trip between `core` and the caller's, to which it is pinned: the median of a few. NaN: they
/// are one.
pub fn round_trip(core: usize) -> Result<f64> {
    let count = if sys::cores()? == [core] { 0 } else { 5 };
    let times = (0..count).map(|_| trips(core)).collect::<Result<Vec<_>>>()?;
    Ok(crate::report::median(times).unwrap_or(f64::NAN))
}

fn trips(core: usize) -> Result<f64> {
    let ball = AtomicU32::new(0);
    let play = |first: u32| {
        for trip in 0..TRIPS {
            while ball.load(Ordering::Acquire) != 2 * trip + first {
                std::hint::spin_loop();
            }
            ball.store(2 * trip + first + 1, Ordering::Release);
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let pinned = sys::pin(core);
            play(0);
            pinned
        });
        // It has got to its core.
        while ball.load(Ordering::Acquire) == 0 {
            std::hint::spin_loop();
        }
        let began = Instant::now();
        play(1);
        let time = began.elapsed().as_nanos() as f64 / f64::from(TRIPS);
        other.join().ok().context("the other thread panicked")??;
        Ok(time)
    })
}
