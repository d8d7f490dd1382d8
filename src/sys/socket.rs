//! Stream sockets: `socket(7)`, `ip(7)`, `ipv6(7)`, `tcp(7)`, `unix(7)`. Everything is non-blocking and
//! close-on-exec.
//!
//! [`Listener`] accepts, [`Stream`] is one accepted connection. Addresses are turned into the kernel's form
//! here and nowhere else.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::ManuallyDrop;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

/// A listening socket.
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens on a TCP address. Port 0: the kernel picks one, see [`Listener::port`]. Several of these may
    /// share an address and the kernel then spreads connections over them (`SO_REUSEPORT`): ask [`in_use`]
    /// first whether a stranger has it. On a loopback address, connections go without the congestion control that the
    /// system has for networks, as Reno does: there is none, and by BBR, which sends by the clock, a large value took an
    /// eighth more of the processor.
    pub fn tcp(address: SocketAddr, backlog: i32) -> io::Result<Self> {
        let fd = tcp_socket(address)?;
        set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        if address.ip().is_loopback() {
            // Best effort. The option's value is the name's bytes.
            let _ = set_option(&fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, c_int::from_ne_bytes(*b"reno"));
        }
        bind(&fd, address)?;
        listen(&fd, backlog)?;
        Ok(Self(fd))
    }

    /// Listens on a Unix socket with permission bits `mode` less the umask. A socket file that no server answers on any more
    /// is replaced; one that is answered on gives `AddrInUse`; anything else of that name gives
    /// `AlreadyExists`.
    pub fn unix(path: &Path, mode: u32, backlog: i32) -> io::Result<Self> {
        remove_stale(path)?;
        let fd = new_socket(libc::AF_UNIX)?;
        // Linux gives the file the mode of the socket's inode less the umask. A mode that is given later, by the path, might
        // be that of a file to which a link of that name leads by then. SAFETY: no pointers; `fd` is open.
        if unsafe { libc::fchmod(fd.as_raw_fd(), mode) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let (address, len) = unix_address(path)?;
        // SAFETY: `address` is a sockaddr_un of which `len` bytes are set.
        if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
            return Err(io::Error::last_os_error());
        }
        listen(&fd, backlog)?;
        Ok(Self(fd))
    }

    /// The TCP port it listens on.
    pub fn port(&self) -> io::Result<u16> {
        // SAFETY: sockaddr_in6 is plain integers, so all-zero is a valid value.
        let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, and a sockaddr_in6 (the longer of the two TCP forms)
        // has so many.
        let rc = unsafe { libc::getsockname(self.0.as_raw_fd(), (&raw mut address).cast(), &mut len) };
        // The port stands at the same place in sockaddr_in.
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(u16::from_be(address.sin6_port)) }
    }

    /// The next waiting connection; `WouldBlock` if there is none.
    pub fn accept(&self) -> io::Result<Stream> {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: null address and length mean that the peer's address is not wanted.
        let fd = unsafe { libc::accept4(self.0.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor that nobody else knows.
        Ok(Stream(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether another socket listens on this TCP address: tried by binding without `SO_REUSEPORT`, which would
/// hide a second server of the same user. Errors are those of bind(2).
pub fn in_use(address: SocketAddr) -> io::Result<bool> {
    match bind(&tcp_socket(address)?, address) {
        Ok(()) => Ok(false),
        Err(e) if e.kind() == ErrorKind::AddrInUse => Ok(true),
        Err(e) => Err(e),
    }
}

/// How an accepted connection is set up. Zero leaves a thing as the kernel has it.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// SO_KEEPALIVE.
    pub keepalive: bool,
    /// TCP_USER_TIMEOUT.
    pub user_timeout: Duration,
    /// SO_RCVBUF. Bytes.
    pub recv_buffer: usize,
    /// SO_SNDBUF. Bytes.
    pub send_buffer: usize,
}

/// One connection. Closed when dropped.
pub struct Stream(OwnedFd);

impl Stream {
    /// Sets the options that were asked for; `tcp` tells whether those of TCP apply.
    pub fn configure(&self, options: &StreamOptions, tcp: bool) -> io::Result<()> {
        let millis = clamp(options.user_timeout.as_millis());
        let (recv, send) = (clamp(options.recv_buffer as u128), clamp(options.send_buffer as u128));
        let wanted = [
            (tcp && options.nodelay, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
            (tcp && options.keepalive, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
            (tcp && millis > 0, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, millis),
            (recv > 0, libc::SOL_SOCKET, libc::SO_RCVBUF, recv),
            (send > 0, libc::SOL_SOCKET, libc::SO_SNDBUF, send),
        ];
        for (_, level, name, value) in wanted.into_iter().filter(|option| option.0) {
            set_option(&self.0, level, name, value)?;
        }
        Ok(())
    }

    /// The address of a TCP peer.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.as_tcp().peer_addr()
    }

    /// The address that a TCP peer connected to.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.as_tcp().local_addr()
    }

    /// The same socket, to be asked by the standard library.
    fn as_tcp(&self) -> ManuallyDrop<TcpStream> {
        // SAFETY: it is open as long as `self` is, which the caller borrows; it is never dropped, and so not closed twice.
        ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(self.0.as_raw_fd()) })
    }

    /// Bytes that were sent and that the peer has not taken yet (`SIOCOUTQ`). 0 where that cannot be told.
    pub fn untaken(&self) -> u32 {
        let mut count: c_int = 0;
        // SAFETY: the kernel writes one int.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCOUTQ, &mut count) };
        count.cast_unsigned()
    }

    /// Reads what there is, at most the buffer's length. 0: the peer has shut down. `WouldBlock`: nothing yet.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        retry(|| {
            // SAFETY: the kernel writes at most `buf.len()` bytes into `buf`.
            unsafe { libc::recv(self.0.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) }
        })
    }

    /// Reads the next bytes behind `body`'s contents, at most `want` of them, and what follows those into
    /// `rest`. Returns the number read in all, of which the first `want` (or fewer) went to `body`. `body` is
    /// grown to hold them first; memory that nothing arrives in is not touched.
    pub fn recv_split(&self, body: &mut Vec<u8>, want: usize, rest: &mut [u8]) -> io::Result<usize> {
        body.reserve_exact(want);
        let spare = &mut body.spare_capacity_mut()[..want];
        let mut slices = [
            libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: spare.len() },
            libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() },
        ];
        // SAFETY: both slices are exclusively borrowed and as long as the iovecs say.
        let n = retry(|| unsafe { libc::readv(self.0.as_raw_fd(), slices.as_mut_ptr(), 2) })?;
        // SAFETY: the kernel fills iovecs in order, so the first min(n, want) bytes behind the old length are
        // initialised; there is capacity for `want`.
        unsafe { body.set_len(body.len() + n.min(want)) };
        Ok(n)
    }

    /// Sends what the socket takes of `slices`, in order. Never raises SIGPIPE. `WouldBlock`: it takes nothing now.
    pub fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let fd = self.0.as_raw_fd();
        match slices {
            [] => Ok(0),
            // SAFETY: reads `one.len()` bytes of `one`.
            [one] => retry(|| unsafe { libc::send(fd, one.as_ptr().cast(), one.len(), libc::MSG_NOSIGNAL) }),
            _ => {
                // SAFETY: msghdr is plain integers and pointers, so all-zero is a valid value: no address, no
                // control data.
                let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
                // IoSlice is promised to have the layout of iovec; the kernel only reads through the pointer.
                message.msg_iov = slices.as_ptr().cast_mut().cast();
                message.msg_iovlen = slices.len() as _;
                // SAFETY: `message` describes exactly the borrowed slices.
                retry(|| unsafe { libc::sendmsg(fd, &message, libc::MSG_NOSIGNAL) })
            }
        }
    }

    /// Sends what the socket takes of `count` bytes at `offset` of `file`, without copying them (`sendfile(2)`): they must stay as
    /// they are in the page cache until the peer has read them, which nobody is told. Errors are those of [`Stream::send`]
    /// and of reading; zero: the file ends there.
    pub fn send_file(&self, file: &File, offset: u64, count: usize) -> io::Result<usize> {
        let mut offset = super::file::to_off64(offset)?;
        // SAFETY: both descriptors are open; the kernel reads and writes `offset` alone.
        retry(|| unsafe { libc::sendfile64(self.0.as_raw_fd(), file.as_raw_fd(), &mut offset, count) })
    }

    /// No more will be sent: the peer reads its end after what was sent. An error means that the peer is gone
    /// already.
    pub fn shutdown_write(&self) -> io::Result<()> {
        // SAFETY: no pointers; the descriptor is open.
        let rc = unsafe { libc::shutdown(self.0.as_raw_fd(), libc::SHUT_WR) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> OwnedFd {
        stream.0
    }
}

/// The effective user id that a Unix socket's peer had when it connected (`SO_PEERCRED`).
pub fn peer_user(socket: &impl AsFd) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes, and a ucred has so many.
    let rc = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut len) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(peer.uid) }
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        let n = call();
        if let Ok(n) = usize::try_from(n) {
            return Ok(n);
        }
        let error = io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn clamp(value: u128) -> c_int {
    c_int::try_from(value).unwrap_or(c_int::MAX)
}

