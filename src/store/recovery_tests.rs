//! Tests of recovery: with an index checkpoint, without one, and with ones that are not what they should be, a store
//! comes to the same. And whatever single bit flips, nothing wrong is ever served, and nothing else is lost.

use super::*;
use crate::store::db::Db;
use crate::store::{CHUNK, Key, Lookup, NewBody, Scratch, Write};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub(crate) fn options(dir: &Path) -> Options {
    let report = std::sync::Arc::new(|_, _: &str| ());
    Options { segment_bytes: 1 << 20, cache_bytes: 0, sync: crate::Sync::None, report, ..Options::new(dir) }
}

fn open(dir: &Path) -> Db {
    Db::open(options(dir)).unwrap()
}

/// How much a test of this many cases does: `TIER=test`, `ci` or `full`.
pub(crate) fn tier(test: usize, ci: usize, full: usize) -> usize {
    match std::env::var("TIER").as_deref() {
        Ok("full") => full,
        Ok("ci") => ci,
        _ => test,
    }
}

pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Every file as it is, as a killed process leaves it. Done again if compaction changed what files there are.
pub(crate) fn copy_to(from: &Path, to: &Path) {
    let names =
        || -> BTreeSet<_> { std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
    loop {
        let before = names();
        let copied = before.iter().all(|name| std::fs::copy(from.join(name), to.join(name)).is_ok());
        if copied && names() == before {
            return;
        }
        std::fs::read_dir(to).unwrap().for_each(|entry| std::fs::remove_file(entry.unwrap().path()).unwrap());
    }
}

/// In memory, where that can be: what is tested here is not the disk.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn copy(from: &Path) -> tempfile::TempDir {
    let to = scratch();
    copy_to(from, to.path());
    to
}

/// A change, of a key and to a value, both by number.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, usize),
    Delete(u8),
    /// A new expiry, far away, for the same value.
    Touch(u8),
    FlushAll,
    FlushLater,
    Sync,
    Checkpoint,
    /// Keeps a copy of the checkpoint there is.
    Keep,
    /// Puts the copy back in place of the newer one.
    PutBack,
    Compact,
    Close,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => 0..300_usize, 4 => 20_000..60_000_usize, 1 => CHUNK + 1..200_000_usize];
    prop_oneof![
        40 => (0..40_u8, len).prop_map(|(key, len)| Step::Put(key, len)),
        10 => (0..40_u8).prop_map(Step::Delete),
        6 => (0..40_u8).prop_map(Step::Touch),
        1 => Just(Step::FlushAll),
        1 => Just(Step::FlushLater),
        3 => Just(Step::Sync),
        3 => Just(Step::Checkpoint),
        2 => Just(Step::Keep),
        1 => Just(Step::PutBack),
        3 => Just(Step::Compact),
        2 => Just(Step::Close),
        2 => Just(Step::Crash),
    ]
}

/// A store, what it should hold, and a checkpoint from earlier.
struct World {
    dir: tempfile::TempDir,
    db: Option<Db>,
    model: BTreeMap<u8, Vec<u8>>,
    kept: Option<Vec<u8>>,
    seed: u64,
}

impl World {
    fn new() -> World {
        let dir = scratch();
        let db = Some(open(dir.path()));
        World { dir, db, model: BTreeMap::new(), kept: None, seed: 0 }
    }

    /// What a crash leaves, between two rounds of compaction. (Others try those inside of a round.)
    fn image(&self) -> tempfile::TempDir {
        let _no_round = self.db.as_ref().map(|db| crate::store::lock(&db.core().compaction.rounds));
        if let Some(db) = &self.db {
            db.core().log.write_all();
        }
        copy(self.dir.path())
    }

    fn checkpoint(&self) -> PathBuf {
        self.dir.path().join("CHECKPOINT")
    }

    fn step(&mut self, step: &Step) {
        let Some(db) = &self.db else { return };
        match *step {
            Step::Put(key, len) => {
                self.seed += 1;
                let value = noise(len, self.seed);
                db.put(&[key], &value).unwrap();
                self.model.insert(key, value);
            }
            Step::Delete(key) => assert_eq!(db.delete(&[key]).unwrap(), self.model.remove(&key).is_some()),
            Step::Touch(key) => touch(db, &db.key(&[key])),
            Step::FlushAll => {
                db.flush_all(None).unwrap();
                self.model.clear();
            }
            Step::FlushLater => drop(db.flush_all(Some(db.now() + 100_000)).unwrap()),
            Step::Sync => db.flush().unwrap(),
            Step::Checkpoint => db.core().write_checkpoint().unwrap(),
            Step::Compact => db.compact().unwrap(),
            Step::Keep => self.kept = std::fs::read(self.checkpoint()).ok(),
            Step::PutBack => drop(self.kept.as_ref().map(|kept| std::fs::write(self.checkpoint(), kept).unwrap())),
            Step::Close => {
                self.db = None;
                self.db = Some(open(self.dir.path()));
            }
            Step::Crash => {
                let crashed = self.image();
                self.db = None;
                self.db = Some(open(crashed.path()));
                self.dir = crashed;
            }
        }
    }

