//! Changing a key: look at its slot, append to the log, point the slot at the new record, all under the stripe's
//! lock, so that the order of the log and the state of the index agree for every key. No system call is made here;
//! the log is written out later.

use super::cache::Facts;
use super::core::Core;
use super::error::{Error, Result};
use super::graves::tombstone;
use super::hash::Hash;
use super::index::{Entry, Stripe, size_class};
use super::large::Large;
use super::location::Position;
use super::lookup::{Key, Scratch, Seen, second};
use super::record::{Fields, Kind};
use super::upload::{Uploaded, compress};
use super::{CHUNK, MAX_KEY};

/// Values shorter than this are not worth compressing. Bytes.
const COMPRESS_FROM: usize = 512;

/// A new value for a key.
pub struct Write<'a> {
    /// The key.
    pub key: Key<'a>,
    /// The client's opaque flags.
    pub flags: u32,
    /// Store time in seconds from which the record is gone; 0: never.
    pub expires: u64,
    /// The record's marks, see [`super::Record`].
    pub marks: u8,
    /// `None`: a fresh CAS unique. `Some`: this one (touch keeps what there was).
    pub cas: Option<u64>,
    /// The value.
    pub body: NewBody<'a>,
    /// On what condition.
    pub expect: Expect,
}

/// Where the value comes from.
#[derive(Clone, Copy)]
pub enum NewBody<'a> {
    /// At most [`CHUNK`] bytes.
    Inline(&'a [u8]),
    /// A finished upload: the store's own once the write is done.
    Uploaded(&'a Uploaded),
    /// The extent that the key's present record names (touch, gat).
    Same(&'a Large),
}

/// The condition of a write.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// None: whatever was there.
    Anything,
    /// What a lookup saw is still so.
    Unchanged(Seen),
}

/// What became of a write.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// Done, with this CAS unique. The reply may leave once the mark has reached `depends`.
    Done {
        /// The record's CAS unique.
        cas: u64,
        /// What the reply waits for.
        depends: Position,
    },
    /// Something has changed since the lookup: do the command over.
    Conflict,
}

/// What became of a removal.
#[derive(Clone, Copy, Debug)]
pub enum Removed {
    /// Done. The reply may leave once the mark has reached `depends`.
    Done {
        /// What the reply waits for.
        depends: Position,
    },
    /// There was nothing to remove.
    Absent {
        /// What the reply waits for.
        depends: Position,
    },
    /// It may have expired, which only reading tells: look it up, then remove it on the condition of what was seen.
    Unsure,
    /// Something has changed since the lookup: do the command over.
    Conflict,
}

impl Core {
    /// See [`super::Db::write`].
    pub fn write(&self, write: &Write<'_>, scratch: &mut Scratch) -> Result<Outcome> {
        let Scratch { packed, encoder, .. } = scratch;
        let same;
        let (kind, value) = match write.body {
            NewBody::Inline(value) => (Kind::Value, value),
            NewBody::Uploaded(uploaded) => (uploaded.kind, &uploaded.body[..]),
            NewBody::Same(large) => {
                same = large.body();
                (Kind::Large, &same[..])
            }
        };
        self.index.approach(write.key.hash);
        self.cache.approach(write.key.hash);
        check_sizes(&write.key, value)?;
        // What was uploaded has its room already.
        if !matches!(write.body, NewBody::Uploaded(_)) {
            self.space.admit()?;
        }
        let worth_it = self.options.compression && kind == Kind::Value && value.len() >= COMPRESS_FROM;
        let packed = if worth_it { compress(encoder, value, packed) } else { None };
        let mut fields = Fields {
            kind,
            compressed: packed.is_some(),
            marks: write.marks,
            key: write.key.bytes,
            body: packed.unwrap_or(value),
            client_flags: write.flags,
            sequence: 0,
            cas: 0,
            expires: write.expires,
        };
        let Some(end) = self.place(write, &mut fields, value)? else { return Ok(Outcome::Conflict) };
        if let NewBody::Uploaded(uploaded) = write.body {
            uploaded.keep();
        }
        self.throttle.draw(write.key.bytes.len() + write.body.inline_len());
        Ok(Outcome::Done { cas: fields.cas, depends: end })
    }

