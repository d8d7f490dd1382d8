//! Options on their way to settings: what each row of the table does with its value, and what is settled when all were
//! read.

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
        compaction_free_space: 0,
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

pub fn interface(draft: &mut Draft, value: &str) -> Result<(), String> {
    listen::addresses(value).map(|found| draft.listen.extend(found))
}

pub fn port(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.port = Some(small(value, 0, u16::MAX.into())?);
    Ok(())
}

pub fn unix_socket(draft: &mut Draft, value: &str) -> Result<(), String> {
    let path = absolute(value)?;
    // sockaddr_un holds 108 bytes, the closing NUL included.
    if path.as_os_str().len() > 107 {
        return Err(format!("the path of a Unix socket may have 107 bytes; '{}' is longer", path.display()));
    }
    draft.settings().unix_socket = Some(path);
    Ok(())
}

pub fn unix_mode(draft: &mut Draft, value: &str) -> Result<(), String> {
    let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o777);
    draft.settings().unix_mode =
        mode.ok_or_else(|| format!("'{value}' is not a file mode: give octal digits from 0 to 777"))?;
    Ok(())
}

pub fn backlog(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().backlog = small(value, 1, 1 << 20)?;
    Ok(())
}

pub fn nodelay(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().nodelay = units::truth(value)?;
    Ok(())
}

pub fn keepalive(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().keepalive = units::truth(value)?;
    Ok(())
}

pub fn user_timeout(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().user_timeout = time(value, Duration::ZERO, Duration::from_secs(86_400))?;
    Ok(())
}

pub fn recv_buffer(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().recv_buffer = small_size(value, 0, 1 << 30)?;
    Ok(())
}

pub fn send_buffer(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().send_buffer = small_size(value, 0, 1 << 30)?;
    Ok(())
}

pub fn threads(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().threads = small(value, 1, 256)?;
    Ok(())
}

pub fn max_connections(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().max_connections = small(value, 1, 1_000_000)?;
    Ok(())
}

pub fn idle_timeout(draft: &mut Draft, value: &str) -> Result<(), String> {
    let limit = time(value, Duration::ZERO, YEAR)?;
    draft.settings().idle_timeout = Some(limit).filter(|limit| !limit.is_zero());
    Ok(())
}

pub fn buffer_memory(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().buffer_memory = small_size(value, 1 << 20, 1 << 40)?;
    Ok(())
}

pub fn request_timeout(draft: &mut Draft, value: &str) -> Result<(), String> {
    let limit = time(value, Duration::ZERO, YEAR)?;
    draft.settings().request_timeout = Some(limit).filter(|limit| !limit.is_zero());
    Ok(())
}

pub fn upload_timeout(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().upload_timeout = time(value, Duration::from_secs(1), YEAR)?;
    Ok(())
}

pub fn commands_per_turn(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().commands_per_turn = small(value, 1, 1_000_000)?;
    Ok(())
}

pub fn bytes_per_turn(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().bytes_per_turn = small_size(value, 4 << 10, 1 << 30)?;
    Ok(())
}

pub fn max_value(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().max_value = match units::size(value)? {
        0 => NO_LIMIT,
        _ => size(value, 1 << 10, NO_LIMIT)?,
    };
    Ok(())
}

pub fn db_path(draft: &mut Draft, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("the data directory needs a name".into());
    }
    draft.settings().db_path = value.into();
    Ok(())
}

pub fn sync(draft: &mut Draft, value: &str) -> Result<(), String> {
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

pub fn sync_interval(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().sync_interval = time(value, Duration::from_millis(1), Duration::from_secs(3600))?;
    Ok(())
}

pub fn compression(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().compression = units::truth(value)?;
    Ok(())
}

/// memcached's `-m` counts MiB.
pub fn memory_limit(draft: &mut Draft, value: &str) -> Result<(), String> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit());
    let text = if plain { format!("{value}m") } else { value.to_string() };
    units::size(&text)
        .map_err(|_| format!("'{value}' is not a size: give MiB, or a number and a unit, such as 512m or 2gib"))?;
    cache_size(draft, &text)
}

pub fn cache_size(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().cache_bytes = size(value, 0, 1 << 44)?;
    Ok(())
}

pub fn max_size(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().max_size = match units::size(value)? {
        0 => 0,
        _ => size(value, 8 << 20, 1 << 50)?,
    };
    Ok(())
}

pub fn free_space_floor(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().free_space_floor = size_or_auto(value)?;
    Ok(())
}

pub fn evict(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().evict = units::truth(value)?;
    Ok(())
}

