//! Tables: a line, and what it must come to.

use super::*;

const MIB: u64 = 1 << 20;

fn refused(input: &[u8]) -> (&'static [u8], u64, bool) {
    match parse(input, MIB) {
        Parse::Refused { used, reply, swallow, close } => {
            let line = input.iter().position(|b| *b == b'\n').map_or(input.len(), |at| at + 1);
            assert_eq!(used, line, "{}", input.escape_ascii());
            (reply, swallow, close)
        }
        other => panic!("{} came to {other:?}", input.escape_ascii()),
    }
}

fn command(input: &str) -> Command<'_> {
    match parse(input.as_bytes(), MIB) {
        Parse::Command { used, command } => {
            assert_eq!(used, input.find('\n').unwrap() + 1, "{input:?}");
            command
        }
        other => panic!("{input:?} came to {other:?}"),
    }
}

/// The whole retrieval: its head, its keys, and whether the line ended.
fn retrieve(mut input: &[u8]) -> (Retrieval, Vec<&[u8]>, bool) {
    let Parse::Retrieval { used, retrieval } = parse(input, MIB) else {
        panic!("{} is no retrieval", input.escape_ascii())
    };
    input = &input[used..];
    let mut keys = Vec::new();
    loop {
        match next_key(input) {
            NextKey::Key { used, key } => {
                keys.push(key);
                input = &input[used..];
            }
            NextKey::End { used } => {
                assert_eq!(used, input.len());
                return (retrieval, keys, true);
            }
            NextKey::Incomplete | NextKey::Bad => return (retrieval, keys, false),
        }
    }
}

fn set(key: &str, len: u64, noreply: bool) -> Command<'_> {
    Command::Store { verb: Verb::Set, key: key.as_bytes(), flags: 7, exptime: -1, len, cas: 0, noreply }
}

#[test]
fn storage_lines() {
    let longest = "k".repeat(MAX_KEY);
    for (line, expected) in [
        ("set k 7 -1 3\r\nabc\r\n", set("k", 3, false)),
        ("set k 7 -1 3\nabc\r\n", set("k", 3, false)),
        ("set   k  7 -1   3  \r\n", set("k", 3, false)),
        ("set k 7 -1 3 and more\r\n", set("k", 3, false)),
        ("set k 7 -1 3 1 2 3 4 5 noreply\r\n", set("k", 3, true)),
        ("set k 7 -1 3 noreply\r\n", set("k", 3, true)),
        ("set k 7 -1 3 noreply  \r\n", set("k", 3, true)),
        ("set k 7 -1 3 NOREPLY\r\n", set("k", 3, false)),
        ("set k 7 -1 0\r\n", set("k", 0, false)),
        ("set k 7 -1 0003\r\n", set("k", 3, false)),
        ("set k 7 -1 1048576\r\n", set("k", MIB, false)),
        ("set schlüssel 7 -1 1\r\n", set("schlüssel", 1, false)),
        (&format!("set {longest} 7 -1 1\r\n"), set(&longest, 1, false)),
    ] {
        assert_eq!(command(line), expected, "{line:?}");
    }
    for (name, verb) in [
        ("set", Verb::Set),
        ("add", Verb::Add),
        ("replace", Verb::Replace),
        ("append", Verb::Append),
        ("prepend", Verb::Prepend),
    ] {
        let line = format!("{name} key 4294967295 {} 9\r\n", i64::MAX);
        let expected =
            Command::Store { verb, key: b"key", flags: u32::MAX, exptime: i64::MAX, len: 9, cas: 0, noreply: false };
        assert_eq!(command(&line), expected);
    }
    for (line, noreply) in
        [("cas k 1 2 3 18446744073709551615\r\n", false), ("cas k 1 2 3 18446744073709551615 noreply\n", true)]
    {
        let expected =
            Command::Store { verb: Verb::Cas, key: b"k", flags: 1, exptime: 2, len: 3, cas: u64::MAX, noreply };
        assert_eq!(command(line), expected);
    }
}

