//! Tests of repairs that fail and are done again, of headers whose whole sector is lost, and of what is left of a log that
//! has lost its newest segment.

use super::loss_tests::make_three;
use super::tests::{contents, make, options, quiet};
use super::*;
use crate::store::Db;
use crate::store::header::{COMPACTED, FileHeader, HEADER};
use crate::store::segment::MAGIC;
use std::fs;

fn segment(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08x}.log"))
}

/// Changes bytes of a file.
fn alter(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn place(bytes: &[u8], text: &[u8]) -> usize {
    bytes.windows(text.len()).position(|window| window == text).unwrap()
}

/// How many of these keys the store still has once it was started, and started again.
fn kept(dir: &Path, keys: &[String]) -> usize {
    drop(Db::open(options(dir)).unwrap());
    contents(dir, keys).values().filter(|value| matches!(value, Ok(Some(_)))).count()
}

/// No copy of segment `number` can be made; then it can, and the repair is done again.
fn repair_twice(dir: &Path, number: u32) -> Repaired {
    let blocked = segment(dir, number).with_extension("log.new");
    fs::create_dir(&blocked).unwrap();
    assert!(repair(dir, &mut quiet()).is_err());
    fs::remove_dir(&blocked).unwrap();
    let repaired = repair(dir, &mut quiet()).unwrap();
    assert!(repaired.now.damages.is_empty(), "{repaired:?}");
    for name in ["CHECKPOINT", "CHECKPOINT.lost"] {
        assert!(!dir.join(name).exists(), "{name}");
    }
    repaired
}

#[test]
fn headers_are_known_again_also_after_a_repair_that_failed() {
    for blocked in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let keys = make_three(dir.path(), true);
        for number in [1, 2] {
            alter(&segment(dir.path(), number), |bytes| bytes[24..40].fill(0x24));
        }
        assert_eq!(repair_twice(dir.path(), blocked).now.keys, 30, "{blocked}");
        assert_eq!(kept(dir.path(), &keys), 30, "{blocked}");
    }
}

#[test]
fn damage_that_was_durable_is_no_torn_tail_after_a_repair_that_failed() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let (log, checkpoint) = (segment(dir.path(), 0), dir.path().join("CHECKPOINT"));
    let keys = ["first", "other", "third"].map(String::from);
    {
        let db = Db::open(options(dir.path())).unwrap();
        keys.iter().for_each(|key| db.put(key.as_bytes(), b"a value").unwrap());
        db.core().write_checkpoint().unwrap();
        // What notes that all this is durable never came.
        let end = db.core().log.end().parts().1 as usize;
        let (bytes, index) = (fs::read(&log).unwrap()[..end].to_vec(), fs::read(&checkpoint).unwrap());
        drop(db);
        fs::write(&log, bytes).unwrap();
        fs::write(&checkpoint, index).unwrap();
    }
    alter(&log, |bytes| {
        let at = place(bytes, b"othera value");
        bytes[at] ^= 3;
    });
    // This is set right before the copy fails.
    alter(&dir.path().join("STORE"), |bytes| bytes[20] ^= 1);
    repair_twice(dir.path(), 0);
    assert_eq!(kept(dir.path(), &keys), 2);
}

/// A repair that fails before it has changed anything leaves the index checkpoint to the next start.
#[test]
fn a_repair_that_changes_nothing_leaves_the_index_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    make_three(dir.path(), true);
    alter(&segment(dir.path(), 1), |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 3;
    });
    let blocked = segment(dir.path(), 1).with_extension("log.new");
    fs::create_dir(&blocked).unwrap();
    assert!(repair(dir.path(), &mut quiet()).is_err());
    assert!(dir.path().join("CHECKPOINT").exists() && !dir.path().join("CHECKPOINT.lost").exists());
}

/// What was set aside may be of a log that has gone on since without its end, under the same numbers.
#[test]
fn what_is_known_of_an_earlier_segment_of_a_number_is_of_no_account() {
    let dir = tempfile::tempdir().unwrap();
    make_three(dir.path(), true);
    let checkpoint = fs::read(dir.path().join("CHECKPOINT")).unwrap();
    fs::remove_file(dir.path().join("CHECKPOINT")).unwrap();
    (1..=2).for_each(|number| fs::remove_file(segment(dir.path(), number)).unwrap());
    let keys: Vec<String> = (0..3).map(|number| format!("new-{number}")).collect();
    {
        let db = Db::open(options(dir.path())).unwrap();
        for key in &keys {
            db.put(key.as_bytes(), b"value").unwrap();
            db.core().seal_active().unwrap();
        }
    }
    fs::write(dir.path().join("CHECKPOINT.lost"), checkpoint).unwrap();
    let (path, sound) = (segment(dir.path(), 1), fs::read(segment(dir.path(), 1)).unwrap());
    alter(&path, |bytes| bytes[24] ^= 0x24);
    let repaired = repair(dir.path(), &mut quiet()).unwrap();
    assert!(fs::read(&path).unwrap() == sound && repaired.damages.len() == 2, "{repaired:?}");
    assert_eq!(kept(dir.path(), &keys), 3);
}

