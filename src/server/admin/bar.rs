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
    let seconds = took.as_secs_f64();
    if seconds >= 1.0 {
        let _ = write!(line, ", {}/s", size((done as f64 / seconds) as u64));
        if done > 0 && total > done {
            let _ = write!(line, ", {} s left", ((total - done) as f64 * seconds / done as f64).ceil() as u64);
        }
    }
    line
}

/// Bytes for people: three digits and a unit.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or("B");
    for next in units {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ if value < 10.0 => format!("{value:.2} {unit}"),
        _ if value < 100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_sizes() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1 << 20, "1.00 MiB"), (1000 << 20, "0.98 GiB"), (5 << 30, "5.00 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
        let text = line("checking", 1 << 30, 4 << 30, Duration::from_secs(2));
        assert_eq!(text, "checking  25% [######                  ] 1.00 GiB of 4.00 GiB, 512 MiB/s, 6 s left");
        assert_eq!(line("reading", 5000, 0, Duration::ZERO), "reading 4.88 KiB");
    }
}
