//! Messages: one line each, from any thread, to stderr, the system log or a file.
//!
//! A message is one write(2), so that lines of several threads never mix. Where stderr is the journal, lines carry its
//! `<priority>` and no time of their own; elsewhere they begin with the time. Nothing here blocks on another thread, nor on
//! who reads stderr; a message that cannot be written is lost. One that repeats itself is shown once a minute, with a count
//! ([`repeats`]), unless it answers a signal.

mod repeats;

use std::fmt::{Display, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use kingdb::sys::{clock, file, poll};

use self::repeats::Repeats;

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is broken and stays so until somebody acts.
    Error,
    /// Something is not as it should be; the server copes.
    Warn,
    /// The life of the server: started, stopping.
    Info,
    /// The life of connections.
    Debug,
}

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stderr,
    /// syslog(3), by way of `/dev/log`.
    Syslog,
    /// Appended to this file.
    File(PathBuf),
}

enum Sink {
    Stderr,
    Journal,
    Syslog(UnixDatagram),
    /// A file, and its name.
    File(File, PathBuf),
}

/// Where the system log listens.
const SYSLOG: &str = "/dev/log";

/// What was configured; `verbosity` may only show more.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static VERBOSITY: AtomicU8 = AtomicU8::new(0);
static SINK: OnceLock<Sink> = OnceLock::new();
/// Messages that stderr did not take, and nobody was told of yet.
static LOST: AtomicU64 = AtomicU64::new(0);
static REPEATS: Mutex<Repeats> = Mutex::new(Repeats::new());

/// Sets the level and the target; call it once, before the first thread. Until then messages go to stderr.
pub fn init(level: Level, target: &Target) -> Result<(), String> {
    LEVEL.store(level as u8, Ordering::Relaxed);
    let sink = match target {
        Target::Stderr if stderr_is_journal() => Sink::Journal,
        Target::Stderr => Sink::Stderr,
        Target::Syslog => Sink::Syslog(syslog().map_err(|error| {
            format!("cannot reach the system log at /dev/log: {error}; choose another --log.target")
        })?),
        Target::File(path) => {
            let file = append(path).map_err(|error| {
                format!("cannot write messages to {}: {error}; choose another --log.target", path.display())
            })?;
            Sink::File(file, path.clone())
        }
    };
    // A second call changes the level only.
    let _ = SINK.set(sink);
    Ok(())
}

/// Opens the file of messages again by its name, as SIGHUP asks: whoever rotates it has moved it away. `false`: there is none.
pub fn reopen() -> bool {
    // A pipe has nothing to rotate, and opening it may wait for a reader.
    let Some(Sink::File(file, path)) = SINK.get() else { return false };
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return false;
    }
    match append(path).and_then(|new| file::replace(file, new)) {
        Ok(()) => answer(Level::Info, &"SIGHUP: the file of messages was opened again"),
        Err(error) => {
            let path = path.display();
            answer(
                Level::Error,
                &format_args!("SIGHUP: cannot open {path} again: {error}; messages go to the file of before"),
            );
        }
    }
    true
}

/// `-v` and the protocol's `verbosity`: above 0, debug messages are shown whatever the level.
pub fn set_verbosity(verbosity: u8) {
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

/// What [`set_verbosity`] was told last.
pub fn verbosity() -> u8 {
    VERBOSITY.load(Ordering::Relaxed)
}

/// Whether messages of this level are shown: worth asking before a costly one is composed.
pub fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed) || verbosity() > 0
}

/// Something is broken and stays so until somebody acts.
pub fn error(message: impl Display) {
    write(Level::Error, &message);
}

/// Something is not as it should be; the server copes.
pub fn warn(message: impl Display) {
    write(Level::Warn, &message);
}

/// The life of the server: started, stopping.
pub fn info(message: impl Display) {
    write(Level::Info, &message);
}

/// The life of connections. Shown with `-v`.
pub fn debug(message: impl Display) {
    write(Level::Debug, &message);
}

/// What is never taken for a repetition: the answer to a signal, for which whoever sent that looks; what others count.
pub fn answer(level: Level, message: &dyn Display) {
    if enabled(level) {
        put(level, &one_line(message));
    }
}

/// Lets a message through once a second: loops write them, and clients can have some written as fast as they ask.
pub struct Limit(AtomicU64);

impl Limit {
    pub const fn new() -> Limit {
        Limit(AtomicU64::new(u64::MAX))
    }

    pub fn admits(&self) -> bool {
        let second = clock::monotonic().as_secs();
        self.0.swap(second, Ordering::Relaxed) != second
    }
}

/// The program's last words: to stderr under the program's name, for whoever started it, and to the target if that is
/// elsewhere.
pub fn fatal(message: impl Display) {
    let text = one_line(&message);
    let sink = SINK.get();
    let journal = sink.map_or_else(stderr_is_journal, |sink| matches!(sink, Sink::Journal));
    let mark = if journal { "<3>" } else { "" };
    if matches!(sink, Some(Sink::Syslog(_) | Sink::File(..))) {
        put(Level::Error, &text);
    }
    let mut stderr = io::stderr();
    if poll::is_writable(&stderr) {
        // Nobody is left to tell about a message that cannot be written.
        let _ = stderr.write_all(format!("{mark}kingserver: {text}\n").as_bytes());
    }
}

