//! The index: from a key's hash to where its newest record lies, for every key, in RAM, in about 16 bytes each.
//!
//! 1,024 stripes, each with a lock of its own that is held for nanoseconds. A stripe is a linear hash table (W.
//! Litwin, 1980) whose buckets are *pages*: arrays of 14-byte slots, sorted by tag and no larger than they need be,
//! so that there are neither empty slots nor overflow chains. A page is found by the tag's low bits and a slot in
//! it by interpolation on the high ones. When a stripe grows, one page of at most 4 KiB is split: no insertion ever
//! pauses for the table.
//!
//! The slot keeps 64 bits of tag and the stripe is chosen by 10 bits more: these 74 bits survive all growth. Keys
//! that agree in all of them are taken for one another by a blind `set` (the older one is lost; `kingdb.7` states
//! the odds); a `get` compares the whole key and so can never return another key's value.
//!
//! Any thread. Callers hold a stripe's lock over "look, append to the log, insert", which makes log order and index
//! order agree.

use std::sync::{Arc, Mutex, MutexGuard};

use super::frozen::{Copies, Frozen};
use super::hash::Hash;
use super::location::Position;
pub(crate) use super::page::{Entry, size_bound, size_class};
use super::page::{List, Page, Pages};
use crate::sys::prefetch::prefetch_to_write;

pub(crate) const STRIPES: usize = 1024;
/// Slots per page, on average, at which a stripe splits its next page. A page that waits for its split holds up to
/// twice as many as one that has just had it: with this figure 280, and less than 4 KiB with the spread of chance.
const SPLIT_AT: usize = 140;

/// All stripes.
pub(crate) struct Index {
    stripes: Box<[Padded]>,
    pub copies: Arc<Copies>,
}

/// A stripe's lock on a cache line of its own, so that workers do not slow each other down.
#[repr(align(64))]
struct Padded(Mutex<Stripe>);

/// The keys whose hashes share ten bits.
pub(crate) struct Stripe {
    pages: List,
    /// Which stripe it is.
    number: usize,
    copies: Arc<Copies>,
    items: usize,
    /// Bytes of the records, to within their size classes.
    bytes: u64,
    /// Insertions ever.
    inserted: u64,
    /// End of the last tombstone that was appended for one of these keys. A reply that says "no such key" must not
    /// leave before the log is written up to here, or a crash could bring back what was reported gone.
    pub last_removal: Position,
}

/// What a stripe held at some moment.
pub(crate) struct Contents {
    pub pages: Pages,
    /// Of the records, to within their size classes.
    pub bytes: u64,
}

impl Index {
    pub fn new() -> Index {
        let copies = Arc::new(Copies::new());
        let stripe = |number| Stripe {
            number,
            copies: copies.clone(),
            pages: List::Own(vec![Page::from_slots(&[])]),
            items: 0,
            bytes: 0,
            inserted: 0,
            last_removal: Position(0),
        };
        let stripes = (0..STRIPES).map(|number| Padded(Mutex::new(stripe(number)))).collect();
        Index { stripes, copies }
    }

