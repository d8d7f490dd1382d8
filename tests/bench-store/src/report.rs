//! What becomes of the samples: medians over the rounds, tables, the README's section.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use kingdb::store::CHUNK;
use kingserver_bench::report::{figure, median, whole};
use kingserver_bench::{proc, sys};

use crate::leveldb::LevelDb;
use crate::store::Engine;
use crate::worker::{After, Line, Sample};
use crate::workload::{CACHE, KEY, Scale, Workload};

/// All samples of a run.
pub struct Results {
    /// In the order of the tables' columns.
    pub engines: Vec<Engine>,
    /// In the order of the tables.
    pub scales: Vec<Scale>,
    samples: BTreeMap<(usize, Workload, Engine), Vec<Sample>>,
    after: BTreeMap<(usize, Engine), Vec<After>>,
}

impl Results {
    /// Nothing measured yet.
    pub fn new(engines: &[Engine], scales: &[Scale]) -> Results {
        let (engines, scales) = (engines.to_vec(), scales.to_vec());
        Results { engines, scales, samples: BTreeMap::new(), after: BTreeMap::new() }
    }

    /// Adds what a worker told.
    pub fn add(&mut self, engine: Engine, scale: &Scale, line: Line) {
        match line {
            Line::Sample(sample) => {
                self.samples.entry((scale.size, sample.workload, engine)).or_default().push(sample);
            }
            Line::After(after) => self.after.entry((scale.size, engine)).or_default().push(after),
        }
    }

    /// The workloads that any store ran at this size.
    pub fn workloads(&self, scale: &Scale) -> Vec<Workload> {
        let ran = |&workload: &Workload| {
            self.engines.iter().any(|&engine| self.samples.contains_key(&(scale.size, workload, engine)))
        };
        Workload::ALL.into_iter().filter(ran).collect()
    }

    fn of(&self, scale: &Scale, workload: Workload, engine: Engine) -> &[Sample] {
        self.samples.get(&(scale.size, workload, engine)).map_or(&[], Vec::as_slice)
    }

    /// The median of a figure over the rounds.
    pub fn median(
        &self,
        scale: &Scale,
        workload: Workload,
        engine: Engine,
        pick: impl Fn(&Sample) -> f64,
    ) -> Option<f64> {
        median(self.of(scale, workload, engine).iter().map(pick).collect())
    }

    /// How many times as fast as `under`: the median of the rounds' ratios.
    pub fn speed(&self, scale: &Scale, workload: Workload, over: Engine, under: Engine) -> Option<f64> {
        self.ratio(self.of(scale, workload, over), self.of(scale, workload, under))
    }

    fn ratio(&self, over: &[Sample], under: &[Sample]) -> Option<f64> {
        median(over.iter().zip(under).map(|(over, under)| micros(under) / micros(over)).collect())
    }

    /// What the row of the bare loop tells.
    pub fn floor_note(&self, scale: &Scale) -> Option<String> {
        let bare = self.of(scale, Workload::Pwrite, Engine::KingDb);
        let beside = |workload| self.ratio(bare, self.of(scale, workload, Engine::LevelDb));
        let (random, over) = (beside(Workload::FillRandom)?, beside(Workload::Overwrite)?);
        Some(format!(
            "*pwrite alone* is no store: a loop that gives the kernel as many bytes as KingDB's records have, a call for each. \
             Beside it LevelDB's fillrandom takes {} times as long, its overwrite {} times: a store that makes such a call \
             for each put cannot be further ahead.",
            figure(Some(random)),
            figure(Some(over))
        ))
    }

    fn after(&self, scale: &Scale, engine: Engine, pick: impl Fn(&After) -> Option<f64>) -> Option<f64> {
        median(self.after.get(&(scale.size, engine))?.iter().filter_map(pick).collect())
    }

    /// All tables.
    pub fn markdown(&self, rounds: &str) -> String {
        let mut text = self.about(rounds);
        for scale in &self.scales {
            let count = whole(Some(scale.count as f64));
            let _ = write!(text, "\n## {count} values of {}\n\n", scale.title());
            self.time_table(scale, &mut text);
            let _ = self.floor_note(scale).map(|note| write!(text, "\n{note}\n"));
            text.push('\n');
            self.cost_table(scale, &mut text);
            text.push('\n');
            self.space_table(scale, &mut text);
        }
        text
    }

    fn about(&self, rounds: &str) -> String {
        let cache = CACHE >> 20;
        format!(
            "{rounds}. Keys of {KEY} bytes, values that compress by half. Every store with {cache} MiB of cache (*readcold*: an \
             eighth of the data) and its own defaults otherwise; one thread calls, each store's threads may use all cores. Every \
             put is in the page cache when it returns, in *fillsync* on the disk. KingDB, LevelDB and RocksDB with snappy; LevelDB \
             and RocksDB with a Bloom filter of 10 bits per key and without a check of each block's checksum where that is \
             their default (LevelDB); fjall with its LZ4. RocksDB is measured by Debian's own `db_bench` 7.8.3, which is built with \
             assertions and says of itself that this makes it slower. LevelDB {}, fjall 3. {}, Linux {}.\n",
            LevelDb::version(),
            proc::processor(),
            sys::kernel()
        )
    }

