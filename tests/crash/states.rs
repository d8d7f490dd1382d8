//! The states that a crash could leave, and what the store makes of them.
//!
//! At any time there are changes that were begun and are not safe. A crash keeps any of them, in whole or in part. Tried are: all
//! of them, none, each alone kept, each alone lost, and subsets at random with writes torn at sectors.

use super::files::{Edit, Files};
use super::history::{Demands, Expected};
use crate::common::util::{FNV, Random};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What a disk writes whole. Bytes.
const SECTOR: u64 = 512;

/// No need to look further.
const ENOUGH: usize = 20;

/// What a crash did to one change.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Lost,
    Kept,
    /// Sectors of a write are missing, or there and zero, by this seed.
    Torn(u64),
}

/// How many states of a moment to try beside that with all changes and that with none.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Of so many changes: each alone kept, each alone lost.
    pub alone: usize,
    pub random: usize,
}

/// What was found.
#[derive(Default)]
pub struct Verdict {
    /// Distinct states by their bytes, and the greatest number of records that each is the result of.
    seen: HashMap<u64, Option<usize>>,
    pub wrong: Vec<String>,
}

impl Verdict {
    /// Whether there is so much wrong that more would not help.
    pub fn is_hopeless(&self) -> bool {
        self.wrong.len() >= ENOUGH
    }

    pub fn distinct(&self) -> usize {
        self.seen.len()
    }

    pub fn merge(&mut self, other: Verdict) {
        self.seen.extend(other.seen);
        self.wrong.extend(other.wrong);
    }
}

/// The state of the disk at a time: what is safe, and what is not.
pub struct Explorer<'a> {
    files: &'a Files,
    expected: &'a Expected<'a>,
    demands: Demands,
    /// The store's directory in the trace, with a slash at its end.
    root: String,
    /// Where states are put to recover them.
    place: &'a Path,
    /// Per inode: how many of its first edits are safe, and what they lead to.
    safe: Vec<(usize, Vec<u8>)>,
    random: Random,
    pub verdict: Verdict,
}

