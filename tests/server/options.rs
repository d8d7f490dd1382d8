//! The command line: what `--help` and the man page say is the same, and what the start says is what it does.

use crate::common::server::{Plan, binary};
use crate::common::util::{proc_status, wait_until};
use crate::common::{Client, Server};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(args: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("make a directory");
    let mut command = Command::new(binary());
    command.args(args).current_dir(directory.path());
    command.output().expect("run kingserver")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Whether root runs the tests: what -u and limits do depends on it.
fn root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("run id");
    text(&output.stdout).trim() == "0"
}

/// The lines `  -p, --server.port, --port PORT`.
fn options_of_help(help: &str) -> BTreeSet<String> {
    let lines = help.lines().filter(|line| line.starts_with("  -"));
    let words = lines.flat_map(|line| line.split_whitespace());
    let options = words.filter(|word| word.starts_with('-'));
    options.map(|word| word.trim_end_matches(',').to_string()).collect()
}

/// The lines `.It Fl p , Fl -server.port , Fl -port Ar port`.
fn options_of_page(page: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with(".It Fl ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2).filter(|pair| pair[0] == "Fl") {
            found.insert(format!("-{}", pair[1]));
        }
    }
    found
}

#[test]
fn help_and_man_page_know_the_same_options() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/kingserver.8"));
    let page = options_of_page(&page.expect("read the man page"));
    let help = options_of_help(&text(&output.stdout));
    assert!(help.len() > 50 && help.contains("--db.path") && help.contains("-p"), "{help:?}");
    let missing: Vec<_> = help.symmetric_difference(&page).collect();
    assert!(missing.is_empty(), "only one of --help and kingserver.8 has {missing:?}");
}

#[test]
fn version() {
    for option in ["--version", "-V"] {
        let output = run(&[option]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stdout), concat!("kingserver ", env!("CARGO_PKG_VERSION"), "\n"));
    }
}