#[test]
fn refused_storage_lines_say_how_to_stay_in_step() {
    let long = format!("set {} 0 0 5\r\nhello\r\n", "k".repeat(MAX_KEY + 1));
    let long_quiet = format!("set {} 0 0 5 noreply\r\nhello\r\n", "k".repeat(MAX_KEY + 1));
    for (line, reply, swallow, close) in [
        (long.as_str(), BAD_LINE, 7, false),
        (long_quiet.as_str(), b"".as_slice(), 7, false),
        ("set a\0b 0 0 5\r\n", BAD_LINE, 7, false),
        ("set a\tb 0 0 5\r\n", BAD_LINE, 7, false),
        ("set a\x7fb 0 0 5\r\n", BAD_LINE, 7, false),
        ("set a\rb 0 0 5\r\n", BAD_LINE, 7, false),
        ("set k 4294967296 0 5\r\n", BAD_LINE, 7, false),
        ("set k -1 0 5\r\n", BAD_LINE, 7, false),
        ("set k x 0 5\r\n", BAD_LINE, 7, false),
        ("set k 0 x 5\r\n", BAD_LINE, 7, false),
        ("set k 0 - 5\r\n", BAD_LINE, 7, false),
        ("set k 0 9223372036854775808 5\r\n", BAD_LINE, 7, false),
        ("set k 0 0 -1\r\n", BAD_LINE, 0, false),
        ("set k 0 0 -1 noreply\r\n", BAD_LINE, 0, false),
        ("set k 0 0 x\r\n", BAD_LINE, 0, false),
        ("set k 0 0 5x\r\n", BAD_LINE, 0, false),
        ("set k 0 0 1048577\r\n", TOO_LARGE, 1048579, false),
        ("set k 0 0 1048577 noreply\r\n", b"", 1048579, false),
        ("set k 0 0 2147483645\r\n", TOO_LARGE, 2147483647, false),
        ("set k 0 0 2147483646\r\n", BAD_LINE, 0, false),
        ("set k 0 0 4294967297\r\n", BAD_LINE, 0, false),
        ("set k 0 0 4294967297 noreply\r\n", BAD_LINE, 0, false),
        ("set k 0 0 18446744073709551617\r\n", BAD_LINE, 0, false),
        ("set k 0 0 99999999999999999999999999\r\n", BAD_LINE, 0, false),
        ("cas k 0 0 5 x\r\n", BAD_LINE, 7, false),
        ("cas k 0 0 5 -1\r\n", BAD_LINE, 7, false),
        ("cas k 0 0 5 18446744073709551616\r\n", BAD_LINE, 7, false),
        ("set\r\n", BAD_LINE, 0, false),
        ("set k 0 0\r\n", BAD_LINE, 0, false),
        ("cas k 0 0 5\r\n", BAD_LINE, 7, false),
        ("cas k 0 0 5 noreply\r\n", b"", 7, false),
    ] {
        assert_eq!(refused(line.as_bytes()), (reply, swallow, close), "{line:?}");
    }
}

