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
use crate::store::CHUNK;
use crate::store::lane::Lane;
use crate::store::recovery::tests::{options, scratch};
use crate::store::space::Space;
use crate::store::throttle::Throttle;

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
