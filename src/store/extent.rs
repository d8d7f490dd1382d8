//! Extent files: where the bytes of large values lie. A value reserves a range when its upload starts, so that
//! uploads proceed side by side; a range that was not filled, or whose upload died, is given back to the file
//! system as a hole.
//!
//! Reserving is a matter of numbers and done by event loops; so is writing to a file that is there, while the disk is
//! fast. Making files is done by the lane, as is writing while the disk is slow, and syncing by the syncer.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use super::CHUNK;
use super::error::{Error, Result};
use super::header::{FileHeader, HEADER, VERSION, mend};
use super::home::FILE_MODE;
use super::lane::Lane;
use super::lease::{Lease, Leases};
use super::options::Options;
use super::run::Direct;
use super::segment::{files, numbered};
use super::space::{Level, Space, Taken};
use super::speed::Speed;
use super::steps::{STEP, by_steps};
use super::throttle::Throttle;
use crate::sys;

#[path = "holes.rs"]
mod holes;

/// Ranges start at multiples of this, the usual block of a file system, and the first is kept for the header; those of more
/// than a chunk start at multiples of a chunk, so that the page cache can hold each in one folio: it is read and written
/// faster. Bytes.
const BLOCK: u64 = 4096;
/// A file that has reserved this much takes no more values. Bytes; holes included.
const FULL: u64 = 1 << 30;
/// A range of this size and more has a file alone: who writes to it waits for nobody who syncs or punches those of others.
/// Bytes.
pub(crate) const ALONE: u64 = 16 << 20;
/// Unless there are so many files, or a quarter of what the process may have open: each takes a descriptor.
pub(crate) const MANY_FILES: usize = 512;
/// Nor above this number: each upload takes one, and they are never used again.
const LAST_ALONE: u32 = u32::MAX / 2;
/// Chunks written at once, at most. A file alone has its range at a multiple of so many: they fit into one folio then.
pub const AT_ONCE: usize = 4;
/// So many writes in a row that are not slow end a slow phase: more than the kernel lets pass between two of the pauses
/// by which it holds back who writes faster than the disk.
const RECOVERED_AFTER: u32 = 1024;
pub(crate) const MAGIC: [u8; 8] = *b"KDBEXTNT";
const SUFFIX: &str = "ext";

/// All extent files of a store.
pub(crate) struct Extents {
    dir: PathBuf,
    store: u64,
    compression: bool,
    pub lane: Lane,
    space: Arc<Space>,
    pub throttle: Arc<Throttle>,
    files: RwLock<HashMap<u32, Arc<ExtentFile>>>,
    next: Mutex<Next>,
    dirty: Mutex<Vec<Dirty>>,
    leases: Leases,
    speed: Speed,
    /// With so many files, none is for one value alone.
    many_files: usize,
}

/// A file that has bytes which the disk does not, and between which offsets.
struct Dirty {
    file: Arc<ExtentFile>,
    from: u64,
    to: u64,
}

impl Dirty {
    /// Lets the disk begin, bit by bit. What is left for a sync takes the file system's locks for a moment only.
    fn start_write_back(&self) -> Result<()> {
        let (file, len) = (self.file.get()?, self.to - self.from);
        let write_back = |offset, len| {
            sys::file::start_write_back(file, offset, len);
            Ok(true)
        };
        by_steps(self.from, len, &write_back).map_err(|error| Error::io("sync", &self.file.path, &error))
    }
}

/// Where the next range goes.
struct Next {
    number: u32,
    offset: u64,
    file: Option<Arc<ExtentFile>>,
}

/// One file. It is made when the first bytes are written to it.
pub(crate) struct ExtentFile {
    pub number: u32,
    pub path: PathBuf,
    owner: Owner,
    file: OnceLock<File>,
    making: Mutex<()>,
    /// Starts of the ranges that are in use; `None` in a file of an earlier life that was not swept yet.
    live: Mutex<Option<HashSet<u64>>>,
    /// Ranges, as base and length, that nothing names any more and that could not become holes yet.
    owed: Mutex<Vec<(u64, u64)>>,
    /// A bit of its header had flipped.
    mended: bool,
    /// How many are at work on it who may keep writers waiting.
    busy: AtomicUsize,
    /// Ranges that may still be written to, or punched because no record came to name them.
    reserved: AtomicUsize,
}

/// Who may have ranges in a file.
enum Owner {
    /// One value, for which this life made it.
    One,
    Many,
    /// Those that an earlier life has put there.
    Nobody,
}

