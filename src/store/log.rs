//! The log: one append-only sequence of records, cut into segment files.
//!
//! Appending is a copy into memory under one lock ([`Log::append`]). Writing is a second step ([`Log::write_out`]):
//! whoever does it writes everything that was appended up to then, by whichever thread, in log order, and moves the
//! one *written* mark. So a reply that waits for the mark to pass its record depends on nothing that could still
//! get lost with the process.
//!
//! Event loops write inline while the disk takes under a millisecond; after a slower write the log's writes move to
//! the disk lane, where only those who wait for the mark wait, until the disk has recovered. Space in a segment is
//! reserved when the segment is made, so a write never finds the disk full; where the file system cannot do that, the
//! log *stalls* when it does: the piece at hand stays the next to be written, and the syncer tries again.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::error::{Error, Result};
use super::lane::Lane;
use super::location::{Location, MAX_SEGMENT, Position};
use super::options::{Options, Sync};
use super::progress::Progress;
use super::reach::{NOTES, REMOVALS, Reach};
use super::record::{Fields, Kind};
use super::segment::{SEGMENT_HEADER, Segment};
use super::segments::Segments;
use super::space::Needs;
use super::speed::Speed;
use super::syncer::Bell;
use crate::sys::{self, clock};

/// A buffer that grew past this is given back to the system.
const KEPT_BUFFER: usize = 1 << 20;
/// So many writes in a row that are not slow end a slow phase.
const RECOVERED_AFTER: u32 = 16;
/// How often a thread looks whether the current writer is done before it leaves its records to that writer.
const SPINS: u32 = 100;
/// Written bytes after which write-back to the disk is started early.
const WRITE_BACK: u64 = 4 << 20;
/// Pieces written inline before the rest is left to the lane.
const INLINE_PIECES: u32 = 8;
/// The next segment is made once this part of the active one is full: making it takes as long as the disk's journal does.
const SPARE_AFTER: u64 = 3;

/// The log of an open store.
pub(crate) struct Log {
    pub progress: Progress,
    pub segments: Segments,
    lane: Lane,
    bell: Arc<Bell>,
    /// Appended but unwritten bytes at which writers must wait.
    most_unwritten: usize,
    tail: Mutex<Tail>,
    /// Held by whoever writes pieces, so that they reach the file in order.
    writer: Mutex<()>,
    /// End of what was appended.
    end: AtomicU64,
    /// Salt of the active segment, so that checksums are computed before the lock.
    salt: AtomicU32,
    room: AtomicBool,
    wants_spare: AtomicBool,
    full: AtomicBool,
    stalled: AtomicBool,
    speed: Speed,
    handed_over: AtomicBool,
    pub writes: AtomicU64,
    pub bytes: AtomicU64,
    /// Held by whoever makes the next segment.
    pub preparing: Mutex<()>,
    /// When that was done last, and how many bytes had been written then.
    pub preparing_since: Mutex<(Instant, u64)>,
    /// Position from which write-back was not started yet.
    write_back: AtomicU64,
}

/// What the append lock guards.
struct Tail {
    active: Arc<Segment>,
    /// Where the next record goes in the active segment.
    offset: u64,
    /// The last bytes before `offset`, not yet handed to a writer.
    pending: Vec<u8>,
    /// Ends of segments that were left for the next one, oldest first.
    sealed: VecDeque<Arc<Piece>>,
    /// What is being written, or was written last: readable here until the next piece is taken.
    in_flight: Option<Arc<Piece>>,
    /// The next segment, made ahead of need.
    spare: Option<Arc<Segment>>,
    /// Full segments that may hold bytes the disk does not have.
    unsynced: Vec<Arc<Segment>>,
    /// Why no segment can be made, if none can.
    full: Option<Error>,
    /// Why `in_flight` could not be written: it is then the next to be written, again.
    stalled: Option<Arc<str>>,
}

/// Consecutive bytes of a segment.
struct Piece {
    segment: Arc<Segment>,
    offset: u64,
    bytes: Vec<u8>,
}

