//! What becomes of the samples of `threads`: scenario by number of connections by server.

use serde_json::{Value, json};

use crate::measure::Sample;
use crate::peer::Peer;
use crate::report::{figure, median, whole};

/// One scenario at one number of connections on one server.
#[derive(Debug)]
pub struct Row {
    /// What the connections did.
    pub scenario: &'static str,
    /// How many there were.
    pub connections: usize,
    /// The server.
    pub peer: Peer,
    /// One per round, of the connections with small values.
    pub samples: Vec<Sample>,
}

impl Row {
    /// The median of one figure over the rounds.
    pub fn median(&self, figure: fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.iter().map(figure).collect())
    }

    fn line(&self) -> String {
        let of = |pick| self.median(pick);
        let late: f64 = self.samples.iter().map(|sample| sample.unanswered).sum();
        let late = if late > 0.0 { format!(" ({late} unanswered)") } else { String::new() };
        let times = [of(|s| s.p50), of(|s| s.p99), of(|s| s.p999)].map(whole).join(" | ");
        let (rate, cpu, busy) = (of(|s| s.rate), of(|s| s.cpu), of(|s| s.busy * 100.0));
        let (switches, rss) = (of(|s| s.switches), of(|s| s.rss / 1_048_576.0));
        let cost = format!("{} | {} % | {}", figure(cpu), whole(busy), figure(switches));
        let what = format!("{} | {} | {}{late}", self.scenario, self.connections, self.peer.name());
        format!("| {what} | {} | {cost} | {times} | {} |", whole(rate), figure(rss))
    }

    fn json(&self) -> Value {
        let of = |pick| self.median(pick);
        json!({
            "scenario": self.scenario, "connections": self.connections, "peer": self.peer.name(),
            "cpu_us_per_op": of(|s| s.cpu), "ops_per_second": of(|s| s.rate), "core_busy": of(|s| s.busy),
            "p50_us": of(|s| s.p50), "p99_us": of(|s| s.p99), "p999_us": of(|s| s.p999),
            "switches_per_op": of(|s| s.switches), "rss_bytes": of(|s| s.rss), "unanswered": of(|s| s.unanswered),
        })
    }
}

/// The table.
pub fn markdown(about: &str, rows: &[Row]) -> String {
    let mut text = format!("{about}\n\n");
    text.push_str("| load | connections | server | ops/s | CPU µs/op | core busy | switches/op | p50 µs | p99 µs | p99.9 µs | RSS MiB |\n");
    text.push_str("|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n");
    text.push_str(&lines(rows));
    text
}

/// The table's rows alone.
pub fn lines(rows: &[Row]) -> String {
    rows.iter().map(|row| row.line() + "\n").collect()
}

/// The same for programs.
pub fn json(about: &str, rows: &[Row]) -> Value {
    json!({ "about": about, "rows": rows.iter().map(Row::json).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_of_requests_that_got_no_answer() {
        let sample = Sample { rate: 5000.0, unanswered: 2.0, ..Sample::default() };
        let row = Row { scenario: "all busy", connections: 10, peer: Peer::Threaded, samples: vec![sample; 3] };
        assert!(markdown("", &[row]).contains("| all busy | 10 | threaded (6 unanswered) | 5,000 |"));
    }
}
