//! Who reads which large value: the ranges in use, so that none of them is given back. Any thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The place of a range: number of its file, and its start.
type Place = (u32, u64);

/// All leases of a store.
#[derive(Clone, Default)]
pub(crate) struct Leases(Arc<Mutex<HashMap<Place, usize>>>);

/// As long as it exists, its range stays.
pub(crate) struct Lease {
    leases: Leases,
    place: Place,
}

impl Leases {
    pub fn take(&self, place: Place) -> Lease {
        *super::lock(&self.0).entry(place).or_default() += 1;
        Lease { leases: self.clone(), place }
    }

    pub fn is_taken(&self, place: Place) -> bool {
        super::lock(&self.0).contains_key(&place)
    }

    /// Starts of the ranges of a file that are in use.
    pub fn of_file(&self, file: u32) -> Vec<u64> {
        super::lock(&self.0).keys().filter(|place| place.0 == file).map(|place| place.1).collect()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut all = super::lock(&self.leases.0);
        if let Some(count) = all.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.place);
            }
        }
    }
}