impl Log {
    /// The log whose next record goes to `offset` of `active`. All before is durable.
    pub fn new(
        active: Arc<Segment>,
        offset: u64,
        options: &Options,
        segments: Segments,
        lane: Lane,
        bell: Arc<Bell>,
    ) -> Log {
        let end = active.position(offset);
        let tail = Tail {
            offset,
            pending: Vec::new(),
            sealed: VecDeque::new(),
            in_flight: None,
            spare: None,
            unsynced: Vec::new(),
            full: None,
            stalled: None,
            active: active.clone(),
        };
        Log {
            progress: Progress::new(options.sync, end),
            segments,
            lane,
            bell,
            most_unwritten: options.write_buffer,
            tail: Mutex::new(tail),
            writer: Mutex::new(()),
            end: AtomicU64::new(end.0),
            salt: AtomicU32::new(active.salt),
            room: AtomicBool::new(offset < active.soft_limit()),
            wants_spare: AtomicBool::new(offset > active.hard_limit() / SPARE_AFTER),
            full: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            speed: Speed::new(RECOVERED_AFTER),
            handed_over: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            preparing: Mutex::default(),
            preparing_since: Mutex::new((Instant::now(), 0)),
            write_back: AtomicU64::new(end.0),
        }
    }

    /// Puts a record at the end of the log. Tells where it lies and the position to wait for.
    pub fn append(&self, record: &Fields<'_>) -> Result<(Location, Position)> {
        self.append_within(record, Reach::of(record.kind))
    }

    /// As [`Log::append`], for notes without which compaction cannot make room: there is a little room for them where
    /// there is none for anything else.
    pub fn append_needed(&self, record: &Fields<'_>) -> Result<(Location, Position)> {
        self.append_within(record, Reach::End)
    }

    /// Whether the notes of a round of compaction could be appended now.
    pub fn has_room_for_notes(&self) -> bool {
        let tail = super::lock(&self.tail);
        tail.spare.is_some() || tail.offset + NOTES / 16 <= tail.active.hard_limit()
    }

    fn append_within(&self, record: &Fields<'_>, reach: Reach) -> Result<(Location, Position)> {
        let salt = self.salt.load(Relaxed);
        let len = record.encoded_len() as u64;
        let mut head = record.head(salt);
        let mut tail = super::lock(&self.tail);
        self.make_room(&mut tail, len, reach)?;
        if tail.active.salt != salt {
            head = record.head(tail.active.salt);
        }
        let location = Location::new(tail.active.handle, tail.offset);
        record.put(&head, &mut tail.pending);
        tail.offset += len;
        let end = tail.end();
        self.end.store(end.0, Release);
        self.note_room(&tail);
        Ok((location, end))
    }

    /// End of what was appended so far.
    pub fn end(&self) -> Position {
        Position(self.end.load(Acquire))
    }

    /// What a reply that shows the record at `location` must wait for.
    pub fn depends(&self, location: Location) -> Position {
        match self.end() <= self.progress.mark() {
            true => Position(0),
            // The mark only ever stops between records: past a record's first byte is past its last.
            false => Position(self.segments.position(location).0 + 1),
        }
    }

    /// Whether a record may be appended now. Also `true` when appending would only yield an error, so that writers
    /// learn of it.
    pub fn has_room(&self) -> bool {
        self.room.load(Relaxed) || self.full.load(Relaxed) || self.progress.failure().is_some()
    }

    /// Copies the bytes at `location`, at most `most`, if they are still in memory on their way to the file.
    pub fn read_unwritten(&self, location: Location, most: usize, out: &mut Vec<u8>) -> bool {
        let tail = super::lock(&self.tail);
        let pending = (tail.active.handle, tail.offset - tail.pending.len() as u64, &tail.pending[..]);
        let in_flight = tail.in_flight.as_deref().map(Piece::parts);
        let all = tail.sealed.iter().map(|piece| piece.parts()).chain(in_flight).chain([pending]);
        let found = all.into_iter().find_map(|(handle, start, bytes)| {
            let skip = location.offset().checked_sub(start).filter(|_| handle == location.handle())?;
            bytes.get(usize::try_from(skip).ok()?..).filter(|rest| !rest.is_empty())
        });
        let Some(found) = found else { return false };
        out.clear();
        out.extend_from_slice(&found[..found.len().min(most)]);
        true
    }

    /// Writes what was appended. Never waits for another thread that does so: that one then writes it all. Sleeps
    /// at most once per slow phase of the disk; afterwards it leaves the writing to the lane and returns.
    pub fn write_out(self: &Arc<Self>) {
        let mut pieces = 0;
        let mut spins = 0;
        // Pairs with the fences after the writers' turns: either we see the writer gone, or it sees what we appended.
        fence(SeqCst);
        while !self.is_clean() && spins < SPINS {
            if self.speed.is_slow() || pieces >= INLINE_PIECES {
                return self.hand_over();
            }
            match self.writer.try_lock() {
                Ok(turn) => {
                    pieces += u32::from(self.write_timed());
                    drop(turn);
                    fence(SeqCst);
                }
                Err(_) => {
                    spins += 1;
                    std::hint::spin_loop();
                }
            }
        }
    }

