//! Random values for property tests, by recipe, so that a failing case prints short.

use super::util::{random_bytes, text_bytes};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// A value by its recipe.
#[derive(Clone, Debug)]
pub enum Value {
    Number(u64),
    Text(u64, usize),
    Random(u64, usize),
}

impl Value {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Value::Number(number) => number.to_string().into_bytes(),
            Value::Text(seed, len) => text_bytes(*seed, *len),
            Value::Random(seed, len) => random_bytes(*seed, *len),
        }
    }
}

/// Values of sizes around the limits, and numbers.
pub fn value() -> impl Strategy<Value = Value> {
    let len = prop_oneof![
        4 => 0..300usize,
        1 => 4000..5000usize,
        1 => 65_534..65_540usize,
        1 => 100_000..200_000usize,
    ];
    prop_oneof![
        3 => prop_oneof![0..20u64, Just(u64::MAX), Just(u64::MAX - 3)].prop_map(Value::Number),
        2 => (any::<u64>(), len.clone()).prop_map(|(seed, len)| Value::Text(seed, len)),
        2 => (any::<u64>(), len).prop_map(|(seed, len)| Value::Random(seed, len)),
    ]
}

/// A runner of so many cases.
pub fn cases(count: u32) -> TestRunner {
    TestRunner::new(Config { cases: count, failure_persistence: None, max_shrink_iters: 200, ..Config::default() })
}
