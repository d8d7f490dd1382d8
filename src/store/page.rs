//! A page of the index: an array of 14-byte slots, sorted by tag, at most 4 KiB. Snapshots share pages with the index,
//! which copies a page before it changes one that is shared.

use std::ops::Deref;
use std::sync::Arc;

use super::location::Location;
use crate::sys::prefetch::{prefetch, prefetch_to_write};

/// Bytes of a slot.
pub(crate) const SLOT: usize = 14;
/// Slots that a full page grows by.
const GROWTH: usize = 4;
/// Free slots of a page that much will be inserted into.
const MANY: usize = 30;

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

/// Slots sorted by tag: tag (8 bytes, little-endian), then location, size class and two bits (6 bytes). A few free
/// slots, whose tag is greater than any key's, follow. Pages are shared with snapshots and copied when they are
/// written to.
#[derive(Clone)]
pub(crate) struct Page(Arc<[Slot]>);

/// The pages of a stripe, by number, as snapshots keep them.
pub(crate) type Pages = Arc<Vec<Page>>;

/// The pages of a stripe, by number, as the stripe has them: shared since a snapshot was taken, and then copied before a
/// change. What is the stripe's own is found without a detour, and changed without asking whose it is.
pub(crate) enum List {
    Own(Vec<Page>),
    Shared(Pages),
}

pub(crate) type Slot = [u8; SLOT];

const FREE: Slot = [0xff; SLOT];

impl List {
    /// Whether snapshots have the list too.
    pub fn is_shared(&self) -> bool {
        matches!(self, List::Shared(pages) if Arc::strong_count(pages) > 1)
    }

    /// The list, to be kept by others too.
    pub fn share(&mut self) -> Pages {
        let pages = match std::mem::replace(self, List::Own(Vec::new())) {
            List::Own(pages) => Arc::new(pages),
            List::Shared(pages) => pages,
        };
        *self = List::Shared(pages.clone());
        pages
    }

    /// The list, to be changed.
    pub fn own(&mut self) -> &mut Vec<Page> {
        if let List::Shared(pages) = self {
            *self = List::Own(Arc::unwrap_or_clone(std::mem::take(pages)));
        }
        match self {
            List::Own(pages) => pages,
            List::Shared(_) => unreachable!("it was made its own"),
        }
    }
}

impl Deref for List {
    type Target = [Page];

    fn deref(&self) -> &[Page] {
        match self {
            List::Own(pages) => pages,
            List::Shared(pages) => pages,
        }
    }
}

impl Page {
    /// A page of sorted slots, with room for a few more.
    pub fn from_slots(slots: &[Slot]) -> Page {
        Page::with_room(slots, GROWTH)
    }

    /// The same slots and room for many more.
    pub fn roomy(&self) -> Page {
        Page::with_room(self.used(), MANY)
    }

    /// By way of a vector, for that copies all slots at a time.
    fn with_room(slots: &[Slot], room: usize) -> Page {
        let mut all = Vec::with_capacity(slots.len() + room);
        all.extend_from_slice(slots);
        all.resize(slots.len() + room, FREE);
        Page(all.into())
    }

    /// Whether it has no room.
    pub fn is_full(&self) -> bool {
        self.0.last() != Some(&FREE)
    }

    /// Whether it has more room than a page that grew by itself.
    pub fn is_loose(&self) -> bool {
        self.0.len() > GROWTH && self.0[self.0.len() - GROWTH - 1] == FREE
    }

    pub fn used(&self) -> &[Slot] {
        let free = self.0.iter().rev().take_while(|&&slot| slot == FREE).count();
        &self.0[..self.0.len() - free]
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.used().iter().map(unpack)
    }

    /// Where `tag` stands, or where it would. Tags are evenly spread, so the first guess is a few slots off at most.
    pub fn search(&self, tag: u64) -> Result<usize, usize> {
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

    /// Whether snapshots have the page too.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.0.len() * SLOT
    }