/// Zeros or garbage at its begin: records behind the header are lost, too, and the format's version.
#[test]
fn a_header_is_known_again_though_its_sector_is_lost() {
    for (sector, byte, number) in [(512, 0, 1), (4096, 0, 2), (512, 0xa5, 2), (4096, 0xa5, 0), (4096, 0, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let keys = make_three(dir.path(), true);
        alter(&segment(dir.path(), number), |bytes| bytes[..sector].fill(byte));
        let repaired = repair(dir.path(), &mut quiet()).unwrap();
        let least = 30 - sector / 1000 - 1;
        assert!(repaired.now.keys as usize >= least, "{sector} bytes of {number}: {repaired:?}");
        assert!(kept(dir.path(), &keys) >= least, "{sector} bytes of {number}");
    }
}

#[test]
fn all_that_is_set_aside_with_a_segment_is_told() {
    let dir = tempfile::tempdir().unwrap();
    make_three(dir.path(), false);
    let path = segment(dir.path(), 1);
    let len = fs::metadata(&path).unwrap().len();
    alter(&path, |bytes| bytes[..512].fill(0xa5));
    let told = repair(dir.path(), &mut quiet()).unwrap().damages[0].to_string();
    let (bytes, rest) = told.split_once("; its ").unwrap().1.split_once(" bytes, ").unwrap();
    // The seal ends with zeros, and these are not told from room.
    assert!((len - 24..=len).contains(&bytes.parse().unwrap()), "{told}");
    assert!(rest.starts_with("at least 0 records, are lost to the store"), "{told}");
}

/// For each segment that is missing, not all files are opened.
#[test]
fn a_gap_of_many_segments_is_filled_in_little_time() {
    const MANY: u64 = 150;
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let keys = make_three(dir.path(), false);
    fs::remove_file(segment(dir.path(), 1)).unwrap();
    alter(&segment(dir.path(), 2), |bytes| re_head(bytes, |header| header.order += MANY));
    let reads = || {
        let told = fs::read_to_string("/proc/thread-self/io").unwrap_or_default();
        told.split_once("syscr: ").map_or(0, |(_, count)| count.lines().next().unwrap().parse::<u64>().unwrap())
    };
    let before = reads();
    assert!(repair(dir.path(), &mut quiet()).unwrap().now.damages.is_empty());
    let took = reads() - before;
    assert!(took < MANY * 40, "{took} reads");
    assert_eq!(kept(dir.path(), &keys), 20);
}

fn re_head(bytes: &mut [u8], change: impl FnOnce(&mut FileHeader)) {
    let head: [u8; HEADER] = bytes[..HEADER].try_into().unwrap();
    let word = |at| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
    let mut header = FileHeader::decode(&head, MAGIC, word(16), word(32) as u32, Path::new("segment")).unwrap();
    change(&mut header);
    bytes[..HEADER].copy_from_slice(&header.encode());
}

/// A compacted segment that is newer than all that is left of the log does not tell how long the last segment of that was.
#[test]
fn a_damaged_end_of_the_log_before_a_compacted_segment_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let keys = make_three(dir.path(), false);
    fs::remove_file(segment(dir.path(), 2)).unwrap();
    alter(&segment(dir.path(), 1), |bytes| re_head(bytes, |header| header.flags = COMPACTED));
    let mut len = 0;
    alter(&segment(dir.path(), 0), |bytes| {
        len = bytes.len() & !7;
        bytes[len - 1400..].fill(0x55);
    });
    let repaired = repair(dir.path(), &mut quiet()).unwrap();
    assert!(repaired.now.damages.is_empty() && repaired.damages.len() == 2, "{repaired:?}");
    assert!(fs::metadata(segment(dir.path(), 0)).unwrap().len() <= len as u64 + 24);
    assert_eq!(kept(dir.path(), &keys), 18);
}

/// The index checkpoint knows that the log was durable to far behind what is left of it.
#[test]
fn what_stands_behind_damage_survives_where_the_newest_segment_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let keys = make_three(dir.path(), true);
    fs::remove_file(segment(dir.path(), 2)).unwrap();
    alter(&segment(dir.path(), 1), |bytes| {
        let at = place(bytes, b"key-17");
        bytes[at + 20] ^= 3;
    });
    let found = check(dir.path(), &mut quiet()).unwrap();
    assert!(found.damages.iter().any(|damage| damage.key.as_deref() == Some(b"key-17")), "{found:?}");
    assert!(repair(dir.path(), &mut quiet()).unwrap().now.damages.is_empty());
    assert_eq!(kept(dir.path(), &keys), 19);
}

/// And so that large values were.
#[test]
fn a_damaged_large_value_is_not_torn_where_the_newest_segment_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    {
        let db = Db::open(options(dir.path())).unwrap();
        db.put(b"large", &[7; 100_000]).unwrap();
        db.put(b"behind", b"value").unwrap();
        db.core().seal_active().unwrap();
        db.put(b"newest", b"value").unwrap();
        db.core().write_checkpoint().unwrap();
    }
    fs::remove_file(segment(dir.path(), 1)).unwrap();
    alter(&dir.path().join("00000000.ext"), |bytes| bytes[4096..].fill(0));
    let found = check(dir.path(), &mut quiet()).unwrap();
    assert!(found.damages.iter().any(|damage| damage.key.as_deref() == Some(b"large")), "{found:?}");
    assert!(repair(dir.path(), &mut quiet()).unwrap().now.damages.is_empty());
    assert_eq!(kept(dir.path(), &["behind".into()]), 1);
}
