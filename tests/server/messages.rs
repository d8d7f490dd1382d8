//! Messages: who is told what, and in what order; files of messages that are rotated; what an operator's tools look for.

use crate::common::Server;
use crate::common::server::{Plan, binary};
use crate::common::util::wait_until;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The starter of a daemon that fails returns when the message is there, not before: here a daemon whose messages nobody reads
/// for a while.
#[test]
fn a_daemon_that_fails_tells_before_its_starter_returns() {
    let directory = tempfile::tempdir().expect("make a directory");
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("run mkfifo").success());
    let mut full = File::options().read(true).write(true).open(&pipe).expect("open the pipe");
    let nonblocking = 0o4000;
    let mut filler = File::options().write(true).custom_flags(nonblocking).open(&pipe).expect("open the pipe");
    while filler.write(&[b'x'; 4096]).is_ok_and(|n| n > 0) {}
    let stderr = directory.path().join("stderr");
    let mut command = Command::new(binary());
    command.args(["-d", "-p0", "-t1", "-P", "/proc/kingserver.pid", "--log.target"]).arg(&pipe).arg("--db.path");
    command.arg(directory.path().join("data")).stderr(File::create(&stderr).expect("make a file"));
    let mut starter = command.spawn().expect("start the server");
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        assert!(full.read(&mut vec![0; 1 << 20]).expect("read the pipe") > 0);
    });
    assert_eq!(starter.wait().expect("wait for it").code(), Some(1));
    let told = fs::read_to_string(&stderr).expect("read it");
    assert!(told.contains("cannot write the pid file"), "{told}");
    reader.join().expect("the reader");
}

/// A server that writes its messages to a file, over a Unix socket.
fn with_file(plan: Plan, log: &Path) -> Server {
    let target = format!("--log.target={}", log.display());
    let server = plan.listen(&[]).args(&["-s", "socket", &target]).spawn();
    wait_until("it listens", || said(log).contains("listening on"));
    server
}

fn said(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default()
}

#[test]
fn a_file_of_messages_that_was_moved_away_is_opened_again() {
    let plan = Plan::new(&[]);
    let (log, old) = (plan.root().join("messages"), plan.root().join("messages.1"));
    let server = with_file(plan, &log);
    fs::rename(&log, &old).expect("move the file");
    server.signal("HUP");
    wait_until("the new file", || said(&log).contains("SIGHUP: "));
    assert!(said(&log).contains("opened again") && !said(&old).contains("SIGHUP"), "{}", said(&log));
    // Where there can be no such file, the one before goes on.
    fs::remove_file(&log).expect("remove the file");
    fs::rename(&old, &log).expect("move the file");
    server.signal("HUP");
    wait_until("the old file again", || said(&log).contains("opened again"));
    fs::rename(&log, &old).expect("move the file");
    fs::create_dir(&log).expect("make a directory");
    server.signal("HUP");
    wait_until("a warning", || said(&old).contains("error: SIGHUP: cannot open "));
    let _plan = server.stop();
    assert!(said(&old).ends_with("info: stopped\n"));
}

/// Each signal has its answer, also the same one within a minute.
#[test]
fn every_signal_is_answered() {
    let plan = Plan::new(&[]);
    let users = plan.root().join("users");
    fs::write(&users, "alice:a\n").expect("write the users");
    fs::set_permissions(&users, PermissionsExt::from_mode(0o600)).expect("chmod");
    let server = plan.args(&["-Y", users.to_str().expect("UTF-8")]).start();
    let count = |what: &str| server.messages().matches(what).count();
    for (text, answer, times) in
        [("bob:b\n", "was read again", 1), ("x\n", "users:1: ", 1), ("carol:c\n", "was read again", 2)]
    {
        fs::write(&users, text).expect("write the users");
        server.signal("HUP");
        wait_until("the answer", || count(answer) == times);
    }
}

fn frame(op: u8, key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 24];
    (out[0], out[1], out[3], out[11]) = (0x80, op, key.len() as u8, (key.len() + body.len()) as u8);
    out.extend_from_slice(key);
    out.extend_from_slice(body);
    out
}

/// Who guesses at passwords is named, in every dialect alike, and not as often as he likes.
#[test]
fn who_is_not_admitted_is_named() {
    let plan = Plan::new(&[]);
    let users = plan.root().join("users");
    fs::write(&users, "alice:a\n").expect("write the users");
    let server = plan.args(&["-Y", users.to_str().expect("UTF-8")]).start();
    wait_until("all may read the file", || server.messages().contains("is open to everybody"));
    let refused = "warning: authentication failed for client 127.0.0.1\n";
    let begun = std::time::Instant::now();
    let mut client = server.client();
    client.send("set any 0 0 7\r\nalice b\r\n");
    assert_eq!(client.line(), "CLIENT_ERROR authentication failure");
    wait_until("he is named", || server.messages().contains(refused));
    for _ in 0..20 {
        let mut client = server.client();
        client.send(frame(0x21, b"PLAIN", b"\0alice\0b"));
        client.bytes(24 + "Auth failure.".len());
    }
    client.send("set any 0 0 7\r\nalice a\r\n");
    assert_eq!(client.line(), "STORED");
    let (_, messages) = server.end();
    let (told, seconds) = (messages.matches("authentication failed").count() as u64, begun.elapsed().as_secs());
    assert!(told <= 2 + seconds, "{told} lines in {seconds} s: {messages}");
}

#[test]
fn who_switches_debug_messages_on_is_named() {
    let server = Server::start(&["-F"]);
    let count = |what: &str| server.messages().matches(what).count();
    let (on, off) = ("info: client 127.0.0.1 has switched debug messages on\n", "messages off\n");
    let mut client = server.client();
    assert_eq!((client.ask("verbosity 2"), client.ask("verbosity 1")), ("OK".into(), "OK".into()));
    wait_until("he is named", || count(on) == 1);
    let mut request = frame(0x1b, b"", b"\0\0\0\0");
    request[4] = 4;
    let mut other = server.client();
    other.send(request);
    other.bytes(24);
    wait_until("he is named again", || count(off) == 1);
    assert_eq!(count(on), 1, "what changes nothing is not told");
}
