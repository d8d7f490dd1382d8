//! What becomes of the samples: medians, tables, JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::case::{Case, size_title};
use crate::measure::Sample;
use crate::peer::{MEMORY, Peer};
use crate::{proc, sys};

/// All samples of one run of `bench`.
#[derive(Debug)]
pub struct Results {
    /// In the order of the tables' columns.
    pub peers: Vec<Peer>,
    /// In the order of the tables' rows.
    pub cases: Vec<Case>,
    /// One sample per round.
    samples: BTreeMap<(String, Peer), Vec<Sample>>,
    about: String,
}

impl Results {
    /// Nothing measured yet.
    pub fn new(peers: &[Peer], rounds: usize, window: Duration, connections: usize) -> Results {
        let how = format!("Medians of {rounds} interleaved rounds of {window:?} over {connections} connections");
        let about = format!("{how}; {}.", surroundings(peers));
        Results { peers: peers.to_vec(), cases: Vec::new(), samples: BTreeMap::new(), about }
    }

    /// Adds the next round's sample.
    pub fn add(&mut self, case: &Case, peer: Peer, sample: Sample) {
        if !self.cases.contains(case) {
            self.cases.push(*case);
        }
        self.samples.entry((case.name(), peer)).or_default().push(sample);
    }

    fn of(&self, case: &Case, peer: Peer) -> &[Sample] {
        self.samples.get(&(case.name(), peer)).map_or(&[], Vec::as_slice)
    }

    /// The peers that the case was run on.
    fn measured(&self, case: &Case) -> impl Iterator<Item = Peer> {
        self.peers.iter().copied().filter(|&peer| !self.of(case, peer).is_empty())
    }

    /// The median of one figure over the rounds.
    pub fn median(&self, case: &Case, peer: Peer, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.of(case, peer).iter().map(figure).collect())
    }

    /// CPU per operation against another peer's: the median of the rounds' ratios.
    pub fn ratio(&self, case: &Case, over: Peer, under: Peer) -> Option<f64> {
        let pairs = self.of(case, over).iter().zip(self.of(case, under));
        median(pairs.map(|(over, under)| over.cpu / under.cpu).collect())
    }

    /// A line for the terminal while it goes on.
    pub fn line(&self, case: &Case) -> String {
        let mut line = format!("{:28}", case.title());
        for peer in self.measured(case) {
            let cpu = self.median(case, peer, |sample| sample.cpu);
            let rate = self.median(case, peer, |sample| sample.rate).unwrap_or(0.0);
            let _ = write!(line, " {} {} µs {rate:.0}/s", peer.name(), figure(cpu));
        }
        line
    }

    /// The tables.
    pub fn markdown(&self) -> String {
        let mut text = format!("{} Keys: {}.\n\n", self.about, spaces(&self.cases));
        self.cpu_table(&mut text);
        let part = |open: bool| self.cases.iter().filter(move |case| case.rate.is_some() == open);
        text.push_str("\nClosed loop: as fast as it goes (latency of a whole batch).\n\n");
        self.detail_table(part(false), &mut text);
        text.push_str("\nOpen loop: a fixed arrival rate, latency from the intended time of sending.\n\n");
        self.detail_table(part(true), &mut text);
        text
    }

    fn cpu_table(&self, text: &mut String) {
        let names: Vec<String> = self.peers.iter().map(|peer| format!("{} µs", peer.name())).collect();
        text.push_str("Server CPU per operation. An operation is one key, also where requests are pipelined or ask for many keys.\n\n");
        let _ = writeln!(text, "| case | {} | ours / null | ours / memcached |", names.join(" | "));
        let _ = writeln!(text, "|---|{}", "--:|".repeat(names.len() + 2));
        for case in &self.cases {
            let cpu = |&peer: &Peer| figure(self.median(case, peer, |sample| sample.cpu));
            let ratio = |peer| figure(self.ratio(case, Peer::KingServer, peer));
            let cells: Vec<String> = self.peers.iter().map(cpu).collect();
            let (floor, rival) = (ratio(Peer::Null), ratio(Peer::Memcached));
            let _ = writeln!(text, "| {} | {} | {floor} | {rival} |", case.title(), cells.join(" | "));
        }
    }

    fn detail_table<'a>(&self, cases: impl Iterator<Item = &'a Case>, text: &mut String) {
        text.push_str("| case | server | ops/s | p50 µs | p99 µs | p99.9 µs | core busy | switches/op | RSS MiB |\n");
        text.push_str("|---|---|--:|--:|--:|--:|--:|--:|--:|\n");
        for case in cases {
            for peer in self.measured(case) {
                let of = |pick: fn(&Sample) -> f64| self.median(case, peer, pick);
                let late = self.of(case, peer).iter().map(|sample| sample.unanswered).sum::<f64>();
                let late = if late > 0.0 { format!(" ({late} unanswered)") } else { String::new() };
                let times = [of(|s| s.p50), of(|s| s.p99), of(|s| s.p999)].map(whole).join(" | ");
                let (rate, busy) = (whole(of(|s| s.rate)), whole(of(|s| s.busy * 100.0)));
                let (switches, rss) = (figure(of(|s| s.switches)), whole(of(|s| s.rss / 1048576.0)));
                let title = case.title();
                let name = peer.name();
                let _ = writeln!(text, "| {title} | {name}{late} | {rate} | {times} | {busy} % | {switches} | {rss} |");
            }
        }
    }

    /// Everything, single samples included.
    pub fn json(&self) -> Value {
        let rows = self.cases.iter().flat_map(|case| self.measured(case).map(|peer| self.row(case, peer)));
        json!({ "about": self.about, "rows": rows.collect::<Vec<_>>() })
    }

    fn row(&self, case: &Case, peer: Peer) -> Value {
        let of = |pick: fn(&Sample) -> f64| self.median(case, peer, pick);
        let rounds: Vec<f64> = self.of(case, peer).iter().map(|sample| sample.cpu).collect();
        json!({
            "case": case.name(), "kind": case.kind, "size": case.work.size, "keys": case.work.space,
            "peer": peer.name(), "cpu_us_per_op": of(|s| s.cpu), "cpu_us_per_op_rounds": rounds,
            "ops_per_second": of(|s| s.rate), "p50_us": of(|s| s.p50), "p99_us": of(|s| s.p99),
            "p999_us": of(|s| s.p999), "core_busy": of(|s| s.busy), "switches_per_op": of(|s| s.switches),
            "rss_bytes": of(|s| s.rss), "unanswered": of(|s| s.unanswered),
            "over_null": self.ratio(case, peer, Peer::Null), "over_memcached": self.ratio(case, peer, Peer::Memcached),
        })
    }
}

