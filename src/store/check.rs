//! Checking a store that no program has open: every header, every record's checksum, every chunk of the large values
//! that keys still have. `kingserver check` is its caller; it runs on that one thread and keeps 16 bytes per key, and as
//! much for each large value in the log that another one replaced.
//!
//! [`check`] changes nothing. [`repair`] puts fresh files in the place of damaged ones, from which it leaves out what is
//! damaged and cannot be set right, keeps the damaged ones beside them as `*.damaged`, and checks again until nothing is
//! left to do.

#[cfg(test)]
mod loss_tests;
mod repair;
#[cfg(all(test, not(feature = "tiny-tags")))]
mod repair_tests;
mod scan;
mod survey;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::path::{Path, PathBuf};

use self::scan::Scan;
use self::survey::{Source, Survey};
use super::checkpoint::{self, Row};
use super::error::{Error, Result};
use super::home::lock_existing;

/// Told how far the check has come: bytes read, and bytes there are to read, to within what nobody can know before.
pub type Watch<'a> = &'a mut dyn FnMut(u64, u64);

/// How often a damaged store is repaired: what is left out, or set right, may bring other damage to light.
const ROUNDS: usize = 16;

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Segments of the log.
    pub segments: u64,
    /// Extent files.
    pub extents: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Sound records.
    pub records: u64,
    /// Keys that have a value.
    pub keys: u64,
    /// Large values whose chunks were all read, and are sound.
    pub large_values: u64,
    /// What is wrong, in the order of the log.
    pub damages: Vec<Damage>,
    /// What is no damage, but worth knowing: a torn tail that the next start will cut, an index checkpoint of another
    /// version.
    pub notes: Vec<String>,
}

/// What [`repair`] did.
#[derive(Debug)]
pub struct Repaired {
    /// What was wrong before; the fate of each key is known now.
    pub damages: Vec<Damage>,
    /// The damaged files as they were, under their new names.
    pub kept: Vec<PathBuf>,
    /// What the last check found: no damage.
    pub now: Checked,
}

/// A repair that could not go on. What it had done by then stands.
#[derive(Debug)]
pub struct Unfinished {
    /// Why it could not.
    pub error: Error,
    /// What was dealt with before.
    pub damages: Vec<Damage>,
    /// As in [`Repaired`].
    pub kept: Vec<PathBuf>,
}

/// What a repair has done so far.
#[derive(Default)]
struct Done {
    damages: Vec<Damage>,
    kept: Vec<PathBuf>,
}

/// A place where a store is not what was written.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The damaged file.
    pub file: PathBuf,
    /// Where in it. Bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
    /// Whose record it is, where that can be known.
    pub key: Option<Vec<u8>>,
    /// What is left of the key.
    pub fate: Fate,
    fault: Fault,
    /// Older records of the key whose values have the same damage.
    older: Vec<Fault>,
}

/// What becomes of a key one of whose records is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// That was not looked into.
    Unknown,
    /// It was changed again later: the damaged record no longer counts.
    Superseded,
    /// An older version of it is sound.
    Older,
    /// Nothing else of it is left.
    Gone,
    /// It is as it was: the record can be set right.
    Kept,
}

/// What is damaged, as repair sees it. Segments go by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// `STORE` is missing or not sound.
    Store,
    /// The index checkpoint.
    Checkpoint,
    /// A segment's header.
    SegmentHeader { number: u32 },
    /// An extent file's header.
    ExtentHeader { number: u32 },
    /// A deletion, or a record without a key, of which one bit is wrong.
    OneBit { number: u32, start: u64, end: u64 },
    /// Bytes between two records.
    Records { number: u32, start: u64, end: u64 },
    /// The end of a segment, up to which it was durable.
    Tail { number: u32, start: u64, durable: u64, last: bool },
    /// A sound record whose value is not.
    Value { number: u32, start: u64, end: u64 },
    /// Segments of these orders are gone, the last one excluded.
    Missing { from: u64, to: u64 },
    /// A segment that the system cannot read to its end.
    Unreadable,
}

/// Checks the store in directory `dir`, and changes nothing.
///
/// # Errors
/// What keeps it from checking: there is no store, a server is running on it, a file cannot be read or was written by a
/// newer version.
pub fn check(dir: &Path, watch: Watch<'_>) -> Result<Checked> {
    let _lock = lock_existing(dir, false)?;
    examine(dir, true, watch).map(|(checked, _)| checked)
}

/// Checks the store in directory `dir` and leaves out of it what is damaged.
///
/// # Errors
/// As [`check`]; what cannot be repaired; what writing meets. Interrupted at any moment it leaves a store that can be
/// repaired anew.
pub fn repair(dir: &Path, watch: Watch<'_>) -> std::result::Result<Repaired, Unfinished> {
    let mut done = Done::default();
    match repair_in_rounds(dir, watch, &mut done) {
        Ok(now) => Ok(Repaired { damages: done.damages, kept: done.kept, now }),
        Err(error) => Err(Unfinished { error, damages: done.damages, kept: done.kept }),
    }
}

