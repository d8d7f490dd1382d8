//! The server: loops that speak the memcached protocol, in front of the store.
//!
//! `main` calls [`Listeners::bind`], [`open`]s the store, and calls [`run`], which returns when the server was
//! told to stop. Below this module nothing blocks and nothing is unsafe.
//!
//! Signals are blocked in every thread and read by the main thread alone, which therefore does nothing that
//! may take long: not even open the store, or a server that reads a long log could not be stopped.
#![forbid(unsafe_code)]

pub mod admin;
mod answer;
mod auth;
mod binary;
mod buffer;
mod command;
mod conn;
mod context;
mod control;
mod counters;
mod errand;
mod fetch;
mod inbox;
mod input;
mod listen;
pub mod log;
mod memory;
mod meta;
mod multipart;
pub mod options;
mod proto;
mod receive;
mod reply;
mod retrieve;
pub mod settings;
mod shared;
mod stats;
mod storage;
mod streaming;
mod table;
mod update;
mod verdict;
mod watch;
mod worker;

pub use auth::Users;
pub use listen::Listeners;
pub use settings::Settings;

use admin::Door;
use kingdb::sys::epoll::{Epoll, Interest};
use kingdb::sys::event::EventFd;
use kingdb::sys::signal::{Signal, SignalFd};
use kingdb::{Db, Options};
use log::Level;
use shared::Shared;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use worker::Worker;

/// Opens the store on a thread of its own; who may use the server can be changed meanwhile. `None`: the server was told to stop meanwhile. The caller then ends the
/// process, and the thread with it; to the store that is a crash like any other.
pub fn open(listeners: &Listeners, options: Options, users: Option<&Users>) -> Result<Option<Db>, String> {
    let fail = |e: io::Error| format!("cannot start: {e}");
    let ended = Arc::new(EventFd::new().map_err(fail)?);
    let bell = Bell(ended.clone());
    let opening = std::thread::Builder::new().name("opener".to_owned()).spawn(move || {
        let _bell = bell;
        Db::open(options)
    });
    let opening = opening.map_err(fail)?;
    match wait(&listeners.signals, &ended, users).map_err(|e| format!("cannot wait for signals: {e}"))? {
        Waited::Stop => Ok(None),
        Waited::Ended => match opening.join() {
            Ok(opened) => opened.map(Some).map_err(|error| error.to_string()),
            Err(_) => Err("opening the store panicked; the message is above".to_owned()),
        },
    }
}

/// Opens the door for commands. A server that they cannot reach serves all the same.
pub fn open_door(settings: &Settings, db: &Arc<Db>) -> Option<Door> {
    let data = &settings.db_path;
    let warn = |error: &io::Error| {
        let socket = data.join("ADMIN");
        log::warn(format_args!("commands such as backup will not reach this server: {}: {error}", socket.display()));
    };
    Door::open(data, db.clone()).inspect_err(warn).ok()
}

/// Serves until SIGTERM or SIGINT, or until a loop fails. When it returns, no thread of the server is left,
/// replies in hand have been sent as far as possible, and the caller closes the store.
pub fn run(
    settings: Settings,
    users: Option<Users>,
    db: Arc<Db>,
    mut listeners: Listeners,
    door: Option<Door>,
) -> Result<(), String> {
    let fail = |e: io::Error| format!("cannot start: {e}");
    let ended = Arc::new(EventFd::new().map_err(fail)?);
    let shared = Arc::new(Shared::new(settings, users, ended.clone()).map_err(fail)?);
    let watched = shared.clone();
    db.on_eviction(Box::new(move |key, size| watch::evicted(&watched.watch, key, size)));
    let mut workers = Vec::new();
    let started = (0..shared.settings.threads).try_for_each(|number| {
        let door = listeners.door(number);
        let worker = Worker::new(number, shared.clone(), db.clone(), door)?;
        start(number, worker, ended.clone()).map(|thread| workers.push(thread))
    });
    // Those that run are stopped whatever happened to the others: the caller closes the store.
    let waited = match started.map_err(fail) {
        Ok(()) => {
            wait(&listeners.signals, &ended, shared.users.as_ref()).map_err(|e| format!("cannot wait for signals: {e}"))
        }
        Err(why) => Err(why),
    };
    if waited.is_ok() {
        log::info("stopping");
    }
    shared.inboxes.iter().for_each(|inbox| inbox.stop());
    door.into_iter().for_each(Door::close);
    // All are joined, and the first failure is told.
    let outcomes = workers.into_iter().map(join);
    waited.map(|_| ()).and(outcomes.fold(Ok(()), Result::and))
}

fn join(worker: JoinHandle<io::Result<()>>) -> Result<(), String> {
    match worker.join() {
        Ok(outcome) => outcome.map_err(|e| format!("a worker's loop failed: {e}")),
        Err(_) => Err("a worker's loop panicked; its message is above".to_owned()),
    }
}

fn start(number: usize, worker: Worker, ended: Arc<EventFd>) -> io::Result<JoinHandle<io::Result<()>>> {
    let bell = Bell(ended);
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        let _bell = bell;
        worker.run()
    })
}

/// Rings when its thread ends, be it by a panic.
struct Bell(Arc<EventFd>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.ring();
    }
}

/// What the main thread waits for.
enum Waited {
    /// A signal to stop.
    Stop,
    /// The end of a thread that it started.
    Ended,
}

fn wait(signals: &SignalFd, ended: &EventFd, users: Option<&Users>) -> io::Result<Waited> {
    let mut epoll = Epoll::new(2)?;
    epoll.add(signals, Interest::LEVEL_IN, 0)?;
    epoll.add(ended, Interest::LEVEL_IN, 1)?;
    loop {
        let events = epoll.wait(None)?;
        if (0..events).any(|index| epoll.event(index).token == 1) {
            return Ok(Waited::Ended);
        }
        while let Some(signal) = signals.read()? {
            match signal {
                Signal::Stop => return Ok(Waited::Stop),
                Signal::Reload => reload(users),
                Signal::Other(name) => no_effect(name),
            }
        }
    }
}

fn reload(users: Option<&Users>) {
    let reopened = log::reopen();
    users.inspect(|users| users.warn_if_open());
    match users.map(Users::read_again) {
        Some(Ok(())) => log::answer(Level::Info, &"SIGHUP: the users' file was read again"),
        Some(Err(why)) => log::answer(Level::Error, &format_args!("SIGHUP: {why}; the users are those of before")),
        None if reopened => {}
        None => no_effect("SIGHUP"),
    }
}

fn no_effect(signal: &str) {
    log::answer(Level::Info, &format_args!("{signal} has no effect: a change of options wants a restart"));
}