/// What must be known to read the figures.
pub fn surroundings(peers: &[Peer]) -> String {
    let cores = "all servers on one core, the load on another";
    let values = "random keys, values of random letters and digits";
    let memory = format!("{MEMORY} MiB of memory for values");
    let versions: Vec<String> = peers.iter().filter_map(|&peer| version(peer)).collect();
    let machine = format!("{}, Linux {}", proc::processor(), sys::kernel());
    let mut parts = vec![cores.to_owned(), values.to_owned(), memory, machine];
    parts.extend(versions);
    parts.join("; ")
}

fn version(peer: Peer) -> Option<String> {
    let program = match peer {
        Peer::Memcached => "memcached",
        Peer::Redis => "redis-server",
        _ => return None,
    };
    let said = Command::new(program).arg("--version").output().ok()?.stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let number = said.split_whitespace().map(|word| word.trim_start_matches("v="));
    let number = number.into_iter().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(format!("{} {number}", peer.name()))
}

/// The middle one, of an even count the mean of the two; none of none.
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let count = figures.len();
    let middle = figures.get(count / 2)?;
    Some(if count.is_multiple_of(2) { (middle + figures[count / 2 - 1]) / 2.0 } else { *middle })
}

/// Three digits that matter.
pub fn figure(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// Without decimals, thousands apart.
pub fn whole(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "–".to_owned();
    };
    let digits = format!("{value:.0}");
    let group = |(index, digit): (usize, char)| {
        let comma = index > 0 && (digits.len() - index).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(group).collect()
}

/// How many keys there were of each size.
fn spaces(cases: &[Case]) -> String {
    let mut sizes: Vec<(usize, u32)> = cases.iter().map(|case| (case.work.size, case.work.space)).collect();
    sizes.dedup();
    let each: Vec<String> = sizes.iter().map(|&(size, keys)| format!("{keys} of {}", size_title(size))).collect();
    each.join(", ")
}

/// Writes a file and its directory.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_none() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut results = Results::new(&[], 3, Duration::from_secs(1), 1);
        let case = Case::of_size(100, 10)[0];
        // The machine was twice as slow in the second round, for both.
        for (ours, null) in [(2.2, 2.0), (4.4, 4.0), (2.4, 2.0)] {
            results.add(&case, Peer::KingServer, Sample { cpu: ours, ..Sample::default() });
            results.add(&case, Peer::Null, Sample { cpu: null, ..Sample::default() });
        }
        let ratio = results.ratio(&case, Peer::KingServer, Peer::Null).unwrap();
        assert!((ratio - 1.1).abs() < 1e-9);
        assert_eq!(results.ratio(&case, Peer::KingServer, Peer::Memcached), None);
    }

    #[test]
    fn tables_have_a_cell_for_every_peer() {
        let mut results = Results::new(&[Peer::Null, Peer::KingServer], 1, Duration::ZERO, 1);
        let case = Case::of_size(100, 10)[0];
        for (peer, cpu) in [(Peer::Null, 7.0), (Peer::KingServer, 7.7)] {
            results.add(&case, peer, Sample { cpu, rate: 140_000.0, ..Sample::default() });
        }
        let table = results.markdown();
        assert!(table.contains("Keys: 10 of 100 B."));
        assert!(table.contains("| get, 100 B | 7.00 | 7.70 | 1.10 | – |"));
        assert!(table.contains("| get, 100 B | kingserver | 140,000 |"));
        let json = results.json();
        assert_eq!(json["rows"][1]["peer"], "kingserver");
        assert!(json["rows"][1]["over_memcached"].is_null());
    }

    #[test]
    fn a_peer_left_out_of_a_case_has_no_figure_there() {
        let mut results = Results::new(&[Peer::KingServer, Peer::Redis], 1, Duration::ZERO, 1);
        let case = Case::of_size(100, 10)[7];
        results.add(&case, Peer::KingServer, Sample { cpu: 0.7, rate: 1000.0, ..Sample::default() });
        let table = results.markdown();
        assert!(table.contains("| meta get, 100 B | 0.70 | – | – | – |"));
        assert!(table.contains("| meta get, 100 B | kingserver | 1,000 |"));
        assert!(!table.contains("| meta get, 100 B | redis |"));
        assert!(!results.line(&case).contains("redis"));
        assert_eq!(results.json()["rows"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!([0.584, 7.0, 12.34, 1234.5].map(|value| figure(Some(value))), ["0.58", "7.00", "12.3", "1234"]);
        assert_eq!([7.0, 1234.0, 1_234_567.0].map(|value| whole(Some(value))), ["7", "1,234", "1,234,567"]);
        assert_eq!(figure(None), "–");
    }
}
