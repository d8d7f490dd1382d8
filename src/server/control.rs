//! The text protocol's commands for operators. What adjusts slabs, LRU queues or the crawler is understood and has no
//! effect, since there are none.

use super::answer::{self, Form};
use super::command::Next;
use super::context::Context;
use super::errand::{Errand, Kind};
use super::proto::meta::words;
use super::proto::text::scan::number;
use super::reply::{BAD_LINE, END, ERROR, OK, TIGHT};
use super::watch::{self, Admission};

/// What a command came to, before it is said.
enum Came {
    Say(&'static [u8]),
    Errand(Kind, Vec<u8>),
    Shutdown,
    Watch(u32),
}

const BUSY: &[u8] = b"SERVER_ERROR another client is being told of the connections; try again\r\n";
const NOT_ENABLED: &[u8] = b"SERVER_ERROR: shutdown not enabled\r\n";
const BAD_SHUTDOWN: &[u8] = b"CLIENT_ERROR invalid shutdown mode\r\n";
const TOO_SMALL: &[u8] = b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n";
const NO_BYTES: &[u8] = b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n";
const NOT_ADJUSTED: &[u8] = b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n";
const BAD_CLASS: &[u8] = b"BADCLASS invalid class id\r\n";
const NO_SPARE: &[u8] = b"NOSPARE source class has no spare pages\r\n";
const LONG_SLEEP: &[u8] = b"CLIENT_ERROR sleep must be one second or less\r\n";
const NO_DUMP: &[u8] = b"ERROR metadump not allowed\r\n";
const NO_KEY_DUMP: &[u8] = b"ERROR key dump not allowed\r\n";
const NO_REMOVAL: &[u8] = b"CLIENT_ERROR delete_prefix not allowed\r\n";
const NO_CACHE_DUMP: &[u8] = b"CLIENT_ERROR stats cachedump not allowed\r\n";
const NO_NUMBERS: &[u8] = b"CLIENT_ERROR bad command line\r\n";
const ILLEGAL_CLASS: &[u8] = b"CLIENT_ERROR Illegal slab id\r\n";
/// memcached has so many slab classes; class 1 of ours has everything.
const CLASSES: u64 = 64;
const NO_WATCH: &[u8] = b"CLIENT_ERROR watch commands not allowed\r\n";
const MIB: u64 = 1 << 20;

/// Executes a line, which has at least one word.
pub fn execute(line: &[u8], noreply: bool, ctx: &mut Context) -> Next {
    let mut found = words(line);
    let words: [&[u8]; 5] = std::array::from_fn(|_| found.next().unwrap_or_default());
    let came = match words[0] {
        b"cache_memlimit" => Came::Say(memory_limit(words[1], ctx)),
        b"lru_crawler" => crawler(&words, ctx),
        b"lru" => Came::Say(lru(&words)),
        b"slabs" => Came::Say(slabs(&words)),
        b"shutdown" if !ctx.settings.shutdown => Came::Say(NOT_ENABLED),
        b"shutdown" if matches!(words[1], b"" | b"graceful") && words[2].is_empty() => Came::Shutdown,
        b"shutdown" => Came::Say(BAD_SHUTDOWN),
        b"delete_prefix" => remove(&words, noreply, ctx),
        b"watch" if !ctx.settings.watch => Came::Say(NO_WATCH),
        b"watch" => watch::events(line).map_or(Came::Say(ERROR), Came::Watch),
        #[cfg(feature = "debugtime")]
        b"debugtime" => Came::Say(if ctx.db.debug_time(words[1]) { OK } else { ERROR }),
        _ => Came::Say(ERROR),
    };
    match came {
        Came::Say(text) => {
            ctx.answer(text, noreply);
            Next::Command
        }
        Came::Errand(kind @ Kind::Remove { .. }, prefix) => match ctx.db.failure() {
            Some(why) => {
                answer::fail(&Form::Text { noreply }, &kingdb::Error::ReadOnly(why), ctx);
                Next::Command
            }
            None => begin(kind, &prefix, noreply, ctx),
        },
        Came::Errand(kind, prefix) => begin(kind, &prefix, false, ctx),
        Came::Shutdown => {
            ctx.shared.shut_down();
            Next::Close { asked: true }
        }
        Came::Watch(events) => match ctx.shared.watch.admit(events, ctx.token, &ctx.inbox) {
            Admission::Full => {
                ctx.say(watch::FULL);
                Next::Command
            }
            Admission::Stream(stream) => {
                ctx.say(OK);
                Next::Watch(stream)
            }
        },
    }
}

/// `stats cachedump <class> <limit>`, 0: no limit.
pub fn cache_dump(line: &[u8], ctx: &mut Context) -> Next {
    let mut words = words(line).skip(1);
    let small = |word: &[u8]| number(word).filter(|number| *number <= u32::MAX.into());
    let text = match (words.next(), words.next()) {
        _ if !ctx.settings.dump => NO_CACHE_DUMP,
        (Some(class), Some(limit)) => match (small(class), small(limit)) {
            (Some(1), Some(limit)) => {
                let left = if limit == 0 { u64::MAX } else { limit };
                return begin(Kind::Cachedump { left }, b"", false, ctx);
            }
            (Some(0..CLASSES), Some(_)) => END,
            (Some(_), Some(_)) => ILLEGAL_CLASS,
            _ => BAD_LINE,
        },
        _ => NO_NUMBERS,
    };
    ctx.say(text);
    Next::Command
}

/// `stats conns`. One client asks at a time: each is told of all connections, and they can be many. As long as there is any
/// memory: this tells who has it.
pub fn census(ctx: &mut Context) -> Next {
    let refusal = match ctx.shared.memory.is_gone() {
        true => TIGHT,
        false => match Errand::census(ctx) {
            Some(errand) => return Next::Errand(errand),
            None => BUSY,
        },
    };
    ctx.say(refusal);
    Next::Command
}

/// Begins a dump or a removal, unless memory is scarce: it takes some until it is over, and its client has read all.
fn begin(kind: Kind, prefix: &[u8], noreply: bool, ctx: &mut Context) -> Next {
    if ctx.shared.memory.is_tight() {
        ctx.answer(TIGHT, noreply);
        return Next::Command;
    }
    Next::Errand(Errand::new(kind, prefix, ctx.db.clone()))
}

/// `cache_memlimit <megabytes>`
fn memory_limit(megabytes: &[u8], ctx: &Context) -> &'static [u8] {
    match number(megabytes).filter(|megabytes| *megabytes <= u32::MAX.into()) {
        None => ERROR,
        Some(0..8) => TOO_SMALL,
        Some(1_000_000_001..) => NO_BYTES,
        Some(megabytes) if ctx.db.resize_cache(megabytes * MIB) => OK,
        Some(_) => NOT_ADJUSTED,
    }
}

