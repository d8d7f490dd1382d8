//! `eventfd(2)`: how one thread wakes another's loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A doorbell. Registered edge-triggered, it never needs to be read: every ring is a new edge.
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, silent.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor that nobody else knows.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Wakes whoever waits for it. From any thread.
    ///
    /// The one possible failure is a counter at 2^64-2, after as many rings; the bell is then ringing already.
    pub fn ring(&self) {
        let one = 1u64;
        // SAFETY: writes the eight bytes of `one`, which lives on this stack frame.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
