//! Tests of the whole store: what is written is found, again after a restart, and after the accidents that files
//! meet with. The store is ended without its clean end by forgetting it: its threads stay, its lock is taken off by
//! hand.

use super::*;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The smallest segments there are, so that tests rotate.
fn options(dir: &Path) -> Options {
    Options { segment_bytes: 1 << 20, cache_bytes: 1 << 20, ..Options::new(dir) }
}

fn open(dir: &Path) -> Db {
    Db::open(options(dir)).unwrap()
}

/// What a killed process leaves: every file as it is, copied to another directory.
fn crashed_copy(db: &Db) -> tempfile::TempDir {
    let _no_round = db.core.compaction.hold();
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&db.core.options.path).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, copy.path().join(from.file_name().unwrap())).unwrap();
    }
    copy
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// The segment files, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|end| end == "log"));
    all.sort();
    all
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn values_of_all_kinds_are_found_again_after_a_clean_end_and_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = HashMap::new();
    let db = open(dir.path());
    for number in 0..3000_u64 {
        let len = [0, 1, 30, 511, 512, 700, 4000, 9000][number as usize % 8];
        let value = if number % 2 == 0 { noise(len, number) } else { vec![b'x'; len] };
        db.put(&number.to_le_bytes(), &value).unwrap();
        model.insert(number.to_le_bytes(), value);
    }
    for (number, len) in [(1, CHUNK), (2, CHUNK + 1), (3, 3 * CHUNK), (4, 1 << 20), (5, (1 << 20) - 1)] {
        let value = if number % 2 == 0 { noise(len, number) } else { vec![b'y'; len] };
        db.put(&number.to_le_bytes(), &value).unwrap();
        model.insert(number.to_le_bytes(), value);
    }
    for number in (0..3000_u64).step_by(7) {
        assert!(db.delete(&number.to_le_bytes()).unwrap());
        assert!(!db.delete(&number.to_le_bytes()).unwrap());
        model.remove(&number.to_le_bytes());
    }
    let same = |db: &Db| {
        for number in 0..3000_u64 {
            let key = number.to_le_bytes();
            assert!(db.get(&key).unwrap().as_ref() == model.get(&key), "key {number}");
        }
        assert_eq!(db.stats().items, model.len() as u64);
        assert_eq!(db.stats().damaged_records, 0);
    };
    same(&db);
    assert!(segments(dir.path()).len() > 2, "the log went over several segments");
    let crash = crashed_copy(&db);
    db.close().unwrap();
    drop(db);
    same(&open(dir.path()));
    same(&open(crash.path()));
    same(&open(crash.path()));
}

#[test]
fn a_torn_tail_is_cut_and_the_store_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    // No sync comes in between, so no checkpoint vouches for the tail.
    let db = Db::open(Options { sync: crate::Sync::None, ..options(dir.path()) }).unwrap();
    db.put(b"first", b"1").unwrap();
    db.put(b"second", &noise(300, 2)).unwrap();
    let end = db.core.log.end().0 & ((1 << 26) - 1);
    for cut in 1..300 {
        let crash = crashed_copy(&db);
        let path = segments(crash.path()).pop().unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0; 64], end - cut).unwrap();
        for _ in 0..2 {
            let db = open(crash.path());
            assert_eq!(db.get(b"first").unwrap().unwrap(), b"1", "cut {cut}");
            assert_eq!(db.stats().damaged_records, 0);
            db.put(b"third", b"3").unwrap();
            db.close().unwrap();
        }
        assert_eq!(open(crash.path()).get(b"third").unwrap().unwrap(), b"3");
    }
}

#[test]
fn damage_in_the_middle_is_told_from_a_torn_tail_and_costs_only_what_it_hit() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    for number in 0..100_u64 {
        db.put(&number.to_le_bytes(), &noise(100, number)).unwrap();
    }
    db.close().unwrap();
    drop(db);
    let path = segments(dir.path()).pop().unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0xff; 10], 5000).unwrap();
    let db = open(dir.path());
    assert_eq!(db.stats().damaged_records, 1);
    let told = (0..100_u64).filter(|number| match db.get(&number.to_le_bytes()) {
        Ok(value) => value != Some(noise(100, *number)),
        Err(Error::Damaged(_)) => true,
        Err(error) => panic!("{error}"),
    });
    assert!((1..=2).contains(&told.count()));
}