    /// Opens `dir` and looks at everything. Tells how much log the opening read.
    fn check(&self, dir: &Path, how: &str) -> u64 {
        let db = open(dir);
        for key in 0..40 {
            assert!(db.get(&[key]).unwrap().as_ref() == self.model.get(&key), "{how}: key {key}");
        }
        assert_eq!(db.stats().items, self.model.len() as u64, "{how}");
        assert_eq!(db.stats().damaged_records, 0, "{how}");
        db.core().counters.replayed
    }

    /// The store comes to the same whatever happened to its checkpoint.
    fn check_all(&self) {
        self.check(self.image().path(), "as it is");
        let with = |how: &str, bytes: Option<Vec<u8>>| {
            let dir = self.image();
            let path = dir.path().join("CHECKPOINT");
            match bytes {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => drop(std::fs::remove_file(&path)),
            }
            self.check(dir.path(), how)
        };
        let all = with("removed", None);
        if let Some(db) = &self.db {
            db.core().write_checkpoint().unwrap();
            let fresh = self.check(self.image().path(), "fresh");
            // The control: it does start from there.
            assert!(fresh < all, "{fresh} of {all} bytes were read");
        }
        if let Some(kept) = &self.kept {
            with("stale", Some(kept.clone()));
        }
        if let Ok(bytes) = std::fs::read(self.checkpoint()) {
            let at = self.seed as usize * 7919 % bytes.len();
            with("truncated", Some(bytes[..at].to_vec()));
            let mut flipped = bytes;
            flipped[at] ^= 1 << (at % 8);
            with("flipped", Some(flipped));
        }
    }
}

/// Writes the record of `key` anew, with an expiry far away.
fn touch(db: &Db, key: &Key<'_>) {
    let mut scratch = Scratch::default();
    let mut fetched = None;
    loop {
        let copied = |record: crate::store::Record<'_>| match record.body {
            crate::store::Body::Inline(value) => Ok(value.to_vec()),
            crate::store::Body::Large(large) => Err(large.clone()),
        };
        let found = match db.lookup(key, db.now(), fetched.as_ref(), &mut scratch, copied).unwrap() {
            Lookup::Miss(_) => return,
            Lookup::Cold(job) => {
                fetched = Some(job.run());
                continue;
            }
            Lookup::Hit(_, found) => found,
        };
        let body = match &found {
            Ok(value) => NewBody::Inline(value),
            Err(large) => NewBody::Same(large),
        };
        let expires = db.now() + 1_000_000;
        let write = Write {
            key: *key,
            flags: 0,
            expires,
            marks: 0,
            cas: Some(5),
            body,
            expect: crate::store::Expect::Anything,
        };
        db.write(&write, &mut scratch).unwrap();
        return;
    }
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn with_and_without_a_checkpoint_recovery_comes_to_the_same() {
    let cases = tier(20, 120, 5000);
    let config = ProptestConfig { cases: cases as u32, max_shrink_iters: 200, ..ProptestConfig::default() };
    proptest!(config, |(steps in proptest::collection::vec(step(), 1..150))| {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.check_all();
    });
    println!("sequences: {cases} of {cases}");
}

/// What a key of the small store was given, in turn; `None`: it was removed. The last one counts.
type History = Vec<Option<Vec<u8>>>;

/// A small store with everything in it that there is: values with several versions, compressed ones, large ones, keys
/// that were removed, that expire, that were touched; a flush that fired and one that is pending; two segments.
fn furnish(db: &Db) -> BTreeMap<Vec<u8>, History> {
    let mut model: BTreeMap<Vec<u8>, History> = BTreeMap::new();
    let mut put = |key: &str, value: Vec<u8>| {
        db.put(key.as_bytes(), &value).unwrap();
        model.entry(key.into()).or_default().push(Some(value));
    };
    put("flushed", noise(20, 1));
    db.flush_all(None).unwrap();
    for round in 0..3 {
        put("rewritten", noise(30 + round, round as u64));
        put("text", format!("round {round}, {}", "over and over, ".repeat(60)).into_bytes());
    }
    put("removed", noise(25, 4));
    put("touched", noise(21, 5));
    put("twice large", noise(CHUNK + 900, 6));
    put("twice large", noise(CHUNK + 1000, 7));
    put("empty", Vec::new());
    put("last", noise(40, 8));
    db.delete(b"removed").unwrap();
    touch(db, &db.key(b"touched"));
    db.flush_all(Some(db.now() + 1_000_000)).unwrap();
    model.entry("flushed".into()).or_default().push(None);
    model.entry("removed".into()).or_default().push(None);
    model
}

