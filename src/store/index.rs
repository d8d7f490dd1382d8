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

use super::hash::Hash;
use super::location::{Location, Position};
use crate::sys::prefetch::prefetch;

const STRIPES: usize = 1024;
const SLOT: usize = 14;
/// Slots per page, on average, at which a stripe splits its next page. A page that waits for its split holds up to
/// twice as many as one that has just had it: with this figure 230, and 4 KiB with the spread of chance.
const SPLIT_AT: usize = 115;
/// Slots that a full page grows by.
const GROWTH: usize = 6;

/// What a slot says of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub location: Location,
    /// How long the record is, roughly: see [`size_bound`].
    pub size_class: u8,
    /// It has an expiry: only the record itself can tell whether it is still there.
    pub expires: bool,
    /// Its value lies in an extent.
    pub large: bool,
}

/// All stripes.
pub(crate) struct Index {
    stripes: Box<[Padded]>,
}

/// A stripe's lock on a cache line of its own, so that workers do not slow each other down.
#[repr(align(64))]
struct Padded(Mutex<Stripe>);

/// The keys whose hashes share ten bits.
pub(crate) struct Stripe {
    pages: Vec<Page>,
    items: usize,
    /// Bytes of the records, to within their size classes.
    bytes: u64,
    /// Insertions ever.
    inserted: u64,
    /// End of the last tombstone that was appended for one of these keys. A reply that says "no such key" must not
    /// leave before the log is written up to here, or a crash could bring back what was reported gone.
    pub last_removal: Position,
}

/// Slots sorted by tag: tag (8 bytes, little-endian), then location, size class and two bits (6 bytes). A few free
/// slots, whose tag is greater than any key's, follow. Pages are shared with snapshots and copied when they are
/// written to.
struct Page(Arc<[Slot]>);

type Slot = [u8; SLOT];

const FREE: Slot = [0xff; SLOT];

impl Index {
    pub fn new() -> Index {
        let stripe = || Stripe {
            pages: vec![Page::from_slots(&[])],
            items: 0,
            bytes: 0,
            inserted: 0,
            last_removal: Position(0),
        };
        Index { stripes: (0..STRIPES).map(|_| Padded(Mutex::new(stripe()))).collect() }
    }

    /// Locks the stripe that the hash belongs to. Hold it briefly and enter no system call with it.
    pub fn stripe(&self, hash: Hash) -> MutexGuard<'_, Stripe> {
        super::lock(&self.stripes[hash.place as usize % STRIPES].0)
    }

    /// Begins to bring the slot near that the stripe will look for.
    pub fn prefetch(&self, hash: Hash) {
        let stripe = self.stripe(hash);
        let page = &stripe.pages[stripe.page_of(hash.tag)];
        let guess = page.guess(hash.tag);
        page.0[guess.saturating_sub(4)..].iter().step_by(4).take(3).for_each(prefetch);
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

    /// Drops every entry that `keep` refuses, a page at a time, so that no other thread waits longer than a page takes.
    /// Entries that move between pages meanwhile may be missed; the next sweep finds them.
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
    pub fn find(&self, tag: u64) -> Option<Entry> {
        let page = &self.pages[self.page_of(tag)];
        page.search(tag).ok().map(|at| unpack(&page.0[at]))
    }

    /// Points `tag` at `entry`; tells what it replaced.
    pub fn insert(&mut self, tag: u64, entry: Entry) -> Option<Entry> {
        self.bytes += size_bound(entry.size_class) as u64;
        self.inserted += 1;
        let number = self.page_of(tag);
        let page = &mut self.pages[number];
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
        let number = self.page_of(tag);
        let at = self.pages[number].search(tag).ok()?;
        let old = self.pages[number].remove(at);
        self.items -= 1;
        self.bytes -= size_bound(old.size_class) as u64;
        Some(old)
    }

    /// Linear hashing's address: the low bits, one fewer where the page was not split yet in this round.
    fn page_of(&self, tag: u64) -> usize {
        let wide = self.pages.len().next_power_of_two();
        let number = tag as usize & (wide - 1);
        if number < self.pages.len() { number } else { number - wide / 2 }
    }

    /// Splits the next page if there are too many keys for the pages there are.
    fn grow(&mut self) {
        let pages = self.pages.len();
        if self.items <= pages * SPLIT_AT {
            return;
        }
        let round = 1 << pages.ilog2();
        let (stay, go) = self.pages[pages - round].split(round as u64);
        self.pages[pages - round] = stay;
        if pages == self.pages.capacity() {
            self.pages.reserve_exact(pages / 16 + 4);
        }
        self.pages.push(go);
    }

    /// Drops what `keep` refuses from page `number`. `false`: there is no such page.
    fn retain_page(&mut self, number: usize, keep: impl Fn(&Entry) -> bool) -> bool {
        let Some(page) = self.pages.get_mut(number) else { return false };
        let (kept, dropped): (Vec<_>, Vec<_>) = page.used().iter().partition(|slot| keep(&unpack(slot)));
        if !dropped.is_empty() {
            self.items -= dropped.len();
            self.bytes -= dropped.iter().map(|slot| size_bound(unpack(slot).size_class) as u64).sum::<u64>();
            *page = Page::from_slots(&kept);
        }
        true
    }
}