#[test]
fn other_commands() {
    for (line, expected) in [
        ("delete k\r\n", Command::Delete { key: b"k", noreply: false }),
        ("delete k 0\r\n", Command::Delete { key: b"k", noreply: false }),
        ("delete k noreply\r\n", Command::Delete { key: b"k", noreply: true }),
        ("delete k 0 noreply\n", Command::Delete { key: b"k", noreply: true }),
        ("delete k noreply 0\r\n", Command::Delete { key: b"k", noreply: false }),
        ("delete noreply\r\n", Command::Delete { key: b"noreply", noreply: true }),
        ("flush_all 1 noreply more\r\n", Command::FlushAll { delay: 1, noreply: false }),
        ("incr k 5\r\n", Command::Arithmetic { key: b"k", delta: 5, decrement: false, noreply: false }),
        (
            "decr k 18446744073709551615 noreply\r\n",
            Command::Arithmetic { key: b"k", delta: u64::MAX, decrement: true, noreply: true },
        ),
        ("touch k 10\r\n", Command::Touch { key: b"k", exptime: 10, noreply: false }),
        ("touch k -10 noreply\r\n", Command::Touch { key: b"k", exptime: -10, noreply: true }),
        ("flush_all\r\n", Command::FlushAll { delay: 0, noreply: false }),
        ("flush_all noreply\r\n", Command::FlushAll { delay: 0, noreply: true }),
        ("flush_all 10\r\n", Command::FlushAll { delay: 10, noreply: false }),
        ("flush_all -1 noreply\r\n", Command::FlushAll { delay: -1, noreply: true }),
        ("verbosity 1\r\n", Command::Verbosity { level: 1, noreply: false }),
        ("verbosity 1 noreply\r\n", Command::Verbosity { level: 1, noreply: true }),
        ("stats\r\n", Command::Stats { what: b"" }),
        ("stats  \r\n", Command::Stats { what: b"" }),
        ("stats  detail  on \r\n", Command::Stats { what: b"detail  on" }),
        ("version\r\n", Command::Version),
        ("quit\r\n", Command::Quit),
        ("quit now\n", Command::Quit),
    ] {
        assert_eq!(command(line), expected, "{line:?}");
    }
}

#[test]
fn other_refusals() {
    let long = "k".repeat(MAX_KEY + 1);
    for (line, reply) in [
        ("\r\n", BAD_LINE),
        ("\n", BAD_LINE),
        ("s\r\n", BAD_LINE),
        ("   \r\n", ERROR),
        (" version\r\n", ERROR),
        ("nonsense\r\n", ERROR),
        ("nonsense noreply\r\n", b""),
        ("GET k\r\n", ERROR),
        ("getx k\r\n", ERROR),
        ("delete\r\n", BAD_LINE),
        ("delete k 10\r\n", BAD_LINE),
        (&format!("delete {long}\r\n"), BAD_LINE),
        ("delete a\x01b\r\n", BAD_LINE),
        ("incr k\r\n", BAD_LINE),
        ("incr k x\r\n", BAD_DELTA),
        ("incr k -1\r\n", BAD_DELTA),
        ("decr k 18446744073709551616\r\n", BAD_DELTA),
        ("incr k x noreply\r\n", b""),
        ("touch k\r\n", BAD_LINE),
        ("touch k x\r\n", BAD_EXPTIME),
        ("gat\r\n", BAD_LINE),
        ("gat x k\r\n", BAD_EXPTIME),
        ("gats 9223372036854775808 k\r\n", BAD_EXPTIME),
        ("flush_all x\r\n", BAD_EXPTIME),
        ("verbosity\r\n", BAD_LINE),
        ("verbosity x\r\n", BAD_LINE),
        ("verbosity 4294967296\r\n", BAD_LINE),
    ] {
        assert_eq!(refused(line.as_bytes()), (reply, 0, false), "{line:?}");
    }
    assert_eq!(refused(b"POST / HTTP/1.1\r\n"), (b"".as_slice(), 0, true));
}

#[test]
fn every_prefix_of_a_line_is_incomplete() {
    let lines =
        ["set key 0 0 5\r\n", "delete k\r\n", "  gats 10 ", "   get ", "nonsense\n", "cas k 1 2 3 4 noreply\r\n"];
    for line in lines {
        for end in 0..line.len() {
            assert_eq!(parse(&line.as_bytes()[..end], MIB), Parse::Incomplete, "{:?}", &line[..end]);
        }
    }
}

