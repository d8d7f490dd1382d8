//! Making a value out of others: `append`, `prepend`, and what was uploaded in parts. What lies in extents already is
//! named again, not copied, so that it costs what is added and not what is there. When a value gets many small pieces
//! at one of its ends, they are copied into one, together with those before that are not much larger: a byte is then
//! copied a number of times that grows with the logarithm of what was added, and few pieces are left. (The merging of
//! log-structured trees, O'Neil et al. 1996.) What was uploaded in many small parts is copied once, into few pieces.
//! Everything is copied only where one record could not name the pieces.

use std::sync::Arc;

use super::CHUNK;
use super::error::Result;
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
    pub(crate) extents: Arc<Extents>,
    pub(crate) parts: Vec<Part>,
}

/// One of what is put in a row.
enum Element {
    Bytes(Vec<u8>),
    Known(Span),
    Made(Made),
}

impl Compose {
    /// Joins the parts, writing what lies in no extent; may sleep.
    ///
    /// # Errors
    /// [`super::Error::Full`], [`super::Error::Damaged`], else what reading and writing met.
    pub fn run(self) -> Result<Uploaded> {
        let (mut elements, mut kept) = (Vec::new(), Vec::new());
        for part in self.parts {
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
        let lens: Vec<u64> = elements.iter().map(Element::len).collect();
        if lens.iter().sum::<u64>() <= CHUNK as u64 {
            let mut value = Vec::new();
            for element in &elements {
                element.each_chunk(&mut |chunk| {
                    value.extend_from_slice(chunk);
                    Ok(())
                })?;
            }
            return Ok(Uploaded::small(value));
        }
        let rows: Vec<usize> = elements.iter().map(Element::row_bytes).collect();
        let is_new = elements.iter().all(|element| matches!(element, Element::Made(_)));
        let groups = if is_new && lens.len() > MANY { pack_few(&lens) } else { join_ends(&lens) };
        let (mut pieces, mut made) = (Vec::new(), Vec::new());
        let mut rest = elements.into_iter();
        for group in nameable(groups, &lens, &rows) {
            let group: Vec<Element> = rest.by_ref().take(group).collect();
            pieces.push(join(group, &self.extents, &mut made)?);
        }
        Ok(Uploaded::joined(&pieces, made, kept))
    }
}

/// One piece of these elements.
fn join(mut group: Vec<Element>, extents: &Arc<Extents>, all: &mut Vec<Made>) -> Result<Piece> {
    let made = match (group.len(), group.pop()) {
        (1, Some(Element::Known(span))) => return Ok(span.piece.known()),
        (1, Some(Element::Made(made))) => vec![made],
        (_, last) => {
            group.extend(last);
            copy(&group, extents)?.into_made()
        }
    };
    let piece = made[0].piece.clone();
    all.extend(made);
    Ok(piece)
}

fn copy(elements: &[Element], extents: &Arc<Extents>) -> Result<Uploaded> {
    let mut upload = Upload::new(extents, elements.iter().map(Element::len).sum())?;
    let mut gathered = Vec::with_capacity(2 * CHUNK);
    for element in elements {
        element.each_chunk(&mut |chunk| {
            gathered.extend_from_slice(chunk);
            upload.take_whole_chunks(&mut gathered)
        })?;
    }
    if !gathered.is_empty() {
        let last = upload.chunk(gathered).run();
        upload.done(last)?;
    }
    Ok(upload.finish())
}

impl Upload {
    fn take_whole_chunks(&mut self, gathered: &mut Vec<u8>) -> Result<()> {
        while gathered.len() >= CHUNK {
            let rest = gathered.split_off(CHUNK);
            let written = self.chunk(std::mem::replace(gathered, rest)).run();
            self.done(written)?;
        }
        Ok(())
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

    fn each_chunk(&self, see: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let span = match self {
            Element::Bytes(bytes) => return bytes.chunks(CHUNK).try_for_each(see),
            Element::Known(span) => span.clone(),
            Element::Made(made) => made.span(),
        };
        let (mut block, mut chunk) = (TableBlock::default(), Vec::new());
        (0..span.piece.chunks()).try_for_each(|index| {
            span.read(index, &mut block, &mut chunk)?;
            see(&chunk)
        })
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
