//! Classic text commands, as they should be and as they should not.

use super::lines::{NOW, Step, UNIQUE};
use crate::common::recipe::Value;
use proptest::prelude::*;

/// Few keys, so that steps meet.
pub fn key() -> impl Strategy<Value = String> {
    prop_oneof![8 => (0..4u8).prop_map(|n| format!("key{n}")), 1 => Just("k".repeat(250)), 1 => Just("ключ".to_string())]
}

/// Keys of numbers. An item that memcached counts with, it makes anew or not as its own references to it happen to be, and a new one
/// has none of the marks and times that the meta dialect leaves on others.
pub fn counter() -> impl Strategy<Value = String> {
    (0..3u8).prop_map(|n| format!("count{n}"))
}

/// Any of both.
fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![4 => key(), 1 => counter()]
}

/// Values that fit the record cache, so that both know of earlier fetches; large ones go to a key of their own.
pub fn data() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        4 => prop_oneof![0..30u64, Just(u64::MAX), Just(u64::MAX - 3)].prop_map(Value::Number),
        3 => (any::<u64>(), 0..200usize).prop_map(|(seed, len)| Value::Text(seed, len)),
        3 => (any::<u64>(), 0..200usize).prop_map(|(seed, len)| Value::Random(seed, len)),
        1 => (any::<u64>(), 2000..20_000usize).prop_map(|(seed, len)| Value::Random(seed, len)),
    ];
    value.prop_map(|value| match value.bytes() {
        // What begins with a number and goes on otherwise is a number to memcached, and none to us.
        bytes if matches!(value, Value::Random(..)) => [&b"r"[..], &bytes].concat(),
        bytes => bytes,
    })
}

/// Never, far off, in the past.
pub fn expiry() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just("0"), 3 => Just("500"), 1 => Just("2000"), 1 => Just(NOW), 1 => Just("-1"), 1 => Just("2592001")]
}

/// And -1 as libmemcached says it.
fn unsigned_expiry() -> impl Strategy<Value = &'static str> {
    prop_oneof![12 => expiry(), 1 => Just("4294967295")]
}

fn flags() -> impl Strategy<Value = u32> {
    prop_oneof![0..10u32, any::<u32>()]
}

fn noreply() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(""), 1 => Just(" noreply")]
}

/// One command.
pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![10 => valid(), 2 => odd_line(), 2 => odd_store(), 1 => unfinished()]
}

fn valid() -> impl Strategy<Value = Step> {
    prop_oneof![6 => store(), 2 => cas(), 1 => large(), 8 => line().prop_map(|line| Step::new(&line))]
}

fn verb() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("set"), 1 => Just("add"), 1 => Just("replace"), 1 => Just("append"), 1 => Just("prepend")]
}

fn store() -> impl Strategy<Value = Step> {
    (verb(), any_key(), flags(), unsigned_expiry(), data(), noreply()).prop_map(
        |(verb, key, flags, expiry, data, noreply)| {
            // Spaces and then digits again are a number to memcached as well.
            let verb = if key.starts_with("count") && verb.ends_with("pend") { "set" } else { verb };
            Step::with_data(&format!("{verb} {key} {flags} {expiry} {}{noreply}", data.len()), &data)
        },
    )
}

fn cas() -> impl Strategy<Value = Step> {
    let unique = prop_oneof![3 => Just(UNIQUE), 1 => Just("0"), 1 => Just("18446744073709551615")];
    (any_key(), flags(), unique, data(), noreply()).prop_map(|(key, flags, unique, data, noreply)| {
        Step::with_data(&format!("cas {key} {flags} 0 {} {unique}{noreply}", data.len()), &data).unique_of(&key)
    })
}

fn large() -> impl Strategy<Value = Step> {
    (verb(), 60_000..200_000usize, any::<u64>()).prop_map(|(verb, len, seed)| {
        Step::with_data(&format!("{verb} large 1 0 {len}"), &Value::Random(seed, len).bytes())
    })
}

