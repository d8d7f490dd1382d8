//! Counts by tier, repeatable values, and waits that end.

use std::time::{Duration, Instant};

/// The longest any single wait may take before the test fails. Generous: only a hang reaches it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The count for the tier in `TIER` (`test`, `ci` or `full`; `test` if unset).
pub fn tier<T>(test: T, ci: T, full: T) -> T {
    match std::env::var("TIER").as_deref() {
        Err(_) | Ok("test") => test,
        Ok("ci") => ci,
        Ok("full") => full,
        Ok(other) => panic!("TIER={other}: say test, ci or full"),
    }
}

/// Prints what was counted and fails below the tier's count.
pub fn counted(what: &str, done: usize, wanted: usize) {
    println!("{what}: {done} of {wanted}");
    assert!(done >= wanted, "{what}: only {done} of {wanted}");
}

/// Polls until `done` says so; fails at the deadline.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// xorshift64*: repeatable, and good enough to be incompressible.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit
    }
}

/// Bytes that do not compress, the same ones for the same seed. Every byte value occurs, `\r\n` and NUL included.
pub fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed ^ 0xA5A5);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Bytes that compress well but differ from each other at every offset: a wrong chunk can not go unnoticed.
pub fn text_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        bytes.extend_from_slice(format!("value {seed} at {:012} ...............\r\n", bytes.len()).as_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// FNV-1a, to compare what is too long to keep.
pub fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Where [`fnv`] starts.
pub const FNV: u64 = 0xCBF2_9CE4_8422_2325;

/// The number on the line of /proc/PID/status that starts with `name`, in its unit (kB for memory).
pub fn proc_status(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the server is alive");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a line of that name");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

/// Resident anonymous memory of a process: what it allocated, its own code and files aside. Bytes.
pub fn anonymous_memory(pid: u32) -> u64 {
    proc_status(pid, "RssAnon:") * 1024
}

/// Resident memory of a process. Bytes.
pub fn resident_memory(pid: u32) -> u64 {
    proc_status(pid, "VmRSS:") * 1024
}

/// Lets this process open as many descriptors as it may ever: shells give 1,024.
pub fn raise_descriptor_limit() {
    let own = format!("--pid={}", std::process::id());
    let asked = std::process::Command::new("prlimit").args([&own, "--nofile", "--noheadings", "-o", "HARD"]).output();
    let hard = String::from_utf8(asked.expect("run prlimit").stdout).expect("a number");
    let raised = std::process::Command::new("prlimit").args([own, format!("--nofile={}:", hard.trim())]).status();
    assert!(raised.expect("run prlimit").success(), "raise the limit of descriptors to {hard}");
}
