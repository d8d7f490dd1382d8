//! The commands that a running server carries out: backup, dump and load, over the socket in its data directory; and the
//! same on a store that nobody has open.

use crate::common::server::{Plan, binary};
use crate::common::util::{DEADLINE, counted, fnv, random_bytes, text_bytes, tier, wait_until};
use crate::common::{Client, Server};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

fn command(words: &[&str], data: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(words).arg(format!("--db.path={}", data.display())).stdin(Stdio::null());
    command
}

fn run(words: &[&str], data: &Path) -> Output {
    command(words, data).output().expect("run kingserver")
}

/// It must succeed and have nothing to complain about; gives its standard output.
fn succeeds(words: &[&str], data: &Path) -> Vec<u8> {
    let output = run(words, data);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), complaint.as_str()), (Some(0), ""), "{words:?}");
    output.stdout
}

/// It must end with status 2 and one line, which is given.
fn fails(words: &[&str], data: &Path) -> String {
    let output = run(words, data);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), complaint.lines().count()), (Some(2), 1), "{words:?}: {complaint}");
    complaint
}

fn load(data: &Path, dump: &[u8]) -> Output {
    let mut child = command(&["load"], data);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    // One that finds an error stops reading.
    let _ = child.stdin.take().expect("a pipe").write_all(dump);
    child.wait_with_output().expect("wait for it")
}

/// A server on another directory, which is not removed at the end.
fn serve(plan: &Plan, data: &Path) -> Server {
    plan.clone().args(&[&format!("--db.path={}", data.display())]).start()
}

fn names(dir: &Path) -> Vec<String> {
    let all = fs::read_dir(dir).expect("list a directory").flatten();
    let mut names: Vec<_> = all.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// The files of a directory that have another name too, held open, each with a checksum of its bytes.
fn linked(dir: &Path) -> Vec<(fs::File, u64)> {
    let all = fs::read_dir(dir).expect("list").flatten().map(|entry| fs::File::open(entry.path()).expect("open"));
    let linked = all.filter(|file| file.metadata().expect("look at it").nlink() > 1);
    linked.map(|file| (sum(&file), file)).map(|(sum, file)| (file, sum)).collect()
}

/// A file that has two names still, the server's and the backup's, must not have changed. Who has the only name may do
/// with it what he likes, and remove it, too.
fn unchanged_while_linked(file: &fs::File, before: u64) {
    let unchanged = sum(file) == before;
    assert!(unchanged || file.metadata().expect("look at it").nlink() <= 1, "a file was changed while it was linked");
}

fn sum(mut file: &fs::File) -> u64 {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("read it");
    fnv(crate::common::util::FNV, &bytes)
}

const WRITERS: usize = 4;
/// Keys of a writer's own: its n-th write goes to number n modulo this.
const KEYS: u64 = 300;

fn value(writer: usize, count: u64) -> Vec<u8> {
    let seed = writer as u64 * 1_000_000 + count;
    match count % 50 {
        0 => text_bytes(seed, 200_000),
        _ => random_bytes(seed, 3000),
    }
}

/// Tells the writers to end, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Writes for ever; tells what was acknowledged.
fn write(mut c: Client, writer: usize, acknowledged: &AtomicU64, stop: &AtomicBool) {
    let mut count = 1;
    while !stop.load(SeqCst) {
        c.set(&format!("w{writer}-{}", count % KEYS), value(writer, count));
        c.set(&format!("n{writer}"), count.to_string());
        if count.is_multiple_of(7) {
            c.ask(&format!("delete w{writer}-{}", (count + KEYS / 2) % KEYS));
        }
        acknowledged.store(count, SeqCst);
        count += 1;
    }
}

/// What the writer's number `key` has when it has made `count` writes, with all that belongs to them.
fn expected(key: u64, count: u64) -> Option<u64> {
    let newest = (1..=count).rev().find(|n| n % KEYS == key)?;
    let removed = (newest + 1..=count).any(|n| n.is_multiple_of(7) && (n + KEYS / 2) % KEYS == key);
    (!removed).then_some(newest)
}

/// The copy has each writer's writes up to one of them, and at least those acknowledged before.
fn is_consistent(c: &mut Client, before: &[u64]) {
    for (writer, &before) in before.iter().enumerate() {
        let count =
            c.get(&format!("n{writer}")).map_or(0, |text| String::from_utf8_lossy(&text).parse().expect("a number"));
        assert!(count >= before, "writer {writer}: {count}, but {before} were acknowledged");
        for key in 0..KEYS {
            let found = c.get(&format!("w{writer}-{key}"));
            let is = |count: u64| found == expected(key, count).map(|n| value(writer, n));
            // Of the next write a part may be there: it sets its key, its number, and then deletes.
            let begun = (count + 1) % KEYS == key && found.as_deref() == Some(&value(writer, count + 1)[..]);
            let undeleted = count.is_multiple_of(7) && (count + KEYS / 2) % KEYS == key && is(count - 1);
            assert!(is(count) || begun || undeleted, "writer {writer} at {count}: key {key}");
        }
    }
}

#[test]
fn a_backup_under_load_has_what_was_acknowledged_and_a_prefix_of_the_rest() {
    let rounds = tier(3, 6, 100);
    let server = Server::start(&["--db.segment-size=1mb"]);
    let data = server.plan().data();
    let (stop, acknowledged) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; WRITERS]);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for (writer, acknowledged) in acknowledged.iter().enumerate() {
            let (c, stop) = (server.client(), &stop);
            scope.spawn(move || write(c, writer, acknowledged, stop));
        }
        let counts = || acknowledged.each_ref().map(|count| count.load(SeqCst));
        let (mut kept, mut judged) = (Vec::new(), 0);
        for round in 0..rounds {
            let goal = counts()[0] + 400;
            wait_until("the load goes on", || counts()[0] >= goal);
            let (before, target) = (counts(), server.plan().root().join(format!("backup-{round}")));
            let said = succeeds(&["backup", target.to_str().expect("UTF-8")], &data);
            assert!(String::from_utf8_lossy(&said).contains("files linked"));
            let files = linked(&target);
            let goal = counts()[0] + 400;
            wait_until("the load goes on", || counts()[0] >= goal);
            // Whether the server has removed its names of them since or not.
            assert!(files.iter().all(|(file, before)| sum(file) == *before), "a file of the backup was changed");
            judged += files.len();
            kept.push(files);
            let copy = serve(&server.plan(), &target);
            is_consistent(&mut copy.client(), &before);
            copy.stop();
            let check = Command::new(binary()).arg("check").arg(&target).output().expect("run kingserver");
            assert_eq!(check.status.code(), Some(0), "{}", String::from_utf8_lossy(&check.stdout));
        }
        kept.iter().flatten().for_each(|(file, before)| unchanged_while_linked(file, *before));
        stop.store(true, SeqCst);
        assert!(judged > rounds, "{judged} files were linked");
        counted("backups", kept.len(), rounds);
    });
    server.stop();
}

