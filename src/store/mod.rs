//! The store's interface. Two faces: a blocking one for programs that embed the store (`open`, `get`, `put`, `delete`, `flush`,
//! `close`) and a non-blocking one for event loops (`lookup`, `write`, `remove`, `write_out`, `mark`), which never sleeps in
//! the kernel: what may sleep is handed out as a job for the disk lane.
#![forbid(unsafe_code)]
#![allow(unused_variables, missing_docs, dead_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A value longer than this lives in an extent file, cut into chunks of this size. Bytes.
pub const CHUNK: usize = 64 * 1024;
/// Longest key. Bytes. (The memcached protocols allow 250.)
pub const MAX_KEY: usize = 65_535;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sync { None, Interval, Always }

#[derive(Clone, Debug)]
pub struct Options {
    pub path: PathBuf,
    pub sync: Sync,
    pub sync_interval: Duration,
    pub cache_bytes: u64,
    pub compression: bool,
    pub lane_threads: usize,
}
impl Options {
    /// Defaults: `interval` sync every 500 ms, 64 MiB of cache, compression on, 2 lane threads.
    pub fn new(path: impl Into<PathBuf>) -> Options { todo!() }
}

/// Display says what was attempted, on which file and offset, and what to do.
#[derive(Debug)]
pub enum Error {
    /// The store no longer accepts writes (a log write or an fdatasync failed). Reads go on. Text: why.
    ReadOnly(Arc<str>),
    /// Bytes on disk do not match their checksum.
    Damaged(String),
    /// Anything else, with its full sentence (open errors: locked directory, newer format, permissions …).
    Other(String),
}
impl std::fmt::Display for Error { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { todo!() } }
impl std::error::Error for Error {}
pub type Result<T> = std::result::Result<T, Error>;

/// A place in the order of everything ever appended to the log. Compare with [`Db::mark`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Position(pub(crate) u64);

/// A key and its hash; computed once per command.
#[derive(Clone, Copy)]
pub struct Key<'a> { bytes: &'a [u8], hash: u128 }
impl<'a> Key<'a> { pub fn bytes(&self) -> &'a [u8] { self.bytes } }

/// What a lookup saw, for a write that must only happen if nothing changed since ([`Expect::Unchanged`]).
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    location: Option<u64>,
    /// A reply that tells what was seen may leave only once `mark() >= depends`. Applies to hits and misses alike.
    pub depends: Position,
}

/// A live record, borrowed for the length of a visit.
pub struct Record<'a> {
    /// The client's opaque flags.
    pub flags: u32,
    /// The CAS unique.
    pub cas: u64,
    /// Store time (seconds, see [`Db::now`]) from which the record is gone; 0 = never.
    pub expires: u64,
    pub body: Body<'a>,
}
pub enum Body<'a> {
    /// The whole value, uncompressed, at most [`CHUNK`] bytes.
    Inline(&'a [u8]),
    /// A value in an extent file; clone it to read it chunk by chunk later. Stays readable while a clone exists.
    Large(&'a Large),
}
impl Record<'_> { /** Value's length in bytes. */ pub fn len(&self) -> u64 { todo!() } }

pub enum Lookup<R> {
    Hit(Seen, R),
    /// No such key (or expired, or flushed).
    Miss(Seen),
    /// Would sleep: give the job to the lane, run it there, and call `lookup` again with what it fetched.
    Cold(ColdRead),
}

/// A read for the lane. Owned, `Send`.
pub struct ColdRead { _p: () }
impl ColdRead { /** Reads the disk; may sleep. */ pub fn run(self) -> Fetched { todo!() } }
/// The outcome of a [`ColdRead`] (bytes or an error; `lookup` looks at it). If the slot moved meanwhile, `lookup` ignores it.
pub struct Fetched { _p: () }

/// Reusable buffers of one thread (reading, compressing). Costs under 200 KiB once warm.
#[derive(Default)]
pub struct Scratch { _p: () }

