//! The index: from a key's hash to where its newest record lies, for every key, in RAM, in about 15 bytes each.
//!
//! 1,024 stripes, each with a lock of its own that is held for nanoseconds. A stripe is a linear hash table (W. Litwin, 1980) whose
//! buckets are *pages*: arrays of 14-byte slots, sorted by tag and no larger than they need be, so that there are neither empty
//! slots nor overflow chains. A page is found by the tag's low bits and a slot in it by interpolation on the high ones. When
//! a stripe grows, one page of at most 4 KiB is split: no insertion ever pauses for the table.
//!
//! The slot keeps 64 bits of tag and the stripe is chosen by 10 bits more: these 74 bits survive all growth. Keys that agree in all
//! of them are taken for one another by a blind `set` (the older one is lost; `kingdb.7` states the odds); a `get` compares the
//! whole key and so can never return another key's value.
//!
//! Any thread. Callers hold a stripe's lock over "look, append to the log, insert", which makes log order and index order agree.

use std::sync::{Arc, Mutex, MutexGuard};

use super::hash::Hash;
use super::location::{Location, Position};

const STRIPES: usize = 1024;
const SLOT: usize = 14;
/// Slots per page, on average, at which a stripe splits its next page. A page that waits for its split holds up to twice as many
/// as one that has just had it: with this figure 230, and 4 KiB with the spread of chance.
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
    pages: Vec<Arc<Page>>,
    items: usize,
    /// Bytes of the records, to within their size classes.
    bytes: u64,
    /// Insertions ever.
    inserted: u64,
    /// End of the last tombstone that was appended for one of these keys. A reply that says "no such key" must not
    /// leave before the log is written up to here, or a crash could bring back what was reported gone.
    pub last_removal: Position,
}

/// Slots sorted by tag: tag (8 bytes, little-endian), then location, size class and two bits (6 bytes).
#[derive(Clone, Default)]
struct Page(Vec<[u8; SLOT]>);

impl Index {
    pub fn new() -> Index {
        let stripe = || Stripe {
            pages: vec![Arc::new(Page::default())],
            items: 0,
            bytes: 0,
            inserted: 0,
            last_removal: Position(0),
        };
        Index {
            stripes: (0..STRIPES).map(|_| Padded(Mutex::new(stripe()))).collect(),
        }
    }

    /// Locks the stripe that the hash belongs to. Hold it briefly and enter no system call with it.
    pub fn stripe(&self, hash: Hash) -> MutexGuard<'_, Stripe> {
        super::lock(&self.stripes[hash.place as usize % STRIPES].0)
    }

    /// Keys in the index. Walks over the stripes: for statistics.
    pub fn len(&self) -> u64 {
        self.stripes
            .iter()
            .map(|stripe| super::lock(&stripe.0).items as u64)
            .sum()
    }

    /// Bytes of the records that the index names, to within their size classes. As [`Index::len`].
    pub fn bytes(&self) -> u64 {
        self.stripes
            .iter()
            .map(|stripe| super::lock(&stripe.0).bytes)
            .sum()
    }

    /// Insertions ever, recovery's included. As [`Index::len`].
    pub fn inserted(&self) -> u64 {
        self.stripes
            .iter()
            .map(|stripe| super::lock(&stripe.0).inserted)
            .sum()
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
        page.search(tag).ok().map(|at| page.entry(at))
    }

    /// Points `tag` at `entry`; tells what it replaced.
    pub fn insert(&mut self, tag: u64, entry: Entry) -> Option<Entry> {
        let number = self.page_of(tag);
        let page = Arc::make_mut(&mut self.pages[number]);
        self.bytes += size_bound(entry.size_class) as u64;
        self.inserted += 1;
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
        let old = Arc::make_mut(&mut self.pages[number]).remove(at);
        self.items -= 1;
        self.bytes -= size_bound(old.size_class) as u64;
        Some(old)
    }

    /// Linear hashing's address: the low bits, one fewer where the page was not split yet in this round.
    fn page_of(&self, tag: u64) -> usize {
        let wide = self.pages.len().next_power_of_two();
        let number = tag as usize & (wide - 1);
        if number < self.pages.len() {
            number
        } else {
            number - wide / 2
        }
    }

    fn grow(&mut self) {
        if self.items <= self.pages.len() * SPLIT_AT {
            return;
        }
        let bit = self.pages.len().next_power_of_two().max(1);
        let bit = if bit == self.pages.len() {
            bit
        } else {
            bit / 2
        };
        let source = self.pages.len() - bit;
        let (stay, go) = self.pages[source].split(bit as u64);
        self.pages[source] = Arc::new(stay);
        if self.pages.len() == self.pages.capacity() {
            self.pages.reserve_exact(self.pages.len() / 16 + 4);
        }
        self.pages.push(Arc::new(go));
    }

    fn retain_page(&mut self, number: usize, keep: impl Fn(&Entry) -> bool) -> bool {
        let Some(page) = self.pages.get_mut(number) else {
            return false;
        };
        if page.0.iter().all(|slot| keep(&unpack(slot))) {
            return true;
        }
        let page = Arc::make_mut(page);
        let before = page.0.len();
        let dropped = page.0.iter().map(unpack).filter(|entry| !keep(entry));
        let dropped: u64 = dropped
            .map(|entry| size_bound(entry.size_class) as u64)
            .sum();
        page.0.retain(|slot| keep(&unpack(slot)));
        page.0.shrink_to_fit();
        self.items -= before - page.0.len();
        self.bytes -= dropped;
        true
    }
}

