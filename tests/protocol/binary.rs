//! The binary dialect, opcode by opcode: statuses, bodies and CAS uniques as memcached 1.6.45 has them; and headers whose
//! lengths lie.

use crate::common::{Client, Server};

/// A response.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    opcode: u8,
    status: u8,
    extras: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
    cas: u64,
}

fn frame(opcode: u8, extras: &[u8], key: &[u8], value: &[u8], cas: u64) -> Vec<u8> {
    let body = (extras.len() + key.len() + value.len()) as u32;
    let mut bytes = vec![0x80, opcode];
    bytes.extend((key.len() as u16).to_be_bytes());
    bytes.extend([extras.len() as u8, 0, 0, 0]);
    bytes.extend(body.to_be_bytes());
    bytes.extend(b"opaq");
    bytes.extend(cas.to_be_bytes());
    [&bytes, extras, key, value].concat()
}

fn response(c: &mut Client) -> Response {
    let header = c.bytes(24);
    assert_eq!((header[0], &header[12..16]), (0x81, &b"opaq"[..]), "{}", header.escape_ascii());
    let body = c.bytes(u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize);
    let (extras, rest) = body.split_at(usize::from(header[4]));
    let (key, value) = rest.split_at(usize::from(u16::from_be_bytes([header[2], header[3]])));
    let cas = u64::from_be_bytes(header[16..24].try_into().expect("eight bytes"));
    Response { opcode: header[1], status: header[7], extras: extras.into(), key: key.into(), value: value.into(), cas }
}

fn ask(c: &mut Client, opcode: u8, extras: &[u8], key: &[u8], value: &[u8], cas: u64) -> Response {
    c.send(frame(opcode, extras, key, value, cas));
    let got = response(c);
    assert_eq!(got.opcode, opcode);
    got
}

/// Status and value.
fn told(c: &mut Client, opcode: u8, extras: &[u8], key: &[u8], value: &[u8], cas: u64) -> (u8, Vec<u8>) {
    let got = ask(c, opcode, extras, key, value, cas);
    (got.status, got.value)
}

/// Nothing but the answer to a noop comes.
fn silent(c: &mut Client, request: Vec<u8>) {
    c.send(request);
    c.send(frame(0x0a, &[], &[], &[], 0));
    assert_eq!(response(c).opcode, 0x0a);
}

const SET: [u8; 8] = [0, 0, 0, 5, 0, 0, 0, 0];

#[test]
fn every_opcode() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let no = |text: &str| text.as_bytes().to_vec();
    assert_eq!(told(&mut c, 0x00, &[], b"k", &[], 0), (1, no("Not found")));
    let miss = ask(&mut c, 0x0c, &[], b"k", &[], 0);
    assert_eq!((miss.status, miss.key, miss.value), (1, b"k".to_vec(), vec![]));
    silent(&mut c, frame(0x09, &[], b"k", &[], 0));
    silent(&mut c, frame(0x0d, &[], b"k", &[], 0));
    // Storing.
    assert_eq!(told(&mut c, 0x03, &SET, b"k", b"v", 0), (1, no("Not found")));
    assert_eq!(told(&mut c, 0x0e, &[], b"k", b"v", 0), (5, no("Not stored.")));
    let stored = ask(&mut c, 0x01, &SET, b"k", b"v", 0);
    assert_eq!((stored.status, stored.value.len()), (0, 0));
    assert_eq!(told(&mut c, 0x02, &SET, b"k", b"w", 0), (2, no("Data exists for key.")));
    let got = ask(&mut c, 0x00, &[], b"k", &[], 0);
    assert_eq!(got, Response { opcode: 0, extras: vec![0, 0, 0, 5], key: vec![], value: b"v".to_vec(), ..stored });
    assert_eq!(told(&mut c, 0x01, &SET, b"k", b"w", got.cas + 999).0, 2);
    assert_eq!(told(&mut c, 0x01, &SET, b"nokey", b"w", 9).0, 1);
    let renewed = ask(&mut c, 0x01, &SET, b"k", b"b", got.cas);
    assert!(renewed.status == 0 && renewed.cas != got.cas);
    assert_eq!(ask(&mut c, 0x0e, &[], b"k", b"c", 0).status, 0);
    assert_eq!(ask(&mut c, 0x0f, &[], b"k", b"a", 0).status, 0);
    let got = ask(&mut c, 0x0c, &[], b"k", &[], 0);
    assert_eq!((got.key, got.value), (b"k".to_vec(), b"abc".to_vec()));
    // Quiet forms tell what is not as it should be, and nothing else.
    for opcode in [0x11, 0x13] {
        silent(&mut c, frame(opcode, &SET, b"k", b"q", 0));
    }
    silent(&mut c, frame(0x12, &SET, b"k2", b"q", 0));
    silent(&mut c, frame(0x19, &[], b"k", b"q", 0));
    silent(&mut c, frame(0x1a, &[], b"k", b"q", 0));
    assert_eq!(told(&mut c, 0x12, &SET, b"k", b"q", 0).0, 2);
    assert_eq!(told(&mut c, 0x09, &[], b"k", &[], 0), (0, b"qqq".to_vec()));
    // Touching.
    assert_eq!(told(&mut c, 0x1d, &[0, 0, 0, 60], b"k", &[], 0), (0, b"qqq".to_vec()));
    let touched = ask(&mut c, 0x1c, &[0, 0, 0, 60], b"k", &[], 0);
    assert_eq!((touched.status, touched.extras, touched.value), (0, vec![0, 0, 0, 5], vec![]));
    assert_eq!(ask(&mut c, 0x23, &[0, 0, 0, 0], b"k", &[], 0).key, b"k");
    silent(&mut c, frame(0x1e, &[0, 0, 0, 60], b"nokey", &[], 0));
    silent(&mut c, frame(0x24, &[0, 0, 0, 60], b"nokey", &[], 0));
    assert_eq!(told(&mut c, 0x1c, &[0, 0, 0, 60], b"nokey", &[], 0).0, 1);
    // Deleting.
    assert_eq!(told(&mut c, 0x04, &[], b"k", &[], 5).0, 2);
    assert_eq!(told(&mut c, 0x04, &[], b"k", &[], 0), (0, vec![]));
    assert_eq!(told(&mut c, 0x04, &[], b"k", &[], 0), (1, no("Not found")));
    silent(&mut c, frame(0x14, &[], b"k2", &[], 0));
    // The rest.
    assert_eq!(told(&mut c, 0x0b, &[], &[], &[], 0), (0, no(env!("CARGO_PKG_VERSION"))));
    assert_eq!(told(&mut c, 0x1b, &[0, 0, 0, 0], &[], &[], 0).0, 0);
    assert_eq!(told(&mut c, 0x08, &[0, 0, 0, 0], &[], &[], 0).0, 0);
    silent(&mut c, frame(0x18, &[], &[], &[], 0));
    assert_eq!(told(&mut c, 0x20, &[], &[], &[], 0), (0x81, no("Unknown command")));
    assert_eq!(told(&mut c, 0x3f, &[0; 4], b"k", b"body", 0), (0x81, no("Unknown command")), "and the body is skipped");
    assert_eq!(told(&mut c, 0x07, &[], &[], &[], 0), (0, vec![]));
    assert_eq!(c.until_closed(), b"");
    let mut c = server.client();
    c.send(frame(0x17, &[], &[], &[], 0));
    assert_eq!(c.until_closed(), b"");
}

