//! The header that segment and extent files share: what the file is, which store it belongs to, and whether this
//! program can read it. `kingdb.5` has the layout.

use std::path::Path;

use super::error::{Error, Result};
use super::mend::flip;
use super::record::{le_u32, le_u64};

/// Bytes on disk.
pub(crate) const HEADER: usize = 64;
/// Version of the file format. Files of earlier versions are read as what they are.
pub(crate) const VERSION: u32 = 4;

/// Versions that can be read. There is no version 3: by a single bit it would be taken for version 1, or a flipped bit of
/// the store's identity for that.
pub(crate) const KNOWN: [u32; 3] = [1, 2, VERSION];

fn is_known(version: u32) -> bool {
    KNOWN.contains(&version)
}

/// The segment holds what compaction kept of others.
pub(crate) const COMPACTED: u32 = 1;

/// What a header says besides magic, version and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileHeader {
    pub magic: [u8; 8],
    /// Of the file's format: [`VERSION`] in one that is made.
    pub version: u32,
    /// Identity of the store, so that files of different stores are never mixed up.
    pub store: u64,
    /// Place in the order of the log (segments).
    pub order: u64,
    /// As in the file's name.
    pub number: u32,
    /// Seed of checksums (segments).
    pub salt: u32,
    /// A sum of [`COMPACTED`] and others to come; zero in version 1.
    pub flags: u32,
}

impl FileHeader {
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(&self.magic);
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[16..24].copy_from_slice(&self.store.to_le_bytes());
        out[24..32].copy_from_slice(&self.order.to_le_bytes());
        out[32..36].copy_from_slice(&self.number.to_le_bytes());
        out[36..40].copy_from_slice(&self.salt.to_le_bytes());
        out[40..44].copy_from_slice(&self.flags.to_le_bytes());
        let crc = checksum(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of file `number` at `path`, which should have this magic and belong to `store`.
    pub fn decode(bytes: &[u8; HEADER], magic: [u8; 8], store: u64, number: u32, path: &Path) -> Result<FileHeader> {
        if bytes[..8] != magic {
            return Err(Error::damaged(path, 0, "this is no such file of KingDB (wrong magic)"));
        }
        check_version(le_u32(bytes, 8), path)?;
        if checksum(bytes) != le_u32(bytes, 12) {
            return Err(Error::damaged(path, 0, "the header's checksum is wrong; see 'kingserver check'"));
        }
        let header = FileHeader {
            magic,
            version: le_u32(bytes, 8),
            store: le_u64(bytes, 16),
            order: le_u64(bytes, 24),
            number: le_u32(bytes, 32),
            salt: le_u32(bytes, 36),
            flags: le_u32(bytes, 40),
        };
        if (header.store, header.number) != (store, number) {
            let text =
                format!("{} belongs to another store or was renamed; move it out of this directory", path.display());
            return Err(Error::other(text));
        }
        Ok(header)
    }
}

/// The checksum of the first bytes of a file. It stands at 12 and covers what comes after it and, by its seed, the
/// version: so a later version is told from a flipped bit.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(le_u32(bytes, 8).wrapping_sub(1), &bytes[16..])
}

/// Undoes a single flipped bit in the first bytes of a file, so that all that lies behind them stays readable. Tells
/// whether there was one.
pub(crate) fn mend(bytes: &mut [u8], magic: [u8; 8]) -> bool {
    let is_sound =
        |bytes: &[u8]| bytes[..8] == magic && is_known(le_u32(bytes, 8)) && checksum(bytes) == le_u32(bytes, 12);
    if is_sound(bytes) {
        return false;
    }
    for bit in 0..bytes.len() * 8 {
        flip(bytes, bit);
        if is_sound(bytes) {
            return true;
        }
        flip(bytes, bit);
    }
    false
}

/// Refuses files that a later version wrote.
pub(crate) fn check_version(version: u32, path: &Path) -> Result<()> {
    let shown = path.display();
    match version {
        known if is_known(known) => Ok(()),
        // So many versions there will not be soon.
        0 | 3 | 16.. => Err(Error::damaged(path, 8, "the format version makes no sense")),
        _ => Err(Error::other(format!(
            "{shown} has format version {version} and this program reads versions up to {VERSION}: use a newer kingserver"
        ))),
    }
}
