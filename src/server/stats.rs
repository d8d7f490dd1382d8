//! `stats`: memcached's names where we have the figure, ours beside them. A figure that we do not have is
//! left out rather than made up.

use super::context::Context;
use super::counters::{Counter, Values};
use super::log;
use super::reply;
use super::settings::Settings;
use kingdb::Sync;
use kingdb::store::Level;
use kingdb::sys::{clock, resource};
use std::fmt::{Display, Write as _};

/// Answers `stats <what>`.
pub fn tell(what: &[u8], ctx: &mut Context) {
    let mut text = String::new();
    match what {
        b"" => general(&mut text, ctx),
        b"settings" => settings(&mut text, &ctx.settings),
        b"reset" => {
            ctx.shared.reset(ctx.db.stats().total_items);
            return ctx.say(reply::RESET);
        }
        b"items" | b"slabs" | b"sizes" | b"conns" => {}
        _ => return ctx.say(reply::ERROR),
    }
    ctx.say(text.as_bytes());
    ctx.say(reply::END);
}

fn line(out: &mut String, name: &str, value: impl Display) {
    // Writing into a String cannot fail.
    let _ = write!(out, "STAT {name} {value}\r\n");
}

fn general(out: &mut String, ctx: &Context) {
    let totals = ctx.shared.totals();
    process(out, ctx);
    connections(out, &totals, ctx);
    commands(out, &totals);
    line(out, "limit_maxbytes", ctx.settings.cache_bytes);
    line(out, "accepting_conns", 1);
    line(out, "listen_disabled_num", totals[Counter::ListenDisabledNum as usize]);
    line(out, "time_in_listen_disabled_us", totals[Counter::ListenDisabledMicros as usize]);
    line(out, "threads", ctx.settings.threads);
    line(out, "conn_yields", totals[Counter::ConnYields as usize]);
    store(out, ctx);
    workers(out, ctx);
}

fn process(out: &mut String, ctx: &Context) {
    let uptime = clock::monotonic().saturating_sub(ctx.shared.started);
    let usage = resource::usage();
    line(out, "pid", std::process::id());
    line(out, "uptime", uptime.as_secs());
    line(out, "time", clock::wall_time().as_secs());
    line(out, "version", env!("CARGO_PKG_VERSION"));
    line(out, "pointer_size", usize::BITS);
    line(out, "rusage_user", format_args!("{}.{:06}", usage.user.as_secs(), usage.user.subsec_micros()));
    line(out, "rusage_system", format_args!("{}.{:06}", usage.system.as_secs(), usage.system.subsec_micros()));
}

fn connections(out: &mut String, totals: &Values, ctx: &Context) {
    line(out, "max_connections", ctx.settings.max_connections);
    line(out, "curr_connections", totals[Counter::Connections as usize]);
    line(out, "total_connections", totals[Counter::TotalConnections as usize]);
    line(out, "rejected_connections", totals[Counter::RejectedConnections as usize]);
    line(out, "connection_structures", totals[Counter::ConnectionsPeak as usize]);
}

fn commands(out: &mut String, totals: &Values) {
    let names = [
        ("cmd_get", Counter::CmdGet),
        ("cmd_set", Counter::CmdSet),
        ("cmd_flush", Counter::CmdFlush),
        ("cmd_touch", Counter::CmdTouch),
        ("cmd_meta", Counter::CmdMeta),
        ("get_hits", Counter::GetHits),
        ("get_misses", Counter::GetMisses),
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
        ("auth_cmds", Counter::AuthCmds),
        ("auth_errors", Counter::AuthErrors),
        ("store_too_large", Counter::StoreTooLarge),
        ("idle_kicks", Counter::IdleKicks),
        ("bytes_read", Counter::BytesRead),
        ("bytes_written", Counter::BytesWritten),
    ];
    for (name, counter) in names {
        line(out, name, totals[counter as usize]);
    }
}

