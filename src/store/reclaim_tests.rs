//! Space: that of large values comes back, but never under somebody's eyes; that of small ones stays within bounds, and
//! what does not change is left alone.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use super::super::options::Options;
use super::{CHUNK, Db};
use crate::store::extent::MANY_FILES;
use crate::store::{Sync, View};

fn options(dir: &Path) -> Options {
    Options { segment_bytes: 1 << 20, cache_bytes: 1 << 20, compression: false, sync: Sync::None, ..Options::new(dir) }
}

fn open(dir: &Path) -> Db {
    Db::open(options(dir)).unwrap()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

/// Bytes on the disk of the files whose names end so.
fn on_disk(dir: &Path, suffix: &str) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let wanted = entries.filter(|entry| entry.file_name().to_str().unwrap().ends_with(suffix));
    wanted.filter_map(|entry| entry.metadata().ok()).map(|file| file.blocks() * 512).sum()
}

const LARGE: usize = 5 * CHUNK;

#[test]
fn large_values_give_their_space_back_when_they_are_overwritten_or_removed() {
    let dir = scratch();
    let db = open(dir.path());
    for round in 0..4_u64 {
        for number in 0..20_u64 {
            db.put(&number.to_le_bytes(), &noise(LARGE, number + 100 * round)).unwrap();
        }
    }
    (0..5_u64).for_each(|number| assert!(db.delete(&number.to_le_bytes()).unwrap()));
    db.compact().unwrap();
    assert!(on_disk(dir.path(), ".ext") <= 16 * LARGE as u64, "{} bytes", on_disk(dir.path(), ".ext"));
    let check = |db: &Db| {
        for number in 0..20_u64 {
            let wanted = (number >= 5).then(|| noise(LARGE, number + 300));
            assert_eq!(db.get(&number.to_le_bytes()).unwrap(), wanted);
        }
    };
    check(&db);
    drop(db);
    check(&open(dir.path()));
}

#[test]
fn a_single_large_value_gives_its_space_back_by_itself() {
    let dir = scratch();
    let options = Options { compaction_interval: std::time::Duration::from_millis(50), ..options(dir.path()) };
    let db = Db::open(options).unwrap();
    for number in 0..2_u64 {
        db.put(&number.to_le_bytes(), &noise(LARGE, number)).unwrap();
    }
    assert!(on_disk(dir.path(), ".ext") >= 2 * LARGE as u64);
    db.delete(&0_u64.to_le_bytes()).unwrap();
    let began = std::time::Instant::now();
    while on_disk(dir.path(), ".ext") > (LARGE + CHUNK) as u64 {
        assert!(began.elapsed().as_secs() < 60, "{} bytes", on_disk(dir.path(), ".ext"));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(db.get(&1_u64.to_le_bytes()).unwrap(), Some(noise(LARGE, 1)));
}

/// The number of a file that is gone must not come back while the log may name it: by the next life, too.
#[test]
fn the_greatest_number_of_a_file_stays_on_the_disk() {
    let dir = scratch();
    let db = open(dir.path());
    db.put(b"large", &noise(LARGE, 1)).unwrap();
    let names =
        || std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let greatest = || names().filter(|name| name.ends_with(".ext")).max();
    let before = greatest();
    db.core.extents.begin_next();
    // A file that will never be made.
    drop(db.upload(LARGE as u64).unwrap());
    db.delete(b"large").unwrap();
    db.compact().unwrap();
    assert!(on_disk(dir.path(), ".ext") < CHUNK as u64);
    assert!(before.is_some() && greatest() == before, "{before:?} {:?}", greatest());
}

/// Extent files in the directory, open ones, and those that the store knows.
fn extent_files(db: &Db, dir: &std::path::Path) -> [usize; 3] {
    let is_extent = |path: &std::path::PathBuf| path.starts_with(dir) && path.to_string_lossy().contains(".ext");
    let named = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(is_extent).count();
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).filter(is_extent).count();
    [named, open, db.core.extents.known()]
}

#[test]
fn uploads_that_were_given_up_leave_no_files_behind() {
    let dir = scratch();
    let db = open(dir.path());
    for number in 0..20 {
        let mut upload = db.upload(1 << 30).unwrap();
        if number % 2 == 0 {
            let written = upload.chunk(noise(CHUNK, 7)).run();
            upload.done(written).unwrap();
        }
    }
    let began = std::time::Instant::now();
    while extent_files(&db, dir.path()).iter().any(|&count| count > 2) {
        assert!(began.elapsed().as_secs() < 60, "{:?}", extent_files(&db, dir.path()));
        std::thread::sleep(std::time::Duration::from_millis(10));
        db.compact().unwrap();
    }
}