fn new_socket(family: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a fresh descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn tcp_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let fd = new_socket(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv6() {
        set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    Ok(fd)
}

fn set_option(fd: &OwnedFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the option's value is read from `value`, which has `len` bytes.
    let rc = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let rc = match address.ip() {
        IpAddr::V4(ip) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                sin_zero: [0; 8],
            };
            let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            // SAFETY: `address` is a complete sockaddr_in of `len` bytes.
            unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) }
        }
        IpAddr::V6(ip) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                sin6_scope_id: 0,
            };
            let len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            // SAFETY: `address` is a complete sockaddr_in6 of `len` bytes.
            unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) }
        }
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn listen(fd: &OwnedFd, backlog: i32) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is open.
    let rc = unsafe { libc::listen(fd.as_raw_fd(), backlog) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn unix_address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: sockaddr_un is plain integers, so all-zero is a valid value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= address.sun_path.len() {
        let text = format!("the path must have 1 to {} bytes", address.sun_path.len() - 1);
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed() as libc::c_char;
    }
    let len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, len as libc::socklen_t))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
        Ok(found) if !found.file_type().is_socket() => return Err(ErrorKind::AlreadyExists.into()),
        Ok(_) => {}
    }
    let fd = new_socket(libc::AF_UNIX)?;
    let (address, len) = unix_address(path)?;
    // SAFETY: `address` is a sockaddr_un of which `len` bytes are set.
    let rc = unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) };
    let error = io::Error::last_os_error();
    match rc {
        0 => Err(ErrorKind::AddrInUse.into()),
        _ if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        // A full backlog: somebody is there.
        _ if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::AddrInUse.into()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Ipv4Addr;
    use std::os::unix::fs::PermissionsExt;

    fn loopback() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    fn accepted() -> (TcpStream, Stream) {
        let listener = Listener::tcp(loopback(), 8).unwrap();
        let peer = TcpStream::connect((Ipv4Addr::LOCALHOST, listener.port().unwrap())).unwrap();
        (peer, listener.accept().unwrap())
    }

    #[test]
    fn a_second_server_is_seen_although_the_port_is_shareable() {
        let first = Listener::tcp(loopback(), 8).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, first.port().unwrap()));
        assert!(in_use(address).unwrap());
        let second = Listener::tcp(address, 8).unwrap();
        assert_eq!(second.port().unwrap(), address.port());
        drop((first, second));
        assert!(!in_use(address).unwrap());
    }

    #[test]
    fn a_read_is_split_between_body_and_rest() {
        let (mut peer, stream) = accepted();
        peer.write_all(b"valueget a").unwrap();
        let mut body = b"the ".to_vec();
        let mut rest = [0; 16];
        assert_eq!(stream.recv_split(&mut body, 5, &mut rest).unwrap(), 10);
        assert_eq!((&body[..], &rest[..5]), (&b"the value"[..], &b"get a"[..]));
        let again = stream.recv_split(&mut body, 5, &mut rest);
        assert_eq!(again.unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(body, b"the value");
    }

    #[test]
    fn slices_are_sent_in_order() {
        let (mut peer, stream) = accepted();
        assert_eq!(stream.send(&[IoSlice::new(b"ab"), IoSlice::new(b"c"), IoSlice::new(b"de")]).unwrap(), 5);
        assert_eq!(stream.send(&[IoSlice::new(b"f")]).unwrap(), 1);
        stream.shutdown_write().unwrap();
        let mut got = String::new();
        peer.read_to_string(&mut got).unwrap();
        assert_eq!(got, "abcdef");
    }

    #[test]
    fn a_peer_on_a_unix_socket_is_who_it_is() {
        let (here, _there) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(peer_user(&here).unwrap(), crate::sys::process::user());
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("kingserver-socket-{}", std::process::id()));
        let first = Listener::unix(&path, 0o600, 8).unwrap();
        assert_eq!(Listener::unix(&path, 0o600, 8).err().unwrap().kind(), ErrorKind::AddrInUse);
        drop(first);
        let second = Listener::unix(&path, 0o640, 8).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        drop(second);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"precious").unwrap();
        assert_eq!(Listener::unix(&path, 0o600, 8).err().unwrap().kind(), ErrorKind::AlreadyExists);
        std::fs::remove_file(&path).unwrap();
    }
}
