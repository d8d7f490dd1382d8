//! How much room the store has left, and what follows from it: with too little, values are refused, so that what is
//! left is there for what makes room: tombstones and compaction.
//!
//! The room is measured (by the syncer, and by whoever has just freed some) and meanwhile counted down by what is written
//! of large values, and by the next bytes of each that is on its way: they do not go below the floor unseen. Segments are
//! measured when they are made. What an index checkpoint takes, and others do, is seen late: at the next measurement.
//!
//! Reading the level and setting room aside cost an atomic operation and may be done by any thread.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex};

use super::error::{Error, Result};
use super::extent::ALONE;
use super::options::{Options, Report, Severity};
use super::run::Run;
use crate::sys::statvfs::{FileSystem, file_system};

/// Least room that is kept back by default: what a round of compaction needs in the smallest segments. Bytes.
const LEAST_FLOOR: u64 = 2 << 20;
/// Most room that is kept back by default. Bytes.
const MOST_FLOOR: u64 = 192 << 20;
/// Room below which compaction hurries, by default, on a large file system. Bytes.
const MOST_SURVIVAL: u64 = 2 << 30;
/// One value in this part of the store's room is the largest that may come before there is room for it.
const MOST_PART: u64 = 4;
/// The same in cache mode: older values go as it comes, and hardly anybody needs the rest.
const MOST_PART_OF_CACHE: u64 = 2;
/// What is set aside for a large value on its way in: more than its chunks that are being written. Bytes.
const AHEAD: u64 = 1 << 20;
/// The same for one that may come in runs. Bytes.
const AHEAD_OF_RUNS: u64 = 2 << 20;
const _: () = assert!(Run::SIZE as u64 <= AHEAD_OF_RUNS);
/// Files that are kept back for segments, compaction and the index checkpoint.
const LEAST_FILES: u64 = 4;

/// What the room allows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Everything.
    Enough,
    /// Everything, but compaction hurries.
    Low,
    /// No values: removals only, until compaction or somebody else has made room.
    Refusing,
}

/// What the compactor has to say of the room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prospect {
    /// It may make some.
    Open,
    /// It tries, and writers have waited since before it began.
    Tried,
    /// It cannot make any, be it by giving up values in cache mode.
    Exhausted,
}

/// See the module's head.
pub(crate) struct Space {
    dir: PathBuf,
    floor: Option<u64>,
    survival: Option<u64>,
    /// Bytes; 0: none.
    max_size: u64,
    most_part: u64,
    /// Least room that is kept back by default.
    least_floor: u64,
    /// A [`Prospect`].
    prospect: AtomicU8,
    /// That values are refused has been told.
    told: AtomicBool,
    report: Report,
    level: AtomicU8,
    /// Bytes of large values that may be written and on their way in before values are refused.
    most: AtomicI64,
    /// Bytes of large values that were ever written.
    written: AtomicI64,
    /// Set aside by large values that are on their way in.
    in_flight: AtomicI64,
    /// Bytes that may be taken before nothing at all is left.
    room: AtomicU64,
    own: AtomicBool,
    /// Bytes that the store may take in all: of the file system, or of its own limit.
    capacity: AtomicU64,
    /// There was none for a large value: what is dead is to be given back, however little it is.
    pub wanted: AtomicBool,
    /// Values refused for want of room.
    pub refused: AtomicU64,
    /// Why values are refused, if they are. Held during a measurement.
    why: Mutex<Arc<str>>,
}

/// What only the log knows of the room.
#[derive(Default)]
pub(crate) struct Needs {
    /// Bytes that open segments will take where the file system could not set them aside.
    pub promised: u64,
    /// Why the log cannot be written or continued, if so.
    pub stuck: Option<Arc<str>>,
}

/// Room set aside for a large value that is on its way in: for its next bytes, not for all that was announced, or whoever
/// announces much and sends nothing would keep everybody out.
pub(crate) struct Taken {
    space: Arc<Space>,
    ahead: u64,
}

impl Taken {
    /// So many bytes are in the file now. They count until the file system is asked again.
    pub fn written(&self, bytes: u64) {
        self.space.written.fetch_add(bytes as i64, Relaxed);
    }

    /// No more will come.
    pub fn end(&mut self) {
        let ahead = std::mem::take(&mut self.ahead);
        self.space.in_flight.fetch_sub(ahead as i64, Relaxed);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.end();
    }
}

impl Space {
    /// The room of the store in `options.path`. Nothing is refused before the first measurement.
    pub fn new(options: &Options) -> Space {
        Space {
            dir: options.path.clone(),
            floor: options.free_space_floor,
            survival: options.survival_threshold,
            max_size: options.max_size,
            most_part: if options.evict { MOST_PART_OF_CACHE } else { MOST_PART },
            // To give up what the log's only segment names takes another one, also where a large value has set room aside.
            least_floor: if options.evict { LEAST_FLOOR + AHEAD } else { LEAST_FLOOR },
            prospect: AtomicU8::new(Prospect::Open as u8),
            told: AtomicBool::new(false),
            report: options.report.clone(),
            level: AtomicU8::new(0),
            most: AtomicI64::new(i64::MAX),
            written: AtomicI64::new(0),
            in_flight: AtomicI64::new(0),
            wanted: AtomicBool::new(false),
            room: AtomicU64::new(u64::MAX),
            own: AtomicBool::new(false),
            capacity: AtomicU64::new(u64::MAX),
            refused: AtomicU64::new(0),
            why: Mutex::new("".into()),
        }
    }