/// A range may be given back while its file is the newest, which has to stay.
#[test]
fn values_that_were_deleted_leave_no_files_behind() {
    for len in [LARGE, 16 << 20] {
        let dir = scratch();
        let db = open(dir.path());
        for number in 0..20 {
            db.put(b"large", &noise(len, number)).unwrap();
            db.delete(b"large").unwrap();
            db.compact().unwrap();
            db.core.extents.begin_next();
        }
        let files = extent_files(&db, dir.path());
        assert!(files.iter().all(|&count| count <= 2), "{files:?} for values of {len} bytes");
        assert!(crate::store::extent::numbers(dir.path()).unwrap().iter().all(|&number| number >= 18));
    }
}

/// Each file takes a descriptor.
#[test]
fn files_of_one_value_each_are_not_too_many() {
    let dir = scratch();
    let db = open(dir.path());
    let uploads: Vec<_> = (0..MANY_FILES + 88).map(|_| db.upload(16 << 20).unwrap()).collect();
    let many = db.core.extents.known();
    assert!((128..=MANY_FILES + 2).contains(&many), "{many} files for {} uploads", uploads.len());
    drop(uploads);
    let few = db.core.extents.known();
    assert!(few <= 2, "{few} files for none");
}

#[test]
fn a_new_life_gives_back_what_the_one_before_had_no_time_for() {
    let dir = scratch();
    let db = open(dir.path());
    for round in 0..2_u64 {
        (0..10_u64).for_each(|number| db.put(&number.to_le_bytes(), &noise(LARGE, number + 100 * round)).unwrap());
    }
    db.close().unwrap();
    drop(db);
    assert!(on_disk(dir.path(), ".ext") >= 20 * LARGE as u64);
    let db = open(dir.path());
    db.compact().unwrap();
    assert!(on_disk(dir.path(), ".ext") <= 11 * LARGE as u64, "{} bytes", on_disk(dir.path(), ".ext"));
    (0..10_u64)
        .for_each(|number| assert_eq!(db.get(&number.to_le_bytes()).unwrap().unwrap(), noise(LARGE, number + 100)));
    // All of an old file is given back with the file, but for the newest, whose number must not come again.
    db.put(b"another", &noise(LARGE, 7)).unwrap();
    (0..10_u64).for_each(|number| assert!(db.delete(&number.to_le_bytes()).unwrap()));
    db.compact().unwrap();
    assert!(!dir.path().join("00000000.ext").exists());
    assert_eq!(db.get(b"another").unwrap().unwrap(), noise(LARGE, 7));
}

#[test]
fn what_earlier_lives_left_in_a_linked_file_comes_back_with_the_other_name() {
    let dir = scratch();
    let db = open(dir.path());
    (0..4).for_each(|number| db.put(b"key", &noise(LARGE, number)).unwrap());
    db.close().unwrap();
    drop(db);
    let backup = dir.path().join("backup");
    std::fs::hard_link(dir.path().join("00000000.ext"), &backup).unwrap();
    let db = open(dir.path());
    db.compact().unwrap();
    assert!(on_disk(dir.path(), ".ext") >= 4 * LARGE as u64, "a file with two names is not changed");
    std::fs::remove_file(&backup).unwrap();
    db.compact().unwrap();
    assert!(on_disk(dir.path(), ".ext") < 2 * LARGE as u64, "{} bytes", on_disk(dir.path(), ".ext"));
    assert_eq!(db.get(b"key").unwrap(), Some(noise(LARGE, 3)));
}

/// As it might name any range, what earlier lives left stays; what is overwritten now does not.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_damaged_record_keeps_only_what_nobody_can_judge() {
    for (millis, tries_again) in [(3_600_000, false), (1, true)] {
        let dir = scratch();
        let db = open(dir.path());
        for (key, seed) in [(&b"damaged"[..], 1), (b"other", 2), (b"other", 3)] {
            db.put(key, &noise(LARGE, seed)).unwrap();
        }
        // A start with that does not look at the record.
        db.core.write_checkpoint().unwrap();
        db.close().unwrap();
        drop(db);
        let (path, told) = (dir.path().join("00000000.log"), Arc::new(Mutex::new(Vec::new())));
        let mut log = std::fs::read(&path).unwrap();
        let at = log.windows(7).position(|key| key == b"damaged").unwrap();
        log[at..at + 7].copy_from_slice(b"DAMAGED");
        std::fs::write(&path, log).unwrap();
        let hear = told.clone();
        let report = Arc::new(move |_, text: &str| hear.lock().unwrap().push(text.to_owned()));
        let compaction_interval = std::time::Duration::from_millis(millis);
        let db = Db::open(Options { compaction_interval, report, ..options(dir.path()) }).unwrap();
        let before = on_disk(dir.path(), ".ext");
        db.put(b"other", b"small").unwrap();
        let reclaim = || {
            let _no_round = db.core.hold_rounds();
            db.core.reclaim(true).unwrap();
        };
        (0..3).for_each(|_| reclaim());
        let after = on_disk(dir.path(), ".ext");
        assert!(after + LARGE as u64 == before, "{after} of {before} bytes");
        let is_warning = |text: &&String| text.contains("00000000.log at offset ") && text.contains("check --repair");
        let warnings = told.lock().unwrap().iter().filter(is_warning).count();
        assert_eq!(warnings, 1, "{:?}", told.lock().unwrap());
        db.put(b"damaged", b"small").unwrap();
        reclaim();
        let is_all_back = || on_disk(dir.path(), ".ext") < CHUNK as u64;
        match tries_again {
            true => eventually("all comes back", is_all_back),
            false => assert!(!is_all_back()),
        }
    }
}