/// On another file system, and of a store that nobody has open.
#[test]
fn copies_where_links_cannot_cross() {
    let server = Server::start(&["--db.segment-size=1mb"]);
    let mut c = server.client();
    (0..500).for_each(|i| c.set(&format!("k{i}"), random_bytes(i, 5000)));
    c.set("large", text_bytes(5, 900_000));
    let data = server.plan().data();
    let other = tempfile::tempdir_in("/dev/shm").expect("a directory on another file system");
    assert_ne!(
        fs::metadata(other.path()).expect("look").dev(),
        fs::metadata(&data).expect("look").dev(),
        "no test else"
    );
    let (first, second) = (other.path().join("first"), other.path().join("second"));
    let said = succeeds(&["backup", first.to_str().expect("UTF-8")], &data);
    assert!(String::from_utf8_lossy(&said).starts_with("0 files linked, "));
    let plan = server.stop();
    succeeds(&["backup", second.to_str().expect("UTF-8")], &data);
    for target in [&first, &second] {
        let copy = serve(&plan, target);
        let mut c = copy.client();
        assert!((0..500).all(|i| c.get(&format!("k{i}")) == Some(random_bytes(i, 5000))));
        assert!(c.get("large") == Some(text_bytes(5, 900_000)));
        copy.stop();
    }
    assert_eq!(fs::metadata(&first).expect("look").permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_backup_that_cannot_be_is_refused_and_leaves_nothing() {
    let server = Server::start(&["--db.segment-size=1mb"]);
    let mut c = server.client();
    (0..800).for_each(|i| c.set(&format!("k{i}"), random_bytes(i, 5000)));
    let (data, root) = (server.plan().data(), server.plan().root().to_owned());
    let full = root.join("full");
    fs::create_dir(&full).expect("make a directory");
    fs::write(full.join("mine"), "x").expect("write");
    assert!(fails(&["backup", full.to_str().expect("UTF-8")], &data).contains("not empty"));
    assert_eq!(names(&full), ["mine"]);
    assert!(fails(&["backup", data.to_str().expect("UTF-8")], &data).contains("not empty"));
    assert!(fails(&["backup", root.join("a/b").to_str().expect("UTF-8")], &data).contains("a/b"));
    assert!(fails(&["backup"], &data).contains("where to"));
    assert!(fails(&["backup", "/tmp/x"], &root.join("nothing")).contains("no store"));
    assert!(!root.join("nothing").exists());
    fs::create_dir(root.join("empty")).expect("make a directory");
    let why = fails(&["dump"], &root.join("empty"));
    assert!(why.contains("no store") && !why.contains("such file"), "{why}");
    // A relative name is the caller's.
    let output = command(&["backup", "beside"], &data).current_dir(&root).output().expect("run kingserver");
    assert!(output.status.success() && root.join("beside/STORE").exists());
    assert_eq!(c.get("k7"), Some(random_bytes(7, 5000)));
    server.stop();
}

/// A file system with room for so many bytes; unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn new(place: PathBuf, bytes: u64) -> Small {
        fs::create_dir(&place).expect("make a mount point");
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&place).status();
        assert!(mounted.expect("run mount").success(), "mount a tmpfs: this test needs root");
        Small(place)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_at_the_target_is_told_and_harms_nobody() {
    let server = Server::start(&["--db.segment-size=1mb"]);
    let mut c = server.client();
    (0..800).for_each(|i| c.set(&format!("k{i}"), random_bytes(i, 5000)));
    let small = Small::new(server.plan().root().join("small"), 2 << 20);
    let target = small.0.join("backup");
    let why = fails(&["backup", target.to_str().expect("UTF-8")], &server.plan().data());
    assert!(why.contains("No space left") && why.contains("small/backup"), "{why}");
    assert!(!target.exists(), "what was made is removed");
    c.set("more", "is stored");
    assert!((0..800).all(|i| c.get(&format!("k{i}")) == Some(random_bytes(i, 5000))));
    server.stop();
}

#[test]
fn a_client_that_goes_away_ends_its_backup() {
    let server = Server::start(&["--db.segment-size=1mb"]);
    let mut c = server.client();
    (0..400).for_each(|i| c.set(&format!("k{i}"), random_bytes(i, 5000)));
    let target = server.plan().root().join("backup");
    let mut socket = UnixStream::connect(server.plan().data().join("ADMIN")).expect("reach the server");
    writeln!(socket, "backup {}", target.display()).expect("ask");
    drop(socket);
    wait_until("the backup ended", || server.messages().contains("backup to ") && !target.exists());
    assert!(server.messages().contains("stopped"), "{}", server.messages());
    succeeds(&["backup", target.to_str().expect("UTF-8")], &server.plan().data());
    server.stop();
}

#[test]
fn a_dump_loads_into_another_store_running_or_not() {
    let server = Server::start(&[]);
    let mut c = server.client();
    for i in 0..300_u32 {
        assert_eq!(c.store("set", &format!("k{i}"), i, 0, random_bytes(i.into(), i as usize * 10)), "STORED");
    }
    assert_eq!(c.store("set", "soon", 1, 3600, "with an expiry"), "STORED");
    c.set("large", text_bytes(3, 1_000_000));
    let running = succeeds(&["dump"], &server.plan().data());
    let plan = server.stop();
    let stopped = succeeds(&["dump"], &plan.data());
    assert!(running == stopped, "the store is the same, and so is its text");
    assert!(running.starts_with(b"kingdb-dump 1\n"));
    let other = Server::start(&[]);
    let fresh = other.plan().root().join("fresh");
    let words = |output: &Output| (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(words(&load(&other.plan().data(), &running)), (Some(0), String::new()));
    assert_eq!(words(&load(&fresh, &running)), (Some(0), String::new()));
    for server in [serve(&plan, &fresh), other] {
        let mut c = server.client();
        for i in 0..300_u32 {
            let item = c.gets(&format!("k{i}")).expect("a value");
            assert!(item.flags == i && item.value == random_bytes(i.into(), i as usize * 10), "k{i}");
        }
        assert!(c.get("large") == Some(text_bytes(3, 1_000_000)));
        assert_eq!(c.get("soon").as_deref(), Some(&b"with an expiry"[..]));
        server.stop();
    }
}

#[test]
fn compact_gives_space_back_running_or_not() {
    let server = Server::start(&["--db.segment-size=1mb"]);
    let mut c = server.client();
    let data = server.plan().data();
    for round in 0..3 {
        (0..400).for_each(|i| c.set(&format!("k{i}"), random_bytes(i + 1000 * round, 5000)));
    }
    let said = String::from_utf8(succeeds(&["compact"], &data)).expect("text");
    let log = || -> u64 {
        let files = fs::read_dir(&data)
            .expect("list")
            .flatten()
            .filter(|entry| entry.path().extension() == Some("log".as_ref()));
        files.map(|entry| entry.metadata().expect("look").len()).sum()
    };
    assert!(said.contains(" bytes freed, ") && log() < 5 << 20, "{said}: {}", log());
    (0..400).for_each(|i| c.set(&format!("k{i}"), random_bytes(i, 5000)));
    c.ask("delete k7");
    let plan = server.stop();
    succeeds(&["compact"], &data);
    assert!(log() < 5 << 20, "{}", log());
    let server = plan.start();
    let mut c = server.client();
    assert!((0..400).all(|i| c.get(&format!("k{i}")) == (i != 7).then(|| random_bytes(i, 5000))));
    server.stop();
}

#[test]
fn a_dump_that_is_cut_or_spoiled_is_refused_with_its_place() {
    let server = Server::start(&[]);
    let mut c = server.client();
    (0..200).for_each(|i| c.set(&format!("k{i}"), random_bytes(i, 2000)));
    let dump = succeeds(&["dump"], &server.plan().data());
    for bad in [&dump[..dump.len() - 1], &dump[..dump.len() / 2], b"something else\n", b""] {
        let output = load(&server.plan().data(), bad);
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && why.lines().count() == 1 && why.contains("line"), "{why}");
    }
    // A store is made for a dump alone.
    let other = server.plan().root().join("other");
    for bad in [&b"something else\n"[..], b"kingdb-dump 2\n", b""] {
        let output = load(&other, bad);
        assert!(String::from_utf8_lossy(&output.stderr).contains("first line"));
        assert!(output.status.code() == Some(2) && !other.exists());
    }
    let mut long = b"kingdb-dump 1\nnonsense\n".to_vec();
    long.extend(random_bytes(1, 3_000_000));
    assert_eq!(load(&server.plan().data(), &long).status.code(), Some(2), "and it does not hang");
    assert_eq!(c.get("k5"), Some(random_bytes(5, 2000)));
    // A reader that goes away ends the dump.
    let mut child = command(&["dump"], &server.plan().data());
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start a dump");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("wait").code(), Some(2));
    server.stop();
}

#[test]
fn a_long_path_is_no_obstacle() {
    let plan = Plan::new(&[]);
    let data = plan.root().join("a".repeat(60)).join("b".repeat(60)).join("data");
    let server = serve(&plan, &data);
    assert!(data.join("ADMIN").as_os_str().len() > 107);
    server.client().set("key", "value");
    let dump = succeeds(&["dump"], &data);
    assert!(dump.windows(5).any(|window| window == b"value"));
    assert!(data.join("ADMIN").exists());
    server.stop();
    assert!(!data.join("ADMIN").exists(), "the socket goes with the server");
}

#[test]
fn commands_run_side_by_side_and_the_fifth_is_told_to_wait() {
    let server = Server::start(&["--db.segment-size=1mb"]);
    let mut c = server.client();
    (0..300).for_each(|i| c.set(&format!("k{i}"), random_bytes(i, 5000)));
    let (data, root) = (server.plan().data(), server.plan().root().to_owned());
    let dumps: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let backup = scope.spawn(|| succeeds(&["backup", root.join("one").to_str().expect("UTF-8")], &data));
        let dumps = [(); 2].map(|()| scope.spawn(|| succeeds(&["dump"], &data)));
        backup.join().expect("a backup");
        dumps.into_iter().map(|dump| dump.join().expect("a dump")).collect()
    });
    assert!(dumps[0].len() == dumps[1].len() && dumps[0].len() > 300 * 5000, "the order may differ");
    let mut idle = Vec::new();
    // The server may still be busy taking leave of those before, and turn one of the four away.
    wait_until("four have all the room", || {
        idle.clear();
        std::thread::sleep(Duration::from_millis(50));
        idle.extend((0..4).map(|_| UnixStream::connect(data.join("ADMIN")).expect("reach the server")));
        !run(&["dump"], &data).status.success()
    });
    assert!(fails(&["dump"], &data).contains("busy"));
    drop(idle);
    wait_until("there is room again", || run(&["dump"], &data).status.success());
    server.stop();
}