/// Commands of one line.
fn line() -> impl Strategy<Value = String> {
    let keys = proptest::collection::vec(prop_oneof![5 => any_key(), 1 => Just("large".to_string())], 1..5);
    let delta = prop_oneof![3 => 0..40u64, 1 => any::<u64>()];
    prop_oneof![
        4 => (prop_oneof![Just("get"), Just("gets")], keys.clone()).prop_map(|(verb, keys)| format!("{verb} {}", keys.join(" "))),
        2 => (prop_oneof![Just("gat"), Just("gats")], expiry(), keys).prop_map(|(verb, expiry, keys)| format!("{verb} {expiry} {}", keys.join(" "))),
        2 => (key(), noreply()).prop_map(|(key, noreply)| format!("delete {key}{noreply}")),
        1 => key().prop_map(|key| format!("delete {key} 0")),
        3 => (prop_oneof![Just("incr"), Just("decr")], counter(), delta, noreply()).prop_map(|(verb, key, by, noreply)| format!("{verb} {key} {by}{noreply}")),
        2 => (key(), expiry(), noreply()).prop_map(|(key, expiry, noreply)| format!("touch {key} {expiry}{noreply}")),
        1 => noreply().prop_map(|noreply| format!("flush_all{noreply}")),
        1 => noreply().prop_map(|noreply| format!("verbosity 0{noreply}")),
    ]
}

const WORDS: &[&str] = &[
    "",
    "-1",
    "007",
    "0x10",
    "1.5",
    "12a",
    "a12",
    "noreply",
    "NOREPLY",
    "norepl",
    "0",
    "1",
    "key0",
    "\"\"",
    "99999999999999999999999",
    "18446744073709551616",
    "v",
    "mn",
    "get",
];

/// Words that do not belong where they are put.
pub fn odd_word() -> impl Strategy<Value = String> {
    prop_oneof![12 => proptest::sample::select(WORDS).prop_map(String::from), 1 => Just("x".repeat(251)), 1 => Just("x".repeat(600))]
}

/// What is done to a good line.
#[derive(Clone, Debug)]
pub enum Damage {
    Replace(usize, String),
    Insert(usize, String),
    Remove(usize),
    Truncate(usize),
    Upper,
    Spaces(usize),
}

pub fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (1..7usize, odd_word()).prop_map(|(at, word)| Damage::Replace(at, word)),
        (1..7usize, odd_word()).prop_map(|(at, word)| Damage::Insert(at, word)),
        (0..6usize).prop_map(Damage::Remove),
        (0..5usize).prop_map(Damage::Truncate),
        Just(Damage::Upper),
        (0..6usize).prop_map(Damage::Spaces),
    ]
}

impl Damage {
    pub fn done(&self, line: &str) -> String {
        let mut words: Vec<String> = line.split(' ').map(String::from).collect();
        let last = words.len() - 1;
        let within = |at: usize| at.min(last);
        match self {
            Damage::Replace(at, word) => words[within(*at)] = word.clone(),
            Damage::Insert(at, word) => words.insert(within(*at), word.clone()),
            Damage::Remove(at) => drop(words.remove(within(*at))),
            Damage::Truncate(to) => words.truncate(*to),
            Damage::Upper => words[0] = words[0].to_uppercase(),
            Damage::Spaces(at) => words[within(*at)] += "  ",
        }
        words.join(" ")
    }
}

fn odd_line() -> impl Strategy<Value = Step> {
    // A delayed flush comes when it comes; of odd words after delete, and of keys that are too long for get, the table speaks.
    let special = |line: &String| ["flush_all", "verbosity", "delete"].iter().any(|verb| line.starts_with(verb));
    let line = line().prop_filter("of another kind", move |line| !special(line));
    let damaged = (line, damage()).prop_map(|(line, damage)| damage.done(&line));
    damaged
        .prop_filter("keys of a get", |line| !(line.starts_with('g') && line.contains("xxx")))
        .prop_map(|line| Step::new(&line))
}

/// A damaged storage line, or a block of another length than it says.
fn odd_store() -> impl Strategy<Value = Step> {
    let damaged = (verb(), key(), damage())
        .prop_map(|(verb, key, damage)| Step::with_data(&damage.done(&format!("{verb} {key} 0 0 2")), b"ab").last());
    let longer = (verb(), key(), 0..5usize, 1..20usize).prop_map(|(verb, key, len, more)| {
        Step::with_data(&format!("{verb} {key} 0 0 {len}"), &vec![b'z'; len + more])
    });
    let too_large = (verb(), key()).prop_map(|(verb, key)| {
        // Refused, a `set` leaves what there was with us, and takes it away with memcached.
        let verb = if verb == "set" { "add" } else { verb };
        Step::with_data(&format!("{verb} {key} 0 0 1100000"), &vec![b'z'; 1_100_000])
    });
    prop_oneof![6 => damaged, 3 => longer, 1 => too_large]
}

/// Less than was announced, and the end of the connection.
fn unfinished() -> impl Strategy<Value = Step> {
    (store(), 1..30usize).prop_map(|(mut step, less)| {
        step.bytes.truncate(step.bytes.len().saturating_sub(less));
        step.last = true;
        step
    })
}