#[test]
fn a_line_has_a_longest_length_whatever_its_pieces() {
    for line in [vec![b'x'; MAX_LINE], vec![b' '; MAX_LINE], [b"set ".as_slice(), &[b'k'; MAX_LINE - 4]].concat()] {
        assert_eq!(parse(&line, MIB), Parse::Incomplete);
        let whole = [&line, b"\n".as_slice()].concat();
        assert!(!refused(&whole).2, "a line of the longest length is answered as any other");
        for more in [b"x".as_slice(), b"x\r\n"] {
            let too_long = [&line, more].concat();
            let Parse::Refused { reply, swallow: 0, close: true, .. } = parse(&too_long, MIB) else { panic!() };
            assert_eq!(reply, b"");
        }
    }
    let gat = [b"gat ".as_slice(), &[b'1'; MAX_LINE]].concat();
    assert!(matches!(parse(&gat, MIB), Parse::Refused { close: true, .. }));
}

#[test]
fn retrievals() {
    let get = Retrieval { with_cas: false, touch: None };
    let gets = Retrieval { with_cas: true, touch: None };
    let gat = Retrieval { with_cas: false, touch: Some(-5) };
    let gats = Retrieval { with_cas: true, touch: Some(100) };
    let longest = "k".repeat(MAX_KEY);
    for (line, head, keys) in [
        ("get k\r\n", get, vec!["k"]),
        ("get k\n", get, vec!["k"]),
        ("get   a  b c  \r\n", get, vec!["a", "b", "c"]),
        ("gets aaaaaaaa bbbbbbbbb \n", gets, vec!["aaaaaaaa", "bbbbbbbbb"]),
        ("get\r\n", get, vec![]),
        ("get  \n", get, vec![]),
        ("gat -5 k\r\n", gat, vec!["k"]),
        ("gats  100  k  l\r\n", gats, vec!["k", "l"]),
        ("gats 100\r\n", gats, vec![]),
        (&format!("get {longest} {longest}\r\n"), get, vec![longest.as_str(); 2]),
    ] {
        let keys = keys.iter().map(|key| key.as_bytes()).collect();
        assert_eq!(retrieve(line.as_bytes()), (head, keys, true), "{line:?}");
    }
}

#[test]
fn a_retrieval_may_be_longer_than_a_line_and_come_in_pieces() {
    let key = "0123456789".repeat(20);
    let line = format!("get{}\r\n", format!(" {key}").repeat(100));
    let (_, keys, ended) = retrieve(line.as_bytes());
    assert_eq!((keys.len(), ended), (100, true));
    for end in line.len() - 300..line.len() {
        let (_, keys, ended) = retrieve(&line.as_bytes()[..end]);
        // A key counts once the byte behind it is there; the last one's is not enough, being a carriage return.
        assert_eq!((keys.len(), ended), (((end - 4) / 201).min(99), false), "cut at {end}");
    }
}

#[test]
fn the_end_of_a_key() {
    for (input, expected) in [
        (b"".as_slice(), NextKey::Incomplete),
        (b"  ", NextKey::Incomplete),
        (b"\r", NextKey::Incomplete),
        (b" k", NextKey::Incomplete),
        (b" k\r", NextKey::Incomplete),
        (b" k\n", NextKey::Key { used: 2, key: b"k" }),
        (b" k\r\n", NextKey::Key { used: 2, key: b"k" }),
        (b" \r\n", NextKey::End { used: 3 }),
        (b"\n", NextKey::End { used: 1 }),
        (b" k\rx", NextKey::Bad),
        (b"\rx", NextKey::Bad),
        (b"a\0 ", NextKey::Bad),
        (b"a\t ", NextKey::Bad),
        (b"aaaaaaaaaaaaa\x7f ", NextKey::Bad),
    ] {
        assert_eq!(next_key(input), expected, "{}", input.escape_ascii());
    }
    assert_eq!(next_key(&[b'k'; MAX_KEY]), NextKey::Incomplete);
    assert_eq!(next_key(&[b'k'; MAX_KEY + 1]), NextKey::Bad);
}

