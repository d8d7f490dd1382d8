//! What a crash could leave: the server's file operations are recorded with strace under load, through rotations, a kill -9
//! and clean ends; from them the states of the disk are built that a power cut could leave, by the rules of POSIX and not by
//! the habits of one file system; the store recovers each, and the result is compared with what the server had promised.
//!
//! Every state must be the result of the log's first so-many records, of no fewer than are safe on the disk by the rules and,
//! under `always`, than replies told of. So nothing acknowledged is lost, no key is older than another one allows, what was
//! deleted stays deleted. The controls take the rules' syncs away and must find losses.

mod common;
mod crash;

use common::server::{Plan, Server};
use common::util::{Random, counted, random_bytes, text_bytes, tier, wait_until};
use common::{Client, client::storage};
use crash::files::{Files, Ignores};
use crash::history::{Dialogues, Expected, records};
use crash::states::{Demands, Effort, Explorer, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

const CALLS: &str = "trace=openat,close,read,write,pwrite64,pwritev,fcntl,ftruncate,fallocate,fsync,fdatasync,copy_file_range,\
                     rename,renameat,renameat2,link,linkat,unlink,unlinkat,accept4,recvfrom,readv,sendto,sendmsg";

/// How the server's runs end.
#[derive(Clone, Copy)]
enum End {
    Stop,
    Kill,
}

/// Traces of a server's runs on one directory, one after the other.
struct Recording {
    traces: Vec<String>,
    root: String,
}

/// Runs a load on a server, several times on the same data.
fn record(args: &[&str], ends: &[End], commands: usize) -> Recording {
    let memory = common::disk::memory();
    let base = Plan::new(args).on(memory.path().join("data"));
    let (data, traces) = (base.data(), ends.iter().enumerate());
    let traces = traces.map(|(run, end)| {
        let path = base.root().join(format!("trace-{run}"));
        let output = path.display().to_string();
        let strace = ["strace", "-D", "-f", "--seccomp-bpf", "-xx", "-s", "100000000", "-o", &output, "-e", CALLS];
        let server = base.clone().under(&strace).start();
        let pid = server.pid();
        load(&server, run, commands);
        match end {
            End::Stop => drop(server.stop()),
            End::Kill => drop(server.kill()),
        }
        finished(&path, pid)
    });
    let traces = traces.collect();
    // What has a deadline is gone from here on, whatever the crash.
    std::thread::sleep(Duration::from_secs(2));
    Recording { traces, root: data.display().to_string() }
}

/// What strace wrote, once the traced process's end is in it.
fn finished(path: &PathBuf, pid: u32) -> String {
    let mut text = String::new();
    wait_until("strace writes the end", || {
        text = std::fs::read_to_string(path).expect("read the trace");
        text.lines().rev().take(8).any(|line| line.split_whitespace().take(2).eq([pid.to_string().as_str(), "+++"]))
    });
    text
}

/// Three connections with keys of their own, up to eight commands in flight each; all are answered at the end.
fn load(server: &Server, run: usize, commands: usize) {
    std::thread::scope(|scope| {
        for id in 0..3 {
            let mut client = server.client();
            scope.spawn(move || talk(&mut client, id, run, commands / 3));
        }
    });
}

fn talk(client: &mut Client, id: usize, run: usize, commands: usize) {
    let mut random = Random::new((10 * run + id) as u64 + 1);
    let mut flying = 0;
    for number in 0..commands {
        let seed = (run * 1_000_000 + id * 100_000 + number) as u64;
        client.send(command(&mut random, id, seed));
        flying += 1;
        while flying > [1, 3, 8][id] || (number + 1 == commands && flying > 0) {
            let reply = client.line();
            assert!(["STORED", "DELETED", "NOT_FOUND"].contains(&reply.as_str()), "{reply}");
            flying -= 1;
        }
    }
}

fn command(random: &mut Random, id: usize, seed: u64) -> Vec<u8> {
    // Some keys are written all the time, some once in a while.
    let key = format!("k{id}-{}", random.below(5) * random.below(5));
    let len = [3, 90, 2000, 9000, 30_000][random.below(5)] + random.below(50);
    match random.below(16) {
        0..3 => format!("delete {key}\r\n").into_bytes(),
        3 => storage(&format!("set {key} 0 1 {len}"), &random_bytes(seed, len)),
        4 => storage(&format!("set {key} 0 0 100000"), &random_bytes(seed, 100_000)),
        5 => storage(&format!("set {key} 0 0 150000"), &text_bytes(seed, 150_000)),
        _ => storage(&format!("set {key} 0 0 {len}"), &random_bytes(seed, len)),
    }
}

/// Builds states of a recording until there are `wanted` distinct ones.
fn explore(recording: &Recording, demands: Demands, ignores: Ignores, wanted: usize) -> Verdict {
    let (mut files, mut dialogues, mut time) = (Files::default(), Dialogues::default(), 1);
    let mut moments = BTreeSet::new();
    for text in &recording.traces {
        let (calls, next) = crash::trace::parse(text, time);
        time = next;
        files.next_process();
        for call in &calls {
            files.apply(call, &recording.root, ignores);
            dialogues.apply(call);
        }
        dialogues.end();
    }
    let records = records(&files, &dialogues);
    let expected = Expected::new(&records);
    // A crash right after a change began, right after one was safe, and right after a reply.
    let edits = files.inodes.iter().flat_map(|inode| &inode.edits).flat_map(|change| [change.begun, change.safe]);
    let names = files.names.iter().flat_map(|change| [change.begun, change.safe]);
    moments.extend(edits.chain(records.iter().map(|record| record.told)).filter(|moment| *moment < time));
    let (rare, common): (BTreeSet<usize>, BTreeSet<usize>) = (names.filter(|moment| *moment < time).collect(), moments);
    println!("{} records, {} other moments; {}", records.len(), common.len(), summary(&files));
    let all: Vec<usize> = rare.union(&common).copied().collect();
    let mut verdict = Verdict::default();
    for round in 0..20 {
        let missing = wanted.saturating_sub(verdict.distinct());
        if missing == 0 || verdict.is_hopeless() {
            break;
        }
        // Each moment with a name that changes, and as many of the others as it takes.
        let share = (missing / 4 + 1).min(all.len());
        let mut random = Random::new(round + 1);
        let chosen =
            all.iter().filter(|moment| (round == 0 && rare.contains(moment)) || random.below(all.len()) < share);
        let chosen: Vec<usize> = chosen.copied().collect();
        let halves = chosen.split_at(chosen.len() / 2);
        let found = std::thread::scope(|scope| {
            let work = |moments: &[usize], seed: u64| {
                let place = common::disk::memory();
                let place = place.path().join("state");
                let mut explorer = Explorer::new(&files, &expected, demands, &recording.root, &place, seed);
                for moment in moments {
                    let thorough = Effort { alone: 12, random: 8 };
                    let quick = Effort { alone: 0, random: 4 };
                    explorer.crash_at(*moment, if rare.contains(moment) { thorough } else { quick });
                }
                explorer.verdict
            };
            let other = scope.spawn(move || work(halves.1, round * 2));
            let one = work(halves.0, round * 2 + 1);
            [one, other.join().expect("an explorer")]
        });
        found.into_iter().for_each(|found| verdict.merge(found));
    }
    verdict
}

/// What happened to files of which kind, as far as names tell.
fn summary(files: &Files) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for change in &files.names {
        let (path, inode) = change.what.last().expect("a name");
        let kind =
            path.rsplit_once('/').map_or("", |(_, name)| name.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
        let what = match (change.what.len(), inode) {
            (2, _) => "renamed to",
            (_, Some(_)) => "made",
            (_, None) => "removed",
        };
        *counts.entry(format!("{what} {kind}")).or_default() += 1;
    }
    counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn nothing(_: &str) -> bool {
    false
}

fn is_log(path: &str) -> bool {
    path.ends_with(".log")
}

fn is_compacted(path: &str) -> bool {
    path.ends_with(".log.new")
}

fn is_directory(path: &str) -> bool {
    path.ends_with("/data")
}

fn is_extent(path: &str) -> bool {
    path.ends_with(".ext")
}

const BOTH: Demands = Demands { safe: true, told: true };
/// For controls: their rules are not the disk's.
const TOLD: Demands = Demands { safe: false, told: true };
const SAFE: Demands = Demands { safe: true, told: false };

fn no_violation(policy: &str, demands: Demands, wanted: usize) {
    let sync = format!("--db.sync={policy}");
    let args = [&sync, "--db.sync-interval=20ms", "--db.segment-size=1mb", "-t", "2"];
    let commands = tier(150, 300, 600);
    let recording = record(&args, &[End::Stop, End::Kill, End::Stop], commands);
    let verdict = explore(&recording, demands, nothing, wanted);
    assert!(
        verdict.wrong.is_empty(),
        "{policy}: {} violations: {:#?}",
        verdict.wrong.len(),
        &verdict.wrong[..verdict.wrong.len().min(5)]
    );
    counted(&format!("{policy}: distinct states"), verdict.distinct(), wanted);
    if demands.told {
        let controls: [(&str, Ignores); 4] = [
            ("log", is_log),
            ("compacted segments", is_compacted),
            ("directory", is_directory),
            ("extents", is_extent),
        ];
        for (what, ignores) in controls {
            let verdict = explore(&recording, TOLD, ignores, 60);
            println!(
                "control without syncs of the {what}: {} of {} states are wrong",
                verdict.wrong.len(),
                verdict.distinct()
            );
            assert!(
                !verdict.wrong.is_empty(),
                "without syncs of the {what} something must be lost, or this sees nothing"
            );
        }
    }
}

#[test]
fn always() {
    no_violation("always", BOTH, tier(100, 500, 3000));
}

#[test]
fn interval() {
    no_violation("interval", SAFE, tier(100, 500, 3000));
}
