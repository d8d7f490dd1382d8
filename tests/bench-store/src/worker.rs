//! One store, all workloads: a process of its own, so that neither memory nor threads nor dirty pages of one store are
//! in the way of the next. It prints a line of JSON for each workload.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kingdb::store::CHUNK;
use kingserver_bench::sys;
use serde::{Deserialize, Serialize};

use crate::store::{Acknowledgement, Bare, Engine, Store, king, open};
use crate::workload::{CACHE, Scale, Values, Workload, key};

/// What one workload came to.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// What was done.
    pub workload: Workload,
    /// How often.
    pub ops: u64,
    /// By the clock. Seconds.
    pub wall: f64,
    /// Processor time of all threads. Seconds.
    pub cpu: f64,
    /// Bytes that went to the page cache or the disk, rewriting by compaction included.
    pub written: u64,
    /// Records found, where reading.
    pub found: u64,
}

/// What is known when all is done.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct After {
    /// Disk space after [`Workload::Overwrite`] and closing. Bytes.
    pub space: u64,
    /// Keys and newest values, uncompressed. Bytes.
    pub live: u64,
    /// Log read per second when opening after a crash. Bytes. Ours only.
    pub recovery: Option<f64>,
}

/// A line of a worker's output.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// A workload is done.
    Sample(Sample),
    /// All are.
    After(After),
}

/// Processor time and bytes written of a process so far.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    cpu: Duration,
    written: u64,
}

impl Cost {
    /// Of process `pid`, which is ours or a child.
    pub fn of(pid: u32) -> Result<Cost> {
        let path = format!("/proc/{pid}/io");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let written = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
        Ok(Cost { cpu: sys::cpu_time(pid)?, written: written.with_context(|| format!("{path} has no write_bytes"))? })
    }

    /// From here to there: seconds and bytes.
    pub fn until(&self, later: &Cost) -> (f64, u64) {
        (later.cpu.saturating_sub(self.cpu).as_secs_f64(), later.written - self.written)
    }
}

/// Runs all workloads on one store, below `dir`, and hands each outcome to `tell`.
pub fn run(engine: Engine, scale: Scale, dir: &Path, tell: &mut dyn FnMut(Line) -> Result<()>) -> Result<()> {
    let mut run = Run { values: Values::new(scale.size, scale.seed), scale, seen: vec![false; scale.count as usize] };
    let at = |name: &str| dir.join(name);
    let page_cache = |dir: PathBuf, cache| open(engine, &dir, cache, Acknowledgement::PageCache);
    let store = page_cache(at("seq"), CACHE)?;
    tell(run.measure(Workload::FillSeq, &*store)?)?;
    drop(store);
    // Of longer values the log has only the tables.
    if engine == Engine::KingDb && scale.size <= CHUNK {
        let record = log_bytes(&at("seq"))? / scale.count;
        tell(run.measure(Workload::Pwrite, &Bare::create(&at("bare"), record as usize)?)?)?;
        fs::remove_file(at("bare"))?;
    }
    fs::remove_dir_all(at("seq"))?;
    let store = page_cache(at("random"), CACHE)?;
    for workload in
        [Workload::FillRandom, Workload::Overwrite, Workload::ReadRandom, Workload::ReadSeq, Workload::ReadHot]
    {
        tell(run.measure(workload, &*store)?)?;
    }
    drop(store);
    let space = space(&at("random"))?;
    let recovery = (engine == Engine::KingDb).then(|| recovery(&at("random"), &at("copy"))).transpose()?;
    let store = page_cache(at("random"), scale.small_cache())?;
    tell(run.measure(Workload::ReadCold, &*store)?)?;
    drop(store);
    let store = open(engine, &at("sync"), CACHE, Acknowledgement::Disk)?;
    tell(run.measure(Workload::FillSync, &*store)?)?;
    let live = run.seen.iter().filter(|&&seen| seen).count() as u64 * (crate::workload::KEY + scale.size) as u64;
    tell(Line::After(After { space, live, recovery }))
}

struct Run {
    scale: Scale,
    values: Values,
    /// Keys that the second store has.
    seen: Vec<bool>,
}

impl Run {
    fn measure(&mut self, workload: Workload, store: &dyn Store) -> Result<Line> {
        let me = std::process::id();
        let (before, began) = (Cost::of(me)?, Instant::now());
        let (ops, found) = self.work(workload, store)?;
        let wall = began.elapsed().as_secs_f64();
        let (cpu, written) = before.until(&Cost::of(me)?);
        Ok(Line::Sample(Sample { workload, ops, wall, cpu, written, found }))
    }

