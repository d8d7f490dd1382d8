//! `make bench-cache`: how many requests the record cache answers, beside a plain LRU and a real memcached of the same
//! bytes, for keys by Zipf's law, alone and with scans in between. Only requests for popular keys count.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result};
use getopts::Options;
use kingdb_bench::caches::{self, Cache, VALUE};
use kingdb_bench::report::put_between;
use kingdb_bench::trace::{Request, Trace};
use kingserver_bench::place;
use kingserver_bench::report::{whole, write};

/// Bytes of each cache.
const CACHE: u64 = 16 << 20;
const KEYS: u64 = 250_000;
const REQUESTS: u64 = 600_000;
const SKEWS: [f64; 3] = [0.7, 0.9, 1.1];
/// A scan of so many keys after as many requests.
const SCAN: u64 = 50_000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-cache: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut options = Options::new();
    options.optflag("", "smoke", "a second or two: figures mean nothing");
    options.optflag("", "publish", "copy the table to tests/bench-store/results and into README.md");
    options.optflag("h", "help", "print this");
    let matches = options.parse(std::env::args().skip(1)).context("see --help")?;
    if matches.opt_present("help") {
        print!("{}", options.usage("Usage: bench-cache [options]"));
        return Ok(());
    }
    let part = if matches.opt_present("smoke") { 100 } else { 1 };
    let table = table(part)?;
    let about = format!(
        "Requests for popular keys that the cache answered. Caches of {} MiB, values of {VALUE} bytes, {} keys by Zipf's law of which \
         {} requests are drawn (the first third of them not counted); with scans, after each {} requests as many others go once \
         over keys that nobody else asks for. KingDB: the record cache of a store that holds everything, its tables included in \
         the bytes. LRU: exact, and none of its bytes are spent on anything but entries. memcached: Debian's, `-m {}`.\n\n",
        CACHE >> 20,
        whole(Some(KEYS as f64)),
        whole(Some(REQUESTS as f64)),
        whole(Some(SCAN as f64)),
        CACHE >> 20
    );
    if matches.opt_present("publish") {
        write(&place::root().join("tests/bench-store/results/cache.md"), &format!("{about}{table}"))?;
        put_between(&place::root().join("README.md"), "cache", &table)?;
    }
    print!("{table}");
    Ok(())
}

fn table(part: u64) -> Result<String> {
    let mut text = String::new();
    for skew in SKEWS {
        for scan_every in [0, SCAN / part] {
            let (keys, requests) = (KEYS / part, REQUESTS / part);
            let trace = Trace { skew, keys, requests, scan_every, scan_len: SCAN / part };
            let (names, ratios) = ratios(&trace, CACHE.div_ceil(part).max(2 << 20))?;
            if text.is_empty() {
                let _ = writeln!(text, "| hit ratio | {} |\n|---|{}", names.join(" | "), "--:|".repeat(names.len()));
            }
            let scans = if scan_every == 0 { "" } else { ", with scans" };
            let cells: Vec<String> = ratios.iter().map(|ratio| format!("{:.1} %", ratio * 100.0)).collect();
            let _ = writeln!(text, "| Zipf {skew}{scans} | {} |", cells.join(" | "));
        }
    }
    Ok(text)
}

/// Names of the caches, and what part of the requests for popular keys each answered.
fn ratios(trace: &Trace, bytes: u64) -> Result<(Vec<&'static str>, Vec<f64>)> {
    let dir = tempfile::Builder::new().prefix("cache-").tempdir_in(place::out()?).context("no data directory")?;
    let mut caches = caches::all(dir.path(), bytes, trace.all_keys())?;
    let ratios = caches.iter_mut().map(|cache| ratio(trace, &mut **cache)).collect::<Result<_>>()?;
    Ok((caches.iter().map(|cache| cache.name()).collect(), ratios))
}

fn ratio(trace: &Trace, cache: &mut dyn Cache) -> Result<f64> {
    let (mut popular, mut counted, mut hits) = (0, 0, 0);
    // Counting takes a look at every shard: done where popular requests and scans change places.
    let mut since: Option<u64> = None;
    for request in trace.requests() {
        let counts = matches!(request, Request::Popular(_)) && popular >= trace.requests / 3;
        match (counts, since) {
            (true, None) => since = Some(cache.hits()),
            (false, Some(before)) => {
                hits += cache.hits() - before;
                since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
        cache.request(request.number())?;
        popular += u64::from(matches!(request, Request::Popular(_)));
        counted += u64::from(counts);
    }
    hits += since.map_or(0, |before| cache.hits() - before);
    Ok(hits as f64 / counted as f64)
}
