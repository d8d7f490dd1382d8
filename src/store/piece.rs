//! The form of large values: what their records say, and what lies in the extent files. `kingdb.5` has the layout; this
//! file is its only reader and writer. Pure functions over bytes; any thread.
//!
//! A value is one *piece*, or several in a row where it was appended to. A piece is a range of one extent file: its
//! chunks, each at a fixed place, and where these are many, the blocks of its table behind them. What a record says is
//! covered by the record's checksum; a block of a table has one of its own. Both are written once and never changed.

use super::CHUNK;
use super::error::Result;
use super::extent::padded;
use super::mend::{Flip, flip, flipped_bit, has_blank_sector};
use super::record::{Fields, Kind, le_u32, le_u64};
use crate::sys;

/// Bytes per chunk in a table.
pub(crate) const ROW: usize = 8;
/// A block of a table that lies in the extent. Bytes.
pub(crate) const BLOCK: usize = 4096;
/// Rows of such a block, behind its checksum and four zeros.
pub(crate) const BLOCK_ROWS: u64 = ((BLOCK - BLOCK_HEAD) / ROW) as u64;
const BLOCK_HEAD: usize = 8;
/// A piece of up to so many chunks has its table in the record: most values then take one read less.
pub(crate) const INLINE_ROWS: u64 = 64;
/// Record bytes before the first row of a value in the plain form.
const PLAIN_HEAD: usize = 24;
/// Record bytes before the first piece of a value in the form of a chain, and before each piece's rows.
const CHAIN_HEAD: usize = 16;
const PIECE_HEAD: usize = 24;
/// Which form it is stands where the plain one has a zero.
const CHAIN: u32 = 1;
const COMPRESSED: u32 = 1 << 31;
/// The record was the first to name this piece.
const FRESH: u32 = 1 << 31;
/// A value's bytes, and where a range may end, at most: as the kernel counts in files.
pub(crate) const MAX_LEN: u64 = 1 << 62;

/// A part of a large value, in a range of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Number of the extent file.
    pub file: u32,
    /// Start of the range.
    pub base: u64,
    /// Bytes of the value. Never zero.
    pub len: u64,
    /// No earlier record names it: whether it is whole, only its bytes tell.
    pub fresh: bool,
    /// One row per chunk; none where the table lies behind the chunks.
    pub rows: Box<[u8]>,
}

/// Where a piece lies: what is given back to the file system as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Range {
    /// Number of the extent file.
    pub file: u32,
    pub base: u64,
    /// Bytes, the last block included.
    pub len: u64,
}

impl Range {
    pub fn place(&self) -> (u32, u64) {
        (self.file, self.base)
    }
}

/// One row of a table, understood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub offset: u64,
    /// Bytes as stored.
    pub stored: usize,
    pub compressed: bool,
    pub crc: u32,
    /// Bytes of the value.
    pub raw: usize,
}

impl Piece {
    /// How many chunks; all but the last hold [`CHUNK`] bytes.
    pub fn chunks(&self) -> u64 {
        self.len.div_ceil(CHUNK as u64)
    }

    /// The same as later records name it.
    pub fn known(&self) -> Piece {
        Piece { fresh: false, ..self.clone() }
    }

    pub fn has_blocks(&self) -> bool {
        self.rows.is_empty()
    }

    /// Where block `number` of its table lies, which has the rows from `number` times [`BLOCK_ROWS`] on.
    pub fn block_offset(&self, number: u64) -> u64 {
        self.base + padded(self.len) + number * BLOCK as u64
    }

    pub fn range(&self) -> Range {
        Range { file: self.file, base: self.base, len: range_len(self.len, self.has_blocks()) }
    }

