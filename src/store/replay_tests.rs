//! What replay makes of logs that lack something: what is missing, what is damaged, and what merely looks like it.

use super::*;
use crate::store::CHUNK;
use crate::store::db::Db;
#[cfg(not(feature = "tiny-tags"))]
use crate::store::dump;
use crate::store::recovery::tests::{copy, noise, options, scratch};
use std::fs;
use std::path::Path;

/// Opens a store; tells what it had to say.
fn open(dir: &Path) -> (Db, Arc<std::sync::Mutex<String>>) {
    let told = Arc::new(std::sync::Mutex::new(String::new()));
    let hear = told.clone();
    let report = Arc::new(move |_, text: &str| hear.lock().unwrap().push_str(&format!("{text}\n")));
    (Db::open(Options { report, ..options(dir) }).unwrap(), told)
}

fn segment(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08x}.log"))
}

/// Damages more than a bit of the last of these bytes.
#[cfg(not(feature = "tiny-tags"))]
fn damage(path: &Path, text: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(text.len()).position(|window| window == text).expect("the record");
    bytes[at + text.len() - 1] ^= 3;
    fs::write(path, bytes).unwrap();
}

/// Cuts off the record that has these bytes, and what follows.
#[cfg(not(feature = "tiny-tags"))]
fn cut(path: &Path, text: &[u8]) {
    let bytes = fs::read(path).unwrap();
    let at = bytes.windows(text.len()).position(|window| window == text).expect("the record");
    fs::write(path, &bytes[..at]).unwrap();
}

/// A log whose second record is damaged and whose fourth and last one is gone; by the index checkpoint, all were durable.
#[cfg(not(feature = "tiny-tags"))]
fn damaged_and_cut() -> tempfile::TempDir {
    let dir = scratch();
    let (db, _) = open(dir.path());
    for (key, value) in [(b"first", b"value"), (b"other", b"thing"), (b"third", b"value"), (b"final", b"words")] {
        db.put(key, value).unwrap();
    }
    db.core().write_checkpoint().unwrap();
    let crashed = copy(dir.path());
    damage(&segment(crashed.path(), 0), b"otherthing");
    cut(&segment(crashed.path(), 0), b"finalwords");
    crashed
}

/// The index checkpoint knows that it was durable, which no mark in the log says; and the end of the log is missing.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_was_durable_behind_damage_stays_where_the_log_has_lost_its_end() {
    let crashed = damaged_and_cut();
    let (db, told) = open(crashed.path());
    let told = told.lock().unwrap().clone();
    assert!(told.contains("though it was durable, is lost") && !told.contains("never synced"), "{told}");
    assert!(db.get(b"other").is_err(), "it is known to be damaged: {told}");
    assert!(db.get(b"first").unwrap().is_some() && db.get(b"third").unwrap().is_some(), "{told}");
}

/// The same at the start after one that was cut short.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_was_durable_behind_damage_stays_where_a_start_was_cut_short() {
    let crashed = damaged_and_cut();
    let report = Arc::new(|_, text: &str| assert!(text.contains("is of no use"), "killed at: {text}"));
    let killed = Options { report, ..options(crashed.path()) };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Db::open(killed).map(drop))).is_err());
    let (db, told) = open(crashed.path());
    let told = told.lock().unwrap().clone();
    assert!(told.contains("though it was durable, is lost"), "{told}");
    assert!(db.get(b"first").unwrap().is_some() && db.get(b"third").unwrap().is_some(), "{told}");
    assert!(!crashed.path().join("CHECKPOINT").exists() && crashed.path().join("CHECKPOINT.lost").exists());
}

/// What the index checkpoint knew of a log that has gone on without is void.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_was_known_of_a_lost_end_says_nothing_of_what_comes_in_its_place() {
    let dir = scratch();
    let (db, _) = open(dir.path());
    for key in 0..50_u64 {
        db.put(&key.to_le_bytes(), &noise(1000, key)).unwrap();
    }
    db.core().write_checkpoint().unwrap();
    let crashed = copy(dir.path());
    fs::OpenOptions::new().write(true).open(segment(crashed.path(), 0)).unwrap().set_len(10_000).unwrap();
    let (db, _) = open(crashed.path());
    for key in 0..10_u64 {
        db.put(&key.to_le_bytes(), &noise(1000, key)).unwrap();
    }
    drop(db);
    let found = crate::store::check::check(crashed.path(), &mut |_, _| ()).unwrap();
    let told: Vec<String> = found.damages.iter().map(ToString::to_string).collect();
    assert!(told.len() == 1 && told[0].contains("CHECKPOINT.lost"), "{told:?}");
}

