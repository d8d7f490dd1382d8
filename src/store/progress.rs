//! How far the log has come: written to the page cache, durable on the disk; and who waits for it.
//!
//! Replies leave when the *mark* has passed what they depend on: the written position, or, under [`Sync::Always`],
//! the durable one. Workers that must wait register a position and are woken once, from whichever thread moved the
//! mark. Any thread.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};

use super::location::Position;
use super::options::Sync;

/// How a waiting thread is woken; called from any thread, must not block.
pub type Wake = Box<dyn Fn() + Send + std::marker::Sync>;

/// A thread that may wait for the mark: an event loop, usually.
pub struct Waiter(Arc<Wait>);

struct Wait {
    /// Zero: not waiting.
    wanted: AtomicU64,
    wake: Wake,
}

pub(crate) struct Progress {
    pub policy: Sync,
    written: AtomicU64,
    durable: AtomicU64,
    waiters: Mutex<Vec<Arc<Wait>>>,
    /// How many wait, so that moving the mark costs one load while nobody does.
    waiting: AtomicUsize,
    failed: AtomicBool,
    failure: OnceLock<Arc<str>>,
}

impl Progress {
    /// Everything before `start` is durable.
    pub fn new(policy: Sync, start: Position) -> Progress {
        Progress {
            policy,
            written: AtomicU64::new(start.0),
            durable: AtomicU64::new(start.0),
            waiters: Mutex::default(),
            waiting: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            failure: OnceLock::new(),
        }
    }

    pub fn mark(&self) -> Position {
        match self.policy {
            Sync::Always => self.durable(),
            Sync::None | Sync::Interval => self.written(),
        }
    }

    pub fn written(&self) -> Position {
        Position(self.written.load(SeqCst))
    }

    pub fn durable(&self) -> Position {
        Position(self.durable.load(SeqCst))
    }

    /// The page cache has everything before `position`.
    pub fn advance_written(&self, position: Position) {
        let before = self.written.swap(position.0, SeqCst);
        assert!(before <= position.0, "the log is written in order");
        self.wake_due();
    }

    /// The disk has everything before `position`.
    pub fn advance_durable(&self, position: Position) {
        assert!(position <= self.written(), "what is durable was written before");
        self.durable.fetch_max(position.0, SeqCst);
        self.wake_due();
    }

    /// No write will be accepted any more; the first reason stays.
    pub fn fail(&self, why: Arc<str>) {
        self.failure.get_or_init(|| why);
        self.failed.store(true, SeqCst);
        self.wake_due();
    }

    pub fn failure(&self) -> Option<Arc<str>> {
        if self.failed.load(SeqCst) { self.failure.get().cloned() } else { None }
    }

    pub fn waiter(&self, wake: Wake) -> Waiter {
        let wait = Arc::new(Wait { wanted: AtomicU64::new(0), wake });
        super::lock(&self.waiters).push(wait.clone());
        Waiter(wait)
    }

    /// Forgets a waiter.
    pub fn leave(&self, waiter: &Waiter) {
        super::lock(&self.waiters).retain(|wait| !Arc::ptr_eq(wait, &waiter.0));
        let wanted = waiter.0.wanted.load(SeqCst);
        if wanted != 0 {
            self.cancel(&waiter.0, wanted);
        }
    }

    /// Asks for one wake-up when the mark has reached `position` or the store has failed. `false`: it has already,
    /// none will come.
    pub fn await_mark(&self, waiter: &Waiter, position: Position) -> bool {
        if self.reached(position.0) {
            return false;
        }
        // Counted, registered, and then looked at again: whoever moves the mark in between sees one or the other.
        self.waiting.fetch_add(1, SeqCst);
        if waiter.0.wanted.swap(position.0, SeqCst) != 0 {
            self.waiting.fetch_sub(1, SeqCst);
        }
        !(self.reached(position.0) && self.cancel(&waiter.0, position.0))
    }

    /// Takes back the registration for `wanted`, not one that has replaced it. `true`: it stood, and nobody else
    /// will act on it.
    fn cancel(&self, wait: &Wait, wanted: u64) -> bool {
        let cancelled = wait.wanted.compare_exchange(wanted, 0, SeqCst, SeqCst).is_ok();
        if cancelled {
            self.waiting.fetch_sub(1, SeqCst);
        }
        cancelled
    }

    fn reached(&self, position: u64) -> bool {
        self.mark().0 >= position || self.failed.load(SeqCst)
    }

    fn wake_due(&self) {
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        for wait in super::lock(&self.waiters).iter() {
            let wanted = wait.wanted.load(SeqCst);
            if wanted != 0 && self.reached(wanted) && self.cancel(wait, wanted) {
                (wait.wake)();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_is_woken_once_when_its_position_is_reached() {
        let progress = Progress::new(Sync::Interval, Position(10));
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let waiter = progress.waiter(Box::new(move || {
            count.fetch_add(1, SeqCst);
        }));
        assert!(!progress.await_mark(&waiter, Position(10)), "reached already");
        assert!(progress.await_mark(&waiter, Position(20)));
        progress.advance_written(Position(19));
        assert_eq!(woken.load(SeqCst), 0);
        progress.advance_written(Position(20));
        progress.advance_written(Position(30));
        assert_eq!(woken.load(SeqCst), 1);
    }

    #[test]
    fn under_always_only_durability_counts_and_a_failure_wakes_everyone() {
        let progress = Progress::new(Sync::Always, Position(0));
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let waiter = progress.waiter(Box::new(move || {
            count.fetch_add(1, SeqCst);
        }));
        assert!(progress.await_mark(&waiter, Position(5)));
        progress.advance_written(Position(8));
        assert_eq!((progress.mark(), woken.load(SeqCst)), (Position(0), 0));
        progress.advance_durable(Position(8));
        assert_eq!((progress.mark(), woken.load(SeqCst)), (Position(8), 1));
        assert!(progress.await_mark(&waiter, Position(9)));
        progress.fail("gone".into());
        assert_eq!(woken.load(SeqCst), 2);
        assert_eq!(progress.failure().as_deref(), Some("gone"));
    }
}
