//! A queue of cache entries in one fixed array of bytes: new entries at the head, the oldest at the tail, the array
//! reused round and round. An entry never straddles the array's end. Used by a cache shard, under its lock.

use super::cache::Facts;
use super::location::Location;
use super::record::{BINARY_KEY, FETCHED, STALE, WON, le_u32, le_u64};
use crate::sys::memory::Region;
use crate::sys::prefetch::{prefetch, prefetch_to_write};

/// Bytes before the key of an entry.
const HEADER: usize = 40;

/// The bytes and which of them are in use: `[tail, head)`, or, wrapped, `[tail, end)` and `[0, head)`.
pub(crate) struct Ring {
    bytes: Region,
    head: usize,
    tail: usize,
    /// Wrapped: where the entries before the array's end stop.
    end: Option<usize>,
    live: usize,
}

/// An entry's own facts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Of the key's hash.
    pub tag: u64,
    /// Not forgotten yet.
    pub live: bool,
    /// How often it was read since it entered the queue, saturating.
    pub reads: u8,
    pub facts: Facts,
    key_len: usize,
    value_len: usize,
}

/// As much of an entry is brought near: more than processors fetch at a time would wait. Bytes.
const MOST_NEAR: usize = 1024;
/// A later expiry is cached as this one: the year 36,812. Seconds.
const MOST_EXPIRES: u64 = (1 << 40) - 1;

/// Marks as bits 4 to 7 of a byte.
fn packed_marks(marks: u8) -> u8 {
    marks & FETCHED | (marks & (STALE | WON | BINARY_KEY)) << 1
}

fn unpacked_marks(byte: u8) -> u8 {
    byte & FETCHED | byte >> 1 & (STALE | WON | BINARY_KEY)
}

impl Header {
    pub fn new(tag: u64, key_len: usize, value_len: usize, facts: Facts) -> Header {
        Header { tag, live: true, reads: 0, facts, key_len, value_len }
    }

    /// Bytes of the whole entry.
    pub fn len(&self) -> usize {
        (HEADER + self.key_len + self.value_len).next_multiple_of(8)
    }

