//! Giving up the oldest segment: what it costs, when it is not done, and what a crash amid it brings back.

use super::*;
use crate::store::Db;
use crate::store::lookup::{Body, Lookup, Record, Scratch};
use crate::store::options::{Options, Severity};
use crate::store::recovery::tests::{noise, options, scratch};
use crate::store::snapshot::Snapshot;
use crate::store::write::{Expect, NewBody, Write};
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

/// A cache of 64 MiB.
fn small_cache(dir: &Path) -> Db {
    Db::open(Options { max_size: 64 << 20, free_space_floor: Some(4 << 20), ..cache(dir) }).unwrap()
}

const LARGE: usize = 200_000;

fn put_large(db: &Db, number: u64) {
    db.put(&number.to_le_bytes(), &noise(LARGE, number)).unwrap();
}

/// Writes the record of a large value anew, if it is there.
fn touch(db: &Db, number: u64) {
    let (key, mut scratch, mut fetched) = (number.to_le_bytes(), Scratch::default(), None);
    let key = db.key(&key);
    db.wait_for_room();
    let (seen, large) = loop {
        let visit = |record: Record<'_>| match record.body {
            Body::Large(large) => large.clone(),
            Body::Inline(_) => panic!("all are large"),
        };
        match db.lookup(&key, db.now(), fetched.as_ref(), &mut scratch, visit).unwrap() {
            Lookup::Hit(seen, large) => break (seen, large),
            Lookup::Cold(read) => fetched = Some(read.run()),
            Lookup::Miss(_) => return,
        }
    };
    let (body, expect) = (NewBody::Same(&large), Expect::Unchanged(seen));
    let _ = db.write(&Write { key, flags: 0, expires: 0, marks: 0, cas: None, body, expect }, &mut scratch).unwrap();
    db.write_out();
}

/// Tells how many MiB of large values are there.
fn kept(db: &Db) -> u64 {
    (db.stats().items * LARGE as u64) >> 20
}

/// Each touch moves a name to the newest segment; that one does not take everything with it when its time comes.
#[test]
fn a_cache_whose_large_values_are_touched_keeps_most_of_them() {
    let dir = scratch();
    let db = small_cache(dir.path());
    let first = (0..).find(|&number| {
        put_large(&db, number);
        db.core().counters.evicted.load(Relaxed) > 0
    });
    let first = first.unwrap();
    let mut least = kept(&db);
    for number in first + 1..first + 201 {
        if number % 10 == 0 {
            (number - first..number).for_each(|number| touch(&db, number));
        }
        put_large(&db, number);
        least = least.min(kept(&db));
    }
    let (evicted, segments) =
        (db.core().counters.evicted.load(Relaxed), db.core().counters.evicted_segments.load(Relaxed));
    println!("at least {least} MiB of 64 are there; {evicted} values of {segments} segments given up");
    assert!(least >= 44 && segments > 0, "{least} MiB");
}

/// However much of the disk it takes: it is one, and what is written beside it takes no segment each.
#[test]
fn a_large_value_that_is_touched_again_and_again_ends_no_segments() {
    let dir = scratch();
    let db = small_cache(dir.path());
    db.put(&0_u64.to_le_bytes(), &noise(4 << 20, 0)).unwrap();
    for number in 1..500_u64 {
        touch(&db, 0);
        db.put(&number.to_le_bytes(), b"small").unwrap();
    }
    assert!(db.core().log.segments.last_number() < 3, "{}", db.core().log.segments.last_number());
}

/// If all of it is read again and again, something goes all the same; and of what nobody reads, the oldest.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn large_values_go_in_their_order_but_for_those_that_are_read() {
    let dir = scratch();
    let (cache_bytes, max_size) = (4 << 20, 64 << 20);
    let db = Db::open(Options { cache_bytes, max_size, ..cache(dir.path()) }).unwrap();
    let is_there = |number: u64| db.get(&number.to_le_bytes()).unwrap().is_some();
    let mut hot = 0;
    for number in 0..1000 {
        put_large(&db, number);
        hot = (0..10).filter(|&hot| is_there(hot)).count();
    }
    let kept = db.stats().items;
    println!("{hot} of 10 that are read are there, {} spared", db.core().counters.spared.load(Relaxed));
    assert!(hot == 10 && kept > 200, "{kept} are there");
    let newest = (1000 - kept + 20..1000).filter(|&number| is_there(number)).count() as u64;
    // Of a segment's values, which lie there in another order, a quarter more may go than must, or others in place of these.
    assert!(newest + 20 >= kept - 20, "{newest} of {kept} that are there");
    for number in 1000..1100 {
        let read = (number - 300..number).filter(|&number| is_there(number)).count();
        assert!(read > 200, "{read} are there");
        put_large(&db, number);
    }
}

