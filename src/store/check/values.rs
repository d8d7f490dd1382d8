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

/// Verifies every large value that is its key's newest and has not expired; and where one is bad, those that it replaced,
/// back to one that is sound: they come to light once it is left out.
pub(super) fn verify(scan: &mut Scan, checked: &mut Checked, watch: Watch<'_>) -> Result<()> {
    let now = scan.time.max(clock::wall_time().as_secs());
    let mut values = Values { scan, now, open: HashMap::new(), bad: HashMap::new(), checked, watch };
    let mut newest = Vec::new();
    for places in values.scan.large().chunk_by(|one, next| one.handle() == next.handle()) {
        newest.append(&mut values.look_at(places)?);
    }
    let mut found = Vec::new();
    for value in newest {
        values.go_back(value, &mut found)?;
    }
    for Found { mut damage, key, torn, .. } in found {
        if torn {
            checked.notes.push(format!("{damage}; it was never durable, a start cuts it off the log"));
        } else {
            scan.note_key(&mut damage, key);
            checked.damages.push(damage);
        }
    }
    Ok(())
}

/// The large values of a store, while they are verified.
struct Values<'a> {
    scan: &'a Scan,
    /// Store time.
    now: u64,
    /// Extent files that were opened, or why one cannot be.
    open: HashMap<u32, std::io::Result<File>>,
    /// Pieces of which it is known what is wrong, by file and offset: each record that was appended to names them anew.
    bad: HashMap<(u32, u64), Bad>,
    checked: &'a mut Checked,
    watch: Watch<'a>,
}

/// A record whose value is not sound.
struct Found {
    location: Location,
    key: Vec<u8>,
    damage: Damage,
    /// A crash may have left it so.
    torn: bool,
}

impl Found {
    fn is_of_same_place(&self, other: &Found) -> bool {
        (&self.damage.file, self.damage.offset) == (&other.damage.file, other.damage.offset)
    }
}

/// What is wrong with a value.
#[derive(Clone)]
struct Bad {
    what: String,
    state: State,
    /// No earlier record names the piece: a start looks at it.
    fresh: bool,
    /// Where in which file. `None`: its table makes no sense.
    place: Option<(PathBuf, u64)>,
}

/// In what state a bad chunk is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Gone, or another: a crash may have left it so.
    Other,
    /// Only a bit is wrong: no crash does that.
    Decayed,
    /// It may be sound: the system does not let it be read.
    Unreadable,
}

impl State {
    fn of_unread(error: &std::io::Error) -> State {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::UnexpectedEof => State::Other,
            _ => State::Unreadable,
        }
    }
}

impl Bad {
    /// The damage, given where the record is that names the value.
    fn damage(&self, source: &Source, start: u64, end: u64) -> Damage {
        let fault = match self.state {
            State::Unreadable => Fault::Unreadable,
            State::Other | State::Decayed => Fault::Value { number: source.header.number, start, end },
        };
        match &self.place {
            Some((file, offset)) => Damage::new(file, *offset, &self.what, fault),
            None => Damage::new(&source.path, start, &self.what, fault),
        }
    }

    /// Whether a crash may have left it so.
    fn is_torn(&self, scan: &Scan, source: &Source, start: u64) -> bool {
        let may_be = self.fresh && self.state == State::Other;
        may_be && !source.is_compacted() && source.position(start) >= scan.durable.max(scan.head.durable)
    }
}

impl Values<'_> {
    /// Adds to `found` a bad value and those that it replaced, as far as they are bad.
    fn go_back(&mut self, newest: Found, found: &mut Vec<Found>) -> Result<()> {
        let mut location = newest.location;
        found.push(newest);
        while let Some(&older) = self.scan.replaced.get(&location) {
            let Some(value) = self.look_at(&[older])?.pop() else { break };
            location = older;
            match found.last_mut() {
                Some(last) if last.is_of_same_place(&value) => last.damage.older.push(value.damage.fault),
                _ => found.push(value),
            }
        }
        Ok(())
    }

    /// Verifies the values of these records, which are all in one segment; returns the bad ones.
    fn look_at(&mut self, places: &[Location]) -> Result<Vec<Found>> {
        let Some(first) = places.first() else { return Ok(Vec::new()) };
        let source = &self.scan.survey.segments[first.handle() as usize];
        let file = File::open(&source.path).map_err(|error| Error::io("open", &source.path, &error))?;
        let mut reader = Reader::over(&file, &source.path, source.header.salt);
        let mut found = Vec::new();
        for &location in places {
            let start = location.offset();
            let (fields, len) = reader.record(start)?;
            if fields.expires != 0 && fields.expires <= self.now {
                continue;
            }
            match self.verify(fields.body) {
                Ok(()) => self.checked.large_values += 1,
                Err(bad) => {
                    let damage = bad.damage(source, start, start + len as u64);
                    let (key, torn) = (fields.key.to_vec(), bad.is_torn(self.scan, source, start));
                    found.push(Found { location, key, damage, torn });
                }
            }
        }
        Ok(found)
    }

    fn verify(&mut self, body: &[u8]) -> std::result::Result<(), Bad> {
        let Some(pieces) = piece::parse(body) else {
            let what = "the table of a large value makes no sense".into();
            return Err(Bad { what, state: State::Other, fresh: false, place: None });
        };
        let known = pieces.iter().find_map(|piece| {
            let bad = self.bad.get(&piece.range().place())?;
            Some(Bad { fresh: piece.fresh, ..bad.clone() })
        });
        if let Some(bad) = known {
            return Err(bad);
        }
        // By the fresh ones a start judges.
        let (first, then) = (pieces.iter().filter(|piece| piece.fresh), pieces.iter().filter(|piece| !piece.fresh));
        first.chain(then).try_for_each(|piece| {
            let verified = self.verify_piece(piece);
            verified.inspect_err(|bad| drop(self.bad.insert(piece.range().place(), bad.clone())))
        })
    }

    fn verify_piece(&mut self, piece: &Piece) -> std::result::Result<(), Bad> {
        let path = extent::path_of(&self.scan.survey.dir, piece.file);
        let file = self.open.entry(piece.file).or_insert_with(|| File::open(&path)).as_ref();
        let bad = |what, state, offset| {
            let place = Some((path.clone(), offset));
            Bad { what, state, fresh: piece.fresh, place }
        };
        let file = file.map_err(|error| bad(error.to_string(), State::of_unread(error), piece.base))?;
        let met = Cell::new((State::Other, piece.base));
        let read = piece.survey(
            &mut |offset, bytes| {
                self.checked.bytes += bytes.len() as u64;
                (self.watch)(self.checked.bytes, self.scan.survey.bytes);
                file.read_exact_at(bytes, offset).map_err(|error| {
                    met.set((State::of_unread(&error), offset));
                    Error::other(format!("it cannot be read: {error}"))
                })
            },
            &mut |offset, decayed| {
                met.set((if decayed { State::Decayed } else { State::Other }, offset));
                Err(Error::other("a chunk of a large value is damaged"))
            },
        );
        read.map_err(|error| {
            let (state, offset) = met.get();
            bad(error.to_string(), state, offset)
        })
    }
}
