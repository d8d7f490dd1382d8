//! What the standard library has no call for: cores, the CPU clock of another process, signals, and children that can
//! not outlive the benchmark. The package's only `unsafe` is here.
#![allow(unsafe_code)]

use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// The cores this process may run on.
pub fn cores() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::this()).context("sched_getaffinity")?;
    Ok((0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect())
}

/// Keeps the calling thread, and those that it starts, on one core.
pub fn pin(core: usize) -> Result<()> {
    sched_setaffinity(Pid::from_raw(0), &one(core)?).with_context(|| format!("cannot pin to core {core}"))
}

/// The child will run on `core` alone and be killed when the thread that starts it ends, however that ends.
pub fn tie(command: &mut Command, core: usize) -> Result<()> {
    let set = one(core)?;
    let before_exec = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        sched_setaffinity(Pid::from_raw(0), &set)?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe things may be done: the closure makes two system calls and
    // neither allocates nor takes a lock, on failure neither (an errno becomes an io::Error without allocation).
    unsafe { command.pre_exec(before_exec) };
    Ok(())
}

/// The child will be killed when the thread that starts it ends, however that ends.
pub fn leash(command: &mut Command) {
    let before_exec = || Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?);
    // SAFETY: as in `tie`: one system call, no allocation, no lock.
    unsafe { command.pre_exec(before_exec) };
}

fn one(core: usize) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(set)
}

/// While it lives, the calling thread comes before everything of ordinary priority on its core, so that what else the
/// machine does is not taken for a server's delay.
pub struct Haste {
    /// The nice value to go back to.
    before: i32,
}

impl Haste {
    /// As urgent as that user may make a thread: without privileges it stays as it is. Its sleeps end when they should
    /// from here on. Start no server meanwhile: it would inherit that.
    pub fn begin() -> Haste {
        // SAFETY: takes no pointer. 0 means the caller: in Linux a thread, not its process.
        let before = unsafe { nix::libc::getpriority(nix::libc::PRIO_PROCESS, 0) };
        nice(-20);
        // Refused by no kernel that has it.
        let _ = nix::sys::prctl::set_timerslack(1);
        Haste { before }
    }
}

impl Drop for Haste {
    fn drop(&mut self) {
        nice(self.before);
    }
}

/// Sets the nice value of the calling thread, if it may.
fn nice(value: i32) {
    // SAFETY: as in `Haste::begin`.
    unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, value) };
}

/// CPU time of all threads of a process so far, ended ones included, in user and kernel mode. Nanosecond resolution.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let clock =
        clock_getcpuclockid(Pid::from_raw(pid as i32)).with_context(|| format!("CPU clock of process {pid}"))?;
    Ok(Duration::from(clock_gettime(clock).with_context(|| format!("CPU time of process {pid}"))?))
}

/// Processor time of the calling thread so far.
pub fn thread_time() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("processor time of this thread")?))
}

/// Sends a signal to a process that we started and have not reaped yet, so that the id is still its own.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid as i32), signal).with_context(|| format!("cannot send {signal} to process {pid}"))
}

/// Makes close(2) send a reset, so that thousands of connections leave no TIME_WAIT behind and ports never run out.
pub fn reset_on_close(stream: &TcpStream) -> Result<()> {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, sockopt::Linger, &linger).context("SO_LINGER")
}

/// Raises the limit of open descriptors as far as it goes (children inherit it) and checks that it is enough.
pub fn want_descriptors(count: u64) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(hard >= count, "{count} descriptors are needed, the limit is {hard}: raise it with `ulimit -Hn`");
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// The name of the user that this process runs as.
pub fn user_name() -> Result<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("this user has no name")?;
    Ok(user.name)
}

/// The kernel's version, without the builder's suffix.
pub fn kernel() -> String {
    let uname = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned());
    uname.unwrap_or_default().split('-').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_a_busy_process_grows() {
        let before = cpu_time(std::process::id()).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        while cpu_time(std::process::id()).unwrap() < before + Duration::from_millis(2) {
            std::hint::black_box(random.u64(..));
        }
    }

    #[test]
    fn a_tied_child_runs_on_its_core_alone() {
        let core = cores().unwrap()[0];
        let mut command = Command::new("grep");
        command.args(["Cpus_allowed_list", "/proc/self/status"]);
        tie(&mut command, core).unwrap();
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(said.split_whitespace().last(), Some(core.to_string().as_str()));
    }
}