#[test]
fn a_signal_ends_commands_at_once_and_a_stale_socket_is_replaced() {
    let server = Server::start(&[]);
    let data = server.plan().data();
    server.client().set("key", "value");
    let mode = fs::metadata(data.join("ADMIN")).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut socket = UnixStream::connect(data.join("ADMIN")).expect("reach the server");
    writeln!(socket, "load").expect("ask");
    write!(socket, "data 14\nkingdb-dump 1\n").expect("begin");
    let idle = UnixStream::connect(data.join("ADMIN")).expect("reach the server");
    let began = Instant::now();
    let plan = server.stop();
    assert!(began.elapsed() < DEADLINE / 3, "stopping took {:?}", began.elapsed());
    let mut said = String::new();
    let _ = BufReader::new(socket).read_line(&mut said);
    assert!(said.is_empty() || said.starts_with("error "), "{said}");
    drop(idle);
    assert!(!data.join("ADMIN").exists());
    let server = plan.start();
    server.kill();
    assert!(data.join("ADMIN").exists(), "nobody was there to remove it");
    succeeds(&["dump"], &data);
    let server = plan.start();
    succeeds(&["dump"], &data);
    assert_eq!(server.client().get("key").as_deref(), Some(&b"value"[..]));
    server.stop();
}

