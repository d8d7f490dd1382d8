//! `stats`: memcached's names where we have the figure, ours beside them. A figure that we do not have is
//! left out rather than made up.

use super::context::Context;
use super::counters::{Counter, Values};
use super::log;
use super::reply;
use super::settings::{Dialect, Settings};
use kingdb::Sync;
use kingdb::store::Level;
use kingdb::sys::{clock, resource};
use std::path::Path;
use std::time::Duration;

const NO_DETAIL: &[u8] = b"CLIENT_ERROR stats detail not allowed\r\n";
const DETAIL_USAGE: &[u8] = b"CLIENT_ERROR usage: stats detail on|off|dump\r\n";

/// Answers `stats <what>`, all but `conns`.
pub fn tell(what: &[u8], ctx: &mut Context) {
    let mut out = Vec::new();
    match what {
        b"" => general(&mut out, ctx),
        b"settings" => settings(&mut out, ctx),
        b"items" => items(&mut out, ctx),
        b"slabs" => slabs(&mut out, ctx),
        b"sizes" => text(&mut out, "sizes_status", "disabled"),
        b"reset" => {
            ctx.shared.reset(ctx.db.stats().total_items);
            ctx.shared.watch.reset_detail();
            return ctx.say(reply::RESET);
        }
        what if what.starts_with(b"detail") => return detail(what[6..].trim_ascii(), ctx),
        _ => return ctx.say(reply::ERROR),
    }
    ctx.say(&out);
    ctx.say(reply::END);
}

