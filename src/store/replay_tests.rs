//! What replay makes of logs that lack something: what is missing, what is damaged, and what merely looks like it.

use super::*;
use crate::store::CHUNK;
use crate::store::db::Db;
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

/// The index checkpoint knows that it was durable, which no mark in the log says; and the end of the log is missing.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_was_durable_behind_damage_stays_where_the_log_has_lost_its_end() {
    let dir = scratch();
    let (db, _) = open(dir.path());
    for (key, value) in [(b"first", b"value"), (b"other", b"thing"), (b"third", b"value"), (b"final", b"words")] {
        db.put(key, value).unwrap();
    }
    db.core().write_checkpoint().unwrap();
    let crashed = copy(dir.path());
    damage(&segment(crashed.path(), 0), b"otherthing");
    cut(&segment(crashed.path(), 0), b"finalwords");
    let (db, told) = open(crashed.path());
    let told = told.lock().unwrap().clone();
    assert!(told.contains("though it was durable, is lost") && !told.contains("never synced"), "{told}");
    assert!(db.get(b"other").is_err(), "it is known to be damaged: {told}");
    assert!(db.get(b"first").unwrap().is_some() && db.get(b"third").unwrap().is_some(), "{told}");
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
