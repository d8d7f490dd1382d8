//! What files a store has, and whether their headers say what they should.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Damage, Fault};
use crate::store::error::{Error, Result};
use crate::store::header::{COMPACTED, FileHeader, HEADER, VERSION, checksum, mend};
use crate::store::location::{MAX_SEGMENT, Position};
use crate::store::record::{le_u32, le_u64};
use crate::store::{extent, hash::Seed, home, segment};

const ONE_BIT: &str = "one bit of the header is wrong";

/// The files of a store.
pub(super) struct Survey {
    /// Identity of the store.
    pub store: u64,
    /// Of the index that the check builds for itself: where `STORE` is damaged, any will do.
    pub seed: Seed,
    /// In the order of the log; those whose header is not sound are left out.
    pub segments: Vec<Source>,
    /// How many extent files there are.
    pub extents: u64,
    /// Bytes there are to read.
    pub bytes: u64,
    pub dir: PathBuf,
    pub damages: Vec<Damage>,
    /// Segments before which others are missing; compaction may have removed these.
    pub gaps: Vec<Damage>,
}

/// A segment with a sound header.
pub(super) struct Source {
    pub path: PathBuf,
    pub header: FileHeader,
}

impl Source {
    pub fn is_compacted(&self) -> bool {
        self.header.flags & COMPACTED != 0
    }

    /// As [`segment::Segment::position`] has it.
    pub fn position(&self, offset: u64) -> Position {
        Position::new(self.header.order, if self.is_compacted() { MAX_SEGMENT } else { offset })
    }
}

/// The beginning of a file.
enum Start {
    Header(FileHeader),
    /// A bit of it had flipped.
    Mended(FileHeader),
    /// It was never completed: the next start removes it.
    Unfinished,
    Damaged(String),
}

impl Survey {
    pub fn new(dir: &Path) -> Result<Survey> {
        let (mut numbers, mut extents) = (segment::numbers(dir)?, extent::numbers(dir)?);
        numbers.sort_unstable();
        extents.sort_unstable();
        let (identity, damages) = identity(dir, &numbers)?;
        let (store, seed) = identity;
        let (segments, bytes, count) = (Vec::new(), 0, extents.len() as u64);
        let mut survey =
            Survey { store, seed, segments, extents: count, bytes, dir: dir.to_owned(), damages, gaps: Vec::new() };
        numbers.into_iter().try_for_each(|number| survey.segment(number))?;
        extents.into_iter().try_for_each(|number| survey.extent(number))?;
        survey.segments.sort_unstable_by_key(|source| (source.header.order, source.header.number));
        survey.notice_gaps();
        Ok(survey)
    }

    fn segment(&mut self, number: u32) -> Result<()> {
        let path = segment::path_of(&self.dir, number);
        self.bytes += blocks(&path)?;
        match start(&path, segment::MAGIC, self.store, number)? {
            Start::Header(header) => self.segments.push(Source { path, header }),
            Start::Mended(header) => {
                self.damages.push(Damage::new(&path, 0, ONE_BIT, Fault::SegmentHeader { number }));
                self.segments.push(Source { path, header });
            }
            Start::Unfinished => {}
            Start::Damaged(what) => self.damages.push(Damage::new(&path, 0, what, Fault::SegmentHeader { number })),
        }
        Ok(())
    }

    fn extent(&mut self, number: u32) -> Result<()> {
        let path = extent::path_of(&self.dir, number);
        self.bytes += blocks(&path)?;
        match start(&path, extent::MAGIC, self.store, number)? {
            Start::Header(_) | Start::Unfinished => {}
            Start::Mended(_) => self.damages.push(Damage::new(&path, 0, ONE_BIT, Fault::ExtentHeader { number })),
            Start::Damaged(what) => self.damages.push(Damage::new(&path, 0, what, Fault::ExtentHeader { number })),
        }
        Ok(())
    }

