//! `signalfd(2)`: signals as something to read, so that no code ever runs in a signal handler.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A signal this server acts upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGTERM, SIGINT or SIGUSR1 (memcached's graceful stop): stop in good order.
    Stop,
    /// SIGHUP: read again what may be read again.
    Reload,
    /// SIGUSR2, by its name: taken so that it does not kill.
    Other(&'static str),
}

/// Blocks no signal any more in this thread: for a process that is to die of them.
pub fn unblock() {
    // SAFETY: an all-zero sigset_t is an empty set, and outlives the call, which can fail for a wrong first argument only.
    unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// The blocked signals, readable.
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 in this thread and in every thread it starts
    /// afterwards, and ignores SIGPIPE and SIGXFSZ (the calls return an error then). Call it before the first thread is started, or that thread will take
    /// the signal and die of it.
    pub fn block() -> io::Result<Self> {
        let signals = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];
        // SAFETY: an all-zero sigset_t is valid, and sigemptyset makes it a set whatever it was; the set
        // outlives each call; SIG_IGN installs no handler. sigaddset fails for unknown signal numbers only.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in signals {
                libc::sigaddset(&mut set, signal);
            }
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
                0 => libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK),
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor that nobody else knows.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal, if there is one.
    pub fn read(&self) -> io::Result<Option<Signal>> {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        // SAFETY: signalfd_siginfo is plain integers, so all-zero is a valid value.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes at most `SIZE` bytes into `info`, which has exactly so many.
        let n = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), SIZE) };
        if n < 0 {
            return match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::WouldBlock || e.kind() == io::ErrorKind::Interrupted => Ok(None),
                e => Err(e),
            };
        }
        Ok(Some(match info.ssi_signo.cast_signed() {
            libc::SIGTERM | libc::SIGINT | libc::SIGUSR1 => Signal::Stop,
            libc::SIGHUP => Signal::Reload,
            _ => Signal::Other("SIGUSR2"),
        }))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