    /// Location (40 bits), live, large, reads (2), marks (4), key length (16); tag; CAS; expiry (40), second of the last
    /// fetch (24); client flags, value length.
    fn encode(&self) -> [u8; HEADER] {
        let first = self.facts.location.bits()
            | u64::from(self.live) << 40
            | u64::from(self.facts.large) << 41
            | u64::from(self.reads) << 42
            | u64::from(packed_marks(self.facts.marks)) << 40
            | (self.key_len as u64) << 48;
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(&first.to_le_bytes());
        out[8..16].copy_from_slice(&self.tag.to_le_bytes());
        out[16..24].copy_from_slice(&self.facts.cas.to_le_bytes());
        let expires = self.facts.expires.min(MOST_EXPIRES);
        out[24..32].copy_from_slice(&(expires | u64::from(self.facts.accessed) << 40).to_le_bytes());
        out[32..36].copy_from_slice(&self.facts.client_flags.to_le_bytes());
        out[36..].copy_from_slice(&(self.value_len as u32).to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Header {
        let first = le_u64(bytes, 0);
        Header {
            tag: le_u64(bytes, 8),
            live: first >> 40 & 1 != 0,
            reads: (first >> 42) as u8 & 3,
            facts: Facts {
                location: Location::from_bits(first),
                client_flags: le_u32(bytes, 32),
                cas: le_u64(bytes, 16),
                expires: le_u64(bytes, 24) & MOST_EXPIRES,
                large: first >> 41 & 1 != 0,
                marks: unpacked_marks((first >> 40) as u8),
                accessed: le_u32(bytes, 28) >> 8,
            },
            key_len: (first >> 48) as usize,
            value_len: le_u32(bytes, 36) as usize,
        }
    }
}

impl Ring {
    /// A queue of at most `capacity` bytes; pages of it are touched only when first used.
    ///
    /// # Errors
    /// The kernel's, when there is no memory.
    pub fn new(capacity: usize, huge: bool) -> std::io::Result<Ring> {
        let bytes = Region::new(capacity / 8 * 8, huge)?;
        Ok(Ring { bytes, head: 0, tail: 0, end: None, live: 0 })
    }

    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of live entries.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Whether an entry of `len` bytes fits without taking an old one off.
    pub fn has_room(&self, len: usize) -> bool {
        match self.end {
            Some(_) => self.tail - self.head >= len,
            None => self.bytes.len() - self.head >= len || self.tail >= len,
        }
    }

    /// Adds an entry for which there is room; tells where it stands.
    pub fn push(&mut self, header: &Header, key: &[u8], value: &[u8]) -> usize {
        let at = self.reserve(header.len());
        self.write(at, header, key, value);
        self.live += header.len();
        at
    }

    /// Adds a copy of the oldest entry of `other`.
    pub fn push_from(&mut self, other: &Ring, reads: u8) -> usize {
        let header = Header { reads, ..other.header(other.tail) };
        let at = self.reserve(header.len());
        self.bytes[at..at + header.len()].copy_from_slice(&other.bytes[other.tail..other.tail + header.len()]);
        self.bytes[at..at + HEADER].copy_from_slice(&header.encode());
        self.live += header.len();
        at
    }

    /// Moves the oldest entry to the head. There is always room: it leaves at least as much as it takes.
    pub fn rotate(&mut self, reads: u8) -> usize {
        let from = self.tail;
        let header = Header { reads, ..self.header(from) };
        self.pop();
        let at = self.reserve(header.len());
        self.bytes.copy_within(from..from + header.len(), at);
        self.bytes[at..at + HEADER].copy_from_slice(&header.encode());
        self.live += header.len();
        at
    }

    /// Where the oldest entry stands, live or not.
    pub fn oldest(&self) -> Option<usize> {
        (self.end.is_some() || self.tail != self.head).then_some(self.tail)
    }

    /// Takes the oldest entry off.
    pub fn pop(&mut self) {
        let header = self.header(self.tail);
        if header.live {
            self.live -= header.len();
        }
        self.tail += header.len();
        if self.end == Some(self.tail) {
            self.tail = 0;
            self.end = None;
        }
        // An empty ring starts over: nothing may ever be wrapped around a gap.
        if self.end.is_none() && self.tail == self.head {
            (self.tail, self.head) = (0, 0);
        }
        // Who takes one off soon takes another.
        self.bytes.get(self.tail).into_iter().for_each(prefetch);
    }

    /// Marks an entry as forgotten; its bytes come free when it is the oldest.
    pub fn kill(&mut self, at: usize) {
        let header = self.header(at);
        assert!(header.live, "an entry is forgotten once");
        self.bytes[at..at + HEADER].copy_from_slice(&Header { live: false, ..header }.encode());
        self.live -= header.len();
    }

    /// Notes that the entry was fetched, in that second.
    pub fn note_fetch(&mut self, at: usize, second: u32) {
        self.bytes[at + 5] |= FETCHED;
        self.bytes[at + 29..at + 32].copy_from_slice(&second.to_le_bytes()[..3]);
    }

    /// Counts a read, up to `most`.
    pub fn touch(&mut self, at: usize, most: u8) {
        let reads = self.bytes[at + 5] >> 2 & 3;
        if reads < most {
            self.bytes[at + 5] += 1 << 2;
        }
    }

    /// Takes a read back. `false`: there was none.
    pub fn cool(&mut self, at: usize) -> bool {
        let read = self.bytes[at + 5] >> 2 & 3 > 0;
        if read {
            self.bytes[at + 5] -= 1 << 2;
        }
        read
    }

    /// Puts another record of the same size in an entry's place; its count of reads stays. `false`: the size differs.
    pub fn overwrite(&mut self, at: usize, header: &Header, key: &[u8], value: &[u8]) -> bool {
        let old = self.header(at);
        if old.len() != header.len() {
            return false;
        }
        self.write(at, &Header { reads: old.reads, ..*header }, key, value);
        true
    }

    /// The entry's record lies elsewhere now; nothing is done if it did not lie at `from`.
    pub fn relocate(&mut self, at: usize, from: Location, to: Location) {
        let header = self.header(at);
        if header.facts.location == from {
            let facts = Facts { location: to, ..header.facts };
            self.bytes[at..at + HEADER].copy_from_slice(&Header { facts, ..header }.encode());
        }
    }

    /// Brings an entry of `len` bytes near that is about to be written; of a long one, the beginning.
    pub fn prefetch(&self, at: usize, len: usize) {
        let end = self.bytes.len().min(at + len.min(MOST_NEAR) + 63);
        self.bytes[at..end].iter().step_by(64).for_each(prefetch_to_write);
    }

    pub fn header(&self, at: usize) -> Header {
        Header::decode(&self.bytes[at..at + HEADER])
    }

    /// Header, key and value.
    pub fn entry(&self, at: usize) -> (Header, &[u8], &[u8]) {
        let header = self.header(at);
        let (key, rest) = self.bytes[at + HEADER..].split_at(header.key_len);
        (header, key, &rest[..header.value_len])
    }

    fn reserve(&mut self, len: usize) -> usize {
        assert!(self.has_room(len), "callers make room first");
        if self.end.is_none() && self.bytes.len() - self.head < len {
            self.end = Some(self.head);
            self.head = 0;
        }
        let at = self.head;
        self.head += len;
        // For the next one, as long as this. It comes to memory that was not looked at since the ring last went round.
        self.prefetch(self.head, len);
        at
    }

    fn write(&mut self, at: usize, header: &Header, key: &[u8], value: &[u8]) {
        let key_at = at + HEADER;
        let value_at = key_at + key.len();
        self.bytes[at..key_at].copy_from_slice(&header.encode());
        self.bytes[key_at..value_at].copy_from_slice(key);
        self.bytes[value_at..value_at + value.len()].copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const CAPACITY: usize = 4096;

    fn header(tag: u64, value_len: usize) -> Header {
        let (marks, accessed) = (FETCHED | WON, 5);
        let facts =
            Facts { location: Location::FIRST, client_flags: 1, cas: 2, expires: 3, large: true, marks, accessed };
        Header::new(tag, 3, value_len, facts)
    }

    proptest! {
        #[test]
        fn a_ring_is_a_queue_for_entries_up_to_half_its_size(
            steps in proptest::collection::vec((0_usize..=CAPACITY / 2 - HEADER - 8, 0..4_u8), 1..400),
        ) {
            let mut ring = Ring::new(CAPACITY, false).unwrap();
            let mut model: VecDeque<(usize, u64, usize)> = VecDeque::new();
            for (tag, (len, what)) in steps.into_iter().enumerate() {
                match (what, model.pop_front()) {
                    (0, Some(_)) => ring.pop(),
                    (1, Some((_, tag, len))) => model.push_back((ring.rotate(1), tag, len)),
                    (_, oldest) => {
                        model.extend(oldest);
                        model.rotate_right(usize::from(oldest.is_some()));
                        let new = header(tag as u64, len);
                        while !ring.has_room(new.len()) {
                            ring.pop();
                            prop_assert!(model.pop_front().is_some());
                        }
                        model.push_back((ring.push(&new, b"key", &vec![tag as u8; len]), tag as u64, len));
                    }
                }
                prop_assert_eq!(ring.oldest(), model.front().map(|(at, ..)| *at));
                prop_assert_eq!(ring.live(), model.iter().map(|(_, tag, len)| header(*tag, *len).len()).sum::<usize>());
                for (at, tag, len) in &model {
                    let (found, key, value) = ring.entry(*at);
                    prop_assert_eq!((found.tag, key), (*tag, &b"key"[..]));
                    prop_assert_eq!(value, &vec![*tag as u8; *len][..]);
                }
            }
        }
    }
}
