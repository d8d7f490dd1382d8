//! Unsent output. In the common case a reply never comes here: it is written into the worker's turn buffer
//! and sent from there. What the socket does not take, and what has to wait for the log, moves into a
//! [`Queue`] of fixed-size chunks out of the worker's [`Pool`].
//!
//! The pool keeps a bounded number of free chunks, so that a burst of slow readers does not leave its memory
//! behind for ever. Used by one worker thread.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Size of a chunk. Bytes.
pub const CHUNK: usize = 16 * 1024;
/// Free chunks kept.
const KEPT: usize = 64;

type Chunk = Box<[u8; CHUNK]>;

/// Free chunks of one worker.
pub struct Pool(Vec<Chunk>);

impl Pool {
    /// Empty; chunks are made when they are first needed.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    fn take(&mut self) -> Chunk {
        self.0.pop().unwrap_or_else(|| Box::new([0; CHUNK]))
    }

    fn give(&mut self, chunk: Chunk) {
        if self.0.len() < KEPT {
            self.0.push(chunk);
        }
    }
}

/// Bytes on their way out of one connection. Empty, it holds no memory.
#[derive(Default)]
pub struct Queue {
    chunks: VecDeque<Chunk>,
    /// Where the bytes begin in the first chunk.
    start: usize,
    len: usize,
}

impl Queue {
    /// Bytes in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Memory it holds. Bytes.
    #[inline]
    pub fn holds(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `bytes`.
    pub fn push(&mut self, mut bytes: &[u8], pool: &mut Pool) {
        while !bytes.is_empty() {
            let end = self.start + self.len;
            if end == self.chunks.len() * CHUNK {
                self.chunks.push_back(pool.take());
            }
            let chunk = &mut self.chunks[end / CHUNK][end % CHUNK..];
            let n = chunk.len().min(bytes.len());
            chunk[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.len += n;
        }
    }

    /// The first bytes as slices, as many as fit into `slices`, leaving out those past the first `limit`
    /// bytes. Returns how many slices were set and how many bytes they hold.
    pub fn slices<'a>(&'a self, limit: usize, slices: &mut [IoSlice<'a>]) -> (usize, usize) {
        let mut left = limit.min(self.len);
        let mut start = self.start;
        let mut used = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            if left == 0 {
                break;
            }
            let n = left.min(CHUNK - start);
            *slice = IoSlice::new(&chunk[start..start + n]);
            (left, start, used) = (left - n, 0, used + 1);
        }
        (used, limit.min(self.len) - left)
    }

    /// Drops the first `n` bytes: they are sent.
    pub fn consume(&mut self, n: usize, pool: &mut Pool) {
        assert!(n <= self.len, "out of range");
        self.len -= n;
        self.start += n;
        while self.start >= CHUNK || (self.len == 0 && !self.chunks.is_empty()) {
            pool.give(self.chunks.pop_front().expect("a chunk holds the bytes before `start`"));
            self.start = self.start.saturating_sub(CHUNK);
        }
        self.forget_if_empty();
    }

    /// Drops all but the first `len` bytes: they are not to be sent.
    pub fn truncate(&mut self, len: usize, pool: &mut Pool) {
        self.len = self.len.min(len);
        let needed = if self.len == 0 { 0 } else { (self.start + self.len).div_ceil(CHUNK) };
        self.chunks.drain(needed..).for_each(|chunk| pool.give(chunk));
        self.forget_if_empty();
    }

    /// The deque's own array is given back too: an idle connection holds nothing.
    fn forget_if_empty(&mut self) {
        if self.len == 0 {
            assert!(self.chunks.is_empty());
            (self.chunks, self.start) = (VecDeque::new(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(queue: &Queue, limit: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 8];
        let (used, bytes) = queue.slices(limit, &mut slices);
        let all: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
        assert_eq!(all.len(), bytes);
        all
    }

    #[test]
    fn what_goes_in_comes_out_whatever_the_steps() {
        let bytes: Vec<u8> = (0..CHUNK * 3 + 77).map(|i| (i % 251) as u8).collect();
        let (mut pool, mut queue) = (Pool::new(), Queue::default());
        for piece in bytes.chunks(1000) {
            queue.push(piece, &mut pool);
        }
        let mut out = Vec::new();
        for step in [1, CHUNK - 1, 1, CHUNK, 5000].into_iter().cycle() {
            let step = step.min(queue.len());
            out.extend_from_slice(&contents(&queue, step));
            queue.consume(step, &mut pool);
            if queue.is_empty() {
                break;
            }
        }
        assert_eq!(out, bytes);
        assert_eq!((queue.chunks.capacity(), queue.start, pool.0.len()), (0, 0, 4));
    }

    #[test]
    fn the_tail_can_be_taken_back() {
        let (mut pool, mut queue) = (Pool::new(), Queue::default());
        queue.push(&[b'a'; CHUNK], &mut pool);
        queue.consume(CHUNK - 2, &mut pool);
        queue.push(&[b'b'; CHUNK], &mut pool);
        queue.truncate(3, &mut pool);
        assert_eq!(contents(&queue, 100), b"aab");
        queue.push(b"c", &mut pool);
        assert_eq!(contents(&queue, 3), b"aab");
        assert_eq!(contents(&queue, 100), b"aabc");
        queue.truncate(0, &mut pool);
        assert!(queue.is_empty() && queue.chunks.is_empty() && queue.start == 0);
    }

    #[test]
    fn free_chunks_are_bounded() {
        let (mut pool, mut queue) = (Pool::new(), Queue::default());
        queue.push(&vec![0; CHUNK * (KEPT + 5)], &mut pool);
        queue.consume(queue.len(), &mut pool);
        assert_eq!(pool.0.len(), KEPT);
    }
}
