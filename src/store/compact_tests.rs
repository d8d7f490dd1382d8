//! Compaction through the store's blocking face: what is gone stays gone, what is there stays there, whatever is
//! compacted in whatever order, and whenever the process or the machine ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::super::options::Options;
use super::super::round::Step;
use super::super::segment::Segment;
use super::super::write::{Expect, NewBody, Outcome, Write};
use super::Db;

/// No expiry.
const NEVER: u64 = 0;

fn options(dir: &Path) -> Options {
    Options { segment_bytes: 1 << 20, cache_bytes: 1 << 20, compression: false, ..Options::new(dir) }
}

fn open(dir: &Path) -> Db {
    Db::open(options(dir)).unwrap()
}

/// A directory in memory, where there is one: syncing is not what is tested here.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A store that compacts what it is told to only.
fn tame(dir: &Path) -> Db {
    let db = open(dir);
    db.core.compaction.bell.stop();
    let mut threads = db.threads.lock().unwrap();
    let compactor = threads.iter().position(|thread| thread.thread().name() == Some("compactor")).unwrap();
    threads.remove(compactor).join().unwrap();
    drop(threads);
    db
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

fn put_until(db: &Db, key: &[u8], value: &[u8], expires: u64) {
    let write = Write {
        key: db.key(key),
        flags: 7,
        expires,
        marks: 0,
        cas: None,
        body: NewBody::Inline(value),
        expect: Expect::Anything,
    };
    let mut scratch = super::super::lookup::Scratch::default();
    assert!(matches!(db.write(&write, &mut scratch).unwrap(), Outcome::Done { .. }));
}

/// Ends the active segment; tells its number.
fn rotate(db: &Db) -> u32 {
    let before = db.core.log.active_order();
    db.core.seal_active().unwrap();
    db.core.sync_all().unwrap();
    let all = db.core.log.segments.all();
    all.iter().find(|segment| segment.order == before && !segment.compacted).unwrap().number
}

/// The directory as a crash would leave it now.
fn copied(dir: &Path) -> tempfile::TempDir {
    let to = scratch();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
    }
    to
}

fn compact(db: &Db, numbers: &[u32]) {
    db.core.compact_segments(numbers, &|_| ()).unwrap();
}

fn numbers(db: &Db) -> Vec<u32> {
    let active = db.core.log.active_order();
    let all = db.core.log.segments.all();
    all.iter().filter(|segment| segment.compacted || segment.order < active).map(|segment| segment.number).collect()
}

/// Bytes of the log's files.
fn log_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let logs = entries.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".log"));
    logs.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_was_overwritten_gives_its_space_back_and_the_rest_stays() {
    let dir = scratch();
    let db = tame(dir.path());
    for round in 0..5_u64 {
        for number in 0..1000_u64 {
            db.put(&number.to_le_bytes(), &noise(1000, number * 10 + round)).unwrap();
        }
    }
    assert!(log_bytes(dir.path()) > 5_000_000);
    db.compact().unwrap();
    let live = 1000 * (24 + 8 + 1000);
    // The active segment and the spare have their room reserved.
    let most = live + live / 20 + 2 * (1 << 20);
    assert!(log_bytes(dir.path()) <= most, "{} bytes", log_bytes(dir.path()));
    for _ in 0..2 {
        let crashed = copied(dir.path());
        let again = open(crashed.path());
        for db in [&db, &again] {
            for number in 0..1000_u64 {
                assert_eq!(db.get(&number.to_le_bytes()).unwrap().unwrap(), noise(1000, number * 10 + 4));
            }
        }
    }
    let figures = db.core.compaction.counters.segments_removed.load(std::sync::atomic::Ordering::Relaxed);
    assert!(figures >= 4);
}