/// The store in `dir`, with one bit flipped: nothing wrong is served, and only one key is not served.
fn judge_flip(dir: &Path, model: &BTreeMap<Vec<u8>, History>, what: &str) -> usize {
    let db = Db::open(options(dir)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut damaged = 0;
    for (key, history) in model {
        match db.get(key) {
            Ok(found) => assert!(Some(&found) == history.last(), "{what}: {} is not as it was", key.escape_ascii()),
            Err(Error::Damaged(_)) => damaged += 1,
            Err(error) => panic!("{what}: {error}"),
        }
    }
    assert!(damaged <= 1, "{what}: {damaged} keys are damaged");
    damaged
}

/// Flips bits of every file of the store in `dir`, one at a time; tells how many, and how many damaged a value.
fn flip_all(dir: &Path, model: &BTreeMap<Vec<u8>, History>) -> (usize, usize) {
    let (mut flips, mut damaged) = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        // All of what was written, and a little behind it.
        let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| bytes.len().min(last + 64));
        let step = match path.extension().is_some_and(|extension| extension == "log") {
            true => tier(61, 29, 1),
            false => tier(2477, 499, 1).min(tier(end / 3, end / 30, 1)).max(1),
        };
        let workers = std::thread::available_parallelism().unwrap().get();
        let share = |first| flip_each(&path, &bytes, model, (0..end * 8).step_by(step).skip(first).step_by(workers));
        let share = &share;
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..workers).map(|first| scope.spawn(move || share(first))).collect();
            for worker in running {
                let counts = worker.join().unwrap();
                flips += counts.0;
                damaged += counts.1;
            }
        });
    }
    (flips, damaged)
}

/// Flips these bits of the file at `path`, whose content is `bytes`, one at a time, each in a copy of its store.
fn flip_each(
    path: &Path,
    bytes: &[u8],
    model: &BTreeMap<Vec<u8>, History>,
    bits: impl Iterator<Item = usize>,
) -> (usize, usize) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let (mut flips, mut damaged) = (0, 0);
    for bit in bits {
        let copy = copy(path.parent().unwrap());
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(copy.path().join(name), &bytes).unwrap();
        damaged += judge_flip(copy.path(), model, &format!("{name} bit {bit}"));
        flips += 1;
    }
    (flips, damaged)
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_flipped_bit_is_told_or_does_not_matter() {
    let dir = scratch();
    let db = open(dir.path());
    let model = furnish(&db);
    db.core().log.write_all();
    let crashed = copy(dir.path());
    db.core().write_checkpoint().unwrap();
    drop(db);
    let with = flip_all(dir.path(), &model);
    std::fs::remove_file(dir.path().join("CHECKPOINT")).unwrap();
    let without = flip_all(dir.path(), &model);
    let after_a_crash = flip_all(crashed.path(), &model);
    let all = [with, without, after_a_crash];
    let flips = all.iter().map(|(flips, _)| flips).sum::<usize>();
    println!("flips: {flips} of {flips}");
    assert!(flips >= tier(1000, 5000, 1_000_000));
    assert!(all.iter().all(|(flips, damaged)| damaged * 10 > *flips), "the control: {all:?} flips did matter");
}

