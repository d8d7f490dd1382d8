//! Segment files: making, opening and finding them. A segment is a header of 64 bytes and records after it;
//! `kingdb.5` has the layout. Only the syncer makes segments while the store is open, ahead of need; only recovery
//! opens old ones.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use super::error::{Error, Result};
use super::header::{FileHeader, HEADER};
use super::home::FILE_MODE;
use super::location::{Location, MAX_HANDLES, Position};
use crate::sys;

/// Bytes before the first record.
pub(crate) const SEGMENT_HEADER: u64 = HEADER as u64;

const MAGIC: [u8; 8] = *b"KDBSEGMT";
const SUFFIX: &str = "log";

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub file: File,
    pub path: PathBuf,
    /// Row in [`Segments`].
    pub handle: u32,
    /// Names the file.
    pub number: u32,
    /// Place in the order of the log.
    pub order: u64,
    /// Seeds the records' checksums.
    pub salt: u32,
}

impl Segment {
    /// Makes a segment file of `size` preallocated bytes. Durable, its directory entry included, when this returns.
    pub fn create(dir: &Path, store: u64, number: u32, handle: u32, order: u64, size: u64) -> Result<Segment> {
        let path = path_of(dir, number);
        let made = Segment::make(dir, &path, store, number, handle, order, size);
        made.inspect_err(|_| drop(std::fs::remove_file(&path)))
    }

    fn make(dir: &Path, path: &Path, store: u64, number: u32, handle: u32, order: u64, size: u64) -> Result<Segment> {
        let failed = |attempt: &str, error: &std::io::Error| match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Error::Full(format!("cannot {attempt} {} ({size} bytes): {error}", path.display()).into())
            }
            _ => Error::io(attempt, path, error),
        };
        let open = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path);
        let file = open.map_err(|error| failed("create", &error))?;
        sys::file::preallocate(&file, size).map_err(|error| failed("preallocate", &error))?;
        let salt = random() as u32;
        let header = FileHeader { magic: MAGIC, store, order, number, salt };
        file.write_all_at(&header.encode(), 0).map_err(|error| failed("write the header of", &error))?;
        file.sync_all().map_err(|error| failed("sync", &error))?;
        sys::file::sync_directory(dir).map_err(|error| Error::io("sync directory", dir, &error))?;
        Ok(Segment { file, path: path.to_owned(), handle, number, order, salt })
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
        let FileHeader { order, salt, .. } = FileHeader::decode(&header, MAGIC, store, number, &path)?;
        Ok(Some(Segment { file, path, handle, number, order, salt }))
    }

    /// Where byte `offset` stands in the order of the log.
    pub fn position(&self, offset: u64) -> Position {
        Position::new(self.order, offset)
    }
}

/// The segments that exist, by handle.
#[derive(Default)]
pub(crate) struct Segments {
    rows: RwLock<Vec<Option<Arc<Segment>>>>,
}

impl Segments {
    /// The handle that the next segment will get.
    pub fn free_handle(&self) -> Result<u32> {
        let rows = super::read(&self.rows);
        let free = rows.iter().position(Option::is_none).unwrap_or(rows.len());
        match free < MAX_HANDLES {
            true => Ok(free as u32),
            false => Err(Error::Full(format!("the store has {MAX_HANDLES} segments, its limit").into())),
        }
    }

    pub fn add(&self, segment: &Arc<Segment>) {
        let mut rows = super::write(&self.rows);
        let handle = segment.handle as usize;
        if rows.len() <= handle {
            rows.resize(handle + 1, None);
        }
        assert!(rows[handle].is_none(), "a handle names one segment");
        rows[handle] = Some(segment.clone());
    }

    /// The segment a location points into.
    pub fn get(&self, location: Location) -> Option<Arc<Segment>> {
        super::read(&self.rows).get(location.handle() as usize)?.clone()
    }

    /// Where a location stands in the order of the log. A segment that is gone stands before everything.
    pub fn position(&self, location: Location) -> Position {
        let rows = super::read(&self.rows);
        let segment = rows.get(location.handle() as usize).and_then(Option::as_ref);
        segment.map_or(Position(0), |segment| segment.position(location.offset()))
    }

    pub fn len(&self) -> u64 {
        super::read(&self.rows).iter().flatten().count() as u64
    }
}

/// Whether nothing but zeros follows.
fn is_blank(file: &mut File) -> std::io::Result<bool> {
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
    use super::*;

    #[test]
    fn a_segment_is_opened_with_what_it_was_made_with() {
        let dir = tempfile::tempdir().unwrap();
        let made = Segment::create(dir.path(), 9, 0xab, 3, 77, 1 << 20).unwrap();
        let opened = Segment::open(dir.path(), 9, 0xab, 4).unwrap().unwrap();
        assert_eq!((opened.order, opened.salt, opened.handle), (77, made.salt, 4));
        assert_eq!(numbers(dir.path()).unwrap(), [0xab]);
    }

    #[test]
    fn a_foreign_or_newer_or_damaged_header_is_refused_and_an_unfinished_one_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let made = Segment::create(dir.path(), 9, 1, 0, 0, 1 << 20).unwrap();
        let refused = |store| Segment::open(dir.path(), store, 1, 0).unwrap_err().to_string();
        assert!(refused(8).contains("another store"));
        made.file.write_all_at(&[2], 8).unwrap();
        assert!(refused(9).contains("newer kingserver"));
        made.file.write_all_at(&[1], 8).unwrap();
        made.file.write_all_at(&[1], 30).unwrap();
        assert!(refused(9).contains("checksum"));
        made.file.write_all_at(&[0; 64], 0).unwrap();
        assert!(Segment::open(dir.path(), 9, 1, 0).unwrap().is_none());
    }
}
