//! Clocks: `clock_gettime(2)`. All of these are answered by the vDSO, without entering the kernel.

use std::time::Duration;

/// Time since boot, suspended time included (`CLOCK_BOOTTIME`). Never goes back.
pub fn boot_time() -> Duration {
    read(libc::CLOCK_BOOTTIME)
}

/// Time since 1970 as the host believes it to be (`CLOCK_REALTIME`). May jump either way.
pub fn wall_time() -> Duration {
    read(libc::CLOCK_REALTIME)
}

/// `CLOCK_MONOTONIC`: for measuring how long something took.
pub fn monotonic() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the whole call; the kernel writes nothing else.
    let rc = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(rc, 0, "clock_gettime({clock}) is always supported");
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
