//! Making a value out of others: `append`, `prepend`, and what was uploaded in parts. What lies in extents already is
//! named again, not copied, so that it costs what is added and not what is there. When a value gets many small pieces
//! at one of its ends, they are copied into one, together with those before that are not much larger: a byte is then
//! copied a number of times that grows with the logarithm of what was added, and few pieces are left. (The merging of
//! log-structured trees, O'Neil et al. 1996.) What was uploaded in many small parts is copied once, into few pieces.
//! Everything is copied only where one record could not name the pieces.

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;

use super::CHUNK;
use super::error::{Error, Result};
use super::extent::Extents;
use super::large::{Large, Span, TableBlock};
use super::piece::{INLINE_ROWS, Piece, ROW, encoded_len};
use super::upload::{Made, Upload, Uploaded};

/// So many small pieces at one end stay as they are.
const RUN: usize = 16;
/// Pieces are joined up to this length. Bytes.
const MOST_JOINED: u64 = 64 << 20;

/// What was uploaded in more parts than this has neighbours joined, wherever they are.
const MANY: usize = 64;
/// Chunks that are copied before other jobs of the lane have their turn.
const STEP: usize = 16;

/// A part of a value to be composed.
pub enum Part {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// All of a value that a record names. The composed one must be written on the condition that it still does.
    Large(Large),
    /// What no record names yet.
    Uploaded(Uploaded),
}

/// Making a value out of parts.
pub struct Compose {
    extents: Arc<Extents>,
    stage: Stage,
}

enum Stage {
    /// Not looked at yet.
    Parts(Vec<Part>),
    Joining(Joining),
}

/// Parts in a row of which neighbours become one piece.
struct Joining {
    /// The elements of each piece that is still to be made.
    groups: std::vec::IntoIter<Vec<Element>>,
    copying: Option<Copying>,
    pieces: Vec<Piece>,
    made: Vec<Made>,
    kept: Vec<Large>,
}

/// Several elements on their way into one piece.
struct Copying {
    upload: Upload,
    row: Row,
}

/// Elements and how far they were read. Between two steps it holds no bytes but those that came in memory.
struct Row {
    elements: Vec<Element>,
    /// The element that is next, and where in it.
    next: (usize, u64),
}

/// One of what is put in a row.
enum Element {
    Bytes(Vec<u8>),
    Known(Span),
    Made(Made),
}

/// The chunk that was read last, by its file and where it lies there.
#[derive(Default)]
struct Reading {
    place: (u32, u64),
    chunk: Vec<u8>,
    block: TableBlock,
}

impl Compose {
    pub(crate) fn new(extents: Arc<Extents>, parts: Vec<Part>) -> Compose {
        Compose { extents, stage: Stage::Parts(parts) }
    }

    /// Joins the parts, writing what lies in no extent, in steps on the lane: other jobs have their turn in between.
    /// `done` is told of the outcome, there.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Damaged`], else what reading and writing met; that the store is being closed.
    pub fn carry_out(self, done: impl FnOnce(Result<Uploaded>) + Send + 'static) {
        self.queue(Box::new(done));
    }

    fn queue(self, done: Box<dyn FnOnce(Result<Uploaded>) + Send>) {
        let lane = self.extents.lane.clone();
        let job = move || match self.step() {
            Continue(rest) if rest.extents.lane.is_closed() => done(Err(Error::other("the store is being closed"))),
            Continue(rest) => rest.queue(done),
            Break(outcome) => done(outcome),
        };
        lane.submit(Box::new(job));
    }

    /// Reads and writes [`STEP`] chunks at most; may sleep.
    pub(crate) fn step(mut self) -> ControlFlow<Result<Uploaded>, Compose> {
        match self.advance().transpose() {
            None => Continue(self),
            Some(outcome) => Break(outcome),
        }
    }

