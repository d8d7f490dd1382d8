//! Commands that need the store open: `backup`, `compact`, `dump`, `load`. If a server has it open, that one carries them out;
//! else this process opens the store for as long as it takes. The conversation is the same.

use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kingdb::store::Severity;
use kingdb::sys::process;
use kingdb::sys::socket::peer_user;
use kingdb::{Db, Options};

use super::bar::Bar;
use super::wire::{MAX_DATA, Said, Wire};
use super::{Order, Outcome, door, session, show};

pub fn backup(order: &Order) -> Outcome {
    let Some(target) = &order.target else { return Err("say where to: kingserver backup DIR".into()) };
    let target = std::path::absolute(target).map_err(|error| format!("{}: {error}", target.display()))?;
    converse(order, Said::Backup(target), "copying", &mut |_, _| Ok(()))
}

pub fn compact(order: &Order) -> Outcome {
    converse(order, Said::Compact, "compacting: freed", &mut |_, _| Ok(()))
}

pub fn dump(order: &Order) -> Outcome {
    converse(order, Said::Dump, "dumping", &mut |_, _| Ok(()))
}

pub fn load(order: &Order) -> Outcome {
    let mut sent = 0;
    converse(order, Said::Load, "loading", &mut |wire, bar| {
        let mut input = io::stdin().lock();
        loop {
            let bytes = input.fill_buf().map_err(|error| format!("cannot read the standard input: {error}"))?;
            let part = &bytes[..bytes.len().min(MAX_DATA)];
            let count = part.len();
            // If the other side will have no more, it has said why.
            if wire.send(part).is_err() || count == 0 {
                return Ok(());
            }
            input.consume(count);
            sent += count as u64;
            bar.show(sent, 0);
        }
    })
}

/// What is sent behind the command.
type More<'a> = &'a mut dyn FnMut(&mut Wire, &mut Bar) -> Result<(), String>;

fn converse(order: &Order, said: Said, doing: &'static str, more: More<'_>) -> Outcome {
    let bar = &mut Bar::new(doing);
    let data = order.settings.db_path.as_path();
    let reached =
        door::reach(data).map_err(|error| format!("cannot reach the server of {}: {error}", data.display()))?;
    match reached {
        Some(stream) => {
            let user = peer_user(&stream).unwrap_or_else(|_| process::user());
            let whose = match user == process::user() {
                true => String::new(),
                false => format!("; the server that has {} open runs as user {user}", data.display()),
            };
            talk(stream, said, bar, more, &whose)
        }
        None => alone(order, said, bar, more),
    }
}

/// Opens the store and talks to oneself.
fn alone(order: &Order, said: Said, bar: &mut Bar, more: More<'_>) -> Outcome {
    let data = order.settings.db_path.as_path();
    require_store(data, said == Said::Load)?;
    let report = Arc::new(|severity, message: &str| {
        if severity > Severity::Info {
            eprintln!("kingserver: {message}");
        }
    });
    let options = Options { cache_bytes: 0, report, ..(order.store_options)(&order.settings) };
    let db = Arc::new(Db::open(options).map_err(|error| error.to_string())?);
    let cannot = |error: io::Error| format!("cannot start: {error}");
    let (here, there) = UnixStream::pair().map_err(cannot)?;
    let (own, place) = (db.clone(), data.to_owned());
    let work = move || {
        // How it ended, the other end is told.
        let _ = session::serve(&there, &own, &place, &AtomicBool::new(false));
    };
    let thread = std::thread::Builder::new().name("session".into()).spawn(work).map_err(cannot)?;
    let outcome = talk(here, said, bar, more, "");
    let _ = thread.join();
    let closed = db.close().map_err(|error| format!("the store did not close in good order: {error}"));
    outcome.and_then(|status| closed.map(|()| status))
}

/// Nothing is to be made by mistake, and no files of root's in a store that is another user's.
fn require_store(data: &Path, may_make: bool) -> Result<(), String> {
    let shown = data.display();
    let store = std::fs::metadata(data.join("STORE"));
    let is_missing = store.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    match if is_missing { std::fs::metadata(data) } else { store } {
        _ if is_missing && !may_make => Err(format!("there is no store in {shown}: give the directory that has it")),
        Ok(found) if process::is_root() && found.uid() != 0 => {
            let user = found.uid();
            Err(format!("{shown} belongs to user {user}: do this as that user, who must be able to use it"))
        }
        _ if is_missing => require_dump(),
        found => found.map(drop).map_err(|error| format!("cannot use the store in {shown}: {error}")),
    }
}

/// Nor is a store made for what is no dump.
fn require_dump() -> Result<(), String> {
    const FIRST_LINE: &[u8] = b"kingdb-dump 1\n";
    let mut input = io::stdin().lock();
    let begun = input.fill_buf().map_err(|error| format!("cannot read the standard input: {error}"))?;
    // Who writes slowly has perhaps written only a part of it; all of it is looked at when it is loaded.
    match !begun.is_empty() && begun.iter().zip(FIRST_LINE).all(|(a, b)| a == b) {
        true => Ok(()),
        false => Err("it is no dump of this version: the first line must be \"kingdb-dump 1\"".into()),
    }
}

/// `whose`: what is to be said of the server behind its own complaints.
fn talk(stream: UnixStream, said: Said, bar: &mut Bar, more: More<'_>, whose: &str) -> Outcome {
    let lost = |error: io::Error| format!("the server is gone before it was done: {error}");
    let mut wire = Wire::new(stream).map_err(lost)?;
    // A server that turns a command away has said why.
    let _ = wire.say(&said);
    more(&mut wire, bar)?;
    let (mut bytes, mut received) = (Vec::new(), 0);
    loop {
        match wire.hear().map_err(lost)? {
            Said::Progress(done, total) => bar.show(done, total),
            Said::Data(len) => {
                wire.receive(len, &mut bytes).map_err(lost)?;
                io::stdout()
                    .write_all(&bytes)
                    .map_err(|error| format!("cannot write to the standard output: {error}"))?;
                received += len as u64;
                bar.show(received, 0);
            }
            Said::Ok(text) => return done(&said, &text, bar),
            Said::Error(why) => return Err(why + whose),
            other => return Err(format!("the server said what makes no sense here: {}", other.name())),
        }
    }
}

/// Where the standard output is the dump's, what there is to say goes to standard error, and only to a person.
fn done(said: &Said, text: &str, bar: &mut Bar) -> Outcome {
    bar.end();
    match said {
        Said::Dump => {
            io::stdout().flush().map_err(|error| format!("cannot write to the standard output: {error}"))?;
            bar.say(text);
            Ok(0)
        }
        _ => show(&format!("{text}\n")),
    }
}
