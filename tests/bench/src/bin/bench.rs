//! `make bench`: KingServer, memcached, Redis and the null server side by side. All servers run on one core, the load on
//! another. Each case goes in rounds; within a round each peer is measured once, in rotating order, while the others are
//! stopped (SIGSTOP), so that whatever else the machine does hits all alike. Figures are medians over the rounds, ratios
//! are medians of the ratios within a round. A case that fixes the dialect leaves out the peers that do not speak it.

use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use getopts::{Matches, Options};
use kingserver_bench::case::{Case, SIZE_OF_DIALECTS, SIZES, SPACE, SPACE_OF_LARGE};
use kingserver_bench::load::{Arrival, Plan};
use kingserver_bench::measure::{fill, measure};
use kingserver_bench::peer::{Peer, Places, Server};
use kingserver_bench::report::Results;
use kingserver_bench::wire::{Keys, Pool, Wire};
use kingserver_bench::{place, plot, report, sys};

const CONNECTIONS: usize = 50;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Options {
    let mut options = Options::new();
    options.optopt("", "seconds", "length of one measurement (default 1)", "S");
    options.optopt("", "rounds", "rounds per case (default 5)", "N");
    options.optopt("", "peers", "out of null,kingserver,memcached,redis (default all)", "LIST");
    let dialects = format!("at {SIZE_OF_DIALECTS} bytes also meta- or binary- before the first four");
    let cases = format!("kinds (get,set,get16,set16,mget,open-get,open-set; {dialects}) or names (get-100)");
    options.optopt("", "cases", &cases, "LIST");
    options.optopt("", "sizes", "value sizes in bytes (default 100,4096,65536)", "LIST");
    options.optopt("", "keys", "keys stored and drawn from (default 100000, of 64 KiB 10000)", "N");
    options.optopt("", "connections", "connections (default 50)", "N");
    options.optflag("", "smoke", "at most ten seconds: few short rounds, one size; figures mean nothing");
    place::options(&mut options);
    options.optopt("", "json", "write the results there too", "FILE");
    options.optflag("", "publish", "copy table and plot to tests/bench/results");
    options
}

/// What the command line comes to.
struct Settings {
    peers: Vec<Peer>,
    cases: Vec<Case>,
    rounds: usize,
    window: Duration,
    connections: usize,
    places: Places,
}

fn run() -> Result<()> {
    let matches = options().parse(std::env::args().skip(1)).context("see --help")?;
    if matches.opt_present("help") {
        print!("{}", options().usage("Usage: bench [options]\n\nResults go to target/bench/results.{md,json,svg}."));
        return Ok(());
    }
    let settings = settings(&matches)?;
    settings.places.check(&settings.peers)?;
    sys::pin(place::load_core()?)?;
    let mut results = Results::new(&settings.peers, settings.rounds, settings.window, settings.connections);
    let mut sizes: Vec<usize> = settings.cases.iter().map(|case| case.work.size).collect();
    sizes.dedup();
    for size in sizes {
        run_size(&settings, size, &mut results)?;
    }
    write(&results, &matches)
}

fn settings(matches: &Matches) -> Result<Settings> {
    let smoke = matches.opt_present("smoke");
    let number = |name, plain, short| -> Result<f64> {
        let text = matches.opt_str(name).map(|text| text.parse().with_context(|| format!("--{name}={text}?")));
        text.unwrap_or(Ok(if smoke { short } else { plain }))
    };
    let space = matches.opt_get::<u32>("keys").context("--keys")?;
    let space_of = |size| match space {
        Some(space) => space,
        None if smoke => 10_000,
        None if size >= 64 * 1024 => SPACE_OF_LARGE,
        None => SPACE,
    };
    let sizes = list(matches, "sizes");
    let sizes = sizes.iter().map(|text| text.parse().with_context(|| format!("--sizes={text}?")));
    let mut sizes = sizes.collect::<Result<Vec<usize>>>()?;
    if sizes.is_empty() {
        sizes = if smoke { vec![100] } else { SIZES.to_vec() };
    }
    let peers = list(matches, "peers").iter().map(|name| Peer::named(name)).collect::<Result<Vec<_>>>()?;
    let peers = if peers.is_empty() { Peer::ALL.to_vec() } else { peers };
    let picked = list(matches, "cases");
    let cases = sizes.iter().flat_map(|&size| Case::of_size(size, space_of(size)));
    let cases = cases.filter(|case| case.is_in(&picked) && peers.iter().any(|&peer| case.suits(peer)));
    let cases: Vec<Case> = cases.collect();
    ensure!(!cases.is_empty(), "--cases={} picks none at these sizes for these peers", picked.join(","));
    Ok(Settings {
        peers,
        cases,
        rounds: number("rounds", 5.0, 2.0)?.max(1.0) as usize,
        window: Duration::from_secs_f64(number("seconds", 1.0, 0.05)?.clamp(0.01, 600.0)),
        connections: number("connections", CONNECTIONS as f64, CONNECTIONS as f64)?.clamp(1.0, 8000.0) as usize,
        places: place::places(matches)?,
    })
}

