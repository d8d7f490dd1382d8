//! Where commands reach a running server: the Unix socket `ADMIN` in its data directory, for the server's own user and
//! for root. One thread lets in, a thread each carries out: they may sleep, the loops take no part in it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use kingdb::Db;
use kingdb::sys::epoll::{Epoll, Interest};
use kingdb::sys::event::EventFd;
use kingdb::sys::process;
use kingdb::sys::socket::{Listener, peer_user};

use super::session;
use super::wire::{Said, Wire};
use crate::server::log;

const NAME: &str = "ADMIN";
/// Commands at the same time.
const SESSIONS: usize = 4;
/// Longest path that a socket's address has room for. Bytes.
const MAX_ADDRESS: usize = 107;

/// The socket, open for commands until [`Door::close`].
pub struct Door {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// What the threads share.
struct Shared {
    db: Arc<Db>,
    data: PathBuf,
    stopping: AtomicBool,
    /// Rung to end the thread that lets in.
    bell: EventFd,
    sessions: Mutex<Vec<Session>>,
}

/// A command that is being carried out, or just was.
struct Session {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

impl Door {
    /// Opens the door of the store in `data`, which the caller has locked: a socket that is there is stale.
    pub fn open(data: &Path, db: Arc<Db>) -> io::Result<Door> {
        let path = data.join(NAME);
        let address = Address::of(data)?;
        let listener = Listener::unix(&address.path, 0o600, SESSIONS as i32)?;
        let (stopping, sessions) = (AtomicBool::new(false), Mutex::default());
        let shared = Arc::new(Shared { db, data: data.to_owned(), stopping, bell: EventFd::new()?, sessions });
        let mut epoll = Epoll::new(2)?;
        epoll.add(&listener, Interest::LEVEL_IN, 0)?;
        epoll.add(&shared.bell, Interest::LEVEL_IN, 1)?;
        let letting = shared.clone();
        let let_in = move || {
            if let Err(error) = letting.let_in(&mut epoll, &listener) {
                log::error(format_args!("no more commands are heard: {error}"));
            }
        };
        let thread = std::thread::Builder::new().name("admin".into()).stack_size(256 << 10).spawn(let_in)?;
        Ok(Door { path, shared, thread })
    }

    /// Ends the commands that are being carried out, and removes the socket.
    pub fn close(self) {
        self.shared.stopping.store(true, SeqCst);
        self.shared.bell.ring();
        // A thread that panicked has said so.
        let _ = self.thread.join();
        let sessions = std::mem::take(&mut *self.shared.sessions());
        for session in sessions {
            // Whatever it waits for from the other end, it waits no longer.
            let _ = session.stream.shutdown(std::net::Shutdown::Both);
            let _ = session.thread.join();
        }
        // One that is gone already is what is wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn let_in(self: &Arc<Self>, epoll: &mut Epoll, listener: &Listener) -> io::Result<()> {
        loop {
            epoll.wait(None)?;
            if self.stopping.load(SeqCst) {
                return Ok(());
            }
            match listener.accept().and_then(|stream| blocking(stream.into())) {
                Ok(stream) => self.begin(stream).unwrap_or_else(|error| {
                    log::warn(format_args!("a command was turned away: {error}"));
                }),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    log::warn(format_args!("cannot hear a command: {error}"));
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
        }
    }

    fn begin(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        let user = peer_user(&stream)?;
        if user != process::user() && user != 0 {
            return refuse(stream, "only the server's user and root may do that");
        }
        let mut sessions = self.sessions();
        sessions.retain(|session| !session.thread.is_finished());
        if sessions.len() >= SESSIONS {
            return refuse(stream, "the server is busy with other commands: try again later");
        }
        let (shared, own) = (self.clone(), stream.try_clone()?);
        let work = move || shared.serve(&own);
        let thread = std::thread::Builder::new().name("admin-session".into()).spawn(work)?;
        sessions.push(Session { stream, thread });
        Ok(())
    }

    fn serve(&self, stream: &UnixStream) {
        match session::serve(stream, &self.db, &self.data, &self.stopping) {
            Ok((asked, Said::Ok(text))) => log::info(format_args!("{}: done: {text}", asked.name())),
            Ok((asked, Said::Error(text))) => log::warn(format_args!("{}: {text}", asked.name())),
            Ok((asked, _)) => log::debug(asked.name()),
            Err(error) => log::debug(format_args!("a command that was not understood: {error}")),
        }
        // The door has a copy of the stream, and the other end is to learn that this is over.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

fn refuse(stream: UnixStream, why: &str) -> io::Result<()> {
    Wire::new(stream)?.say(&Said::Error(why.into()))?;
    Err(io::Error::other(why))
}

fn blocking(socket: OwnedFd) -> io::Result<UnixStream> {
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The stream to the server that has the store in `data` open. `None`: none has.
pub fn reach(data: &Path) -> io::Result<Option<UnixStream>> {
    let address = match Address::of(data) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        address => address?,
    };
    match UnixStream::connect(&address.path) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How the socket in a data directory is called.
struct Address {
    path: PathBuf,
    /// If the path goes by way of its descriptor: as long as that is open.
    _directory: Option<File>,
}

impl Address {
    fn of(data: &Path) -> io::Result<Address> {
        let path = data.join(NAME);
        if path.as_os_str().as_bytes().len() <= MAX_ADDRESS {
            return Ok(Address { path, _directory: None });
        }
        let directory = File::open(data)?;
        let path = format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()).into();
        Ok(Address { path, _directory: Some(directory) })
    }
}
