//! The store's directory: made if absent, locked against a second server, and the file `STORE` in it, which holds
//! what is decided once in a store's life: its identity and the seed of its hashes.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use super::error::{Error, Result};
use super::hash::Seed;
use super::header::{VERSION, check_version, checksum, mend};
use super::record::{le_u32, le_u64};
use super::segment::{numbers, random};
use crate::sys;

const MAGIC: &[u8; 8] = b"KDBSTORE";
const LEN: usize = 48;
/// What is stored is nobody else's business.
pub(crate) const FILE_MODE: u32 = 0o600;

/// A locked directory.
pub(crate) struct Home {
    /// Identity of the store.
    pub store: u64,
    pub seed: Seed,
    /// A bit of `STORE` had flipped.
    pub mended: bool,
    /// Holds the lock for as long as it is open.
    _lock: File,
}

impl Home {
    /// Locks the directory `dir` and reads its `STORE`; makes both where absent.
    pub fn open(dir: &Path) -> Result<Home> {
        make_directory(dir)?;
        let lock = lock(dir)?;
        let (mended, (store, seed)) = match read(dir)? {
            Some(read) => read,
            None => (false, create_where_empty(dir)?),
        };
        Ok(Home { store, seed, mended, _lock: lock })
    }
}

/// Identity and seed of the store in `dir`, if there is a `STORE`; and whether a bit of that had flipped.
pub(crate) fn read(dir: &Path) -> Result<Option<(bool, (u64, Seed))>> {
    let path = dir.join("STORE");
    match std::fs::read(&path) {
        Ok(mut bytes) => {
            let mended = bytes.len() == LEN && mend(&mut bytes, *MAGIC);
            decode(&bytes, &path).map(|identity| Some((mended, identity)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path, &error)),
    }
}

/// Keeps servers out of a directory that is there, as long as the file is open: for reading beside others that read,
/// or, `alone`, for changing it. Nothing is made for reading only: where there is no lock file, nobody can hold it; nor
/// where there is no store.
pub(crate) fn lock_existing(dir: &Path, alone: bool) -> Result<Option<File>> {
    let found = std::fs::metadata(dir).map_err(|error| Error::io("look at", dir, &error))?;
    if !found.is_dir() {
        return Err(Error::other(format!("{} is not a directory: give a --db.path", dir.display())));
    }
    if alone {
        if !dir.join("STORE").exists() && numbers(dir)?.is_empty() {
            return Err(no_store(dir));
        }
        return lock(dir).map(Some);
    }
    let path = dir.join("LOCK");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", &path, &error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(in_use(dir)),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, &error)),
    }
}

pub(crate) fn no_store(dir: &Path) -> Error {
    Error::other(format!("there is no store in {}: give the directory that has it", dir.display()))
}

fn in_use(dir: &Path) -> Error {
    let dir = dir.display();
    Error::other(format!("the data directory {dir} is in use by another server; stop it or choose another --db.path"))
}

fn make_directory(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Error::io("create the data directory", dir, &error))?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sys::file::sync_directory(parent).map_err(|error| Error::io("sync directory", parent, &error))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("LOCK");
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(&path);
    let file = open.map_err(|error| Error::io("open", &path, &error))?;
    match lock_soon(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(in_use(dir)),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, &error)),
    }
}

/// Somebody who has just ended, or a child of whoever had the store open that is on its way to another program, may hold
/// the lock a moment longer.
fn lock_soon(file: &File) -> std::result::Result<(), TryLockError> {
    for _ in 0..20 {
        if file.try_lock().is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    file.try_lock()
}

/// A new store. Where segments are, there was one, and another identity could not read them.
fn create_where_empty(dir: &Path) -> Result<(u64, Seed)> {
    if numbers(dir)?.is_empty() {
        return create(dir);
    }
    let dir = dir.display();
    Err(Error::other(format!(
        "{dir} has log segments but no STORE file, without which they cannot be read: restore it from a backup, or have 'kingserver check --repair' make it anew"
    )))
}

fn create(dir: &Path) -> Result<(u64, Seed)> {
    let (store, seed) = (random(), Seed([random(), random()]));
    write(dir, store, seed).map(|()| (store, seed))
}

/// Writes `STORE`: beside it and renamed, so that it is whole or absent.
pub(crate) fn write(dir: &Path, store: u64, seed: Seed) -> Result<()> {
    let (fresh, path) = (dir.join("STORE.new"), dir.join("STORE"));
    let failed = |error: std::io::Error| Error::io("write", &fresh, &error);
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&fresh);
    open.and_then(|mut file| file.write_all(&encode(store, seed)).and_then(|()| file.sync_all())).map_err(failed)?;
    std::fs::rename(&fresh, &path).map_err(|error| Error::io("rename to", &path, &error))?;
    sys::file::sync_directory(dir).map_err(|error| Error::io("sync directory", dir, &error))
}

fn encode(store: u64, seed: Seed) -> [u8; LEN] {
    let mut out = [0; LEN];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&store.to_le_bytes());
    out[24..32].copy_from_slice(&seed.0[0].to_le_bytes());
    out[32..40].copy_from_slice(&seed.0[1].to_le_bytes());
    let crc = checksum(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8], path: &Path) -> Result<(u64, Seed)> {
    if bytes.len() < 12 || &bytes[..8] != MAGIC {
        return Err(Error::damaged(path, 0, "this is no STORE file of KingDB"));
    }
    check_version(le_u32(bytes, 8), path)?;
    if bytes.len() != LEN || checksum(bytes) != le_u32(bytes, 12) {
        return Err(Error::damaged(
            path,
            0,
            "the checksum is wrong; restore the file from a backup, or have 'kingserver check --repair' make it anew",
        ));
    }
    Ok((le_u64(bytes, 16), Seed([le_u64(bytes, 24), le_u64(bytes, 32)])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_identity_and_lets_one_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let home = Home::open(&path).unwrap();
        assert!(Home::open(&path).err().unwrap().to_string().contains("in use by another server"));
        let first = (home.store, home.seed);
        drop(home);
        let home = Home::open(&path).unwrap();
        assert_eq!((home.store, home.seed), first);
    }

    #[test]
    fn a_store_that_lost_its_identity_is_not_replaced_by_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("00000000.log"), b"").unwrap();
        assert!(Home::open(dir.path()).err().unwrap().to_string().contains("no STORE file"));
        assert!(!dir.path().join("STORE").exists());
    }

    #[test]
    fn a_damaged_or_newer_store_file_is_refused_unless_it_is_a_single_bit() {
        let dir = tempfile::tempdir().unwrap();
        drop(Home::open(dir.path()).unwrap());
        let path = dir.path().join("STORE");
        let good = std::fs::read(&path).unwrap();
        let identity = decode(&good, &path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            let home = Home::open(dir.path()).unwrap();
            assert!(home.mended && (home.store, home.seed) == identity, "bit {bit}");
            drop(home);
            bad[(bit / 8 + 5) % LEN] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            assert!(Home::open(dir.path()).is_err(), "bit {bit} and another");
        }
        let mut newer = good;
        newer[8] = VERSION as u8 + 1;
        let crc = checksum(&newer);
        newer[12..16].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, &newer).unwrap();
        assert!(Home::open(dir.path()).err().unwrap().to_string().contains("newer kingserver"));
    }
}