/// Tells how often messages were repeated that nobody was told of yet: before the last one.
pub fn settle() {
    if let Ok(mut repeats) = REPEATS.try_lock() {
        repeats.rest().iter().for_each(|(level, text)| put(*level, text));
    }
}

fn write(level: Level, message: &dyn Display) {
    if !enabled(level) {
        return;
    }
    let text = one_line(message);
    // What one connection does is no repetition of what another did; and no thread waits for one that compares.
    match REPEATS.try_lock() {
        Ok(mut repeats) if level < Level::Debug => {
            let shown = repeats.take(level, &text, clock::monotonic());
            shown.iter().for_each(|(level, text)| put(*level, text));
        }
        _ => put(level, &text),
    }
}

/// Tells it, whatever messages are to be shown.
pub fn put(level: Level, text: &str) {
    let stderr = io::stderr();
    // Nobody is left to tell about a message that cannot be written.
    let _ = match SINK.get().unwrap_or(&Sink::Stderr) {
        Sink::Stderr => shout(&mut &stderr, poll::is_writable(&stderr), level, text, stamped),
        Sink::File(file, _) => shout(&mut &*file, poll::is_writable(file), level, text, stamped),
        Sink::Journal => shout(&mut &stderr, poll::is_writable(&stderr), level, text, for_journal),
        Sink::Syslog(socket) => send(socket, Path::new(SYSLOG), datagram(level, text).as_bytes()),
    };
}

/// To stderr or a file, which may be a pipe, unless whoever reads that has come to a stop and it is not `ready`. When he goes
/// on, he is told what he missed.
fn shout(
    out: &mut dyn io::Write,
    ready: bool,
    level: Level,
    text: &str,
    form: fn(Level, &str) -> String,
) -> io::Result<()> {
    if !ready {
        LOST.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    let lost = match LOST.swap(0, Ordering::Relaxed) {
        0 => String::new(),
        lost => form(Level::Warn, &format!("{lost} messages were lost: nobody read them")),
    };
    out.write_all((lost + &form(level, text)).as_bytes())
}

/// The message without line ends: a client's bytes in it must not start a line of their own.
fn one_line(message: &dyn Display) -> String {
    message.to_string().replace(|c: char| c.is_control(), " ")
}

fn stamped(level: Level, text: &str) -> String {
    let name = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    format!("{} {name}: {text}\n", timestamp(clock::wall_time()))
}

/// systemd's journal has its own time.
fn for_journal(level: Level, text: &str) -> String {
    format!("<{}>{text}\n", priority(level))
}

/// syslog.h's numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug => 7,
    }
}

/// RFC 3164, as local system logs take it. The facility is LOG_DAEMON; the receiver adds time and host.
fn datagram(level: Level, text: &str) -> String {
    format!("<{}>kingserver[{}]: {text}", 3 * 8 + priority(level), std::process::id())
}

fn syslog() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SYSLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A system log that was started again has another socket of that name.
fn send(socket: &UnixDatagram, path: &Path, datagram: &[u8]) -> io::Result<()> {
    match socket.send(datagram) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => {
            socket.connect(path)?;
            socket.send(datagram).map(drop)
        }
        outcome => outcome.map(drop),
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// systemd names the journal's stream as `device:inode`; a redirected stderr is another file.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Coordinated Universal Time, to the millisecond: 2026-01-31T23:59:59.999Z.
fn timestamp(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut text = String::with_capacity(24);
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        since_1970.subsec_millis()
    );
    text
}

/// Year, month and day of a count of days since 1970-01-01. Years are counted from March, so that a leap day is a
/// year's last; 400 of them have 146,097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_709_164_799, "2024-02-28T23:59:59.007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(timestamp(Duration::new(seconds, 7_000_000)), expected);
        }
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(one_line(&"a\nb\r\n\x1b[31mc"), "a b   [31mc");
        assert_eq!(datagram(Level::Error, "x"), format!("<27>kingserver[{}]: x", std::process::id()));
    }

    #[test]
    fn a_system_log_that_was_started_again_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let before = UnixDatagram::bind(&path).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(&path).unwrap();
        send(&socket, &path, b"one").unwrap();
        drop(before);
        std::fs::remove_file(&path).unwrap();
        assert!(send(&socket, &path, b"two").is_err());
        let after = UnixDatagram::bind(&path).unwrap();
        send(&socket, &path, b"three").unwrap();
        let mut text = [0; 8];
        assert_eq!(after.recv(&mut text).unwrap(), 5);
        assert_eq!(&text[..5], b"three");
    }

    #[test]
    fn levels_are_ordered_by_weight() {
        assert!(enabled(Level::Error) && enabled(Level::Info) && !enabled(Level::Debug));
        set_verbosity(1);
        assert!(enabled(Level::Debug));
        set_verbosity(0);
    }
}
