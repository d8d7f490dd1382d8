//! RocksDB, measured by its own `db_bench`: its arguments, and its output taken apart. A workload's processor time and
//! bytes are read from /proc when db_bench prints the workload's line, which it does at once.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kingserver_bench::sys;

use crate::worker::{After, Cost, Line, Sample, space};
use crate::workload::{CACHE, KEY, Scale, Workload};

/// The program.
pub const PROGRAM: &str = "db_bench";

/// One start of db_bench.
struct Start<'a> {
    scale: Scale,
    dir: &'a Path,
    cache: u64,
    /// Keys are numbers below this.
    keys: u64,
    ops: u64,
    sync: bool,
    existing: bool,
    workloads: &'a [(Workload, &'static str)],
}

/// As [`crate::worker::run`].
pub fn run(scale: Scale, dir: &Path, tell: &mut dyn FnMut(Line) -> Result<()>) -> Result<()> {
    let (random, sync) = (dir.join("random"), dir.join("sync"));
    let filled = [
        (Workload::FillSeq, "fillseq"),
        (Workload::FillRandom, "fillrandom"),
        (Workload::Overwrite, "overwrite"),
        (Workload::ReadRandom, "readrandom"),
        (Workload::ReadSeq, "readseq"),
    ];
    let count = scale.count;
    let all = Start {
        scale,
        dir: &random,
        cache: CACHE,
        keys: count,
        ops: count,
        sync: false,
        existing: false,
        workloads: &filled,
    };
    let records = all.run(tell)?;
    let space = space(&random)?;
    let again = Start { existing: true, ..all };
    Start { keys: count.div_ceil(100), workloads: &[(Workload::ReadHot, "readrandom")], ..again }.run(tell)?;
    Start { cache: scale.small_cache(), workloads: &[(Workload::ReadCold, "readrandom")], ..again }.run(tell)?;
    let synced = &[(Workload::FillSync, "fillrandom")];
    Start { dir: &sync, ops: scale.synced, sync: true, workloads: synced, ..all }.run(tell)?;
    tell(Line::After(After { space, live: records * (KEY + scale.size) as u64, recovery: None }))
}

impl Start<'_> {
    /// Tells each workload; returns the records of the last one that read something.
    fn run(&self, tell: &mut dyn FnMut(Line) -> Result<()>) -> Result<u64> {
        fs::create_dir_all(self.dir)?;
        // Line by line, so that the clock is read when a line is printed.
        let mut command = Command::new("stdbuf");
        command
            .args(["-oL", PROGRAM])
            .args(self.arguments()?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        sys::leash(&mut command);
        let mut child = command.spawn().with_context(|| format!("cannot start {PROGRAM}"))?;
        let said = BufReader::new(child.stdout.take().context("no pipe")?);
        let told = self.follow(said, child.id(), tell);
        if told.is_err() {
            child.kill()?;
        }
        let status = child.wait()?;
        let told = told?;
        ensure!(status.success(), "{command:?} ended with {status}");
        Ok(told)
    }

    fn follow(&self, said: impl BufRead, pid: u32, tell: &mut dyn FnMut(Line) -> Result<()>) -> Result<u64> {
        let (mut wanted, mut found) = (self.workloads.iter(), 0);
        let mut before = Cost::of(pid)?;
        for line in said.lines() {
            let line = line?;
            // What it does before the first workload is not the workload's.
            if line.starts_with("----") {
                before = Cost::of(pid)?;
            }
            let Some(result) = parse(&line) else { continue };
            let &(workload, name) = wanted.next().context("more results than workloads")?;
            ensure!(result.name == name, "expected {name} of {PROGRAM}, got: {line}");
            let now = Cost::of(pid)?;
            let (cpu, written) = before.until(&now);
            before = now;
            found = if workload.writes() { found } else { result.found };
            let Outcome { ops, wall, .. } = result;
            tell(Line::Sample(Sample { workload, ops, wall, cpu, written, found: result.found }))?;
        }
        ensure!(wanted.next().is_none(), "{PROGRAM} ended early");
        Ok(found)
    }

    fn arguments(&self) -> Result<Vec<String>> {
        let dir = self.dir.to_str().context("the directory's name is not UTF-8")?;
        let names: Vec<&str> = self.workloads.iter().map(|&(_, name)| name).collect();
        let Scale { size, seed, .. } = self.scale;
        Ok(vec![
            format!("--benchmarks={}", names.join(",")),
            format!("--db={dir}"),
            format!("--num={}", self.keys),
            format!("--reads={}", self.ops),
            format!("--writes={}", self.ops),
            format!("--key_size={KEY}"),
            format!("--value_size={size}"),
            "--compression_ratio=0.5".to_owned(),
            "--compression_type=snappy".to_owned(),
            "--bloom_bits=10".to_owned(),
            format!("--cache_size={}", self.cache),
            format!("--sync={}", u8::from(self.sync)),
            format!("--use_existing_db={}", u8::from(self.existing)),
            format!("--seed={}", seed + 1),
            "--stats_interval=1000000000".to_owned(),
        ])
    }
}

/// What a line of db_bench tells.
#[derive(PartialEq, Debug)]
struct Outcome {
    name: String,
    ops: u64,
    wall: f64,
    found: u64,
}

/// `readrandom   :   4.295 micros/op 232801 ops/sec 1.289 seconds 300000 operations;   22.3 MB/s (259288 of 300000 found)`
fn parse(line: &str) -> Option<Outcome> {
    let (name, rest) = line.split_once(" :")?;
    let before = |unit: &str| {
        let mut words = rest.split([' ', ';']).filter(|word| !word.is_empty()).peekable();
        while let Some(word) = words.next() {
            if words.peek() == Some(&unit) {
                return word.parse::<f64>().ok();
            }
        }
        None
    };
    let ops = before("operations")? as u64;
    let found = rest.split_once('(').and_then(|(_, found)| found.split_once(" of ")?.0.parse().ok());
    // Reading everything finds everything.
    let found = found.unwrap_or(if name.trim() == "readseq" { ops } else { 0 });
    // The seconds that it prints have three decimals.
    let wall = before("micros/op")? * ops as f64 / 1e6;
    Some(Outcome { name: name.trim().to_owned(), ops, wall, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_lines_are_understood() {
        let line = "readrandom   :       4.295 micros/op 232801 ops/sec 1.289 seconds 300000 operations;   22.3 MB/s (259288 of 300000 found)";
        let wanted = Outcome { name: "readrandom".into(), ops: 300_000, wall: 1.2885, found: 259_288 };
        assert_eq!(parse(line), Some(wanted));
        let line = "readseq      :       0.388 micros/op 2572756 ops/sec 0.101 seconds 259375 operations;  284.6 MB/s";
        assert_eq!(parse(line).map(|result| result.found), Some(259_375));
        for other in ["RocksDB:    version 7.8.3", "Keys:       16 bytes each", "DB path: [/x : y]", ""] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn all_of_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let scale = Scale { size: 100, count: 1_000, synced: 3, seed: 1 };
        let mut lines = Vec::new();
        run(scale, dir.path(), &mut |line| {
            lines.push(line);
            Ok(())
        })
        .unwrap();
        assert_eq!(lines.len(), Workload::ALL.len(), "all but the bare loop, and the end: {lines:?}");
        let Some(Line::After(after)) = lines.last() else { panic!("no end") };
        assert!(after.live > 70_000 && after.space > 0, "{after:?}");
    }
}
