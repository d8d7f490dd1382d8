//! libFuzzer's entry to [`kingserver_fuzz::binary`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kingserver_fuzz::binary(bytes));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("to be run by cargo fuzz");
}