/// A torn write leaves nothing but zeros from some byte on, or the file ends there. Whatever was synced before stays,
/// and of what came after, all that lies before the tear.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn wherever_the_tail_is_torn_each_key_has_its_last_whole_version() {
    let dir = scratch();
    let db = open(dir.path());
    let mut states = vec![BTreeMap::new()];
    let mut ends = Vec::new();
    let mut change = |key: u8, value: Option<Vec<u8>>| {
        match &value {
            Some(value) => db.put(&[key], value).unwrap(),
            None => assert!(db.delete(&[key]).unwrap()),
        }
        let mut state: BTreeMap<u8, Vec<u8>> = states.last().unwrap().clone();
        match value {
            Some(value) => drop(state.insert(key, value)),
            None => drop(state.remove(&key)),
        }
        states.push(state);
        ends.push(db.core().log.end().parts().1);
    };
    (0..4).for_each(|key| change(key, Some(noise(30, key.into()))));
    db.flush().unwrap();
    let durable = db.core().log.end();
    db.core().append_checkpoint(durable).unwrap();
    db.flush().unwrap();
    for key in 0..4 {
        change(key, Some(noise(100 + usize::from(key), 10)));
        change(key, Some([&noise(10, 11)[..], b"ends with a single bit @"].concat()));
    }
    change(1, None);
    change(2, Some(noise(CHUNK + 100, 12)));
    change(3, Some(noise(600, 13)));
    db.core().log.write_all();
    let bytes = std::fs::read(dir.path().join("00000000.log")).unwrap();
    let from = db.core().log.end().parts().1;
    let (mut cuts, step) = (0, tier(7, 3, 1));
    for cut in (durable.parts().1 + 64..=from).step_by(step) {
        for shorter in [false, true] {
            let torn = copy(dir.path());
            let mut torn_bytes = bytes[..cut as usize].to_vec();
            if !shorter {
                torn_bytes.resize(bytes.len(), 0);
            }
            std::fs::write(torn.path().join("00000000.log"), &torn_bytes).unwrap();
            let is_whole = |end: u64| match shorter {
                true => end <= cut,
                false => bytes[cut as usize..(end as usize).max(cut as usize)].iter().all(|&byte| byte == 0),
            };
            let expected = &states[ends.iter().take_while(|&&end| is_whole(end)).count()];
            let db = open(torn.path());
            for key in 0..4 {
                let found = db.get(&[key]);
                assert!(found.as_ref().ok() == Some(&expected.get(&key).cloned()), "cut {cut} {shorter}: {key}");
            }
            cuts += 1;
        }
    }
    println!("cuts: {cuts} of {cuts}");
    assert!(cuts >= 2 * (from - durable.parts().1 - 64) as usize / step);
}

/// Every bit of a checkpoint is guarded: none can flip and the file pass for sound.
#[test]
fn a_checkpoint_with_any_bit_flipped_is_refused() {
    let dir = scratch();
    let db = open(dir.path());
    (0..300_u64).for_each(|number| db.put(&number.to_le_bytes(), b"x").unwrap());
    db.core().write_checkpoint().unwrap();
    let store = db.core().home.store;
    let path = dir.path().join("CHECKPOINT");
    let sound = std::fs::read(&path).unwrap();
    let read = || crate::store::checkpoint::read(dir.path(), store, &mut |_| ());
    let (head, index) = read().unwrap().unwrap();
    assert_eq!((index.len(), head.rows.len()), (db.core().index.len(), 1));
    assert!(cfg!(feature = "tiny-tags") || index.len() == 300);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut flips = 0;
    for bit in (0..sound.len() * 8).step_by(tier(151, 31, 1)) {
        file.write_all_at(&[sound[bit / 8] ^ 1 << (bit % 8)], bit as u64 / 8).unwrap();
        assert!(read().is_err(), "bit {bit}");
        file.write_all_at(&sound[bit / 8..bit / 8 + 1], bit as u64 / 8).unwrap();
        flips += 1;
    }
    for len in (0..sound.len()).step_by(499) {
        std::fs::write(&path, &sound[..len]).unwrap();
        assert!(read().is_err(), "cut to {len}");
    }
    println!("flips: {flips} of {flips}");
    assert!(crate::store::checkpoint::read(dir.path(), !store, &mut |_| ()).is_err(), "another store's");
}

/// The log was put back to what it had been before, and written on: a checkpoint of what it had become in between must
/// never count, not even once the log is longer again.
#[test]
#[cfg(not(feature = "tiny-tags"))] // Of 410 keys, two may be taken for one another.
fn a_checkpoint_of_another_future_of_the_log_is_never_used() {
    let dir = scratch();
    let log = dir.path().join("00000000.log");
    let write = |first: u64, count: u64| {
        let db = open(dir.path());
        (first..first + count).for_each(|number| db.put(&number.to_le_bytes(), &noise(1000, number)).unwrap());
        db
    };
    write(0, 10).close().unwrap();
    let before = std::fs::read(&log).unwrap();
    let db = write(10, 300);
    db.core().write_checkpoint().unwrap();
    db.close().unwrap();
    drop(db);
    // The control: there is one, and it is used.
    assert!(open(dir.path()).core().counters.replayed < 10_000);
    std::fs::write(&log, before).unwrap();
    let db = write(10_000, 400);
    let active = db.core().log.active_order();
    let full = db.core().log.segments.all().into_iter().filter(|segment| segment.order < active).count();
    assert_eq!(full, 0, "all of it is in one segment");
    let crashed = copy(dir.path());
    drop(db);
    let db = open(crashed.path());
    let found = (10_000..10_400_u64).filter(|number| db.get(&number.to_le_bytes()).ok().flatten().is_some()).count();
    assert_eq!((found, db.stats().items), (400, 410));
}