/// The log still names a value that expired, was looked at and gave its space back: the next life must not miss it.
#[test]
fn an_expired_value_that_gave_its_file_back_stays_absent() {
    let dir = scratch();
    let db = open(dir.path());
    let mut writer = db.writer(b"expired", LARGE as u64).unwrap().expires(db.now() - 10);
    writer.write_part(&noise(LARGE, 1)).unwrap();
    writer.finish().unwrap();
    db.core.extents.begin_next();
    db.put(b"lives", &noise(LARGE, 2)).unwrap();
    assert_eq!(db.get(b"expired").unwrap(), None);
    db.core.reclaim(true).unwrap();
    assert!(!dir.path().join("00000000.ext").exists());
    drop(db);
    let db = open(dir.path());
    assert_eq!(db.get(b"expired").unwrap(), None);
    assert_eq!(db.iter().unwrap().map(Result::unwrap).count(), 1);
    assert_eq!(db.get(b"lives").unwrap().unwrap(), noise(LARGE, 2));
    assert_eq!(db.stats().damaged_records, 0);
}

#[test]
fn what_a_reader_a_snapshot_or_a_backup_has_is_not_given_back() {
    let dir = scratch();
    let db = open(dir.path());
    let value = noise(LARGE, 1);
    db.put(b"read", &value).unwrap();
    db.put(b"frozen", &value).unwrap();
    db.put(b"linked", &value).unwrap();
    let key = db.key(b"read");
    let mut room = super::Scratch::default();
    let found = db.lookup(&key, db.now(), None, &mut room, |record| match record.body {
        super::Body::Large(large) => large.clone(),
        super::Body::Inline(_) => panic!("the value is large"),
    });
    let super::Lookup::Hit(_, large) = found.unwrap() else { panic!("the key is there") };
    db.delete(b"read").unwrap();
    db.compact().unwrap();
    let mut first = Vec::new();
    large.read_chunk(0, &mut Default::default(), &mut first).unwrap();
    assert_eq!(first, value[..CHUNK]);
    let snapshot = db.snapshot();
    db.delete(b"frozen").unwrap();
    db.compact().unwrap();
    assert_eq!(on_disk(dir.path(), ".ext") / CHUNK as u64, 15);
    drop((large, snapshot));
    std::fs::hard_link(dir.path().join("00000000.ext"), dir.path().join("backup")).unwrap();
    db.delete(b"linked").unwrap();
    db.compact().unwrap();
    assert_eq!(on_disk(dir.path(), ".ext") / CHUNK as u64, 15, "a file with two names is not changed");
    std::fs::remove_file(dir.path().join("backup")).unwrap();
    db.compact().unwrap();
    assert_eq!(on_disk(dir.path(), ".ext") / CHUNK as u64, 0, "with one name it is");
}

#[test]
fn touched_values_keep_their_range() {
    let dir = scratch();
    let db = open(dir.path());
    let value = noise(LARGE, 1);
    db.put(b"key", &value).unwrap();
    db.put(b"other", &value).unwrap();
    for _ in 0..3 {
        let key = db.key(b"key");
        let mut room = super::Scratch::default();
        let found = db.lookup(&key, db.now(), None, &mut room, |record| match record.body {
            super::Body::Large(large) => large.clone(),
            super::Body::Inline(_) => panic!("the value is large"),
        });
        let super::Lookup::Hit(seen, large) = found.unwrap() else { panic!("the key is there") };
        let body = super::NewBody::Same(&large);
        let write = super::Write {
            key,
            flags: 1,
            expires: 0,
            marks: 0,
            cas: None,
            body,
            expect: super::Expect::Unchanged(seen),
        };
        assert!(matches!(db.write(&write, &mut room).unwrap(), super::Outcome::Done { .. }));
    }
    db.delete(b"other").unwrap();
    db.compact().unwrap();
    assert_eq!(db.get(b"key").unwrap().unwrap(), value);
    assert_eq!(on_disk(dir.path(), ".ext") / CHUNK as u64, 5);
}