    pub fn level(&self) -> Level {
        match self.level.load(Relaxed) {
            0 => Level::Enough,
            1 => Level::Low,
            _ => Level::Refusing,
        }
    }

    /// An error if values are refused at present.
    pub fn admit(&self) -> Result<()> {
        match self.level.load(Relaxed) == Level::Refusing as u8 {
            false => Ok(()),
            // Whoever comes now has asked before, when there was room.
            true if self.makes_room() => Ok(()),
            true => Err(self.refuse()),
        }
    }

    /// Whether writers must wait until the compactor has made room.
    pub fn is_waiting(&self) -> bool {
        (self.left() <= 0 || self.level() == Level::Refusing) && self.makes_room()
    }

    fn makes_room(&self) -> bool {
        self.prospect.load(Relaxed) != Prospect::Exhausted as u8
    }

    /// The compactor takes a step: what comes of it counts if all writers wait for it from here on.
    pub fn note_attempt(&self) {
        let _why = super::lock(&self.why);
        if self.level() == Level::Refusing {
            self.conclude(Prospect::Open, Prospect::Tried);
        }
    }

    /// Whether the step made room. As long as one can, nothing is refused. If it could not while values came in, what they
    /// replaced may be given back: it takes another one to tell.
    pub fn note_progress(&self, any: bool) {
        let why = super::lock(&self.why);
        match any {
            true => self.prospect.store(Prospect::Open as u8, Relaxed),
            false => self.conclude(Prospect::Tried, Prospect::Exhausted),
        }
        self.tell(&why);
    }

    fn conclude(&self, from: Prospect, to: Prospect) {
        // Another one stays.
        let _ = self.prospect.compare_exchange(from as u8, to as u8, Relaxed, Relaxed);
    }

    #[cold]
    fn refuse(&self) -> Error {
        self.refused.fetch_add(1, Relaxed);
        Error::Full(super::lock(&self.why).clone())
    }

