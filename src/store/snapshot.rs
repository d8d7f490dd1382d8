//! Snapshots: the store as it was at one moment, readable while writes and compaction go on. A snapshot has the index
//! of that moment ([`Frozen`]) and the segments that the index names, which it keeps open: unlinked ones stay
//! readable. Any thread; taking one and reading from it may sleep.

use std::sync::Arc;

use super::core::Core;
use super::db::Db;
use super::error::{Error, Result};
use super::frozen::Frozen;
use super::index::{Entry, size_bound};
use super::item::{Item, Reader};
use super::iter::Iter;
use super::location::{Location, Position};
use super::lookup::read_fully;
use super::record::Fields;
use super::segment::Segment;
use super::segments::Rows;

/// What can be read from: the store as it is ([`Db`]), or as it was ([`Snapshot`]).
pub trait View {
    /// The record of `key`, if there is one.
    ///
    /// # Errors
    /// [`Error::Damaged`] if its bytes on the disk are not what was written; [`Error::Other`] if the disk cannot be
    /// read, or a snapshot was given up.
    fn find(&self, key: &[u8]) -> Result<Option<Item>>;

    /// All records, in the order of the log: an own snapshot of a [`Db`].
    ///
    /// # Errors
    /// As [`Db::snapshot`].
    fn iter(&self) -> Result<Iter>;

    /// The value of `key`, all of it.
    ///
    /// # Errors
    /// As [`View::find`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.find(key)?.map(|item| item.value.into_bytes()).transpose()
    }

    /// The value of `key`, to be read by parts.
    ///
    /// # Errors
    /// As [`View::find`].
    fn reader(&self, key: &[u8]) -> Result<Option<Reader>> {
        Ok(self.find(key)?.map(|item| item.value.into_reader()))
    }
}

/// The store as it was at one moment: see [`Db::snapshot`]. A cheap handle that can be cloned. While one exists, the
/// store's directory stays locked, and no disk space of large values is given back.
#[derive(Clone)]
pub struct Snapshot(Arc<Inner>);

pub(crate) struct Inner {
    pub core: Arc<Core>,
    pub index: Frozen,
    pub segments: Arc<Rows>,
    /// Where the log ended.
    pub end: Position,
    /// Records before this were flushed.
    fired: Position,
    /// Store time.
    now: u64,
}

impl Db {
    /// Takes a snapshot: all that was acknowledged before the call, none of what is written after it, and of what
    /// is written meanwhile a part that could have been all: never a later write without the earlier ones. That takes
    /// a fraction of a millisecond, during which writers wait, and memory only for what changes afterwards: at most
    /// [`super::Options::snapshot_bytes`]; beyond that reading from snapshots is an error.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] if the store has failed before what is in the snapshot was written.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let core = &self.core;
        core.tick(core.time.now())?;
        let no_flush = core.flushes.hold();
        let (index, (end, segments)) = core.index.freeze(|| (core.log.end(), core.log.segments.rows()));
        let (fired, now) = (core.flushes.fired(), core.time.now());
        drop(no_flush);
        core.wait_for(end)?;
        Ok(Snapshot(Arc::new(Inner { core: core.clone(), index, segments, end, fired, now })))
    }
}

impl View for Db {
    fn find(&self, key: &[u8]) -> Result<Option<Item>> {
        self.visit(key, |record| Item::of_record(key, &record))
    }

    fn iter(&self) -> Result<Iter> {
        self.snapshot()?.iter()
    }
}

impl View for Snapshot {
    fn find(&self, key: &[u8]) -> Result<Option<Item>> {
        self.0.find(key)
    }

    fn iter(&self) -> Result<Iter> {
        Ok(Iter::new(self.0.clone()))
    }
}

impl Snapshot {
    /// How many keys there are, those that had expired unseen included.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> u64 {
        self.0.index.len()
    }

    /// Store time of the snapshot, in seconds: what had expired by then is not in it.
    pub fn time(&self) -> u64 {
        self.0.now
    }
}

impl Inner {
    fn find(&self, key: &[u8]) -> Result<Option<Item>> {
        let Some(entry) = self.index.find(self.core.home.seed.hash(key))? else { return Ok(None) };
        let (segment, offset) = (self.segment(entry.location)?, entry.location.offset());
        let bytes = read(segment, &entry)?;
        let (fields, _) = Fields::decode(&bytes, segment.salt).map_err(|defect| {
            Error::damaged(&segment.path, offset, &format!("no sound record is there ({defect:?})"))
        })?;
        if fields.key != key || self.is_gone(&fields, segment, offset) {
            return Ok(None);
        }
        Item::decode(&fields, segment, offset, &self.core.extents).map(Some)
    }

    fn segment(&self, location: Location) -> Result<&Arc<Segment>> {
        let row = self.segments.get(location.handle() as usize).and_then(Option::as_ref);
        row.ok_or_else(|| Error::other("a segment that the index names is missing"))
    }

    /// Whether the record had expired, or was flushed.
    pub fn is_gone(&self, fields: &Fields<'_>, segment: &Segment, offset: u64) -> bool {
        (fields.expires != 0 && fields.expires <= self.now) || segment.position(offset) < self.fired
    }
}

fn read(segment: &Segment, entry: &Entry) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size_bound(entry.size_class)];
    let count = read_fully(segment, &mut bytes, entry.location.offset())?;
    bytes.truncate(count);
    Ok(bytes)
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