/// The same of what a repair has left that was not finished.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_start_makes_void_what_a_repair_knew() {
    let dir = scratch();
    let (db, _) = open(dir.path());
    db.put(b"first", b"value").unwrap();
    db.core().write_checkpoint().unwrap();
    let stopped = copy(dir.path());
    fs::rename(stopped.path().join("CHECKPOINT"), stopped.path().join("CHECKPOINT.lost")).unwrap();
    let (db, told) = open(stopped.path());
    assert!(told.lock().unwrap().contains("or a repair was not finished"));
    assert_eq!(fs::metadata(stopped.path().join("CHECKPOINT.lost")).unwrap().len(), 0);
    assert_eq!(db.get(b"first").unwrap().unwrap(), b"value");
}

/// The same where nothing sound follows in the segment itself, but in the next one.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn segments_behind_one_with_a_damaged_end_stay_where_the_log_has_lost_its_own() {
    let dir = scratch();
    let (db, _) = open(dir.path());
    db.put(b"first", b"value").unwrap();
    db.put(b"other", b"thing").unwrap();
    db.core().seal_active().unwrap();
    for (key, value) in [(b"third", b"value"), (b"final", b"words")] {
        db.put(key, value).unwrap();
    }
    db.core().write_checkpoint().unwrap();
    let crashed = copy(dir.path());
    let (first, second) = (segment(crashed.path(), 0), segment(crashed.path(), 1));
    damage(&first, b"otherthing");
    let mut bytes = fs::read(&first).unwrap();
    let seal = bytes.len() - HEADER;
    bytes[seal..].fill(0x55);
    fs::write(&first, bytes).unwrap();
    // The note that all of the first one is durable.
    let mut bytes = fs::read(&second).unwrap();
    bytes[HEADER_OF_FILE..HEADER_OF_FILE + 16].fill(0x55);
    fs::write(&second, bytes).unwrap();
    cut(&second, b"finalwords");
    let (db, told) = open(crashed.path());
    let told = told.lock().unwrap().clone();
    assert!(told.contains("though it was durable, is lost"), "the control: {told}");
    assert!(db.get(b"first").unwrap().is_some() && db.get(b"third").unwrap().is_some(), "{told}");
    assert!(!second.with_extension("log.cut").exists());
}

/// Chunks of a large value that the index checkpoint knows to have been durable: they decayed, no crash tore them.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_large_value_that_decayed_cuts_nothing_off_where_the_log_has_lost_its_end() {
    let dir = scratch();
    let (db, _) = open(dir.path());
    db.put(b"large", &noise(2 * CHUNK, 1)).unwrap();
    db.put(b"third", b"value").unwrap();
    db.put(b"final", b"words").unwrap();
    db.core().write_checkpoint().unwrap();
    let crashed = copy(dir.path());
    let extent = crashed.path().join("00000000.ext");
    let mut bytes = fs::read(&extent).unwrap();
    bytes[HEADER_OF_FILE + 4096..].fill(0x55);
    fs::write(&extent, bytes).unwrap();
    cut(&segment(crashed.path(), 0), b"finalwords");
    let (db, told) = open(crashed.path());
    let told = told.lock().unwrap().clone();
    assert!(told.contains("though it was durable, is lost"), "the control: {told}");
    assert!(db.get(b"large").is_err() && db.get(b"third").unwrap().is_some(), "{told}");
}

/// Bytes of a file's header.
#[cfg(not(feature = "tiny-tags"))]
const HEADER_OF_FILE: usize = crate::store::segment::SEGMENT_HEADER as usize;

/// Three segments, of which the first one alone names a large value, and the file of that.
#[cfg(not(feature = "tiny-tags"))]
fn with_a_value_in_the_first(checkpoint: bool) -> tempfile::TempDir {
    let dir = scratch();
    let (db, _) = open(dir.path());
    db.put(b"large", &noise(3 * CHUNK, 1)).unwrap();
    db.core().extents.begin_next();
    for key in [&b"second"[..], b"third"] {
        db.core().seal_active().unwrap();
        db.put(key, &noise(3 * CHUNK, 2)).unwrap();
    }
    db.flush().unwrap();
    if checkpoint {
        db.core().write_checkpoint().unwrap();
    }
    copy(dir.path())
}

