//! What an idle connection costs a server in user memory: opens many, and divides what the server's anonymous memory
//! grew by; once when they are only open, and once more when each has had one request answered. (The kernel's socket
//! buffers are not part of it: they are the same for every server.)

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use getopts::{Matches, Options};
use kingserver_bench::load::{Arrival, Load, Plan};
use kingserver_bench::measure::fill;
use kingserver_bench::peer::{Peer, Server};
use kingserver_bench::wire::{Dialect, Keys, Op, Pool, Wire, Work};
use kingserver_bench::{place, proc, sys};

/// Connections that come and go before, so that code and pools are there already.
const WARM: usize = 256;
const SIZE: usize = 100;
const SPACE: u32 = 1000;
/// A server may tidy up behind a request for this long before its memory is looked at.
const SETTLE: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("idle: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Options {
    let mut options = Options::new();
    options.optopt("", "connections", "how many (default 8000)", "N");
    options.optopt("", "peers", "servers to start (default kingserver,memcached)", "LIST");
    options.optopt("", "pid", "measure a running server that speaks memcached's protocol", "PID");
    options.optopt("", "address", "where that one listens", "IP:PORT");
    options.optopt("", "limit", "fail if a connection costs more than this, in bytes", "N");
    place::options(&mut options);
    options
}

fn run() -> Result<()> {
    let matches = options().parse(std::env::args().skip(1)).context("see --help")?;
    if matches.opt_present("help") {
        print!("{}", options().usage("Usage: idle [options]"));
        return Ok(());
    }
    let connections = matches.opt_get_default("connections", 8000).context("--connections")?;
    sys::want_descriptors(connections as u64 + 100)?;
    let limit = matches.opt_get::<f64>("limit").context("--limit")?;
    if let Some(pid) = matches.opt_get::<u32>("pid").context("--pid")? {
        let address = matches.opt_get::<SocketAddr>("address").context("--address")?;
        let address = address.context("--pid needs --address")?;
        return meter("server", address, pid, Dialect::Text, connections, limit);
    }
    start_and_meter(&matches, connections, limit)
}

fn start_and_meter(matches: &Matches, connections: usize, limit: Option<f64>) -> Result<()> {
    let names = matches.opt_str("peers").unwrap_or_else(|| "kingserver,memcached".to_owned());
    let peers = names.split(',').map(Peer::named).collect::<Result<Vec<_>>>()?;
    let places = place::places(matches)?;
    places.check(&peers)?;
    sys::pin(place::load_core()?)?;
    for peer in peers {
        let work = Work::single(Op::Get, SIZE, SPACE);
        let server = places.start(peer, work)?;
        fill(&server, work, &Rc::new(Pool::new(SIZE)))?;
        meter(peer.name(), server.address, server.pid(), peer.dialect(), connections, limit)
            .with_context(|| format!("it said: {}", server.said()))?;
        Server::stop(server)?;
    }
    Ok(())
}

fn meter(
    name: &str,
    address: SocketAddr,
    pid: u32,
    dialect: Dialect,
    connections: usize,
    limit: Option<f64>,
) -> Result<()> {
    Load::connect(address, vec![plan(dialect, WARM)])?.once()?;
    std::thread::sleep(SETTLE);
    let before = proc::anonymous(pid)?;
    let each = |now: u64| (now as f64 - before as f64) / connections as f64;
    let mut load = Load::connect(address, vec![plan(dialect, connections)])?;
    std::thread::sleep(SETTLE);
    let open = each(proc::anonymous(pid)?);
    load.once()?;
    std::thread::sleep(SETTLE);
    let used = each(proc::anonymous(pid)?);
    println!("{name}: {connections} connections, {open:.0} B each when opened, {used:.0} B each after a get on each");
    let worst = open.max(used);
    ensure!(limit.is_none_or(|limit| worst <= limit), "{name}: {worst:.0} B are over the limit");
    Ok(())
}

/// Gets of keys; on a server without them nothing fits the expected reply, hence a miss is an error.
fn plan(dialect: Dialect, connections: usize) -> Plan {
    let work = Work::single(Op::Get, SIZE, SPACE);
    let wire = Wire::new(work, dialect, Rc::new(Pool::new(SIZE)));
    Plan { wire, keys: Keys::random(1), arrival: Arrival::Idle, connections, exact: false }
}
