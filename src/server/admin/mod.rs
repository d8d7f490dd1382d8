//! The commands beside serving: `kingserver check`, and its like. A row of [`COMMANDS`] makes a command's name, its options,
//! its help and what it does; the man page is compared with it by a test.
//!
//! A command runs on the main thread and ends the process with an exit status: 0, done; 1, what the row says; 2, it could
//! not be done, and a line on standard error says why.

mod bar;
mod check;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use self::check::check;
use super::options::{self, Asked, suggest};

/// One command.
struct Command {
    name: &'static str,
    /// What stands behind the name, for people.
    usage: &'static str,
    /// A line for the list of commands.
    summary: &'static str,
    /// The rest of its help.
    help: &'static str,
    /// Its own flags, without dashes, each with a line of help.
    flags: &'static [(&'static str, &'static str)],
    /// What one word that is no option stands for, if it takes one.
    word: Word,
    run: fn(&Order) -> Outcome,
}

/// What a word behind the options means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    /// The data directory, in place of `--db.path`.
    Data,
}

/// What the command line asks of a command.
struct Order {
    /// The data directory.
    data: PathBuf,
    flags: Vec<&'static str>,
}

/// The exit status, or why it could not be done.
type Outcome = Result<u8, String>;

const COMMANDS: &[Command] = &[Command {
    name: "check",
    usage: "[--repair] [DIR]",
    summary: "look for damage in a data directory that no server uses",
    help: "Reads all of the data and compares all checksums. What is damaged is told with its file and offset, and with\n\
           its key where that can be known. Exit status: 0, all is sound; 1, damage was found; 2, it could not be checked.",
    flags: &[("repair", "leave out what is damaged; files as they were are kept as *.damaged")],
    word: Word::Data,
    run: check,
}];

impl Order {
    fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }
}

/// Whether the command line's first word is a command, or would be one: it does not look like an option.
pub fn is_command(first: &OsStr) -> bool {
    !first.as_encoded_bytes().starts_with(b"-")
}

/// Carries out the command that the words name.
pub fn run(words: &[OsString]) -> ExitCode {
    let outcome = match words {
        [first, rest @ ..] if first == "help" => help(rest),
        [first, rest @ ..] => find(first).and_then(|command| carry_out(command, rest)),
        [] => Ok(0),
    };
    outcome.map_or_else(fail, ExitCode::from)
}

fn fail(message: String) -> ExitCode {
    eprintln!("kingserver: {message}");
    ExitCode::from(2)
}

fn find(name: &OsStr) -> Result<&'static Command, String> {
    let unknown = || {
        let name = name.to_string_lossy();
        let near = suggest::nearest(&name, COMMANDS.iter().map(|command| command.name).chain(["help"]));
        let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        format!("'{name}' is not a command{near} (try 'kingserver --help')")
    };
    COMMANDS.iter().find(|command| name == command.name).ok_or_else(unknown)
}

fn carry_out(command: &Command, words: &[OsString]) -> Outcome {
    let hint = |message: String| format!("{message} (try 'kingserver {} --help')", command.name);
    let matches = parser(command).parse(words).map_err(|wrong| hint(wrong.to_string()))?;
    if matches.opt_present("help") {
        return show(&command_help(command));
    }
    (command.run)(&order(command, &matches).map_err(hint)?)
}

fn parser(command: &Command) -> getopts::Options {
    let mut parser = getopts::Options::new();
    parser.optopt("", "db.path", "", "").optopt("", "config", "", "").optflag("h", "help", "");
    for (name, _) in command.flags {
        parser.optflag("", name, "");
    }
    parser
}

fn order(command: &Command, matches: &getopts::Matches) -> Result<Order, String> {
    let mut told: Vec<String> = Vec::new();
    for name in ["config", "db.path"] {
        told.extend(matches.opt_str(name).map(|value| format!("--{name}={value}")));
    }
    match (&matches.free[..], command.word) {
        ([], _) => {}
        ([data], Word::Data) => told.push(format!("--db.path={data}")),
        ([.., word], _) => return Err(format!("'{word}' is one word too many")),
    }
    let Asked::Run(launch) = options::parse(told.into_iter().map(OsString::from))? else {
        return Err("the configuration file asks for help".into());
    };
    let flags = command.flags.iter().map(|(name, _)| *name).filter(|name| matches.opt_present(name)).collect();
    Ok(Order { data: launch.settings.db_path, flags })
}

/// `kingserver help [COMMAND]`.
fn help(words: &[OsString]) -> Outcome {
    match words {
        [] => show(&options::help()),
        [name, ..] if name == "help" => show("Usage: kingserver help [COMMAND]\nShows what there is to say.\n"),
        [name, ..] => show(&command_help(find(name)?)),
    }
}

/// A reader that went away, as in `help | head`, is no failure.
fn show(text: &str) -> Outcome {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(0)
}

/// The commands, for `kingserver --help`.
pub fn list() -> String {
    COMMANDS.iter().map(|command| format!("  {:8}{}\n", command.name, command.summary)).collect()
}

fn command_help(command: &Command) -> String {
    let Command { name, usage, summary, help, .. } = command;
    let mut text =
        format!("Usage: kingserver {name} [OPTION]... {usage}\n{}{}.\n", summary[..1].to_uppercase(), &summary[1..]);
    text += &format!("{help}\n\n");
    let data = ("db.path DIR", "the data directory (default: kingdb-data)");
    let config = ("config FILE", "read the data directory's path from a configuration file");
    for (name, help) in command.flags.iter().chain(&[data, config, ("help", "show this and exit")]) {
        text += &format!("  --{name}\n          {help}\n");
    }
    text + "\nMore in kingserver(8).\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_or_suggested() {
        assert_eq!(find(OsStr::new("check")).map(|command| command.name), Ok("check"));
        let wrong = |word: &str| find(OsStr::new(word)).map(|command| command.name).unwrap_err();
        assert!(wrong("chekc").contains("did you mean check?"));
        assert!(wrong("stray").contains("kingserver --help"));
        assert!(is_command(OsStr::new("stray")) && !is_command(OsStr::new("-p")));
    }

    #[test]
    fn every_command_has_its_help() {
        for command in COMMANDS {
            let text = command_help(command);
            assert!(
                text.contains(command.usage) && text.contains("--db.path") && text.contains("Exit status"),
                "{text}"
            );
            assert!(list().contains(command.summary));
        }
    }

    #[test]
    fn the_data_directory_comes_from_any_place() {
        let command = find(OsStr::new("check")).unwrap();
        let data = |words: &[&str]| {
            let matches = parser(command).parse(words).unwrap();
            order(command, &matches).map(|order| order.data.display().to_string())
        };
        assert_eq!(data(&["/a/b"]).as_deref(), Ok("/a/b"));
        assert_eq!(data(&["--db.path", "/a/c"]).as_deref(), Ok("/a/c"));
        assert!(data(&["/a/b", "/c"]).unwrap_err().contains("too many"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "db.path = /x/y\n").unwrap();
        assert_eq!(data(&["--config", file.path().to_str().unwrap()]).as_deref(), Ok("/x/y"));
    }
}
