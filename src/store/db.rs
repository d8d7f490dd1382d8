//! The store as its users see it.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::compose::{Compose, Part};
use super::core::{Core, Evicted};
use super::error::{Error, Result};
use super::home::Home;
use super::lane::{Job, Lane};
use super::location::Position;
use super::lookup::{Access, Body, Fetched, Key, Lookup, Record, Scratch};
use super::opening::{check, no_thread, open_core, start};
use super::options::{Options, Severity};
use super::progress::{Waiter, Wake};
use super::upload::{Upload, Uploaded};
use super::write::{Expect, NewBody, Outcome, Removed, Write};
use super::{CHUNK, Seen};

/// Shortest and longest pause of a writer that waits for room in the log or for its share of the incoming rate.
const ROOM_RETRY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// First pause of a thread that waits for room by itself; each one that follows is twice as long.
const FIRST_PAUSE: Duration = Duration::from_micros(50);

/// An open store. Share it between threads in an `Arc`; all methods take `&self`.
///
/// It has two faces. The blocking one (`get`, `put`, `delete`, `flush`, `close`) is for programs that embed a
/// store. The other one is for event loops: none of its methods sleeps in the kernel, and what must sleep is handed
/// out as a job.
///
/// ```
/// # fn main() -> Result<(), kingdb::Error> {
/// # let dir = tempfile::tempdir().unwrap();
/// let db = kingdb::Db::open(kingdb::Options::new(dir.path().join("data")))?;
/// db.put(b"greeting", b"hello")?;
/// assert_eq!(db.get(b"greeting")?.as_deref(), Some(&b"hello"[..]));
/// assert!(db.delete(b"greeting")?);
/// db.flush()?; // on the disk now, whatever the policy
/// db.close()
/// # }
/// ```
pub struct Db {
    pub(super) core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Db({})", self.core.options.path.display())
    }
}

/// Opening and closing.
impl Db {
    /// Opens the store in `options.path`, or makes one there, and reads its log.
    ///
    /// # Errors
    /// A sentence that says what to do: the directory is in use or cannot be written, a file was written by a newer
    /// version, the disk is full, an option is out of its range.
    pub fn open(options: Options) -> Result<Db> {
        check(&options)?;
        let home = Home::open(&options.path)?;
        let (lane, mut threads) = Lane::start("lane", options.lane_threads).map_err(|error| no_thread(&error))?;
        let started = open_core(options, home, &lane).and_then(|core| Ok((start(&core)?, core)));
        let (started, core) = started.inspect_err(|_| lane.close())?;
        threads.extend(started);
        Ok(Db { core, threads: Mutex::new(threads) })
    }

    /// Gives back the space of everything that was overwritten, removed, flushed or has expired, down to the last
    /// record. The store does so by itself, as far as it is worth it. Sleeps; others can use the store meanwhile.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::ReadOnly`], [`Error::Other`]: some of it may be done.
    pub fn compact(&self) -> Result<()> {
        self.core.compact().map(drop)
    }

    /// Everything written so far is on the disk when this returns, whatever the policy. Sleeps.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] if the store has failed, or the failure itself. It is final.
    pub fn flush(&self) -> Result<()> {
        self.core.log.write_all();
        match self.failure() {
            Some(why) => Err(Error::ReadOnly(why)),
            None => self.core.sync(self.core.log.end()),
        }
    }

    /// Makes everything durable and stops the threads. Later calls do nothing; the directory stays locked until the
    /// store is dropped. Dropping the store does the same, errors unseen.
    ///
    /// # Errors
    /// As [`Db::flush`].
    pub fn close(&self) -> Result<()> {
        let threads = std::mem::take(&mut *super::lock(&self.threads));
        if threads.is_empty() {
            return Ok(());
        }
        self.core.stop_compaction();
        self.core.bell.stop();
        self.core.lane.close();
        for thread in threads {
            // A thread that panicked has said so; what it left undone shows in the flush.
            let _ = thread.join();
        }
        self.flush()?;
        self.core.append_checkpoint(self.core.log.end())?;
        self.flush()?;
        self.core.last_checkpoint();
        // From here on nothing may be appended: the room for it is given back.
        self.core.log.progress.fail("it is closed".into());
        self.core.trim()
    }
}