impl<'a> Explorer<'a> {
    pub fn new(
        files: &'a Files,
        expected: &'a Expected<'a>,
        demands: Demands,
        root: &str,
        place: &'a Path,
        seed: u64,
    ) -> Explorer<'a> {
        Explorer {
            files,
            expected,
            demands,
            root: format!("{root}/"),
            place,
            safe: files.inodes.iter().map(|_| (0, Vec::new())).collect(),
            random: Random::new(seed),
            verdict: Verdict::default(),
        }
    }

    /// Tries crashes at `time`, which must not be before that of the call before.
    pub fn crash_at(&mut self, time: usize, effort: Effort) {
        if self.verdict.wrong.len() >= ENOUGH {
            return;
        }
        for (inode, (count, bytes)) in self.files.inodes.iter().zip(&mut self.safe) {
            while let Some(edit) = inode.edits.get(*count).filter(|edit| edit.safe <= time) {
                edit.what.apply(bytes);
                *count += 1;
            }
        }
        let pending = self.pending(time);
        let count = pending.len();
        self.try_state(time, &pending, vec![Fate::Kept; count]);
        self.try_state(time, &pending, vec![Fate::Lost; count]);
        // Those of names stand first.
        for one in 0..count.min(effort.alone) {
            for (fate, others) in [(Fate::Lost, Fate::Kept), (Fate::Kept, Fate::Lost)] {
                let mut fates = vec![others; count];
                fates[one] = fate;
                self.try_state(time, &pending, fates);
            }
        }
        for _ in 0..effort.random.min(2 * count) {
            let chance = 1 + self.random.below(9);
            let fates = (0..count).map(|_| self.fate(chance)).collect();
            self.try_state(time, &pending, fates);
        }
    }

    fn fate(&mut self, chance: usize) -> Fate {
        match self.random.below(10) {
            tenth if tenth >= chance => Fate::Lost,
            _ if self.random.below(4) == 0 => Fate::Torn(self.random.next()),
            _ => Fate::Kept,
        }
    }

    /// The changes that were begun by `time` and are not safe then: of names, and of files.
    fn pending(&self, time: usize) -> Vec<Pending> {
        let unsure = |begun: usize, safe: usize| begun <= time && safe > time;
        let names = self.files.names.iter().enumerate().filter(|(_, change)| unsure(change.begun, change.safe));
        let mut all: Vec<_> = names.map(|(index, _)| Pending::Name(index)).collect();
        for (inode, (from, _)) in self.safe.iter().enumerate() {
            let edits = self.files.inodes[inode].edits.iter().enumerate().skip(*from);
            let edits = edits.filter(|(_, edit)| unsure(edit.begun, edit.safe));
            all.extend(edits.map(|(index, _)| Pending::Edit(inode, index)));
        }
        all
    }

    fn try_state(&mut self, time: usize, pending: &[Pending], fates: Vec<Fate>) {
        let fate: HashMap<Pending, Fate> = pending.iter().copied().zip(fates.iter().copied()).collect();
        let files = self.build(time, &fate);
        let hash = hash(&files);
        let least = self.expected.least(time, self.demands);
        let outcome = match self.verdict.seen.get(&hash) {
            Some(Some(count)) if *count >= least => return,
            _ => self.recover(&files, least),
        };
        self.verdict.seen.insert(hash, outcome.as_ref().ok().copied());
        if let Err(why) = outcome {
            let lost = pending.iter().zip(&fates).filter(|(_, fate)| **fate != Fate::Kept);
            let lost: Vec<_> = lost.map(|(change, fate)| self.name_of(change, *fate)).take(12).collect();
            self.verdict
                .wrong
                .push(format!("crash at {time}, without {lost:?} of {} unsafe changes: {why}", pending.len()));
        }
    }

    /// The files of the store, by their names in its directory.
    fn build(&self, time: usize, fate: &HashMap<Pending, Fate>) -> BTreeMap<String, Vec<u8>> {
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, change) in self.files.names.iter().enumerate().filter(|(_, change)| change.begun <= time) {
            if fate.get(&Pending::Name(index)).is_some_and(|fate| *fate == Fate::Lost) {
                continue;
            }
            for (path, inode) in change.what.iter().filter(|(path, _)| path.starts_with(&self.root)) {
                match inode {
                    Some(inode) => drop(names.insert(&path[self.root.len()..], *inode)),
                    None => drop(names.remove(&path[self.root.len()..])),
                }
            }
        }
        names.into_iter().map(|(name, inode)| (name.to_string(), self.contents(inode, time, fate))).collect()
    }

    fn contents(&self, inode: usize, time: usize, fate: &HashMap<Pending, Fate>) -> Vec<u8> {
        let (from, bytes) = &self.safe[inode];
        let mut bytes = bytes.clone();
        let edits = self.files.inodes[inode].edits.iter().enumerate().skip(*from);
        let mut whole = bytes.clone();
        for (index, edit) in edits.filter(|(_, edit)| edit.begun <= time) {
            match fate.get(&Pending::Edit(inode, index)).unwrap_or(&Fate::Kept) {
                Fate::Lost => {}
                Fate::Kept => {
                    carry(&edit.what, &whole, &mut bytes);
                    edit.what.apply(&mut bytes);
                }
                Fate::Torn(seed) => tear(&edit.what, *seed, &mut bytes),
            }
            edit.what.apply(&mut whole);
        }
        bytes
    }

    fn name_of(&self, change: &Pending, fate: Fate) -> String {
        let part = if fate == Fate::Lost { "" } else { "part of " };
        match change {
            Pending::Name(index) => {
                let change = &self.files.names[*index];
                let names: Vec<_> = change.what.iter().map(|(path, inode)| format!("{path}={inode:?}")).collect();
                format!("names {} at {}", names.join(" "), change.begun)
            }
            Pending::Edit(inode, index) => {
                let edit = &self.files.inodes[*inode].edits[*index];
                format!("{part}{} of file {inode} at {}", edit.what.describe(), edit.begun)
            }
        }
    }

    /// Opens the store that these files make and compares it with what may be. Gives the number of records that it shows.
    fn recover(&self, files: &BTreeMap<String, Vec<u8>>, least: usize) -> Result<usize, String> {
        put(self.place, files);
        let told = Arc::new(Mutex::new(String::new()));
        let options = || {
            let told = told.clone();
            let tell = move |_, text: &str| *told.lock().expect("no panic") += &format!("; {text}");
            let options = kingdb::Options::new(self.place).report(tell);
            kingdb::Options {
                cache_bytes: 0,
                lane_threads: 1,
                segment_bytes: 1 << 20,
                sync: kingdb::Sync::None,
                ..options
            }
        };
        let db = kingdb::Db::open(options()).map_err(|error| format!("the store does not open: {error}"))?;
        let count = self.look(&db, least)?;
        match db.stats().damaged_records {
            0 => {}
            number => {
                return Err(format!("a crash passed for {number} damages{}", told.lock().expect("no panic")));
            }
        }
        // Once more: what was recovered stays so, and goes on from there.
        if least.is_multiple_of(4) {
            db.put(b"one more", b"after the crash").map_err(|error| format!("the store takes no writes: {error}"))?;
            db.close().map_err(|error| format!("the store cannot be closed: {error}"))?;
            drop(db);
            let db = kingdb::Db::open(options()).map_err(|error| format!("the store does not open again: {error}"))?;
            let again = self.look(&db, least)?;
            let more = db.get(b"one more").map_err(|error| error.to_string())?;
            if again != count || more.as_deref() != Some(b"after the crash") {
                return Err(format!("as after {count} records, then as after {again}; new key: {more:?}"));
            }
        }
        Ok(count)
    }

    fn look(&self, db: &kingdb::Db, least: usize) -> Result<usize, String> {
        let mut found = BTreeMap::new();
        for key in self.expected.keys() {
            let value = db.get(key.as_bytes()).map_err(|error| format!("reading {key}: {error}"))?;
            found.insert(key, value);
        }
        self.expected.place(&found, least)
    }
}

