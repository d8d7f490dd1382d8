//! The embedded store, without a server: random operation sequences against a map, across compaction, snapshots, expiry, closes,
//! drops and crashes.
//!
//! This process starts no other: a child that is forked while the store is open shares its lock until it calls exec(2).

mod common;

use common::recipe::{Value, cases, value};
use common::util::{random_bytes, tier};
use kingdb::{Db, Options, Snapshot, View};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The keys of a sequence are few, so that steps meet. One has a role of its own: it fills segments.
const KEYS: u8 = 8;
const FILLER: u8 = KEYS;

/// The embedded store's own steps.
#[derive(Clone, Debug)]
enum Embedded {
    Put(u8, Value),
    /// By parts of this length.
    Write(u8, Value, usize),
    /// With a deadline in the past.
    PutExpired(u8, Value),
    /// So many versions of a key, 60,000 bytes each.
    Fill(u8, u64),
    Get(u8),
    Delete(u8),
    FlushAll,
    Flush,
    Compact,
    Snapshot,
    /// All open snapshots show what they should.
    Look,
    Reopen,
    /// Dropped without a close.
    Drop,
    /// Goes on with what a kill -9 would have left.
    Crash,
}

fn embedded() -> impl Strategy<Value = Embedded> {
    let key = 0..KEYS;
    prop_oneof![
        12 => (key.clone(), value()).prop_map(|(key, value)| Embedded::Put(key, value)),
        3 => (key.clone(), value(), 1..100_000usize).prop_map(|(key, value, part)| Embedded::Write(key, value, part)),
        2 => (key.clone(), value()).prop_map(|(key, value)| Embedded::PutExpired(key, value)),
        2 => (5..25u8, any::<u64>()).prop_map(|(count, seed)| Embedded::Fill(count, seed)),
        8 => key.clone().prop_map(Embedded::Get),
        6 => key.prop_map(Embedded::Delete),
        1 => Just(Embedded::FlushAll),
        2 => Just(Embedded::Flush),
        3 => Just(Embedded::Compact),
        2 => Just(Embedded::Snapshot),
        2 => Just(Embedded::Look),
        1 => Just(Embedded::Reopen),
        1 => Just(Embedded::Drop),
        2 => Just(Embedded::Crash),
    ]
}

type Model = BTreeMap<u8, Vec<u8>>;

/// A store, what it should hold, and what its snapshots should.
struct Pair {
    directory: TempDir,
    lives: u32,
    db: Option<Db>,
    model: Model,
    snapshots: Vec<(Snapshot, Model)>,
}

impl Pair {
    fn new() -> Pair {
        let directory = common::disk::memory();
        let mut pair = Pair { directory, lives: 0, db: None, model: Model::new(), snapshots: Vec::new() };
        pair.open();
        pair
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(self.lives.to_string())
    }

    fn open(&mut self) {
        let options = Options { segment_bytes: 1 << 20, cache_bytes: 1 << 20, ..Options::new(self.path()) };
        self.db = Some(Db::open(options).expect("open the store"));
        assert_eq!(self.db().stats().damaged_records, 0, "nothing is damaged");
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("it is open")
    }

    /// Whether all keys can be there at once. (With the tags of feature `tiny-tags` two may be taken for one another.)
    fn keys_differ(&mut self) -> bool {
        (0..=FILLER).for_each(|key| self.db().put(&[key], b"").expect("put"));
        let differ = (0..=FILLER).all(|key| self.db().get(&[key]).expect("get").is_some());
        (0..=FILLER).for_each(|key| {
            self.db().delete(&[key]).expect("delete");
        });
        differ
    }

    fn run(&mut self, step: &Embedded) {
        match step {
            Embedded::Put(key, value) => self.put(*key, value.bytes()),
            Embedded::Write(key, value, part) => self.write(*key, value.bytes(), *part, false),
            Embedded::PutExpired(key, value) => self.write(*key, value.bytes(), usize::MAX, true),
            Embedded::Fill(count, seed) => {
                (0..u64::from(*count)).for_each(|number| self.put(FILLER, random_bytes(seed ^ number, 60_000)));
            }
            Embedded::Get(key) => self.get(*key),
            Embedded::Delete(key) => {
                let deleted = self.db().delete(&[*key]).expect("delete");
                assert_eq!(deleted, self.model.remove(key).is_some(), "delete {key}");
            }
            Embedded::FlushAll => {
                self.db().flush_all(None).expect("flush all");
                self.db().flush().expect("have it written");
                self.model.clear();
            }
            Embedded::Flush => self.db().flush().expect("flush"),
            Embedded::Compact => self.db().compact().expect("compact"),
            Embedded::Snapshot => self.snapshot(),
            Embedded::Look => self.look(),
            Embedded::Reopen => self.reopen(true),
            Embedded::Drop => self.reopen(false),
            Embedded::Crash => self.crash(),
        }
    }

