//! KingServer: a durable key-value server that speaks the memcached protocol.
//!
//! The start, in the one order that works: everything that needs root or can be refused comes before the fork or is
//! told through it, and no thread exists until the store is being opened. Exit status 2 is a wrong command line, 1 a
//! start that failed.
#![forbid(unsafe_code)]

mod server;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, FileTypeExt as _, MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use kingdb::store::Severity;
use kingdb::sys::file;
use kingdb::sys::memory::bound_malloc;
use kingdb::sys::process::{self, Daemon, Identity};

use crate::server::log::{self, Target};
use crate::server::options::{self, Asked, Launch};
use crate::server::{Listeners, Settings, Users, admin};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if words.first().is_some_and(|first| admin::is_command(first)) {
        return admin::run(&words, store_options);
    }
    match options::parse(words) {
        Ok(Asked::Show(text)) => show(&text),
        Ok(Asked::Run(launch)) => {
            // Its end releases whoever waits for it, so what there is to say comes first.
            let mut daemon = None;
            end(start(*launch, &mut daemon), 1)
        }
        Err(message) => end(Err(format!("{message} (try 'kingserver --help')")), 2),
    }
}

fn end(outcome: Result<(), String>, failure: u8) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            log::fatal(message);
            ExitCode::from(failure)
        }
    }
}

/// A reader that went away, as in `--help | head`, is no failure.
fn show(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn start(launch: Launch, daemon: &mut Option<Daemon>) -> Result<(), String> {
    bound_malloc();
    let settings = launch.settings;
    start_messages(launch.log_level, launch.log_target, launch.daemon, settings.verbosity)?;
    launch.notes.iter().for_each(log::warn);
    launch.given.iter().for_each(|option| log::debug(format_args!("option {option}")));
    require_directory(&settings.db_path)?;
    let users = settings.users.clone().map(Users::read).transpose()?;
    let identity = launch.user.as_deref().filter(|_| process::is_root()).map(find_user).transpose()?;
    let listeners = Listeners::bind(&settings)?;
    if launch.daemon {
        *daemon = Some(process::daemonize().map_err(|error| format!("cannot go to the background: {error}"))?);
    }
    let pid_file = launch.pid_file.map(PidFile::write).transpose()?;
    if let Some(identity) = &identity {
        listeners.give_to(identity);
        take_identity(identity, &settings.db_path)?;
        users.iter().for_each(warn_of_users);
    }
    require_access(&settings.db_path)?;
    warn_of_rest(pid_file.as_ref().map(|file| file.path.as_path()), "pid file", "-P");
    warn_of_rest(settings.unix_socket.as_deref(), "socket", "-s");
    let Some(db) = server::open(&listeners, store_options(&settings), users.as_ref())? else {
        log::info("stopped before the store was open");
        return Ok(());
    };
    let db = Arc::new(db);
    let door = server::open_door(&settings, &db);
    log::info(format_args!("listening on {}; data in {}", listeners.describe(), settings.db_path.display()));
    if let Some(waited_for) = daemon {
        waited_for.ready().map_err(|error| format!("cannot leave the terminal: {error}"))?;
        *daemon = None;
    }
    let served = server::run(settings, users, db.clone(), listeners, door);
    let closed = db.close().map_err(|error| format!("the store did not close in good order: {error}"));
    log::settle();
    served.and(closed)?;
    log::info("stopped");
    Ok(())
}

/// A daemon's messages go to the system log if nothing else was said; where there is none, whoever starts it is told.
fn start_messages(level: log::Level, target: Option<Target>, daemon: bool, verbosity: u8) -> Result<(), String> {
    log::set_verbosity(verbosity);
    let why = match target {
        None if daemon => match log::init(level, &Target::Syslog) {
            Ok(()) => return Ok(()),
            Err(why) => why,
        },
        Some(Target::Stderr) if daemon => "standard error stays behind".to_owned(),
        target => return log::init(level, &target.unwrap_or(Target::Stderr)),
    };
    log::init(level, &Target::Stderr)?;
    log::warn(format_args!("in the background there will be no messages: {why}"));
    Ok(())
}

fn find_user(name: &str) -> Result<Identity, String> {
    match process::find_user(name) {
        Ok(Some(identity)) => Ok(identity),
        Ok(None) => Err(format!("there is no user '{name}' in /etc/passwd: create it or give another one with -u")),
        Err(error) => Err(format!("cannot look for the user '{name}' in /etc/passwd: {error}")),
    }
}

/// A data directory that root's first start makes must belong to the user who is to write there; those above it are for all.
fn take_identity(identity: &Identity, data: &Path) -> Result<(), String> {
    if !data.exists() {
        data.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| DirBuilder::new().mode(0o700).create(data))
            .and_then(|()| lchown(data, Some(identity.user), Some(identity.group)))
            .map_err(|error| format!("cannot make the data directory {}: {error}", data.display()))?;
    }
    process::become_user(identity).map_err(|error| format!("cannot become user {}: {error}", identity.user))
}

