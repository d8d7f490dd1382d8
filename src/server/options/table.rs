//! The table: a row per option.
//!
//! KingServer's own names come first (`--server.port`), memcached's letters and names are beside them (`-p`, `--port`),
//! so that a memcached unit file needs only its path changed. What memcached knows and KingServer has no use for is
//! accepted with a note, never in silence.

use super::draft::*;

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
    row("", &["db.compaction.filesystem.free-space-required"], "SIZE", "0", "free space below which nothing is compacted", compaction_free_space),
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
    row("v", &["verbose"], "", "", "show debug messages (-vv and -vvv: the same)", verbose),
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
    row("F", &["disable-flush-all"], "", "", "refuse flush_all and delete_prefix", disable_flush),
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
