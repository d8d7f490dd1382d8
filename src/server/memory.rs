//! Memory that connections hold for what is on its way: values being received, chunks on the disk lane, input that was
//! not executed, replies that were not sent. All of it is counted, over all workers, and bounded by an option. When
//! half is taken, who does not read his replies gets none made, and little is read ahead; when all is, transfers that
//! would need more wait in line, and TCP holds their clients back. One goes on whatever the others hold: those who wait
//! hold something too, and who does not read may do so for ever. Small requests go on either way: what they need is taken
//! and given back within a turn.
//!
//! The count is kept by the workers, after each connection's turn; so it is a turn late, and what one turn can add (a
//! worker's buffer of replies, and that of chunks received at once) is beside it.

use super::table::Token;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bound, and how much of it is taken. Any thread.
pub struct Memory {
    limit: usize,
    taken: AtomicUsize,
    /// By transfers.
    moving: AtomicUsize,
}

/// Memory that one connection holds. Bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Holds {
    pub all: usize,
    /// For a value on its way, until its client or the disk gets on, which has a limit of time.
    pub transfer: usize,
}

impl Memory {
    /// Of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, taken: AtomicUsize::new(0), moving: AtomicUsize::new(0) }
    }

    /// Somebody who held `before` holds `after`.
    pub fn change(&self, before: Holds, after: Holds) {
        self.take(before.all, after.all);
        self.moving.fetch_add(after.transfer.wrapping_sub(before.transfer), Ordering::Relaxed);
    }

    /// The same of what is no connection's. Bytes.
    pub fn take(&self, before: usize, after: usize) {
        self.taken.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Bytes taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether `bytes` more would be too much. A single transfer may have them whatever the bound is.
    pub fn is_spent(&self, bytes: usize) -> bool {
        self.moving.load(Ordering::Relaxed) > 0 && self.taken().saturating_add(bytes) > self.limit
    }

    /// Whether so little is taken that `bytes` more may be, only to make things cheaper.
    pub fn is_plenty(&self, bytes: usize) -> bool {
        self.taken().saturating_add(bytes) <= self.limit / 3
    }

    /// Whether all is taken, or more.
    pub fn is_gone(&self) -> bool {
        self.taken() > self.limit
    }

    /// Whether nothing is to be held that can be avoided.
    pub fn is_tight(&self) -> bool {
        self.taken() > self.limit / 2
    }
}

/// Who waits for memory, and for how much, the first first. Used by one worker thread.
#[derive(Default)]
pub struct Line(VecDeque<(Token, usize)>);

impl Line {
    /// Whether a connection may have `bytes` now. Otherwise it stands in line and comes to its turn, see [`Line::next`].
    pub fn admit(&mut self, token: Token, bytes: usize, memory: &Memory) -> bool {
        let place = self.0.iter().position(|(waiting, _)| *waiting == token);
        let admitted = place.unwrap_or(self.0.len()) == 0 && !memory.is_spent(bytes);
        match (admitted, place) {
            (true, Some(_)) => drop(self.0.pop_front()),
            (true, None) => {}
            (false, None) => self.0.push_back((token, bytes)),
            (false, Some(place)) => self.0[place].1 = bytes,
        }
        admitted
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first in line, if there is enough for it now.
    pub fn next(&self, memory: &Memory) -> Option<Token> {
        let (token, bytes) = *self.0.front()?;
        (!memory.is_spent(bytes)).then_some(token)
    }

    /// The connection goes on. If it was the first in line and has found that it needs nothing, the next one is.
    #[inline]
    pub fn pass(&mut self, token: Token) {
        if self.0.front().is_some_and(|(first, _)| *first == token) {
            self.0.pop_front();
        }
    }

    /// The connection is closed: it does not wait any more.
    pub fn leave(&mut self, token: Token) {
        self.0.retain(|(waiting, _)| *waiting != token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u32) -> Token {
        Token::reserved(number)
    }

    /// Of a transfer.
    fn bytes(all: usize) -> Holds {
        Holds { all, transfer: all }
    }

    #[test]
    fn the_line_is_kept() {
        let (memory, mut line) = (Memory::new(100), Line::default());
        assert!(line.admit(token(1), 90, &memory));
        memory.change(bytes(0), bytes(90));
        assert!(!line.admit(token(2), 11, &memory));
        assert!(!line.admit(token(3), 1, &memory), "it would fit, but another one was first");
        assert_eq!(line.next(&memory), None);
        memory.change(bytes(90), bytes(0));
        assert_eq!(line.next(&memory), Some(token(2)));
        assert!(!line.admit(token(3), 1, &memory));
        assert!(line.admit(token(2), 11, &memory) && line.admit(token(3), 1, &memory));
        assert!(line.is_empty());
    }

    #[test]
    fn one_goes_on_whatever_those_hold_who_wait() {
        let (memory, mut line) = (Memory::new(100), Line::default());
        memory.change(bytes(0), bytes(80));
        memory.change(bytes(0), Holds { all: 60, transfer: 0 });
        assert!(!line.admit(token(1), 30, &memory) && !line.admit(token(2), 30, &memory));
        memory.change(bytes(80), bytes(0));
        assert!(line.admit(token(1), 30, &memory), "it need not wait for those behind it");
        memory.change(bytes(0), bytes(50));
        assert!(!line.admit(token(2), 30, &memory));
    }

    #[test]
    fn one_that_needs_too_much_has_it_alone() {
        let (memory, mut line) = (Memory::new(100), Line::default());
        memory.change(bytes(0), bytes(1));
        assert!(!line.admit(token(1), 200, &memory));
        memory.change(bytes(1), bytes(0));
        assert!(line.admit(token(1), 200, &memory));
    }

    #[test]
    fn who_needs_nothing_any_more_lets_the_next_one_pass() {
        let (memory, mut line) = (Memory::new(100), Line::default());
        memory.change(bytes(0), bytes(95));
        assert!(!line.admit(token(1), 10, &memory) && !line.admit(token(2), 10, &memory));
        line.pass(token(2));
        assert!(!line.admit(token(2), 5, &memory), "only the first in line is asked to go on");
        line.pass(token(1));
        assert!(line.admit(token(2), 5, &memory) && line.is_empty());
    }

    #[test]
    fn who_needs_more_than_before_waits_for_that() {
        let (memory, mut line) = (Memory::new(100), Line::default());
        memory.change(bytes(0), bytes(95));
        assert!(!line.admit(token(1), 10, &memory));
        memory.change(bytes(95), bytes(50));
        assert_eq!(line.next(&memory), Some(token(1)));
        assert!(!line.admit(token(1), 60, &memory));
        assert_eq!(line.next(&memory), None);
    }

    #[test]
    fn who_leaves_the_line_holds_nobody_up() {
        let (memory, mut line) = (Memory::new(100), Line::default());
        memory.change(bytes(0), bytes(95));
        assert!(!line.admit(token(1), 10, &memory) && !line.admit(token(2), 5, &memory));
        line.leave(token(1));
        assert!(line.admit(token(2), 5, &memory));
        assert!(memory.is_tight());
    }
}
