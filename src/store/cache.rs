//! The RAM cache: whole, decompressed records, so that a hot `get` enters no system call and asks no index: it
//! costs one row of a table and the entry itself. Its memory is fixed when the store opens.
//!
//! An entry is its key's newest record, always: whoever changes a key changes or removes its entry before he gives
//! the key's index stripe free, and whoever adds an entry after reading the disk holds the stripe and has seen that
//! the index still names what he read.
//!
//! Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): new entries
//! enter a small queue (a tenth of the bytes); those read again there move on to the main queue, the others leave
//! and are remembered by a fingerprint, which takes them straight to the main queue when they come back. A scan
//! passes through the small queue and leaves the hot set alone. Both queues are rings of bytes: no allocation per
//! entry, no fragmentation.
//!
//! Shards with a lock each, chosen by the key's hash; any thread.

use std::sync::{Mutex, MutexGuard};

use super::hash::Hash;
use super::location::Location;
use super::lookup::Access;
use super::ring::{Header, Ring};
use super::table::{Place, Tables};
use crate::sys::prefetch::prefetch_to_write;

/// Shards per processor, so that workers seldom meet at a lock.
const SHARDS: u64 = 4;
/// Smallest and largest shard. Bytes.
const SHARD_BYTES: (u64, u64) = (1 << 20, 1 << 30);
/// A cache of this size or more lies in huge pages. (Smaller hosts rather see memory taken up page by page.)
const HUGE_FROM: u64 = 64 << 20;
/// The tables have a row for this many bytes of entries.
const BYTES_PER_ROW: u64 = 96;
/// Most rows of a table. One that grows to this size moves 200 KiB.
const MOST_ROWS: u64 = 32 << 10;
/// Entries larger than this part of a shard's small queue are not cached.
const LARGEST_PART: usize = 2;
/// Reads counted per entry.
const MOST_READS: u8 = 3;

/// What a cached record says besides its key and value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    /// Where the record lies.
    pub location: Location,
    pub client_flags: u32,
    pub cas: u64,
    pub expires: u64,
    /// The value is the table of an extent.
    pub large: bool,
    /// The record's marks, [`FETCHED`](super::record::FETCHED) among them.
    pub marks: u8,
    /// The second in which it was written or fetched last: store time, the low 24 bits.
    pub accessed: u32,
}

/// All shards. Without any, nothing is cached.
pub(crate) struct Cache {
    shards: Box<[Mutex<Shard>]>,
    /// Bytes of a shard, and whether it lies in huge pages.
    shape: Mutex<(u64, bool)>,
}

/// Where a key's entry belongs; the shard is locked.
pub(crate) struct Spot<'a> {
    shard: Option<MutexGuard<'a, Shard>>,
    tag: u64,
}

struct Shard {
    tables: Tables,
    small: Ring,
    main: Ring,
    /// Fingerprints of what left the small queue unread, each in the one place its tag leads to.
    ghosts: Box<[u32]>,
    /// Lookups that found their entry, and that did not.
    counts: (u64, u64),
}

impl Cache {
    /// A cache of `bytes` bytes, tables included. Fewer than 256 KiB hold nothing.
    ///
    /// # Errors
    /// The kernel's, when there is no memory.
    pub fn new(bytes: u64) -> std::io::Result<Cache> {
        if bytes < 256 << 10 {
            return Ok(Cache { shards: Box::default(), shape: Mutex::default() });
        }
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        let (smallest, largest) = SHARD_BYTES;
        let count = (SHARDS * processors).min(bytes / smallest).max(bytes.div_ceil(largest)).max(1);
        let shape = (bytes / count, bytes >= HUGE_FROM);
        let shard = |_| Shard::new(shape).map(Mutex::new);
        Ok(Cache { shards: (0..count).map(shard).collect::<std::io::Result<_>>()?, shape: shape.into() })
    }

    /// Shows the entry of `key`, if it is there, to `visit` (value, facts), under the shard's lock, and counts that as
    /// `access` says. `second`: store time, the low 24 bits.
    pub fn get<R>(
        &self,
        hash: Hash,
        key: &[u8],
        (access, second): (Access, u32),
        visit: impl FnOnce(&[u8], Facts) -> R,
    ) -> Option<R> {
        let mut shard = self.shard(hash)?;
        let Some(place) = shard.tables.find(hash.tag) else {
            shard.counts.1 += 1;
            return None;
        };
        let ring = shard.ring(place.main);
        let (header, found, value) = ring.entry(place.at);
        let shown = (found == key).then(|| visit(value, header.facts));
        if shown.is_some() {
            if access != Access::Peek {
                ring.touch(place.at, MOST_READS);
            }
            if access == Access::Fetch {
                ring.note_fetch(place.at, second);
            }
            shard.counts.0 += 1;
        }
        shown
    }

