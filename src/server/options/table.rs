//! The table: a row per option.
//!
//! KingServer's own names come first (`--server.port`), memcached's letters and names are beside them (`-p`, `--port`),
//! so that a memcached unit file needs only its path changed. What memcached knows and KingServer has no use for is
//! accepted with a note, never in silence.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::{Launch, listen, units};
use crate::server::log;
use crate::server::settings::{Dialect, Settings};

/// Longest value, unless told otherwise, and where there is no limit. Bytes.
const MAX_VALUE: u64 = 1 << 30;
const NO_LIMIT: u64 = 1 << 62;
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const DEFAULT_PORT: u16 = 11211;

/// Rows that `--help` shows together.
pub struct Group {
    pub title: &'static str,
    pub rows: &'static [Row],
}

/// One option.
pub struct Row {
    /// Its letter, or nothing.
    pub letter: &'static str,
    /// Its long names, without dashes; the first is the one to use.
    pub names: &'static [&'static str],
    /// What its value is. Nothing: it takes none.
    pub value: &'static str,
    /// The default, for people. Nothing: none to tell.
    pub default: &'static str,
    pub help: &'static str,
    /// Takes a value; a flag's is "yes", or what a configuration file says.
    pub set: fn(&mut Draft, &str) -> Result<(), String>,
}

impl Row {
    pub fn is_flag(&self) -> bool {
        self.value.is_empty()
    }

    /// Whether it is told on the command line only.
    pub fn is_command(&self) -> bool {
        matches!(self.names[0], "help" | "version" | "config")
    }

    /// Letter and names with their dashes.
    pub fn label(&self) -> String {
        let letter = (!self.letter.is_empty()).then(|| format!("-{}", self.letter));
        let names = self.names.iter().map(|name| format!("--{name}"));
        letter.into_iter().chain(names).collect::<Vec<_>>().join(", ")
    }
}

const fn row(
    letter: &'static str,
    names: &'static [&'static str],
    value: &'static str,
    default: &'static str,
    help: &'static str,
    set: fn(&mut Draft, &str) -> Result<(), String>,
) -> Row {
    Row { letter, names, value, default, help, set }
}

pub const GROUPS: &[Group] = &[
    Group { title: "Network", rows: NETWORK },
    Group { title: "Connections", rows: CONNECTIONS },
    Group { title: "Store", rows: STORE },
    Group { title: "Process", rows: PROCESS },
    Group { title: "Accepted for memcached's sake", rows: MEMCACHED },
];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    row("l", &["server.interface", "listen"], "ADDR[:PORT],...", "127.0.0.1", "addresses to listen on; may be repeated", interface),
    row("p", &["server.port", "port"], "PORT", "11211", "TCP port of addresses without one; 0: any free one", port),
    row("s", &["server.unix-socket", "unix-socket"], "PATH", "", "listen on a Unix socket; without -l and -p, on nothing else", unix_socket),
    row("a", &["server.unix-mode", "unix-mask"], "MODE", "700", "permission bits of the Unix socket, octal", unix_mode),
    row("b", &["server.listen-backlog", "listen-backlog"], "N", "1024", "connections the kernel holds until they are accepted", backlog),
    row("", &["server.tcp-nodelay"], "YES|NO", "yes", "send replies at once (TCP_NODELAY)", nodelay),
    row("", &["server.keep-alive"], "YES|NO", "yes", "have the kernel find dead peers (SO_KEEPALIVE)", keepalive),
    row("", &["server.user-timeout"], "TIME", "0, the kernel's", "give up on unacknowledged data after this long\n(TCP_USER_TIMEOUT)", user_timeout),
    row("", &["server.recv-buffer"], "SIZE", "0, tuned by the kernel", "socket receive buffer (SO_RCVBUF)", recv_buffer),
    row("", &["server.send-buffer"], "SIZE", "0, tuned by the kernel", "socket send buffer (SO_SNDBUF)", send_buffer),
];