impl Page {
    /// A page of sorted slots, with room for a few more.
    fn from_slots(slots: &[Slot]) -> Page {
        Page(slots.iter().copied().chain([FREE; GROWTH]).collect())
    }

    fn used(&self) -> &[Slot] {
        let free = self.0.iter().rev().take_while(|&&slot| slot == FREE).count();
        &self.0[..self.0.len() - free]
    }

    /// Where `tag` stands, or where it would. Tags are evenly spread, so the first guess is a few slots off at most.
    fn search(&self, tag: u64) -> Result<usize, usize> {
        let slots = &self.0;
        let mut at = self.guess(tag);
        while at > 0 && tag_of(&slots[at - 1]) >= tag {
            at -= 1;
        }
        while at < slots.len() && tag_of(&slots[at]) < tag {
            at += 1;
        }
        match slots.get(at) {
            Some(slot) if tag_of(slot) == tag => Ok(at),
            _ => Err(at),
        }
    }

    fn guess(&self, tag: u64) -> usize {
        ((u128::from(tag) * self.0.len() as u128) >> 64) as usize
    }

    fn replace(&mut self, at: usize, tag: u64, entry: Entry) -> Entry {
        let slot = &mut Arc::make_mut(&mut self.0)[at];
        unpack(&std::mem::replace(slot, pack(tag, entry)))
    }

    fn insert(&mut self, at: usize, tag: u64, entry: Entry) {
        if self.0.last() != Some(&FREE) {
            *self = Page::from_slots(&self.0);
        }
        let slots = Arc::make_mut(&mut self.0);
        slots.copy_within(at..slots.len() - 1, at + 1);
        slots[at] = pack(tag, entry);
    }

    fn remove(&mut self, at: usize) -> Entry {
        let slots = Arc::make_mut(&mut self.0);
        let entry = unpack(&slots[at]);
        slots.copy_within(at + 1.., at);
        slots[slots.len() - 1] = FREE;
        if self.0.len() > 4 * GROWTH && self.0[self.0.len() - 4 * GROWTH] == FREE {
            *self = Page::from_slots(self.used());
        }
        entry
    }

    /// Parts the slots by one bit of the tag; both parts stay sorted.
    fn split(&self, bit: u64) -> (Page, Page) {
        let (go, stay): (Vec<_>, Vec<_>) = self.used().iter().partition(|slot| tag_of(slot) & bit != 0);
        (Page::from_slots(&stay), Page::from_slots(&go))
    }
}

fn tag_of(slot: &Slot) -> u64 {
    super::record::le_u64(slot, 0)
}

fn pack(tag: u64, entry: Entry) -> Slot {
    assert!(entry.size_class < 32);
    let word = entry.location.bits()
        | u64::from(entry.size_class) << 40
        | u64::from(entry.expires) << 45
        | u64::from(entry.large) << 46;
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(&tag.to_le_bytes());
    slot[8..].copy_from_slice(&word.to_le_bytes()[..6]);
    slot
}

fn unpack(slot: &Slot) -> Entry {
    let mut word = [0; 8];
    word[..6].copy_from_slice(&slot[8..]);
    let word = u64::from_le_bytes(word);
    Entry {
        location: Location::from_bits(word),
        size_class: (word >> 40) as u8 & 31,
        expires: word >> 45 & 1 != 0,
        large: word >> 46 & 1 != 0,
    }
}

/// The class of a record of `len` bytes: classes step by a factor of √2, from 32 bytes up.
pub(crate) fn size_class(len: usize) -> u8 {
    (0..32).find(|&class| size_bound(class) >= len).unwrap_or(31)
}

/// The longest record of a class. Bytes. One read of this length at a record's offset has all of it.
pub(crate) fn size_bound(class: u8) -> usize {
    let whole = 32_usize << (class / 2);
    let bound = if class.is_multiple_of(2) { whole } else { whole * 181 / 128 };
    bound.next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::hash::Seed;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn entry(number: u64) -> Entry {
        Entry {
            location: Location::from_bits(number * 31),
            size_class: (number % 32) as u8,
            expires: number.is_multiple_of(3),
            large: number.is_multiple_of(5),
        }
    }

    #[test]
    fn a_class_holds_its_lengths_and_wastes_less_than_half() {
        for len in 24..=crate::store::record::MAX_RECORD {
            let bound = size_bound(size_class(len));
            assert!(bound >= len && bound <= (len * 3 / 2).max(32) + 8, "{len} in {bound}");
        }
    }

    #[test]
    fn slots_keep_every_field() {
        for number in 0..1000 {
            assert_eq!(unpack(&pack(number, entry(number))), entry(number));
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
        let largest =
            index.stripes.iter().flat_map(|s| s.0.lock().unwrap().pages.iter().map(|p| p.0.len()).max()).max();
        assert!(largest.unwrap() * SLOT <= 4096, "{largest:?} slots");
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
