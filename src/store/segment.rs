//! Segment files: making and opening them. A segment is a header of 64 bytes and records after it; `kingdb.5` has the
//! layout. While the store is open, the syncer makes segments of the log, ahead of need, and the compactor makes
//! *compacted* ones; only recovery opens old ones.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::error::{Error, Result};
use super::header::{COMPACTED, FileHeader, HEADER, VERSION, mend};
use super::home::FILE_MODE;
use super::location::{MAX_SEGMENT, Position};
use super::record::{HEADER as RECORD_HEADER, MAX_RECORD};
use crate::sys;

/// Bytes before the first record.
pub(crate) const SEGMENT_HEADER: u64 = HEADER as u64;

pub(crate) const MAGIC: [u8; 8] = *b"KDBSEGMT";
const SUFFIX: &str = "log";
/// Of a compacted segment that is not committed yet.
const SUFFIX_NEW: &str = "log.new";

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub file: File,
    pub path: PathBuf,
    /// Row in [`super::segments::Segments`].
    pub handle: u32,
    /// Names the file.
    pub number: u32,
    /// Place in the order of the log.
    pub order: u64,
    /// Seeds the records' checksums.
    pub salt: u32,
    /// Of the file's format.
    pub version: u32,
    /// It holds what compaction kept of others, all of it durable; else it is a part of the log.
    pub compacted: bool,
    /// A bit of its header had flipped.
    pub mended: bool,
    /// Bytes reserved for it while it is appended to.
    pub size: AtomicU64,
    /// Where its records end, from when it was sealed until its file was cut there; else zero.
    pub end: AtomicU64,
    /// A bad record was seen in it: it is left as it is, since the index may point at the damage and must go on to.
    pub damaged: AtomicBool,
}

/// What a segment is to be.
pub(crate) struct Plan<'a> {
    pub dir: &'a Path,
    /// Identity of the store.
    pub store: u64,
    pub number: u32,
    pub handle: u32,
    pub order: u64,
    /// Bytes to reserve.
    pub size: u64,
    pub compacted: bool,
}

impl Plan<'_> {
    /// Makes the segment file, with room reserved. One of the log is durable when this returns, its directory entry
    /// included; a compacted one has a provisional name until [`Segment::commit`].
    pub fn create(&self) -> Result<Segment> {
        let suffix = if self.compacted { SUFFIX_NEW } else { SUFFIX };
        let path = numbered(self.dir, self.number, suffix);
        self.make(&path).inspect_err(|_| drop(std::fs::remove_file(&path)))
    }

    fn make(&self, path: &Path) -> Result<Segment> {
        let size = self.size;
        let failed = |attempt: &str, error: &std::io::Error| {
            Error::full_or_io(format_args!("{attempt} ({size} bytes)"), path, error)
        };
        let open = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path);
        let file = open.map_err(|error| failed("create", &error))?;
        sys::file::preallocate(&file, size).map_err(|error| failed("preallocate", &error))?;
        let header = self.header();
        file.write_all_at(&header.encode(), 0).map_err(|error| failed("write the header of", &error))?;
        if !self.compacted {
            file.sync_all().map_err(|error| failed("sync", &error))?;
            sys::file::sync_directory(self.dir).map_err(|error| Error::io("sync directory", self.dir, &error))?;
        }
        let segment = Segment::new(file, path_of(self.dir, self.number), self.handle, &header);
        segment.size.store(size, Relaxed);
        Ok(segment)
    }

    fn header(&self) -> FileHeader {
        let flags = if self.compacted { COMPACTED } else { 0 };
        let Plan { store, number, order, .. } = *self;
        FileHeader { magic: MAGIC, version: VERSION, store, order, number, salt: random() as u32, flags }
    }
}

impl Segment {
    fn new(file: File, path: PathBuf, handle: u32, header: &FileHeader) -> Segment {
        let FileHeader { version, number, order, salt, flags, .. } = *header;
        let compacted = flags & COMPACTED != 0;
        Segment {
            file,
            path,
            handle,
            number,
            order,
            salt,
            version,
            compacted,
            mended: false,
            size: AtomicU64::new(MAX_SEGMENT),
            end: AtomicU64::new(0),
            damaged: AtomicBool::new(false),
        }
    }