    /// Locks the stripe that the hash belongs to. Hold it briefly and enter no system call with it.
    pub fn stripe(&self, hash: Hash) -> MutexGuard<'_, Stripe> {
        self.stripe_at(Index::stripe_of(hash))
    }

    /// The number of the stripe that the hash belongs to.
    pub fn stripe_of(hash: Hash) -> usize {
        hash.place as usize % STRIPES
    }

    /// Locks the stripe of this number. As [`Index::stripe`].
    pub fn stripe_at(&self, number: usize) -> MutexGuard<'_, Stripe> {
        super::lock(&self.stripes[number].0)
    }

    /// Begins to bring the stripe near that the hash belongs to: another processor may have had it last.
    pub fn approach(&self, hash: Hash) {
        prefetch_to_write(&self.stripes[Index::stripe_of(hash)]);
    }

    /// Begins to bring the slot near that the stripe will look for.
    pub fn prefetch(&self, hash: Hash) {
        let stripe = self.stripe(hash);
        stripe.pages[Page::number(stripe.pages.len(), hash.tag)].prefetch(hash.tag);
    }

    /// Takes the index as it is at one moment, at which no writer is inside a stripe. `meanwhile` runs then; it takes no
    /// stripe's lock.
    pub fn freeze<R>(&self, meanwhile: impl FnOnce() -> R) -> (Frozen, R) {
        self.copies.announce();
        // What sharing takes memory for is done one by one, before all have to wait.
        self.stripes.iter().for_each(|stripe| drop(super::lock(&stripe.0).pages.share()));
        let mut stripes = self.lock_all();
        let items = stripes.iter().map(|stripe| stripe.items as u64).sum();
        let frozen = Frozen::new(stripes.iter_mut().map(|stripe| stripe.pages.share()), items, &self.copies);
        (frozen, meanwhile())
    }

    /// Does `act`, which takes no stripe's lock, while no writer is inside a stripe.
    pub fn stop<R>(&self, act: impl FnOnce() -> R) -> R {
        let _stripes = self.lock_all();
        act()
    }

    fn lock_all(&self) -> Vec<MutexGuard<'_, Stripe>> {
        let mut stripes = Vec::with_capacity(STRIPES);
        stripes.extend(self.stripes.iter().map(|stripe| super::lock(&stripe.0)));
        stripes
    }

    /// Keys in the index. Walks over the stripes: for statistics.
    pub fn len(&self) -> u64 {
        self.stripes.iter().map(|stripe| super::lock(&stripe.0).items as u64).sum()
    }

    /// Bytes of the records that the index names, to within their size classes. As [`Index::len`].
    pub fn bytes(&self) -> u64 {
        self.stripes.iter().map(|stripe| super::lock(&stripe.0).bytes).sum()
    }

    /// Insertions ever, recovery's included. As [`Index::len`].
    pub fn inserted(&self) -> u64 {
        self.stripes.iter().map(|stripe| super::lock(&stripe.0).inserted).sum()
    }

    /// Waits until every stripe was free for a moment.
    pub fn settle(&self) {
        self.stripes.iter().for_each(|stripe| drop(super::lock(&stripe.0)));
    }

    /// Shows every entry to `visit`, a stripe at a time: for the opening, before anybody else is there.
    pub fn each(&self, visit: &mut dyn FnMut(&Entry)) {
        for stripe in &self.stripes {
            let stripe = super::lock(&stripe.0);
            stripe.pages.iter().flat_map(Page::entries).for_each(|entry| visit(&entry));
        }
    }

    /// Drops every entry that `keep`, asked once about each, refuses: a page at a time, so that no other thread waits
    /// longer than a page takes. A page that is split meanwhile gives entries to the last one, which is still to come.
    pub fn retain(&self, keep: impl Fn(&Entry) -> bool) {
        for stripe in &self.stripes {
            let mut number = 0;
            while super::lock(&stripe.0).retain_page(number, &keep) {
                number += 1;
            }
        }
    }
}

impl Stripe {
    /// The number of the page that has `tag`.
    pub fn page_of(&self, tag: u64) -> usize {
        Page::number(self.pages.len(), tag)
    }

    /// Sees to it that there is room for `tag`, and for many more: for recovery. [`Stripe::tighten`] takes back what was
    /// not needed.
    pub fn make_room(&mut self, tag: u64) {
        let number = Page::number(self.pages.len(), tag);
        if self.pages[number].is_full() {
            *self.page_mut(number) = self.pages[number].roomy();
        }
    }

    /// Gives back the room that is more than usual.
    pub fn tighten(&mut self) {
        for number in 0..self.pages.len() {
            if self.pages[number].is_loose() {
                *self.page_mut(number) = Page::from_slots(self.pages[number].used());
            }
        }
    }

    /// Begins to bring the slot near that belongs to `tag`, to be changed.
    pub fn prefetch(&self, tag: u64) {
        self.pages[Page::number(self.pages.len(), tag)].prefetch_to_write(tag);
    }

    pub fn find(&self, tag: u64) -> Option<Entry> {
        Page::find_in(&self.pages, tag)
    }

    /// Points `tag` at `entry`; tells what it replaced.
    pub fn insert(&mut self, tag: u64, entry: Entry) -> Option<Entry> {
        self.bytes += size_bound(entry.size_class) as u64;
        self.inserted += 1;
        let number = Page::number(self.pages.len(), tag);
        let page = self.page_mut(number);
        match page.search(tag) {
            Ok(at) => {
                let old = page.replace(at, tag, entry);
                self.bytes -= size_bound(old.size_class) as u64;
                Some(old)
            }
            Err(at) => {
                page.insert(at, tag, entry);
                self.items += 1;
                self.grow();
                None
            }
        }
    }

    pub fn remove(&mut self, tag: u64) -> Option<Entry> {
        let number = Page::number(self.pages.len(), tag);
        let at = self.pages[number].search(tag).ok()?;
        let old = self.page_mut(number).remove(at);
        self.items -= 1;
        self.bytes -= size_bound(old.size_class) as u64;
        Some(old)
    }

    /// The record of `tag`, which is there, was copied: `entry` names the copy.
    pub fn relocate(&mut self, tag: u64, entry: Entry) {
        let number = Page::number(self.pages.len(), tag);
        if let Ok(at) = self.pages[number].search(tag) {
            let old = self.page_mut(number).replace(at, tag, entry);
            self.bytes += size_bound(entry.size_class) as u64;
            self.bytes -= size_bound(old.size_class) as u64;
        }
    }

