//! Changes on their way into the index during recovery. They are gathered by stripe, many thousands at a time, and applied
//! by a thread of their own while the next ones are gathered: a stripe is in the processor's caches while it is worked on,
//! and the memory it needs is asked for ahead.
//!
//! A change counts only if it lies behind what the index has for the key: replay may then read records in any order,
//! and those again that an index checkpoint already knew.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::error::{Error, Result};
use super::hash::Hash;
use super::index::{Entry, Index, STRIPES, Stripe};
use super::location::{Location, MAX_SEGMENT, Position};
use super::segment::Segment;

/// Changes that are applied together: few at first, so that both threads soon have something to do; then a part of what
/// came before, so that each page of a large index has some of them.
const BATCH: (usize, usize) = (16 << 10, 192 << 10);
/// That part: one in so many.
const PART: usize = 4;
/// How far ahead of its use memory is asked for. Changes.
const AHEAD: usize = 8;

/// See the module's head.
pub(crate) struct Bulk {
    gathered: Batch,
    /// Changes in `gathered`, and all before them.
    count: usize,
    total: usize,
    orders: SyncSender<Order>,
    /// Batches that were applied.
    emptied: Receiver<Batch>,
    thread: JoinHandle<Index>,
}

/// Changes by stripe.
type Batch = Box<[Vec<Change>]>;

enum Order {
    Apply(Batch),
    Flush(Position),
}

/// What the thread has.
struct Builder {
    index: Index,
    ranks: Ranks,
    emptied: SyncSender<Batch>,
}

#[derive(Clone, Copy)]
struct Change {
    tag: u64,
    location: Location,
    /// `None`: the key is removed.
    record: Option<Outline>,
}

/// What an entry says of a record besides its location.
#[derive(Clone, Copy)]
struct Outline {
    size_class: u8,
    expires: bool,
    large: bool,
}

/// The segments' places in the order of replay, by handle.
pub(crate) struct Ranks(Vec<Rank>);

#[derive(Clone, Copy, Default)]
struct Rank {
    order: u64,
    number: u32,
    compacted: bool,
}

impl Bulk {
    /// Goes on with `index`, which may name any of `segments`.
    pub fn start<'a>(index: Index, segments: impl Iterator<Item = &'a Segment>) -> Result<Bulk> {
        // One batch is gathered, one waits, one is applied.
        let ((orders, inbox), (back, emptied)) = (sync_channel(1), sync_channel(1));
        let builder = Builder { index, ranks: Ranks::new(segments), emptied: back };
        let thread = std::thread::Builder::new().name("recovery".into()).spawn(move || builder.run(&inbox));
        let thread = thread.map_err(|error| Error::other(format!("cannot start a thread: {error}")))?;
        Ok(Bulk { gathered: new_batch(), count: 0, total: 0, orders, emptied, thread })
    }

    /// The key's newest record, unless a later one is known.
    pub fn insert(&mut self, hash: Hash, entry: Entry) {
        let Entry { location, size_class, expires, large } = entry;
        self.push(hash, Change { tag: hash.tag, location, record: Some(Outline { size_class, expires, large }) });
    }

    /// From `location` on the key has no record, unless a later one is known.
    pub fn remove(&mut self, hash: Hash, location: Location) {
        self.push(hash, Change { tag: hash.tag, location, record: None });
    }

    /// Everything before `fired` is gone.
    pub fn flush(&mut self, fired: Position) {
        self.send();
        self.order(Order::Flush(fired));
    }

    /// The index, with all changes in it.
    pub fn finish(mut self) -> Result<Index> {
        self.send();
        drop(self.orders);
        self.thread.join().map_err(|_| Error::other("building the index failed"))
    }

    fn push(&mut self, hash: Hash, change: Change) {
        self.gathered[Index::stripe_of(hash)].push(change);
        self.count += 1;
        if self.count >= (self.total / PART).clamp(BATCH.0, BATCH.1) {
            self.send();
        }
    }

    fn send(&mut self) {
        let empty = self.emptied.try_recv().unwrap_or_else(|_| new_batch());
        let batch = std::mem::replace(&mut self.gathered, empty);
        self.total += std::mem::take(&mut self.count);
        self.order(Order::Apply(batch));
    }

    fn order(&self, order: Order) {
        // Nobody listens only if the thread panicked, which `finish` will tell.
        let _ = self.orders.send(order);
    }
}

impl Builder {
    fn run(self, inbox: &Receiver<Order>) -> Index {
        for order in inbox {
            match order {
                Order::Apply(batch) => self.apply(batch),
                Order::Flush(fired) => self.index.retain(|entry| self.ranks.position(entry.location) >= fired),
            }
        }
        (0..STRIPES).for_each(|number| self.index.stripe_at(number).tighten());
        self.index
    }

    fn apply(&self, mut batch: Batch) {
        batch.iter_mut().enumerate().for_each(|(number, changes)| self.apply_to(number, changes));
        // Where another one is there already, it is not needed.
        let _ = self.emptied.try_send(batch);
    }

    fn apply_to(&self, number: usize, batch: &mut Vec<Change>) {
        let mut stripe = self.index.stripe_at(number);
        // Page by page. Of one key, the order stays.
        batch.sort_by_key(|change| stripe.page_of(change.tag));
        batch.iter().take(AHEAD).for_each(|change| stripe.prefetch(change.tag));
        for (at, change) in batch.iter().enumerate() {
            if let Some(later) = batch.get(at + AHEAD) {
                stripe.prefetch(later.tag);
            }
            self.change(&mut stripe, *change);
        }
        batch.clear();
    }

    fn change(&self, stripe: &mut Stripe, change: Change) {
        let Change { tag, location, record } = change;
        let before = match record {
            Some(Outline { size_class, expires, large }) => {
                stripe.make_room(tag);
                stripe.insert(tag, Entry { location, size_class, expires, large })
            }
            None => stripe.remove(tag),
        };
        if let Some(before) = before.filter(|before| self.ranks.place(before.location) > self.ranks.place(location)) {
            stripe.insert(tag, before);
        }
    }
}

fn new_batch() -> Batch {
    vec![Vec::new(); STRIPES].into()
}

impl Ranks {
    fn new<'a>(segments: impl Iterator<Item = &'a Segment>) -> Ranks {
        let mut ranks = Vec::new();
        for segment in segments {
            let handle = segment.handle as usize;
            ranks.resize(ranks.len().max(handle + 1), Rank::default());
            ranks[handle] = Rank { order: segment.order, number: segment.number, compacted: segment.compacted };
        }
        Ranks(ranks)
    }

    /// What tells which of two records is the later one.
    fn place(&self, location: Location) -> (u64, u32, u64) {
        let Rank { order, number, .. } = self.0[location.handle() as usize];
        (order, number, location.offset())
    }

    fn position(&self, location: Location) -> Position {
        let Rank { order, compacted, .. } = self.0[location.handle() as usize];
        Position::new(order, if compacted { MAX_SEGMENT } else { location.offset() })
    }
}
