//! Where clients come in. [`Listeners`] binds every address before the server starts, one socket per worker
//! for TCP (`SO_REUSEPORT`) and one for all for a Unix socket. [`Door`] is one worker's side of it: accepting
//! a few connections per wake, and standing closed for a moment when the process has run out of descriptors or
//! accepting fails for another reason that lasts, so that it neither spins nor needs a client's further knock.

use super::log;
use super::settings::Settings;
use super::table::Token;
use kingdb::sys::epoll::{Epoll, Interest};
use kingdb::sys::process::{self, Identity};
use kingdb::sys::resource;
use kingdb::sys::signal::SignalFd;
use kingdb::sys::socket::{self, Listener, Stream};
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::lchown;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a door stays closed after nobody could be let in.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections accepted per wake from a socket of the worker's own, and from one that all workers share:
/// there the others get a chance.
const ACCEPTS: usize = 32;
const SHARED_ACCEPTS: usize = 2;
/// So many connections in a row may go away before they are accepted.
const FAILURES: usize = 64;
/// Descriptors wanted at least beside one per connection: listeners, loops, the store's files, of which there is one
/// per segment and per large value.
const OTHER_DESCRIPTORS: u64 = 1024;

/// Every listening socket, bound. Dropped, it removes the Unix socket's file.
pub struct Listeners {
    pub(super) signals: SignalFd,
    /// By worker.
    tcp: Vec<Vec<Listener>>,
    unix: Option<Arc<Listener>>,
    unix_path: Option<PathBuf>,
    addresses: Vec<SocketAddr>,
}

impl Listeners {
    /// Binds all that the settings ask for. It also blocks the signals that [`super::run`] reads, in this
    /// thread and in those it starts from here on, and raises the limit on descriptors: call it before the
    /// store is opened, see [`super::open`]. The error is one sentence.
    pub fn bind(settings: &Settings) -> Result<Self, String> {
        let signals = SignalFd::block().map_err(|e| format!("cannot take signals: {e}"))?;
        raise_limit(settings);
        let mut listeners = Self {
            signals,
            tcp: (0..settings.threads).map(|_| Vec::new()).collect(),
            unix: None,
            unix_path: None,
            addresses: Vec::new(),
        };
        for (ip, port) in &settings.listen {
            listeners.bind_tcp(SocketAddr::new(*ip, *port), settings.backlog)?;
        }
        if let Some(path) = &settings.unix_socket {
            // There is one thread: nobody else makes files meanwhile.
            let umask = process::umask(!settings.unix_mode & 0o777);
            let unix = Listener::unix(path, settings.unix_mode, settings.backlog);
            process::umask(umask);
            listeners.unix = Some(Arc::new(unix.map_err(|e| explain(&path.display().to_string(), &e))?));
            listeners.unix_path = Some(path.clone());
        }
        Ok(listeners)
    }

    /// The Unix socket's file becomes `identity`'s, so that its mode means that user and group. That is not for every root to do, nor for
    /// every file system.
    pub fn give_to(&self, identity: &Identity) {
        let Some(path) = &self.unix_path else { return };
        if let Err(error) = lchown(path, Some(identity.user), Some(identity.group)) {
            let (path, user) = (path.display(), identity.user);
            log::warn(format_args!("the socket {path} stays root's: cannot give it to user {user}: {error}"));
        }
    }

    /// Where it listens, with real ports: `127.0.0.1:11211 (and [::1]:11211, /run/kingserver.sock)`.
    pub fn describe(&self) -> String {
        let unix = self.unix_path.iter().map(|path| path.display().to_string());
        let mut names = self.addresses.iter().map(SocketAddr::to_string).chain(unix);
        let first = names.next().unwrap_or_default();
        let others: Vec<_> = names.collect();
        if others.is_empty() { first } else { format!("{first} (and {})", others.join(", ")) }
    }