    /// What it holds now: shared, not copied.
    pub fn contents(&mut self) -> Contents {
        Contents { pages: self.pages.share(), bytes: self.bytes }
    }

    /// Makes a new stripe hold what another one held.
    pub fn load(&mut self, Contents { pages, bytes }: Contents) {
        self.items = pages.iter().map(|page| page.used().len()).sum();
        self.inserted = self.items as u64;
        (self.pages, self.bytes) = (List::Shared(pages), bytes);
    }

    /// Page `number`, to be changed.
    fn page_mut(&mut self, number: usize) -> &mut Page {
        if self.pages.is_shared() || self.pages[number].is_shared() {
            self.part_with(number);
        }
        &mut self.pages.own()[number]
    }

    /// Page `number` is about to be copied, for snapshots have it too.
    #[cold]
    fn part_with(&mut self, number: usize) {
        self.copies.make_room(self.number);
        let list_is_shared = self.pages.is_shared();
        if list_is_shared || self.pages[number].is_shared() {
            let list = if list_is_shared { self.pages.len() * size_of::<Page>() } else { 0 };
            self.copies.charge(list + self.pages[number].memory());
        }
    }

    /// Splits the next page if there are too many keys for the pages there are.
    fn grow(&mut self) {
        let pages = self.pages.len();
        if self.items <= pages * SPLIT_AT {
            return;
        }
        let round = 1 << pages.ilog2();
        let (stay, go) = self.pages[pages - round].split(round as u64);
        *self.page_mut(pages - round) = stay;
        let list = self.pages.own();
        if pages == list.capacity() {
            list.reserve_exact(pages / 16 + 4);
        }
        list.push(go);
    }

    /// Drops what `keep` refuses from page `number`. `false`: there is no such page.
    fn retain_page(&mut self, number: usize, keep: impl Fn(&Entry) -> bool) -> bool {
        let Some(page) = self.pages.get(number) else { return false };
        let Some((page, dropped)) = page.retain(keep) else { return true };
        self.items -= dropped.len();
        self.bytes -= dropped.iter().map(|entry| size_bound(entry.size_class) as u64).sum::<u64>();
        *self.page_mut(number) = page;
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::store::hash::Seed;
    use crate::store::location::Location;
    use proptest::prelude::*;
    use std::collections::HashMap;

    pub(crate) fn entry(number: u64) -> Entry {
        Entry {
            location: Location::from_bits(number * 31),
            size_class: (number % 32) as u8,
            expires: number.is_multiple_of(3),
            large: number.is_multiple_of(5),
        }
    }

    #[test]
    #[cfg(not(feature = "tiny-tags"))]
    fn a_million_keys_are_all_found_and_no_page_outgrows_4_kib() {
        let (index, seed) = (Index::new(), Seed([3, 4]));
        for number in 0..1_000_000_u64 {
            let hash = seed.hash(&number.to_le_bytes());
            assert_eq!(index.stripe(hash).insert(hash.tag, entry(number)), None);
        }
        for number in 0..1_000_000_u64 {
            let hash = seed.hash(&number.to_le_bytes());
            assert_eq!(index.stripe(hash).find(hash.tag), Some(entry(number)));
        }
        assert_eq!(index.len(), 1_000_000);
        let largest = index.stripes.iter().flat_map(|s| s.0.lock().unwrap().pages.iter().map(Page::memory).max()).max();
        assert!(largest.unwrap() <= 4096, "{largest:?} bytes");
    }

    #[test]
    fn whoever_drops_entries_is_asked_once_about_each() {
        let (index, asked) = (Index::new(), std::cell::Cell::new(0));
        for number in 0..300_000_u64 {
            let tag = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            index.stripe(Hash { place: number, tag }).insert(tag, entry(number));
        }
        index.retain(|entry| {
            asked.set(asked.get() + 1);
            entry.expires
        });
        assert_eq!((asked.get(), index.len()), (300_000, 100_000));
    }

    proptest! {
        #[test]
        fn a_stripe_behaves_like_a_map(operations in proptest::collection::vec((0_u64..600, any::<bool>()), 0..4000)) {
            let (index, mut model) = (Index::new(), HashMap::new());
            let mut stripe = index.stripe(Hash { place: 0, tag: 0 });
            for (step, (number, insert)) in operations.into_iter().enumerate() {
                let tag = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let new = entry(step as u64);
                if insert {
                    prop_assert_eq!(stripe.insert(tag, new), model.insert(tag, new));
                } else {
                    prop_assert_eq!(stripe.remove(tag), model.remove(&tag));
                }
                prop_assert_eq!(stripe.items, model.len());
            }
            for (tag, entry) in model {
                prop_assert_eq!(stripe.find(tag), Some(entry));
            }
        }
    }
}