#[test]
fn a_write_on_condition_holds_over_a_move() {
    let dir = scratch();
    let db = tame(dir.path());
    db.put(b"key", b"value").unwrap();
    let number = rotate(&db);
    let key = db.key(b"key");
    let mut scratch = super::super::lookup::Scratch::default();
    for round in 0..2 {
        let super::Lookup::Hit(seen, cas) = db.lookup(&key, db.now(), None, &mut scratch, |record| record.cas).unwrap()
        else {
            panic!("the key is there")
        };
        let write = Write {
            key,
            flags: 0,
            expires: NEVER,
            marks: 0,
            cas: Some(cas),
            body: NewBody::Inline(b"new"),
            expect: Expect::Unchanged(seen),
        };
        if round == 0 {
            compact(&db, &[number]);
            // What it saw has moved: it has to look again, and will then find it.
            assert!(matches!(db.write(&write, &mut scratch).unwrap(), Outcome::Conflict));
        } else {
            assert!(matches!(db.write(&write, &mut scratch).unwrap(), Outcome::Done { .. }));
        }
    }
    assert_eq!(db.get(b"key").unwrap().unwrap(), b"new");
}

/// All orders in which `items` can stand.
fn orders<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.len() < 2 {
        return vec![items.to_vec()];
    }
    let mut all = Vec::new();
    for at in 0..items.len() {
        let mut rest = items.to_vec();
        let first = rest.remove(at);
        all.extend(orders(&rest).into_iter().map(|order| [vec![first.clone()], order].concat()));
    }
    all
}

/// Makes one key go, in one of the ways there are.
type Ending = fn(&Db);

const ENDINGS: [(&str, Ending); 5] = [
    ("delete", |db| assert!(db.delete(b"key").unwrap())),
    ("expire", |db| put_until(db, b"key", b"expired", 1)),
    ("expire, seen", |db| {
        put_until(db, b"key", b"expired", 1);
        assert_eq!(db.get(b"key").unwrap(), None);
    }),
    ("flush_all", |db| {
        db.flush_all(None).unwrap();
    }),
    ("set and delete", |db| {
        put_until(db, b"key", b"again", NEVER);
        assert!(db.delete(b"key").unwrap());
    }),
];

#[test]
fn a_key_that_is_gone_stays_gone_in_whatever_order_segments_are_compacted() {
    let mut looks = 0;
    for (name, end) in ENDINGS {
        for (number, order) in orders(&[0, 1, 2, 3]).iter().enumerate() {
            looks += stays_gone(name, end, order, 1 + number % 2);
        }
    }
    println!("starts without the key: {looks} of {looks}");
    assert_eq!(looks, ENDINGS.len() * (12 * 4 + 12 * 2) * 2);
}

/// Four segments: two with values of the key, one in which it ends, one with others. Compacts them in an order, one or
/// two at a time, and looks for the key after each round, in a copy that is opened anew. Returns how often it looked.
fn stays_gone(name: &str, end: Ending, order: &[usize], together: usize) -> usize {
    let dir = scratch();
    let db = tame(dir.path());
    let mut segments = Vec::new();
    for value in [&b"first"[..], b"second"] {
        db.put(b"key", value).unwrap();
        db.put(value, value).unwrap();
        segments.push(rotate(&db));
    }
    end(&db);
    db.put(b"third", b"third").unwrap();
    segments.push(rotate(&db));
    db.put(b"other", b"other").unwrap();
    segments.push(rotate(&db));
    let mut looks = 0;
    for round in order.chunks(together) {
        let there = numbers(&db);
        let sources: Vec<u32> = round.iter().map(|&at| segments[at]).filter(|number| there.contains(number)).collect();
        compact(&db, &sources);
        let crashed = copied(dir.path());
        let _ = std::fs::remove_file(crashed.path().join("CHECKPOINT"));
        let again = open(crashed.path());
        for db in [&db, &again] {
            assert_eq!(db.get(b"key").unwrap(), None, "{name}, order {order:?}, {together} at a time");
            assert_eq!(db.get(b"other").unwrap().unwrap(), b"other");
            assert_eq!(db.get(b"third").unwrap().unwrap(), b"third");
            looks += 1;
        }
    }
    looks
}

#[test]
fn spent_tombstones_go_and_those_that_hide_something_stay() {
    let dir = scratch();
    let db = tame(dir.path());
    db.put(b"key", b"value").unwrap();
    db.put(b"other", b"value").unwrap();
    let first = rotate(&db);
    db.delete(b"key").unwrap();
    let second = rotate(&db);
    compact(&db, &[second]);
    let graves = || {
        db.core.log.segments.all().iter().map(|s| db.core.log.segments.usage(s.handle).figures().graves).sum::<u64>()
    };
    assert_eq!(graves(), 32, "the first segment has a value of the key");
    compact(&db, &[first]);
    let kept = numbers(&db);
    compact(&db, &kept);
    assert_eq!(graves(), 0);
    assert_eq!(db.get(b"other").unwrap().unwrap(), b"value");
}