    /// Opens segment `number` of the store `store`. `Ok(None)`: the file was never completed (it has no header),
    /// the log has nothing in it.
    pub fn open(dir: &Path, store: u64, number: u32, handle: u32) -> Result<Option<Segment>> {
        let path = path_of(dir, number);
        let open = OpenOptions::new().read(true).write(true).open(&path);
        let mut file = open.map_err(|error| Error::io("open", &path, &error))?;
        let mut header = [0; HEADER];
        match file.read_exact(&mut header) {
            Ok(()) if header.iter().any(|&byte| byte != 0) => {}
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
                return Err(Error::io("read the header of", &path, &error));
            }
            _ if is_blank(&mut file).map_err(|error| Error::io("read", &path, &error))? => return Ok(None),
            _ => {
                return Err(Error::damaged(
                    &path,
                    0,
                    "the header is gone; move the file away to open the store without it",
                ));
            }
        }
        let mended = mend(&mut header, MAGIC);
        let header = FileHeader::decode(&header, MAGIC, store, number, &path)?;
        Ok(Some(Segment { mended, ..Segment::new(file, path, handle, &header) }))
    }

    /// Bytes of the disk that the file has. Asks the file system.
    pub fn allocated(&self) -> u64 {
        self.file.metadata().map_or(0, |file| file.blocks() * 512)
    }

    /// Where it counts as full: one of an earlier version from the start, whose program would take a record of this
    /// version for damage. What is left takes the records of several threads that found room just before.
    pub fn soft_limit(&self) -> u64 {
        if self.version == VERSION { soft_limit(self.size.load(Relaxed)) } else { 0 }
    }

    /// Where there is room for the seal only.
    pub fn hard_limit(&self) -> u64 {
        self.size.load(Relaxed) - RECORD_HEADER as u64
    }

    /// Gives back the room behind the records, once the segment was sealed.
    pub fn trim(&self) -> Result<()> {
        match self.end.swap(0, Relaxed) {
            0 => Ok(()),
            end => self.file.set_len(end).map_err(|error| Error::io("cut to its records", &self.path, &error)),
        }
    }

    /// Where byte `offset` stands in the order of the log. All of a compacted segment stands at the end of its order:
    /// its records were live when they were copied, so every flush and every mark inside that order is behind them.
    pub fn position(&self, offset: u64) -> Position {
        Position::new(self.order, if self.compacted { MAX_SEGMENT } else { offset })
    }

    /// The order in which segments are replayed: of two records of a key, the one in the greater place is newer, or a
    /// copy of the same.
    pub fn place(&self) -> (u64, u32) {
        (self.order, self.number)
    }

    /// Where a compacted segment lies until it is committed.
    pub fn provisional(&self) -> PathBuf {
        self.path.with_extension(SUFFIX_NEW)
    }

    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Relaxed)
    }

    pub fn note_damage(&self) {
        self.damaged.store(true, Relaxed);
    }
}

/// Where a segment of this size counts as full.
pub(crate) fn soft_limit(size: u64) -> u64 {
    size - (16 * MAX_RECORD as u64).min(size / 4)
}

/// Removes what was compacted and not committed when the last life of the store ended.
pub(crate) fn remove_uncommitted(dir: &Path) -> Result<()> {
    for number in files(dir, SUFFIX_NEW)? {
        let path = numbered(dir, number, SUFFIX_NEW);
        std::fs::remove_file(&path).map_err(|error| Error::io("remove", &path, &error))?;
    }
    Ok(())
}

/// Whether nothing but zeros follows.
pub(crate) fn is_blank(file: &mut File) -> std::io::Result<bool> {
    let mut window = vec![0; 1 << 20];
    loop {
        match file.read(&mut window)? {
            0 => return Ok(true),
            count if window[..count].iter().any(|&byte| byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

/// Numbers of the segment files in `dir`, in no particular order.
pub(crate) fn numbers(dir: &Path) -> Result<Vec<u32>> {
    files(dir, SUFFIX)
}

/// Numbers of the files `NNNNNNNN.suffix` in `dir`.
pub(crate) fn files(dir: &Path, suffix: &str) -> Result<Vec<u32>> {
    let failed = |error| Error::io("read directory", dir, &error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let stem = name.to_str().and_then(|name| name.split_once('.')).filter(|(_, end)| *end == suffix);
        let number = stem.and_then(|(stem, _)| u32::from_str_radix(stem, 16).ok());
        // Only names that this program would give: whatever else lies in the directory is not ours.
        found.extend(number.filter(|&number| numbered(dir, number, suffix).file_name() == Some(&name)));
    }
    Ok(found)
}

/// The name of a numbered file: eight hexadecimal digits and a suffix.
pub(crate) fn numbered(dir: &Path, number: u32, suffix: &str) -> PathBuf {
    dir.join(format!("{number:08x}.{suffix}"))
}

/// 64 bits from the operating system, by way of the standard library's hash seeds.
pub(crate) fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// The name of a segment file.
pub(crate) fn path_of(dir: &Path, number: u32) -> PathBuf {
    numbered(dir, number, SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::super::header::{VERSION, checksum};
    use super::*;

    fn plan(dir: &Path, number: u32) -> Plan<'_> {
        Plan { dir, store: 9, number, handle: 3, order: 77, size: 1 << 20, compacted: false }
    }

    #[test]
    fn a_segment_is_opened_with_what_it_was_made_with() {
        let dir = tempfile::tempdir().unwrap();
        let made = plan(dir.path(), 0xab).create().unwrap();
        let opened = Segment::open(dir.path(), 9, 0xab, 4).unwrap().unwrap();
        assert_eq!((opened.order, opened.salt, opened.handle, opened.compacted), (77, made.salt, 4, false));
        assert_eq!(numbers(dir.path()).unwrap(), [0xab]);
    }

    #[test]
    fn a_foreign_or_newer_or_damaged_header_is_refused_and_an_unfinished_one_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let made = plan(dir.path(), 1).create().unwrap();
        let refused = |store| Segment::open(dir.path(), store, 1, 0).unwrap_err().to_string();
        assert!(refused(8).contains("another store"));
        let mut header = [0; HEADER];
        made.file.read_exact_at(&mut header, 0).unwrap();
        header[8] = VERSION as u8 + 1;
        let crc = checksum(&header);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        made.file.write_all_at(&header, 0).unwrap();
        assert!(refused(9).contains("newer kingserver"));
        header[8] = VERSION as u8;
        let crc = checksum(&header);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        header[30] ^= 3;
        made.file.write_all_at(&header, 0).unwrap();
        assert!(refused(9).contains("checksum"));
        header[30] ^= 1;
        made.file.write_all_at(&header, 0).unwrap();
        assert!(Segment::open(dir.path(), 9, 1, 0).unwrap().unwrap().mended, "a single bit");
        made.file.write_all_at(&[0; 64], 0).unwrap();
        assert!(Segment::open(dir.path(), 9, 1, 0).unwrap().is_none());
    }
}
