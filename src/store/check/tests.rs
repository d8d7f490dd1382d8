use super::*;
use crate::store::{CHUNK, Db, Options, header};
use std::collections::HashMap;
use std::fs;

pub(super) type Contents = HashMap<String, Vec<u8>>;

pub(super) fn options(dir: &Path) -> Options {
    Options { segment_bytes: 1 << 20, cache_bytes: 0, compression: false, ..Options::new(dir) }
}

pub(super) fn quiet() -> impl FnMut(u64, u64) {
    |_, _| ()
}

/// What the keys have, damaged ones as an error's text.
pub(super) fn contents(dir: &Path, keys: &[String]) -> HashMap<String, std::result::Result<Option<Vec<u8>>, String>> {
    let db = Db::open(options(dir)).unwrap();
    keys.iter().map(|key| (key.clone(), db.get(key.as_bytes()).map_err(|error| error.to_string()))).collect()
}

/// A closed store: overwritten, deleted and large values. Returns the newest and the oldest version of each key.
pub(super) fn make(dir: &Path) -> (Contents, Contents) {
    let db = Db::open(options(dir)).unwrap();
    let mut old = Contents::new();
    for number in 0..6 {
        let (key, value) = (format!("key-{number}"), format!("first value of {number}").into_bytes());
        db.put(key.as_bytes(), &value).unwrap();
        old.insert(key, value);
    }
    db.put(b"large", b"small at first").unwrap();
    old.insert("large".into(), b"small at first".to_vec());
    let mut new = old.clone();
    for number in 0..3 {
        let (key, value) = (format!("key-{number}"), format!("second value of {number}").into_bytes());
        db.put(key.as_bytes(), &value).unwrap();
        new.insert(key, value);
    }
    db.delete(b"key-5").unwrap();
    new.remove("key-5");
    let large: Vec<u8> = (0..70_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    db.put(b"large", &large[..150_000]).unwrap();
    new.insert("large".into(), large[..150_000].to_vec());
    db.put(b"last", b"x").unwrap();
    new.insert("last".into(), b"x".to_vec());
    db.close().unwrap();
    (new, old)
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_sound_store_is_sound_also_while_others_look_at_it() {
    let dir = tempfile::tempdir().unwrap();
    let (new, _) = make(dir.path());
    let before: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    let mut told = 0;
    let checked = check(dir.path(), &mut |done, _| told = told.max(done)).unwrap();
    assert!(checked.damages.is_empty() && checked.notes.is_empty(), "{checked:?}");
    assert_eq!((checked.keys, checked.large_values), (new.len() as u64, 1));
    assert!(told >= checked.bytes);
    let after: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(before, after, "nothing is made");
    let db = Db::open(options(dir.path())).unwrap();
    assert!(check(dir.path(), &mut quiet()).unwrap_err().to_string().contains("in use"));
    drop(db);
    assert!(check(&dir.path().join("absent"), &mut quiet()).is_err());
    let empty = tempfile::tempdir().unwrap();
    assert!(check(empty.path(), &mut quiet()).unwrap_err().to_string().contains("no store"));
    assert!(repair(empty.path(), &mut quiet()).unwrap_err().to_string().contains("no store"));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0, "nothing is made");
}

/// As after a change to a newer or an older release. Had its version merely been damaged, it would not be sound.
#[test]
fn an_index_checkpoint_of_another_version_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(options(dir.path())).unwrap();
    db.put(b"key", b"value").unwrap();
    db.core().write_checkpoint().unwrap();
    drop(db);
    let path = dir.path().join("CHECKPOINT");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    fs::write(&path, &bytes).unwrap();
    let checked = check(dir.path(), &mut quiet()).unwrap();
    assert_eq!((checked.damages.len(), checked.notes.len()), (1, 0), "{:?}", checked.notes);
    let crc = header::checksum(&bytes[..128]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let checked = check(dir.path(), &mut quiet()).unwrap();
    assert_eq!((checked.damages.len(), checked.notes.len()), (0, 1), "{:?}", checked.damages);
    assert!(checked.notes[0].contains("CHECKPOINT is of another version"), "{:?}", checked.notes);
    assert_eq!(Db::open(options(dir.path())).unwrap().get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
}

#[test]
fn an_old_store_is_checked_too() {
    let dir = tempfile::tempdir().unwrap();
    let copied = dir.path().join("v1");
    copy(Path::new("tests/fixtures/v1"), &copied);
    let checked = check(&copied, &mut quiet()).unwrap();
    assert!(checked.damages.is_empty() && checked.notes.is_empty(), "{checked:?}");
    assert_eq!((checked.keys, checked.large_values), (23, 1));
}

/// Every byte of the files is damaged twice: by two bits, and by one. Whatever it was: the check finds it; repair leaves a
/// sound store, which has each key as it was, or, if the key was named, an older version or none.
#[test]
fn every_damaged_byte_is_found_and_repaired() {
    // Memory has no disk to wait for at each of thousands of syncs.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
    let (new, old) = make(&good);
    let keys: Vec<String> = new.keys().chain(old.keys()).cloned().collect();
    let (mut found, mut torn, mut tried) = (0, 0, 0);
    for entry in fs::read_dir(&good).unwrap().flatten() {
        let (name, len) = (entry.file_name(), entry.metadata().unwrap().len());
        // Of the extent file: its header, and some of the chunks, which are long and alike.
        let is_log = !name.to_str().unwrap().ends_with(".ext");
        let offsets = (0..len).filter(|&at| is_log || at < 64 || (at >= CHUNK as u64 && at % 4099 == 0));
        for (at, mask) in offsets.flat_map(|at| [(at, 0x24), (at, 0x04)]) {
            copy(&good, &bad);
            let mut bytes = fs::read(bad.join(&name)).unwrap();
            bytes[at as usize] ^= mask;
            fs::write(bad.join(&name), bytes).unwrap();
            let where_ = format!("{name:?} at {at}, {mask:#x}");
            tried += 1;
            let checked = check(&bad, &mut quiet()).unwrap_or_else(|error| panic!("{where_}: {error}"));
            match (checked.damages.is_empty(), checked.notes.is_empty()) {
                (false, _) => found += 1,
                (true, false) => torn += 1,
                (true, true) => panic!("{where_}: not found"),
            }
            let repaired = repair(&bad, &mut quiet()).unwrap_or_else(|error| panic!("{where_}: {error}"));
            assert!(repaired.now.damages.is_empty());
            // Of a header, nobody knows order and salt, were more than a bit of them wrong.
            let is_unknown = matches!(at, 24..32 | 36..40) && mask == 0x24;
            let loses_nothing = at < 64 && !(is_unknown && name.to_str().unwrap().ends_with(".log"));
            for (key, value) in contents(&bad, &keys) {
                let damages = repaired.damages.iter().filter(|damage| damage.key.as_deref() == Some(key.as_bytes()));
                let fates: Vec<Fate> = damages.map(|damage| damage.fate).collect();
                assert!(!fates.contains(&Fate::Unknown), "{where_}: {key}");
                let value = value.unwrap_or_else(|error| panic!("{where_}: {key}: {error}"));
                // Whose record it was is not known where the key is what was damaged.
                let known = |damage: &Damage| keys.iter().any(|key| damage.key.as_deref() == Some(key.as_bytes()));
                let anonymous = !repaired.damages.iter().all(known) || !checked.notes.is_empty();
                let is_new = value.as_ref() == new.get(&key);
                let is_old = value.as_ref() == old.get(&key) || value.is_none();
                let named = fates.contains(&Fate::Older) || fates.contains(&Fate::Gone);
                assert!(is_new || (is_old && (named || anonymous)), "{where_}: {key}: {fates:?}");
                assert!(is_new || !loses_nothing, "{where_}: {key}");
                assert!(!fates.contains(&Fate::Gone) || value.is_none(), "{where_}: {key}");
            }
        }
    }
    println!("bytes damaged: {tried}, found: {found}, torn tails: {torn}");
    assert!(found > 1600 && torn < 100, "{found} of {tried} found, {torn} torn");
}

#[test]
fn a_repaired_store_keeps_the_damaged_file_and_names_what_it_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (new, _) = make(dir.path());
    let segment = dir.path().join("00000000.log");
    let mut bytes = fs::read(&segment).unwrap();
    let find = |text: &[u8]| bytes.windows(text.len()).position(|window| window == text).unwrap();
    let places = [find(b"second value of 0"), find(b"first value of 1"), find(b"first value of 4")];
    places.into_iter().for_each(|at| bytes[at] ^= 1);
    fs::write(&segment, &bytes).unwrap();
    let repaired = repair(dir.path(), &mut quiet()).unwrap();
    let mut fates: Vec<_> = repaired.damages.iter().map(|damage| (damage.key.clone().unwrap(), damage.fate)).collect();
    fates.sort_by_key(|(key, _)| key.clone());
    let expected = [("key-0", Fate::Older), ("key-1", Fate::Superseded), ("key-4", Fate::Gone)];
    assert_eq!(fates, expected.map(|(key, fate)| (key.as_bytes().to_vec(), fate)));
    assert_eq!(repaired.kept, [dir.path().join("00000000.log.damaged")]);
    assert_eq!(fs::read(&repaired.kept[0]).unwrap(), bytes);
    let found = contents(dir.path(), &new.keys().cloned().collect::<Vec<_>>());
    assert_eq!(found["key-0"], Ok(Some(b"first value of 0".to_vec())));
    assert_eq!((&found["key-4"], &found["key-1"]), (&Ok(None), &Ok(new.get("key-1").cloned())));
    assert!(check(dir.path(), &mut quiet()).unwrap().damages.is_empty());
}

#[test]
fn missing_files_are_told_and_the_rest_opens_after_repair() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(options(dir.path())).unwrap();
    for number in 0..60 {
        db.put(format!("key-{number}").as_bytes(), &[number; 60_000]).unwrap();
    }
    db.put(b"large", &[7; 100_000]).unwrap();
    drop(db);
    fs::remove_file(dir.path().join("00000001.log")).unwrap();
    fs::remove_file(dir.path().join("00000000.ext")).unwrap();
    let checked = check(dir.path(), &mut quiet()).unwrap();
    let text: Vec<String> = checked.damages.iter().map(Damage::to_string).collect();
    assert!(text.iter().any(|line| line.contains("a segment before this one is missing")), "{text:?}");
    assert!(text.iter().any(|line| line.contains(".ext") && line.contains("key \"large\"")), "{text:?}");
    let repaired = repair(dir.path(), &mut quiet()).unwrap();
    assert!(repaired.now.damages.is_empty());
    let db = Db::open(options(dir.path())).unwrap();
    assert_eq!((db.stats().damaged_records, db.get(b"large").unwrap()), (0, None));
    assert_eq!(db.get(b"key-59").unwrap().map(|value| value.len()), Some(60_000));
}