#[rustfmt::skip]
const CONNECTIONS: &[Row] = &[
    row("t", &["server.num-threads", "threads"], "N", "one per processor", "worker threads", threads),
    row("c", &["server.max-connections", "conn-limit"], "N", "1024", "most connections at once", max_connections),
    row("", &["server.buffer-memory"], "SIZE", "64mb", "memory that all connections may hold for values on their way in\nand replies on their way out, 1mb or more", buffer_memory),
    row("", &["server.request-timeout"], "TIME", "1 min", "close a connection whose command, or next 64 KiB of a value,\ntakes longer to arrive; 0: never", request_timeout),
    row("", &["server.upload-timeout"], "TIME", "1 min", "give up an upload in parts that was not added to for this long", upload_timeout),
    row("", &["server.idle-timeout"], "TIME", "0, never", "close a connection that was silent this long", idle_timeout),
    row("R", &["server.commands-per-turn", "max-reqs-per-event"], "N", "128", "commands one connection may have executed before others have\ntheir turn", commands_per_turn),
    row("", &["server.bytes-per-turn"], "SIZE", "256k", "bytes one connection may send before others have their turn", bytes_per_turn),
    row("Y", &["server.auth-file", "auth-file"], "FILE", "", "ask clients for a name and password; the file has a line\nuser:password for each, and is read again on SIGHUP", users),
    row("I", &["server.max-value-size", "max-item-size"], "SIZE", "1gb", "largest value, 1k or more; 0: as large as the disk allows", max_value),
];

#[rustfmt::skip]
const STORE: &[Row] = &[
    row("", &["db.path"], "DIR", "kingdb-data", "the data directory; made if it is not there", db_path),
    row("", &["db.sync"], "POLICY", "interval", "when a write is on the disk: 'always': before its reply;\n'interval': soon after; 'none': when the kernel thinks fit", sync),
    row("", &["db.sync-interval"], "TIME", "500ms", "how soon, under 'interval': 1ms to 1h", sync_interval),
    row("", &["db.compression"], "YES|NO", "yes", "compress values where that helps (snappy)", compression),
    row("m", &["memory-limit"], "MIB", "64", "memory for cached values, in MiB or with a unit; 0: none", memory_limit),
    row("", &["db.cache-size"], "SIZE", "64mb", "the same as a size", cache_size),
    row("", &["db.lane-threads"], "N", "2", "threads for what may wait for the disk", lane_threads),
    row("", &["db.max-size"], "SIZE", "0, no limit", "most space that the store takes on the disk, 8mb or more", max_size),
    row("", &["db.storage.minimum-free-space-accept-orders"], "SIZE", "auto", "free space below which values are refused; auto: a 32nd of\nthe file system, from 2mb to 192mb", free_space_floor),
    row("", &["db.evict", "evict"], "", "", "a cache: on a full disk, or at --db.max-size, give up the oldest\nvalues rather than refuse new ones", evict),
    row("", &["db.storage.statistics-polling-interval"], "TIME", "5s", "how often the free space is looked at", polling_interval),
    row("", &["db.compaction.filesystem.survival-mode-threshold"], "SIZE", "auto", "free space below which compaction hurries; auto: an eighth\nof the file system, at most 2gb", survival_threshold),
    row("", &["db.compaction.force-interval"], "TIME", "5m", "compact at least this often, if it is worth anything", compaction_interval),
    row("", &["db.compaction.rate-limit"], "SIZE", "16mb", "bytes a second that compaction may read where little is\nwritten; 0: no limit", compaction_rate),
    row("", &["db.write-buffer.size"], "SIZE", "8mb", "bytes that may wait to be written before writers wait", write_buffer),
    row("", &["db.snapshot-memory"], "SIZE", "64mb", "memory for what changes while a dump or snapshot is open", snapshot_memory),
    row("", &["db.incoming-rate-limit"], "SIZE", "0, no limit", "most bytes of keys and values that come in per second", incoming_rate),
    row("", &["db.segment-size"], "SIZE", "64mb", "largest file of the log, from 1mb to 64mb", segment_size),
];