pub struct Write<'a> {
    pub key: Key<'a>,
    pub flags: u32,
    /// Store time in seconds; 0 = never.
    pub expires: u64,
    /// `None`: a fresh CAS unique. `Some(id)`: keep this one (touch, gat).
    pub cas: Option<u64>,
    pub body: NewBody<'a>,
    pub expect: Expect,
}
pub enum NewBody<'a> {
    /// At most [`CHUNK`] bytes.
    Inline(&'a [u8]),
    /// A finished upload (becomes owned by the store when the write succeeds; punched when dropped otherwise).
    Uploaded(&'a Uploaded),
    /// An extent that a live record of the same key already names (touch, gat on a large value).
    Same(&'a Large),
}
#[derive(Clone, Copy)]
pub enum Expect { /** Whatever is there. */ Anything, /** What a lookup saw is still so. */ Unchanged(Seen) }
pub enum Outcome {
    /// The reply may leave once `mark() >= depends`.
    Done { cas: u64, depends: Position },
    /// Something changed since the lookup: do the command over.
    Conflict,
}
pub enum Removed {
    Done { depends: Position },
    /// Nothing to remove.
    Absent { depends: Position },
    /// Cannot tell without reading (the record has an expiry, …): `lookup`, then `remove` with `Unchanged`.
    Unsure,
    Conflict,
}

/// A large value in an extent file: a cheap handle (`Arc`s inside).
#[derive(Clone)]
pub struct Large { _p: () }
impl Large {
    /// Bytes.
    pub fn len(&self) -> u64 { todo!() }
    /// How many chunks; all but the last hold [`CHUNK`] bytes.
    pub fn chunks(&self) -> u64 { todo!() }
    /// Chunk `index`, if it can be had without sleeping (`Ok(None)`: it cannot, use [`Large::fetch`]). Checked and decompressed.
    pub fn read_nowait(&self, index: u64, scratch: &mut Scratch, visit: impl FnOnce(&[u8])) -> Result<Option<()>> { todo!() }
    /// The same as a job for the lane.
    pub fn fetch(&self, index: u64) -> ChunkRead { todo!() }
}
pub struct ChunkRead { _p: () }
impl ChunkRead { /** May sleep. */ pub fn run(self) -> Result<Vec<u8>> { todo!() } }

/// A large value on its way in. Dropped unfinished, its space is given back and nothing is ever visible.
pub struct Upload { _p: () }
impl Upload {
    /// The next chunk, as a job: every one but the last must have exactly [`CHUNK`] bytes. Several may be in flight at once.
    pub fn chunk(&mut self, bytes: Vec<u8>) -> ChunkWrite { todo!() }
    /// Takes a job's outcome; gives the buffer back (cleared) for reuse.
    pub fn done(&mut self, written: ChunkWritten) -> Result<Vec<u8>> { todo!() }
    /// All chunks are done. Panics if not: the caller counts.
    pub fn finish(self) -> Uploaded { todo!() }
}
pub struct ChunkWrite { _p: () }
impl ChunkWrite { /** Compresses, checksums, writes; may sleep. */ pub fn run(self) -> ChunkWritten { todo!() } }
pub struct ChunkWritten { _p: () }
pub struct Uploaded { _p: () }

/// A part of a value to be composed (append/prepend where the result or a part is large).
pub enum Part { Bytes(Vec<u8>), Large(Large) }
pub struct Compose { _p: () }
impl Compose { /** May sleep. */ pub fn run(self) -> Result<Uploaded> { todo!() } }

/// How a thread that waits for the mark is woken: the store calls `wake` from any thread.
pub type Wake = Box<dyn Fn() + Send + std::marker::Sync>;
/// One registered waiter (one per worker).
pub struct Waiter { _p: () }

/// Open store. Shared between threads as `Arc<Db>`.
pub struct Db { _p: () }

impl Db {
    pub fn open(options: Options) -> Result<Db> { todo!() }
    // ---- blocking face
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> { todo!() }
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<()> { todo!() }
    pub fn delete(&self, key: &[u8]) -> Result<bool> { todo!() }
    /// Everything acknowledged is on the disk when this returns.
    pub fn flush(&self) -> Result<()> { todo!() }
    /// Flushes, syncs, stops the threads. The server calls it last.
    pub fn close(&self) -> Result<()> { todo!() }

    // ---- non-blocking face, for event loops
    /// Store time in whole seconds (never goes back, survives restarts). Workers read it once per turn.
    pub fn now(&self) -> u64 { todo!() }
    pub fn key<'a>(&self, bytes: &'a [u8]) -> Key<'a> { todo!() }
    /// Finds `key`. `supplied` is what an earlier `Cold` fetched. `visit` runs under a lock: copy, do not call the store.
    pub fn lookup<R>(&self, key: &Key<'_>, now: u64, supplied: Option<&Fetched>, scratch: &mut Scratch,
        visit: impl FnOnce(Record<'_>) -> R) -> Result<Lookup<R>> { todo!() }
    /// Appends a record and points the index at it. Call only while [`Db::has_room`] said yes this turn.
    pub fn write(&self, write: &Write<'_>, scratch: &mut Scratch) -> Result<Outcome> { todo!() }
    pub fn remove(&self, key: &Key<'_>, expect: Expect) -> Result<Removed> { todo!() }
    /// `at`: store time in seconds at which to fire; `None` = at once.
    pub fn flush_all(&self, at: Option<u64>) -> Result<Position> { todo!() }
    /// Start of a turn: fires a due `flush_all`. `now` as from [`Db::now`].
    pub fn tick(&self, now: u64) -> Result<()> { todo!() }

    /// Whether writes may be executed now. No: too much is waiting to be written; wait for the mark to move, or an error
    /// that every write would get anyway (then `write` tells it).
    pub fn has_room(&self) -> bool { todo!() }
    /// Phase 2 of a turn: writes the log out to its tail, whoever appended, in one `pwrite` if nobody else is at it.
    /// While the disk is slow this only rings the lane. Afterwards compare `mark()`.
    pub fn write_out(&self) { todo!() }
    /// Everything up to here may be acknowledged (written, or under `Sync::Always` durable). One atomic load.
    pub fn mark(&self) -> Position { todo!() }
    /// Registers a thread that will wait for the mark.
    pub fn waiter(&self, wake: Wake) -> Waiter { todo!() }
    /// Asks for one wake-up once `mark() >= position` (or the store failed). `false`: it is so already, no wake-up will come.
    pub fn await_mark(&self, waiter: &Waiter, position: Position) -> bool { todo!() }
    /// Why writes are refused for good, if they are. Replies that wait for the mark must then become errors.
    pub fn failure(&self) -> Option<Arc<str>> { todo!() }

    /// Runs `job` on a disk-lane thread. The job tells its submitter by itself (a queue and an eventfd).
    pub fn submit(&self, job: Box<dyn FnOnce() + Send>) { todo!() }
    /// Starts receiving a large value of exactly `len` bytes (> [`CHUNK`]).
    pub fn upload(&self, len: u64) -> Result<Upload> { todo!() }
    /// Builds a large value out of parts, as a job. The sum must exceed [`CHUNK`].
    pub fn compose(&self, parts: Vec<Part>) -> Compose { todo!() }
    pub fn stats(&self) -> Stats { todo!() }
}

/// Counters and sizes, for `stats`.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// Keys in the index.
    pub items: u64,
    /// Keys ever written (memcached's total_items).
    pub total_items: u64,
    /// Bytes of the log's records and extents that are live.
    pub live_bytes: u64,
    pub cache_bytes: u64,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cold_reads: u64,
    pub log_writes: u64,
    pub log_bytes: u64,
    pub fsyncs: u64,
    pub segments: u64,
    pub damaged_records: u64,
    pub log_slow: bool,
}
