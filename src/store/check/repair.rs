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

use super::survey::{Source, head};
use super::{Damage, Done, Fault};
use crate::store::checkpoint::{self, Row};
use crate::store::error::{Error, Result};
use crate::store::hash::Seed;
use crate::store::header::{COMPACTED, FileHeader, HEADER, KNOWN, VERSION, checksum, mend};
use crate::store::home::{self, FILE_MODE};
use crate::store::reader::Reader;
use crate::store::record::{self, Fields, Kind, le_u32, le_u64};
use crate::store::recovery::next_number;
use crate::store::segment::{self, Plan, SEGMENT_HEADER};
use crate::store::{CHUNK, extent};
use crate::sys;

/// The shortest record. Bytes.
const SHORTEST: u64 = record::HEADER as u64;
/// Filler records are at most so long. Bytes.
const LONGEST: u64 = SHORTEST + CHUNK as u64;

/// Isolates what is damaged, as far as is told here, in the store of this identity and seed, of which an index checkpoint
/// has these rows.
pub(super) fn repair(
    dir: &Path,
    damages: &[Damage],
    (store, seed): (u64, Seed),
    rows: &[Row],
    done: &mut Done,
) -> Result<()> {
    let faults = faults(damages);
    if let Some((damage, _)) = faults.iter().find(|(_, fault)| *fault == Fault::Unreadable) {
        return Err(Error::other(format!("{damage}: copy the store to a sound disk first")));
    }
    let mut next = next_number(dir)?;
    let mut segments: BTreeMap<u32, Vec<(&Damage, Fault)>> = BTreeMap::new();
    for (damage, fault) in faults {
        let mut more = String::new();
        match fault {
            Fault::OneBit { number, .. }
            | Fault::Records { number, .. }
            | Fault::Tail { number, .. }
            | Fault::Value { number, .. } => {
                segments.entry(number).or_default().push((damage, fault));
                continue;
            }
            Fault::Store => identity(dir, damage, (store, seed), &mut done.kept)?,
            Fault::SegmentHeader { number } => done.kept.push(segment_header(dir, number, rows, &mut more)?),
            Fault::ExtentHeader { number } => done.kept.extend(extent_header(dir, number, store)?),
            Fault::Missing { from, to } => {
                forget_what_was_derived(dir)?;
                for order in from..to {
                    empty_segment(dir, store, next, order)?;
                    next += 1;
                }
            }
            // It goes in the end; that was refused.
            Fault::Checkpoint | Fault::Unreadable => {}
        }
        let mut told = damage.clone();
        told.what += &more;
        done.damages.push(told);
    }
    for (number, found) in segments {
        let faults: Vec<Fault> = found.iter().map(|(_, fault)| *fault).collect();
        done.kept.push(segment(dir, number, &faults)?);
        for (damage, _) in found.into_iter().filter(|(damage, fault)| damage.fault == *fault) {
            done.damages.push(damage.clone());
        }
    }
    Ok(())
}

/// Each damage, once for each record that goes with it.
fn faults(damages: &[Damage]) -> Vec<(&Damage, Fault)> {
    let mut faults = Vec::new();
    for damage in damages {
        faults.push((damage, damage.fault));
        damage.older.iter().for_each(|fault| faults.push((damage, *fault)));
    }
    faults
}

/// Files that are made from others, and would be made anew, go before those are changed: they must not speak of what is no
/// more. The index checkpoint is only set aside: it alone knows headers, and what was durable, for a repair after one that
/// failed, too.
fn forget_what_was_derived(dir: &Path) -> Result<()> {
    for number in segment::files(dir, "tags")? {
        remove(&segment::numbered(dir, number, "tags"))?;
    }
    checkpoint::set_aside(dir)?;
    give_to_owner_of(dir, &dir.join(checkpoint::LOST))
}

/// All is mended, and sound up to what was durable.
pub(super) fn forget_checkpoints(dir: &Path) -> Result<()> {
    [checkpoint::NAME, checkpoint::LOST].iter().try_for_each(|name| remove(&dir.join(name)))?;
    sync_directory(dir)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, &error)),
        _ => Ok(()),
    }
}