fn repair_in_rounds(dir: &Path, watch: Watch<'_>, done: &mut Done) -> Result<Checked> {
    let _lock = lock_existing(dir, true)?;
    repair::give_to_owner_of(dir, &dir.join("LOCK"))?;
    for round in 0..=ROUNDS {
        let (checked, scan) = examine(dir, round == 0, watch)?;
        if checked.damages.is_empty() {
            if round > 0 {
                repair::forget_checkpoints(dir)?;
            }
            done.damages.iter_mut().for_each(|damage| scan.settle(damage));
            return Ok(checked);
        }
        if round < ROUNDS {
            let identity = (scan.survey.store, scan.survey.seed);
            repair::repair(dir, &checked.damages, identity, &scan.head.rows, done)?;
        }
    }
    let dir = dir.display();
    Err(Error::other(format!("{dir} is still damaged after {ROUNDS} rounds of repair: restore it from a backup")))
}

/// Only the first round of a repair tells of the index checkpoint.
fn examine(dir: &Path, first: bool, watch: Watch<'_>) -> Result<(Checked, Scan)> {
    let survey = Survey::new(dir)?;
    let mut path = dir.join(checkpoint::NAME);
    let is_there = path.exists();
    if !is_there {
        // Of use for what it knows of headers, and of what was durable; the log may have gone on without it since.
        path.set_extension("lost");
    }
    let read = checkpoint::read_file(path, survey.store, &mut |_| ());
    let mut checked = Checked {
        segments: survey.segments.len() as u64,
        extents: survey.extents,
        damages: survey.damages.clone(),
        ..Checked::default()
    };
    let total = survey.bytes;
    let mut scan = Scan::new(survey);
    let mut unread = None;
    match read {
        Ok(Some((head, _))) => scan.head = head,
        Ok(None) => {}
        Err(error) => unread = Some(error),
    }
    scan.log(&mut checked, watch)?;
    if first && is_there {
        index_checkpoint(&scan, unread, &mut checked);
    }
    if first && checkpoint::knows_of_loss(dir) {
        let what = "a start has found segments missing, or a repair was not finished: what they may name is kept";
        checked.damages.push(Damage::new(&dir.join(checkpoint::LOST), 0, what, Fault::Checkpoint));
    }
    if scan.survey.segments.is_empty() && checked.extents > 0 && checked.damages.is_empty() {
        let what = "there are large values and no log: its segments are missing";
        checked.damages.push(Damage::new(dir, 0, what, Fault::Missing { from: 1, to: 2 }));
    }
    values::verify(&mut scan, &mut checked, watch)?;
    checked.keys = scan.keys();
    checked.damages.iter_mut().for_each(|damage| scan.settle(damage));
    watch(total.max(checked.bytes), total.max(checked.bytes));
    Ok((checked, scan))
}

/// A start that cannot use it reads the log instead; one that is told of damage gives back nothing that this could name.
fn index_checkpoint(scan: &Scan, unread: Option<Error>, checked: &mut Checked) {
    let (survey, dir, head) = (&scan.survey, &scan.survey.dir, &scan.head);
    let what = if let Some(error) = unread {
        if checkpoint::is_of_another_version(dir) {
            let dir = dir.display();
            checked.notes.push(format!("{dir}/CHECKPOINT is of another version; the next start reads the log instead"));
            return;
        }
        format!("the index checkpoint is of no use: {error}")
    } else if scan.end < head.durable && checked.knows_all_orders(survey) {
        "the index checkpoint knows more than the log does: segments are missing or were cut, and what they had, though it \
         was durable, is lost"
            .into()
    } else {
        let Some(row) = head.rows.iter().find(|row| row.damaged && checked.finds_sound(row, survey)) else { return };
        format!("the index checkpoint knows of damage in segment {:08x} that is not there", row.number)
    };
    checked.damages.push(Damage::new(&dir.join("CHECKPOINT"), 0, what, Fault::Checkpoint));
}

impl Checked {
    /// Whether all segments have headers that say where in the log they stand.
    fn knows_all_orders(&self, survey: &Survey) -> bool {
        let is_known = |number| survey.segments.iter().any(|source| source.header.number == number);
        self.damages.iter().all(|damage| !matches!(damage.fault, Fault::SegmentHeader { number } if !is_known(number)))
    }

    /// Whether the segment is there, and nothing is wrong with it.
    fn finds_sound(&self, row: &Row, survey: &Survey) -> bool {
        let is_it = |source: &&Source| (source.header.order, source.header.salt) == (row.order, row.salt);
        let found = survey.segments.iter().find(is_it);
        found.is_some_and(|found| self.damages.iter().all(|damage| damage.file != found.path))
    }
}

impl Damage {
    fn new(file: &Path, offset: u64, what: impl Into<String>, fault: Fault) -> Damage {
        let (file, what) = (file.to_owned(), what.into());
        Damage { file, offset, what, key: None, fate: Fate::Unknown, fault, older: Vec::new() }
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Unfinished {}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: {}", self.file.display(), self.offset, self.what)?;
        let Some(key) = &self.key else { return Ok(()) };
        let fate = match self.fate {
            Fate::Unknown => "",
            Fate::Superseded => ", which was changed again later",
            Fate::Older => ", of which an older version is left",
            Fate::Gone => ", of which nothing else is left",
            Fate::Kept => ", of which nothing is lost",
        };
        write!(f, "; key \"{}\"{fate}", key.escape_ascii())
    }
}