#[test]
fn arithmetic() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let extras = |delta: u64, initial: u64, expires: u32| {
        [&delta.to_be_bytes()[..], &initial.to_be_bytes(), &expires.to_be_bytes()].concat()
    };
    let number = |number: u64| (0, number.to_be_bytes().to_vec());
    assert_eq!(told(&mut c, 0x05, &extras(1, 9, u32::MAX), b"n", &[], 0).0, 1, "not to be made");
    let made = ask(&mut c, 0x05, &extras(1, 9, 60), b"n", &[], 0);
    assert_eq!((made.status, made.value), number(9));
    assert_eq!(told(&mut c, 0x05, &extras(5, 0, 0), b"n", &[], made.cas + 999).0, 2);
    assert_eq!(told(&mut c, 0x05, &extras(5, 0, 0), b"n", &[], made.cas), number(14));
    assert_eq!(told(&mut c, 0x06, &extras(100, 0, 0), b"n", &[], 0), number(0));
    silent(&mut c, frame(0x15, &extras(u64::MAX, 0, 0), b"n", &[], 0));
    silent(&mut c, frame(0x16, &extras(1, 0, 0), b"n", &[], 0));
    assert_eq!(told(&mut c, 0x00, &[], b"n", &[], 0).1, (u64::MAX - 1).to_string().as_bytes());
    ask(&mut c, 0x01, &SET, b"s", b"text", 0);
    assert_eq!(told(&mut c, 0x05, &extras(1, 0, 0), b"s", &[], 0).0, 6);
}

#[test]
fn statistics() {
    let server = Server::start(&[]);
    let mut c = server.client();
    let mut all = |what: &[u8]| {
        c.send(frame(0x10, &[], what, &[], 0));
        std::iter::from_fn(|| Some(response(&mut c)).filter(|got| !got.key.is_empty())).collect::<Vec<_>>()
    };
    assert!(all(b"").iter().any(|stat| stat.key == b"pid" && stat.value == server.pid().to_string().as_bytes()));
    assert!(all(b"settings").iter().any(|stat| stat.key == b"binding_protocol" && stat.value == b"auto-negotiate"));
    assert_eq!(all(b"reset").len() + all(b"detail on").len(), 0);
    let dump = all(b"detail dump").pop().expect("one statistic");
    assert_eq!((&dump.key[..], &dump.value[..]), (&b"detailed"[..], &b"END\r\n"[..]));
    assert_eq!(told(&mut c, 0x10, &[], b"detail", &[], 0).0, 1);
    assert_eq!(told(&mut c, 0x10, &[], b"nonsense", &[], 0).0, 1);
}