fn store(out: &mut String, ctx: &Context) {
    let stats = ctx.db.stats();
    line(out, "bytes", stats.live_bytes);
    line(out, "curr_items", stats.items);
    line(out, "total_items", ctx.shared.items_since_reset(stats.total_items));
    line(out, "evictions", stats.evictions);
    line(out, "db_evicted_segments", stats.evicted_segments);
    line(out, "db_evictions_spared", stats.evictions_spared);
    line(out, "db_live_bytes", stats.live_bytes);
    line(out, "db_cache_bytes", stats.cache_bytes);
    line(out, "db_cache_hits", stats.cache_hits);
    line(out, "db_cache_misses", stats.cache_misses);
    line(out, "db_cold_reads", stats.cold_reads);
    line(out, "db_log_writes", stats.log_writes);
    line(out, "db_log_bytes", stats.log_bytes);
    line(out, "db_log_slow", u8::from(stats.log_slow));
    line(out, "db_fsyncs", stats.fsyncs);
    line(out, "db_segments", stats.segments);
    line(out, "db_compactions", stats.compactions);
    line(out, "db_compaction_read_bytes", stats.compaction_read);
    line(out, "db_compaction_written_bytes", stats.compaction_written);
    line(out, "db_compaction_removed_bytes", stats.compaction_removed);
    line(out, "db_space", level_name(stats.level));
    line(out, "db_space_left", stats.headroom);
    line(out, "db_refused_values", stats.refused);
    line(out, "db_damaged_records", stats.damaged_records);
    line(out, "db_read_only", u8::from(ctx.db.failure().is_some()));
}

fn workers(out: &mut String, ctx: &Context) {
    for (number, counters) in ctx.shared.counters.iter().enumerate() {
        line(out, &format!("worker_{number}_connections"), counters.get(Counter::Connections));
        line(out, &format!("worker_{number}_total_connections"), counters.get(Counter::TotalConnections));
        line(out, &format!("worker_{number}_turns"), counters.get(Counter::Turns));
    }
}

fn settings(out: &mut String, settings: &Settings) {
    let yes = |on: bool| if on { "yes" } else { "no" };
    line(out, "maxbytes", settings.cache_bytes);
    line(out, "maxconns", settings.max_connections);
    line(out, "tcpport", settings.listen.first().map_or(0, |address| address.1));
    line(out, "udpport", 0);
    let addresses: Vec<_> = settings.listen.iter().map(|address| address.0.to_string()).collect();
    line(out, "inter", if addresses.is_empty() { "NULL".to_owned() } else { addresses.join(",") });
    line(out, "verbosity", log::verbosity());
    line(out, "evictions", if settings.evict { "on" } else { "off" });
    let socket = settings.unix_socket.as_ref().map_or("NULL".to_owned(), |path| path.display().to_string());
    line(out, "domain_socket", socket);
    line(out, "umask", format_args!("{:o}", settings.unix_mode));
    line(out, "num_threads", settings.threads);
    line(out, "reqs_per_event", settings.commands_per_turn);
    line(out, "cas_enabled", "yes");
    line(out, "tcp_backlog", settings.backlog);
    line(out, "binding_protocol", "ascii");
    line(out, "auth_enabled_sasl", "no");
    line(out, "auth_enabled_ascii", "no");
    line(out, "item_size_max", settings.max_value);
    line(out, "flush_enabled", "yes");
    line(out, "idle_timeout", settings.idle_timeout.map_or(0, |time| time.as_secs()));
    line(out, "bytes_per_turn", settings.bytes_per_turn);
    line(out, "tcp_nodelay", yes(settings.nodelay));
    line(out, "tcp_keepalive", yes(settings.keepalive));
    line(out, "db_path", settings.db_path.display());
    line(out, "db_sync", sync_name(settings.sync));
    line(out, "db_sync_interval_ms", settings.sync_interval.as_millis());
    line(out, "db_compression", yes(settings.compression));
    line(out, "db_max_size", settings.max_size);
    line(out, "db_write_buffer_size", settings.write_buffer);
    line(out, "db_snapshot_memory", settings.snapshot_bytes);
    line(out, "db_incoming_rate_limit", settings.incoming_rate);
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Enough => "enough",
        Level::Low => "low",
        Level::Refusing => "refusing",
    }
}

fn sync_name(sync: Sync) -> &'static str {
    match sync {
        Sync::None => "none",
        Sync::Interval => "interval",
        Sync::Always => "always",
    }
}