/// A range that one value fills.
pub(crate) struct Reservation {
    pub file: Arc<ExtentFile>,
    pub base: u64,
    pub compression: bool,
    /// A record names the range; if none does by the end, the range is given back.
    pub kept: AtomicBool,
    /// Used if the range has the file alone.
    pub direct: Direct,
    len: u64,
    pub taken: Taken,
    pub extents: Arc<Extents>,
}

impl Extents {
    /// Opens the extent files in `dir`. New values go to files of their own: a file is not written to by two lives
    /// of a store.
    pub fn open(options: &Options, store: u64, lane: Lane, limits: (Arc<Space>, Arc<Throttle>)) -> Result<Extents> {
        let (dir, (space, throttle)) = (&options.path, limits);
        let mut found = HashMap::new();
        for number in numbers(dir)? {
            found.insert(number, Arc::new(ExtentFile::open(dir, number, store)?));
        }
        let number = found.keys().max().map_or(0, |number| number + 1);
        Ok(Extents {
            dir: dir.clone(),
            store,
            compression: options.compression,
            lane,
            space,
            throttle,
            files: RwLock::new(found),
            next: Mutex::new(Next { number, offset: FULL, file: None }),
            dirty: Mutex::default(),
            leases: Leases::default(),
            speed: Speed::new(RECOVERED_AFTER),
            many_files: sys::resource::descriptor_limit().map_or(0, |limit| MANY_FILES.min(limit as usize / 4)),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// File `number`.
    pub fn file(&self, number: u32) -> Result<Arc<ExtentFile>> {
        let missing = || Error::damaged(&path_of(&self.dir, number), 0, "the extent file is missing");
        super::read(&self.files).get(&number).cloned().ok_or_else(missing)
    }

    /// Files in whose header a bit had flipped.
    pub fn mended(&self) -> Vec<PathBuf> {
        super::read(&self.files).values().filter(|file| file.mended).map(|file| file.path.clone()).collect()
    }

    /// Sets a range of `room` bytes aside, whole blocks. No system call.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn reserve(self: &Arc<Self>, room: u64) -> Result<Reservation> {
        let taken = self.space.take(room)?;
        let mut next = super::lock(&self.next);
        let (file, base) = match self.may_be_alone(room, &next) {
            true => (self.plan(&mut next, Owner::One), (AT_ONCE * CHUNK) as u64),
            false => self.place(room, &mut next),
        };
        file.reserved.fetch_add(1, SeqCst);
        super::lock(&file.live).get_or_insert_default().insert(base);
        let (kept, compression, direct) = (AtomicBool::new(false), self.compression, Direct::default());
        Ok(Reservation { file, base, compression, kept, direct, len: room, taken, extents: self.clone() })
    }

    fn may_be_alone(&self, room: u64, next: &Next) -> bool {
        room >= ALONE && next.number <= LAST_ALONE && super::read(&self.files).len() < self.many_files
    }

    /// The place for a range behind the last one, or in the next file.
    fn place(&self, room: u64, next: &mut Next) -> (Arc<ExtentFile>, u64) {
        let start = if room > CHUNK as u64 { CHUNK as u64 } else { BLOCK };
        let base = next.offset.next_multiple_of(start);
        let (file, base) = match &next.file {
            Some(file) if base + room <= FULL => (file.clone(), base),
            _ => (self.begin_file(next), start),
        };
        next.offset = base + room;
        (file, base)
    }

    /// `file` takes no more values: it cannot grow.
    fn leave_file(&self, file: &ExtentFile) {
        let mut next = super::lock(&self.next);
        if next.file.as_ref().is_some_and(|current| current.number == file.number) {
            next.offset = FULL;
        }
    }

    /// Later values go to another file; tells the least number that it can have.
    pub fn begin_next(&self) -> u32 {
        let mut next = super::lock(&self.next);
        self.leave_current(&mut next);
        next.number
    }

    /// The files that there are on the disk.
    pub fn made(&self) -> Vec<Arc<ExtentFile>> {
        super::read(&self.files).values().filter(|file| file.file.get().is_some()).cloned().collect()
    }

    /// Whether there is any file.
    pub fn any(&self) -> bool {
        !super::read(&self.files).is_empty()
    }

    /// Bytes that were set aside in the last file.
    #[cfg(test)]
    pub fn set_aside(&self) -> u64 {
        super::lock(&self.next).offset
    }

    /// Files that there are, on the disk or planned.
    #[cfg(test)]
    pub fn known(&self) -> usize {
        super::read(&self.files).len()
    }

    fn begin_file(&self, next: &mut Next) -> Arc<ExtentFile> {
        self.leave_current(next);
        let file = self.plan(next, Owner::Many);
        (next.offset, next.file) = (BLOCK, Some(file.clone()));
        file
    }

    fn plan(&self, next: &mut Next, owner: Owner) -> Arc<ExtentFile> {
        let file = Arc::new(ExtentFile::planned(&self.dir, next.number, owner));
        super::write(&self.files).insert(next.number, file.clone());
        next.number += 1;
        file
    }

    /// What was planned and is not to be made is forgotten; what was made stays until a newer one is.
    fn leave_current(&self, next: &mut Next) {
        if let Some(left) = next.file.take()
            && left.file.get().is_none()
            && left.is_empty()
        {
            super::write(&self.files).remove(&left.number);
        }
    }

    /// Makes durable what was written before the call; may sleep. Must come before the log is synced up to records
    /// that name it.
    pub fn sync(&self) -> Result<()> {
        let dirty = std::mem::take(&mut *super::lock(&self.dirty));
        // Who goes on writing to a file that one value has waits next to never, as measured; kingdb.7 has the figures.
        let shared = dirty.iter().filter(|dirty| matches!(dirty.file.owner, Owner::Many));
        let _busy: Vec<Busy> = shared.map(|dirty| Busy::begin(&dirty.file)).collect();
        // A single short range is begun by its sync as soon; of several, each would wait for the one before.
        if dirty.len() > 1 || dirty.iter().any(|dirty| dirty.to - dirty.from > STEP) {
            dirty.iter().try_for_each(Dirty::start_write_back)?;
        }
        for Dirty { file, .. } in &dirty {
            file.get()?.sync_data().map_err(|error| Error::io("sync", &file.path, &error))?;
        }
        Ok(())
    }

    /// The file has bytes that the disk does not, from `from` up to `to`.
    fn note_dirty(&self, file: &Arc<ExtentFile>, from: u64, to: u64) {
        let mut list = super::lock(&self.dirty);
        match list.iter_mut().find(|dirty| dirty.file.number == file.number) {
            Some(dirty) => (dirty.from, dirty.to) = (dirty.from.min(from), dirty.to.max(to)),
            None => list.push(Dirty { file: file.clone(), from, to }),
        }
    }

    /// Makes every file durable, whoever wrote it: the last life of the store may have ended before its syncer came
    /// round.
    pub fn sync_all(&self) -> Result<()> {
        for file in super::read(&self.files).values() {
            file.get()?.sync_all().map_err(|error| Error::io("sync", &file.path, &error))?;
        }
        Ok(())
    }

    /// Keeps the range at `base` of file `number` from being given back.
    pub fn lease(&self, number: u32, base: u64) -> Lease {
        self.leases.take((number, base))
    }
}

impl ExtentFile {
    fn planned(dir: &Path, number: u32, owner: Owner) -> ExtentFile {
        let path = path_of(dir, number);
        ExtentFile {
            number,
            path,
            owner,
            file: OnceLock::new(),
            making: Mutex::default(),
            live: Mutex::new(Some(HashSet::new())),
            owed: Mutex::default(),
            mended: false,
            busy: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
        }
    }

    fn open(dir: &Path, number: u32, store: u64) -> Result<ExtentFile> {
        let mut extent = ExtentFile { live: Mutex::new(None), ..ExtentFile::planned(dir, number, Owner::Nobody) };
        let open = OpenOptions::new().read(true).write(true).open(&extent.path);
        let file = open.map_err(|error| Error::io("open", &extent.path, &error))?;
        let mut header = [0; HEADER];
        match file.read_exact_at(&mut header, 0) {
            // Made, but its maker died before the header was: no record can name it.
            Ok(()) if header.iter().all(|&byte| byte == 0) => {}
            Ok(()) => {
                extent.mended = mend(&mut header, MAGIC);
                FileHeader::decode(&header, MAGIC, store, number, &extent.path)?;
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(Error::io("read the header of", &extent.path, &error)),
        }
        extent.file.get_or_init(|| file);
        Ok(extent)
    }

    /// The open file.
    pub fn get(&self) -> Result<&File> {
        let missing = || Error::damaged(&self.path, 0, "the extent file was never made");
        self.file.get().ok_or_else(missing)
    }

    /// Whether it may change.
    pub fn is_reserved(&self) -> bool {
        self.reserved.load(SeqCst) > 0
    }

    /// Whether the bytes of the range at `base` may be sent from where they are in the page cache: if it is all that the file has,
    /// and ever will. Then they are never changed, and when they go, nothing is left, and all goes as a whole. Nor by somebody
    /// else: a backup that linked the file may have been opened, and have other ranges in it.
    pub fn may_lend(&self, base: u64) -> bool {
        let is_all = |live: &HashSet<u64>| live.len() == 1 && live.contains(&base);
        let is_ours = || self.get().is_ok_and(|file| holes::is_shared(file).is_ok_and(|shared| !shared));
        self.is_final() && super::lock(&self.live).as_ref().is_some_and(is_all) && is_ours()
    }

    /// Whether nothing is put there any more.
    fn is_final(&self) -> bool {
        !matches!(self.owner, Owner::Many) && !self.is_reserved()
    }

    fn get_or_make(&self, extents: &Extents) -> Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        // Whoever makes it may sleep, and removes others then: for event loops the file is there already.
        let _one = super::lock(&self.making);
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let failed = |attempt, error: &std::io::Error| Error::full_or_io(attempt, &self.path, error);
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(FILE_MODE).open(&self.path);
        let file = open.map_err(|error| failed("create", &error))?;
        let header = FileHeader {
            magic: MAGIC,
            version: VERSION,
            store: extents.store,
            order: 0,
            number: self.number,
            salt: 0,
            flags: 0,
        };
        file.write_all_at(&header.encode(), 0).map_err(|error| failed("write the header of", &error))?;
        file.sync_all().map_err(|error| failed("sync", &error))?;
        sys::file::sync_directory(&extents.dir).map_err(|error| failed("sync the directory of", &error))?;
        let file = self.file.get_or_init(|| file);
        // Those before had to stay while they were the newest. Best effort: the compactor comes round, too.
        let _ = extents.remove_empty();
        Ok(file)
    }
}

/// Somebody syncs the file or punches holes into it: the file system may keep those waiting who write to it.
struct Busy<'a>(&'a ExtentFile);

impl Busy<'_> {
    fn begin(file: &ExtentFile) -> Busy<'_> {
        file.busy.fetch_add(1, SeqCst);
        Busy(file)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, SeqCst);
    }
}

