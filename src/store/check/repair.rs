//! Puts fresh files in the place of damaged ones.
//!
//! A fresh segment has the records of the damaged one, at the same offsets: what is left out becomes *filler*, records
//! that mean nothing; a deletion or a flush of which one bit is wrong is set right. So every position in the log still
//! means what it meant, and the fresh file has its predecessor's name, order and salt. It is written beside, synced and
//! renamed, and the damaged file keeps a name of its own: at every moment the store has one or the other.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use super::survey::head;
use super::{Damage, Done, Fault};
use crate::store::checkpoint;
use crate::store::error::{Error, Result};
use crate::store::header::{COMPACTED, FileHeader, HEADER, KNOWN, VERSION, checksum, mend};
use crate::store::home::{self, FILE_MODE};
use crate::store::record::{self, Fields, Kind, le_u32, le_u64};
use crate::store::recovery::next_number;
use crate::store::segment::{self, Plan, SEGMENT_HEADER};
use crate::store::{CHUNK, extent};
use crate::sys;

/// The shortest record. Bytes.
const SHORTEST: u64 = record::HEADER as u64;
/// Filler records are at most so long. Bytes.
const LONGEST: u64 = SHORTEST + CHUNK as u64;

/// Isolates what is damaged, as far as these damages tell.
pub(super) fn repair(dir: &Path, damages: &[Damage], done: &mut Done) -> Result<()> {
    if let Some((damage, _)) = damages.iter().flat_map(faults).find(|(_, fault)| *fault == Fault::Unreadable) {
        return Err(Error::other(format!("{damage}: copy the store to a sound disk first")));
    }
    forget_what_was_derived(dir)?;
    let mut segments: BTreeMap<u32, Vec<(&Damage, Fault)>> = BTreeMap::new();
    for (damage, fault) in damages.iter().flat_map(faults) {
        match fault {
            Fault::OneBit { number, .. }
            | Fault::Records { number, .. }
            | Fault::Tail { number, .. }
            | Fault::Value { number, .. } => {
                segments.entry(number).or_default().push((damage, fault));
                continue;
            }
            Fault::Store => store(dir, damage, &mut done.kept)?,
            Fault::SegmentHeader { number } => done.kept.push(segment_header(dir, number)?),
            Fault::ExtentHeader { number } => done.kept.extend(extent_header(dir, number)?),
            Fault::Missing { from, to } => (from..to).try_for_each(|order| empty_segment(dir, order))?,
            // It went with what was derived; that was refused.
            Fault::Checkpoint | Fault::Unreadable => {}
        }
        done.damages.push(damage.clone());
    }
    for (number, found) in segments {
        let faults: Vec<Fault> = found.iter().map(|(_, fault)| *fault).collect();
        done.kept.push(segment(dir, number, &faults)?);
        let newest = found.iter().filter(|(damage, fault)| damage.fault == *fault);
        done.damages.extend(newest.map(|(damage, _)| (*damage).clone()));
    }
    Ok(())
}

/// A damage, once for each record that goes with it.
fn faults(damage: &Damage) -> impl Iterator<Item = (&Damage, Fault)> {
    std::iter::once(damage.fault).chain(damage.older.iter().copied()).map(move |fault| (damage, fault))
}

/// Files that are made from others, and would be made anew, go first: they must not speak of what is no more.
fn forget_what_was_derived(dir: &Path) -> Result<()> {
    let tags = segment::files(dir, "tags")?.into_iter().map(|number| segment::numbered(dir, number, "tags"));
    for path in tags.chain(["CHECKPOINT", checkpoint::LOST].map(|name| dir.join(name))) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &path, &error)),
            _ => {}
        }
    }
    sync_directory(dir)
}

/// A new `STORE` for the segments that are there. If its seed is not the old one, the index is built anew with it.
fn store(dir: &Path, damage: &Damage, kept: &mut Vec<PathBuf>) -> Result<()> {
    let identity = super::Survey::new(dir).map(|survey| (survey.store, survey.seed))?;
    if damage.file.exists() {
        kept.push(keep(&damage.file)?);
    }
    home::write(dir, identity.0, identity.1)?;
    give_to_owner_of(dir, &damage.file)
}

/// What is left out of a segment, and how the rest goes on.
fn segment(dir: &Path, number: u32, faults: &[Fault]) -> Result<PathBuf> {
    let path = segment::path_of(dir, number);
    let salt = le_u32(&head(&path)?, 36);
    replace(&path, |file| {
        let failed = |error| Error::io("write to the repaired copy of", &path, &error);
        for fault in faults {
            match *fault {
                Fault::OneBit { start, end, .. } => set_right(file, salt, start, end),
                Fault::Tail { start, last: false, .. } => end_with_seal(file, salt, start),
                Fault::Tail { start, .. } => file.set_len(start),
                _ => Ok(()),
            }
            .map_err(failed)?;
        }
        left_out(faults).into_iter().try_for_each(|(start, end)| fill(file, salt, start, end)).map_err(failed)
    })
}

