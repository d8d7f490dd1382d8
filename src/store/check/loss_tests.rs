//! Tests of what is told, by a check, a repair and a start, where something was lost, and of headers that are known again.

#[cfg(not(feature = "tiny-tags"))]
use super::tests::contents;
use super::tests::{make, options, quiet};
use super::*;
use crate::store::{Db, Expect, NewBody, Options, Write};
use std::fs;

/// Options, and what was told with them.
pub(super) fn heard(dir: &Path) -> (Options, std::sync::Arc<std::sync::Mutex<String>>) {
    let told = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let hear = told.clone();
    let report = std::sync::Arc::new(move |_, text: &str| hear.lock().unwrap().push_str(&format!("{text}\n")));
    (Options { report, ..options(dir) }, told)
}

/// Cut inside of a record, or between two, behind the last note of what was durable.
#[test]
fn what_was_durable_and_was_cut_is_called_lost_and_counted() {
    for cut in [40, 64] {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        {
            let db = Db::open(options(dir.path())).unwrap();
            db.put(b"key-1", b"the end").unwrap();
            db.core().write_checkpoint().unwrap();
        }
        let log = dir.path().join("00000000.log");
        let mut bytes = fs::read(&log).unwrap();
        let at = bytes.windows(12).position(|window| window == b"key-1the end").unwrap();
        bytes.truncate(at - cut);
        fs::write(&log, &bytes).unwrap();
        let copied = dir.path().join("copy");
        fs::create_dir(&copied).unwrap();
        for entry in fs::read_dir(dir.path()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), copied.join(entry.file_name())).unwrap();
        }
        let found = check(&copied, &mut quiet()).unwrap();
        let is_told = |damage: &Damage| damage.what.contains("though it was durable, is lost");
        assert!(found.notes.is_empty() && found.damages.iter().any(is_told), "{found:?}");
        let repaired = repair(&copied, &mut quiet()).unwrap();
        assert!(repaired.now.notes.is_empty(), "{repaired:?}");
        let (options, told) = heard(dir.path());
        let db = Db::open(options).unwrap();
        let told = told.lock().unwrap();
        assert!(told.contains("though it was durable, is lost") && !told.contains("never synced"), "{told}");
        assert_eq!(db.stats().damaged_records, 1, "{told}");
    }
}

/// Repair removes the index checkpoint, which alone knew that what it leaves was durable.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_stands_behind_damage_that_was_durable_survives_a_repair() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let log = dir.path().join("00000000.log");
    {
        let db = Db::open(options(dir.path())).unwrap();
        for key in [b"first", b"other", b"third"] {
            db.put(key, b"a value").unwrap();
        }
        db.core().write_checkpoint().unwrap();
        // What notes that all this is durable never came.
        let end = db.core().log.end().parts().1 as usize;
        let bytes = fs::read(&log).unwrap()[..end].to_vec();
        let checkpoint = fs::read(dir.path().join("CHECKPOINT")).unwrap();
        drop(db);
        fs::write(&log, bytes).unwrap();
        fs::write(dir.path().join("CHECKPOINT"), checkpoint).unwrap();
    }
    let mut bytes = fs::read(&log).unwrap();
    let at = bytes.windows(12).position(|window| window == b"othera value").unwrap();
    bytes[at] ^= 3;
    fs::write(&log, bytes).unwrap();
    assert!(repair(dir.path(), &mut quiet()).unwrap().now.damages.is_empty());
    let db = Db::open(options(dir.path())).unwrap();
    assert!(db.get(b"first").unwrap().is_some() && db.get(b"third").unwrap().is_some());
}

/// How long the last segment was that is left, an index checkpoint from behind it does not tell.
#[test]
fn segments_that_an_index_checkpoint_knows_are_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    drop(Db::open(options(dir.path())).unwrap().put(b"key-0", b"value"));
    let log = dir.path().join("00000000.log");
    let before = fs::read(&log).unwrap();
    {
        // Nothing is overwritten, so no round takes a segment away.
        let db = Db::open(options(dir.path())).unwrap();
        for key in [b"key-1", b"key-2"] {
            db.put(key, b"later").unwrap();
            db.core().seal_active().unwrap();
        }
        db.core().write_checkpoint().unwrap();
    }
    fs::write(&log, [&before[..], &[0; 4096]].concat()).unwrap();
    for number in 1..=2 {
        fs::remove_file(dir.path().join(format!("{number:08x}.log"))).unwrap();
    }
    let repaired = repair(dir.path(), &mut quiet()).unwrap();
    assert!(repaired.damages.iter().any(|damage| damage.what.contains("is lost")), "{repaired:?}");
    assert!(fs::metadata(&log).unwrap().len() <= before.len() as u64 + 4096);
    let db = Db::open(options(dir.path())).unwrap();
    assert!(db.get(b"key-0").unwrap().is_some());
}

/// Three segments, with the keys of one of them in the middle.
#[cfg(not(feature = "tiny-tags"))]
pub(super) fn make_three(dir: &Path, checkpoint: bool) -> Vec<String> {
    let db = Db::open(options(dir)).unwrap();
    let mut keys = Vec::new();
    for number in 0..30 {
        keys.push(format!("key-{number}"));
        db.put(keys[number].as_bytes(), &[number as u8; 1000]).unwrap();
        if number % 10 == 9 && number < 29 {
            db.core().seal_active().unwrap();
        }
    }
    if checkpoint {
        db.core().write_checkpoint().unwrap();
    }
    drop(db);
    keys
}

