//! Tests of snapshots: the cut is consistent, what was cut off stays readable, and the bound on memory costs the
//! snapshot and not the store.

use super::*;
use crate::store::{CHUNK, Options, Value};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

fn open(dir: &tempfile::TempDir) -> Db {
    let options = Options::new(dir.path());
    Db::open(Options { segment_bytes: 1 << 20, cache_bytes: 1 << 20, ..options }).unwrap()
}

fn contents(view: &impl View) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut all = BTreeMap::new();
    for item in view.iter().unwrap() {
        let item = item.unwrap();
        assert!(all.insert(item.key, item.value.into_bytes().unwrap()).is_none(), "each key comes once");
    }
    all
}

/// Distinct for different numbers; some compress, some do not, some are large.
fn value(number: u64) -> Vec<u8> {
    let len = [0, 10, 100, 600, 5000, CHUNK, CHUNK + 1, 3 * CHUNK][number as usize % 8];
    let mut value: Vec<u8> = (0..len).map(|at| ((at as u64 / 3 * number) >> 2) as u8).collect();
    value.extend_from_slice(&number.to_le_bytes());
    value
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_snapshot_has_what_there_was_whatever_comes_after() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let key = |number: u64| format!("key {number}").into_bytes();
    let mut model: BTreeMap<_, _> = (0..2000).map(|number| (key(number), value(number))).collect();
    model.iter().for_each(|(key, value)| db.put(key, value).unwrap());
    for number in (0..2000).step_by(3) {
        db.delete(&key(number)).unwrap();
        model.remove(&key(number));
    }
    let snapshot = db.snapshot().unwrap();
    for number in 0..4000 {
        match number % 4 {
            0 => drop(db.delete(&key(number)).unwrap()),
            1 => {}
            _ => db.put(&key(number), b"new").unwrap(),
        }
    }
    assert!(contents(&snapshot) == model);
    assert_eq!(snapshot.len(), model.len() as u64);
    for number in 0..4000 {
        assert!(snapshot.get(&key(number)).unwrap().as_ref() == model.get(&key(number)), "key {number}");
    }
    db.flush_all(None).unwrap();
    db.core.sweep();
    assert!(contents(&snapshot) == model);
    assert!(contents(&db).is_empty() && contents(&db.snapshot().unwrap()).is_empty());
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_snapshot_stays_readable_when_all_its_segments_are_compacted_away() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let noise = |number: u64| (0..1500).map(|at| ((number * 7919 + at * at * 31) >> 3) as u8).collect::<Vec<_>>();
    let put = |number: u64, value: &[u8]| db.put(&number.to_be_bytes(), value).unwrap();
    (0..4000).for_each(|number| put(number, &noise(number)));
    put(1, &vec![1; 3 * CHUNK]);
    let (snapshot, model) = (db.snapshot().unwrap(), contents(&db));
    let before = written(&db);
    (0..4000_u64).step_by(2).for_each(|number| assert!(db.delete(&number.to_be_bytes()).unwrap()));
    (0..4000).step_by(3).for_each(|number| put(number, b"new"));
    db.compact().unwrap();
    (0..4000).for_each(|number| put(number, &noise(number + 1)));
    db.compact().unwrap();
    let left = written(&db).iter().filter(|number| before.contains(number)).count();
    assert!(before.len() > 3 && left == 0, "{left} of {} segments are left", before.len());
    assert!(contents(&snapshot) == model);
    assert!(model.iter().all(|(key, value)| snapshot.get(key).unwrap().as_ref() == Some(value)));
}

