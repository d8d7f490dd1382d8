//! Values that are uploaded in parts: `part` brings one, over any connection and in any order, `commit` makes a value of
//! them all, at once, `abort` throws them away. Until then the parts lie in extent files and nothing names them: a crash
//! leaves nothing of them, and neither does an upload that nobody adds to for a while. Any worker; one lock, held
//! for a few pointers.

use super::answer::Said;
use super::context::Context;
use super::counters::Counter;
use super::memory::Memory;
use super::verdict::{Attempt, Basis, Source, Supply, Verdict, write};
use kingdb::store::{NewBody, Part, Uploaded};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is held for a part, roughly. Bytes.
const PART: usize = 768;
/// What is held for an upload beside its parts, roughly: its name, the first node of its tree. Bytes.
const UPLOAD: usize = 1536;

/// All uploads that are under way. What they hold has a bound of its own, so that parts that nobody commits leave
/// transfers their memory; it is counted with the rest.
pub struct Multiparts {
    table: Mutex<Table>,
    count: AtomicUsize,
    /// Bytes.
    limit: usize,
}

#[derive(Default)]
struct Table {
    uploads: HashMap<Box<[u8]>, Parts>,
    /// Never more than the limit. Bytes.
    held: usize,
}

struct Parts {
    /// By number.
    parts: BTreeMap<u64, Uploaded>,
    /// Second of store time when something was last done to it.
    active: u64,
}

/// Why an upload is not committed.
enum Refusal {
    /// There is none of that name, or it was given up.
    Unknown,
    /// It has not exactly the parts 1 to the count that was told.
    Missing,
    /// Together they are longer than a value may be.
    TooLarge,
}

impl Table {
    /// An upload is being added to at `now`.
    fn touch(&mut self, name: &[u8], now: u64) {
        if let Some(upload) = self.uploads.get_mut(name) {
            upload.active = now;
        }
    }

    /// What a part would add. Bytes.
    fn cost(&self, name: &[u8], number: u64) -> usize {
        match self.uploads.get(name) {
            None => UPLOAD + PART,
            Some(upload) if upload.parts.contains_key(&number) => 0,
            Some(_) => PART,
        }
    }
}

impl Parts {
    fn cost(&self) -> usize {
        UPLOAD + self.parts.len() * PART
    }
}

impl Multiparts {
    /// That hold `limit` bytes at most.
    pub fn new(limit: usize) -> Self {
        Self { table: Mutex::default(), count: AtomicUsize::new(0), limit }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Whether a part may be added. It is looked at before the part is received, and again when it is put.
    pub fn has_room(&self, name: &[u8], number: u64, now: u64) -> bool {
        let mut table = self.lock();
        table.touch(name, now);
        table.held + table.cost(name, number) <= self.limit
    }

    /// A part is on its way to an upload, which is therefore not given up.
    pub fn touch(&self, name: &[u8], now: u64) {
        self.lock().touch(name, now);
    }

    /// Adds a part, in the place of an earlier one of the same number. `false`: there are too many.
    pub fn put(&self, name: &[u8], number: u64, part: Uploaded, now: u64, memory: &Memory) -> bool {
        let mut table = self.lock();
        let cost = table.cost(name, number);
        if table.held + cost > self.limit {
            return false;
        }
        table.held += cost;
        memory.take(0, cost);
        let upload = table.uploads.entry(name.into()).or_insert_with(|| Parts { parts: BTreeMap::new(), active: now });
        upload.active = now;
        upload.parts.insert(number, part);
        self.count.store(table.uploads.len(), Ordering::Relaxed);
        true
    }

    /// Takes an upload's parts out, if they are 1 to `count`.
    fn take(&self, name: &[u8], count: u64, most: u64, memory: &Memory) -> Result<Vec<Uploaded>, Refusal> {
        let mut table = self.lock();
        let parts = &table.uploads.get(name).ok_or(Refusal::Unknown)?.parts;
        if parts.len() as u64 != count || !parts.keys().copied().eq(1..=count) {
            return Err(Refusal::Missing);
        }
        if parts.values().map(Uploaded::len).fold(0, u64::saturating_add) > most {
            return Err(Refusal::TooLarge);
        }
        let taken = table.uploads.remove(name).ok_or(Refusal::Unknown)?;
        self.gone(taken.cost(), &mut table, memory);
        Ok(taken.parts.into_values().collect())
    }

    /// Throws an upload away. `false`: there is none of that name.
    pub fn abort(&self, name: &[u8], memory: &Memory) -> bool {
        let mut table = self.lock();
        let gone = table.uploads.remove(name);
        self.gone(gone.as_ref().map_or(0, Parts::cost), &mut table, memory);
        gone.is_some()
    }

    /// Throws away what nothing has come for since `before`; tells how many uploads these were.
    pub fn expire(&self, before: u64, memory: &Memory) -> usize {
        let mut table = self.lock();
        let gone: Vec<Parts> =
            table.uploads.extract_if(|_, upload| upload.active < before).map(|(_, upload)| upload).collect();
        self.gone(gone.iter().map(Parts::cost).sum(), &mut table, memory);
        gone.len()
    }

    fn gone(&self, cost: usize, table: &mut Table, memory: &Memory) {
        table.held -= cost;
        memory.take(cost, 0);
        self.count.store(table.uploads.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `commit`: the parts become one value, the disk lane joins them. When that fails, the upload is over.
pub fn commit(
    upload: &[u8],
    (key, parts): (&[u8], u64),
    (flags, expires): (u32, u64),
    supply: Option<Box<Supply>>,
    ctx: &mut Context,
) -> Attempt {
    if let Some(Supply::Composed(composed)) = supply.map(|supply| *supply) {
        let value = composed.value?;
        write(ctx.db.key(key), composed.basis.kept(None, 0), Source::Given(NewBody::Uploaded(&value)), ctx)?;
        ctx.count(Counter::CmdSet);
        return Ok(Verdict::say(Said::Stored));
    }
    let taken = ctx.shared.multiparts.take(upload, parts, ctx.settings.max_value, &ctx.shared.memory);
    Ok(match taken {
        Ok(parts) => {
            let size = parts.iter().map(Uploaded::len).sum();
            let parts = parts.into_iter().map(Part::Uploaded).collect();
            Verdict::Compose(ctx.db.compose(parts), Basis { seen: None, flags, expires, size })
        }
        Err(Refusal::Unknown) => Verdict::say(Said::NotFound),
        Err(Refusal::Missing) => Verdict::say(Said::PartsMissing),
        Err(Refusal::TooLarge) => Verdict::say(Said::TooLarge),
    })
}

/// `abort`.
pub fn abort(upload: &[u8], ctx: &Context) -> Attempt {
    let gone = ctx.shared.multiparts.abort(upload, &ctx.shared.memory);
    Ok(Verdict::say(if gone { Said::Deleted } else { Said::NotFound }))
}
