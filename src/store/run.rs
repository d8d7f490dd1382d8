//! Chunks of a large value that are gathered in one block of memory and written from there at once, past the page
//! cache: such a write costs the processor less than copying there does, and leaves nothing to be written back. But it takes
//! as long as the disk does, so it is a job for the lane; and each has a price of its own, so it must be long.
//!
//! Filled by an event loop, which also checksums what has come while that is in the processor's cache, and copies it here past that
//! ([`sys::copy`]): the next to read it is the disk. Written by the lane; and used again for as long as its upload goes on.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use super::CHUNK;
use super::error::Result;
use super::piece::{self, ROW};
use super::upload::Target;
use crate::sys;
use crate::sys::copy::copy_past_caches;
use crate::sys::memory::Region;

/// See the module's head.
pub struct Run {
    /// Whole pages, as `O_DIRECT` wants them.
    memory: Region,
    len: usize,
    /// Of what there is of the next chunk.
    crc: u32,
    /// Of the chunks that are whole.
    rows: Vec<[u8; ROW]>,
}

impl Run {
    /// Of this size is what is written at once: 64 MiB are 33 of them, behind a first chunk. Bytes.
    pub const SIZE: usize = 31 * CHUNK;

    /// Memory of one: a huge page where there are any, which is cheaper to fill, and to hand to the disk, than hundreds
    /// of small ones. Bytes.
    pub const TAKES: usize = sys::memory::HUGE;

    /// An empty one; `None`: the system has no memory for it.
    pub(crate) fn new() -> Option<Run> {
        Region::new(Run::TAKES, true).ok().map(|memory| Run { memory, len: 0, crc: 0, rows: Vec::new() })
    }

    /// How many bytes it has room for.
    pub fn room(&self) -> usize {
        Run::SIZE - self.len
    }

    /// Takes bytes, at most as many as it has room for. `begin` has what a chunk's checksum begins with, by the chunk's place
    /// in the run. Tells how many chunks that made whole.
    pub(crate) fn add(&mut self, bytes: &[u8], begin: impl Fn(usize) -> u32) -> usize {
        assert!(bytes.len() <= self.room(), "out of range");
        let (before, mut left) = (self.rows.len(), bytes);
        while !left.is_empty() {
            let filled = self.len % CHUNK;
            let (now, later) = left.split_at(left.len().min(CHUNK - filled));
            let crc = if filled == 0 { begin(self.rows.len()) } else { self.crc };
            self.crc = sys::crc::crc32c(crc, now);
            copy_past_caches(now, &mut self.memory[self.len..][..now.len()]);
            (self.len, left) = (self.len + now.len(), later);
            if self.len.is_multiple_of(CHUNK) {
                self.rows.push(piece::row_of(CHUNK as u32, self.crc));
            }
        }
        self.rows.len() - before
    }

    /// Whether it can be written.
    pub fn is_full(&self) -> bool {
        self.len == Run::SIZE
    }

    /// What it has.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

/// A file once more, to be written past the page cache. Opened by the first write to it.
#[derive(Default)]
pub(crate) struct Direct {
    file: OnceLock<Option<File>>,
    /// What it asks of memory and offsets is the file system's affair, and was not met.
    refuses: AtomicBool,
}

impl Direct {
    /// Whether that worked and goes on to: not all file systems can.
    pub fn is_open(&self) -> bool {
        self.file.get().is_some_and(Option::is_some) && !self.refuses.load(Relaxed)
    }

    /// Writes `bytes` if they are a run. `None`: they are to be written as usual.
    pub fn write(&self, path: &Path, bytes: &[u8], offset: u64) -> Option<io::Result<()>> {
        let file = self.file.get_or_init(|| sys::file::open_direct(path).ok()).as_ref()?;
        if bytes.len() != Run::SIZE {
            return None;
        }
        match sys::file::write_all(file, bytes, offset).map_err(|error| (error.kind(), error)) {
            Err((io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported, _)) => self.refuses.store(true, Relaxed),
            outcome => return Some(outcome.map_err(|(_, error)| error)),
        }
        None
    }
}

/// Writing a run.
pub struct RunWrite {
    target: Arc<Target>,
    first: u64,
    run: Run,
}

/// The outcome of a [`RunWrite`].
pub struct RunWritten {
    pub(crate) outcome: Result<()>,
    /// To be filled again.
    pub(crate) run: Run,
}

impl RunWrite {
    /// The chunks of `run` are those from number `first` on.
    pub(crate) fn new(target: Arc<Target>, first: u64, run: Run) -> RunWrite {
        RunWrite { target, first, run }
    }

    /// Writes; takes as long as the disk does.
    pub fn run(self) -> RunWritten {
        let RunWrite { target, first, mut run } = self;
        let outcome = target.write_chunks(first, run.bytes(), &run.rows);
        run.len = 0;
        run.rows.clear();
        RunWritten { outcome, run }
    }
}
