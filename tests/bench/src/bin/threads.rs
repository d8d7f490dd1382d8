//! `make bench-threads`: an event loop against a thread per connection. KingServer (one worker) and `threaded` (same
//! store, same parser, a blocking thread for each connection) on the same core, from ten connections to thousands:
//! mostly idle (a fixed rate of small gets spread over all), all busy (closed loop), and a fixed rate of small gets
//! beside a fixed rate of large ones on other connections. Rounds are interleaved, figures are medians.

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use getopts::{Matches, Options};
use kingserver_bench::load::{Arrival, Plan};
use kingserver_bench::matrix::{self, Row};
use kingserver_bench::measure::{Sample, fill, measure};
use kingserver_bench::peer::{Peer, Places, Server};
use kingserver_bench::wire::{Keys, Op, Pool, Wire, Work};
use kingserver_bench::{place, plot, report, sys};

const PEERS: [Peer; 2] = [Peer::KingServer, Peer::Threaded];
const COUNTS: [usize; 5] = [10, 100, 1000, 4000, 8000];
/// Small gets per second where they come at a fixed rate.
const RATE: f64 = 5000.0;
const SMALL: usize = 100;
const SMALL_SPACE: u32 = 100_000;
/// Large values, so many of each, asked for so often.
const LARGE: [usize; 3] = [64 * 1024, 256 * 1024, 1024 * 1024];
const LARGE_SPACE: u32 = 100;
const LARGE_RATE: f64 = 150.0;
/// A tenth of the connections has large values, but not more than these (for each size).
const MOST_LARGE: usize = 10;

/// What the connections do.
#[derive(Clone, Copy)]
enum Scenario {
    Idle,
    Busy,
    Large,
}

impl Scenario {
    const ALL: [Scenario; 3] = [Scenario::Idle, Scenario::Busy, Scenario::Large];

    fn title(self) -> &'static str {
        match self {
            Scenario::Idle => "mostly idle",
            Scenario::Busy => "all busy",
            Scenario::Large => "beside large values",
        }
    }

    /// The small gets come first.
    fn plans(self, connections: usize, pool: &Rc<Pool>, seed: u64) -> Vec<Plan> {
        let plan = |work, arrival, connections| Plan {
            wire: Wire::new(work, Peer::KingServer.dialect(), pool.clone()),
            keys: Keys::random(seed),
            arrival,
            connections,
            exact: true,
        };
        let each = (connections / 30).clamp(1, MOST_LARGE);
        match self {
            Scenario::Idle => vec![plan(small(), Arrival::Open(RATE), connections)],
            Scenario::Busy => vec![plan(small(), Arrival::Closed, connections)],
            Scenario::Large => {
                let rest = connections - each * LARGE.len();
                let large = LARGE.iter().map(|&size| plan(large(size), Arrival::Open(LARGE_RATE), each));
                [plan(small(), Arrival::Open(RATE), rest)].into_iter().chain(large).collect()
            }
        }
    }
}

fn small() -> Work {
    Work::single(Op::Get, SMALL, SMALL_SPACE)
}

