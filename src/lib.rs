//! KingDB: an embeddable, crash-safe, log-structured key-value store.
//!
//! # A tour of the source
//!
//! This package is two programs in four layers, each of which knows only those below it:
//!
//! ```text
//! main.rs     the start: options, sockets, identity, store, and then the loop
//! server/     binary `kingserver`: the event loop, connections, protocols      no unsafe, no libc
//! store/      library `kingdb`: log, index, cache, recovery, disk threads      no unsafe, no libc
//! sys/        the kernel, behind small safe types named after their man pages  all the unsafe
//! ```
//!
//! The library is a target of its own, so the compiler itself keeps the store from knowing the server.
//!
//! **Follow a `set`** through it. A worker's epoll instance (`sys::epoll`) says that a connection is readable. The
//! worker (`server::worker`) reads into its scratch buffer and hands the bytes to the connection's state machine
//! (`server::conn`), which asks the parser (`server::proto::text`) what stands at their head. The command goes to
//! [`Db::write`](store::Db::write): the record is framed and checksummed, appended to the log's tail in memory, and
//! the index is pointed at it. The answer is a position in the log. When all ready connections had their turn, the
//! worker calls [`Db::write_out`](store::Db::write_out), one `pwrite(2)` for everything that anybody appended,
//! compares [`Db::mark`](store::Db::mark) with the positions that its replies depend on, and sends those that the
//! mark has passed.
//!
//! **Follow a `get`**: the record cache has the record, or else the index has its place and a read that does not
//! sleep has its bytes; else the read becomes a job for the disk lane, and the connection waits while its worker
//! goes on.
//!
//! **Follow a start**: `main.rs` parses the options (`server::options`, one table), binds the sockets, and opens
//! the store: the lock on the directory, then the log's segments in order, whose records rebuild the index; a tail
//! that a crash cut off is cut back. `kingdb(5)` describes the files, `kingdb(7)` the design and its measurements,
//! `kingserver(8)` everything a user may set.
//!
//! # The store as a library
//!
//! [`Db`] has two faces: a blocking one for programs that embed the store, with an example there, and one that
//! never sleeps, for event loops. [`Options`] are built by methods. A [`Snapshot`] is the store as it was at one
//! moment; both are read through [`View`]: [`find`](View::find), [`reader`](View::reader), and
//! [`iter`](View::iter), which goes through everything at the speed of reading files in sequence. Values of any size are
//! written by parts with a [`Writer`] and read by parts with a [`Reader`]. [`dump`] and [`load`] are the portable form.
//! `tests/examples` has a program for each of these.
//!
//! ```
//! use kingdb::{Db, Options, View};
//! # fn main() -> kingdb::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! let db = Db::open(Options::new(dir.path()).cache_bytes(16 << 20))?;
//! db.put(b"one", b"1")?;
//! let before = db.snapshot()?;
//! db.put(b"two", b"2")?;
//! assert_eq!((before.iter()?.count(), db.iter()?.count()), (1, 2));
//! assert_eq!(before.get(b"two")?, None);
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]
// Tests that cannot hold when keys are taken for one another are left out then, and what they alone use is not.
#![cfg_attr(feature = "tiny-tags", allow(dead_code, unused_imports))]

pub mod store;
#[doc(hidden)]
#[allow(missing_docs)]
pub mod sys;

pub use store::{
    Db, Error, Item, Iter, Options, Reader, Result, Snapshot, Sync, Tally, Value, View, Writer, dump, load,
};