    /// The part under the stripe's lock. `None`: the condition does not hold.
    fn place(&self, write: &Write<'_>, fields: &mut Fields<'_>, value: &[u8]) -> Result<Option<Position>> {
        let hash = write.key.hash;
        let mut stripe = self.index.stripe(hash);
        stripe.prefetch(hash.tag);
        if let Expect::Unchanged(seen) = write.expect
            && !self.is_unchanged(&mut stripe, hash, seen)
        {
            return Ok(None);
        }
        // What the index and the cache will touch comes from memory while the record is framed and appended.
        let mut spot = self.cache.spot(hash);
        fields.sequence = self.next_sequence();
        fields.cas = write.cas.unwrap_or(fields.sequence);
        spot.approach(write.key.bytes.len() + value.len());
        let (location, end) = self.log.append(fields)?;
        let (expires, large) = (write.expires != 0, fields.kind == Kind::Large);
        let entry = Entry { location, size_class: size_class(fields.encoded_len()), expires, large };
        self.log.segments.usage(location.handle()).note_value(entry.size_class, write.expires);
        if let Some(old) = stripe.insert(hash.tag, entry) {
            self.note_dead(&old);
        }
        let Write { flags: client_flags, expires, marks, .. } = *write;
        let accessed = second(self.time.last_seen());
        let facts = Facts { location, client_flags, cas: fields.cas, expires, large, marks, accessed };
        spot.insert(write.key.bytes, value, facts);
        Ok(Some(end))
    }

    /// Whether the slot names what a lookup saw. What was flushed since is taken off it, or it would be written anew
    /// behind the flush.
    fn is_unchanged(&self, stripe: &mut Stripe, hash: Hash, seen: Seen) -> bool {
        let entry = stripe.find(hash.tag);
        if let Some(gone) = entry.filter(|entry| self.is_flushed(entry.location)) {
            stripe.remove(hash.tag);
            self.cache.remove(hash);
            self.note_dead(&gone);
            return false;
        }
        entry.map(|entry| entry.location) == seen.location
    }

    /// See [`super::Db::remove`].
    pub fn remove(&self, key: &Key<'_>, expect: Expect) -> Result<Removed> {
        if let Some(why) = self.log.progress.failure() {
            return Err(Error::ReadOnly(why));
        }
        let mut stripe = self.index.stripe(key.hash);
        let depends = stripe.last_removal.max(self.flushes.fired());
        let Some(entry) = stripe.find(key.hash.tag) else {
            return Ok(Removed::Absent { depends });
        };
        match expect {
            Expect::Anything if self.is_flushed(entry.location) => {
                stripe.remove(key.hash.tag);
                self.cache.remove(key.hash);
                self.note_dead(&entry);
                return Ok(Removed::Absent { depends });
            }
            Expect::Anything if entry.expires => return Ok(Removed::Unsure),
            Expect::Unchanged(seen) if seen.location != Some(entry.location) => {
                return Ok(Removed::Conflict);
            }
            Expect::Anything | Expect::Unchanged(_) => {}
        }
        let end = self.append_tombstone(key)?;
        stripe.remove(key.hash.tag);
        self.note_dead(&entry);
        stripe.last_removal = end;
        self.cache.remove(key.hash);
        self.throttle.draw(key.bytes.len());
        Ok(Removed::Done { depends: end })
    }

    /// The caller holds the key's stripe. Tells where the record ends.
    fn append_tombstone(&self, key: &Key<'_>) -> Result<Position> {
        let tombstone = tombstone(key.bytes, self.next_sequence());
        let (location, end) = self.log.append(&tombstone)?;
        self.log.segments.usage(location.handle()).note_grave(tombstone.encoded_len());
        Ok(end)
    }
}

impl NewBody<'_> {
    /// Bytes that come in with the write itself. (An upload's were counted chunk by chunk.)
    fn inline_len(&self) -> usize {
        match self {
            NewBody::Inline(value) => value.len(),
            NewBody::Uploaded(_) | NewBody::Same(_) => 0,
        }
    }
}

fn check_sizes(key: &Key<'_>, value: &[u8]) -> Result<()> {
    if key.bytes.len() > MAX_KEY {
        return Err(Error::Invalid(format!("a key has at most {MAX_KEY} bytes, not {}", key.bytes.len()).into()));
    }
    assert!(value.len() <= CHUNK, "longer values go by way of an upload");
    Ok(())
}
