//! Large values in all their forms: with the table in the record or behind the chunks, in one piece or many.

use std::ops::ControlFlow::{Break, Continue};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::super::options::Options;
use super::super::piece::BLOCK_ROWS;
use super::{CHUNK, Db};
use crate::store::{
    AT_ONCE, Body, Expect, Large, Lookup, NewBody, Outcome, Part, Record, Scratch, Seen, Sync, TableBlock, Uploaded,
    View, Write, check,
};

fn options(dir: &Path) -> Options {
    let compaction_interval = std::time::Duration::from_secs(3600);
    Options { segment_bytes: 1 << 20, cache_bytes: 1 << 20, sync: Sync::None, compaction_interval, ..Options::new(dir) }
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Of which every other KiB can be compressed; a chunk turns up nowhere else.
fn value(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![seed as u8; len];
    for block in bytes.chunks_mut(1024).step_by(2) {
        for word in block.chunks_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&(state ^ (state >> 29)).to_le_bytes()[..word.len()]);
        }
    }
    bytes
}

/// The key's record: what was seen, and its value.
fn look(db: &Db, key: &[u8]) -> (Seen, Result<Vec<u8>, Large>) {
    let mut fetched = None;
    loop {
        let visit = |record: Record<'_>| match record.body {
            Body::Inline(value) => Ok(value.to_vec()),
            Body::Large(large) => Err(large.clone()),
        };
        match db.lookup(&db.key(key), db.now(), fetched.as_ref(), &mut Scratch::default(), visit).unwrap() {
            Lookup::Hit(seen, value) => return (seen, value),
            Lookup::Cold(read) => fetched = Some(read.run()),
            Lookup::Miss(_) => panic!("the key is there"),
        }
    }
}

fn store(db: &Db, key: &[u8], uploaded: &Uploaded) {
    let (key, body) = (db.key(key), NewBody::Uploaded(uploaded));
    let write = Write { key, flags: 0, expires: 0, marks: 0, cas: None, body, expect: Expect::Anything };
    db.write_blocking(&write).unwrap();
}

fn large(db: &Db, key: &[u8]) -> Large {
    look(db, key).1.unwrap_err()
}

/// What is made of parts, and in how many steps.
fn compose(db: &Db, parts: Vec<Part>) -> (Uploaded, usize) {
    let (mut compose, mut steps) = (db.compose(parts), 1);
    loop {
        match compose.step() {
            Continue(rest) => (compose, steps) = (rest, steps + 1),
            Break(composed) => return (composed.unwrap(), steps),
        }
    }
}

fn parts(db: &Db, count: u64) -> (Vec<Part>, Vec<u8>) {
    let (mut parts, mut whole) = (Vec::new(), Vec::new());
    for number in 0..count {
        let part = value(if number % (count - 1) == 0 { 1 } else { CHUNK + 1 }, number);
        parts.push(Part::Uploaded(db.upload_all(&part).unwrap()));
        whole.extend(part);
    }
    (parts, whole)
}

/// Writes the old value and `added`, in either order, as the server does.
fn add(db: &Db, key: &[u8], added: &[u8], in_front: bool) {
    let (seen, old) = look(db, key);
    let mut parts = vec![old.map_or_else(Part::Large, Part::Bytes)];
    let new = match added.len() > CHUNK {
        true => Part::Uploaded(db.upload_all(added).unwrap()),
        false => Part::Bytes(added.to_vec()),
    };
    parts.insert(if in_front { 0 } else { 1 }, new);
    let (composed, _) = compose(db, parts);
    let (key, expect, body) = (db.key(key), Expect::Unchanged(seen), NewBody::Uploaded(&composed));
    let write = Write { key, flags: 0, expires: 0, marks: 0, cas: None, body, expect };
    assert!(matches!(db.write(&write, &mut Scratch::default()).unwrap(), Outcome::Done { .. }));
    db.flush().unwrap();
}

fn touch(db: &Db, key: &[u8]) {
    let (seen, Err(large)) = look(db, key) else { return };
    let (key, expect, body) = (db.key(key), Expect::Unchanged(seen), NewBody::Same(&large));
    let write = Write { key, flags: 0, expires: 0, marks: 0, cas: None, body, expect };
    assert!(matches!(db.write(&write, &mut Scratch::default()).unwrap(), Outcome::Done { .. }));
}