/// The blocking face.
impl Db {
    /// The value of `key`, all of it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if its bytes on the disk are not what was written; [`Error::Other`] if the disk cannot be
    /// read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.visit(key, |record| match record.body {
            Body::Inline(value) => Ok(value.to_vec()),
            Body::Large(large) => Err(large.clone()),
        })?;
        found.map(|found| found.or_else(|large| large.read_all())).transpose()
    }

    /// Shows the record of `key`, once the store acknowledges it; sleeps. As [`Db::lookup`].
    pub(super) fn visit<R>(&self, key: &[u8], mut take: impl FnMut(Record<'_>) -> R) -> Result<Option<R>> {
        let key = self.key(key);
        let mut fetched: Option<Fetched> = None;
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                match self.lookup(&key, self.now(), fetched.as_ref(), scratch, &mut take)? {
                    Lookup::Miss(seen) => return self.core.wait_for(seen.depends).map(|()| None),
                    Lookup::Hit(seen, found) => return self.core.wait_for(seen.depends).map(|()| Some(found)),
                    Lookup::Cold(job) => fetched = Some(job.run()),
                }
            }
        })
    }

    /// Gives `key` a value. When it returns, the value is acknowledged by the store's policy.
    ///
    /// # Errors
    /// [`Error::Invalid`] (key over 65,535 bytes), [`Error::Full`], [`Error::ReadOnly`].
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let uploaded = match value.len() > CHUNK {
            true => Some(self.upload_all(value)?),
            false => None,
        };
        let body = uploaded.as_ref().map_or(NewBody::Inline(value), NewBody::Uploaded);
        let key = self.key(key);
        let write = Write { key, flags: 0, expires: 0, marks: 0, cas: None, body, expect: Expect::Anything };
        let depends = self.write_blocking(&write)?;
        self.core.wait_for(depends)
    }

    /// Writes a large value to its extent.
    fn upload_all(&self, value: &[u8]) -> Result<Uploaded> {
        self.wait_for_room();
        let mut upload = self.upload(value.len() as u64)?;
        let mut buffer = Vec::with_capacity(CHUNK);
        for chunk in value.chunks(CHUNK) {
            self.wait_for_room();
            buffer.extend_from_slice(chunk);
            let written = upload.chunk(buffer).run();
            buffer = upload.done(written)?;
        }
        Ok(upload.finish())
    }

    /// An unconditional write; sleeps where there is no room. Tells what its acknowledgement waits for.
    pub(super) fn write_blocking(&self, write: &Write<'_>) -> Result<Position> {
        self.wait_for_room();
        match SCRATCH.with_borrow_mut(|scratch| self.write(write, scratch))? {
            Outcome::Done { depends, .. } => Ok(depends),
            Outcome::Conflict => unreachable!("an unconditional write has no conflict"),
        }
    }

    /// Removes `key`; tells whether it was there.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::ReadOnly`]; reading errors where the record's expiry must be looked at.
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        self.wait_for_room();
        let key = self.key(key);
        let mut expect = Expect::Anything;
        loop {
            match self.remove(&key, expect)? {
                Removed::Done { depends } => return self.core.wait_for(depends).map(|()| true),
                Removed::Absent { depends } => return self.core.wait_for(depends).map(|()| false),
                Removed::Unsure | Removed::Conflict => match self.see(&key)? {
                    Ok(seen) => expect = Expect::Unchanged(seen),
                    Err(depends) => return self.core.wait_for(depends).map(|()| false),
                },
            }
        }
    }

    /// Removes `key` if its CAS unique is still `cas`; tells what the acknowledgement of that waits for. `None`: it is
    /// not. Sleeps.
    ///
    /// # Errors
    /// As [`Db::delete`].
    pub fn remove_version(&self, key: &[u8], cas: u64) -> Result<Option<Position>> {
        self.wait_for_room();
        let key = self.key(key).with(Access::Peek);
        let mut fetched: Option<Fetched> = None;
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                match self.lookup(&key, self.now(), fetched.as_ref(), scratch, |record| record.cas)? {
                    Lookup::Hit(seen, found) if found == cas => {
                        if let Removed::Done { depends } = self.remove(&key, Expect::Unchanged(seen))? {
                            return Ok(Some(depends));
                        }
                    }
                    Lookup::Hit(..) | Lookup::Miss(_) => return Ok(None),
                    Lookup::Cold(job) => fetched = Some(job.run()),
                }
            }
        })
    }

    /// What is there; or, where nothing is, what saying so waits for.
    fn see(&self, key: &Key<'_>) -> Result<std::result::Result<Seen, Position>> {
        let mut fetched: Option<Fetched> = None;
        loop {
            let found =
                SCRATCH.with_borrow_mut(|scratch| self.lookup(key, self.now(), fetched.as_ref(), scratch, |_| ()));
            match found? {
                Lookup::Hit(seen, ()) => return Ok(Ok(seen)),
                Lookup::Miss(seen) => return Ok(Err(seen.depends)),
                Lookup::Cold(job) => fetched = Some(job.run()),
            }
        }
    }

    /// Sleeps until a write may be executed.
    pub(super) fn wait_for_room(&self) {
        let mut pause = FIRST_PAUSE;
        while !self.has_room() {
            self.core.log.write_all();
            self.core.bell.ring();
            std::thread::sleep(pause);
            pause = (2 * pause).min(self.room_after());
        }
    }
}