#[test]
fn a_wrong_command_line_is_one_line_and_status_2() {
    for (args, part) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["-p"], "-p needs a value"),
        (&["-p", "65536"], "'65536' is not a number from 0 to 65535"),
        (&["-l", "no.such.host"], "'no.such.host' is not an address"),
        (&["-I", "5"], "'5' is not between 1k and"),
        (&["-S"], "-S wants the users' file"),
        (&["stray"], "'stray' is not a command"),
        (&["chekc"], "did you mean check?"),
        (&["check", "--repiar"], "there is no option --repiar"),
        (&["check", "-Z"], "there is no option -Z"),
        (&["help", "check", "extra"], "'extra' is one word too many"),
        (&["-v", "stray"], "'stray' is not an option; options start with"),
        (&["-p", "0", "dump"], "'dump' is not an option; a command comes first"),
        (&["--db-path=x"], "there is no option --db-path; did you mean --db.path?"),
        (&["-m", "x"], "'x' is not a size: give MiB"),
        (&["-l", "127.0.0.1", "-l", "0.0.0.0"], "-l 0.0.0.0 and -l 127.0.0.1 overlap"),
        (&["--config", "missing.conf"], "cannot read the configuration file missing.conf"),
    ] {
        let output = run(args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        assert!(message.starts_with("kingserver: ") && message.contains(part), "{args:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert_eq!(message.matches("--help").count(), 1, "{message}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn a_configuration_file_is_obeyed_and_the_command_line_more() {
    let plan = Plan::new(&[]);
    let config = plan.root().join("kingserver.conf");
    fs::write(&config, "# small values\nserver.max-value-size = 1k\nserver.num-threads 3\n").expect("write");
    let config = config.to_str().expect("UTF-8");
    let server = plan.args(&["--config", config]).start();
    let mut client = server.client();
    assert_eq!(client.store("set", "a", 0, 0, [b'x'; 1024]), "STORED");
    assert_eq!(client.store("set", "a", 0, 0, [b'x'; 1025]), "SERVER_ERROR object too large for cache");
    assert_eq!(client.stat("threads"), 3);
    let server = server.stop().args(&["--config", config, "-I", "2k", "-t", "1"]).start();
    let mut client = server.client();
    assert_eq!(client.store("set", "a", 0, 0, [b'x'; 2048]), "STORED");
    assert_eq!(client.stat("threads"), 1);
}

#[test]
fn a_wrong_line_of_a_file_is_named() {
    let plan = Plan::new(&[]);
    let config = plan.root().join("wrong.conf");
    fs::write(&config, "db.sync = always\nserver.prot = 1\n").expect("write");
    let (status, message) = plan.args(&["--config", config.to_str().expect("UTF-8")]).refused();
    assert_eq!(status, 2, "{message}");
    assert!(message.contains("wrong.conf:2: there is no option 'server.prot'"), "{message}");
}

#[test]
fn what_has_no_effect_is_a_warning() {
    let server = Server::start(&["-U", "11211", "-k"]);
    let messages = server.messages();
    assert!(messages.contains("warning: -U 11211: UDP is not served"), "{messages}");
    assert!(messages.contains("--lock-memory has no effect"), "{messages}");
    assert!(server.client().ask("version").starts_with("VERSION 2."));
}

#[test]
fn debug_messages_name_the_options_given() {
    let server = Server::start(&["-v", "-I", "2k"]);
    let messages = server.messages();
    assert!(messages.contains("debug: option server.max-value-size = 2k\n"), "{messages}");
    assert!(!messages.contains("Settings"), "{messages}");
}

/// A signal without effect is named each time, and the last line tells that the store is closed.
#[test]
fn the_end_is_told() {
    let mut server = Server::start(&[]);
    server.signal("HUP");
    wait_until("the signal is named", || server.messages().contains("info: SIGHUP has no effect"));
    server.signal("HUP");
    server.signal("TERM");
    assert!(server.await_exit().success());
    wait_until("the last line", || server.messages().ends_with("info: stopped\n"));
    let messages = server.messages();
    assert_eq!(messages.matches("SIGHUP").count(), 2, "{messages}");
    assert!(!messages.contains("repeated"), "{messages}");
}

#[test]
fn messages_go_to_a_file_if_told() {
    let plan = Plan::new(&[]);
    let log = plan.root().join("messages");
    let target = format!("--log.target={}", log.display());
    let args = [target.as_str(), "-s", "socket", "-U", "7"];
    let plan = plan.listen(&[]).args(&args);
    let mut server = plan.spawn();
    wait_until("the line in the file", || fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on")));
    let written = fs::read_to_string(&log).expect("read the messages");
    assert!(written.contains("warning: -U 7"), "{written}");
    assert_eq!(server.messages(), "");
    assert!(server.is_running());
    Client::connect_unix(&plan.root().join("socket")).set("a", "x");
    server.stop();
}

#[test]
fn the_journal_gets_priorities() {
    let file = tempfile::NamedTempFile::new().expect("make a file");
    let stream = file.as_file().metadata().expect("its metadata");
    let stream = format!("{}:{}", stream.dev(), stream.ino());
    let stderr = file.reopen().expect("open it again");
    let mut command = Command::new(binary());
    command.arg("--nonsense").env("JOURNAL_STREAM", stream).stderr(stderr);
    assert_eq!(command.status().expect("run kingserver").code(), Some(2));
    let written = fs::read_to_string(file.path()).expect("read it");
    assert!(written.starts_with("<3>kingserver: "), "{written}");
}

/// Ends a daemon, of which the tests know the process id only.
struct Daemon(u32);

impl Drop for Daemon {
    fn drop(&mut self) {
        let kill = Command::new("sh").args(["-c", &format!("kill -9 {} 2>/dev/null", self.0)]).status();
        kill.expect("run sh");
    }
}

fn daemon_args<'a>(data: &'a str, socket: &'a str, pid_file: &'a str) -> [&'a str; 8] {
    ["-d", "--db.path", data, "-s", socket, "-P", pid_file, "-t1"]
}

fn paths(root: &Path) -> [String; 3] {
    ["data", "socket", "pid"].map(|name| root.join(name).display().to_string())
}

#[test]
fn a_daemon_serves_before_its_starter_returns() {
    let directory = tempfile::tempdir().expect("make a directory");
    let [data, socket, pid_file] = paths(directory.path());
    let output = run(&daemon_args(&data, &socket, &pid_file));
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{message}");
    let pid = fs::read_to_string(&pid_file).expect("read the pid file");
    let daemon = Daemon(pid.trim().parse().expect("a number"));
    let mut client = Client::connect_unix(Path::new(&socket));
    assert_eq!(client.stat("pid"), u64::from(daemon.0));
    client.set("a", "x");

    // A second one on the same directory fails, and its starter tells.
    let others = ["other-socket", "other-pid"].map(|name| directory.path().join(name).display().to_string());
    let refused = run(&daemon_args(&data, &others[0], &others[1]));
    assert_eq!(refused.status.code(), Some(1));
    let message = text(&refused.stderr);
    // Where there is no system log, that is told first.
    let said: Vec<&str> = message.lines().filter(|line| !line.contains("there will be no messages")).collect();
    assert!(said.len() == 1 && said[0].contains(&data), "{message}");
    assert!(others.iter().all(|path| !Path::new(path).exists()), "a start that failed leaves no files");

    let term = Command::new("sh").args(["-c", &format!("kill -TERM {}", daemon.0)]).status();
    assert!(term.expect("run sh").success());
    wait_until("the daemon removes its pid file", || !Path::new(&pid_file).exists());
}

/// Whoever waits for a daemon that takes for ever to open its store need not: the store has a pipe that nobody writes to.
#[test]
fn a_daemon_s_starter_can_be_interrupted() {
    let directory = tempfile::tempdir().expect("make a directory");
    let [data, socket, pid_file] = paths(directory.path());
    fs::create_dir(&data).expect("make the data directory");
    assert!(Command::new("mkfifo").arg(format!("{data}/STORE")).status().expect("run mkfifo").success());
    let mut command = Command::new(binary());
    command.args(daemon_args(&data, &socket, &pid_file)).stderr(Stdio::null());
    let mut starter = command.spawn().expect("start the server");
    let id = || fs::read_to_string(&pid_file).ok().and_then(|id| id.trim().parse().ok());
    wait_until("the daemon writes its pid", || id().is_some());
    let daemon = Daemon(id().expect("it is there"));
    // A shell has its background jobs ignore SIGINT, these tests perhaps among them.
    let interrupt = Command::new("sh").args(["-c", &format!("kill -TERM {}", starter.id())]).status();
    assert!(interrupt.expect("run sh").success());
    wait_until("the starter ends", || starter.try_wait().expect("wait for it").is_some());
    assert!(Path::new(&format!("/proc/{}", daemon.0)).exists(), "the daemon goes on");
}

#[test]
fn an_unwritable_pid_file_is_refused() {
    let (status, message) = Plan::new(&["-P", "/proc/kingserver.pid"]).refused();
    assert_eq!(status, 1, "{message}");
    assert!(message.contains("cannot write the pid file /proc/kingserver.pid"), "{message}");
}

/// Whoever may make links in the directory must not choose which file root overwrites.
#[test]
fn a_pid_file_that_is_a_link_is_refused() {
    let directory = tempfile::tempdir().expect("make a directory");
    let [_, target, pid_file] = paths(directory.path());
    fs::write(&target, "precious").expect("write");
    std::os::unix::fs::symlink(&target, &pid_file).expect("make a link");
    let (status, message) = Plan::new(&["-P", &pid_file]).refused();
    assert!(status == 1 && message.contains("it is a symbolic link"), "{message}");
    assert!(message.contains(&format!("cannot write the pid file {pid_file}")), "{message}");
    assert_eq!(fs::read_to_string(&target).expect("read"), "precious");
}

#[test]
fn two_servers_cannot_have_one_pid_file() {
    let directory = tempfile::tempdir().expect("make a directory");
    let [_, _, pid_file] = paths(directory.path());
    fs::write(&pid_file, "12345678 and more, of one that crashed").expect("write");
    let first = Plan::new(&["-P", &pid_file]).start();
    let (status, message) = Plan::new(&["-P", &pid_file]).refused();
    assert_eq!(status, 1, "{message}");
    assert!(message.contains("a server that runs has it"), "{message}");
    assert_eq!(fs::read_to_string(&pid_file).expect("read"), format!("{}\n", first.pid()));
    first.stop();
    assert!(!Path::new(&pid_file).exists());
}

/// Nor may he choose it by a second name of the file, or hold the start up with a pipe.
#[test]
fn a_pid_file_that_is_no_file_of_its_own_is_refused() {
    let directory = tempfile::tempdir().expect("make a directory");
    let [_, target, pid_file] = paths(directory.path());
    fs::write(&target, "precious").expect("write");
    fs::hard_link(&target, &pid_file).expect("make a link");
    let (status, message) = Plan::new(&["-P", &pid_file]).refused();
    assert_eq!(status, 1, "{message}");
    assert!(message.contains(&format!("cannot write the pid file {pid_file}")), "{message}");
    assert_eq!(fs::read_to_string(&target).expect("read"), "precious");
    fs::remove_file(&pid_file).expect("remove the link");
    assert!(Command::new("mkfifo").arg(&pid_file).status().expect("run mkfifo").success());
    let (status, message) = Plan::new(&["-P", &pid_file]).refused();
    assert_eq!(status, 1, "{message}");
    assert!(message.contains(&format!("cannot write the pid file {pid_file}")), "{message}");
}

/// Whoever may read a file can lock it: that is no server if the process that it names is gone.
#[test]
fn a_stranger_s_lock_of_a_pid_file_is_no_obstacle() {
    let directory = tempfile::tempdir().expect("make a directory");
    let [_, _, pid_file] = paths(directory.path());
    let locked = |id: String| {
        fs::write(&pid_file, format!("{id}\n")).expect("write");
        let file = fs::File::open(&pid_file).expect("open to read");
        file.lock_shared().expect("lock");
        file
    };
    let stranger = locked(std::process::id().to_string());
    for id in [std::process::id().to_string(), String::new()] {
        fs::write(&pid_file, format!("{id}\n")).expect("write");
        let (status, message) = Plan::new(&["-P", &pid_file]).refused();
        assert!(status == 1 && message.contains("a server that runs has it"), "{id}: {message}");
    }
    drop(stranger);
    let mut ended = Command::new("true").spawn().expect("run true");
    ended.wait().expect("it ends");
    let _stranger = locked(ended.id().to_string());
    let server = Plan::new(&["-P", &pid_file]).start();
    assert_eq!(fs::read_to_string(&pid_file).expect("read"), format!("{}\n", server.pid()));
    assert!(server.messages().contains("is locked"), "{}", server.messages());
    let (status, message) = Plan::new(&["-P", &pid_file]).refused();
    assert!(status == 1 && message.contains("a server that runs has it"), "{message}");
    server.stop();
    assert!(!Path::new(&pid_file).exists());
}

/// Several letters may stand in one word, the last one with its value.
#[test]
fn letters_may_stand_together() {
    let directory = tempfile::tempdir().expect("make a directory");
    let [data, socket, pid_file] = paths(directory.path());
    let output = run(&["-vFdt1", "-P", &pid_file, "--db.path", &data, "-s", &socket]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let pid = fs::read_to_string(&pid_file).expect("it went to the background and wrote its pid");
    let _daemon = Daemon(pid.trim().parse().expect("a number"));
    let mut client = Client::connect_unix(Path::new(&socket));
    assert_eq!(client.ask("flush_all"), "CLIENT_ERROR flush_all not allowed");
    let settings = client.stats("settings");
    assert_eq!((settings["verbosity"].as_str(), settings["num_threads"].as_str()), ("1", "1"));
}

#[test]
fn an_unwritable_directory_is_refused() {
    let output = run(&["--db.path=/proc/kingdb", "-s", "socket"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("/proc/kingdb") && message.lines().count() == 1, "{message}");
}

#[test]
fn a_file_is_no_data_directory() {
    let directory = tempfile::tempdir().expect("make a directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("write");
    let file = file.display().to_string();
    for path in [file.clone(), format!("{file}/data")] {
        let output = run(&["--db.path", &path, "-s", "socket"]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert_eq!(message, format!("kingserver: {file} is not a directory: choose another --db.path\n"));
    }
}

/// Files of a later version are left alone, and the line says what to do. The version stands behind eight bytes of
/// magic: kingdb(5).
#[test]
fn a_newer_format_is_refused() {
    let plan = Server::start(&[]).stop();
    for entry in fs::read_dir(plan.data()).expect("list the directory") {
        let path = entry.expect("an entry").path();
        let old = fs::read(&path).expect("read a file of the store");
        if old.len() < 12 {
            continue;
        }
        let mut newer = old.clone();
        newer[8..12].copy_from_slice(&15u32.to_le_bytes());
        fs::write(&path, &newer).expect("write");
        let (status, message) = plan.refused();
        let name = path.file_name().expect("a name").to_str().expect("UTF-8");
        assert_eq!(status, 1, "{name}: {message}");
        assert!(message.contains(name) && message.contains("15"), "{name}: {message}");
        assert!(message.contains("newer") && message.lines().count() == 1, "{name}: {message}");
        assert_eq!(fs::read(&path).expect("read it again"), newer, "{name} is untouched");
        fs::write(&path, &old).expect("write");
    }
    plan.start().stop();
}

/// Started by root the server becomes the user, with a data directory of its own; started by others it stays who it is.
#[test]
fn another_user() {
    let directory = tempfile::tempdir_in("/tmp").expect("make a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), open).expect("let others in");
    let data = directory.path().join("data").display().to_string();
    let server = Plan::new(&["-u", "nobody", "--db.path", &data]).start();
    server.client().set("a", "x");
    let expected = if root() { "65534" } else { "" };
    for field in ["Uid:", "Gid:"] {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("read its status");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the line").to_string();
        let ids: Vec<&str> = line.split_whitespace().skip(1).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{line}: all four kinds of id");
        assert!(expected.is_empty() || ids[0] == expected, "{line}");
    }
    assert!(Path::new(&data).exists());
}

/// What that user's first start needs is made for him: the socket is his, and so is a data directory of which nothing exists.
#[test]
fn another_user_finds_everything_his() {
    let directory = tempfile::tempdir_in("/tmp").expect("make a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(if root() { 0o755 } else { 0o777 });
    fs::set_permissions(directory.path(), open).expect("let others in");
    let [data, socket, _] = paths(directory.path());
    let data = format!("{data}/of/all");
    let server = Plan::new(&["-u", "nobody", "--db.path", &data, "-t1"]).listen(&["-s", &socket, "-a", "770"]).start();
    // Connections are taken by the kernel before the server has become that user; answers come after.
    Client::connect_unix(Path::new(&socket)).set("a", "x");
    let owner = u32::try_from(proc_status(server.pid(), "Uid")).expect("a user id");
    for path in [&socket, &data] {
        let found = fs::symlink_metadata(path).expect("look at it");
        assert_eq!((found.uid(), found.mode() & 0o7777), (owner, if path == &data { 0o700 } else { 0o770 }), "{path}");
    }
    assert!(!root() || owner == 65534);
}

/// A user who can remove the pid file finds it removed; one who cannot is told at the start.
#[test]
fn a_pid_file_that_will_be_left_behind_is_told() {
    let directory = tempfile::tempdir_in("/tmp").expect("make a directory");
    for (mode, left) in [(0o755, root()), (0o1777, root()), (0o777, false)] {
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("chmod");
        let [data, _, pid_file] = paths(directory.path());
        let server = Plan::new(&["-u", "nobody", "--db.path", &data, "-P", &pid_file]).start();
        let warned = server.messages().contains(&format!("the pid file {pid_file} will be left behind"));
        assert_eq!(warned, left, "{mode:o}: {}", server.messages());
        server.stop();
        assert_eq!(Path::new(&pid_file).exists(), left, "{mode:o}");
    }
}

/// Root's directory for the user nobody, or, where root does not run the tests, one's own without the right to write.
#[test]
fn a_directory_without_the_right_to_write_is_refused() {
    let directory = tempfile::tempdir_in("/tmp").expect("make a directory");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(if root() { 0o755 } else { 0o555 });
    fs::set_permissions(directory.path(), mode).expect("chmod");
    let data = directory.path().display().to_string();
    let (status, message) = Plan::new(&["-u", "nobody", "--db.path", &data]).refused();
    assert_eq!(status, 1, "{message}");
    assert!(message.contains(&format!("cannot write to {data}: Permission denied")), "{message}");
    assert!(message.contains("another --db.path"), "{message}");
}

#[test]
fn an_unknown_user_is_refused() {
    let plan = Plan::new(&["-u", "no-such-user"]);
    if root() {
        let (status, message) = plan.refused();
        assert_eq!(status, 1, "{message}");
        assert!(message.contains("no user 'no-such-user' in /etc/passwd"), "{message}");
    } else {
        plan.start();
    }
}

/// The limit on open files fits the connections, or a warning says that it does not.
#[test]
fn descriptors_fit_the_connections() {
    let server = Plan::new(&["-c", "3000"]).under(&["prlimit", "--nofile=500:500"]).start();
    let soft = descriptor_limit(&server);
    let warned = server.messages().contains("the limit on open files is 500");
    assert_eq!(warned, soft < 3256, "limit {soft}: {}", server.messages());
    assert_eq!(server.client().stat("max_connections"), 3000.min(soft - 1024.min(soft / 4)));
    assert!(server.client().ask("version").starts_with("VERSION"));
}

/// The store's files need descriptors, too, the more of them the more there is: all that the hard limit allows is
/// taken.
#[test]
fn descriptors_up_to_the_hard_limit() {
    let server = Plan::new(&["-c", "100"]).under(&["prlimit", "--nofile=1500:5000"]).start();
    assert_eq!(descriptor_limit(&server), 5000);
    assert!(!server.messages().contains("limit on open files"), "{}", server.messages());
}

/// A running server's soft limit on descriptors.
fn descriptor_limit(server: &Server) -> u64 {
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).expect("read its limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the line");
    line.split_whitespace().nth(3).and_then(|word| word.parse().ok()).expect("a number")
}

/// Whoever reads the messages may stop doing so; clients must not notice.
#[test]
fn messages_that_nobody_reads_hold_up_nobody() {
    let directory = tempfile::tempdir().expect("make a directory");
    let [data, socket, _] = paths(directory.path());
    let mut command = Command::new(binary());
    command.args(["-vv", "-t1", "--db.path", &data, "-s", &socket]);
    let mut server = command.stderr(Stdio::piped()).spawn().expect("start the server");
    let _killed = Daemon(server.id());
    wait_until("it listens", || UnixStream::connect(&socket).is_ok());
    // Each is told when it comes and when it goes: more than a pipe holds.
    for _ in 0..2000 {
        assert!(Client::connect_unix(Path::new(&socket)).ask("version").starts_with("VERSION"));
    }
    let mut lines = BufReader::new(server.stderr.take().expect("it is a pipe")).lines();
    let before: Vec<String> = lines.by_ref().take(300).map(|line| line.expect("read a message")).collect();
    assert!(before.iter().any(|line| line.contains("listening on")), "{before:?}");
    let told = std::thread::spawn(move || lines.any(|line| line.expect("read").contains("messages were lost")));
    wait_until("there is room again, and that is told", || {
        Client::connect_unix(Path::new(&socket)).ask("version");
        told.is_finished()
    });
    assert!(told.join().expect("the reader"));
    server.kill().and_then(|()| server.wait()).expect("end it");
}

/// Nor do the last words wait for him.
#[test]
fn last_words_that_nobody_reads_hold_up_nobody() {
    let directory = tempfile::tempdir().expect("make a directory");
    let [log, ..] = paths(directory.path());
    let (_reader, mut writer) = std::io::pipe().expect("make a pipe");
    // As much as it holds.
    writer.write_all(&[b'x'; 1 << 16]).expect("fill the pipe");
    let mut command = Command::new(binary());
    command.args(["--db.path=/proc/kingdb", "-s", "socket", "--log.target", &log]);
    let mut server = command.stderr(writer).spawn().expect("start the server");
    let _killed = Daemon(server.id());
    wait_until("it ends", || server.try_wait().expect("wait for it").is_some());
    let told = fs::read_to_string(&log).expect("read the messages");
    assert!(told.contains("error: cannot create the data directory /proc/kingdb"), "{told}");
}
