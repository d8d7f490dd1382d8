//! The store. [`Db`] is its interface; a file here holds one idea, and its head says which:
//!
//! `log` (append, write out) on `segment` files of `record`s; `index` and `cache` to find them again; `lookup` and
//! `write` put these together; `large` values, `upload`ed to `extent` files in the form of
//! `piece`s; `lane`, `syncer` and `progress` are the threads
//! and how they wait; `space`, `throttle` and `speed` say when there is too little room, too much comes in or the disk is
//! slow; `recovery` reads it all back.
#![forbid(unsafe_code)]

mod backpressure;
mod backup;
mod bulk;
mod cache;
pub mod check;
mod checkpoint;
mod compactor;
mod compose;
mod core;
mod db;
mod dump;
mod error;
mod evict;
mod extent;
mod flush;
mod frozen;
mod graves;
mod hash;
mod header;
mod home;
mod index;
mod item;
mod iter;
mod lane;
mod large;
mod lease;
mod location;
mod log;
mod lookup;
mod mend;
mod opening;
mod options;
mod output;
mod pace;
mod page;
mod piece;
mod progress;
mod reach;
mod reader;
mod reclaim;
mod record;
mod recovery;
mod replay;
mod ring;
mod round;
mod run;
mod segment;
mod segments;
mod snapshot;
mod space;
mod speed;
mod start;
mod stats;
mod steps;
mod syncer;
mod table;
mod tags;
mod throttle;
mod time;
mod upload;
mod usage;
mod victims;
mod write;
mod writer;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

pub use self::backup::BackedUp;
pub use self::compose::{Compose, Part};
pub use self::core::Evicted;
pub use self::db::Db;
pub use self::dump::{Tally, dump, load};
pub use self::error::{Error, Result};
pub use self::extent::AT_ONCE;
pub use self::item::{Item, Reader, Value};
pub use self::iter::Iter;
pub use self::lane::Job;
pub use self::large::{ChunkRead, Large, TableBlock};
pub use self::location::Position;
pub use self::lookup::{Access, Body, ColdRead, Fetched, Key, Lookup, Record, Scratch, Seen};
pub use self::options::{Options, Report, Severity, Sync};
pub use self::progress::{Waiter, Wake};
pub use self::record::{BINARY_KEY, FETCHED, STALE, WON};
pub use self::run::{Run, RunWrite, RunWritten};
pub use self::snapshot::{Snapshot, View};
pub use self::space::Level;
pub use self::stats::Stats;
pub use self::upload::{ChunkWrite, ChunkWritten, Upload, Uploaded};
pub use self::write::{Expect, NewBody, Outcome, Removed, Write};
pub use self::writer::Writer;

/// A value longer than this lives in an extent file, cut into chunks of this size. Bytes.
pub const CHUNK: usize = 64 * 1024;
/// Longest key. Bytes. (The memcached protocol allows 250.)
pub const MAX_KEY: usize = 65_535;

// A panic while a lock is held ends a release build at once. Where tests unwind, what the lock guards is still whole:
// the store asserts before it changes things.

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

fn wait_timeout<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>, most: Duration) -> MutexGuard<'a, T> {
    condition.wait_timeout(guard, most).unwrap_or_else(PoisonError::into_inner).0
}