/// The ranges that these faults leave out, as few as can be: where a damaged length parts two of them, one may be too short
/// for a record.
fn left_out(faults: &[Fault]) -> Vec<(u64, u64)> {
    let range = |fault: &Fault| match *fault {
        Fault::Records { start, end, .. } | Fault::Value { start, end, .. } => Some((start, end)),
        Fault::Tail { start, durable, last: true, .. } => Some((start, durable.max(start))),
        _ => None,
    };
    let mut sorted: Vec<_> = faults.iter().filter_map(range).collect();
    sorted.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in sorted {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// What a flipped bit undid is done again: a flush or a deletion must not be forgotten where it is known.
fn set_right(file: &File, salt: u32, start: u64, end: u64) -> std::io::Result<()> {
    let mut record = vec![0; (end - start) as usize];
    file.read_exact_at(&mut record, start)?;
    match Fields::mended(&record, salt) {
        Some(mended) => file.write_all_at(&mended, start),
        None => Err(std::io::Error::other(format!("the record at offset {start} has changed since it was checked"))),
    }
}

/// Overwrites `[start, end)` with records that mean nothing.
fn fill(file: &File, salt: u32, start: u64, end: u64) -> std::io::Result<()> {
    let mut at = start;
    while at < end {
        let left = end - at;
        let piece =
            if left - left.min(LONGEST) < SHORTEST && left > LONGEST { LONGEST - SHORTEST } else { left.min(LONGEST) };
        let Some(filler) = filler(salt, piece) else {
            let text = format!("{left} bytes at offset {at} are too few for a record: restore the store from a backup");
            return Err(std::io::Error::other(text));
        };
        file.write_all_at(&filler, at)?;
        at += piece;
    }
    Ok(())
}

/// A checkpoint record whose body is all zero: it means nothing. `len` bytes.
fn filler(salt: u32, len: u64) -> Option<Vec<u8>> {
    let body = vec![0; len.checked_sub(SHORTEST)? as usize];
    let fields = Fields::control(Kind::Checkpoint, &body, 0);
    let mut out = Vec::new();
    fields.put(&fields.head(salt), &mut out);
    Some(out)
}

fn end_with_seal(file: &File, salt: u32, at: u64) -> std::io::Result<()> {
    let mut seal = Vec::new();
    let fields = Fields::control(Kind::Seal, b"", 0);
    fields.put(&fields.head(salt), &mut seal);
    file.set_len(at)?;
    file.write_all_at(&seal, at)
}

/// A header that can be known again is set right; else nobody knows the salt, and the segment goes out of the log.
fn segment_header(dir: &Path, number: u32) -> Result<PathBuf> {
    let path = segment::path_of(dir, number);
    let store = super::Survey::new(dir)?.store;
    match corrected(&head(&path)?, store, number, &path) {
        Some(header) => replace(&path, |file| write_header(file, &header, &path)),
        None => set_aside(&path, dir),
    }
}

/// The header as it was, if what is wrong is a single bit, or bytes of which it is known what they can be, or both: its
/// checksum tells.
fn corrected(bytes: &[u8; HEADER], store: u64, number: u32, path: &Path) -> Option<[u8; HEADER]> {
    let known = KNOWN.iter().flat_map(|&version| [0, COMPACTED].map(|flags| (version, flags)));
    let known = known.map(|(version, flags)| with_known(bytes, store, number, version, flags));
    let mut candidates = std::iter::once(*bytes).chain(known).map(|mut header| {
        mend(&mut header, segment::MAGIC);
        header
    });
    candidates.find(|header| FileHeader::decode(header, segment::MAGIC, store, number, path).is_ok())
}

/// The header with everything in it but order, salt and checksum as it must be in a file of this version.
fn with_known(bytes: &[u8; HEADER], store: u64, number: u32, version: u32, flags: u32) -> [u8; HEADER] {
    let (order, salt) = (le_u64(bytes, 24), le_u32(bytes, 36));
    let mut header = FileHeader { magic: segment::MAGIC, version, store, order, number, salt, flags }.encode();
    header[12..16].copy_from_slice(&bytes[12..16]);
    header
}

/// All that the header of an extent file says is known: it is written anew, in place.
fn extent_header(dir: &Path, number: u32) -> Result<Option<PathBuf>> {
    let path = extent::path_of(dir, number);
    let store = super::Survey::new(dir)?.store;
    if owner_is_another(&head(&path)?, store) {
        return set_aside(&path, dir).map(Some);
    }
    let header = FileHeader { magic: extent::MAGIC, version: VERSION, store, order: 0, number, salt: 0, flags: 0 };
    let open = OpenOptions::new().write(true).open(&path).map_err(|error| Error::io("open", &path, &error))?;
    write_header(&open, &header.encode(), &path)?;
    open.sync_all().map_err(|error| Error::io("sync", &path, &error))?;
    Ok(None)
}

fn owner_is_another(bytes: &[u8; HEADER], store: u64) -> bool {
    checksum(bytes) == le_u32(bytes, 12) && le_u64(bytes, 16) != store
}

/// A segment without records at a place of the log where one is missing, so that the log is whole again.
fn empty_segment(dir: &Path, order: u64) -> Result<()> {
    let store = super::Survey::new(dir)?.store;
    let (number, size) = (next_number(dir)?, SEGMENT_HEADER + SHORTEST);
    let made = Plan { dir, store, number, handle: 0, order, size, compacted: false }.create()?;
    give_to_owner_of(dir, &made.path)?;
    end_with_seal(&made.file, made.salt, SEGMENT_HEADER)
        .and_then(|()| made.file.sync_all())
        .map_err(|error| Error::io("write", &made.path, &error))
}

fn write_header(file: &File, header: &[u8; HEADER], path: &Path) -> Result<()> {
    file.write_all_at(header, 0).map_err(|error| Error::io("write the header of", path, &error))
}

/// Puts a copy of the file that `change` has changed in its place. Returns the name that the old one has now.
fn replace(path: &Path, change: impl FnOnce(&File) -> Result<()>) -> Result<PathBuf> {
    let fresh = path.with_extension("log.new");
    let replaced = copy(path, &fresh, change).and_then(|()| exchange(path, &fresh));
    replaced.inspect_err(|_| drop(std::fs::remove_file(&fresh)))
}

fn copy(path: &Path, fresh: &Path, change: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let failed = |error: std::io::Error| Error::io("copy to", fresh, &error);
    let mut from = File::open(path).map_err(|error| Error::io("open", path, &error))?;
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(FILE_MODE).open(fresh);
    let mut file = open.map_err(failed)?;
    give_to_owner_of(path, fresh)?;
    std::io::copy(&mut from, &mut file).map_err(failed)?;
    change(&file)?;
    file.sync_all().map_err(failed)
}

fn exchange(path: &Path, fresh: &Path) -> Result<PathBuf> {
    let kept = keep(path)?;
    let renamed = std::fs::rename(fresh, path).inspect_err(|_| drop(std::fs::remove_file(&kept)));
    renamed.map_err(|error| Error::io("rename to", path, &error))?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))?;
    Ok(kept)
}