/// Rounds of compaction gather what is left of many segments in one.
#[test]
fn a_cache_whose_large_values_are_replaced_keeps_most_of_them() {
    let dir = scratch();
    let db = small_cache(dir.path());
    let (mut least, mut state) = (u64::MAX, 1_u64);
    for number in 0..3000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        put_large(&db, (state >> 33) % 400);
        if number % 10 == 0 {
            db.delete(&((state >> 40) % 400).to_le_bytes()).unwrap();
        }
        if number % 300 == 0 {
            db.compact().unwrap();
        }
        if number > 1000 {
            least = least.min(kept(&db));
        }
    }
    let segments = db.core().counters.evicted_segments.load(Relaxed);
    println!("at least {least} MiB of 64 are there; {segments} segments given up");
    assert!(segments > 0);
    assert!(least >= 40, "{least} MiB");
}

/// What never comes leaves nothing behind.
#[test]
fn uploads_that_die_end_no_segments() {
    let dir = scratch();
    let db = small_cache(dir.path());
    for _ in 0..50 {
        drop(db.upload(10 << 20).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(db.core().log.segments.last_number() < 2, "{}", db.core().log.segments.last_number());
}

/// The same of large values, whose segments are short.
#[test]
fn what_a_backup_has_linked_of_large_values_is_given_up_on_the_way_to_others() {
    let dir = scratch();
    let db = Db::open(cache(dir.path())).unwrap();
    for number in 0..3 {
        put_large(&db, number);
        db.core().seal_active().unwrap();
        if number == 0 {
            std::fs::hard_link(dir.path().join("00000000.log"), dir.path().join("backup")).unwrap();
        }
        assert_eq!(db.core().evicts_in_vain(), number < 2, "{number} behind it");
    }
}

/// There is never room for one beside the values.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_full_cache_of_many_keys_gets_an_index_checkpoint() {
    let dir = scratch();
    let db = small_cache(dir.path());
    let mut numbers = 0_u64..;
    let mut put = || numbers.next().map(|number| db.put(&number.to_le_bytes(), &noise(230, number)).unwrap());
    while db.core().counters.evicted.load(Relaxed) == 0 {
        put();
    }
    assert!(!dir.path().join("CHECKPOINT").exists());
    // As if that much had been written since.
    db.core().compaction.counters.bytes_written.fetch_add(1 << 30, Relaxed);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !dir.path().join("CHECKPOINT").exists() {
        assert!(
            std::time::Instant::now() < deadline,
            "of {} keys, {} MiB left",
            db.stats().items,
            db.core().space.headroom() >> 20
        );
        put();
        // Where values always outrun the compactor, there is never room for more than the next of them.
        while db.core().needs_room() && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// The files of what is small count as gone at the cache's own limit, whoever reads them: those of short segments, too.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_snapshot_of_a_cache_whose_oldest_segment_is_short_refuses_nothing() {
    let dir = scratch();
    let db = small_cache(dir.path());
    db.put(b"first", b"value").unwrap();
    db.core().seal_active().unwrap();
    let snapshot: Snapshot = db.snapshot().unwrap();
    for number in 0..5000_u64 {
        db.put(&number.to_le_bytes(), &noise(20_000, number)).unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    assert!(db.core().counters.evicted.load(Relaxed) > 1000);
    drop(snapshot);
}

/// Puts values of 20,000 bytes, no faster than the compactor makes room.
#[cfg(not(feature = "tiny-tags"))]
fn put_many(db: &Db, count: u64) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    for number in 0..count {
        db.put(&number.to_le_bytes(), &noise(20_000, number)).unwrap_or_else(|error| panic!("{number}: {error}"));
        while number % 10 == 0 && db.core().needs_room() {
            assert!(std::time::Instant::now() < deadline, "room is made: {number}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// However little is left: one that goes gives about a 32nd of the disk, and there are not many more of them than that.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn segments_of_a_full_cache_have_their_usual_size() {
    let dir = scratch();
    let db = Db::open(Options { max_size: 128 << 20, segment_bytes: 64 << 20, ..cache(dir.path()) }).unwrap();
    put_many(&db, 9000);
    let (bytes, all) = (db.core().index.bytes() >> 20, db.core().log.segments.all());
    let lens: Vec<u64> = all.iter().map(|segment| segment.file.metadata().unwrap().len() >> 10).collect();
    println!("{bytes} MiB in segments of KiB: {lens:?}");
    assert!(all.len() < 64 && bytes > 100, "{} segments", all.len());
}

/// Where there is room for more of them, but no name.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_cache_of_all_the_segments_that_there_can_be_goes_on() {
    let dir = scratch();
    let db = Db::open(cache(dir.path())).unwrap();
    db.core().log.segments.few.store(96, Relaxed);
    put_many(&db, 5000);
    assert!(db.core().counters.evicted_segments.load(Relaxed) > 10);
    assert!(db.stats().items > 2500, "{}", db.stats().items);
}
