//! The commands beside serving: `kingserver check`, and its like. A row of [`COMMANDS`] makes a command's name, its options,
//! its help and what it does; the man page is compared with it by a test.
//!
//! A command runs on the main thread and ends the process with an exit status: 0, done; 1, what the row says; 2, it could
//! not be done, and a line on standard error says why.

mod bar;
mod check;
mod door;
mod remote;
mod session;
mod wire;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

pub use self::door::Door;

use super::options::{self, Asked, suggest};
use super::settings::Settings;
use kingdb::sys::resource::raise_descriptor_limit;

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
    /// There is none.
    None,
    /// The data directory, in place of `--db.path`.
    Data,
    /// Another directory.
    Target,
}

/// What the command line asks of a command.
struct Order {
    /// What the server's options say, the data directory among them.
    settings: Settings,
    target: Option<PathBuf>,
    flags: Vec<&'static str>,
    store_options: StoreOptions,
}

/// How to open the store as the server would.
pub type StoreOptions = fn(&Settings) -> kingdb::Options;

/// The exit status, or why it could not be done.
type Outcome = Result<u8, String>;

const COMMANDS: &[Command] = &[
    Command {
        name: "backup",
        usage: "TARGET",
        summary: "copy a store, in use or not, to a directory that can be served",
        help: "Makes the directory TARGET, though none above it, or fills it if it is empty. What is acknowledged before the\n\
               command begins is in it, and of what is written meanwhile all up to some moment. Files that change no more\n\
               are linked where that is possible, which takes no space. To restore, start a server on a copy of it.\n\
               Exit status: 0, it is done; 2, it is not, and TARGET is no store.",
        flags: &[],
        word: Word::Target,
        run: remote::backup,
    },
    Command {
        name: "check",
        usage: "[--repair] [DIR]",
        summary: "look for damage in a data directory that no server uses",
        help: "Reads all of the data and compares all checksums. What is damaged is told with its file and offset, and with\n\
               its key where that can be known. Exit status: 0, all is sound; 1, damage was found; 2, it could not be checked,\n\
               or not be repaired to the end.",
        flags: &[("repair", "leave out what is damaged; files as they were are kept as *.damaged")],
        word: Word::Data,
        run: check::check,
    },
    Command {
        name: "compact",
        usage: "",
        summary: "give back all disk space that can be, of a store in use or not",
        help: "A server does so by itself as far as it is worth it; this does it down to the last record, and waits for it.\n\
               Exit status: 0, it is done; 2, it is not, or not all of it.",
        flags: &[],
        word: Word::None,
        run: remote::compact,
    },
    Command {
        name: "dump",
        usage: "> FILE",
        summary: "write all keys and values of a store, in use or not, as portable text",
        help: "The text goes to the standard output and has the store as it is at one moment. Exit status: 0, all of it was\n\
               written; 2, it was not, and the text lacks its last line.",
        flags: &[],
        word: Word::None,
        run: remote::dump,
    },
    Command {
        name: "load",
        usage: "< FILE",
        summary: "add what a dump has to a store, in use or not",
        help: "Reads the text from the standard input. Keys that are there already get the dump's values; a store that is\n\
               not there is made. Exit status: 0, all of it is on the disk; 2, it is not: the records before the offending\n\
               line are loaded.",
        flags: &[],
        word: Word::None,
        run: remote::load,
    },
];

impl Order {
    fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }
}

/// Whether the command line's first word is a command, or would be one: it does not look like an option.
pub fn is_command(first: &OsStr) -> bool {
    !first.as_encoded_bytes().starts_with(b"-")
}

/// What to say of a word that stands where options are expected.
pub fn misplaced(word: &str) -> &'static str {
    match word == "help" || COMMANDS.iter().any(|command| command.name == word) {
        true => "a command comes first, before the options",
        false => "options start with - or --",
    }
}

/// Carries out the command that the words name.
pub fn run(words: &[OsString], store_options: StoreOptions) -> ExitCode {
    // A store may have more files than a shell's programs may open; one that has too many says so.
    let _ = raise_descriptor_limit(0);
    let outcome = match words {
        [first, rest @ ..] if first == "help" => help(rest),
        [first, rest @ ..] => find(first).and_then(|command| carry_out(command, rest, store_options)),
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

fn carry_out(command: &Command, words: &[OsString], store_options: StoreOptions) -> Outcome {
    let hint = |message: String| format!("{message} (try 'kingserver {} --help')", command.name);
    let describe = |wrong| hint(options::describe(wrong, &|_| String::new()));
    let matches = parser(command).parse(words).map_err(describe)?;
    if matches.opt_present("help") {
        return show(&command_help(command));
    }
    (command.run)(&order(command, &matches, store_options).map_err(hint)?)
}

fn parser(command: &Command) -> getopts::Options {
    let mut parser = getopts::Options::new();
    parser.optopt("", "db.path", "", "").optopt("", "config", "", "").optflag("h", "help", "");
    for (name, _) in command.flags {
        parser.optflag("", name, "");
    }
    parser
}

fn order(command: &Command, matches: &getopts::Matches, store_options: StoreOptions) -> Result<Order, String> {
    let mut told: Vec<String> = Vec::new();
    for name in ["config", "db.path"] {
        told.extend(matches.opt_str(name).map(|value| format!("--{name}={value}")));
    }
    let mut target = None;
    match (&matches.free[..], command.word) {
        ([], _) => {}
        ([data], Word::Data) => told.push(format!("--db.path={data}")),
        ([path], Word::Target) => target = Some(path.into()),
        ([.., word], _) => return Err(format!("'{word}' is one word too many")),
    }
    let Asked::Run(launch) = options::parse(told.into_iter().map(OsString::from))? else {
        return Err("the configuration file asks for help".into());
    };
    let flags = command.flags.iter().map(|(name, _)| *name).filter(|name| matches.opt_present(name)).collect();
    Ok(Order { settings: launch.settings, target, flags, store_options })
}

/// `kingserver help [COMMAND]`.
fn help(words: &[OsString]) -> Outcome {
    match words {
        [] => show(&options::help()),
        [name, ..] if name == "help" || !is_command(name) => {
            show("Usage: kingserver help [COMMAND]\nShows what there is to say.\n")
        }
        [name] => show(&command_help(find(name)?)),
        [.., word] => Err(format!("'{}' is one word too many (try 'kingserver --help')", word.to_string_lossy())),
    }
}

/// A reader that went away, as in `help | head`, is no failure.
fn show(text: &str) -> Outcome {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(0)
}

/// The commands, for `kingserver --help`.
pub fn list() -> String {
    let help = ("help", "show this, or the help of the command that follows");
    let all = COMMANDS.iter().map(|command| (command.name, command.summary)).chain([help]);
    all.map(|(name, summary)| format!("  {name:8}{summary}\n")).collect()
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
            order(command, &matches, |_| unreachable!()).map(|order| order.settings.db_path.display().to_string())
        };
        assert_eq!(data(&["/a/b"]).as_deref(), Ok("/a/b"));
        assert_eq!(data(&["--db.path", "/a/c"]).as_deref(), Ok("/a/c"));
        assert!(data(&["/a/b", "/c"]).unwrap_err().contains("too many"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "db.path = /x/y\n").unwrap();
        assert_eq!(data(&["--config", file.path().to_str().unwrap()]).as_deref(), Ok("/x/y"));
    }
}
