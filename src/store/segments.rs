//! The table of segments: which exist, by handle, and how much of each is still of use. Handles and file numbers are
//! given out here. Looked at by every cold lookup; changed by the syncer and the compactor.

use std::sync::{Arc, RwLock};

use super::error::{Error, Result};
use super::index::Entry;
use super::location::{Location, MAX_HANDLES, Position};
use super::segment::Segment;
use super::usage::{Usage, Usages};

/// A cache gives up segments so that one in so many of those that there can be is left: more are made while some go.
const LEFT: usize = 32;

/// The segments that exist, by handle.
pub(crate) struct Segments {
    table: RwLock<Table>,
    usages: Usages,
    /// As if there could not be more.
    #[cfg(test)]
    pub few: std::sync::atomic::AtomicUsize,
}

struct Table {
    rows: Arc<Rows>,
    /// Where the search for a free handle begins. A handle is given out again only after all others were, so that
    /// nobody who still remembers a location takes what has its handle by then for what he remembers.
    next_handle: usize,
    /// Greater than any number of a segment that exists or ever existed in this life of the store: of two compacted
    /// segments of the same order the one with the greater number counts.
    next_number: u32,
}

/// Segments by handle. Whoever keeps a copy keeps them readable, also those that are unlinked meanwhile.
pub(crate) type Rows = Vec<Option<Arc<Segment>>>;

impl Segments {
    /// An empty table; the first segment made will have the number `next_number`.
    pub fn new(next_number: u32) -> Segments {
        let table = Table { rows: Arc::default(), next_handle: 0, next_number };
        Segments {
            table: RwLock::new(table),
            usages: Usages::default(),
            #[cfg(test)]
            few: MAX_HANDLES.into(),
        }
    }

    /// How many there can be.
    fn most(&self) -> usize {
        #[cfg(test)]
        return self.few.load(std::sync::atomic::Ordering::Relaxed);
        #[cfg(not(test))]
        MAX_HANDLES
    }

    /// Whether there can hardly be any more.
    pub fn are_many(&self) -> bool {
        let most = self.most();
        self.len() > (most - most / LEFT) as u64
    }

    /// A handle and a number for a segment to be made. They are not given out twice, be it made or not.
    pub fn reserve(&self) -> Result<(u32, u32)> {
        let (most, mut table) = (self.most(), super::write(&self.table));
        let is_free = |handle: &usize| table.rows.get(*handle).is_none_or(Option::is_none);
        let free = (table.next_handle..most).chain(0..table.next_handle).find(is_free);
        let full = || Error::Full(format!("the store has {most} segments, its limit").into());
        let handle = free.ok_or_else(full)?;
        let number = table.next_number;
        table.next_number = number.checked_add(1).ok_or_else(|| Error::other("the numbers of segments are used up"))?;
        table.next_handle = (handle + 1) % most;
        self.usages.row(handle as u32).clear();
        Ok((handle as u32, number))
    }

    pub fn add(&self, segment: &Arc<Segment>) {
        let mut table = super::write(&self.table);
        let handle = segment.handle as usize;
        let rows = Arc::make_mut(&mut table.rows);
        if rows.len() <= handle {
            rows.resize(handle + 1, None);
        }
        assert!(rows[handle].is_none(), "a handle names one segment");
        rows[handle] = Some(segment.clone());
        if table.next_handle <= handle {
            table.next_handle = (handle + 1) % MAX_HANDLES;
        }
    }

    /// Takes a segment out. The index must name nothing in it any more. Whoever holds it can go on reading.
    pub fn remove(&self, segment: &Segment) {
        let removed = Arc::make_mut(&mut super::write(&self.table).rows)[segment.handle as usize].take();
        assert!(removed.is_some_and(|removed| removed.number == segment.number), "a segment is removed once");
    }

    /// All rows as they are now.
    pub fn rows(&self) -> Arc<Rows> {
        super::read(&self.table).rows.clone()
    }

    /// The segment a location points into.
    pub fn get(&self, location: Location) -> Option<Arc<Segment>> {
        super::read(&self.table).rows.get(location.handle() as usize)?.clone()
    }

    /// Where a location stands in the order of the log. A segment that is gone stands before everything.
    pub fn position(&self, location: Location) -> Position {
        let table = super::read(&self.table);
        let segment = table.rows.get(location.handle() as usize).and_then(Option::as_ref);
        segment.map_or(Position(0), |segment| segment.position(location.offset()))
    }

    /// All of them, in the order of replay.
    pub fn all(&self) -> Vec<Arc<Segment>> {
        let mut all: Vec<_> = super::read(&self.table).rows.iter().flatten().cloned().collect();
        in_order(&mut all);
        all
    }

    /// The greatest number that was given out.
    pub fn last_number(&self) -> u32 {
        super::read(&self.table).next_number.saturating_sub(1)
    }

    pub fn len(&self) -> u64 {
        super::read(&self.table).rows.iter().flatten().count() as u64
    }

    /// How much of a segment is of use.
    pub fn usage(&self, handle: u32) -> &Usage {
        self.usages.row(handle)
    }

    /// The index names this record no more.
    pub fn note_dead(&self, entry: &Entry) {
        self.usages.row(entry.location.handle()).note_dead(entry.size_class);
    }

    /// Counts what is dead from what the index names: once, when the store is opened.
    pub fn recount(&self, each: impl FnOnce(&mut dyn FnMut(&Entry))) {
        let mut live = vec![0; super::read(&self.table).rows.len()];
        each(&mut |entry| live[entry.location.handle() as usize] += super::index::size_bound(entry.size_class) as u64);
        live.iter().enumerate().for_each(|(handle, &live)| self.usages.row(handle as u32).set_live(live));
    }
}

/// Puts segments into the order of replay.
pub(crate) fn in_order(segments: &mut [Arc<Segment>]) {
    segments.sort_unstable_by_key(|segment| segment.place());
}