#[rustfmt::skip]
const PROCESS: &[Row] = &[
    row("", &["config"], "FILE", "", "read options from a file; the command line has precedence", on_command_line),
    row("d", &["daemon"], "", "", "run in the background, once the server listens", daemon),
    row("P", &["pidfile"], "FILE", "", "write the process id to a file", pid_file),
    row("u", &["user"], "NAME", "", "become this user, if started by root", user),
    row("v", &["verbose"], "", "", "show debug messages; more of them with -vv and -vvv", verbose),
    row("", &["log.level"], "LEVEL", "info", "least weight of messages: error, warn, info or debug", log_level),
    row("", &["log.target"], "TARGET", "stderr, with -d syslog", "where messages go: stderr, syslog or a file's path", log_target),
    row("h", &["help"], "", "", "show this and exit", on_command_line),
    row("V", &["version"], "", "", "show the version and exit", on_command_line),
];

#[rustfmt::skip]
const MEMCACHED: &[Row] = &[
    row("o", &["extended"], "NAME=N,...", "", "idle_timeout=N (seconds); other names have no effect", extended),
    row("U", &["udp-port"], "PORT", "0", "UDP is not served", udp_port),
    row("B", &["protocol"], "NAME", "auto", "dialect: auto, ascii (meta included) or binary; auto: as each\nconnection begins", protocol),
    row("S", &["enable-sasl"], "", "", "ask binary clients for a name and password; needs -Y, as text\nclients are asked then too", sasl),
    row("M", &["disable-evictions"], "", "", "the default: a full disk refuses values, see --db.evict", no_evict),
    row("A", &["enable-shutdown"], "", "", "let clients stop the server (shutdown)", enable_shutdown),
    row("F", &["disable-flush-all"], "", "", "refuse flush_all", disable_flush),
    row("X", &["disable-dumping"], "", "", "refuse key dumps and 'stats detail'", disable_dump),
    row("W", &["disable-watch"], "", "", "refuse watch", disable_watch),
    row("D", &["prefix-delimiter"], "CHAR", "", "what ends a prefix in 'stats detail'; else a colon; also turns that on", delimiter),
    row("e", &["memory-file"], "DIR", "", "the data directory, as --db.path", db_path),
    row("C", &["disable-cas"], "", "", "report CAS as off; CAS uniques are kept all the same", hide_cas),
    row("L", &["enable-largepages"], "", "", "no effect", no_effect),
    row("k", &["lock-memory"], "", "", "no effect", no_effect),
    row("r", &["enable-coredumps"], "", "", "no effect: set the limit in the service's unit", no_effect),
    row("f", &["slab-growth-factor"], "FACTOR", "", "no effect", no_effect),
    row("n", &["slab-min-size"], "BYTES", "", "no effect", no_effect),
];

/// Options on their way to becoming a [`Launch`].
pub struct Draft {
    /// The option being set, for notes.
    pub origin: String,
    launch: Launch,
    listen: Vec<(IpAddr, Option<u16>)>,
    port: Option<u16>,
    sasl: bool,
}

impl Default for Draft {
    fn default() -> Draft {
        let launch = Launch {
            settings: default_settings(),
            daemon: false,
            pid_file: None,
            user: None,
            log_level: log::Level::Info,
            log_target: None,
            notes: Vec::new(),
            given: Vec::new(),
        };
        Draft { origin: String::new(), launch, listen: Vec::new(), port: None, sasl: false }
    }
}

/// Keep in step with the table's `default` column; a test reads it back through the setters.
fn default_settings() -> Settings {
    Settings {
        listen: Vec::new(),
        unix_socket: None,
        unix_mode: 0o700,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        max_connections: 1024,
        backlog: 1024,
        commands_per_turn: 128,
        bytes_per_turn: 256 << 10,
        dialect: Dialect::Auto,
        users: None,
        shutdown: false,
        flush: true,
        dump: true,
        watch: true,
        hide_cas: false,
        detail: (b':', false),
        max_value: MAX_VALUE,
        buffer_memory: 64 << 20,
        request_timeout: Some(Duration::from_secs(60)),
        upload_timeout: Duration::from_secs(60),
        idle_timeout: None,
        nodelay: true,
        keepalive: true,
        user_timeout: Duration::ZERO,
        recv_buffer: 0,
        send_buffer: 0,
        verbosity: 0,
        cache_bytes: 64 << 20,
        db_path: PathBuf::from("kingdb-data"),
        sync: kingdb::Sync::Interval,
        sync_interval: Duration::from_millis(500),
        compression: true,
        lane_threads: 2,
        write_buffer: 8 << 20,
        snapshot_bytes: 64 << 20,
        incoming_rate: 0,
        max_size: 0,
        free_space_floor: None,
        evict: false,
        survival_threshold: None,
        polling_interval: Duration::from_secs(5),
        compaction_interval: Duration::from_secs(300),
        compaction_rate: 16 << 20,
        segment_bytes: 64 << 20,
    }
}