    fn advance(&mut self) -> Result<Option<Uploaded>> {
        let mut reading = Reading::default();
        if let Stage::Parts(parts) = &mut self.stage {
            let (elements, kept) = put_in_a_row(std::mem::take(parts));
            if elements.iter().map(Element::len).sum::<u64>() <= CHUNK as u64 {
                return Row::new(elements).chunk(&mut reading).map(|value| Some(Uploaded::small(value)));
            }
            self.stage = Stage::Joining(Joining::new(elements, kept));
        }
        let Stage::Joining(joining) = &mut self.stage else { unreachable!("what is in a row stays so") };
        joining.advance(&self.extents, &mut reading)
    }
}

/// The elements of the parts, and the values that some of them belong to.
fn put_in_a_row(parts: Vec<Part>) -> (Vec<Element>, Vec<Large>) {
    let (mut elements, mut kept) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Bytes(bytes) if bytes.is_empty() => {}
            Part::Bytes(bytes) => elements.push(Element::Bytes(bytes)),
            Part::Uploaded(uploaded) => elements.extend(uploaded.into_made().into_iter().map(Element::Made)),
            Part::Large(large) => {
                elements.extend(large.spans().cloned().map(Element::Known));
                kept.push(large);
            }
        }
    }
    (elements, kept)
}

impl Joining {
    fn new(elements: Vec<Element>, kept: Vec<Large>) -> Joining {
        let lens: Vec<u64> = elements.iter().map(Element::len).collect();
        let rows: Vec<usize> = elements.iter().map(Element::row_bytes).collect();
        let is_new = elements.iter().all(|element| matches!(element, Element::Made(_)));
        let groups = if is_new && lens.len() > MANY { pack_few(&lens) } else { join_ends(&lens) };
        let mut rest = elements.into_iter();
        let groups = nameable(groups, &lens, &rows).into_iter().map(|count| rest.by_ref().take(count).collect());
        let groups: Vec<Vec<Element>> = groups.collect();
        Joining { groups: groups.into_iter(), copying: None, pieces: Vec::new(), made: Vec::new(), kept }
    }

    /// Gets on by a step. The value, once all is joined.
    fn advance(&mut self, extents: &Arc<Extents>, reading: &mut Reading) -> Result<Option<Uploaded>> {
        for _ in 0..STEP {
            while self.copying.is_none() {
                let Some(group) = self.groups.next() else {
                    let (made, kept) = (std::mem::take(&mut self.made), std::mem::take(&mut self.kept));
                    return Ok(Some(Uploaded::joined(&self.pieces, made, kept)));
                };
                self.begin(group, extents)?;
            }
            if let Some(mut copying) = self.copying.take() {
                match copying.chunk(reading)? {
                    true => copying.upload.finish().into_made().into_iter().for_each(|made| self.take(made)),
                    false => self.copying = Some(copying),
                }
            }
        }
        Ok(None)
    }

    /// The next piece: an element as it is, or several that are to be copied.
    fn begin(&mut self, mut group: Vec<Element>, extents: &Arc<Extents>) -> Result<()> {
        match (group.len(), group.pop()) {
            (1, Some(Element::Known(span))) => self.pieces.push(span.piece.known()),
            (1, Some(Element::Made(made))) => self.take(made),
            (_, last) => {
                group.extend(last);
                let upload = Upload::new(extents, group.iter().map(Element::len).sum())?;
                self.copying = Some(Copying { upload, row: Row::new(group) });
            }
        }
        Ok(())
    }

    fn take(&mut self, made: Made) {
        self.pieces.push(made.piece.clone());
        self.made.push(made);
    }
}

impl Copying {
    /// Copies a chunk. Whether it was the last one.
    fn chunk(&mut self, reading: &mut Reading) -> Result<bool> {
        let chunk = self.row.chunk(reading)?;
        let written = self.upload.chunk(chunk).run();
        self.upload.done(written)?;
        Ok(self.row.is_over())
    }
}