/// `delete_prefix <prefix> [noreply]`. Whoever may not empty the store may not remove from it what he cannot name. A line
/// that says more is not understood, and might mean less: nothing is removed.
fn remove(words: &[&[u8]; 5], noreply: bool, ctx: &Context) -> Came {
    match *words {
        _ if !ctx.settings.flush => Came::Say(NO_REMOVAL),
        [_, prefix @ [_, ..], b"" | b"noreply", b"", _] => Came::Errand(Kind::Remove { noreply }, prefix.to_vec()),
        _ => Came::Say(BAD_LINE),
    }
}

/// `lru_crawler metadump|mgdump <all|hash> [prefix]`, and what concerns a crawler that there is not.
fn crawler(words: &[&[u8]; 5], ctx: &Context) -> Came {
    let [_, what, which, prefix, _] = *words;
    let dump = ctx.settings.dump;
    match what {
        b"metadump" if !which.is_empty() && !dump => Came::Say(NO_DUMP),
        b"mgdump" if !which.is_empty() && !dump => Came::Say(NO_KEY_DUMP),
        b"metadump" | b"mgdump" if matches!(which, b"all" | b"hash" | b"1") => {
            Came::Errand(if what == b"metadump" { Kind::Metadump } else { Kind::Mgdump }, prefix.to_vec())
        }
        b"metadump" | b"mgdump" | b"crawl" if !which.is_empty() && number(which).is_none() && which != b"all" => {
            Came::Say(BAD_CLASS)
        }
        b"crawl" if !which.is_empty() => Came::Say(OK),
        b"tocrawl" | b"sleep" if !which.is_empty() => Came::Say(match number(which) {
            None => BAD_LINE,
            Some(1_000_001..) if what == b"sleep" => LONG_SLEEP,
            Some(_) => OK,
        }),
        b"enable" | b"disable" if which.is_empty() => Came::Say(OK),
        _ => Came::Say(ERROR),
    }
}

fn lru(words: &[&[u8]; 5]) -> &'static [u8] {
    match (words[1], words[2]) {
        (b"tune", _) if !words[4].is_empty() => OK,
        (b"mode", b"flat" | b"segmented") => OK,
        (b"temp_ttl", ttl) if !ttl.is_empty() => OK,
        _ => ERROR,
    }
}

fn slabs(words: &[&[u8]; 5]) -> &'static [u8] {
    match (words[1], words[2], words[3]) {
        (b"reassign", from, to) if !to.is_empty() && !from.is_empty() => NO_SPARE,
        (b"automove", b"ratio" | b"freeratio" | b"window", value) if !value.is_empty() => OK,
        (b"automove", level, _) if !level.is_empty() => match number(level) {
            None => BAD_LINE,
            Some(0..=2) => OK,
            Some(_) => ERROR,
        },
        _ => ERROR,
    }
}