/// Numbers of the segments that have records with a value: not of the next one, which was made ahead.
fn written(db: &Db) -> Vec<u32> {
    let segments = &db.core.log.segments;
    let all = segments.all();
    let has_values = all.iter().filter(|segment| segments.usage(segment.handle).figures().total > 0);
    has_values.map(|segment| segment.number).collect()
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn the_cut_never_has_a_later_write_without_the_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let over = AtomicBool::new(false);
    // Each writer counts up in two keys of different stripes, first one, then the other.
    let names = |writer: usize| [format!("first {writer}").into_bytes(), format!("second {writer}").into_bytes()];
    let write = |writer: usize| {
        for count in 1_u64.. {
            names(writer).iter().for_each(|name| db.put(name, &count.to_le_bytes()).unwrap());
            if over.load(SeqCst) {
                return count;
            }
        }
        unreachable!("counting ends first")
    };
    let count = |snapshot: &Snapshot, name: &[u8]| {
        snapshot.get(name).unwrap().map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
    };
    let (mut between, mut snapshots) = (0, 0);
    std::thread::scope(|scope| {
        let writers = [0, 1, 2].map(|writer| scope.spawn(move || write(writer)));
        while snapshots < 300 || (between == 0 && snapshots < 30_000) {
            let snapshot = db.snapshot().unwrap();
            for writer in 0..3 {
                let [first, second] = names(writer).map(|name| count(&snapshot, &name));
                assert!(first == second || first == second + 1, "writer {writer}: {first} and {second}");
                between += u64::from(first != second);
            }
            snapshots += 1;
        }
        over.store(true, SeqCst);
        assert!(writers.into_iter().all(|writer| writer.join().unwrap() > 0));
    });
    assert!(between > 0, "some cut lay between two writes");
    println!("snapshots: {snapshots} of {snapshots}, {between} cuts between two writes");
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn at_the_bound_the_snapshots_fail_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(Options { snapshot_bytes: 100 << 10, ..Options::new(dir.path()) }).unwrap();
    let put = |number: u64| db.put(&number.to_le_bytes(), b"value").unwrap();
    (0..20_000).for_each(put);
    let (first, second) = (db.snapshot().unwrap(), db.snapshot().unwrap());
    let mut iter = first.iter().unwrap();
    assert!(iter.next().unwrap().is_ok());
    (0..10).for_each(put);
    assert_eq!(contents(&second).len(), 20_000);
    (0..20_000).for_each(put);
    assert!(iter.any(|item| item.is_err_and(|error| error.to_string().contains("snapshot_bytes"))));
    assert!(second.get(&7_u64.to_le_bytes()).is_err());
    assert_eq!(db.core.index.copies.open(), 2);
    // A new one works though the ones that failed are still there.
    let third = db.snapshot().unwrap();
    (0..10).for_each(put);
    assert_eq!(contents(&third).len(), 20_000);
    drop((first, second, third, iter));
    assert_eq!((db.core.index.copies.open(), db.core.index.copies.bytes()), (0, 0));
    assert_eq!(contents(&db).len(), 20_000);
}

#[test]
fn records_that_damage_has_taken_are_missed_and_all_others_come() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    (0..100_u64).for_each(|number| db.put(&number.to_le_bytes(), &number.to_be_bytes()).unwrap());
    let snapshot = db.snapshot().unwrap();
    let total = snapshot.len();
    let segment = snapshot.0.segments[0].clone().unwrap();
    segment.file.write_all_at(&[0x55; 200], 1000).unwrap();
    let (sound, bad): (Vec<_>, Vec<_>) = snapshot.iter().unwrap().partition(|item| item.is_ok());
    let error = bad[0].as_ref().err().unwrap().to_string();
    let missing = total - sound.len() as u64;
    assert!(missing > 1 && missing < 10 && bad.len() == 1, "{missing} missing");
    assert!(error.contains("00000000.log at offset 9") && error.contains(&format!("{missing} records")), "{error}");
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_record_of_which_nothing_can_be_made_does_not_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let large = vec![7; 3 * crate::store::CHUNK];
    for key in [&b"lost"[..], b"kept"] {
        db.put(key, &large).unwrap();
        db.core.extents.begin_next();
    }
    db.put(b"small", b"value").unwrap();
    drop(db);
    std::fs::remove_file(dir.path().join("00000000.ext")).unwrap();
    let (sound, bad): (Vec<_>, Vec<_>) = open(&dir).iter().unwrap().partition(|item| item.is_ok());
    assert_eq!(sound.into_iter().map(|item| item.unwrap().key).collect::<Vec<_>>(), [&b"kept"[..], b"small"]);
    let error = bad[0].as_ref().err().unwrap().to_string();
    assert!(bad.len() == 1 && error.contains("00000000.ext") && error.contains(" 1 record"), "{error}");
}

#[test]
fn what_expired_is_judged_at_the_time_of_the_snapshot() {
    use crate::store::{Expect, NewBody, Scratch, Write};
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let write = |key: &'static [u8], expires| {
        let body = NewBody::Inline(b"value");
        let write = Write { key: db.key(key), flags: 7, expires, marks: 0, cas: None, body, expect: Expect::Anything };
        db.write(&write, &mut Scratch::default()).unwrap();
    };
    write(b"gone", db.now());
    write(b"soon", db.now() + 1);
    let snapshot = db.snapshot().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let items: Vec<_> = snapshot.iter().unwrap().map(|item| item.unwrap()).collect();
    assert_eq!(items.len(), 1);
    assert!(matches!(&items[0].value, Value::Bytes(value) if value == b"value"));
    assert_eq!((items[0].flags, items[0].key.as_slice()), (7, &b"soon"[..]));
    assert!(snapshot.find(b"soon").unwrap().is_some() && snapshot.find(b"gone").unwrap().is_none());
    assert!(db.find(b"soon").unwrap().is_none());
}