    /// Chunk `index`; `block` is the block of its table that has its row, if it has any. `None`: the row makes no sense.
    pub fn chunk(&self, index: u64, block: &[u8]) -> Option<Chunk> {
        let row = match self.has_blocks() {
            true => &block[BLOCK_HEAD + (index % BLOCK_ROWS) as usize * ROW..],
            false => &self.rows[index as usize * ROW..],
        };
        let (stored, crc) = (le_u32(row, 0), le_u32(row, 4));
        let raw = (self.len - index * CHUNK as u64).min(CHUNK as u64) as usize;
        let (offset, compressed) = (self.base + index * CHUNK as u64, stored & COMPRESSED != 0);
        let stored = (stored & !COMPRESSED) as usize;
        let makes_sense = if compressed { stored > 0 && stored < raw } else { stored == raw };
        makes_sense.then_some(Chunk { offset, stored, compressed, crc, raw })
    }

    /// Looks at everything in its range: `load` reads at an offset, `unsound` is told where what was read is not what
    /// was written, and whether by a single bit, as decay has it. Both may end it with an error.
    pub fn survey(
        &self,
        load: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
        unsound: &mut dyn FnMut(u64, bool) -> Result<()>,
    ) -> Result<()> {
        let (mut block, mut stored) = ([0; BLOCK], vec![0; CHUNK]);
        for index in 0..self.chunks() {
            if self.has_blocks() && index % BLOCK_ROWS == 0 {
                let offset = self.block_offset(index / BLOCK_ROWS);
                load(offset, &mut block)?;
                if !is_sound_block(&block, self.file, offset) {
                    unsound(offset, mend_block(&mut block, self.file, offset))?;
                }
            }
            let Some(chunk) = self.chunk(index, &block) else {
                unsound(self.base + index * CHUNK as u64, false)?;
                continue;
            };
            let stored = &mut stored[..chunk.stored];
            load(chunk.offset, stored)?;
            match checksum(stored, self.file, chunk.offset) ^ chunk.crc {
                0 => {}
                syndrome => {
                    let by_a_bit = flipped_bit(syndrome, chunk.stored).is_some();
                    unsound(chunk.offset, by_a_bit && !has_blank_sector(stored, chunk.offset))?;
                }
            }
        }
        Ok(())
    }
}

/// Bytes of the range of a piece of `len` bytes.
pub(crate) fn range_len(len: u64, blocks: bool) -> u64 {
    let blocks = if blocks { len.div_ceil(CHUNK as u64).div_ceil(BLOCK_ROWS) } else { 0 };
    padded(len) + blocks * BLOCK as u64
}

/// Seeded with where the bytes lie: what turns up elsewhere is damage.
pub(crate) fn checksum(stored: &[u8], file: u32, offset: u64) -> u32 {
    sys::crc::crc32c(checksum_of_none(file, offset), stored)
}

/// What it begins with.
pub(crate) fn checksum_of_none(file: u32, offset: u64) -> u32 {
    file.rotate_left(16) ^ (offset >> 12) as u32
}

/// A chunk's row.
#[inline(never)]
pub(crate) fn row(stored: &[u8], compressed: bool, file: u32, offset: u64) -> [u8; ROW] {
    let len = stored.len() as u32 | if compressed { COMPRESSED } else { 0 };
    row_of(len, checksum(stored, file, offset))
}

/// The same from its length, with the bit for what is compressed, and its checksum.
pub(crate) fn row_of(len: u32, checksum: u32) -> [u8; ROW] {
    let mut row = [0; ROW];
    row[..4].copy_from_slice(&len.to_le_bytes());
    row[4..].copy_from_slice(&checksum.to_le_bytes());
    row
}

/// Puts the row of chunk `index` into the block that has it.
pub(crate) fn put_row(block: &mut [u8; BLOCK], index: u64, row: [u8; ROW]) {
    let at = BLOCK_HEAD + (index % BLOCK_ROWS) as usize * ROW;
    block[at..at + ROW].copy_from_slice(&row);
}

/// Sets a block's checksum: it is whole.
pub(crate) fn seal_block(block: &mut [u8; BLOCK], file: u32, offset: u64) {
    let crc = checksum(&block[4..], file, offset);
    block[..4].copy_from_slice(&crc.to_le_bytes());
}