fn large(size: usize) -> Work {
    Work { first: 1_000_000 + size as u32, ..Work::single(Op::Get, size, LARGE_SPACE) }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("threads: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Options {
    let mut options = Options::new();
    options.optopt("", "seconds", "length of one measurement (default 2)", "S");
    options.optopt("", "rounds", "rounds (default 3)", "N");
    options.optopt("", "connections", "numbers of connections (default 10,100,1000,4000,8000)", "LIST");
    options.optflag("", "smoke", "a few seconds: does it run?");
    options.optflag("", "publish", "copy table and plot to tests/bench/results");
    place::options(&mut options);
    options
}

/// What the command line comes to.
struct Settings {
    counts: Vec<usize>,
    rounds: usize,
    window: Duration,
    places: Places,
}

fn settings(matches: &Matches) -> Result<Settings> {
    let smoke = matches.opt_present("smoke");
    let counts = matches.opt_str("connections").map(|text| {
        let each = text.split(',').map(|word| word.parse::<usize>().context("--connections"));
        each.collect::<Result<Vec<_>>>()
    });
    let plain = if smoke { vec![10, 100] } else { COUNTS.to_vec() };
    let seconds: f64 = matches.opt_get_default("seconds", if smoke { 0.1 } else { 2.0 })?;
    Ok(Settings {
        counts: counts.unwrap_or(Ok(plain))?.into_iter().map(|count| count.clamp(4, 9000)).collect(),
        rounds: matches.opt_get_default("rounds", if smoke { 1 } else { 3 })?,
        window: Duration::from_secs_f64(seconds.clamp(0.01, 600.0)),
        places: place::places(matches)?,
    })
}

fn run() -> Result<()> {
    let matches = options().parse(std::env::args().skip(1)).context("see --help")?;
    if matches.opt_present("help") {
        print!("{}", options().usage("Usage: threads [options]\n\nResults go to target/bench/threads.{md,json,svg}."));
        return Ok(());
    }
    let settings = settings(&matches)?;
    settings.places.check(&PEERS)?;
    sys::want_descriptors(settings.counts.iter().max().map_or(0, |&most| most as u64) + 100)?;
    sys::pin(place::load_core()?)?;
    let mut rows = Vec::new();
    for &count in &settings.counts {
        run_count(&settings, count, &mut rows)?;
    }
    rows.sort_by_key(|row: &Row| Scenario::ALL.map(Scenario::title).iter().position(|title| *title == row.scenario));
    write(&settings, &rows, matches.opt_present("publish"))
}

/// All scenarios with one number of connections, on servers started for it.
fn run_count(settings: &Settings, count: usize, rows: &mut Vec<Row>) -> Result<()> {
    let pool = Rc::new(Pool::new(LARGE[LARGE.len() - 1]));
    let servers = PEERS.iter().map(|&peer| start(settings, peer, &pool)).collect::<Result<Vec<_>>>()?;
    for scenario in Scenario::ALL {
        let mut samples = PEERS.map(|_| Vec::new());
        for round in 0..settings.rounds {
            for turn in 0..servers.len() {
                let index = (turn + round) % servers.len();
                let plans = scenario.plans(count, &pool, round as u64);
                samples[index].push(sample(settings, &servers[index], plans, scenario, count)?);
            }
        }
        for (peer, samples) in PEERS.into_iter().zip(samples) {
            rows.push(Row { scenario: scenario.title(), connections: count, peer, samples });
        }
        eprint!("{}", matrix::lines(&rows[rows.len() - PEERS.len()..]));
    }
    servers.into_iter().try_for_each(Server::stop)
}

fn start(settings: &Settings, peer: Peer, pool: &Rc<Pool>) -> Result<Server> {
    let server = settings.places.start(peer, small())?;
    fill(&server, small(), pool)?;
    LARGE.iter().try_for_each(|&size| fill(&server, large(size), pool))?;
    server.pause()?;
    Ok(server)
}

fn sample(settings: &Settings, server: &Server, plans: Vec<Plan>, scenario: Scenario, count: usize) -> Result<Sample> {
    server.resume()?;
    let samples = measure(server, plans, settings.window)
        .with_context(|| format!("{}, {count} connections", scenario.title()))?;
    server.pause()?;
    Ok(samples[0])
}

fn write(settings: &Settings, rows: &[Row], publish: bool) -> Result<()> {
    let out = place::out()?;
    let about = about(settings);
    let table = matrix::markdown(&about, rows);
    let json = serde_json::to_string_pretty(&matrix::json(&about, rows))?;
    report::write(&out.join("threads.md"), &table)?;
    report::write(&out.join("threads.json"), &json)?;
    let drawing = plot::threads(rows)?;
    report::write(&out.join("threads.svg"), &drawing)?;
    if publish {
        let dir = place::root().join("tests/bench/results");
        report::write(&dir.join("threads.md"), &table)?;
        report::write(&dir.join("threads.svg"), &drawing)?;
    }
    print!("{table}");
    Ok(())
}

fn about(settings: &Settings) -> String {
    let (rounds, window) = (settings.rounds, settings.window);
    let large = LARGE.len() as f64 * LARGE_RATE;
    format!(
        "Medians of {rounds} interleaved rounds of {window:?}. Mostly idle: gets of {SMALL} B at {RATE}/s in all. All busy: the \
         same gets as fast as they go. Beside large values: the same gets at {RATE}/s while other connections get values of \
         64 KiB to 1 MiB at {large}/s in all; latency is that of the small gets, CPU and switches are per get of any size. {}.",
        report::surroundings(&[])
    )
}
