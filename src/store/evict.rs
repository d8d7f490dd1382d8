//! Cache mode: when the disk is full, the oldest segment is given up, with what is live in it, rather than values
//! refused. What the RAM cache knows to be read again and again is appended anew first, and so are large values but the
//! oldest: however many a segment names, only a small part of the disk goes at a time. For the compactor.
//!
//! It is always the segment that comes first in the order of the log: nothing older exists that could come back, so
//! no tombstone is needed for what goes, and those in it are spent.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::core::Core;
use super::error::{Error, Result};
use super::hash::Hash;
use super::index::{Entry, Stripe, size_class};
use super::location::Location;
use super::pace::Pace;
use super::piece;
use super::reader::Reader;
use super::record::{Fields, Kind};
use super::round::{Outcome, Round};
use super::segment::{SEGMENT_HEADER, Segment};

/// Of what is given up, at most one byte in so many is appended anew: room must come of it.
const KEPT: u64 = 4;
/// Of the large values that it names, no more go than one in so many bytes of the disk.
const PARTS: u64 = 32;
/// Bytes appended before they are written.
const PIECE: u64 = 1 << 20;

/// How the eviction of one segment goes.
struct Eviction<'a> {
    core: &'a Core,
    segment: Arc<Segment>,
    /// Bytes that may still be appended anew since they are read: of records, and of the large values that others name.
    most: u64,
    most_large: u64,
    /// Large values that were written after this sequence stay, and so do the others once so many bytes of them went.
    last: u64,
    enough: u64,
    unwritten: u64,
    /// No other segment can be made: all goes that finds no room in this one.
    stuck: bool,
    now: u64,
}

impl Core {
    /// Gives up the oldest segment of the log. `None`: there is none but the one that is written to. The caller holds
    /// `compaction.rounds`.
    ///
    /// # Errors
    /// [`super::Error::ReadOnly`], [`super::Error::Full`] if not even a note can be appended, what the disk said.
    pub fn evict(&self) -> Result<Option<Outcome>> {
        self.sync_all()?;
        let Some(oldest) = self.log.segments.all().into_iter().next() else { return Ok(None) };
        if !self.is_sealed(&oldest) {
            return Ok(None);
        }
        if !self.log.has_room_for_notes() {
            return Err(Error::Full("there is no room in the log for the note that its oldest segment goes".into()));
        }
        let live = self.log.segments.usage(oldest.handle).figures().live();
        let (most, enough, now) = (live / KEPT, self.space.capacity() / PARTS, self.time.now());
        let segment = oldest.clone();
        let mut eviction =
            Eviction { core: self, segment, most, most_large: 0, last: 0, enough, unwritten: 0, stuck: false, now };
        eviction.choose(live)?;
        eviction.each(&mut Eviction::spare)?;
        self.log.write_all();
        let mut pace = Pace::start(self, None);
        let outcome = Round::new(self, vec![oldest], &mut pace, &|_| ()).give_up(&mut || eviction.forget())?;
        self.counters.evicted_segments.fetch_add(1, Relaxed);
        Ok(Some(outcome))
    }
}