    /// Wakes the syncer if there is something for it to do.
    pub fn call_syncer(&self) {
        if self.needs_syncer() {
            self.bell.ring();
        }
    }

    fn needs_syncer(&self) -> bool {
        let undurable = || self.progress.durable() < self.progress.written();
        let to_sync = match self.progress.policy {
            Sync::None => false,
            Sync::Always => undurable(),
            Sync::Interval => !self.bell.is_armed() && undurable(),
        };
        to_sync || self.wants_spare() || self.wants_write_back()
    }

    /// Writes all that was appended before the call; sleeps as long as that takes. Not for event loops.
    pub fn write_all(&self) {
        while !self.is_clean() {
            let turn = super::lock(&self.writer);
            self.write_piece();
            drop(turn);
            fence(SeqCst);
        }
    }

    /// Nothing to write, or no hope to.
    fn is_clean(&self) -> bool {
        self.end() <= self.progress.written() || self.progress.failure().is_some() || self.stalled.load(SeqCst)
    }

    /// Why nothing can be written at present, if so: the disk is full.
    pub fn stalled(&self) -> Option<Error> {
        let why = || super::lock(&self.tail).stalled.clone();
        if self.stalled.load(SeqCst) { why().map(Error::Full) } else { None }
    }

    /// Tries again to write what found the disk full; sleeps. For the syncer.
    pub fn retry(&self) {
        if self.stalled.load(SeqCst) {
            let turn = super::lock(&self.writer);
            self.write_piece();
            drop(turn);
            fence(SeqCst);
            self.write_all();
        }
    }

    /// Lets the lane do the writing, once at a time.
    fn hand_over(self: &Arc<Self>) {
        if self.handed_over.swap(true, SeqCst) {
            return;
        }
        let log = self.clone();
        self.lane.submit_first(Box::new(move || {
            while !log.is_clean() {
                let turn = super::lock(&log.writer);
                log.write_timed();
                drop(turn);
                fence(SeqCst);
            }
            log.handed_over.store(false, SeqCst);
            // Somebody may have appended and relied on us in between.
            fence(SeqCst);
            if !log.is_clean() {
                log.hand_over();
            }
        }));
    }

    /// As [`Log::write_piece`], and learns from it how fast the disk is.
    fn write_timed(&self) -> bool {
        let before = clock::monotonic();
        let written = self.write_piece();
        if let Some(len) = written {
            self.speed.note(len, clock::monotonic() - before);
        }
        written.is_some()
    }

    /// Writes the oldest unwritten piece; the caller holds the writer lock. Tells its length in bytes. `None`: there is
    /// none, or it failed, now or before: nothing may be written behind a gap.
    fn write_piece(&self) -> Option<usize> {
        if self.progress.failure().is_some() {
            return None;
        }
        let piece = self.next_piece()?;
        if let Err(error) = sys::file::write_all(&piece.segment.file, &piece.bytes, piece.offset) {
            self.note_unwritten(&piece, &error);
            return None;
        }
        if self.stalled.load(SeqCst) {
            self.resume();
        }
        // Only one thread writes at a time.
        self.writes.store(self.writes.load(Relaxed) + 1, Relaxed);
        self.bytes.store(self.bytes.load(Relaxed) + piece.bytes.len() as u64, Relaxed);
        assert!(piece.segment.position(piece.offset) >= self.progress.written(), "pieces are written in order");
        self.progress.advance_written(piece.segment.position(piece.offset + piece.bytes.len() as u64));
        // Whoever moves the mark calls: another's records may be among those written, and that other is not waiting
        // to see.
        self.call_syncer();
        Some(piece.bytes.len())
    }

    /// A full disk is no failure: what was not written is in memory, and written when there is room.
    fn note_unwritten(&self, piece: &Piece, error: &std::io::Error) {
        let attempt = format!("write {} bytes at offset {} of", piece.bytes.len(), piece.offset);
        let why = match Error::full_or_io(attempt, &piece.segment.path, error) {
            Error::Full(why) => why,
            failed => return self.fail(&failed),
        };
        let mut tail = super::lock(&self.tail);
        tail.stalled = Some(why);
        self.stalled.store(true, SeqCst);
        self.note_room(&tail);
        drop(tail);
        self.bell.ring();
    }