/// Nonsense on the socket is answered, and the server goes on.
#[test]
fn nonsense_is_turned_away() {
    let server = Server::start(&[]);
    let data = server.plan().data();
    for bad in [&b"nonsense\n"[..], b"\n", b"data 70000\n", b"ok\n", b"backup\n", &[b'x'; 30_000], b"\xff\n"] {
        let mut socket = UnixStream::connect(data.join("ADMIN")).expect("reach the server");
        let _ = socket.write_all(bad);
        let mut said = Vec::new();
        let _ = socket.read_to_end(&mut said);
        assert!(said.is_empty() || said.starts_with(b"error "), "{}", said.escape_ascii());
    }
    succeeds(&["dump"], &data);
    server.stop();
}

/// What root may do, another user's server may not: it is told whose server that is.
#[test]
fn a_target_out_of_the_server_s_reach_names_the_server() {
    let directory = tempfile::tempdir_in("/tmp").expect("make a directory");
    if fs::metadata(directory.path()).expect("look").uid() != 0 {
        println!("not root: nobody else to be");
        return;
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("let others in");
    let data = directory.path().join("data");
    let server = Plan::new(&["-u", "nobody"]).on(data.clone()).start();
    let why = fails(&["backup", directory.path().join("backup").to_str().expect("UTF-8")], &data);
    assert!(why.contains("Permission denied"), "{why}");
    assert!(why.contains(&format!("the server that has {} open runs as user 65534", data.display())), "{why}");
    let full = fs::File::options().write(true).open("/dev/full").expect("open the device");
    let output = command(&["dump"], &data).stdout(full).output().expect("run kingserver");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(why.contains("cannot write to the standard output") && !why.contains("runs as user"), "{why}");
    server.stop();
}

/// In a directory that is another user's, root makes no store that he could not open.
#[test]
fn root_makes_no_store_for_another() {
    let directory = tempfile::tempdir().expect("make a directory");
    if chown(directory.path(), Some(65534), None).is_err() {
        println!("not root: nobody else to be");
        return;
    }
    let dump = directory.path().join("dump");
    fs::write(&dump, "kingdb-dump 1\n").expect("write a dump");
    let mut load = command(&["load"], directory.path());
    let output = load.stdin(fs::File::open(&dump).expect("open it")).output().expect("run kingserver");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && why.contains("belongs to user 65534"), "{why}");
    assert!(!directory.path().join("STORE").exists());
}

/// Even where the socket's permission bits would let others in, only its own user and root are served.
#[test]
fn other_users_are_refused() {
    let server = Server::start(&[]);
    let (data, root) = (server.plan().data(), server.plan().root().to_owned());
    if fs::metadata(&root).expect("look").uid() != 0 {
        println!("not root: nobody else to be");
        return;
    }
    for (path, mode) in [(&root, 0o755), (&data, 0o755), (&data.join("ADMIN"), 0o777)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("open it to everybody");
    }
    let program = root.join("kingserver");
    fs::copy(binary(), &program).expect("copy the binary to where others may run it");
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).arg("dump");
    let output = nobody.arg(format!("--db.path={}", data.display())).output().expect("run setpriv");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && why.contains("only the server's user and root"), "{why}");
    assert!(output.stdout.is_empty());
    server.stop();
}