/// What a loop sends of `[from, to)`.
fn range(large: &Large, from: u64, to: u64) -> Vec<u8> {
    let (mut out, mut block, mut room) = (Vec::new(), TableBlock::default(), Scratch::default());
    while from + (out.len() as u64) < to {
        let at = from + out.len() as u64;
        if !large.read_nowait(at, &mut block, &mut room, &mut out).unwrap() {
            out.extend(large.fetch(at).run().unwrap());
        }
    }
    out.truncate((to - from) as usize);
    out
}

fn is_sound(dir: &Path) -> bool {
    let checked = check::check(dir, &mut |_, _| ()).unwrap();
    checked.damages.is_empty() && checked.notes.is_empty()
}

/// A store whose `old` is a large value: the log up to it is known to be durable, and more than a bit of it is wrong.
fn damaged(dir: &Path) -> Db {
    let db = Db::open(options(dir)).unwrap();
    db.put(b"old", &value(3 * CHUNK, 1)).unwrap();
    db.flush().unwrap();
    db.core.settle_log().unwrap();
    let file = std::fs::File::options().write(true).open(dir.join("00000000.ext")).unwrap();
    file.write_all_at(&[0xff; 100], CHUNK as u64 + 10).unwrap();
    db
}

/// What the power's failing would leave now.
fn crash(db: &Db, dir: &Path) -> tempfile::TempDir {
    db.put(b"new", b"acknowledged").unwrap();
    db.core.log.write_all();
    crate::store::recovery::tests::copy(dir)
}

