//! Tests of the cache: it never shows a wrong entry, stays within its bytes, and keeps the hot set through a scan.

use super::*;
use crate::store::hash::Seed;
use proptest::prelude::*;
use std::collections::HashMap;

const FACTS: Facts =
    Facts { location: Location::FIRST, client_flags: 7, cas: 8, expires: 9, large: false, marks: 0, accessed: 0 };

fn key(number: u64) -> (Hash, [u8; 8]) {
    let bytes = number.to_le_bytes();
    (Seed([1, 2]).hash(&bytes), bytes)
}

fn present(cache: &Cache, number: u64) -> bool {
    let (hash, bytes) = key(number);
    cache.get(hash, &bytes, (Access::Look, 0), |_, _| ()).is_some()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn an_entry_is_the_newest_or_absent(steps in proptest::collection::vec((0_u64..400, 0_usize..9000, 0..3_u8), 1..3000)) {
        let cache = Cache::new(512 << 10).unwrap();
        let mut model: HashMap<u64, (u64, Vec<u8>)> = HashMap::new();
        for (step, (number, len, what)) in steps.into_iter().enumerate() {
            let (hash, bytes) = key(number);
            match what {
                0 => {
                    cache.remove(hash);
                    prop_assert!(!present(&cache, number));
                }
                1 => {
                    let value = vec![step as u8; len];
                    cache.insert(hash, &bytes, &value, Facts { cas: step as u64, ..FACTS });
                    model.insert(number, (step as u64, value));
                }
                _ => {
                    cache.get(hash, &bytes, (Access::Look, 0), |cached, facts| {
                        let (cas, value) = &model[&number];
                        assert_eq!((facts.cas, cached), (*cas, &value[..]));
                        assert_eq!(facts, Facts { cas: *cas, ..FACTS });
                    });
                }
            }
            prop_assert!(cache.used() <= 512 << 10);
        }
    }
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_scan_does_not_drive_out_what_is_read_often() {
    let cache = Cache::new(4 << 20).unwrap();
    let value = [1; 400];
    for round in 0..4 {
        for number in 0..2000 {
            let (hash, bytes) = key(number);
            if !present(&cache, number) {
                assert!(round < 3, "key {number} should have stayed");
                cache.insert(hash, &bytes, &value, FACTS);
            }
        }
    }
    for number in 10_000..60_000 {
        let (hash, bytes) = key(number);
        cache.insert(hash, &bytes, &value, FACTS);
    }
    let kept = (0..2000).filter(|&number| present(&cache, number)).count();
    assert!(kept >= 1900, "{kept} of 2000 hot entries survived the scan");
}

#[test]
fn a_cache_too_small_to_be_of_use_holds_nothing() {
    let cache = Cache::new(1000).unwrap();
    let (hash, bytes) = key(1);
    cache.insert(hash, &bytes, b"v", FACTS);
    assert!(!present(&cache, 1));
    assert_eq!(cache.used(), 0);
}

/// The table is full before the ring is, and what must go to make a row free goes round once more instead: the room
/// behind it, which was enough, is then in two pieces.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn there_is_room_in_one_piece_after_others_went_round() {
    let ring = || Ring::new(4096, false).unwrap();
    let (tables, ghosts) = (Tables::new(1, 64), vec![0; 32].into_boxed_slice());
    let mut shard = Shard { tables, small: ring(), main: ring(), ghosts, counts: (0, 0) };
    for number in 0..40 {
        let (hash, bytes) = key(number);
        shard.append(true, Header::new(hash.tag, 8, 24, FACTS), &bytes, &[1; 24]);
        if number < 5 {
            let place = shard.tables.find(hash.tag).unwrap();
            shard.main.touch(place.at, MOST_READS);
        }
    }
    assert!(shard.tables.is_full());
    let (hash, bytes) = key(100);
    let header = Header::new(hash.tag, 8, 1140, FACTS);
    assert!(shard.main.has_room(header.len()) && !shard.main.has_room(header.len() + 100));
    shard.append(true, header, &bytes, &[2; 1140]);
    let place = shard.tables.find(hash.tag).unwrap();
    assert_eq!(shard.main.entry(place.at).2, [2; 1140]);
}
