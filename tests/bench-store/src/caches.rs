//! The caches that are compared: each is asked for keys, and fetches and keeps what it does not have.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kingdb::{Db, Options, Sync};
use kingserver_bench::sys;
use lru::LruCache;

use crate::workload::key;

/// Bytes of a value.
pub const VALUE: usize = 500;
/// Bytes that KingDB's cache needs for an entry of this kind, tables not counted: 40 of header, the key, the value.
const ENTRY: u64 = 40 + crate::workload::KEY as u64 + VALUE as u64;

/// A cache that counts.
pub trait Cache {
    /// As in tables.
    fn name(&self) -> &'static str;
    /// Asks for a key, and stores it where it is not there.
    fn request(&mut self, number: u64) -> Result<()>;
    /// Requests answered from the cache, so far.
    fn hits(&self) -> u64;
}

/// The record cache of a store that has all keys on its disk.
pub struct King {
    db: Db,
}

impl King {
    /// A store in `dir` of `keys` records, with a cache of `bytes`.
    pub fn new(dir: &Path, bytes: u64, keys: u64) -> Result<King> {
        // Filled by one that caches nothing.
        let filled = Db::open(Options::new(dir).sync(Sync::None).cache_bytes(0))?;
        (0..keys).try_for_each(|number| filled.put(&key(number), &[b'v'; VALUE]))?;
        drop(filled);
        Ok(King { db: Db::open(Options::new(dir).sync(Sync::None).cache_bytes(bytes))? })
    }
}

impl Cache for King {
    fn name(&self) -> &'static str {
        "KingDB"
    }

    fn request(&mut self, number: u64) -> Result<()> {
        ensure!(self.db.get(&key(number))?.is_some(), "key {number} is not in the store");
        Ok(())
    }

    fn hits(&self) -> u64 {
        self.db.stats().cache_hits
    }
}

/// Least recently used goes first. It is given the same bytes and needs none for itself.
pub struct Lru {
    cache: LruCache<u64, ()>,
    hits: u64,
}

impl Lru {
    /// As many entries as KingDB's cache would have in `bytes`, were it entries only.
    pub fn new(bytes: u64) -> Result<Lru> {
        let entries = NonZeroUsize::new((bytes / ENTRY) as usize).context("no room for an entry")?;
        Ok(Lru { cache: LruCache::new(entries), hits: 0 })
    }
}

impl Cache for Lru {
    fn name(&self) -> &'static str {
        "LRU"
    }

    fn request(&mut self, number: u64) -> Result<()> {
        match self.cache.get(&number) {
            Some(()) => self.hits += 1,
            None => drop(self.cache.put(number, ())),
        }
        Ok(())
    }

    fn hits(&self) -> u64 {
        self.hits
    }
}

/// A real one, asked over a Unix socket.
pub struct Memcached {
    child: Child,
    stream: BufReader<UnixStream>,
    hits: u64,
    found: Vec<u8>,
}

impl Memcached {
    /// Starts one with its socket in `dir` and `-m` of `bytes`.
    pub fn new(dir: &Path, bytes: u64) -> Result<Memcached> {
        let socket = dir.join("memcached.sock");
        let mut command = Command::new("memcached");
        command.arg("-s").arg(&socket).args(["-t", "1", "-m", &(bytes >> 20).to_string(), "-u", &sys::user_name()?]);
        sys::leash(&mut command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.context("cannot start memcached: `tests/setup bench-store` installs it")?;
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => {
                    let stream = BufReader::new(stream);
                    return Ok(Memcached { child, stream, hits: 0, found: Vec::new() });
                }
                Err(_) if Instant::now() < end && child.try_wait()?.is_none() => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => {
                    child.kill()?;
                    child.wait()?;
                    bail!("memcached does not answer: {error}");
                }
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "memcached has gone");
        Ok(line)
    }

    fn store(&mut self, key: &str) -> Result<()> {
        let mut request = format!("set {key} 0 0 {VALUE}\r\n").into_bytes();
        request.extend_from_slice(&[b'v'; VALUE]);
        request.extend_from_slice(b"\r\n");
        self.stream.get_mut().write_all(&request)?;
        let said = self.line()?;
        // With little memory it sometimes finds none for the moment: one more miss to come.
        ensure!(said == "STORED\r\n" || said.starts_with("SERVER_ERROR out of memory"), "memcached: {said}");
        Ok(())
    }
}

impl Cache for Memcached {
    fn name(&self) -> &'static str {
        "memcached"
    }

    fn request(&mut self, number: u64) -> Result<()> {
        let key = String::from_utf8_lossy(&key(number)).into_owned();
        self.stream.get_mut().write_all(format!("get {key}\r\n").as_bytes())?;
        if self.line()? == "END\r\n" {
            return self.store(&key);
        }
        self.found.resize(VALUE + "\r\nEND\r\n".len(), 0);
        self.stream.read_exact(&mut self.found)?;
        self.hits += 1;
        Ok(())
    }

    fn hits(&self) -> u64 {
        self.hits
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        // Both fail if it has ended by itself, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All of them, empty, with the same bytes. `keys`: those that will be asked for.
pub fn all(dir: &Path, bytes: u64, keys: u64) -> Result<Vec<Box<dyn Cache>>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(vec![
        Box::new(King::new(&dir.join("store"), bytes, keys)?),
        Box::new(Lru::new(bytes)?),
        Box::new(Memcached::new(dir, bytes)?),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cache_misses_first_and_hits_then() {
        let dir = tempfile::tempdir().unwrap();
        for mut cache in all(dir.path(), 4 << 20, 10).unwrap() {
            cache.request(7).unwrap();
            assert_eq!(cache.hits(), 0, "{}", cache.name());
            cache.request(7).unwrap();
            cache.request(7).unwrap();
            assert_eq!(cache.hits(), 2, "{}", cache.name());
        }
    }

    #[test]
    fn the_lru_forgets_what_was_used_longest_ago() {
        let mut cache = Lru::new(2 * ENTRY).unwrap();
        for number in [1, 2, 1, 3, 1, 2] {
            cache.request(number).unwrap();
        }
        assert_eq!(cache.hits(), 2, "the second and third 1");
    }
}