pub(crate) fn is_sound_block(block: &[u8; BLOCK], file: u32, offset: u64) -> bool {
    checksum(&block[4..], file, offset) == le_u32(block, 0)
}

/// Undoes a single flipped bit. Whether there was one.
fn mend_block(block: &mut [u8; BLOCK], file: u32, offset: u64) -> bool {
    let syndrome = checksum(&block[4..], file, offset) ^ le_u32(block, 0);
    match flipped_bit(syndrome, BLOCK - 4) {
        Some(Flip::Message(bit)) => flip(&mut block[4..], bit),
        Some(Flip::Checksum) => {}
        None => return false,
    }
    true
}

/// The body of a record that names these pieces, in their order.
pub(crate) fn encode(pieces: &[Piece]) -> Vec<u8> {
    // The plain form says that the piece is fresh. Of an earlier version's, only it has room for all the rows of the
    // longest.
    if let [piece] = pieces
        && !piece.has_blocks()
        && (piece.fresh || encoded_len([piece.rows.len()].into_iter()) > CHUNK)
    {
        let mut body = Vec::with_capacity(PLAIN_HEAD + piece.rows.len());
        put_piece(&mut body, piece, 0);
        return body;
    }
    let mut body = Vec::with_capacity(encoded_len(pieces.iter().map(|piece| piece.rows.len())));
    body.extend_from_slice(&(pieces.len() as u32).to_le_bytes());
    body.extend_from_slice(&CHAIN.to_le_bytes());
    body.extend_from_slice(&pieces.iter().map(|piece| piece.len).sum::<u64>().to_le_bytes());
    for piece in pieces {
        let fresh = if piece.fresh { FRESH } else { 0 };
        put_piece(&mut body, piece, (piece.rows.len() / ROW) as u32 | fresh);
    }
    body
}

/// The body of a later record that names the same pieces as the one with this body. `None`: it makes no sense.
pub(crate) fn encode_known(body: &[u8]) -> Option<Vec<u8>> {
    let known: Vec<Piece> = parse(body)?.iter().map(Piece::known).collect();
    Some(encode(&known))
}

/// Bytes of the body of a chain, given the bytes of the rows of each piece.
pub(crate) fn encoded_len(rows: impl Iterator<Item = usize>) -> usize {
    CHAIN_HEAD + rows.map(|rows| PIECE_HEAD + rows).sum::<usize>()
}

/// Bytes of the large value that a record names.
pub(crate) fn named(fields: &Fields<'_>) -> u64 {
    match fields.body {
        body if fields.kind != Kind::Large || body.len() < PLAIN_HEAD => 0,
        body if le_u32(body, 4) == CHAIN => le_u64(body, 8),
        body => le_u64(body, 16),
    }
}

fn put_piece(body: &mut Vec<u8>, piece: &Piece, second: u32) {
    body.extend_from_slice(&piece.file.to_le_bytes());
    body.extend_from_slice(&second.to_le_bytes());
    body.extend_from_slice(&piece.base.to_le_bytes());
    body.extend_from_slice(&piece.len.to_le_bytes());
    body.extend_from_slice(&piece.rows);
}

/// The pieces that the body of a record names. `None`: it makes no sense.
pub(crate) fn parse(body: &[u8]) -> Option<Vec<Piece>> {
    if body.len() < PIECE_HEAD {
        return None;
    }
    if le_u32(body, 4) == 0 {
        let piece = take_piece(body, (body.len() - PLAIN_HEAD) / ROW, true)?;
        return (!piece.has_blocks() && PLAIN_HEAD + piece.rows.len() == body.len()).then(|| vec![piece]);
    }
    let (count, mut rest, mut sum) = (le_u32(body, 0) as usize, &body[CHAIN_HEAD..], 0_u64);
    let mut pieces = Vec::with_capacity(count.min(body.len() / PIECE_HEAD));
    while !rest.is_empty() {
        let second = le_u32(rest.get(..PIECE_HEAD)?, 4);
        let piece = take_piece(rest, (second & !FRESH) as usize, second & FRESH != 0)?;
        rest = &rest[PIECE_HEAD + piece.rows.len()..];
        sum = sum.checked_add(piece.len)?;
        pieces.push(piece);
    }
    let makes_sense = le_u32(body, 4) == CHAIN && count == pieces.len() && count > 0 && sum == le_u64(body, 8);
    makes_sense.then_some(pieces)
}