#[test]
fn a_segment_that_is_unlinked_already_or_cannot_be_read_is_in_nobodys_way() {
    let dir = scratch();
    let db = tame(dir.path());
    let keys = [&b"unlinked"[..], b"unreadable", b"sound"];
    let segments: Vec<u32> = keys
        .iter()
        .map(|key| {
            db.put(key, b"old").unwrap();
            db.put(key, b"new").unwrap();
            rotate(&db)
        })
        .collect();
    let table = &db.core.log.segments;
    let of = |number: u32| table.all().into_iter().find(|segment| segment.number == number).unwrap();
    // As a round leaves it that could not sync the directory.
    std::fs::remove_file(&of(segments[0]).path).unwrap();
    // Whatever is read of a directory is an error.
    let Segment { handle, number, order, salt, version, .. } = *of(segments[1]);
    let (path, file) = (of(segments[1]).path.clone(), std::fs::File::open(dir.path()).unwrap());
    let (compacted, mended, damaged) = (false, false, false.into());
    let (size, end) = ((1 << 20).into(), 0.into());
    let unreadable =
        Segment { file, path, handle, number, order, salt, version, compacted, mended, size, end, damaged };
    table.remove(&of(segments[1]));
    table.add(&Arc::new(unreadable));
    db.compact().unwrap();
    let left = numbers(&db);
    assert!(!left.contains(&segments[0]) && !left.contains(&segments[2]), "{left:?} of {segments:?}");
    assert!(left.contains(&segments[1]) && of(segments[1]).is_damaged());
    for key in [&b"unlinked"[..], b"sound"] {
        assert_eq!(db.get(key).unwrap().unwrap(), b"new");
    }
}

#[test]
fn what_was_compacted_outlives_the_loss_of_the_newest_segment() {
    let dir = scratch();
    let db = tame(dir.path());
    let keys = [&b"first"[..], b"second", b"third"];
    let segments: Vec<u32> = keys
        .iter()
        .map(|key| {
            db.put(key, key).unwrap();
            rotate(&db)
        })
        .collect();
    compact(&db, &segments[1..]);
    let active = db.core.log.active_order();
    let crashed = copied(dir.path());
    for segment in db.core.log.segments.all().iter().filter(|segment| segment.order >= active) {
        std::fs::remove_file(crashed.path().join(segment.path.file_name().unwrap())).unwrap();
    }
    for _ in 0..2 {
        let again = open(crashed.path());
        again.compact().unwrap();
        for key in keys {
            assert_eq!(again.get(key).unwrap().as_deref(), Some(key));
        }
    }
}

/// A crash before the sources of a round were removed, and then the newest segment is lost: the last one of the log is a
/// source, and what is appended must not stand before the copies.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_is_written_beside_a_copy_of_the_last_segment_is_newer() {
    let dir = scratch();
    let db = tame(dir.path());
    db.put(b"key", b"old").unwrap();
    db.put(b"other", b"other").unwrap();
    let source = rotate(&db);
    let states = RefCell::new(Vec::new());
    let see = |step| states.borrow_mut().push((step, copied(dir.path())));
    db.core.compact_segments(&[source], &see).unwrap();
    let states = states.into_inner();
    let (_, crashed) = states.iter().find(|(step, _)| *step == Step::Settled).unwrap();
    let active = db.core.log.active_order();
    for segment in db.core.log.segments.all().iter().filter(|segment| segment.order >= active) {
        std::fs::remove_file(crashed.path().join(segment.path.file_name().unwrap())).unwrap();
    }
    let again = tame(crashed.path());
    again.put(b"key", b"new").unwrap();
    again.delete(b"other").unwrap();
    again.flush().unwrap();
    let replayed = open(copied(crashed.path()).path());
    for db in [&again, &replayed] {
        assert_eq!(db.get(b"key").unwrap().as_deref(), Some(&b"new"[..]));
        assert_eq!(db.get(b"other").unwrap(), None);
    }
}