/// Three segments, of which the second one alone names a large value; its file, and the durable end of the log.
fn with_a_value_in_the_middle(alone: bool) -> tempfile::TempDir {
    let dir = scratch();
    let db = open(dir.path());
    for (key, len) in [(&b"first"[..], 100), (b"middle", 3 * CHUNK), (b"last", 3 * CHUNK)] {
        db.put(key, &noise(len, len as u64)).unwrap();
        db.flush().unwrap();
        db.core().settle_log().unwrap();
        if key != b"last" {
            db.core().seal_active().unwrap();
        }
        if alone {
            db.core().extents.begin_next();
        }
    }
    db.core().log.write_all();
    copy(dir.path())
}

/// Damaged or moved away, it may be mended or put back, and all that it names must be there then.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_a_missing_segment_may_name_is_not_given_back() {
    for (alone, gone) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = with_a_value_in_the_middle(alone);
        let path = dir.path().join("00000001.log");
        let sound = std::fs::read(&path).unwrap();
        let at = sound.windows(6).position(|key| key == b"middle").unwrap();
        let mut damaged = sound.clone();
        damaged[at - 32..at + 32].fill(0x55);
        match gone {
            true => std::fs::remove_file(&path).unwrap(),
            false => std::fs::write(&path, damaged).unwrap(),
        }
        // The second life begins with what the first one knew.
        for life in 0..2 {
            let db = open(dir.path());
            assert!(db.get(b"middle").unwrap().is_none() && (life > 0 || db.stats().damaged_records > 0));
            db.compact().unwrap();
            db.core().write_checkpoint().unwrap();
        }
        std::fs::write(&path, sound).unwrap();
        // As a repair does: else only what is new in the log would be read.
        let _ = std::fs::remove_file(dir.path().join("CHECKPOINT"));
        let db = open(dir.path());
        for key in [&b"middle"[..], b"last"] {
            let found = db.get(key).map_err(|error| error.to_string());
            assert!(found == Ok(Some(noise(3 * CHUNK, 3 * CHUNK as u64))), "{alone} {gone}: {:?}", found.err());
        }
    }
}

/// Compaction removes segments, too, and says so; nobody can tell then by the log that another one is missing.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_a_missing_segment_may_name_is_kept_once_compaction_has_passed_it() {
    let dir = with_a_value_in_the_middle(true);
    let extent = || std::fs::read(dir.path().join("00000000.ext")).ok();
    let before = extent().filter(|bytes| bytes.len() >= 3 * CHUNK);
    std::fs::remove_file(dir.path().join("00000001.log")).unwrap();
    let db = open(dir.path());
    db.put(b"last", b"another").unwrap();
    db.compact().unwrap();
    let removed = db.core().removed.load(std::sync::atomic::Ordering::SeqCst);
    assert!(removed > 2, "the control: compaction has come to {removed}");
    drop(db);
    for _ in 0..2 {
        open(dir.path()).compact().unwrap();
    }
    assert!(before.is_some() && extent() == before);
}

/// The end of a log that a crash tore names nothing that could come back.
#[test]
fn what_no_record_names_goes_though_the_tail_is_torn() {
    let dir = with_a_value_in_the_middle(false);
    let (log, unnamed) = (dir.path().join("00000002.log"), dir.path().join("000000ff.ext"));
    let mut bytes = std::fs::read(&log).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap().next_multiple_of(8);
    bytes[end + 8..end + 100].fill(0x55);
    std::fs::write(&log, bytes).unwrap();
    std::fs::write(&unnamed, [0; 100]).unwrap();
    let db = open(dir.path());
    assert!(!unnamed.exists());
    assert_eq!((db.stats().damaged_records, db.stats().items), (0, 3));
}

/// What recovery gives the kernel once more is what was there, and no more than that.
#[test]
fn what_is_written_again_is_what_was_there() {
    let (bytes, past) = (noise(3_000_000, 1), std::time::UNIX_EPOCH);
    for (from, to, touched) in [(0, u64::MAX, true), (1_234_567, 2_999_999, true), (5, 5, false), (9, 3, false)] {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.set_modified(past).unwrap();
        write_again(&file, from, to).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap() != past, touched, "{from} to {to}");
        let mut found = vec![0; bytes.len() + 1];
        assert_eq!(file.read_at(&mut found, 0).unwrap(), bytes.len());
        assert!(found[..bytes.len()] == bytes, "{from} to {to}");
    }
}