impl Row {
    fn new(elements: Vec<Element>) -> Row {
        Row { elements, next: (0, 0) }
    }

    fn is_over(&self) -> bool {
        self.next.0 == self.elements.len()
    }

    /// The next [`CHUNK`] bytes, or what is left.
    fn chunk(&mut self, reading: &mut Reading) -> Result<Vec<u8>> {
        let mut gathered = Vec::with_capacity(CHUNK);
        while gathered.len() < CHUNK && !self.is_over() {
            let (number, offset) = self.next;
            let element = &self.elements[number];
            let bytes = element.read(offset, reading)?;
            let taken = bytes.len().min(CHUNK - gathered.len());
            gathered.extend_from_slice(&bytes[..taken]);
            let offset = offset + taken as u64;
            self.next = if offset == element.len() { (number + 1, 0) } else { (number, offset) };
        }
        Ok(gathered)
    }
}

impl Element {
    fn len(&self) -> u64 {
        match self {
            Element::Bytes(bytes) => bytes.len() as u64,
            Element::Known(span) => span.piece.len,
            Element::Made(made) => made.piece.len,
        }
    }

    /// What its rows will take of the record. Bytes.
    fn row_bytes(&self) -> usize {
        match self {
            Element::Bytes(bytes) => rows_of(bytes.len() as u64),
            Element::Known(span) => span.piece.rows.len(),
            Element::Made(made) => made.piece.rows.len(),
        }
    }

    /// What it has from `offset` on, up to the end of the chunk.
    fn read<'a>(&'a self, offset: u64, reading: &'a mut Reading) -> Result<&'a [u8]> {
        let span = match self {
            Element::Bytes(bytes) => return Ok(&bytes[offset as usize..]),
            Element::Known(span) => span.clone(),
            Element::Made(made) => made.span(),
        };
        let index = offset / CHUNK as u64;
        let place = (span.piece.file, span.piece.base + index * CHUNK as u64);
        if reading.place != place {
            span.read(index, &mut reading.block, &mut reading.chunk)?;
            reading.place = place;
        }
        Ok(&reading.chunk[offset as usize % CHUNK..])
    }
}

fn rows_of(len: u64) -> usize {
    let chunks = len.div_ceil(CHUNK as u64);
    if chunks > INLINE_ROWS { 0 } else { chunks as usize * ROW }
}

/// How many elements in a row become one piece each time: `groups`, or all of them if a record could not name what comes
/// of that. Given are the lengths of the elements and what their rows take of a record.
fn nameable(groups: Vec<usize>, lens: &[u64], rows: &[usize]) -> Vec<usize> {
    let mut at = 0;
    let row_bytes = groups.iter().map(|&group| {
        at += group;
        if group == 1 { rows[at - 1] } else { rows_of(lens[at - group..at].iter().sum()) }
    });
    if encoded_len(row_bytes) <= CHUNK { groups } else { vec![lens.len()] }
}

/// Groups of elements of which those at the ends are joined if they are small.
fn join_ends(lens: &[u64]) -> Vec<usize> {
    let count = lens.len();
    let back = run(lens.iter().rev());
    let front = run(lens[..count - back].iter());
    let mut groups = vec![1; count - front - back];
    groups.splice(0..0, (front > 0).then_some(front));
    groups.extend((back > 0).then_some(back));
    groups
}

/// Groups of elements that nothing was joined of yet: no longer than must be for them to be few.
fn pack_few(lens: &[u64]) -> Vec<usize> {
    let (mut most, mut groups) = (CHUNK as u64, vec![1; lens.len()]);
    while groups.len() > MANY && most < MOST_JOINED {
        most *= 2;
        groups = pack(lens, most);
    }
    groups
}