/// A log begins with its first segment, unless that was removed; if it is put back, all that it names must be there.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn the_first_segment_is_missed_too() {
    for checkpoint in [false, true] {
        let dir = with_a_value_in_the_first(checkpoint);
        let path = segment(dir.path(), 0);
        let sound = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        for life in 0..2 {
            let (db, told) = open(dir.path());
            db.compact().unwrap();
            let told = told.lock().unwrap();
            assert!(life > 0 || told.contains("00000001.log: a segment before this one is missing"), "{told}");
            assert!(life > 0 || db.stats().damaged_records == 1, "{checkpoint}: {told}");
            assert!(
                told.contains("no disk space of earlier large values is given back"),
                "{checkpoint} {life}: {told}"
            );
        }
        fs::write(&path, sound).unwrap();
        let _ = fs::remove_file(dir.path().join("CHECKPOINT"));
        let (db, told) = open(dir.path());
        let found = db.get(b"large").map_err(|error| error.to_string());
        assert!(found == Ok(Some(noise(3 * CHUNK, 1))), "{:?}: {}", found.err(), told.lock().unwrap());
    }
}

/// Repair gives it up, and then nothing is missed.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_check_misses_the_first_segments_and_a_repair_gives_them_up() {
    for (checkpoint, gone) in [(false, 1), (true, 1), (false, 2), (true, 2)] {
        let dir = with_a_value_in_the_first(checkpoint);
        (0..gone).for_each(|number| fs::remove_file(segment(dir.path(), number)).unwrap());
        let found = crate::store::check::check(dir.path(), &mut |_, _| ()).unwrap();
        let is_told = |text: String| text.contains("a segment before this one is missing");
        assert!(found.damages.iter().any(|damage| is_told(damage.to_string())), "{found:?}");
        let repaired = crate::store::check::repair(dir.path(), &mut |_, _| ()).unwrap();
        assert!(repaired.now.damages.is_empty(), "{repaired:?}");
        assert_silent(dir.path(), "after a repair");
    }
}

/// Opens a store, with an index checkpoint and without one, after a check: none of them misses anything.
#[cfg(not(feature = "tiny-tags"))]
fn assert_silent(dir: &Path, what: &str) {
    let found = crate::store::check::check(dir, &mut |_, _| ()).unwrap();
    assert!(found.damages.is_empty(), "{what}: {found:?}");
    for life in 0..4 {
        if life % 2 == 1 {
            let _ = fs::remove_file(dir.join("CHECKPOINT"));
        }
        let (db, told) = open(dir);
        let told = told.lock().unwrap();
        assert!(db.stats().damaged_records == 0 && !told.contains("missing"), "{what}, life {life}: {told}");
        assert!(!dir.join("CHECKPOINT.lost").exists(), "{what}, life {life}: {told}");
        db.core().write_checkpoint().unwrap();
    }
}

/// The first segments go in a store that is used, and with them those that a backup of it has; a crash may come at any time.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn segments_that_were_removed_are_not_missed() {
    type Way = (&'static str, fn(&Db));
    let evict = |db: &Db| {
        db.core().seal_active().unwrap();
        let _rounds = db.core().hold_rounds();
        (0..2).for_each(|_| assert!(db.core().evict().unwrap().is_some()));
    };
    let compact = |db: &Db| {
        (0..40_u8).for_each(|key| db.put(&[key], b"another").unwrap());
        db.compact().unwrap();
    };
    let flush = |db: &Db| {
        db.flush_all(None).unwrap();
        // The index forgets what was flushed in its own time.
        while segment(&db.core().options.path, 1).exists() {
            db.compact().unwrap();
        }
    };
    let ways: [Way; 3] = [("eviction", evict), ("compaction", compact), ("flush_all", flush)];
    for (name, way) in ways {
        let (dir, backup) = (scratch(), scratch());
        let (db, _) = open(dir.path());
        for key in 0..40_u8 {
            db.put(&[key], &noise(if key == 3 { 2 * CHUNK } else { 1000 }, key.into())).unwrap();
            if key % 10 == 9 {
                db.core().seal_active().unwrap();
            }
        }
        way(&db);
        assert!(!segment(dir.path(), 0).exists() && !segment(dir.path(), 1).exists(), "the control: {name}");
        let crashed = copy(dir.path());
        db.backup(&backup.path().join("store"), &mut |_, _| true).unwrap();
        db.close().unwrap();
        drop(db);
        assert_silent(crashed.path(), name);
        assert_silent(&backup.path().join("store"), name);
        assert_silent(dir.path(), name);
    }
}

