//! Which keys a segment may hold a value of, as a sorted list of fingerprints in a file beside it, `NNNNNNNN.tags`; see
//! `kingdb.5`. It tells the compactor which tombstones are spent. A mere cache of what the segment says: made when first
//! asked for, made anew when it is absent or not sound. For the compactor.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::core::Core;
use super::error::{Error, Result};
use super::header::VERSION;
use super::home::FILE_MODE;
use super::pace::Pace;
use super::reader::Reader;
use super::record::{Kind, le_u32, le_u64};
use super::segment::{SEGMENT_HEADER, Segment, files, numbered, numbers};

const MAGIC: &[u8; 8] = b"KDBTAGS\0";
const HEADER: usize = 64;
const SUFFIX: &str = "tags";
/// A list is kept if it takes one such part at most of the room that is left: compaction needs that more.
const PART: u64 = 64;

/// What of a key's hash the list has.
pub(crate) fn fingerprint(tag: u64) -> u32 {
    (tag >> 32) as u32
}

/// The fingerprints of all keys of which `segment`, which must not change any more, has a value. Sorted; up to 8 MiB.
///
/// # Errors
/// [`Error::Damaged`] if the segment is, so that it may hold any key; the store is being closed.
pub(crate) fn of(segment: &Segment, core: &Core, pace: &Pace) -> Result<Vec<u32>> {
    if segment.is_damaged() {
        return Err(Error::damaged(&segment.path, 0, "it is damaged"));
    }
    let path = path(segment);
    let len = segment.file.metadata().map_err(|error| Error::io("stat", &segment.path, &error))?.len();
    let identity = identity(segment, core.home.store, len);
    let kept = std::fs::read(&path).ok().and_then(|bytes| decode(&bytes, &identity));
    if let Some(tags) = kept {
        return Ok(tags);
    }
    let tags = scan(segment, core, pace)?;
    let list = encode(&tags, &identity);
    // Whoever finds it absent or torn makes it anew; but what is torn takes room.
    if list.len() as u64 <= core.space.room() / PART && write(&path, &list).is_err() {
        remove(segment);
    }
    Ok(tags)
}

/// For the store's user alone, as everything of a store.
fn write(path: &Path, list: &[u8]) -> io::Result<()> {
    File::options().create(true).truncate(true).write(true).mode(FILE_MODE).open(path)?.write_all(list)
}

/// Removes the list of a segment that is about to go.
pub(crate) fn remove(segment: &Segment) {
    let _ = std::fs::remove_file(path(segment));
}

/// Removes lists whose segments are gone: a crash may come between the two.
pub(crate) fn remove_orphans(dir: &Path) -> Result<()> {
    let segments = numbers(dir)?;
    for number in files(dir, SUFFIX)?.into_iter().filter(|number| !segments.contains(number)) {
        let _ = std::fs::remove_file(numbered(dir, number, SUFFIX));
    }
    Ok(())
}

fn path(segment: &Segment) -> PathBuf {
    segment.path.with_extension(SUFFIX)
}

fn scan(segment: &Segment, core: &Core, pace: &Pace) -> Result<Vec<u32>> {
    let (mut reader, mut offset, mut tags) = (Reader::new(segment), SEGMENT_HEADER, Vec::new());
    loop {
        if reader.next_sound(offset)? != Some(offset) {
            segment.note_damage();
            return Err(Error::damaged(&segment.path, offset, "no sound record is there"));
        }
        let (fields, len) = reader.record(offset)?;
        match fields.kind {
            Kind::Value | Kind::Large => tags.push(fingerprint(core.home.seed.hash(fields.key).tag)),
            Kind::Seal => break,
            Kind::Tombstone | Kind::FlushPending | Kind::FlushFired | Kind::Checkpoint => {}
        }
        offset += len as u64;
        // No slower than the disk: a round waits for it. But not beyond the store's end.
        pace.check(core)?;
    }
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

/// What ties a list to its segment, so that it is never taken for that of another one which got the same name.
fn identity(segment: &Segment, store: u64, len: u64) -> [u8; 32] {
    let mut out = [0; 32];
    out[..8].copy_from_slice(&store.to_le_bytes());
    out[8..16].copy_from_slice(&segment.order.to_le_bytes());
    out[16..20].copy_from_slice(&segment.number.to_le_bytes());
    out[20..24].copy_from_slice(&segment.salt.to_le_bytes());
    out[24..].copy_from_slice(&len.to_le_bytes());
    out
}

fn encode(tags: &[u32], identity: &[u8; 32]) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..48].copy_from_slice(identity);
    out[48..56].copy_from_slice(&(tags.len() as u64).to_le_bytes());
    out.extend(tags.iter().flat_map(|tag| tag.to_le_bytes()));
    let crc = crc32c::crc32c(&out[16..]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8], identity: &[u8; 32]) -> Option<Vec<u32>> {
    let sound = bytes.len() >= HEADER
        && &bytes[..8] == MAGIC
        && le_u32(bytes, 8) == VERSION
        && &bytes[16..48] == identity
        && le_u64(bytes, 48).checked_mul(4) == Some((bytes.len() - HEADER) as u64)
        && crc32c::crc32c(&bytes[16..]) == le_u32(bytes, 12);
    sound.then(|| bytes[HEADER..].chunks_exact(4).map(|tag| le_u32(tag, 0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_for_the_store_s_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("00000000.tags");
        write(&path, b"long").unwrap();
        write(&path, b"it").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&path).unwrap(), b"it");
    }

    #[test]
    fn a_list_is_taken_only_whole_and_for_its_own_segment() {
        let (tags, identity) = (vec![1, 5, 0xffff_ffff], [7; 32]);
        let good = encode(&tags, &identity);
        assert_eq!(decode(&good, &identity), Some(tags));
        assert_eq!(decode(&good, &[8; 32]), None);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            assert_eq!(decode(&bad, &identity), None, "byte {at}");
            assert_eq!(decode(&good[..at], &identity), None);
        }
    }
}
