//! Finding a record: in the RAM cache, or by the index in the log's own buffers, then in the page cache, all
//! without sleeping; what only the disk has becomes a job ([`ColdRead`]) that the caller runs where sleeping is
//! allowed.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::cache::Facts;
use super::core::Core;
use super::error::{Error, Result};
use super::hash::Hash;
use super::index::{Entry, size_bound};
use super::large::Large;
use super::location::{Location, Position};
use super::record::{self, FETCHED, Fields, Kind};
use super::segment::Segment;
use crate::sys;

/// A key and its hash, computed once per command with [`super::Db::key`].
#[derive(Clone, Copy)]
pub struct Key<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) hash: Hash,
    pub(crate) access: Access,
}

/// How a lookup counts for the record cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Not at all.
    Peek,
    /// As a use: the record is worth keeping.
    Look,
    /// As a use, and the record is marked as fetched, now.
    Fetch,
}

impl<'a> Key<'a> {
    /// The same key, looked up in another way. A new one is fetched.
    pub fn with(self, access: Access) -> Key<'a> {
        Key { access, ..self }
    }

    /// The key itself.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// What a lookup saw, for a write that must only happen if nothing has changed since.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub(crate) location: Option<Location>,
    /// A reply that tells what was seen may leave once the mark has reached this: for hits and misses alike.
    pub depends: Position,
    /// A miss: there was a record, and it has expired.
    pub expired: bool,
}

/// A live record, borrowed for a visit.
pub struct Record<'a> {
    /// The client's opaque flags.
    pub flags: u32,
    /// The CAS unique.
    pub cas: u64,
    /// Store time in seconds from which the record is gone; 0: never.
    pub expires: u64,
    /// [`STALE`](super::STALE), [`WON`](super::WON), [`BINARY_KEY`](super::BINARY_KEY),
    /// [`FETCHED`](super::FETCHED) as far as the cache knows.
    pub marks: u8,
    /// Seconds since it was written or fetched, as far as the cache knows; else 0.
    pub idle: u32,
    /// The value.
    pub body: Body<'a>,
}

/// A value.
pub enum Body<'a> {
    /// All of it, decompressed: at most [`super::CHUNK`] bytes.
    Inline(&'a [u8]),
    /// In an extent; clone the handle to read it chunk by chunk.
    Large(&'a Large),
}

impl Record<'_> {
    /// Bytes of the value.
    #[allow(clippy::len_without_is_empty, reason = "an empty value is a value")]
    pub fn len(&self) -> u64 {
        match &self.body {
            Body::Inline(value) => value.len() as u64,
            Body::Large(large) => large.len(),
        }
    }
}

/// The outcome of [`super::Db::lookup`].
pub enum Lookup<R> {
    /// Found; with what the visit returned.
    Hit(Seen, R),
    /// No such key, or expired, or flushed.
    Miss(Seen),
    /// Would sleep. Run the job on the lane and look up again with its outcome.
    Cold(ColdRead),
}

/// A read that may sleep.
pub struct ColdRead {
    segment: Arc<Segment>,
    location: Location,
    most: usize,
}

/// The outcome of a [`ColdRead`]. A lookup that finds the key elsewhere by then ignores it.
pub struct Fetched {
    location: Location,
    bytes: Result<Vec<u8>>,
}

impl ColdRead {
    /// Reads; may sleep.
    pub fn run(self) -> Fetched {
        let mut bytes = vec![0; self.most];
        let read = read_fully(&self.segment, &mut bytes, self.location.offset());
        Fetched { location: self.location, bytes: read.map(|count| bytes[..count].to_vec()) }
    }
}

/// Reusable buffers of one thread. About 200 KiB once warm.
pub struct Scratch {
    pub(crate) read: Vec<u8>,
    pub(crate) raw: Vec<u8>,
    pub(crate) packed: Vec<u8>,
    pub(crate) encoder: snap::raw::Encoder,
}

impl Default for Scratch {
    fn default() -> Scratch {
        let encoder = snap::raw::Encoder::new();
        Scratch { read: Vec::new(), raw: Vec::new(), packed: Vec::new(), encoder }
    }
}

/// What a record came to when it was looked at.
enum Shown<R> {
    Hit(R),
    Flushed,
    Expired,
    /// Expired by a clock that may be wrong: it is not shown, and stays.
    Doubtful,
    /// It is another key's.
    Foreign,
    /// Its bytes cannot be had without sleeping.
    Cold(ColdRead),
}

/// How a record was got at.
enum Source {
    /// Its bytes are in `Scratch::read`.
    Read,
    Cold(ColdRead),
}

