//! The embedded store, without a server: random operation sequences against a map, across closes and drops.
//!
//! This process starts no other: a child that is forked while the store is open shares its lock until it calls exec(2).

mod common;

use common::recipe::{Value, cases, value};
use common::util::tier;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The embedded store's own steps.
#[derive(Clone, Debug)]
enum Embedded {
    Put(u8, Value),
    Get(u8),
    Delete(u8),
    Flush,
    Reopen,
    /// Dropped without a close.
    Drop,
}

fn embedded() -> impl Strategy<Value = Embedded> {
    prop_oneof![
        6 => (0..8u8, value()).prop_map(|(key, value)| Embedded::Put(key, value)),
        4 => (0..8u8).prop_map(Embedded::Get),
        3 => (0..8u8).prop_map(Embedded::Delete),
        1 => Just(Embedded::Flush),
        1 => Just(Embedded::Reopen),
        1 => Just(Embedded::Drop),
    ]
}

#[test]
fn sequences_on_the_library() {
    let count = tier(40, 300, 5000);
    let steps = proptest::collection::vec(embedded(), 1..80);
    cases(count)
        .run(&steps, |steps| {
            let directory = tempfile::tempdir().expect("make a temporary directory");
            let open = || kingdb::Db::open(kingdb::Options::new(directory.path().join("db"))).expect("open the store");
            let mut db = open();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Embedded::Put(key, value) => {
                        db.put(&[key], &value.bytes()).expect("put");
                        model.insert(key, value.bytes());
                    }
                    Embedded::Get(key) => {
                        assert!(db.get(&[key]).expect("get").as_ref() == model.get(&key), "get {key}")
                    }
                    Embedded::Delete(key) => {
                        assert_eq!(db.delete(&[key]).expect("delete"), model.remove(&key).is_some(), "delete {key}");
                    }
                    Embedded::Flush => db.flush().expect("flush"),
                    Embedded::Reopen => {
                        db.close().expect("close");
                        drop(db);
                        db = open();
                    }
                    Embedded::Drop => {
                        drop(db);
                        db = open();
                    }
                }
            }
            for key in 0..8u8 {
                assert!(db.get(&[key]).expect("get").as_ref() == model.get(&key), "get {key} at the end");
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!("sequences: {count} of {count}");
}
