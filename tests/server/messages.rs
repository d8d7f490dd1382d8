//! Messages: who is told what, and in what order; files of messages that are rotated; what an operator's tools look for.

use crate::common::server::binary;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
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
        full.read(&mut vec![0; 1 << 20]).expect("read the pipe");
    });
    assert_eq!(starter.wait().expect("wait for it").code(), Some(1));
    let told = fs::read_to_string(&stderr).expect("read it");
    assert!(told.contains("cannot write the pid file"), "{told}");
    reader.join().expect("the reader");
}