    /// Microseconds per operation, by the clock.
    pub fn time_table(&self, scale: &Scale, text: &mut String) {
        self.head("µs per operation", &["KingDB : LevelDB"], text);
        for workload in self.workloads(scale) {
            let time = |&engine: &Engine| figure(self.median(scale, workload, engine, micros));
            let cells: Vec<String> = self.engines.iter().map(time).collect();
            let speed = self.speed(scale, workload, Engine::KingDb, Engine::LevelDb);
            let speed = speed.map_or("–".to_owned(), |speed| format!("× {}", figure(Some(speed))));
            let _ = writeln!(text, "| {} | {} | {speed} |", workload.name(), cells.join(" | "));
        }
    }

    /// Processor time and bytes written.
    fn cost_table(&self, scale: &Scale, text: &mut String) {
        self.head("processor µs per operation; bytes written per byte put", &[], text);
        for workload in self.workloads(scale) {
            let cell = |&engine: &Engine| {
                let cpu = self.median(scale, workload, engine, |sample| sample.cpu * 1e6 / sample.ops as f64);
                let put = |sample: &Sample| (sample.ops * (KEY + scale.size) as u64) as f64;
                let written = self.median(scale, workload, engine, |sample| sample.written as f64 / put(sample));
                match workload.writes() {
                    true => format!("{}; {}", figure(cpu), figure(written)),
                    false => figure(cpu),
                }
            };
            let cells: Vec<String> = self.engines.iter().map(cell).collect();
            let _ = writeln!(text, "| {} | {} |", workload.name(), cells.join(" | "));
        }
    }

    /// Disk space after overwriting, and how fast a log is read at the start.
    fn space_table(&self, scale: &Scale, text: &mut String) {
        self.head("after overwrite", &[], text);
        let space = |&engine: &Engine| {
            let ratio = self.after(scale, engine, |after| Some(after.space as f64 / after.live as f64));
            figure(ratio)
        };
        let cells: Vec<String> = self.engines.iter().map(space).collect();
        let _ = writeln!(text, "| disk space per live byte | {} |", cells.join(" | "));
        let recovery = self.after(scale, Engine::KingDb, |after| after.recovery);
        // Of large values the log has only the tables.
        if let Some(recovery) = recovery.filter(|_| scale.size < CHUNK) {
            let speed = whole(Some(recovery / 1e6));
            let _ = writeln!(text, "\nKingDB reads {speed} MB of log per second when it opens after a crash.");
        }
    }

    fn head(&self, what: &str, more: &[&str], text: &mut String) {
        let names = self.engines.iter().map(|engine| match engine {
            Engine::KingDb => format!("**{}**", engine.title()),
            other => other.title().to_owned(),
        });
        let names: Vec<String> = names.chain(more.iter().map(|&name| name.to_owned())).collect();
        let _ = writeln!(text, "| {what} | {} |", names.join(" | "));
        let _ = writeln!(text, "|---|{}", "--:|".repeat(names.len()));
    }

    /// A line for the terminal.
    pub fn line(&self, scale: &Scale, engine: Engine) -> String {
        let time = |workload: Workload| {
            let time = self.of(scale, workload, engine).last().map(micros);
            format!("{} {}", workload.name(), figure(time))
        };
        let times: Vec<String> = self.workloads(scale).into_iter().map(time).collect();
        format!("{:7} {:7} µs: {}", scale.title(), engine.title(), times.join(", "))
    }
}

/// Per operation, by the clock.
pub fn micros(sample: &Sample) -> f64 {
    sample.wall * 1e6 / sample.ops.max(1) as f64
}

/// Puts `text` between the markers `<!-- name:begin -->` and `<!-- name:end -->` of a file.
pub fn put_between(path: &Path, name: &str, text: &str) -> Result<()> {
    let old = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let new = between(&old, name, text).with_context(|| format!("{} has no markers `{name}`", path.display()))?;
    std::fs::write(path, new).with_context(|| format!("cannot write {}", path.display()))
}

fn between(old: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let (before, rest) = old.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{text}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(workload: Workload, wall: f64) -> Line {
        Line::Sample(Sample { workload, ops: 1_000_000, wall, cpu: wall, written: 0, found: 0 })
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let scale = Scale::FULL[0];
        let mut results = Results::new(&[Engine::KingDb, Engine::LevelDb], &[scale]);
        // The machine was twice as slow in the second round, for both.
        for (ours, theirs) in [(1.0, 2.0), (2.0, 4.0), (1.1, 2.0)] {
            results.add(Engine::KingDb, &scale, sample(Workload::FillSeq, ours));
            results.add(Engine::LevelDb, &scale, sample(Workload::FillSeq, theirs));
        }
        let speed = results.speed(&scale, Workload::FillSeq, Engine::KingDb, Engine::LevelDb);
        assert!((speed.unwrap() - 2.0).abs() < 1e-9);
        let mut table = String::new();
        results.time_table(&scale, &mut table);
        assert!(table.contains("| fillseq | 1.10 | 2.00 | × 2.00 |"), "{table}");
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let old = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n";
        assert_eq!(between(old, "x", "new\n").as_deref(), Some("a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb\n"));
        assert_eq!(between(old, "y", "new\n"), None);
    }
}