#[test]
fn damage_never_brings_an_older_version_back() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    db.put(b"key", b"older").unwrap();
    db.put(b"key", &noise(100, 1)).unwrap();
    db.put(b"last", b"1").unwrap();
    db.close().unwrap();
    drop(db);
    let file = OpenOptions::new().write(true).open(segments(dir.path()).pop().unwrap()).unwrap();
    file.write_all_at(&[0xff], 64 + 32 + 24 + 50).unwrap();
    let db = open(dir.path());
    assert!(matches!(db.get(b"key"), Err(Error::Damaged(_))));
    assert_eq!(db.get(b"last").unwrap().unwrap(), b"1");
    db.put(b"key", b"newer").unwrap();
    assert_eq!(db.get(b"key").unwrap().unwrap(), b"newer");
}

#[test]
fn a_damaged_value_is_an_error_and_never_a_wrong_value() {
    let dir = tempfile::tempdir().unwrap();
    let no_cache = Options { cache_bytes: 0, compression: false, ..options(dir.path()) };
    let db = Db::open(no_cache).unwrap();
    let (small, large) = (noise(100, 1), noise(100_000, 2));
    db.put(b"small", &small).unwrap();
    db.put(b"large", &large).unwrap();
    db.flush().unwrap();
    for (path, at, key) in
        [("00000000.log", 64 + 24 + 5 + 50, "small"), ("00000000.ext", CHUNK as u64 + 70_000, "large")]
    {
        let file = OpenOptions::new().write(true).read(true).open(dir.path().join(path)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        assert!(matches!(db.get(key.as_bytes()), Err(Error::Damaged(_))), "{key}");
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!((db.get(b"small").unwrap().unwrap(), db.get(b"large").unwrap().unwrap()), (small, large));
}

#[test]
fn a_large_value_whose_chunks_did_not_reach_the_disk_leaves_the_older_version() {
    let dir = tempfile::tempdir().unwrap();
    // However long the test takes, no sync comes between that would cover the value.
    let seldom = std::time::Duration::from_secs(3600);
    let db = Db::open(Options { sync_interval: seldom, ..options(dir.path()) }).unwrap();
    db.put(b"key", b"older").unwrap();
    db.flush().unwrap();
    db.put(b"key", &noise(200_000, 1)).unwrap();
    let whole = crashed_copy(&db);
    assert_eq!(open(whole.path()).get(b"key").unwrap().unwrap().len(), 200_000);
    let lost = crashed_copy(&db);
    let extent = OpenOptions::new().write(true).open(lost.path().join("00000000.ext")).unwrap();
    extent.write_all_at(&[0; 4096], 3 * CHUNK as u64).unwrap();
    let short = crashed_copy(&db);
    let extent = OpenOptions::new().write(true).open(short.path().join("00000000.ext")).unwrap();
    extent.set_len(3 * CHUNK as u64 + 10).unwrap();
    for dir in [lost.path(), short.path(), lost.path(), short.path()] {
        assert_eq!(open(dir).get(b"key").unwrap().unwrap(), b"older");
    }
}

#[test]
fn flush_all_survives_restarts_fired_or_pending() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    db.put(b"before", b"1").unwrap();
    db.flush_all(None).unwrap();
    db.put(b"after", b"2").unwrap();
    let now = db.now();
    db.flush_all(Some(now + 3)).unwrap();
    assert_eq!((db.get(b"before").unwrap(), db.get(b"after").unwrap()), (None, Some(b"2".to_vec())));
    db.core.log.write_all();
    let crash = crashed_copy(&db);
    db.tick(now + 2).unwrap();
    assert!(db.get(b"after").unwrap().is_some());
    db.tick(now + 3).unwrap();
    assert!(db.get(b"after").unwrap().is_none());
    db.close().unwrap();
    drop(db);
    assert_eq!(open(dir.path()).stats().items, 0);
    let db = open(crash.path());
    assert!(db.get(b"after").unwrap().is_some(), "not due yet");
    std::thread::sleep(std::time::Duration::from_millis(3200));
    drop(db);
    assert!(open(crash.path()).get(b"after").unwrap().is_none(), "came due while the store was down");
}

#[test]
fn an_abandoned_upload_leaves_nothing_to_be_found() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let mut upload = db.upload(200_000).unwrap();
    let written = upload.chunk(noise(CHUNK, 1)).run();
    assert!(upload.done(written).unwrap().is_empty());
    let extent = dir.path().join("00000000.ext");
    let blocks = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&extent).unwrap());
    assert!(blocks() >= 128);
    drop(upload);
    db.close().unwrap();
    assert!(blocks() < 128, "the range was given back");
    drop(db);
    drop(open(dir.path()));
    assert!(!extent.exists(), "a file that no record names is removed");
}