/// More than a bit is wrong in the header, and everything behind it is sound.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_header_is_known_again_by_what_is_around_it() {
    // Byte of the header, segment, with an index checkpoint, and whether it can be known again.
    let cases = [(12, 0, 0, true), (12, 1, 0, true), (12, 2, 0, true), (24, 0, 0, true), (24, 1, 0, true)];
    let more = [(24, 2, 0, false), (36, 1, 0, false), (24, 2, 1, true), (36, 1, 1, true), (36, 2, 1, true)];
    for (at, number, checkpoint, known) in cases.into_iter().chain(more) {
        let dir = tempfile::tempdir().unwrap();
        let keys = make_three(dir.path(), checkpoint == 1);
        let path = dir.path().join(format!("0000000{number}.log"));
        let sound = fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        bytes[at] ^= 0x24;
        fs::write(&path, &bytes).unwrap();
        let what = format!("byte {at} of segment {number}, {checkpoint}");
        let repaired = repair(dir.path(), &mut quiet()).unwrap();
        assert_eq!(repaired.now.keys, if known { 30 } else { 20 }, "{what}");
        assert_eq!(fs::read(&path).ok().filter(|found| *found == sound).is_some(), known, "{what}");
        let told = repaired.damages[0].to_string();
        let lost = format!("are lost to the store and set aside as {}.damaged", path.display());
        assert_eq!(told.contains(&lost), !known, "{what}: {told}");
        let found = contents(dir.path(), &keys).values().filter(|value| value == &&Ok(None)).count();
        assert_eq!(found, if known { 0 } else { 10 }, "{what}");
    }
}

/// An order between two others is certain only if no other is left there.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_header_whose_place_is_not_certain_is_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    make_three(dir.path(), false);
    for number in [0, 1] {
        let path = dir.path().join(format!("0000000{number}.log"));
        let mut bytes = fs::read(&path).unwrap();
        bytes[24] ^= 0x24;
        fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(repair(dir.path(), &mut quiet()).unwrap().now.keys, 10);
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn how_much_is_left_out_to_the_end_of_a_segment_is_told() {
    let dir = tempfile::tempdir().unwrap();
    make_three(dir.path(), false);
    let path = dir.path().join("00000001.log");
    let mut bytes = fs::read(&path).unwrap();
    let at = (bytes.len() - 5000) & !7;
    bytes[at..].fill(0x55);
    fs::write(&path, &bytes).unwrap();
    let found = check(dir.path(), &mut quiet()).unwrap();
    let told: Vec<String> = found.damages.iter().map(Damage::to_string).collect();
    let left = told.iter().find_map(|text| text.split_once("damaged or cut from here to its end: ")).unwrap().1;
    let left: usize = left.split_once(' ').unwrap().0.parse().unwrap();
    assert!((4000..=5000).contains(&left), "{told:?}");
}

/// A start that has an index checkpoint reads neither the segments that this knows nor any large value.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_start_from_an_index_checkpoint_finds_what_was_cut_or_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    make_three(dir.path(), false);
    {
        let db = Db::open(options(dir.path())).unwrap();
        db.put(b"large", &[7; 100_000]).unwrap();
        db.core().write_checkpoint().unwrap();
    }
    assert_eq!(Db::open(options(dir.path())).unwrap().stats().damaged_records, 0, "the control");
    let (segment, extent) = (dir.path().join("00000001.log"), dir.path().join("00000000.ext"));
    let bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..bytes.len() / 2]).unwrap();
    fs::remove_file(&extent).unwrap();
    for _ in 0..2 {
        let (options, told) = heard(dir.path());
        let db = Db::open(options).unwrap();
        assert_eq!(db.stats().damaged_records, 1, "{}", told.lock().unwrap());
        assert!(told.lock().unwrap().contains("00000001.log"), "{}", told.lock().unwrap());
        assert!(db.get(b"key-19").is_err() && db.get(b"key-9").unwrap().is_some());
        db.core().write_checkpoint().unwrap();
    }
    fs::write(&segment, bytes).unwrap();
    fs::remove_file(dir.path().join("CHECKPOINT")).unwrap();
    let (options, told) = heard(dir.path());
    let db = Db::open(options).unwrap();
    db.core().write_checkpoint().unwrap();
    drop(db);
    let (options, told_now) = heard(dir.path());
    let db = Db::open(options).unwrap();
    db.core().reclaim(true).unwrap();
    db.core().reclaim(true).unwrap();
    let told = told.lock().unwrap().clone() + &told_now.lock().unwrap();
    assert!(told_now.lock().unwrap().matches("00000000.ext").count() == 1, "{told}");
    assert_eq!(db.stats().damaged_records, 1, "{told}");
}

/// The record of a value that has expired stays in the log, and its file may be gone.
#[test]
fn a_start_does_not_miss_the_file_of_a_value_that_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    {
        let db = Db::open(options(dir.path())).unwrap();
        let mut upload = db.upload(100_000).unwrap();
        upload.write_now(&[7; 1 << 16]).unwrap();
        upload.write_now(&[7; 100_000 - (1 << 16)]).unwrap();
        let (key, uploaded) = (db.key(b"large"), upload.finish());
        let (body, expect) = (NewBody::Uploaded(&uploaded), Expect::Anything);
        let expires = db.now() + 1000;
        db.write_blocking(&Write { key, flags: 0, expires, marks: 0, cas: None, body, expect }).unwrap();
    }
    fs::remove_file(dir.path().join("00000000.ext")).unwrap();
    let (options, told) = heard(dir.path());
    let db = Db::open(options).unwrap();
    (0..2).for_each(|_| db.core().reclaim(true).unwrap());
    assert_eq!(db.stats().damaged_records, 0, "{}", told.lock().unwrap());
}
