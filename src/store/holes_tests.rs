//! Tests of what cannot become a hole at first.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::super::super::db::Db;
use super::super::super::options::Options;
use super::super::path_of;
use super::*;
use crate::store::lane::Lane;
use crate::store::recovery::tests::{options, scratch};
use crate::store::space::Space;
use crate::store::throttle::Throttle;
use crate::store::{Body, CHUNK, Large, Lookup, Record, Scratch, TableBlock};
use crate::sys::socket::{Listener, Stream};

/// Of the first extent file on the disk. Bytes.
fn taken(dir: &Path) -> u64 {
    std::fs::metadata(path_of(dir, 0)).map_or(0, |file| file.blocks() * 512)
}

/// Gives the first extent file another descriptor: through one that cannot be written to, no hole can be made.
fn reopen(extents: &Extents, writable: bool) {
    let mut files = write(&extents.files);
    let file = Arc::get_mut(files.get_mut(&0).unwrap()).unwrap();
    file.file = OnceLock::from(File::options().read(true).write(writable).open(&file.path).unwrap());
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_could_not_be_given_back_is_tried_again() {
    let dir = scratch();
    let db = Db::open(Options { compression: false, ..options(dir.path()) }).unwrap();
    let value = vec![7; 4 * CHUNK];
    db.put(b"kept", &value).unwrap();
    db.put(b"removed", &value).unwrap();
    db.flush().unwrap();
    let core = db.core();
    core.extents.begin_next();
    let before = taken(dir.path());
    reopen(&core.extents, false);
    assert!(db.delete(b"removed").unwrap());
    let failed = core.reclaim(true).unwrap_err().to_string();
    assert!(failed.contains("cannot give back") && taken(dir.path()) == before, "{failed}");
    reopen(&core.extents, true);
    core.reclaim(true).unwrap();
    assert_eq!(taken(dir.path()), before - value.len() as u64);
    assert_eq!(db.get(b"kept").unwrap(), Some(value));
}

#[test]
fn a_sweep_that_fails_leaves_nothing_behind_for_good() {
    let dir = scratch();
    let file = File::create(path_of(dir.path(), 0)).unwrap();
    file.write_all_at(&[7; 8 * CHUNK], CHUNK as u64).unwrap();
    let (lane, threads) = Lane::start("lane", 1).unwrap();
    let options = Options::new(dir.path());
    let limits = (Arc::new(Space::new(&options)), Arc::new(Throttle::new(0)));
    let extents = Extents::open(&options, 1, lane.clone(), limits).unwrap();
    let named = |base| Range { file: 0, base, len: CHUNK as u64 };
    let named = HashMap::from([(0, [named(2 * CHUNK as u64), named(4 * CHUNK as u64)].into())]);
    reopen(&extents, false);
    assert!(extents.sweep(&named).is_err());
    reopen(&extents, true);
    extents.sweep(&named).unwrap();
    extents.owing().iter().for_each(|file| file.punch_owed());
    assert_eq!(taken(dir.path()), 2 * CHUNK as u64);
    lane.close();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn large(db: &Db, key: &[u8]) -> Large {
    let visit = |record: Record<'_>| if let Body::Large(large) = record.body { Some(large.clone()) } else { None };
    let mut fetched = None;
    loop {
        match db.lookup(&db.key(key), db.now(), fetched.as_ref(), &mut Scratch::default(), visit).unwrap() {
            Lookup::Hit(_, large) => return large.expect("the value is large"),
            Lookup::Cold(read) => fetched = Some(read.run()),
            Lookup::Miss(_) => panic!("the key is there"),
        }
    }
}

/// Whether it is lent once it was read.
fn lends(large: &Large, from: u64, offset: u64) -> bool {
    large.read_all().unwrap();
    large.may_lend(from, offset, &mut TableBlock::default())
}

/// On a disk: what lies in memory cannot be had without sleeping, as the kernel says.
fn disk() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Nothing that a compressor finds.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

const LEN: usize = super::super::ALONE as usize;

#[test]
fn what_has_a_file_alone_and_is_not_compressed_may_be_lent() {
    let dir = disk();
    let db = Db::open(options(dir.path())).unwrap();
    let value = noise(LEN);
    db.put(b"alone", &value).unwrap();
    db.put(b"beside others", &value[..LEN / 2]).unwrap();
    db.put(b"compressed", &vec![7; LEN]).unwrap();
    let alone = large(&db, b"alone");
    for offset in [0, 1, CHUNK as u64, LEN as u64 - 1] {
        assert!(lends(&alone, 0, offset) && lends(&alone, offset, offset), "{offset}");
        let (file, at) = alone.lend(offset).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        assert_eq!(byte[0], value[offset as usize]);
    }
    assert!(!lends(&large(&db, b"beside others"), 0, 0) && !lends(&large(&db, b"compressed"), 0, 0));
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_could_be_lent_is_never_made_a_hole() {
    let (dir, value) = (disk(), noise(LEN));
    let db = Db::open(options(dir.path())).unwrap();
    let len = |number| std::fs::metadata(path_of(dir.path(), number)).map_or(0, |file| file.len());
    let remove = |key: &[u8]| {
        assert!(db.delete(key).unwrap());
        db.flush().unwrap();
        db.core().reclaim(true).unwrap();
    };
    db.put(b"beside", &value[..LEN / 4]).unwrap();
    db.put(b"others", &value[..LEN / 4]).unwrap();
    db.put(b"alone", &value).unwrap();
    db.flush().unwrap();
    let before = [len(0), len(1)];
    remove(b"others");
    assert_eq!([len(0), len(1)], before);
    remove(b"alone");
    assert_eq!([len(0), len(1)], [before[0], 0]);
    assert!(db.get(b"beside").unwrap().is_some_and(|found| found == value[..LEN / 4]));
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_was_lent_and_is_kept_under_another_name_goes_later() {
    let dir = disk();
    let (path, link) = (path_of(dir.path(), 0), dir.path().join("link"));
    let db = Db::open(options(dir.path())).unwrap();
    db.put(b"key", &noise(LEN)).unwrap();
    db.flush().unwrap();
    assert!(lends(&large(&db, b"key"), 0, 0));
    std::fs::hard_link(&path, &link).unwrap();
    let before = std::fs::read(&link).unwrap();
    assert!(db.delete(b"key").unwrap());
    db.core().reclaim(true).unwrap();
    assert!(std::fs::read(&link).unwrap() == before, "somebody keeps it as it was");
    std::fs::remove_file(&link).unwrap();
    db.core().extents.owing().iter().for_each(|file| file.punch_owed());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn of_an_earlier_life_is_lent_what_is_known_to_lie_alone() {
    let dir = disk();
    let value = noise(LEN);
    let db = Db::open(options(dir.path())).unwrap();
    db.put(b"alone", &value).unwrap();
    db.put(b"beside", &value[..LEN / 2]).unwrap();
    db.put(b"others", &value[..LEN / 2]).unwrap();
    db.flush().unwrap();
    drop(db);
    let db = Db::open(options(dir.path())).unwrap();
    let (alone, beside) = (large(&db, b"alone"), large(&db, b"beside"));
    // Until this is done it is not known what else lies there.
    db.core().reclaim(true).unwrap();
    assert!(lends(&alone, 0, 0) && !lends(&beside, 0, 0));
}

/// While another name keeps the file as it is, what lies around a value that is lent is owed; that is no reason to take the value.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_is_owed_beside_a_lent_value_is_all_that_goes() {
    let (dir, value) = (disk(), noise(LEN));
    let (path, link) = (path_of(dir.path(), 0), dir.path().join("link"));
    let db = Db::open(options(dir.path())).unwrap();
    db.put(b"key", &value).unwrap();
    db.flush().unwrap();
    drop(db);
    std::fs::hard_link(&path, &link).unwrap();
    let db = Db::open(options(dir.path())).unwrap();
    db.core().reclaim(true).unwrap();
    assert!(
        db.core().extents.owing().len() == 1 && !lends(&large(&db, b"key"), 0, 0),
        "who opens a backup may punch it"
    );
    std::fs::remove_file(&link).unwrap();
    assert!(lends(&large(&db, b"key"), 0, 0));
    db.core().reclaim(true).unwrap();
    assert!(db.core().extents.owing().is_empty());
    assert!(large(&db, b"key").read_all().unwrap() == value);
}

/// The values of a file of an earlier life, in which all but one went in this one.
fn old_file(dir: &Path, keys: &[&[u8]], part: &[u8]) {
    let db = Db::open(options(dir)).unwrap();
    keys.iter().for_each(|key| db.put(key, part).unwrap());
    db.flush().unwrap();
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn who_is_lent_to_while_the_file_is_swept_has_his_value() {
    let part = noise(LEN / 2);
    for _ in 0..3 {
        let dir = disk();
        let keys: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"e", b"f"];
        old_file(dir.path(), &keys, &part);
        let db = Db::open(options(dir.path())).unwrap();
        keys.iter().filter(|key| ***key != *b"c").for_each(|key| assert!(db.delete(key).unwrap()));
        drop(db);
        let db = Db::open(options(dir.path())).unwrap();
        let value = large(&db, b"c");
        let over = AtomicBool::new(false);
        let times = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut times, mut at) = (0, 0);
                while !over.load(Relaxed) || times == 0 {
                    times += usize::from(lends(&value, at, at));
                    at = (at + CHUNK as u64) % part.len() as u64;
                }
                times
            });
            db.core().reclaim(true).unwrap();
            over.store(true, Relaxed);
            reader.join().unwrap()
        });
        assert!(times > 0 && value.read_all().unwrap() == part);
    }
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn who_still_reads_what_was_superseded_has_it_to_its_end() {
    let (dir, part) = (disk(), noise(LEN / 4));
    old_file(dir.path(), &[b"old", b"other"], &part);
    let db = Db::open(options(dir.path())).unwrap();
    let old = large(&db, b"old");
    for key in [b"old".as_slice(), b"other"] {
        assert!(db.delete(key).unwrap());
        db.flush().unwrap();
        db.core().reclaim(true).unwrap();
        assert!(old.read_all().unwrap() == part);
    }
    drop(old);
    db.core().reclaim(true).unwrap();
    assert!(taken(dir.path()) < CHUNK as u64, "nothing of it is needed");
}