    fn put(&mut self, key: u8, value: Vec<u8>) {
        self.db().put(&[key], &value).expect("put");
        self.model.insert(key, value);
    }

    fn write(&mut self, key: u8, value: Vec<u8>, part: usize, expired: bool) {
        let expires = if expired { self.db().now() - 10 } else { 0 };
        let writer = self.db().writer(&[key], value.len() as u64).expect("begin to write");
        let mut writer = writer.expires(expires);
        value.chunks(part).for_each(|part| writer.write_part(part).expect("write a part"));
        writer.finish().expect("finish writing");
        match expired {
            true => self.model.remove(&key),
            false => self.model.insert(key, value),
        };
    }

    fn get(&self, key: u8) {
        let found = self.db().get(&[key]).expect("get");
        let len = |value: Option<&Vec<u8>>| value.map(Vec::len);
        let wanted = self.model.get(&key);
        assert!(found.as_ref() == wanted, "get {key}: {:?} bytes, not {:?}", len(found.as_ref()), len(wanted));
    }

    fn snapshot(&mut self) {
        if self.snapshots.len() < 3 {
            let snapshot = self.db().snapshot().expect("take a snapshot");
            self.snapshots.push((snapshot, self.model.clone()));
        }
    }

    fn look(&self) {
        for (snapshot, model) in &self.snapshots {
            same(snapshot, model);
        }
    }

    fn reopen(&mut self, close: bool) {
        self.look();
        self.snapshots.clear();
        let db = self.db.take().expect("it is open");
        if close {
            db.close().expect("close");
        }
        drop(db);
        self.open();
    }

    fn crash(&mut self) {
        let from = self.path();
        self.lives += 1;
        while !copy(&from, &self.path()) {
            std::fs::remove_dir_all(self.path()).expect("remove a half copy");
        }
        self.look();
        self.snapshots.clear();
        self.db = None;
        std::fs::remove_dir_all(from).expect("remove the old store");
        self.open();
    }
}

/// A view holds exactly this.
fn same(view: &impl View, model: &Model) {
    let items = view.iter().expect("iterate").map(|item| item.expect("the next item"));
    let found: Vec<(u8, Vec<u8>)> =
        items.map(|item| (item.key[0], item.value.into_bytes().expect("a value"))).collect();
    assert_eq!(found.len(), model.len(), "keys by iterating");
    for (key, value) in found {
        assert!(model.get(&key) == Some(&value), "{key} by iterating");
    }
    for key in 0..=FILLER {
        assert!(view.get(&[key]).expect("get").as_ref() == model.get(&key), "get {key}");
    }
}

/// Copies the files as they are. `false`: some came or went meanwhile, so these were never there together.
fn copy(from: &Path, to: &Path) -> bool {
    let names = || {
        let entries = std::fs::read_dir(from).expect("read the directory").flatten();
        entries.map(|entry| entry.file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    std::fs::create_dir(to).expect("make a directory");
    let before = names();
    let copied = before.iter().all(|name| std::fs::copy(from.join(name), to.join(name)).is_ok());
    copied && before == names()
}

#[test]
fn sequences_on_the_library() {
    let count = tier(40, 300, 5000);
    let steps = proptest::collection::vec(embedded(), 1..100);
    cases(count)
        .run(&steps, |steps| {
            let mut pair = Pair::new();
            if !pair.keys_differ() {
                return Ok(());
            }
            steps.iter().for_each(|step| pair.run(step));
            pair.look();
            same(pair.db(), &pair.model);
            pair.db().compact().expect("compact");
            same(pair.db(), &pair.model);
            pair.crash();
            same(pair.db(), &pair.model);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!("sequences: {count} of {count}");
}