#[test]
fn large_values_and_keys_of_any_bytes() {
    let server = Server::start(&["-I", "512k"]);
    let mut c = server.client();
    let key: Vec<u8> = (0..250).map(|at| at as u8).collect();
    for len in [0, 1, 65_536, 65_537, 300_000] {
        let value = crate::common::util::text_bytes(len as u64, len);
        assert_eq!(ask(&mut c, 0x01, &SET, &key, &value, 0).status, 0);
        assert!(told(&mut c, 0x00, &[], &key, &[], 0) == (0, value.clone()), "{len}");
        assert!(told(&mut c, 0x1d, &[0, 0, 0, 9], &key, &[], 0) == (0, value), "{len}");
    }
    // Refused, the older value stays and the connection is in step.
    assert_eq!(told(&mut c, 0x01, &SET, &key, &vec![b'x'; 600_000], 0).0, 3);
    assert_eq!(told(&mut c, 0x00, &[], &key, &[], 0).1.len(), 300_000);
}

/// A value that the other dialects may store and this one cannot tell: the client learns it, and stays in step.
#[test]
fn a_value_longer_than_a_header_can_tell() {
    const LEN: u64 = 1 << 32;
    let server = Server::start(&["-I", "0"]);
    let (mut text, block) = (server.client(), vec![b'x'; 1 << 20]);
    text.send(format!("set huge 0 0 {LEN}\r\n"));
    (0..LEN >> 20).for_each(|_| text.send(&block));
    text.send("\r\n");
    assert_eq!(text.line(), "STORED");
    let mut c = server.client();
    for (opcode, extras) in [(0x00, &[][..]), (0x0c, &[]), (0x09, &[]), (0x1d, &[0; 4]), (0x23, &[0; 4])] {
        assert_eq!(told(&mut c, opcode, extras, b"huge", &[], 0), (3, b"Too large.".to_vec()), "{opcode:#x}");
    }
    assert_eq!(told(&mut c, 0x1c, &[0; 4], b"huge", &[], 0), (0, vec![]), "touch tells no value");
    assert_eq!(told(&mut c, 0x0a, &[], &[], &[], 0).0, 0);
}

/// What is longer than may be stored is refused and thrown away, however long a header says that it is.
#[test]
fn a_body_too_large_is_swallowed() {
    const LEN: usize = (1 << 30) + (1 << 20);
    let server = Server::start(&["-I", "1m"]);
    let (mut c, block) = (server.client(), vec![b'x'; 1 << 20]);
    let mut header = frame(0x01, &SET, b"key", &[], 0);
    header[8..12].copy_from_slice(&((LEN + 11) as u32).to_be_bytes());
    c.send(&header);
    (0..LEN >> 20).for_each(|_| c.send(&block));
    let refused = response(&mut c);
    assert_eq!((refused.status, refused.value), (3, b"Too large.".to_vec()));
    assert_eq!(told(&mut c, 0x00, &[], b"key", &[], 0).0, 1, "in step");
}

/// Key length, extras, body: what memcached's CVE-2016-8704, -8705, -8706 and the extras of 1.6.0 were made of.
#[test]
fn lengths_that_lie() {
    let server = Server::start(&[]);
    for opcode in 0..=0x3f_u8 {
        for (key, extras, body) in [
            (0xffff, 0, 0),
            (1, 0, 0),
            (0, 1, 0),
            (250, 8, 257),
            (0xffff, 0xff, 0xffff),
            (1, 8, u32::MAX),
            (250, 255, u32::MAX),
            (0, 0, 0x7fff_ffff),
            (251, 0, 251),
            (250, 0, 0xffff_fff0),
        ] {
            let mut c = server.client();
            let mut header = frame(opcode, &[], &[], &[], 0);
            header[2..4].copy_from_slice(&u16::to_be_bytes(key));
            header[4] = extras;
            header[8..12].copy_from_slice(&u32::to_be_bytes(body));
            // As much of a body as it takes to look at extras and key.
            c.send([&header[..], &[b'k'; 600]].concat());
            c.half_close();
            let got = c.until_closed();
            assert!(got.len() > 24 && got[0] == 0x81 && got[7] != 0, "{opcode:#x} {key} {extras} {body}: {got:?}");
        }
    }
    // A second request must have the magic, too.
    let mut c = server.client();
    c.send([&frame(0x0a, &[], &[], &[], 0)[..], b"version\r\n"].concat());
    assert_eq!(c.until_closed().len(), 24);
    assert!(server.client().ask("version").starts_with("VERSION"));
}

#[test]
fn the_dialect_may_be_fixed() {
    let server = Server::start(&["-B", "ascii"]);
    let mut c = server.client();
    c.send(frame(0x00, &[], b"key", &[], 0));
    assert_eq!(c.ask(""), "ERROR");
    drop((c, server));
    let server = Server::start(&["-B", "binary"]);
    let mut c = server.client();
    c.send("version\r\n");
    assert_eq!(c.until_closed(), b"");
    assert_eq!(told(&mut server.client(), 0x0a, &[], &[], &[], 0).0, 0);
}
