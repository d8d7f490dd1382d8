//! Connections by index and generation. A [`Token`] names one connection for ever: when a connection is
//! closed its slot's generation moves on, so that an event, a timer or an answer from the disk lane that
//! comes late finds nobody. Entries live in slabs that are added one by one and never move: growth copies
//! nothing, and memory that was never needed is never touched.
//!
//! The table also keeps its entries in the order of their last activity (an intrusive list, two indexes per
//! entry), so that an idle timeout looks at the head alone. Used by one worker thread.

use super::conn::Connection;
use std::fmt;

/// Entries per slab.
const SLAB: usize = 64;
/// End of a list.
const NONE: u32 = u32::MAX;
/// The greatest number of entries; tokens above it are free for other uses.
pub const MAX_ENTRIES: u32 = 1 << 30;

/// Names one connection, also after it is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// As epoll carries it.
    pub fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The other way round.
    pub fn unpack(packed: u64) -> Self {
        Self { index: packed as u32, generation: (packed >> 32) as u32 }
    }

    /// A token that no table hands out, for the loop's own descriptors: `number` of them up to a billion.
    pub fn reserved(number: u32) -> Self {
        Self { index: MAX_ENTRIES + number, generation: 0 }
    }

    /// Which reserved token this is, if it is one.
    pub fn as_reserved(self) -> Option<u32> {
        self.index.checked_sub(MAX_ENTRIES)
    }
}

/// For messages.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

struct Slot<T> {
    entry: Option<T>,
    generation: u32,
    /// Second of the last activity, on the caller's clock.
    active: u32,
    /// Neighbours in the list of activity; of a free slot, `newer` is the next free one.
    older: u32,
    newer: u32,
}

// What an idle connection costs in user memory is its slot and nothing else.
const _: () = assert!(size_of::<Slot<Connection>>() <= 256);

/// See the module's head.
pub struct Table<T> {
    slabs: Vec<Box<[Slot<T>]>>,
    free: u32,
    oldest: u32,
    newest: u32,
    len: usize,
}

impl<T> Table<T> {
    /// Empty; takes no memory.
    pub fn new() -> Self {
        Self { slabs: Vec::new(), free: NONE, oldest: NONE, newest: NONE, len: 0 }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds an entry, active `now`. `None`: the table is full.
    pub fn insert(&mut self, entry: T, now: u32) -> Option<Token> {
        if self.free == NONE {
            self.grow()?;
        }
        let index = self.free;
        let slot = self.slot(index);
        slot.entry = Some(entry);
        slot.active = now;
        let (token, next) = (Token { index, generation: slot.generation }, slot.newer);
        self.free = next;
        self.len += 1;
        self.link(index);
        Some(token)
    }

    /// The entry of that name, unless it is gone.
    #[inline]
    pub fn get(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.find(token)?;
        slot.entry.as_mut()
    }

    /// Takes an entry out; its name will find nobody from here on.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let slot = self.find(token)?;
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.unlink(token.index);
        let free = self.free;
        self.slot(token.index).newer = free;
        self.free = token.index;
        self.len -= 1;
        Some(entry)
    }

    /// Notes activity.
    pub fn touch(&mut self, token: Token, now: u32) {
        let Some(slot) = self.find(token) else { return };
        slot.active = now;
        if self.newest != token.index {
            self.unlink(token.index);
            self.link(token.index);
        }
    }

    /// The entry that was active least recently, and when.
    pub fn oldest(&mut self) -> Option<(Token, u32)> {
        let index = self.oldest;
        (index != NONE).then(|| {
            let slot = self.slot(index);
            (Token { index, generation: slot.generation }, slot.active)
        })
    }

    /// The names of all entries.
    pub fn tokens(&self) -> impl Iterator<Item = Token> {
        let slots = self.slabs.iter().flat_map(|slab| slab.iter()).zip(0..);
        slots.filter(|(slot, _)| slot.entry.is_some()).map(|(slot, index)| Token { index, generation: slot.generation })
    }

    fn grow(&mut self) -> Option<()> {
        let first = u32::try_from(self.slabs.len() * SLAB).ok().filter(|first| *first < MAX_ENTRIES)?;
        let last = first + SLAB as u32 - 1;
        let slot = |index| Slot {
            entry: None,
            generation: 0,
            active: 0,
            older: NONE,
            newer: if index == last { NONE } else { index + 1 },
        };
        self.slabs.push((first..=last).map(slot).collect());
        self.free = first;
        Some(())
    }

    #[inline]
    fn find(&mut self, token: Token) -> Option<&mut Slot<T>> {
        let slot = self.slabs.get_mut(token.index as usize / SLAB)?.get_mut(token.index as usize % SLAB)?;
        (slot.generation == token.generation && slot.entry.is_some()).then_some(slot)
    }

    fn slot(&mut self, index: u32) -> &mut Slot<T> {
        &mut self.slabs[index as usize / SLAB][index as usize % SLAB]
    }

    fn link(&mut self, index: u32) {
        let newest = std::mem::replace(&mut self.newest, index);
        let slot = self.slot(index);
        (slot.older, slot.newer) = (newest, NONE);
        match newest {
            NONE => self.oldest = index,
            _ => self.slot(newest).newer = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let slot = self.slot(index);
        let (older, newer) = (slot.older, slot.newer);
        match older {
            NONE => self.oldest = newer,
            _ => self.slot(older).newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.slot(newer).older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_token_finds_nobody() {
        let mut table = Table::new();
        let first = table.insert("first", 0).unwrap();
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second", 0).unwrap();
        assert_eq!(first.index, second.index);
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(Token::unpack(second.pack())), Some(&mut "second"));
    }

    #[test]
    fn slots_are_used_again_and_slabs_only_added() {
        let mut table = Table::new();
        let tokens: Vec<_> = (0..SLAB * 2 + 1).map(|i| table.insert(i, 0).unwrap()).collect();
        assert_eq!((table.len(), table.slabs.len()), (SLAB * 2 + 1, 3));
        for (i, token) in tokens.iter().enumerate() {
            assert_eq!(table.get(*token), Some(&mut { i }));
        }
        for token in tokens {
            table.remove(token).unwrap();
        }
        for i in 0..SLAB * 3 {
            table.insert(i, 0).unwrap();
        }
        assert_eq!((table.len(), table.slabs.len()), (SLAB * 3, 3));
    }

    #[test]
    fn the_head_of_the_list_is_the_least_recently_active() {
        let mut table = Table::new();
        let [a, b, c] = [1, 2, 3].map(|now| table.insert(now, now).unwrap());
        assert_eq!(table.oldest(), Some((a, 1)));
        table.touch(a, 4);
        assert_eq!(table.oldest(), Some((b, 2)));
        table.remove(b);
        assert_eq!(table.oldest(), Some((c, 3)));
        table.touch(c, 5);
        assert_eq!(table.oldest(), Some((a, 4)));
        table.remove(a);
        table.remove(c);
        assert_eq!(table.oldest(), None);
    }

    #[test]
    fn reserved_tokens_are_nobodys() {
        let mut table = Table::new();
        let token = table.insert((), 0).unwrap();
        assert_eq!(token.as_reserved(), None);
        assert_eq!(Token::unpack(Token::reserved(3).pack()).as_reserved(), Some(3));
        assert_eq!(table.get(Token::reserved(0)), None);
    }
}