/// Groups of elements, with at most `most` bytes in each that has several.
fn pack(lens: &[u64], most: u64) -> Vec<usize> {
    let (mut groups, mut sum) = (Vec::new(), 0);
    for &len in lens {
        match groups.last_mut() {
            Some(group) if sum + len <= most => (*group, sum) = (*group + 1, sum + len),
            _ => {
                groups.push(1);
                sum = len;
            }
        }
    }
    groups
}

/// How many elements from an end on are worth joining; 1: none are, 0: there is none.
fn run<'a>(lens: impl Iterator<Item = &'a u64>) -> usize {
    let (mut count, mut sum) = (0, 0);
    for &len in lens {
        if count > 0 && (len > 2 * sum || sum + len > MOST_JOINED) {
            break;
        }
        (count, sum) = (count + 1, sum + len);
    }
    if count > RUN { count } else { count.min(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(lens: &[u64]) -> Vec<usize> {
        let rows: Vec<usize> = lens.iter().map(|&len| rows_of(len)).collect();
        nameable(join_ends(lens), lens, &rows)
    }

    #[test]
    fn many_small_parts_are_packed_no_more_than_they_must_be() {
        let around = |len: u64, count: usize| [&[1][..], &vec![len; count], &[1]].concat();
        let chunk = CHUNK as u64;
        for (lens, wanted) in [
            (around(chunk + 1, 1598), 33..=MANY),
            (around(5 << 20, 100), 33..=MANY),
            (around(5 << 20, 5000), 300..=500),
            (vec![MOST_JOINED / 2 + 1; 200], 200..=200),
            (vec![10; MANY], MANY..=MANY),
        ] {
            let groups = pack_few(&lens);
            assert!(wanted.contains(&groups.len()), "{} pieces of {}", groups.len(), lens.len());
            assert_eq!(groups.iter().sum::<usize>(), lens.len());
        }
    }

    #[test]
    fn a_few_pieces_stay_as_they_are() {
        assert_eq!(groups(&[1 << 30, 10]), [1, 1]);
        assert_eq!(groups(&[10; RUN]), [1; RUN]);
        assert_eq!(groups(&[1]), [1]);
    }

    #[test]
    fn small_ones_at_an_end_are_joined() {
        let many = [&[1 << 30][..], &[10; RUN + 1]].concat();
        assert_eq!(groups(&many), [1, RUN + 1]);
        let reversed: Vec<u64> = many.iter().rev().copied().collect();
        assert_eq!(groups(&reversed), [RUN + 1, 1]);
        let parts = vec![MOST_JOINED / 2 + 1; 200];
        assert_eq!(groups(&parts).len(), 200, "large ones are not");
    }

    #[test]
    fn where_a_record_cannot_name_them_there_is_one() {
        let parts = vec![MOST_JOINED; 3000];
        assert_eq!(groups(&parts), [3000]);
    }

    /// Whatever is appended or prepended: few pieces, and few copies of a byte.
    #[test]
    fn appending_copies_a_byte_a_few_times() {
        for (added, times) in [(100_u64, 20_000), (70_000, 3000), (40 << 20, 100)] {
            let (mut lens, mut copied, mut most) = (vec![1 << 33], 0, 0);
            for number in 0..times {
                let at = if number % 3 == 0 { 0 } else { lens.len() };
                lens.insert(at, added);
                let rows: Vec<usize> = lens.iter().map(|&len| rows_of(len)).collect();
                let groups = nameable(join_ends(&lens), &lens, &rows);
                let mut rest = &lens[..];
                let joined = groups.into_iter().map(|count| {
                    let (group, after) = rest.split_at(count);
                    rest = after;
                    copied += if count > 1 { group.iter().sum::<u64>() } else { 0 };
                    group.iter().sum()
                });
                lens = joined.collect();
                most = most.max(lens.len());
            }
            println!("{times} times {added}: {copied} bytes copied, at most {most} pieces");
            assert!(copied <= 12 * added * times && most <= 2 * (RUN + 16) + (added * times / (32 << 20)) as usize);
        }
    }
}