/// Bytes of the extent files on the disk.
fn extents(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let wanted = entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "ext"));
    wanted.map(|entry| entry.metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn values_of_all_lengths_around_the_forms_limits_come_back() {
    let dir = scratch();
    let lens = [64, 65, BLOCK_ROWS as usize, 2 * BLOCK_ROWS as usize]
        .into_iter()
        .flat_map(|chunks| [chunks * CHUNK - 1, chunks * CHUNK, chunks * CHUNK + 1]);
    let lens: Vec<usize> = [CHUNK + 1, 2 * CHUNK].into_iter().chain(lens).collect();
    let db = Db::open(options(dir.path())).unwrap();
    for &len in &lens {
        db.put(&len.to_le_bytes(), &value(len, len as u64)).unwrap();
    }
    let verify = |db: &Db| {
        for &len in &lens {
            let (wanted, found) = (value(len, len as u64), large(db, &len.to_le_bytes()));
            assert!(range(&found, 0, len as u64) == wanted, "{len} bytes");
            for at in [0, 1, CHUNK - 1, CHUNK, len / 2, len - 1] {
                let to = (at + CHUNK + 7).min(len);
                assert!(range(&found, at as u64, to as u64) == wanted[at..to], "{at} of {len}");
            }
        }
    };
    verify(&db);
    drop(db);
    assert!(is_sound(dir.path()));
    verify(&Db::open(options(dir.path())).unwrap());
}

/// Bytes that can be compressed are, although those before them could not; and jobs and writes here and now go together.
#[test]
fn what_begins_late_is_compressed_all_the_same() {
    let dir = scratch();
    let db = Db::open(options(dir.path())).unwrap();
    let noise: Vec<u8> = value(80 * CHUNK, 1).chunks(1024).step_by(2).flatten().copied().collect();
    let wanted = [&noise[..], &vec![7; 40 * CHUNK], &noise[..5 * CHUNK + 9]].concat();
    for turn in 0..3 {
        let mut upload = db.upload(wanted.len() as u64).unwrap();
        let mut jobs = Vec::new();
        for (number, chunk) in wanted.chunks(CHUNK).enumerate() {
            match number % 3 < turn {
                true => upload.write_now(chunk).unwrap(),
                false => jobs.push(upload.chunk(chunk.to_vec())),
            }
            if number % 7 == 6 {
                jobs.drain(..).rev().for_each(|job| drop(upload.done(job.run()).unwrap()));
            }
        }
        jobs.into_iter().for_each(|job| drop(upload.done(job.run()).unwrap()));
        let before = extents(dir.path());
        store(&db, b"key", &upload.finish());
        assert!(db.get(b"key").unwrap().unwrap() == wanted);
        assert!(before < ((turn + 1) * 50 * CHUNK) as u64, "{before} bytes on the disk after turn {turn}");
    }
    drop(db);
    assert!(is_sound(dir.path()));
}

/// Several chunks in one call, whatever can be compressed among them.
#[test]
fn chunks_written_at_once_lie_where_each_alone_would() {
    let dir = scratch();
    let db = Db::open(options(dir.path())).unwrap();
    let noise: Vec<u8> = value(40 * CHUNK, 1).chunks(1024).step_by(2).flatten().copied().collect();
    let chunk = |plain| if plain { &noise[..CHUNK] } else { &[7; CHUNK][..] };
    for pattern in 0..1 << 6 {
        let mut wanted: Vec<u8> = (0..6).flat_map(|bit| chunk(pattern >> bit & 1 == 1)).copied().collect();
        wanted.extend(&noise[..9]);
        for at_once in 1..=7 {
            let mut upload = db.upload(wanted.len() as u64).unwrap();
            wanted.chunks(at_once * CHUNK).for_each(|chunks| upload.write_now(chunks).unwrap());
            let key = format!("{pattern} {at_once}");
            store(&db, key.as_bytes(), &upload.finish());
            assert!(db.get(key.as_bytes()).unwrap().unwrap() == wanted, "{key}");
        }
    }
    drop(db);
    assert!(is_sound(dir.path()));
}

#[test]
fn what_cannot_be_compressed_takes_few_writes() {
    for compression in [true, false] {
        let dir = scratch();
        let db = Db::open(Options { compression, ..options(dir.path()) }).unwrap();
        let noise: Vec<u8> = value(2 * CHUNK, 1).chunks(1024).step_by(2).flatten().copied().collect();
        let mut upload = db.upload(256 * CHUNK as u64).unwrap();
        let (mut left, mut writes) = (256, 0);
        while left > 0 {
            let chunks = upload.at_once().min(left);
            upload.write_now(&noise.repeat(chunks)).unwrap();
            (left, writes) = (left - chunks, writes + 1);
        }
        assert!(writes <= 256 / AT_ONCE + 1, "{writes} writes");
        store(&db, b"key", &upload.finish());
        assert!(db.get(b"key").unwrap().unwrap() == noise.repeat(256));
    }
}

/// Runs, some of which have chunks that can be compressed, and single chunks between them and behind.
#[test]
fn runs_lie_where_their_chunks_would() {
    let dir = scratch();
    let db = Db::open(options(dir.path())).unwrap();
    let noise: Vec<u8> = value(640 * CHUNK, 1).chunks(1024).step_by(2).flatten().copied().collect();
    let wanted = [&noise[..140 * CHUNK], &[7; 3 * CHUNK], &noise[140 * CHUNK..], &noise[..9]].concat();
    let mut upload = db.upload(wanted.len() as u64).unwrap();
    let (mut left, mut runs, mut singles) = (&wanted[..], 0, 0);
    while !left.is_empty() {
        let Some(mut run) = upload.begin_run() else {
            let (chunk, rest) = left.split_at(left.len().min(CHUNK));
            upload.write_now(chunk).unwrap();
            (left, singles) = (rest, singles + 1);
            continue;
        };
        while !run.is_full() {
            let count = run.room().min(100_001);
            upload.fill(&mut run, &left[..count]);
            left = &left[count..];
        }
        runs += 1;
        let written = upload.run(run).run();
        upload.run_done(written).unwrap();
    }
    println!("{runs} runs, {singles} single chunks");
    assert!(upload.begin_run().is_none(), "it is whole");
    assert!(runs > 9 && singles > 3 && singles < 40, "this file system can write past the page cache");
    store(&db, b"key", &upload.finish());
    assert!(db.get(b"key").unwrap().unwrap() == wanted);
    drop(db);
    assert!(is_sound(dir.path()));
    assert!(Db::open(options(dir.path())).unwrap().get(b"key").unwrap().unwrap() == wanted);
}

#[test]
fn what_shares_a_file_or_can_be_compressed_has_no_runs() {
    let dir = scratch();
    let db = Db::open(options(dir.path())).unwrap();
    for (chunks, chunk) in [(200, value(2 * CHUNK, 1)), (400, vec![7; CHUNK])] {
        let mut upload = db.upload(chunks * CHUNK as u64).unwrap();
        assert!(upload.begin_run().is_none());
        upload.write_now(&chunk[..CHUNK]).unwrap();
        assert!(upload.begin_run().is_none());
    }
}

#[test]
fn what_is_added_costs_what_is_added() {
    let dir = scratch();
    let db = Db::open(options(dir.path())).unwrap();
    let mut wanted = value(9 << 20, 1);
    db.put(b"key", &wanted).unwrap();
    let before = db.core.extents.set_aside();
    let mut added = 0;
    for number in 0..100 {
        let piece = value(1000 + number * 997, number as u64);
        add(&db, b"key", &piece, number % 4 == 0);
        added += piece.len();
        let at = if number % 4 == 0 { 0 } else { wanted.len() };
        wanted.splice(at..at, piece);
    }
    let (taken, pieces) = (db.core.extents.set_aside() - before, large(&db, b"key").spans().count());
    println!("{added} bytes added in 100 pieces: {taken} set aside, {pieces} pieces left");
    assert!(taken < 5 * added as u64 && pieces < 50);
    assert!(db.get(b"key").unwrap().unwrap() == wanted);
    db.compact().unwrap();
    assert!(extents(dir.path()) < wanted.len() as u64 + 100 * 4096, "{} on the disk", extents(dir.path()));
    drop(db);
    assert!(is_sound(dir.path()));
    let db = Db::open(options(dir.path())).unwrap();
    db.compact().unwrap();
    assert!(db.get(b"key").unwrap().unwrap() == wanted);
    assert!(db.delete(b"key").unwrap());
    db.compact().unwrap();
    assert!(extents(dir.path()) <= 8192, "{} left", extents(dir.path()));
}

#[test]
fn damage_to_a_table_behind_the_chunks_is_an_error_and_is_found() {
    let dir = scratch();
    let db = Db::open(options(dir.path())).unwrap();
    let wanted = value(70 * CHUNK, 1);
    db.put(b"key", &wanted).unwrap();
    let offset = large(&db, b"key").spans().next().unwrap().piece.block_offset(0);
    drop(db);
    let file = std::fs::File::options().write(true).read(true).open(dir.path().join("00000000.ext")).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset + 100).unwrap();
    for (mask, decayed) in [(1, true), (0xff, false)] {
        file.write_all_at(&[byte[0] ^ mask], offset + 100).unwrap();
        assert!(!is_sound(dir.path()));
        let db = Db::open(options(dir.path())).unwrap();
        assert!(db.get(b"key").unwrap_err().to_string().contains("a block of a table"));
        assert_eq!(large(&db, b"key").verify().ok(), decayed.then_some(1));
    }
    file.write_all_at(&byte, offset + 100).unwrap();
    assert!(is_sound(dir.path()));
    assert!(Db::open(options(dir.path())).unwrap().get(b"key").unwrap().unwrap() == wanted);
}