    /// Worker number `worker`'s side. Once for each.
    pub(super) fn door(&mut self, worker: usize) -> Door {
        let own = std::mem::take(&mut self.tcp[worker]);
        let own = own.into_iter().zip(&self.addresses).map(|(listener, address)| Entrance {
            listener: Arc::new(listener),
            address: format!("tcp:{address}"),
            tcp: true,
        });
        let path = self.unix_path.as_ref().map_or(String::new(), |path| format!("unix:{}", path.display()));
        let shared =
            self.unix.iter().map(|listener| Entrance { listener: listener.clone(), address: path.clone(), tcp: false });
        Door { entrances: own.chain(shared).collect(), state: State::Open, failures: 0 }
    }

    fn bind_tcp(&mut self, wanted: SocketAddr, backlog: i32) -> Result<(), String> {
        let fail = |e: io::Error| explain(&wanted.to_string(), &e);
        if wanted.port() != 0 && socket::in_use(wanted).map_err(fail)? {
            return Err(fail(ErrorKind::AddrInUse.into()));
        }
        let mut address = wanted;
        for own in &mut self.tcp {
            let listener = Listener::tcp(address, backlog).map_err(fail)?;
            address.set_port(listener.port().map_err(fail)?);
            own.push(listener);
        }
        self.addresses.push(address);
        Ok(())
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        // One that is gone already is what is wanted.
        let _ = self.unix_path.as_ref().map(std::fs::remove_file);
    }
}

fn raise_limit(settings: &Settings) {
    let wanted = settings.max_connections as u64 + OTHER_DESCRIPTORS;
    match resource::raise_descriptor_limit(wanted) {
        Ok(limit) if limit >= wanted => {}
        Ok(limit) => log::warn(format_args!(
            "the limit on open files is {limit}; {} connections want {wanted}, and only {} are let in: \
             raise it (ulimit -n, LimitNOFILE=) or lower -c",
            settings.max_connections,
            admissible(settings.max_connections, limit)
        )),
        Err(e) => log::warn(format_args!("cannot read the limit on open files: {e}")),
    }
}

/// How many of `connections` leave descriptors for the store, when there are `limit`.
pub fn admissible(connections: usize, limit: u64) -> usize {
    let others = OTHER_DESCRIPTORS.min(limit / 4);
    connections.min(usize::try_from(limit - others).unwrap_or(usize::MAX))
}

fn explain(address: &str, error: &io::Error) -> String {
    let hint = match error.kind() {
        ErrorKind::AddrInUse => "another server listens there; stop it or choose another address or port (-l, -p, -s)",
        ErrorKind::AlreadyExists => {
            "a file of that name is there and is not a socket; remove it or choose another path (-s)"
        }
        ErrorKind::AddrNotAvailable => "this host does not have that address; choose one it has (-l)",
        ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need a privilege, a socket a writable directory"
        }
        ErrorKind::NotFound => "its directory does not exist; create it or choose another path (-s)",
        _ => return format!("cannot listen on {address}: {error}"),
    };
    format!("cannot listen on {address}: {hint}")
}

/// One worker's listening sockets.
pub struct Door {
    entrances: Vec<Entrance>,
    state: State,
    /// Tries to accept, one after the other, that brought nobody but an error.
    failures: usize,
}

enum State {
    Open,
    /// Since when, on the monotonic clock.
    Closed(Duration),
    /// Open again, and not yet seen without anybody waiting.
    Reopened,
}

struct Entrance {
    listener: Arc<Listener>,
    /// As `stats conns` tells it.
    address: String,
    tcp: bool,
}

/// What one try to accept came to.
pub enum Accepted {
    /// A connection; whether it is TCP.
    Stream(Stream, bool),
    /// Nobody waits.
    Nobody,
    /// One that waited went away.
    Gone,
    /// Who waits cannot be let in: there are no descriptors left, or nothing but errors comes.
    Stuck(io::Error),
}

impl Door {
    /// `stats conns` of the listening sockets.
    pub fn describe(&self, out: &mut String) {
        for entrance in &self.entrances {
            let fd = entrance.listener.as_fd().as_raw_fd();
            let address = &entrance.address;
            // Writing into a String cannot fail.
            let _ = write!(out, "STAT {fd}:addr {address}\r\nSTAT {fd}:state conn_listening\r\n");
        }
    }

