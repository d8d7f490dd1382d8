//! Each system call that touches the disk fails, at its Nth call, once at a time: during the start, under load, in
//! a backup, in compaction and at the end.
//! Whatever the server makes of it, it neither panics nor hangs, what it says is clear, what it answers is right, and
//! everything that it acknowledged is there after a start without failures.

use crate::common::Client;
use crate::common::client::storage;
use crate::common::history::History;
use crate::common::server::{Plan, Server};
use crate::common::util::{Random, counted, random_bytes, tier};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;
use tempfile::TempDir;

/// The calls, and what they may fail with: errors, or `retval=0` for a transfer of no byte at all. (A read of a file yields none
/// only at its end, so only `preadv2` does here, which is asked again. `write` and `close` are as much the sockets' as the disk's.)
const FAILURES: [(&str, &[&str]); 19] = [
    ("pwrite64", &["error=EIO", "error=ENOSPC", "error=EINTR", "retval=0"]),
    ("fdatasync", &["error=EIO", "error=ENOSPC", "error=EINTR"]),
    ("fsync", &["error=EIO", "error=ENOSPC", "error=EINTR"]),
    ("openat", &["error=EIO", "error=ENOSPC", "error=EINTR", "error=EMFILE"]),
    ("fallocate", &["error=EIO", "error=ENOSPC", "error=EINTR", "error=EOPNOTSUPP"]),
    ("ftruncate", &["error=EIO", "error=EINTR"]),
    ("rename,renameat,renameat2", &["error=EIO", "error=ENOSPC"]),
    ("unlink,unlinkat", &["error=EIO", "error=ENOSPC"]),
    ("link,linkat", &["error=EIO", "error=EMLINK", "error=EXDEV"]),
    ("preadv2", &["error=EIO", "error=EINTR", "error=EOPNOTSUPP", "retval=0"]),
    ("pread64", &["error=EIO", "error=EINTR"]),
    ("read", &["error=EIO", "error=EINTR"]),
    ("getdents64", &["error=EIO"]),
    ("statfs,fstatfs", &["error=EIO", "error=EINTR"]),
    ("statx,newfstatat,fstat", &["error=EIO"]),
    ("flock", &["error=EIO", "error=EINTR"]),
    ("sync_file_range", &["error=EIO", "error=ENOSPC"]),
    ("mkdir", &["error=EIO", "error=ENOSPC"]),
    ("lseek", &["error=EIO"]),
];

/// One run with one failure.
#[derive(Clone, Copy, Debug)]
struct Case {
    call: &'static str,
    failure: &'static str,
    nth: usize,
    seed: u64,
}

/// All cases of these call numbers, each so many times, with different policies, loads and ends.
fn cases(numbers: &[usize], times: u64) -> Vec<Case> {
    let failures = FAILURES.iter().flat_map(|(call, failures)| failures.iter().map(move |failure| (*call, *failure)));
    let cases = numbers.iter().flat_map(|&nth| failures.clone().map(move |(call, failure)| (call, failure, nth)));
    let cases = cases.enumerate().map(|(seed, (call, failure, nth))| Case { call, failure, nth, seed: seed as u64 });
    cases.flat_map(|case| (0..times).map(move |time| Case { seed: case.seed + time, ..case })).collect()
}

/// A store that a killed server left, for the cases to start on.
struct Template {
    plan: Plan,
    /// Holds the data: a sync is quick there.
    _memory: TempDir,
    history: History,
}

impl Template {
    fn new() -> Template {
        let memory = crate::common::disk::memory();
        let server = Plan::new(&["--db.segment-size=1mb"]).on(memory.path().join("data")).start();
        let mut history = History::default();
        load(&server, &mut history, 1, 40);
        Template { plan: server.kill(), _memory: memory, history }
    }
}

/// Sends commands, one at a time, and reads some of the keys; errors may come. Gives what was wrong.
fn load(server: &Server, history: &mut History, seed: u64, count: usize) -> Vec<String> {
    let (mut random, mut wrong) = (Random::new(seed), Vec::new());
    let mut client = Client::try_connect(server.address());
    for number in 0..count {
        let key = format!("k{}", random.below(30));
        let Ok(connection) = &mut client else { break };
        let value = random_bytes(seed << 20 | number as u64, [10, 3000, 40_000, 60_000, 100_000][random.below(5)]);
        let done = match random.below(8) {
            0 => change(connection, history, &key, None),
            1 | 2 => look(connection, history, &key, &mut wrong),
            _ => change(connection, history, &key, Some(value)),
        };
        if done.is_err() {
            client = Client::try_connect(server.address());
        }
    }
    wrong
}

/// Sets or deletes a key.
fn change(client: &mut Client, history: &mut History, key: &str, value: Option<Vec<u8>>) -> std::io::Result<()> {
    let command = match &value {
        Some(value) => storage(&format!("set {key} 0 0 {}", value.len()), value),
        None => format!("delete {key}\r\n").into_bytes(),
    };
    history.attempt(key, value);
    match client.try_send(command).and_then(|()| client.try_line()) {
        Ok(reply) if ["STORED", "DELETED", "NOT_FOUND"].contains(&reply.as_str()) => history.acknowledge(key),
        Ok(reply) => {
            assert!(reply.starts_with("SERVER_ERROR "), "{key}: {reply}");
            history.refuse(key);
        }
        Err(error) => {
            assert!(!timed_out(&error), "the server hangs: {key}");
            history.refuse(key);
            return Err(error);
        }
    }
    Ok(())
}

