//! Random sequences of commands, valid and not, in each dialect, to memcached and to us side by side: the replies must be the same
//! to the byte. CAS uniques are compared by which of them are the same, times to the second that may pass; all else that differs on
//! purpose stands in [`rows`], which a test holds against both.
//!
//! A failing sequence is made short and printed; `PROPTEST_RNG_SEED` and the seed printed with it repeat the run.

mod frames;
mod lines;
mod meta;
mod pair;
mod rows;
mod text;

use crate::common::util::{counted, tier};
use pair::Pair;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

/// Runs so many sequences of steps against a pair of servers.
fn compare<S: std::fmt::Debug + Clone>(
    what: &str,
    count: u32,
    step: impl Strategy<Value = S>,
    run: fn(&mut Pair, &[S]) -> Result<(), String>,
) {
    let seed = std::env::var("PROPTEST_RNG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20150101u64);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: count, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let pair = std::cell::RefCell::new(Pair::start());
    let steps = proptest::collection::vec(step, 1..40);
    let outcome = runner.run(&steps, |steps| run(&mut pair.borrow_mut(), &steps).map_err(TestCaseError::fail));
    match outcome {
        Ok(()) => counted(what, count as usize, count as usize),
        Err(TestError::Fail(why, _)) => panic!("{what}, PROPTEST_RNG_SEED={seed}:\n{why}"),
        Err(why) => panic!("{what}: {why}"),
    }
}

#[test]
fn text_commands() {
    compare("sequences of text commands", tier(300, 3000, 100_000), text::step(), lines::run);
}

#[test]
fn meta_commands() {
    compare("sequences of meta commands", tier(300, 3000, 100_000), meta::step(), lines::run);
}

#[test]
fn text_and_meta_commands_together() {
    let step = prop_oneof![text::step(), meta::step()];
    compare("sequences of text and meta commands", tier(300, 3000, 100_000), step, lines::run);
}

#[test]
fn binary_commands() {
    compare("sequences of binary commands", tier(300, 3000, 100_000), frames::step(), frames::run);
}

#[test]
fn documented_differences() {
    rows::hold();
}