/// The store that is left where `dir` is copied to: its key had so many large values, none of which was given back.
fn make_versions(dir: &Path, values: impl Iterator<Item = Vec<u8>>) {
    let made = tempfile::tempdir().unwrap();
    let db = Db::open(options(made.path())).unwrap();
    let _none_is_given_back = db.core().hold_rounds();
    values.for_each(|value| db.put(b"large", &value).unwrap());
    db.core().settle_log().unwrap();
    copy(made.path(), dir);
}

#[test]
fn a_large_value_with_many_damaged_versions_is_repaired_in_one_round() {
    let end = |number: u8| format!("end of version {number} of 20");
    let value = |number: u8| [&[number; 200_000][..], end(number).as_bytes()].concat();
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("store");
    make_versions(dir, (0..20).map(value));
    let extent = dir.join("00000000.ext");
    let mut bytes = fs::read(&extent).unwrap();
    for text in (1..20).map(end) {
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        bytes[at..at + 3].fill(b'?');
    }
    fs::write(&extent, &bytes).unwrap();
    let repaired = repair(dir, &mut quiet()).unwrap();
    assert_eq!(repaired.kept, [dir.join("00000000.log.damaged")]);
    let is_older = |damage: &Damage| damage.key.as_deref() == Some(b"large") && damage.fate == Fate::Older;
    assert!(repaired.damages.len() == 19 && repaired.damages.iter().all(is_older), "{:?}", repaired.damages);
    assert!(Db::open(options(dir)).unwrap().get(b"large").unwrap() == Some(value(0)));
}

