//! Memory for long operands of append and prepend. They are gathered whole, so that clients that send them slowly could
//! together hold any amount; therefore each worker has a bound for all of them. An operand takes its share before it is
//! read and gives it back when it is dropped. Who finds too little left waits in line and is not read from meanwhile:
//! TCP holds the client back. Used by one worker thread.

use super::table::Token;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all operands of a worker take together, but that a longer one may be alone. Bytes.
const BUDGET: usize = 16 * 1024 * 1024;

/// See the module's head.
#[derive(Default)]
pub struct Budget {
    taken: Arc<AtomicUsize>,
    /// Who waits, and for how much.
    line: VecDeque<(Token, usize)>,
}

/// So much of the budget; dropped, it is given back.
pub struct Share {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Budget {
    /// A share for this connection. `None`: it stands in line and comes to its turn, see [`Budget::next`].
    pub fn take(&mut self, token: Token, bytes: usize) -> Option<Share> {
        let waits = self.line.iter().any(|(waiting, _)| *waiting == token);
        if !waits {
            self.line.push_back((token, bytes));
        }
        if self.next() != Some(token) {
            return None;
        }
        self.line.pop_front();
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        Some(Share { taken: self.taken.clone(), bytes })
    }

    /// The first in line, if there is room for it now.
    pub fn next(&self) -> Option<Token> {
        let taken = self.taken.load(Ordering::Relaxed);
        let (token, bytes) = *self.line.front()?;
        (taken == 0 || bytes <= BUDGET.saturating_sub(taken)).then_some(token)
    }

    /// The connection is closed: it does not wait any more.
    pub fn leave(&mut self, token: Token) {
        self.line.retain(|(waiting, _)| *waiting != token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u32) -> Token {
        Token::reserved(number)
    }

    #[test]
    fn the_line_is_kept() {
        let mut budget = Budget::default();
        let most = budget.take(token(1), BUDGET - 10).unwrap();
        assert!(budget.take(token(2), 11).is_none());
        assert!(budget.take(token(3), 1).is_none(), "it would fit, but another one was first");
        assert_eq!(budget.next(), None);
        drop(most);
        assert_eq!(budget.next(), Some(token(2)));
        assert!(budget.take(token(3), 1).is_none());
        let _second = budget.take(token(2), 11).unwrap();
        let _third = budget.take(token(3), 1).unwrap();
        assert_eq!(budget.next(), None);
    }

    #[test]
    fn one_that_is_too_long_has_it_alone() {
        let mut budget = Budget::default();
        let small = budget.take(token(1), 1).unwrap();
        assert!(budget.take(token(2), BUDGET * 2).is_none());
        drop(small);
        let _long = budget.take(token(2), BUDGET * 2).unwrap();
        assert!(budget.take(token(3), 1).is_none());
    }

    #[test]
    fn who_leaves_the_line_holds_nobody_up() {
        let mut budget = Budget::default();
        let _most = budget.take(token(1), BUDGET - 10).unwrap();
        assert!(budget.take(token(2), 11).is_none());
        assert!(budget.take(token(3), 10).is_none());
        budget.leave(token(2));
        assert_eq!(budget.next(), Some(token(3)));
    }
}