pub fn survival_threshold(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().survival_threshold = size_or_auto(value)?;
    Ok(())
}

pub fn polling_interval(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().polling_interval = time(value, Duration::from_millis(100), Duration::from_secs(3600))?;
    Ok(())
}

pub fn compaction_interval(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().compaction_interval = time(value, Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600))?;
    Ok(())
}

pub fn compaction_free_space(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().compaction_free_space = size(value, 0, 1 << 50)?;
    Ok(())
}

pub fn compaction_rate(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().compaction_rate = size(value, 0, 1 << 40)?;
    Ok(())
}

pub fn write_buffer(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().write_buffer = small_size(value, 1 << 20, 1 << 30)?;
    Ok(())
}

pub fn snapshot_memory(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().snapshot_bytes = size(value, 1 << 20, 1 << 40)?;
    Ok(())
}

pub fn incoming_rate(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().incoming_rate = size(value, 0, 1 << 40)?;
    Ok(())
}

pub fn segment_size(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().segment_bytes = size(value, 1 << 20, 64 << 20)?;
    Ok(())
}

pub fn lane_threads(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().lane_threads = small(value, 1, 64)?;
    Ok(())
}

pub fn daemon(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.launch.daemon = units::truth(value)?;
    Ok(())
}

pub fn pid_file(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.launch.pid_file = Some(absolute(value)?);
    Ok(())
}

pub fn user(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.launch.user = Some(value.to_string());
    Ok(())
}

pub fn verbose(draft: &mut Draft, value: &str) -> Result<(), String> {
    if units::truth(value)? {
        let verbosity = &mut draft.settings().verbosity;
        *verbosity = 3.min(*verbosity + 1);
    }
    Ok(())
}

pub fn log_level(draft: &mut Draft, value: &str) -> Result<(), String> {
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

pub fn log_target(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.launch.log_target = Some(match value {
        "stderr" => log::Target::Stderr,
        "syslog" => log::Target::Syslog,
        path => log::Target::File(absolute(path)?),
    });
    Ok(())
}

/// Never called: these are looked for by name, and refused in files.
pub fn on_command_line(_: &mut Draft, _: &str) -> Result<(), String> {
    Ok(())
}

pub fn extended(draft: &mut Draft, value: &str) -> Result<(), String> {
    for word in value.split(',') {
        match word.split_once('=') {
            Some(("idle_timeout", seconds)) => idle_timeout(draft, seconds)?,
            _ => draft.launch.notes.push(format!("-o {word} has no effect in KingServer")),
        }
    }
    Ok(())
}

pub fn udp_port(draft: &mut Draft, value: &str) -> Result<(), String> {
    if small::<u16>(value, 0, u16::MAX.into())? != 0 {
        draft.launch.notes.push(format!("-U {value}: UDP is not served; clients must use TCP"));
    }
    Ok(())
}

pub fn protocol(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().dialect = match value {
        "auto" | "auto-negotiate" => Dialect::Auto,
        "ascii" => Dialect::Text,
        "binary" => Dialect::Binary,
        _ => return Err(format!("'{value}' is not a protocol: give auto, ascii or binary")),
    };
    Ok(())
}

pub fn sasl(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.sasl = units::truth(value)?;
    Ok(())
}

pub fn enable_shutdown(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().shutdown = units::truth(value)?;
    Ok(())
}

pub fn disable_flush(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().flush = !units::truth(value)?;
    Ok(())
}

pub fn disable_dump(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().dump = !units::truth(value)?;
    Ok(())
}

pub fn disable_watch(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().watch = !units::truth(value)?;
    Ok(())
}

pub fn hide_cas(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().hide_cas = units::truth(value)?;
    Ok(())
}

pub fn delimiter(draft: &mut Draft, value: &str) -> Result<(), String> {
    match *value.as_bytes() {
        [delimiter] if delimiter > b' ' => draft.settings().detail = (delimiter, true),
        _ => return Err(format!("'{value}' is not one character")),
    }
    Ok(())
}

pub fn users(draft: &mut Draft, value: &str) -> Result<(), String> {
    draft.settings().users = Some(absolute(value)?);
    Ok(())
}

pub fn no_evict(draft: &mut Draft, value: &str) -> Result<(), String> {
    if units::truth(value)? {
        draft.settings().evict = false;
    }
    Ok(())
}

pub fn no_effect(draft: &mut Draft, _: &str) -> Result<(), String> {
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
        _ => Err(format!("'{value}' is not between {} and {}", units::shown(least), units::shown(most))),
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
        _ => Err(format!("'{value}' is not between {} and {}", units::shown_time(least), units::shown_time(most))),
    }
}