#[test]
fn a_key_whose_large_values_are_all_damaged_has_none_after_one_round() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("store");
    make_versions(dir, (0..20).map(|number| vec![number; 200_000]));
    fs::remove_file(dir.join("00000000.ext")).unwrap();
    let repaired = repair(dir, &mut quiet()).unwrap();
    assert_eq!(repaired.kept, [dir.join("00000000.log.damaged")]);
    assert!(repaired.damages.iter().any(|damage| damage.fate == Fate::Gone), "{:?}", repaired.damages);
    assert_eq!(Db::open(options(dir)).unwrap().get(b"large").unwrap(), None);
}

/// One segment is repaired, the next one cannot be: what became of the first is told beside the error.
#[test]
fn a_repair_that_cannot_go_on_tells_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(options(dir.path())).unwrap();
    (0..40).for_each(|number| db.put(format!("key-{number}").as_bytes(), &[number; 60_000]).unwrap());
    drop(db);
    let segments = [0, 1].map(|number| dir.path().join(format!("{number:08x}.log")));
    for path in &segments {
        let mut bytes = fs::read(path).unwrap();
        bytes[100_000] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    fs::create_dir(segments[1].with_extension("log.new")).unwrap();
    let Unfinished { error, damages, kept } = repair(dir.path(), &mut quiet()).unwrap_err();
    assert!(error.to_string().contains("00000001.log.new"), "{error}");
    let keys: Vec<_> = damages.iter().map(|damage| damage.key.as_deref()).collect();
    assert_eq!(keys, [Some(&b"key-1"[..])]);
    assert_eq!(kept, [dir.path().join("00000000.log.damaged")]);
    // And that the repair was not finished.
    assert_eq!(check(dir.path(), &mut quiet()).unwrap().damages.len(), 2);
}