impl Draft {
    /// Settles what depends on several options.
    pub fn finish(mut self) -> Result<Launch, String> {
        let settings = &mut self.launch.settings;
        if self.listen.is_empty() && (settings.unix_socket.is_none() || self.port.is_some()) {
            self.listen.push((Ipv4Addr::LOCALHOST.into(), None));
        }
        // A server that was to be protected must not run unprotected.
        if self.sasl && settings.users.is_none() {
            return Err("-S wants the users' file: give it with -Y".into());
        }
        let port = self.port.unwrap_or(DEFAULT_PORT);
        for (address, own_port) in self.listen {
            let place = (address, own_port.unwrap_or(port));
            if place.1 == 0 || !settings.listen.contains(&place) {
                settings.listen.push(place);
            }
        }
        refuse_overlaps(&settings.listen)?;
        settings.db_path = absolute(&settings.db_path)?;
        Ok(self.launch)
    }

    fn settings(&mut self) -> &mut Settings {
        &mut self.launch.settings
    }
}

/// An address that stands for all of its kind takes the port of every other one; the kernel would name a stranger.
fn refuse_overlaps(listen: &[(IpAddr, u16)]) -> Result<(), String> {
    for (all, port) in listen.iter().filter(|(all, port)| all.is_unspecified() && *port != 0) {
        let same = |(ip, own): &&(IpAddr, u16)| own == port && ip != all && ip.is_ipv4() == all.is_ipv4();
        if let Some((ip, _)) = listen.iter().find(same) {
            return Err(format!(
                "-l {all} and -l {ip} overlap on port {port}: the first includes the second; give one of them"
            ));
        }
    }
    Ok(())
}

/// A daemon leaves the directory that it was started in.
fn absolute(path: impl Into<PathBuf>) -> Result<PathBuf, String> {
    let path = path.into();
    std::path::absolute(&path).map_err(|error| format!("cannot make '{}' an absolute path: {error}", path.display()))
}

fn interface(draft: &mut Draft, value: &str) -> Result<(), String> {
    listen::addresses(value).map(|found| draft.listen.extend(found))
}

fn port(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.port = Some(small(value, 0, u16::MAX.into())?);
    Ok(())
}

fn unix_socket(draft: &mut Draft, value: &str) -> Result<(), String> {
    let path = absolute(value)?;
    // sockaddr_un holds 108 bytes, the closing NUL included.
    if path.as_os_str().len() > 107 {
        return Err(format!("the path of a Unix socket may have 107 bytes; '{}' is longer", path.display()));
    }
    draft.settings().unix_socket = Some(path);
    Ok(())
}

fn unix_mode(draft: &mut Draft, value: &str) -> Result<(), String> {
    let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o777);
    draft.settings().unix_mode =
        mode.ok_or_else(|| format!("'{value}' is not a file mode: give octal digits from 0 to 777"))?;
    Ok(())
}

fn backlog(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().backlog = small(value, 1, 1 << 20)?;
    Ok(())
}

fn nodelay(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().nodelay = units::truth(value)?;
    Ok(())
}

fn keepalive(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().keepalive = units::truth(value)?;
    Ok(())
}

fn user_timeout(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().user_timeout = time(value, Duration::ZERO, Duration::from_secs(86_400))?;
    Ok(())
}

fn recv_buffer(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().recv_buffer = small_size(value, 0, 1 << 30)?;
    Ok(())
}

fn send_buffer(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().send_buffer = small_size(value, 0, 1 << 30)?;
    Ok(())
}

fn threads(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().threads = small(value, 1, 256)?;
    Ok(())
}

