//! `make bench-large`: what small gets notice of values of 64 MiB on their way in and out on other connections, and what
//! those cost. KingServer and memcached (`-I 512m`), one worker each, on a core of their own, in turn; the load on
//! another. The load is one thread that looks after the small connections between any two steps of the large ones, so
//! that it does not wait for its own work; small gets are sent at fixed times and measured from them. It comes before
//! everything else on its core, if it may: a daemon that takes 7 ms of it once a second makes 0.7 % of the gets late. Of
//! what comes it compares one byte in 4,096, so that the server is what is measured.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use getopts::Options;
use hdrhistogram::Histogram;
use kingserver_bench::peer::{Peer, Places, Server};
use kingserver_bench::report::{figure, median, surroundings, whole, write};
use kingserver_bench::wire::{Op, Work};
use kingserver_bench::{apart, place, proc, sys};

const PEERS: [Peer; 2] = [Peer::KingServer, Peer::Memcached];
const LARGE: usize = 64 << 20;
const SMALL: usize = 100;
/// Small gets per second, and over how many connections: none waits for the reply before as long as that comes within
/// 16 ms.
const RATE: u64 = 1000;
const SMALLS: u64 = 16;
/// Bytes moved for a stream before the small connections are looked after.
const STEP: usize = 64 << 10;
/// What large values are made of, again and again: nothing that can be compressed within a chunk.
const RING: usize = 1 << 20;
/// Of so many bytes that come, one is compared.
const LOOK: usize = 4 << 10;
/// How long the load sleeps where it has nothing to do.
const REST: Duration = Duration::from_micros(20);
const PATIENCE: Duration = Duration::from_secs(20);
/// So many times the rounds that are wanted are tried, for as many in which the cores were as far apart for both servers.
const MOST: usize = 3;

/// What runs beside the small gets.
#[derive(Clone, Copy)]
struct Scenario {
    op: Op,
    streams: usize,
    /// Each value is got once, which was just set: what lives on a disk comes from there.
    first: bool,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario { op: Op::Get, streams: 0, first: false },
    Scenario { op: Op::Get, streams: 8, first: true },
    Scenario { op: Op::Get, streams: 2, first: false },
    Scenario { op: Op::Get, streams: 8, first: false },
    Scenario { op: Op::Set, streams: 2, first: false },
    Scenario { op: Op::Set, streams: 8, first: false },
];

