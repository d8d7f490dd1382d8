//! What a crash could leave: the server's file operations are recorded with strace under load, through rotations,
//! compaction, a backup, a kill -9 and clean ends; from them the states of the disk are built that a power cut could leave, by the rules of POSIX and not by
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
use crash::files::{Edit, Files, Ignores};
use crash::history::{Demands, Dialogues, Expected, Record, records};
use crash::states::{Effort, Explorer, Verdict};
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
    /// What files each run left, by their paths.
    left: Vec<BTreeMap<String, Vec<u8>>>,
    /// The directory with the data directory and its backup.
    root: String,
}

/// Runs a load on a server, several times on the same data, with compaction and a backup in between.
fn record(args: &[&str], ends: &[End], commands: usize) -> Recording {
    let memory = common::disk::memory();
    let base = Plan::new(args).on(memory.path().join("data"));
    let backup = memory.path().join("backup").display().to_string();
    let (mut traces, mut left) = (Vec::new(), Vec::new());
    for (run, end) in ends.iter().enumerate() {
        let path = base.root().join(format!("trace-{run}"));
        let output = path.display().to_string();
        let strace = ["strace", "-D", "-f", "--seccomp-bpf", "-xx", "-s", "100000000", "-o", &output, "-e", CALLS];
        let server = base.clone().under(&strace).start();
        let pid = server.pid();
        for phase in 0..3 {
            load(&server, 10 * run + phase, commands / 3);
            match (phase, run) {
                (0, _) => assert!(server.command(&["compact"]), "compact"),
                (1, 1) => assert!(server.command(&["backup", &backup]), "back up"),
                _ => {}
            }
        }
        match end {
            End::Stop => drop(server.stop()),
            End::Kill => drop(server.kill()),
        }
        traces.push(finished(&path, pid));
        left.push([base.data(), backup.clone().into()].iter().flat_map(files_in).collect());
    }
    // What has a deadline is gone from here on, whatever the crash.
    std::thread::sleep(Duration::from_secs(2));
    Recording { traces, left, root: memory.path().display().to_string() }
}

fn files_in(dir: &PathBuf) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let regular = files.filter(|path| path.is_file());
    regular.map(|path| (path.display().to_string(), std::fs::read(&path).expect("read a file"))).collect()
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
            assert!(["STORED", "NOT_STORED", "DELETED", "NOT_FOUND"].contains(&reply.as_str()), "{reply}");
            flying -= 1;
        }
    }
}

fn command(random: &mut Random, id: usize, seed: u64) -> Vec<u8> {
    // Some keys are written all the time, some once in a while.
    let key = format!("k{id}-{}", random.below(5) * random.below(5));
    let len = [3, 90, 2000, 9000, 30_000][random.below(5)] + random.below(50);
    match random.below(19) {
        0..3 => format!("delete {key}\r\n").into_bytes(),
        3 => storage(&format!("set {key} 0 1 {len}"), &random_bytes(seed, len)),
        4 => storage(&format!("set {key} 0 0 100000"), &random_bytes(seed, 100_000)),
        5 => storage(&format!("set {key} 0 0 150000"), &text_bytes(seed, 150_000)),
        6 => storage(&format!("append {key} 0 0 {len}"), &random_bytes(seed, len)),
        7 => storage(&format!("prepend {key} 0 0 70000"), &random_bytes(seed, 70_000)),
        // In two parts, now and then in so many that they are joined.
        8 => {
            let (count, len) = [(2, 50_000), (2, 50_000), (2, 50_000), (66, 1500)][random.below(4)];
            let part = |number| {
                let value = random_bytes(seed + number, len);
                storage(&format!("part {key} {number} {len} noreply"), &value)
            };
            let commit = format!("commit {key} {key} 0 0 {count}\r\n").into_bytes();
            (1..=count).flat_map(part).chain(commit).collect()
        }
        _ => storage(&format!("set {key} 0 0 {len}"), &random_bytes(seed, len)),
    }
}

/// What recordings say.
struct Known {
    files: Files,
    records: Vec<Record>,
    /// When the backup was asked for, and when it was said to be done.
    backup: (usize, usize),
    /// Moments at which names change or are safe; a change of a file begins or is safe; a reply leaves.
    rare: BTreeSet<usize>,
    common: BTreeSet<usize>,
}