/// A new `STORE` for the segments that are there. If its seed is not the old one, the index is built anew with it.
fn identity(dir: &Path, damage: &Damage, (store, seed): (u64, Seed), kept: &mut Vec<PathBuf>) -> Result<()> {
    forget_what_was_derived(dir)?;
    if damage.file.exists() {
        kept.push(keep(&damage.file)?);
    }
    home::write(dir, store, seed)?;
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

/// A header that can be known again is set right; else nobody knows salt or order, and the segment goes out of the log:
/// `more` tells then what goes with it, its records by what they claim to be, to the first that does not.
fn segment_header(dir: &Path, number: u32, rows: &[Row], more: &mut String) -> Result<PathBuf> {
    let path = segment::path_of(dir, number);
    let (survey, bytes) = (super::Survey::new(dir)?, head(&path)?);
    let file = File::open(&path).map_err(|error| Error::io("open", &path, &error))?;
    let mut reader = Reader::over(&file, &path, 0);
    let mut row = rows.iter().find(|row| row.number == number);
    let (known, is_salt) = loop {
        let known = known_again(&bytes, &survey, number, row);
        reader.salt = le_u32(&known, 36);
        let found = reader.next_sound(SEGMENT_HEADER)?;
        if row.is_none() {
            break (known, known != bytes && found == Some(SEGMENT_HEADER));
        }
        if found.is_some() {
            break (known, true);
        }
        // The file is another one of that number: then it has another salt.
        row = None;
    };
    if let Some(header) = corrected(&bytes, survey.store, number, &path).or(is_salt.then_some(known)) {
        return replace(&path, |file| write_header(file, &header, &path));
    }
    let (mut end, mut records) = (SEGMENT_HEADER, 0_u64);
    while let Ok((_, len)) = reader.record(end) {
        (end, records) = (end + len as u64, records + 1);
    }
    let bytes = reader.content_end(SEGMENT_HEADER)?;
    let kept = set_aside(&path, dir)?;
    *more = format!(
        "; its {bytes} bytes, at least {records} records, are lost to the store and set aside as {}",
        kept.display()
    );
    Ok(kept)
}

/// The header as the index checkpoint knows it. Or, if nothing in it is wrong but checksum and order, with the only order
/// that the segments around it leave it, or with its own, if it is the next after them. Else as it is. Then the salt is yet
/// to be tried.
fn known_again(bytes: &[u8; HEADER], survey: &super::Survey, number: u32, row: Option<&Row>) -> [u8; HEADER] {
    let (mut before, mut after) = (0, le_u64(bytes, 24));
    for Source { header, .. } in survey.segments.iter() {
        // Those of the log are numbered in its order.
        match header.number < number {
            _ if header.flags & COMPACTED != 0 => {}
            true => before = before.max(header.order),
            false => after = after.min(header.order.saturating_sub(1)),
        }
    }
    let (version, salt, store) = (le_u32(bytes, 8), le_u32(bytes, 36), survey.store);
    let mut known = FileHeader { magic: segment::MAGIC, version, store, order: after, number, salt, flags: 0 };
    if let Some(row) = row {
        (known.order, known.salt, known.flags) = (row.order, row.salt, u32::from(row.compacted) * COMPACTED);
        if !KNOWN.contains(&version) {
            // It can read what earlier ones wrote.
            known.version = VERSION;
        }
    }
    let known = known.encode();
    let mut same = known;
    same[12..16].copy_from_slice(&bytes[12..16]);
    same[24..32].copy_from_slice(&bytes[24..32]);
    let is_taken = survey.segments.iter().any(|source| source.header.order == after);
    let is_placed = after == before + 1 && !is_taken && same == *bytes;
    if row.is_some() || KNOWN.contains(&version) && is_placed { known } else { *bytes }
}

/// The header as it was, if what is wrong is a single bit, or bytes of which it is known what they can be, or both: its
/// checksum tells.
fn corrected(bytes: &[u8; HEADER], store: u64, number: u32, path: &Path) -> Option<[u8; HEADER]> {
    // Of the first, all bytes are as they are.
    for way in 0..=2 * KNOWN.len() {
        let mut header = *bytes;
        if let Some(known) = way.checked_sub(1) {
            header = with_known(bytes, store, number, KNOWN[known / 2], known as u32 % 2 * COMPACTED);
        }
        mend(&mut header, segment::MAGIC);
        if FileHeader::decode(&header, segment::MAGIC, store, number, path).is_ok() {
            return Some(header);
        }
    }
    None
}

/// The header with everything in it but order, salt and checksum as it must be in a file of this version.
fn with_known(bytes: &[u8; HEADER], store: u64, number: u32, version: u32, flags: u32) -> [u8; HEADER] {
    let (order, salt) = (le_u64(bytes, 24), le_u32(bytes, 36));
    let mut header = FileHeader { magic: segment::MAGIC, version, store, order, number, salt, flags }.encode();
    header[12..16].copy_from_slice(&bytes[12..16]);
    header
}

/// All that the header of an extent file says is known: it is written anew, in place.
fn extent_header(dir: &Path, number: u32, store: u64) -> Result<Option<PathBuf>> {
    let path = extent::path_of(dir, number);
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
fn empty_segment(dir: &Path, store: u64, number: u32, order: u64) -> Result<()> {
    let size = SEGMENT_HEADER + SHORTEST;
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

/// Gives a file that is about to be replaced a second name, under which it stays.
fn keep(path: &Path) -> Result<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new("."));
    forget_what_was_derived(dir)?;
    let kept = free_name(path);
    let linked = std::fs::hard_link(path, &kept).or_else(|_| {
        // Not every file system has links.
        std::fs::copy(path, &kept).and_then(|_| File::open(&kept)?.sync_all())
    });
    linked.map_err(|error| {
        let _ = std::fs::remove_file(&kept);
        Error::io("keep a copy as", &kept, &error)
    })?;
    sync_directory(dir)?;
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
    let kept = keep(path)?;
    remove(path)?;
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
        let error = repair(dir.path(), &damages, (1, Seed([0; 2])), &[], &mut Done::default()).unwrap_err().to_string();
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
