use super::*;
use std::collections::HashSet;
use std::time::Duration;

fn ask(args: &[&str]) -> Result<Asked, String> {
    parse(args.iter().map(OsString::from))
}

fn launch(args: &[&str]) -> Launch {
    match ask(args) {
        Ok(Asked::Run(launch)) => *launch,
        other => panic!("{args:?} came to {other:?}"),
    }
}

fn listen(args: &[&str]) -> Vec<String> {
    launch(args).settings.listen.iter().map(|place| std::net::SocketAddr::from(*place).to_string()).collect()
}

#[test]
fn letters_and_names_are_unique() {
    let mut seen = HashSet::new();
    for row in rows() {
        for name in row.names.iter().copied().chain([row.letter].into_iter().filter(|letter| !letter.is_empty())) {
            assert!(seen.insert(name), "{name} stands twice");
        }
    }
}

#[test]
fn the_defaults_are_what_the_table_says() {
    let plain = launch(&[]);
    for row in rows().filter(|row| !row.default.is_empty() && !row.default.contains("processor")) {
        let value = row.default.split(',').next().unwrap();
        let told = launch(&[&format!("--{}={value}", row.names[0])]);
        assert_eq!(format!("{:?}", told.settings), format!("{:?}", plain.settings), "{}", row.label());
        assert_eq!(told.log_level, plain.log_level);
    }
}

#[test]
fn addresses_and_ports() {
    assert_eq!(listen(&[]), ["127.0.0.1:11211"]);
    assert_eq!(listen(&["-p", "7"]), ["127.0.0.1:7"]);
    assert_eq!(listen(&["-l", "::1", "-p", "7"]), ["[::1]:7"]);
    assert_eq!(
        listen(&["-l127.0.0.1:5,[::1]", "--listen=0.0.0.0", "--port=8"]),
        ["127.0.0.1:5", "[::1]:8", "0.0.0.0:8"]
    );
    assert_eq!(listen(&["-l", "127.0.0.1,127.0.0.1:11211"]), ["127.0.0.1:11211"]);
    assert_eq!(listen(&["-l", "127.0.0.1,*:7,[::]"]), ["127.0.0.1:11211", "0.0.0.0:7", "[::]:11211"]);
    assert_eq!(listen(&["-p0", "-l", "127.0.0.1,*"]).len(), 2);
    assert_eq!(listen(&["-s", "/tmp/s"]), [""; 0]);
    assert_eq!(listen(&["-s", "/tmp/s", "-p", "7"]), ["127.0.0.1:7"]);
    assert_eq!(listen(&["-s", "/tmp/s", "-l", "::1"]), ["[::1]:11211"]);
}

#[test]
fn a_memcached_unit_works() {
    let told = launch(&[
        "-m",
        "128",
        "-p",
        "11212",
        "-u",
        "memcache",
        "-l",
        "127.0.0.1",
        "-P",
        "/run/k.pid",
        "-c",
        "2048",
        "-t",
        "3",
        "-R",
        "20",
        "-b",
        "511",
        "-I",
        "512k",
        "-vv",
        "-d",
        "-U",
        "0",
        "-M",
        "-o",
        "idle_timeout=30",
        "-a",
        "0770",
    ]);
    let settings = &told.settings;
    assert_eq!((settings.cache_bytes, settings.max_connections, settings.threads), (128 << 20, 2048, 3));
    assert_eq!((settings.commands_per_turn, settings.backlog, settings.max_value), (20, 511, 512 << 10));
    assert_eq!((settings.verbosity, settings.unix_mode), (2, 0o770));
    assert_eq!(settings.idle_timeout, Some(Duration::from_secs(30)));
    assert_eq!(told.pid_file.as_deref(), Some("/run/k.pid".as_ref()));
    assert_eq!((told.user.as_deref(), told.daemon), (Some("memcache"), true));
    assert!(told.notes.is_empty(), "{:?}", told.notes);
}

#[test]
fn what_has_no_effect_is_said() {
    for args in [&["-U", "11211"][..], &["-k"], &["-f", "1.25"], &["-n", "48"], &["-L"], &["-o", "modern"]] {
        assert_eq!(launch(args).notes.len(), 1, "{args:?}");
    }
}