/// A change that is not safe, by its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Pending {
    Name(usize),
    Edit(usize, usize),
}

/// A sector goes to the disk as the page cache has it: what an earlier write had put before this one comes with it.
fn carry(edit: &Edit, whole: &[u8], bytes: &mut Vec<u8>) {
    let Edit::Write(start, _) = edit else { return };
    let (from, to) = ((start / SECTOR * SECTOR) as usize, (*start as usize).min(whole.len()));
    if from < to {
        bytes.resize(bytes.len().max(to), 0);
        bytes[from..to].copy_from_slice(&whole[from..to]);
    }
}

/// Applies a part of an edit.
fn tear(edit: &Edit, seed: u64, bytes: &mut Vec<u8>) {
    let Edit::Write(start, data) = edit else { return };
    let mut random = Random::new(seed);
    let end = start + data.len() as u64;
    let sectors = end.div_ceil(SECTOR) - start / SECTOR;
    let (from, to) = match random.below(4) {
        // The beginning, the end, a piece; or only the length.
        0 => (0, random.below(sectors as usize) as u64),
        1 => (random.below(sectors as usize) as u64, sectors),
        2 => {
            let from = random.below(sectors as usize) as u64;
            (from, from + random.below((sectors - from) as usize + 1) as u64)
        }
        _ => (0, 0),
    };
    let clamp = |sector: u64| ((start / SECTOR + sector) * SECTOR).clamp(*start, end);
    let (from, to) = (clamp(from), clamp(to));
    let len = if random.below(2) == 0 { to } else { end } as usize;
    bytes.resize(bytes.len().max(len), 0);
    bytes[from as usize..to as usize].copy_from_slice(&data[(from - start) as usize..(to - start) as usize]);
}

fn hash(files: &BTreeMap<String, Vec<u8>>) -> u64 {
    files.iter().fold(FNV, |hash, (name, bytes)| {
        let hash = words(hash, name.as_bytes());
        words(hash ^ bytes.len() as u64, bytes)
    })
}

/// Eight bytes at a time.
fn words(start: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(start, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    })
}

/// Makes `place` a directory of exactly these files. Zeros are not written.
fn put(place: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let _ = std::fs::remove_dir_all(place);
    std::fs::create_dir(place).expect("make a directory");
    for (name, bytes) in files {
        let file = std::fs::File::create(place.join(name)).expect("make a file");
        file.set_len(bytes.len() as u64).expect("set its length");
        for (index, block) in bytes.chunks(1 << 16).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0))
        {
            file.write_all_at(block, (index as u64) << 16).expect("write to it");
        }
    }
}