    /// Makes this the entry of `key`, if it is not too large. The caller holds the key's stripe of the index.
    pub fn insert(&self, hash: Hash, key: &[u8], value: &[u8], facts: Facts) {
        self.spot(hash).insert(key, value, facts);
    }

    /// Begins to bring the shard near that the key belongs to: another processor may have had it last.
    pub fn approach(&self, hash: Hash) {
        self.shards.get(self.number(hash)).into_iter().for_each(prefetch_to_write);
    }

    /// The place of a key's entry, for a change that is to follow: what it touches begins to come near.
    pub fn spot(&self, hash: Hash) -> Spot<'_> {
        let shard = self.shard(hash);
        if let Some(shard) = &shard {
            shard.tables.prefetch(hash.tag);
        }
        Spot { shard, tag: hash.tag }
    }

    /// Whether the entry of `key` was read since it came, or since this was asked last; asked often, it must be read
    /// often.
    pub fn cool(&self, hash: Hash, key: &[u8]) -> bool {
        let Some(mut shard) = self.shard(hash) else { return false };
        let Some(place) = shard.tables.find(hash.tag) else { return false };
        let ring = shard.ring(place.main);
        ring.entry(place.at).1 == key && ring.cool(place.at)
    }

    /// Forgets the entry of a key. The caller holds the key's stripe of the index, or knows the entry to be of no
    /// more use.
    pub fn remove(&self, hash: Hash) {
        if let Some(mut shard) = self.shard(hash) {
            shard.remove(hash.tag);
        }
    }

    /// Forgets everything, a shard at a time: entries of flushed records would else outlive the segments that tell
    /// that they were flushed.
    ///
    /// # Errors
    /// The kernel's, when there is no memory.
    pub fn clear(&self) -> std::io::Result<()> {
        let shape = *super::lock(&self.shape);
        for shard in &self.shards {
            let fresh = Shard::new(shape)?;
            let mut shard = super::lock(shard);
            let counts = shard.counts;
            let old = std::mem::replace(&mut *shard, Shard { counts, ..fresh });
            drop(shard);
            drop(old);
        }
        Ok(())
    }

    /// Gives it `bytes` bytes, and forgets everything.
    ///
    /// # Errors
    /// The kernel's, when there is no memory.
    pub fn resize(&self, bytes: u64) -> std::io::Result<()> {
        *super::lock(&self.shape) = (bytes / self.shards.len().max(1) as u64, bytes >= HUGE_FROM);
        self.clear()
    }

    /// Whether [`Cache::resize`] makes sense: the number of shards stays.
    pub fn fits(&self, bytes: u64) -> bool {
        let part = bytes / self.shards.len().max(1) as u64;
        !self.shards.is_empty() && (SHARD_BYTES.0 / 4..=SHARD_BYTES.1).contains(&part)
    }

    /// Bytes it may have.
    pub fn limit(&self) -> u64 {
        super::lock(&self.shape).0 * self.shards.len() as u64
    }

    /// How many lookups found their entry, and how many did not.
    pub fn counts(&self) -> (u64, u64) {
        let counts = self.shards.iter().map(|shard| super::lock(shard).counts);
        counts.fold((0, 0), |(hits, misses), (hit, miss)| (hits + hit, misses + miss))
    }

    /// Bytes of live entries.
    pub fn used(&self) -> u64 {
        self.shards.iter().map(|shard| super::lock(shard).used()).sum()
    }

    fn shard(&self, hash: Hash) -> Option<MutexGuard<'_, Shard>> {
        self.shards.get(self.number(hash)).map(super::lock)
    }

    /// The stripe of the index uses the low bits of `place`; the shard takes the high ones.
    fn number(&self, hash: Hash) -> usize {
        ((u128::from(hash.place) * self.shards.len() as u128) >> 64) as usize
    }
}

impl Spot<'_> {
    /// Begins to bring the entry near, now that the table's row is there: its header and `len` bytes.
    pub fn approach(&mut self, len: usize) {
        if let Some(shard) = &mut self.shard
            && let Some(place) = shard.tables.find(self.tag)
        {
            shard.ring(place.main).prefetch(place.at, len);
        }
    }

    /// See [`Cache::insert`].
    pub fn insert(self, key: &[u8], value: &[u8], facts: Facts) {
        let Some(mut shard) = self.shard else { return };
        let header = Header::new(self.tag, key.len(), value.len(), facts);
        match shard.tables.find(self.tag) {
            Some(place) => shard.replace(place, header, key, value),
            None => shard.add(header, key, value),
        }
    }

    /// The record at `from` was copied to `to`, unchanged. The caller holds the key's stripe of the index.
    pub fn relocate(self, from: Location, to: Location) {
        let Some(mut shard) = self.shard else { return };
        if let Some(place) = shard.tables.find(self.tag) {
            shard.ring(place.main).relocate(place.at, from, to);
        }
    }
}

