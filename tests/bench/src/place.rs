//! Where things are: the repository, the server's binary, results, data, and which core does what.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use getopts::{Matches, Options};

use crate::peer::Places;
use crate::sys;

/// The repository's top directory, as it was when this was built.
pub fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package)
}

/// Cargo's target directory.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The directory for results, made if it is not there.
pub fn out() -> Result<PathBuf> {
    let dir = target().join("bench");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// The core that the load runs on: the first.
pub fn load_core() -> Result<usize> {
    sys::cores()?.first().copied().context("no core to run on")
}

/// The core that servers run on: the last. On a machine with one core the load shares it.
pub fn server_core() -> Result<usize> {
    sys::cores()?.last().copied().context("no core to run on")
}

/// The options that all programs have in common.
pub fn options(options: &mut Options) {
    let server = "the kingserver binary (default target/release/kingserver)";
    options.optopt("", "server", server, "FILE");
    options.optopt("", "memcached", "a memcached binary (default: the installed one)", "FILE");
    options.optopt("", "data", "where servers keep data: a real disk (default target/bench)", "DIR");
    options.optflag("", "install", "apt-get install peers that are missing (also when CI is set)");
    options.optflag("h", "help", "print this");
}

/// What those options come to. Call before this process is pinned.
pub fn places(matches: &Matches) -> Result<Places> {
    let server = matches.opt_str("server").map(PathBuf::from);
    let data = matches.opt_str("data").map_or_else(out, |dir| Ok(PathBuf::from(dir)))?;
    Ok(Places {
        server: server.unwrap_or_else(|| target().join("release/kingserver")),
        memcached: matches.opt_str("memcached").map(PathBuf::from),
        data: std::path::absolute(data)?,
        core: server_core()?,
        install: matches.opt_present("install") || std::env::var_os("CI").is_some(),
        words: Vec::new(),
        memcached_words: Vec::new(),
    })
}
