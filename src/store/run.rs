//! Chunks of a large value that are received into one block of memory and written from there at once, past the page
//! cache: such a write costs the processor less than copying there does, and leaves nothing to be written back. But it takes
//! as long as the disk does, so it is a job for the lane; and each has a price of its own, so it must be long.
//!
//! Filled by an event loop, which also checksums what has come while that is in the processor's cache; written by the lane; and used
//! again for as long as its upload goes on.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use super::CHUNK;
use super::error::Result;
use super::piece::ROW;
use super::upload::Target;
use crate::sys;
use crate::sys::memory::Region;

/// See the module's head.
pub struct Run {
    /// Whole pages, as `O_DIRECT` wants them.
    memory: Region,
    len: usize,
    /// Of the chunks that are whole.
    rows: Vec<[u8; ROW]>,
}

impl Run {
    /// Of this size is what is written at once. Bytes.
    pub const SIZE: usize = 15 * CHUNK;

    /// Memory of one: a huge page where there are any, which is cheaper to receive into, and to hand to the disk, than hundreds
    /// of small ones. Bytes.
    pub const TAKES: usize = sys::memory::HUGE;

    /// An empty one; `None`: the system has no memory for it.
    pub(crate) fn new() -> Option<Run> {
        Region::new(Run::TAKES, true).ok().map(|memory| Run { memory, len: 0, rows: Vec::new() })
    }

    /// Where the next bytes go; of no length if it is full. Tell [`super::Upload::add`] how many came.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.len..Run::SIZE]
    }

    /// So many were put into the room. Asks for the rows of the chunks that made whole, by their places in the run, and
    /// tells how many there were.
    pub(crate) fn add(&mut self, count: usize, row: impl Fn(usize, &[u8]) -> [u8; ROW]) -> usize {
        assert!(count <= Run::SIZE - self.len, "a run has a fixed size");
        let before = self.rows.len();
        self.len += count;
        while self.len - self.rows.len() * CHUNK >= CHUNK {
            let place = self.rows.len();
            self.rows.push(row(place, &self.memory[place * CHUNK..][..CHUNK]));
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
