//! A backup of an open store: another directory that holds the store as it is at one moment, to be used by opening it.
//! Runs on its caller's thread beside everything else; may sleep.
//!
//! Files that will not change any more are linked, which takes no space and no time: full segments, and extent files
//! into which nobody writes. The rest is copied, and everything where the target is on another file system. The moment
//! is a position of the log: what was written up to it is in the backup, nothing behind it. While that position is
//! chosen and the files are linked, compaction takes none away and writers go on; what is then still to be copied is held
//! open.
//!
//! `STORE` comes last: without it nobody takes the directory for a store.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::core::Core;
use super::db::Db;
use super::error::{Error, Result};
use super::extent::ExtentFile;
use super::home::{self, FILE_MODE};
use super::location::{MAX_SEGMENT, OFFSET_BITS, Position};
use super::segment::Segment;
use crate::sys;

/// Bytes copied at a time.
const WINDOW: usize = 1 << 20;
/// Zeros in whole blocks of this size stay holes.
const BLOCK: usize = 4096;

/// Told how far a backup has come: bytes done and bytes there are to link or copy. It says whether to go on.
pub type Watch<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// What a backup consists of.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BackedUp {
    /// Files that are the store's own, under a second name.
    pub linked: u64,
    /// Files that were copied.
    pub copied: u64,
    /// Bytes of the copies, holes not counted.
    pub bytes: u64,
}

impl Db {
    /// Makes a backup in the directory `target`, which must be absent or empty: the store as it is at some moment of the
    /// call. It is on the disk when this returns.
    ///
    /// # Errors
    /// A sentence: the target is in use, there is no room, `watch` said to stop. What was made is then removed again.
    pub fn backup(&self, target: &Path, watch: Watch<'_>) -> Result<BackedUp> {
        let core = &self.core;
        let mut target = Target::make(target)?;
        let _extents = Hold::new(core);
        let plan = target.begin(core)?;
        let result = target.fill(core, plan, watch).and_then(|()| target.seal(core));
        match result {
            Ok(()) => Ok(target.done),
            Err(error) => {
                target.remove();
                Err(error)
            }
        }
    }
}

/// Keeps ranges of extent files from being given back.
struct Hold<'a>(&'a Core);

impl<'a> Hold<'a> {
    fn new(core: &'a Core) -> Hold<'a> {
        core.index.copies.hold();
        Hold(core)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.index.copies.unhold();
    }
}

/// A file of the store, held open.
enum Source {
    Segment(Arc<Segment>),
    Extent(Arc<ExtentFile>),
}

/// What to do with a file.
struct Part {
    source: Source,
    /// Up to where it belongs to the backup, if not all of it does. Then it is copied.
    end: Option<u64>,
}

impl Part {
    fn file(&self) -> Result<&File> {
        match &self.source {
            Source::Segment(segment) => Ok(&segment.file),
            Source::Extent(extent) => extent.get(),
        }
    }

    fn path(&self) -> &Path {
        match &self.source {
            Source::Segment(segment) => &segment.path,
            Source::Extent(extent) => &extent.path,
        }
    }

    fn len(&self) -> Result<u64> {
        match self.end {
            Some(end) => Ok(end),
            None => self.file()?.metadata().map(|file| file.len()).map_err(|error| self.failed("look at", &error)),
        }
    }