impl Page {
    /// Where `tag` stands, or where it would. Tags are evenly spread, so the first guess is a few slots off at most.
    fn search(&self, tag: u64) -> Result<usize, usize> {
        let slots = &self.0;
        let mut at = ((u128::from(tag) * slots.len() as u128) >> 64) as usize;
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

    fn entry(&self, at: usize) -> Entry {
        unpack(&self.0[at])
    }

    fn replace(&mut self, at: usize, tag: u64, entry: Entry) -> Entry {
        unpack(&std::mem::replace(&mut self.0[at], pack(tag, entry)))
    }

    fn insert(&mut self, at: usize, tag: u64, entry: Entry) {
        if self.0.len() == self.0.capacity() {
            self.0.reserve_exact(GROWTH);
        }
        self.0.insert(at, pack(tag, entry));
    }

    fn remove(&mut self, at: usize) -> Entry {
        let entry = unpack(&self.0.remove(at));
        if self.0.capacity() - self.0.len() > 4 * GROWTH {
            self.0.shrink_to(self.0.len() + GROWTH);
        }
        entry
    }

    /// Parts the slots by one bit of the tag; both parts stay sorted.
    fn split(&self, bit: u64) -> (Page, Page) {
        let moving = self.0.iter().filter(|slot| tag_of(slot) & bit != 0).count();
        let (mut stay, mut go) = (
            Vec::with_capacity(self.0.len() - moving),
            Vec::with_capacity(moving),
        );
        for slot in &self.0 {
            if tag_of(slot) & bit == 0 {
                stay.push(*slot)
            } else {
                go.push(*slot)
            }
        }
        (Page(stay), Page(go))
    }
}

fn tag_of(slot: &[u8; SLOT]) -> u64 {
    super::record::le_u64(slot, 0)
}

fn pack(tag: u64, entry: Entry) -> [u8; SLOT] {
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

fn unpack(slot: &[u8; SLOT]) -> Entry {
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
    (0..32)
        .find(|&class| size_bound(class) >= len)
        .unwrap_or(31)
}

/// The longest record of a class. Bytes. One read of this length at a record's offset has all of it.
pub(crate) fn size_bound(class: u8) -> usize {
    let whole = 32_usize << (class / 2);
    let bound = if class.is_multiple_of(2) {
        whole
    } else {
        whole * 181 / 128
    };
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
            assert!(
                bound >= len && bound <= (len * 3 / 2).max(32) + 8,
                "{len} in {bound}"
            );
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
        let largest = index
            .stripes
            .iter()
            .flat_map(|s| s.0.lock().unwrap().pages.iter().map(|p| p.0.len()).max())
            .max();
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