#[test]
fn the_last_word_counts() {
    assert_eq!(launch(&["-m", "1", "--memory-limit=2", "-m3"]).settings.cache_bytes, 3 << 20);
    assert_eq!(launch(&["-m", "1", "--db.cache-size=512mb"]).settings.cache_bytes, 512 << 20);
}

#[test]
fn the_command_line_replaces_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "server.interface ::1\nserver.port = 5 # mine\ndb.sync = always\ndaemon\n").unwrap();
    let config = format!("--config={}", file.path().display());
    assert_eq!(listen(&[&config]), ["[::1]:5"]);
    assert_eq!(listen(&[&config, "-l", "127.0.0.1"]), ["127.0.0.1:5"]);
    let told = launch(&["--db.sync=none", &config]);
    assert_eq!((told.settings.sync, told.daemon), (kingdb::Sync::None, true));
}

#[test]
fn a_wrong_file_is_refused_with_its_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    for (text, expected) in [
        ("\nnonsense = 1", format!("{path}:2: there is no option 'nonsense'")),
        ("help", format!("{path}:1: 'help' belongs on the command line")),
        ("server.port", format!("{path}:1: 'server.port' needs a value")),
        ("port x", format!("{path}:1: port: 'x' is not a number from 0 to 65535")),
    ] {
        std::fs::write(file.path(), text).unwrap();
        assert_eq!(ask(&["--config", &path]).unwrap_err(), expected);
    }
    assert!(ask(&["--config=/nonexistent"]).unwrap_err().contains("cannot read the configuration file /nonexistent"));
}

#[test]
fn wrong_options_are_refused() {
    for (args, part) in [
        (&["--nonsense"][..], "there is no option --nonsense"),
        (&["-z"], "there is no option -z"),
        (&["-p"], "-p needs a value"),
        (&["--daemon=yes"], "--daemon takes no value"),
        (&["word"], "'word' is not an option"),
        (&["-p", "65536"], "-p, --server.port, --port: '65536' is not a number from 0 to 65535"),
        (&["-l", "example.org"], "'example.org' is not an address"),
        (&["-t", "0"], "'0' is not a number from 1 to 256"),
        (&["-I", "1"], "between 1k and 4194304tb"),
        (&["-m", "64q"], "'64q' is not a size: give MiB, or"),
        (&["-m", "x"], "'x' is not a size: give MiB, or"),
        (&["--db-path=x"], "there is no option --db-path; did you mean --db.path?"),
        (&["-l", "127.0.0.1", "-l", "*"], "-l 0.0.0.0 and -l 127.0.0.1 overlap on port 11211"),
        (&["-l", "[::]:5,[::1]:5"], "-l :: and -l ::1 overlap on port 5"),
        (&["-a", "888"], "'888' is not a file mode"),
        (&["-s", &"x".repeat(200)], "107 bytes"),
        (&["--db.max-size=1mb"], "is not between 8mb and 1024tb"),
        (&["--db.write-buffer.size=1k"], "is not between 1mb and 1gb"),
        (&["--db.storage.minimum-free-space-accept-orders=some"], "'some' is not a size"),
        (&["--db.sync=never"], "give always, interval or none"),
        (&["--db.sync-interval=0"], "between 1ms and 3600s"),
        (&["--db.compression=maybe"], "neither yes nor no"),
        (&["--log.level=loud"], "give error, warn, info or debug"),
        (&["-S"], "give it with -Y"),
        (&["-B", "udp"], "give auto, ascii or binary"),
        (&["--server.idle-timeout=5 fortnights"], "is not a time"),
    ] {
        let message = ask(args).unwrap_err();
        assert!(message.contains(part), "{args:?}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn help_names_every_option_in_lines_that_fit_a_terminal() {
    let Ok(Asked::Show(help)) = ask(&["-p", "1", "--help"]) else { panic!() };
    for row in rows() {
        assert!(help.contains(&format!("  {}", row.label())), "{}", row.label());
    }
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
}