    /// Drops the page; tells how much memory that freed, if nobody else has it.
    pub fn into_memory(mut self) -> Option<usize> {
        Arc::get_mut(&mut self.0).map(|slots| slots.len() * SLOT)
    }

    /// What the pages of a stripe say of `tag`.
    pub fn find_in(pages: &[Page], tag: u64) -> Option<Entry> {
        pages[Page::number(pages.len(), tag)].find(tag)
    }

    /// Which of a stripe's `pages` pages `tag` belongs to. Linear hashing's address: the low bits, one fewer where the
    /// page was not split yet in this round.
    pub fn number(pages: usize, tag: u64) -> usize {
        let wide = pages.next_power_of_two();
        let number = tag as usize & (wide - 1);
        if number < pages { number } else { number - wide / 2 }
    }

    pub fn find(&self, tag: u64) -> Option<Entry> {
        self.search(tag).ok().map(|at| unpack(&self.0[at]))
    }

    /// Begins to bring near what [`Page::search`] will look at, and what tells whether the page is shared.
    pub fn prefetch(&self, tag: u64) {
        self.near(tag).for_each(prefetch);
    }

    /// The same, of what is about to be changed.
    pub fn prefetch_to_write(&self, tag: u64) {
        self.near(tag).for_each(prefetch_to_write);
    }

    fn near(&self, tag: u64) -> impl Iterator<Item = &Slot> {
        let guess = self.guess(tag);
        self.0.first().into_iter().chain(self.0[guess.saturating_sub(4)..].iter().step_by(4).take(3))
    }

    fn guess(&self, tag: u64) -> usize {
        ((u128::from(tag) * self.0.len() as u128) >> 64) as usize
    }

    pub fn replace(&mut self, at: usize, tag: u64, entry: Entry) -> Entry {
        let slot = &mut Arc::make_mut(&mut self.0)[at];
        unpack(&std::mem::replace(slot, pack(tag, entry)))
    }

    pub fn insert(&mut self, at: usize, tag: u64, entry: Entry) {
        if self.is_full() {
            *self = Page::from_slots(&self.0);
        }
        let slots = Arc::make_mut(&mut self.0);
        slots.copy_within(at..slots.len() - 1, at + 1);
        slots[at] = pack(tag, entry);
    }

    pub fn remove(&mut self, at: usize) -> Entry {
        let slots = Arc::make_mut(&mut self.0);
        let entry = unpack(&slots[at]);
        slots.copy_within(at + 1.., at);
        slots[slots.len() - 1] = FREE;
        if self.0.len() > 4 * GROWTH && self.0[self.0.len() - 4 * GROWTH] == FREE {
            *self = Page::from_slots(self.used());
        }
        entry
    }

    /// What is left without the slots that `keep`, asked once about each, refuses, and what those said. `None`: it
    /// refuses none.
    pub fn retain(&self, keep: impl Fn(&Entry) -> bool) -> Option<(Page, Vec<Entry>)> {
        let slots = self.used();
        let first = slots.iter().position(|slot| !keep(&unpack(slot)))?;
        let (mut kept, mut dropped) = (slots[..first].to_vec(), vec![unpack(&slots[first])]);
        for slot in &slots[first + 1..] {
            match unpack(slot) {
                entry if keep(&entry) => kept.push(*slot),
                entry => dropped.push(entry),
            }
        }
        Some((Page::from_slots(&kept), dropped))
    }

    /// Parts the slots by one bit of the tag; both parts stay sorted.
    pub fn split(&self, bit: u64) -> (Page, Page) {
        let (go, stay): (Vec<_>, Vec<_>) = self.used().iter().partition(|slot| tag_of(slot) & bit != 0);
        (Page::from_slots(&stay), Page::from_slots(&go))
    }
}

fn tag_of(slot: &Slot) -> u64 {
    super::record::le_u64(slot, 0)
}

fn pack(tag: u64, entry: Entry) -> Slot {
    assert!(entry.size_class < 32, "out of range");
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
    use crate::store::index::tests::entry;

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
}