/// Sockets that were lent a value have it as it was: also where it goes in the next life of the store.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_an_earlier_life_has_lent_stays_as_it_was() {
    let part = noise(LEN);
    for removed_first in [true, false] {
        let dir = disk();
        old_file(dir.path(), &[b"key"], &part);
        let mut db = Db::open(options(dir.path())).unwrap();
        db.core().reclaim(true).unwrap();
        let value = large(&db, b"key");
        assert!(lends(&value, 0, 0));
        let path = dir.path().join("socket");
        let listener = Listener::unix(&path, 0o600, 512).unwrap();
        let sockets: Vec<(Stream, UnixStream)> = (0..LEN as u64)
            .step_by(CHUNK)
            .map(|at| {
                let peer = UnixStream::connect(&path).unwrap();
                let (stream, (file, offset)) = (listener.accept().unwrap(), value.lend(at).unwrap());
                assert_eq!(stream.send_file(file, offset, CHUNK).unwrap(), CHUNK);
                (stream, peer)
            })
            .collect();
        drop(value);
        let reopen = |db: Db| {
            drop(db);
            Db::open(options(dir.path())).unwrap()
        };
        if !removed_first {
            db = reopen(db);
        }
        assert!(db.delete(b"key").unwrap());
        db.flush().unwrap();
        if removed_first {
            db = reopen(db);
        }
        db.core().reclaim(true).unwrap();
        assert!(taken(dir.path()) < CHUNK as u64, "it is gone");
        for ((_, mut peer), chunk) in sockets.into_iter().zip(part.chunks(CHUNK)) {
            let mut got = vec![0; CHUNK];
            peer.read_exact(&mut got).unwrap();
            assert!(got == chunk);
        }
    }
}

#[test]
fn a_file_is_truncated_to_nothing_whatever_its_length() {
    let file = tempfile::tempfile().unwrap();
    for len in [0, 1, CUT - 1, CUT, CUT + 1, 3 * CUT + 5] {
        file.set_len(len).unwrap();
        truncate(&file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0, "{len}");
    }
}