#[test]
fn a_touch_of_a_damaged_value_does_not_end_the_log() {
    let dir = scratch();
    let db = damaged(dir.path());
    touch(&db, b"old");
    let crashed = crash(&db, dir.path());
    let again = Db::open(options(crashed.path())).unwrap();
    assert_eq!(again.get(b"new").unwrap().as_deref(), Some(&b"acknowledged"[..]));
    assert!(again.get(b"old").is_err());
}

/// A sector that a crash left blank may have had a single bit: that is a torn write all the same, and no decay.
#[test]
fn a_blank_sector_is_torn_though_one_bit_would_mend_it() {
    let dir = scratch();
    let db = Db::open(Options { compression: false, ..options(dir.path()) }).unwrap();
    let mut bytes = value(2 * CHUNK, 1);
    bytes[4096..4608].fill(0);
    bytes[4100] = 8;
    db.put(b"key", &bytes).unwrap();
    // The control: the same bit elsewhere has flipped.
    for (place, damaged) in [(4100, 0), (9000, 1)] {
        let crashed = crash(&db, dir.path());
        let path = crashed.path().join("00000000.ext");
        let mut file = std::fs::read(&path).unwrap();
        let at = file.windows(64).position(|window| window == &bytes[..64]).unwrap();
        file[at + place] ^= 8;
        std::fs::write(&path, &file).unwrap();
        let again = Db::open(options(crashed.path())).unwrap();
        assert_eq!(again.stats().damaged_records, damaged);
        assert_eq!(again.get(b"new").unwrap().is_some(), damaged == 1, "the log goes on only behind decay");
    }
}

