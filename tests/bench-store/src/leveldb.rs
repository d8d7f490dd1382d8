//! LevelDB through its C interface (Debian's libleveldb, linked dynamically). This package's only `unsafe`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::{NonNull, null_mut};

use anyhow::{Context, Result, bail};

/// Any object of the library: only ever used behind a pointer.
#[repr(C)]
struct Object {
    _private: [u8; 0],
}

type Handle = NonNull<Object>;

/// As in leveldb/c.h.
const SNAPPY: c_int = 1;

#[link(name = "leveldb")]
unsafe extern "C" {
    fn leveldb_open(options: Handle, name: *const c_char, error: *mut *mut c_char) -> *mut Object;
    fn leveldb_close(db: Handle);
    fn leveldb_put(
        db: Handle,
        options: Handle,
        key: *const c_char,
        key_len: usize,
        value: *const c_char,
        value_len: usize,
        error: *mut *mut c_char,
    );
    fn leveldb_get(
        db: Handle,
        options: Handle,
        key: *const c_char,
        key_len: usize,
        value_len: *mut usize,
        error: *mut *mut c_char,
    ) -> *mut c_char;
    fn leveldb_create_iterator(db: Handle, options: Handle) -> Handle;
    fn leveldb_iter_destroy(iterator: Handle);
    fn leveldb_iter_valid(iterator: Handle) -> u8;
    fn leveldb_iter_seek_to_first(iterator: Handle);
    fn leveldb_iter_next(iterator: Handle);
    fn leveldb_iter_key(iterator: Handle, len: *mut usize) -> *const c_char;
    fn leveldb_iter_value(iterator: Handle, len: *mut usize) -> *const c_char;
    fn leveldb_iter_get_error(iterator: Handle, error: *mut *mut c_char);
    fn leveldb_options_create() -> Handle;
    fn leveldb_options_destroy(options: Handle);
    fn leveldb_options_set_create_if_missing(options: Handle, yes: u8);
    fn leveldb_options_set_cache(options: Handle, cache: Handle);
    fn leveldb_options_set_filter_policy(options: Handle, policy: Handle);
    fn leveldb_options_set_compression(options: Handle, kind: c_int);
    fn leveldb_cache_create_lru(bytes: usize) -> Handle;
    fn leveldb_cache_destroy(cache: Handle);
    fn leveldb_filterpolicy_create_bloom(bits: c_int) -> Handle;
    fn leveldb_filterpolicy_destroy(policy: Handle);
    fn leveldb_readoptions_create() -> Handle;
    fn leveldb_readoptions_destroy(options: Handle);
    fn leveldb_writeoptions_create() -> Handle;
    fn leveldb_writeoptions_destroy(options: Handle);
    fn leveldb_writeoptions_set_sync(options: Handle, yes: u8);
    fn leveldb_free(memory: *mut c_void);
    fn leveldb_major_version() -> c_int;
    fn leveldb_minor_version() -> c_int;
}

/// An open LevelDB, used by one thread.
#[derive(Debug)]
pub struct LevelDb {
    db: Handle,
    options: Handle,
    reading: Handle,
    writing: Handle,
    cache: Handle,
    policy: Handle,
    /// Neither sent nor shared.
    _here: PhantomData<*const ()>,
}

impl LevelDb {
    /// Opens or makes the database in `dir`: snappy, an LRU block cache of `cache` bytes, a Bloom filter of 10 bits
    /// per key, everything else as it comes. `sync`: each write is on the disk when [`LevelDb::put`] returns.
    pub fn open(dir: &Path, cache: usize, sync: bool) -> Result<LevelDb> {
        let name = CString::new(dir.to_str().context("the directory's name is not UTF-8")?)?;
        // SAFETY: the creating functions take no pointers and return objects that are ours until destroyed (they
        // abort where memory ends); the setters get objects of the kinds they ask for, which live as long as the
        // database: they are destroyed after it, in `drop`. `name` ends with a zero byte and outlives the call.
        unsafe {
            let (options, cache) = (leveldb_options_create(), leveldb_cache_create_lru(cache));
            let policy = leveldb_filterpolicy_create_bloom(10);
            leveldb_options_set_create_if_missing(options, 1);
            leveldb_options_set_cache(options, cache);
            leveldb_options_set_filter_policy(options, policy);
            leveldb_options_set_compression(options, SNAPPY);
            let (reading, writing) = (leveldb_readoptions_create(), leveldb_writeoptions_create());
            leveldb_writeoptions_set_sync(writing, u8::from(sync));
            let mut error = null_mut();
            let db = leveldb_open(options, name.as_ptr(), &mut error);
            check(error)?;
            let db = NonNull::new(db).context("leveldb_open gave nothing")?;
            Ok(LevelDb { db, options, reading, writing, cache, policy, _here: PhantomData })
        }
    }

