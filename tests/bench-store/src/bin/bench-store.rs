//! `make bench-store`: db_bench's workloads on KingDB, LevelDB, RocksDB and fjall side by side. Each value size goes in
//! rounds; within a round each store runs once, in rotating order, in a process of its own with an empty directory.
//! Figures are medians over the rounds, ratios are medians of the ratios within a round.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use getopts::{Matches, Options};
use kingdb_bench::report::{Results, put_between};
use kingdb_bench::store::Engine;
use kingdb_bench::worker::{self, Line};
use kingdb_bench::workload::{Scale, Workload};
use kingdb_bench::{plot, rocksdb};
use kingserver_bench::report::{figure, write};
use kingserver_bench::{place, sys};

/// Rounds of small and of large values.
const ROUNDS: (u64, u64) = (5, 3);
/// Bytes from which a value is large.
const LARGE: usize = 10_000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.split_first() {
        Some((first, rest)) if first == "worker" => work(rest),
        _ => run(&words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-store: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Options {
    let mut options = Options::new();
    options.optopt("", "engines", "out of kingdb,leveldb,rocksdb,fjall (default all)", "LIST");
    options.optopt("", "sizes", "value sizes in bytes, out of 100,1000,100000,1000000 (default all)", "LIST");
    options.optopt("", "rounds", "rounds (default 5, of large values 3)", "N");
    options.optopt("", "data", "where stores keep data: a real disk (default target/bench)", "DIR");
    options.optflag("", "smoke", "a few seconds: one short round; figures mean nothing");
    options.optflag("", "publish", "copy table and plot to tests/bench-store/results and into README.md");
    options.optflag("h", "help", "print this");
    options
}

/// What the command line comes to.
struct Settings {
    engines: Vec<Engine>,
    scales: Vec<Scale>,
    rounds: Option<u64>,
    data: PathBuf,
}

fn run(words: &[String]) -> Result<()> {
    let matches = options().parse(words).context("see --help")?;
    if matches.opt_present("help") {
        print!("{}", options().usage("Usage: bench-store [options]\n\nResults go to target/bench/store.{md,svg}."));
        return Ok(());
    }
    let settings = settings(&matches)?;
    let mut results = Results::new(&settings.engines, &settings.scales);
    for scale in &settings.scales {
        for round in 0..settings.rounds_of(scale) {
            run_round(&settings, Scale { seed: round, ..*scale }, &mut results)?;
        }
    }
    publish(&settings, &results, &matches)
}

fn settings(matches: &Matches) -> Result<Settings> {
    let smoke = matches.opt_present("smoke");
    let list = |name: &str| {
        let text = matches.opt_str(name).unwrap_or_default();
        text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let engines = list("engines").iter().map(|name| Engine::named(name)).collect::<Result<Vec<_>>>()?;
    let sizes = list("sizes");
    let picked = |scale: &Scale| sizes.is_empty() || sizes.contains(&scale.size.to_string());
    let scales: Vec<Scale> = Scale::FULL.into_iter().filter(picked).collect();
    ensure!(!scales.is_empty(), "--sizes={} picks none", sizes.join(","));
    let rounds = matches.opt_get::<u64>("rounds").context("--rounds")?;
    Ok(Settings {
        engines: if engines.is_empty() { Engine::ALL.to_vec() } else { engines },
        scales: if smoke { scales.into_iter().map(Scale::smoke).collect() } else { scales },
        rounds: if smoke { Some(1) } else { rounds.map(|rounds| rounds.max(1)) },
        data: std::path::absolute(matches.opt_str("data").map_or_else(place::out, |dir| Ok(PathBuf::from(dir)))?)?,
    })
}

impl Settings {
    fn rounds_of(&self, scale: &Scale) -> u64 {
        let (small, large) = ROUNDS;
        self.rounds.unwrap_or(if scale.size < LARGE { small } else { large })
    }
}

fn run_round(settings: &Settings, scale: Scale, results: &mut Results) -> Result<()> {
    let mut engines = settings.engines.clone();
    let first = scale.seed as usize % engines.len();
    engines.rotate_left(first);
    for engine in engines {
        std::fs::create_dir_all(&settings.data)?;
        let dir = tempfile::Builder::new().prefix("store-").tempdir_in(&settings.data).context("no data directory")?;
        let mut tell = |line| {
            results.add(engine, &scale, line);
            Ok(())
        };
        let done = match engine {
            Engine::RocksDb => rocksdb::run(scale, dir.path(), &mut tell),
            _ => in_process(engine, scale, dir.path(), &mut tell),
        };
        done.with_context(|| format!("{}, values of {}", engine.title(), scale.title()))?;
        eprintln!("{}", results.line(&scale, engine));
    }
    Ok(())
}

/// Runs a store in a process of its own: this program again.
fn in_process(engine: Engine, scale: Scale, dir: &Path, tell: &mut dyn FnMut(Line) -> Result<()>) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    sys::leash(&mut command);
    command.arg("worker").arg(engine.name()).arg(serde_json::to_string(&scale)?).arg(dir);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start a worker")?;
    let said = BufReader::new(child.stdout.take().context("no pipe")?);
    let told = said.lines().try_for_each(|line| tell(serde_json::from_str(&line?)?));
    let status = child.wait()?;
    told?;
    ensure!(status.success(), "the worker ended with {status}");
    Ok(())
}

/// The other process.
fn work(words: &[String]) -> Result<()> {
    let [engine, scale, dir] = words else { bail!("worker ENGINE SCALE DIR") };
    worker::run(Engine::named(engine)?, serde_json::from_str(scale)?, Path::new(dir), &mut |line| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
        Ok(out.flush()?)
    })
}

fn publish(settings: &Settings, results: &Results, matches: &Matches) -> Result<()> {
    let rounds = settings.scales.iter().map(|scale| format!("{} of {}", settings.rounds_of(scale), scale.title()));
    let rounds = format!("Medians of interleaved rounds: {}", rounds.collect::<Vec<_>>().join(", "));
    let (table, drawing) = (results.markdown(&rounds), plot::draw(results)?);
    let out = place::out()?;
    write(&out.join("store.md"), &table)?;
    write(&out.join("store.svg"), &drawing)?;
    if matches.opt_present("publish") {
        let dir = place::root().join("tests/bench-store/results");
        write(&dir.join("table.md"), &table)?;
        write(&dir.join("plot.svg"), &drawing)?;
        put_between(&place::root().join("README.md"), "store", &readme(results))?;
    }
    print!("{table}");
    Ok(())
}

/// The table in the README: how long an operation takes.
fn readme(results: &Results) -> String {
    let mut text = String::new();
    for scale in results.scales.iter().filter(|scale| scale.size < LARGE) {
        results.time_table(scale, &mut text);
        text = text.replace("| µs per operation |", &format!("| µs per operation, {} |", scale.title()));
        text.push_str(&results.floor_note(scale).map_or_else(String::new, |note| format!("\n{note}\n")));
        text.push('\n');
    }
    text.push_str("![Throughput against LevelDB's](tests/bench-store/results/plot.svg)\n\n");
    let worst = results.scales.iter().filter_map(|scale| {
        let speed = |workload| results.speed(scale, workload, Engine::KingDb, Engine::LevelDb);
        let (workload, speed) = Workload::ALL
            .into_iter()
            .filter_map(|workload| Some((workload, speed(workload)?)))
            .min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        Some(format!("{} at {} (× {})", workload.name(), scale.title(), figure(Some(speed))))
    });
    let worst: Vec<String> = worst.collect();
    text.push_str(&format!("Least favourable to KingDB beside LevelDB: {}.\n", worst.join(", ")));
    text.push_str("Processor time, bytes written, disk space: [table.md](tests/bench-store/results/table.md).\n");
    text
}
