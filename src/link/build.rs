//! Leaves the tables for unwinding the stack out of a release of the server, which aborts on a panic: 180 KB. They cannot
//! be left out by rustc, since most are in its library and in the C library.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=src/link");
    let is = |name: &str, value: &str| var(name).is_ok_and(|found| found == value);
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        let here = var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for flag in ["--no-eh-frame-hdr", &format!("-T,{here}/src/link/no-unwind.ld")] {
            println!("cargo::rustc-link-arg-bin=kingserver=-Wl,{flag}");
        }
    }
}