/// Waits for the compactor, which works by itself.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let mut looks = 0;
    while !holds() {
        looks += 1;
        assert!(looks < 6000, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_store_that_is_overwritten_takes_no_more_than_half_as_much_again() {
    let dir = scratch();
    let db = Db::open(Options { compression: false, ..Options::new(dir.path()) }).unwrap();
    let (keys, len) = (40_000_u64, 1000);
    let live = keys * (24 + 8 + len as u64);
    let mut random = 7_u64;
    let value = noise(len, 1);
    (0..keys).for_each(|number| db.put(&number.to_le_bytes(), &value).unwrap());
    for _ in 0..4 * keys {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        db.put(&((random >> 33) % keys).to_le_bytes(), &value).unwrap();
    }
    eventually("space comes back", || on_disk(dir.path(), ".log") * 2 <= live * 3);
    let counters = &db.core.compaction.counters;
    let (read, written) = (counters.bytes_read.load(Relaxed), counters.bytes_written.load(Relaxed));
    println!("{live} bytes live: {} on the disk; read {read}, written {written}", on_disk(dir.path(), ".log"));
    assert!(written < 12 * live, "as much was written {written} for {live}");
}

/// A compactor that gets no processor time: writers wait at the limit, and nowhere short of it for good.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn writers_wait_for_a_compactor_that_does_not_come() {
    let dir = scratch();
    let db = Db::open(Options { compression: false, ..Options::new(dir.path()) }).unwrap();
    let (keys, value) = (40_000_u64, noise(1000, 1));
    let live = keys * (24 + 8 + 1000);
    let overwrite = |times: u64| (0..times * keys).for_each(|n| db.put(&(n % keys).to_le_bytes(), &value).unwrap());
    overwrite(2);
    let pressure = &db.core.compaction.pressure;
    // Between a look at the segments and the next one there is a limit, unless nothing can be done.
    let mut held = Some(db.core.compaction.hold());
    eventually("there is a limit", || {
        let is_set = pressure.holds(u64::MAX - 1);
        if !is_set {
            held = None;
            overwrite(1);
            held = Some(db.core.compaction.hold());
        }
        is_set
    });
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| overwrite(3));
        eventually("the writer has come to the limit", || db.core.is_behind());
        let before = db.core.log.end();
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            assert!(on_disk(dir.path(), ".log") * 4 <= live * 7, "{} bytes", on_disk(dir.path(), ".log"));
        }
        assert!(db.core.is_behind() && !writer.is_finished());
        println!("{} bytes live, {} on the disk", live, on_disk(dir.path(), ".log"));
        assert!(before.0 + 2 * 1040 >= db.core.log.end().0, "it waits");
        held = None;
        writer.join().unwrap();
    });
    (0..keys).for_each(|number| assert_eq!(db.get(&number.to_le_bytes()).unwrap().unwrap().len(), 1000));
}

/// What is read again and again is appended anew when its segment is given up, and its ranges are told in a longer way.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_large_value_that_is_spared_is_read_from_the_disk() {
    let dir = scratch();
    let db = Db::open(Options { evict: true, ..options(dir.path()) }).unwrap();
    let (key, value) = ([b'k'; 20], noise(70_000, 1));
    db.put(&key, &value).unwrap();
    (0..3).for_each(|_| assert_eq!(db.get(&key).unwrap().as_ref(), Some(&value)));
    (0..1100_u64).for_each(|number| db.put(&number.to_le_bytes(), &noise(1000, number)).unwrap());
    assert_eq!(db.get(&key).unwrap().as_ref(), Some(&value));
    db.flush().unwrap();
    let core = db.core();
    {
        let _rounds = core.hold_rounds();
        core.evict().unwrap().expect("a segment that is given up");
    }
    assert_eq!(core.counters.spared.load(Relaxed), 1);
    core.log.write_all();
    core.cache.clear().unwrap();
    assert_eq!(db.get(&key).unwrap(), Some(value));
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_does_not_change_is_not_copied_again_and_again() {
    let dir = scratch();
    let db = open(dir.path());
    let (cold, hot) = (8000_u64, 1000_u64);
    let value = noise(1000, 1);
    // Both come in together, so that segments begin with some of both.
    for number in 0..cold {
        db.put(&number.to_le_bytes(), &value).unwrap();
        db.put(&(cold + number % hot).to_le_bytes(), &value).unwrap();
    }
    for step in 0..40 * hot {
        db.put(&(cold + step % hot).to_le_bytes(), &value).unwrap();
    }
    let counters = &db.core.compaction.counters;
    eventually("space comes back", || counters.bytes_removed.load(Relaxed) > 35_000_000);
    let written = counters.bytes_written.load(Relaxed);
    println!("{written} bytes were copied beside {} that were appended", db.stats().log_bytes);
    assert!(written < 3 * cold * 1040, "{written} bytes for a cold part of {}", cold * 1040);
}
