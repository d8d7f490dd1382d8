//! The index as it was at one moment, for a snapshot: the lists of pages of all stripes. The index copies a page before
//! it changes one that a snapshot has too, so what is frozen costs memory only where the index has moved on.
//!
//! That memory is counted and bounded ([`Copies`]). At the bound a stripe that would have to copy takes its pages away
//! from all snapshots instead: they fail, and the writer goes on. Any thread; a stripe's lock comes before those here.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use super::error::{Error, Result};
use super::hash::Hash;
use super::index::Index;
use super::page::{Entry, Page, Pages};

/// What snapshots hold and the index has no more.
pub(crate) struct Copies {
    bytes: AtomicU64,
    most: AtomicU64,
    /// Those that exist or are about to.
    open: AtomicUsize,
    frozen: Mutex<Vec<Arc<Parts>>>,
}

/// What stripes and a snapshot have in common.
struct Parts {
    /// All stripes at the moment of the freeze; `None`: the stripe took its pages back.
    stripes: Box<[Part]>,
    /// Given up: the stripes take their pages back when they come across them.
    failed: AtomicBool,
}

type Part = Mutex<Option<Pages>>;

/// See the head of this file. Dropping it gives the memory back.
pub(crate) struct Frozen {
    parts: Arc<Parts>,
    /// Slots in all stripes.
    items: u64,
    copies: Arc<Copies>,
}

impl Copies {
    pub fn new() -> Copies {
        let (bytes, most) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Copies { bytes, most, open: AtomicUsize::new(0), frozen: Mutex::default() }
    }

    /// Sets the bound. Bytes.
    pub fn limit(&self, most: u64) {
        self.most.store(most, Relaxed);
    }

    /// A snapshot is about to be taken: what snapshots rely on stays from here on. Makes room for it.
    pub fn announce(&self) {
        self.open.fetch_add(1, Relaxed);
        let mut failed = super::lock(&self.frozen).clone();
        failed.retain(|parts| parts.failed.load(Relaxed));
        failed.iter().flat_map(|parts| &parts.stripes).for_each(|part| self.release(part));
    }

    /// As [`Copies::announce`] without a snapshot: for a backup, which relies on the same, until [`Copies::unhold`].
    pub fn hold(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// Undoes one [`Copies::hold`].
    pub fn unhold(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// How many snapshots there are, and backups that are being made.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Memory that only snapshots hold. Bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The stripe `number` is about to copy what snapshots have too. If that is too much, they lose the stripe.
    pub fn make_room(&self, number: usize) {
        let is_full = self.bytes() >= self.most.load(Relaxed);
        for parts in super::lock(&self.frozen).iter() {
            if is_full || parts.failed.load(Relaxed) {
                parts.failed.store(true, Relaxed);
                self.release(&parts.stripes[number]);
            }
        }
    }

    /// Counts what the index gave up and a snapshot still has. Bytes.
    pub fn charge(&self, bytes: usize) {
        if self.open() > 0 {
            self.bytes.fetch_add(bytes as u64, Relaxed);
        }
    }

    /// Drops a part, and no longer counts what nobody else has.
    fn release(&self, part: &Part) {
        let Some(pages) = super::lock(part).take().and_then(Arc::into_inner) else { return };
        let list = pages.capacity() * size_of::<Page>();
        let freed = list + pages.into_iter().filter_map(Page::into_memory).sum::<usize>();
        let _ = self.bytes.fetch_update(Relaxed, Relaxed, |bytes| Some(bytes.saturating_sub(freed as u64)));
    }

    fn leave(&self, parts: &Arc<Parts>) {
        parts.stripes.iter().for_each(|part| self.release(part));
        let mut frozen = super::lock(&self.frozen);
        frozen.retain(|other| !Arc::ptr_eq(other, parts));
        if frozen.is_empty() {
            // Two who drop their halves of a page at the same time each take the other for its last owner.
            self.bytes.store(0, Relaxed);
        }
        self.open.fetch_sub(1, Relaxed);
    }
}

impl Frozen {
    /// Takes the pages of all stripes; the caller has them locked, and has announced it.
    pub fn new(stripes: impl Iterator<Item = Pages>, items: u64, copies: &Arc<Copies>) -> Frozen {
        let stripes = stripes.map(|pages| Mutex::new(Some(pages))).collect();
        let parts = Arc::new(Parts { stripes, failed: AtomicBool::new(false) });
        super::lock(&copies.frozen).push(parts.clone());
        Frozen { parts, items, copies: copies.clone() }
    }

    /// How many keys the index had.
    pub fn len(&self) -> u64 {
        self.items
    }

    /// What the index said of a key.
    pub fn find(&self, hash: Hash) -> Result<Option<Entry>> {
        let part = super::lock(&self.parts.stripes[Index::stripe_of(hash)]);
        let pages = part.as_ref().filter(|_| !self.parts.failed.load(Relaxed)).ok_or_else(|| self.overrun())?;
        Ok(Page::find_in(pages, hash.tag))
    }

    /// Begins to bring near what [`Frozen::find`] will look at.
    pub fn prefetch(&self, hash: Hash) {
        if let Some(pages) = &*super::lock(&self.parts.stripes[Index::stripe_of(hash)]) {
            pages[Page::number(pages.len(), hash.tag)].prefetch(hash.tag);
        }
    }

    fn overrun(&self) -> Error {
        let mib = self.copies.most.load(Relaxed) >> 20;
        Error::other(format!(
            "the snapshot was given up: with the changes since it was taken, snapshots would need more than {mib} MiB \
             (option snapshot_bytes, --db.snapshot-memory); take another one"
        ))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.copies.leave(&self.parts);
    }
}