/// Gives a file a second name, under which it stays.
fn keep(path: &Path) -> Result<PathBuf> {
    let kept = free_name(path);
    let linked = std::fs::hard_link(path, &kept).or_else(|_| {
        // Not every file system has links.
        std::fs::copy(path, &kept).and_then(|_| File::open(&kept)?.sync_all())
    });
    linked.map_err(|error| Error::io("keep a copy as", &kept, &error))?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))?;
    Ok(kept)
}

/// What root makes in a store must belong to whom the store belongs.
pub(super) fn give_to_owner_of(model: &Path, path: &Path) -> Result<()> {
    if !sys::process::is_root() {
        return Ok(());
    }
    let owner = std::fs::metadata(model).map_err(|error| Error::io("look at", model, &error))?;
    chown(path, Some(owner.uid()), Some(owner.gid())).map_err(|error| Error::io("change the owner of", path, &error))
}

/// Takes a file out of the store.
fn set_aside(path: &Path, dir: &Path) -> Result<PathBuf> {
    let kept = free_name(path);
    std::fs::rename(path, &kept).map_err(|error| Error::io("rename", path, &error))?;
    sync_directory(dir)?;
    Ok(kept)
}

/// `NAME.damaged`, or with a number behind it if an earlier repair used that.
fn free_name(path: &Path) -> PathBuf {
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(if number == 0 { ".damaged".to_string() } else { format!(".damaged.{number}") });
        PathBuf::from(name)
    };
    (0..).map(name).find(|name| name.symlink_metadata().is_err()).unwrap_or_else(|| name(u32::MAX))
}

fn sync_directory(dir: &Path) -> Result<()> {
    sys::file::sync_directory(dir).map_err(|error| Error::io("sync directory", dir, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_finished_leaves_the_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("00000000.log");
        std::fs::write(&path, b"as it was").unwrap();
        let refused = replace(&path, |file| {
            file.set_len(0).unwrap();
            Err(Error::other("no"))
        });
        assert!(refused.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"as it was");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_cannot_be_read_is_refused_before_anything_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, extent) = (dir.path().join("CHECKPOINT"), dir.path().join("00000000.ext"));
        std::fs::write(&checkpoint, b"").unwrap();
        let damages = [Damage::new(&extent, 4096, "it cannot be read", Fault::Unreadable)];
        let error = repair(dir.path(), &damages, &mut Done::default()).unwrap_err().to_string();
        assert!(error.contains("00000000.ext at offset 4096") && checkpoint.exists(), "{error}");
    }

    #[test]
    fn what_touches_is_left_out_at_once() {
        let records = |start, end| Fault::Records { number: 0, start, end };
        let tail = |start, last| Fault::Tail { number: 0, start, durable: 400, last };
        let value = Fault::Value { number: 0, start: 64, end: 112 };
        let bit = Fault::OneBit { number: 0, start: 112, end: 136 };
        assert_eq!(left_out(&[records(384, 392), records(136, 384), bit, value]), [(64, 112), (136, 392)]);
        assert_eq!(left_out(&[records(136, 392), tail(392, true)]), [(136, 400)]);
        assert_eq!(left_out(&[records(136, 392), tail(392, false)]), [(136, 392)]);
    }
}