#[test]
fn scanning_finds_the_first_of_every_byte_at_every_place() {
    for len in 0..40 {
        for at in 0..len {
            for byte in 0..=255u8 {
                let mut bytes = vec![b'k'; len];
                bytes[at] = byte;
                let forbidden = byte <= b' ' || byte == 0x7f;
                assert_eq!(key_len(&bytes), if forbidden { at } else { len });
                assert_eq!(newline(&bytes), (byte == b'\n').then_some(at));
                assert_eq!(word_len(&bytes), if byte == b' ' { at } else { len });
                bytes[len - 1] = b' ';
                assert_eq!(key_len(&bytes), if forbidden { at } else { len - 1 });
            }
        }
    }
}

#[test]
fn deadlines() {
    let now = 1_800_000_000;
    for (exptime, expected) in [
        (0, 0),
        (-1, 1),
        (i64::MIN, 1),
        (1, now + 1),
        (MAX_RELATIVE, now + 2_592_000),
        (MAX_RELATIVE + 1, 1),
        (1_799_999_999, 1),
        (1_800_000_000, 1),
        (1_800_000_001, now + 1),
        (i64::MAX, i64::MAX as u64),
    ] {
        assert_eq!(deadline(exptime, now), expected, "{exptime}");
    }
}

#[test]
fn arithmetic_on_values() {
    for (value, delta, decrement, expected) in [
        ("5", 3, false, Some(("8", 1))),
        ("9", 1, false, Some(("10", 2))),
        ("10", 1, true, Some(("9", 2))),
        ("10 ", 1, true, Some(("9", 3))),
        ("9  ", 91, false, Some(("100", 3))),
        ("0", 0, false, Some(("0", 1))),
        ("5", 6, true, Some(("0", 1))),
        ("18446744073709551615", 1, false, Some(("0", 20))),
        ("18446744073709551615", 5, false, Some(("4", 20))),
        ("0", u64::MAX, false, Some(("18446744073709551615", 20))),
        ("00000000000000000007", 1, false, Some(("8", 20))),
        ("000000000000000000007", 1, false, Some(("8", 21))),
        (" 7", 1, false, Some(("8", 2))),
        ("\t 7\r\n", 1, true, Some(("6", 5))),
        ("000018446744073709551616", 1, false, None),
        ("18446744073709551616", 1, false, None),
        ("", 1, false, None),
        ("  ", 1, false, None),
        ("-1", 1, false, None),
        ("1x", 1, false, None),
        ("1 x", 1, false, None),
        ("hi", 1, true, None),
    ] {
        let number = arithmetic(value.as_bytes(), delta, decrement);
        let got = number.as_ref().map(|n| (std::str::from_utf8(&n.digits[..n.len]).unwrap(), n.padded));
        assert_eq!(got, expected, "{value:?}");
    }
}

proptest::proptest! {
    /// However a line is cut into pieces, it comes to the same; and nothing that clients send makes the parser fail.
    #[test]
    fn what_comes_later_changes_nothing(
        words in proptest::collection::vec(
            "get|gets|gat|set|cas|delete|incr|touch|flush_all|stats|noreply|[0-9]{1,21}|-1|[ \r\n\0a-c\u{ff}]{0,3}", 0..9),
        end in "( |\r\n|\n|\r)?",
    ) {
        let line = words.join(" ") + &end;
        let line = line.as_bytes();
        let whole = parse(line, MIB);
        let used = match &whole {
            Parse::Incomplete => 0,
            Parse::Meta { used, .. } | Parse::Command { used, .. } | Parse::Retrieval { used, .. } | Parse::Refused { used, .. } => *used,
        };
        assert!(used <= line.len());
        for cut in 0..line.len() {
            let part = parse(&line[..cut], MIB);
            assert!(part == Parse::Incomplete || part == whole, "{}", line[..cut].escape_ascii());
            let key = next_key(&line[..cut]);
            assert!(key == NextKey::Incomplete || key == next_key(line), "{}", line[..cut].escape_ascii());
        }
    }
}
