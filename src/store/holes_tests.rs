//! Tests of what cannot become a hole at first.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
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

/// Of the first extent file on the disk. Bytes.
fn taken(dir: &Path) -> u64 {
    std::fs::metadata(path_of(dir, 0)).unwrap().blocks() * 512
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
fn what_was_lent_is_never_made_a_hole() {
    let dir = disk();
    let path = path_of(dir.path(), 0);
    let len = || std::fs::metadata(&path).unwrap().len();
    for lent in [false, true] {
        let db = Db::open(options(dir.path())).unwrap();
        db.put(b"key", &noise(LEN)).unwrap();
        db.flush().unwrap();
        assert!(!lent || lends(&large(&db, b"key"), 0, 0));
        let whole = len();
        assert!(db.delete(b"key").unwrap());
        db.core().reclaim(true).unwrap();
        assert_eq!(len(), if lent { 0 } else { whole });
        drop(db);
        std::fs::remove_file(&path).unwrap();
    }
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
