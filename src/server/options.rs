//! What the server is told: command line and configuration file, by one table ([`table`]).
//!
//! A row of the table makes the option's letter, its names, its line in `--help`, its key in the configuration file and
//! its effect; the man page is compared with it by a test. The command line replaces what the file says. Everything
//! here happens once, before the first thread; errors are whole sentences without the program's name.

mod config;
mod draft;
mod listen;
pub mod suggest;
mod table;
#[cfg(test)]
mod tests;
mod units;

use std::ffi::OsString;
use std::path::PathBuf;

use self::table::{GROUPS, Row};
use super::settings::Settings;
use super::{admin, log};

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// Start the server.
    Run(Box<Launch>),
    /// Print this and be done.
    Show(String),
}

/// How to start: the server's settings, and what only the start needs to know.
#[derive(Debug)]
pub struct Launch {
    pub settings: Settings,
    /// Detach from the terminal.
    pub daemon: bool,
    pub pid_file: Option<PathBuf>,
    /// Whose identity to take, if root starts the server.
    pub user: Option<String>,
    pub log_level: log::Level,
    /// `None`: nothing was said; stderr, or the system log for a daemon.
    pub log_target: Option<log::Target>,
    /// What was accepted but will not happen: to be shown as warnings.
    pub notes: Vec<String>,
    /// What was asked for, as `name = value`, in the order of its effect.
    pub given: Vec<String>,
}

/// One option as it was given.
struct Given {
    row: &'static Row,
    /// Where: for messages.
    origin: String,
    value: String,
}

/// Reads the arguments (without the program's name), and the configuration files that they name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let matches = parser().parse(args).map_err(|fail| describe(fail, &|name| suggestion(name, "--")))?;
    if matches.opt_present("help") {
        return Ok(Asked::Show(help()));
    }
    if matches.opt_present("version") {
        return Ok(Asked::Show(format!("kingserver {}\n", env!("CARGO_PKG_VERSION"))));
    }
    if let Some(word) = matches.free.first() {
        return Err(format!("'{word}' is not an option; {}", admin::misplaced(word)));
    }
    let told = command_line(&matches);
    let mut all = Vec::new();
    for path in matches.opt_strs("config") {
        all.extend(file(&path)?);
    }
    all.retain(|given| !told.iter().any(|told| std::ptr::eq(told.row, given.row)));
    all.extend(told);
    let mut draft = draft::Draft::default();
    for given in &all {
        draft.origin.clone_from(&given.origin);
        (given.row.set)(&mut draft, &given.value).map_err(|message| format!("{}: {message}", given.origin))?;
    }
    let mut launch = draft.finish()?;
    launch.given = all.iter().map(|given| format!("{} = {}", given.row.names[0], given.value)).collect();
    Ok(Asked::Run(Box::new(launch)))
}

/// All rows of the table.
fn rows() -> impl Iterator<Item = &'static Row> {
    GROUPS.iter().flat_map(|group| group.rows)
}

fn parser() -> getopts::Options {
    let mut parser = getopts::Options::new();
    for row in rows() {
        for (index, name) in row.names.iter().enumerate() {
            let letter = if index == 0 { row.letter } else { "" };
            match row.is_flag() {
                true => parser.optflagmulti(letter, name, ""),
                false => parser.optmulti(letter, name, "", ""),
            };
        }
    }
    parser
}

/// The options of the command line in their order.
fn command_line(matches: &getopts::Matches) -> Vec<Given> {
    // By the words in which they stand: in one of flags there can be several.
    let mut found: Vec<Vec<Given>> = Vec::new();
    for row in rows().filter(|row| !row.is_command()) {
        for name in row.names {
            let values = match row.is_flag() {
                true => matches.opt_positions(name).into_iter().map(|at| (at, "yes".into())).collect(),
                false => matches.opt_strs_pos(name),
            };
            for (at, value) in values {
                found.resize_with(found.len().max(at + 1), Vec::new);
                found[at].push(Given { row, origin: row.label(), value });
            }
        }
    }
    found.into_iter().flatten().collect()
}

/// The options of a configuration file in their order.
fn file(path: &str) -> Result<Vec<Given>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read the configuration file {path}: {error}"))?;
    config::entries(&text).map(|entry| file_entry(path, &entry)).collect()
}

fn file_entry(path: &str, entry: &config::Entry<'_>) -> Result<Given, String> {
    let place = format!("{path}:{}", entry.line);
    let Some(row) = rows().find(|row| row.names.contains(&entry.name)) else {
        return Err(format!("{place}: there is no option '{}'{}", entry.name, suggestion(entry.name, "")));
    };
    if row.is_command() {
        return Err(format!("{place}: '{}' belongs on the command line", entry.name));
    }
    let value = match entry.value {
        Some(value) => value,
        None if row.is_flag() => "yes",
        None => return Err(format!("{place}: '{}' needs a value", entry.name)),
    };
    Ok(Given { row, origin: format!("{place}: {}", entry.name), value: value.to_string() })
}

/// What is wrong with a command line. `near`: what an option that there is not may have meant, to be put behind.
pub fn describe(fail: getopts::Fail, near: &dyn Fn(&str) -> String) -> String {
    let dashes = |name: &str| {
        if name.chars().count() == 1 { format!("-{name}") } else { format!("--{name}") }
    };
    match fail {
        getopts::Fail::ArgumentMissing(name) => {
            format!("{} needs a value", dashes(&name))
        }
        getopts::Fail::UnexpectedArgument(name) => format!("{} takes no value", dashes(&name)),
        getopts::Fail::UnrecognizedOption(name) => {
            format!("there is no option {}{}", dashes(&name), near(&name))
        }
        other => other.to_string(),
    }
}

/// What a wrong long name may have meant, to be put behind the message.
fn suggestion(wrong: &str, dashes: &str) -> String {
    let names = rows().flat_map(|row| row.names.iter().copied());
    suggest::nearest(wrong, names).map(|name| format!("; did you mean {dashes}{name}?")).unwrap_or_default()
}

/// `--help`, out of the table.
pub fn help() -> String {
    let mut text = String::from(
        "Usage: kingserver [OPTION]...\n       kingserver COMMAND [OPTION]... [WORD]\nA durable key-value server that speaks the memcached protocol.\n",
    );
    text += "\nCommands (more of each: kingserver COMMAND --help):\n";
    text += &admin::list();
    for group in GROUPS {
        text += &format!("\n{}:\n", group.title);
        text.extend(group.rows.iter().map(help_row));
    }
    text += "\nSizes are bytes, or a number and a unit: 64k, 256mb, 1gib (powers of 1024). Times are seconds,\n\
             or a number and a unit: 500ms, 5 seconds, 2 min. In a configuration file the long names stand\n\
             without dashes, one 'name = value' per line. More in kingserver(8).\n";
    text
}

fn help_row(row: &Row) -> String {
    let value = if row.is_flag() { String::new() } else { format!(" {}", row.value) };
    let default = if row.default.is_empty() { String::new() } else { format!(" (default: {})", row.default) };
    let indented = row.help.replace('\n', "\n          ");
    format!("  {}{value}\n          {indented}{default}\n", row.label())
}