fn max_connections(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().max_connections = small(value, 1, 1_000_000)?;
    Ok(())
}

fn idle_timeout(draft: &mut Draft, value: &str) -> Result<(), String> {
    let limit = time(value, Duration::ZERO, YEAR)?;
    draft.settings().idle_timeout = Some(limit).filter(|limit| !limit.is_zero());
    Ok(())
}

fn buffer_memory(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().buffer_memory = small_size(value, 1 << 20, 1 << 40)?;
    Ok(())
}

fn request_timeout(draft: &mut Draft, value: &str) -> Result<(), String> {
    let limit = time(value, Duration::ZERO, YEAR)?;
    draft.settings().request_timeout = Some(limit).filter(|limit| !limit.is_zero());
    Ok(())
}

fn upload_timeout(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().upload_timeout = time(value, Duration::from_secs(1), YEAR)?;
    Ok(())
}

fn commands_per_turn(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().commands_per_turn = small(value, 1, 1_000_000)?;
    Ok(())
}

fn bytes_per_turn(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().bytes_per_turn = small_size(value, 4 << 10, 1 << 30)?;
    Ok(())
}

fn max_value(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().max_value = match units::size(value)? {
        0 => NO_LIMIT,
        _ => size(value, 1 << 10, NO_LIMIT)?,
    };
    Ok(())
}

fn db_path(draft: &mut Draft, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("the data directory needs a name".into());
    }
    draft.settings().db_path = value.into();
    Ok(())
}

fn sync(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().sync = match value {
        "always" => kingdb::Sync::Always,
        "interval" => kingdb::Sync::Interval,
        "none" => kingdb::Sync::None,
        _ => {
            return Err(format!("'{value}' is not a policy: give always, interval or none"));
        }
    };
    Ok(())
}

fn sync_interval(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().sync_interval = time(value, Duration::from_millis(1), Duration::from_secs(3600))?;
    Ok(())
}

fn compression(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().compression = units::truth(value)?;
    Ok(())
}

/// memcached's `-m` counts MiB.
fn memory_limit(draft: &mut Draft, value: &str) -> Result<(), String> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit());
    let text = if plain { format!("{value}m") } else { value.to_string() };
    units::size(&text)
        .map_err(|_| format!("'{value}' is not a size: give MiB, or a number and a unit, such as 512m or 2gib"))?;
    cache_size(draft, &text)
}

fn cache_size(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().cache_bytes = size(value, 0, 1 << 44)?;
    Ok(())
}

fn max_size(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().max_size = match units::size(value)? {
        0 => 0,
        _ => size(value, 8 << 20, 1 << 50)?,
    };
    Ok(())
}

fn free_space_floor(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().free_space_floor = size_or_auto(value)?;
    Ok(())
}

fn evict(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().evict = units::truth(value)?;
    Ok(())
}

fn survival_threshold(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().survival_threshold = size_or_auto(value)?;
    Ok(())
}

fn polling_interval(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().polling_interval = time(value, Duration::from_millis(100), Duration::from_secs(3600))?;
    Ok(())
}

fn compaction_interval(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().compaction_interval = time(value, Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600))?;
    Ok(())
}

fn compaction_rate(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().compaction_rate = size(value, 0, 1 << 40)?;
    Ok(())
}

fn write_buffer(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().write_buffer = small_size(value, 1 << 20, 1 << 30)?;
    Ok(())
}

fn snapshot_memory(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().snapshot_bytes = size(value, 1 << 20, 1 << 40)?;
    Ok(())
}

fn incoming_rate(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().incoming_rate = size(value, 0, 1 << 40)?;
    Ok(())
}

fn segment_size(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().segment_bytes = size(value, 1 << 20, 64 << 20)?;
    Ok(())
}

fn lane_threads(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().lane_threads = small(value, 1, 64)?;
    Ok(())
}

fn daemon(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.launch.daemon = units::truth(value)?;
    Ok(())
}

fn pid_file(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.launch.pid_file = Some(absolute(value)?);
    Ok(())
}

fn user(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.launch.user = Some(value.to_string());
    Ok(())
}