/// A store of the first version of the format, which knows nothing of removals, and one that was loaded.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn old_stores_and_loaded_ones_miss_nothing() {
    let (old, loaded) = (scratch(), scratch());
    crate::store::recovery::tests::copy_to(Path::new("tests/fixtures/v1"), old.path());
    fs::remove_file(old.path().join("README.md")).unwrap();
    let (db, _) = open(old.path());
    let mut text = Vec::new();
    dump::dump(&db.snapshot().unwrap(), &mut text, &mut |_| ()).unwrap();
    drop(db);
    dump::load(&open(loaded.path()).0, &mut &text[..], &mut |_| ()).unwrap();
    assert_silent(old.path(), "version 1");
    assert_silent(loaded.path(), "a load");
}

/// A crash before it was cut there: what ends it may end next to the end of the file.
#[test]
fn a_seal_shortly_before_the_end_of_what_was_reserved_is_an_end() {
    for (padding, sound) in [(0, true), (8, true), (16, true), (24, true), (4096, true), (9, false), (17, false)] {
        let dir = scratch();
        let (db, _) = open(dir.path());
        db.put(b"key", b"value").unwrap();
        db.core().seal_active().unwrap();
        db.core().write_checkpoint().unwrap();
        let crashed = copy(dir.path());
        let path = segment(crashed.path(), 0);
        let mut bytes = fs::read(&path).unwrap();
        // Of a seal nothing but its first five bytes is not zero.
        let seal = bytes.iter().rposition(|&byte| byte != 0).unwrap() & !7;
        bytes.resize(seal + HEADER + padding, 0);
        if !sound {
            *bytes.last_mut().unwrap() = 1;
        }
        fs::write(&path, bytes).unwrap();
        let (db, told) = open(crashed.path());
        assert_eq!(db.stats().damaged_records, u64::from(!sound), "{padding}: {}", told.lock().unwrap());
    }
}

/// A store of so many segments with a value each, of which the oldest were given up.
#[cfg(not(feature = "tiny-tags"))]
fn cache(dir: &Path, segments: u8, evicted: usize) -> Db {
    let (db, _) = open(dir);
    for key in 0..segments {
        db.put(&[key], &noise(1000, key.into())).unwrap();
        db.core().seal_active().unwrap();
    }
    let rounds = db.core().hold_rounds();
    (0..evicted).for_each(|_| assert!(db.core().evict().unwrap().is_some()));
    drop(rounds);
    db
}

/// Where the notes of what was removed are lost, a repair makes the log whole without the index checkpoint, which goes.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_repair_leaves_no_gap_that_only_an_index_checkpoint_explains() {
    let dir = scratch();
    let db = cache(dir.path(), 4, 2);
    db.core().write_checkpoint().unwrap();
    let crashed = copy(dir.path());
    fs::remove_file(segment(crashed.path(), db.core().log.segments.last_number())).unwrap();
    let _ = fs::remove_file(segment(crashed.path(), 4));
    assert!(crate::store::check::repair(crashed.path(), &mut |_, _| ()).unwrap().now.damages.is_empty());
    assert_silent(crashed.path(), "after a repair");
}

/// What a cache has given up is not made up by a repair, however many segments that were.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_repair_makes_up_for_no_segment_that_was_removed() {
    let dir = scratch();
    let db = cache(dir.path(), 8, 5);
    drop(db);
    let count = || crate::store::segment::numbers(dir.path()).unwrap().len();
    let before = count();
    fs::remove_file(segment(dir.path(), 5)).unwrap();
    assert!(crate::store::check::repair(dir.path(), &mut |_, _| ()).unwrap().now.damages.is_empty());
    assert_eq!(count(), before, "one for the one that is missing");
    assert_silent(dir.path(), "after a repair");
}
