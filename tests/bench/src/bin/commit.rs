//! `make bench-commit`: how many sets share an `fdatasync` when each must be on the disk before it is answered
//! (`--db.sync=always`), by the number of connections that set at the same time. The server counts its own syncs.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use getopts::Options;
use kingserver_bench::load::{Arrival, Plan};
use kingserver_bench::measure::measure;
use kingserver_bench::peer::{Peer, Places, Server};
use kingserver_bench::report::{figure, median, whole, write};
use kingserver_bench::wire::{Keys, Op, Pool, Wire, Work};
use kingserver_bench::{place, proc, sys};

const CONNECTIONS: [usize; 4] = [1, 10, 50, 200];
const SIZE: usize = 100;
const SPACE: u32 = 10_000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("commit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut options = Options::new();
    options.optopt("", "seconds", "length of one measurement (default 1)", "S");
    options.optopt("", "rounds", "rounds (default 5)", "N");
    options.optflag("", "smoke", "a second: figures mean nothing");
    options.optflag("", "publish", "copy the table to tests/bench/results");
    place::options(&mut options);
    let matches = options.parse(std::env::args().skip(1)).context("see --help")?;
    if matches.opt_present("help") {
        print!("{}", options.usage("Usage: commit [options]"));
        return Ok(());
    }
    let smoke = matches.opt_present("smoke");
    let seconds = matches.opt_get_default("seconds", if smoke { 0.1 } else { 1.0 }).context("--seconds")?;
    let rounds = matches.opt_get_default("rounds", if smoke { 1 } else { 5 }).context("--rounds")?;
    let places = Places { words: vec!["--db.sync=always".into()], ..place::places(&matches)? };
    places.check(&[Peer::KingServer])?;
    sys::pin(place::load_core()?)?;
    let server = places.start(Peer::KingServer, work())?;
    let table = table(&server, rounds, Duration::from_secs_f64(seconds))?;
    server.stop()?;
    if matches.opt_present("publish") {
        write(&place::root().join("tests/bench/results/commit.md"), &table)?;
    }
    print!("{table}");
    Ok(())
}

fn work() -> Work {
    Work::single(Op::Set, SIZE, SPACE)
}

fn table(server: &Server, rounds: usize, window: Duration) -> Result<String> {
    let (processor, kernel) = (proc::processor(), sys::kernel());
    let mut text = format!(
        "Sets of {SIZE} B under `--db.sync=always`, one set at a time on each connection. Medians of {rounds} rounds of {window:?}; \
         {processor}, Linux {kernel}.\n\n| connections | sets/s | fdatasyncs/s | sets per fdatasync | p99, ms |\n|--:|--:|--:|--:|--:|\n"
    );
    for connections in CONNECTIONS {
        let rounds = (0..rounds).map(|round| one(server, connections, round as u64, window));
        let rounds = rounds.collect::<Result<Vec<_>>>()?;
        let of = |pick: fn(&Round) -> f64| median(rounds.iter().map(pick).collect());
        let (sets, syncs) = (whole(of(|round| round.sets)), whole(of(|round| round.syncs)));
        let (shared, p99) = (figure(of(|round| round.sets / round.syncs)), figure(of(|round| round.p99)));
        let _ = writeln!(text, "| {connections} | {sets} | {syncs} | {shared} | {p99} |");
    }
    Ok(text)
}

/// Sets and syncs per second, and milliseconds.
struct Round {
    sets: f64,
    syncs: f64,
    p99: f64,
}

fn one(server: &Server, connections: usize, seed: u64, window: Duration) -> Result<Round> {
    let wire = Wire::new(work(), Peer::KingServer.dialect(), Rc::new(Pool::new(SIZE)));
    let plan = Plan { wire, keys: Keys::random(seed), arrival: Arrival::Closed, connections, exact: true };
    // What is set outside the window, to warm up and at the end, is in both counts.
    let (sets, syncs) = (stat(server.address, "cmd_set")?, stat(server.address, "db_fsyncs")?);
    let sample = measure(server, vec![plan], window)?[0];
    let (sets, syncs) = (stat(server.address, "cmd_set")? - sets, stat(server.address, "db_fsyncs")? - syncs);
    Ok(Round { sets: sample.rate, syncs: sample.rate * syncs / sets, p99: sample.p99 / 1e3 })
}

/// One of the server's counters.
fn stat(address: SocketAddr, name: &str) -> Result<f64> {
    let mut stream = BufReader::new(TcpStream::connect(address).context("no connection for stats")?);
    stream.get_mut().write_all(b"stats\r\n")?;
    let wanted = format!("STAT {name} ");
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 && line != "END\r\n" {
        if let Some(value) = line.strip_prefix(&wanted) {
            return value.trim().parse().with_context(|| format!("{name} is no number"));
        }
        line.clear();
    }
    anyhow::bail!("the server counts no {name}")
}