#[test]
#[cfg(not(feature = "tiny-tags"))] // Of 300 keys, two may be taken for one another.
fn a_crash_at_any_step_of_a_round_loses_nothing_and_brings_nothing_back() {
    let dir = scratch();
    let db = tame(dir.path());
    let mut model = BTreeMap::new();
    let mut sealed = Vec::new();
    for part in 0..4_u64 {
        for number in 0..200 {
            let key = (number * 7 + part * 31) % 300;
            if (number + part) % 5 == 0 {
                db.delete(&key.to_le_bytes()).unwrap();
                model.insert(key, None);
            } else {
                let value = noise(500, number + part * 1000);
                db.put(&key.to_le_bytes(), &value).unwrap();
                model.insert(key, Some(value));
            }
        }
        sealed.push(rotate(&db));
    }
    let states = RefCell::new(Vec::new());
    let see = |step| states.borrow_mut().push((step, copied(dir.path())));
    db.core.compact_segments(&sealed[1..3], &see).unwrap();
    db.core.compact_segments(&sealed[..1], &see).unwrap();
    let states = states.into_inner();
    let steps: Vec<Step> = states.iter().map(|(step, _)| *step).collect();
    for step in [Step::Copied, Step::Committed, Step::Swapped, Step::Settled, Step::Removed] {
        assert!(steps.contains(&step), "{step:?}");
    }
    for (step, state) in &states {
        for life in 0..2 {
            let again = open(state.path());
            for (key, value) in &model {
                assert_eq!(&again.get(&key.to_le_bytes()).unwrap(), value, "{step:?}, life {life}");
            }
            assert_eq!(again.stats().damaged_records, 0, "{step:?}");
            if life == 0 {
                again.compact().unwrap();
            }
        }
    }
    println!("states: {} of {}", states.len(), states.len());
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn writers_go_on_during_compaction() {
    let dir = scratch();
    let db = Arc::new(tame(dir.path()));
    let writers: Vec<_> = (0..2_u64)
        .map(|writer| {
            let db = db.clone();
            std::thread::spawn(move || {
                let mut last = BTreeMap::new();
                for step in 0..6000_u64 {
                    let key = (writer, step * 17 % 300);
                    let name = [key.0.to_le_bytes(), key.1.to_le_bytes()].concat();
                    if step % 7 == 3 {
                        db.delete(&name).unwrap();
                        last.insert(name, None);
                    } else {
                        let value = noise(600, step);
                        db.put(&name, &value).unwrap();
                        assert_eq!(db.get(&name).unwrap().as_ref(), Some(&value));
                        last.insert(name, Some(value));
                    }
                }
                last
            })
        })
        .collect();
    let mut rounds = 0;
    while !writers.iter().all(std::thread::JoinHandle::is_finished) {
        db.compact().unwrap();
        rounds += 1;
    }
    assert!(rounds > 0);
    let crashed = copied(dir.path());
    let again = open(crashed.path());
    for (name, value) in writers.into_iter().flat_map(|writer| writer.join().unwrap()) {
        assert_eq!(db.get(&name).unwrap(), value);
        assert_eq!(again.get(&name).unwrap(), value);
    }
}

#[test]
fn with_less_space_than_is_asked_for_nothing_is_compacted_and_nobody_waits() {
    let dir = scratch();
    let fill = |db: &Db| {
        for round in 0..40_u64 {
            (0..500_u64).for_each(|number| db.put(&number.to_le_bytes(), &noise(1000, number + round)).unwrap());
        }
    };
    let db = Db::open(options(dir.path()).compaction_free_space(u64::MAX)).unwrap();
    db.core.measure_space();
    fill(&db);
    assert!(db.compact().unwrap_err().to_string().contains("free-space-required"));
    assert_eq!(db.stats().compactions, 0);
    drop(db);
    // The control: where enough is free, the same is compacted.
    let db = Db::open(options(dir.path()).compaction_free_space(1)).unwrap();
    fill(&db);
    db.compact().unwrap();
    assert!(db.stats().compactions > 0 && log_bytes(dir.path()) < 4 << 20);
}
