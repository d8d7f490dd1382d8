//! Tests of backups: what is in one is a prefix of what was written, whatever goes on meanwhile.

use super::*;
use crate::store::check::check;
use crate::store::{CHUNK, Options};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};

fn options(dir: &Path) -> Options {
    Options { segment_bytes: 1 << 20, cache_bytes: 1 << 20, ..Options::new(dir) }
}

fn open(dir: &Path) -> Db {
    Db::open(options(dir)).unwrap()
}

fn number(db: &Db, key: &str) -> u64 {
    let value = db.get(key.as_bytes()).unwrap().unwrap_or_default();
    String::from_utf8(value).unwrap().split(' ').next().unwrap().parse().unwrap_or(0)
}

fn names(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir(dir).unwrap().flatten();
    let mut names: Vec<_> = all.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Bytes that do not compress.
fn noise(seed: u64) -> Vec<u8> {
    let hash = |word: u64| crate::store::hash::Seed([seed, 1]).hash(&word.to_le_bytes()).tag.to_le_bytes();
    (0..7500).flat_map(hash).collect()
}

fn on(_: u64, _: u64) -> bool {
    true
}

/// Tells the writers to end, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
#[cfg(not(feature = "tiny-tags"))] // Writing one of 600 keys makes another vanish.
fn a_backup_has_what_was_acknowledged_before_it_and_a_prefix_of_the_rest() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let db = open(&dir.path().join("data"));
    let (stop, acknowledged) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 3]);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for (writer, acknowledged) in acknowledged.iter().enumerate() {
            let (db, stop) = (&db, &stop);
            scope.spawn(move || {
                for count in 1.. {
                    // Large ones now and then; compressible, as it happens.
                    let len = if count % 16 == 0 { 3 * CHUNK } else { 2000 };
                    let value = format!("{count} {}", "x".repeat(len));
                    db.put(format!("item-{writer}-{}", count % 200).as_bytes(), value.as_bytes()).unwrap();
                    db.put(format!("count-{writer}").as_bytes(), count.to_string().as_bytes()).unwrap();
                    acknowledged.store(count, SeqCst);
                    if stop.load(SeqCst) {
                        return;
                    }
                }
            });
        }
        for round in 0..6 {
            while acknowledged[0].load(SeqCst) < 150 * (round + 1) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let before = acknowledged.each_ref().map(|count| count.load(SeqCst));
            let target = dir.path().join(format!("backup-{round}"));
            let done = db.backup(&target, &mut on).unwrap();
            assert!(done.copied >= 2, "{done:?}");
            let checked = check(&target, &mut |_, _| ()).unwrap();
            assert!(checked.damages.is_empty() && checked.notes.is_empty(), "{checked:?}");
            let copy = open(&target);
            for (writer, before) in before.into_iter().enumerate() {
                let count = number(&copy, &format!("count-{writer}"));
                assert!(count >= before, "{count} of {before} of writer {writer}");
                for item in 0..200 {
                    let found = number(&copy, &format!("item-{writer}-{item}"));
                    let next = (count + 200 - item) / 200 * 200 + item;
                    let newest = if next > count { next.saturating_sub(200) } else { next };
                    assert!(found == newest || found == count + 1, "{writer}, {item}: {found} beside {count}");
                }
            }
            copy.close().unwrap();
        }
    });
}

#[test]
fn what_is_written_to_is_copied_and_the_rest_is_linked() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir.path().join("data"));
    for count in 0..40 {
        db.put(format!("{count}").as_bytes(), &noise(count)).unwrap();
    }
    db.put(b"large", &[1; 2 * CHUNK]).unwrap();
    let mut upload = db.upload(2 * CHUNK as u64).unwrap();
    let row = upload.chunk(vec![2; CHUNK]).run();
    upload.done(row).unwrap();
    let first = db.backup(&dir.path().join("first"), &mut on).unwrap();
    drop(upload);
    // The end of the upload is noted on the lane, soon.
    let noted = (0..1000).find_map(|attempt| {
        let target = format!("second-{attempt}");
        let second = db.backup(&dir.path().join(&target), &mut on).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(10));
        ((second.linked, second.copied) == (first.linked + 1, first.copied - 1)).then_some(target)
    });
    let second = noted.expect("without an upload under way its file is linked");
    drop(db);
    for backup in ["first", &second] {
        let copy = open(&dir.path().join(backup));
        assert_eq!(copy.get(b"large").unwrap(), Some(vec![1; 2 * CHUNK]));
        assert_eq!(copy.get(b"39").unwrap(), Some(noise(39)));
        copy.put(b"goes on", b"as a store").unwrap();
    }
}

#[test]
fn another_file_system_gets_copies() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let db = open(&dir.path().join("data"));
    (0..40).for_each(|count| db.put(format!("{count}").as_bytes(), &[count; 60_000]).unwrap());
    let mut told = Vec::new();
    let mut watch = |done, total| {
        told.push((done, total));
        // Until the very end it is no store.
        !other.path().join("STORE").exists()
    };
    let done = db.backup(other.path(), &mut watch).unwrap();
    assert_eq!((done.linked, done.copied as usize), (0, names(other.path()).len()));
    assert!(told.is_sorted() && told.last().is_some_and(|(done, total)| done == total), "{told:?}");
    let copy = open(other.path());
    assert!((0..40).all(|count| copy.get(format!("{count}").as_bytes()).unwrap() == Some(vec![count; 60_000])));
}

#[test]
fn a_refused_or_stopped_backup_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (data, target) = (dir.path().join("data"), dir.path().join("target"));
    let db = open(&data);
    db.put(b"key", b"value").unwrap();
    let refused = |target: &Path| db.backup(target, &mut on).unwrap_err().to_string();
    assert!(refused(&data).contains("not empty"));
    assert!(refused(&data.join("LOCK")).contains("LOCK"));
    assert!(refused(&dir.path().join("a/b")).contains("a/b"));
    assert!(db.backup(&target, &mut |_, _| false).unwrap_err().to_string().contains("stopped"));
    assert!(!target.exists());
    std::fs::create_dir(&target).unwrap();
    assert!(db.backup(&target, &mut |_, _| false).is_err());
    assert!(names(&target).is_empty());
    std::fs::write(target.join("mine"), "x").unwrap();
    assert!(refused(&target).contains("not empty"));
    assert_eq!(names(&target), ["mine"]);
    std::fs::remove_file(target.join("mine")).unwrap();
    db.backup(&target, &mut on).unwrap();
    assert_eq!(names(&target), ["00000000.log", "STORE"]);
    assert!(refused(&target).contains("not empty"));
    // Inside of the data directory nobody minds it.
    db.backup(&data.join("backup"), &mut on).unwrap();
    drop(db);
    assert_eq!(open(&data).get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
    assert_eq!(open(&data.join("backup")).get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
}