fn list(matches: &Matches, name: &str) -> Vec<String> {
    let text = matches.opt_str(name).unwrap_or_default();
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// All cases of one value size, against servers that are filled once.
fn run_size(settings: &Settings, size: usize, results: &mut Results) -> Result<()> {
    let pool = Rc::new(Pool::new(size));
    let cases: Vec<&Case> = settings.cases.iter().filter(|case| case.work.size == size).collect();
    let mut servers = Vec::new();
    for &peer in settings.peers.iter().filter(|peer| peer.stores()) {
        eprintln!("{}: {} values of {size} bytes", peer.name(), cases[0].work.space);
        let server = settings.places.start(peer, cases[0].work)?;
        fill(&server, cases[0].work, &pool)?;
        server.pause()?;
        servers.push(server);
    }
    for case in cases {
        run_case(settings, case, &servers, &pool, results)?;
    }
    servers.into_iter().try_for_each(Server::stop)
}

fn run_case(
    settings: &Settings,
    case: &Case,
    servers: &[Server],
    pool: &Rc<Pool>,
    results: &mut Results,
) -> Result<()> {
    let has_null = settings.peers.contains(&Peer::Null) && case.suits(Peer::Null);
    let null = has_null.then(|| settings.places.start(Peer::Null, case.work)).transpose()?;
    if let Some(null) = &null {
        null.pause()?;
    }
    for round in 0..settings.rounds {
        let mut all: Vec<&Server> = null.iter().chain(servers).filter(|server| case.suits(server.peer)).collect();
        let first = round % all.len();
        all.rotate_left(first);
        for server in all {
            server.resume()?;
            let plan = plan(settings, case, server.peer, pool, round);
            let sample = measure(server, vec![plan], settings.window).with_context(|| case.title())?;
            server.pause()?;
            results.add(case, server.peer, sample[0]);
        }
    }
    eprintln!("{}", results.line(case));
    null.map_or(Ok(()), Server::stop)
}

fn plan(settings: &Settings, case: &Case, peer: Peer, pool: &Rc<Pool>, round: usize) -> Plan {
    let dialect = case.dialect.unwrap_or_else(|| peer.dialect());
    Plan {
        wire: Wire::new(case.work, dialect, pool.clone()),
        keys: Keys::random(round as u64),
        arrival: case.rate.map_or(Arrival::Closed, Arrival::Open),
        connections: settings.connections,
        exact: peer.stores(),
    }
}

fn write(results: &Results, matches: &Matches) -> Result<()> {
    let out = place::out()?;
    let table = results.markdown();
    let json = serde_json::to_string_pretty(&results.json())?;
    report::write(&out.join("results.md"), &table)?;
    report::write(&out.join("results.json"), &json)?;
    let drawing = plot::bench(results)?;
    report::write(&out.join("results.svg"), &drawing)?;
    if let Some(file) = matches.opt_str("json") {
        report::write(Path::new(&file), &json)?;
    }
    if matches.opt_present("publish") {
        let dir = place::root().join("tests/bench/results");
        report::write(&dir.join("table.md"), &table)?;
        report::write(&dir.join("plot.svg"), &drawing)?;
    }
    print!("{table}");
    Ok(())
}