impl Core {
    /// See [`super::Db::lookup`].
    pub fn lookup<R>(
        &self,
        key: &Key<'_>,
        now: u64,
        supplied: Option<&Fetched>,
        scratch: &mut Scratch,
        visit: impl FnOnce(Record<'_>) -> R,
    ) -> Result<Lookup<R>> {
        let mut visit = Some(visit);
        // The segment is still there: compaction removes it after it has relocated all entries, this one too.
        let show = |value: &[u8], facts: Facts| {
            let flushed = self.is_flushed(facts.location);
            (facts.location, self.show(now, value, facts, flushed, &mut visit))
        };
        // Whether what the cache has is still so, the index knows: an error is looked at again.
        if let Some((location, Ok(shown))) = self.cache.get(key.hash, key.bytes, (key.access, second(now)), show) {
            return Ok(self.conclude(key, location, shown));
        }
        loop {
            let (entry, removal) = self.entry(key);
            let Some(entry) = entry else { return Ok(miss(None, removal)) };
            let segment = self.log.segments.get(entry.location);
            let shown = match &segment {
                Some(segment) => self.show_stored(key, now, &entry, segment, supplied, scratch, &mut visit),
                None => Err(Error::other("the index names a segment that is gone")),
            };
            match shown {
                // Compaction may have moved the record and given its place away.
                Ok(Shown::Foreign) | Err(_) if self.has_moved(key, &entry, segment.as_ref()) => {}
                Ok(Shown::Foreign) => return Ok(miss(Some(entry.location), removal)),
                Ok(shown) => return Ok(self.conclude(key, entry.location, shown)),
                Err(error) => return Err(error),
            }
        }
    }

    fn conclude<R>(&self, key: &Key<'_>, location: Location, shown: Shown<R>) -> Lookup<R> {
        let depends = || self.log.depends(location);
        let fired = || self.flushes.fired();
        match shown {
            Shown::Hit(result) => Lookup::Hit(seen(Some(location), depends()), result),
            Shown::Flushed => miss(None, self.forget(key, location).max(fired())),
            Shown::Expired => expired(seen(None, self.forget(key, location).max(fired()))),
            Shown::Doubtful => expired(seen(Some(location), depends().max(fired()))),
            Shown::Foreign => miss(Some(location), Position(0)),
            Shown::Cold(job) => Lookup::Cold(job),
        }
    }

    /// Whether the key's record, or what its location means, has changed since `entry` was found.
    fn has_moved(&self, key: &Key<'_>, entry: &Entry, segment: Option<&Arc<Segment>>) -> bool {
        if self.entry(key).0.is_none_or(|now| now.location != entry.location) {
            return true;
        }
        match (self.log.segments.get(entry.location), segment) {
            (Some(now), Some(then)) => !Arc::ptr_eq(&now, then),
            (now, then) => now.is_some() != then.is_some(),
        }
    }

    fn entry(&self, key: &Key<'_>) -> (Option<Entry>, Position) {
        let stripe = self.index.stripe(key.hash);
        (stripe.find(key.hash.tag), stripe.last_removal.max(self.flushes.fired()))
    }

    /// Drops a record that is gone anyway; tells when a key of the same stripe was last removed.
    fn forget(&self, key: &Key<'_>, location: Location) -> Position {
        let mut stripe = self.index.stripe(key.hash);
        let newest = stripe.find(key.hash.tag).map(|entry| entry.location);
        if newest.is_none_or(|newest| newest == location) {
            if let Some(gone) = stripe.remove(key.hash.tag) {
                self.note_dead(&gone);
            }
            self.cache.remove(key.hash);
            // Its expiry may stand in a record that is not written yet, and an older one in the log may have none.
            stripe.last_removal = stripe.last_removal.max(self.log.depends(location));
        }
        stripe.last_removal
    }

    fn show<R>(
        &self,
        now: u64,
        value: &[u8],
        facts: Facts,
        flushed: bool,
        visit: &mut Option<impl FnOnce(Record<'_>) -> R>,
    ) -> Result<Shown<R>> {
        let Facts { client_flags: flags, cas, expires, large, marks, accessed, .. } = facts;
        if let Some(gone) = self.judge(now, expires, flushed) {
            return Ok(gone);
        }
        let large = large.then(|| Large::decode(value, &self.extents)).transpose()?;
        let Some(visit) = visit.take() else { unreachable!("a record is shown once") };
        let body = large.as_ref().map_or(Body::Inline(value), Body::Large);
        Ok(Shown::Hit(visit(Record {
            flags,
            cas,
            expires,
            marks,
            idle: second(now).wrapping_sub(accessed) & SECONDS,
            body,
        })))
    }

    /// Whether a record is not to be shown, and then what becomes of it.
    fn judge<R>(&self, now: u64, expires: u64, flushed: bool) -> Option<Shown<R>> {
        let expired = expires != 0 && expires <= now;
        match (flushed, expired) {
            (true, _) => Some(Shown::Flushed),
            (false, true) => Some(self.judge_expired(expires)),
            (false, false) => None,
        }
    }

    fn judge_expired<R>(&self, expires: u64) -> Shown<R> {
        if expires > self.time.reclaim() {
            return Shown::Doubtful;
        }
        if self.time.tell(expires) {
            self.bell.ring();
        }
        Shown::Expired
    }

    /// Gets at the record that `entry` names in `segment`, if that takes no sleep; checks it, shows it, and keeps it in
    /// the cache.
    #[allow(clippy::too_many_arguments, reason = "what a lookup knows, passed on once")]
    fn show_stored<R>(
        &self,
        key: &Key<'_>,
        now: u64,
        entry: &Entry,
        segment: &Arc<Segment>,
        supplied: Option<&Fetched>,
        scratch: &mut Scratch,
        visit: &mut Option<impl FnOnce(Record<'_>) -> R>,
    ) -> Result<Shown<R>> {
        if let Source::Cold(job) = self.read(entry, segment, supplied, scratch)? {
            return Ok(Shown::Cold(job));
        }
        let location = entry.location;
        let damaged = |what: &str| {
            segment.note_damage();
            Error::damaged(&segment.path, location.offset(), what)
        };
        let (fields, _) = Fields::decode(&scratch.read, segment.salt)
            .map_err(|defect| damaged(&format!("no sound record is there ({defect:?})")))?;
        if fields.key != key.bytes {
            return Ok(Shown::Foreign);
        }
        let value = match fields.compressed {
            true => {
                decompress(fields.body, &mut scratch.raw).ok_or_else(|| damaged("the value does not decompress"))?
            }
            false => fields.body,
        };
        let facts = Facts {
            location,
            client_flags: fields.client_flags,
            cas: fields.cas,
            expires: fields.expires,
            large: fields.kind == Kind::Large,
            marks: fields.marks,
            accessed: second(now),
        };
        let flushed = segment.position(location.offset()) < self.flushes.fired();
        // First of all: what is gone may have given its extent back in an earlier life, and still stand in the log.
        if let Some(gone) = self.judge(now, facts.expires, flushed) {
            return Ok(gone);
        }
        // Held until the value was shown: who finds the slot unchanged after this reads what it names.
        let _lease = facts.large.then(|| Large::decode(value, &self.extents)).transpose()?;
        if facts.large && self.has_moved(key, entry, Some(segment)) {
            return Ok(Shown::Foreign);
        }
        let shown = self.show(now, value, facts, flushed, visit)?;
        let fetched = if key.access == Access::Fetch { FETCHED } else { 0 };
        self.keep(key, value, Facts { marks: facts.marks | fetched, ..facts });
        Ok(shown)
    }

    /// Gets the record's bytes into `scratch.read` if that takes no sleep.
    fn read(
        &self,
        entry: &Entry,
        segment: &Arc<Segment>,
        supplied: Option<&Fetched>,
        scratch: &mut Scratch,
    ) -> Result<Source> {
        let (location, most) = (entry.location, size_bound(entry.size_class));
        if let Some(fetched) = supplied.filter(|fetched| fetched.location == location) {
            scratch.read.clear();
            scratch.read.extend_from_slice(fetched.bytes.as_ref().map_err(Error::clone)?);
            return Ok(Source::Read);
        }
        let unwritten = segment.position(location.offset()) >= self.log.progress.written();
        if unwritten && self.log.read_unwritten(location, most, &mut scratch.read) {
            return Ok(Source::Read);
        }
        scratch.read.resize(most, 0);
        let count = sys::file::read_nowait(&segment.file, &mut scratch.read, location.offset())
            .map_err(|error| cannot_read(segment, most, location.offset(), &error))?;
        scratch.read.truncate(count.unwrap_or(0));
        if record::is_whole(&scratch.read) {
            return Ok(Source::Read);
        }
        self.counters.cold_reads.fetch_add(1, Relaxed);
        Ok(Source::Cold(ColdRead { segment: segment.clone(), location, most }))
    }

    /// Caches a record that was read, if it is still the key's newest.
    fn keep(&self, key: &Key<'_>, value: &[u8], facts: Facts) {
        let stripe = self.index.stripe(key.hash);
        if stripe.find(key.hash.tag).is_some_and(|entry| entry.location == facts.location) {
            self.cache.insert(key.hash, key.bytes, value, facts);
        }
    }
}

/// The bits of a second that the cache keeps.
const SECONDS: u32 = 0xff_ffff;

/// Store time as the cache keeps it.
pub(crate) fn second(time: u64) -> u32 {
    time as u32 & SECONDS
}

fn seen(location: Option<Location>, depends: Position) -> Seen {
    Seen { location, depends, expired: false }
}

fn miss<R>(location: Option<Location>, depends: Position) -> Lookup<R> {
    Lookup::Miss(seen(location, depends))
}

fn expired<R>(seen: Seen) -> Lookup<R> {
    Lookup::Miss(Seen { expired: true, ..seen })
}

pub(crate) fn read_fully(segment: &Segment, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match segment.file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot_read(segment, buffer.len(), offset, &error)),
        }
    }
    Ok(filled)
}

fn cannot_read(segment: &Segment, len: usize, offset: u64, error: &std::io::Error) -> Error {
    Error::io(format!("read {len} bytes at offset {offset} of"), &segment.path, error)
}

/// `None`: the bytes are no snappy stream of at most [`super::CHUNK`] bytes.
pub(crate) fn decompress<'a>(packed: &[u8], raw: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let len = snap::raw::decompress_len(packed).ok().filter(|&len| len <= super::CHUNK)?;
    raw.resize(len.max(raw.len()), 0);
    let count = snap::raw::Decoder::new().decompress(packed, &mut raw[..len]).ok()?;
    (count == len).then_some(&raw[..len])
}