#[test]
fn under_always_a_put_is_durable_when_it_returns() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(Options { sync: crate::Sync::Always, ..options(dir.path()) }).unwrap();
    for number in 0..50_u64 {
        db.put(&number.to_le_bytes(), b"value").unwrap();
        assert_eq!(db.core.log.progress.durable(), db.core.log.progress.written());
    }
    assert!(db.stats().fsyncs >= 50);
}

#[test]
fn conditional_writes_notice_every_change() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let key = db.key(b"key");
    let mut scratch = Scratch::default();
    let mut see = || match db.lookup(&key, db.now(), None, &mut scratch, |_| ()).unwrap() {
        Lookup::Hit(seen, ()) | Lookup::Miss(seen) => seen,
        Lookup::Cold(_) => unreachable!("just written"),
    };
    let put = |expect| {
        let body = NewBody::Inline(b"value");
        let write = Write { key, flags: 0, expires: 0, marks: 0, cas: None, body, expect };
        matches!(db.write(&write, &mut Scratch::default()).unwrap(), Outcome::Done { .. })
    };
    let absent = see();
    assert!(put(Expect::Unchanged(absent)));
    assert!(!put(Expect::Unchanged(absent)));
    let first = see();
    assert!(put(Expect::Unchanged(first)));
    assert!(matches!(db.remove(&key, Expect::Unchanged(first)).unwrap(), Removed::Conflict));
    let second = see();
    assert!(matches!(db.remove(&key, Expect::Unchanged(second)).unwrap(), Removed::Done { .. }));
    assert!(!put(Expect::Unchanged(second)));
}

#[test]
fn a_second_opener_and_bad_options_are_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    assert!(Db::open(options(dir.path())).unwrap_err().to_string().contains("in use"));
    drop(db);
    assert!(Db::open(Options { segment_bytes: 5, ..options(dir.path()) }).is_err());
    let file = dir.path().join("LOCK");
    assert!(Db::open(options(&file)).is_err());
}

/// With tags of 8 bits keys push each other out of the index, but none is ever given another's value.
#[test]
#[cfg(feature = "tiny-tags")]
fn colliding_keys_never_get_each_others_values() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let (keys, mut found) = (40_000_u64, 0);
    (0..keys).for_each(|number| db.put(&number.to_le_bytes(), &number.to_be_bytes()).unwrap());
    for number in 0..keys {
        if let Some(value) = db.get(&number.to_le_bytes()).unwrap() {
            assert_eq!(value, number.to_be_bytes());
            found += 1;
        }
    }
    assert!(found > keys / 2 && found < keys, "{found} of {keys} keys were left; collisions must have happened");
}

