//! Where a record lies, in two forms: as the index keeps it ([`Location`], 40 bits: which segment, which offset),
//! and as the log orders it ([`Position`]: a number that grows with everything appended). Plain numbers; any
//! thread.

use super::record::ALIGNMENT;

/// Bits of an offset inside a segment: segments are at most 64 MiB.
pub(crate) const OFFSET_BITS: u32 = 26;
/// Largest segment. Bytes.
pub(crate) const MAX_SEGMENT: u64 = 1 << OFFSET_BITS;
/// How many segments can exist at once (8 TiB at 64 MiB each).
pub(crate) const MAX_HANDLES: usize = 1 << (Location::BITS - OFFSET_BITS + ALIGNMENT.trailing_zeros());

/// A place in the order of everything ever appended to the log: compare it with [`super::Db::mark`]. Zero comes
/// before everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Position(pub(crate) u64);

impl Position {
    /// Byte `offset` of the segment whose place in the log's order is `order`.
    pub(crate) fn new(order: u64, offset: u64) -> Position {
        assert!(offset <= MAX_SEGMENT, "out of range");
        Position((order << OFFSET_BITS) + offset)
    }

    /// The segment of the log it lies in, by order, and the offset there. (Of a place where the log ended: no segment
    /// is so full that its end would pass for the beginning of the next.)
    pub(crate) fn parts(self) -> (u64, u64) {
        (self.0 >> OFFSET_BITS, self.0 & (MAX_SEGMENT - 1))
    }
}

/// Which segment (by handle: its row in the segment table) and which offset.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Location(u64);

impl Location {
    /// Bits that a location needs.
    pub const BITS: u32 = 40;

    /// The very beginning.
    #[cfg(test)]
    pub const FIRST: Location = Location(0);

    pub fn new(handle: u32, offset: u64) -> Location {
        assert!(offset < MAX_SEGMENT && offset.is_multiple_of(ALIGNMENT as u64), "out of range");
        assert!((handle as usize) < MAX_HANDLES, "out of range");
        Location((u64::from(handle) << OFFSET_BITS | offset) / ALIGNMENT as u64)
    }

    pub fn from_bits(bits: u64) -> Location {
        Location(bits & ((1 << Self::BITS) - 1))
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    pub fn handle(self) -> u32 {
        ((self.0 * ALIGNMENT as u64) >> OFFSET_BITS) as u32
    }

    pub fn offset(self) -> u64 {
        (self.0 * ALIGNMENT as u64) & (MAX_SEGMENT - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_fits_its_bits_and_comes_back_whole() {
        for (handle, offset) in [(0, 0), (1, 64), (MAX_HANDLES as u32 - 1, MAX_SEGMENT - 8)] {
            let location = Location::new(handle, offset);
            assert!(location.bits() < 1 << Location::BITS);
            let back = Location::from_bits(location.bits());
            assert_eq!((back.handle(), back.offset()), (handle, offset));
        }
    }

    #[test]
    fn a_later_segment_comes_after_everything_in_an_earlier_one() {
        assert!(Position::new(2, 0) >= Position::new(1, MAX_SEGMENT));
        assert!(Position::new(2, 64) > Position::new(1, MAX_SEGMENT));
    }
}
