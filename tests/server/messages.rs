//! Messages: who is told what, and in what order; files of messages that are rotated; what an operator's tools look for.

use crate::common::Server;
use crate::common::server::{Plan, binary};
use crate::common::util::wait_until;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A pipe that takes a page more, and not two. Its ends: one to read from, one to write to.
fn nearly_full_pipe(path: &Path) -> (File, File) {
    assert!(Command::new("mkfifo").arg(path).status().expect("run mkfifo").success());
    let mut both = File::options().read(true).write(true).open(path).expect("open the pipe");
    let nonblocking = 0o4000;
    let mut filler = File::options().write(true).custom_flags(nonblocking).open(path).expect("open the pipe");
    while filler.write(&[b'x'; 4096]).is_ok_and(|n| n > 0) {}
    both.read_exact(&mut [0; 4096]).expect("read a page");
    let writer = File::options().write(true).open(path).expect("open the pipe");
    (both, writer)
}

/// The starter of a daemon that fails returns when the message is there, not before: here one that nobody reads for a while, and
/// that is longer than what the pipe takes meanwhile.
#[test]
fn a_daemon_that_fails_tells_before_its_starter_returns() {
    let directory = tempfile::tempdir().expect("make a directory");
    let (mut reader, stderr) = nearly_full_pipe(&directory.path().join("pipe"));
    let pid_file = format!("/proc/{}kingserver.pid", "none/".repeat(813));
    let log = directory.path().join("log");
    let mut command = Command::new(binary());
    command.args(["-d", "-p0", "-t1", "-P", &pid_file, "--log.target"]).arg(&log).arg("--db.path");
    let mut starter = command.arg(directory.path().join("data")).stderr(stderr).spawn().expect("start the server");
    std::thread::sleep(Duration::from_millis(300));
    assert!(starter.try_wait().expect("look").is_none(), "it has returned before the message was told");
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        while !text.ends_with(b"\n") {
            let mut bytes = [0; 4096];
            let count = reader.read(&mut bytes).expect("read the pipe");
            text.extend_from_slice(&bytes[..count]);
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    assert_eq!(starter.wait().expect("wait for it").code(), Some(1));
    let told = reading.join().expect("the reader");
    assert!(told.contains("kingserver: cannot write the pid file"), "{told}");
}

/// Who reads messages from a pipe and stops holds up nobody; he is told later what he missed.
#[test]
fn nobody_waits_for_who_reads_messages() {
    let plan = Plan::new(&[]);
    let pipe = plan.root().join("pipe");
    let (mut reader, writer) = nearly_full_pipe(&pipe);
    drop(writer);
    let target = format!("--log.target={}", pipe.display());
    let mut server = plan.listen(&[]).args(&["-s", "socket", "-vv", &target]).spawn();
    let socket = server.plan().root().join("socket");
    let ask = |server: &mut Server| {
        wait_until("it listens", || UnixStream::connect(&socket).is_ok());
        let mut client = UnixStream::connect(&socket).expect("connect");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("set a timeout");
        client.write_all(b"version\r\n").expect("ask");
        let mut answer = [0; 8];
        client.read_exact(&mut answer).expect("an answer");
        assert!(server.is_running());
    };
    // Each connection is a message or two.
    (0..100).for_each(|_| ask(&mut server));
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(" messages were lost: nobody read them\n") {
        let mut bytes = [0; 4096];
        let count = reader.read(&mut bytes).expect("read the pipe");
        text.extend_from_slice(&bytes[..count]);
        ask(&mut server);
    }
    server.signal("TERM");
    assert!(server.await_exit().success());
}

/// A daemon's standard error stays with its starter.
#[test]
fn a_daemon_without_messages_says_so() {
    let directory = tempfile::tempdir().expect("make a directory");
    let (data, pid_file) = (directory.path().join("data"), directory.path().join("pid"));
    let mut command = Command::new(binary());
    command.args(["-d", "-p0", "-t1", "--log.target=stderr", "-s"]).arg(directory.path().join("socket"));
    let output = command.arg("-P").arg(&pid_file).arg("--db.path").arg(data).output().expect("start the server");
    let pid = fs::read_to_string(&pid_file).expect("read the pid file");
    assert!(Command::new("kill").arg(pid.trim()).status().expect("run kill").success());
    wait_until("it is gone", || !Path::new(&format!("/proc/{}", pid.trim())).exists());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("in the background there will be no messages: "), "{told}");
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
    let mut guesser = server.client();
    wait_until("he is named again, and again", || {
        guesser.send("set any 0 0 7\r\nalice b\r\n");
        guesser.line();
        server.messages().matches(refused).count() == 3
    });
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

/// Whatever the level of messages is, those who are shown debug messages are told why, and when that ends.
#[test]
fn switching_debug_messages_is_told_at_any_level() {
    for (level, told) in [("error", 1), ("debug", 0)] {
        let server = Plan::new(&[]).listen(&[]).args(&["-s", "socket", "--log.level", level]).spawn();
        let socket = server.plan().root().join("socket");
        wait_until("it listens", || UnixStream::connect(&socket).is_ok());
        let mut client = UnixStream::connect(&socket).expect("connect");
        client.write_all(b"verbosity 1\r\nverbosity 0\r\n").expect("ask");
        client.read_exact(&mut [0; 8]).expect("two answers");
        let (_, messages) = server.end();
        for what in ["has switched debug messages on\n", "has switched debug messages off\n"] {
            assert_eq!(messages.matches(what).count(), told, "{level}: {messages}");
        }
    }
}
