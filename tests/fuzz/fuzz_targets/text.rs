//! libFuzzer's entry to [`kingserver_fuzz::text`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kingserver_fuzz::text(bytes));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("to be run by cargo fuzz");
}
