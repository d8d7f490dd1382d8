//! Tests of the cache: it never shows a wrong entry, stays within its bytes, and keeps the hot set through a scan.

use super::*;
use crate::store::hash::Seed;
use proptest::prelude::*;
use std::collections::HashMap;

const FACTS: Facts = Facts {
    client_flags: 7,
    cas: 8,
    expires: 9,
    large: false,
};

fn key(number: u64) -> (Hash, [u8; 8]) {
    let bytes = number.to_le_bytes();
    (Seed([1, 2]).hash(&bytes), bytes)
}

fn location(step: u64) -> Location {
    Location::from_bits(8 + step)
}

fn present(cache: &Cache, number: u64, at: Location) -> bool {
    let (hash, bytes) = key(number);
    cache
        .get(hash, at, |found, _, _| assert_eq!(found, bytes))
        .is_some()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn an_entry_is_right_or_absent(steps in proptest::collection::vec((0_u64..400, 0_usize..9000, 0..3_u8), 1..3000)) {
        let cache = Cache::new(512 << 10);
        let mut model: HashMap<u64, (Location, Vec<u8>)> = HashMap::new();
        for (step, (number, len, what)) in steps.into_iter().enumerate() {
            let (hash, bytes) = key(number);
            let known = model.get(&number).map(|(at, _)| *at);
            if what == 0 {
                if let Some(at) = known {
                    cache.remove(hash, at);
                    prop_assert!(!present(&cache, number, at));
                }
            } else if what == 1 {
                let value = vec![step as u8; len];
                let at = location(step as u64);
                cache.insert(hash, at, known, &bytes, &value, Facts { cas: step as u64, ..FACTS });
                if let Some(old) = known {
                    prop_assert!(!present(&cache, number, old));
                }
                model.insert(number, (at, value));
            } else if let Some((at, value)) = model.get(&number) {
                cache.get(hash, *at, |found, cached, facts| {
                    assert_eq!((found, cached), (&bytes[..], &value[..]));
                    assert_eq!(facts.client_flags, 7);
                });
            }
            prop_assert!(cache.used() <= 512 << 10);
        }
    }
}

#[test]
fn a_scan_does_not_drive_out_what_is_read_often() {
    let cache = Cache::new(4 << 20);
    let value = [1; 400];
    for round in 0..4 {
        for number in 0..2000 {
            let (hash, bytes) = key(number);
            if !present(&cache, number, location(number)) {
                assert!(round < 3, "key {number} should have stayed");
                cache.insert(hash, location(number), None, &bytes, &value, FACTS);
            }
        }
    }
    for number in 10_000..60_000 {
        let (hash, bytes) = key(number);
        cache.insert(hash, location(number), None, &bytes, &value, FACTS);
    }
    let kept = (0..2000)
        .filter(|&number| present(&cache, number, location(number)))
        .count();
    assert!(kept >= 1900, "{kept} of 2000 hot entries survived the scan");
}

#[test]
fn a_cache_too_small_to_be_of_use_holds_nothing() {
    let cache = Cache::new(1000);
    let (hash, bytes) = key(1);
    cache.insert(hash, location(1), None, &bytes, b"v", FACTS);
    assert!(!present(&cache, 1, location(1)));
    assert_eq!(cache.used(), 0);
}
