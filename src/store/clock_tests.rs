//! Tests of store time and of what hangs on it, over clocks that jump while the store is open and between its lives.

use super::*;
use crate::store::db::Db;
use crate::store::recovery::tests::{copy, copy_to, noise, options, scratch};
use crate::store::{Expect, NewBody, Options, Removed, Scratch, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// A store whose clocks the test sets, its files, and its ends: clean, or with a crash.
struct Clockwork {
    dir: tempfile::TempDir,
    hands: Arc<Hands>,
    db: Option<Db>,
}

const IN_2026: u64 = 1_790_000_000;

impl Clockwork {
    fn new(wall: u64) -> Clockwork {
        let mut clockwork = Clockwork { dir: scratch(), hands: Arc::default(), db: None };
        clockwork.start(wall);
        clockwork
    }

    /// Boots the host: the boot clock begins anew, and the host believes that it is `wall`.
    fn start(&mut self, wall: u64) {
        self.hands = Arc::default();
        self.hands.boot.store(7, SeqCst);
        self.hands.wall.store(wall, SeqCst);
        let clocks = Clocks::Set(self.hands.clone());
        self.db = Some(Db::open(Options { clocks, ..options(self.dir.path()) }).unwrap());
    }

    fn db(&self) -> &Db {
        self.db.as_ref().unwrap()
    }

    fn pass(&self, seconds: u64) {
        self.hands.wall.fetch_add(seconds, SeqCst);
        self.hands.boot.fetch_add(seconds, SeqCst);
        self.db().tick(self.db().now()).unwrap();
    }

    fn put(&self, key: &str, expires: u64) {
        let body = NewBody::Inline(b"value");
        let expect = Expect::Anything;
        let write = Write { key: self.db().key(key.as_bytes()), flags: 0, expires, marks: 0, cas: None, body, expect };
        self.db().write(&write, &mut Scratch::default()).unwrap();
    }

    fn has(&self, key: &str) -> bool {
        self.db().get(key.as_bytes()).unwrap().is_some()
    }

    /// Ends this life, in one of the ways there are.
    fn end(&mut self, how: End) {
        match how {
            End::Clean => {}
            End::Checkpoint => self.db().core().write_checkpoint().unwrap(),
            End::Crash => {
                self.db().core().log.write_all();
                let crashed = copy(self.dir.path());
                self.db = None;
                self.dir = crashed;
            }
        }
        self.db = None;
    }
}

#[derive(Clone, Copy, Debug)]
enum End {
    Clean,
    Checkpoint,
    Crash,
}

const ENDS: [End; 3] = [End::Clean, End::Checkpoint, End::Crash];

#[test]
fn a_board_that_starts_in_1970_keeps_its_values_when_the_clock_is_set() {
    for end in ENDS {
        let mut board = Clockwork::new(30);
        let now = board.db().now();
        assert!((30..40).contains(&now), "the host is believed");
        board.put("forever", 0);
        board.put("soon", now + 100);
        board.hands.wall.store(IN_2026, SeqCst);
        board.pass(60);
        assert!(board.has("soon") && board.db().now() == now + 60, "a running store does not follow");
        board.pass(40);
        assert!(!board.has("soon") && board.has("forever"));
        board.put("later", board.db().now() + 1000);
        board.end(end);
        board.start(IN_2026);
        assert_eq!(board.db().now(), IN_2026, "{end:?}");
        assert!(board.has("forever") && !board.has("soon") && !board.has("later"), "{end:?}");
    }
}

#[test]
fn a_clock_that_jumps_back_brings_nothing_back_and_loses_nothing() {
    for end in ENDS {
        let mut board = Clockwork::new(IN_2026);
        board.put("gone", IN_2026 + 50);
        board.put("stays", IN_2026 + 5000);
        board.pass(60);
        assert!(!board.has("gone"));
        // What was seen to be gone is on record: the syncer notes the time with each sync, the clean end does.
        board.db().core().append_checkpoint(board.db().core().log.end()).unwrap();
        for wall in [40, IN_2026 - 1_000_000, 0] {
            board.end(end);
            board.start(wall);
            assert!((IN_2026 + 60..IN_2026 + 100).contains(&board.db().now()), "{end:?}: {}", board.db().now());
            assert!(!board.has("gone") && board.has("stays"), "{end:?}");
        }
        board.pass(5000);
        assert!(!board.has("stays"), "{end:?}");
    }
}

/// A clock that leapt between two lives may be wrong: what has expired by it is not shown, but for a day its bytes stay.
#[test]
fn a_large_value_stays_for_a_day_when_the_clock_has_leapt() {
    let mut board = Clockwork::new(IN_2026);
    let value = noise(200_000, 1);
    let mut writer = board.db().writer(b"large", value.len() as u64).unwrap().expires(IN_2026 + 50_000);
    writer.write_part(&value).unwrap();
    writer.finish().unwrap();
    let space = |board: &Clockwork| {
        board.db().compact().unwrap();
        std::fs::metadata(board.dir.path().join("00000000.ext")).unwrap().blocks() * 512
    };
    assert!(space(&board) > 200_000);
    board.end(End::Clean);
    board.start(IN_2026 + 60_000);
    for (passed, stays) in [(10, true), (40_000, true), (49_000, false)] {
        board.pass(passed);
        assert!(!board.has("large"));
        let key = board.db().key(b"large");
        assert!(matches!(board.db().remove(&key, Expect::Anything).unwrap(), Removed::Unsure | Removed::Absent { .. }));
        assert_eq!(space(&board) > 200_000, stays, "after {passed} s");
    }
    board.put("large", 0);
    assert!(board.has("large"));
}

#[test]
fn a_delayed_flush_fires_once_whenever_the_crash_comes() {
    for end in ENDS {
        // Seconds before the crash, counted from the order to flush in 30; and what the host's clock says afterwards.
        for (before, wall) in [(10, 50), (29, 20), (29, 0), (30, 30), (31, 31), (10, 5_000), (31, 0)] {
            let mut board = Clockwork::new(IN_2026);
            board.put("old", 0);
            board.db().flush_all(Some(IN_2026 + 30)).unwrap();
            board.put("old too", 0);
            board.pass(before);
            board.put("new", 0);
            board.db().core().append_checkpoint(board.db().core().log.end()).unwrap();
            board.end(end);
            board.start(IN_2026 + wall);
            let fired_before = before >= 30;
            let fired = fired_before || wall >= 30;
            let what = format!("{end:?}, crash after {before}, clock at {wall}");
            assert_eq!((board.has("old"), board.has("old too")), (!fired, !fired), "{what}");
            assert_eq!(board.has("new"), fired_before || !fired, "{what}");
            board.put("after the start", 0);
            board.pass(40);
            assert!(!board.has("old") && !board.has("old too"), "{what}");
            assert_eq!(board.has("after the start"), fired, "{what}: it fires once");
        }
    }
}

/// A CHECKPOINT knows of a flush that fires later; then compaction drops the record that says so.
#[test]
fn a_flush_that_has_fired_does_not_come_back_with_an_older_checkpoint() {
    for how in [End::Crash, End::Clean] {
        let mut clockwork = Clockwork::new(IN_2026);
        clockwork.put("old", 0);
        clockwork.db().flush_all(Some(IN_2026 + 10)).unwrap();
        clockwork.db().core().write_checkpoint().unwrap();
        clockwork.pass(11);
        clockwork.put("new", 0);
        assert!(!clockwork.has("old") && clockwork.has("new"));
        clockwork.db().compact().unwrap();
        clockwork.end(how);
        clockwork.start(IN_2026 + 20);
        assert!(!clockwork.has("old") && clockwork.has("new"), "after {how:?}");
    }
}

/// A store of format version 1 is read, goes on, and is read again.
#[test]
fn a_store_of_version_1_is_read_and_goes_on() {
    let dir = scratch();
    copy_to(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1"), dir.path());
    // Before its pending flush comes due.
    let hands = Arc::new(Hands::default());
    hands.wall.store(1_900_000_000, SeqCst);
    let start = || Db::open(Options { clocks: Clocks::Set(hands.clone()), ..options(dir.path()) }).unwrap();
    let check = |db: &Db| {
        let get = |key: &str| db.get(key.as_bytes()).unwrap();
        assert_eq!(get("flushed"), None);
        for number in 0..19 {
            let which = if number % 3 == 0 { "second value" } else { "value" };
            assert_eq!(get(&format!("key-{number}")), Some(format!("{which} {number}").into_bytes()));
        }
        assert_eq!(get("key-19"), None);
        assert_eq!(get("text"), Some(b"compressible text, ".iter().copied().cycle().take(1500).collect()));
        assert_eq!(get("expires-2100"), Some(b"later".to_vec()));
        assert_eq!(get("large"), Some(b"0123456789abcdef".iter().copied().cycle().take(100_000).collect()));
        assert_eq!(get("counter"), Some(b"42".to_vec()));
    };
    let db = start();
    check(&db);
    db.put(b"written now", b"by this version").unwrap();
    for number in 0..40_u64 {
        db.put(b"filler", &noise(60_000, number)).unwrap();
    }
    drop(db);
    let db = start();
    check(&db);
    assert_eq!(db.get(b"written now").unwrap(), Some(b"by this version".to_vec()));
    hands.wall.store(2_000_000_000, SeqCst);
    drop(db);
    assert_eq!(start().get(b"key-1").unwrap(), None, "the pending flush fired");
}

/// Nothing is written meanwhile that would tell the time, and the next start knows no other.
#[test]
fn what_was_told_to_have_expired_stays_gone_though_the_host_begins_in_1970() {
    let mut board = Clockwork::new(IN_2026);
    board.put("gone", IN_2026 + 60);
    board.put("unseen", IN_2026 + 60);
    board.put("stays", IN_2026 + 5000);
    board.db().flush().unwrap();
    board.pass(3000);
    assert!(!board.has("gone") && board.has("stays"));
    board.db().core().eventually_noted();
    board.end(End::Crash);
    board.start(30);
    assert!(board.db().now() >= IN_2026 + 3000, "{}", board.db().now());
    assert!(!board.has("gone") && !board.has("unseen") && board.has("stays"));
}

impl crate::store::core::Core {
    /// Waits until the log knows the time.
    fn eventually_noted(&self) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !self.time.is_noted() {
            assert!(std::time::Instant::now() < end, "the time is noted");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}