impl Shard {
    fn new((bytes, huge): (u64, bool)) -> std::io::Result<Shard> {
        let tables = (bytes / BYTES_PER_ROW).div_ceil(MOST_ROWS).next_power_of_two() as usize;
        let most_rows = (bytes / BYTES_PER_ROW / tables as u64).next_power_of_two() as usize;
        let ghosts = tables * most_rows / 2;
        let rings = bytes as usize - tables * most_rows * size_of::<u64>() - ghosts * size_of::<u32>();
        Ok(Shard {
            tables: Tables::new(tables, most_rows),
            small: Ring::new(rings / 10, huge)?,
            main: Ring::new(rings - rings / 10, huge)?,
            ghosts: vec![0; ghosts].into_boxed_slice(),
            counts: (0, 0),
        })
    }

    fn ring(&mut self, main: bool) -> &mut Ring {
        if main { &mut self.main } else { &mut self.small }
    }

    fn used(&self) -> u64 {
        (self.small.live() + self.main.live()) as u64
    }

    fn add(&mut self, header: Header, key: &[u8], value: &[u8]) {
        if header.len() > self.small.capacity() / LARGEST_PART {
            return;
        }
        // Room to spare in the main queue: whoever passes through the small one would end there anyway. (Asked first: where
        // the fingerprint is comes from memory.)
        let main = (self.main.has_room(header.len()) && !self.tables.is_full()) || self.is_ghost(header.tag);
        self.append(main, header, key, value);
    }

    /// In place where the new record needs the same room, which is the rule for counters and refreshed values.
    fn replace(&mut self, place: Place, header: Header, key: &[u8], value: &[u8]) {
        if self.ring(place.main).overwrite(place.at, &header, key, value) {
            return;
        }
        self.remove(header.tag);
        if header.len() <= self.small.capacity() / LARGEST_PART {
            self.append(place.main, header, key, value);
        }
    }

    fn remove(&mut self, tag: u64) {
        if let Some(place) = self.tables.remove(tag) {
            self.ring(place.main).kill(place.at);
        }
    }

    fn append(&mut self, main: bool, header: Header, key: &[u8], value: &[u8]) {
        self.make_room(main, header.len());
        while self.tables.is_full() {
            if !self.evict(main) {
                self.evict(!main);
            }
            // What goes round once more takes room from where it is in one piece.
            self.make_room(main, header.len());
        }
        let at = self.ring(main).push(&header, key, value);
        self.tables.insert(header.tag, Place { main, at });
    }

    fn make_room(&mut self, main: bool, len: usize) {
        while !self.ring(main).has_room(len) {
            self.evict(main);
        }
    }

    /// Takes the oldest entry off a queue. `false`: the queue was empty.
    fn evict(&mut self, main: bool) -> bool {
        let Some(at) = self.ring(main).oldest() else {
            return false;
        };
        let header = self.ring(main).header(at);
        if header.live {
            self.tables.remove(header.tag);
        }
        match (header.live, main, header.reads) {
            (false, ..) => self.ring(main).pop(),
            (true, false, _) if self.main.has_room(header.len()) && !self.tables.is_full() => self.promote(header),
            (true, false, 0..=1) => self.bury(header.tag),
            (true, false, _) => self.promote(header),
            (true, true, 0) => self.main.pop(),
            (true, true, _) => self.recycle(header),
        }
        true
    }

    /// Read again while in the small queue, or room to spare: on to the main one.
    fn promote(&mut self, header: Header) {
        self.make_room(true, header.len());
        let at = self.main.push_from(&self.small, header.reads.saturating_sub(1));
        self.small.pop();
        self.tables.insert(header.tag, Place { main: true, at });
    }

    /// Read since it last came round: once more through the main queue.
    fn recycle(&mut self, header: Header) {
        let at = self.main.rotate(header.reads - 1);
        self.tables.insert(header.tag, Place { main: true, at });
    }

    fn bury(&mut self, tag: u64) {
        self.small.pop();
        let (place, fingerprint) = self.ghost_of(tag);
        self.ghosts[place] = fingerprint;
    }

    fn is_ghost(&self, tag: u64) -> bool {
        let (place, fingerprint) = self.ghost_of(tag);
        self.ghosts[place] == fingerprint
    }

    fn ghost_of(&self, tag: u64) -> (usize, u32) {
        (tag as usize & (self.ghosts.len() - 1), (tag >> 32) as u32 | 1)
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
