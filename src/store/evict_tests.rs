//! Giving up the oldest segment: what it costs, when it is not done, and what a crash amid it brings back.

use super::*;
use crate::store::Db;
use crate::store::options::{Options, Severity};
use crate::store::recovery::tests::{copy, noise, options, scratch};
use crate::store::snapshot::Snapshot;
use std::path::Path;
use std::sync::atomic::AtomicUsize;

/// A cache, whose values come in by segments of 1 MiB.
fn cache(dir: &Path) -> Options {
    Options { evict: true, ..options(dir) }
}

/// The values of a segment that is being given up are off the index before its file is off the disk. Whoever removes one of
/// them in between is told that it is not there: a crash then must not bring it back.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_is_removed_while_its_segment_goes_stays_gone() {
    let dir = scratch();
    let db = Db::open(cache(dir.path())).unwrap();
    db.put(b"removed", b"value").unwrap();
    db.put(b"left", b"value").unwrap();
    db.core().seal_active().unwrap();
    let core = db.core();
    let image = {
        let _rounds = core.hold_rounds();
        let segment = core.log.segments.all().into_iter().next().unwrap();
        core.evicting.store(true, SeqCst);
        Eviction { core, segment, most: 0, unwritten: 0, now: core.time.now() }.run().unwrap();
        assert!(!db.delete(b"removed").unwrap(), "it is on the index no more");
        db.flush().unwrap();
        copy(dir.path())
    };
    let after = Db::open(cache(image.path())).unwrap();
    assert_eq!(after.get(b"removed").unwrap(), None);
    assert_eq!(after.get(b"left").unwrap().as_deref(), Some(&b"value"[..]), "nobody has removed this one");
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