impl Known {
    fn new(recording: &Recording, ignores: Ignores) -> Known {
        let (mut files, mut dialogues, mut time) = (Files::default(), Dialogues::default(), 1);
        for (text, left) in recording.traces.iter().zip(&recording.left) {
            let (calls, next) = crash::trace::parse(text, time);
            time = next;
            for call in &calls {
                files.apply(call, &recording.root, ignores);
                dialogues.apply(call);
            }
            files.end_process(time, left);
            dialogues.end();
        }
        let records = records(&files, &dialogues, &format!("{}/data", recording.root));
        let edits = files.inodes.iter().flat_map(|inode| &inode.edits).flat_map(|change| [change.begun, change.safe]);
        let names = files.names.iter().flat_map(|change| [change.begun, change.safe]);
        let rare = names.filter(|moment| *moment < time).collect();
        let told = records.iter().map(|record| record.told);
        let common: BTreeSet<usize> = edits.chain(told).filter(|moment| *moment < time).collect();
        println!("{} records, {} other moments; {}", records.len(), common.len(), summary(&files));
        Known { backup: dialogues.backup().expect("a backup"), files, records, rare, common }
    }

    /// Builds states of the data directory until there are `wanted` distinct ones.
    fn explore(&self, recording: &Recording, demands: Demands, wanted: usize) -> Verdict {
        let all: Vec<usize> = self.rare.union(&self.common).copied().collect();
        let mut verdict = Verdict::default();
        for round in 0..20 {
            let missing = wanted.saturating_sub(verdict.distinct());
            if missing == 0 || verdict.is_hopeless() {
                break;
            }
            // Each moment with a name that changes, and as many of the others as it takes.
            let share = (missing / 4 + 1).min(all.len());
            let mut random = Random::new(round + 1);
            let choose =
                |moment: &&usize| (round == 0 && self.rare.contains(moment)) || random.below(all.len()) < share;
            let chosen: Vec<usize> = all.iter().filter(choose).copied().collect();
            let (first, second) = chosen.split_at(chosen.len() / 2);
            let root = format!("{}/data", recording.root);
            let look = |moments: &[usize], seed: u64| self.look(&root, demands, moments, seed);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| look(second, round * 2));
                verdict.merge(look(first, round * 2 + 1));
                verdict.merge(other.join().expect("an explorer"));
            });
        }
        verdict
    }

    /// Crashes at each of these moments.
    fn look(&self, root: &str, demands: Demands, moments: &[usize], seed: u64) -> Verdict {
        let expected = Expected::new(&self.records);
        let memory = common::disk::memory();
        let place = memory.path().join("state");
        let mut explorer = Explorer::new(&self.files, &expected, demands, root, &place, seed);
        let (thorough, quick) = (Effort { alone: 12, random: 8 }, Effort { alone: 0, random: 4 });
        for moment in moments {
            explorer.crash_at(*moment, if self.rare.contains(moment) { thorough } else { quick });
        }
        explorer.verdict
    }

    /// States of the backup, from when it was said to be done: it is whole, and nothing that goes on beside it changes it.
    fn explore_backup(&self, recording: &Recording) -> Verdict {
        let (asked, done) = self.backup;
        let moments: Vec<usize> = self.rare.range(done..).copied().collect();
        self.look(&format!("{}/backup", recording.root), Demands::ToldBy(asked), &moments, 1)
    }
}