    fn failed(&self, attempt: &str, error: &std::io::Error) -> Error {
        Error::io(attempt, self.path(), error)
    }
}

/// The directory that becomes the backup.
struct Target {
    dir: PathBuf,
    /// It was not there before.
    made: bool,
    files: Vec<PathBuf>,
    done: BackedUp,
}

impl Target {
    fn make(dir: &Path) -> Result<Target> {
        let failed = |error| Error::io("make the directory", dir, &error);
        let made = match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed(error)),
        };
        let target = Target { dir: dir.to_owned(), made, files: Vec::new(), done: BackedUp::default() };
        target.inspect()?;
        Ok(target)
    }

    /// It must be an empty directory.
    fn inspect(&self) -> Result<()> {
        let shown = self.dir.display();
        let mut entries =
            std::fs::read_dir(&self.dir).map_err(|error| Error::io("read the directory", &self.dir, &error))?;
        match entries.next() {
            None => Ok(()),
            Some(_) => {
                Err(Error::other(format!("{shown} is not empty: choose a directory that is not there or empty")))
            }
        }
    }

    /// Chooses the moment, and links what can be linked. What it returns is to be copied.
    fn begin(&mut self, core: &Core) -> Result<Vec<Part>> {
        let begun = {
            let _files = super::lock(&core.maintenance);
            core.moment().and_then(|parts| self.link(parts))
        };
        begun.inspect_err(|_| self.remove())
    }

    fn link(&mut self, parts: Vec<Part>) -> Result<Vec<Part>> {
        let mut rest = Vec::new();
        for part in parts {
            if part.end.is_some() || !self.link_one(&part)? {
                rest.push(part);
            }
        }
        Ok(rest)
    }

    /// `false`: it has to be copied.
    fn link_one(&mut self, part: &Part) -> Result<bool> {
        let path = self.name(part.path());
        match std::fs::hard_link(part.path(), &path) {
            Ok(()) => {
                self.files.push(path);
                self.done.linked += 1;
                Ok(true)
            }
            Err(error) if is_final(&error) => Err(Error::io("link to", &path, &error)),
            Err(_) => Ok(false),
        }
    }

    fn fill(&mut self, core: &Core, parts: Vec<Part>, watch: Watch<'_>) -> Result<()> {
        let total = parts.iter().map(Part::len).sum::<Result<u64>>()?;
        let mut before = 0;
        for part in &parts {
            let len = part.len()?;
            self.copy(part, len, &mut |done| watch(before + done, total))?;
            before += len;
        }
        for path in &self.files {
            let synced = File::open(path).and_then(|file| file.sync_all());
            synced.map_err(|error| Error::io("sync", path, &error))?;
        }
        match (watch(total, total), core.log.progress.failure()) {
            (false, _) => Err(stopped()),
            (true, Some(why)) => Err(Error::ReadOnly(why)),
            (true, None) => Ok(()),
        }
    }

    fn copy(&mut self, part: &Part, len: u64, go_on: &mut dyn FnMut(u64) -> bool) -> Result<()> {
        let path = self.name(part.path());
        let failed = |error: std::io::Error| Error::io("copy to", &path, &error);
        let open = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        let to = open.map_err(failed)?;
        self.files.push(path.clone());
        self.done.copied += 1;
        let (from, mut window, mut at) = (part.file()?, vec![0; WINDOW], 0);
        while at < len {
            let most = (len - at).min(WINDOW as u64) as usize;
            let count = match from.read_at(&mut window[..most], at) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(part.failed("read", &error)),
            };
            self.done.bytes += write_blocks(&to, &window[..count], at).map_err(failed)?;
            at += count as u64;
            if !go_on(at) {
                return Err(stopped());
            }
        }
        to.set_len(at).map_err(failed)
    }

    /// All is on the disk; now it becomes a store.
    fn seal(&mut self, core: &Core) -> Result<()> {
        sync_directory(&self.dir)?;
        self.files.push(self.dir.join("STORE"));
        home::write(&self.dir, core.home.store, core.home.seed)?;
        self.done.copied += 1;
        let parent = self.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new(".")))
    }

    fn name(&self, path: &Path) -> PathBuf {
        self.dir.join(path.file_name().unwrap_or_default())
    }

    /// Nothing of it is to stay. Best effort: what cannot be removed is no store.
    fn remove(&self) {
        for path in self.files.iter().rev().chain([&self.dir.join("STORE.new")]) {
            let _ = std::fs::remove_file(path);
        }
        if self.made {
            let _ = std::fs::remove_dir(&self.dir);
        }
    }
}

impl Core {
    /// The files of which the store consists at this moment; the caller keeps compaction away.
    fn moment(&self) -> Result<Vec<Part>> {
        self.log.write_all();
        let end = self.log.progress.written();
        // Full segments are final once they are synced; and what is linked should not be dirty.
        self.sync(end)?;
        // Whatever a record before `end` names lies in an earlier file than those begun from here on.
        let begun = self.extents.begin_next();
        let segments = self.log.segments.all().into_iter().filter_map(|segment| segment_part(segment, end));
        let extents = self.extents.made().into_iter().filter(|extent| extent.number < begun).map(|extent| {
            let end = extent.is_reserved().then_some(u64::MAX);
            Part { source: Source::Extent(extent), end }
        });
        segments.map(Ok).chain(extents.map(settle)).collect()
    }
}

/// The part of a segment that lies before `end`.
fn segment_part(segment: Arc<Segment>, end: Position) -> Option<Part> {
    let (order, offset) = (end.0 >> OFFSET_BITS, end.0 % MAX_SEGMENT);
    let end = match segment.order.cmp(&order) {
        _ if segment.compacted => None,
        std::cmp::Ordering::Less => None,
        std::cmp::Ordering::Equal => Some(offset),
        std::cmp::Ordering::Greater => return None,
    };
    Some(Part { source: Source::Segment(segment), end })
}

/// What is copied because it is written to has the length that it has now.
fn settle(mut part: Part) -> Result<Part> {
    if part.end.take().is_some() {
        part.end = Some(part.len()?);
    }
    Ok(part)
}

/// Whether a copy would fail as well.
fn is_final(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem)
}

/// Writes what is not zero. Returns how much that was. Bytes.
fn write_blocks(to: &File, bytes: &[u8], offset: u64) -> std::io::Result<u64> {
    let (mut at, mut written) = (0, 0);
    let is_zero = |block: &[u8]| block.iter().all(|&byte| byte == 0);
    while at < bytes.len() {
        let blocks = bytes[at..].chunks(BLOCK);
        let run: usize = blocks.take_while(|block| !is_zero(block)).map(<[u8]>::len).sum();
        to.write_all_at(&bytes[at..at + run], offset + at as u64)?;
        written += run as u64;
        at += run;
        at += bytes[at..].chunks(BLOCK).take_while(|block| is_zero(block)).map(<[u8]>::len).sum::<usize>();
    }
    Ok(written)
}

fn stopped() -> Error {
    Error::other("the backup was stopped")
}

fn sync_directory(dir: &Path) -> Result<()> {
    sys::file::sync_directory(dir).map_err(|error| Error::io("sync directory", dir, &error))
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