/// The face for event loops.
impl Db {
    /// Store time in whole seconds: Unix time that never goes back. Read it once per turn.
    pub fn now(&self) -> u64 {
        self.core.time.now()
    }

    /// Prepares a key: computes its hash.
    pub fn key<'a>(&self, bytes: &'a [u8]) -> Key<'a> {
        Key { bytes, hash: self.core.home.seed.hash(bytes), access: Access::Fetch }
    }

    /// Finds `key` at store time `now`. `supplied` is what the job of an earlier [`Lookup::Cold`] fetched. `visit`
    /// runs under a lock: it copies what it needs and does not call the store.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Other`].
    pub fn lookup<R>(
        &self,
        key: &Key<'_>,
        now: u64,
        supplied: Option<&Fetched>,
        scratch: &mut Scratch,
        visit: impl FnOnce(Record<'_>) -> R,
    ) -> Result<Lookup<R>> {
        self.core.lookup(key, now, supplied, scratch, visit)
    }

    /// Appends a record for a key, if the condition holds, and makes it the key's newest. Call it only after
    /// [`Db::has_room`] has said yes, and [`Db::write_out`] at the end of the turn.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Full`], [`Error::Invalid`] (the key is too long).
    pub fn write(&self, write: &Write<'_>, scratch: &mut Scratch) -> Result<Outcome> {
        self.core.write(write, scratch)
    }

    /// Removes a key, if the condition holds. As [`Db::write`].
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Full`].
    pub fn remove(&self, key: &Key<'_>, expect: Expect) -> Result<Removed> {
        self.core.remove(key, expect)
    }

    /// Makes everything written before vanish: now, or from second `at` of store time on. Either replaces a flush that
    /// is pending. The reply waits for the position.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Full`].
    pub fn flush_all(&self, at: Option<u64>) -> Result<Position> {
        self.core.flush_all(at)
    }

    /// To be called at the start of each turn: fires a pending flush that is due at `now`, and tells whether it did.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Full`].
    pub fn tick(&self, now: u64) -> Result<bool> {
        self.core.tick(now)
    }

    /// Whether writes may be executed now. If not, too much waits to be written: try again when the mark has moved.
    /// Also yes when a write would get an error at once.
    pub fn has_room(&self) -> bool {
        self.core.log.has_room()
            && self.core.throttle.wait().is_none()
            && !self.core.waits_for_compaction()
            && !self.core.waits_for_space()
    }

    /// After what time it makes sense to ask [`Db::has_room`] again.
    pub fn room_after(&self) -> Duration {
        self.core.throttle.wait().unwrap_or_default().clamp(ROOM_RETRY.0, ROOM_RETRY.1)
    }

    /// Phase two of a turn: writes the log up to its end, whoever appended, usually with one `pwrite`. While the
    /// disk is slow, or another thread is writing, it only sees to it that the writing happens. Afterwards look at
    /// [`Db::mark`].
    pub fn write_out(&self) {
        self.core.log.write_out();
    }

    /// How far replies may leave: written, or durable under [`super::Sync::Always`]. One load.
    pub fn mark(&self) -> Position {
        self.core.log.progress.mark()
    }

    /// Registers a thread that may wait for the mark. `wake` is called from any thread and must not block.
    pub fn waiter(&self, wake: Wake) -> Waiter {
        self.core.log.progress.waiter(wake)
    }

    /// Forgets a waiter whose thread ends.
    pub fn leave(&self, waiter: &Waiter) {
        self.core.log.progress.leave(waiter);
    }

    /// Asks for one wake-up once the mark has reached `position` or the store has failed. `false`: it is so
    /// already, and no wake-up will come. A later call replaces an earlier one.
    pub fn await_mark(&self, waiter: &Waiter, position: Position) -> bool {
        self.core.log.progress.await_mark(waiter, position)
    }

    /// Why the store accepts no writes any more, if so. Replies that wait for the mark must then become errors.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.core.log.progress.failure()
    }

    /// Runs `job` on the disk lane. The job tells its submitter by itself.
    pub fn submit(&self, job: Job) {
        self.core.lane.submit(job);
    }

    /// The same for a job that is a part of reading through the whole store, or takes about as long: one of these runs at
    /// a time, by turns with the others.
    pub fn submit_scan(&self, job: Job) {
        self.core.lane.submit_scan(job);
    }

    /// Begins to receive a value, or a part of one for [`Db::compose`], of exactly `len` bytes. (A value of up to
    /// [`CHUNK`] bytes is written whole instead.)
    ///
    /// # Errors
    /// [`Error::Invalid`] if `len` is out of range; [`Error::Full`].
    pub fn upload(&self, len: u64) -> Result<Upload> {
        Upload::new(&self.core.extents, len).inspect_err(|_| self.core.compaction.bell.ring())
    }

    /// Makes a value out of parts.
    pub fn compose(&self, parts: Vec<Part>) -> Compose {
        Compose::new(self.core.extents.clone(), parts)
    }
}

