//! How other threads reach a worker: answers from the disk lane, the news that the log's mark moved, the
//! order to stop. Each worker has one inbox; anybody may post, the worker alone collects. A bell that rings
//! already is not rung again.

use super::errand::Work;
use super::proto::text::scan::number;
use super::shared::Shared;
use super::table::Token;
use super::verdict::Basis;
use kingdb::Db;
use kingdb::store::{ChunkWritten, Fetched, RunWritten, Uploaded};
use kingdb::sys::event::EventFd;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a job on the disk lane came to.
pub enum Answer {
    /// A record for a command that was parked.
    Fetched(Fetched),
    /// The joined value of an `append` or `prepend` that was parked.
    Composed(Composed),
    /// A chunk of an upload.
    Written(ChunkWritten),
    /// A run of chunks is written, or that failed.
    Ran(RunWritten),
    /// A chunk of a value on its way out.
    Chunk(kingdb::store::Result<Vec<u8>>),
    /// A piece of a long answer.
    Piece(Box<Work>),
    /// The worker is to tell of its connections. (Another worker's question.)
    Census(Arc<Census>),
    /// A watcher has lines to take. (Not the lane's.)
    Watched,
}

/// A question of all workers for their connections (`stats conns`). Who answers last sends the sum to whoever asked.
pub struct Census {
    /// Who asked.
    pub token: Token,
    pub inbox: Arc<Inbox>,
    pub shared: Arc<Shared>,
    pub db: Arc<Db>,
    /// The answers so far.
    pub text: Mutex<Vec<u8>>,
    /// Answers that are missing.
    pub missing: AtomicUsize,
}

impl Census {
    /// A worker's answer. Where there are many lines to sort, that is done on the lane; else here, for the disk may hang.
    pub fn add(self: Arc<Self>, text: &[u8]) {
        /// So much is sorted within a turn. Bytes.
        const LITTLE: usize = 256 << 10;
        self.text().extend_from_slice(text);
        match self.missing.fetch_sub(1, Ordering::SeqCst) == 1 {
            true if self.text().len() <= LITTLE => self.tell(),
            true => self.db.clone().submit(Box::new(move || self.tell())),
            false => {}
        }
    }

    fn text(&self) -> MutexGuard<'_, Vec<u8>> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        let mut text = by_descriptor(&self.text());
        text.extend_from_slice(super::reply::END);
        let work = Work::done(self.db.clone(), text);
        self.shared.census.store(false, Ordering::Relaxed);
        self.inbox.post(Letter { token: self.token, answer: Answer::Piece(work) });
    }
}

/// The lines in the order of their descriptors, as memcached has them; a listening socket that workers share stands there once.
fn by_descriptor(text: &[u8]) -> Vec<u8> {
    let mut sorted: Vec<Vec<&[u8]>> = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let head = line.iter().position(|byte| *byte == b':').unwrap_or(0);
        let descriptor = line[..head].strip_prefix(b"STAT ").and_then(number).unwrap_or(0) as usize;
        sorted.resize_with(sorted.len().max(descriptor + 1), Vec::new);
        if !sorted[descriptor].contains(&line) {
            sorted[descriptor].push(line);
        }
    }
    sorted.concat().concat()
}

/// A joined value and what it was joined from.
pub struct Composed {
    /// The old record, as the join saw it.
    pub basis: Basis,
    /// The new value.
    pub value: kingdb::store::Result<Uploaded>,
}

/// An answer and the connection that asked, if it is still there.
pub struct Letter {
    /// Who asked.
    pub token: Token,
    /// What came of it.
    pub answer: Answer,
}

/// See the module's head.
pub struct Inbox {
    bell: EventFd,
    ringing: AtomicBool,
    stop: AtomicBool,
    letters: Mutex<Vec<Letter>>,
}

impl Inbox {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            bell: EventFd::new()?,
            ringing: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            letters: Mutex::new(Vec::new()),
        })
    }

    /// Wakes the worker, for it to look at the log's mark.
    pub fn ring(&self) {
        if !self.ringing.swap(true, Ordering::SeqCst) {
            self.bell.ring();
        }
    }

    /// Leaves an answer.
    pub fn post(&self, letter: Letter) {
        self.letters().push(letter);
        self.ring();
    }

    /// Orders the worker to stop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether it was ordered to stop.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// The worker heard the bell: swaps the answers so far into `letters`, which must be empty. What is
    /// posted from here on rings again.
    pub fn collect(&self, letters: &mut Vec<Letter>) {
        assert!(letters.is_empty());
        self.ringing.store(false, Ordering::SeqCst);
        std::mem::swap(letters, &mut self.letters());
    }

    fn letters(&self) -> MutexGuard<'_, Vec<Letter>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