fn verbose(draft: &mut Draft, value: &str) -> Result<(), String> {
    if units::truth(value)? {
        let verbosity = &mut draft.settings().verbosity;
        *verbosity = 3.min(*verbosity + 1);
    }
    Ok(())
}

fn log_level(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.launch.log_level = match value {
        "error" => log::Level::Error,
        "warn" | "warning" => log::Level::Warn,
        "info" => log::Level::Info,
        "debug" => log::Level::Debug,
        _ => {
            return Err(format!("'{value}' is not a level: give error, warn, info or debug"));
        }
    };
    Ok(())
}

fn log_target(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.launch.log_target = Some(match value {
        "stderr" => log::Target::Stderr,
        "syslog" => log::Target::Syslog,
        path => log::Target::File(absolute(path)?),
    });
    Ok(())
}

/// Never called: these are looked for by name, and refused in files.
fn on_command_line(_: &mut Draft, _: &str) -> Result<(), String> {
    Ok(())
}

fn extended(draft: &mut Draft, value: &str) -> Result<(), String> {
    for word in value.split(',') {
        match word.split_once('=') {
            Some(("idle_timeout", seconds)) => idle_timeout(draft, seconds)?,
            _ => draft.launch.notes.push(format!("-o {word} has no effect in KingServer")),
        }
    }
    Ok(())
}

fn udp_port(draft: &mut Draft, value: &str) -> Result<(), String> {
    if small::<u16>(value, 0, u16::MAX.into())? != 0 {
        draft.launch.notes.push(format!("-U {value}: UDP is not served; clients must use TCP"));
    }
    Ok(())
}

fn protocol(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().dialect = match value {
        "auto" | "auto-negotiate" => Dialect::Auto,
        "ascii" => Dialect::Text,
        "binary" => Dialect::Binary,
        _ => return Err(format!("'{value}' is not a protocol: give auto, ascii or binary")),
    };
    Ok(())
}

fn sasl(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.sasl = units::truth(value)?;
    Ok(())
}

fn enable_shutdown(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().shutdown = units::truth(value)?;
    Ok(())
}

fn disable_flush(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().flush = !units::truth(value)?;
    Ok(())
}

fn disable_dump(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().dump = !units::truth(value)?;
    Ok(())
}

fn disable_watch(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().watch = !units::truth(value)?;
    Ok(())
}

fn hide_cas(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().hide_cas = units::truth(value)?;
    Ok(())
}

fn delimiter(draft: &mut Draft, value: &str) -> Result<(), String> {
    match *value.as_bytes() {
        [delimiter] if delimiter > b' ' => draft.settings().detail = (delimiter, true),
        _ => return Err(format!("'{value}' is not one character")),
    }
    Ok(())
}

fn users(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().users = Some(absolute(value)?);
    Ok(())
}

fn no_evict(draft: &mut Draft, value: &str) -> Result<(), String> {
    if units::truth(value)? {
        draft.settings().evict = false;
    }
    Ok(())
}

fn no_effect(draft: &mut Draft, _: &str) -> Result<(), String> {
    let note = format!("{} has no effect in KingServer", draft.origin);
    draft.launch.notes.push(note);
    Ok(())
}

/// A plain number, of the type that is asked for.
fn small<T: TryFrom<u64>>(value: &str, least: u64, most: u64) -> Result<T, String> {
    let number = units::number(value, least..=most)?;
    T::try_from(number).map_err(|_| format!("'{value}' is too large"))
}

fn size(value: &str, least: u64, most: u64) -> Result<u64, String> {
    match units::size(value)? {
        size if (least..=most).contains(&size) => Ok(size),
        _ => Err(format!("'{value}' is not between {least} and {most} bytes")),
    }
}

fn size_or_auto(value: &str) -> Result<Option<u64>, String> {
    if value == "auto" { Ok(None) } else { size(value, 0, 1 << 50).map(Some) }
}

fn small_size(value: &str, least: u64, most: u64) -> Result<usize, String> {
    usize::try_from(size(value, least, most)?).map_err(|_| format!("'{value}' is too large"))
}

fn time(value: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    match units::time(value)? {
        time if (least..=most).contains(&time) => Ok(time),
        _ => Err(format!("'{value}' is not between {least:?} and {most:?}")),
    }
}
