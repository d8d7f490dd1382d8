//! `poll(2)`, of one descriptor and without waiting.

use std::os::fd::{AsFd, AsRawFd};

/// Whether a short write would not block, as far as that can be told: a pipe takes a page (`PIPE_BUF`) then. Files always do.
/// An error or a reader that is gone counts as yes: writing tells.
pub fn is_writable(fd: &impl AsFd) -> bool {
    let mut polled = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: the kernel reads and writes the one pollfd, which outlives the call.
    let count = unsafe { libc::poll(&mut polled, 1, 0) };
    count != 0
}