#[test]
fn a_full_newest_segment_is_sealed_and_the_next_one_begun() {
    let dir = tempfile::tempdir().unwrap();
    let large_segments = Options { segment_bytes: 4 << 20, ..options(dir.path()) };
    let db = Db::open(large_segments).unwrap();
    // So large that the next one is not made yet.
    db.core.log.segments.all()[0].size.store(64 << 20, Relaxed);
    for number in 0..30_u64 {
        db.put(&number.to_le_bytes(), &noise(CHUNK, number)).unwrap();
    }
    assert_eq!(segments(dir.path()).len(), 1);
    let crash = crashed_copy(&db);
    for _ in 0..3 {
        let db = open(crash.path());
        assert_eq!(segments(crash.path()).len(), 2);
        assert!((0..30_u64).all(|number| db.get(&number.to_le_bytes()).unwrap() == Some(noise(CHUNK, number))));
        assert_eq!(db.stats().damaged_records, 0);
    }
}

#[test]
fn a_missing_segment_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    (0..60_u64).for_each(|number| db.put(&number.to_le_bytes(), &noise(CHUNK, number)).unwrap());
    db.close().unwrap();
    drop(db);
    let all = segments(dir.path());
    assert!(all.len() > 3);
    std::fs::remove_file(&all[1]).unwrap();
    let db = open(dir.path());
    assert_eq!(db.stats().damaged_records, 1);
    assert_eq!(db.get(&59_u64.to_le_bytes()).unwrap(), Some(noise(CHUNK, 59)));
}

#[test]
fn writes_resume_and_are_synced_once_segments_can_be_made_again() {
    let home = tempfile::tempdir().unwrap();
    let (dir, away) = (home.path().join("data"), home.path().join("away"));
    let db = Db::open(Options { sync_interval: Duration::from_millis(20), ..options(&dir) }).unwrap();
    std::fs::rename(&dir, &away).unwrap();
    let put = |number: u64| db.put(&number.to_le_bytes(), &noise(60_000, number));
    let refused = (0..100).find(|&number| put(number).is_err());
    assert!(refused.is_some(), "no segment can be made, so writes end with the first one");
    // Small records fill the rest: there is no room for the syncer's own notes either.
    assert!((0..10_000_u64).any(|number| db.put(&number.to_le_bytes(), b"").is_err()));
    std::thread::sleep(Duration::from_millis(200));
    std::fs::rename(&away, &dir).unwrap();
    let resumed = (0..50).any(|number| {
        std::thread::sleep(Duration::from_millis(100));
        put(number).is_ok()
    });
    assert!(resumed, "writes resume by themselves");
    std::thread::sleep(Duration::from_millis(500));
    let progress = &db.core.log.progress;
    assert!(progress.durable().0 + 1000 > progress.written().0, "all but a checkpoint was synced");
}

#[test]
fn marks_are_kept_and_no_file_of_an_earlier_version_gets_one() {
    use crate::store::{BINARY_KEY, FETCHED, STALE, WON};
    let dir = tempfile::tempdir().unwrap();
    let marked = |db: &Db, key: &[u8], marks| {
        let (body, expect) = (NewBody::Inline(b"value"), Expect::Anything);
        db.write_blocking(&Write { key: db.key(key), flags: 1, expires: 0, marks, cas: None, body, expect }).unwrap();
    };
    let marks = |db: &Db, key: &[u8]| db.visit(key, |record| record.marks).unwrap().unwrap();
    let db = Db::open(Options::new(dir.path())).unwrap();
    marked(&db, b"stale", STALE);
    marked(&db, b"all", STALE | WON | BINARY_KEY);
    assert_eq!((marks(&db, b"stale"), marks(&db, b"stale")), (STALE, STALE | FETCHED));
    db.close().unwrap();
    drop(db);

    // As the version before this one left it.
    let path = dir.path().join("00000000.log");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).unwrap();
    header[8] = 2;
    let crc = crate::store::header::checksum(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&header, 0).unwrap();

    let db = Db::open(Options::new(dir.path())).unwrap();
    assert_eq!((marks(&db, b"stale"), marks(&db, b"all")), (STALE, STALE | WON | BINARY_KEY));
    marked(&db, b"stale", WON);
    db.close().unwrap();
    drop(db);
    assert!(dir.path().join("00000001.log").exists());
    let db = Db::open(Options::new(dir.path())).unwrap();
    assert_eq!((marks(&db, b"stale"), db.stats().items), (WON, 2));
}
