//! Reads the chunks of large values that keys still have, and compares their checksums.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::scan::Scan;
use super::survey::Source;
use super::{Checked, Damage, Fault, Watch};
use crate::store::error::{Error, Result};
use crate::store::extent;
use crate::store::location::Location;
use crate::store::piece::{self, Piece};
use crate::store::reader::Reader;
use crate::sys::clock;

/// Verifies every large value that is its key's newest and has not expired.
pub(super) fn verify(scan: &mut Scan, checked: &mut Checked, watch: Watch<'_>) -> Result<()> {
    let now = scan.time.max(clock::wall_time().as_secs());
    let mut chunks = Chunks { open: HashMap::new() };
    let mut found = Vec::new();
    for (handle, source) in scan.survey.segments.iter().enumerate() {
        let Some(offsets) = scan.large.get(&(handle as u32)) else { continue };
        let file = File::open(&source.path).map_err(|error| Error::io("open", &source.path, &error))?;
        let mut reader = Reader::over(&file, &source.path, source.header.salt);
        for &start in offsets {
            let (fields, len) = reader.record(start)?;
            let newest = scan.is_newest(fields.key, Location::new(handle as u32, start));
            if !newest || (fields.expires != 0 && fields.expires <= now) {
                continue;
            }
            checked.large_values += 1;
            if let Err(bad) = chunks.verify(fields.body, scan, checked, watch) {
                let end = start + len as u64;
                found.push((bad.damage(source, start, end), fields.key.to_vec(), bad.is_torn(scan, source, start)));
            }
        }
    }
    for (mut damage, key, torn) in found {
        if torn {
            checked.notes.push(format!("{damage}; it was never durable, a start cuts it off the log"));
        } else {
            scan.note_key(&mut damage, key);
            checked.damages.push(damage);
        }
    }
    Ok(())
}

/// What is wrong with a value.
struct Bad {
    what: String,
    /// Only a bit is wrong: no crash does that.
    decayed: bool,
    /// It may be sound: the system does not let it be read.
    unreadable: bool,
    /// No earlier record names the piece: a start looks at it.
    fresh: bool,
    /// Where in which file. `None`: its table makes no sense.
    place: Option<(PathBuf, u64)>,
}

impl Bad {
    /// The damage, given where the record is that names the value.
    fn damage(&self, source: &Source, start: u64, end: u64) -> Damage {
        let fault = match self.unreadable {
            true => Fault::Unreadable,
            false => Fault::Value { number: source.header.number, start, end },
        };
        match &self.place {
            Some((file, offset)) => Damage::new(file, *offset, &self.what, fault),
            None => Damage::new(&source.path, start, &self.what, fault),
        }
    }

    /// Whether a crash may have left it so.
    fn is_torn(&self, scan: &Scan, source: &Source, start: u64) -> bool {
        self.fresh
            && !self.decayed
            && !self.unreadable
            && !source.is_compacted()
            && source.position(start) >= scan.durable
    }
}

/// Extent files that were opened, or why one cannot be.
struct Chunks {
    open: HashMap<u32, std::io::Result<File>>,
}

/// Whether the file, or this part of it, may be there all the same.
fn may_be_sound(error: &std::io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof)
}

impl Chunks {
    fn verify(
        &mut self,
        body: &[u8],
        scan: &Scan,
        checked: &mut Checked,
        watch: Watch<'_>,
    ) -> std::result::Result<(), Bad> {
        let Some(pieces) = piece::parse(body) else {
            let what = "the table of a large value makes no sense".into();
            return Err(Bad { what, decayed: false, unreadable: false, fresh: false, place: None });
        };
        // By the fresh ones a start judges.
        let (first, then) = (pieces.iter().filter(|piece| piece.fresh), pieces.iter().filter(|piece| !piece.fresh));
        first.chain(then).try_for_each(|piece| self.verify_piece(piece, scan, checked, watch))
    }

    fn verify_piece(
        &mut self,
        piece: &Piece,
        scan: &Scan,
        checked: &mut Checked,
        watch: Watch<'_>,
    ) -> std::result::Result<(), Bad> {
        let path = extent::path_of(&scan.survey.dir, piece.file);
        let file = self.open.entry(piece.file).or_insert_with(|| File::open(&path)).as_ref();
        let bad = |what, (decayed, unreadable), offset| {
            let place = Some((path.clone(), offset));
            Bad { what, decayed, unreadable, fresh: piece.fresh, place }
        };
        let file = file.map_err(|error| bad(error.to_string(), (false, may_be_sound(error)), piece.base))?;
        let (unreadable, unsound) = (Cell::new(None), Cell::new(None));
        let read = piece.survey(
            &mut |offset, bytes| {
                checked.bytes += bytes.len() as u64;
                watch(checked.bytes, scan.survey.bytes);
                file.read_exact_at(bytes, offset).map_err(|error| {
                    unreadable.set(Some((offset, may_be_sound(&error))));
                    Error::other(format!("it cannot be read: {error}"))
                })
            },
            &mut |offset, decayed| {
                unsound.set(Some((offset, decayed)));
                Err(Error::other("a chunk of a large value is damaged"))
            },
        );
        read.map_err(|error| match (unreadable.get(), unsound.get()) {
            (Some((offset, unreadable)), _) => bad(error.to_string(), (false, unreadable), offset),
            (None, at) => {
                let (offset, decayed) = at.unwrap_or((piece.base, false));
                bad(error.to_string(), (decayed, false), offset)
            }
        })
    }
}
