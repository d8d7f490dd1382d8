//! Where replay begins: behind what an index checkpoint knows, or, without one that is beyond doubt, at the beginning
//! of the log. For recovery, on its thread.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::checkpoint::{self, Head, Row};
use super::error::Result;
use super::index::Index;
use super::location::Position;
use super::options::{Options, Severity};
use super::replay::{Facts, PROGRESS};
use super::segment::{SEGMENT_HEADER, Segment};
use super::segments::Segments;

/// What is known before any record is read.
pub(crate) struct Start {
    pub facts: Facts,
    /// The log before this was durable.
    pub durable: Position,
    /// Some of what the index should know could not be read, and was not repaired since.
    pub incomplete: bool,
    /// By an index checkpoint, the log was durable up to here, and no longer has all of it; else zero.
    pub lost: Position,
    /// The index and the facts are those that the log came to up to here.
    position: Position,
    /// Handles of the compacted segments that the index knows.
    compacted: HashSet<u32>,
}

impl Start {
    /// The best start there is for these segments, and the index there: gives them the handles by which the start's index knows them, and
    /// `table` what is known of how much of each is of use.
    ///
    /// # Errors
    /// An index checkpoint that is of no use cannot be removed.
    pub fn find(options: &Options, store: u64, segments: &mut [Segment], table: &Segments) -> Result<(Index, Start)> {
        checkpoint::remove_unfinished(&options.path);
        let mut said = Instant::now();
        let mut watch = |percent| {
            if said.elapsed() >= PROGRESS {
                said = Instant::now();
                (options.report)(Severity::Info, &format!("reading the index checkpoint: {percent} %"));
            }
        };
        let read = checkpoint::read(&options.path, store, &mut watch).map_err(|error| (error.to_string(), Position(0)));
        let found = read.and_then(|read| read.map(|(head, index)| Start::at(head, index, segments, table)).transpose());
        let (why, lost) = match found {
            Ok(Some(start)) => return Ok(start),
            Ok(None) => return Ok(Start::beginning(segments, Position(0))),
            Err(doubt) => doubt,
        };
        let text = format!("the index checkpoint is of no use, so the whole log is read: {why}");
        (options.report)(Severity::Warning, &text);
        // Where it knew more than the log does, a start after one that was cut short is to hear of that, too.
        if lost == Position(0) {
            checkpoint::remove(&options.path)?;
        }
        Ok(Start::beginning(segments, lost))
    }

    fn beginning(segments: &mut [Segment], lost: Position) -> (Index, Start) {
        segments.iter_mut().zip(0..).for_each(|(segment, handle)| segment.handle = handle);
        let (facts, position, incomplete) = (Facts::default(), Position(0), lost > Position(0));
        (Index::new(), Start { facts, durable: position, incomplete, lost, position, compacted: HashSet::new() })
    }

    fn at(
        head: Head,
        index: Index,
        segments: &mut [Segment],
        table: &Segments,
    ) -> std::result::Result<(Index, Start), Doubt> {
        let rows: HashMap<u32, &Row> = head.rows.iter().map(|row| (row.number, row)).collect();
        let listed = |segment: &Segment| rows.get(&segment.number).copied().filter(|row| row.is(segment));
        doubt(&head, segments, &listed)?;
        let taken: HashSet<u32> = head.rows.iter().map(|row| row.handle).collect();
        let mut fresh = (0..).filter(|handle| !taken.contains(handle));
        let (mut compacted, mut incomplete) = (HashSet::new(), false);
        for segment in &mut *segments {
            match listed(segment) {
                Some(row) => {
                    segment.handle = row.handle;
                    if row.damaged {
                        segment.note_damage();
                        incomplete = true;
                    }
                    if segment.compacted {
                        compacted.insert(row.handle);
                    }
                    if segment.compacted || segment.order <= head.position.parts().0 {
                        table.usage(row.handle).set(&row.figures);
                    }
                }
                None => segment.handle = fresh.next().unwrap_or(u32::MAX),
            }
        }
        drop_gone(&index, &head, segments);
        let Head { position, durable, facts, .. } = head;
        Ok((index, Start { facts, durable, incomplete, lost: Position(0), position, compacted }))
    }

    /// Whether nothing is known yet.
    pub fn is_beginning(&self) -> bool {
        self.position == Position(0)
    }

    /// From where on `segment` must be read, if at all.
    pub fn offset(&self, segment: &Segment) -> Option<u64> {
        let (order, offset) = self.position.parts();
        match segment.compacted {
            true => (!self.compacted.contains(&segment.handle)).then_some(SEGMENT_HEADER),
            false if segment.order == order => Some(offset.max(SEGMENT_HEADER)),
            false => (segment.order > order).then_some(SEGMENT_HEADER),
        }
    }

    /// How much of it must be read. Bytes.
    pub fn unread(&self, segment: &Segment) -> Option<u64> {
        let len = segment.file.metadata().map_or(0, |file| file.len());
        self.offset(segment).map(|offset| len.saturating_sub(offset))
    }
}

/// Why an index checkpoint is not used; and up to where it knows that the log was durable, if the log lacks some of what it
/// had when the checkpoint was written, else zero.
type Doubt = (String, Position);

/// Why these cannot be the files of the store that the checkpoint is of, or of a later state of it.
fn doubt<'a>(
    head: &Head,
    segments: &[Segment],
    listed: &impl Fn(&Segment) -> Option<&'a Row>,
) -> std::result::Result<(), Doubt> {
    let log = || segments.iter().filter(|segment| !segment.compacted);
    let (first, _) = head.position.parts();
    if let Some(unknown) = log().find(|segment| segment.order <= first && listed(segment).is_none()) {
        return Err((format!("it does not know {}", unknown.path.display()), Position(0)));
    }
    let newest = log().map(|segment| segment.order).max();
    for (order, offset) in [head.position.parts(), head.durable.parts()] {
        let len = |segment: &Segment| segment.file.metadata().map_or(0, |file| file.len());
        let is_short = log().any(|segment| segment.order == order && len(segment) < offset);
        if is_short || newest.is_none_or(|newest| newest < order) {
            // Later there will be others of the same numbers, with what was acknowledged since.
            let why = "it knows more than the log does: segments are missing or were cut, and what they had, though it was \
                       durable, is lost; stop now and put them back before anything is written, or restore a backup";
            return Err((why.into(), head.durable.max(head.position)));
        }
    }
    Ok(())
}

/// Drops what lies in segments that are gone: the keys were removed or written anew since, or copied to a segment that
/// is yet to be read. And what was flushed when the index was written, but still in it.
fn drop_gone(index: &Index, head: &Head, segments: &[Segment]) {
    let handles = head.rows.iter().map(|row| row.handle as usize + 1).max().unwrap_or(0);
    let mut known: Vec<Option<&Segment>> = vec![None; handles];
    for segment in segments.iter().filter(|segment| (segment.handle as usize) < handles) {
        known[segment.handle as usize] = Some(segment);
    }
    if head.facts.flushed == Position(0) && head.rows.iter().all(|row| known[row.handle as usize].is_some()) {
        return;
    }
    index.retain(|entry| {
        let segment = known.get(entry.location.handle() as usize).copied().flatten();
        segment.is_some_and(|segment| segment.position(entry.location.offset()) >= head.facts.flushed)
    });
}