/// What happened to files of which kind, as far as names tell.
fn summary(files: &Files) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for change in &files.names {
        let (path, inode) = change.what.last().expect("a name");
        let kind = path
            .rsplit_once('/')
            .map_or("", |(_, name)| name.rfind('.').map_or(name, |_| &name[name.find('.').expect("a dot")..]));
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

fn is_backup(path: &str) -> bool {
    path.contains("/backup")
}

fn is_extent(path: &str) -> bool {
    path.ends_with(".ext")
}

fn no_violation(policy: &str, demands: Demands, wanted: usize) {
    let sync = format!("--db.sync={policy}");
    let args = [&sync, "--db.sync-interval=20ms", "--db.segment-size=1mb", "-t", "2"];
    let commands = tier(100, 150, 600);
    let recording = record(&args, &[End::Stop, End::Kill, End::Stop], commands);
    let known = Known::new(&recording, nothing);
    sound(&format!("{policy}: distinct states"), &known.explore(&recording, demands, wanted), wanted);
    sound(&format!("{policy}: distinct states of a backup"), &known.explore_backup(&recording), 1);
    if matches!(demands, Demands::Both) {
        controls(&recording);
    }
}

fn sound(what: &str, verdict: &Verdict, wanted: usize) {
    let wrong = &verdict.wrong;
    assert!(wrong.is_empty(), "{what}: {} violations: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    counted(what, verdict.distinct(), wanted);
}

/// Without some of the syncs something must be lost.
fn controls(recording: &Recording) {
    let controls: [(&str, Ignores); 4] =
        [("log", is_log), ("compacted segments", is_compacted), ("directory", is_directory), ("extents", is_extent)];
    for (what, ignores) in controls {
        must_lose(what, &Known::new(recording, ignores).explore(recording, Demands::Told, 60));
    }
    must_lose("backup", &Known::new(recording, is_backup).explore_backup(recording));
}

fn must_lose(what: &str, verdict: &Verdict) {
    println!(
        "control without syncs of the {what}: {} violations in {} states",
        verdict.wrong.len(),
        verdict.distinct()
    );
    assert!(!verdict.wrong.is_empty(), "without syncs of the {what} something must be lost, or this sees nothing");
}

#[test]
fn always() {
    no_violation("always", Demands::Both, tier(100, 300, 3000));
}

#[test]
fn interval() {
    no_violation("interval", Demands::Safe, tier(100, 300, 3000));
}

/// A kill cuts calls short: what they did, the files tell, and that a reply left, the client.
#[test]
fn calls_that_a_kill_cut_short() {
    let quote = |text: &str| format!("\"{}\"", text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>());
    let (gone, kept, dir) = (quote("/r/data/1.log"), quote("/r/data/2.log"), quote("/r/data"));
    let killed = [
        format!("1 openat(AT_FDCWD, {gone}, O_RDWR|O_CREAT, 0600) = 3"),
        format!("1 openat(AT_FDCWD, {kept}, O_RDWR|O_CREAT, 0600) = 4"),
        "1 accept4(9, NULL, NULL, SOCK_NONBLOCK) = 5".to_string(),
        format!("1 recvfrom(5, {}, 99, 0, NULL, NULL) = 10", quote("backup x\r\n")),
        format!("2 pwrite64(4, {}, 6, 0 <unfinished ...>", quote("abcdef")),
        format!("3 unlink({gone} <unfinished ...>"),
        format!("4 unlink({kept} <unfinished ...>"),
        format!("1 sendto(5, {}, 6, 0, NULL, 0 <unfinished ...>", quote("ok 0\r\n")),
        "6 recvfrom(5, 0x7ffe2a3b4c5d, 65536, 0, NULL, NULL) = ?".to_string(),
    ];
    let next = [
        format!("5 openat(AT_FDCWD, {dir}, O_RDONLY) = 3"),
        format!("5 openat(AT_FDCWD, {kept}, O_RDWR) = 4"),
        "5 fsync(3) = 0".to_string(),
        "5 fsync(4) = 0".to_string(),
    ];
    let left = BTreeMap::from([("/r/data/2.log".to_string(), b"abc".to_vec())]);
    let (mut files, mut dialogues, mut time) = (Files::default(), Dialogues::default(), 1);
    for text in [killed.join("\n"), next.join("\n")] {
        let (calls, next) = crash::trace::parse(&text, time);
        time = next;
        for call in &calls {
            files.apply(call, "/r", nothing);
            dialogues.apply(call);
        }
        files.end_process(time, &left);
    }
    let names: Vec<_> = files.names.iter().map(|change| (&change.what[0].0[8..], change.what[0].1)).collect();
    assert_eq!(names, [("1.log", Some(0)), ("2.log", Some(1)), ("1.log", None)]);
    assert!(files.names.iter().all(|change| change.safe < time), "the next process made it safe");
    let edits = &files.inodes[1].edits;
    assert!(
        matches!(&edits[..], [change] if change.safe < time && matches!(&change.what, Edit::Write(0, bytes) if bytes == b"abc"))
    );
    assert!(dialogues.backup().is_some(), "the reply counts");
}