/// A record whose damaged length ends too early leaves bytes behind it that are too few for another.
#[test]
fn a_damaged_length_that_leaves_a_few_bytes_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(options(dir.path())).unwrap();
    db.put(b"first", b"value").unwrap();
    let start = db.core().log.end().parts().1 as usize;
    db.put(b"short", &[b'x'; 33]).unwrap();
    db.put(b"last", b"value").unwrap();
    drop(db);
    let segment = dir.path().join("00000000.log");
    let mut bytes = fs::read(&segment).unwrap();
    assert_eq!(std::mem::replace(&mut bytes[start + 8], 16), 33);
    fs::write(&segment, bytes).unwrap();
    let repaired = repair(dir.path(), &mut quiet()).unwrap();
    assert_eq!(repaired.damages.len(), 2, "{:?}", repaired.damages);
    let db = Db::open(options(dir.path())).unwrap();
    let found = [&b"first"[..], b"short", b"last"].map(|key| db.get(key).unwrap());
    assert_eq!(found, [Some(b"value".to_vec()), None, Some(b"value".to_vec())]);
}

/// A deletion, a flush and one that is still to come hold, whichever bit of their records flips.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn flushes_and_deletions_with_a_flipped_bit_are_set_right() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
    let db = Db::open(options(&good)).unwrap();
    let due = db.now() + 1_000_000;
    let place = |act: &dyn Fn()| {
        let start = db.core().log.end().parts().1;
        act();
        start..db.core().log.end().parts().1
    };
    db.put(b"flushed", b"value").unwrap();
    let flush = place(&|| assert!(db.flush_all(None).is_ok()));
    db.put(b"deleted", b"value").unwrap();
    let deletion = place(&|| assert!(db.delete(b"deleted").unwrap()));
    let pending = place(&|| assert!(db.flush_all(Some(due)).is_ok()));
    db.put(b"last", b"value").unwrap();
    db.close().unwrap();
    for bit in [flush, deletion, pending].into_iter().flat_map(|place| place.start * 8..place.end * 8) {
        copy(&good, &bad);
        let segment = bad.join("00000000.log");
        let sound = fs::read(&segment).unwrap();
        let mut bytes = sound.clone();
        bytes[bit as usize / 8] ^= 1 << (bit % 8);
        fs::write(&segment, bytes).unwrap();
        let checked = check(&bad, &mut quiet()).unwrap();
        assert_eq!((checked.damages.len(), checked.keys, checked.damages[0].fate), (1, 1, Fate::Kept), "bit {bit}");
        repair(&bad, &mut quiet()).unwrap();
        assert!(fs::read(&segment).unwrap() == sound, "bit {bit}");
        let db = Db::open(options(&bad)).unwrap();
        assert_eq!((db.core().facts().1.flush_due, db.stats().damaged_records), (due, 0), "bit {bit}");
        let found = [&b"flushed"[..], b"deleted", b"last"].map(|key| db.get(key).unwrap());
        assert_eq!(found, [None, None, Some(b"value".to_vec())], "bit {bit}");
    }
}

/// A read that failed once is remembered by the index checkpoint. Whoever finds no damage there has it forgotten.
#[test]
fn an_index_checkpoint_that_knows_of_damage_that_is_not_there_goes() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let db = Db::open(options(dir.path())).unwrap();
    db.core().log.segments.all()[0].note_damage();
    db.core().write_checkpoint().unwrap();
    drop(db);
    let found = check(dir.path(), &mut quiet()).unwrap();
    assert!(found.damages.len() == 1 && found.damages[0].what.contains("damage in segment 00000000"), "{found:?}");
    let left = repair(dir.path(), &mut quiet()).unwrap().now;
    assert!(left.damages.is_empty() && !dir.path().join("CHECKPOINT").exists());
}

