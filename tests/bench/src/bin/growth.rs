//! `make bench-growth`: what growing costs the one `set` that meets it. A store grows from a million keys to twenty,
//! once by itself and once with a snapshot open since the beginning; then keys are overwritten at random while another
//! thread iterates over a snapshot of all of them. Each set is timed by the processor time of its thread, so that
//! neighbours do not count; the worst one is the figure. Memory per key and the time to take a snapshot come along.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use getopts::{Matches, Options};
use hdrhistogram::Histogram;
use kingdb::store::{Expect, NewBody, Scratch, Write};
use kingdb::{Db, Sync, View};
use kingserver_bench::{proc, sys};

/// Bytes of a value, unless told otherwise.
const VALUE: usize = 100;
/// Sets between two writes of the log.
const TURN: u64 = 50;
/// Overwrites beside an iteration, at least.
const OVERWRITES: u64 = 1_000_000;

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("growth: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Matches> {
    let mut options = Options::new();
    options.optopt("", "from", "keys before the measurement", "1000000");
    options.optopt("", "to", "keys after it", "20000000");
    options.optopt("", "value", "bytes of a value: the index does not care, the disk does", "100");
    options.optopt("", "dir", "where the stores are made", "the directory for temporary files");
    options.optopt("", "only", "one scenario", "alone|snapshot");
    options.optflag("", "smoke", "few keys: does it run?");
    options
        .parse(std::env::args().skip(1))
        .context("usage: growth [--from N] [--to N] [--value BYTES] [--dir DIR] [--only SCENARIO] [--smoke]")
}

/// What the command line comes to.
struct Plan {
    dir: PathBuf,
    /// Keys before and after.
    from: u64,
    to: u64,
    /// Bytes of a value.
    value: usize,
}

fn run(options: &Matches) -> Result<()> {
    let count = |name: &str, smoke: u64, full: u64| match options.opt_get(name)? {
        None if options.opt_present("smoke") => Ok(smoke),
        given => anyhow::Ok(given.unwrap_or(full)),
    };
    let (from, to) = (count("from", 10_000, 1_000_000)?, count("to", 100_000, 20_000_000)?);
    ensure!(from < to, "--from must be less than --to");
    let dir = options.opt_get("dir")?.unwrap_or_else(std::env::temp_dir);
    let plan = Plan { dir, from, to, value: options.opt_get("value")?.unwrap_or(VALUE) };
    match options.opt_str("only").as_deref() {
        Some("alone") => grow_alone(&plan),
        Some("snapshot") => grow_beside_snapshot(&plan),
        Some(other) => bail!("--only {other}: there are alone and snapshot"),
        None => {
            println!("growing from {from} to {to} keys, values of {} bytes; processor time of each set", plan.value);
            ["alone", "snapshot"].into_iter().try_for_each(run_apart)
        }
    }
}

/// Runs a scenario in a process of its own: what one leaves to the allocator does not burden the next.
fn run_apart(scenario: &str) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let status = Command::new(program).args(std::env::args().skip(1)).args(["--only", scenario]).status()?;
    ensure!(status.success(), "{scenario}: {status}");
    Ok(())
}

/// A store without a cache: what memory it takes is the index.
fn open(dir: &Path) -> Result<(tempfile::TempDir, Db)> {
    let dir = tempfile::Builder::new().prefix("growth").tempdir_in(dir).context("cannot make a directory")?;
    let options = kingdb::Options::new(dir.path()).sync(Sync::None).cache_bytes(0).snapshot_bytes(u64::MAX);
    Ok((dir, Db::open(options)?))
}

fn grow_alone(plan: &Plan) -> Result<()> {
    let (_dir, db) = open(&plan.dir)?;
    let (from, to) = (plan.from, plan.to);
    let before = proc::anonymous(std::process::id())?;
    let mut puts = Puts::new(&db, plan.value)?;
    (0..from).try_for_each(|number| puts.put(number))?;
    puts.forget();
    for tenth in 0..10 {
        let part = |tenth: u64| from + (to - from) * tenth / 10;
        (part(tenth)..part(tenth + 1)).try_for_each(|number| puts.put(number))?;
        let keys = part(tenth + 1);
        let bytes = proc::anonymous(std::process::id())?.saturating_sub(before) as f64 / keys as f64;
        println!("  {keys:>11} keys: {bytes:.1} bytes of memory per key");
    }
    puts.tell("growing");
    tell_control("alone", puts.time())?;
    overwrite_beside_iteration(&db, plan)
}

/// What a thread that does nothing but read the clock meets with in the same time: interrupts and, on a virtual machine, the
/// times at which its processor was another's. Nothing less can be told of a set.
fn tell_control(beside: &str, time: Duration) -> Result<()> {
    let (mut steps, start) = (Histogram::<u64>::new(3)?, sys::thread_time()?);
    let mut last = start;
    while last - start < time {
        for step in 0..300_u64 {
            std::hint::black_box(step);
        }
        let now = sys::thread_time()?;
        steps.record((now - last).as_nanos() as u64)?;
        last = now;
    }
    println!("reading the clock {beside} (the control):");
    tell_times("step", &steps);
    Ok(())
}

