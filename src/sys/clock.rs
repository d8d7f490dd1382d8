//! Clocks: `clock_gettime(2)`, answered by the vDSO, without entering the kernel; and what a thread does with its time:
//! `getrusage(2)`.

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

/// How often the calling thread has gone to sleep; that it lost the processor to another one does not count.
pub fn sleeps() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is writable for the whole call. Zeros, which the kernel overwrites, are a valid `rusage`.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_nvcsw).unwrap_or(0)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the whole call; the kernel writes nothing else.
    let rc = unsafe { libc::clock_gettime(clock, &mut time) };
    assert!(rc == 0, "clock_gettime({clock}) is always supported");
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_counted() {
        let before = sleeps();
        std::thread::sleep(Duration::from_millis(1));
        assert!(sleeps() > before);
    }
}