/// What the index checkpoint knows of was in the log once. A start keeps the large values that it may name until it is back.
#[test]
fn a_log_that_has_lost_its_end_is_not_sound() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let (log, extent) = (dir.path().join("00000000.log"), dir.path().join("00000000.ext"));
    {
        let db = Db::open(options(dir.path())).unwrap();
        db.core().write_checkpoint().unwrap();
    }
    let whole = fs::read(&log).unwrap();
    for cut in [None, Some(500), Some(64)] {
        match cut {
            None => fs::remove_file(&log).unwrap(),
            Some(len) => fs::write(&log, &whole[..len]).unwrap(),
        }
        let found = check(dir.path(), &mut quiet()).unwrap();
        assert!(found.damages.iter().any(|damage| damage.what.contains("missing or were cut")), "{cut:?}: {found:?}");
        let checkpoint = fs::read(dir.path().join("CHECKPOINT")).unwrap();
        // Not only until the next start.
        (0..2).for_each(|_| drop(Db::open(options(dir.path())).unwrap()));
        assert!(extent.exists(), "{cut:?}");
        fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path()).for_each(|path| {
            let is_log = path.extension().is_some_and(|suffix| suffix == "log");
            is_log.then(|| fs::remove_file(path).unwrap());
        });
        fs::write(dir.path().join("CHECKPOINT"), checkpoint).unwrap();
        fs::write(&log, &whole).unwrap();
    }
    let db = Db::open(options(dir.path())).unwrap();
    assert_eq!(db.get(b"large").unwrap().map(|value| value.len()), Some(150_000));
}

#[test]
fn large_values_without_a_log_are_no_sound_store() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let _ = fs::remove_file(dir.path().join("CHECKPOINT"));
    fs::remove_file(dir.path().join("00000000.log")).unwrap();
    let found = check(dir.path(), &mut quiet()).unwrap();
    assert!(found.damages.len() == 1 && found.damages[0].what.contains("no log"), "{found:?}");
    (0..2).for_each(|_| drop(Db::open(options(dir.path())).unwrap()));
    assert!(dir.path().join("00000000.ext").exists(), "until a repair gives it up");
    let found = check(dir.path(), &mut quiet()).unwrap();
    assert!(found.damages.len() == 1 && found.damages[0].what.contains("segments missing"), "{found:?}");
    assert!(repair(dir.path(), &mut quiet()).unwrap().now.damages.is_empty());
    drop(Db::open(options(dir.path())).unwrap());
    assert!(!dir.path().join("00000000.ext").exists(), "it was given up");
}

/// Whatever else is damaged: that the log has lost its end is told, too. Repair removes what alone knows of it.
#[test]
fn other_damage_does_not_hide_that_the_log_has_lost_its_end() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let (log, extent) = (dir.path().join("00000000.log"), dir.path().join("00000000.ext"));
    {
        let db = Db::open(options(dir.path())).unwrap();
        db.put(b"key-1", b"the end").unwrap();
        db.core().write_checkpoint().unwrap();
    }
    let whole = fs::read(&log).unwrap();
    let place = |text: &[u8]| whole.windows(text.len()).position(|window| window == text).unwrap();
    let cut = &whole[..place(b"key-1the end") - 64];
    for (path, at) in [(&log, place(b"second value of 1")), (&extent, 20), (&log, 20)] {
        let other = format!("{} at {at}", path.display());
        fs::write(&log, cut).unwrap();
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
        let checkpoint = fs::read(dir.path().join("CHECKPOINT")).unwrap();
        let is_told = |damages: &[Damage]| damages.iter().any(|damage| damage.what.contains("missing or were cut"));
        let found = check(dir.path(), &mut quiet()).unwrap().damages;
        assert!(found.len() >= 2 && is_told(&found), "{other}: {found:?}");
        assert!(is_told(&repair(dir.path(), &mut quiet()).unwrap().damages), "{other}");
        fs::write(dir.path().join("CHECKPOINT"), checkpoint).unwrap();
    }
}

/// As a disk does that has lost what was written last: nothing there is torn, nor damaged.
#[test]
fn a_log_whose_end_reads_as_zeros_is_not_sound() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let log = dir.path().join("00000000.log");
    let from = fs::metadata(&log).unwrap().len() as usize;
    {
        let db = Db::open(options(dir.path())).unwrap();
        db.put(b"key-1", b"the end").unwrap();
        db.core().write_checkpoint().unwrap();
    }
    assert!(check(dir.path(), &mut quiet()).unwrap().damages.is_empty(), "the control");
    let mut bytes = fs::read(&log).unwrap();
    bytes[from..].fill(0);
    fs::write(&log, bytes).unwrap();
    let found = check(dir.path(), &mut quiet()).unwrap();
    assert!(found.damages.iter().any(|damage| damage.what.contains("missing or were cut")), "{found:?}");
}
