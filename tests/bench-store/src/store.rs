//! The stores that are compared, behind one face. All but RocksDB run in this process; that one is measured by its own
//! `db_bench` (see `rocksdb`).

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, bail};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use kingdb::store::{Body, Record};
use kingdb::{Db, Options, Sync, Value, View};

use crate::leveldb::LevelDb;

/// A kind of store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Engine {
    /// What this is all about.
    KingDb,
    /// Debian's libleveldb.
    LevelDb,
    /// Debian's rocksdb-tools.
    RocksDb,
    /// A log-structured merge tree in Rust.
    Fjall,
}

impl Engine {
    /// In the order of tables.
    pub const ALL: [Engine; 4] = [Engine::KingDb, Engine::LevelDb, Engine::RocksDb, Engine::Fjall];

    /// As in tables.
    pub fn title(self) -> &'static str {
        match self {
            Engine::KingDb => "KingDB",
            Engine::LevelDb => "LevelDB",
            Engine::RocksDb => "RocksDB",
            Engine::Fjall => "fjall",
        }
    }

    /// As on the command line.
    pub fn name(self) -> String {
        self.title().to_lowercase()
    }

    /// The engine of a name.
    pub fn named(name: &str) -> Result<Engine> {
        match Engine::ALL.into_iter().find(|engine| engine.name() == name) {
            Some(engine) => Ok(engine),
            None => bail!("no store `{name}`; there are {}", Engine::ALL.map(Engine::name).join(", ")),
        }
    }
}

/// When a put may return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acknowledgement {
    /// When the kernel has the record.
    PageCache,
    /// When the disk has it.
    Disk,
}

/// An open store. Values are shown, not returned, so that none pays for a copy that it does not make by itself.
pub trait Store {
    /// Stores a value.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;
    /// Looks a key up: the length of its value.
    fn get(&self, key: &[u8]) -> Result<Option<usize>>;
    /// Reads everything: how many records.
    fn scan(&self) -> Result<u64>;
}

/// Opens the store of a kind in `dir`, with a cache of `cache` bytes. Not for [`Engine::RocksDb`].
pub fn open(engine: Engine, dir: &Path, cache: u64, ack: Acknowledgement) -> Result<Box<dyn Store>> {
    Ok(match engine {
        Engine::KingDb => Box::new(king(dir, cache, ack)?),
        Engine::LevelDb => Box::new(LevelDb::open(dir, cache as usize, ack == Acknowledgement::Disk)?),
        Engine::Fjall => Box::new(Fjall::open(dir, cache, ack)?),
        Engine::RocksDb => bail!("RocksDB is measured by its own program"),
    })
}

/// Opens ours.
pub fn king(dir: &Path, cache: u64, ack: Acknowledgement) -> Result<Db> {
    // What the others do where nothing is synced: leave it to the kernel.
    let sync = if ack == Acknowledgement::Disk { Sync::Always } else { Sync::None };
    Ok(Db::open(Options::new(dir).sync(sync).cache_bytes(cache))?)
}

/// No store: whatever is put, it writes as many bytes to a file. What a put of a store that gives each record to the kernel
/// costs at least.
pub struct Bare {
    file: File,
    record: Vec<u8>,
    end: Cell<u64>,
}

impl Bare {
    /// A new file at `path`, for records of `len` bytes.
    pub fn create(path: &Path, len: usize) -> Result<Bare> {
        Ok(Bare { file: File::create_new(path)?, record: vec![b'r'; len], end: Cell::new(0) })
    }
}

impl Store for Bare {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        std::hint::black_box((key, value));
        self.file.write_all_at(&self.record, self.end.get())?;
        self.end.set(self.end.get() + self.record.len() as u64);
        Ok(())
    }

    fn get(&self, _: &[u8]) -> Result<Option<usize>> {
        bail!("it keeps no keys")
    }

    fn scan(&self) -> Result<u64> {
        bail!("it keeps no keys")
    }
}

impl Store for Db {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(Db::put(self, key, value)?)
    }

    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(Db::get(self, key)?.map(|value| std::hint::black_box(value).len()))
    }

    fn scan(&self) -> Result<u64> {
        let (mut iter, mut count) = (View::iter(self)?, 0);
        let look = |key: &[u8], record: Record<'_>| match record.body {
            Body::Inline(value) => {
                std::hint::black_box((key, value));
                None
            }
            // A large value is only a handle until it is read.
            Body::Large(large) => Some(Value::Large(large.clone())),
        };
        while let Some(found) = iter.next_with(look) {
            if let Some(large) = found? {
                std::hint::black_box(large.into_bytes()?);
            }
            count += 1;
        }
        Ok(count)
    }
}

impl Store for LevelDb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        LevelDb::put(self, key, value)
    }

    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        LevelDb::get(self, key, |value| std::hint::black_box(value).len())
    }

    fn scan(&self) -> Result<u64> {
        let mut count = 0;
        LevelDb::scan(self, |key, value| count += u64::from(!std::hint::black_box((key, value)).0.is_empty()))?;
        Ok(count)
    }
}

struct Fjall {
    db: Database,
    records: Keyspace,
    ack: Acknowledgement,
}

impl Fjall {
    /// As it comes: LZ4, filters, and every insert given to the kernel. It has no snappy.
    fn open(dir: &Path, cache: u64, ack: Acknowledgement) -> Result<Fjall> {
        let db = Database::builder(dir).cache_size(cache).open()?;
        let records = db.keyspace("records", KeyspaceCreateOptions::default)?;
        Ok(Fjall { db, records, ack })
    }
}

impl Store for Fjall {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.records.insert(key, value)?;
        match self.ack {
            Acknowledgement::PageCache => Ok(()),
            Acknowledgement::Disk => Ok(self.db.persist(PersistMode::SyncData)?),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(self.records.get(key)?.map(|value| std::hint::black_box(value).len()))
    }

    fn scan(&self) -> Result<u64> {
        let mut count = 0;
        for record in self.records.iter() {
            std::hint::black_box(record.into_inner()?);
            count += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_store_finds_what_was_put_and_after_reopening_too() {
        for engine in Engine::ALL.into_iter().filter(|&engine| engine != Engine::RocksDb) {
            for ack in [Acknowledgement::PageCache, Acknowledgement::Disk] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("db");
                let store = open(engine, &path, 1 << 20, ack).unwrap();
                store.put(b"key", b"value").unwrap();
                assert_eq!(store.get(b"key").unwrap(), Some(5), "{engine:?}");
                drop(store);
                let store = open(engine, &path, 1 << 20, ack).unwrap();
                assert_eq!(store.get(b"key").unwrap(), Some(5), "{engine:?}");
                assert_eq!(store.get(b"none").unwrap(), None, "{engine:?}");
                assert_eq!(store.scan().unwrap(), 1, "{engine:?}");
            }
        }
    }

    #[test]
    fn names_lead_back_to_engines() {
        for engine in Engine::ALL {
            assert_eq!(Engine::named(&engine.name()).unwrap(), engine);
        }
        assert!(Engine::named("dbm").unwrap_err().to_string().contains("leveldb"));
    }
}