    /// Segments follow each other without a gap, the first one of all at 1, or a file is missing: one with a damaged header,
    /// or one that is gone.
    fn notice_gaps(&mut self) {
        if self.damages.iter().any(|damage| matches!(damage.fault, Fault::SegmentHeader { .. })) {
            return;
        }
        let mut from = 1;
        for Source { path, header } in &self.segments {
            let to = header.order;
            if from < to {
                let what = "a segment before this one is missing";
                self.gaps.push(Damage::new(path, 0, what, Fault::Missing { from, to }));
            }
            from = to + 1;
        }
    }
}

/// Identity and seed: `STORE` has them, or else the headers of the segments say whose they are.
fn identity(dir: &Path, numbers: &[u32]) -> Result<((u64, Seed), Vec<Damage>)> {
    let path = dir.join("STORE");
    let what = match home::read(dir) {
        Ok(Some((false, identity))) => return Ok((identity, Vec::new())),
        Ok(Some((true, identity))) => {
            return Ok((identity, vec![Damage::new(&path, 0, "one bit of the file is wrong", Fault::Store)]));
        }
        Ok(None) if numbers.is_empty() => return Err(home::no_store(dir)),
        Ok(None) => "the file is missing".to_string(),
        Err(Error::Damaged(_)) => "the file is damaged".to_string(),
        Err(error) => return Err(error),
    };
    let owners: Vec<u64> = numbers.iter().filter_map(|&number| owner(&segment::path_of(dir, number))).collect();
    let count = |store: &u64| owners.iter().filter(|owner| *owner == store).count();
    let Some(&store) = owners.iter().max_by_key(|store| count(store)) else {
        let dir = dir.display();
        return Err(Error::other(format!("neither STORE nor any segment in {dir} tells whose it is: use a backup")));
    };
    let seed = Seed([segment::random(), segment::random()]);
    Ok(((store, seed), vec![Damage::new(&path, 0, what, Fault::Store)]))
}

/// Whose file it is by its header.
fn owner(path: &Path) -> Option<u64> {
    let bytes = head(path).ok()?;
    (bytes[..8] == segment::MAGIC && checksum(&bytes) == le_u32(&bytes, 12)).then(|| le_u64(&bytes, 16))
}

/// The first bytes of a file, zeros where it is shorter.
pub(super) fn head(path: &Path) -> Result<[u8; HEADER]> {
    let failed = |error: std::io::Error| Error::io("read the header of", path, &error);
    let (mut header, mut filled) = ([0; HEADER], 0);
    let mut file = File::open(path).map_err(failed)?;
    loop {
        match file.read(&mut header[filled..]) {
            Ok(0) => return Ok(header),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn start(path: &Path, magic: [u8; 8], store: u64, number: u32) -> Result<Start> {
    let mut bytes = head(path)?;
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(if is_blank(path)? { Start::Unfinished } else { Start::Damaged("the header is gone".into()) });
    }
    let mended = mend(&mut bytes, magic);
    let sound = bytes[..8] == magic && checksum(&bytes) == le_u32(&bytes, 12);
    match FileHeader::decode(&bytes, magic, store, number, path) {
        Ok(header) if mended => Ok(Start::Mended(header)),
        Ok(header) => Ok(Start::Header(header)),
        Err(error @ Error::Other(_)) if sound && le_u32(&bytes, 8) > VERSION => Err(error),
        Err(_) if sound && le_u64(&bytes, 16) != store => Ok(Start::Damaged("it belongs to another store".into())),
        Err(_) if sound && le_u32(&bytes, 32) != number => Ok(Start::Damaged("it was renamed".into())),
        Err(_) => Ok(Start::Damaged("the header is damaged".into())),
    }
}

/// Whether there is nothing but zeros in the file.
fn is_blank(path: &Path) -> Result<bool> {
    let failed = |error: std::io::Error| Error::io("read", path, &error);
    let mut file = File::open(path).map_err(failed)?;
    segment::is_blank(&mut file).map_err(failed)
}

/// Bytes that the file takes up on the disk.
fn blocks(path: &Path) -> Result<u64> {
    let found = std::fs::metadata(path).map_err(|error| Error::io("look at", path, &error))?;
    Ok(found.len().min(found.blocks() * 512))
}
