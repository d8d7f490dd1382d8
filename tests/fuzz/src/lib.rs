//! The parsers of the server, which is a program and no library, brought in by their paths; and for each dialect what must hold
//! whatever the bytes are. Nothing here may panic, and nothing may be read that is not there.

#[allow(dead_code, missing_docs)]
mod server;

use server::proto::{base64, binary as frames, meta as flags, text as lines};

const MAX_VALUE: u64 = 1 << 20;

/// What a connection would do with these bytes, data blocks and all, in the text protocol.
pub fn text(bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (used, skip) = match lines::parse(rest, MAX_VALUE) {
            lines::Parse::Incomplete => {
                let line = &rest[..rest.len().min(lines::MAX_LINE + 1)];
                assert!(
                    !line.contains(&b'\n') && rest.len() <= lines::MAX_LINE + 1,
                    "a whole line is no incomplete one"
                );
                return;
            }
            lines::Parse::Command { used, command } => {
                assert_eq!(rest[used - 1], b'\n', "a command ends with its line");
                let again = lines::parse(&rest[..used], MAX_VALUE);
                assert!(
                    matches!(again, lines::Parse::Command { used: same, .. } if same == used),
                    "whatever follows it"
                );
                (used, block(&command))
            }
            lines::Parse::Retrieval { used, .. } => match keys(&rest[used..]) {
                Some(taken) => (used + taken, 0),
                None => return,
            },
            lines::Parse::Refused { used, reply, swallow, .. } => {
                assert!(reply.is_empty() || reply.ends_with(b"\r\n"), "a reply is a line");
                (used, swallow)
            }
            #[allow(unreachable_patterns)]
            _ => return,
        };
        assert!(0 < used && used <= rest.len(), "used {used} of {}", rest.len());
        rest = &rest[used..];
        rest = &rest[usize::try_from(skip).unwrap_or(usize::MAX).min(rest.len())..];
    }
}

/// How long the data block behind this command is, its newline included.
fn block(command: &lines::Command<'_>) -> u64 {
    match command {
        lines::Command::Store { key, len, .. } => {
            sound(key);
            assert!(*len <= MAX_VALUE);
            len + 2
        }
        lines::Command::Delete { key, .. }
        | lines::Command::Arithmetic { key, .. }
        | lines::Command::Touch { key, .. } => {
            sound(key);
            0
        }
        _ => 0,
    }
}

/// Takes the keys of a retrieval; `None` if its line does not end.
fn keys(list: &[u8]) -> Option<usize> {
    let mut taken = 0;
    loop {
        match lines::next_key(&list[taken..]) {
            lines::NextKey::Key { used, key } => {
                assert!(used >= key.len() && used > 0);
                sound(key);
                taken += used;
            }
            lines::NextKey::End { used } => {
                assert_eq!(list[taken + used - 1], b'\n');
                return Some(taken + used);
            }
            lines::NextKey::Incomplete => return None,
            lines::NextKey::Bad => {
                return list[taken..].iter().position(|byte| *byte == b'\n').map(|at| taken + at + 1);
            }
        }
    }
}

fn sound(key: &[u8]) {
    assert!((1..=lines::MAX_KEY).contains(&key.len()), "a key of {} bytes", key.len());
    assert!(key.iter().all(|byte| *byte > b' ' && *byte != 0x7f), "a control character in {}", key.escape_ascii());
}

/// A meta command's line: the first byte says which command, the rest is what follows its name.
pub fn meta(bytes: &[u8]) {
    let Some((&first, line)) = bytes.split_first() else {
        return;
    };
    let verb = b"gsdae"[usize::from(first) % 5];
    let line = &line[..line.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(line.len())];
    let mut room = [0; lines::MAX_KEY];
    match flags::parse(verb, line, &mut room, MAX_VALUE) {
        Ok(request) => {
            assert!((1..=lines::MAX_KEY).contains(&request.key.len()), "a key of {} bytes", request.key.len());
            match request.flags.base64 {
                true => round_trip(request.key),
                false => sound(request.key),
            }
            assert!(verb == b's' || request.len == 0);
            let words: Vec<&[u8]> = flags::words(request.flags.text).collect();
            assert!(words.len() < 20 && words.iter().all(|word| !word.is_empty()));
        }
        Err(refusal) => {
            assert!(refusal.reply.ends_with(b"\r\n"));
            assert!(verb == b's' || refusal.swallow == 0);
        }
    }
}

/// What was decoded can be told again, and is then the same.
fn round_trip(key: &[u8]) {
    let mut text = Vec::new();
    base64::encode(key, &mut text);
    let mut again = [0; lines::MAX_KEY];
    assert_eq!(base64::decode(&text, &mut again).map(|len| &again[..len]), Some(key));
}

/// Headers of binary requests, one after the other, each with as much of a body as there is.
pub fn binary(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((header, body)) = rest.split_first_chunk::<{ frames::HEADER }>() {
        let len = u64::from(u32::from_be_bytes([header[8], header[9], header[10], header[11]]));
        let mut out = Vec::new();
        match frames::Header::parse(header) {
            Ok(parsed) => {
                assert_eq!(parsed.extras as u64 + parsed.key as u64 + parsed.value, len, "the parts are the whole");
                parsed.frame.header(&mut out, 0, 0, 0, 0, parsed.cas);
                assert_eq!(out.len(), frames::HEADER);
                assert_eq!(u64::from_be_bytes(out[16..24].try_into().expect("eight bytes")), parsed.cas);
            }
            Err((frame, status)) => {
                frame.refuse(&mut out, status, status.text());
                assert_eq!(out.len(), frames::HEADER + status.text().len());
            }
        }
        assert_eq!((out[0], out[1], &out[12..16]), (0x81, header[1], &header[12..16]), "opcode and opaque come back");
        rest = &body[usize::try_from(len).unwrap_or(usize::MAX).min(body.len())..];
    }
}
