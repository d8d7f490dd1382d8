//! What the options come to: plain values that the rest of the server reads. Filled by `options`, read by everybody,
//! changed by nobody after the start.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Which dialects are spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// The one in which a connection begins.
    Auto,
    /// Text, meta included.
    Text,
    /// Binary.
    Binary,
}

/// Everything the server was told, defaults filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// TCP addresses to listen on, each with its port (0: the kernel picks one, the same for all workers).
    pub listen: Vec<(IpAddr, u16)>,
    /// Unix socket beside (or, with `listen` empty, instead of) TCP.
    pub unix_socket: Option<PathBuf>,
    /// Its permission bits.
    pub unix_mode: u32,
    /// Worker threads.
    pub threads: usize,
    /// Most connections at once, over all workers.
    pub max_connections: usize,
    /// listen(2) backlog.
    pub backlog: i32,
    /// Commands one connection may execute per turn.
    pub commands_per_turn: usize,
    /// Bytes one connection may read per turn.
    pub bytes_per_turn: usize,
    /// Which dialects are spoken.
    pub dialect: Dialect,
    /// The users' file. `None`: anybody may use the server.
    pub users: Option<PathBuf>,
    /// The commands `shutdown`, `flush_all`, key dumps and `watch` are allowed.
    pub shutdown: bool,
    /// See `shutdown`.
    pub flush: bool,
    /// See `shutdown`.
    pub dump: bool,
    /// See `shutdown`.
    pub watch: bool,
    /// Tell no CAS uniques.
    pub hide_cas: bool,
    /// What ends a prefix in `stats detail`, and whether its counts are on from the start.
    pub detail: (u8, bool),
    /// Largest value. Bytes.
    pub max_value: u64,
    /// What connections may hold for transfers, together. Bytes.
    pub buffer_memory: usize,
    /// Close a connection whose command, or next 64 KiB of a value, takes longer to arrive. `None`: never.
    pub request_timeout: Option<Duration>,
    /// Give up an upload in parts that nobody has added to for this long.
    pub upload_timeout: Duration,
    /// Close a connection that was silent this long. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// SO_KEEPALIVE.
    pub keepalive: bool,
    /// TCP_USER_TIMEOUT. Zero: the kernel's.
    pub user_timeout: Duration,
    /// SO_RCVBUF / SO_SNDBUF. Zero: the kernel tunes them.
    pub recv_buffer: usize,
    /// See `recv_buffer`.
    pub send_buffer: usize,
    /// Log verbosity, 0..=3 (`-v`, `-vv`, `-vvv`).
    pub verbosity: u8,
    /// Store: RAM cache. Bytes.
    pub cache_bytes: u64,
    /// Store: data directory.
    pub db_path: PathBuf,
    /// Store: acknowledgement policy.
    pub sync: kingdb::Sync,
    /// Store: time between fdatasyncs under `interval`.
    pub sync_interval: Duration,
    /// Store: snappy where it helps.
    pub compression: bool,
    /// Store: threads for what may wait for the disk.
    pub lane_threads: usize,
    /// Store: bytes that may wait to be written before writers wait.
    pub write_buffer: usize,
    /// Store: memory for what changes while a snapshot is open. Bytes.
    pub snapshot_bytes: u64,
    /// Store: most incoming bytes per second; 0: no limit.
    pub incoming_rate: u64,
    /// Store: most bytes on the disk; 0: no limit.
    pub max_size: u64,
    /// Store: free space below which values are refused. `None`: the store decides.
    pub free_space_floor: Option<u64>,
    /// Store: give up old values rather than refuse new ones.
    pub evict: bool,
    /// Store: free space below which compaction hurries. `None`: the store decides.
    pub survival_threshold: Option<u64>,
    /// Store: free space below which nothing is compacted.
    pub compaction_free_space: u64,
    /// Store: time between two looks at the free space.
    pub polling_interval: Duration,
    /// Store: longest time between two rounds of compaction.
    pub compaction_interval: Duration,
    /// Store: bytes a second that compaction may read where little is written; 0: no limit.
    pub compaction_rate: u64,
    /// Store: largest file of the log.
    pub segment_bytes: u64,
}