/// A piece that an earlier record named is no torn write, even where its file is gone: one value is damaged, and what
/// follows in the log is there.
#[test]
fn a_missing_file_that_was_named_before_does_not_end_the_log() {
    for sync in [Sync::None, Sync::Interval, Sync::Always] {
        let dir = scratch();
        let options = |dir: &Path| Options { sync, ..options(dir) };
        let db = Db::open(options(dir.path())).unwrap();
        db.put(b"old", &value(3 * CHUNK, 1)).unwrap();
        drop(db);
        let db = Db::open(options(dir.path())).unwrap();
        add(&db, b"old", &value(2 * CHUNK, 2), false);
        db.put(b"large", &value(2 * CHUNK, 3)).unwrap();
        let crashed = crash(&db, dir.path());
        std::fs::remove_file(crashed.path().join("00000000.ext")).unwrap();
        let checked = check::check(crashed.path(), &mut |_, _| ()).unwrap();
        assert_eq!((checked.damages.len(), checked.notes.len()), (1, 0), "{:?}", checked.notes);
        let again = Db::open(options(crashed.path())).unwrap();
        assert_eq!(again.get(b"new").unwrap().as_deref(), Some(&b"acknowledged"[..]));
        assert!(again.get(b"large").unwrap().unwrap() == value(2 * CHUNK, 3));
        assert!(again.get(b"old").unwrap_err().to_string().contains("missing"));
        // A start counts what stands past the last note of a sync, and there may be one by now; the sweep, if it came, the file.
        assert!(again.stats().damaged_records <= 2);
        // It can be replaced.
        again.put(b"old", b"anew").unwrap();
        assert_eq!(again.get(b"old").unwrap().as_deref(), Some(&b"anew"[..]));
    }
}

/// Whoever reads a value while it is replaced, and while its file is removed, gets it or the next one.
#[test]
fn a_value_that_is_replaced_is_not_missing() {
    let dir = scratch();
    let db = Db::open(Options { cache_bytes: 0, ..options(dir.path()) }).unwrap();
    db.put(b"key", &value(CHUNK + 1, 0)).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    let found = db.get(b"key").unwrap().unwrap();
                    assert!(found.len() == CHUNK + 1 && found == value(CHUNK + 1, u64::from(found[1024])));
                }
            });
        }
        for number in 1..200 {
            db.core.extents.begin_next();
            db.put(b"key", &value(CHUNK + 1, number)).unwrap();
            let reclaimed = db.core.reclaim(true);
            over.store(number == 199 || reclaimed.is_err(), SeqCst);
            reclaimed.unwrap();
        }
    });
    let known = db.core.extents.known();
    assert!(known < 20, "{known} files are left of 200");
}

/// Of a piece that was named before, neither takes damage for what a crash left.
#[test]
fn a_check_calls_damage_what_a_start_keeps() {
    let dir = scratch();
    let db = damaged(dir.path());
    add(&db, b"old", b"more", false);
    let crashed = crash(&db, dir.path());
    let checked = check::check(crashed.path(), &mut |_, _| ()).unwrap();
    assert_eq!((checked.damages.len(), checked.notes.len()), (1, 0), "{:?}", checked.notes);
    let again = Db::open(options(crashed.path())).unwrap();
    assert_eq!(again.get(b"new").unwrap().as_deref(), Some(&b"acknowledged"[..]));
    assert!(large(&again, b"old").read_all().is_err());
}

#[test]
fn a_value_uploaded_in_many_parts_has_few_pieces() {
    let dir = scratch();
    let db = Db::open(options(dir.path())).unwrap();
    let (parts, wanted) = parts(&db, 200);
    let (composed, steps) = compose(&db, parts);
    assert!((10..=20).contains(&steps), "{steps} steps for {} bytes", wanted.len());
    store(&db, b"key", &composed);
    let pieces = large(&db, b"key").spans().count();
    assert!(pieces <= 64, "{pieces} pieces");
    assert!(db.get(b"key").unwrap().unwrap() == wanted);
}