    /// How many operations, how many records found.
    fn work(&mut self, workload: Workload, store: &dyn Store) -> Result<(u64, u64)> {
        let Scale { count, synced, seed, .. } = self.scale;
        let mut random = fastrand::Rng::with_seed(seed << 8 | workload as u64);
        match workload {
            Workload::FillSeq | Workload::Pwrite => self.fill(store, (0..count).map(key)),
            Workload::FillRandom | Workload::Overwrite => {
                let numbers: Vec<u64> = (0..count).map(|_| random.u64(0..count)).collect();
                numbers.iter().for_each(|&number| self.seen[number as usize] = true);
                self.fill(store, numbers.into_iter().map(key))
            }
            Workload::FillSync => self.fill(store, (0..synced).map(|_| key(random.u64(0..count)))),
            Workload::ReadRandom | Workload::ReadCold => read(store, count, || random.u64(0..count)),
            Workload::ReadHot => read(store, count, || random.u64(0..count.div_ceil(100))),
            Workload::ReadSeq => store.scan().map(|count| (count, count)),
        }
    }

    fn fill<const N: usize>(&mut self, store: &dyn Store, keys: impl Iterator<Item = [u8; N]>) -> Result<(u64, u64)> {
        let mut ops = 0;
        for key in keys {
            store.put(&key, self.values.cut())?;
            ops += 1;
        }
        Ok((ops, 0))
    }
}

fn read(store: &dyn Store, count: u64, mut number: impl FnMut() -> u64) -> Result<(u64, u64)> {
    let mut found = 0;
    for _ in 0..count {
        found += u64::from(store.get(&key(number()))?.is_some());
    }
    Ok((count, found))
}

/// Opens a copy that a crash could have left: without what a clean end writes. Bytes of log per second.
fn recovery(dir: &Path, copy: &Path) -> Result<f64> {
    fs::create_dir_all(copy)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() != "CHECKPOINT" && entry.file_type()?.is_file() {
            fs::copy(entry.path(), copy.join(entry.file_name()))?;
        }
    }
    let bytes = log_bytes(copy)?;
    let began = Instant::now();
    let db = king(copy, CACHE, Acknowledgement::PageCache)?;
    let took = began.elapsed().as_secs_f64();
    drop(db);
    fs::remove_dir_all(copy)?;
    Ok(bytes as f64 / took)
}

/// Bytes in the segment files of one of our stores.
fn log_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_log = entry.path().extension().is_some_and(|extension| extension == "log");
        bytes += if is_log { entry.metadata()?.len() } else { 0 };
    }
    Ok(bytes)
}

/// Disk blocks of a directory and all below. Bytes.
pub fn space(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { space(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_of_every_store_runs_and_is_told() {
        for engine in Engine::ALL.into_iter().filter(|&engine| engine != Engine::RocksDb) {
            let dir = tempfile::tempdir().unwrap();
            let scale = Scale { size: 1_000, count: 500, synced: 3, seed: 1 };
            let mut lines = Vec::new();
            run(engine, scale, dir.path(), &mut |line| {
                lines.push(line);
                Ok(())
            })
            .unwrap();
            let Some(Line::After(after)) = lines.pop() else { panic!("no end") };
            assert!(after.space > 0 && after.live > 0, "{engine:?}: {after:?}");
            assert_eq!(after.recovery.is_some(), engine == Engine::KingDb);
            let found = |wanted| {
                lines.iter().find_map(|line| match line {
                    Line::Sample(sample) if sample.workload == wanted => Some((sample.ops, sample.found)),
                    _ => None,
                })
            };
            assert_eq!(found(Workload::FillSeq), Some((500, 0)), "{engine:?}");
            assert_eq!(found(Workload::FillSync), Some((3, 0)), "{engine:?}");
            assert_eq!(found(Workload::Pwrite), (engine == Engine::KingDb).then_some((500, 0)), "{engine:?}");
            // (1 - 1/e)² of the keys were never chosen: some are missing, most are there.
            let (ops, hits) = found(Workload::ReadRandom).unwrap();
            assert!(ops == 500 && (350..500).contains(&hits), "{engine:?}: {hits}");
            let (ops, records) = found(Workload::ReadSeq).unwrap();
            assert_eq!((ops, records * 1_016), (records, after.live), "{engine:?}");
        }
    }
}
