//! Tests of the portable text: what is dumped is loaded, and what was cut or changed on the way is noticed.

use super::*;
use crate::store::{Expect, NewBody, Options, Scratch, Write as Put};
use std::collections::BTreeMap;

fn open(dir: &tempfile::TempDir) -> Db {
    Db::open(Options::new(dir.path())).unwrap()
}

type Contents = BTreeMap<Vec<u8>, (u32, u64, Vec<u8>)>;

fn contents(db: &Db) -> Contents {
    let item = |item: Result<Item>| {
        let item = item.unwrap();
        (item.key, (item.flags, item.expires, item.value.into_bytes().unwrap()))
    };
    db.iter().unwrap().map(item).collect()
}

fn put(db: &Db, key: &[u8], flags: u32, expires: u64, value: &[u8]) {
    let body = NewBody::Inline(value);
    let put = Put { key: db.key(key), flags, expires, marks: 0, cas: None, body, expect: Expect::Anything };
    db.write(&put, &mut Scratch::default()).unwrap();
}

fn text(db: &Db) -> Vec<u8> {
    let mut text = Vec::new();
    let tally = dump(&db.snapshot().unwrap(), &mut text, &mut |_| ()).unwrap();
    assert_eq!(tally.bytes, text.len() as u64);
    text
}

fn load_text(text: &[u8]) -> (Contents, std::result::Result<Tally, String>) {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let outcome = load(&db, &mut &text[..], &mut |_| ()).map_err(|error| error.to_string());
    (contents(&db), outcome)
}

fn sample(db: &Db) {
    put(db, b"plain", 1, 0, b"value");
    put(db, b"lines\n and % spaces", u32::MAX, db.now() + 1000, b"two\r\nlines\n\0");
    put(db, &[0, 1, 2, 127, 128, 255], 0, 0, b"");
    put(db, b"", 0, 0, b"of the empty key");
    put(db, b"end 0 0\n", 0, 0, b"\nend 0 00000000\n");
    db.put(&vec![b' '; MAX_KEY], b"of the longest key").unwrap();
    let large: Vec<u8> = (0..3 * CHUNK + 77).map(|at| (at / 7) as u8 ^ (at >> 10) as u8).collect();
    db.put(b"large", &large).unwrap();
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_is_dumped_is_loaded_and_dumped_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    sample(&db);
    let first = text(&db);
    let (loaded, outcome) = load_text(&first);
    assert_eq!(outcome.unwrap(), Tally { records: 7, bytes: first.len() as u64 });
    assert!(loaded == contents(&db));
    let plain = b"set plain 1 0 5\nvalue\n";
    assert!(first.starts_with(b"kingdb-dump 1\n") && first.windows(plain.len()).any(|window| window == plain));
    let escaped = b"set lines%0A%20and%20%25%20spaces 4294967295 ";
    assert!(first.windows(escaped.len()).any(|window| window == escaped));
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_dump_that_was_cut_is_noticed_wherever_that_was() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    (0..4_u32).for_each(|number| put(&db, &number.to_be_bytes(), number, 0, b"some\nvalue"));
    let (whole, all) = (text(&db), contents(&db));
    for len in 0..whole.len() {
        let (loaded, outcome) = load_text(&whole[..len]);
        let error = outcome.unwrap_err();
        assert!(error.contains("at line ") && error.contains("(offset "), "{error}");
        assert!(loaded.iter().all(|(key, value)| all.get(key) == Some(value)), "cut at {len}");
    }
}

