//! How much of each segment is still of use, so that the compactor knows what to look at. Kept without locks by
//! whoever changes the index, in units of size classes: a record counts the same when it comes and when it goes, so
//! nothing drifts.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::index::size_bound;
use super::location::MAX_HANDLES;

/// Rows made at a time, when the first of them is needed.
const ROWS: usize = 256;

/// One row for each handle there can be.
pub(crate) struct Usages {
    chunks: Box<[OnceLock<Box<[Usage]>>]>,
}

/// One segment's figures.
#[derive(Default, Debug)]
pub(crate) struct Usage {
    total: AtomicU64,
    dead: AtomicU64,
    graves: AtomicU64,
    expiring: AtomicU64,
    latest_expiry: AtomicU64,
    has_flush: AtomicBool,
}

/// A row as plain numbers, as the index checkpoint keeps it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Figures {
    /// Records with a value, by the bounds of their size classes. Bytes.
    pub total: u64,
    /// Those of them that the index does not name. Bytes.
    pub dead: u64,
    /// Tombstones. Bytes.
    pub graves: u64,
    /// Records with an expiry, named or not. Bytes, as `total`.
    pub expiring: u64,
    /// The latest expiry of any. Store time in seconds.
    pub latest_expiry: u64,
    /// It holds a *fired* record of `flush_all`.
    pub has_flush: bool,
}

impl Default for Usages {
    fn default() -> Usages {
        Usages { chunks: (0..MAX_HANDLES / ROWS).map(|_| OnceLock::new()).collect() }
    }
}

impl Usages {
    pub fn row(&self, handle: u32) -> &Usage {
        let (chunk, row) = (handle as usize / ROWS, handle as usize % ROWS);
        &self.chunks[chunk].get_or_init(|| (0..ROWS).map(|_| Usage::default()).collect())[row]
    }
}

impl Usage {
    /// A record with a value was appended, and the index names it.
    pub fn note_value(&self, size_class: u8, expires: u64) {
        let bytes = size_bound(size_class) as u64;
        self.total.fetch_add(bytes, Relaxed);
        if expires != 0 {
            self.expiring.fetch_add(bytes, Relaxed);
            self.latest_expiry.fetch_max(expires, Relaxed);
        }
    }

    /// The index names such a record no more.
    pub fn note_dead(&self, size_class: u8) {
        self.dead.fetch_add(size_bound(size_class) as u64, Relaxed);
    }

    /// A tombstone of `len` bytes was appended.
    pub fn note_grave(&self, len: usize) {
        self.graves.fetch_add(len as u64, Relaxed);
    }

    /// A *fired* record of `flush_all` was appended.
    pub fn note_flush(&self) {
        self.has_flush.store(true, Relaxed);
    }

    /// The index names `live` bytes of it, whatever was counted before. From here on this is exact: a segment counts as
    /// dead when the index names nothing in it, and not before.
    pub fn set_live(&self, live: u64) {
        let total = self.total.load(Relaxed).max(live);
        self.total.store(total, Relaxed);
        self.dead.store(total - live, Relaxed);
    }

    pub fn clear(&self) {
        self.set(&Figures::default());
    }

    pub fn figures(&self) -> Figures {
        Figures {
            total: self.total.load(Relaxed),
            dead: self.dead.load(Relaxed),
            graves: self.graves.load(Relaxed),
            expiring: self.expiring.load(Relaxed),
            latest_expiry: self.latest_expiry.load(Relaxed),
            has_flush: self.has_flush.load(Relaxed),
        }
    }

    pub fn set(&self, figures: &Figures) {
        self.total.store(figures.total, Relaxed);
        self.dead.store(figures.dead, Relaxed);
        self.graves.store(figures.graves, Relaxed);
        self.expiring.store(figures.expiring, Relaxed);
        self.latest_expiry.store(figures.latest_expiry, Relaxed);
        self.has_flush.store(figures.has_flush, Relaxed);
    }
}

impl Figures {
    /// What the index names. Bytes, by size classes.
    pub fn live(&self) -> u64 {
        self.total.saturating_sub(self.dead)
    }

    /// Whether nothing in it is of use to anybody, nor hides what older segments may have.
    pub fn is_dead(&self) -> bool {
        self.live() == 0 && self.graves == 0 && self.expiring == 0 && !self.has_flush
    }
}