impl Db {
    /// Gives the record cache another size, and empties it; on the lane. `false`: it cannot have that many bytes.
    pub fn resize_cache(&self, bytes: u64) -> bool {
        let core = self.core.clone();
        let fits = core.cache.fits(bytes);
        if fits {
            self.core.lane.submit(Box::new(move || {
                if let Err(error) = core.cache.resize(bytes) {
                    (core.options.report)(Severity::Warning, &format!("cannot resize the record cache: {error}"));
                }
            }));
        }
        fits
    }

    /// From now on `tell` hears of each record that is given up for want of room. Once.
    pub fn on_eviction(&self, tell: Evicted) {
        // A second one is ignored: nobody sets it.
        let _ = self.core.evicted.set(tell);
    }

    /// Bytes that the record cache may have.
    pub fn cache_limit(&self) -> u64 {
        self.core.cache.limit()
    }

    /// Sets the clock forward by so many seconds, stops it (`p`) or lets it go on (`r`); for tests. `false`: what was
    /// asked for is none of that.
    #[cfg(feature = "debugtime")]
    pub fn debug_time(&self, how: &[u8]) -> bool {
        self.core.time.debug(how)
    }

    /// The parts.
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            (self.core.options.report)(Severity::Error, &format!("closing the store: {error}"));
        }
    }
}

thread_local! {
    /// For the blocking face, which has no loop to keep one.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[cfg(test)]
#[path = "db_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "compact_tests.rs"]
mod compact_tests;

#[cfg(test)]
#[path = "reclaim_tests.rs"]
mod reclaim_tests;

#[cfg(test)]
#[path = "large_tests.rs"]
mod large_tests;
