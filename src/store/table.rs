//! Where a cache shard's entries stand: from a key's tag to a place in a ring. Many small tables, each of which
//! grows by itself, so that no insertion has much to move and rows in use stay close together in the processor's
//! caches. Used under the shard's lock.

use crate::sys::prefetch::prefetch;

/// Rows of a new table.
const FIRST_ROWS: usize = 64;

/// Where an entry stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// In the main queue, not the small one.
    pub main: bool,
    /// Offset in the queue's ring. Bytes, a multiple of 8, under 1 GiB.
    pub at: usize,
}

/// All tables of a shard.
pub(crate) struct Tables {
    tables: Box<[Table]>,
    used: usize,
    most: usize,
}

impl Tables {
    /// `tables` tables (a power of two) of at most `most_rows` rows each (a power of two).
    pub fn new(tables: usize, most_rows: usize) -> Tables {
        let most = tables * most_rows / 8 * 5;
        Tables { tables: (0..tables).map(|_| Table::new()).collect(), used: 0, most }
    }

    /// Entries must go before others come. (Tables fill evenly: long before one outgrows its share, all of them are
    /// full.)
    pub fn is_full(&self) -> bool {
        self.used >= self.most
    }

    pub fn find(&self, tag: u64) -> Option<Place> {
        self.tables[self.table_of(tag)].find(tag)
    }

    pub fn insert(&mut self, tag: u64, place: Place) {
        self.used += usize::from(self.tables[self.table_of(tag)].insert(tag, place));
    }

    pub fn remove(&mut self, tag: u64) -> Option<Place> {
        let place = self.tables[self.table_of(tag)].remove(tag);
        self.used -= usize::from(place.is_some());
        place
    }

    /// Brings the row that `find` will look at first near.
    pub fn prefetch(&self, tag: u64) {
        let table = &self.tables[self.table_of(tag)];
        prefetch(&table.rows[table.home(tag)]);
    }

    fn table_of(&self, tag: u64) -> usize {
        (tag >> 48) as usize & (self.tables.len() - 1)
    }
}

/// Open addressing with linear probing and no tombstones: a row is 36 bits of the key's tag, never all zero, ring
/// (1 bit), offset / 8 (27). Keys that agree in these bits push each other out: this is a cache.
struct Table {
    rows: Box<[u64]>,
    used: usize,
}

const EMPTY: u64 = 0;

impl Table {
    fn new() -> Table {
        Table { rows: vec![EMPTY; FIRST_ROWS].into_boxed_slice(), used: 0 }
    }

    fn is_loaded(&self) -> bool {
        self.used >= self.rows.len() / 4 * 3
    }

    fn grow(&mut self) {
        let rows = vec![EMPTY; self.rows.len() * 2].into_boxed_slice();
        let old = std::mem::replace(&mut self.rows, rows);
        self.used = 0;
        for packed in old.into_iter().filter(|&packed| packed != EMPTY) {
            self.insert(packed, place_of(packed));
        }
    }

    fn find(&self, tag: u64) -> Option<Place> {
        self.row_of(tag).ok().map(|row| place_of(self.rows[row]))
    }

    /// Tells whether the tag is new.
    fn insert(&mut self, tag: u64, place: Place) -> bool {
        if self.is_loaded() {
            self.grow();
        }
        let found = self.row_of(tag);
        let (Ok(row) | Err(row)) = found;
        self.rows[row] = pack(tag, place);
        self.used += usize::from(found.is_err());
        found.is_err()
    }

    /// Closes the gap by moving later rows of the same run back (Knuth, 6.4 algorithm R).
    fn remove(&mut self, tag: u64) -> Option<Place> {
        let mut gap = self.row_of(tag).ok()?;
        let place = place_of(self.rows[gap]);
        let mask = self.rows.len() - 1;
        let mut row = gap;
        loop {
            row = (row + 1) & mask;
            if self.rows[row] == EMPTY {
                break;
            }
            let home = self.home(self.rows[row]);
            if (row.wrapping_sub(home) & mask) >= (row.wrapping_sub(gap) & mask) {
                self.rows[gap] = self.rows[row];
                gap = row;
            }
        }
        self.rows[gap] = EMPTY;
        self.used -= 1;
        Some(place)
    }

    fn row_of(&self, tag: u64) -> Result<usize, usize> {
        let mask = self.rows.len() - 1;
        let mut row = self.home(tag);
        loop {
            match self.rows[row] {
                EMPTY => return Err(row),
                packed if short(packed) == short(tag) => return Ok(row),
                _ => row = (row + 1) & mask,
            }
        }
    }

    fn home(&self, tag: u64) -> usize {
        short(tag) as usize & (self.rows.len() - 1)
    }
}

/// The bits of a tag, or of a row, that tell keys apart.
fn short(tag: u64) -> u64 {
    (tag & ((1 << 36) - 1)).max(1)
}

fn pack(tag: u64, place: Place) -> u64 {
    let offset = (place.at / 8) as u64;
    assert!(offset < 1 << 27, "a ring is at most 1 GiB");
    short(tag) | u64::from(place.main) << 36 | offset << 37
}

fn place_of(packed: u64) -> Place {
    Place { main: (packed >> 36) & 1 != 0, at: (packed >> 37) as usize * 8 }
}
