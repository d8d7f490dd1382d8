//! Tombstones on their way through compaction, and expired records, which are as good as tombstones. One must be kept
//! as long as an older segment may hold a value of its key, which would come back at the next start without it.
//! For the compactor.

use std::sync::Arc;

use super::core::Core;
use super::error::Error;
use super::hash::Hash;
use super::pace::Pace;
use super::record::{Fields, Kind};
use super::segment::Segment;
use super::tags::{self, fingerprint};

/// Memory for those of one segment. What comes when it is full is kept unseen. Bytes.
const MOST: usize = 2 << 20;

/// The graves of one segment, until it is known which are spent.
#[derive(Default)]
pub(crate) struct Graves {
    found: Vec<Grave>,
    keys: Vec<u8>,
}

struct Grave {
    hash: Hash,
    sequence: u64,
    key: (u32, u32),
    /// An older segment may hold a value of the key.
    held: bool,
}

impl Graves {
    /// Takes one in. `false`: there is no room.
    pub fn add(&mut self, hash: Hash, fields: &Fields<'_>) -> bool {
        if (self.found.len() + 1) * size_of::<Grave>() + self.keys.len() + fields.key.len() > MOST {
            return false;
        }
        let key = (self.keys.len() as u32, fields.key.len() as u32);
        self.keys.extend_from_slice(fields.key);
        self.found.push(Grave { hash, sequence: fields.sequence, key, held: false });
        true
    }

    /// Finds out which are held by any of the segments `older`.
    pub fn ask(&mut self, core: &Core, older: &[Arc<Segment>], pace: &Pace) {
        self.keep_last_of_each_key();
        for segment in older {
            if self.found.iter().all(|grave| grave.held) {
                return;
            }
            match tags::of(segment, core, pace) {
                Ok(tags) => self.mark(&tags),
                Err(error) => self.hold_all(&error),
            }
        }
    }

    /// The tombstones to keep.
    pub fn held(&self) -> impl Iterator<Item = Fields<'_>> {
        let key = |grave: &Grave| &self.keys[grave.key.0 as usize..][..grave.key.1 as usize];
        self.found.iter().filter(|grave| grave.held).map(move |grave| tombstone(key(grave), grave.sequence))
    }

    /// Sorts by fingerprint.
    fn keep_last_of_each_key(&mut self) {
        let rank = |grave: &Grave| (fingerprint(grave.hash.tag), grave.hash.tag, grave.hash.place, grave.sequence);
        self.found.sort_unstable_by_key(rank);
        let keys = &self.keys;
        let key = |grave: &Grave| &keys[grave.key.0 as usize..][..grave.key.1 as usize];
        self.found.dedup_by(|later, kept| {
            let same = later.hash == kept.hash && key(later) == key(kept);
            if same {
                kept.sequence = later.sequence;
            }
            same
        });
    }

    fn mark(&mut self, tags: &[u32]) {
        let mut tags = tags.iter().peekable();
        for grave in &mut self.found {
            let wanted = fingerprint(grave.hash.tag);
            while tags.next_if(|&&tag| tag < wanted).is_some() {}
            grave.held |= tags.peek() == Some(&&wanted);
        }
    }

    /// A segment that cannot be read may hold every key.
    fn hold_all(&mut self, _error: &Error) {
        self.found.iter_mut().for_each(|grave| grave.held = true);
    }
}

/// The record that says that `key` has no value.
pub(crate) fn tombstone(key: &[u8], sequence: u64) -> Fields<'_> {
    Fields { key, ..Fields::control(Kind::Tombstone, b"", sequence) }
}
