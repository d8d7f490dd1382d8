//! Giving up the oldest segment: what it costs, when it is not done, and what a crash amid it brings back.

use super::*;
use crate::store::Db;
use crate::store::options::{Options, Severity};
use crate::store::recovery::tests::{noise, options, scratch};
use crate::store::snapshot::Snapshot;
use std::path::Path;
use std::sync::atomic::AtomicUsize;

/// A cache, whose values come in by segments of 1 MiB.
fn cache(dir: &Path) -> Options {
    Options { evict: true, ..options(dir) }
}

/// As long as a crash can bring a value back, whoever removes it is not told that it is not there.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_is_missing_while_its_segment_goes_stays_gone() {
    let dir = scratch();
    let db = Db::open(cache(dir.path())).unwrap();
    (0..100_u8).for_each(|number| db.put(&[number], b"value").unwrap());
    db.core().seal_active().unwrap();
    let (core, first) = (db.core(), dir.path().join("00000000.log"));
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            while !over.load(Relaxed) {
                let missing = db.get(&[99]).unwrap().is_none();
                assert!(!missing || !first.exists(), "the file is there, and the value is not");
            }
        });
        {
            let _rounds = core.hold_rounds();
            core.evict().unwrap().expect("a segment that is given up");
        }
        over.store(true, Relaxed);
        watching.join().unwrap();
    });
    assert!((0..100_u8).all(|number| db.get(&[number]).unwrap().is_none()));
    assert_eq!(core.counters.evicted.load(Relaxed), 100);
}

/// A snapshot keeps what large values take, whatever limit there is: nothing comes of giving them up.
#[test]
fn a_snapshot_does_not_cost_a_cache_of_large_values_all_it_has() {
    let dir = scratch();
    let refused = Arc::new(AtomicUsize::new(0));
    let seen = refused.clone();
    let report = Arc::new(move |severity, _: &str| _ = seen.fetch_add((severity == Severity::Error) as usize, Relaxed));
    let db =
        Db::open(Options { max_size: 64 << 20, free_space_floor: Some(4 << 20), report, ..cache(dir.path()) }).unwrap();
    let put = |number: u64| db.put(&number.to_le_bytes(), &noise(1 << 20, number));
    (0..20).for_each(|number| put(number).unwrap());
    let snapshot: Snapshot = db.snapshot().unwrap();
    let last = (20..200).find(|&number| put(number).is_err());
    assert!(last.is_some_and(|last| last > 40), "values come in until there is no room: {last:?}");
    assert_eq!(db.core().counters.evicted_segments.load(Relaxed), 0);
    assert!((0..20_u64).all(|number| db.get(&number.to_le_bytes()).unwrap().is_some()));
    assert!(refused.load(Relaxed) > 0, "that is told");
    drop(snapshot);
    // Now values are given up, and others come in.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while put(1000).is_err() {
        assert!(std::time::Instant::now() < deadline, "the cache goes on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    (1001..1100).for_each(|number| put(number).unwrap());
    assert!(db.core().counters.evicted_segments.load(Relaxed) > 0);
}

/// A backup on the same file system names the oldest segments, too: those behind them give room all the same.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_a_backup_has_linked_is_given_up_on_the_way_to_what_gives_room() {
    let dir = scratch();
    let db = Db::open(cache(dir.path())).unwrap();
    assert!(!db.core().evicts_in_vain(), "one that is written to can be ended");
    db.put(b"first", b"value").unwrap();
    db.core().seal_active().unwrap();
    assert!(!db.core().evicts_in_vain());
    std::fs::hard_link(dir.path().join("00000000.log"), dir.path().join("backup")).unwrap();
    db.put(b"second", b"value").unwrap();
    db.core().seal_active().unwrap();
    assert!(db.core().evicts_in_vain(), "there is hardly anything else");
    (0..3000_u64).for_each(|number| db.put(&number.to_le_bytes(), &noise(1000, number)).unwrap());
    db.core().seal_active().unwrap();
    assert!(!db.core().evicts_in_vain());
}