impl Eviction<'_> {
    /// Shows all of the segment's values, and where they are, as far as they are sound: what is damaged, or cannot be read, is
    /// given up all the same.
    fn each(&mut self, visit: &mut dyn FnMut(&mut Self, &Fields<'_>, Location)) -> Result<()> {
        self.core.index.settle();
        let segment = self.segment.clone();
        let (mut reader, mut offset) = (Reader::new(&segment), SEGMENT_HEADER);
        while matches!(reader.next_sound(offset), Ok(Some(found)) if found == offset) {
            let (fields, len) = reader.record(offset)?;
            match fields.kind {
                Kind::Value | Kind::Large => visit(self, &fields, Location::new(segment.handle, offset)),
                Kind::Seal => break,
                Kind::Tombstone | Kind::FlushPending | Kind::FlushFired | Kind::Checkpoint => {}
            }
            offset += len as u64;
        }
        Ok(())
    }

    /// Up to which sequence large values may go: the oldest, enough of them also where as many as may stay are read.
    fn choose(&mut self, live: u64) -> Result<()> {
        let mut values = Vec::new();
        if self.core.extents.any() {
            self.each(&mut |eviction, fields, here| match piece::named(fields) {
                0 => {}
                len => values.extend(eviction.is_live(fields, here).then_some((fields.sequence, len))),
            })?;
        }
        let until = |last| values.iter().filter(|(sequence, _)| *sequence <= last).map(|(_, len)| len).sum::<u64>();
        self.most_large = (live + until(u64::MAX)) / KEPT;
        let (wanted, mut high) = (self.enough.saturating_add(self.most_large), u64::MAX);
        while self.last < high {
            let middle = self.last + (high - self.last) / 2;
            match until(middle) < wanted {
                true => self.last = middle + 1,
                false => high = middle,
            }
        }
        Ok(())
    }

    fn is_live(&self, fields: &Fields<'_>, here: Location) -> bool {
        let hash = self.core.home.seed.hash(fields.key);
        let entry = self.core.index.stripe(hash).find(hash.tag);
        entry.is_some_and(|entry| entry.location == here) && !self.is_gone(fields, here)
    }

    /// Appends a value anew that does not go.
    fn spare(&mut self, fields: &Fields<'_>, here: Location) {
        let (core, hash) = (self.core, self.core.home.seed.hash(fields.key));
        if !self.stuck && core.log.wants_spare() {
            self.stuck = core.prepare_spare().is_err();
        }
        // What is appended anew must not get behind a flush that it was subject to.
        let _no_flush = core.flushes.hold();
        let mut stripe = core.index.stripe(hash);
        let Some(entry) = stripe.find(hash.tag).filter(|entry| entry.location == here) else { return };
        if !self.is_gone(fields, here)
            && let Some(sequence) = self.stays(hash, fields)
            && self.append(&mut stripe, hash, &Fields { sequence, ..*fields }, &entry)
        {
            core.note_dead(&entry);
        }
        drop(stripe);
        if self.unwritten >= PIECE {
            self.unwritten = 0;
            core.log.write_all();
        }
    }

    /// With which sequence a value stays, if it does: what is read again and again, and large ones once enough have gone.
    fn stays(&mut self, hash: Hash, fields: &Fields<'_>) -> Option<u64> {
        let large = piece::named(fields);
        if large > 0 && (fields.sequence > self.last || self.enough == 0) {
            return Some(fields.sequence);
        }
        let (takes, most) = match large {
            0 => (fields.encoded_len() as u64, &mut self.most),
            large => (large, &mut self.most_large),
        };
        if takes > *most || !self.core.cache.cool(hash, fields.key) {
            self.enough = self.enough.saturating_sub(large);
            return None;
        }
        *most -= takes;
        self.core.counters.spared.fetch_add(1, Relaxed);
        // Else it would be the oldest one for ever.
        Some(if large > 0 { self.core.next_sequence() } else { fields.sequence })
    }

    fn is_gone(&self, fields: &Fields<'_>, here: Location) -> bool {
        self.core.is_flushed(here) || (fields.expires != 0 && fields.expires <= self.now)
    }

    /// Takes all that is left of the segment's records off the index. Afterwards nothing names it.
    fn forget(&mut self) -> Result<()> {
        self.each(&mut Eviction::drop_value)?;
        self.drop_the_rest()
    }

    fn drop_value(&mut self, fields: &Fields<'_>, here: Location) {
        let (core, hash) = (self.core, self.core.home.seed.hash(fields.key));
        let mut stripe = core.index.stripe(hash);
        let Some(entry) = stripe.find(hash.tag).filter(|entry| entry.location == here) else { return };
        let gone = self.is_gone(fields, here);
        stripe.remove(hash.tag);
        core.cache.remove(hash);
        core.counters.evicted.fetch_add(u64::from(!gone), Relaxed);
        if let Some(tell) = core.evicted.get().filter(|_| !gone) {
            tell(fields.key, fields.body.len() as u64);
        }
        core.note_dead(&entry);
    }

    /// Appends a record anew. `false`: there is no room for it.
    fn append(&mut self, stripe: &mut Stripe, hash: Hash, fields: &Fields<'_>, entry: &Entry) -> bool {
        let known = if fields.kind == Kind::Large { piece::encode_known(fields.body) } else { None };
        let fields = Fields { body: known.as_deref().unwrap_or(fields.body), ..*fields };
        let (core, len) = (self.core, fields.encoded_len() as u64);
        let Ok((to, _)) = core.log.append(&fields) else { return false };
        self.unwritten += len;
        // It may be longer than it was: a large value's ranges are told in another way.
        let size_class = size_class(len as usize);
        stripe.relocate(hash.tag, Entry { location: to, size_class, ..*entry });
        core.cache.spot(hash).relocate(entry.location, to);
        core.log.segments.usage(to.handle()).note_value(size_class, fields.expires);
        true
    }

    /// What stands behind damage, or is pointed at it.
    fn drop_the_rest(&self) -> Result<()> {
        let (core, handle) = (self.core, self.segment.handle);
        if core.log.segments.usage(handle).figures().live() > 0 {
            core.index.retain(|entry| {
                let goes = entry.location.handle() == handle;
                if goes {
                    core.note_dead(entry);
                }
                !goes
            });
            // Whose entries these were is not known: the cache may have some.
            core.cache
                .clear()
                .map_err(|error| Error::other(format!("cannot get memory for the record cache: {error}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "evict_tests.rs"]
mod tests;
