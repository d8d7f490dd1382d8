//! What keys may hold after a crash: each key's versions in the order of the commands, and which of them were acknowledged,
//! and when. A key has one writer, so its history is exact.

use super::Client;
use std::collections::BTreeMap;
use std::time::Instant;

/// The versions of each key since the last check.
#[derive(Clone, Default)]
pub struct History {
    keys: BTreeMap<String, Vec<Version>>,
}

#[derive(Clone)]
struct Version {
    /// `None`: the key was deleted.
    value: Option<Vec<u8>>,
    answer: Answer,
}

#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Awaited,
    /// It must be there, unless a newer one is.
    Acknowledged(Instant),
    /// It may be there or not.
    Refused,
}

impl History {
    /// The value after every command so far.
    pub fn newest(&mut self, key: &str) -> Option<&Vec<u8>> {
        self.versions(key).last().expect("never empty").value.as_ref()
    }

    /// A command was sent that changes `key`.
    pub fn attempt(&mut self, key: &str, value: Option<Vec<u8>>) {
        self.versions(key).push(Version { value, answer: Answer::Awaited });
    }

    /// The oldest unanswered command of `key` was acknowledged.
    pub fn acknowledge(&mut self, key: &str) {
        self.answer(key, Answer::Acknowledged(Instant::now()));
    }

    /// The oldest unanswered command of `key` was answered with an error.
    pub fn refuse(&mut self, key: &str) {
        self.answer(key, Answer::Refused);
    }

    /// The newest command of `key` is taken for done, whatever its answer will be.
    pub fn believe(&mut self, key: &str) {
        self.versions(key).last_mut().expect("never empty").answer = Answer::Acknowledged(Instant::now());
    }

    /// Reads every key; gives those with a value that they cannot have if all that was acknowledged by `by` is kept. What is
    /// there is the version to go on from.
    pub fn check(&mut self, client: &mut Client, by: Instant) -> Vec<String> {
        let found = |key: &String| (key.clone(), client.get(key));
        let found: Vec<_> = self.keys.keys().map(found).collect();
        found.into_iter().filter_map(|(key, found)| self.settle(&key, found, by)).collect()
    }

    /// `key` has this value; tells what is wrong with that.
    pub fn settle(&mut self, key: &str, found: Option<Vec<u8>>, by: Instant) -> Option<String> {
        let wrong = self.judge(key, found.as_ref(), by);
        *self.versions(key) = vec![Version { value: found, answer: Answer::Acknowledged(Instant::now()) }];
        wrong
    }

    /// What is wrong if `key` has this value.
    pub fn judge(&mut self, key: &str, found: Option<&Vec<u8>>, by: Instant) -> Option<String> {
        let versions = self.versions(key);
        let kept = |version: &Version| matches!(version.answer, Answer::Acknowledged(at) if at <= by);
        let first = versions.iter().rposition(kept).unwrap_or(0);
        if versions[first..].iter().any(|version| version.value.as_ref() == found) {
            return None;
        }
        let len =
            |value: Option<&Vec<u8>>| value.map_or("nothing".to_string(), |value| format!("{} bytes", value.len()));
        let may: Vec<_> = versions[first..].iter().map(|version| len(version.value.as_ref())).collect();
        let older = versions[..first].iter().rposition(|version| version.value.as_ref() == found);
        let what = older.map_or("never written or long gone".into(), |at| format!("{} versions too old", first - at));
        Some(format!("{key}: found {} ({what}), may be {may:?}", len(found)))
    }

    /// How many versions must be there, or newer ones, by this reckoning, and are not those of the last check.
    pub fn bound(&self, by: Instant) -> usize {
        let kept = |version: &&Version| matches!(version.answer, Answer::Acknowledged(at) if at <= by);
        self.keys.values().map(|versions| versions.iter().skip(1).filter(kept).count()).sum()
    }

    /// The keys that were ever written to.
    pub fn keys(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    fn versions(&mut self, key: &str) -> &mut Vec<Version> {
        let empty = || vec![Version { value: None, answer: Answer::Acknowledged(Instant::now()) }];
        self.keys.entry(key.to_string()).or_insert_with(empty)
    }

    fn answer(&mut self, key: &str, answer: Answer) {
        let awaited = |version: &&mut Version| version.answer == Answer::Awaited;
        // Under `believe` it has its answer already.
        if let Some(version) = self.versions(key).iter_mut().find(awaited) {
            version.answer = answer;
        }
    }
}
