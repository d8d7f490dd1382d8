//! Meta commands, as they should be and as they should not.

use super::lines::{Step, UNIQUE};
use super::text::{counter, damage, data, expiry, key, odd_word};
use proptest::prelude::*;

// Uniques are far from those that the servers give out.

/// A key and, if it is in base64, the flag that says so.
fn named() -> impl Strategy<Value = (String, &'static str)> {
    let base64 =
        prop_oneof![Just("a2V5OQ=="), Just("AAECAwQFBgcICQ=="), Just("/w==")].prop_map(|key| (key.to_string(), " b"));
    prop_oneof![6 => key().prop_map(|key| (key, "")), 1 => base64]
}

/// Flags, each at most once, in any order.
fn flags(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::sample::subsequence(of, 0..=of.len().min(6)).prop_shuffle().prop_flat_map(|flags| {
        expiry().prop_map(move |expiry| {
            // What is left to live of one that is given a time in the past is a very large number.
            let past = expiry == "-1" || expiry == "2592001";
            let wanted = |flag: &&&str| !(past && **flag == "t");
            flags.iter().filter(wanted).map(|flag| format!(" {}", flag.replace("{expiry}", expiry))).collect::<String>()
        })
    })
}

// h and l are what the record cache remembers, where it remembers: metaget.t tests them.
const GET: &[&str] = &[
    "c",
    "f",
    "k",
    "O123",
    "q",
    "s",
    "t",
    "u",
    "v",
    "T{expiry}",
    "N500",
    "R1000",
    "R30",
    "E77000000000000000",
    "Pa",
    "Lb/c",
];
const SET: &[&str] =
    &["c", "C{unique}", "E78000000000000000", "F5", "I", "k", "Oabc", "q", "s", "T{expiry}", "Pa", "Lb/c"];
const MODES: &[&str] =
    &["", " MS", " ME", " MA", " MP", " MR", " Ms", " Me", " Ma", " Mp", " Mr", " MA N500", " MP N500", " MX", " M"];
const DELETE: &[&str] = &["C{unique}", "E79000000000000000", "I", "k", "O9", "q", "T{expiry}", "x", "Pa", "Lb/c"];
const ARITHMETIC: &[&str] =
    &["C{unique}", "E80000000000000000", "N500", "T{expiry}", "J13", "D7", "q", "t", "c", "v", "k", "Oab", "Pa"];
const SIGNS: &[&str] = &["", "", " MI", " M+", " MD", " M-", " Mi", " Md", " MX"];

/// One command.
pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![8 => get(), 6 => set(), 3 => delete(), 3 => arithmetic(), 3 => counted(), 1 => other(), 3 => odd()]
}

fn keyed(verb: &str, (key, base64): &(String, &str), rest: &str) -> Step {
    // memcached forgets that the key of an item that it makes itself came in base64.
    let rest = if base64.is_empty() { rest.to_string() } else { rest.replace(" k", "") };
    Step::new(&format!("{verb} {key}{base64}{rest}")).unique_of(&format!("{key}{base64}"))
}

fn get() -> impl Strategy<Value = Step> {
    (named(), flags(GET)).prop_map(|(key, flags)| keyed("mg", &key, &flags))
}

fn delete() -> impl Strategy<Value = Step> {
    (named(), flags(DELETE)).prop_map(|(key, flags)| keyed("md", &key, &flags))
}

fn arithmetic() -> impl Strategy<Value = Step> {
    (counter(), flags(ARITHMETIC), proptest::sample::select(SIGNS))
        .prop_map(|(key, flags, sign)| keyed("ma", &(key, ""), &format!("{flags}{sign}")))
}

/// What else is done with counters.
fn counted() -> impl Strategy<Value = Step> {
    let set = (counter(), prop_oneof![0..30u64, any::<u64>()], flags(&["c", "k", "Oabc", "q", "s", "F5", "T500"]))
        .prop_map(|(key, number, flags)| {
            Step::with_data(&format!("ms {key} {}{flags}", number.to_string().len()), number.to_string().as_bytes())
        });
    let get = (counter(), flags(&["c", "f", "k", "O1", "q", "s", "t", "v"]))
        .prop_map(|(key, flags)| keyed("mg", &(key, ""), &flags));
    let delete =
        (counter(), flags(&["C{unique}", "k", "O1", "q"])).prop_map(|(key, flags)| keyed("md", &(key, ""), &flags));
    prop_oneof![3 => set, 3 => get, 1 => delete]
}

fn set() -> impl Strategy<Value = Step> {
    let unique = prop_oneof![3 => Just(UNIQUE), 1 => Just("77000000000000001"), 1 => Just("77000000000000000")];
    (named(), flags(SET), proptest::sample::select(MODES), unique, data()).prop_map(
        |((key, base64), flags, mode, unique, data)| {
            let flags = flags.replace(UNIQUE, unique);
            let line = format!("ms {key} {}{base64}{flags}{mode}", data.len());
            Step::with_data(&line, &data).unique_of(&format!("{key}{base64}"))
        },
    )
}

fn other() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::new("mn")),
        // memcached looks at the flags of me in its own way.
        3 => key().prop_map(|key| Step::new(&format!("me {key}"))),
    ]
}

/// Damaged lines, odd flags, and blocks of another length than the line says.
fn odd() -> impl Strategy<Value = Step> {
    let verb = prop_oneof![Just("mg"), Just("md"), Just("mn")];
    let line = (verb.clone(), key(), flags(GET), damage())
        .prop_map(|(verb, key, flags, damage)| Step::new(&damage.done(&format!("{verb} {key}{flags}"))));
    // Flag r reads a part of a value: memcached has none.
    let flag = (verb, key(), "[a-gi-km-qs-zA-Z]", odd_word())
        .prop_map(|(verb, key, flag, word)| Step::new(&format!("{verb} {key} {flag}{word}")));
    let set = (key(), flags(SET), damage())
        .prop_map(|(key, flags, damage)| Step::with_data(&damage.done(&format!("ms {key} 2{flags}")), b"ab").last());
    let longer = (key(), flags(SET), 0..5usize, 1..9usize).prop_map(|(key, flags, len, more)| {
        Step::with_data(&format!("ms {key} {len}{flags}"), &vec![b'z'; len + more])
    });
    let many = (key(), 1..30usize).prop_map(|(key, count)| Step::new(&format!("mg {key}{}", " v".repeat(count))));
    prop_oneof![4 => line, 4 => flag, 3 => set, 2 => longer, 1 => many]
}
