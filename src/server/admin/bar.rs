//! How far a command has come, on a terminal: one line on standard error that is written over and over. Elsewhere nothing.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Time between two looks of the line.
const PAUSE: Duration = Duration::from_millis(100);
const WIDTH: usize = 24;

/// The line. Dropped, it is wiped out.
pub struct Bar {
    what: &'static str,
    terminal: bool,
    began: Instant,
    drawn: Option<Instant>,
}

impl Bar {
    /// A line that begins with `what` is done.
    pub fn new(what: &'static str) -> Bar {
        Bar { what, terminal: std::io::stderr().is_terminal(), began: Instant::now(), drawn: None }
    }

    /// `done` bytes of `total`; 0: nobody knows how many.
    pub fn show(&mut self, done: u64, total: u64) {
        if !self.terminal || self.drawn.is_some_and(|drawn| drawn.elapsed() < PAUSE) {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = line(self.what, done, total, self.began.elapsed());
        // Whoever closed the terminal does not look.
        let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
    }

    /// Wipes the line out.
    pub fn end(&mut self) {
        if self.drawn.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    /// A last word in its place.
    pub fn say(&mut self, text: &str) {
        self.end();
        if self.terminal {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.end();
    }
}

fn line(what: &str, done: u64, total: u64, took: Duration) -> String {
    let mut line = format!("{what} ");
    if total > 0 {
        let done = done.min(total);
        let full = (done as u128 * WIDTH as u128 / total as u128) as usize;
        let percent = done as u128 * 100 / total as u128;
        // Writing to a String cannot fail.
        let _ = write!(line, "{percent:3}% [{}{}] ", "#".repeat(full), " ".repeat(WIDTH - full));
    }
    line += &size(done);
    if total > 0 {
        let _ = write!(line, " of {}", size(total));
    }
    let millis = took.as_millis();
    if millis >= 1000 {
        let _ = write!(line, ", {}/s", size((u128::from(done) * 1000 / millis) as u64));
        if done > 0 && total > done {
            let left = (u128::from(total - done) * millis).div_ceil(u128::from(done) * 1000);
            let _ = write!(line, ", {left} s left");
        }
    }
    line
}

/// Bytes for people: three digits and a unit. In whole numbers: formatting others takes 25 KiB of program.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = (0..units.len() - 1).find(|&power| bytes >> (10 * power) < 1000).unwrap_or(units.len() - 1);
    let hundredths = (u128::from(bytes) * 100) >> (10 * power);
    let (whole, rest, unit) = (hundredths / 100, hundredths % 100, units[power]);
    match whole {
        _ if power == 0 => format!("{bytes} B"),
        0..10 => format!("{whole}.{rest:02} {unit}"),
        10..100 => format!("{whole}.{} {unit}", rest / 10),
        _ => format!("{whole} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1 << 20, "1.00 MiB"),
            (1000 << 20, "0.97 GiB"),
            (u64::MAX, "15.9 EiB"),
            (5 << 30, "5.00 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        let text = line("checking", 1 << 30, 4 << 30, Duration::from_secs(2));
        assert_eq!(text, "checking  25% [######                  ] 1.00 GiB of 4.00 GiB, 512 MiB/s, 6 s left");
        assert_eq!(line("reading", 5000, 0, Duration::ZERO), "reading 4.88 KiB");
    }
}
