//! `getrlimit(2)`, `setrlimit(2)` and `getrusage(2)`: what the process may use and what it has used.

use std::io;
use std::time::Duration;

/// Raises the soft limit on open descriptors to the hard one, which is raised to `wanted` first if it is below and the
/// process may do that. Returns the limit that then holds.
pub fn raise_descriptor_limit(wanted: u64) -> io::Result<u64> {
    let limit = descriptor_limits()?;
    for most in [limit.rlim_max.max(wanted), limit.rlim_max] {
        let attempt = libc::rlimit64 { rlim_cur: most, rlim_max: most };
        // SAFETY: `attempt` is a valid rlimit64, only read.
        if unsafe { libc::setrlimit64(libc::RLIMIT_NOFILE, &attempt) } == 0 {
            return Ok(most);
        }
    }
    Ok(limit.rlim_cur)
}

/// The soft limit on open descriptors.
pub fn descriptor_limit() -> io::Result<u64> {
    Ok(descriptor_limits()?.rlim_cur)
}

fn descriptor_limits() -> io::Result<libc::rlimit64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid, writable rlimit64.
    if unsafe { libc::getrlimit64(libc::RLIMIT_NOFILE, &mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

/// Processor time of this process so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// In user mode.
    pub user: Duration,
    /// In the kernel on its behalf.
    pub system: Duration,
}

/// Processor time of all threads of this process.
pub fn usage() -> Usage {
    // SAFETY: rusage is plain integers, so all-zero is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid, writable rusage; RUSAGE_SELF cannot fail with one.
    let rc = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    assert!(rc == 0, "getrusage(RUSAGE_SELF) cannot fail");
    Usage { user: duration(usage.ru_utime), system: duration(usage.ru_stime) }
}

fn duration(time: libc::timeval) -> Duration {
    let micros = u32::try_from(time.tv_usec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), micros * 1000)
}

/// Whether a call failed for want of descriptors or memory, which may come back by itself.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