#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_dump_that_was_changed_is_noticed_whatever_bit_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (db, other) = (open(&dir), tempfile::tempdir().unwrap());
    (0..2_u32).for_each(|number| put(&db, &number.to_be_bytes(), number, 0, b"value"));
    let mut changed = text(&db);
    let db = open(&other);
    for bit in 0..changed.len() * 8 {
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(load(&db, &mut &changed[..], &mut |_| ()).is_err(), "bit {bit}");
        changed[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn bad_input_is_told_by_line_and_offset() {
    let told = |text: &str| load_text(text.as_bytes()).1.unwrap_err();
    assert!(told("hello\n").contains("line 1 (offset 0): it is no dump"));
    assert!(told("kingdb-dump 2\n").contains("version"));
    assert!(
        told("kingdb-dump 1\nset a 0 0 4\nb\nb\n\nset c 0 0\n").contains("line 6 (offset 31): the line is neither")
    );
    assert!(told("kingdb-dump 1\nset %4 0 0 1\n").contains("badly escaped"));
    assert!(told("kingdb-dump 1\nset a +1 0 1\n").contains("FLAGS"));
    assert!(told("kingdb-dump 1\nset a 0 0 2\nabc\n").contains("LENGTH is wrong"));
    assert!(told("kingdb-dump 1\nset a 0 0 18446744073709551615\n").contains("line 2 (offset 14)"));
    assert!(told(&format!("kingdb-dump 1\nset {}", "a".repeat(1 << 20))).contains("cut or too long"));
    assert!(told("kingdb-dump 1\nend 0 00000000\n").contains("checksum"));
    assert!(told("kingdb-dump 1\nend 1 00000000\n").contains("0 records"));
}

#[test]
fn what_has_expired_is_not_loaded() {
    let (_, outcome) = load_text(b"kingdb-dump 1\nset a 0 1 1\nx\n");
    assert!(outcome.unwrap_err().contains("cut"));
    let (loaded, _) = load_text(b"kingdb-dump 1\nset a 0 1 1\nx\nset b 0 0 1\ny\n");
    assert_eq!(loaded.into_keys().collect::<Vec<_>>(), [b"b"]);
}

/// The records before what is bad are there also if the process is killed at once.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_load_that_ends_in_an_error_keeps_what_it_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let large = "x".repeat(3 * CHUNK);
    let text = format!("kingdb-dump 1\nset a 0 0 1\nx\nset b 0 0 {}\n{large}\nset c 0 0 1\n", large.len());
    assert!(load(&db, &mut text.as_bytes(), &mut |_| ()).is_err());
    let killed = crate::store::recovery::tests::copy(dir.path());
    let loaded = contents(&open(&killed));
    assert_eq!(loaded.into_keys().collect::<Vec<_>>(), [b"a", b"b"]);
}

#[test]
fn a_pipe_that_closes_is_an_error() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    db.put(b"key", b"value").unwrap();
    let outcome = dump(&db.snapshot().unwrap(), &mut Closed, &mut |_| ());
    assert!(outcome.unwrap_err().to_string().contains("cannot write the dump"));
}

/// What a writer gathers leaves before the damage is told.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn what_could_be_read_leaves_although_something_is_damaged() {
    #[derive(Default)]
    struct Gathers {
        gathered: Vec<u8>,
        left: Vec<u8>,
    }
    impl Write for Gathers {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.gathered.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.left.append(&mut self.gathered);
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(Options::new(dir.path()).cache_bytes(0)).unwrap();
    for key in ["one", "two", "three"] {
        db.put(key.as_bytes(), b"a value like no other").unwrap();
    }
    db.flush().unwrap();
    let path = dir.path().join("00000000.log");
    let log = std::fs::read(&path).unwrap();
    let at = log.windows(3).position(|three| three == b"two").unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"TWO", at as u64).unwrap();
    let mut out = Gathers::default();
    let outcome = dump(&db.snapshot().unwrap(), &mut out, &mut |_| ());
    assert!(matches!(outcome, Err(crate::Error::Damaged(_))), "{outcome:?}");
    let (loaded, told) = load_text(&out.left);
    assert_eq!(loaded.into_keys().collect::<Vec<_>>(), [&b"one"[..], b"three"]);
    assert!(told.unwrap_err().contains("cut"));
}

/// Its line would announce what does not come.
#[test]
#[cfg(not(feature = "tiny-tags"))]
fn a_large_value_with_a_damaged_chunk_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(Options::new(dir.path()).compression(false)).unwrap();
    let large: Vec<u8> = (0..3 * CHUNK + 77).map(|at| (at / 7) as u8 ^ (at >> 10) as u8).collect();
    for key in ["one", "two", "three"] {
        db.put(key.as_bytes(), &large).unwrap();
    }
    db.flush().unwrap();
    let file = std::fs::File::options().read(true).write(true).open(dir.path().join("00000000.ext")).unwrap();
    let (at, mut byte) = ((7 * CHUNK) as u64, [0]);
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, at).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[byte[0] ^ 1], at).unwrap();
    let mut text = Vec::new();
    let outcome = dump(&db.snapshot().unwrap(), &mut text, &mut |_| ());
    assert!(matches!(&outcome, Err(crate::Error::Damaged(why)) if why.contains("00000000.ext")), "{outcome:?}");
    let (loaded, told) = load_text(&text);
    assert_eq!(loaded.into_keys().collect::<Vec<_>>(), [&b"one"[..], b"three"]);
    assert!(told.unwrap_err().contains("the last line"));
}

/// The one in `kingdb.5`.
#[test]
fn the_documented_example_is_a_sound_dump() {
    let page = include_str!("../../man/kingdb.5");
    let start = page.find("kingdb-dump 1\n").unwrap();
    let example = &page[start..start + page[start..].find(".Ed\n").unwrap()];
    assert_eq!(load_text(example.as_bytes()).1.unwrap().records, 2);
}