/// While a value is made of many parts, other jobs of the lane have their turn; given up in the middle, it leaves nothing.
#[test]
fn making_a_value_of_many_parts_holds_up_nobody() {
    let dir = scratch();
    let db = Db::open(Options { lane_threads: 1, ..options(dir.path()) }).unwrap();
    let (parts, wanted) = parts(&db, 200);
    let (done, jobs) = std::sync::mpsc::channel();
    let (begin, begun) = std::sync::mpsc::channel();
    db.submit(Box::new(move || begun.recv().unwrap()));
    let composed = done.clone();
    db.compose(parts).carry_out(move |value| composed.send(Some(value)).unwrap());
    for _ in 0..10 {
        let done = done.clone();
        db.submit(Box::new(move || done.send(None).unwrap()));
    }
    begin.send(()).unwrap();
    assert!(jobs.iter().take(10).all(|done| done.is_none()), "jobs that came later are through first");
    assert_eq!(jobs.recv().unwrap().unwrap().unwrap().len(), wanted.len() as u64);
    let mut half = db.compose(self::parts(&db, 200).0);
    for _ in 0..5 {
        half = half.step().continue_value().unwrap();
    }
    drop(half);
    let composed = done.clone();
    db.compose(self::parts(&db, 200).0).carry_out(move |value| composed.send(Some(value)).unwrap());
    db.close().unwrap();
    assert!(jobs.recv().unwrap().unwrap().is_err(), "it is given up when the store is closed");
    assert!(extents(dir.path()) <= 8192, "{} left", extents(dir.path()));
}

#[test]
fn a_value_as_long_as_nobody_has_is_refused() {
    let dir = scratch();
    let db = Db::open(options(dir.path())).unwrap();
    for len in [0, 1 << 60, (1 << 62) + 1, u64::MAX] {
        assert!(db.upload(len).is_err(), "{len} bytes");
    }
    db.put(b"key", &value(CHUNK + 1, 1)).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize),
    Add { len: usize, in_front: bool },
    Touch,
    Range(u16, u16),
    Compact,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![0..200_usize, 0..3 * CHUNK, (60 * CHUNK)..(70 * CHUNK)];
    prop_oneof![
        2 => len().prop_map(Step::Set),
        12 => (len(), any::<bool>()).prop_map(|(len, in_front)| Step::Add { len, in_front }),
        1 => Just(Step::Touch),
        4 => any::<(u16, u16)>().prop_map(|(from, len)| Step::Range(from, len)),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

/// Whatever is set, appended, prepended, touched, compacted and opened anew: the value is what a vector would be.
#[test]
fn a_value_is_what_was_put_together() {
    let cases = crate::store::recovery::tests::tier(12, 40, 500);
    let config = ProptestConfig {
        cases: cases as u32,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let (ranges, added) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcome = TestRunner::new(config).run(&proptest::collection::vec(step(), 1..60), |steps| {
        ranges.fetch_add(steps.iter().filter(|step| matches!(step, Step::Range(..))).count(), SeqCst);
        added.fetch_add(steps.iter().filter(|step| matches!(step, Step::Add { .. })).count(), SeqCst);
        put_together(steps)
    });
    outcome.unwrap();
    let (ranges, added) = (ranges.into_inner(), added.into_inner());
    println!("{cases} sequences: {added} times appended or prepended, {ranges} ranges");
    assert!(added >= 5 * cases && ranges >= cases);
}

fn put_together(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let dir = scratch();
    let mut db = Db::open(options(dir.path())).unwrap();
    let mut model = value(100, 0);
    db.put(b"key", &model).unwrap();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Set(len) => {
                model = value(len, number as u64);
                db.put(b"key", &model).unwrap();
            }
            Step::Add { len, in_front } => {
                let added = value(len, number as u64);
                add(&db, b"key", &added, in_front);
                let at = if in_front { 0 } else { model.len() };
                model.splice(at..at, added);
            }
            Step::Touch => touch(&db, b"key"),
            Step::Range(from, len) => {
                if let (_, Err(large)) = look(&db, b"key") {
                    let from = model.len() * usize::from(from) / 65_536;
                    let to = (from + 1 + usize::from(len)).min(model.len());
                    prop_assert!(range(&large, from as u64, to as u64) == model[from..to]);
                }
            }
            Step::Compact => db.compact().unwrap(),
            Step::Reopen => {
                drop(db);
                prop_assert!(is_sound(dir.path()));
                db = Db::open(options(dir.path())).unwrap();
            }
        }
    }
    prop_assert!(db.get(b"key").unwrap().unwrap() == model);
    let snapshot = db.snapshot().unwrap();
    let mut reader = snapshot.reader(b"key").unwrap().unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
    prop_assert!(bytes == model);
    Ok(())
}
