//! Giving back what values had in extent files: ranges become holes, and a file of which nothing is in use goes. By the
//! compactor, and by the lane where an upload died.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::super::error::{Error, Result};
use super::super::piece::Range;
use super::super::steps::{REST, by_steps};
use super::super::{lock, read, write};
use super::{BLOCK, Busy, ExtentFile, Extents};
use crate::sys;

impl Extents {
    /// Whether there are files of which it is not known what in them is in use.
    pub fn has_unknown(&self) -> bool {
        read(&self.files).values().any(|file| lock(&file.live).is_none())
    }

    /// Makes a range that no record names any more a hole. `false`: somebody reads it, try again.
    pub fn give_back(&self, range: Range) -> Result<bool> {
        let Ok(file) = self.file(range.file) else { return Ok(true) };
        if self.leases.is_taken(range.place()) {
            return Ok(false);
        }
        let was_live = match &mut *lock(&file.live) {
            Some(live) => live.remove(&range.base),
            // What else is in use there is not known, but this was.
            None => true,
        };
        if was_live {
            let punched = file.punch(range.base, range.len);
            drop(file);
            self.remove_if_empty(range.file)?;
            punched?;
        }
        Ok(true)
    }

    /// Files that were to give back more than they could.
    pub fn owing(&self) -> Vec<Arc<ExtentFile>> {
        read(&self.files).values().filter(|file| !lock(&file.owed).is_empty()).cloned().collect()
    }

    /// In the files of earlier lives, only the ranges `named` are in use: gives back what else there is.
    pub fn sweep(&self, named: &HashMap<u32, HashSet<Range>>) -> Result<()> {
        let unknown = |file: &&Arc<ExtentFile>| lock(&file.live).is_none();
        let files: Vec<_> = read(&self.files).values().filter(unknown).cloned().collect();
        for file in files {
            let mut ranges: Vec<Range> = named.get(&file.number).into_iter().flatten().copied().collect();
            ranges.sort_unstable();
            let mut live: HashSet<u64> = ranges.iter().map(|range| range.base).collect();
            let in_use = live.len();
            // Superseded since the opening, and still read by somebody: given back as other values are, or found by the next
            // life's sweep.
            live.extend(self.leases.of_file(file.number));
            let is_read = live.len() > in_use;
            *lock(&file.live) = Some(live);
            if !is_read {
                let (punched, number) = (file.punch_around(&ranges), file.number);
                drop(file);
                self.remove_if_empty(number)?;
                punched?;
            }
        }
        Ok(())
    }

    /// Removes the files of which nothing is in use: what kept one when its last range went may be over.
    pub fn remove_empty(&self) -> Result<()> {
        let empty: Vec<u32> =
            read(&self.files).values().filter(|file| file.is_empty()).map(|file| file.number).collect();
        empty.into_iter().try_for_each(|number| self.remove_if_empty(number))
    }

    /// Removes a file of which nothing is in use, unless it is the newest: numbers of files are never used again.
    pub(super) fn remove_if_empty(&self, number: u32) -> Result<()> {
        let next = lock(&self.next);
        let mut files = write(&self.files);
        let Some(file) = files.get(&number) else { return Ok(()) };
        let is_current = next.file.as_ref().is_some_and(|current| current.number == number);
        if !file.is_empty() || is_current {
            return Ok(());
        }
        if file.file.get().is_some() {
            // Of those that are on the disk: by them the next life finds the next number.
            let is_newest = !files.values().any(|other| other.number > number && other.file.get().is_some());
            if is_newest {
                return Ok(());
            }
            // Nobody writes to it again, but somebody may read it.
            lock(&self.dirty).retain(|dirty| dirty.file.number != number);
            if Arc::strong_count(file) > 1 {
                return Ok(());
            }
        }
        let Some(file) = files.remove(&number).filter(|file| file.file.get().is_some()) else { return Ok(()) };
        // Event loops take these.
        drop((next, files));
        std::fs::remove_file(&file.path).map_err(|error| Error::io("remove", &file.path, &error))
    }

    /// Removes the files that no record names.
    pub fn remove_unnamed(&self, named: impl Fn(u32) -> bool) -> Result<()> {
        let mut files = write(&self.files);
        for (_, file) in files.extract_if(|&number, _| !named(number)) {
            std::fs::remove_file(&file.path).map_err(|error| Error::io("remove", &file.path, &error))?;
        }
        Ok(())
    }
}

impl ExtentFile {
    /// Whether it is known that nothing in it is in use.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_reserved() && lock(&self.live).as_ref().is_some_and(HashSet::is_empty)
    }

    /// Makes a range a hole. While the file has another name, by which somebody keeps it as it is, and where it fails, the
    /// range is owed, and its failure no error any more.
    fn punch(&self, base: u64, len: u64) -> Result<()> {
        let file = self.get()?;
        if len == 0 || lock(&self.owed).contains(&(base, len)) {
            return Ok(());
        }
        let punched = match is_shared(file) {
            Ok(false) => self.free(file, base, len).map(|()| true),
            shared => shared.map(|_| false),
        };
        if !matches!(punched, Ok(true)) {
            lock(&self.owed).push((base, len));
        }
        let failed = |error| Error::io(format!("give back {len} bytes at offset {base} of"), &self.path, &error);
        punched.map(drop).map_err(failed)
    }

    /// Tries again what is owed. That it fails was told when it did first.
    pub fn punch_owed(&self) {
        if self.file.get().is_some_and(|file| is_shared(file).is_ok_and(|shared| !shared)) {
            let owed = std::mem::take(&mut *lock(&self.owed));
            owed.into_iter().for_each(|(base, len)| drop(self.punch(base, len)));
        }
    }

    /// What is the last that is given back of a file may have been lent, and still be in a socket: in this life or an earlier one.
    /// The ends of a hole may lie within folios of the page cache, and in these the kernel would put zeros in its place.
    fn free(&self, file: &File, base: u64, len: u64) -> std::io::Result<()> {
        if self.is_final() && self.is_empty() { truncate(file) } else { self.make_hole(file, base, len) }
    }

    pub(super) fn make_hole(&self, file: &File, base: u64, len: u64) -> std::io::Result<()> {
        let _busy = Busy::begin(self);
        by_steps(base, len, &|offset, len| sys::file::punch_hole(file, offset, len))
    }

    /// Makes everything a hole but the header and these ranges, which are sorted.
    fn punch_around(&self, ranges: &[Range]) -> Result<()> {
        let end = self.get()?.metadata().map_or(0, |file| file.len());
        let (mut free, mut punched) = (BLOCK, Ok(()));
        for range in ranges {
            punched = punched.and(self.punch(free, range.base.saturating_sub(free)));
            free = free.max(range.base + range.len);
        }
        punched.and(self.punch(free, end.saturating_sub(free)))
    }
}

/// Where a file is cut: no folio is longer, on any machine, and each lies at a multiple of its length. Bytes.
const CUT: u64 = 512 << 20;

/// Gives back all that a file has, at one go as much as takes a few tenths of a second at most: folios leave the page cache whole,
/// and as they are.
fn truncate(file: &File) -> std::io::Result<()> {
    let mut len = file.metadata()?.len();
    while len > 0 {
        len = (len - 1) / CUT * CUT;
        file.set_len(len)?;
        std::thread::sleep(REST);
    }
    Ok(())
}

/// Whether a file has another name.
pub(super) fn is_shared(file: &File) -> std::io::Result<bool> {
    Ok(file.metadata()?.nlink() > 1)
}

#[cfg(test)]
#[path = "holes_tests.rs"]
mod tests;