    /// Admits a large value of `bytes`, for which there must be room, and sets the first of them aside. No system call.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn take(self: &Arc<Self>, bytes: u64) -> Result<Taken> {
        self.admit()?;
        let wanted = i64::try_from(bytes).unwrap_or(i64::MAX);
        // What is kept back may be drawn on for a moment, as by several who saw the same room; its bytes wait for theirs. But
        // not for so much that no other writer could go on.
        let is_small = bytes <= self.capacity() / self.most_part;
        if !is_small && self.left() < wanted {
            self.refused.fetch_add(1, Relaxed);
            self.wanted.store(true, Relaxed);
            return Err(Error::Full(format!("there is no room for {} more", show(bytes)).into()));
        }
        let ahead = if bytes < ALONE { bytes.min(AHEAD) } else { AHEAD_OF_RUNS };
        self.in_flight.fetch_add(ahead as i64, Relaxed);
        Ok(Taken { space: self.clone(), ahead })
    }

    /// Whether `max-size` is what is near: for it, a file that is removed is gone, whoever still reads it.
    pub fn is_own_limit(&self) -> bool {
        self.own.load(Relaxed)
    }

    /// Bytes that may be taken before values are refused.
    // Asked a few times a second, at many places: one copy is enough.
    #[inline(never)]
    pub fn headroom(&self) -> u64 {
        u64::try_from(self.left()).unwrap_or(0)
    }

    fn left(&self) -> i64 {
        self.most.load(Relaxed) - self.written.load(Relaxed) - self.in_flight.load(Relaxed)
    }

    /// Bytes that the store could take on an empty disk.
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Relaxed)
    }

    /// Bytes that may be taken before nothing is left: for what makes room.
    pub fn room(&self) -> u64 {
        self.room.load(Relaxed)
    }

    /// Looks how much room there is, and tells when that changes what is allowed. Asks the file system; with a
    /// `max-size` it looks at every file of the store.
    pub fn measure(&self, needs: &Needs) {
        let mut why = super::lock(&self.why);
        let found = match self.look(needs) {
            Ok(found) => found,
            Err(error) => {
                let dir = self.dir.display();
                return (self.report)(Severity::Warning, &format!("cannot tell the free space of {dir}: {error}"));
            }
        };
        self.adopt(found, &mut why);
    }

    fn adopt(&self, found: Found, why: &mut Arc<str>) {
        self.most.store(found.most, Relaxed);
        self.room.store(found.room, Relaxed);
        self.own.store(found.own, Relaxed);
        let before = self.level();
        let level = match &found.short {
            Some(_) => Level::Refusing,
            // Not to and fro with every segment: what was refused resumes when there is some room to work with.
            None if before == Level::Refusing && found.headroom < found.resume => Level::Refusing,
            None if found.low => Level::Low,
            None => Level::Enough,
        };
        if let Some(short) = found.short {
            *why = short.into();
        }
        self.level.store(level as u8, Relaxed);
        // What the compactor found while there was room is out of date by now: it is asked again before anything is refused.
        if level != Level::Refusing || before != Level::Refusing {
            self.prospect.store(Prospect::Open as u8, Relaxed);
        }
        self.tell(why);
    }

    /// Tells when values begin to be refused, and when that ends.
    fn tell(&self, why: &str) {
        let refusing = self.level() == Level::Refusing && !self.makes_room();
        match (self.told.swap(refusing, Relaxed), refusing) {
            (false, true) => (self.report)(Severity::Error, &format!("out of disk space: values are refused: {why}")),
            (true, false) => (self.report)(Severity::Info, "there is room again: values are accepted"),
            _ => {}
        }
    }

    fn look(&self, needs: &Needs) -> std::io::Result<Found> {
        // Read first: what is written while the files are looked at counts at least once.
        let (written, in_flight) = (self.written.load(Relaxed), self.in_flight.load(Relaxed));
        let disk = file_system(&self.dir)?;
        let most = if self.max_size == 0 { u64::MAX } else { self.max_size };
        self.capacity.store(disk.total.min(most), Relaxed);
        let promised = needs.promised + in_flight as u64;
        let mut found = self.judge_disk(&disk, promised);
        if self.max_size != 0 {
            found = found.or_less(self.judge_size(disk_usage(&self.dir)? + promised));
        }
        if let Some(files) = disk.free_files.filter(|&files| files < LEAST_FILES) {
            let dir = self.dir.display();
            found.short = Some(format!("the file system of {dir} has inodes for {files} more files; remove some"));
        }
        if let Some(stuck) = &needs.stuck {
            found.short = Some(stuck.to_string());
        }
        found.most = found.headroom.saturating_add(written + in_flight);
        Ok(found)
    }

    /// What the file system's room allows.
    fn judge_disk(&self, disk: &FileSystem, promised: u64) -> Found {
        let floor = self.floor.unwrap_or((disk.total / 32).clamp(self.least_floor, MOST_FLOOR));
        let survival = self.survival.unwrap_or((disk.total / 8).min(MOST_SURVIVAL));
        let mut found = Found::new(disk.free.saturating_sub(promised), floor, survival);
        if found.headroom <= 0 {
            let (free, floor, dir) = (show(disk.free), show(floor), self.dir.display());
            found.short = Some(format!(
                "{free} are free on the file system of {dir}, of which {floor} are kept back \
                 (db.storage.minimum-free-space-accept-orders)"
            ));
        }
        found
    }

    /// What the store's own limit allows.
    fn judge_size(&self, used: u64) -> Found {
        let floor = (self.max_size / 32).clamp(self.least_floor, MOST_FLOOR);
        let survival = self.survival.unwrap_or((self.max_size / 8).min(MOST_SURVIVAL));
        let mut found = Found { own: true, ..Found::new(self.max_size.saturating_sub(used), floor, survival) };
        if found.headroom <= 0 {
            let (used, most, floor) = (show(used), show(self.max_size), show(floor));
            found.short =
                Some(format!("the store takes {used} of {most} (db.max-size), of which {floor} are kept back"));
        }
        found
    }
}

/// The outcome of a measurement.
struct Found {
    room: u64,
    headroom: i64,
    /// See [`Space::most`].
    most: i64,
    /// Headroom from which values are accepted again.
    resume: i64,
    low: bool,
    /// It is the store's own limit that is near, not the disk's.
    own: bool,
    /// Why values cannot be accepted, if so.
    short: Option<String>,
}

impl Found {
    fn new(room: u64, floor: u64, survival: u64) -> Found {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let headroom = signed(room) - signed(floor);
        let (resume, low) = (signed(floor / 8), room < survival.max(floor));
        Found { room, headroom, most: headroom, resume, low, own: false, short: None }
    }

    /// The tighter of two.
    fn or_less(self, other: Found) -> Found {
        let (low, room) = (self.low || other.low, self.room.min(other.room));
        let is_tighter = other.headroom - other.resume < self.headroom - self.resume;
        let (tighter, wider) = if is_tighter { (other, self) } else { (self, other) };
        Found { room, low, short: tighter.short.or(wider.short), ..tighter }
    }
}

/// Bytes that the files in `dir` take on the disk.
pub(crate) fn disk_usage(dir: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        match entry?.metadata() {
            Ok(file) if file.is_file() => sum += file.blocks() * 512,
            Ok(_) => {}
            // Removed since the directory was read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

/// A number of bytes as people read it.
fn show(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} bytes"),
        0x400..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