    /// Registers the sockets; entrance `i` has the reserved token `first + i`.
    pub fn open(&mut self, epoll: &Epoll, first: u32) -> io::Result<()> {
        for (token, entrance) in (first..).zip(&self.entrances) {
            let interest = if entrance.tcp { Interest::LEVEL_IN } else { Interest::SHARED_IN };
            epoll.add(&*entrance.listener, interest, Token::reserved(token).pack())?;
        }
        Ok(())
    }

    /// Takes the sockets out until [`Door::reopen`]: what waits there goes on waiting. Says why, once until all
    /// who waited are in.
    pub fn close(&mut self, epoll: &Epoll, now: Duration, why: &io::Error) -> io::Result<()> {
        match std::mem::replace(&mut self.state, State::Closed(now)) {
            State::Open if resource::is_exhaustion(why) => log::warn(format_args!(
                "out of file descriptors or memory: {why}; new connections wait \
                 (raise the limit on open files or lower -c)"
            )),
            State::Open => log::warn(format_args!("cannot accept connections: {why}; they wait and are tried again")),
            State::Closed(_) | State::Reopened => {}
        }
        self.entrances.iter().try_for_each(|entrance| epoll.delete(&*entrance.listener))
    }

    /// How long it stays closed, if it is closed.
    pub fn closed_for(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Closed(since) => Some(PAUSE.saturating_sub(now.saturating_sub(since))),
            State::Open | State::Reopened => None,
        }
    }

    /// Whether it stands closed.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// Puts the sockets back if it is time and the system has memory for it. Level-triggered: who waits is announced at once.
    /// Returns how long it was closed.
    pub fn reopen(&mut self, epoll: &Epoll, first: u32, now: Duration) -> Option<Duration> {
        let State::Closed(since) = self.state else { return None };
        let closed = now.checked_sub(since).filter(|closed| *closed >= PAUSE)?;
        if self.open(epoll, first).is_err() {
            // The next try is to find none of them put back.
            self.entrances.iter().for_each(|entrance| drop(epoll.delete(&*entrance.listener)));
            self.state = State::Closed(now);
            return None;
        }
        self.state = State::Reopened;
        Some(closed)
    }

    /// Closes the sockets for good. The Unix socket is open as long as another worker has it: it must
    /// not be announced here any more.
    pub fn shut(&mut self, epoll: &Epoll) -> io::Result<()> {
        let registered = !self.is_closed();
        self.entrances.drain(..).filter(|_| registered).try_for_each(|entrance| epoll.delete(&*entrance.listener))
    }

    /// How many connections to accept at entrance `index` per wake.
    pub fn accepts(&self, index: usize) -> usize {
        match self.entrances.get(index) {
            Some(entrance) if entrance.tcp => ACCEPTS,
            Some(_) => SHARED_ACCEPTS,
            None => 0,
        }
    }

    /// Accepts one connection at entrance `index`.
    pub fn accept(&mut self, index: usize) -> Accepted {
        let entrance = &self.entrances[index];
        match entrance.listener.accept() {
            Ok(stream) => {
                self.failures = 0;
                Accepted::Stream(stream, entrance.tcp)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.nobody();
                Accepted::Nobody
            }
            Err(e) if resource::is_exhaustion(&e) => Accepted::Stuck(e),
            Err(e) => self.failed(e),
        }
    }

    fn nobody(&mut self) {
        self.failures = 0;
        if matches!(self.state, State::Reopened) {
            self.state = State::Open;
            log::info("connections are accepted again; all who waited at this door are in");
        }
    }

    /// Mostly one that waited went away. Where that seems to be true of everybody, it is something else, and it lasts.
    fn failed(&mut self, error: io::Error) -> Accepted {
        self.failures += 1;
        if self.failures > FAILURES { Accepted::Stuck(error) } else { Accepted::Gone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_store() {
        for (limit, admitted) in [(1_048_576, 1000), (1333, 1000), (1332, 999), (1024, 768), (64, 48), (0, 0)] {
            assert_eq!(admissible(1000, limit), admitted, "of {limit}");
        }
    }
}