    /// Stores a value.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut error = null_mut();
        // SAFETY: database and options live as long as `self`; key and value are borrowed for the whole call, with
        // their true lengths, and the library copies what it keeps.
        unsafe {
            let (key_at, value_at) = (key.as_ptr().cast(), value.as_ptr().cast());
            leveldb_put(self.db, self.writing, key_at, key.len(), value_at, value.len(), &mut error);
            check(error)
        }
    }

    /// Looks a key up and shows its value to `visit`.
    pub fn get<R>(&self, key: &[u8], visit: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        let (mut len, mut error) = (0, null_mut());
        // SAFETY: as in `put`. What is returned is null or `len` bytes from malloc, which are ours: they are read
        // before they are freed, once.
        unsafe {
            let found = leveldb_get(self.db, self.reading, key.as_ptr().cast(), key.len(), &mut len, &mut error);
            check(error)?;
            let Some(found) = NonNull::new(found) else { return Ok(None) };
            let shown = visit(std::slice::from_raw_parts(found.as_ptr().cast(), len));
            leveldb_free(found.as_ptr().cast());
            Ok(Some(shown))
        }
    }

    /// Shows all records to `visit`, in the order of their keys.
    pub fn scan(&self, mut visit: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let mut error = null_mut();
        // SAFETY: the iterator is ours until destroyed and does not outlive the database. Key and value stay valid
        // until it is moved; they are borrowed only for the visit in between.
        unsafe {
            let iterator = leveldb_create_iterator(self.db, self.reading);
            leveldb_iter_seek_to_first(iterator);
            while leveldb_iter_valid(iterator) != 0 {
                let (mut key_len, mut value_len) = (0, 0);
                let key = leveldb_iter_key(iterator, &mut key_len).cast();
                let value = leveldb_iter_value(iterator, &mut value_len).cast();
                visit(std::slice::from_raw_parts(key, key_len), std::slice::from_raw_parts(value, value_len));
                leveldb_iter_next(iterator);
            }
            leveldb_iter_get_error(iterator, &mut error);
            leveldb_iter_destroy(iterator);
            check(error)
        }
    }

    /// Of the library that is linked.
    pub fn version() -> String {
        // SAFETY: these take nothing and only return a number.
        let (major, minor) = unsafe { (leveldb_major_version(), leveldb_minor_version()) };
        format!("{major}.{minor}")
    }
}

impl Drop for LevelDb {
    fn drop(&mut self) {
        // SAFETY: each is destroyed once, the database first, which uses the others.
        unsafe {
            leveldb_close(self.db);
            leveldb_options_destroy(self.options);
            leveldb_readoptions_destroy(self.reading);
            leveldb_writeoptions_destroy(self.writing);
            leveldb_cache_destroy(self.cache);
            leveldb_filterpolicy_destroy(self.policy);
        }
    }
}

/// Turns the library's message into an error.
///
/// # Safety
/// `error` is null, or a string from the library that nobody frees.
unsafe fn check(error: *mut c_char) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's promise; it is copied before it is freed.
    let message = unsafe { CStr::from_ptr(error).to_string_lossy().into_owned() };
    // SAFETY: likewise.
    unsafe { leveldb_free(error.cast()) };
    bail!("LevelDB: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_and_scanned_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let db = LevelDb::open(dir.path(), 1 << 20, false).unwrap();
        db.put(b"b", b"two").unwrap();
        db.put(b"a", b"one").unwrap();
        assert_eq!(db.get(b"a", <[u8]>::to_vec).unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(db.get(b"c", <[u8]>::to_vec).unwrap(), None);
        let mut seen = Vec::new();
        db.scan(|key, value| seen.push((key.to_vec(), value.len()))).unwrap();
        assert_eq!(seen, [(b"a".to_vec(), 3), (b"b".to_vec(), 3)]);
    }

    #[test]
    fn an_error_is_told_in_the_librarys_words() {
        let error = LevelDb::open(Path::new("/proc/nowhere/db"), 1 << 20, false).unwrap_err().to_string();
        assert!(error.contains("/proc/nowhere"), "{error}");
    }
}
