//! What the kernel tells about another process: memory and context switches, from /proc.

use std::fs;

use anyhow::{Context, Result};

/// Resident memory of a process. Bytes. Exact where smaps_rollup may be read (`VmRSS` is kept per core and can be
/// off by some hundred KiB).
pub fn rss(pid: u32) -> Result<u64> {
    let exact = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let found = exact.ok().and_then(|text| field(&text, "Rss:")).map(|kib| kib * 1024);
    match found {
        Some(bytes) => Ok(bytes),
        None => status_rss(pid),
    }
}

fn status_rss(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}: the server is gone"))?;
    Ok(field(&text, "VmRSS:").with_context(|| format!("{path} has no VmRSS"))? * 1024)
}

/// Memory that a process has filled itself: heap, stacks, anonymous maps, not code. Bytes.
pub fn anonymous(pid: u32) -> Result<u64> {
    let exact = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let found = exact.ok().and_then(|text| field(&text, "Anonymous:"));
    let path = format!("/proc/{pid}/status");
    let status = || field(&fs::read_to_string(&path).ok()?, "RssAnon:");
    let kib = found.or_else(status).with_context(|| format!("{path} has no RssAnon"))?;
    Ok(kib * 1024)
}

/// Lets [`peak`] begin anew.
pub fn reset_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("cannot write {path}"))
}

/// The most resident memory since [`reset_peak`]. Bytes.
pub fn peak(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}: the server is gone"))?;
    Ok(field(&text, "VmHWM:").with_context(|| format!("{path} has no VmHWM"))? * 1024)
}

/// Context switches of all living threads of a process, voluntary and not. Reads one file per thread.
pub fn switches(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&path).with_context(|| format!("cannot read {path}: the server is gone"))?;
    let of = |entry: std::io::Result<fs::DirEntry>| fs::read_to_string(entry?.path().join("status"));
    Ok(tasks.filter_map(|entry| of(entry).ok()).map(|text| switches_in(&text)).sum())
}

fn switches_in(status: &str) -> u64 {
    let names = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
    names.iter().filter_map(|name| field(status, name)).sum()
}

/// The processor's name.
pub fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or("unknown processor", |(_, name)| name).to_owned()
}

/// The number that follows `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tmemcached\nVmHWM:\t   9000 kB\nVmRSS:\t   8192 kB\nThreads:\t10\n\
                          voluntary_ctxt_switches:\t120\nnonvoluntary_ctxt_switches:\t3\n";

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field(STATUS, "VmRSS:"), Some(8192));
        assert_eq!(field(STATUS, "ctxt_switches:"), None);
        assert_eq!(field(STATUS, "Name:"), None);
    }

    #[test]
    fn both_kinds_of_switches_count() {
        assert_eq!(switches_in(STATUS), 123);
    }

    #[test]
    fn this_process_has_memory_and_threads() {
        assert!(rss(std::process::id()).unwrap() > 100_000);
        assert!(anonymous(std::process::id()).unwrap() < rss(std::process::id()).unwrap());
        assert!(switches(std::process::id()).unwrap() > 0);
        assert!(rss(u32::MAX).is_err());
    }
}
