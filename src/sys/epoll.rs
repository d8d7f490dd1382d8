//! `epoll(7)`: one instance per loop. The caller chooses a 64-bit token per descriptor and gets it back with
//! every event.
//!
//! Connections are registered once, edge-triggered, for everything ([`Interest::EDGE`]), so that a
//! connection's whole life costs one `epoll_ctl(2)`: the kernel drops the registration when the descriptor is
//! closed. Listening sockets are level-triggered. Used by one thread; a token is never interpreted here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// What to be told about a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interest(u32);

impl Interest {
    /// Every change of readability, writability or the peer's shutdown, once each.
    pub const EDGE: Self = Self((libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP) as u32 | libc::EPOLLET as u32);
    /// Readable, told once per change: for an eventfd, which then never needs to be read (every write is a change).
    pub const EDGE_IN: Self = Self(libc::EPOLLIN as u32 | libc::EPOLLET as u32);
    /// Readable, told again as long as it is so.
    pub const LEVEL_IN: Self = Self(libc::EPOLLIN as u32);
    /// As `LEVEL_IN`, for a socket shared by several loops: one of them is woken, not all.
    pub const SHARED_IN: Self = Self(libc::EPOLLIN as u32 | libc::EPOLLEXCLUSIVE as u32);
}

/// One event, as copied out of the kernel's array.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The token given to [`Epoll::add`].
    pub token: u64,
    bits: u32,
}

impl Event {
    /// There may be something to read: bytes, the end of the stream, or an error.
    pub fn readable(self) -> bool {
        self.bits & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }

    /// There may be room to write, or an error to fetch by trying.
    pub fn writable(self) -> bool {
        self.bits & (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }

    /// The peer will send nothing more: a short read does not mean that the socket is drained, its end is
    /// still to be read.
    pub fn hung_up(self) -> bool {
        self.bits & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }
}

/// An epoll instance and the array its events arrive in.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    ready: usize,
}

impl Epoll {
    /// A new instance that takes up to `batch` events per wait.
    pub fn new(batch: usize) -> io::Result<Self> {
        assert!(batch > 0 && i32::try_from(batch).is_ok(), "out of range");
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor that nobody else knows.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; batch], ready: 0 })
    }

    /// Registers a descriptor. It leaves by itself when its last duplicate is closed.
    pub fn add(&self, fd: &impl AsFd, interest: Interest, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    /// Takes a descriptor out.
    pub fn delete(&self, fd: &impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, Interest(0), 0)
    }

    /// Waits for events, at most `timeout` (`None`: for ever; rounded up to a millisecond). Returns how many
    /// there are; read them with [`Epoll::event`]. A signal that interrupts the wait counts as no event.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let millis = match timeout {
            None => -1,
            Some(time) => i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX),
        };
        let room = i32::try_from(self.events.len()).expect("checked when created");
        // SAFETY: the kernel writes at most `room` entries into the array, which has that many and outlives the call.
        let n = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, millis) };
        self.ready = match usize::try_from(n) {
            Ok(n) => n,
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => 0,
                e => return Err(e),
            },
        };
        Ok(self.ready)
    }

    /// Event `index` of the last wait.
    pub fn event(&self, index: usize) -> Event {
        assert!(index < self.ready, "out of range");
        let event = self.events[index];
        Event { token: event.u64, bits: event.events }
    }

    fn control(&self, op: i32, fd: &impl AsFd, interest: Interest, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.0, u64: token };
        // SAFETY: both descriptors are open for the whole call, since they are borrowed; `event` is a valid
        // epoll_event.
        let rc = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), op, fd.as_fd().as_raw_fd(), &mut event) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::event::EventFd;

    #[test]
    fn an_edge_comes_once_per_write_and_without_a_read() {
        let mut epoll = Epoll::new(4).unwrap();
        let event = EventFd::new().unwrap();
        epoll.add(&event, Interest::EDGE_IN, 7).unwrap();
        assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), 0);
        for _ in 0..3 {
            event.ring();
            assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), 1);
            assert_eq!(epoll.event(0).token, 7);
            assert!(epoll.event(0).readable() && !epoll.event(0).hung_up());
            assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), 0);
        }
    }
}
