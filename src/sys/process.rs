//! What a process is: `fork(2)`, `setsid(2)`, `setuid(2)`, `setgroups(2)`, `umask(2)`, and users as `passwd(5)` has
//! them.
//!
//! Users are read from `/etc/passwd` and `/etc/group` directly: a static binary cannot load the name-service modules
//! that `getpwnam(3)` would ask. Everything here is for the start of a program, while it has one thread.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Who a process may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub user: u32,
    /// Primary group id.
    pub group: u32,
    /// The groups of which the user is a member, `group` included.
    pub groups: Vec<u32>,
}

/// This process' effective user id.
pub fn user() -> u32 {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether that is root's.
pub fn is_root() -> bool {
    user() == 0
}

/// Sets the file-mode creation mask; returns the one before. It belongs to the whole process: call it while no other
/// thread makes files.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: umask takes an integer, touches no memory and cannot fail.
    unsafe { libc::umask(mask) }
}

/// Looks a user up by name or number. `None`: there is none in `/etc/passwd`.
pub fn find_user(name: &str) -> io::Result<Option<Identity>> {
    let users = fs::read_to_string("/etc/passwd")?;
    // A system without groups has users all the same.
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    Ok(identity(name, &users, &groups))
}

fn identity(name: &str, users: &str, groups: &str) -> Option<Identity> {
    let fields = |line: &'_ str| line.split(':').map(String::from).collect::<Vec<_>>();
    let entry = users.lines().map(fields).find(|entry| entry.len() >= 4 && (entry[0] == name || entry[2] == name))?;
    let (user, group) = (entry[2].parse().ok()?, entry[3].parse().ok()?);
    let mut all = vec![group];
    for line in groups.lines().map(fields).filter(|line| line.len() >= 4) {
        let member = line[3].split(',').any(|member| member == entry[0]);
        all.extend(line[2].parse::<u32>().ok().filter(|id| member && *id != group));
    }
    Some(Identity { user, group, groups: all })
}

/// Takes another identity, for good: groups first, the user last, since it takes the right to change the others with
/// it.
pub fn become_user(identity: &Identity) -> io::Result<()> {
    // SAFETY: setgroups reads `groups.len()` ids from a live slice and keeps no pointer.
    check(unsafe { libc::setgroups(identity.groups.len(), identity.groups.as_ptr()) })?;
    // SAFETY: both take integers and touch no memory.
    check(unsafe { libc::setresgid(identity.group, identity.group, identity.group) })?;
    // SAFETY: as above.
    check(unsafe { libc::setresuid(identity.user, identity.user, identity.user) })?;
    // SAFETY: as above.
    if identity.user != 0 && unsafe { libc::setuid(0) } == 0 {
        return Err(io::Error::other("the process could take root's identity back"));
    }
    Ok(())
}

/// Whether this process may make and remove files in a directory, by access(2): the error is the one that it would get.
pub fn may_write(directory: &Path) -> io::Result<()> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: `path` ends in NUL and outlives the call, which only reads it.
    check(unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) }).map(drop)
}

/// Whether this process may remove a file that is there. In a directory with the sticky bit, one of the two must be its
/// own.
pub fn may_remove(file: &Path) -> bool {
    let Some(directory) = file.parent() else { return false };
    let user = user();
    let owns = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.uid() == user);
    let sticky = fs::metadata(directory).is_ok_and(|found| found.mode() & libc::S_ISVTX != 0);
    may_write(directory).is_ok() && (!sticky || user == 0 || owns(file) || owns(directory))
}

/// A process in the background whose starter still waits to hear that it is ready. Dropped without that, or killed, the
/// starter exits with status 1: say first why it is dropped.
pub struct Daemon {
    starter: PipeWriter,
}

/// Goes on in a process of its own session, without controlling terminal and unable to get one. The calling process
/// never returns from this: it waits for [`Daemon::ready`] and exits, with 0 if that came.
///
/// Fails if there is more than one thread: the others would be missing in the child, their locks would stay locked.
pub fn daemonize() -> io::Result<Daemon> {
    if fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
        return Err(io::Error::other("a process with threads cannot go to the background"));
    }
    let (mut ready, starter) = io::pipe()?;
    if fork()? == Side::Parent {
        drop(starter);
        super::signal::unblock();
        let came = ready.read(&mut [0]).is_ok_and(|n| n == 1);
        std::process::exit(if came { 0 } else { 1 });
    }
    drop(ready);
    // SAFETY: setsid touches no memory. It fails for leaders of a process group only, which a fresh child is not.
    check(unsafe { libc::setsid() })?;
    if fork()? == Side::Parent {
        // SAFETY: _exit does not return and runs nothing of ours; the child goes on with copies of all descriptors.
        unsafe { libc::_exit(0) };
    }
    Ok(Daemon { starter })
}

impl Daemon {
    /// Leaves the starter's directory, standard input and output, and lets it exit with status 0. Relative paths mean
    /// something else from here on.
    pub fn ready(&mut self) -> io::Result<()> {
        std::env::set_current_dir("/")?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        for standard in 0..=2 {
            // SAFETY: `null` is open; what `standard` named is replaced, and nothing in this program owns 0, 1 or 2.
            check(unsafe { libc::dup2(null.as_raw_fd(), standard) })?;
        }
        // A starter that was killed meanwhile need not be told.
        let _ = self.starter.write_all(b"!");
        Ok(())
    }
}

#[derive(PartialEq, Eq)]
enum Side {
    Parent,
    Child,
}

fn fork() -> io::Result<Side> {
    // SAFETY: `daemonize` made sure that this is the only thread, so no lock of the allocator or of ours is held by one
    // that the child lacks.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Side::Child),
        _ => Ok(Side::Parent),
    }
}

fn check(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_come_with_their_groups() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nbroken:x\nking:x:990:980::/:\nother:x:991:981::/:\n";
        let groups = "root:x:0:\nking:x:980:king\ndisk:x:6:other,king\nssl:x:7:kingdom,other\nbad\n";
        let king = Identity { user: 990, group: 980, groups: vec![980, 6] };
        assert_eq!(identity("king", users, groups).as_ref(), Some(&king));
        assert_eq!(identity("990", users, groups), Some(king));
        assert_eq!(identity("nobody", users, groups), None);
        assert_eq!(identity("broken", users, groups), None);
        assert_eq!(identity("root", users, ""), Some(Identity { user: 0, group: 0, groups: vec![0] }));
    }

    #[test]
    fn a_process_with_threads_stays_in_the_foreground() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        assert!(daemonize().is_err());
        drop(stop);
        assert!(thread.join().unwrap().is_err());
    }
}
