//! One command, carried out for whoever is at the other end of a stream: by a thread of the server, or of the command
//! itself where no server has the store open. The thread blocks; it ends early when the other end goes away, or when
//! it is told to stop, by the flag and by shutting its stream down.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use kingdb::{Db, Error};

use super::wire::{Incoming, Outgoing, Said, Wire};

/// Time between two words on how far it has come.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the other end may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// A thread compacts, whether or not whoever asked for that still waits.
static COMPACTING: AtomicBool = AtomicBool::new(false);

/// Hears one command and carries it out. Returns what it was, for messages, and how it ended.
pub fn serve(stream: &UnixStream, db: &Arc<Db>, data: &Path, stopping: &AtomicBool) -> io::Result<(Said, Said)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut wire = Wire::new(stream.try_clone()?)?;
    let asked = wire.hear()?;
    stream.set_read_timeout(None)?;
    let outcome = match &asked {
        Said::Backup(target) => {
            let mut teller = Teller::new(&mut wire, stopping);
            let done = db.backup(target, &mut |done, total| teller.tell(done, total));
            done.map(|done| format!("{} files linked, {} copied ({} bytes)", done.linked, done.copied, done.bytes))
        }
        Said::Compact => compact(&mut wire, db, data, stopping),
        Said::Dump => {
            let dumped = db.snapshot().and_then(|now| kingdb::dump(&now, &mut Outgoing::new(&mut wire), &mut |_| ()));
            dumped.map(|tally| format!("{} records", tally.records))
        }
        Said::Load => {
            let loaded = kingdb::load(db, &mut Incoming::new(&mut wire), &mut |_| ());
            loaded.map(|tally| format!("{} records", tally.records))
        }
        _ => Err(Error::Invalid("that is no command".into())),
    };
    let answer = match outcome {
        Ok(text) => Said::Ok(text),
        Err(_) if stopping.load(SeqCst) => Said::Error("the server was told to stop".into()),
        Err(error) => Said::Error(error.to_string()),
    };
    // Whoever asked may have gone away; then it matters to nobody.
    let _ = wire.say(&answer);
    Ok((asked, answer))
}

/// Tells the other end how far it has come, not too often; tells the work whether to go on.
struct Teller<'a> {
    wire: &'a mut Wire,
    stopping: &'a AtomicBool,
    told: Option<Instant>,
}

impl<'a> Teller<'a> {
    fn new(wire: &'a mut Wire, stopping: &'a AtomicBool) -> Teller<'a> {
        Teller { wire, stopping, told: None }
    }

    fn tell(&mut self, done: u64, total: u64) -> bool {
        if self.told.is_some_and(|told| told.elapsed() < PAUSE) {
            return !self.stopping.load(SeqCst);
        }
        self.told = Some(Instant::now());
        self.wire.say(&Said::Progress(done, total)).is_ok() && !self.stopping.load(SeqCst)
    }
}

/// Compaction takes no questions: a thread of its own does it. Whoever asked waits for it, or goes away; closing the store
/// ends it.
fn compact(wire: &mut Wire, db: &Arc<Db>, data: &Path, stopping: &AtomicBool) -> kingdb::store::Result<String> {
    if COMPACTING.swap(true, SeqCst) {
        return Err(Error::Other("a compaction is under way already".into()));
    }
    let before = size_on_disk(data);
    let (tell, told) = channel();
    let own = db.clone();
    let work = move || {
        let done = own.compact();
        COMPACTING.store(false, SeqCst);
        // Perhaps nobody waits any more.
        let _ = tell.send(done);
    };
    if let Err(error) = std::thread::Builder::new().name("admin-compact".into()).spawn(work) {
        COMPACTING.store(false, SeqCst);
        return Err(Error::Other(format!("cannot start a thread: {error}").into()));
    }
    let mut teller = Teller::new(wire, stopping);
    loop {
        match told.recv_timeout(PAUSE) {
            Ok(done) => {
                let after = size_on_disk(data);
                return done.map(|()| format!("{} bytes freed, {after} are left", before.saturating_sub(after)));
            }
            Err(RecvTimeoutError::Timeout) if teller.tell(before.saturating_sub(size_on_disk(data)), 0) => {}
            Err(_) => return Err(Error::Other("nobody waits for the compaction any more".into())),
        }
    }
}

/// What the files of a directory take up, as far as that can be told. Bytes.
fn size_on_disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.blocks() * 512).sum()
}
