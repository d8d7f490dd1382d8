//! Messages that repeat themselves, as on a full disk every second: the first is shown, then at most one a minute, with
//! a count. Pure: the caller brings the time and writes what comes back.

use std::time::Duration;

use super::Level;

/// How long a message that was shown stands for those like it.
const QUIET: Duration = Duration::from_secs(60);
/// Messages kept in mind: what goes wrong at the same time is few things.
const KEPT: usize = 16;

/// The messages shown of late.
pub struct Repeats {
    /// The first known first.
    shown: Vec<Shown>,
}

struct Shown {
    level: Level,
    text: String,
    at: Duration,
    /// How many more like it were held back.
    held: u64,
}

impl Repeats {
    pub const fn new() -> Repeats {
        Repeats { shown: Vec::new() }
    }

    /// What to write now that this message came: counts that are due, then the message, unless it is a repetition.
    pub fn take(&mut self, level: Level, text: &str, now: Duration) -> Vec<(Level, String)> {
        self.shown.retain(|known| known.held > 0 || !known.is_due(now));
        let known = self.shown.iter_mut().find(|known| known.level == level && known.text == text);
        let is_new = known.map(|known| known.held += 1).is_none();
        let mut out = self.due(now);
        if is_new {
            out.extend(self.make_room());
            out.push((level, text.to_string()));
            self.shown.push(Shown { level, text: text.to_string(), at: now, held: 0 });
        }
        out
    }

    /// The counts not told yet: for the end.
    pub fn rest(&mut self) -> Vec<(Level, String)> {
        self.shown.drain(..).filter_map(|known| known.count()).collect()
    }

    /// The counts of messages shown long enough ago; each stands for what follows like the first.
    fn due(&mut self, now: Duration) -> Vec<(Level, String)> {
        let mut out = Vec::new();
        for known in self.shown.iter_mut().filter(|known| known.is_due(now)) {
            out.extend(known.count());
            (known.at, known.held) = (now, 0);
        }
        out
    }

    fn make_room(&mut self) -> Option<(Level, String)> {
        (self.shown.len() >= KEPT).then(|| self.shown.remove(0)).and_then(|known| known.count())
    }
}

impl Shown {
    fn is_due(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) >= QUIET
    }

    fn count(&self) -> Option<(Level, String)> {
        let times = match self.held {
            0 => return None,
            1 => "once".to_string(),
            held => format!("{held} times"),
        };
        Some((self.level, format!("{} (repeated {times})", self.text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(found: Vec<(Level, String)>) -> Vec<String> {
        found.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn once_a_second_is_shown_once_a_minute() {
        let mut repeats = Repeats::new();
        let mut lines = Vec::new();
        for second in 0..=150 {
            lines.extend(texts(repeats.take(Level::Error, "full", Duration::from_secs(second))));
        }
        let counted = "full (repeated 60 times)";
        assert_eq!(lines, ["full", counted, counted]);
        assert_eq!(texts(repeats.rest()), ["full (repeated 30 times)"]);
        assert!(repeats.rest().is_empty());
    }

    #[test]
    fn messages_that_differ_pass() {
        let mut repeats = Repeats::new();
        let now = Duration::from_secs(5);
        assert_eq!(texts(repeats.take(Level::Error, "a", now)), ["a"]);
        assert_eq!(texts(repeats.take(Level::Warn, "a", now)), ["a"]);
        assert_eq!(texts(repeats.take(Level::Error, "b", now)), ["b"]);
        assert!(repeats.take(Level::Error, "a", now).is_empty());
        // A minute later any message brings the count; another minute later nothing is known of it.
        assert_eq!(texts(repeats.take(Level::Error, "c", now + QUIET)), ["a (repeated once)", "c"]);
        assert!(repeats.take(Level::Error, "c", now + QUIET).is_empty());
        assert_eq!(texts(repeats.take(Level::Error, "a", now + QUIET * 2)), ["c (repeated once)", "a"]);
    }

    #[test]
    fn few_are_kept() {
        let mut repeats = Repeats::new();
        for number in 0..100 {
            let number = format!("number {number}");
            assert!(texts(repeats.take(Level::Info, &number, Duration::ZERO)).contains(&number));
            repeats.take(Level::Warn, "steady", Duration::ZERO);
            assert!(repeats.shown.len() <= KEPT);
        }
    }
}
