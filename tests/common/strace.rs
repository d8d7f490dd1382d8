//! strace attached to a running server: it counts, delays or fails the system calls of every thread, or of one.

use super::util::{DEADLINE, wait_until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tempfile::NamedTempFile;

/// An strace at work. Dropped, it lets go of the server.
pub struct Tracer {
    child: Child,
    output: NamedTempFile,
}

impl Tracer {
    /// Attaches to all threads of `pid`, with these options of strace's.
    pub fn attach(pid: u32, args: &[&str]) -> Tracer {
        let tracer = Tracer::spawn(&pid.to_string(), &[&["-f"], args].concat());
        wait_until("strace attaches to every thread", || tasks(pid).iter().all(|task| is_traced(task)));
        tracer
    }

    /// Attaches to the thread of `pid` that has this name, and to no other.
    pub fn attach_thread(pid: u32, name: &str, args: &[&str]) -> Tracer {
        let is_named =
            |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let task = tasks(pid).into_iter().find(is_named).expect("a thread of that name");
        let tracer = Tracer::spawn(&task.file_name().expect("a number").to_string_lossy(), args);
        wait_until("strace attaches to the thread", || is_traced(&task));
        tracer
    }

    fn spawn(id: &str, args: &[&str]) -> Tracer {
        let output = NamedTempFile::new().expect("make a file for strace");
        let mut command = Command::new("strace");
        command.args(["-q", "-p", id, "-o"]).arg(output.path()).args(args);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("run strace");
        Tracer { child, output }
    }

    /// Lets go; gives what strace wrote.
    pub fn finish(mut self) -> String {
        self.interrupt();
        std::fs::read_to_string(self.output.path()).expect("read strace's output")
    }

    fn interrupt(&mut self) {
        let _ = Command::new("sh").args(["-c", &format!("kill -INT {}", self.child.id())]).status();
        let start = Instant::now();
        while self.child.try_wait().expect("wait for strace").is_none() {
            assert!(start.elapsed() < DEADLINE, "strace does not end");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

fn tasks(pid: u32) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the server is alive");
    tasks.flatten().map(|task| task.path()).collect()
}

fn is_traced(task: &Path) -> bool {
    let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.interrupt();
        }
    }
}