    fn resume(&self) {
        let mut tail = super::lock(&self.tail);
        tail.stalled = None;
        self.stalled.store(false, SeqCst);
        self.note_room(&tail);
    }

    fn next_piece(&self) -> Option<Arc<Piece>> {
        let mut tail = super::lock(&self.tail);
        if tail.stalled.is_some() {
            return tail.in_flight.clone();
        }
        let piece = match tail.sealed.pop_front() {
            Some(piece) => piece,
            None if tail.pending.is_empty() => return None,
            None => tail.take_pending(),
        };
        tail.in_flight = Some(piece.clone());
        self.note_room(&tail);
        Some(piece)
    }

    /// Whether log writes go by way of the lane at present.
    pub fn is_slow(&self) -> bool {
        self.speed.is_slow()
    }

    /// No write will be accepted any more.
    pub fn fail(&self, error: &Error) {
        let text = format!("{error}; restart the server once the disk is sound (reads go on)");
        self.progress.fail(text.into());
    }

    /// Moves on to the spare segment where the active one is full.
    fn make_room(&self, tail: &mut MutexGuard<'_, Tail>, len: u64, reach: Reach) -> Result<()> {
        if let Some(why) = self.progress.failure() {
            return Err(Error::ReadOnly(why));
        }
        if let Some(stalled) = tail.stalled.as_ref().filter(|_| tail.unwritten() >= self.most_unwritten) {
            return Err(Error::Full(stalled.clone()));
        }
        let end = tail.offset + len;
        let (soft, hard) = (tail.active.soft_limit(), tail.active.hard_limit());
        if end <= soft {
            return Ok(());
        }
        match (tail.spare.take(), &tail.full) {
            (Some(spare), _) => self.rotate(tail, spare),
            (None, Some(_)) if end <= reach.limit(soft, hard) => {}
            (None, Some(full)) => return Err(full.clone()),
            (None, None) if end <= reach.limit(hard - REMOVALS, hard) => {}
            (None, None) => return Err(Error::Full("the next segment is not ready yet".into())),
        }
        Ok(())
    }

    fn rotate(&self, tail: &mut Tail, spare: Arc<Segment>) {
        assert!(spare.order > tail.active.order, "segments follow each other in order");
        tail.seal();
        tail.active.end.store(tail.offset, Relaxed);
        let piece = tail.take_pending();
        tail.sealed.push_back(piece);
        let full = std::mem::replace(&mut tail.active, spare);
        tail.unsynced.push(full);
        tail.offset = SEGMENT_HEADER;
        self.salt.store(tail.active.salt, Relaxed);
    }

    fn note_room(&self, tail: &Tail) {
        let wants_spare = tail.spare.is_none() && tail.offset > tail.active.hard_limit() / SPARE_AFTER;
        let room =
            tail.unwritten() < self.most_unwritten && (tail.spare.is_some() || tail.offset < tail.active.soft_limit());
        let full = tail.full.is_some() || tail.stalled.is_some();
        // Plain stores to a shared cache line cost; these change rarely.
        for (flag, value) in [(&self.wants_spare, wants_spare), (&self.room, room), (&self.full, full)] {
            if flag.load(Relaxed) != value {
                flag.store(value, Relaxed);
            }
        }
    }

    /// Whether the syncer should make another segment.
    pub fn wants_spare(&self) -> bool {
        self.wants_spare.load(Relaxed)
    }

    /// Whether enough was written to start write-back early.
    pub fn wants_write_back(&self) -> bool {
        self.progress.written().0.saturating_sub(self.write_back.load(Relaxed)) >= WRITE_BACK
    }

    /// Lets the disk begin with what was written, so that the next `fdatasync` has little left to do. For the syncer.
    pub fn start_write_back(&self) {
        if !self.wants_write_back() {
            return;
        }
        self.write_back.store(self.progress.written().0, Relaxed);
        // Earlier ones were started with before.
        for segment in self.unsynced().iter().rev().take(2) {
            sys::file::start_write_back(&segment.file, 0, segment.hard_limit());
        }
    }

    /// The order of the segment that is appended to.
    pub fn active_order(&self) -> u64 {
        super::lock(&self.tail).active.order
    }