/// The data directory, or the nearest directory in which it is to be made.
fn nearest(data: &Path) -> &Path {
    data.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(data)
}

fn require_directory(data: &Path) -> Result<(), String> {
    let place = nearest(data);
    match fs::metadata(place) {
        Ok(found) if !found.is_dir() => {
            Err(format!("{} is not a directory: choose another --db.path", place.display()))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(format!("cannot use {}: {error}; choose another --db.path", place.display())),
    }
}

fn require_access(data: &Path) -> Result<(), String> {
    let place = nearest(data);
    let hint = "let the user of the server write there (chown) or choose another --db.path";
    process::may_write(place).map_err(|error| format!("cannot write to {}: {error}; {hint}", place.display()))
}

fn store_options(settings: &Settings) -> kingdb::Options {
    kingdb::Options {
        sync: settings.sync,
        sync_interval: settings.sync_interval,
        cache_bytes: settings.cache_bytes,
        compression: settings.compression,
        lane_threads: settings.lane_threads,
        segment_bytes: settings.segment_bytes,
        write_buffer: settings.write_buffer,
        snapshot_bytes: settings.snapshot_bytes,
        incoming_rate: settings.incoming_rate,
        max_size: settings.max_size,
        free_space_floor: settings.free_space_floor,
        evict: settings.evict,
        survival_threshold: settings.survival_threshold,
        compaction_free_space: settings.compaction_free_space,
        polling_interval: settings.polling_interval,
        compaction_interval: settings.compaction_interval,
        compaction_rate: settings.compaction_rate,
        report: Arc::new(report),
        ..kingdb::Options::new(&settings.db_path)
    }
}

fn report(severity: Severity, message: &str) {
    match severity {
        Severity::Info => log::info(message),
        Severity::Warning => log::warn(message),
        Severity::Error => log::error(message),
    }
}

/// Another identity than the one that made a file may not be allowed to remove it.
fn warn_of_rest(path: Option<&Path>, what: &str, option: &str) {
    if let Some(path) = path.filter(|path| !process::may_remove(path)) {
        let path = path.display();
        log::warn(format_args!(
            "the {what} {path} will be left behind: the user given with -u cannot remove files there; put it into a directory of that user's ({option})"
        ));
    }
}

/// Root may read a file that the user given with -u may not.
fn warn_of_users(users: &Users) {
    if let Err(why) = users.read_again() {
        log::warn(format_args!("SIGHUP will not read the users' file again: {why}"));
    }
}

/// The file with the process id, which no other server can have at the same time; goes when the server does.
struct PidFile {
    path: PathBuf,
    held: File,
}

impl PidFile {
    fn write(path: PathBuf) -> Result<PidFile, String> {
        let shown = path.display();
        match Self::hold(&path) {
            Ok(held) => Ok(PidFile { path, held }),
            Err(error) => Err(format!("cannot write the pid file {shown}: {error}")),
        }
    }

    fn hold(path: &Path) -> io::Result<File> {
        if path.is_symlink() {
            return Err(io::Error::other("it is a symbolic link; choose another (-P)"));
        }
        let held = loop {
            let (held, is_own) = file::hold(path)?;
            match is_at(&held, path) {
                true if is_own => break held,
                true if names_process(&held) => {
                    return Err(io::Error::other("a server that runs has it; stop that or choose another (-P)"));
                }
                // Whoever may read a file can lock it, for as long as he likes.
                true => {
                    log::warn(format_args!(
                        "the pid file {} of a server that is gone is locked: it is made anew",
                        path.display()
                    ));
                    fs::remove_file(path)?;
                }
                // One that ended meanwhile has removed it.
                false => {}
            }
        };
        let found = held.metadata()?;
        if found.file_type().is_fifo() || found.nlink() > 1 {
            return Err(io::Error::other("it is a pipe or has another name; choose another (-P)"));
        }
        if found.is_file() {
            held.set_len(0)?;
        }
        (&held).write_all(format!("{}\n", std::process::id()).as_bytes())?;
        Ok(held)
    }
}

/// Whether the process of this pid file may run: it does, or the file does not name it yet, and then this is `/proc` itself.
fn names_process(held: &File) -> bool {
    let mut text = [0; 16];
    let len = held.read_at(&mut text, 0).unwrap_or(0);
    let proc = Path::new("/proc");
    proc.join(OsStr::from_bytes(text[..len].trim_ascii())).exists() || !proc.join("self").exists()
}

/// Whether the open file is the one of that name.
fn is_at(held: &File, path: &Path) -> bool {
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    held.metadata().is_ok_and(|own| fs::symlink_metadata(path).is_ok_and(|found| id(found) == id(own)))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let is_file = self.held.metadata().is_ok_and(|found| found.is_file());
        if is_file && is_at(&self.held, &self.path) {
            // A warning at the start told whoever cannot.
            let _ = fs::remove_file(&self.path);
        }
    }
}