/// Bytes of the range of a value of `len` bytes.
pub(crate) fn padded(len: u64) -> u64 {
    len.next_multiple_of(BLOCK)
}

impl Reservation {
    /// Whether the file was made.
    pub fn has_file(&self) -> bool {
        self.file.file.get().is_some()
    }

    /// Whether a write may be expected not to sleep.
    pub fn is_fast(&self) -> bool {
        let there_is_room = self.extents.space.level() != Level::Refusing;
        let is_idle = self.has_file() && self.file.busy.load(Relaxed) == 0;
        is_idle && there_is_room && !self.extents.speed.is_slow()
    }

    /// Writes inside the range; may sleep.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        assert!(offset >= self.base && offset + bytes.len() as u64 <= self.base + self.len, "out of range");
        self.extents.space.admit()?;
        let file = self.file.get_or_make(&self.extents)?;
        self.write_to(file, bytes, offset).map_err(|error| {
            if error.kind() == ErrorKind::FileTooLarge {
                self.extents.leave_file(&self.file);
            }
            let attempt = format!("write {} bytes at offset {offset} of", bytes.len());
            Error::full_or_io(&attempt, &self.file.path, &error)
        })?;
        self.taken.written(padded(bytes.len() as u64));
        self.extents.note_dirty(&self.file, offset, offset + bytes.len() as u64);
        Ok(())
    }

    fn write_to(&self, file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        let is_alone = matches!(self.file.owner, Owner::One);
        let direct = if is_alone { self.direct.write(&self.file.path, bytes, offset) } else { None };
        direct.unwrap_or_else(|| self.extents.speed.watch(bytes.len(), || file.write_all_at(bytes, offset)))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.kept.load(Relaxed) {
            self.file.reserved.fetch_sub(1, SeqCst);
            return;
        }
        if let Some(live) = &mut *super::lock(&self.file.live) {
            live.remove(&self.base);
        }
        if self.file.file.get().is_none() {
            self.file.reserved.fetch_sub(1, SeqCst);
            let _ = self.extents.remove_if_empty(self.file.number);
            return;
        }
        let (extents, file, base, len) = (self.extents.clone(), self.file.clone(), self.base, self.len);
        let punch = move || {
            // Best effort: where holes cannot be punched, the space comes back with the file.
            let _ = file.get().map(|open| file.make_hole(open, base, len));
            file.reserved.fetch_sub(1, SeqCst);
            let number = file.number;
            drop(file);
            let _ = extents.remove_if_empty(number);
        };
        self.extents.lane.submit(Box::new(punch));
    }
}

/// Numbers of the extent files in `dir`, in no particular order.
pub(crate) fn numbers(dir: &Path) -> Result<Vec<u32>> {
    files(dir, SUFFIX)
}

/// The name of an extent file.
pub(crate) fn path_of(dir: &Path, number: u32) -> PathBuf {
    numbered(dir, number, SUFFIX)
}