fn detail(what: &[u8], ctx: &mut Context) {
    let watch = &ctx.shared.watch;
    match what {
        _ if !ctx.settings.dump => ctx.say(NO_DETAIL),
        b"on" | b"off" => {
            watch.set_detail(what == b"on");
            ctx.observed = watch.observed();
            ctx.say(reply::OK);
        }
        b"dump" => {
            watch.dump_detail(&mut ctx.replies);
            ctx.say(reply::END);
        }
        _ => ctx.say(DETAIL_USAGE),
    }
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in ["STAT ", name, " ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn path(out: &mut Vec<u8>, name: &str, value: Option<&Path>, none: &str) {
    match value {
        Some(path) => text(out, name, &path.to_string_lossy()),
        None => text(out, name, none),
    }
}

fn numbers(out: &mut Vec<u8>, all: &[(&str, u64)]) {
    for (name, value) in all {
        let (digits, len) = reply::decimal(*value);
        text(out, name, &String::from_utf8_lossy(&digits[..len]));
    }
}

fn counters(out: &mut Vec<u8>, all: &[(&str, Counter)], totals: &Values) {
    for (name, counter) in all {
        numbers(out, &[(name, totals[*counter as usize])]);
    }
}

fn switches(out: &mut Vec<u8>, all: &[(&str, bool)]) {
    for (name, on) in all {
        text(out, name, if *on { "yes" } else { "no" });
    }
}

/// The store as a single class of items, for clients that add classes up.
fn items(out: &mut Vec<u8>, ctx: &Context) {
    let stats = ctx.db.stats();
    if stats.items > 0 {
        numbers(
            out,
            &[
                ("items:1:number", stats.items),
                ("items:1:mem_requested", stats.live_bytes),
                ("items:1:evicted", stats.evictions),
                ("items:1:outofmemory", stats.refused),
            ],
        );
    }
}

fn slabs(out: &mut Vec<u8>, ctx: &Context) {
    let (stats, totals) = (ctx.db.stats(), ctx.shared.totals());
    if stats.items > 0 {
        numbers(out, &[("1:used_chunks", stats.items)]);
        counters(
            out,
            &[
                ("1:get_hits", Counter::GetHits),
                ("1:cmd_set", Counter::CmdSet),
                ("1:delete_hits", Counter::DeleteHits),
                ("1:incr_hits", Counter::IncrHits),
                ("1:decr_hits", Counter::DecrHits),
                ("1:cas_hits", Counter::CasHits),
                ("1:cas_badval", Counter::CasBadval),
                ("1:touch_hits", Counter::TouchHits),
            ],
            &totals,
        );
    }
    numbers(out, &[("active_slabs", u64::from(stats.items > 0)), ("total_malloced", stats.cache_bytes)]);
}

fn general(out: &mut Vec<u8>, ctx: &Context) {
    let totals = ctx.shared.totals();
    process(out, ctx);
    counters(out, &COUNTERS, &totals);
    numbers(
        out,
        &[
            ("max_connections", ctx.shared.most as u64),
            ("limit_maxbytes", ctx.db.cache_limit()),
            ("accepting_conns", 1),
            ("threads", ctx.settings.threads as u64),
            ("log_watchers", ctx.shared.watch.len() as u64),
        ],
    );
    store(out, ctx);
    workers(out, ctx);
}

fn process(out: &mut Vec<u8>, ctx: &Context) {
    let uptime = clock::monotonic().saturating_sub(ctx.shared.started);
    let usage = resource::usage();
    numbers(
        out,
        &[
            ("pid", std::process::id().into()),
            ("uptime", uptime.as_secs()),
            ("time", clock::wall_time().as_secs()),
            ("pointer_size", usize::BITS.into()),
        ],
    );
    text(out, "version", env!("CARGO_PKG_VERSION"));
    for (name, time) in [("rusage_user", usage.user), ("rusage_system", usage.system)] {
        text(out, name, &seconds(time));
    }
}

fn seconds(time: Duration) -> String {
    format!("{}.{:06}", time.as_secs(), time.subsec_micros())
}

/// All counters that are told as they are.
const COUNTERS: [(&str, Counter); 32] = [
    ("curr_connections", Counter::Connections),
    ("total_connections", Counter::TotalConnections),
    ("rejected_connections", Counter::RejectedConnections),
    ("connection_structures", Counter::ConnectionsPeak),
    ("cmd_get", Counter::CmdGet),
    ("cmd_set", Counter::CmdSet),
    ("cmd_flush", Counter::CmdFlush),
    ("cmd_touch", Counter::CmdTouch),
    ("cmd_meta", Counter::CmdMeta),
    ("get_hits", Counter::GetHits),
    ("get_misses", Counter::GetMisses),
    ("get_expired", Counter::GetExpired),
    ("delete_misses", Counter::DeleteMisses),
    ("delete_hits", Counter::DeleteHits),
    ("incr_misses", Counter::IncrMisses),
    ("incr_hits", Counter::IncrHits),
    ("decr_misses", Counter::DecrMisses),
    ("decr_hits", Counter::DecrHits),
    ("cas_misses", Counter::CasMisses),
    ("cas_hits", Counter::CasHits),
    ("cas_badval", Counter::CasBadval),
    ("touch_hits", Counter::TouchHits),
    ("touch_misses", Counter::TouchMisses),
    ("store_too_large", Counter::StoreTooLarge),
    ("auth_cmds", Counter::AuthCmds),
    ("auth_errors", Counter::AuthErrors),
    ("idle_kicks", Counter::IdleKicks),
    ("bytes_read", Counter::BytesRead),
    ("bytes_written", Counter::BytesWritten),
    ("listen_disabled_num", Counter::ListenDisabledNum),
    ("time_in_listen_disabled_us", Counter::ListenDisabledMicros),
    ("conn_yields", Counter::ConnYields),
];

fn store(out: &mut Vec<u8>, ctx: &Context) {
    let stats = ctx.db.stats();
    let level = match stats.level {
        Level::Enough => "enough",
        Level::Low => "low",
        Level::Refusing => "refusing",
    };
    text(out, "db_space", level);
    numbers(
        out,
        &[
            ("bytes", stats.live_bytes),
            ("curr_items", stats.items),
            ("total_items", ctx.shared.items_since_reset(stats.total_items)),
            ("evictions", stats.evictions),
            ("store_no_memory", stats.refused),
            ("db_evicted_segments", stats.evicted_segments),
            ("db_evictions_spared", stats.evictions_spared),
            ("db_live_bytes", stats.live_bytes),
            ("db_cache_bytes", stats.cache_bytes),
            ("db_cache_hits", stats.cache_hits),
            ("db_cache_misses", stats.cache_misses),
            ("db_cold_reads", stats.cold_reads),
            ("db_log_writes", stats.log_writes),
            ("db_log_bytes", stats.log_bytes),
            ("db_log_slow", stats.log_slow.into()),
            ("db_fsyncs", stats.fsyncs),
            ("db_segments", stats.segments),
            ("db_compactions", stats.compactions),
            ("db_compaction_read_bytes", stats.compaction_read),
            ("db_compaction_written_bytes", stats.compaction_written),
            ("db_compaction_removed_bytes", stats.compaction_removed),
            ("db_space_left", stats.headroom),
            ("db_refused_values", stats.refused),
            ("db_damaged_records", stats.damaged_records),
            ("db_read_only", ctx.db.failure().is_some().into()),
        ],
    );
}

fn workers(out: &mut Vec<u8>, ctx: &Context) {
    for (number, counters) in ctx.shared.counters.iter().enumerate() {
        for (what, counter) in [
            ("connections", Counter::Connections),
            ("total_connections", Counter::TotalConnections),
            ("turns", Counter::Turns),
        ] {
            numbers(out, &[(&format!("worker_{number}_{what}"), counters.get(counter))]);
        }
    }
}

fn settings(out: &mut Vec<u8>, ctx: &Context) {
    let settings: &Settings = &ctx.settings;
    let dialect = match settings.dialect {
        Dialect::Auto => "auto-negotiate",
        Dialect::Text => "ascii",
        Dialect::Binary => "binary",
    };
    let sync = match settings.sync {
        Sync::None => "none",
        Sync::Interval => "interval",
        Sync::Always => "always",
    };
    let addresses: Vec<_> = settings.listen.iter().map(|address| address.0.to_string()).collect();
    text(out, "inter", &if addresses.is_empty() { "NULL".to_owned() } else { addresses.join(",") });
    text(out, "evictions", if settings.evict { "on" } else { "off" });
    text(out, "umask", &format!("{:o}", settings.unix_mode));
    text(out, "binding_protocol", dialect);
    text(out, "stat_key_prefix", char::from(settings.detail.0).encode_utf8(&mut [0; 4]));
    text(out, "db_sync", sync);
    path(out, "domain_socket", settings.unix_socket.as_deref(), "NULL");
    path(out, "auth_enabled_ascii", settings.users.as_deref(), "no");
    path(out, "memory_file", Some(&settings.db_path), "");
    path(out, "db_path", Some(&settings.db_path), "");
    switches(
        out,
        &[
            ("cas_enabled", !settings.hide_cas),
            ("auth_enabled_sasl", settings.users.is_some()),
            ("maxconns_fast", true),
            ("flush_enabled", settings.flush),
            ("dump_enabled", settings.dump),
            ("watch_enabled", settings.watch),
            ("shutdown_command", settings.shutdown),
            ("detail_enabled", ctx.shared.watch.has_detail()),
            ("tcp_nodelay", settings.nodelay),
            ("tcp_keepalive", settings.keepalive),
            ("db_compression", settings.compression),
        ],
    );
    numbers(
        out,
        &[
            ("maxbytes", ctx.db.cache_limit()),
            ("maxconns", settings.max_connections as u64),
            ("tcpport", settings.listen.first().map_or(0, |address| address.1.into())),
            ("udpport", 0),
            ("verbosity", log::verbosity().into()),
            ("num_threads", settings.threads as u64),
            ("reqs_per_event", settings.commands_per_turn as u64),
            ("tcp_backlog", settings.backlog.unsigned_abs().into()),
            ("item_size_max", settings.max_value),
            ("client_flags_size", 4),
            ("idle_timeout", settings.idle_timeout.map_or(0, |time| time.as_secs())),
            ("bytes_per_turn", settings.bytes_per_turn as u64),
            ("db_sync_interval_ms", settings.sync_interval.as_millis() as u64),
            ("db_max_size", settings.max_size),
            ("db_write_buffer_size", settings.write_buffer as u64),
            ("db_snapshot_memory", settings.snapshot_bytes),
            ("db_incoming_rate_limit", settings.incoming_rate),
        ],
    );
}