/// The piece at the start of `bytes`, which has so many rows there: one for each chunk, or none.
fn take_piece(bytes: &[u8], rows: usize, fresh: bool) -> Option<Piece> {
    let head = bytes.get(..PIECE_HEAD)?;
    let (file, base, len) = (le_u32(head, 0), le_u64(head, 8), le_u64(head, 16));
    let rows = bytes.get(PIECE_HEAD..PIECE_HEAD.checked_add(rows.checked_mul(ROW)?)?)?;
    let piece = Piece { file, base, len, fresh, rows: rows.into() };
    let fits = len > 0 && len <= MAX_LEN && base <= MAX_LEN;
    (fits && (rows.is_empty() || (rows.len() / ROW) as u64 == piece.chunks())).then_some(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(file: u32, len: u64, blocks: bool) -> Piece {
        let rows = if blocks { 0 } else { len.div_ceil(CHUNK as u64) as usize * ROW };
        Piece { file, base: 4096, len, fresh: file == 7, rows: vec![file as u8; rows].into() }
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        let (small, large) = (piece(7, 70_000, false), piece(8, 1 << 40, true));
        let row = [small.clone(), large.clone(), small.known()];
        for pieces in [&row[..1], &row[1..2], &row[2..], &row, &vec![large; 2000]] {
            let body = encode(pieces);
            assert!(parse(&body).unwrap() == pieces);
            let known = parse(&encode_known(&body).unwrap()).unwrap();
            assert!(known.iter().zip(pieces).all(|(known, piece)| *known == piece.known()));
            assert!(body.len() <= encoded_len(pieces.iter().map(|piece| piece.rows.len())));
        }
    }

    #[test]
    fn the_longest_piece_of_an_earlier_version_still_fits_a_record() {
        let longest = piece(8, 8189 * CHUNK as u64, false);
        let body = encode(&[longest.known()]);
        assert!(body.len() == CHUNK && parse(&body).unwrap() == [Piece { fresh: true, ..longest }]);
    }

    #[test]
    fn a_body_that_was_cut_or_has_too_much_makes_no_sense() {
        let body = encode(&[piece(7, 70_000, false), piece(8, 1 << 40, true)]);
        for len in 0..body.len() {
            assert!(parse(&body[..len]).is_none(), "{len} bytes");
        }
        assert!(parse(&[&body[..], &[0; 8]].concat()).is_none());
        let plain = encode(&[piece(7, 70_000, false)]);
        for len in 0..plain.len() {
            assert!(parse(&plain[..len]).is_none(), "{len} bytes");
        }
        assert!(parse(&[&plain[..], &[0; 8]].concat()).is_none());
    }

    #[test]
    fn a_flipped_bit_of_a_block_is_noticed_and_undone() {
        let mut block = [0; BLOCK];
        put_row(&mut block, BLOCK_ROWS + 3, row(b"stored", true, 5, 4096));
        seal_block(&mut block, 5, 1 << 20);
        let sound = block;
        assert!(is_sound_block(&block, 5, 1 << 20) && !is_sound_block(&block, 5, 1 << 21));
        for bit in [0, 31, 32, 100, BLOCK * 8 - 1] {
            flip(&mut block, bit);
            assert!(!is_sound_block(&block, 5, 1 << 20));
            assert!(mend_block(&mut block, 5, 1 << 20));
            assert_eq!(block[4..], sound[4..]);
            block = sound;
        }
    }
}