fn look(client: &mut Client, history: &mut History, key: &str, wrong: &mut Vec<String>) -> std::io::Result<()> {
    client.try_send(format!("get {key}\r\n"))?;
    match client.try_items() {
        Ok(mut items) => {
            let found = items.pop().map(|(_, item)| item.value);
            wrong.extend(history.judge(key, found.as_ref(), Instant::now()));
            Ok(())
        }
        // An error instead of the value: it says so.
        Err(error) if error.to_string().contains("SERVER_ERROR") => Ok(()),
        Err(error) => {
            assert!(!timed_out(&error), "the server hangs: get {key}");
            Err(error)
        }
    }
}

fn timed_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// Runs a case. `false`: the call never came that often.
fn run(case: Case, template: &Template) -> Result<bool, String> {
    let sync = if case.seed.is_multiple_of(2) { "--db.sync=always" } else { "--db.sync=interval" };
    let plan = Plan::new(&[sync, "--db.sync-interval=5ms", "--db.segment-size=1mb", "-m", "0", "-t", "1"]);
    let memory = crate::common::disk::memory();
    let plan = plan.on(memory.path().join("data"));
    copy(&template.plan.data(), &plan.data());
    let mut history = template.history.clone();
    let trace = plan.root().join("trace").display().to_string();
    let (calls, inject) =
        (format!("trace={}", case.call), format!("inject={}:{}:when={}", case.call, case.failure, case.nth));
    let strace = ["strace", "-D", "-f", "--seccomp-bpf", "-o", &trace, "-e", &calls, "-e", &inject];
    let (mut wrong, mut said, mut backed_up) = (Vec::new(), String::new(), None);
    let backup = memory.path().join("backup");
    match plan.clone().under(&strace).try_start() {
        Err((status, messages)) => {
            if status.code() != Some(1) || messages.lines().all(|line| line.contains(" info: ")) {
                return Err(format!("ended at the start with {status}: {messages}"));
            }
            said = messages;
        }
        Ok(server) => {
            wrong.extend(load(&server, &mut history, case.seed + 10, 60));
            backed_up = server.command(&["backup", &backup.display().to_string()]).then(|| history.clone());
            server.command(&["compact"]);
            wrong.extend(load(&server, &mut history, case.seed + 20, 20));
            if case.seed.is_multiple_of(3) {
                server.kill();
            } else {
                let (status, messages) = server.end();
                if status.code().is_none_or(|code| code > 1) {
                    return Err(format!("ended with {status}: {messages}"));
                }
                said = messages;
            }
        }
    }
    if said.contains("panicked") {
        return Err(format!("it panicked: {said}"));
    }
    let hit = std::fs::read_to_string(trace).unwrap_or_default().contains("(INJECTED)");
    let server = plan.try_start().map_err(|(status, messages)| {
        format!("does not start without failures, either: {status}: {messages}; before: {said}")
    })?;
    wrong.extend(history.check(&mut server.client(), Instant::now()));
    server.stop();
    if let Some(mut history) = backed_up {
        let server = plan.on(backup).try_start().map_err(|(_, messages)| format!("the backup is none: {messages}"))?;
        wrong.extend(history.check(&mut server.client(), Instant::now()));
    }
    match wrong.is_empty() {
        true => Ok(hit),
        false => Err(format!("{wrong:?}; it had said: {said}")),
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("make the data directory");
    for entry in std::fs::read_dir(from).expect("read the template").flatten() {
        if entry.file_type().expect("its type").is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copy a file");
        }
    }
}

#[test]
fn every_call_fails_at_its_nth_time() {
    let few: Vec<usize> = (1..=tier(1, 4, 16)).collect();
    let many = tier(vec![7], vec![7, 14, 25, 50], vec![18, 20, 22, 25, 30, 35, 40, 45, 50, 60, 70, 80, 100, 120]);
    let template = Template::new();
    let (cases, next, hits, wrong) =
        (cases(&[few, many].concat(), tier(1, 1, 3)), AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, SeqCst)) {
                    match std::panic::catch_unwind(|| run(*case, &template)) {
                        Ok(Ok(hit)) => drop(hits.fetch_add(usize::from(hit), SeqCst)),
                        Ok(Err(why)) => wrong.lock().expect("no holder panics").push(format!("{case:?}: {why}")),
                        Err(_) => wrong.lock().expect("no holder panics").push(format!("{case:?}: see above")),
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no holder panicked");
    assert!(wrong.is_empty(), "{} of {} runs: {wrong:#?}", wrong.len(), cases.len());
    println!("errno sweep: {} runs", cases.len());
    counted("errno sweep: failures injected", hits.into_inner(), tier(40, 150, 600));
}