/// The same while another thread keeps another processor busy: then a host stops a virtual machine more often.
fn tell_control_beside_another(time: Duration) -> Result<()> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        let told = tell_control("beside a busy thread", time);
        over.store(true, Relaxed);
        told
    })
}

fn overwrite_beside_iteration(db: &Db, plan: &Plan) -> Result<()> {
    let keys = plan.to;
    let (before, wall) = (sys::thread_time()?, Instant::now());
    let snapshot = db.snapshot()?;
    println!("  snapshot of {keys} keys: {:?} of processor time, {:?}", sys::thread_time()? - before, wall.elapsed());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let iteration = scope.spawn(|| {
            let outcome = iterate(&snapshot);
            over.store(true, Relaxed);
            outcome
        });
        let mut puts = Puts::new(db, plan.value)?;
        let mut random = fastrand::Rng::with_seed(7);
        while !over.load(Relaxed) || puts.sets.len() < OVERWRITES.min(keys) {
            puts.put(random.u64(..keys))?;
        }
        puts.tell("overwriting beside an iteration");
        tell_control_beside_another(puts.time())?;
        let (records, time) = iteration.join().map_err(|_| anyhow::anyhow!("the iteration panicked"))??;
        ensure!(records == keys, "the iteration met {records} of {keys} keys");
        let each = time.as_nanos() / u128::from(records);
        println!("  iteration over {records} records: {each} ns of processor time each");
        Ok(())
    })
}

fn iterate(view: &impl View) -> Result<(u64, Duration)> {
    let before = sys::thread_time()?;
    let mut records = 0;
    for item in view.iter()? {
        item?;
        records += 1;
    }
    Ok((records, sys::thread_time()? - before))
}

fn grow_beside_snapshot(plan: &Plan) -> Result<()> {
    let (_dir, db) = open(&plan.dir)?;
    let (from, to) = (plan.from, plan.to);
    let mut puts = Puts::new(&db, plan.value)?;
    (0..from).try_for_each(|number| puts.put(number))?;
    puts.forget();
    let snapshot = db.snapshot()?;
    (from..to).try_for_each(|number| puts.put(number))?;
    puts.tell("growing with a snapshot open");
    let (records, _) = iterate(&snapshot)?;
    ensure!(records == from, "the snapshot has {records} of {from} keys");
    Ok(())
}

/// Sets as a loop makes them: [`TURN`] in memory, then the log is written out. And how long each took.
struct Puts<'a> {
    db: &'a Db,
    value: Vec<u8>,
    scratch: Scratch,
    /// Nanoseconds of a set.
    sets: Histogram<u64>,
    /// Nanoseconds of a turn's `write_out`: the kernel's copying, and what it does on the way.
    writes: Histogram<u64>,
}

impl Puts<'_> {
    fn new(db: &Db, value: usize) -> Result<Puts<'_>> {
        Ok(Puts {
            db,
            value: vec![b'v'; value],
            scratch: Scratch::default(),
            sets: Histogram::new(3)?,
            writes: Histogram::new(3)?,
        })
    }

    /// What was timed so far does not count.
    fn forget(&mut self) {
        self.sets.reset();
        self.writes.reset();
    }

    fn put(&mut self, number: u64) -> Result<()> {
        while !self.db.has_room() {
            self.db.write_out();
            std::thread::sleep(Duration::from_millis(1));
        }
        let time = self.set(number)?;
        self.sets.record(time)?;
        if self.sets.len().is_multiple_of(TURN) {
            let time = self.write_out()?;
            self.writes.record(time)?;
        }
        Ok(())
    }

    fn set(&mut self, number: u64) -> Result<u64> {
        let (name, before) = (format!("{number:016}"), sys::thread_time()?);
        let (key, body) = (self.db.key(name.as_bytes()), NewBody::Inline(&self.value));
        let write = Write { key, flags: 0, expires: 0, marks: 0, cas: None, body, expect: Expect::Anything };
        self.db.write(&write, &mut self.scratch)?;
        Ok((sys::thread_time()? - before).as_nanos() as u64)
    }

    fn write_out(&self) -> Result<u64> {
        let before = sys::thread_time()?;
        self.db.write_out();
        Ok((sys::thread_time()? - before).as_nanos() as u64)
    }

    /// Of all sets.
    fn time(&self) -> Duration {
        Duration::from_nanos((self.sets.mean() * self.sets.len() as f64) as u64)
    }

    fn tell(&self, what: &str) {
        println!("{what}:");
        tell_times("set", &self.sets);
        tell_times("write_out", &self.writes);
    }
}

fn tell_times(name: &str, times: &Histogram<u64>) {
    println!(
        "  {:>8} times {name}: worst {:.0} µs, p99.99 {:.0} µs, mean {:.2} µs, {} above 1 ms",
        times.len(),
        times.max() as f64 / 1000.0,
        times.value_at_quantile(0.9999) as f64 / 1000.0,
        times.mean() / 1000.0,
        times.len() - times.count_between(0, 1_000_000),
    );
}