    /// Moves on to the spare segment, if there is one and the active one holds anything.
    pub fn leave_active(&self) {
        let mut tail = super::lock(&self.tail);
        if tail.offset > SEGMENT_HEADER
            && let Some(spare) = tail.spare.take()
        {
            self.rotate(&mut tail, spare);
            // Nothing stands in the new segment yet: the log ends behind the seal.
            let last = tail.sealed.back().map(|piece| piece.segment.position(piece.offset + piece.bytes.len() as u64));
            self.end.store(last.unwrap_or(tail.end()).0, Release);
            self.note_room(&tail);
        }
    }

    /// Whether the next segment is ready.
    pub fn has_spare(&self) -> bool {
        super::lock(&self.tail).spare.is_some()
    }

    /// The segment to go on with, or why there is none.
    pub fn set_spare(&self, spare: Result<Arc<Segment>>) {
        let mut tail = super::lock(&self.tail);
        tail.full = spare.as_ref().err().cloned();
        tail.spare = spare.ok();
        self.note_room(&tail);
    }

    /// What the log knows of the room on the disk.
    pub fn needs(&self) -> Needs {
        let tail = super::lock(&self.tail);
        let stuck = tail.stalled.clone();
        let open = [Some(tail.active.clone()), tail.spare.clone()];
        drop(tail);
        let left = |segment: &Arc<Segment>| segment.size.load(Relaxed).saturating_sub(segment.allocated());
        let promised = open.iter().flatten().map(left).sum();
        Needs { promised, stuck }
    }

    /// Whether the active segment is full but for its reserve.
    pub fn is_at_reserve(&self) -> bool {
        let tail = super::lock(&self.tail);
        tail.offset >= tail.active.soft_limit()
    }

    /// The segments that may hold bytes the disk does not have, oldest first, the active one last.
    pub fn unsynced(&self) -> Vec<Arc<Segment>> {
        let tail = super::lock(&self.tail);
        tail.unsynced.iter().chain([&tail.active]).cloned().collect()
    }

    /// Everything before `position` is on the disk.
    pub fn synced(&self, position: Position) {
        super::lock(&self.tail).unsynced.retain(|segment| segment.position(MAX_SEGMENT) > position);
        self.progress.advance_durable(position);
    }

    /// The active segment, where its records end, and a spare that was never used: for the clean end of the store.
    pub fn rest(&self) -> (Arc<Segment>, u64, Option<Arc<Segment>>) {
        let mut tail = super::lock(&self.tail);
        let spare = tail.spare.take();
        (tail.active.clone(), tail.offset, spare)
    }
}

/// The record that ends a segment.
pub(crate) fn seal_record(segment: &Segment) -> Vec<u8> {
    let fields = Fields::control(Kind::Seal, b"", 0);
    let mut record = Vec::new();
    fields.put(&fields.head(segment.salt), &mut record);
    record
}

impl Tail {
    fn end(&self) -> Position {
        self.active.position(self.offset)
    }

    /// Ends the active segment: recovery can then tell a segment that was left from one whose end was lost.
    fn seal(&mut self) {
        let record = seal_record(&self.active);
        self.pending.extend_from_slice(&record);
        self.offset += record.len() as u64;
    }

    fn unwritten(&self) -> usize {
        let again = self.stalled.as_ref().and(self.in_flight.as_ref()).map_or(0, |piece| piece.bytes.len());
        self.pending.len() + again + self.sealed.iter().map(|piece| piece.bytes.len()).sum::<usize>()
    }

    /// The pending bytes as a piece: in the memory of the one that was written last, if nobody reads it any more.
    fn take_pending(&mut self) -> Arc<Piece> {
        let stalled = self.stalled.is_some();
        let unused = self.in_flight.take_if(|piece| !stalled && Arc::strong_count(piece) == 1);
        let new = || Arc::new(Piece { segment: self.active.clone(), offset: 0, bytes: Vec::new() });
        let mut shared = unused.unwrap_or_else(new);
        let piece = Arc::get_mut(&mut shared).expect("nobody else has it");
        piece.bytes.clear();
        piece.bytes.shrink_to(KEPT_BUFFER);
        std::mem::swap(&mut piece.bytes, &mut self.pending);
        piece.offset = self.offset - piece.bytes.len() as u64;
        if !Arc::ptr_eq(&piece.segment, &self.active) {
            piece.segment = self.active.clone();
        }
        shared
    }
}

impl Piece {
    fn parts(&self) -> (u32, u64, &[u8]) {
        (self.segment.handle, self.offset, &self.bytes)
    }
}