impl Scenario {
    fn title(self) -> String {
        match (self.streams, self.op) {
            (0, _) => "small gets alone".into(),
            (count, Op::Get) if self.first => format!("{count} first gets"),
            (count, Op::Get) => format!("{count} get streams"),
            (count, Op::Set) => format!("{count} set streams"),
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("large: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut options = Options::new();
    options.optopt("", "seconds", "length of one measurement (default 3)", "S");
    options.optopt("", "rounds", "rounds (default 3)", "N");
    options.optopt("", "only", "only what is beside this (\"2 get\", \"set streams\")", "TEXT");
    options.optflag("", "smoke", "a few seconds: figures mean nothing");
    options.optflag("", "publish", "copy the table to tests/bench/results");
    place::options(&mut options);
    let matches = options.parse(std::env::args().skip(1)).context("see --help")?;
    if matches.opt_present("help") {
        print!("{}", options.usage("Usage: large [options]"));
        return Ok(());
    }
    let smoke = matches.opt_present("smoke");
    let seconds = matches.opt_get_default("seconds", if smoke { 0.2 } else { 3.0 }).context("--seconds")?;
    let rounds = matches.opt_get_default("rounds", if smoke { 1 } else { 3 }).context("--rounds")?;
    let places = Places { memcached_words: vec!["-I".into(), "512m".into()], ..place::places(&matches)? };
    places.check(&PEERS)?;
    sys::pin(place::load_core()?)?;
    let only = matches.opt_str("only").unwrap_or_default();
    let table = table(&places, rounds, Duration::from_secs_f64(seconds), &only)?;
    if matches.opt_present("publish") {
        write(&place::root().join("tests/bench/results/large.md"), &table)?;
    }
    print!("{table}");
    Ok(())
}

fn table(places: &Places, rounds: usize, window: Duration, only: &str) -> Result<String> {
    let mut text = format!(
        "Gets of {SMALL} B at {RATE}/s beside values of 64 MiB, one worker on a core of its own. Medians of {rounds} interleaved \
         rounds of {window:?}, but for the maximum. CPU is the server's, all its threads; growth is that of its resident memory \
         at most. First gets follow the sets, and end with one for each stream; get streams get values that were got before. \
         Apart: how long a cache line takes between the two cores, to and fro, before or after, whichever is longer; a round in which \
         that was over twice as long for one server as for the other is left out, and one more is done, up to three times as many \
         in all. The maximum is that of all rounds. {}.\n\n\
         | beside | server | MB/s | CPU, ms/MB | p50, ms | p99, ms | max, ms | growth, MiB | apart, ns |\n|:--|:--|--:|--:|--:|--:|--:|--:|--:|\n",
        surroundings(&PEERS)
    );
    let (mut left_out, mut unfair) = (0, 0);
    for scenario in SCENARIOS.into_iter().filter(|scenario| scenario.title().contains(only)) {
        let mut found: Vec<[Sample; 2]> = Vec::new();
        while found.iter().filter(|pair| is_fair(pair)).count() < rounds && found.len() < MOST * rounds {
            found.push(round(places, scenario, window, found.len()).with_context(|| scenario.title())?);
        }
        let max = [0, 1].map(|index| found.iter().map(|pair| pair[index].max).fold(0.0, f64::max));
        left_out += found.len() - rounds;
        found.sort_by_key(|pair| !is_fair(pair));
        found.truncate(rounds);
        unfair += found.iter().filter(|pair| !is_fair(pair)).count();
        for (index, peer) in PEERS.iter().enumerate() {
            let of = |pick: fn(&Sample) -> f64| median(found.iter().map(|pair| pick(&pair[index])).collect());
            let rate = if scenario.streams > 0 { whole(of(|sample| sample.rate)) } else { "".into() };
            let cpu = if scenario.streams > 0 { figure(of(|sample| sample.cpu)) } else { "".into() };
            let (p50, p99) = (figure(of(|sample| sample.p50)), figure(of(|sample| sample.p99)));
            let (max, growth) = (figure(Some(max[index])), figure(of(|sample| sample.growth)));
            let apart = whole(of(|sample| sample.apart));
            let (title, name) = (scenario.title(), peer.name());
            let line = format!("| {title} | {name} | {rate} | {cpu} | {p50} | {p99} | {max} | {growth} | {apart} |");
            eprintln!("{line}");
            let _ = writeln!(text, "{line}");
        }
    }
    let _ = writeln!(text, "\nRounds left out for their distances: {left_out}. Rounds taken all the same: {unfair}.");
    Ok(text)
}

/// Each server in turn, the other one first in every second round.
fn round(places: &Places, scenario: Scenario, window: Duration, number: usize) -> Result<[Sample; 2]> {
    let mut samples = [None, None];
    for turn in 0..PEERS.len() {
        let index = (turn + number) % PEERS.len();
        let server = places.start(PEERS[index], Work::single(Op::Get, SMALL, 1))?;
        samples[index] = Some(one(&server, scenario, window, places.core)?);
        server.stop()?;
        // A virtual machine gives freed memory back two seconds later, which takes its processors a while.
        std::thread::sleep(window);
    }
    let [Some(ours), Some(theirs)] = samples else { unreachable!("each had its turn") };
    Ok([ours, theirs])
}

/// Whether the cores were about as far apart for both servers: where they do not share a cache, a byte costs twice as much.
fn is_fair([ours, theirs]: &[Sample; 2]) -> bool {
    // (On one core there is no distance, and none is too long.)
    let (long, short) = (ours.apart.max(theirs.apart), ours.apart.min(theirs.apart));
    short.is_nan() || long <= 2.0 * short
}

/// Megabytes per second, milliseconds of processor time per megabyte, milliseconds, mebibytes, nanoseconds.
struct Sample {
    rate: f64,
    cpu: f64,
    p50: f64,
    p99: f64,
    max: f64,
    growth: f64,
    apart: f64,
}

fn one(server: &Server, scenario: Scenario, window: Duration, core: usize) -> Result<Sample> {
    let apart = apart::round_trip(core)?;
    let mut random = fastrand::Rng::with_seed(7);
    let ring: Vec<u8> = (0..RING).map(|_| random.u8(..)).collect();
    let mut smalls = (0..SMALLS).map(|number| Small::connect(server.address, number)).collect::<Result<Vec<_>>>()?;
    let mut streams = Vec::new();
    for number in 0..scenario.streams {
        let mut stream = Stream::connect(server.address, number)?;
        // What is to be got must be there; what is to be set has been, so that a peer has its memory for it.
        stream.begin(Op::Set);
        while !stream.step(&ring)? {}
        stream.begin(scenario.op);
        streams.push(stream);
    }
    if let (Op::Get, false) = (scenario.op, scenario.first) {
        once(&mut smalls, &mut streams, &ring)?;
        streams.iter_mut().for_each(|stream| stream.begin(scenario.op));
    }
    let _haste = sys::Haste::begin();
    smalls.iter_mut().zip(0..).for_each(|(small, number)| small.due = due(number));
    let warm = if scenario.first { &mut [] } else { &mut streams[..] };
    spin(&mut smalls, warm, scenario.op, &ring, window / 4)?;
    smalls.iter_mut().for_each(|small| small.latency.reset());
    proc::reset_peak(server.pid())?;
    let (before, cpu, began) = (proc::rss(server.pid())?, sys::cpu_time(server.pid())?, Instant::now());
    let moved = match scenario.first {
        true => once(&mut smalls, &mut streams, &ring)?,
        false => spin(&mut smalls, &mut streams, scenario.op, &ring, window)?,
    };
    let (cpu, wall) = (sys::cpu_time(server.pid())? - cpu, began.elapsed().as_secs_f64());
    let apart = apart.max(apart::round_trip(core)?);
    let growth = proc::peak(server.pid())?.saturating_sub(before);
    let mut latency = Histogram::<u64>::new(3).context("a histogram")?;
    smalls.iter().try_for_each(|small| latency.add(&small.latency)).context("a sum of histograms")?;
    let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e6;
    let megabytes = moved as f64 / 1e6;
    Ok(Sample {
        rate: megabytes / wall,
        cpu: cpu.as_secs_f64() * 1e3 / megabytes,
        p50: at(0.5),
        p99: at(0.99),
        max: latency.max() as f64 / 1e6,
        growth: growth as f64 / f64::from(1 << 20),
        apart,
    })
}

/// Ends what each stream has begun; tells how many bytes of large values were moved.
fn once(smalls: &mut [Small], streams: &mut [Stream], ring: &[u8]) -> Result<u64> {
    let before: u64 = streams.iter().map(|stream| stream.moved).sum();
    let mut under_way: Vec<&mut Stream> = streams.iter_mut().collect();
    while !under_way.is_empty() {
        tend(smalls)?;
        let mut index = 0;
        while index < under_way.len() {
            match under_way[index].step(ring)? {
                true => drop(under_way.swap_remove(index)),
                false => index += 1,
            }
            tend(smalls)?;
        }
    }
    Ok(streams.iter().map(|stream| stream.moved).sum::<u64>() - before)
}

/// Keeps everything going for a while; tells how many bytes of large values were moved.
fn spin(smalls: &mut [Small], streams: &mut [Stream], op: Op, ring: &[u8], time: Duration) -> Result<u64> {
    let end = Instant::now() + time;
    let before: u64 = streams.iter().map(|stream| stream.moved).sum();
    while Instant::now() < end {
        rest(streams);
        tend(smalls)?;
        for stream in &mut *streams {
            if stream.step(ring)? {
                stream.begin(op);
            }
            tend(smalls)?;
        }
    }
    Ok(streams.iter().map(|stream| stream.moved).sum::<u64>() - before)
}

/// Looks after the small connections.
fn tend(smalls: &mut [Small]) -> Result<()> {
    let now = Instant::now();
    smalls.iter_mut().filter(|small| small.asked.is_some() || small.due <= now).try_for_each(Small::step)
}

/// Where no stream has anything to get, sleeps a little: a host may stop a virtual machine for milliseconds whose
/// processors are all busy all the time, as a server's that sends is. (Not until there is something to do: servers would
/// pay for waking us.)
fn rest(streams: &[Stream]) {
    if !streams.is_empty() && streams.iter().all(|stream| stream.stuck && stream.op == Op::Get) {
        std::thread::sleep(REST);
    }
}

/// When connection `number` sends its first get, counted from now.
fn due(number: u64) -> Instant {
    Instant::now() + Duration::from_nanos(number * 1_000_000_000 / RATE)
}

/// A get under way, or due.
struct Small {
    socket: TcpStream,
    reply: Vec<u8>,
    got: usize,
    /// When the one under way should have been sent.
    asked: Option<Instant>,
    due: Instant,
    latency: Histogram<u64>,
}

impl Small {
    fn connect(address: SocketAddr, number: u64) -> Result<Small> {
        let mut socket = connect(address)?;
        let value = [b'v'; SMALL];
        socket.write_all(&[b"set small 0 0 100\r\n", &value[..], b"\r\n"].concat())?;
        let mut stored = [0; 8];
        socket.read_exact(&mut stored)?;
        ensure!(&stored == b"STORED\r\n", "the small value was refused");
        socket.set_nonblocking(true)?;
        let reply = [b"VALUE small 0 100\r\n", &value[..], b"\r\nEND\r\n"].concat();
        let latency = Histogram::new(3).context("a histogram")?;
        Ok(Small { socket, reply, got: 0, asked: None, due: due(number), latency })
    }

    /// Takes the reply if it is there; sends the next request if it is due.
    fn step(&mut self) -> Result<()> {
        if let Some(asked) = self.asked {
            let mut buffer = [0; 256];
            let Some(count) = quiet(self.socket.read(&mut buffer))? else {
                ensure!(asked.elapsed() < PATIENCE, "no reply to a small get for {PATIENCE:?}");
                return Ok(());
            };
            ensure!(count > 0 && self.reply[self.got..].starts_with(&buffer[..count]), "a wrong reply to a small get");
            self.got += count;
            if self.got < self.reply.len() {
                return Ok(());
            }
            self.latency.record(asked.elapsed().as_nanos() as u64)?;
            self.asked = None;
        }
        if Instant::now() >= self.due {
            self.socket.write_all(b"get small\r\n")?;
            (self.asked, self.got) = (Some(self.due), 0);
            self.due += Duration::from_nanos(SMALLS * 1_000_000_000 / RATE);
        }
        Ok(())
    }
}

/// One large value after the other, in one direction.
struct Stream {
    socket: TcpStream,
    number: usize,
    /// What is still to be sent before a value, in its place, or after it.
    head: Vec<u8>,
    /// Bytes of the value that were sent or taken.
    body: usize,
    got: Vec<u8>,
    op: Op,
    buffer: Vec<u8>,
    moved: u64,
    heard: Instant,
    /// The last step could do nothing.
    stuck: bool,
}

impl Stream {
    fn connect(address: SocketAddr, number: usize) -> Result<Stream> {
        let socket = connect(address)?;
        socket.set_nonblocking(true)?;
        let (head, got, buffer) = (Vec::new(), Vec::new(), vec![0; STEP]);
        let (op, heard) = (Op::Set, Instant::now());
        Ok(Stream { socket, number, head, body: 0, got, op, buffer, moved: 0, heard, stuck: false })
    }

    fn begin(&mut self, op: Op) {
        let number = self.number;
        self.head = match op {
            Op::Get => format!("get large{number}\r\n").into_bytes(),
            Op::Set => format!("set large{number} 0 0 {LARGE}\r\n").into_bytes(),
        };
        (self.op, self.body) = (op, 0);
        self.got.clear();
    }

    /// Moves a step's worth. Whether the value is through.
    fn step(&mut self, ring: &[u8]) -> Result<bool> {
        let moved = match self.op {
            Op::Set => self.send(ring)?,
            Op::Get => self.receive(ring)?,
        };
        self.stuck = moved.is_none();
        match moved {
            Some(done) => {
                self.heard = Instant::now();
                Ok(done)
            }
            None if self.heard.elapsed() > PATIENCE => bail!("nothing moves for {PATIENCE:?}"),
            None => Ok(false),
        }
    }

    fn send_head(&mut self) -> Result<Option<usize>> {
        let count = quiet(self.socket.write(&self.head))?;
        self.head.drain(..count.unwrap_or(0));
        Ok(count)
    }

    fn send(&mut self, ring: &[u8]) -> Result<Option<bool>> {
        if !self.head.is_empty() {
            return Ok(self.send_head()?.map(|_| false));
        }
        if self.body < LARGE {
            let at = self.body % RING;
            let part = &ring[at..RING.min(at + STEP.min(LARGE - self.body))];
            let Some(count) = quiet(self.socket.write(part))? else { return Ok(None) };
            (self.body, self.moved) = (self.body + count, self.moved + count as u64);
            if self.body == LARGE {
                self.head = b"\r\n".to_vec();
            }
            return Ok(Some(false));
        }
        let Some(count) = quiet(self.socket.read(&mut self.buffer))? else { return Ok(None) };
        self.got.extend_from_slice(&self.buffer[..count]);
        ensure!(count > 0 && b"STORED\r\n".starts_with(&self.got), "a set was answered {}", self.got.escape_ascii());
        Ok(Some(self.got.len() == b"STORED\r\n".len()))
    }

    fn receive(&mut self, ring: &[u8]) -> Result<Option<bool>> {
        if !self.head.is_empty() {
            return Ok(self.send_head()?.map(|_| false));
        }
        let Some(count) = quiet(self.socket.read(&mut self.buffer))? else { return Ok(None) };
        ensure!(count > 0, "the connection was closed");
        let header = format!("VALUE large{} 0 {LARGE}\r\n", self.number);
        let mut rest = &self.buffer[..count];
        if self.got.len() < header.len() {
            let part = rest.len().min(header.len() - self.got.len());
            self.got.extend_from_slice(&rest[..part]);
            rest = &rest[part..];
            ensure!(header.as_bytes().starts_with(&self.got), "a get was answered {}", self.got.escape_ascii());
        }
        while !rest.is_empty() && self.body < LARGE {
            let at = self.body % RING;
            let part = rest.len().min(RING - at).min(LARGE - self.body);
            ensure!(alike(&rest[..part], &ring[at..at + part]), "a wrong byte near {} of a value", self.body);
            (self.body, self.moved) = (self.body + part, self.moved + part as u64);
            rest = &rest[part..];
        }
        self.got.extend_from_slice(rest);
        ensure!(b"\r\nEND\r\n".starts_with(&self.got[header.len().min(self.got.len())..]), "a value has no end");
        Ok(Some(self.got.len() == header.len() + b"\r\nEND\r\n".len()))
    }
}

/// Whether two parts of a value look the same: comparing all of it would take longer than the server needs to send it.
fn alike(left: &[u8], right: &[u8]) -> bool {
    left.iter().step_by(LOOK).eq(right.iter().step_by(LOOK))
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE).context("cannot connect")?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// `None`: it would wait.
fn quiet(result: std::io::Result<usize>) -> Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("the connection broke"),
    }
}
